"""Checks of the exercises to notebook 02: focal loss, class weights, and means."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.learn.losses import balanced_class_weights, focal_loss

__all__ = [
    "check_class_weights", "check_focal_loss", "check_gamma", "check_generalized", "check_log_p_true",
    "check_weighted_mean",
]  # fmt: skip

# Scans that tell the usual mistakes apart: as many as classes, so that a wrong axis runs; one is beyond float32's exp.
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.3, 0.9, 0.6], [-0.5, 1.5, 0.2]])
TARGET = torch.tensor([0, 2, 0])
EXTREME = torch.tensor([[200.0, 0.0, -5.0], [1.0, 0.0, 2.0], [0.5, 0.1, 0.4]])
WEIGHTS = torch.tensor([0.4, 0.6, 2.0])


def _of_true(values: Tensor, target: Tensor) -> Tensor:
    """The true class's entry of each row."""
    return values.gather(1, target[:, None])[:, 0]


# --- 1. a thousandfold -----------------------------------------------------------------------------------------------

check_gamma = Check(
    "check_gamma",
    right=math.log(1000) / math.log(0.9 / 0.1),
    mistakes=(
        Mistake("the ratio alone", 1000 / 9,
                "You divided 1000 by the ratio 9. γ is an exponent: 9 to the power of γ is to be 1000."),
        Mistake("log of 1000 alone", math.log10(1000),
                "This is how often 10 goes into 1000 as a factor. Here the factor is 0.9 / 0.1."),
        Mistake("upside down", math.log(0.1 / 0.9) / math.log(1000),
                "Look at the two sides of γ · log(ratio) = log(1000) again. Which one is divided by which?"),
        Mistake("the sign", -math.log(1000) / math.log(9),
                "A γ below 0 would make the easy scan the important one. Which of the two focuses stands on top?"),
    ),
    passed="The factor grows as a power of 9, so a γ of little over 3 is enough.",
    otherwise="You found {got}. Put it into (0.9 / 0.1) ** γ: is that 1000?",
)  # fmt: skip


# --- 2. log p_t ------------------------------------------------------------------------------------------------------


def _log_p_true(logits: Tensor, target: Tensor) -> Tensor:
    return _of_true(torch.log_softmax(logits, dim=1), target)


check_log_p_true = Check(
    "check_log_p_true",
    right=_log_p_true,
    observe=applied_to((LOGITS, TARGET), (EXTREME, torch.tensor([1, 2, 0]))),
    mistakes=(
        Mistake("log of the softmax", lambda logits, target: _of_true(logits.softmax(dim=1).log(), target),
                "Right on paper, but one of the answers is minus infinity. The softmax of logits such as [200, 0, -5] "
                "is 0 in float32 before you take its logarithm. Is there a function that does both steps at once?"),
        Mistake("softmax twice",
                lambda logits, target: _of_true(logits.softmax(dim=1).log_softmax(dim=1), target),
                "Your probabilities are too even. Something that takes logits was given probabilities: count how often "
                "a softmax is applied."),
        Mistake("over the wrong axis", lambda logits, target: _of_true(logits.log_softmax(dim=0), target),
                "Which axis must sum to 1? The logits have shape (scans, classes), and scans do not compete."),
        Mistake("no logarithm", lambda logits, target: _of_true(logits.softmax(dim=1), target),
                "These are the probabilities. The logarithm was asked for."),
        Mistake("the largest", lambda logits, target: logits.log_softmax(dim=1).amax(dim=1),
                "This is the log-probability of the class that the network prefers. p_t belongs to the label."),
    ),
    passed="Finite even where p_t is too small for float32.",
    otherwise="For some scan you get {got} where {wanted} is right.",
)  # fmt: skip


# --- 3. class weights, and the mean that they are asked for ----------------------------------------------------------


def _balanced(target: Tensor, n_classes: int) -> Tensor:
    return balanced_class_weights(target, n_classes)


def _counts(target: Tensor, n_classes: int) -> Tensor:
    return torch.bincount(target, minlength=n_classes).float()


def _inverse(target: Tensor, n_classes: int) -> Tensor:
    return 1 / _counts(target, n_classes)


def _mean_one_over_scans(target: Tensor, n_classes: int) -> Tensor:
    return len(target) / (n_classes * _counts(target, n_classes))


def _inverted(to_weights):
    """From inverse counts to weights of classes that all occur."""
    return lambda target, n_classes: to_weights(_inverse(target, n_classes))


check_class_weights = Check(
    "check_class_weights",
    right=_balanced,
    observe=applied_to((torch.tensor([0] * 8 + [1] * 2 + [2] * 6), 3), (torch.tensor([1, 1, 1, 0, 3, 2, 2]), 4)),
    mistakes=(
        Mistake("counts as weights",
                lambda target, n_classes: _counts(target, n_classes) / _counts(target, n_classes).mean(),
                "The commonest class gets your largest weight. Which class should be helped?"),
        Mistake("raw counts", _counts,
                "These are the counts. A weight is large where a class is rare, and the weights have a mean of 1."),
        Mistake("not scaled", _inverse,
                "The ratios are right. The scale is not: the mean over the classes should be 1."),
        Mistake("sum of 1", _inverted(lambda weights: weights / weights.sum()),
                "Your weights sum to 1. Their mean should be 1, so what should their sum be?"),
        Mistake("mean of 1 over scans", _mean_one_over_scans,
                "This is scikit-learn's scale: the mean is 1 over the scans. Here it is to be 1 over the classes."),
    ),
    passed="Weight times count is the same for every class, and the mean weight is 1.",
    otherwise="You get {got} where {wanted} is right.",
)  # fmt: skip

