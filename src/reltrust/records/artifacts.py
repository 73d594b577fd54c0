"""What the results folder holds beside the runs: tables and figures. Needs the standard library alone."""

from pathlib import Path

from reltrust.records.files import write_atomically


def summary_path(results: str | Path, experiment: str) -> Path:
    """The experiment's table, a row a run."""
    return Path(results, "summaries", f"{experiment}.csv")


def write_table(results: str | Path, name: str, text: str) -> Path:
    """Writes ``summaries/<name>.csv``, as a whole or not at all; returns its path."""
    return _write(Path(results, "summaries", f"{name}.csv"), text.encode())


def write_figure(results: str | Path, name: str, suffix: str, content: bytes) -> Path:
    """Writes ``figures/<name>.<suffix>``, as a whole or not at all; returns its path."""
    return _write(Path(results, "figures", f"{name}.{suffix}"), content)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))
    return path
