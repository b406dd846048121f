"""Checks of the exercises of notebook 01: keys of patients, groups, folds, an audit, and a buffer around test slices.

Folds can be dealt in many right ways. They are therefore compared by what must hold, not number by number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kdoct_utils.data.links import link_patients
from kdoct_utils.data.splits import ROLES, audit_leakage, make_splits
from kdoct_utils.exercises.checking import Check, Mistake, applied_to

__all__ = [
    "case_table", "check_audit", "check_buffer", "check_folds", "check_groups", "check_patient_key", "neh_table",
    "small_cohort",
]  # fmt: skip


def _partition(names: Any) -> Any:
    """Which rows belong together, whatever they are called: the number of each row's group, by first appearance."""
    if names is None or names is Ellipsis:
        return names
    values = list(names.to_numpy() if hasattr(names, "to_numpy") else names)
    return pd.factorize(np.array([str(value) for value in values], dtype=object))[0]


def _grouped(*trials: tuple) -> Callable[[Callable], list]:
    """As applied_to; of each result counts only which rows belong together."""
    apply = applied_to(*trials)
    return lambda function: [_partition(names) for names in apply(function)]


# 1. Who is a patient?


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


def _joined(table: pd.DataFrame, *columns: str) -> pd.Series:
    return table[list(columns)].astype(str).agg("/".join, axis=1)


check_patient_key = Check(
    "check_patient_key",
    right=lambda table: _joined(table, "Class", "Patient ID"),
    observe=_grouped((neh_table(),)),
    mistakes=(
        Mistake("the bare number", lambda table: table["Patient ID"],
                "NORMAL/1 and CNV/1 are one patient for you. The numbers start at 1 in every class folder."),
        Mistake("the folder alone", lambda table: table["Class"],
                "All patients of a folder are one for you. Something must tell them apart."),
        Mistake("the label of the scan", lambda table: _joined(table, "Label", "Patient ID"),
                "You took the Label. It says what one B-scan shows: a patient with two labels is torn in two."),
        Mistake("each eye by itself", lambda table: _joined(table, "Class", "Patient ID", "Eye"),
                "Patient DRUSEN/1 has two eyes, and they are two patients for you. Their scans could be dealt to train "
                "and to test."),
        Mistake("each scan by itself", lambda table: _joined(table, "Class", "Patient ID", "B-scan"),
                "Every slice is a patient of its own for you. That is a split by scan."),
        Mistake("class, number and label", lambda table: _joined(table, "Class", "Patient ID", "Label"),
                "Your key is too fine: DRUSEN/1 has slices with two labels, and becomes two patients."),
    ),
    passed="Folder and number: unique over the whole dataset, and no patient torn.",
    otherwise="Numbered by first appearance, your patients are {got}; by the folders on disk they are {wanted}.",
)  # fmt: skip


# 2. One eye under two names


def case_table() -> tuple[pd.DataFrame, dict[str, str]]:
    """Ten scans of five patients, and the hash of each file: A shares a file with B, B another with C."""
    owners = ["A", "A", "B", "B", "C", "C", "D", "D", "E", "E"]
    files = ["f1", "f2", "f2", "f3", "f3", "f4", "f5", "f5", "f6", "f7"]
    table = pd.DataFrame({"scan_id": [f"scan {k}" for k in range(len(owners))], "patient": owners})
    return table, dict(zip(table["scan_id"], files, strict=True))


def _first_owner(table: pd.DataFrame, hashes: dict[str, str]) -> pd.Series:
    """Links a patient to the first owner of one of its files, and stops there."""
    image = table["scan_id"].map(hashes)
    first = table["patient"].groupby(image).transform("first")
    return first.groupby(table["patient"]).transform("first")


def _rows_only(table: pd.DataFrame, hashes: dict[str, str]) -> pd.Series:
    """Moves the shared scans to their first owner, and leaves that patient's other scans behind."""
    return table["patient"].groupby(table["scan_id"].map(hashes)).transform("first")


