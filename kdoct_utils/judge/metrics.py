"""How good a classifier is, and how sure we may be: scores, calibration, intervals over patients.

NumPy in, plain Python numbers and lists out, so that the results go straight into metrics.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix, roc_auc_score

AVERAGED = ("accuracy", "sensitivity", "specificity", "auc", "ece")  # over the networks of an arm


def evaluate(
    probabilities: np.ndarray, target: np.ndarray, patients: Sequence[str] | np.ndarray, class_names: Sequence[str],
    resamples: int = 2000, seed: int = 0,
) -> dict:  # fmt: skip
    """Every score of one model on one set of scans.

    probabilities: (n, classes), rows sum to 1. target: (n,) class indices. patients: (n,) patient keys.
    Returns a dict ready for JSON:
    - accuracy, sensitivity, specificity (macro one-vs-rest), auc (macro one-vs-rest ROC AUC), ece: 0..1 or None
    - per_class: {name: {sensitivity, specificity, auc, n_scans}}; confusion: counts, rows true, columns predicted
    - n_scans, n_patients; interval: [low, high], 95 % for accuracy, resampling patients
    - absent_classes: names that no scan has; notes: sentences on what could not be measured
    Macro scores average over the classes that occur in target. A score without cases is None: sensitivity of an
    absent class, specificity and AUC where there is nothing to tell apart. With a single patient nothing is known
    about others, and the interval is [0, 1].
    Raises ValueError for wrong shapes, probabilities that are not, or targets outside the classes.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)  # (n, classes)
    target, patients = np.asarray(target), np.asarray(patients)
    _check(probabilities, target, patients, class_names)
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(target, predicted, labels=np.arange(len(class_names)))
    scores = confusion_scores(confusion)
    areas = [_one_vs_rest_auc(score, target == k) for k, score in enumerate(probabilities.T)]
    n_patients = len(np.unique(patients))
    absent = [name for name, row in zip(class_names, confusion, strict=True) if row.sum() == 0]
    notes = [f"no scan of class {name}: its sensitivity is unknown and macro scores leave it out" for name in absent]
    if n_patients > 1:
        interval = percentile_interval(patient_bootstrap(predicted == target, patients, resamples, seed))
    else:
        interval = [0.0, 1.0]
        notes.append("one patient only: the interval for accuracy says nothing")
    by_class = zip(scores.pop("sensitivity_per_class"), scores.pop("specificity_per_class"), areas, strict=True)
    return scores | {
        "auc": _mean(areas),
        "ece": expected_calibration_error(probabilities, target),
        "n_scans": len(target),
        "n_patients": n_patients,
        "interval": interval,
        "per_class": {
            name: {"sensitivity": sensitivity, "specificity": specificity, "auc": area, "n_scans": int(row.sum())}
            for name, (sensitivity, specificity, area), row in zip(class_names, by_class, confusion, strict=True)
        },
        "confusion": confusion.tolist(),
        "class_names": list(class_names),
        "absent_classes": absent,
        "notes": notes,
    }


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of logits (n, classes) in double precision: rows sum to 1."""
    return softmax(np.asarray(logits, np.float64), axis=1)


def best_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that makes logits (n, classes) best calibrated on target (n,): least cross-entropy.

    Below 1 the network doubted too much, as after focal loss. Guo et al. 2017, arXiv 1706.04599.
    """
    logits, target = np.asarray(logits, np.float64), np.asarray(target)

    def cross_entropy(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(target)), target].mean()

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log([0.05, 20]), method="bounded").x))


