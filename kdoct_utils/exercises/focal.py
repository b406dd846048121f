"""Checks of the exercises of notebook 02: focal loss, class weights, and means."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
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


# --- 1. a thousandfold -----------------------------------------------------------------------------------------------

check_gamma = Check(
    right=math.log(1000) / math.log(0.9 / 0.1),
    mistakes=[
        (1000 / 9, "You divided 1000 by the ratio 9. γ is an exponent: 9 to the power of γ is to be 1000."),
        (math.log10(1000), "This is how often 10 goes into 1000 as a factor. Here the factor is 0.9 / 0.1."),
        (math.log(0.1 / 0.9) / math.log(1000),
         "Look at the two sides of γ · log(ratio) = log(1000) again. Which one is divided by which?"),
        (-math.log(1000) / math.log(9),
         "A γ below 0 would make the easy scan the important one. Which of the two focuses stands on top?"),
    ],
    passed="The factor grows as a power of 9, so a γ of little over 3 is enough.",
    otherwise="You found {got}. Put it into (0.9 / 0.1) ** γ: is that 1000?",
)  # fmt: skip


# --- 2. log p_t ------------------------------------------------------------------------------------------------------

check_log_p_true = Check(
    right=lambda logits, target: -cross_entropy(logits, target, reduction="none"),
    cases=[(LOGITS, TARGET), (EXTREME, torch.tensor([1, 2, 0]))],
    mistakes=[
        (lambda logits, target: _of_true(logits.softmax(dim=1).log(), target),
         "Right on paper, but one of the answers is minus infinity. The softmax of logits such as [200, 0, -5] is 0 in "
         "float32 before you take its logarithm. Is there a function that does both steps at once?"),
        (lambda logits, target: _of_true(logits.softmax(dim=1).log_softmax(dim=1), target),
         "Your probabilities are too even. Something that takes logits was given probabilities: count how often a "
         "softmax is applied."),
        (lambda logits, target: _of_true(logits.log_softmax(dim=0), target),
         "Which axis must sum to 1? The logits have shape (scans, classes), and scans do not compete."),
        (lambda logits, target: _of_true(logits.softmax(dim=1), target),
         "These are the probabilities. The logarithm was asked for."),
    ],
    passed="Finite even where p_t is too small for float32.",
    otherwise="For some scan you get {got}. Try a scan whose logits are all equal: there p_t is one over the classes.",
)  # fmt: skip


# --- 3. class weights, and the mean that they are asked for ----------------------------------------------------------


def _from_counts(weights: Callable[[Tensor], Tensor]) -> Callable:
    return lambda target, n_classes: weights(torch.bincount(target, minlength=n_classes).float())


check_class_weights = Check(
    right=balanced_class_weights,
    cases=[(torch.tensor([0] * 8 + [1] * 2 + [2] * 6), 3), (torch.tensor([1, 1, 1, 0, 3, 2, 2]), 4)],
    mistakes=[
        (_from_counts(lambda counts: counts / counts.mean()),
         "The commonest class gets your largest weight. Which class should be helped?"),
        (_from_counts(lambda counts: 1 / counts),
         "The ratios are right. The scale is not: the mean over the classes should be 1."),
        (_from_counts(lambda counts: 1 / counts / (1 / counts).sum()),
         "Your weights sum to 1. Their mean should be 1, so what should their sum be?"),
        (lambda target, n: compute_class_weight("balanced", classes=np.arange(n), y=target.numpy()),
         "This is scikit-learn's scale: the mean is 1 over the scans. Here it is to be 1 over the classes."),
    ],
    passed="Weight times count is the same for every class, and the mean weight is 1.",
    otherwise="You get {got}. Multiply each weight by how often its class occurs: are the products equal?",
)  # fmt: skip

check_weighted_mean = Check(
    right=lambda loss, target, weights: np.average(loss, weights=weights[target]),
    cases=[
        (torch.tensor([0.2, 1.5, 0.7, 0.1]), torch.tensor([0, 2, 1, 0]), WEIGHTS),
        (torch.tensor([0.3, 0.9]), torch.tensor([2, 2]), WEIGHTS),
    ],
    mistakes=[
        (lambda loss, target, weights: (weights[target] * loss).mean(),
         "You divide by the number of scans. A weighted mean divides by something else: in a batch of one class, the "
         "weight must cancel."),
        (lambda loss, target, weights: loss.mean(),
         "Every scan counts the same in your mean. Where do the weights come in?"),
        (lambda loss, target, weights: (weights[target] * loss).sum() / weights.sum(),
         "You divide by the weights of all classes. Which of them are in the batch, and how often?"),
    ],
    passed="In a batch of one class the weight cancels, as in torch's cross_entropy with weights.",
    otherwise="You get {got}. Where all losses are equal, their weighted mean is that loss: is yours?",
)  # fmt: skip


# --- 4. focal loss with class weights --------------------------------------------------------------------------------


def _focal(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    return focal_loss(logits, target, gamma, weights, reduction="none")


def _weighted_before_the_focus(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    loss = cross_entropy(logits, target, weight=weights, reduction="none")
    return (1 - torch.exp(-loss)) ** gamma * loss


def _focus_on_the_easy(logits: Tensor, target: Tensor, gamma: float, weights: Tensor) -> Tensor:
    loss = cross_entropy(logits, target, reduction="none")
    return weights[target] * torch.exp(-loss) ** gamma * loss


check_focal_loss = Check(
    right=_focal,
    cases=[(LOGITS, TARGET, 2.0, WEIGHTS), (LOGITS.flip(0), TARGET, 0.0, WEIGHTS)],
    mistakes=[
        (_weighted_before_the_focus,
         "Without weights you are right. With them, p_t is not a probability of the network: it comes from a loss that "
         "was already weighted. Where does the weight enter first?"),
        (lambda logits, *rest: _focal(logits.softmax(dim=1), *rest),
         "Your p_t is too even: a softmax was applied to what was already a probability. Which of your functions wants "
         "logits?"),
        (_focus_on_the_easy,
         "Your loss looks at the easy scans: the focus grows with p_t. What is still missing to 1?"),
        (lambda logits, target, gamma, weights: weights[target] * _focal(logits, target, gamma, weights),
         "The class weight is a factor of your loss twice. Which of your two lines may keep it?"),
    ],
    passed="The weight scales the loss and nothing else.",
    otherwise="For some scan you get {got}. Take γ = 0 and weights of 1: what is left must be cross-entropy.",
)  # fmt: skip


# --- 5. the opposite of focal loss -----------------------------------------------------------------------------------


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
    right=_generalized,
    observe=_with_pull,
    mistakes=[
        (lambda logits, target, q: q * _generalized(logits, target, q),
         "Your loss vanishes as q goes to 0. It should become cross-entropy there: what divides it?"),
        (lambda logits, target, q: (1 - torch.exp(-cross_entropy(logits, target, reduction="none"))) ** q / q,
         "The power belongs to p_t, not to 1 - p_t. That one would be focal loss's focus."),
        (lambda logits, target, q: (1 - logits.softmax(dim=1) ** q).sum(dim=1) / q,
         "You sum over all classes. Only the probability of the label enters."),
        (lambda logits, target, q: _generalized(logits.detach(), target, q),
         "The values are right, but no gradient reaches the logits. Did something detach them, or turn them into "
         "numbers?"),
    ],
    passed="Its gradient is cross-entropy's times p_t to the power of q: what looks wrong is pulled at less.",
    otherwise="Loss or gradient is {got}. At q = 1 the loss is 1 - p_t: start there.",
)  # fmt: skip
