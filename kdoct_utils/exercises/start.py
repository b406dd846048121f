"""Checks of the exercises of notebook 00: gains by data seed, a table of datasets, an interval."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdoct_utils.datasets import DATASETS
from kdoct_utils.exercises.checking import Check


def _networks(seed: int, **accuracies: list[float]) -> pd.DataFrame:
    """Rows as in `judge.regimes`: one per network of a data seed."""
    rows = [(seed, arm, k, value) for arm, values in accuracies.items() for k, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["seed", "arm", "student", "accuracy"])


_TABLE = pd.concat([
    _networks(1000, teacher=[0.97], student_alone=[0.80, 0.86, 0.83], student_kd=[0.84, 0.85, 0.89]),
    _networks(1001, teacher=[0.95], student_alone=[0.88, 0.87, 0.81], student_kd=[0.87, 0.83, 0.85]),
    _networks(1002, teacher=[0.98], student_alone=[0.79, 0.81, 0.74], student_kd=[0.82, 0.88, 0.85]),
], ignore_index=True)  # fmt: skip


def _gain_by_seed(table: pd.DataFrame, arm: str, against: str) -> pd.Series:
    scores = table.pivot_table(index="seed", columns="arm", values="accuracy", aggfunc="mean")
    return scores[arm] - scores[against]


def _first_students(table: pd.DataFrame, arm: str, against: str) -> pd.Series:
    return _gain_by_seed(table[table["student"] == 0], arm, against)


check_gain_by_seed = Check(
    _gain_by_seed,
    (lambda table, arm, against: _gain_by_seed(table, against, arm),
     "Your signs are turned round: a student that is better with its teacher should show a positive number."),
    (lambda table, arm, against: _gain_by_seed(table, arm, against).mean(),
     "You return one number. Each data seed has phantoms and a teacher of its own: what did each of them show?"),
    (lambda table, arm, against: _gain_by_seed(table, arm, against).abs(),
     "No data seed of yours shows a loss. Is that so, or did you drop the sign?"),
    (_first_students, "Each data seed has several students in each arm. How many of them does your answer look at?"),
    observe=lambda gain: [float(value) for value in np.ravel(gain)],
    cases=[(_TABLE, "student_kd", "student_alone"), (_TABLE, "teacher", "student_alone")],
    passed="One number per data seed: these are the dots on the map.",
    otherwise="For one of the data seeds you get {got}. Which rows of the table belong to it, and to which arm?",
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
