"""Checks of the exercises of notebook 07: scores from counts, fair intervals, fair winners, a teacher's patients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from kdoct_utils.exercises.checking import Check
from kdoct_utils.judge import sample_size
from kdoct_utils.judge.crossval import SEEN_ROLES
from kdoct_utils.judge.metrics import confusion_scores, patient_bootstrap, percentile_interval


def _needed(difference: float = 0.02, disagreement: float = 0.10, correlation: float = 0.3, scans: int = 12) -> float:
    return sample_size.closed_form(difference, sample_size.Agreement(disagreement, correlation, (scans,)))


_PATIENTS = math.floor(_needed())  # 702.28: whoever rounds it up, since a patient is whole, is right as well

check_patients_needed = Check(
    _PATIENTS,
    (_needed(correlation=0.0),
     "So many would do if the scans of a patient had nothing to do with one another. What do you know of them?"),
    (_needed(scans=1), "So many would be needed with one scan each. You take twelve."),
    observe=lambda answer: _PATIENTS if answer in (_PATIENTS, _PATIENTS + 1) else round(float(answer)),
    passed="Halve the scans of each patient and try again: the number of patients does not double.",
    otherwise="You have {got}. Two points are 0.02: the package counts in fractions of 1.",
)  # fmt: skip


def _scores(counts: np.ndarray) -> list[float]:
    found = confusion_scores(counts)
    return [found["accuracy"], found["sensitivity"], found["specificity"]]


def _of_those_not_called(counts: np.ndarray) -> list[float]:
    hits, true, said, n = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    return [*_scores(counts)[:2], ((n - true - said + hits) / (n - said)).mean()]


check_three_scores = Check(
    _scores,
    (lambda counts: _scores(counts.T),
     "The accuracy is right, the others are of the transposed matrix. Rows are what is true."),
    (_of_those_not_called,
     "You divided by the scans not called the class. Specificity is of those that are not the class."),
    cases=[(np.array([[800, 150, 50], [40, 300, 60], [5, 15, 80]]),),
           (np.array([[90, 5, 3, 2], [10, 180, 5, 5], [0, 1, 20, 9], [2, 2, 2, 44]]),)],
    passed="Three scores of one matrix, as the paper has them.",
    otherwise="You have {got}. Return accuracy, sensitivity, specificity, in this order; try two classes by hand.",
)  # fmt: skip


def two_classifiers(
    patients: int = 40, scans: int = 12, gain: float = 0.04, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Synthetic: right_a, right_b (n,) bool and patient (n,) of two classifiers on the same scans.

    Some patients are easy and some are hard, for both. A is better by about `gain`, in some patients by more than in
    others.
    """
    random = np.random.default_rng(seed)
    ease = random.beta(4, 1, size=(patients, 1))
    luck = random.random((patients, scans))  # shared: what one finds hard, so does the other
    own = 0.9 * luck[..., None] + 0.1 * random.random((patients, scans, 2))
    better = gain + 0.15 * random.normal(size=(patients, 1))
    right = own < np.stack([ease, ease - better], axis=-1)
    return right[..., 0].ravel(), right[..., 1].ravel(), np.repeat(np.arange(patients), scans)


def _paired(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    return percentile_interval(patient_bootstrap(a.astype(float) - b, patients))


def _farthest_ends(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    first, second = (percentile_interval(patient_bootstrap(one, patients)) for one in (a, b))
    return [first[0] - second[1], first[1] - second[0]]


check_paired_interval = Check(
    _paired,
    (lambda a, b, patients: _paired(a, b, np.arange(len(patients))),
     "Too narrow: you resample scans. What was drawn at random when the data were collected?"),
    (_farthest_ends, "Far too wide: you subtracted the ends of two intervals. Both were tested on the same scans."),
    (lambda a, b, patients: _paired(b, a, patients), "This is B minus A. Asked was A minus B."),
    cases=[two_classifiers(seed=1), two_classifiers(25, 8, 0.1, seed=2)],
    passed="Paired scan by scan, resampled patient by patient.",
    otherwise="You have {got}. Call patient_bootstrap and percentile_interval as they come, with seed 0 and 95 %.",
)  # fmt: skip

_random = np.random.default_rng(7)

check_fair_winner = Check(
    lambda validation, test: test[validation.argmax()],
    (lambda validation, test: test.max(),
     "You report the highest test score: the test patients chose the network. Who is left to judge it?"),
    (lambda validation, test: validation.max(),
     "Chosen rightly. But luck has raised the winner's validation score. Who has not chosen yet?"),
    cases=[tuple(np.round(0.8 + 0.03 * _random.normal(size=(2, n)), 4)) for n in (8, 20)],
    passed="Chosen by some patients, judged by others.",
    otherwise="You have {got}. Return one number: the score that you may publish.",
)  # fmt: skip


def optimism(best_of: Callable[[np.ndarray, np.ndarray], float], networks: int, draws: int, seed: int = 0) -> float:
    """How much `best_of(validation, test)` exceeds the truth on average, for networks that are all equally good.

    Each score is 0.8 and the luck of its patients, with a standard deviation of 0.02.
    """
    scores = 0.8 + 0.02 * np.random.default_rng(seed).normal(size=(draws, 2, networks))
    return float(np.mean([best_of(validation, test) for validation, test in scores]) - 0.8)


def dealt_patients(order: list[str] | np.ndarray, seed: int = 0) -> pd.DataFrame:
    """A split as a script makes it from its own list: shuffled by position; 20 % test, 16 % validation, 64 % train.

    Returns a row a patient: patient, role.
    """
    places = np.random.default_rng(seed).permutation(len(order))
    test, validation = round(0.2 * len(order)), round(0.16 * len(order))
    roles = np.full(len(order), "train", dtype=object)
    roles[places[:test]], roles[places[test : test + validation]] = "test", "validation"
    return pd.DataFrame({"patient": list(order), "role": roles})


def _two_orders(patients: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One set of patients, listed in order of number by the teacher's script and of appearance by the student's."""
    names = [f"p{number:03d}" for number in range(patients)]
    return dealt_patients(names, seed), dealt_patients(np.random.default_rng(seed + 1).permutation(names), seed)


def _share(teacher: pd.DataFrame, student: pd.DataFrame, seen: tuple[str, ...] = SEEN_ROLES) -> float:
    known = teacher["patient"][teacher["role"].isin(seen)]
    return student["patient"][student["role"] == "test"].isin(known).mean()


check_share_seen = Check(
    _share,
    (lambda teacher, student: _share(teacher, student, ("train",)),
     "You count the patients that the teacher trained on. Are those new on whom its weights were chosen?"),
    (lambda teacher, student: teacher["role"][student["role"] == "test"].isin(SEEN_ROLES).mean(),
     "You compared the two tables row by row. They list the patients in two orders: that was the bug."),
    cases=[_two_orders(200, 3), _two_orders(441, 4)],
    passed="One split file for all networks brings it to zero.",
    otherwise="You have {got}. Return a share between 0 and 1: of whom, and who counts?",
)  # fmt: skip
