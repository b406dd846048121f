"""Folds over patients, written once to a file that teacher, student and evaluation all read; and a leakage audit.

The unit of splitting is the group: a patient, or several that share identical images. In every fold each scan has one
role: test (20 % of the groups of each class), validation (16 %) or train (64 %), as in KD-OCT (arXiv 2512.09069).
Every group is tested in exactly one fold; with the publishers' own test part, that part is tested in all of them.
Nothing here looks at an image or depends on the order of rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

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
    table: pd.DataFrame,
    seed: int,
    folds: int = 5,
    *,
    class_names: Sequence[str] | None = None,
    allow_tiny: bool = False,
) -> pd.DataFrame:
    """Split groups of patients into folds, stratified by the class of the group.

    table: scan table with scan_id, group, patient_class and label. A group's class is the one that most of its scans
    have as patient_class; on a tie, the later in CLASS_NAMES.
    folds: at most; fewer (at least 2) where a class has fewer groups, which is then said in the warnings.
    class_names: classes that must be there; None takes those of the table.
    allow_tiny: keep a class with a single group in train in every fold (and say so) instead of refusing it.

    Returns a DataFrame of SPLIT_COLUMNS, sorted by fold and scan_id, one row for each scan and fold. Its ``attrs``
    hold "folds" (the number made) and "warnings" (a list of sentences: fewer folds, a class absent from a role).
    The same for the same table and seed, whatever the order of rows.

    Raises SplitError for missing columns, repeated scan_ids, an empty class, a class with one group, fewer than two
    folds, and for scans whose patient is not known.
    """
    _check_table(table, folds)
    _check_patients(table)
    groups = _group_classes(table)  # class of each group, sorted by name
    held = table.groupby("label")["group"].nunique()  # how many groups show each class
    tiny = _tiny_classes(held, class_names, allow_tiny)
    made = max(min(folds, int(held.drop(labels=tiny).min())), 2)
    pinned = sorted(set(table.loc[table["label"].isin(tiny), "group"]))
    roles = _deal(groups.drop(labels=pinned), seed, made) | {group: ["train"] * made for group in pinned}
    frame = _long_format(table, table["group"], roles, made)
    warnings = [f"class {name} has one group of patients: it stays in train in every fold" for name in tiny]
    if made < folds:
        warnings.append(f"{made} folds instead of {folds}: the smallest class has {made} groups of patients")
    frame.attrs = {"folds": made, "warnings": warnings + missing_classes(table, frame)}
    return frame


def official_splits(
    table: pd.DataFrame,
    seed: int,
    folds: int = 5,
    *,
    class_names: Sequence[str] | None = None,
    allow_tiny: bool = False,
    keep_shared: bool = False,
) -> pd.DataFrame:
    """Hold the publishers' test part out of every fold.

    table: as for make_splits, with the column ``part`` ("train", "validation" or "test"). Where patients are known,
    all that is not tested is dealt to folds over groups: in fold k the k-th fifth is for validation, the rest for
    training. Where they are not known, the publishers' three parts are taken as they are, as one fold.
    keep_shared: keep scans whose group also lies in the test part (or, without patients, in validation); by default
    they get the role "unused", since they show the test's patients or are its very images.

    Returns what make_splits does; the warnings also say how many scans are unused, or leak. Raises SplitError as
    make_splits does, and where the table has no test part.
    """
    _check_table(table, folds)
    if PART not in table or not (table[PART] == "test").any():
        raise SplitError("the publishers of this dataset fixed no test part; use split='patient'")
    tested = table[PART] == "test"
    shared = table["group"].isin(set(table.loc[tested, "group"])) & ~tested
    pool = table[~tested & (keep_shared | ~shared)]
    if pool.empty:
        raise SplitError("every scan outside the test part shares a patient or an image with it: nothing to train on")
    if (table["patient"] == "").any():
        held = pool[PART] == "validation"
        shared |= (pool["group"].isin(set(pool.loc[held, "group"])) & ~held).reindex(table.index, fill_value=False)
        role = table[PART].where(keep_shared | ~shared, UNUSED)
        frame, warnings = _with_roles(table, [role]), []
    else:
        dealt = make_splits(pool, seed, folds, class_names=class_names, allow_tiny=allow_tiny)
        warnings = [text for text in dealt.attrs["warnings"] if "scans in fold" not in text]
        roles = []
        for fold in range(dealt.attrs["folds"]):
            of_scan = dealt[dealt["fold"] == fold].set_index("scan_id")["role"]
            # What a fold would test is its validation; the rest is trained on: the test is the publishers'.
            of_scan = of_scan.map({"test": "validation", "validation": "train", "train": "train"})
            roles.append(table["scan_id"].map(of_scan).where(~tested, "test").fillna(UNUSED))
        frame = _with_roles(table, roles)
    count = int(shared.sum())
    if count and keep_shared:
        warnings.append(f"{count} scans share a patient or an image with the test part, and were kept: the test leaks")
    elif count:
        warnings.append(f"{count} scans share a patient or an image with the test part, and are not used")
    frame.attrs = {"folds": int(frame["fold"].nunique()), "warnings": warnings + missing_classes(table, frame)}
    return frame


def _with_roles(table: pd.DataFrame, roles: Sequence[pd.Series]) -> pd.DataFrame:
    """SPLIT_COLUMNS from one series of roles (in the order of the table) for each fold."""
    parts = [table[["scan_id", "group"]].assign(fold=fold, role=role) for fold, role in enumerate(roles)]
    return pd.concat(parts).sort_values(["fold", "scan_id"], ignore_index=True)[SPLIT_COLUMNS]


def scan_level_splits(table: pd.DataFrame, seed: int, folds: int = 5) -> pd.DataFrame:
    """The wrong way, for notebook 01: split scans as if each were a patient of its own.

    The same shares and format as make_splits, stratified by label, so that only the unit of splitting differs.
    Neighboring slices of a patient land in train and test; audit_leakage names every one. Raises as make_splits.
    """
    alone = table.assign(group=table["scan_id"], patient_class=table["label"])
    frame = make_splits(alone, seed, folds)
    attrs = frame.attrs
    frame["group"] = frame["scan_id"].map(table.set_index("scan_id")["group"])
    frame.attrs = attrs
    return frame


def _check_table(table: pd.DataFrame, folds: int) -> None:
    required = ["scan_id", "group", "patient_class", "label"]
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise SplitError(f"the scan table lacks {', '.join(missing)}; required: {', '.join(required)}")
    if folds < 2:
        raise SplitError(f"folds must be at least 2, not {folds}")
    if table.empty:
        raise SplitError("the scan table is empty")
    for column in ("patient_class", "label"):
        unknown = sorted(set(table[column]) - set(CLASS_NAMES), key=str)
        if unknown:
            raise SplitError(f"unknown {column} {unknown[0]!r}; valid classes: {', '.join(CLASS_NAMES)}")
    repeated = table.loc[table["scan_id"].duplicated(), "scan_id"]
    if len(repeated):
        raise SplitError(f"{len(repeated)} repeated scan_ids, the first is {repeated.iloc[0]}")
    if table["group"].isna().any():
        raise SplitError(f"scan {table.loc[table['group'].isna(), 'scan_id'].iloc[0]} has no group")


def _check_patients(table: pd.DataFrame) -> None:
    unknown = int((table["patient"] == "").sum()) if "patient" in table else 0
    if unknown:
        official = ""
        if PART in table:
            official = (
                "; use split='official', the publishers' own parts, and mind that a patient may lie in several of them"
            )
        raise SplitError(
            f"{unknown} of {len(table)} scans have no patient number, so they cannot be split by patient{official}"
        )


def _group_classes(table: pd.DataFrame) -> pd.Series:
    """Class of each group, indexed by group in sorted order."""
    counts = pd.crosstab(table["group"], table["patient_class"])
    counts = counts.reindex(columns=CLASS_NAMES[::-1], fill_value=0)  # idxmax takes the first of equals
    return counts.idxmax(axis=1).sort_index()


def _tiny_classes(held: pd.Series, class_names: Sequence[str] | None, allow_tiny: bool) -> list[str]:
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
    if len(tiny) == len(held):
        raise SplitError(f"no class has {FEWEST_GROUPS} groups of patients; groups in each class: {counts}")
    return tiny


def _deal(groups: pd.Series, seed: int, folds: int) -> dict[str, list[str]]:
    """Role of each group in each fold. groups: class by group name, sorted by name."""
    roles: dict[str, list[str]] = {}
    next_fold = 0  # classes go on where the last one stopped, so that folds differ by one group at most
    for name in CLASS_NAMES:
        random = np.random.default_rng([seed, CLASS_NAMES.index(name)])
        members = random.permutation(groups.index[groups == name].to_numpy(object, copy=True))
        tested_in = (next_fold + np.arange(len(members))) % folds
        next_fold = (next_fold + len(members)) % folds
        for group in members:
            roles[group] = [""] * folds
        for fold in range(folds):
            rest = random.permutation(members[tested_in != fold])
            for group in members[tested_in == fold]:
                roles[group][fold] = "test"
            n_validation = _validation_count(len(rest))
            for position, group in enumerate(rest):
                roles[group][fold] = "validation" if position < n_validation else "train"
    return roles


def _validation_count(rest: int) -> int:
    """A fifth of what is not tested; at least one group where that leaves one to train on."""
    return max(round(rest * VALIDATION_SHARE), 1) if rest >= 2 else 0


def _long_format(table: pd.DataFrame, units: pd.Series, roles: dict[str, list[str]], folds: int) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "scan_id": table["scan_id"].to_numpy(),
                "group": table["group"].to_numpy(),
                "fold": fold,
                "role": [roles[unit][fold] for unit in units],
            }
        )
        for fold in range(folds)
    ]
    return pd.concat(parts).sort_values(["fold", "scan_id"], ignore_index=True)[SPLIT_COLUMNS]


def missing_classes(table: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """One sentence for each class and role without a scan, naming the folds; empty where all are covered."""
    labels = frame["scan_id"].map(table.set_index("scan_id")["label"])
    present = set(zip(labels, frame["role"], frame["fold"], strict=True))
    folds = sorted(frame["fold"].unique())
    sentences = []
    for name in (name for name in CLASS_NAMES if (labels == name).any()):
        for role in ROLES:
            absent = [str(fold) for fold in folds if (name, role, fold) not in present]
            if absent:
                sentences.append(f"class {name} has no {role} scans in fold {', '.join(absent)}")
    return sentences


def save_splits(frame: pd.DataFrame, path: str | Path) -> str:
    """Write a split to a CSV file, atomically. Returns the file's SHA-256, to be carried with what is trained on it."""
    content = frame[SPLIT_COLUMNS].to_csv(index=False, lineterminator="\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def load_splits(path: str | Path, table: pd.DataFrame, expected_hash: str | None = None) -> pd.DataFrame:
    """Read a split and make sure that it belongs to this scan table.

    expected_hash: what save_splits returned. ``attrs`` of the result hold "folds", "warnings" and "hash".
    Raises SplitError if the file is missing or malformed, its hash differs, its scans or groups are not the table's,
    or a scan lacks a role in some fold.
    """
    path = Path(path)
    if not path.is_file():
        raise SplitError(f"{path}: no such split file; make_splits and save_splits write one")
    content = path.read_bytes()
    found_hash = hashlib.sha256(content).hexdigest()
    if expected_hash is not None and found_hash != expected_hash:
        raise SplitError(f"{path} is not the expected split: SHA-256 {found_hash[:12]}..., not {expected_hash[:12]}...")
    frame = _parse_splits(path, content)
    _check_belongs(path, frame, table)
    folds = int(frame["fold"].nunique())
    frame.attrs = {"folds": folds, "warnings": missing_classes(table, frame), "hash": found_hash}
    return frame


def _parse_splits(path: Path, content: bytes) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        if list(frame.columns) != SPLIT_COLUMNS:
            raise SplitError(f"{path}: columns {', '.join(frame.columns)}; expected {', '.join(SPLIT_COLUMNS)}")
        frame["fold"] = frame["fold"].astype(np.int64)
    except SplitError:
        raise
    except (ValueError, pd.errors.ParserError) as error:  # EmptyDataError and UnicodeDecodeError are ValueErrors
        raise SplitError(f"{path}: cannot be read as a split file ({error})") from error
    wrong = sorted(set(frame["role"]) - {*ROLES, UNUSED})
    if wrong:
        raise SplitError(f"{path}: unknown role {wrong[0]!r}; valid roles: {', '.join([*ROLES, UNUSED])}")
    return frame


def _check_belongs(path: Path, frame: pd.DataFrame, table: pd.DataFrame) -> None:
    groups = table.set_index("scan_id")["group"]
    for what, names in (
        ("the scan table lacks", set(frame["scan_id"]) - set(groups.index)),
        ("the file lacks", set(groups.index) - set(frame["scan_id"])),
    ):
        if names:
            raise SplitError(f"{path} is the split of other scans: {what} {len(names)} of them, such as {min(names)}")
    moved = set(frame.loc[frame["group"] != frame["scan_id"].map(groups), "scan_id"])
    if moved:
        raise SplitError(f"{path}: {len(moved)} scans have another group than in the scan table, such as {min(moved)}")
    times = frame.groupby("fold")["scan_id"].agg(["size", "nunique"])
    if (times["size"] != len(groups)).any() or (times["nunique"] != len(groups)).any():
        raise SplitError(f"{path}: not every scan has exactly one role in every fold")
    if list(times.index) != list(range(len(times))):
        raise SplitError(f"{path}: folds are {', '.join(map(str, times.index))}; expected 0 to {len(times) - 1}")


def audit_leakage(
    table: pd.DataFrame, frame: pd.DataFrame, fold: int, hashes: dict[str, str] | None = None
) -> pd.DataFrame:
    """Name every patient, group and identical image that one fold has in two roles.

    hashes: scan_id -> hash of the image (ScanSet.hashes); None leaves identical images out of the audit.
    Returns a DataFrame with the columns kind ("patient", "group" or "identical image"), key (patient, group or
    hash), roles and scan_ids (tuples); empty if the fold is clean.
    Raises SplitError for an unknown fold and for scans without a role or a hash.
    """
    part = frame[frame["fold"] == fold]
    if part.empty:
        raise SplitError(f"no fold {fold}; folds: {', '.join(map(str, sorted(frame['fold'].unique())))}")
    scans = table[["scan_id", "patient", "group"]].assign(role=table["scan_id"].map(part.set_index("scan_id")["role"]))
    kinds = {"patient": scans["patient"], "group": scans["group"]}
    if hashes is not None:
        kinds["identical image"] = scans["scan_id"].map(hashes)
    rows = []
    for kind, keys in kinds.items():
        unknown = scans.loc[scans["role"].isna() | keys.isna(), "scan_id"]
        if len(unknown):
            raise SplitError(f"cannot audit {len(unknown)} scans without role or {kind}, such as {min(unknown)}")
        used = (scans["role"] != UNUSED) & (keys != "")  # a patient who is not known is nobody
        roles_of_key = scans[used].groupby(keys[used])["role"].transform("nunique").reindex(scans.index, fill_value=0)
        leaking = roles_of_key > 1
        for key, members in scans[leaking].groupby(keys[leaking]):
            roles = tuple(role for role in ROLES if (members["role"] == role).any())
            rows.append((kind, key, roles, tuple(sorted(members["scan_id"]))))
    return pd.DataFrame(rows, columns=["kind", "key", "roles", "scan_ids"])
