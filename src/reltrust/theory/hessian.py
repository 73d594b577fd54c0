"""The Hessian of any loss that has one, of any network: products with vectors, extreme eigenvalues, spectral density.

    loss = torch.nn.functional.cross_entropy(model(x), y)
    found = hessian_extremes(loss, model.parameters(), order=100)
    print(f"{found.top:.4g} +- {found.top_error:.1g}")

The Hessian itself is never formed: a product costs about two gradients, and the loss is computed once.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from reltrust.theory.lanczos import Extremes, Operator, SpectralDensity, extreme_eigenvalues, spectral_density


def hessian_operator(loss: Tensor, params: Iterable[Tensor]) -> Operator:
    """``v -> H v`` with vectors over all parameters, flat and one after another: (n,) -> (n,).

    ``H v`` is the gradient of ``g . v``; the graph of the gradient g is made once and kept for all products.

    Args:
        loss: a scalar with its graph.
        params: that the loss depends on; one that it does not has zeros.

    Raises:
        ValueError: a loss that is not a scalar or has no graph, or no parameters.
    """
    if loss.dim() != 0:
        raise ValueError(f"loss: shape {tuple(loss.shape)}: must be a scalar, as its mean or sum is")
    return _operator(loss, list(params), 0)


def stacked_hessian_operator(losses: Tensor, stacks: Iterable[Tensor]) -> Operator:
    """As :func:`hessian_operator` for K networks at once, each with its own vector: (K, n) -> (K, n).

    Args:
        losses: (K,), each of its own network alone.
        stacks: their parameters with a first axis for the networks, (K, ...) each.

    Raises:
        ValueError: other shapes, no graph, or no parameters.
    """
    stacks = list(stacks)
    if losses.dim() != 1 or any(stack.shape[:1] != losses.shape for stack in stacks):
        shapes = ", ".join(str(tuple(stack.shape)) for stack in stacks)
        raise ValueError(
            f"losses: shape {tuple(losses.shape)}, stacks: {shapes}: must be (K,), and stacks of K parameters each"
        )
    return _operator(losses.sum(), stacks, 1)


def _operator(loss: Tensor, params: list[Tensor], batch_dims: int) -> Operator:
    if not params or not loss.requires_grad:
        raise ValueError(f"loss with {len(params)} parameters: must depend, with its graph, on at least one of them")
    grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    flat = torch.cat([grad.flatten(batch_dims) for grad in grads], dim=-1)

    def product(vector: Tensor) -> Tensor:
        if not flat.requires_grad:  # of a linear loss
            return torch.zeros_like(vector)
        parts = torch.autograd.grad(flat, params, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten(batch_dims) for part in parts], dim=-1)

    return product


def hessian_extremes(
    loss: Tensor,
    params: Iterable[Tensor],
    *,
    order: int,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Extremes:
    """The largest and the smallest eigenvalue, with error estimates; the products stop where both are good enough.

    Args:
        order: the most products, and vectors of the parameters' size that are kept.
        tolerance: of each error, relative to its eigenvalue.
        generator: draws the start.

    Raises:
        ValueError: as :func:`hessian_operator`; an order above the number of parameters.
    """
    params = list(params)
    operator = hessian_operator(loss, params)
    return extreme_eigenvalues(operator, _start(params, generator), order=order, tolerance=tolerance)


def hessian_density(
    loss: Tensor, params: Iterable[Tensor], *, order: int, probes: int, generator: torch.Generator | None = None
) -> SpectralDensity:
    """Where the eigenvalues lie, by stochastic Lanczos quadrature.

    Args:
        order: of the quadrature: products a probe.
        probes: random directions; the error of a mean falls with the root of their number.
        generator: draws them.

    Raises:
        ValueError: as :func:`hessian_operator`; an order above the number of parameters, or no probes.
    """
    params = list(params)
    if probes < 1:
        raise ValueError(f"probes={probes}: must be at least 1")
    operator = hessian_operator(loss, params)
    drawn = torch.stack([_start(params, generator) for _ in range(probes)])
    return spectral_density(operator, drawn, order=order)


def _start(params: list[Tensor], generator: torch.Generator | None) -> Tensor:
    count, like = sum(p.numel() for p in params), params[0]
    return torch.randn(count, generator=generator, dtype=like.dtype, device=like.device)
