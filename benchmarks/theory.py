"""What the tools of theory cost beside what they cannot do without: ratios of CPU time, taken in turn in one process.

- Both extreme eigenvalues of the Hessian of a network of 1e5 parameters, to 1e-4 of themselves, against as many bare
  products of the Hessian with a vector; each repeat draws another start. Both make the graph of the gradient.
- Gradient statistics of 100 freshly drawn networks of one shape: as one stack, against one by one.
- The density of a Jacobian's spectrum at 4,000 points, square ReLU networks, against the depth: Newton lilypads, the
  eigenvalues of one sampled network of width 2,000, all roots of the polynomial at each point (companion matrices, all
  at once), and a damped fixed-point iteration; with the points at which each has found the moment series.
- Dimensions of polynomial networks modulo a prime, against the rank over the rational numbers by sympy.

    python benchmarks/theory.py
    python benchmarks/theory.py --parts spectra dimensions
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy
import torch
from comparing import circumstances, ratio
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data import images
from reltrust.theory.algebra import PRIMES, dimension, jacobian
from reltrust.theory.hessian import hessian_extremes, hessian_operator
from reltrust.theory.lilypads import on_branch
from reltrust.theory.spectra import JacobianSpectrum

SIZES = (64, 256, 256, 64, 10)  # 99,530 parameters
ORDER = 200  # at most; the tolerance is the default, 1e-4
NETWORKS, WIDTH = 100, 16
DEPTHS = (16, 64)
POINTS, SAMPLED = 4_000, 2_000
SPECTRA = (2, 5, 10, 20, 40)  # depths
DAMPING, ITERATIONS, SETTLED = 0.5, 500, 1e-8  # of the fixed point, and its residual
POWERS, WIDEST, LAYERS = (2, 3, 4), 4, 3  # of the polynomial networks: the tables go to width 5 and power 4


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of this process, in which what else the machine does is not; and what came out."""
    started = time.process_time()
    found = action()
    return time.process_time() - started, found


def multiply(loss: Tensor, params: list[nn.Parameter], vector: Tensor, products: int) -> None:
    operator = hessian_operator(loss, params)
    for _ in range(products):
        operator(vector)


def curvature(repeats: int) -> tuple[str, str, str]:
    """Products, milliseconds a product, and time over that of bare products."""
    torch.manual_seed(0)
    layers = [layer for n, m in itertools.pairwise(SIZES) for layer in (nn.Linear(n, m), nn.ReLU())][:-1]
    model, data = nn.Sequential(*layers), images.load("digits", "data").train
    params = list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in params))
    own, bare, products = [], [], []

    def loss() -> Tensor:
        return F.cross_entropy(model(data.images), data.labels)

    for repeat in range(repeats + 1):
        drawn = torch.Generator().manual_seed(repeat)
        spent, found = seconds(partial(hessian_extremes, loss(), params, order=ORDER, generator=drawn))
        without, _ = seconds(partial(multiply, loss(), params, vector, found.products))
        if repeat:  # the first one warms up
            own.append(spent)
            bare.append(without)
            products.append(found.products)
    each = statistics.median(1000 * without / count for without, count in zip(bare, products, strict=True))
    return f"{min(products)} to {max(products)}", f"{each:.2f}", ratio(own, bare)


def gradients(depth: int, repeats: int) -> tuple[str, str]:
    """Milliseconds of the stack, and how many times as fast it is as one by one: ``log |df/dW_1|`` of 100 networks."""
    drawn = torch.Generator().manual_seed(0)
    weights = [torch.randn(NETWORKS, WIDTH, WIDTH, generator=drawn) * (2 / WIDTH) ** 0.5 for _ in range(depth - 1)]
    weights.append(torch.randn(NETWORKS, 1, WIDTH, generator=drawn) * (2 / WIDTH) ** 0.5)
    inputs = torch.randn(NETWORKS, 1, WIDTH, generator=drawn)

    def norms(weights: list[Tensor], x: Tensor) -> Tensor:
        first = weights[0].detach().requires_grad_()
        z = x @ first.mT
        for weight in weights[1:]:
            z = z.relu() @ weight.mT
        (gradient,) = torch.autograd.grad(z.sum(), first)
        found: Tensor = torch.linalg.vector_norm(gradient, dim=(-2, -1))
        return found

    def one_by_one() -> Tensor:
        return torch.stack([norms([w[k] for w in weights], inputs[k]) for k in range(NETWORKS)])

    torch.testing.assert_close(norms(weights, inputs), one_by_one())
    together, alone = [], []
    for _ in range(repeats):
        together.append(seconds(partial(norms, weights, inputs))[0])
        alone.append(seconds(one_by_one)[0])
    return f"{1000 * statistics.median(together):.2f}", ratio(alone, together)


def lilypads(law: JacobianSpectrum, z: np.ndarray) -> int:
    return int(law.moment_series(z).certified.sum())


def all_roots(law: JacobianSpectrum, z: np.ndarray) -> int:
    """Companion matrices of ``scale prod (m + a_k) - z m``, and of their eigenvalues the one on the branch."""
    polynomial = np.poly(-law.offsets)
    size = len(polynomial) - 1
    companions = np.zeros((len(z), size, size), dtype=complex)
    companions[:, np.arange(1, size), np.arange(size - 1)] = 1
    companions[:, 0] = -polynomial[1:]
    companions[:, 0, -2] += z / law.scale
    roots = np.linalg.eigvals(companions)
    found = on_branch(law.offsets, roots.ravel(), np.repeat(z, size)).reshape(roots.shape)
    return int((found.sum(1) == 1).sum())


