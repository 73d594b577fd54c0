"""Checks on a GPU, in about twenty minutes, what has only run on CPUs, and keeps what it printed to be committed.

Tests that need a GPU, then benchmarks and smoke runs; a step that fails does not stop the others. See docs/gpu.md.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import torch
from arguments import Parser

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable


def steps(results: str) -> Iterator[tuple[str, list[str]]]:
    """What is checked, and the command; runs are kept in ``results``."""
    run = ["-m", "reltrust", "machine.device=cuda", "tracking=none", f"machine.results={results}"]
    large = ["experiment=transformer_100m", "scale=quick"]
    yield "kernels, CUDA graphs, packs, compiled models: tests", ["-m", "pytest", "-n", "0", "-m", "gpu", "tests"]
    yield (
        "optimizers beside their peers",
        ["benchmarks/optimizers.py", "--device", "cuda", "--sets", "small", "gpt124m"],
    )
    yield "a packed sweep", [*run, "sweep=mlp_depth", "scale=smoke", "launcher=packed", "launcher.require_packing=true"]
    yield "packs, and runs alone", ["benchmarks/packing.py", "--device", "cuda"]
    yield "a GAN", [*run, "experiment=cifar_gan", "scale=smoke", "trainer.precision=bf16"]
    for optimizer in ("fromage", "madam", "adamw"):
        yield f"the large model, 20 steps of {optimizer}", [*run, *large, f"optimizer={optimizer}"]
    for words in ([], ["--compile"], ["--recompute"]):
        yield (
            f"the large model's speed {' '.join(words)}",
            ["benchmarks/large.py", "--speed", "--device", "cuda", *words],
        )
    if (count := torch.cuda.device_count()) > 1:
        several = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", *run, *large]
        several += [f"training.batch_size={4 * count}"]
        yield f"the large model on {count} GPUs, replicated", several
        yield f"the large model on {count} GPUs, sharded", [*several, "machine.shard=true", "seed=1"]


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for name, words in steps("RESULTS"):
            print(f"{name}: python {' '.join(words)}")
        return
    if not torch.cuda.is_available():
        print("no GPU that torch can use here, nothing was checked: docs/gpu.md lists what waits for one")
        return
    gpu = torch.cuda.get_device_name()
    report = ROOT / "benchmarks" / "gpu" / f"{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}-{date.today()}.md"
    report.parent.mkdir(exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory() as results, report.open("w", encoding="utf-8") as file:
        file.write(f"# {gpu}, torch {torch.__version__}, CUDA {torch.version.cuda}, {date.today()}\n")
        for name, words in steps(results):
            print(f"{name} ...", flush=True)
            started = time.monotonic()
            done = subprocess.run([PYTHON, *words], cwd=ROOT, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - started
            if done.returncode:
                failed.append(name)
            said = (done.stdout + (done.stderr[-4000:] if done.returncode else "")).replace(results, "RESULTS")
            command = " ".join(["python", *words]).replace(results, "RESULTS")
            status = f"FAILED ({done.returncode})" if done.returncode else "passed"
            file.write(f"\n## {name}: {status}, {seconds:.0f} s\n\n`{command}`\n\n```\n{said.strip()}\n```\n")
            file.flush()
            print(f"  {status}, {seconds:.0f} s", flush=True)
    where = report.relative_to(ROOT)
    print(f"commit {where}" + (f", and mend what failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
