"""Checks of the exercises of notebook 00: a softened answer, a table of datasets, an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdoct_utils.exercises.checking import Check, Mistake, applied_to

__all__ = ["check_soften", "check_splittable", "check_verdict"]

ANSWERS = (np.array([0.85, 0.10, 0.05]), np.array([0.2, 0.5, 0.2, 0.1]))


def _soften(p: np.ndarray, temperature: float) -> np.ndarray:
    powered = p ** (1 / temperature)
    return powered / powered.sum()


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


check_soften = Check(
    "check_soften",
    right=_soften,
    observe=applied_to((ANSWERS[0], 4.0), (ANSWERS[0], 1.0), (ANSWERS[1], 2.0)),
    mistakes=(
        Mistake("sum not 1", lambda p, t: p ** (1 / t),
                "Add up what your function returns. Are these still probabilities?"),
        Mistake("divided by T", lambda p, t: p / t / (p / t).sum(),
                "At T = 4 your answer is the one at T = 1. What does scaling to sum 1 do to a plain division?"),
        Mistake("divided by T, sum not 1", lambda p, t: p / t,
                "You divided the probabilities. Raise them to a power, then scale them to sum to 1."),
        Mistake("power T", lambda p, t: p**t / (p**t).sum(),
                "Your answer gets sharper as T grows. It should get flatter: look at the exponent again."),
        Mistake("softmax of probabilities", lambda p, t: _softmax(p / t),
                "Softmax expects logits, and these are probabilities already. At T = 1 nothing may change: does it?"),
        Mistake("scaled by the largest", lambda p, t: p ** (1 / t) / (p ** (1 / t)).max(),
                "Your largest value is 1. Probabilities have another value that must be 1."),
    ),
    passed="The order stays, the differences shrink.",
    otherwise="Your function gives {got}, the powers 1/T scaled to sum 1 are {wanted}.",
)  # fmt: skip

SPLITTABLE = ("phantom", "phantom_b", "neh", "ucsd", "octdl", "csv")


def _names(answer: Any) -> Any:
    """The names as a set, whatever holds them."""
    if answer is None or answer is Ellipsis or isinstance(answer, str):
        return answer
    return set(answer)


check_splittable = Check(
    "check_splittable",
    right=SPLITTABLE,
    observe=_names,
    mistakes=(
        Mistake("all of them", (*SPLITTABLE, "octmnist"),
                "One of your datasets is a file of pictures and labels, and no more. Who was scanned?"),
        Mistake("the one that cannot", ("octmnist",),
                "That is the one that cannot be split by patient. Asked are the others."),
        Mistake("phantoms left out", tuple(name for name in SPLITTABLE if not name.startswith("phantom")),
                "Phantoms are no people, but several scans are drawn of each. Is it known which belong together?"),
        Mistake("no column, no patient", tuple(name for name in SPLITTABLE if name != "ucsd"),
                "One of those you left out keeps the patient in the name of each file: CLASS-patient-index.jpeg."),
        Mistake("numbers that restart", tuple(name for name in SPLITTABLE if name != "neh"),
                "One of those you left out counts its patients anew in each class folder. Folder and number together "
                "still name a patient."),
        Mistake("own scans left out", tuple(name for name in SPLITTABLE if name != "csv"),
                "Your own scans come in a CSV file. Which three columns must it have?"),
        Mistake("one name only", "octmnist", "That is one name. Asked is a set of names, such as {\"neh\", \"csv\"}."),
    ),
    passed="Only where it is known who was scanned can patients be kept apart.",
    otherwise="You named {got}. Read `layout` and `caveats` of each dataset: is a patient given, or not?",
)  # fmt: skip


def _verdict(change: Mapping[str, float]) -> str:
    if change["low"] > 0:
        return "gain"
    return "loss" if change["high"] < 0 else "open"


def _changed(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


CHANGES = tuple(
    (_changed(*values),)
    for values in (
        (0.04, 0.01, 0.07), (0.02, -0.01, 0.05), (-0.03, -0.05, -0.01), (-0.01, -0.04, 0.02), (0.05, 0.01, 0.20),
    )
)  # fmt: skip


def _by_estimate(change: Mapping[str, float]) -> str:
    return "gain" if change["estimate"] > 0 else "loss"


def _by_width(change: Mapping[str, float]) -> str:
    if abs(change["estimate"]) < change["high"] - change["low"]:
        return "open"
    return _by_estimate(change)


def _no_open(change: Mapping[str, float]) -> str:
    return "gain" if change["low"] > 0 else "loss"


def _no_loss(change: Mapping[str, float]) -> str:
    return "gain" if change["low"] > 0 else "open"


def _swapped(change: Mapping[str, float]) -> str:
    if change["high"] > 0:
        return "gain"
    return "loss" if change["low"] < 0 else "open"


_observe_verdict: Callable = applied_to(*CHANGES)

check_verdict = Check(
    "check_verdict",
    right=_verdict,
    observe=_observe_verdict,
    mistakes=(
        Mistake("estimate only", _by_estimate,
                "You look at the estimate alone. The interval says how far it may be off."),
        Mistake("estimate against width", _by_width,
                "You compare the estimate with the interval's width. Ask where the interval lies instead: on which "
                "side of zero?"),
        Mistake("no proof is no loss", _no_open,
                "An interval from -0.01 to 0.05 shows no gain. Does it show a loss?"),
        Mistake("losses overlooked", _no_loss,
                "An interval can lie below zero as a whole, too. What do you return then?"),
        Mistake("the wrong end", _swapped,
                "An interval from -0.01 to 0.05 has one end above zero. For a gain, which end has to be?"),
    ),
    passed="Gain, loss or open: the interval decides, not the estimate.",
    otherwise="For one of the changes you return {got}, and the interval says {wanted}.",
)  # fmt: skip
