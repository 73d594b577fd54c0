"""Whether several convolutional networks are faster as one: a convolution in groups against as many alone, on a CPU.

Forward and backward of a 3x3 convolution of K networks, contiguous or channels last, as the classifier's stages have
them. Each repeat times one and then the other.

    python benchmarks/grouped_convolutions.py
"""

import argparse
import platform
import statistics
import time
from datetime import date

import torch
from torch import Tensor
from torch.nn import functional as F

SHAPES = ((8, 32), (16, 32), (16, 16), (32, 16), (64, 8))  # channels, pixels in height and width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, batch = arguments.networks, arguments.batch
    processor = platform.processor() or platform.machine()
    print(f"{date.today()}, torch {torch.__version__}, {processor}, {arguments.threads} threads, n={arguments.repeats}")
    print(f"{count} networks, batch {batch}\n")
    print("| channels | pixels | memory format | one by one, ms | in groups, ms | in groups / one by one |")
    print("|---|---|---|---|---|---|")
    for channels, pixels in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            images = [torch.randn(batch, channels, pixels, pixels).to(memory_format=layout) for _ in range(count)]
            weights = [torch.randn(channels, channels, 3, 3).requires_grad_() for _ in range(count)]
            together = torch.cat(images, 1).to(memory_format=layout).requires_grad_()
            all_weights = torch.cat(weights).detach().requires_grad_()
            alone = [image.requires_grad_() for image in images]
            seconds: dict[str, list[float]] = {"alone": [], "groups": []}
            for repeat in range(arguments.repeats + 1):
                for name, own in seconds.items():
                    started = time.perf_counter()
                    pairs: list[tuple[Tensor, Tensor, int]] = [(x, w, 1) for x, w in zip(alone, weights, strict=True)]
                    for x, w, groups in pairs if name == "alone" else [(together, all_weights, count)]:
                        F.conv2d(x, w, padding=1, groups=groups).sum().backward()
                    if repeat:  # the first one warms up
                        own.append(1000 * (time.perf_counter() - started))
            ratios = sorted(g / a for a, g in zip(seconds["alone"], seconds["groups"], strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            times = " | ".join(f"{statistics.median(own):.1f}" for own in seconds.values())
            name = "contiguous" if layout is torch.contiguous_format else "channels last"
            print(f"| {channels} | {pixels} | {name} | {times} | {ratio} |")


if __name__ == "__main__":
    main()
