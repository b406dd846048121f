"""Checks of the exercises of notebook 04: soft labels, the distillation loss, its mean, temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from kdoct_utils.exercises.checking import Check
from kdoct_utils.learn import losses

_random = torch.Generator().manual_seed(4)
_STUDENT, _TEACHER = torch.randn(2, 6, 3, generator=_random)
_TARGET = torch.tensor([0, 2, 1, 1, 0, 2])
_LARGE = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 400.0, 500.0]])
_OPPOSED = torch.tensor([[0.0, 300.0, 0.0]]), torch.tensor([[300.0, 0.0, 0.0]])

check_soft_labels = Check(
    losses.soften,
    (lambda z, t: torch.softmax(z / t, dim=0),
     "Your columns add up to 1, not your rows. Which axis holds the classes?"),
    (lambda z, t: torch.softmax(z, dim=1) / t,
     "At T = 4 your rows do not add up to 1. What is it that T divides, and when?"),
    (lambda z, t: torch.softmax(z * t, dim=1), "Your labels get sharper as T grows. They should get softer."),
    (lambda z, t: (z / t).exp() / (z / t).exp().sum(dim=1, keepdim=True),
     "Right for small logits. At 1000 exp overflows: what may be taken from all logits of a row?"),
    cases=[(_TEACHER, 4.0), (_TEACHER, 1.0), (_LARGE, 4.0)],
    passed="Rows add up to 1, and large logits do no harm.",
    otherwise="You have {got}. Try it by hand for two classes with logits 0 and 4, at T = 4.",
)  # fmt: skip

check_louder_temperature = Check(
    lambda temperature, times: temperature * times,
    (lambda t, times: t / times, "You went the wrong way: larger logits are sharper already. What undoes that?"),
    (lambda t, times: t,
     "At the same T the louder teacher gives sharper labels. T divides logits, so their size counts."),
    (lambda t, times: t + times, "The logits were multiplied. Does adding to what divides them undo that?"),
    cases=[(t, times) for t in (1.0, 2.0, 4.0) for times in (4.0, 0.5)],
    passed="T means nothing without the size of the logits it divides.",
    otherwise="You have {got}. Write softmax(c z / T') = softmax(z / T), and compare what is in the brackets.",
)  # fmt: skip

def _soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return losses.distillation_terms(student, teacher, torch.zeros(len(student), dtype=torch.long), temperature)[0]


def _log_of_softmax(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * kl_div(torch.softmax(s / t, dim=1).log(), torch.softmax(z / t, dim=1), reduction="batchmean")


check_soft_loss = Check(
    _soft_loss,
    (lambda s, z, t: _soft_loss(s, z, t) / t**2,
     "Right at T = 1, too small at T = 4. Which factor keeps the gradient's size as T grows?"),
    (lambda s, z, t: _soft_loss(s, z, t) / s.shape[1],
     "Too small by the number of classes. Look up what reduction='mean' of kl_div averages over."),
    (lambda s, z, t: _soft_loss(z, s, t),
     "This is KL(student || teacher). The order of the arguments of kl_div is not that of the formula."),
    (_log_of_softmax,
     "Right for small logits. For logits 300 apart softmax gives 0, and its logarithm minus infinity."),
    cases=[(_STUDENT, _TEACHER, 4.0), (_STUDENT, _TEACHER, 1.0), (*_OPPOSED, 1.0)],
    observe=lambda loss: loss if torch.as_tensor(loss).isfinite().all() else math.nan,  # inf and nan are the same
    passed="Teacher first, summed over classes, averaged over scans, with T², and finite for sure networks.",
    otherwise="You have {got}. Try two equal inputs first: the loss must be 0.",
)  # fmt: skip


def _loss_and_gradients(loss: Callable) -> dict | None:
    """The loss, the student's gradient, and whether a gradient reaches the teacher, for two trials."""
    seen = {"the loss": [], "the gradient of the student's logits": [], "the gradient": []}
    for temperature, alpha in ((4.0, 0.7), (2.0, 0.1)):
        student, teacher = _STUDENT.clone().requires_grad_(), _TEACHER.clone().requires_grad_()
        value = loss(student, teacher, _TARGET.clone(), temperature, alpha)
        if value is None:
            return None
        value.backward()
        reached = "stops at the teacher" if teacher.grad is None else "reaches the teacher"
        for kept, one in zip(seen.values(), (value, student.grad, reached), strict=True):
            kept.append(one)
    return seen


