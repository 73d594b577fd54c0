"""Initial weights from data: every unit's sample mean is 0 and its sample variance 1, layer by layer.

model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
unit_sample_variance_(model, images)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_ROUNDING = 100  # units of rounding: a standard deviation of fewer, beside the root of the mean square, is no deviation


@torch.no_grad()
def unit_sample_variance_(module: nn.Module, *inputs: Any) -> dict[str, int]:
    """Shifts and rescales each unit of each linear or convolutional layer, in the order of the forward pass.

    With h the unit's output on the calibration batch (of a convolution, at all places), its mean m and its standard
    deviation s, divided by their number: ``w <- w / s``, ``b <- (b - m) / s``. What comes after sees the new output, so
    one forward pass sets all layers. A unit that is constant on the batch is shifted to zero and keeps its weights. A
    layer that is called several times is set by its first call. All else, batch normalisation too, stays as it is;
    dropout should be off (``module.eval()``), or the moments are those of that draw.

    Args:
        module: its layers have biases; what its weights are before says in which directions they will point.
        inputs: the calibration batch, as the module is called with.

    Returns:
        The number of units that are constant on the batch, by the layer's name.

    Raises:
        ValueError: a layer without bias; no such layer; a calibration batch on which every unit of a layer is
            constant (as one of a single sample is), or not finite. The weights are then what they were.

    Source: after arXiv 1902.04942 and Mishkin and Matas 2016, arXiv 1511.06422; the formula is derived.
    """
    layers: dict[str, _Layer] = {name: layer for name, layer in module.named_modules() if isinstance(layer, _Layer)}
    if not layers:
        raise ValueError("module: must have at least one Linear, Conv1d, Conv2d or Conv3d")
    if missing := [name for name, layer in layers.items() if layer.bias is None]:
        raise ValueError(f"module: layer {missing[0]!r} has bias=None: must have a bias, which takes the mean away")
    if parametrized := [name for name, layer in layers.items() if not isinstance(layer.weight, nn.Parameter)]:
        raise ValueError(f"module: the weight of layer {parametrized[0]!r} is computed: must be a parameter")
    before = {
        name: (layer.weight.clone(), layer.bias.clone()) for name, layer in layers.items() if layer.bias is not None
    }
    constant: dict[str, int] = {}
    hooks = [layer.register_forward_hook(_setting(name, constant)) for name, layer in layers.items()]
    try:
        module(*inputs)
    except BaseException:
        for name, (weight, bias) in before.items():
            layers[name].weight.copy_(weight)
            layers[name].bias.copy_(bias)  # type: ignore[union-attr]
        raise
    finally:
        for hook in hooks:
            hook.remove()
    return constant


def _setting(name: str, constant: dict[str, int]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A forward hook that sets a layer at its first call and returns what the layer so set would have."""

    def hook(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        assert isinstance(layer, _Layer)
        assert layer.bias is not None
        if name in constant:
            return None
        units = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim()
        samples = [dim for dim in range(output.dim()) if dim != units % output.dim()]
        if not samples:
            raise ValueError("inputs: must be a batch, not a single sample without an axis for it")
        mean = output.mean(samples, keepdim=True)
        deviation = (output - mean).square().mean(samples, keepdim=True).sqrt()
        if not bool(deviation.isfinite().all()):
            raise ValueError(f"inputs: the outputs of layer {name!r} on the calibration batch must be finite")
        least = _ROUNDING * torch.finfo(output.dtype).eps
        dead = deviation <= least * output.square().mean(samples, keepdim=True).sqrt()
        if bool(dead.all()):
            raise ValueError(
                f"inputs: all {dead.numel()} units of layer {name!r} are constant on the calibration batch of "
                f"{output.numel() // dead.numel()} samples: at least 1 must vary"
            )
        deviation = deviation.where(~dead, 1.0)
        layer.weight.div_(deviation.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.sub_(mean.flatten()).div_(deviation.flatten())
        constant[name] = int(dead.sum())
        return (output - mean) / deviation

    return hook
