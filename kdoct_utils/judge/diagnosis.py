"""The four signs of trouble that a distillation run must name by itself, each with what to check next.

A sign is a reason to look, no verdict. 80 % and 90 % are the recipe's; it gives no number for "low KL" and "large
spread", so those two limits are the course's. Source: KD-OCT, arXiv 2512.09069.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import kl_div, log_softmax

TEACHER_GATE = 0.90  # accuracy that a teacher should have before it teaches
WEAK_STUDENT = 0.80  # accuracy
LOW_DIVERGENCE = 0.05  # nats a scan, at the temperature of distillation: the student says what the teacher says
LARGE_SPREAD = 0.05  # standard deviation of accuracy; about twice that of the published teacher over five folds
ABOVE_TEACHER, WEAK_STUDENT_LOW_KL = "student above teacher", "weak student, low KL"
LARGE_SPREAD_OVER, WEAK_BEFORE = "large spread over {}", "weak teacher before distilling"


@dataclass(frozen=True)
class Sign:
    """One sign. finding: what was measured, a sentence; check_next: where to look if it fires."""

    name: str
    fires: bool
    finding: str
    check_next: str


@dataclass(frozen=True)
class Diagnosis:
    """The signs that a run's kept numbers decide, and those that they do not: name -> what is missing."""

    signs: tuple[Sign, ...]
    undecided: dict[str, str]

    @property
    def fired(self) -> tuple[Sign, ...]:
        return tuple(sign for sign in self.signs if sign.fires)


def signs_of_trouble(
    *,
    teacher_before: float,
    teacher: float,
    students: Sequence[float],
    divergence: float,
    difference: Sequence[float] | None = None,
    repeats: str = "seeds",
) -> tuple[Sign, ...]:
    """Student above teacher, weak student with low KL, large spread, weak teacher: in this order, fired or not.

    teacher_before: the teacher's validation accuracy, known before distilling. teacher: its accuracy on the test
    scans; students: that of each distilled student there (runs,), one for each fold or seed. All fractions of 1.
    divergence: mean KL(teacher_T || student_T) of a scan in nats at the temperature T of distillation, without the
    factor T^2.
    difference: [low, high], interval of student minus teacher, where there is one. It does not decide whether the
    first sign fires; it says whether chance may have done it.
    repeats: what the students differ in, "seeds" or "folds".
    Raises ValueError for no student, accuracies outside 0..1, a negative divergence or a reversed interval.
    """
    if np.ndim(students) != 1 or len(students) == 0:
        raise ValueError(f"students must be accuracies (runs,), at least one, got shape {np.shape(students)}")
    for value in (teacher_before, teacher, *students):
        if not 0 <= value <= 1:
            raise ValueError(f"accuracies are fractions of 1, not {value:g}")
    if not divergence >= -1e-6:  # rounding may leave a KL of zero a hair below it
        raise ValueError(f"a divergence is at least 0, not {divergence:g}")
    if difference is not None and not difference[0] <= difference[1]:
        raise ValueError(f"difference must be [low, high], got {list(difference)}")
    mean = float(np.mean(students))
    return (
        _above_teacher(mean, teacher, difference),
        _weak_student(mean, divergence),
        _large_spread(students, repeats),
        _weak_teacher(teacher_before),
    )


def diagnose(metrics: Mapping, predictions: pd.DataFrame | None = None) -> Diagnosis:
    """The signs of trouble of a finished run, from what it kept.

    metrics: of metrics.json. Its section "diagnosis" holds the arguments of `signs_of_trouble`, written by notebook
    05; where it is absent, the sections of the networks are read. predictions: of predictions.csv, from which the
    divergence is computed where no section has it.
    """
    of_teacher, of_student = metrics.get("teacher", {}), metrics.get("student_kd", {})
    kept = {name: value for name, value in metrics.get("diagnosis", {}).items() if value is not None}
    before = kept.get("teacher_before", of_teacher.get("validation_accuracy"))
    teacher = kept.get("teacher", of_teacher.get("accuracy"))
    alone = [of_student["accuracy"]] if of_student.get("accuracy") is not None else None
    students = kept.get("students", of_student.get("by_seed") or alone)
    divergence, temperature = kept.get("divergence"), kept.get("temperature", of_student.get("temperature"))
    if divergence is None and predictions is not None and temperature is not None:
        divergence = divergence_of(predictions, temperature)
    mean = None if students is None else float(np.mean(students))
    if divergence is None and mean is not None and mean >= WEAK_STUDENT:
        divergence = np.inf  # a student that is not weak cannot fire the sign, whatever its divergence
    signs, undecided = [], {}
    student = (students, "the distilled students' accuracies")
    for name, needs, sign in (
        (ABOVE_TEACHER, (student, (teacher, "the teacher's test accuracy")),
         lambda: _above_teacher(mean, teacher, kept.get("difference"))),
        (WEAK_STUDENT_LOW_KL, (student, (divergence, "the KL from the teacher")),
         lambda: _weak_student(mean, divergence)),
        (LARGE_SPREAD_OVER.format("seeds"), (student,), lambda: _large_spread(students, "seeds")),
        (WEAK_BEFORE, ((before, "the teacher's validation accuracy"),), lambda: _weak_teacher(before)),
    ):  # fmt: skip
        missing = next((words for value, words in needs if value is None), None)
        if missing:
            undecided[name] = f"{missing} not measured"
        else:
            signs.append(sign())
    return Diagnosis(tuple(signs), undecided)


