"""What in a dataset would spoil a result: patients and images on both sides of a split, and shortcuts.

``audit`` runs everything on a ScanSet, after the reader's filters; ``kdoct data`` and notebook 01 show what it finds.
A shortcut is what a network could learn instead of the disease, such as the file format or the size of the picture:
DeGrave et al. (Nat. Mach. Intell. 3:610, 2021) show how far that goes in chest radiographs.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from kdoct_utils.data.duplicates import identical_images, near_identical
from kdoct_utils.data.scans import ScanSet
from kdoct_utils.data.splits import PART, audit_leakage
from kdoct_utils.judge.metrics import paired_difference
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.runs import plain

# Property -> columns of ScanSet.measured that say it.
PROPERTIES = {
    "file format": ["format", "color"],
    "picture size": ["width", "height"],
    "white border": ["border"],
    "scale bar": ["scale_bar"],
    "black canvas": ["canvas"],
    "mean brightness": ["brightness"],
}
TOGETHER = "all together"
MAY_BE_DISEASE = ("mean brightness",)  # of the properties: the disease itself changes them too
SHORTCUT_COLUMNS = ["property", "balanced_accuracy", "low", "high", "chance", "verdict"]
PREDICTS, NO_SIGN = "predicts the class", "no sign"
TOO_FEW, NO_PATIENTS = "cannot be told: too few patients", "cannot be told: no patient numbers"

FOLDS, RESAMPLES = 5, 1000
FEWEST_PATIENTS = 5  # of each class; with fewer, an interval that resamples patients says nothing
MATTERS = 0.1  # a gain over guessing that would matter; an interval that reaches beyond it does not exclude it
TREE_DEPTH = 4  # at most 16 cases: enough for "small, or wide and bright", too few to know every patient by heart
SMALLEST_LEAF = 0.005  # of the scans

PATIENT_COLUMNS = ["kind", "where", "key", "lies_in", "n", "scan_ids"]


@dataclass(frozen=True)
class AuditReport:
    """What ``audit`` found; the functions of this module say what each table holds.

    patients: of same_patient. identical, near: of identical_images and near_identical. shortcuts: of shortcuts.
    findings: every result as a sentence with its counts, also that nothing was found.
    """

    patients: pd.DataFrame
    identical: pd.DataFrame
    near: pd.DataFrame
    shortcuts: pd.DataFrame
    findings: list[str]

    def __str__(self) -> str:
        lines = [*(f"- {finding}" for finding in self.findings), ""]
        lines.append(f"{'property':<16} balanced accuracy      guessing  verdict")
        for row in self.shortcuts.itertuples():
            score = "-" if np.isnan(row.low) else f"{row.balanced_accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]"
            lines.append(f"{row.property:<16} {score:<22} {row.chance:<9.2f} {row.verdict}")
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """Plain JSON types. Scans are named by scan_id."""
        tables = {"same_patient": self.patients, "identical_images": self.identical, "near_identical": self.near,
                  "shortcuts": self.shortcuts}  # fmt: skip
        return plain({"findings": self.findings} | {name: of.to_dict("records") for name, of in tables.items()})


def audit(scans: ScanSet, split: pd.DataFrame | None = None, fold: int = 0, progress: bool = True) -> AuditReport:
    """Run every audit. split: of splits.make_splits or official_splits, whose fold says the roles; None leaves them
    out. Every image is decoded once and measured, unless the cache holds its measures.

    Raises ScanError for an image that cannot be read, ValueError for a split of other scans.
    """
    table = scans.table
    measured = scans.measured(progress=progress)
    patients = same_patient(table, split, fold)
    identical = identical_images(table, scans.hashes, split, fold)
    near = near_identical(table, scans.thumbnails(progress=progress), scans.hashes, split, fold, progress)
    scores = shortcuts(table, measured)
    findings = [
        *_patient_findings(patients, table, split, fold),
        _copy_finding("byte-identical", identical),
        _copy_finding("near-identical", near),
        *_shortcut_findings(scores),
    ]
    return AuditReport(patients, identical, near, scores, findings)


def same_patient(table: pd.DataFrame, split: pd.DataFrame | None = None, fold: int = 0) -> pd.DataFrame:
    """Patients, and groups of linked patients, that lie in two roles of a fold or in two of the publishers' parts.

    table: scan table, with the column part where the publishers fixed parts. split: None leaves roles out.
    Returns a DataFrame with the columns kind ("patient", or "group" for one of several patients), where ("role" or
    "part"), key (of the patient or group), lies_in (tuple of roles or parts), n (scans) and scan_ids (tuple).
    Unknown patients are nobody. Raises SplitError as splits.audit_leakage does.
    """
    known = table[table["patient"] != ""]
    splits = {} if split is None else {"role": (split, fold)}
    if PART in table and len(known):  # the parts are a split too, with the publishers' names for the roles
        splits["part"] = (known.assign(fold=0, role=known[PART]), 0)
    found = [audit_leakage(known, *one).assign(where=where) for where, one in splits.items()]
    rows = pd.concat([pd.DataFrame(columns=["kind", "key", "roles", "scan_ids", "where"]), *found], ignore_index=True)
    several = rows["key"].map(known.groupby("group")["patient"].nunique()) > 1
    rows = rows[(rows["kind"] == "patient") | several].rename(columns={"roles": "lies_in"})
    return rows.assign(n=rows["scan_ids"].map(len).astype(int))[PATIENT_COLUMNS].reset_index(drop=True)


def shortcuts(table: pd.DataFrame, measured: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How well each of PROPERTIES alone, and all together, predict the class of scans of unseen patients.

    table: scan table with scan_id, patient, group and label. measured: indexed by scan_id, with the columns that
    PROPERTIES names (ScanSet.measured).

    A decision tree (depth TREE_DEPTH, classes weighted to count the same) learns on the scans of some patients and
    predicts those of the others, in FOLDS folds over groups of patients. The score is the balanced accuracy; where
    the tree is undecided between classes, each counts in equal parts, so that a property that is the same in all scans
    gets exactly what guessing gets, 1 / classes. The interval (95 %) resamples groups of patients.

    Returns a DataFrame of SHORTCUT_COLUMNS, one row a property. verdict: PREDICTS if the whole interval is above
    chance; NO_SIGN if it reaches no more than MATTERS above it; else, and where a class has fewer than FEWEST_PATIENTS
    groups, TOO_FEW; without patient numbers NO_PATIENTS. The same for a seed, whatever the order of rows.
    Raises KeyError if a scan was not measured, ValueError if there are fewer than two classes.
    """
    table = table.sort_values("scan_id", ignore_index=True)
    measured = measured.loc[table["scan_id"]].reset_index(drop=True)
    classes = [name for name in CLASS_NAMES if (table["label"] == name).any()]
    if len(classes) < 2:
        raise ValueError(f"two classes are needed, found {', '.join(classes) or 'none'}")
    chance, fewest = 1 / len(classes), int(table.groupby("label")["group"].nunique().min())
    rows = []
    for name, columns in {**PROPERTIES, TOGETHER: sum(PROPERTIES.values(), [])}.items():
        values, score = measured[columns], (np.nan, np.nan, np.nan)  # balanced accuracy, low, high
        if (values.nunique(dropna=False) <= 1).all():
            score, verdict = (chance, chance, chance), NO_SIGN
        elif (table["patient"] == "").any():
            verdict = NO_PATIENTS
        elif fewest < FEWEST_PATIENTS:
            verdict = TOO_FEW
        else:
            right = _right_out_of_fold(values, table["label"], table["group"], min(FOLDS, fewest), seed)
            group, label = table["group"].to_numpy(object), table["label"].to_numpy(object)
            found = paired_difference(right, np.zeros(len(right)), group, RESAMPLES, seed, classes=label)
            score = found["estimate"], found["low"], found["high"]
            no_gain = NO_SIGN if found["high"] <= chance + MATTERS else TOO_FEW
            verdict = PREDICTS if found["low"] > chance else no_gain
        rows.append((name, *score, chance, verdict))
    return pd.DataFrame(rows, columns=SHORTCUT_COLUMNS)


