"""What tests do with runs: start them from settings, find their records, read what they measured."""

from typing import Any

import torch

from reltrust import build
from reltrust import run as life
from reltrust.records.store import RunRecord, Status, Store
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import Program


def run(settings: Settings) -> Status:
    (planned,) = plan([settings])
    return life.run(planned)


def record_of(settings: Settings) -> RunRecord:
    return Store(settings.machine.results).record(settings)


def metrics(settings: Settings) -> list[dict[str, Any]]:
    """Without the seconds, which are never the same."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record_of(settings).metrics]


def program_of(settings: Settings, device: str = "cpu") -> Program:
    return build.program(settings, torch.device(device))
