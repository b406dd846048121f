"""What KD-OCT printed, and what its own confusion matrices say.

The 20 matrices (two datasets, teacher and student, five folds) are counts, transcribed from the authors' figures.
Source: Nourbakhsh, Sanjari, Nourbakhsh, KD-OCT, arXiv 2512.09069. Scores are macro one-vs-rest; spreads over folds
are population standard deviations, as the paper has them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from kdoct_utils.judge.metrics import confusion_scores
from kdoct_utils.profiles import CLASS_NAMES

MATRICES = "published_confusion_matrices.csv"  # beside this module
DATASETS, MODELS, SCORES = ("neh", "ucsd"), ("teacher", "student"), ("accuracy", "sensitivity", "specificity")
# As printed, in percent, with the printed digits: mean and spread over folds. UCSD's accuracy is printed twice.
PRINTED = (
    ("neh", "teacher", "accuracy", "92.6", "2.3"),
    ("neh", "teacher", "sensitivity", "92.9", "2.1"),
    ("neh", "teacher", "specificity", "98.1", "0.8"),
    ("neh", "student", "accuracy", "92.46", "1.36"),
    ("neh", "student", "sensitivity", "92.15", "1.29"),
    ("neh", "student", "specificity", "96.04", "0.78"),
    ("ucsd", "teacher", "accuracy", "98.4", ""),
    ("ucsd", "teacher", "accuracy", "97.72", ""),
    ("ucsd", "student", "accuracy", "98.4", ""),
    ("ucsd", "student", "accuracy", "97.74", ""),
)
# Accuracies that the paper sets beside its own, percent: mean and spread.
OTHERS_ON_NEH = {
    "HOG + SVM": (67.2, 3.7),
    "VGG16": (91.6, 2.2),
    "ResNet50": (86.8, 2.0),
    "DenseNet121": (90.0, 1.4),
    "EfficientNetB0": (85.4, 2.6),
    "FPN-VGG16": (92.0, 1.6),
    "FPN-DenseNet121": (90.9, 1.4),
    "SFNet": (82.6, 2.4),
    "MedSigLIP": (84.5, 3.2),
}


def classes(dataset: str) -> tuple[str, ...]:
    """Classes of a dataset in the course's order, which is that of its matrices here."""
    _check(dataset)
    named = _counts().loc[dataset].index.get_level_values("true")
    return tuple(name for name in CLASS_NAMES if name in named)


def confusions(dataset: str, model: str) -> np.ndarray:
    """(folds, classes, classes) counts, rows true, columns predicted. Raises ValueError for another name."""
    _check(dataset, model)
    names, counts = classes(dataset), _counts().loc[dataset, model]
    folds = counts.index.get_level_values("fold").unique()
    return np.array([[[counts[fold, true, said] for said in names] for true in names] for fold in folds])


def fold_scores() -> pd.DataFrame:
    """Recomputed: a row for each dataset, model and fold, with scans and the three scores as fractions of 1."""
    rows = [
        {"dataset": dataset, "model": model, "fold": fold, "scans": int(counts.sum())}
        | {name: confusion_scores(counts)[name] for name in SCORES}
        for dataset, model in product(DATASETS, MODELS)
        for fold, counts in enumerate(confusions(dataset, model), start=1)
    ]
    return pd.DataFrame(rows)


