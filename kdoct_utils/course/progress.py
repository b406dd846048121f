"""How long the notebooks of a run will still take, and the bar that says so."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence

TRUST = 30.0  # seconds by which the expected times count beside what this machine shows
REDRAW, REDRAW_IN_A_LOG = 0.5, 60.0  # seconds


class CourseBar:
    """A bar over the seconds of these notebooks, one after the other; only elapsed time where no more is known.

    names: of the notebooks, such as "05_realtime_distillation". expected: seconds of those that are known, by name.
    taken: seconds that notebooks done before took on this machine.
    """

    def __init__(
        self, names: Sequence[str], expected: Mapping[str, float], taken: Mapping[str, float] | None = None,
        shown: bool = True, clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        from tqdm.auto import tqdm

        self.names, self.expected, self.clock = list(names), expected, clock
        self.usual = self.taken = TRUST
        for name, seconds in (taken or {}).items():
            self.learn(name, seconds)
        self.spent, self.started = 0.0, clock()
        pause = REDRAW if sys.stderr.isatty() else REDRAW_IN_A_LOG
        self.bar = tqdm(
            disable=not shown, mininterval=pause, miniters=0, dynamic_ncols=True, bar_format="{desc} {elapsed}"
        )

    def learn(self, name: str, seconds: float) -> None:
        """A notebook took so many seconds on this machine."""
        if name in self.expected:
            self.usual += self.expected[name]
            self.taken += seconds

    def left(self, elapsed: float) -> float | None:
        """Seconds for the notebooks, the first of which has run for ``elapsed``; None where one is not known."""
        if any(name not in self.expected for name in self.names):
            return None
        running, *rest = [self.expected[name] for name in self.names]
        scale = self.taken / self.usual
        return max(0.0, scale * running - elapsed) + max(scale, elapsed / running) * sum(rest)  # one overdue slows all

    def start(self) -> None:
        """The next notebook starts now."""
        self.started = self.clock()
        self.show("")

    def show(self, status: str) -> None:
        """status: what runs in the notebook, such as "student KD, seed 2, epoch 4/10"."""
        elapsed = self.clock() - self.started
        left = self.left(elapsed)
        self.bar.n = self.spent + elapsed
        self.bar.total = None if left is None else self.bar.n + left
        self.bar.bar_format = "{desc} {elapsed}" if left is None else "{desc} |{bar}| {elapsed}{postfix}"
        self.bar.set_postfix_str("" if left is None else f"{self.bar.format_interval(left)} left", refresh=False)
        number = self.names[0].split("_")[0]
        self.bar.set_description_str(f"{number} · {status}" if status else self.names[0], refresh=False)
        self.bar.update(0)

    def finish(self, told: str) -> None:
        """The notebook that runs has ended; ``told`` becomes a line above the bar."""
        seconds, name = self.clock() - self.started, self.names.pop(0)
        self.learn(name, seconds)
        self.spent += seconds
        self.write(f"{name}: {told}")

    def write(self, line: str) -> None:
        """A line above the bar, on standard error: standard output is for results."""
        if not self.bar.disable:
            self.bar.write(line, file=sys.stderr)
