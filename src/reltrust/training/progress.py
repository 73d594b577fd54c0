"""How far a run is: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class RunProgress:
    """Shows step, loss, accuracy and the time that is left, on standard error.

    Args:
        label: the run's name.
        total: its number of steps.
        done: steps already made, by the run that this one resumes.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, total: int, done: int, enabled: bool) -> None:
        self._label, self._total, self._first = label, total, done
        self._lines = enabled and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit="step", dynamic_ncols=True, disable=not enabled or self._lines
        )
        self._started = self._last_line = time.monotonic()

    def update(self, step: int, measures: dict[str, float]) -> None:
        """The run has made ``step`` steps and measured these."""
        shown = {name.removeprefix("train_"): f"{value:.4g}" for name, value in measures.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if self._lines and (now - self._last_line >= _SECONDS_BETWEEN_LINES or step == self._total):
            left = (now - self._started) / (step - self._first) * (self._total - step)
            values = " ".join(f"{name} {value}" for name, value in shown.items())
            print(f"{self._label}: step {step}/{self._total} {values}, {left:.0f} s left", file=sys.stderr, flush=True)
            self._last_line = now

    def close(self) -> None:
        self._bar.close()
