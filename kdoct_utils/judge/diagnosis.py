"""The four signs of trouble that a distillation run must name by itself, each with what to check next.

A sign is a reason to look, no verdict. 80 % and 90 % are the recipe's; it gives no number for "low KL" and "large
spread", so those two limits are the course's. Source: KD-OCT, arXiv 2512.09069.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr, softmax

TEACHER_GATE = 0.90  # accuracy that a teacher should have before it teaches
WEAK_STUDENT = 0.80  # accuracy
LOW_DIVERGENCE = 0.05  # nats per scan, at the temperature of distillation
NEAR_TEACHER = 0.05  # accuracy: T flattens both answers, so a low divergence alone does not show a copy
LARGE_SPREAD = 0.05  # standard deviation of accuracy; about twice that of the published teacher over five folds


@dataclass(frozen=True)
class Sign:
    """One sign. finding: what was measured, a sentence; check_next: where to look if it fires."""

    name: str
    fires: bool
    finding: str
    check_next: str


def divergence(teacher: np.ndarray, students: Sequence[np.ndarray], temperature: float) -> float:
    """Mean KL(teacher_T || student_T) of a scan and seed in nats, without T^2. Logits (n, classes), of each student."""
    soft, *ours = (softmax(np.asarray(one, float) / temperature, axis=1) for one in (teacher, *students))
    return float(np.mean([rel_entr(soft, one).sum(axis=1) for one in ours]))


def signs_of_trouble(
    *, teacher_before: float, teacher: float, students: Sequence[float], divergence: float,
    difference: Sequence[float] | None = None,
) -> tuple[Sign, ...]:  # fmt: skip
    """Student above teacher, weak student with low KL, large spread, weak teacher: in this order, fired or not.

    teacher_before: the teacher's validation accuracy, known before distilling. teacher: its accuracy on the test
    scans; students: that of each distilled student there (seeds,). All fractions of 1.
    divergence: mean KL(teacher_T || student_T) of a scan in nats at the temperature T of distillation, without the
    factor T^2.
    difference: [low, high], interval of student minus teacher, where there is one: the first sign is quiet where it
    includes zero, for then chance may have done it.
    """
    student, spread = float(np.mean(students)), float(np.std(students))
    lead, above = f"student {student:.1%}, teacher {teacher:.1%}", student > teacher
    if difference is not None:
        low, high = difference
        above = above and low > 0
        held = "excludes zero" if low > 0 or high < 0 else "includes zero, so chance may have done it"
        lead += f"; the interval of their difference, {100 * low:+.1f} to {100 * high:+.1f} points, {held}"
    found = f"standard deviation {100 * spread:.1f} points over {len(students)} seeds (limit {100 * LARGE_SPREAD:.0f})"
    return (
        Sign(
            "student above teacher", above, lead,
            "Suspect leakage: compare the hash of the split that each was trained on, run splits.audit_leakage, and "
            "look for identical images. Then ask whether the teacher is undertrained. Else the gain may be real.",
        ),
        Sign(
            "weak student, low KL",
            student < WEAK_STUDENT and divergence < LOW_DIVERGENCE and teacher - student < NEAR_TEACHER,
            f"the student scores {student:.1%} (limit {WEAK_STUDENT:.0%}), {100 * (teacher - student):.1f} points "
            f"under its teacher (near is under {100 * NEAR_TEACHER:.0f}), and differs from it by {divergence:.3f} nats "
            f"a scan (low is under {LOW_DIVERGENCE})",
            "The student copies its teacher well, so work on the teacher: train it longer, look at its "
            "learning curves and its confusion matrix. A larger student or another alpha will not help.",
        ),
        Sign(
            "large spread over seeds", spread > LARGE_SPREAD,
            found + ("; one run has no spread, so nothing is known" if len(students) == 1 else ""),
            "Compare the classes of the seeds: a rare class makes them differ by a few patients. Then look at "
            "augmented scans: where you cannot tell the class, the network cannot. Then train longer.",
        ),
        Sign(
            "weak teacher before distilling", teacher_before < TEACHER_GATE,
            f"the teacher's validation accuracy is {teacher_before:.1%} (gate {TEACHER_GATE:.0%})",
            "Do not distill yet: its errors become soft labels. Check labels and class weights, start weights, "
            "learning rates, and whether its loss still falls at the last epoch.",
        ),
    )  # fmt: skip