def hits(logits: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
    """(networks, n) bool: which scans each network names correctly. logits: (n, classes) of each; target: (n,)."""
    return np.stack([one.argmax(axis=1) == target for one in logits])


def evaluate_networks(
    logits: Sequence[np.ndarray], target: np.ndarray, patients: Sequence[str] | np.ndarray, class_names: Sequence[str]
) -> dict:
    """Scores of an arm: what `evaluate` finds for its networks, averaged, with an interval over patients and seeds.

    logits: (n, classes) of each network. target: (n,). patients: (n,) keys. Returns a dict for metrics.json: AVERAGED
    (means; None where no network has one), interval ([low, high] of the accuracy), by_seed (accuracies), confusion
    (counts of all networks added up), class_names, n_scans, n_patients and seeds (the number of networks).
    """
    scores = [evaluate(probabilities(one), target, patients, class_names) for one in logits]
    correct = hits(logits, target)
    accuracy = paired_difference(correct, np.zeros_like(correct), patients)
    return {name: _mean([one[name] for one in scores]) for name in AVERAGED} | {
        "confusion": np.sum([one["confusion"] for one in scores], axis=0).tolist(),
        "n_scans": scores[0]["n_scans"],
        "n_patients": scores[0]["n_patients"],
        "seeds": len(scores),
        "interval": [accuracy["low"], accuracy["high"]],
        "by_seed": [one["accuracy"] for one in scores],
        "class_names": list(class_names),
    }


def confusion_scores(confusion: np.ndarray) -> dict:
    """Accuracy, sensitivity and specificity, macro and per class, from counts alone.

    confusion: (classes, classes) counts, rows true, columns predicted.
    Returns accuracy, sensitivity, specificity (macro over the classes that occur) and sensitivity_per_class,
    specificity_per_class (lists, None where there are no cases). Raises ValueError if not square or empty.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.sum() == 0:
        raise ValueError(f"expected a square confusion matrix with counts, got shape {confusion.shape}")
    return {name: _without_nan(value) for name, value in many_confusion_scores(confusion).items()}


def many_confusion_scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """`confusion_scores` of (..., classes, classes) counts: arrays (...) or, per class, (..., classes).

    NaN stands where there are no cases.
    """
    total = confusions.sum(axis=(-2, -1))
    positives = confusions.sum(axis=-1)  # (..., classes)
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    negatives = total[..., None] - positives
    rejected = negatives - (confusions.sum(axis=-2) - right)  # true negatives
    with np.errstate(invalid="ignore"):  # 0 / 0 where there are no cases
        sensitivity, specificity = right / positives, rejected / negatives
        of_occurring = np.where(positives > 0, specificity, np.nan)
        return {
            "accuracy": right.sum(axis=-1) / total,
            "sensitivity": np.nansum(sensitivity, axis=-1) / (~np.isnan(sensitivity)).sum(axis=-1),
            "specificity": np.nansum(of_occurring, axis=-1) / (~np.isnan(of_occurring)).sum(axis=-1),
            "sensitivity_per_class": sensitivity,
            "specificity_per_class": specificity,
        }


def expected_calibration_error(probabilities: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    """How far confidence is from accuracy: mean over bins of |accuracy - confidence|, weighted by scans.

    probabilities: (n, classes); the confidence is the largest of a row. bins: equal widths over 0..1.
    Returns 0 (calibrated) .. 1. Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    probabilities, target = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    confidence = probabilities.max(axis=1)  # (n,)
    gap = (probabilities.argmax(axis=1) == target) - confidence
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # a confidence of 1 is in the last bin
    return float(np.abs(np.bincount(bin_of, weights=gap, minlength=bins)).sum() / len(target))


def patient_bootstrap(
    values: np.ndarray, patients: Sequence[str] | np.ndarray, resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Means of values over resampled patients: scans of one patient stay together, because they are alike.

    values: (n,), such as correct or not. patients: (n,) keys. Returns (resamples,) means over scans; the same
    whatever the order of the scans. Raises ValueError when the shapes do not fit.
    """
    values, patients = np.asarray(values, dtype=np.float64), np.asarray(patients)
    if values.ndim != 1 or values.shape != patients.shape or len(values) == 0:
        raise ValueError(f"expected values (n,) and patients (n,), got {values.shape} and {patients.shape}")
    sums, sizes = _per_patient(values[None], patients)  # (1, patients), (patients,)
    drawn = _draws(len(sizes), resamples, np.random.default_rng(seed))  # (resamples, patients)
    return drawn @ sums[0] / (drawn @ sizes)


def paired_difference(
    correct_a: np.ndarray, correct_b: np.ndarray, patients: Sequence[str] | np.ndarray, resamples: int = 2000,
    seed: int = 0, classes: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """Mean of a - b on the same scans, with a 95 % interval that resamples patients and training seeds.

    correct_a, correct_b: (seeds, n), or (n,) for a single seed; row s of both was trained with seed s.
    classes: (n,) the true class of each scan: the means of the classes are averaged, which for correct or not is the
    difference in macro sensitivity; a resample leaves out a class that it does not draw. None: the mean over scans.
    Returns estimate, low, high (same unit as the input: fractions for correct or not) and seeds, their number.
    With one seed the interval knows nothing of what another training run would change.
    Raises ValueError when the shapes do not fit.
    """
    a = np.atleast_2d(np.asarray(correct_a, dtype=np.float64))  # (seeds, n)
    b = np.atleast_2d(np.asarray(correct_b, dtype=np.float64))
    patients = np.asarray(patients)
    classes = np.zeros(len(patients)) if classes is None else np.asarray(classes)
    if a.shape != b.shape or not a.shape[1:] == patients.shape == classes.shape or a.size == 0:
        shapes = f"{a.shape}, {b.shape}, {patients.shape} and {classes.shape}"
        raise ValueError(f"expected two (seeds, n) arrays, patients (n,) and classes (n,), got {shapes}")
    generator = np.random.default_rng(seed)
    drawn_patients = _draws(len(np.unique(patients)), resamples, generator)  # (resamples, patients)
    drawn_seeds = _draws(len(a), resamples, generator)  # (resamples, seeds)
    estimate, samples = _means(a - b, patients, classes, drawn_patients, drawn_seeds)
    low, high = percentile_interval(samples)
    return {"estimate": estimate, "low": low, "high": high, "seeds": len(a)}


def unpaired_difference(
    first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...], resamples: int = 2000, seed: int = 0
) -> dict:
    """The same networks on two sets of patients: mean over classes on the first minus that on the second.

    first, second: each (correct, patients, classes): correct (seeds, n), or (n,) for a single seed, where row s of both
    is the same network; patients (n,) and classes (n,) as in `paired_difference`. Both sets hold the same classes. For
    correct or not it is the difference in macro sensitivity: in what shares the sets hold the classes does not matter.
    Returns the keys of `paired_difference`; the interval resamples the patients of each set, and seeds for both alike.
    Raises ValueError when the shapes do not fit or the classes differ.
    """
    sides = [(np.atleast_2d(np.asarray(side[0], np.float64)), *map(np.asarray, side[1:])) for side in (first, second)]
    for values, patients, classes in sides:
        if values.size == 0 or not values.shape[1:] == patients.shape == classes.shape:
            shapes = f"{values.shape}, {patients.shape} and {classes.shape}"
            raise ValueError(f"expected correct (seeds, n), patients (n,) and classes (n,), got {shapes}")
    seeds = {len(values) for values, _, _ in sides}
    occurring = [np.unique(classes).tolist() for _, _, classes in sides]
    if len(seeds) > 1 or occurring[0] != occurring[1]:
        raise ValueError(f"both sets need the same seeds and classes, got {sorted(seeds)} seeds, classes {occurring}")
    generator = np.random.default_rng(seed)
    drawn_seeds = _draws(len(sides[0][0]), resamples, generator)  # (resamples, seeds)
    (a, samples_a), (b, samples_b) = (
        _means(*side, _draws(len(np.unique(side[1])), resamples, generator), drawn_seeds) for side in sides
    )
    low, high = percentile_interval(samples_a - samples_b)
    return {"estimate": a - b, "low": low, "high": high, "seeds": len(drawn_seeds[0])}


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> list[float]:
    """[low, high]: the middle `level` (0..1) of bootstrap samples (resamples,)."""
    tail = (1 - level) / 2
    return [float(value) for value in np.quantile(samples, [tail, 1 - tail])]


def _draws(items: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(resamples, items): how often each item is drawn when `items` are drawn with replacement."""
    return generator.multinomial(items, np.full(items, 1 / items), size=resamples)


def _means(
    values: np.ndarray, patients: np.ndarray, classes: np.ndarray, drawn_patients: np.ndarray, drawn_seeds: np.ndarray
) -> tuple[float, np.ndarray]:
    """The mean over classes of the means of values (seeds, n), and the same for each resample: (resamples,)."""
    estimates, samples = [], []
    for chosen in (classes == one for one in np.unique(classes)):
        sums, _ = _per_patient(values * chosen, patients)  # (seeds, patients)
        scans = _per_patient(chosen[None], patients)[0][0]  # (patients,) of this class
        totals = np.einsum("rs,rs->r", drawn_patients @ sums.T, drawn_seeds)
        with np.errstate(invalid="ignore"):  # 0 / 0 where the class was not drawn
            samples.append(totals / (len(values) * (drawn_patients @ scans)))
        estimates.append(values[:, chosen].mean())
    return float(np.mean(estimates)), np.nanmean(samples, axis=0)


def _per_patient(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (rows, patients) of values (rows, n), and scans (patients,), patients in sorted order."""
    keys, patient_of = np.unique(patients, return_inverse=True)
    sums = np.stack([np.bincount(patient_of, weights=row, minlength=len(keys)) for row in values])
    return sums, np.bincount(patient_of, minlength=len(keys))


def _without_nan(value: np.ndarray) -> float | None | list:
    """Plain numbers, None for NaN."""
    if np.ndim(value):
        return [_without_nan(one) for one in value]
    return None if np.isnan(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _one_vs_rest_auc(score: np.ndarray, is_class: np.ndarray) -> float | None:
    return None if is_class.all() or not is_class.any() else float(roc_auc_score(is_class, score))


def _check(probabilities: np.ndarray, target: np.ndarray, patients: np.ndarray, class_names: Sequence[str]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != len(class_names):
        raise ValueError(f"expected probabilities (n, {len(class_names)}), got {probabilities.shape}")
    n = len(probabilities)
    if n == 0 or target.shape != (n,) or patients.shape != (n,):
        raise ValueError(f"{n} rows of probabilities, targets {target.shape} and patients {patients.shape}")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3) or probabilities.min() < 0:
        raise ValueError("probabilities must be finite, at least 0 and sum to 1 in every row (are these logits?)")
    if target.min() < 0 or target.max() >= len(class_names):
        raise ValueError(f"targets must be in 0..{len(class_names) - 1}, got {target.min()}..{target.max()}")
