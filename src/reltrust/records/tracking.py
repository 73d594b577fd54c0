"""Weights & Biases as a mirror of a run's record. Whatever happens to it, the run goes on.

The record on disk is the truth; ``replay`` shows recorded runs to W&B at any later time. W&B writes its own files as it
does offline, and where it is to be shown online a process of its own uploads them: no run waits for a server. Nor does
a training step wait for W&B's client, which takes rows in a thread of its own, and a hundredth of the time at most.
"""

import logging
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from reltrust.errors import UserError, first_line
from reltrust.records.store import Row, RunRecord
from reltrust.records.uploading import Upload
from reltrust.settings import Tracking

log = logging.getLogger(__name__)

WAITING = 1000  # rows and files that may wait for W&B's client
REST = 99  # times as long as it was at work, for what its threads compute the training waits (one of Python at a time)


class Tracker(Protocol):
    """Somebody who watches a run."""

    def log(self, row: Row) -> None:
        """A row that the record has got."""

    def file(self, name: str, path: Path) -> None:
        """A file that is kept beside the record; it belongs to the last row."""

    def finish(self, status: str, summary: Row) -> None: ...


class NoTracker:
    """Nobody watches."""

    def log(self, row: Row) -> None:
        pass

    def file(self, name: str, path: Path) -> None:
        pass

    def finish(self, status: str, summary: Row) -> None:
        pass


class _Worker:
    """Does what it is given, one thing after the other, in a thread of its own; takes no more than can wait.

    It rests after each, until it is asked to end.
    """

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)  # stuck, it keeps nobody from leaving
        self._thread.start()

    def _work(self) -> None:
        while (action := self._waiting.get()) is not None:
            started = time.monotonic()
            action()
            self._ending.wait(REST * (time.monotonic() - started))

    def takes(self, action: Callable[[], None]) -> bool:
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            return False
        return True

    def ends(self, seconds: float) -> bool:
        """Whether all that it has taken is done within so many seconds; it takes nothing more."""
        deadline = time.monotonic() + seconds
        self._ending.set()
        try:
            self._waiting.put(None, timeout=max(0.0, seconds))
        except queue.Full:
            return False
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()


class WandbTracker:
    """One run on a W&B page: named after its directory, grouped by experiment and optimizer, tagged with its data.

    W&B's id is the start of the run's own. A run that goes on is shown from its recorded beginning, in place of what an
    earlier attempt has left. The first thing that goes wrong is said in one line; from then on nobody watches. What
    comes too fast for W&B's client is shown from the record when the run has ended.
    """

    def __init__(self, record: RunRecord, folder: Path, tracking: Tracking) -> None:
        self._record, self._patience = record, tracking.timeout_seconds
        self._left = self._patience  # for what is to be shown online
        self._run: Any = None
        self._upload: Upload | None = None
        self._step = -1  # of the last row shown
        self._files: set[str] = set()
        self._worker = _Worker()
        self._behind = False
        self.folder: Path | None = None
        """Where W&B keeps the run; None if it does not."""
        try:
            self._run, seconds = _start(record, folder, tracking)
            self._left -= seconds
            self.folder = Path(self._run.dir).resolve().parent
            for earlier in self.folder.parent.glob(f"offline-run-*-{self._run.id}"):
                if earlier != self.folder:
                    shutil.rmtree(earlier, ignore_errors=True)
            if tracking.mode == "wandb":
                self._upload = Upload([self.folder], live=True)
        except Exception as error:  # whatever W&B raises, it must not end the run
            self._give_up(error)

    def log(self, row: Row) -> None:
        self._hand_over(partial(self._show_next, dict(row)))

    def file(self, name: str, path: Path) -> None:
        self._hand_over(partial(self._show_first_file, Path(name).name, path))

    def finish(self, status: str, summary: Row) -> None:
        started = time.monotonic()
        if not self._worker.ends(self._patience):
            self._give_up(TimeoutError("its client takes no more rows"))
        self._attempt(partial(self._end, status, summary, started + self._left))

    def _hand_over(self, action: Callable[[], None]) -> None:
        if self._run is not None and not self._behind:  # in order, or from the record in the end
            self._behind = not self._worker.takes(partial(self._attempt, action))

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._run is not None:
            try:
                action()
            except Exception as error:
                self._give_up(error)

    def _show_next(self, row: Row) -> None:
        if self._step < 0:
            self._show_recorded(before=row["step"])
        self._show(row)

    def _show_first_file(self, name: str, path: Path) -> None:
        if self._step < 0:
            self._show_recorded()
        self._show_file(name, path)

    def _end(self, status: str, summary: Row, deadline: float) -> None:
        self._show_recorded()
        for path in self._record.files:
            if path.name not in self._files:
                self._show_file(path.name, path)
        self._run.summary.update(summary | {"status": str(status)})
        self._run.finish(exit_code=0 if status in ("finished", "diverged") else 1)
        if self._upload is not None and self.folder is not None:
            if not self._upload.running:  # it gave up; the service may be back
                upload, self._upload = self._upload, None
                upload.wait(0)
                self._upload = Upload([self.folder])
            _tell(self._upload.wait(deadline - time.monotonic()), [self.folder])

    def _show_recorded(self, before: float = math.inf) -> None:
        for row in self._record.metrics:
            if self._step < row["step"] < before:
                self._show(row)

    def _show(self, row: Row) -> None:
        self._step = row["step"]
        self._run.log({key: value for key, value in row.items() if key != "step"}, step=self._step)

    def _show_file(self, name: str, path: Path) -> None:
        import wandb

        self._files.add(name)
        if path.suffix == ".png":
            picture = {f"files/{path.stem}": wandb.Image(str(path))}
            self._run.log(picture, step=max(0, self._step))
        else:
            copy = Path(self._run.dir, "files", name)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
            self._run.save(copy, base_path=self._run.dir, policy="now", glob=False)

    def _give_up(self, error: Exception) -> None:
        log.warning("W&B does not watch this run (the run itself goes on): %s", first_line(error))
        self._run = self.folder = None
        if self._upload is not None:
            self._upload.wait(0)


