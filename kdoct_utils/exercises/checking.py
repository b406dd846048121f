"""How an exercise answers: it knows the right answer, the usual mistakes, and a hint for each.

A mistake is written down as the answer of a student who makes it. An answer is therefore compared with code, not with
a description of it, and a test can hand in every mistake and see that it gets its own hint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BLANK", "Check", "Mistake", "NotYet", "applied_to", "same"]

BLANK = "There is nothing to check yet. Replace the ... above by your own code, run that cell, then run this one."
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # differences that are float32 noise, not mistakes


class NotYet(AssertionError):
    """An answer that does not pass. The message is a hint; IPython shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: its name, the answer of a student who makes it, and what helps. The hint is not the solution."""

    name: str
    answer: Any
    hint: str


@dataclass(frozen=True)
class Check:
    """Call it with an answer: it prints `passed`, or raises NotYet with a hint.

    right: the right answer, of the same kind as a student's: a function, a number, an array, a list...
    observe: what is compared of an answer; by default the answer itself, for functions see `applied_to`.
      It must give the same for the same answer, so whatever is drawn in it is drawn from a fixed seed.
    mistakes: tried in order where the answer is not right; the first that looks the same gives the hint.
    otherwise: the hint where none does. {got} and {wanted} are replaced by the first values that differ,
      {where} by their names where the observation is a mapping.
    """

    name: str
    right: Any
    mistakes: Sequence[Mistake]
    passed: str
    otherwise: str
    observe: Callable[[Any], Any] = lambda answer: answer

    def __call__(self, answer: Any) -> None:
        if _is_blank(answer):
            raise NotYet(BLANK)
        try:
            seen = self.observe(answer)
        except NotYet:
            raise
        except Exception as error:
            raise NotYet(f"Your answer stopped with {type(error).__name__}: {error}") from error
        if _is_blank(seen):
            raise NotYet(BLANK)
        wanted = self.observe(self.right)
        if same(seen, wanted):
            print(f"Passed. {self.passed}")
            return
        for mistake in self.mistakes:
            if same(seen, self._seen_of(mistake)):
                raise NotYet(mistake.hint)
        got, expected = _first_difference(seen, wanted)
        words = {"got": _short(got), "wanted": _short(expected), "where": _where(seen, wanted)}
        hint = self.otherwise
        for name, value in words.items():
            hint = hint.replace(f"{{{name}}}", value)
        raise NotYet(hint)

    def _seen_of(self, mistake: Mistake) -> Any:
        try:
            return self.observe(mistake.answer)
        except Exception as error:  # a mistake that stops looks like no answer that ran
            return error


def applied_to(*trials: tuple) -> Callable[[Callable], list]:
    """An `observe` for functions: their results for each trial's arguments.

    Arguments with a `clone` or `copy` method are handed over as copies, so that no answer changes another's input.
    """

    def observe(function: Callable) -> list:
        return [function(*(_copied(argument) for argument in trial)) for trial in trials]

    return observe


def same(a: Any, b: Any) -> bool:
    """Whether two observations are equal, but for float32 noise. Shapes, lengths and names must agree."""
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        both = isinstance(a, Mapping) and isinstance(b, Mapping)
        return both and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (str, bytes, set, frozenset, type(None))) or isinstance(b, (str, bytes, set, frozenset)):
        return type(a) is type(b) and a == b
    try:
        first, second = _array(a), _array(b)
        close = np.allclose(first, second, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    except (TypeError, ValueError):
        return False
    return first.shape == second.shape and close


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, with or without gradients
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=float)


def _copied(value: Any) -> Any:
    for way in ("clone", "copy"):
        if callable(getattr(value, way, None)):
            return getattr(value, way)()
    return value


def _is_blank(value: Any) -> bool:
    """... itself, None, or a function's results where all are."""
    if value is None or value is Ellipsis:
        return True
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_blank(item) for item in value)


def _first_difference(a: Any, b: Any) -> tuple[Any, Any]:
    """The smallest parts that differ."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return next((_first_difference(x, y) for x, y in zip(a, b, strict=True) if not same(x, y)), (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return next((_first_difference(a[key], b[key]) for key in a if not same(a[key], b[key])), (a, b))
    return a, b


def _where(a: Any, b: Any) -> str:
    """The names that lead to the first difference."""
    names = []
    while isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        key = next((key for key in a if not same(a[key], b[key])), None)
        if key is None:
            break
        names.append(str(key))
        a, b = a[key], b[key]
    return ", ".join(names) or "the answer"


def _short(value: Any) -> str:
    if isinstance(value, (str, bytes, Mapping, set, frozenset, type(None))):
        return repr(value)
    try:
        array = _array(value)
    except (TypeError, ValueError):
        return repr(value)[:120]
    shown = np.array2string(array, precision=4, threshold=8, edgeitems=3)
    return shown if array.ndim == 0 or array.size <= 8 else f"{shown} of shape {array.shape}"
