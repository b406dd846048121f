"""The two losses of KD-OCT: focal loss for the teacher, distillation for the student.

Both take raw logits, work in at least float32 whatever the precision of the network, and average over images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

REDUCTIONS = ("mean", "sum", "none")


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy that looks away from what is already easy: w_t (1 - p_t)^gamma (-log p_t).

    logits: (batch, classes). target: (batch,) class indices. gamma >= 0; 0 is cross-entropy.
    class_weights: (classes,) or None. They scale the loss and never enter p_t, the softmax probability of the
    true class: p_t from a weighted cross-entropy would be p_t ** w_t, another (and wrong) focus.
    reduction: "mean" over images (not over the sum of their weights), "sum", or "none" for (batch,).
    Raises ValueError for wrong shapes, a negative gamma or an unknown reduction.
    Source: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, equation 5.
    """
    _check_logits(logits, target)
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    cross_entropy = functional.cross_entropy(_full_precision(logits), target, reduction="none")  # (batch,)
    p_true = torch.exp(-cross_entropy)
    # Rounding may put p_true a hair above 1; the floor keeps the gradient of the power finite for gamma < 1.
    loss = (1 - p_true).clamp_min(torch.finfo(p_true.dtype).eps) ** gamma * cross_entropy
    if class_weights is not None:
        if class_weights.shape != logits.shape[1:]:
            raise ValueError(
                f"class_weights must have shape ({logits.shape[1]},), got {tuple(class_weights.shape)}"
            )
        loss = class_weights.to(loss)[target] * loss
    return _reduce(loss, reduction)


def balanced_class_weights(target: Tensor, n_classes: int) -> Tensor:
    """Weights inversely proportional to how often a class occurs, with mean 1 over the classes.

    target: (n,) class indices of the training images. Returns float32 (n_classes,).
    A class that does not occur gets the neutral weight 1 and has no part in the others.
    Raises ValueError when there is no image, or an index is not below n_classes.
    """
    if target.numel() == 0:
        raise ValueError("class weights need at least one training image")
    if int(target.min()) < 0 or int(target.max()) >= n_classes:
        raise ValueError(f"targets must be in 0..{n_classes - 1}, got {int(target.min())}..{int(target.max())}")
    counts = torch.bincount(target, minlength=n_classes).double()  # (classes,)
    present = counts > 0
    weights = torch.ones_like(counts)
    inverse = 1 / counts[present]
    weights[present] = inverse / inverse.mean()
    return weights.float()


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Soft labels: the softmax of logits / temperature over the last axis.

    temperature > 0: 1 leaves the probabilities, larger ones flatten them towards 1 / classes.
    Same shape as logits. Source: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    _check_temperature(temperature)
    return torch.softmax(_full_precision(logits) / temperature, dim=-1)


def distillation_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """The two parts of the distillation loss before alpha weighs them: (soft, hard).

    soft = T^2 KL(teacher_T || student_T), summed over classes; T^2 keeps the size of its gradient about the same
    at every temperature. hard = cross-entropy with the labels, at temperature 1.
    Shapes, errors and reduction as in `distillation_loss`.
    """
    _check_logits(student_logits, target)
    _check_temperature(temperature)
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher and student logits differ in shape: {tuple(teacher_logits.shape)} "
            f"against {tuple(student_logits.shape)}"
        )
    student = _full_precision(student_logits)
    teacher = _full_precision(teacher_logits).detach().to(student)  # the teacher only teaches
    divergence = functional.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.log_softmax(teacher / temperature, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)  # (batch,)
    hard = functional.cross_entropy(student, target, reduction="none")  # (batch,)
    return _reduce(temperature**2 * divergence, reduction), _reduce(hard, reduction)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    alpha: float = 0.7,
    reduction: str = "mean",
) -> Tensor:
    """What the student minimizes: alpha T^2 KL(teacher_T || student_T) + (1 - alpha) cross-entropy.

    student_logits, teacher_logits: (batch, classes); no gradient reaches the teacher's. target: (batch,).
    temperature > 0. alpha in 0..1 is the weight of the soft labels.
    reduction: "mean" over images (the KL is then "batchmean"), "sum", or "none" for (batch,).
    Raises ValueError for wrong shapes, temperature, alpha or reduction.
    Source: Hinton et al., arXiv 1503.02531; T = 4 and alpha = 0.7 from KD-OCT, arXiv 2512.09069.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    soft, hard = distillation_terms(student_logits, teacher_logits, target, temperature, reduction)
    return alpha * soft + (1 - alpha) * hard


def _full_precision(logits: Tensor) -> Tensor:
    """Half precision raised to float32, because log-softmax needs it; anything wider is left alone."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; valid reductions: {', '.join(REDUCTIONS)}")
    return loss if reduction == "none" else getattr(loss, reduction)()


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def _check_logits(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (batch, classes) and target (batch,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
