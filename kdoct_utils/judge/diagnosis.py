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


@dataclass(frozen=True)
class Sign:
    """One sign. finding: what was measured, a sentence; check_next: where to look if it fires."""

    name: str
    fires: bool
    finding: str
    check_next: str


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
    students = np.asarray(students, dtype=np.float64)
    _check(np.array([teacher_before, teacher]), students, divergence, difference)
    mean = float(students.mean())
    return (
        _above_teacher(mean, teacher, difference),
        _weak_student(mean, divergence),
        large_spread(students, repeats),
        _weak_teacher(teacher_before),
    )


def large_spread(accuracies: Sequence[float], repeats: str = "seeds") -> Sign:
    """The third sign alone, for runs that differ in seed or fold. accuracies: (runs,), fractions of 1."""
    accuracies = np.asarray(accuracies, dtype=np.float64)
    _check(np.zeros(0), accuracies, 0.0, None)
    spread = float(accuracies.std())
    return Sign(
        name=f"large spread over {repeats}",
        fires=spread > LARGE_SPREAD,
        finding=f"standard deviation {100 * spread:.1f} points over {len(accuracies)} {repeats} "
        f"(limit {100 * LARGE_SPREAD:.0f})"
        + ("; one run has no spread, so nothing is known" if len(accuracies) == 1 else ""),
        check_next=f"Compare the classes of the {repeats}: a rare class makes them differ by a few patients. Then "
        "look at augmented scans: where you cannot tell the class, the network cannot. Then train longer.",
    )


@dataclass(frozen=True)
class Diagnosis:
    """The signs that a run's kept numbers decide, and those that they do not: name -> what is missing."""

    signs: tuple[Sign, ...]
    undecided: dict[str, str]

    @property
    def fired(self) -> tuple[Sign, ...]:
        return tuple(sign for sign in self.signs if sign.fires)


def diagnose(metrics: Mapping, predictions: pd.DataFrame | None = None) -> Diagnosis:
    """The signs of trouble of a finished run, from what it kept.

    metrics: of metrics.json. Its section "diagnosis" holds the arguments of `signs_of_trouble`, written by notebook
    05; where it is absent, the sections of the networks are read. predictions: of predictions.csv, from which the
    divergence is computed where no section has it.
    """
    found, teacher, student = _measured(metrics), "the teacher's test accuracy", "the distilled students' accuracies"
    if found["divergence"] is None and predictions is not None and found["temperature"] is not None:
        found["divergence"] = divergence_of(predictions, found["temperature"])
    signs, undecided = [], {}
    mean = None if found["students"] is None else float(np.mean(found["students"]))
    if mean is None or found["teacher"] is None:
        undecided["student above teacher"] = f"{student if mean is None else teacher} not measured"
    else:
        signs.append(_above_teacher(mean, found["teacher"], found["difference"]))
    if mean is None or (mean < WEAK_STUDENT and found["divergence"] is None):
        undecided["weak student, low KL"] = f"{student if mean is None else 'the KL from the teacher'} not measured"
    else:  # a student that is not weak cannot fire it
        signs.append(_weak_student(mean, np.inf if found["divergence"] is None else found["divergence"]))
    if mean is None:
        undecided["large spread over seeds"] = f"{student} not measured"
    else:
        signs.append(large_spread(found["students"]))
    if found["teacher_before"] is None:
        undecided["weak teacher before distilling"] = "the teacher's validation accuracy not measured"
    else:
        signs.append(_weak_teacher(found["teacher_before"]))
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


def _measured(metrics: Mapping) -> dict:
    """The arguments of `signs_of_trouble` as far as a run kept them, None for others; and the temperature."""
    teacher, student = metrics.get("teacher", {}), metrics.get("student_kd", {})
    alone = student.get("accuracy")
    found = {
        "teacher_before": teacher.get("validation_accuracy"),
        "teacher": teacher.get("accuracy"),
        "students": student.get("by_seed") or (None if alone is None else [alone]),
        "divergence": None,
        "difference": None,
        "temperature": student.get("temperature"),
    }
    return found | {name: value for name, value in metrics.get("diagnosis", {}).items() if value is not None}


def _weak_student(mean: float, divergence: float) -> Sign:
    apart = ""
    if np.isfinite(divergence):
        apart = f" and differs from its teacher by {divergence:.3f} nats a scan (low is under {LOW_DIVERGENCE})"
    return Sign(
        name="weak student, low KL",
        fires=mean < WEAK_STUDENT and divergence < LOW_DIVERGENCE,
        finding=f"the student scores {mean:.1%} (limit {WEAK_STUDENT:.0%})" + apart,
        check_next="The student copies its teacher well, so the teacher is what to mend: train it longer, look at "
        "its learning curves and its confusion matrix. A larger student or another alpha will not help.",
    )


def _weak_teacher(teacher_before: float) -> Sign:
    return Sign(
        name="weak teacher before distilling",
        fires=teacher_before < TEACHER_GATE,
        finding=f"the teacher's validation accuracy is {teacher_before:.1%} (gate {TEACHER_GATE:.0%})",
        check_next="Do not distill yet: its errors become soft labels. Check labels and class weights, start "
        "weights, learning rates, and whether its loss still falls at the last epoch.",
    )


def _above_teacher(mean: float, teacher: float, difference: Sequence[float] | None) -> Sign:
    finding = f"student {mean:.1%}, teacher {teacher:.1%}"
    if difference is not None:
        low, high = difference
        held = "does not hold zero" if low > 0 or high < 0 else "holds zero, so chance may have done it"
        finding += f"; the interval of their difference, {100 * low:+.1f} to {100 * high:+.1f} points, {held}"
    return Sign(
        name="student above teacher",
        fires=mean > teacher,
        finding=finding,
        check_next="Suspect leakage: compare the hash of the split that each was trained on, run "
        "splits.audit_leakage, and look for identical images. Then ask whether the teacher is undertrained.",
    )


def _check(teacher: np.ndarray, students: np.ndarray, divergence: float, difference: Sequence[float] | None) -> None:
    if students.ndim != 1 or len(students) == 0:
        raise ValueError(f"students must be accuracies (runs,), at least one, got shape {students.shape}")
    for value in (*teacher, *students):
        if not 0 <= value <= 1:
            raise ValueError(f"accuracies are fractions of 1, not {value:g}")
    if not divergence >= -1e-6:  # rounding may leave a KL of zero a hair below it
        raise ValueError(f"a divergence is at least 0, not {divergence:g}")
    if difference is not None and not difference[0] <= difference[1]:
        raise ValueError(f"difference must be [low, high], got {list(difference)}")