def divergence_of(predictions: pd.DataFrame, temperature: float, network: str = "student_kd") -> float | None:
    """Mean KL(teacher_T || student_T) of a scan and seed in nats, from probabilities at temperature 1.

    predictions: columns of predictions.csv, with rows of "teacher" and ``network``; None where either is missing.
    """
    columns = [name for name in predictions if name.startswith("p_")]
    keys = ["fold", "scan_id"]
    rows = predictions[predictions["network"] == network].merge(
        predictions[predictions["network"] == "teacher"], on=keys, suffixes=("", " of teacher")
    )
    if rows.empty:
        return None
    with np.errstate(divide="ignore"):  # a probability of zero stays zero at any temperature
        student, teacher = (
            log_softmax(np.log(rows[[name + suffix for name in columns]].to_numpy(np.float64)) / temperature, axis=1)
            for suffix in ("", " of teacher")
        )  # (rows, classes)
    return float(kl_div(np.exp(teacher), np.exp(student)).sum(axis=1).mean())


def _above_teacher(mean: float, teacher: float, difference: Sequence[float] | None) -> Sign:
    finding = f"student {mean:.1%}, teacher {teacher:.1%}"
    if difference is not None:
        low, high = difference
        held = "does not hold zero" if low > 0 or high < 0 else "holds zero, so chance may have done it"
        finding += f"; the interval of their difference, {100 * low:+.1f} to {100 * high:+.1f} points, {held}"
    check_next = (
        "Suspect leakage: compare the hash of the split that each was trained on, run splits.audit_leakage, and look "
        "for identical images. Then ask whether the teacher is undertrained."
    )
    return Sign(ABOVE_TEACHER, mean > teacher, finding, check_next)


def _weak_student(mean: float, divergence: float) -> Sign:
    finding = f"the student scores {mean:.1%} (limit {WEAK_STUDENT:.0%})"
    if np.isfinite(divergence):
        finding += f" and differs from its teacher by {divergence:.3f} nats a scan (low is under {LOW_DIVERGENCE})"
    check_next = (
        "The student copies its teacher well, so the teacher is what to mend: train it longer, look at its learning "
        "curves and its confusion matrix. A larger student or another alpha will not help."
    )
    return Sign(WEAK_STUDENT_LOW_KL, mean < WEAK_STUDENT and divergence < LOW_DIVERGENCE, finding, check_next)


def _large_spread(accuracies: Sequence[float], repeats: str) -> Sign:
    spread, runs = float(np.std(accuracies)), len(accuracies)
    finding = f"standard deviation {100 * spread:.1f} points over {runs} {repeats} (limit {100 * LARGE_SPREAD:.0f})"
    finding += "; one run has no spread, so nothing is known" if runs == 1 else ""
    check_next = (
        f"Compare the classes of the {repeats}: a rare class makes them differ by a few patients. Then look at "
        "augmented scans: where you cannot tell the class, the network cannot. Then train longer."
    )
    return Sign(LARGE_SPREAD_OVER.format(repeats), spread > LARGE_SPREAD, finding, check_next)


def _weak_teacher(teacher_before: float) -> Sign:
    finding = f"the teacher's validation accuracy is {teacher_before:.1%} (gate {TEACHER_GATE:.0%})"
    check_next = (
        "Do not distill yet: its errors become soft labels. Check labels and class weights, start weights, learning "
        "rates, and whether its loss still falls at the last epoch."
    )
    return Sign(WEAK_BEFORE, teacher_before < TEACHER_GATE, finding, check_next)
