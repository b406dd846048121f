"""Shortcuts: what a network could learn instead of the disease, such as the file format or the size of the picture.

If one such property tells the classes apart in patients that were not used to learn the rule, a network can use it
too, and its score says less about retinas than it seems to. DeGrave et al. (Nat. Mach. Intell. 3:610, 2021) show how
far that goes in chest radiographs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from kdoct_utils.judge.metrics import paired_difference
from kdoct_utils.profiles import CLASS_NAMES

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
SHORTCUT_COLUMNS = ["property", "balanced_accuracy", "low", "high", "chance", "verdict"]
PREDICTS, NO_SIGN = "predicts the class", "no sign"
TOO_FEW, NO_PATIENTS = "cannot be told: too few patients", "cannot be told: no patient numbers"

FEWEST_PATIENTS = 5  # of each class; with fewer, an interval that resamples patients says nothing
MATTERS = 0.1  # a gain over guessing that would matter; an interval that reaches beyond it does not exclude it
TREE_DEPTH = 4  # at most 16 cases: enough for "small, or wide and bright", too few to know every patient by heart
SMALLEST_LEAF = 0.005  # of the scans


def shortcuts(
    table: pd.DataFrame, measured: pd.DataFrame, seed: int = 0, folds: int = 5, resamples: int = 1000
) -> pd.DataFrame:
    """How well each of PROPERTIES alone, and all together, predict the class of scans of unseen patients.

    table: scan table with scan_id, patient, group and label. measured: indexed by scan_id, with the columns that
    PROPERTIES names (ScanSet.measured).

    A decision tree (depth TREE_DEPTH, classes weighted to count the same) learns on the scans of some patients and
    predicts those of the others, in ``folds`` folds over groups of patients. The score is the balanced accuracy: the
    mean over classes of the share of scans that are predicted right; where the tree is undecided between classes,
    each counts in equal parts, so that a property that is the same in all scans gets exactly what guessing gets,
    1 / classes. Few patients whose values are evenly dealt over the classes can score below it: what is frequent in
    some patients of a class is then rare in the others. The interval (95 %) resamples groups of patients.

    Returns a DataFrame of SHORTCUT_COLUMNS, one row a property. verdict: PREDICTS if the whole interval is above
    chance; NO_SIGN if it reaches no more than MATTERS above it; else TOO_FEW. Where a class has fewer than
    FEWEST_PATIENTS groups the verdict on a property that varies is TOO_FEW, and without patient numbers, so that no
    rule can be tried on other patients, NO_PATIENTS; both without a score (NaN). The same for a seed, whatever the
    order of rows.
    Raises ValueError if a scan was not measured or there are fewer than two classes.
    """
    table = table.sort_values("scan_id", ignore_index=True)
    missing = set(table["scan_id"]) - set(measured.index)
    if missing:
        raise ValueError(f"{len(missing)} scans were not measured, such as {min(missing)}")
    measured = measured.loc[table["scan_id"]].reset_index(drop=True)
    classes = [name for name in CLASS_NAMES if (table["label"] == name).any()]
    if len(classes) < 2:
        raise ValueError(f"two classes are needed, found {', '.join(classes) or 'none'}")
    everything = [column for columns in PROPERTIES.values() for column in columns]
    rows = []
    for name, columns in {**PROPERTIES, TOGETHER: everything}.items():
        score = _score(table, measured[columns], len(classes), seed, folds, resamples)
        rows.append({"property": name, **score})
    return pd.DataFrame(rows, columns=SHORTCUT_COLUMNS)


def values_by_class(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What each of PROPERTIES is in each class, as short text: rows are properties, columns the classes.

    Categories and yes or no as shares of the scans, the most frequent first; numbers as median and range of the
    middle 90 %.
    """
    label = table.set_index("scan_id")["label"].reindex(measured.index)
    names = [name for name in CLASS_NAMES if (label == name).any()]
    return pd.DataFrame(
        {
            name: {key: _describe(key, measured.loc[label == name, columns]) for key, columns in PROPERTIES.items()}
            for name in names
        }
    )


def _describe(name: str, values: pd.DataFrame) -> str:
    if name == "file format":
        kinds = values["format"] + np.where(values["color"], " in color", "")
    elif name == "picture size":
        kinds = values["width"].astype(str) + " x " + values["height"].astype(str)
    elif name in ("scale bar", "black canvas"):
        return f"{values.iloc[:, 0].mean():.0%}"
    elif name == "white border":
        share = values["border"]
        return f"{(share > 0).mean():.0%} of scans, {share.mean():.1%} of the area"
    else:
        low, middle, high = values.iloc[:, 0].quantile([0.05, 0.5, 0.95])
        return f"{middle:.0f} ({low:.0f} to {high:.0f})"
    shares = kinds.value_counts(normalize=True)
    if len(shares) == 1:
        return str(shares.index[0])
    shown = [f"{share:.0%} {kind}" for kind, share in shares.head(3).items()]
    return ", ".join(shown + ([f"{len(shares) - 3} more"] if len(shares) > 3 else []))


def _score(
    table: pd.DataFrame, values: pd.DataFrame, n_classes: int, seed: int, folds: int, resamples: int
) -> dict[str, float | str]:
    """balanced_accuracy, low, high, chance and verdict of one property."""
    chance = 1 / n_classes
    if (values.nunique(dropna=False) <= 1).all():
        return {"balanced_accuracy": chance, "low": chance, "high": chance, "chance": chance, "verdict": NO_SIGN}
    unknown = {"balanced_accuracy": np.nan, "low": np.nan, "high": np.nan, "chance": chance}
    if (table["patient"] == "").any():
        return {**unknown, "verdict": NO_PATIENTS}
    fewest = int(table.groupby("label")["group"].nunique().min())
    if fewest < FEWEST_PATIENTS:
        return {**unknown, "verdict": TOO_FEW}
    label, group = table["label"].to_numpy(object), table["group"].to_numpy(object)
    right = _out_of_fold(values, label, group, min(folds, fewest), seed)
    found = paired_difference(right, np.zeros(len(right)), group, resamples, seed, classes=label)
    score, low, high = found["estimate"], found["low"], found["high"]
    if low > chance:
        verdict = PREDICTS
    else:
        verdict = NO_SIGN if high <= chance + MATTERS else TOO_FEW
    return {"balanced_accuracy": score, "low": low, "high": high, "chance": chance, "verdict": verdict}


def _out_of_fold(values: pd.DataFrame, label: np.ndarray, group: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """How right the prediction for each scan is, (n,) in 0..1: 1 over the number of classes tied for the first place
    if its own is among them, else 0. The tree has never seen a scan of its group."""
    features = pd.get_dummies(values, dtype=float).to_numpy(float)  # text as one column a value
    right = np.zeros(len(label))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(features, label, group):
        tree = DecisionTreeClassifier(
            max_depth=TREE_DEPTH, min_samples_leaf=SMALLEST_LEAF, class_weight="balanced", random_state=seed
        ).fit(features[train], label[train])
        probability = tree.predict_proba(features[held_out])  # (held out, classes that train has)
        first = np.isclose(probability, probability.max(axis=1, keepdims=True))
        own = first & (tree.classes_[None] == label[held_out, None])
        right[held_out] = own.any(axis=1) / first.sum(axis=1)
    return right
