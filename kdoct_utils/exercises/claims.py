"""Checks of the exercises of notebook 07: possible scores, fair intervals, fair winners, and a leak in split files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from kdoct_utils.exercises.checking import Check
from kdoct_utils.judge import sample_size
from kdoct_utils.judge.crossval import SEEN_ROLES
from kdoct_utils.judge.metrics import patient_bootstrap, percentile_interval


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


def _highest(accuracy: float, class_counts: Sequence[int]) -> float:
    counts = np.asarray(class_counts, dtype=float)
    return 1 - (1 - accuracy) * counts.sum() / (counts.sum() - counts.min()) / len(counts)


def _spread_evenly(accuracy: float, class_counts: Sequence[int]) -> float:
    counts = np.asarray(class_counts, dtype=float)
    return 1 - ((1 - accuracy) * counts.sum() / len(counts) / (counts.sum() - counts)).mean()


def _lowest(accuracy: float, class_counts: Sequence[int]) -> float:
    counts = np.asarray(class_counts, dtype=float)
    return 1 - (1 - accuracy) * counts.sum() / (counts.sum() - counts.max()) / len(counts)


check_highest_specificity = Check(
    _highest,
    (_spread_evenly, "You share the false alarms out among the classes. Who wants a high score would not."),
    (_lowest, "That is the other end: no table gives less. Which class has the most scans that are not of it?"),
    (lambda accuracy, counts: 1 - len(counts) * (1 - _highest(accuracy, counts)),
     "That is the one class that is called too often. What do the other classes add to the mean?"),
    (lambda accuracy, counts: _highest(accuracy, [1] * len(counts)),
     "Right if all classes were equally large. The counts of this dataset are not."),
    cases=[(0.926, (5667, 3742, 3240)), (0.80, (500, 300, 200)), (0.95, (250, 250, 250, 100))],
    passed="One subtraction finds what no table of counts can give, and nobody's raw data are needed.",
    otherwise="You have {got}. Each wrong answer is a false alarm for one class: for which does it cost least?",
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
     "Chosen correctly. But luck has raised the winner's validation score. Who has not chosen yet?"),
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

    Returns a row per patient: patient, role.
    """
    places = np.random.default_rng(seed).permutation(len(order))
    test, validation = round(0.2 * len(order)), round(0.16 * len(order))
    roles = np.full(len(order), "train", dtype=object)
    roles[places[:test]], roles[places[test : test + validation]] = "test", "validation"
    return pd.DataFrame({"patient": list(order), "role": roles})


def split_files(patients: int = 120, seed: int = 0) -> dict[str, pd.DataFrame]:
    """A lab's split files: name -> a row a scan with patient, scan and role, in no particular order.

    Two teachers and three students were trained by five scripts. Patients have 3 to 40 scans.
    """
    random = np.random.default_rng(seed)
    names = [f"patient {number:03d}" for number in range(patients)]
    scans = random.integers(3, 41, patients)
    by_appearance = list(random.permutation(names))
    dealt = {"teacher_a": dealt_patients(names, seed), "teacher_b": dealt_patients(by_appearance, seed),
             "student_a": dealt_patients(names, seed), "student_b": dealt_patients(by_appearance, seed),
             "student_c": dealt_patients(list(random.permutation(names)), seed)}  # fmt: skip
    files = {}
    for name, roles in dealt.items():
        rows = roles.set_index("patient").loc[names].reset_index()
        rows = rows.loc[rows.index.repeat(scans)].assign(scan=np.concatenate([np.arange(n) for n in scans]))
        files[name] = rows.sample(frac=1, random_state=int(random.integers(1000))).reset_index(drop=True)
    return files


def _audit(splits: dict[str, pd.DataFrame], seen: tuple[str, ...] = SEEN_ROLES, unit: str = "patient") -> pd.DataFrame:
    shares = {}
    for student in (name for name in splits if name.startswith("student")):
        tested = splits[student].query("role == 'test'")
        tested = tested["patient"].drop_duplicates() if unit == "patient" else tested["patient"]
        of_teachers = {name: table for name, table in splits.items() if name.startswith("teacher")}
        shares[student] = {name: tested.isin(table.loc[table["role"].isin(seen), "patient"]).mean()
                           for name, table in of_teachers.items()}  # fmt: skip
    return pd.DataFrame(shares)


def _row_by_row(splits: dict[str, pd.DataFrame]) -> pd.DataFrame:
    students, teachers = ([name for name in splits if name.startswith(kind)] for kind in ("student", "teacher"))
    return pd.DataFrame({student: {teacher: splits[teacher]["role"][splits[student]["role"] == "test"].isin(
        SEEN_ROLES).mean() for teacher in teachers} for student in students})  # fmt: skip


def _cells(table: pd.DataFrame) -> dict[str, float]:
    """Each share under its names, whatever the order of rows and columns."""
    cells = table.stack()
    return {f"{teacher} and {student}": float(cells[teacher, student]) for teacher, student in sorted(cells.index)}


check_audit = Check(
    _audit,
    (lambda splits: _audit(splits, ("train",)),
     "You count the patients that a teacher trained on. Are those new on whom its weights were chosen?"),
    (_row_by_row, "You compare the tables row by row, and each file has its own order of rows. What names a patient?"),
    (lambda splits: _audit(splits, unit="scan"),
     "You count scans, so a patient with 40 weighs more than one with 3. A share of whom was asked?"),
    (lambda splits: _audit(splits).T, "Rows and columns are exchanged: a row is a teacher."),
    cases=[(split_files(120, 3),), (split_files(200, 4),)],
    observe=_cells,
    passed="Pairs with a share of zero may be published. The others need a new teacher, or a new student.",
    otherwise="{where}: you have {got}. Take that pair alone, and list its test patients by hand.",
)  # fmt: skip


def _deal(patients: Sequence[str]) -> dict[str, str]:
    table = dealt_patients(sorted(patients))
    return dict(zip(table["patient"], table["role"], strict=True))


def _deals(deal: Callable[[Sequence[str]], dict[str, str]]) -> dict[str, bool]:
    names = [f"patient {number:03d}" for number in range(300)]
    first, second = deal(list(names)), deal(list(np.random.default_rng(5).permutation(names)))
    shares = pd.Series(first).value_counts(normalize=True)
    return {
        "every patient has a role": set(first) == set(names) and set(shares.index) == {"train", "validation", "test"},
        "about a fifth is tested": 0.12 < shares.get("test", 0) < 0.28,
        "the order of the list does not matter": first == second,
    }


check_deal = Check(
    _deal,
    (lambda patients: dict(zip(patients, dealt_patients(patients)["role"], strict=True)),
     "Hand in the same list in another order and look at one patient: that was the bug."),
    (lambda patients: dict.fromkeys(patients, "train"), "Nobody is left to test on. Which three roles were asked for?"),
    observe=_deals,
    passed="Every script may call it, whatever list it starts from.",
    otherwise="Not so yet: {where}. Return a mapping, patient -> train, validation or test.",
)  # fmt: skip
