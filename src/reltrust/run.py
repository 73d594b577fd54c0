"""The life of a run, from its settings to its ended record: alone, or as a member of a pack."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch

from reltrust import build
from reltrust.errors import BusyError, EndedError, RecordError, SettingsError
from reltrust.records.shorter import continue_shorter
from reltrust.records.store import Status
from reltrust.records.tracking import NoTracker, open_tracker
from reltrust.sweeps.plan import AGAIN, PlannedRun
from reltrust.training import ranks
from reltrust.training.analysis import analyse
from reltrust.training.trainer import Member, SilentMember, train

log = logging.getLogger(__name__)


def run(planned: PlannedRun) -> Status:
    """Starts the run, or resumes it, or finds that its result is there already.

    Raises:
        SettingsError: a setting that this machine or the data cannot meet; nothing was written.
        DataError: the data cannot be had; nothing was written.
        BusyError: another process is working on this very run.
    """
    settings, status = planned.settings, planned.record.status
    if status is not None and status.is_result:
        return status
    # Everything that can be refused is built before the record is touched.
    device = build.device(settings)
    try:
        build.check_optimizers(settings, device)  # before data are loaded, which takes seconds
        if settings.training is None:
            if ranks.count() > 1:
                raise SettingsError(f"{ranks.count()} ranks: an analysis is computed by one process")
            analysis = build.analysis(settings, device)
            with life(planned, device) as member:
                return analyse(analysis, member, settings.machine)
        machine = replace(settings.machine, progress=settings.machine.progress and ranks.rank() == 0)
        with ranks.joined(device):
            program = build.program(settings, device)
            if planned.action == AGAIN and ranks.rank() == 0:
                log.warning("%s begins again: no checkpoint of it was kept", planned.record.path.name)
            with life(planned, device) as member:
                (status,) = train(program, settings.training, [member], machine)
        return status
    except EndedError:
        return Status(str(planned.record.status))


@contextmanager
def life(planned: PlannedRun, device: torch.device, *, members: int = 1) -> Iterator[Member]:
    """Begins the run; an error that ends it is in its record.

    Args:
        members: how many runs make their steps together. Of several, an error ends none: they are begun again.

    Raises:
        SettingsError, BusyError, EndedError, RuntimeError: as :meth:`~reltrust.records.store.RunRecord.begin`.
    """
    settings, record, alone = planned.settings, planned.record, members == 1

    def begin() -> None:
        continue_shorter(record, settings)
        record.begin(settings, str(device), members=members, processes=ranks.count())

    ranks.first(begin)
    if ranks.rank():
        yield SilentMember(record, settings.lr_schedule, NoTracker())
        return
    member = None
    try:
        tracker = open_tracker(record, settings.tracking, settings.machine.results, live=alone)
        member = Member(record, settings.lr_schedule, tracker)
        yield member
    except BaseException as error:
        if member is not None and member.status is not Status.RUNNING:
            raise
        if not alone:
            with suppress(Exception):  # the record itself may be what is wrong; begun again, it will tell
                record.preempted()
        elif isinstance(error, KeyboardInterrupt):
            record.preempted()
        else:
            with suppress(RecordError, BusyError):  # what cannot be written down either
                record.failed(error)
        if member is not None:  # one that is left open would be taken for the next run's
            member.tracker.finish(Status.FAILED, {})
        raise
