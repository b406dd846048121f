"""Checks of the exercises of notebook 01: keys of patients, groups, folds, an audit, and a buffer around test slices.

Folds can be dealt in many right ways. They are therefore compared by what must hold, not number by number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from kdoct_utils.data.scans import link_patients
from kdoct_utils.data.splits import ROLES, audit_leakage, make_splits
from kdoct_utils.exercises.checking import Check


def _partition(names: Sequence) -> np.ndarray:
    """Which rows belong together, whatever they are called: the number of each row's group, by first appearance."""
    return pd.factorize(np.array([str(name) for name in names], dtype=object))[0]


def neh_table() -> pd.DataFrame:
    """Thirteen rows as NEH's table has them: patients are numbered from 1 in each class folder."""
    rows = [
        ("NORMAL", 1, "OD", 0, "NORMAL"), ("NORMAL", 1, "OD", 1, "NORMAL"), ("NORMAL", 2, "OS", 0, "NORMAL"),
        ("NORMAL", 2, "OS", 1, "DRUSEN"), ("DRUSEN", 1, "OD", 0, "NORMAL"), ("DRUSEN", 1, "OD", 1, "DRUSEN"),
        ("DRUSEN", 1, "OS", 0, "DRUSEN"), ("DRUSEN", 3, "OD", 0, "DRUSEN"), ("CNV", 1, "OS", 0, "CNV"),
        ("CNV", 1, "OS", 1, "DRUSEN"), ("CNV", 3, "OD", 0, "CNV"), ("CNV", 3, "OS", 0, "CNV"),
        ("CNV", 12, "OD", 0, "CNV"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Class", "Patient ID", "Eye", "B-scan", "Label"])


def _joined(*columns: str) -> Callable:
    return lambda table: table[list(columns)].astype(str).agg("/".join, axis=1)


check_patient_key = Check(
    _joined("Class", "Patient ID"),
    (_joined("Patient ID"),
     "NORMAL/1 and CNV/1 are one patient for you. The numbers start at 1 in every class folder."),
    (_joined("Label", "Patient ID"),
     "You took the Label. It says what one B-scan shows: a patient with two labels is torn in two."),
    (_joined("Class", "Patient ID", "Eye"),
     "DRUSEN/1 has two eyes, and they are two patients for you. Their scans could be dealt to train and to test."),
    cases=[(neh_table(),)],
    observe=_partition,
    passed="Folder and number: unique over the whole dataset, and no patient torn.",
    otherwise="Numbered by first appearance, your patients are {got}. Which of these rows lie in one folder on disk?",
)  # fmt: skip


def case_table() -> tuple[pd.DataFrame, dict[str, str]]:
    """Ten scans of five patients, and the hash of each file: A shares a file with B, B another with C."""
    files = ["f1", "f2", "f2", "f3", "f3", "f4", "f5", "f5", "f6", "f7"]
    table = pd.DataFrame({"scan_id": [f"scan {k}" for k in range(10)], "patient": list("AABBCCDDEE")})
    return table, dict(zip(table["scan_id"], files, strict=True))


def _first_owner(table: pd.DataFrame, hashes: dict[str, str]) -> pd.Series:
    """The first owner of each row's file."""
    return table["patient"].groupby(table["scan_id"].map(hashes)).transform("first")


check_groups = Check(
    link_patients,
    (lambda table, hashes: table["patient"], "A and B hold the same file, and are two groups for you. Use the hashes."),
    (_first_owner,
     "You move the shared scan only. The other scans of that patient show the same eye: they must follow."),
    (lambda table, hashes: _first_owner(table, hashes).groupby(table["patient"]).transform("first"),
     "A is linked to B and B to C, but C is not with A for you. When may you stop?"),
    cases=[case_table()],
    observe=_partition,
    passed="Who shares a file shares a group, and so does who shares one with them.",
    otherwise="Numbered by first appearance, your groups are {got}. Go through the files: who holds each of them?",
)  # fmt: skip


def small_cohort(scans_each: int = 4) -> pd.DataFrame:
    """A table of 33 patients in three classes, each with as many neighboring scans, in the order of a file listing."""
    rows = [
        (f"{name}/{number:02d}/{k}", f"{name}/{number:02d}", name, name)
        for name, patients in (("normal", 10), ("drusen", 11), ("cnv", 12))
        for number in range(patients)
        for k in range(scans_each)
    ]
    return pd.DataFrame(rows, columns=["scan_id", "group", "patient_class", "label"])


_LISTED = small_cohort()
_MIXED = _LISTED.sample(frac=1, random_state=1).reset_index(drop=True)  # the same, listed in another order


def _what_fails(deal: Callable) -> str | None:
    """The first condition on five folds that does not hold, "" where all do; it asks for those before it."""
    first = deal(_LISTED.copy(), 0, 5)
    if first is None:
        return None
    first = np.asarray(first)
    if first.shape != (len(_LISTED),) or set(first) != set(range(5)):
        return "one of the folds 0, 1, 2, 3 and 4 a row"
    torn = (pd.Series(first).groupby(_LISTED["group"]).nunique() > 1).sum()
    groups = _LISTED.assign(fold=first).drop_duplicates("group")
    counts = pd.crosstab(groups["patient_class"], groups["fold"])  # (classes, folds)
    mixed = dict(zip(_MIXED["group"], deal(_MIXED.copy(), 0, 5), strict=True))
    conditions = {
        "most patients whole": torn < 5,
        "all patients whole": torn == 0,
        "each class evenly dealt": (counts.max(axis=1) - counts.min(axis=1)).max() <= 1,
        "the same folds for the same seed": (np.asarray(deal(_LISTED.copy(), 0, 5)) == first).all(),
        "other folds for another seed": (np.asarray(deal(_LISTED.copy(), 1, 5)) != first).any(),
        "the same folds whatever the order of rows": (_LISTED["group"].map(mixed) == first).all(),
    }
    return next((condition for condition, holds in conditions.items() if not holds), "")


def _package_folds(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    tested = make_splits(table, seed, folds).query("role == 'test'").set_index("scan_id")["fold"]
    return table["scan_id"].map(tested).to_numpy()


def _like_cards(groups: Sequence[str], seed: int, folds: int) -> dict[str, int]:
    return {group: card % folds for card, group in enumerate(np.random.default_rng(seed).permutation(groups))}


def _as_listed(table: pd.DataFrame, seed: int, folds: int) -> pd.Series:
    """Class by class, but the patients of a class in the order in which the table lists them."""
    return table.groupby("patient_class")["group"].transform(
        lambda group: group.map(_like_cards(group.unique(), seed, folds)))  # fmt: skip


check_folds = Check(
    _package_folds,
    (lambda table, seed, folds: table["scan_id"].map(_like_cards(sorted(table["scan_id"]), seed, folds)),
     "Nearly every patient lies in several folds: you deal scans. Deal patients, and let scans follow."),
    (lambda table, seed, folds: table["group"].map(_like_cards(sorted(set(table["group"])), seed, folds)),
     "No patient is torn. But some fold tests far more patients of one class than another does."),
    (_as_listed, "The same rows in another order get other folds, as in the public code. What order do you shuffle?"),
    observe=_what_fails,
    passed="Whole patients, each class evenly dealt, and the same folds whatever the order of rows.",
    otherwise="This does not hold: {got}.",
)  # fmt: skip

_OWNERS = pd.Series(["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4", "p5", "p6"])  # p5 and p6 share a file
_AUDITED = pd.DataFrame({"scan_id": _OWNERS + "/" + _OWNERS.index.astype(str), "patient": _OWNERS,
                         "group": _OWNERS.replace("p6", "p5")})  # fmt: skip


def _leaking(table: pd.DataFrame, roles: pd.Series, key: str = "group", counted: Sequence[str] = ROLES) -> list[str]:
    several = roles[roles.isin(counted)].groupby(table[key]).nunique() > 1
    return list(several.index[several])


def _by_package(table: pd.DataFrame, roles: pd.Series) -> list[str]:
    return list(audit_leakage(table, table.assign(fold=0, role=roles), 0).query("kind == 'group'")["key"])


check_audit = Check(
    _by_package,
    (lambda table, roles: _leaking(table, roles, "patient"),
     "You ask patient by patient. p5 and p6 share an image: one group, in train and in test."),
    (lambda table, roles: _leaking(table, roles, counted=("train", "test")),
     "You compare train with test. Is there another role whose scans a network has seen?"),
    cases=[(_AUDITED, pd.Series(roles.split())) for roles in (
        "train test train validation test test unused test train test",
        "train train test test validation test train unused test test")],
    observe=lambda names: {str(name) for name in names},
    passed="Every group with two roles is named, and nobody else.",
    otherwise="In one of the splits you name {got}. Write the roles of each group side by side: who has two?",
)  # fmt: skip

_random = np.random.default_rng(0)
_PATIENT, _SLICE = np.repeat(np.arange(4), 6), np.tile(np.arange(6), 4)
# Patients differ much, their slices little.
_ALIKE = np.corrcoef(_random.standard_normal((24, 8)) + 3 * _random.standard_normal((4, 8))[_PATIENT])


def _nearest(close: Callable) -> Callable:
    """Row of the most similar scan that is not close. close: of same patient, slices apart (n, n) and the width."""
    return lambda alike, group, number, width: np.where(
        close(group[:, None] == group, number[:, None] - number, width), -np.inf, alike).argmax(axis=1)


check_buffer = Check(
    _nearest(lambda same, apart, width: same & (abs(apart) <= width)),
    (_nearest(lambda same, apart, width: abs(apart) <= width),
     "You also remove slices of other patients whose number is near. Only the same patient's leak."),
    (_nearest(lambda same, apart, width: same & (abs(apart) < width)),
     "A buffer of 0 should remove the tested scan itself, one of 1 the very next slices too. Yours begins later."),
    cases=[(alike, _PATIENT, _SLICE, width) for alike in (_ALIKE, _ALIKE - 1) for width in (0, 1, 3)],
    passed="Its own neighbors are out of reach, everybody else's stay.",
    otherwise="Your nearest rows are {got}. Take one scan: which slices of its patient are out, and which stay?",
)  # fmt: skip
