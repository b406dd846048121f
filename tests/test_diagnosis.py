"""The signs of trouble: each fires alone on made-up numbers, exactly at its limit it does not, and it says why."""

from __future__ import annotations

import numpy as np
import pytest

from kdoct_utils.judge.diagnosis import LARGE_SPREAD, LOW_DIVERGENCE, TEACHER_GATE, WEAK_STUDENT, signs_of_trouble

HEALTHY = {"teacher_before": 0.95, "teacher": 0.94, "students": [0.91, 0.92, 0.93], "divergence": 0.08}
NAMES = [
    "student above teacher", "weak student, low KL", "large spread over seeds", "weak teacher before distilling"
]  # fmt: skip


def fired(**changes) -> list[str]:
    return [sign.name for sign in signs_of_trouble(**HEALTHY | changes) if sign.fires]


def test_a_healthy_run_shows_none_of_the_four():
    assert [sign.name for sign in signs_of_trouble(**HEALTHY)] == NAMES
    assert fired() == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"teacher": 0.90}, NAMES[0]),
        ({"students": [0.70, 0.72, 0.74], "divergence": 0.02}, NAMES[1]),
        ({"students": [0.80, 0.90, 0.99]}, NAMES[2]),
        ({"teacher_before": 0.85}, NAMES[3]),
    ],
)
def test_each_sign_fires_alone(changes, name):
    assert fired(**changes) == [name]


def test_signs_fire_together():
    assert fired(teacher_before=0.5, teacher=0.5, students=[0.4, 0.9], divergence=0.0) == NAMES


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": 0.92},  # the mean of the students, exactly
        {"students": [WEAK_STUDENT] * 3, "divergence": 0.0},
        {"students": [0.70, 0.72, 0.74], "divergence": LOW_DIVERGENCE},
        {"students": [0.70, 0.72, 0.74], "divergence": 0.5},  # weak, but not a copy of its teacher
        {"students": [0.75 - LARGE_SPREAD + 0.1, 0.75 + LARGE_SPREAD - 1e-9 + 0.1]},
        {"teacher_before": TEACHER_GATE},
    ],
)
def test_limits_themselves_are_no_trouble(changes):
    assert fired(**changes) == []


def test_spread_is_the_population_standard_deviation():
    accuracies = np.array([0.5, 0.9, 0.7])
    sign = signs_of_trouble(**HEALTHY | {"students": accuracies})[2]
    assert f"{100 * np.sqrt(((accuracies - 0.7) ** 2).mean()):.1f} points over 3 seeds" in sign.finding


def test_one_run_has_no_spread_and_says_so():
    sign = signs_of_trouble(**HEALTHY | {"students": [0.9]}, repeats="folds")[2]
    assert sign.name == "large spread over folds"
    assert not sign.fires and "nothing is known" in sign.finding


@pytest.mark.parametrize(
    ("interval", "words"), [([0.01, 0.05], "does not hold zero"), ([-0.02, 0.05], "chance may have done it")]
)
def test_the_interval_tells_chance_from_a_lead_but_does_not_hush_the_sign(interval, words):
    sign = signs_of_trouble(**HEALTHY | {"teacher": 0.90}, difference=interval)[0]
    assert sign.fires and words in sign.finding


def test_every_sign_gives_its_numbers_and_what_to_check_next():
    signs = signs_of_trouble(**HEALTHY)
    for sign, number in zip(signs, ("94.0%", "0.080 nats", "0.8 points", "95.0%"), strict=True):
        assert number in sign.finding
    for sign, word in zip(signs, ("audit_leakage", "teacher", "augmented", "distill"), strict=True):
        assert word in sign.check_next


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"students": []}, "at least one"),
        ({"students": [[0.9, 0.9]]}, r"\(1, 2\)"),
        ({"teacher": 92.6}, "fractions of 1, not 92.6"),
        ({"students": [0.9, float("nan")]}, "nan"),
        ({"teacher_before": -0.1}, "-0.1"),
        ({"divergence": -0.1}, "at least 0"),
        ({"divergence": float("nan")}, "at least 0"),
        ({"difference": [0.2, 0.1]}, "low, high"),
    ],
)
def test_bad_input_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        signs_of_trouble(**HEALTHY | changes)
