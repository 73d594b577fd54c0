"""A run of more steps goes on from where a shorter run of the same settings ended, if that kept its checkpoint."""

import shutil

from reltrust.errors import BusyError, RecordError
from reltrust.records.files import shards_of, write_atomically, write_json
from reltrust.records.identity import any_length_id, comparison_id, run_id
from reltrust.records.store import RunRecord, Status
from reltrust.settings import Settings


def continue_shorter(record: RunRecord, settings: Settings) -> None:
    """Gives a run that was never begun the rows, files and checkpoint of the longest shorter run, if there is one.

    Its metrics are then those that it would have written itself: the schedule must not depend on the length, and the
    shorter run's last row must not hold an evaluation that the longer one would not have made.
    """
    schedule = settings.lr_schedule
    if settings.training is None or schedule is None or schedule.depends_on_length:
        return
    if record.status is not None or record.has_checkpoint:
        return
    shared_id, found, steps = any_length_id(settings), None, 0
    for path in sorted(record.path.parent.glob(f"{record.path.name.rpartition('-')[0]}-*")):
        other = RunRecord(path)
        try:
            if other.status is not Status.FINISHED or not other.checkpoint_path.exists():
                continue
            made, any_length = int(other.config["training"]["steps"]), other.provenance.get("any_length")
        except RecordError:  # of a newer version
            continue
        if made % settings.training.evaluate_every or any_length != shared_id:
            continue
        if steps < made < settings.training.steps:
            found, steps = other, made
    if found is None:
        return
    record.path.mkdir(parents=True, exist_ok=True)
    try:
        record.lease.acquire()
    except BusyError:  # another process begins it
        return
    try:
        if record.status is None and not record.has_checkpoint:
            _copy(found, steps, record, settings)
    finally:
        record.lease.release()


def _copy(found: RunRecord, steps: int, record: RunRecord, settings: Settings) -> None:
    if (found.path / "files").exists():
        shutil.copytree(found.path / "files", record.path / "files", dirs_exist_ok=True)
    ids = {"id": run_id(settings), "comparison": comparison_id(settings), "protocol": settings.task.protocol}
    beginning = {"run": f"{found.path.parent.name}/{found.path.name}", "steps": steps}
    write_json(record.path / "provenance.json", {**ids, "begun_from": beginning, "attempts": []})
    for shards in shards_of(found.checkpoint_path):
        shutil.copytree(shards, record.path / shards.name, dirs_exist_ok=True)
    for name in ("metrics.jsonl", found.checkpoint_path.name):  # the checkpoint last: what it goes on from is there
        with (found.path / name).open("rb") as source:
            write_atomically(record.path / name, lambda file, source=source: shutil.copyfileobj(source, file))  # type: ignore[misc]