def _start(record: RunRecord, folder: Path, tracking: Tracking) -> tuple[Any, float]:
    """An open W&B run, and the seconds that it took to open, without the import."""
    # Of an offline run too the client sends reports on itself, and waits for their answers when the process ends.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # takes seconds: only those who want it pay for it

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    config, identity = record.config, record.provenance["id"]
    experiment, data = config["experiment"], config["data"]
    optimizer = config["optimizer"]["name"] if config["optimizer"] else "analysis"
    run = wandb.init(
        mode="offline",
        project=tracking.project,
        entity=tracking.entity,
        dir=str(folder),
        id=identity[:16],
        name=f"{optimizer}-{record.path.name.removesuffix(f'-{identity[:8]}')}",
        group=f"{experiment}/{optimizer}",
        tags=[experiment, optimizer, *([data["name"]] if data else [])],
        config={key: config[key] for key in config if key not in ("machine", "tracking")},
        settings=wandb.Settings(
            init_timeout=tracking.timeout_seconds,
            finish_timeout=tracking.timeout_seconds,
            console="off",
            silent=True,
        ),
    )
    return run, time.monotonic() - started


def obeying_environment(tracking: Tracking) -> Tracking:
    """The settings as ``WANDB_MODE`` restricts them: to nothing at all, or to files."""
    mode = os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return replace(tracking, mode="none")
    if mode in ("offline", "dryrun") and tracking.mode == "wandb":
        return replace(tracking, mode="wandb_offline")
    return tracking


def open_tracker(record: RunRecord, tracking: Tracking, results: str | Path, *, live: bool = True) -> Tracker:
    """The tracker that the settings and ``WANDB_MODE`` ask for; W&B's own files go to ``<results>/wandb``.

    Args:
        live: False for runs of which too many are trained at once to be watched: ``replay`` them.
    """
    tracking = obeying_environment(tracking)
    if tracking.mode == "none" or not live:
        return NoTracker()
    return WandbTracker(record, Path(results, "wandb"), tracking)


def replay(records: Sequence[RunRecord], tracking: Tracking, results: str | Path) -> list[RunRecord]:
    """Shows runs that have ended to W&B, from their records alone.

    Returns:
        Those that W&B has not got, after one line that says why.
    """
    tracking = obeying_environment(tracking)
    if tracking.mode == "none":
        return list(records)
    folders: dict[Path, RunRecord] = {}
    for record in records:
        tracker = WandbTracker(record, Path(results, "wandb"), replace(tracking, mode="wandb_offline"))
        status = record.status
        tracker.finish(str(status), record.summary if status is not None and status.is_result else {})
        if tracker.folder is not None:
            folders[tracker.folder] = record
    missing: list[Path] = []
    if tracking.mode == "wandb" and folders:
        missing = list(folders)
        try:
            upload = Upload(missing)
            problem = upload.wait(tracking.timeout_seconds)
            missing = upload.missing
        except OSError as error:
            problem = first_line(error)
        _tell(problem, missing)
    shown = [record for folder, record in folders.items() if folder not in missing]
    return [record for record in records if record not in shown]


def _tell(problem: str | None, folders: Sequence[Path]) -> None:
    """Says what kept W&B from taking runs, and where they are."""
    if problem is not None:
        where = folders[0] if len(folders) == 1 else f"{len(folders)} runs in {folders[0].parent}"
        log.warning("W&B has not got all of it, kept for `wandb sync`: %s: %s", where, problem)


def check_login() -> None:
    """Raises UserError if there is no login to W&B; whether it is a good one, the service will say."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # otherwise it asks the service for the name of who has logged in
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"W&B: {first_line(error)}") from None
    if not known:
        raise UserError("W&B: nobody has logged in: use `wandb login`")