def fixed_point(law: JacobianSpectrum, z: np.ndarray) -> int:
    """``m <- m + damping (N(m)/z - m)`` from m = 0, all points at once."""
    m = np.zeros_like(z)
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            rest = law.scale * (m[:, None] + law.offsets).prod(1) / z - m
            if (np.abs(rest) <= SETTLED * np.abs(m)).all():
                break
            m = m + DAMPING * rest
        good = (np.abs(rest) <= SETTLED * np.abs(m)) & on_branch(law.offsets, m, z)
    return int(good.sum())


def sampled(depth: int) -> np.ndarray:
    """The eigenvalues of one network."""
    rng = np.random.default_rng(0)
    product = np.eye(SAMPLED)
    for _ in range(depth):
        kept = rng.random(SAMPLED) < 0.5
        product = kept[:, None] * (rng.normal(size=(SAMPLED, SAMPLED)) * (2 / SAMPLED) ** 0.5 @ product)
    found: np.ndarray = np.linalg.eigvalsh(product.T @ product)
    return found


def spectra(depth: int, repeats: int) -> tuple[str, ...]:
    """Milliseconds of lilypads, how many times as fast they are, and the points found by each."""
    law = JacobianSpectrum((1,) * (depth + 1), (2.0,) * depth, (0.5,) * depth)
    z = np.geomspace(1e-6 * law.edges[1], law.edges[1], POINTS) * (1 + 1e-6j)
    once, _ = seconds(partial(sampled, depth))
    ways = (lilypads, all_roots, fixed_point)
    spent: dict[Any, list[float]] = {way: [] for way in ways}
    counts = {}
    for repeat in range(repeats):
        for way in ways if repeat == 0 else ways[:2]:
            taken, counts[way] = seconds(partial(way, law, z))
            spent[way].append(taken)
    own = spent[lilypads]
    return (
        f"{1000 * statistics.median(own):.0f}",
        f"{once / statistics.median(own):.0f}",
        ratio(spent[all_roots], own),
        f"{statistics.median(spent[fixed_point]) / statistics.median(own):.0f}",
        *(f"{counts[way]:,}" for way in ways),
    )


def rational_rank(widths: tuple[int, ...], power: int) -> int:
    """As ``dimension``, over the rational numbers: of small integers, which are as many points and weights."""
    rng = np.random.default_rng(0)
    parameters = sum(n * m for n, m in itertools.pairwise(widths))
    weights = [rng.integers(-9, 10, size=(m, n)) for n, m in itertools.pairwise(widths)]
    found = dimension(widths, power, primes=PRIMES[:1])
    points = rng.integers(-9, 10, size=(min(parameters, found.ambient) // widths[-1] + 4, widths[0]))
    exact = jacobian([w.astype(object) for w in weights], points.astype(object), power, 10**400)  # no residue: exact
    half = 10**400 // 2
    rows = [[int(v) if v < half else int(v) - 10**400 for v in row] for row in exact]
    return int(sympy.polys.matrices.DomainMatrix(rows, (len(rows), parameters), sympy.ZZ).convert_to(sympy.QQ).rank())


def dimensions() -> tuple[str, str, str, str]:
    """How many networks, seconds of theirs and of the rational ranks, and the ratio."""
    every = [
        (widths, power) for widths in itertools.product(range(2, WIDEST + 1), repeat=LAYERS + 1) for power in POWERS
    ]
    own, found = seconds(lambda: [dimension(*one).dimension for one in every])
    exact, theirs = seconds(lambda: [rational_rank(*one) for one in every])
    assert found == theirs
    return f"{len(every)}", f"{own:.2f}", f"{exact:.1f}", f"{exact / own:.0f}"


PARTS = ("hessian", "gradients", "spectra", "dimensions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{circumstances(torch.device('cpu'), arguments.threads, arguments.repeats)}, CPU time\n")
    if "hessian" in arguments.parts:
        print(
            "| extreme eigenvalues, parameters | products | a product, ms | time / bare products |\n|---|---|---|---|"
        )
        count = sum(n * m + m for n, m in itertools.pairwise(SIZES))
        print(f"| {count:,} | {' | '.join(curvature(arguments.repeats))} |\n")
    if "gradients" in arguments.parts:
        print(f"| gradients of {NETWORKS} networks, width {WIDTH}, depth | stacked, ms | times as fast as one by one |")
        print("|---|---|---|")
        for depth in DEPTHS:
            print(f"| {depth} | {' | '.join(gradients(depth, arguments.repeats))} |")
        print()
    if "spectra" in arguments.parts:
        print(
            f"| density at {POINTS:,} points, depth | lilypads, ms | times as fast as one network of {SAMPLED:,} ",
            end="",
        )
        print("| as all roots | as the fixed point | certified | roots found | fixed points found |")
        print("|---|---|---|---|---|---|---|---|")
        for depth in SPECTRA:
            print(f"| {depth} | {' | '.join(spectra(depth, arguments.repeats))} |", flush=True)
        print()
    if "dimensions" in arguments.parts:
        print("| polynomial networks | modulo a prime, s | rational, s | times as fast |\n|---|---|---|---|")
        print(f"| {' | '.join(dimensions())} |")


if __name__ == "__main__":
    main()
