"""Checks of the exercises of notebook 07: scores from counts, fair intervals, fair winners, a teacher's patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.judge import sample_size
from kdoct_utils.judge.crossval import SEEN_ROLES
from kdoct_utils.judge.metrics import confusion_scores, patient_bootstrap, percentile_interval

__all__ = [
    "check_fair_winner", "check_paired_interval", "check_patients_needed", "check_share_seen", "check_three_scores",
    "dealt_patients", "optimism", "two_classifiers",
]  # fmt: skip


# --- 1. scores from counts -------------------------------------------------------------------------------------------


def _scores(counts: np.ndarray) -> list[float]:
    found = confusion_scores(counts)
    return [found["accuracy"], found["sensitivity"], found["specificity"]]


def _parts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Right, true and said scans of each class, and all scans."""
    return np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), counts.sum()


def _rows_and_columns_mistaken(counts: np.ndarray) -> list[float]:
    return _scores(counts.T)


def _accuracy_as_mean_recall(counts: np.ndarray) -> list[float]:
    _, sensitivity, specificity = _scores(counts)
    return [sensitivity, sensitivity, specificity]


def _what_is_called_no(counts: np.ndarray) -> list[float]:
    hits, true, said, n = _parts(counts)
    return [*_scores(counts)[:2], ((n - true - said + hits) / (n - said)).mean()]


def _hits_of_the_others(counts: np.ndarray) -> list[float]:
    hits, true, _, n = _parts(counts)
    return [*_scores(counts)[:2], ((hits.sum() - hits) / (n - true)).mean()]


def _pooled(counts: np.ndarray) -> list[float]:
    hits, true, said, n = _parts(counts)
    return [hits.sum() / n, hits.sum() / n, (n - true - said + hits).sum() / (n - true).sum()]


_COUNTS = np.array([[800, 150, 50], [40, 300, 60], [5, 15, 80]])
_FOUR = np.array([[90, 5, 3, 2], [10, 180, 5, 5], [0, 1, 20, 9], [2, 2, 2, 44]])

check_three_scores = Check(
    "check_three_scores",
    right=_scores,
    observe=applied_to((_COUNTS,), (_FOUR,)),
    mistakes=(
        Mistake("rows and columns mistaken", _rows_and_columns_mistaken,
                "The accuracy is right, the others are those of the transposed matrix. Rows are what is true: which "
                "axis has to be added up to count the true scans of a class?"),
        Mistake("accuracy as the mean of the classes", _accuracy_as_mean_recall,
                "Your accuracy is the mean of the sensitivities. Accuracy is the share of all scans named rightly: "
                "a large class counts for more."),
        Mistake("specificity among the called", _what_is_called_no,
                "Your specificity is off: of all scans that are truly not the class, how many were not called it? "
                "You divided by the scans that were not called it."),
        Mistake("specificity from hits", _hits_of_the_others,
                "Your specificity is too low. A drusen scan called CNV is an error, but for the question "
                "“normal or not” it is answered rightly."),
        Mistake("pooled over the classes", _pooled,
                "You added up the classes first and divided once. “Macro” means: one number a class, then their mean."),
    ),
    passed="Three scores of one matrix, as the paper has them.",
    otherwise="Where {wanted} was expected you have {got}. Return accuracy, sensitivity, specificity, in this order.",
)  # fmt: skip


# --- 2. a paired interval over patients ------------------------------------------------------------------------------


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


