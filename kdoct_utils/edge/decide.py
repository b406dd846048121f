"""When to answer and when to keep silent: the rule that a file carries, chosen on validation scans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.stats import norm

from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.judge.metrics import best_temperature, probabilities
from kdoct_utils.runs import atomic_path


def fit_decision(
    classifier: OnnxClassifier, images: np.ndarray, target: np.ndarray, *, wanted_sensitivity: float = 0.95,
    coverage: float = 0.9, scans_lost: float = 0.01,
) -> dict[str, float]:  # fmt: skip
    """The rule of `OnnxClassifier.decide`, from validation scans: no test scan belongs here.

    images: uint8 (n, R, R), target: (n,) class numbers. temperature: what calibrates the logits best. threshold: the
    highest probability of disease that still finds `wanted_sensitivity` of the scans that show one. sure_above: the
    probability of the top class that `coverage` of the scans reach (see `confidence`). refuse_above: the distance that
    `scans_lost` of the scans exceed. All wanted shares lie between 0 and 1.
    Raises EdgeError where there are no scans, or where they show no disease or nothing else.
    """
    healthy = classifier.class_names.index(classifier.about["healthy"])
    ill = np.asarray(target) != healthy
    if not ill.any() or ill.all():
        raise EdgeError(f"a threshold needs validation scans with disease and without, {ill.sum()} of {len(ill)} have")
    logits, distance = classifier.outputs(images)
    temperature = best_temperature(logits, target)
    p = probabilities(logits / temperature)
    threshold = float(np.quantile(1 - p[ill, healthy], 1 - wanted_sensitivity, method="lower"))
    sure = confidence(p, healthy, threshold)
    return {
        "temperature": temperature,
        "threshold": threshold,
        "wanted_sensitivity": wanted_sensitivity,
        "sure_above": float(np.quantile(sure, 1 - coverage, method="lower")),
        "coverage": coverage,
        "refuse_above": float(np.quantile(distance, 1 - scans_lost, method="higher")),
        "scans_lost": scans_lost,
        "validation_scans": len(target),
    }


def confidence(p: np.ndarray, healthy: int, threshold: float) -> np.ndarray:
    """(n,) probability of the top class; 0 where it and the threshold disagree about disease. p: (n, classes)."""
    top = p.argmax(axis=1)
    agreed = (top != healthy) == (1 - p[:, healthy] >= threshold)
    return np.where(agreed, p.max(axis=1), 0)


def rates(score: np.ndarray, ill: np.ndarray, threshold: float, patients: np.ndarray) -> dict[str, dict[str, float]]:
    """Sensitivity and specificity of `score >= threshold`, scan by scan, each a share with its Wilson interval.

    score: (n,) probability of disease, ill: (n,) bool, patients: (n,) keys. Scans of one patient are alike, so the
    interval counts the patients of each group: wide rather than wrong.
    """
    called = np.asarray(score) >= threshold
    found = {}
    for name, group, right in (("sensitivity", ill, called), ("specificity", ~ill, ~called)):
        people, share = len(set(np.asarray(patients)[group])), float(right[group].mean()) if group.any() else 0.0
        low, high = wilson(share, people)
        found[name] = {"estimate": share, "low": low, "high": high, "scans": int(group.sum()), "patients": people}
    return found


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, 0 to 1, seen in `count` independent cases; never empty, also at 0 and 1."""
    if count == 0:
        return 0.0, 1.0
    z = norm.ppf(0.5 + level / 2)
    middle, half = share + z**2 / (2 * count), z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)
    return float(max(low, 0)), float(min(high, 1))


def measure_decision(
    classifier: OnnxClassifier, decision: Mapping[str, Any], images: np.ndarray, target: np.ndarray,
    patients: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """The rule, and what it does on scans that did not choose it: `rates` at the threshold, over all of them; the
    share that is answered, refused or left unsure, and the errors among those answered."""
    healthy = classifier.class_names.index(classifier.about["healthy"])
    logits, distance = classifier.outputs(images)
    p = probabilities(logits / decision["temperature"])
    refused = distance > decision["refuse_above"]
    answered = ~refused & (confidence(p, healthy, decision["threshold"]) >= decision["sure_above"])
    wrong = p.argmax(axis=1) != target
    measured = rates(1 - p[:, healthy], target != healthy, decision["threshold"], patients)
    shares = {"refused": refused.mean(), "answered": answered.mean(), "not_sure": (~refused & ~answered).mean(),
              "errors": wrong.mean(), "errors_answered": wrong[answered].mean() if answered.any() else 0}  # fmt: skip
    return {**decision, **measured, **{name: float(share) for name, share in shares.items()}}


def coverage_risk(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the scans answered when only the surest are, and the share of errors among them: both (n,).

    sure: (n,) confidence, right: (n,) bool. Geifman and El-Yaniv, Selective Classification, NeurIPS 2017.
    """
    order = np.argsort(-sure, kind="stable")
    count = np.arange(1, len(sure) + 1)
    return count / len(sure), np.cumsum(~right[order]) / count


def set_decision(path: str | Path, decision: Mapping[str, Any]) -> None:
    """Write a rule into a file from `export_onnx`, in the place of the one before. Whole or not at all.

    Raises EdgeError for a foreign file, and for a rule that `fit_decision` did not make, naming what is missing.
    """
    classifier = OnnxClassifier(path)
    needed = ("temperature", "threshold", "sure_above", "refuse_above")
    if missing := [name for name in needed if name not in decision]:
        raise EdgeError(f"the rule has no {', '.join(missing)}; fit_decision makes one")
    model = onnx.load(path)
    about = {**classifier.about, "decision": dict(decision)}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    with atomic_path(path) as temporary:
        onnx.save_model(model, temporary)
