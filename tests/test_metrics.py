"""Metrics against scikit-learn, torchmetrics and SciPy."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_specificity

from kdoct_utils.judge.metrics import (
    best_temperature,
    confusion_scores,
    evaluate,
    expected_calibration_error,
    paired_difference,
    patient_bootstrap,
    percentile_interval,
    probabilities,
)

NAMES = ("normal", "drusen", "cnv", "dme")


def random_case(seed=0, n=200, classes=3, patients=25):
    generator = np.random.default_rng(seed)
    target = generator.integers(classes, size=n)
    logits = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[target]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, target, np.array([f"p/{k:03d}" for k in generator.integers(patients, size=n)])


def test_scores_are_those_of_scikit_learn_and_torchmetrics():
    for classes in (2, 3, 4):
        probabilities, target, patients = random_case(classes=classes)
        result = evaluate(probabilities, target, patients, NAMES[:classes], resamples=300, seed=4)
        predicted = probabilities.argmax(axis=1)
        assert result["accuracy"] == pytest.approx((predicted == target).mean())
        assert result["sensitivity"] == pytest.approx(balanced_accuracy_score(target, predicted))
        per_class = [result["per_class"][name]["sensitivity"] for name in NAMES[:classes]]
        assert per_class == pytest.approx(recall_score(target, predicted, average=None))
        specificity = multiclass_specificity(torch.tensor(predicted), torch.tensor(target), classes, average="macro")
        assert result["specificity"] == pytest.approx(specificity.item(), abs=1e-6)
        assert result["auc"] == pytest.approx(np.mean([roc_auc_score(target == k, probabilities[:, k])
                                                       for k in range(classes)]))  # fmt: skip
        samples = patient_bootstrap(predicted == target, patients, 300, 4)
        assert result["interval"] == percentile_interval(samples)
        assert result["n_scans"] == sum(map(sum, result["confusion"])) == 200 and result["n_patients"] == 25
        assert result["absent_classes"] == [] and result["notes"] == []
        assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_calibration_error_is_that_of_torchmetrics_and_by_hand():
    probabilities, target, _ = random_case(n=500)
    both = torch.tensor(probabilities), torch.tensor(target)
    for bins in (1, 15):
        theirs = multiclass_calibration_error(*both, num_classes=3, n_bins=bins, norm="l1")
        assert expected_calibration_error(probabilities, target, bins) == pytest.approx(theirs.item(), abs=1e-6)
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    for classes, error in (([0, 0], 0), ([1, 1], 1), ([0, 1], 0.5)):
        assert expected_calibration_error(certain, np.array(classes)) == error


def test_absent_classes_are_said_and_left_out():
    probabilities, target, patients = random_case(classes=4)
    keep = target < 2
    result = evaluate(probabilities[keep], target[keep], patients[keep], NAMES, resamples=50)
    assert result["absent_classes"] == ["cnv", "dme"]
    assert len(result["notes"]) == 2 and "cnv" in result["notes"][0]
    dme = result["per_class"]["dme"]
    assert dme["sensitivity"] is None and dme["auc"] is None and dme["n_scans"] == 0
    assert dme["specificity"] == pytest.approx((probabilities[keep].argmax(axis=1) != 3).mean())
    present = [result["per_class"][name] for name in ("normal", "drusen")]
    for score in ("sensitivity", "specificity", "auc"):
        assert result[score] == pytest.approx(np.mean([scores[score] for scores in present]))
    result = evaluate(random_case(n=5)[0], np.zeros(5, int), ["only"] * 5, NAMES[:3], resamples=50)
    assert result["specificity"] is None and result["auc"] is None
    assert result["sensitivity"] == result["accuracy"]
    assert result["interval"] == [0.0, 1.0] and "one patient" in result["notes"][-1]


# ---- intervals


def unequal_patients(seed=3, patients=40):
    """Correct-or-not for patients of different size and skill, as scans of one eye are."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 20, size=patients)
    skill = generator.beta(4, 1, size=patients)
    patient = np.repeat(np.arange(patients), sizes)
    return (generator.random(len(patient)) < skill[patient]).astype(float), patient


def test_bootstrap_interval_is_scipys_over_patients():
    values, patients = unequal_patients()
    sums, sizes = np.bincount(patients, weights=values), np.bincount(patients)
    theirs = bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    samples = patient_bootstrap(values, patients, resamples=20000, seed=1)
    assert percentile_interval(samples) == pytest.approx([theirs.low, theirs.high], abs=0.004)
    # Wider than if scans were independent: that is what the patients are for.
    scans = patient_bootstrap(values, np.arange(len(values)), resamples=20000, seed=1)
    assert samples.std() > 1.3 * scans.std()
    order = np.random.default_rng(0).permutation(len(values))
    first = patient_bootstrap(values, patients, 200, seed=5)
    np.testing.assert_array_equal(first, patient_bootstrap(values[order], patients[order], 200, seed=5))
    assert (first != patient_bootstrap(values, patients, 200, seed=6)).any()


