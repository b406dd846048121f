"""How an exercise answers: it knows the right answer, the usual mistakes, and a hint for each.

A mistake is written down as the answer of a student who makes it. An answer is therefore compared with code, not with
a description of it, and a test can hand in every mistake and see that it gets its own hint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np

BLANK = "There is nothing to check yet. Replace the ... above by your own code, run that cell, then run this one."
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # differences that are float32 noise, not mistakes


class NotYet(AssertionError):
    """An answer that does not pass. The message is a hint; IPython shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


class Check:
    """Call it with an answer: it prints `passed`, or raises NotYet with a hint.

    right: the right answer, of the same kind as a student's: a function, a number, an array, a list...
    mistakes: pairs (the answer of a student who makes it, hint), tried in order where the answer is not right; the
      first that looks the same gives the hint. A hint helps on and is not the solution.
    otherwise: the hint where none does. {got} is replaced by the first value that differs, {where} by its place. What
      is right is never shown.
    cases: arguments to call a function with; each answer gets copies, so that none changes another's input.
    observe: what is compared: of the result of each case, or of the answer itself where there are no cases. It must
      give the same for the same answer, so whatever is drawn in it is drawn from a fixed seed.
    """

    def __init__(
        self, right: Any, *mistakes: tuple[Any, str], passed: str, otherwise: str, cases: Sequence[tuple] = (),
        observe: Callable[[Any], Any] = lambda answer: answer,
    ) -> None:  # fmt: skip
        self.right, self.mistakes, self.passed, self.otherwise = right, mistakes, passed, otherwise
        self.cases, self.observe = cases, observe

    def __call__(self, answer: Any) -> None:
        try:
            seen = self._seen(answer)
        except NotYet:
            raise
        except Exception as error:
            raise NotYet(f"Your answer stopped with {type(error).__name__}: {error}") from error
        different = next(differences(seen, self._seen(self.right)), None)
        if different is None:
            print(f"Passed. {self.passed}")
            return
        for mistake, hint in self.mistakes:
            if self._looks_like(seen, mistake):
                raise NotYet(hint)
        where, got, wanted = different
        raise NotYet(self.otherwise.replace("{got}", _in_words(got, wanted)).replace("{where}", where))

    def _seen(self, answer: Any) -> Any:
        if _is_blank(answer):
            raise NotYet(BLANK)
        if not self.cases:
            seen = self.observe(_refusing_blanks(answer) if callable(answer) else answer)
        elif not _is_blank(seen := [answer(*deepcopy(case)) for case in self.cases]):
            seen = [self.observe(result) for result in seen]
        if _is_blank(seen):
            raise NotYet(BLANK)
        return seen

    def _looks_like(self, seen: Any, mistake: Any) -> bool:
        with suppress(Exception):  # a mistake that stops looks like no answer that ran
            return same(seen, self._seen(mistake))
        return False


def same(a: Any, b: Any) -> bool:
    """Whether two observations are equal, but for float32 noise. Shapes, lengths and names must agree."""
    return next(differences(a, b), None) is None


def differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The smallest parts that differ: where in mappings, and the two parts."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        for name in a:
            yield from differences(a[name], b[name], f"{where}, {name}" if where else str(name))
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for x, y in zip(a, b, strict=True):
            yield from differences(x, y, where)
    elif not _equal(a, b):
        yield where or "the answer", a, b


def _equal(a: Any, b: Any) -> bool:
    try:
        first, second = _array(a), _array(b)
        close = np.allclose(first, second, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    except (TypeError, ValueError):  # not numbers, or of shapes that do not go together
        return isinstance(a, (str, bytes, set, frozenset, type(None))) and type(a) is type(b) and a == b
    return first.shape == second.shape and close


def _array(value: Any) -> np.ndarray:
    if value is None or isinstance(value, (str, bytes)):  # numpy would take None for nan, and "1" for 1
        raise TypeError("not a number")
    if hasattr(value, "detach"):  # a torch tensor, with or without gradients
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=float)


def _is_blank(value: Any) -> bool:
    """... itself, None, or a function's results where all are."""
    if value is None or value is Ellipsis:
        return True
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_blank(item) for item in value)


def _refusing_blanks(function: Callable) -> Callable:
    """Stops observers that call an answer still to be written. None passes: an answer may return nothing."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        if result is not None and _is_blank(result):
            raise NotYet(BLANK)
        return result

    return call


def _in_words(got: Any, wanted: Any) -> str:
    """What was given; of what was wanted, at most the shape."""
    if isinstance(got, (set, frozenset)):
        return ", ".join(sorted(map(str, got)))
    try:
        array, expected = _array(got), _array(wanted)
    except (TypeError, ValueError):
        return str(got)[:120]
    shown = np.array2string(array, precision=4, threshold=8, edgeitems=3)
    return shown if array.shape == expected.shape else f"{shown} (shape {array.shape} in place of {expected.shape})"