def _with_gradient_for_both(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * kl_div((s / t).log_softmax(dim=1), (z / t).softmax(dim=1), reduction="batchmean")


check_distillation_loss = Check(
    losses.distillation_loss,
    (lambda s, z, y, t, a: losses.distillation_loss(s, z, y, t, 1 - a),
     "Your alpha weighs the labels. In this course, as in the paper, it weighs the teacher."),
    (lambda s, z, y, t, a: a * _soft_loss(s, z, t) + (1 - a) * cross_entropy(s / t, y),
     "The labels are compared with a softened student. T belongs to the teacher's part alone."),
    (lambda s, z, y, t, a: a * _with_gradient_for_both(s, z, t) + (1 - a) * cross_entropy(s, y),
     "The value is right. But a gradient reaches the teacher's logits: it would be trained to please."),
    observe=_loss_and_gradients,
    passed="The two parts, their weights, and a teacher that only teaches.",
    otherwise="Looked at: {where}. You have {got}. Look at alpha = 0 and alpha = 1: one part must remain.",
)  # fmt: skip


def _mean_of_means(batches: list[Tensor]) -> float:
    return float(sum(batch.mean() for batch in batches) / len(batches))


check_epoch_loss = Check(
    lambda batches: float(torch.cat(batches).mean()),
    (_mean_of_means,
     "A scan in a small last batch counts more than the others. In batches of 4, 4 and 1, what does each scan weigh?"),
    (lambda batches: float(torch.cat(batches).sum()),
     "You have the sum over the scans. With twice as many scans it would double."),
    (lambda batches: float(torch.cat(batches).sum() / len(batches)),
     "Added up over scans, but divided by the number of batches. What is there to divide by?"),
    (lambda batches: float(torch.cat(batches[:-1]).mean()),
     "The last batch is missing. Its scans belong to the epoch, too."),
    cases=[(list(torch.arange(9.0).split(4)),), (list(torch.arange(12.0).flip(0).split(5)),)],
    passed="Every scan counts once, whatever the batches.",
    otherwise="You have {got}. Take nine scans with losses 0 to 8: the mean must be 4 in batches of any size.",
)  # fmt: skip


def scans_of_a_loud_teacher(
    patients: int = 150, scans: int = 6, loudness: float = 2.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Synthetic: logits (n, 3), target (n,), role (n,) "validation" or "test"; a patient is wholly in one.

    A scan's label is drawn from softmax(true logits), and the teacher says `loudness` times as much: it is right as
    often as it can be, and too sure of it. Patients differ, so the best T of one part is not that of the other.
    """
    random = np.random.default_rng(seed)
    own = 1.2 * random.normal(size=(patients, 1, 3))  # what the scans of a patient have in common
    true = (own + 1.0 * random.normal(size=(patients, scans, 3))).reshape(-1, 3)
    chances = torch.softmax(torch.from_numpy(true), dim=1).numpy()
    target = (random.random((len(true), 1)) > chances.cumsum(axis=1)[:, :2]).sum(axis=1)
    role = np.repeat(np.where(np.arange(patients) < patients // 2, "validation", "test"), scans)
    return loudness * true, target, role


def _nll(logits: np.ndarray, target: np.ndarray, temperature: float) -> float:
    return float(cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(target)))


def _calibrated(fit: str = "validation", judge: str = "test", measure: Callable = _nll) -> Callable:
    """Takes the T of the grid that is best on the scans with role `fit`; its NLL on those with role `judge`."""

    def calibrate(logits: np.ndarray, target: np.ndarray, role: np.ndarray, grid: np.ndarray) -> tuple[float, float]:
        chosen, judged = role == fit, role == judge
        best = min(grid, key=lambda t: measure(logits[chosen], target[chosen], t))
        return best, _nll(logits[judged], target[judged], best)

    return calibrate


_GRID = np.geomspace(0.2, 10, 81)

check_calibrate = Check(
    _calibrated(),
    (_calibrated(fit="test"),
     "Your T was chosen on the scans that judge it. What would you tell a reader who has other patients?"),
    (_calibrated(judge="validation"),
     "The T is right. Its NLL is that of the scans it was chosen on. Which scans can judge it?"),
    (_calibrated(measure=lambda logits, target, t: (logits.argmax(axis=1) != target).mean()),
     "T never changes which class comes first, so accuracy is the same at every T. Choose by NLL."),
    cases=[(*scans_of_a_loud_teacher(seed=2), _GRID), (*scans_of_a_loud_teacher(loudness=0.3, seed=4), _GRID)],
    passed="Chosen on validation patients, judged on test patients.",
    otherwise="You have {got}. Return two numbers: the T of the grid, then the test scans' NLL.",
)  # fmt: skip
