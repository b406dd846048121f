"""Folds over patients, written once to a file that teacher, student and evaluation all read; and a leakage audit.

The unit of splitting is the group: a patient, or several that share identical images. In every fold each scan has one
role: test (20 % of the groups of each class), validation (16 %) or train (64 %), as in KD-OCT (arXiv 2512.09069).
Every group is tested in exactly one fold; with the publishers' own test part, that part is tested in all of them.
Nothing here looks at an image or depends on the order of rows.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.runs import atomic_path

ROLES = ("train", "validation", "test")
UNUSED = "unused"  # role of a scan that would leak: it is in no part of this split
SPLIT_COLUMNS = ["scan_id", "group", "fold", "role"]
VALIDATION_SHARE = 0.2  # of the groups that are not tested: 16 % of all with five folds
PART = "part"  # column of the scan table: the publishers' own parts, by the names of ROLES
FEWEST_GROUPS = 2  # a class needs one group to learn from and one to be tested on


class SplitError(ValueError):
    """A table that cannot be split, or a split that does not belong to it; the message names class, file or scan."""


def make_splits(
    table: pd.DataFrame, seed: int, folds: int = 5, *,
    class_names: Sequence[str] | None = None, allow_tiny: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Split groups of patients into folds, stratified by the class of the group.

    table: scan table with scan_id, group, patient_class and label. A group's class is the one that most of its scans
    have as patient_class; on a tie, the later in CLASS_NAMES.
    folds: at most; fewer (at least 2) where a class has fewer groups, which is then said in the warnings.
    class_names: classes that must be there; None takes those of the table.
    allow_tiny: keep a class with a single group in train in every fold (and say so) instead of refusing it.

    Returns a DataFrame of SPLIT_COLUMNS, sorted by fold and scan_id, one row for each scan and fold. Its ``attrs``
    hold "folds" (the number made) and "warnings" (a list of sentences: fewer folds, a class absent from a role).
    The same for the same table and seed, whatever the order of rows.

    Raises SplitError for missing columns, repeated scan_ids, an empty class, a class with one group, and for scans
    whose patient is not known.
    """
    _check_table(table)
    unknown = int((table["patient"] == "").sum()) if "patient" in table else 0
    if unknown:
        instead = "use split='official', the publishers' own parts, and mind that a patient may lie in several of them"
        raise SplitError(
            f"{unknown} of {len(table)} scans have no patient number, so they cannot be split by patient"
            + (f"; {instead}" if PART in table else "")
        )
    held = table.groupby("label")["group"].nunique()  # how many groups show each class
    tiny = _tiny_classes(held, class_names, allow_tiny)
    made = max(min(folds, int(held.drop(labels=tiny).min())), 2)
    counts = pd.crosstab(table["group"], table["patient_class"])  # groups, sorted by name, x classes
    group_class = counts.reindex(columns=CLASS_NAMES[::-1], fill_value=0).idxmax(axis=1)  # the first of equals
    pinned = table.loc[table["label"].isin(tiny), "group"].unique()
    roles = _deal(group_class.drop(labels=pinned), seed, made) | {group: ["train"] * made for group in pinned}
    warnings = [f"class {name} has one group of patients: it stays in train in every fold" for name in tiny]
    if made < folds:
        warnings.append(f"{made} folds instead of {folds}: the smallest class has {made} groups of patients")
    return _as_split(table, [[roles[group][fold] for group in table["group"]] for fold in range(made)], warnings)


