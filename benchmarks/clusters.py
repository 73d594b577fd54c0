"""What a sweep of many tiny runs costs beside its training: ``python benchmarks/clusters.py slurm`` (or ``ray``).

Prints a row: wall time, the share of it that was training, memory of the launcher, seconds from the last run's end to
the table. For SLURM there has to be one (``LOCAL_SLURM_CPUS=16 scripts/local_slurm.sh start FOLDER``); Ray's is
started here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WORDS = (
    "-m", "scale=smoke", "training.steps=10", "training.log_every=10", "training.evaluate_every=10",
    "schedule=constant", "tracking=none", "machine.device=cpu", "machine.progress=false", "launcher.memory_gb=0.5",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["slurm", "ray"])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=40, help="among which the runs are dealt out, one after another")
    parser.add_argument("--slots", type=int, default=16, help="jobs at once, more than there are cores")
    arguments = parser.parse_args()
    share = -(-arguments.runs // arguments.jobs)
    words = [*WORDS, f"seed=range({arguments.runs})", f"launcher={arguments.engine}", "launcher.max_members=1",
             f"launcher.packs_per_job={share}", f"launcher.parallel_jobs={arguments.slots}"]  # fmt: skip
    if arguments.engine == "ray":
        words.append(f"launcher.local_cpus={arguments.slots}")
    with tempfile.TemporaryDirectory() as folder:
        started, memory = time.monotonic(), 0
        launcher = psutil.Popen([sys.executable, "-m", "reltrust", *words], cwd=folder, stderr=subprocess.PIPE)
        while launcher.poll() is None:
            try:
                memory = max(memory, launcher.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.1)
        if launcher.wait():
            sys.exit(launcher.stderr.read().decode())
        wall = time.monotonic() - started
        training = [
            json.loads(path.read_bytes())["seconds"] for path in Path(folder).glob("results/runs/*/*/*/summary.json")
        ]
        ends = [path.stat().st_mtime for path in Path(folder).glob("results/runs/*/*/*/status.json")]
        table = Path(folder, "results/summaries/mlp_depth.csv").stat().st_mtime
    assert len(training) == arguments.runs
    row = {
        "engine": arguments.engine,
        "runs": arguments.runs,
        "jobs": arguments.jobs,
        "slots": arguments.slots,
        "wall, s": f"{wall:.0f}",
        "training of all runs, s": f"{sum(training):.0f}",
        "wall a run, ms": f"{1000 * wall / arguments.runs:.0f}",
        "launcher, MB": f"{memory / 1e6:.0f}",
        "last end to table, s": f"{table - max(ends):.1f}",
    }
    print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}\n| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()
