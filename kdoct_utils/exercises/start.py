"""Checks of the exercises of notebook 00: a softened answer, a table of datasets, an interval."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from kdoct_utils.datasets import DATASETS
from kdoct_utils.exercises.checking import Check

_LEADING, _EVEN = np.array([0.85, 0.10, 0.05]), np.array([0.2, 0.5, 0.2, 0.1])

check_soften = Check(
    lambda p, t: softmax(np.log(p) / t),
    (lambda p, t: p ** (1 / t), "Add up what your function returns. Are these still probabilities?"),
    (lambda p, t: p / t / (p / t).sum(),
     "At T = 4 your answer is the one at T = 1. What does scaling to sum 1 do to a plain division?"),
    (lambda p, t: softmax(p / t),
     "Softmax expects logits, and these are probabilities already. At T = 1 nothing may change: does it?"),
    cases=[(_LEADING, 4.0), (_LEADING, 1.0), (_EVEN, 2.0)],
    passed="The order stays, the differences shrink.",
    otherwise="For one of the answers you get {got}. What may not change at T = 1, and what becomes flatter?",
)  # fmt: skip

_SPLITTABLE = set(DATASETS) - {"octmnist"}

check_splittable = Check(
    _SPLITTABLE,
    (set(DATASETS), "One of your datasets is a file of pictures and labels, and no more. Who was scanned?"),
    (_SPLITTABLE - {"phantom", "phantom_b"},
     "Phantoms are no people, but several scans are drawn of each. Is it known which belong together?"),
    (_SPLITTABLE - {"neh"},
     "One you left out counts patients anew in each class folder; folder and number still name one."),
    observe=lambda names: {names} if isinstance(names, str) else set(names),
    passed="Only where it is known who was scanned can patients be kept apart.",
    otherwise="You named {got}. Read `layout` and `caveats` of each dataset: is a patient given, or not?",
)  # fmt: skip

_ENDS = [(0.04, 0.01, 0.07), (0.02, -0.01, 0.05), (-0.03, -0.05, -0.01), (-0.01, -0.04, 0.02), (0.05, 0.01, 0.20)]

check_verdict = Check(
    lambda change: "gain" if change["low"] > 0 else "loss" if change["high"] < 0 else "open",
    (lambda change: "gain" if change["estimate"] > 0 else "loss",
     "You look at the estimate alone. The interval says how far it may be off."),
    (lambda change: "gain" if change["low"] > 0 else "loss",
     "An interval from -0.01 to 0.05 shows no gain. Does it show a loss?"),
    (lambda change: "gain" if change["low"] > 0 else "open",
     "An interval can lie below zero as a whole, too. What do you return then?"),
    cases=[(dict(zip(("estimate", "low", "high"), ends, strict=True)),) for ends in _ENDS],
    passed="Gain, loss or open: the interval decides, not the estimate.",
    otherwise="For one of the changes you return {got}. Draw its interval and mark zero: where does it lie?",
)  # fmt: skip