def official_splits(
    table: pd.DataFrame, seed: int, folds: int = 5, *,
    class_names: Sequence[str] | None = None, allow_tiny: bool = False, keep_shared: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Hold the publishers' test part out of every fold.

    table: as for make_splits, with the column ``part`` ("train", "validation" or "test"). Where patients are known,
    all that is not tested is dealt to folds over groups: in fold k the k-th fifth is for validation, the rest for
    training. Where they are not known, the publishers' three parts are taken as they are, as one fold.
    keep_shared: keep scans whose group also lies in the test part (or, without patients, in validation); by default
    they get the role "unused", since they show the test's patients or are its very images.

    Returns what make_splits does; the warnings also say how many scans are unused, or leak. Raises SplitError as
    make_splits does, and where the table has no test part.
    """
    _check_table(table)
    if PART not in table or not (table[PART] == "test").any():
        raise SplitError("the publishers of this dataset fixed no test part; use split='patient'")
    tested = table[PART] == "test"
    shared = table["group"].isin(table.loc[tested, "group"]) & ~tested
    pooled = ~tested & (keep_shared | ~shared)
    if not pooled.any():
        raise SplitError("every scan outside the test part shares a patient or an image with it: nothing to train on")
    if (table["patient"] == "").any():
        held = pooled & (table[PART] == "validation")
        shared |= pooled & ~held & table["group"].isin(table.loc[held, "group"])
        roles, warnings = [table[PART].where(keep_shared | ~shared, UNUSED)], []
    else:
        dealt = make_splits(table[pooled], seed, folds, class_names=class_names, allow_tiny=allow_tiny)
        warnings = [text for text in dealt.attrs["warnings"] if "scans in fold" not in text]
        # What a fold would test is its validation; the rest is trained on: the test is the publishers'.
        dealt["role"] = dealt["role"].map({"test": "validation", "validation": "train", "train": "train"})
        of_fold = dealt.pivot(index="scan_id", columns="fold", values="role").reindex(table["scan_id"])
        roles = [of_fold[fold].fillna(UNUSED).where(~tested.to_numpy(), "test") for fold in of_fold]
    count, share = int(shared.sum()), "scans share a patient or an image with the test part, and"
    if count:
        warnings.append(f"{count} {share} {'were kept: the test leaks' if keep_shared else 'are not used'}")
    return _as_split(table, roles, warnings)


def new_split(table: pd.DataFrame, seed: int, options: DataOptions, class_names: Sequence[str]) -> pd.DataFrame:
    """The split of a run: as the options ask, folds over patients, or the publishers' test part held out."""
    settings = {"class_names": class_names, "allow_tiny": True}
    if options.split == "official":
        return official_splits(table, seed, keep_shared=options.keep_shared, **settings)
    return make_splits(table, seed, **settings)


def scan_level_splits(table: pd.DataFrame, seed: int, folds: int = 5) -> pd.DataFrame:
    """The wrong way, for notebook 01: split scans, stratified by label, as if each were a patient of its own.

    All else is as in make_splits: only the unit of splitting differs, and audit_leakage names every leak.
    """
    split = make_splits(table.assign(group=table["scan_id"], patient_class=table["label"]), seed, folds)
    split["group"] = split["scan_id"].map(table.set_index("scan_id")["group"])
    return split


def _check_table(table: pd.DataFrame) -> None:
    required = ["scan_id", "group", "patient_class", "label"]
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise SplitError(f"the scan table lacks {', '.join(missing)}; required: {', '.join(required)}")
    for column in ("patient_class", "label"):
        unknown = sorted(set(table[column]) - set(CLASS_NAMES), key=str)
        if unknown:
            raise SplitError(f"unknown {column} {unknown[0]!r}; valid classes: {', '.join(CLASS_NAMES)}")
    repeated = table.loc[table["scan_id"].duplicated(), "scan_id"]
    if len(repeated):
        raise SplitError(f"{len(repeated)} repeated scan_ids, the first is {repeated.iloc[0]}")


def _tiny_classes(held: pd.Series, class_names: Sequence[str] | None, allow_tiny: bool) -> list[str]:
    """Classes with a single group, where they are allowed. held: groups in each class."""
    counts = ", ".join(f"{name} {held[name]}" for name in CLASS_NAMES if name in held)
    for name in class_names or ():
        if name not in held:
            raise SplitError(f"class {name} is empty; groups of patients in each class: {counts}")
    tiny = [name for name in CLASS_NAMES if held.get(name, FEWEST_GROUPS) < FEWEST_GROUPS]
    if tiny and not allow_tiny:
        raise SplitError(
            f"class {tiny[0]} has {held[tiny[0]]} group of patients, {FEWEST_GROUPS} are needed to train and test on "
            f"different ones; groups in each class: {counts}"
        )
    if len(tiny) == len(held):  # of an empty table too
        raise SplitError(f"no class has {FEWEST_GROUPS} groups of patients; groups in each class: {counts}")
    return tiny


def _deal(group_class: pd.Series, seed: int, folds: int) -> dict[str, list[str]]:
    """Role of each group in each fold. group_class: class by group name, sorted by name."""
    roles = {group: ["train"] * folds for group in group_class.index}
    next_fold = 0  # classes go on where the last one stopped, so that folds differ by one group at most
    for number, name in enumerate(CLASS_NAMES):
        random = np.random.default_rng([seed, number])
        members = random.permutation(group_class.index[group_class == name].to_numpy(object, copy=True))
        tested_in = (next_fold + np.arange(len(members))) % folds
        next_fold = (next_fold + len(members)) % folds
        for fold in range(folds):
            for group in members[tested_in == fold]:
                roles[group][fold] = "test"
            rest = random.permutation(members[tested_in != fold])
            # At least one group for validation where that leaves one to train on.
            n_validation = max(round(len(rest) * VALIDATION_SHARE), 1) if len(rest) >= 2 else 0
            for group in rest[:n_validation]:
                roles[group][fold] = "validation"
    return roles


def _as_split(table: pd.DataFrame, roles: Sequence[Sequence[str]], warnings: list[str]) -> pd.DataFrame:
    """SPLIT_COLUMNS, and the attrs of a split. roles: for each fold, the role of each row of the table."""
    parts = [table[["scan_id", "group"]].assign(fold=fold, role=list(role)) for fold, role in enumerate(roles)]
    split = pd.concat(parts).sort_values(["fold", "scan_id"], ignore_index=True)[SPLIT_COLUMNS]
    split.attrs = {"folds": len(roles), "warnings": warnings + _missing_classes(table, split)}
    return split


def _missing_classes(table: pd.DataFrame, split: pd.DataFrame) -> list[str]:
    """One sentence for each class and role without a scan, naming the folds; empty where all are covered."""
    labels = split["scan_id"].map(table.set_index("scan_id")["label"])
    present = set(zip(labels, split["role"], split["fold"], strict=True))
    sentences = []
    for name in (name for name in CLASS_NAMES if (labels == name).any()):
        for role in ROLES:
            absent = [str(fold) for fold in sorted(split["fold"].unique()) if (name, role, fold) not in present]
            if absent:
                sentences.append(f"class {name} has no {role} scans in fold {', '.join(absent)}")
    return sentences


def save_splits(split: pd.DataFrame, path: str | Path) -> str:
    """Write a split to a CSV file, atomically. Returns the file's SHA-256, to be carried with what is trained on it."""
    content = split[SPLIT_COLUMNS].to_csv(index=False, lineterminator="\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def load_splits(path: str | Path, table: pd.DataFrame, expected_hash: str | None = None) -> pd.DataFrame:
    """Read a split and make sure that it belongs to this scan table.

    expected_hash: what save_splits returned. ``attrs`` of the result hold "folds", "warnings" and "hash".
    Raises SplitError if the file is missing or malformed, its hash differs, its scans or groups are not the table's,
    or a scan lacks a role in some fold.
    """
    if not Path(path).is_file():
        raise SplitError(f"{path}: no such split file; make_splits and save_splits write one")
    content = Path(path).read_bytes()
    found_hash = hashlib.sha256(content).hexdigest()
    if expected_hash is not None and found_hash != expected_hash:
        raise SplitError(f"{path} is not the expected split: SHA-256 {found_hash[:12]}..., not {expected_hash[:12]}...")
    try:
        dtypes = defaultdict(lambda: str, fold=np.int64)
        split = pd.read_csv(io.BytesIO(content), dtype=dtypes, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:  # EmptyDataError and UnicodeDecodeError are ValueErrors
        raise SplitError(f"{path}: cannot be read as a split file ({error})") from error
    if list(split.columns) != SPLIT_COLUMNS:
        raise SplitError(f"{path}: columns {', '.join(split.columns)}; expected {', '.join(SPLIT_COLUMNS)}")
    groups = table.set_index("scan_id")["group"]
    known = split["scan_id"].map(groups)  # NaN for a scan that the table lacks
    folds = sorted(split["fold"].unique())
    others = set(split.loc[split["group"] != known, "scan_id"]) | (set(groups.index) - set(split["scan_id"]))
    if others:
        raise SplitError(f"{path} is the split of other scans or groups: {len(others)} differ, such as {min(others)}")
    wrong = not split["role"].isin([*ROLES, UNUSED]).all() or folds != list(range(len(folds)))
    if wrong or len(split) != len(groups) * len(folds) or split.duplicated(["fold", "scan_id"]).any():
        raise SplitError(f"{path}: not every scan has exactly one role in every fold")
    split.attrs = {"folds": len(folds), "warnings": _missing_classes(table, split), "hash": found_hash}
    return split


def roles_in(table: pd.DataFrame, split: pd.DataFrame, fold: int) -> pd.Series:
    """Role of each scan in a fold, indexed like table; NaN where it has none. Raises SplitError for an unknown fold."""
    part = split[split["fold"] == fold]
    if part.empty:
        raise SplitError(f"no fold {fold}; folds: {', '.join(map(str, sorted(split['fold'].unique())))}")
    return table["scan_id"].map(part.set_index("scan_id")["role"])


def audit_leakage(
    table: pd.DataFrame, split: pd.DataFrame, fold: int, hashes: dict[str, str] | None = None
) -> pd.DataFrame:
    """Name every patient, group and identical image that one fold has in two roles.

    hashes: scan_id -> hash of the image (ScanSet.hashes); None leaves identical images out of the audit.
    Returns a DataFrame with the columns kind ("patient", "group" or "identical image"), key (patient, group or
    hash), roles and scan_ids (tuples); empty if the fold is clean.
    Raises SplitError for an unknown fold.
    """
    role = roles_in(table, split, fold)
    kinds = {"patient": table["patient"], "group": table["group"]}
    if hashes is not None:
        kinds["identical image"] = table["scan_id"].map(hashes)
    rows = []
    for kind, keys in kinds.items():
        used = (role != UNUSED) & (keys != "")  # a patient who is not known is nobody
        several = role[used].groupby(keys[used]).nunique()
        leaking = used & keys.isin(several.index[several > 1])
        for key, members in table[leaking].groupby(keys[leaking]):
            held = tuple(name for name in ROLES if (role[members.index] == name).any())
            rows.append((kind, key, held, tuple(sorted(members["scan_id"]))))
    return pd.DataFrame(rows, columns=["kind", "key", "roles", "scan_ids"])