def _right_out_of_fold(values: pd.DataFrame, label: pd.Series, group: pd.Series, folds: int, seed: int) -> np.ndarray:
    """How right the prediction for each scan is, (n,) in 0..1: 1 over the number of classes tied for the first place
    if its own is among them, else 0. The tree has never seen a scan of its group."""
    tree = DecisionTreeClassifier(
        max_depth=TREE_DEPTH, min_samples_leaf=SMALLEST_LEAF, class_weight="balanced", random_state=seed
    )
    features = pd.get_dummies(values, dtype=float).to_numpy(float)  # text as one column per value
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    names = label.to_numpy(object)
    probability = cross_val_predict(
        tree, features, names, groups=group.to_numpy(object), cv=splitter, method="predict_proba"
    )  # (n, classes), classes in alphabetical order
    first = np.isclose(probability, probability.max(axis=1, keepdims=True))
    own = first & (np.unique(names) == names[:, None])
    return own.any(axis=1) / first.sum(axis=1)


def _patient_findings(patients: pd.DataFrame, table: pd.DataFrame, split: pd.DataFrame | None, fold: int) -> list[str]:
    checked = {"part": "of the publishers' parts"} if PART in table else {}
    if split is not None:
        checked["role"] = f"of train, validation and test (fold {fold})"
    if checked and (table["patient"] == "").all():
        return ["whether a patient lies in two parts cannot be told: the dataset has no patient numbers"]
    sentences = []
    for where, name in checked.items():
        rows = patients[patients["where"] == where]
        if rows.empty:
            sentences.append(f"no patient lies in two {name}")
        for kind, found in rows.groupby("kind"):
            of = f"{len(found):,} {kind}s in several {name}, with {found['n'].sum():,} scans"
            sentences.append(f"{of}; such as {found['key'].iloc[0]}")
    return sentences