def beside_printed() -> pd.DataFrame:
    """Each printed number beside the recomputed one, in percent.

    Columns: dataset, model, score, printed, recomputed (text, "mean ± spread" where a spread is printed), agrees (to
    the printed digits, mean and spread), difference (points, recomputed minus printed), best_fold (the highest fold).
    """
    scores, rows = fold_scores(), []
    for dataset, model, name, *printed in PRINTED:
        folds = 100 * _of_folds(scores, dataset, model, name)
        pairs = [(value, text) for value, text in zip((folds.mean(), folds.std()), printed, strict=True) if text]
        rows.append(
            {
                "dataset": dataset, "model": model, "score": name,
                "printed": " ± ".join(text for _, text in pairs),
                "recomputed": " ± ".join(f"{value:.2f}" for value, _ in pairs),
                "agrees": all(f"{value:.{len(text.partition('.')[2])}f}" == text for value, text in pairs),
                "difference": float(folds.mean()) - float(printed[0]), "best_fold": float(folds.max()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def disagreements() -> list[str]:
    """A sentence on each printed number that does not follow from the matrices."""
    rows = [row for row in beside_printed().itertuples() if not row.agrees]
    return [
        f"**{row.dataset.upper()}, {row.model}, {row.score}**: printed {row.printed}, recomputed {row.recomputed}. "
        + (f"Not one of the five folds reaches {float(row.printed.split()[0]):g}; the best has {row.best_fold:.2f}."
           if row.best_fold < float(row.printed.split()[0]) else f"The best fold has {row.best_fold:.2f}.")
        for row in rows
    ]  # fmt: skip


def _of_folds(scores: pd.DataFrame, dataset: str, model: str, score: str) -> np.ndarray:
    """(folds,) one score of a model on a dataset. scores: of `fold_scores`."""
    return scores.loc[(scores["dataset"] == dataset) & (scores["model"] == model), score].to_numpy()


def fold_sizes(dataset: str) -> pd.DataFrame:
    """Scans of each class that teacher and student were tested on: a row a fold, columns (model, class)."""
    tables = {model: pd.DataFrame(confusions(dataset, model).sum(axis=2), columns=classes(dataset)) for model in MODELS}
    table = pd.concat(tables, axis="columns")
    return table.set_index(pd.Index(range(1, len(table) + 1), name="fold"))


def folds_compared(dataset: str) -> str:
    """What the numbers of test scans tell of the folds of teacher and student, in a sentence or two."""
    sizes = fold_sizes(dataset)
    teacher, student = (sizes[model].to_numpy() for model in MODELS)  # (folds, classes)
    if (sizes.nunique() == 1).all():
        return (f"{dataset.upper()}: {teacher[0].sum():,} scans in every fold, the same number of every class each "
                "time. Folds that test different patients would not come out so even: this fits one fixed test set, "
                "scored five times.")  # fmt: skip
    alike = (teacher[:, None] == student[None]).all(axis=2)  # (teacher's folds, student's folds)
    said = f"Of the {alike.size} pairs of a teacher's and a student's fold, **{alike.sum()}** have the same counts. "
    if (teacher.sum(axis=0) == student.sum(axis=0)).all():
        said += "Added up over the folds, the counts are equal: the same scans, dealt in another way. "
    if alike.any():
        return said + "The counts alone do not show that the folds differ."
    return said + "The folds are not just numbered differently; they **hold other scans**."


def student_minus_teacher(dataset: str) -> dict:
    """The mean difference in accuracy of the five folds, student minus teacher.

    Fractions of 1. Returns estimate, t_interval ([low, high], 95 %, folds as pairs) and welch_interval (folds not
    paired). Folds share most of their training scans, so that even the wider interval is too narrow (Bengio and
    Grandvalet 2004). Raises ValueError for another dataset.
    """
    _check(dataset)
    scores = fold_scores()
    teacher, student = (_of_folds(scores, dataset, model, "accuracy") for model in MODELS)
    estimate = float((student - teacher).mean())
    paired = stats.ttest_rel(student, teacher).confidence_interval()
    welch = stats.ttest_ind(student, teacher, equal_var=False).confidence_interval()
    return {"estimate": estimate, "t_interval": [*map(float, paired)], "welch_interval": [*map(float, welch)]}


def _check(dataset: str, model: str = "teacher") -> None:
    if dataset not in DATASETS or model not in MODELS:
        raise ValueError(
            f"no published matrices of {dataset!r}, {model!r}; valid: {', '.join(DATASETS)} and {', '.join(MODELS)}"
        )


@cache
def _counts() -> pd.Series:
    """Counts by dataset, model, fold, true and predicted class, named as the course names them."""
    with as_file(files("kdoct_utils.judge") / MATRICES) as path:
        table = pd.read_csv(path)
    for column in ("dataset", "true", "predicted"):
        table[column] = table[column].str.lower()
    return table.set_index(["dataset", "model", "fold", "true", "predicted"])["count"].sort_index()
