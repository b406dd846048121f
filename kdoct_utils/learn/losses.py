"""The two losses of KD-OCT, focal loss for the teacher and distillation for the student, and two later ways to distill.

All take raw logits, work in at least float32 whatever the precision of the network, and average over images.
"""

import torch
from torch import Tensor
from torch.nn import functional

REDUCTIONS = ("mean", "sum", "none")


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float, class_weights: Tensor | None = None, reduction: str = "mean"
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
    inverse = 1 / torch.bincount(target, minlength=n_classes).double()  # (classes,), inf for a class without images
    return torch.where(inverse.isfinite(), inverse / inverse[inverse.isfinite()].mean(), 1).float()


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Soft labels: the softmax of logits / temperature over the last axis.

    temperature > 0: 1 leaves the probabilities, larger ones flatten them towards 1 / classes.
    Same shape as logits. Source: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return torch.softmax(_full_precision(logits) / temperature, dim=-1)


def distillation_terms(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """The two parts of `distillation_loss` before alpha weighs them: (soft, hard).

    soft = T^2 KL(teacher_T || student_T), summed over classes; T^2 keeps the size of its gradient about the same
    at every temperature. hard = cross-entropy with the labels, at temperature 1.
    """
    student, teacher = _pair(student_logits, teacher_logits, target, temperature)
    divergence = _divergence(*(torch.log_softmax(logits / temperature, dim=1) for logits in (student, teacher)))
    hard = functional.cross_entropy(student, target, reduction="none")  # (batch,)
    return _reduce(temperature**2 * divergence, reduction), _reduce(hard, reduction)


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float, alpha: float,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """What the student minimizes: alpha T^2 KL(teacher_T || student_T) + (1 - alpha) cross-entropy.

    student_logits, teacher_logits: (batch, classes); no gradient reaches the teacher's. target: (batch,).
    temperature > 0. alpha in 0..1 is the weight of the soft labels.
    reduction: "mean" over images (the KL is then "batchmean"), "sum", or "none" for (batch,).
    Raises ValueError for wrong shapes, temperature, alpha or reduction.
    Source: Hinton et al., arXiv 1503.02531; T = 4 and alpha = 0.7 from KD-OCT, arXiv 2512.09069.
    """
    _check_alpha(alpha)
    soft, hard = distillation_terms(student_logits, teacher_logits, target, temperature, reduction)
    return alpha * soft + (1 - alpha) * hard


# --- later than KD-OCT's loss ----------------------------------------------------------------------------------------


def decoupled_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float, alpha: float,
    beta: float = 1.0, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Decoupled distillation (DKD): alpha (TCKD + beta NCKD) + (1 - alpha) cross-entropy.

    TCKD compares how sure the two are of the true class, as T^2 KL of (p_t, 1 - p_t). NCKD compares how they share
    out the rest, as T^2 KL over the other classes alone, each distribution scaled to sum to 1; with two classes it is
    0. beta >= 0 is NCKD's weight (0.5 to 8 in the paper). T^2 KL = TCKD + (1 - p_t of the teacher) NCKD: plain
    distillation mutes NCKD where the teacher is sure. All else as in `distillation_loss`.
    Source: Zhao et al., Decoupled Knowledge Distillation, arXiv 2203.08679.
    """
    _check_alpha(alpha)
    student, teacher = _pair(student_logits, teacher_logits, target, temperature)
    ours, theirs = (_decouple(logits / temperature, target) for logits in (student, teacher))
    first, second = (temperature**2 * _divergence(*parts) for parts in zip(ours, theirs, strict=True))  # (batch,) each
    hard = functional.cross_entropy(student, target, reduction="none")
    return _reduce(alpha * (first + beta * second) + (1 - alpha) * hard, reduction)


def relation_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float, alpha: float,
    beta: float = 1.0, gamma: float = 1.0, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """DIST: alpha (beta inter + gamma intra) + (1 - alpha) cross-entropy.

    Both relations are T^2 (1 - Pearson correlation) of soft labels, 0 where the student's are a rising straight line
    of the teacher's; where a side does not vary, the correlation counts as 0. inter: of an image's probabilities over
    the classes. intra: of a class's probabilities over the images of the batch, averaged over classes: a number of
    the whole batch, which with reduction "none" every image gets, so that the mean is the published loss.
    All else as in `distillation_loss`.
    Source: Huang et al., Knowledge Distillation from a Stronger Teacher, arXiv 2205.10536; T^2 as in their code.
    """
    _check_alpha(alpha)
    student, teacher = _pair(student_logits, teacher_logits, target, temperature)
    ours, theirs = soften(student, temperature), soften(teacher, temperature)  # (batch, classes)
    inter = temperature**2 * (1 - _pearson(ours, theirs))  # (batch,)
    intra = temperature**2 * (1 - _pearson(ours.T, theirs.T)).mean()
    hard = functional.cross_entropy(student, target, reduction="none")
    return _reduce(alpha * (beta * inter + gamma * intra) + (1 - alpha) * hard, reduction)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (true class, any other) (batch, 2), and within the others (batch, classes - 1)."""
    batch, classes = logits.shape
    log_probabilities = torch.log_softmax(logits, dim=1)
    true = functional.one_hot(target, classes).bool()
    others = logits[~true].view(batch, classes - 1)
    # Summed in logarithms: 1 - p_t would lose its digits where p_t is near 1.
    rest = torch.logsumexp(log_probabilities[~true].view(batch, classes - 1), dim=1)
    return torch.stack([log_probabilities[true], rest], dim=1), torch.log_softmax(others, dim=1)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of a with the same row of b: (rows, n) twice to (rows,), 0 where a row is constant."""
    return functional.cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1)


# --- what the losses share -------------------------------------------------------------------------------------------


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs || ours) of log-probabilities (batch, classes): (batch,)."""
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)


def _pair(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Student and teacher logits, checked, in full precision; the teacher's without a gradient: it only teaches."""
    _check_logits(student_logits, target)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher and student logits differ in shape: {tuple(teacher_logits.shape)} "
            f"against {tuple(student_logits.shape)}"
        )
    student = _full_precision(student_logits)
    return student, _full_precision(teacher_logits).detach().to(student)


def _full_precision(logits: Tensor) -> Tensor:
    """Half precision raised to float32, because log-softmax needs it; anything wider is left alone."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; valid reductions: {', '.join(REDUCTIONS)}")
    return loss if reduction == "none" else getattr(loss, reduction)()


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")


def _check_logits(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (batch, classes) and target (batch,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
