"""What the tools of theory cost beside what they cannot do without: ratios of CPU time, taken in turn in one process.

- Both extreme eigenvalues of the Hessian of a network of 1e5 parameters, to 1e-4 of themselves, against as many bare
  products of the Hessian with a vector; each repeat draws another start. Both make the graph of the gradient.
- Gradient statistics of 100 freshly drawn networks of one shape: as one stack, against one by one.

    python benchmarks/theory.py
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comparing import circumstances, ratio
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.data import images
from reltrust.theory.hessian import hessian_extremes, hessian_operator

SIZES = (64, 256, 256, 64, 10)  # 99,530 parameters
ORDER = 200  # at most; the tolerance is the default, 1e-4
NETWORKS, WIDTH = 100, 16
DEPTHS = (16, 64)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{circumstances(torch.device('cpu'), arguments.threads, arguments.repeats)}, CPU time\n")
    print("| extreme eigenvalues, parameters | products | a product, ms | time / bare products |\n|---|---|---|---|")
    count = sum(n * m + m for n, m in itertools.pairwise(SIZES))
    print(f"| {count:,} | {' | '.join(curvature(arguments.repeats))} |\n")
    print(f"| gradients of {NETWORKS} networks, width {WIDTH}, depth | stacked, ms | times as fast as one by one |")
    print("|---|---|---|")
    for depth in DEPTHS:
        print(f"| {depth} | {' | '.join(gradients(depth, arguments.repeats))} |")


if __name__ == "__main__":
    main()