def test_paired_difference_is_the_bootstrap_of_the_difference_and_widens_with_disagreeing_seeds():
    a, patients = unequal_patients(1)
    b = np.where(np.random.default_rng(0).random(len(a)) < 0.3, 0, a)
    result = paired_difference(a, b, patients, resamples=5000)
    expected = percentile_interval(patient_bootstrap(a - b, patients, 5000, seed=9))
    assert result["seeds"] == 1 and result["estimate"] == pytest.approx((a - b).mean())
    assert [result["low"], result["high"]] == pytest.approx(expected, abs=0.01)
    for shifts, low, high in (((0.0, 0.5, 1.0), -1, 0), ((0.5, 0.5, 0.5), -0.5, -0.5)):
        rows = np.stack([a - shift for shift in shifts])
        result = paired_difference(rows, np.stack([a] * 3), patients, resamples=2000)
        assert result["estimate"] == pytest.approx(-0.5)
        assert [result["low"], result["high"]] == pytest.approx([low, high], abs=0.2)


def test_paired_difference_over_classes_is_that_of_macro_sensitivity():
    random = np.random.default_rng(3)
    patients = np.repeat(np.arange(40), 6)
    target = np.where(patients < 30, 0, np.where(patients < 37, 1, 2))  # a patient has one class
    a = random.random((3, 240)) < np.array([0.5, 0.9, 0.7])[target]
    b = random.random((3, 240)) < np.array([0.8, 0.2, 0.7])[target]

    def macro(hits, scans):
        return np.mean([hits[:, scans[target[scans] == k]].mean() for k in np.unique(target[scans])])

    rows = [np.flatnonzero(patients == patient) for patient in range(40)]
    samples = []
    for _ in range(2000):
        scans = np.concatenate([rows[k] for k in random.integers(0, 40, 40)])
        seeds = random.integers(0, 3, 3)
        samples.append(macro(a[seeds], scans) - macro(b[seeds], scans))
    everything = np.arange(240)
    result = paired_difference(a, b, patients, resamples=5000, classes=target)
    assert result["estimate"] == pytest.approx(macro(a, everything) - macro(b, everything))
    assert [result["low"], result["high"]] == pytest.approx(percentile_interval(samples), abs=0.015)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), classes=st.integers(2, 4), patients=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_properties_of_any_evaluation(seed, n, classes, patients):
    probabilities, target, patient = random_case(seed, n, classes, patients)
    result = evaluate(probabilities, target, patient, NAMES[:classes], resamples=30)
    for score in ("accuracy", "sensitivity", "specificity", "auc", "ece"):
        assert result[score] is None or 0 <= result[score] <= 1
    low, high = result["interval"]
    assert 0 <= low <= high <= 1
    # Classes in another order are other names for the same thing.
    shuffled = np.random.default_rng(seed).permutation(classes)
    renamed = evaluate(
        probabilities[:, shuffled], np.argsort(shuffled)[target], patient, [NAMES[k] for k in shuffled], resamples=30
    )
    assert renamed["per_class"] == result["per_class"]
    assert renamed["accuracy"] == result["accuracy"]
    # A perfect classifier has perfect scores, whatever classes are missing.
    perfect = evaluate(np.eye(classes)[target], target, patient, NAMES[:classes], resamples=30)
    assert perfect["accuracy"] == perfect["sensitivity"] == 1 and perfect["ece"] == 0
    assert perfect["specificity"] in (1, None) and perfect["auc"] in (1, None)


def test_errors_name_what_is_wrong():
    probabilities, target, patients = random_case(n=10)
    for call, words in (
        (lambda: evaluate(probabilities, target, patients, NAMES[:2]), r"\(n, 2\).*\(10, 3\)"),
        (lambda: evaluate(np.log(probabilities), target, patients, NAMES[:3]), "logits"),
        (lambda: evaluate(probabilities, target + 3, patients, NAMES[:3]), r"0\.\.2"),
        (lambda: evaluate(probabilities, target[:5], patients, NAMES[:3]), "10 rows"),
        (lambda: paired_difference(np.ones((2, 10)), np.ones((3, 10)), patients), "seeds"),
        (lambda: patient_bootstrap(np.ones(10), patients[:5]), "patients"),
        (lambda: confusion_scores(np.ones((2, 3))), "square"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_best_temperature_undoes_a_scale():
    random = np.random.default_rng(0)
    calibrated = random.normal(0, 2, (20000, 3))
    drawn = (probabilities(calibrated).cumsum(axis=1) < random.random((20000, 1))).sum(axis=1)
    assert best_temperature(calibrated, drawn) == pytest.approx(1, abs=0.05)
    for scale in (0.3, 4.0):  # too doubtful, too sure
        assert best_temperature(scale * calibrated, drawn) == pytest.approx(scale, rel=0.05)
