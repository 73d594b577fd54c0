"""Unit sample variance by data: exact for every unit, and refusals that leave the weights as they were."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reltrust.theory.initialisation import unit_sample_variance_


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    convolutions = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    sequences = nn.Sequential(nn.Conv1d(2, 5, 3), nn.Tanh(), nn.Conv1d(5, 4, 2))
    return {
        "perceptron": (perceptron.double(), torch.randn(40, 9, dtype=torch.float64)),
        "convolutions": (convolutions.double(), torch.randn(30, 3, 8, 8, dtype=torch.float64)),
        "sequences": (sequences.double(), torch.randn(20, 2, 9, dtype=torch.float64)),
        "tokens": (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).double(), torch.randn(5, 7, 6).double()),
    }


def outputs(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of each linear or convolutional layer by name, (samples, units)."""
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            channels = -1 if isinstance(layer, nn.Linear) else 1

            def keep(_: object, __: object, out: Tensor, name: str = name, channels: int = channels) -> None:
                found[name] = out.movedim(channels, -1).flatten(0, -2)

            layer.register_forward_hook(keep)
    module(x)
    return found


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "sequences", "tokens"])
def test_every_unit_has_mean_zero_and_variance_one_on_the_calibration_batch(name: str) -> None:
    module, x = networks()[name]
    told = unit_sample_variance_(module, x)
    found = outputs(module, x)
    assert found.keys() == told.keys()
    for layer, out in found.items():
        assert told[layer] == 0
        assert out.mean(0).abs().max() < 1e-12
        assert (out.var(0, correction=0) - 1).abs().max() < 1e-12


def test_directions_of_weights_stay_and_nothing_but_layers_is_touched() -> None:
    module, x = networks()["perceptron"]
    before = copy.deepcopy(module)
    unit_sample_variance_(module, x)
    for one, other in zip(module, before, strict=True):  # type: ignore[call-overload]
        if isinstance(one, nn.Linear):
            ratios = one.weight / other.weight
            assert torch.allclose(ratios, ratios[:, :1].expand_as(ratios))
            assert (ratios > 0).all()


def test_a_second_call_changes_nothing() -> None:
    module, x = networks()["convolutions"]
    unit_sample_variance_(module, x)
    before = [p.clone() for p in module.parameters()]
    unit_sample_variance_(module, x)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-12) for p, q in zip(module.parameters(), before, strict=True))


def test_a_unit_that_is_constant_keeps_its_weights_is_shifted_to_zero_and_counted() -> None:
    module, x = networks()["perceptron"]
    first = module[0]  # type: ignore[index]
    first.weight.data[3] = 0.0
    first.bias.data[3] = 2.0
    assert unit_sample_variance_(module, x) == {"0": 1, "2": 0, "4": 0}
    out = outputs(module, x)["0"]
    assert out[:, 3].abs().max() < 1e-12
    alive = [unit for unit in range(16) if unit != 3]
    assert (out[:, alive].var(0, correction=0) - 1).abs().max() < 1e-12


def test_a_layer_that_is_called_twice_is_set_by_its_first_call() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4).double(), torch.randn(30, 4, dtype=torch.float64)
    unit_sample_variance_(nn.Sequential(layer, nn.ReLU(), layer), x)
    assert (layer(x).var(0, correction=0) - 1).abs().max() < 1e-12


def dead() -> tuple[nn.Module, Tensor]:
    module, x = networks()["perceptron"]
    module[0].bias.data.fill_(-1e3)  # type: ignore[index, union-attr, operator]  # dead no more: its mean is taken away
    module[2].weight.data.fill_(0.0)  # type: ignore[index, union-attr, operator]
    return module, x


def infinite() -> tuple[nn.Module, Tensor]:
    module, x = networks()["perceptron"]
    return module, x * float("inf")


REFUSED = {
    "dead": (dead, "inputs: all 12 units of layer '2' are constant on the calibration batch of 40 samples: at least 1"),
    "one sample": (
        lambda: (networks()["perceptron"][0], torch.randn(1, 9, dtype=torch.float64)),
        "inputs: all 16 units of layer '0' are constant on the calibration batch of 1 samples",
    ),
    "infinite": (infinite, "inputs: the outputs of layer '0' on the calibration batch must be finite"),
    "no bias": (
        lambda: (nn.Sequential(nn.Linear(3, 3, bias=False)), torch.randn(5, 3)),
        "module: layer '0' has bias=None: must have a bias",
    ),
    "computed": (
        lambda: (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), torch.randn(5, 3)),
        "module: the weight of layer '0' is computed: must be a parameter",
    ),
    "no batch": (lambda: (nn.Sequential(nn.Linear(3, 3)), torch.randn(3)), "inputs: must be a batch"),
    "no layer": (lambda: (nn.ReLU(), torch.randn(5, 3)), "module: must have at least one Linear"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_names_the_layer_and_leaves_the_weights_as_they_were(what: str) -> None:
    made, message = REFUSED[what]
    module, x = made()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=message):
        unit_sample_variance_(module, x)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())