check_groups = Check(
    "check_groups",
    right=link_patients,
    observe=_grouped(case_table()),
    mistakes=(
        Mistake("patients as they are called", lambda table, hashes: table["patient"],
                "A and B hold the same file, and are two groups for you. Use the hashes."),
        Mistake("a group for each file", lambda table, hashes: table["scan_id"].map(hashes),
                "You group by file. A patient's different files belong together as well."),
        Mistake("only the shared scans move", _rows_only,
                "You move the shared scan only. The other scans of that patient show the same eye: they must follow."),
        Mistake("one step", _first_owner,
                "A is linked to B and B to C, but C is not with A for you. Go on until nothing changes any more."),
        Mistake("all in one", lambda table, hashes: pd.Series("all", index=table.index),
                "Everybody is in one group for you. D shares files with nobody else."),
    ),
    passed="Who shares a file shares a group, and so does who shares one with them.",
    otherwise="Numbered by first appearance, your groups are {got}; the files say {wanted}.",
)  # fmt: skip


# 3. Folds over patients


def small_cohort(scans_each: int = 4) -> pd.DataFrame:
    """A table of 33 patients in three classes, each with as many neighboring scans, in the order of a file listing."""
    rows = [
        (f"{name}/{number:02d}/{k}", f"{name}/{number:02d}", name, name)
        for name, patients in (("normal", 10), ("drusen", 11), ("cnv", 12))
        for number in range(patients)
        for k in range(scans_each)
    ]
    return pd.DataFrame(rows, columns=["scan_id", "group", "patient_class", "label"])


FOLDS = 5
LISTED = small_cohort()
MIXED = LISTED.sample(frac=1, random_state=1).reset_index(drop=True)  # the same, listed in another order


