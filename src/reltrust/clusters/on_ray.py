"""Ray: a task for each job, on a cluster that runs, or on one of this machine that lasts as long as the sweep."""

import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reltrust.clusters.jobs import Job, deal
from reltrust.errors import SettingsError, first_line
from reltrust.packing.runner import Outcome
from reltrust.records.store import Status
from reltrust.settings import Ray
from reltrust.sweeps.plan import PlannedRun
from reltrust.training.stopping import StopRequest

_SECONDS_TO_STOP = 30.0  # for checkpoints


@dataclass
class Share:
    """What one task takes."""

    places: Sequence[int]
    job: Job
    stops: int = 0  # how often somebody else has asked its process to stop


def run_on_ray(runs: Sequence[PlannedRun], launcher: Ray) -> list[Outcome]:
    """Runs of any shapes in Ray's tasks; the outcome of each. A task whose process dies is begun again on another.

    SIGTERM and Ctrl-C are handed to the tasks: they leave checkpoints, and the outcome is ``preempted``.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without a GPU sees what its machine shows
    try:
        import ray
    except ModuleNotFoundError:
        raise SettingsError('launcher=ray: needs the package ray: pip install ".[experiments,ray]"') from None
    outcomes: dict[int, Outcome] = {}
    local: dict[str, Any] = {} if launcher.address else {"num_cpus": launcher.local_cpus, "include_dashboard": False}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=launcher.address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"launcher.address={launcher.address!r}: {first_line(error)}") from None
    try:
        signal.signal(signal.SIGTERM, sigterm)  # Ray's would end this process
        with StopRequest() as stop:
            options = {"num_cpus": launcher.cpus, "num_gpus": launcher.gpus, "max_retries": launcher.retries}
            task = ray.remote(_run).options(**options, memory=round(launcher.memory_gb * 2**30))
            pending: dict[Any, Share] = {}
            for places in deal(runs, launcher):
                share = Share(places, Job([runs[i] for i in places], launcher))
                pending[task.remote(share.job)] = share
            asked = False
            while pending:
                if stop.requested and not asked:
                    for reference in pending:
                        ray.cancel(reference, force=False)
                    asked = True
                done, _ = ray.wait(list(pending), timeout=_SECONDS_TO_STOP if asked else 1.0)
                if asked and not done:
                    break
                for reference in done:
                    share = pending.pop(reference)
                    found = _outcomes(reference, len(share.places))
                    share.stops += Status.PREEMPTED in found
                    again = launcher.retries == -1 or share.stops <= launcher.retries
                    if Status.PREEMPTED in found and again and not stop.requested:  # its machine is taken from it
                        pending[task.remote(share.job)] = share
                    else:
                        outcomes |= dict(zip(share.places, found, strict=True))
    finally:
        ray.shutdown()
    return [outcomes.get(i, Status.PREEMPTED) for i in range(len(runs))]


def _run(job: Job) -> list[Outcome]:
    """What a task does, in a process of Ray's."""
    import ray

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's would end the process before there is a checkpoint
    return job.run(f"ray {ray.get_runtime_context().get_task_id()}")


def _outcomes(reference: Any, count: int) -> list[Outcome]:
    import ray

    try:
        found: list[Outcome] = ray.get(reference)
        return found
    except ray.exceptions.TaskCancelledError:
        return [Status.PREEMPTED] * count
    except ray.exceptions.RayTaskError as error:
        return [error.cause if isinstance(error.cause, Exception) else RuntimeError(first_line(error))] * count
    except ray.exceptions.RayError as error:  # its process died, its machine is gone, as often as it may
        return [RuntimeError(f"Ray: {first_line(error)}")] * count
