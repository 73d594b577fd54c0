"""What watching costs a step: nobody, W&B offline, and online with a server that takes connections and never answers.

Prints a table; ``python benchmarks/tracking.py``. Each repeat trains one run of each kind, in turn, in this process.
"""

import argparse
import os
import socket
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from comparing import circumstances

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust.run import run
from reltrust.sweeps.plan import plan

KINDS = {"none": "nobody watches", "wandb_offline": "W&B offline", "wandb": "W&B, its server a black hole"}


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def take() -> None:
            while True:
                try:
                    held.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def seconds_of_training(tracking: str, steps: int, seed: int, results: str) -> float:
    words = [
        "scale=quick", "task.hidden_layers=5", f"training.steps={steps}", "training.log_every=10",
        f"training.evaluate_every={steps}", f"seed={seed}", "schedule=constant", f"tracking={tracking}",
        "tracking.timeout_seconds=5", "machine.device=cpu", "machine.threads=1", f"machine.results={results}",
    ]  # fmt: skip
    (planned,) = plan(settings_of_sweep(words))
    run(planned)
    return float(planned.record.summary["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4800, help="of a run, a row every ten")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with black_hole() as url, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
        for repeat in range(arguments.repeats + 1):
            for kind in KINDS:
                found = seconds_of_training(kind, arguments.steps, repeat, str(Path(folder, kind)))
                if repeat:  # the first warms up
                    seconds[kind].append(found)
    print(circumstances(torch.device("cpu"), 1, arguments.repeats))
    print(f"\n| {'watched by':30} | ms a step | ratio to nobody (lowest to highest) |\n|---|---|---|")
    for kind, label in KINDS.items():
        ratios = sorted(own / nobody for own, nobody in zip(seconds[kind], seconds["none"], strict=True))
        text = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        print(f"| {label:30} | {1000 * statistics.median(seconds[kind]) / arguments.steps:.3f} | {text} |")


if __name__ == "__main__":
    main()
