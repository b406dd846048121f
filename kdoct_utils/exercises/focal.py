"""Checks of the exercises of notebook 02: focal loss, class weights, and means."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdoct_utils.exercises.checking import Check
from kdoct_utils.learn.losses import balanced_class_weights, focal_loss

# As many scans as classes, so that a wrong axis runs; one of the others is beyond float32's exp.
LOGITS, TARGET = torch.tensor([[2.0, 0.5, -1.0], [0.3, 0.9, 0.6], [-0.5, 1.5, 0.2]]), torch.tensor([0, 2, 0])
EXTREME = torch.tensor([[200.0, 0.0, -5.0], [1.0, 0.0, 2.0], [0.5, 0.1, 0.4]])
WEIGHTS = torch.tensor([0.4, 0.6, 2.0])


def _of_true(values: Tensor, target: Tensor) -> Tensor:
    """The true class's entry of each row."""
    return values.gather(1, target[:, None])[:, 0]


check_gamma = Check(
    math.log(1000) / math.log(0.9 / 0.1),
    (1000 / 9, "You divided 1000 by the ratio 9. γ is an exponent: 9 to the power of γ is to be 1000."),
    (math.log10(1000), "This is how often 10 goes into 1000 as a factor. Here the factor is 0.9 / 0.1."),
    passed="The factor grows as a power of 9, so a γ of little over 3 is enough.",
    otherwise="You found {got}. Put it into (0.9 / 0.1) ** γ: is that 1000?",
)  # fmt: skip

check_log_p_true = Check(
    lambda logits, target: -cross_entropy(logits, target, reduction="none"),
    (lambda logits, target: _of_true(logits.softmax(dim=1).log(), target),
     "One answer is minus infinity: softmax of [200, 0, -5] is 0 in float32. Which function takes both steps?"),
    (lambda logits, target: _of_true(logits.log_softmax(dim=0), target),
     "Which axis must sum to 1? The logits have shape (scans, classes), and scans do not compete."),
    cases=[(LOGITS, TARGET), (EXTREME, torch.tensor([1, 2, 0]))],
    passed="Finite even where p_t is too small for float32.",
    otherwise="For some scan you get {got}. Try a scan whose logits are all equal: there p_t is one over the classes.",
)  # fmt: skip


def _from_counts(weights: Callable[[Tensor], Tensor]) -> Callable:
    return lambda target, n_classes: weights(torch.bincount(target, minlength=n_classes).float())


check_class_weights = Check(
    balanced_class_weights,
    (_from_counts(lambda counts: counts / counts.mean()),
     "The commonest class gets your largest weight. Which class should be helped?"),
    (_from_counts(lambda counts: 1 / counts),
     "The ratios are right. The scale is not: the mean over the classes should be 1."),
    cases=[(torch.tensor([0] * 8 + [1] * 2 + [2] * 6), 3), (torch.tensor([1, 1, 1, 0, 3, 2, 2]), 4)],
    passed="Weight times count is the same for every class, and the mean weight is 1.",
    otherwise="You get {got}. Multiply each weight by how often its class occurs: are the products equal?",
)  # fmt: skip

check_weighted_mean = Check(
    lambda loss, target, weights: np.average(loss, weights=weights[target]),
    (lambda loss, target, weights: (weights[target] * loss).mean(),
     "You divide by the number of scans. But in a batch of one class the weight must cancel."),
    (lambda loss, target, weights: (weights[target] * loss).sum() / weights.sum(),
     "You divide by the weights of all classes. Which of them are in the batch, and how often?"),
    cases=[
        (torch.tensor([0.2, 1.5, 0.7, 0.1]), torch.tensor([0, 2, 1, 0]), WEIGHTS),
        (torch.tensor([0.3, 0.9]), torch.tensor([2, 2]), WEIGHTS),
    ],
    passed="In a batch of one class the weight cancels, as in torch's cross_entropy with weights.",
    otherwise="You get {got}. Where all losses are equal, their weighted mean is that loss: is yours?",
)  # fmt: skip


def _focal(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    return focal_loss(logits, target, gamma, weights, reduction="none")


def _weighted_before_the_focus(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    loss = cross_entropy(logits, target, weight=weights, reduction="none")
    return (1 - torch.exp(-loss)) ** gamma * loss


check_focal_loss = Check(
    _focal,
    (_weighted_before_the_focus,
     "Right without weights. With them, your p_t comes from a loss that was already weighted."),
    (lambda logits, *rest: _focal(logits.softmax(dim=1), *rest),
     "Your p_t is too even: count how often a softmax is applied. Which function wants logits?"),
    cases=[(LOGITS, TARGET, 2.0, WEIGHTS), (LOGITS.flip(0), TARGET, 0.0, WEIGHTS)],
    passed="The weight scales the loss and nothing else.",
    otherwise="For some scan you get {got}. Take γ = 0 and weights of 1: what is left must be cross-entropy.",
)  # fmt: skip


def _generalized(logits: Tensor, target: Tensor, q: float) -> Tensor:
    return (1 - torch.exp(-q * cross_entropy(logits, target, reduction="none"))) / q


def _with_pull(function: Callable) -> list:
    """Loss of each scan and its gradient, for two q, so that a loss right by chance but flat is found."""
    seen = []
    for q in (0.7, 0.3):
        logits = LOGITS.clone().requires_grad_()
        loss = function(logits, TARGET, q)
        if loss is None:
            return [loss]
        flat = torch.zeros_like(logits)  # of a loss that was detached
        seen += [loss.detach(), torch.autograd.grad(loss.sum(), logits)[0] if loss.requires_grad else flat]
    return seen


check_generalized = Check(
    _generalized,
    (lambda logits, target, q: q * _generalized(logits, target, q),
     "Your loss vanishes as q goes to 0. It should become cross-entropy there: what divides it?"),
    (lambda logits, target, q: _generalized(logits.detach(), target, q),
     "The values are right, but no gradient reaches the logits. What cut them off?"),
    observe=_with_pull,
    passed="Its gradient is cross-entropy's times p_t to the power of q: what looks wrong is pulled at less.",
    otherwise="Loss or gradient is {got}. At q = 1 the loss is 1 - p_t: start there.",
)  # fmt: skip
