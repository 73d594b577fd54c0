"""Forward and backward of a network whose top is a Nystrom layer, over those of the dense top that it replaces.

Convolutions and classifier are part of both; landmarks, a quarter of the batch, pass through the convolutions too. The
dense top has a hidden layer of 128 units. Each repeat times one network and then the next; by one thread of a CPU
what is taken is CPU time.

    python benchmarks/nystrom.py
"""

import argparse
import statistics
import time

import torch
from comparing import Loop, circumstances, ratio, seconds_a_step
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.models.convolutional import ConvolutionalFeatures, Stages
from reltrust.models.nystrom import KERNELS, NystromLayer

UNITS, CLASSES = 128, 10
SMALL, MEDIUM = ((8,), (32,)), ((16,), (32,), (64,))
DEEP = ((64, 64), (128, 128), (256, 256), (512,))
CASES: dict[str, tuple[tuple[int, int, int], Stages]] = {
    "digits, small": ((1, 8, 8), SMALL),
    "MNIST, medium": ((1, 28, 28), MEDIUM),
    "CIFAR-10, medium": ((3, 32, 32), MEDIUM),
    "CIFAR-10, 7 convolutions": ((3, 32, 32), DEEP),
}


def passes(network: nn.Module, images: Tensor, labels: Tensor) -> Loop:
    """Forward and backward, so many times."""

    def loop(steps: int) -> None:
        for _ in range(steps):
            network.zero_grad()
            F.cross_entropy(network(images), labels).backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--landmarks", type=int, help="a quarter of the batch if it is not given")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, batch = torch.device(arguments.device), arguments.batch
    m = arguments.landmarks or batch // 4
    print(circumstances(device, arguments.threads, arguments.repeats))
    print(f"batch {batch}, {m} landmarks; ratios as median (lowest to highest)\n")
    print("| network | features | top | ms | time / dense |\n|---|---|---|---|---|")
    for name in arguments.cases:
        shape, stages = CASES[name]
        images = torch.rand(batch, *shape, device=device)
        labels = torch.randint(CLASSES, (batch,), device=device)
        features = ConvolutionalFeatures(shape, stages).to(device)
        d = features.out_features
        networks = {"dense": nn.Sequential(features, nn.Linear(d, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))}
        for kernel in KERNELS:
            layer = NystromLayer(images[:m].clone(), ConvolutionalFeatures(shape, stages).to(device), kernel=kernel)
            networks[kernel] = nn.Sequential(layer, nn.Linear(m, CLASSES))
        loops = {top: passes(network.to(device), images, labels) for top, network in networks.items()}
        clock = time.process_time if device.type == "cpu" and arguments.threads == 1 else time.perf_counter
        seconds = seconds_a_step(loops, steps=arguments.steps, repeats=arguments.repeats, clock=clock)
        for top, own in seconds.items():
            compared = "1" if top == "dense" else ratio(own, seconds["dense"])
            print(f"| {name} | {d} | {top} | {1000 * statistics.median(own):.2f} | {compared} |", flush=True)


if __name__ == "__main__":
    main()
