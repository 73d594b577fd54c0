"""A step of the GAN, discriminator and generator, against the literal published loop, in one process.

The literal loop: contiguous images, nearest upsampling before convolutions, means over squares after them, genuine and
generated images scored one after another, gradients of the discriminator's weights in the generator's step too, and
``.item()`` at every step. Each repeat times a stretch of one and then of the other, so that what disturbs the machine
meets both. Memory is the highest of a process of its own. Images are random: what they show costs nothing.

    python benchmarks/cifar_gan.py                          # the table
    python benchmarks/cifar_gan.py --channels 64 --batch 64
    python benchmarks/cifar_gan.py --device cuda --channels 64 --batch 256 --compile --precision bf16
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial

import torch
from comparing import Loop, circumstances, of_own_process, ratio, resident, seconds_a_step
from reltrust.experiments.cifar_gan.task import ClassConditionalGan, pixels
from torch import Tensor
from torch.nn import functional as F

from reltrust.build import compile_modules
from reltrust.data.rgb import RgbData, RgbExamples
from reltrust.metrics.features import FeatureNetwork
from reltrust.models.conditional_gan import Discriminator, DownBlock, Generator, UpBlock
from reltrust.settings import Trainer
from reltrust.training.program import Program


class LiteralUp(UpBlock):
    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner: Tensor = self.conv1(F.interpolate(self.norm1(x, condition).relu(), scale_factor=2.0))
        inner = self.conv2(self.norm2(inner, condition).relu())
        shortcut: Tensor = self.shortcut(F.interpolate(x, scale_factor=2.0))
        return shortcut + inner


class LiteralDown(DownBlock):
    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x if self.first else x.relu()).relu())
        shortcut = self.shortcut(x)
        found: Tensor = F.avg_pool2d(inner, 2) + F.avg_pool2d(shortcut, 2) if self.halve else inner + shortcut
        return found


def images(count: int, device: torch.device) -> RgbExamples:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return RgbExamples(drawn.to(device), torch.arange(count, device=device) % 10)


def literal_loop(device: torch.device, channels: int, batch: int) -> Loop:
    data = images(10 * batch, device)
    generator, discriminator = Generator(channels, 10).to(device), Discriminator(channels, 10).to(device)
    for model, kind in ((generator, LiteralUp), (discriminator, LiteralDown)):
        for block in model.blocks:
            block.__class__ = kind
    moves = [torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.0, 0.999)) for model in (discriminator, generator)]

    def noise() -> tuple[Tensor, Tensor]:
        return torch.randn(batch, generator.latent, device=device), torch.randint(10, (batch,), device=device)

    def train(steps: int) -> None:
        for step in range(steps):
            start = step % 10 * batch
            genuine, labels = pixels(data.images[start : start + batch]), data.labels[start : start + batch]
            moves[0].zero_grad()
            latent, classes = noise()
            with torch.no_grad():
                made = generator(latent, classes)
            loss = (1 - discriminator(genuine, labels)).relu().mean() + (1 + discriminator(made, classes)).relu().mean()
            loss.backward()
            moves[0].step()
            loss.item()
            moves[1].zero_grad()
            latent, classes = noise()
            loss = -discriminator(generator(latent, classes), classes).mean()
            loss.backward()
            moves[1].step()
            loss.item()

    return train


def our_loop(device: torch.device, channels: int, batch: int, *, compiled: bool, trainer: Trainer) -> Loop:
    data = images(10 * batch, device)
    task = ClassConditionalGan(
        RgbData(data, data, 10),
        FeatureNetwork("none", 1, lambda x: x.float().mean((1, 2, 3), keepdim=True).flatten(1), ""),
        channels=channels,
        blocks=3,
        batchnorm_momentum=0.001,
        ema=0.0,
        examples=None,
        samples=100,
        batch_size=batch,
        seed=0,
        parts=1,
        cache=".",
    )
    if compiled:
        compile_modules(task.module, device)
    moves = [torch.optim.Adam(player.params, lr=1e-4, betas=(0.0, 0.999), fused=True) for player in task.players]
    program = Program(task, moves, 10**6, trainer)
    step = 0

    def train(steps: int) -> None:
        nonlocal step
        for _ in range(steps):
            program.training_step(step, [1.0])
            step += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    return train


def peak_megabytes(make: Callable[[torch.device], Loop], name: str, answer: "multiprocessing.Queue[float]") -> None:
    """In a process of its own: the most memory of three steps, with all that was imported."""
    torch.set_num_threads(1)
    make(torch.device(name))(3)
    on_cuda = name.startswith("cuda")
    used = torch.cuda.max_memory_allocated() if on_cuda else resident("VmHWM")
    answer.put(used / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="of a stretch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="our networks, by torch.compile")
    parser.add_argument("--precision", default="fp32", help="of our matrix products: fp32, tf32 or bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, size = torch.device(arguments.device), {"channels": arguments.channels, "batch": arguments.batch}

    loops: dict[str, Callable[[torch.device], Loop]] = {
        "literal": partial(literal_loop, **size),
        "ours": partial(our_loop, **size, compiled=arguments.compile, trainer=Trainer(precision=arguments.precision)),
    }
    trains = {name: make(device) for name, make in loops.items()}
    seconds = seconds_a_step(trains, steps=arguments.steps, repeats=arguments.repeats)
    peaks = {name: of_own_process(peak_megabytes, make, arguments.device) for name, make in loops.items()}
    print(circumstances(device, arguments.threads, arguments.repeats))
    print(f"{arguments.channels} channels, batch {arguments.batch}, {arguments.precision}\n")
    print("| loop | ms a step | images a second | ratio to the literal loop | peak MB of a process |")
    print("|---|---|---|---|---|")
    for name, own in seconds.items():
        median = statistics.median(own)
        times = f"{1000 * median:.0f} | {arguments.batch / median:.0f} | {ratio(seconds['literal'], own)}"
        print(f"| {name} | {times} | {peaks[name]:.0f} |")


if __name__ == "__main__":
    main()
