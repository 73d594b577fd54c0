"""The class-conditional GAN's networks: the published structure, and shortcuts equal to the literal form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from reltrust.models.conditional_gan import (
    Discriminator,
    DownBlock,
    Generator,
    SelfAttention,
    UpBlock,
    conv_of_doubled,
    halved_conv,
)


def parametrized(*models: nn.Module) -> list[str]:
    return [name for model in models for name, m in model.named_modules() if is_parametrized(m, "weight")]


def test_as_published_44_weights_are_spectrally_normalised() -> None:
    """The number of tensors in the authors' records of norms; it fixes which shortcuts and which embedding have one."""
    assert len(parametrized(Generator(64, 10), Discriminator(64, 10))) == 44


def counted(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_numbers_of_parameters_are_those_of_the_widths() -> None:
    def conv(inputs: int, outputs: int, k: int = 3) -> int:
        return inputs * outputs * k * k + outputs

    def up(inputs: int, outputs: int) -> int:
        conditional = 2 * 100 * (inputs + outputs)
        return conv(inputs, outputs) + conv(outputs, outputs) + conv(inputs, outputs, 1) + conditional

    def attention(c: int) -> int:
        return 2 * c * c // 8 + 2 * c * c // 2 + 1

    linear = 20 * 4 * 4 * 256 + 4 * 4 * 256
    generator = 10 * 80 + linear + up(256, 256) + up(256, 128) + up(128, 64) + attention(128) + 2 * 64 + conv(64, 3)
    assert counted(Generator(64, 10)) == generator == 2_167_204
    first = conv(3, 64) + conv(64, 64) + conv(3, 64, 1)
    halving = [conv(a, b) + conv(b, b) + conv(a, b, 1) for a, b in ((64, 128), (128, 256))]
    last = 2 * conv(256, 256)
    discriminator = first + sum(halving) + last + attention(128) + 256 + 1 + 10 * 256
    assert counted(Discriminator(64, 10)) == discriminator == 2_390_466


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_images_and_scores_have_their_shapes(blocks: int) -> None:
    generator, discriminator = Generator(4, 7, blocks=blocks), Discriminator(4, 7, blocks=blocks)
    labels = torch.tensor([0, 6, 3])
    images = generator(torch.randn(3, generator.latent), labels)
    assert images.shape == (3, 3, 32, 32)
    assert float(images.detach().abs().max()) <= 1
    assert discriminator(images, labels).shape == (3,)


def test_initial_weights_are_orthogonal_and_biases_small() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(16, 10)
    for module in discriminator.modules():
        if is_parametrized(module, "weight"):
            weight = module.parametrizations.weight.original.flatten(1)  # type: ignore[union-attr]
            short = weight if weight.shape[0] <= weight.shape[1] else weight.T
            torch.testing.assert_close(short @ short.T, torch.eye(len(short)), atol=1e-4, rtol=0)
    biases = torch.cat([p.flatten() for name, p in discriminator.named_parameters() if name.endswith("bias")])
    assert float(biases.std()) == pytest.approx(0.01, rel=0.2)
    assert float(discriminator.attention.gain) == 1
    assert all(float(p.abs().min()) > 0 for p in discriminator.parameters()), "Madam would never move a zero"


def test_the_scores_do_not_depend_on_the_scale_of_a_weight() -> None:
    torch.manual_seed(0)
    discriminator, labels = Discriminator(8, 10).double().eval(), torch.arange(4)
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    before = discriminator(images, labels)
    with torch.no_grad():
        for name, param in discriminator.named_parameters():
            if name.endswith("original"):
                param.mul_(3.7)
    torch.testing.assert_close(discriminator(images, labels), before)


# --- equal to the literal form ---------------------------------------------------------------------------------------


def gradients(found: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(found.square().sum(), inputs))


@pytest.mark.parametrize(
    ("ours", "literal"),
    [
        (conv_of_doubled, lambda x, conv: conv(F.interpolate(x, scale_factor=2.0))),
        (halved_conv, lambda x, conv: F.avg_pool2d(conv(x), 2)),
    ],
)
def test_one_convolution_does_what_two_maps_do(ours: Callable[..., Tensor], literal: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(5, 7, 3, padding=1).double(), torch.randn(2, 5, 6, 8, dtype=torch.float64, requires_grad=True)
    found, expected = ours(x, conv), literal(x, conv)
    torch.testing.assert_close(found, expected)
    inputs = [x, *conv.parameters()]
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))


def test_an_up_block_is_its_literal_form() -> None:
    torch.manual_seed(0)
    block, x, condition = UpBlock(6, 4, 0.1).double(), torch.randn(3, 6, 5, 5).double(), torch.randn(3, 100).double()
    block.eval()

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        gamma, beta = (F.linear(condition, one.weight) for one in (layer.gamma, layer.beta))
        mean, var = layer.norm.running_mean[:, None, None], layer.norm.running_var[:, None, None]
        return (1 + gamma[:, :, None, None]) * (x - mean) / (var + 1e-5).sqrt() + beta[:, :, None, None]

    up = nn.Upsample(scale_factor=2)
    inner = block.conv1(up(norm(block.norm1, x).relu()))
    expected = block.conv2(norm(block.norm2, inner).relu()) + block.shortcut(up(x))
    torch.testing.assert_close(block(x, condition), expected)


def test_a_down_block_is_its_literal_form() -> None:
    torch.manual_seed(0)
    block, x = DownBlock(6, 4, halve=True).double().eval(), torch.randn(3, 6, 8, 8).double()
    expected = F.avg_pool2d(block.conv2(block.conv1(x.relu()).relu()), 2) + F.avg_pool2d(block.shortcut(x), 2)
    torch.testing.assert_close(block(x), expected)
    same = DownBlock(6, 6).double().eval()
    torch.testing.assert_close(same(x), same.conv2(same.conv1(x.relu()).relu()) + x)
    first = DownBlock(6, 4, first=True).double().eval()
    torch.testing.assert_close(first(x), first.conv2(first.conv1(x).relu()) + first.shortcut(x))


def test_attention_is_its_literal_form() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(16).double().eval(), torch.randn(2, 16, 6, 4).double()
    expected = torch.empty_like(x)
    for i, image in enumerate(x):
        query = attention.query(image[None])[0].flatten(1)  # (2, 24)
        key, value = (F.max_pool2d(part(image[None]), 2)[0].flatten(1) for part in (attention.key, attention.value))
        shares = (query.T @ key).softmax(1)  # (24, 6)
        mixed = (shares @ value.T).T.reshape(1, 8, 6, 4)
        expected[i] = image + attention.gain * attention.out(mixed)[0]
    torch.testing.assert_close(attention(x), expected)
