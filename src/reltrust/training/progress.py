"""How far a program is: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class RunProgress:
    """Shows, on standard error, how far a run is, with its loss and accuracy; or, of several, how many still run.

    Args:
        names: of the runs that make their steps together.
        steps: of each of them.
        done: steps already made, by the runs that these resume.
        enabled: False shows nothing.
    """

    def __init__(self, names: Sequence[str], steps: int, done: int, enabled: bool) -> None:
        self._members, self._steps, self._first = len(names), steps, done
        self._label = names[0] if len(names) == 1 else f"{len(names)} runs, {names[0]} and others"
        self._unit = "step" if len(names) == 1 else "member-step"
        self._lines = enabled and not sys.stderr.isatty()
        self._bar = tqdm(
            total=steps * self._members,
            initial=done * self._members,
            desc=self._label,
            unit=self._unit,
            dynamic_ncols=True,
            disable=not enabled or self._lines,
        )
        self._started = self._last_line = time.monotonic()

    def update(self, step: int, running: Sequence[Mapping[str, float]]) -> None:
        """The runs have made ``step`` steps; the measures of those that go on."""
        shown = {}
        if self._members > 1:
            ended = "finished" if step == self._steps else "running"
            shown = {ended: str(len(running)), "diverged": str(self._members - len(running))}
        elif running:
            shown = {name.removeprefix("train_"): f"{value:.4g}" for name, value in running[0].items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step * self._members - self._bar.n)
        now = time.monotonic()
        if self._lines and (now - self._last_line >= _SECONDS_BETWEEN_LINES or step == self._steps):
            rate = (step - self._first) / (now - self._started)
            speed = f"{rate * max(1, len(running)):.0f} {self._unit}s/s"
            values = " ".join(f"{name} {value}" for name, value in shown.items())
            print(
                f"{self._label}: step {step}/{self._steps} {values}, {speed}, {(self._steps - step) / rate:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._last_line = now

    def close(self) -> None:
        self._bar.close()
