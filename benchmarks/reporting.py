"""How long collecting many records takes, and redrawing all figures and the report from the committed tables.

``python benchmarks/reporting.py`` prints both: CPU seconds of all processes and those of the clock. Collecting stands
beside reading the same files with nothing made of them.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust.records.store import Status, Store
from reltrust.records.summaries import collect

RESULTS = Path(__file__).resolve().parents[1] / "results"


def make_records(results: Path, count: int) -> None:
    """So many finished runs of one scale, with three evaluations each, that differ in their seeds and numbers."""
    words = ["sweep=mlp_depth", "scale=smoke", "optimizer=adam", "seed=0", f"machine.results={results}"]
    first = Store(results).record(settings_of_sweep(words)[0])
    first.begin(settings_of_sweep(words)[0], "cpu")
    first.end(Status.FINISHED, {"steps": 120, "train_loss": 0.5, "train_accuracy": 0.5, "seconds": 1.0})
    texts = {name: (first.path / name).read_text() for name in ("provenance.json", "status.json", "summary.json")}
    shutil.rmtree(first.path)
    for seed in range(count):
        path = first.path.with_name(f"depth2-lr0.01-seed{seed}-{seed:08x}")
        path.mkdir(parents=True)
        provenance = json.loads(texts["provenance.json"])
        provenance["config"]["seed"] = seed
        (path / "provenance.json").write_text(json.dumps(provenance, indent=2))
        (path / "status.json").write_text(texts["status.json"])
        (path / "summary.json").write_text(texts["summary.json"].replace("0.5", f"0.5{seed}"))
        rows = [{"step": step, "train_loss": 0.5, "train_accuracy": 0.5, "test_loss": 0.5} for step in (40, 80, 120)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_alone(results: Path) -> None:
    """The same files, parsed and forgotten."""
    for record in Store(results).records("mlp_depth"):
        for name in ("provenance.json", "status.json", "summary.json"):
            json.loads((record.path / name).read_bytes())
        for line in (record.path / "metrics.jsonl").read_bytes().splitlines():
            json.loads(line)


def redraw(results: str) -> None:
    """``make report``, in folders of its own."""
    script = RESULTS.parent / "scripts" / "report.py"
    subprocess.run([sys.executable, script, "--results", results], check=True, stdout=subprocess.DEVNULL)


def seconds(work: Callable[[], object], who: int = resource.RUSAGE_SELF) -> tuple[float, float]:
    """CPU seconds of this process, or of its children, and those of the clock."""
    before, clock = resource.getrusage(who), time.perf_counter()
    work()
    after = resource.getrusage(who)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| what | CPU seconds | seconds | CPU / reading the files alone |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        make_records(results, arguments.records)
        collected, alone = [], []
        for _ in range(arguments.repeats):
            alone.append(seconds(lambda: read_alone(results)))
            for path in (results / "runs").glob("*/.collected"):  # nothing would be read again
                path.unlink()
            collected.append(seconds(lambda: collect(results, "mlp_depth", {})))
        (cpu, clock), (bare, _) = (map(statistics.median, zip(*one, strict=True)) for one in (collected, alone))
        print(f"| collecting {arguments.records:,} records | {cpu:.2f} | {clock:.2f} | {cpu / bare:.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        for part in ("summaries", "pictures"):
            shutil.copytree(RESULTS / part, Path(folder, part))
        redrawn = [seconds(lambda: redraw(folder), resource.RUSAGE_CHILDREN) for _ in range(arguments.repeats)]
        cpu, clock = map(statistics.median, zip(*redrawn, strict=True))
        print(f"| all figures and the report, {os.cpu_count()} cores | {cpu:.2f} | {clock:.2f} | |")


if __name__ == "__main__":
    main()
