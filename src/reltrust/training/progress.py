"""How far a long computation is, on standard error: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows ``label``, how many of ``total`` units are done, how fast they pass, and what the caller says of them.

    Args:
        done: units done before, which this computation goes on from.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, total: int, done: int, unit: str, enabled: bool) -> None:
        self._label, self._total, self._first, self._unit = label, total, done, unit
        self._lines = enabled and not sys.stderr.isatty()
        shown = enabled and not self._lines
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit=unit, unit_scale=True, dynamic_ncols=True, disable=not shown
        )
        self._started = self._last_line = time.monotonic()

    def update(self, done: int, text: str, *, last: bool = False) -> None:
        """So many units are done, of which ``text`` tells; the ``last`` line is shown whenever it comes."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.n = done
        self._bar.refresh()
        now = time.monotonic()
        if self._lines and (last or now - self._last_line >= _SECONDS_BETWEEN_LINES):
            line, rate = f"{self._label}: {text}", (done - self._first) / (now - self._started)
            if rate > 0:
                line += f", {rate:,.0f} {self._unit}s/s, {(self._total - done) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)
            self._last_line = now

    def close(self) -> None:
        self._bar.close()