check_weighted_mean = Check(
    "check_weighted_mean",
    right=lambda loss, target, weights: (weights[target] * loss).sum() / weights[target].sum(),
    observe=applied_to(
        (torch.tensor([0.2, 1.5, 0.7, 0.1]), torch.tensor([0, 2, 1, 0]), WEIGHTS),
        (torch.tensor([0.3, 0.9]), torch.tensor([2, 2]), WEIGHTS),
    ),
    mistakes=(
        Mistake("mean of weighted losses", lambda loss, target, weights: (weights[target] * loss).mean(),
                "You divide by the number of scans. A weighted mean divides by something else: in a batch of one "
                "class, the weight must cancel."),
        Mistake("no weights", lambda loss, target, weights: loss.mean(),
                "Every scan counts the same in your mean. Where do the weights come in?"),
        Mistake("all weights below", lambda loss, target, weights: (weights[target] * loss).sum() / weights.sum(),
                "You divide by the weights of all classes. Divide by the weights of the scans that are there."),
    ),
    passed="In a batch of one class the weight cancels, as in torch's cross_entropy with weights.",
    otherwise="You get {got} where {wanted} is right.",
)  # fmt: skip


# --- 4. focal loss with class weights --------------------------------------------------------------------------------


def _focal(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    return focal_loss(logits, target, gamma, weights, reduction="none")


def _weighted_p(logits, target, gamma, weights):
    loss = functional.cross_entropy(logits, target, weight=weights, reduction="none")
    return (1 - torch.exp(-loss)) ** gamma * loss


def _softmax_twice(logits, target, gamma, weights):
    return _focal(logits.softmax(dim=1), target, gamma, weights)


def _power_of_log(logits, target, gamma, weights):
    log_p = _log_p_true(logits, target)
    return weights[target] * (1 - log_p) ** gamma * -log_p


def _power_of_p(logits, target, gamma, weights):
    log_p = _log_p_true(logits, target)
    return weights[target] * log_p.exp() ** gamma * -log_p


def _weights_twice(logits, target, gamma, weights):
    return weights[target] * _focal(logits, target, gamma, weights)


check_focal_loss = Check(
    "check_focal_loss",
    right=_focal,
    observe=applied_to((LOGITS, TARGET, 2.0, WEIGHTS), (LOGITS.flip(0), TARGET, 0.0, WEIGHTS)),
    mistakes=(
        Mistake("weighted p_t", _weighted_p,
                "Without weights you are right. With them, p_t is not a probability of the network: it comes from a "
                "loss that was already weighted. Where does the weight enter first?"),
        Mistake("softmax twice", _softmax_twice,
                "Your p_t is too even: a softmax was applied to what was already a probability. Which of your "
                "functions wants logits?"),
        Mistake("gamma on log p", _power_of_log,
                "The focus is a power of 1 - p_t. Yours is a power of 1 - log p_t, which is above 1."),
        Mistake("p_t for 1 - p_t", _power_of_p,
                "Your loss looks at the easy scans: the focus grows with p_t. What is still missing to 1?"),
        Mistake("weights twice", _weights_twice,
                "The class weight is a factor of your loss twice. Which of your two lines may keep it?"),
    ),
    passed="The weight scales the loss and nothing else.",
    otherwise="For some scan you get {got} where {wanted} is right.",
)  # fmt: skip


# --- 5. the opposite of focal loss -----------------------------------------------------------------------------------


def _generalized(logits: Tensor, target: Tensor, q: float) -> Tensor:
    return (1 - torch.exp(q * _log_p_true(logits, target))) / q


def _with_pull(function):
    """Loss of each scan and its gradient, for two q, so that a loss right by chance but flat is found."""
    seen = []
    for q in (0.7, 0.3):
        logits = LOGITS.clone().requires_grad_()
        loss = function(logits, TARGET, q)
        if not isinstance(loss, Tensor):
            return [loss]
        flat = torch.zeros_like(logits)  # of a loss that was detached
        gradient = torch.autograd.grad(loss.sum(), logits)[0] if loss.requires_grad else flat
        seen += [loss.detach(), gradient]
    return seen


check_generalized = Check(
    "check_generalized",
    right=_generalized,
    observe=_with_pull,
    mistakes=(
        Mistake("not divided", lambda logits, target, q: q * _generalized(logits, target, q),
                "Your loss vanishes as q goes to 0. It should become cross-entropy there: what divides it?"),
        Mistake("focus of focal loss", lambda logits, target, q: (1 - _log_p_true(logits, target).exp()) ** q / q,
                "The power belongs to p_t, not to 1 - p_t. That one would be focal loss's focus."),
        Mistake("all classes", lambda logits, target, q: (1 - logits.softmax(dim=1) ** q).sum(dim=1) / q,
                "You sum over all classes. Only the probability of the label enters."),
        Mistake("softmax twice", lambda logits, target, q: _generalized(logits.softmax(dim=1), target, q),
                "Your probabilities are too even. Count how often a softmax is applied."),
        Mistake("the gradient is cut", lambda logits, target, q: _generalized(logits.detach(), target, q),
                "The values are right, but no gradient reaches the logits. Did something detach them, or turn them "
                "into numbers?"),
    ),
    passed="Its gradient is cross-entropy's times p_t to the power of q: what looks wrong is pulled at less.",
    otherwise="Loss or gradient is {got} where {wanted} is right.",
)  # fmt: skip
