"""Cross entropy of a linear read-out of many classes, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 2**22  # 16 MB: more of them would be given back to the system, and asked for again, at every step
CHUNK_LOGITS_CUDA = 2**26  # whose memory is kept by torch, and whose matrix products need rows to be worth starting


# No compiler would do three products of matrices better.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_cross_entropy(inputs: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    r"""The mean of :math:`-\log \mathrm{softmax}(W x_i + b)_{t_i}` over the rows, in nats: 0-d, in float32 at least.

    Equal, up to rounding, to ``F.cross_entropy(F.linear(inputs, weight, bias), targets)``. Logits are computed for some
    rows at a time, and their gradient in the same pass, so that only those of one chunk are ever there. One backward
    pass takes the gradients; for a second one the loss has to be computed again. There are no second derivatives.

    Raises:
        RuntimeError: in the backward pass, with ``create_graph=True`` or a second time.

    Args:
        inputs: x, (n, d).
        weight, bias: W (classes, d) and b (classes,); None: no bias.
        targets: t, int64 (n,).
    """
    # Not to be known inside of apply: gradients are off there, and needs_input_grad does not say whether they were.
    differentiated = torch.is_grad_enabled() and any(
        one is not None and one.requires_grad for one in (inputs, weight, bias)
    )
    loss: Tensor = _LinearCrossEntropy.apply(inputs, weight, bias, targets, differentiated)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, differentiated: bool
    ) -> Tensor:
        n = len(inputs)
        dtype = inputs.dtype
        if torch.is_autocast_enabled(inputs.device.type):  # what autocast would do to each product
            dtype = torch.get_autocast_dtype(inputs.device.type)
        exact = torch.promote_types(dtype, torch.float32)
        x, w, b = inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        with torch.autocast(inputs.device.type, enabled=False):
            loss = inputs.new_zeros((), dtype=exact)
            if differentiated:
                grad_x, grad_w = torch.empty_like(x), torch.zeros_like(weight)
                grad_b = None if bias is None else torch.zeros_like(bias)
            if inputs.device.type == "cuda":
                rows = min(n, max(1, CHUNK_LOGITS_CUDA // len(weight)))
            else:  # with two rows for each of its columns, reading the weight costs little beside the products
                rows = min(n, 2 * weight.shape[1], max(1, CHUNK_LOGITS // len(weight)))
            # Two buffers for all chunks: memory that is taken and given back costs more than what is written to it.
            logits_of, log_shares_of = x.new_empty(rows, len(weight)), x.new_empty(rows, len(weight), dtype=exact)
            for start in range(0, n, rows):
                chunk = slice(start, min(n, start + rows))
                logits, log_shares = (
                    one[: chunk.stop - start] for one in (logits_of, log_shares_of)
                )  # (rows, classes)
                torch.mm(x[chunk], w.t(), out=logits) if b is None else torch.addmm(b, x[chunk], w.t(), out=logits)
                torch.log_softmax(logits, 1, dtype=exact, out=log_shares)
                loss -= log_shares.gather(1, targets[chunk, None]).sum()
                if differentiated:
                    grads = log_shares.exp_()  # softmax, and from here on n times the gradient of the logits
                    grads.scatter_add_(1, targets[chunk, None], grads.new_full((len(grads), 1), -1.0))
                    grads = grads.to(dtype)
                    if grad_b is not None:
                        grad_b += grads.sum(0)
                    torch.mm(grads, w, out=grad_x[chunk])
                    if dtype == grad_w.dtype:
                        grad_w.addmm_(grads.t(), x[chunk], alpha=1 / n)
                    else:
                        grad_w.add_(grads.t() @ x[chunk], alpha=1 / n)
        if differentiated:
            ctx.grads = (grad_x.to(inputs.dtype).div_(n), grad_w, None if grad_b is None else grad_b.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph alone: without this the second derivatives would seem to be 0
            raise RuntimeError("linear_cross_entropy has no second derivatives: F.cross_entropy of all logits has")
        if ctx.grads is None:
            raise RuntimeError("linear_cross_entropy cannot be differentiated twice: its gradients were given away")
        grads, ctx.grads = ctx.grads, None  # given away, since a copy would be as large as the weight
        return *(None if grad is None else grad.mul_(grad_outputs[0]) for grad in grads), None, None
