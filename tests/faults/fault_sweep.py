"""The sweep that faults are done to: small runs that write a row, and a checkpoint, many times a second."""

from pathlib import Path

SWEEP = (
    "-m", "scale=smoke", "training.steps=400", "training.log_every=10", "training.evaluate_every=200",
    "schedule.every=200", "task.hidden_layers=2,3", "seed=0,1", "machine.progress=false", "machine.device=cpu",
    "machine.keep=weights", "machine.checkpoint_minutes=0.002", "tracking=none",
)  # fmt: skip


def activity(folder: Path) -> int:
    """Another number when a run of the folder has logged something."""
    return sum(path.stat().st_size for path in folder.glob("results/runs/*/*/*/metrics.jsonl") if path.exists())