def _copy_finding(what: str, sets: pd.DataFrame) -> str:
    """A sentence on the sets of identical_images or near_identical."""
    harmless = sets.attrs["harmless"]
    end = f"; {harmless:,} within one patient, or with one label in one part, do no harm" if harmless else ""
    if sets.empty:
        return f"no {what} images in two patients, labels, official parts or roles{end}"
    crossed = sets["crosses"].explode().value_counts(sort=False)
    across = ", ".join(f"different {name}s: {count:,}" for name, count in crossed.items())
    leaks = " (a leak)" if "role" in crossed else ""
    of = f"sets of {what} images: {len(sets):,}, of {sets['n'].sum():,} scans; {across}{leaks}"
    return f"{of}; such as {' and '.join(sets['scan_ids'].iloc[0][:2])}{end}"


def _shortcut_findings(scores: pd.DataFrame) -> list[str]:
    sentences = [
        f"{row.property} predicts the class of unseen patients: balanced accuracy {row.balanced_accuracy:.2f} "
        f"[{row.low:.2f}, {row.high:.2f}], guessing gives {row.chance:.2f}"
        + ("; the disease itself may change it" if row.property in MAY_BE_DISEASE else "")
        for row in scores[scores["verdict"] == PREDICTS].itertuples()
    ]
    for verdict in (TOO_FEW, NO_PATIENTS):
        untold = scores.loc[scores["verdict"] == verdict, "property"]
        if len(untold):
            sentences.append(f"whether {', '.join(untold)} predict the class {verdict}")
    return sentences or ["neither file format, size, border, scale bar, canvas nor brightness predicts the class"]
