"""How long the notebooks of a run will still take, and the bar that says so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

TRUST = 30.0  # seconds by which the expected times count beside what this machine shows
REDRAW, REDRAW_IN_A_LOG = 0.5, 60.0  # seconds


class Forecast:
    """Seconds that are left, from what each notebook took before and from what this machine shows.

    expected: seconds of the notebooks, by name, for those that are known.
    """

    def __init__(self, expected: Mapping[str, float]):
        self.expected = expected
        self.usual = self.taken = TRUST

    def finished(self, name: str, seconds: float) -> None:
        """A notebook took so many seconds on this machine."""
        if name in self.expected:
            self.usual += self.expected[name]
            self.taken += seconds

    def left(self, names: Sequence[str], elapsed: float) -> float | None:
        """Seconds for these notebooks, the first of which has run for ``elapsed``; None where one is not known."""
        if not names:
            return 0.0
        if any(name not in self.expected for name in names):
            return None
        running, rest = self.expected[names[0]], sum(self.expected[name] for name in names[1:])
        scale = self.taken / self.usual
        return max(0.0, scale * running - elapsed) + max(scale, elapsed / running) * rest  # one overdue slows the rest


class CourseBar:
    """A bar over the seconds of these notebooks, one after the other; only elapsed time where no more is known.

    names: of the notebooks, such as "05_realtime_distillation".
    """

    def __init__(
        self, names: Sequence[str], forecast: Forecast, shown: bool = True, clock: Callable[[], float] = time.monotonic
    ):
        from tqdm.auto import tqdm

        self.names, self.forecast, self.clock = list(names), forecast, clock
        self.spent, self.started = 0.0, clock()
        pause = REDRAW if sys.stderr.isatty() else REDRAW_IN_A_LOG
        self.bar = tqdm(
            disable=not shown, mininterval=pause, miniters=0, dynamic_ncols=True, bar_format="{desc} {elapsed}"
        )

    def start(self) -> None:
        """The next notebook starts now."""
        self.started = self.clock()
        self.show("")

    def show(self, status: str) -> None:
        """status: what runs in the notebook, such as "student KD, seed 2, epoch 4/10"."""
        elapsed = self.clock() - self.started
        left = self.forecast.left(self.names, elapsed)
        self.bar.n = self.spent + elapsed
        self.bar.total = None if left is None else self.bar.n + left
        self.bar.bar_format = "{desc} {elapsed}" if left is None else "{desc} |{bar}| {elapsed}{postfix}"
        self.bar.set_postfix_str("" if left is None else f"{self.bar.format_interval(left)} left", refresh=False)
        name = self.names[0] if self.names else ""
        self.bar.set_description_str(f"{name.split('_')[0]} · {status}" if status else name, refresh=False)
        self.bar.update(0)

    def finish(self, told: str) -> None:
        """The notebook that runs has ended; ``told`` becomes a line above the bar."""
        seconds = self.clock() - self.started
        name = self.names.pop(0)
        self.forecast.finished(name, seconds)
        self.spent += seconds
        self.write(f"{name}: {told}")

    def write(self, line: str) -> None:
        if not self.bar.disable:
            self.bar.write(line, file=sys.stderr)  # standard output is for results

    def __enter__(self) -> CourseBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