def _over_scans(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    return _paired(a, b, np.arange(len(patients)))


def _by_formula(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    values = a.astype(float) - b
    reach = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return [values.mean() - reach, values.mean() + reach]


def _each_alone(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> tuple[list[float], list[float]]:
    return tuple(percentile_interval(patient_bootstrap(one, patients)) for one in (a, b))


def _farthest_ends(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    first, second = _each_alone(a, b, patients)
    return [first[0] - second[1], first[1] - second[0]]


def _like_ends(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    first, second = _each_alone(a, b, patients)
    return [first[0] - second[0], first[1] - second[1]]


def _unpaired(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> list[float]:
    return percentile_interval(patient_bootstrap(a, patients) - patient_bootstrap(b, patients, seed=1))


check_paired_interval = Check(
    "check_paired_interval",
    right=_paired,
    observe=applied_to(two_classifiers(seed=1), two_classifiers(25, 8, 0.1, seed=2)),
    mistakes=(
        Mistake("over scans", _over_scans,
                "Too narrow: you resample scans. The scans of a patient are alike. What is it that was drawn at "
                "random when the data were collected?"),
        Mistake("standard error over scans", _by_formula,
                "Too narrow: this formula takes every scan for a new patient. Resample patients."),
        Mistake("farthest ends", _farthest_ends,
                "Far too wide: you made one interval a classifier and subtracted their ends. Both were tested on the "
                "same scans: take the difference first, then the interval."),
        Mistake("like ends", _like_ends,
                "You subtracted low from low and high from high. That is no interval of the difference. Take the "
                "difference scan by scan first."),
        Mistake("unpaired", _unpaired,
                "Too wide: two separate draws of patients. Both classifiers saw the same ones: draw once for both."),
        Mistake("the other way round", lambda a, b, p: _paired(b, a, p), "This is B minus A. Asked was A minus B."),
    ),
    passed="Paired scan by scan, resampled patient by patient.",
    otherwise="Where {wanted} was expected you have {got}. Use patient_bootstrap as it comes (2000 resamples, seed 0), "
    "and percentile_interval at 95 %.",
)  # fmt: skip


# --- 3. a fair winner ------------------------------------------------------------------------------------------------


def _fair(validation: np.ndarray, test: np.ndarray) -> float:
    return float(test[validation.argmax()])


_random = np.random.default_rng(7)
_FIELDS = [tuple(np.round(0.8 + 0.03 * _random.normal(size=(2, n)), 4)) for n in (8, 20)]

check_fair_winner = Check(
    "check_fair_winner",
    right=_fair,
    observe=applied_to(*_FIELDS),
    mistakes=(
        Mistake("picked on the test patients", lambda v, t: t.max(),
                "You report the highest test score. Then the test patients have chosen the network, and there is no "
                "one left to judge it."),
        Mistake("the validation score itself", lambda v, t: v.max(),
                "The network is chosen rightly. But its validation score is the one that luck has raised: report "
                "what the test patients say of it."),
        Mistake("the number of the network", lambda v, t: int(v.argmax()),
                "That is the place of the winner in the list. Report its score."),
        Mistake("the mean of all", lambda v, t: t.mean(),
                "A fair number, of another thing: what a network has on average. Asked is the score of the winner."),
        Mistake("the worst", lambda v, t: t[v.argmin()], "You took the network with the lowest validation score."),
    ),
    passed="Chosen by some patients, judged by others.",
    otherwise="Where {wanted} was expected you have {got}. Return one number: the score that you may publish.",
)  # fmt: skip


# --- 4. how many patients --------------------------------------------------------------------------------------------

_AGREEMENT = sample_size.Agreement(0.10, 0.3, (12,))
_NEEDED = sample_size.closed_form(0.02, _AGREEMENT)

check_patients_needed = Check(
    "check_patients_needed",
    right=_NEEDED,
    observe=lambda answer: round(float(answer)),
    mistakes=(
        Mistake("unrelated scans", sample_size.closed_form(0.02, sample_size.Agreement(0.10, 0.0, (12,))),
                "So many would do if the scans of a patient had nothing to do with one another. They have: give the "
                "correlation."),
        Mistake("one scan a patient", sample_size.closed_form(0.02, sample_size.Agreement(0.10, 0.3, (1,))),
                "So many would be needed with one scan each. You take twelve."),
        Mistake("the defaults", sample_size.closed_form(0.02),
                "These are the package's assumptions for NEH. Give your own: disagreement, correlation, scans."),
        Mistake("scans", 12 * _NEEDED, "That is the number of scans. Asked are patients."),
        Mistake("scans of NEH", sample_size.closed_form(0.02, sample_size.Agreement(0.10, 0.3)),
                "This is for 29 scans each, the package's default. You take twelve."),
    ),
    passed="Halve the scans of each patient and try again: the number of patients does not double.",
    otherwise="{got} is not {wanted}. Two points are 0.02: the package counts in fractions of 1.",
)  # fmt: skip


# --- 5. what the teacher has seen ------------------------------------------------------------------------------------


def dealt_patients(order: list[str] | np.ndarray, seed: int = 0) -> pd.DataFrame:
    """A split as a script makes it from its own list: shuffled by position; 20 % test, 16 % validation, 64 % train.

    Returns a row a patient: patient, role.
    """
    places = np.random.default_rng(seed).permutation(len(order))
    test, validation = round(0.2 * len(order)), round(0.16 * len(order))
    roles = np.full(len(order), "train", dtype=object)
    roles[places[:test]], roles[places[test : test + validation]] = "test", "validation"
    return pd.DataFrame({"patient": list(order), "role": roles})


def _share(teacher: pd.DataFrame, student: pd.DataFrame, roles: tuple = SEEN_ROLES, asked: str = "test") -> float:
    known = set(teacher["patient"][teacher["role"].isin(roles)])
    return float(student["patient"][student["role"] == asked].isin(known).mean())


def _of_the_teachers(teacher: pd.DataFrame, student: pd.DataFrame) -> float:
    seen = teacher["patient"][teacher["role"].isin(SEEN_ROLES)]
    return float(seen.isin(set(student["patient"][student["role"] == "test"])).mean())


def _by_position(teacher: pd.DataFrame, student: pd.DataFrame) -> float:
    tested = (student["role"] == "test").to_numpy()
    return float(teacher["role"].isin(SEEN_ROLES).to_numpy()[tested].mean())


def _two_orders(patients: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One set of patients, listed in order of number by the teacher's script and of appearance by the student's."""
    names = [f"p{number:03d}" for number in range(patients)]
    return dealt_patients(names, seed), dealt_patients(np.random.default_rng(seed + 1).permutation(names), seed)


check_share_seen = Check(
    "check_share_seen",
    right=_share,
    observe=applied_to(_two_orders(200, 3), _two_orders(441, 4)),
    mistakes=(
        Mistake("training patients only", lambda t, s: _share(t, s, ("train",)),
                "You count the patients that the teacher trained on. Its weights were also chosen on some patients: "
                "they are not new to it either."),
        Mistake("of the teacher's patients", _of_the_teachers,
                "You divided by the teacher's patients. Of whom is the share asked?"),
        Mistake("test against test", lambda t, s: _share(t, s, ("test",)),
                "You count those who are new to the teacher. Asked are the others."),
        Mistake("all of the student's patients", lambda t, s: float(t["role"].isin(SEEN_ROLES).mean()),
                "This is the teacher's share of all patients. Look only at those who test the student."),
        Mistake("by position", _by_position,
                "You compared the two tables row by row. They list the patients in two orders: that was the bug. "
                "Compare names."),
        Mistake("the student's training patients", lambda t, s: _share(t, s, asked="train"),
                "You looked at the patients that the student trains on. Asked are those who test it."),
    ),
    passed="One split file for all networks brings it to zero.",
    otherwise="Where {wanted} was expected you have {got}. Return a share between 0 and 1.",
)  # fmt: skip


def optimism(best_of: Callable[[np.ndarray, np.ndarray], float], networks: int, draws: int, seed: int = 0) -> float:
    """How much `best_of(validation, test)` exceeds the truth on average, for networks that are all equally good.

    Each score is 0.8 and the luck of its patients, with a standard deviation of 0.02.
    """
    scores = 0.8 + 0.02 * np.random.default_rng(seed).normal(size=(draws, 2, networks))
    return float(np.mean([best_of(validation, test) for validation, test in scores]) - 0.8)