def _package_folds(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    split = make_splits(table, seed, folds)
    tested = split[split["role"] == "test"].set_index("scan_id")["fold"]
    return table["scan_id"].map(tested).to_numpy()


def _spread(table: pd.DataFrame, fold: np.ndarray, unit: str) -> int:
    """By how many units of one class the folds differ at most."""
    rows = table.assign(fold=fold).drop_duplicates(["fold", unit])
    counts = pd.crosstab(rows["patient_class"], rows["fold"]).reindex(columns=range(FOLDS), fill_value=0)
    return int((counts.max(axis=1) - counts.min(axis=1)).max())


def _torn(table: pd.DataFrame, fold: np.ndarray) -> str:
    torn = int((pd.Series(fold).groupby(table["group"].to_numpy()).nunique() > 1).sum())
    return "none" if torn == 0 else "a few" if torn < FOLDS else "many"


def _by_group(table: pd.DataFrame, fold: np.ndarray) -> dict[str, int]:
    return dict(zip(table["group"], (int(k) for k in fold), strict=True))


def _fold_facts(deal: Callable) -> Any:
    """What holds of the folds, over three seeds: the first thing that is wrong ends the list."""
    seeds = range(3)
    made = [deal(LISTED.copy(), seed, FOLDS) for seed in seeds]
    if any(fold is None or fold is Ellipsis for fold in made):
        return ...
    made = [np.asarray(fold) for fold in made]
    if any(fold.shape != (len(LISTED),) for fold in made):
        return {"one fold a row": False}
    facts: dict[str, Any] = {"one fold a row": True, "folds": sorted({int(k) for fold in made for k in fold})}
    if facts["folds"] != list(range(FOLDS)):
        return facts
    facts["torn patients"] = max((_torn(LISTED, fold) for fold in made), key=["none", "a few", "many"].index)
    if facts["torn patients"] != "none":
        facts["scans of a class evenly dealt"] = all(_spread(LISTED, fold, "scan_id") <= 1 for fold in made)
        return facts
    again, mixed = (np.asarray(deal(table.copy(), 0, FOLDS)) for table in (LISTED, MIXED))
    for fact, holds in (
        ("patients of a class evenly dealt", all(_spread(LISTED, fold, "group") <= 1 for fold in made)),
        ("the same for a seed", (again == made[0]).all()),
        ("another for another seed", not all((fold == made[0]).all() for fold in made)),
        ("whatever the order of rows", _by_group(MIXED, mixed) == _by_group(LISTED, made[0])),
    ):
        facts[fact] = bool(holds)
        if not holds:
            break
    return facts


def _cut(rows: np.ndarray, folds: int) -> np.ndarray:
    """Equal runs of rows, in the order given."""
    fold = np.empty(len(rows), int)
    for k, part in enumerate(np.array_split(rows, folds)):
        fold[part] = k
    return fold


def _scans_shuffled(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    return _cut(np.random.default_rng(seed).permutation(len(table)), folds)


def _scans_stratified(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    fold = np.empty(len(table), int)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(table, table["label"])
    for k, (_, test) in enumerate(parts):
        fold[test] = k
    return fold


def _groups_shuffled_scans_cut(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    """Shuffles the groups, lines up their scans, and cuts the line in equal parts: through patients."""
    order = np.random.default_rng(seed).permutation(np.unique(table["group"].to_numpy(object)))
    rows = np.concatenate([np.flatnonzero(table["group"] == group) for group in order])
    return _cut(rows, folds)


def _groups_not_stratified(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(np.unique(table["group"].to_numpy(object)))
    fold_of = {group: k % folds for k, group in enumerate(order)}
    return table["group"].map(fold_of).to_numpy()


def _no_seed(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    fold_of = {group: k % folds for k, group in enumerate(np.unique(table["group"].to_numpy(object)))}
    return table["group"].map(fold_of).to_numpy()


def _order_of_appearance(table: pd.DataFrame, seed: int, folds: int) -> np.ndarray:
    """Stratified over groups, but dealt in the order in which the table lists them."""
    random, fold_of, start = np.random.default_rng(seed), {}, 0
    for _, members in table.groupby("patient_class"):
        order = random.permutation(members["group"].unique())
        fold_of |= {group: (start + k) % folds for k, group in enumerate(order)}
        start += len(order)
    return table["group"].map(fold_of).to_numpy()


check_folds = Check(
    "check_folds",
    right=_package_folds,
    observe=_fold_facts,
    mistakes=(
        Mistake("split by scan", _scans_shuffled,
                "Nearly every patient lies in several folds: you deal scans. Deal patients, and let scans follow."),
        Mistake("stratified, not grouped", _scans_stratified,
                "The scans of each class are dealt evenly, but nearly every patient lies in several folds. Evenly "
                "dealt is not kept apart: which column says what belongs together?"),
        Mistake("shuffled groups, cut scans", _groups_shuffled_scans_cut,
                "Most patients are whole, a few are torn: those where you cut. Cut a list of patients, not of scans."),
        Mistake("grouped, not stratified", _groups_not_stratified,
                "No patient is torn. But some fold tests far more patients of one class than another does. Deal each "
                "class by itself."),
        Mistake("no seed", _no_seed,
                "No patient is torn, but every seed gives the same folds. Where does your function use the seed?"),
        Mistake("seed of the clock", lambda table, seed, folds: _package_folds(table, np.random.randint(10**6), folds),
                "No patient is torn, but the same seed gives other folds each time. Draw from its own generator."),
        Mistake("order of the rows", _order_of_appearance,
                "No patient is torn. But the same rows in another order get other folds: this is how teacher and "
                "student of the public code came to differ. In which order are patients when you shuffle them?"),
    ),
    passed="Whole patients, each class evenly dealt, and the same folds whatever the order of rows.",
    otherwise="What holds of your folds: {got}. It should be: {wanted}.",
)  # fmt: skip


# 4. An audit


def _audited(roles: dict[str, str]) -> tuple[pd.DataFrame, pd.Series]:
    """Scans of six patients in five groups (p5 and p6 share a file), each with a role."""
    owners = ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4", "p5", "p6"]
    table = pd.DataFrame({"scan_id": [f"{name}/{k}" for k, name in enumerate(owners)], "patient": owners})
    table["group"] = table["patient"].replace("p6", "p5")
    return table, table["scan_id"].map(roles)


def _roles(*names: str) -> dict[str, str]:
    owners = ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4", "p5", "p6"]
    return {f"{owner}/{k}": role for k, (owner, role) in enumerate(zip(owners, names, strict=True))}


AUDITED = (
    _audited(_roles("train", "test", "train", "validation", "test", "test", "unused", "test", "train", "test")),
    _audited(_roles("train", "train", "test", "test", "validation", "test", "train", "unused", "test", "test")),
)


def _leaking(table: pd.DataFrame, roles: pd.Series, key: str = "group", counted: tuple[str, ...] = ROLES) -> list[str]:
    kept = roles.isin(counted)
    several = roles[kept].groupby(table.loc[kept, key]).nunique()
    return sorted(several.index[several > 1])


def _by_package(table: pd.DataFrame, roles: pd.Series) -> list[str]:
    frame = table.assign(fold=0, role=roles)
    found = audit_leakage(table, frame, 0)
    return sorted(found.loc[found["kind"] == "group", "key"])


def _audit_facts(function: Callable) -> list:
    found = applied_to(*AUDITED)(function)
    return [names if names is None or names is Ellipsis else sorted({str(name) for name in names}) for names in found]


check_audit = Check(
    "check_audit",
    right=_by_package,
    observe=_audit_facts,
    mistakes=(
        Mistake("scans compared", lambda table, roles: _leaking(table, roles, "scan_id"),
                "You find nothing in any split. No scan ever has two roles: what is it that may?"),
        Mistake("by patient", lambda table, roles: _leaking(table, roles, "patient"),
                "You ask patient by patient. p5 and p6 share an image: one group, in train and in test."),
        Mistake("train and test only",
                lambda table, roles: _leaking(table, roles, counted=("train", "test")),
                "You compare train with test. Validation leaks as well: count all three roles."),
        Mistake("unused counted",
                lambda table, roles: _leaking(table, roles, counted=(*ROLES, "unused")),
                "You name a group whose other scans are `unused`. What is in no part cannot leak."),
        Mistake("patients unused counted",
                lambda table, roles: _leaking(table, roles, "patient", (*ROLES, "unused")),
                "Two things: `unused` is no role that could leak, and patients that share an image are one group."),
    ),
    passed="Every group with two roles is named, and nobody else.",
    otherwise="In one of the splits you name {got}. The groups with two or more roles are {wanted}.",
)  # fmt: skip


# 5. A buffer around the test slice

_random = np.random.default_rng(0)
_N, _SLICES = 24, 6
FEATURES = _random.standard_normal((_N, 8))
OWNER = np.repeat([f"p{k}" for k in range(_N // _SLICES)], _SLICES)
SLICE = np.tile(np.arange(_SLICES), _N // _SLICES)
FEATURES += 3 * _random.standard_normal((_N // _SLICES, 8))[np.arange(_N) // _SLICES]  # patients differ, slices little
ALIKE = np.corrcoef(FEATURES)
ALIKE_NEGATIVE = ALIKE - 1  # every entry at most 0: whoever masks with 0 keeps what he wanted to mask


def _nearest(alike: np.ndarray, group: np.ndarray, number: np.ndarray, width: int) -> np.ndarray:
    """Row of the most similar scan that is not within `width` slices of the same patient. alike: (n, n)."""
    close = (group[:, None] == group) & (np.abs(number[:, None] - number) <= width)
    return np.where(close, -np.inf, alike).argmax(axis=1)


def _buffer_mistake(kind: str) -> Callable:
    def answer(alike: np.ndarray, group: np.ndarray, number: np.ndarray, width: int) -> np.ndarray:
        same, apart = group[:, None] == group, number[:, None] - number
        close = {
            "any patient": np.abs(apart) <= width,
            "too narrow": same & ((np.abs(apart) < width) | (apart == 0)),
            "one side": same & (apart <= width) & (apart >= 0),
            "all slices": same,
            "masked with 0": same & (np.abs(apart) <= width),
            "itself": same & (np.abs(apart) <= width) & (apart != 0),
        }[kind]
        return np.where(close, 0.0 if kind == "masked with 0" else -np.inf, alike).argmax(axis=1)

    return answer


check_buffer = Check(
    "check_buffer",
    right=_nearest,
    observe=applied_to(*((alike, OWNER, SLICE, width) for alike in (ALIKE, ALIKE_NEGATIVE) for width in (0, 1, 3))),
    mistakes=(
        Mistake("itself", _buffer_mistake("itself"),
                "Some scans are their own nearest neighbor. The tested scan is never in training."),
        Mistake("other patients too", _buffer_mistake("any patient"),
                "You also remove slices of other patients whose number is near. Only the same patient's leak."),
        Mistake("too narrow", _buffer_mistake("too narrow"),
                "A buffer of 1 should remove the very next slices. Yours begins one slice later."),
        Mistake("one side", _buffer_mistake("one side"),
                "You remove neighbors on one side only. A slice has two."),
        Mistake("the whole patient", _buffer_mistake("all slices"),
                "You remove all slices of the patient, whatever the width. Slices further away than that stay."),
        Mistake("masked with 0", _buffer_mistake("masked with 0"),
                "Right on some inputs. What if all similarities are below zero: which value can never be the largest?"),
    ),
    passed="Its own neighbors are out of reach, everybody else's stay.",
    otherwise="Your nearest rows are {got}; with the buffer they are {wanted}.",
)  # fmt: skip
