"""The signs of trouble: each fires alone on made-up numbers, exactly at its limit it does not, and it says why."""

import numpy as np

from kdoct_utils.judge.diagnosis import (
    LARGE_SPREAD,
    LOW_DIVERGENCE,
    NEAR_TEACHER,
    TEACHER_GATE,
    WEAK_STUDENT,
    divergence,
    signs_of_trouble,
)

HEALTHY = {"teacher_before": 0.95, "teacher": 0.94, "students": [0.91, 0.92, 0.93], "divergence": 0.08}
NAMES = ["student above teacher", "weak student, low KL", "large spread over seeds", "weak teacher before distilling"]


def fired(**changes) -> list[str]:
    return [sign.name for sign in signs_of_trouble(**HEALTHY | changes) if sign.fires]


def test_each_sign_fires_alone_and_together_and_not_at_its_limit():
    assert [sign.name for sign in signs_of_trouble(**HEALTHY)] == NAMES and fired() == []
    assert fired(teacher=0.90) == [NAMES[0]]
    copies = {"teacher": 0.73, "students": [0.70, 0.72, 0.74], "divergence": 0.02}
    assert fired(**copies) == [NAMES[1]]
    assert fired(students=[0.80, 0.90, 0.99]) == [NAMES[2]]
    assert fired(teacher_before=0.85) == [NAMES[3]]
    assert fired(teacher_before=0.5, teacher=0.5, students=[0.4, 0.9], divergence=0.0) == NAMES
    for limit in (
        {"teacher": 0.92},  # the mean of the students, exactly
        {"teacher": 0.82, "students": [WEAK_STUDENT] * 3, "divergence": 0.0},
        copies | {"divergence": LOW_DIVERGENCE},
        copies | {"teacher": 0.721 + NEAR_TEACHER},  # near in KL after softening, and far behind: no copy
        {"students": [0.85 - LARGE_SPREAD, 0.85 + LARGE_SPREAD - 1e-9]},
        {"teacher_before": TEACHER_GATE},
    ):
        assert fired(**limit) == [], limit


def test_every_sign_gives_its_numbers_and_what_to_check_next():
    signs = signs_of_trouble(**HEALTHY)
    for sign, number in zip(signs, ("94.0%", "0.080 nats", "0.8 points", "95.0%"), strict=True):
        assert number in sign.finding
    for sign, word in zip(signs, ("audit_leakage", "teacher", "augmented", "distill"), strict=True):
        assert word in sign.check_next
    sign = signs_of_trouble(**HEALTHY | {"students": [0.5, 0.9, 0.7]})[2]
    assert f"{100 * np.std([0.5, 0.9, 0.7]):.1f} points over 3 seeds" in sign.finding
    sign = signs_of_trouble(**HEALTHY | {"students": [0.9]})[2]
    assert not sign.fires and "nothing is known" in sign.finding
    # the interval tells chance from a lead
    for interval, words in (([0.01, 0.05], "excludes zero"), ([-0.02, 0.05], "chance may have done it")):
        sign = signs_of_trouble(**HEALTHY | {"teacher": 0.90}, difference=interval)[0]
        assert sign.fires == (interval[0] > 0) and words in sign.finding


def test_divergence_is_kl_from_the_teacher_at_its_temperature():
    teacher = np.log([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
    student = np.log([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    assert divergence(teacher, [teacher, teacher + 3], 4.0) < 1e-12
    assert np.isclose(divergence(teacher, [student], 1.0), 0.25 * np.log(2) / 2)
    assert np.isclose(divergence(4 * teacher, [4 * student, 4 * teacher], 4.0), 0.25 * np.log(2) / 4)
