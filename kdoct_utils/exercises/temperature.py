"""Checks of the exercises of notebook 04: soft labels, entropy, the distillation loss, temperature scaling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.learn import losses

__all__ = [
    "DOUBLED_TEMPERATURES", "check_calibrate", "check_distillation_loss", "check_entropy", "check_louder_temperature",
    "check_soft_labels", "check_soft_loss", "scans_of_a_loud_teacher",
]  # fmt: skip

_random = torch.Generator().manual_seed(4)
_STUDENT, _TEACHER = torch.randn(2, 6, 3, generator=_random)
_TARGET = torch.tensor([0, 2, 1, 1, 0, 2])
_LARGE = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 400.0, 500.0]])
_OPPOSED = torch.tensor([[0.0, 300.0, 0.0]]), torch.tensor([[300.0, 0.0, 0.0]])


def _log_q(student: Tensor, temperature: float, dim: int = 1) -> Tensor:
    return torch.log_softmax(student / temperature, dim=dim)


# --- 1. soft labels --------------------------------------------------------------------------------------------------


def _exp_overflows(logits: Tensor, temperature: float) -> Tensor:
    scaled = (logits / temperature).exp()
    return scaled / scaled.sum(dim=1, keepdim=True)


check_soft_labels = Check(
    "check_soft_labels",
    right=losses.soften,
    observe=applied_to((_TEACHER, 4.0), (_TEACHER, 1.0), (_LARGE, 4.0)),
    mistakes=(
        Mistake("wrong axis", lambda z, t: torch.softmax(z / t, dim=0),
                "Your columns add up to 1, not your rows. Which axis holds the classes?"),
        Mistake("temperature after softmax", lambda z, t: torch.softmax(z, dim=1) / t,
                "At T = 4 your rows do not add up to 1. What is it that T divides, and when?"),
        Mistake("T forgotten", lambda z, t: torch.softmax(z, dim=1),
                "You give the same labels at T = 1 and at T = 4. Where does T come in?"),
        Mistake("multiplied", lambda z, t: torch.softmax(z * t, dim=1),
                "Your labels get sharper as T grows. They should get softer."),
        Mistake("softmax twice", lambda z, t: torch.softmax(torch.softmax(z, dim=1) / t, dim=1),
                "Your labels are nearly uniform whatever the logits. How often is softmax applied?"),
        Mistake("logarithm", lambda z, t: torch.log_softmax(z / t, dim=1),
                "Your values are below 0. A probability is not. Which of two similar functions did you take?"),
        Mistake("overflow", _exp_overflows,
                "Right for small logits, but with a logit of 1000 the result is not a number: exp overflows. "
                "What may be subtracted from all logits of a row without changing its softmax?"),
    ),
    passed="Rows add up to 1, and large logits do no harm.",
    otherwise="Where {wanted} was expected you have {got}. Try it by hand for two classes with logits 0 and 4, T = 4.",
)  # fmt: skip

DOUBLED_TEMPERATURES = (1.0, 2.0, 4.0)  # at which the first teacher is asked, in the second part of exercise 1

check_louder_temperature = Check(
    "check_louder_temperature",
    right=lambda temperature, times: temperature * times,
    observe=applied_to(*((t, times) for t in DOUBLED_TEMPERATURES for times in (4.0, 0.5))),
    mistakes=(
        Mistake("divided", lambda t, times: t / times,
                "You went the wrong way: larger logits are sharper already. What undoes that?"),
        Mistake("unchanged", lambda t, times: t,
                "At the same T the louder teacher gives sharper labels. T divides logits, so their size counts."),
        Mistake("square root", lambda t, times: t * times**0.5,
                "There is no square here: softmax(c z / T') has to equal softmax(z / T) for all z."),
        Mistake("added", lambda t, times: t + times, "T divides. So factors of it multiply; they do not add."),
    ),
    passed="T means nothing without the size of the logits it divides.",
    otherwise="{got} is not {wanted}. Write softmax(c z / T') = softmax(z / T), and compare what is in the brackets.",
)  # fmt: skip


# --- 2. entropy ------------------------------------------------------------------------------------------------------


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=1)


def _entropy_by_log(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.log()).sum(dim=1)


check_entropy = Check(
    "check_entropy",
    right=_entropy,
    observe=applied_to((torch.softmax(_TEACHER, 1),), (torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]),)),
    mistakes=(
        Mistake("zero times log zero", _entropy_by_log,
                "Right for answers between 0 and 1. For a probability of exactly 0 you get nan: 0 times minus "
                "infinity. torch.special has functions that know the limit."),
        Mistake("sum over the scans", lambda p: torch.special.entr(p).sum(dim=0),
                "You have one number a class. Entropy is one number a scan: over which axis do you add?"),
        Mistake("mean over the classes", lambda p: torch.special.entr(p).mean(dim=1),
                "Your values are too small by the number of classes. Entropy adds over classes; it does not average."),
        Mistake("one number for all", lambda p: torch.special.entr(p).sum(),
                "You added over everything. Keep one number a scan."),
        Mistake("sign", lambda p: -torch.special.entr(p).sum(dim=1),
                "Entropy is never below 0. Look at the sign: the logarithm of a probability is negative."),
        Mistake("bits", lambda p: torch.special.entr(p).sum(dim=1) / np.log(2),
                "These are bits. This course counts in nats: take the natural logarithm."),
    ),
    passed="0 for a certain answer, log 2 for a choice between two.",
    otherwise="Where {wanted} was expected you have {got}. A certain answer has 0; two equal ones have log 2.",
)  # fmt: skip


# --- 3. the soft part of the loss ------------------------------------------------------------------------------------


def _soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return losses.distillation_terms(student, teacher, torch.zeros(len(student), dtype=torch.long), temperature)[0]


def _over_scans(terms: Tensor) -> Tensor:
    return terms.sum(dim=1).mean()


def _soft_by(average: Callable[[Tensor], Tensor], power: int = 2) -> Callable:
    """average: of the terms (batch, classes) of the divergence. power: of T in the factor before it."""

    def loss(s: Tensor, z: Tensor, t: float) -> Tensor:
        divergence = average(functional.kl_div(_log_q(s, t), torch.softmax(z / t, dim=1), reduction="none"))
        return t**power * divergence

    return loss


def _student_twice(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * functional.kl_div(_log_q(torch.softmax(s, 1), t), torch.softmax(z / t, 1), reduction="batchmean")


def _both_twice(s: Tensor, z: Tensor, t: float) -> Tensor:
    p = torch.softmax(torch.softmax(z, 1) / t, 1)
    return t**2 * functional.kl_div(_log_q(torch.softmax(s, 1), t), p, reduction="batchmean")


def _log_of_softmax(s: Tensor, z: Tensor, t: float) -> Tensor:
    q, p = torch.softmax(s / t, dim=1), torch.softmax(z / t, dim=1)
    return t**2 * functional.kl_div(q.log(), p, reduction="batchmean")


def _logarithm_as_target(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * functional.kl_div(_log_q(s, t), _log_q(z, t), reduction="batchmean")


def _probabilities_as_input(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * functional.kl_div(torch.softmax(s / t, 1), torch.softmax(z / t, 1), reduction="batchmean")


def _student_first(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * functional.kl_div(_log_q(z, t), _log_q(s, t), log_target=True, reduction="batchmean")


def _softmax_over_scans(s: Tensor, z: Tensor, t: float) -> Tensor:
    return t**2 * functional.kl_div(_log_q(s, t, 0), torch.softmax(z / t, dim=0), reduction="batchmean")


def _losses_seen(loss: Callable) -> list:
    """For three trials. What is not finite is told apart from numbers, not from one another."""
    found = [loss(s.clone(), z.clone(), t) for s, z, t in ((_STUDENT, _TEACHER, 4.0), (_STUDENT, _TEACHER, 1.0))]
    last = loss(*_OPPOSED, 1.0)
    bad = isinstance(last, Tensor) and last.ndim == 0 and not bool(torch.isfinite(last))
    return [*found, "not finite" if bad else last]


check_soft_loss = Check(
    "check_soft_loss",
    right=_soft_loss,
    observe=_losses_seen,
    mistakes=(
        Mistake("no T squared", _soft_by(_over_scans, power=0),
                "Right at T = 1, too small at T = 4. Which factor keeps the gradient's size as T grows?"),
        Mistake("T once", _soft_by(_over_scans, power=1),
                "Right at T = 1, still too small at T = 4, though T stands before it. Softening weakens the gradient "
                "in two places: count them."),
        Mistake("mean over scans and classes", _soft_by(torch.mean),
                "Too small by the number of classes. Look up what reduction='mean' of kl_div averages over."),
        Mistake("mean over both and no T squared", _soft_by(torch.mean, power=0),
                "Two things are missing: a factor that depends on T, and one as large as the number of classes."),
        Mistake("sum over the scans", _soft_by(torch.sum),
                "Your loss grows with the batch: twice the scans, twice the loss. Average over the scans."),
        Mistake("softmax twice, student", _student_twice,
                "Your loss is not 0 where student and teacher agree. Is softmax applied twice to the student?"),
        Mistake("softmax twice, both", _both_twice,
                "Your loss hardly changes with the logits. Both sides pass through softmax before T comes in."),
        Mistake("log of softmax", _log_of_softmax,
                "Right for small logits. For logits 300 apart softmax gives exactly 0, and its logarithm is minus "
                "infinity. One function does both steps safely."),
        Mistake("log_softmax where probabilities are wanted", _logarithm_as_target,
                "You get nan. kl_div takes its second argument as probabilities unless it is told otherwise, and "
                "the logarithm of a negative number is none."),
        Mistake("probabilities where log_softmax is wanted", _probabilities_as_input,
                "kl_div wants the logarithm of the student's probabilities as its first argument."),
        Mistake("the wrong way round", _student_first,
                "This is KL(student || teacher). The order of the arguments of kl_div is not that of the formula."),
        Mistake("wrong axis", _softmax_over_scans,
                "Your softmax runs over the scans of the batch. A scan's probabilities should add up to 1."),
    ),
    passed="Teacher first, summed over classes, averaged over scans, with T², and finite for sure networks.",
    otherwise="You have {got}, expected was {wanted}. Try two equal inputs first: the loss must be 0.",
)  # fmt: skip


# --- 4. the whole loss -----------------------------------------------------------------------------------------------


def _loss_and_gradients(loss: Callable) -> object:
    """For two trials the loss, the student's gradient, and whether a gradient reaches the teacher."""
    values, gradients, reached = {}, {}, {}
    for temperature, alpha in ((4.0, 0.7), (2.0, 0.1)):
        name = f"at T = {temperature:g} and alpha = {alpha:g}"
        student, teacher = _STUDENT.clone().requires_grad_(), _TEACHER.clone().requires_grad_()
        value = loss(student, teacher, _TARGET.clone(), temperature, alpha)
        if value is None or value is Ellipsis:
            return [value]
        value.backward()
        values[name], gradients[name] = value, student.grad
        reached[name] = "reaches the teacher" if teacher.grad is not None else "stops at the teacher"
    # losses first: as long as one of them is wrong, no gradient is talked about
    return {"the loss": values, "the gradient of the student's logits": gradients, "the gradient": reached}


def _whole(s: Tensor, z: Tensor, y: Tensor, t: float, a: float, hard_at: float = 1.0, outer: float = 1.0) -> Tensor:
    return outer * (a * _soft_loss(s, z, t) + (1 - a) * functional.cross_entropy(s / hard_at, y))


def _open_teacher(s: Tensor, z: Tensor, y: Tensor, t: float, a: float) -> Tensor:
    return a * _soft_by(_over_scans)(s, z, t) + (1 - a) * functional.cross_entropy(s, y)


def _alpha_once(s: Tensor, z: Tensor, y: Tensor, t: float, a: float) -> Tensor:
    return a * _soft_loss(s, z, t) + functional.cross_entropy(s, y)


def _square_over_both(s: Tensor, z: Tensor, y: Tensor, t: float, a: float) -> Tensor:
    soft = _soft_by(_over_scans, power=0)(s, z.detach(), t)
    return t**2 * (a * soft + (1 - a) * functional.cross_entropy(s, y))


def _of_probabilities(s: Tensor, z: Tensor, y: Tensor, t: float, a: float) -> Tensor:
    return a * _soft_loss(s, z, t) + (1 - a) * functional.cross_entropy(torch.softmax(s, dim=1), y)


def _soft_without_gradient(s: Tensor, z: Tensor, y: Tensor, t: float, a: float) -> Tensor:
    with torch.no_grad():
        soft = _soft_loss(s, z, t)
    return a * soft + (1 - a) * functional.cross_entropy(s, y)


check_distillation_loss = Check(
    "check_distillation_loss",
    right=losses.distillation_loss,
    observe=_loss_and_gradients,
    mistakes=(
        Mistake("alpha swapped", lambda s, z, y, t, a: _whole(s, z, y, t, 1 - a),
                "Your alpha weighs the labels. In this course, as in the paper, it weighs the teacher."),
        Mistake("weights not shared out", _alpha_once,
                "Your two weights do not add up to 1."),
        Mistake("temperature for the labels", lambda s, z, y, t, a: _whole(s, z, y, t, a, hard_at=t),
                "The labels are compared with a softened student. T belongs to the teacher's part alone."),
        Mistake("T squared over both", _square_over_both,
                "T² multiplies the labels' part as well. Only one of the two parts shrinks as T grows."),
        Mistake("softmax before cross_entropy", _of_probabilities,
                "The labels' part: cross_entropy takes logits. It applies log_softmax itself."),
        Mistake("gradient reaches the teacher", _open_teacher,
                "The value is right. But a gradient reaches the teacher's logits: it would be trained to please."),
        Mistake("soft part without a gradient", _soft_without_gradient,
                "The value is right. But the student gets a gradient from the labels only: nothing of the teacher's "
                "part is recorded. Cut off the teacher, not the whole part."),
    ),
    passed="The two parts, their weights, and a teacher that only teaches.",
    otherwise="Looked at: {where}. You have {got}, expected was {wanted}. Look at alpha = 0 and alpha = 1: one part "
    "must remain.",
)  # fmt: skip


# --- 5. temperature scaling ------------------------------------------------------------------------------------------


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


_GRID = np.geomspace(0.2, 10, 81)


def _nll(logits: np.ndarray, target: np.ndarray, temperature: float) -> float:
    return float(functional.cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(target)))


def _calibrated(
    logits: np.ndarray, target: np.ndarray, role: np.ndarray, grid: np.ndarray,
    fit: str = "validation", judge: str = "test", measure: Callable = _nll,
) -> tuple[float, float]:  # fmt: skip
    """The T of the grid that is best on the scans with role `fit`, and its NLL on those with role `judge`."""
    chosen, judged = ((role == name) | (name == "all") for name in (fit, judge))
    best = min(grid, key=lambda t: measure(logits[chosen], target[chosen], t))
    return float(best), _nll(logits[judged], target[judged], best)


def _with(**changed: object) -> Callable:
    return lambda logits, target, role, grid: _calibrated(logits, target, role, grid, **changed)


def _errors(logits: np.ndarray, target: np.ndarray, _temperature: float) -> float:
    return float((logits.argmax(axis=1) != target).mean())


def _multiplied(logits: np.ndarray, target: np.ndarray, role: np.ndarray, grid: np.ndarray) -> tuple[float, float]:
    best, nll = _calibrated(logits, target, role, 1 / grid)
    return 1 / best, nll


def _index(logits: np.ndarray, target: np.ndarray, role: np.ndarray, grid: np.ndarray) -> tuple[int, float]:
    best, nll = _calibrated(logits, target, role, grid)
    return int(np.abs(grid - best).argmin()), nll


check_calibrate = Check(
    "check_calibrate",
    right=_calibrated,
    observe=applied_to((*scans_of_a_loud_teacher(seed=2), _GRID),
                       (*scans_of_a_loud_teacher(loudness=0.3, seed=4), _GRID)),
    mistakes=(
        Mistake("chosen on the test scans", _with(fit="test"),
                "Your T was chosen on the scans that judge it. What would you tell a reader who has other patients?"),
        Mistake("chosen on all scans", _with(fit="all"),
                "Your T has seen the test scans too. Choose it on the validation scans alone."),
        Mistake("judged on the validation scans", _with(judge="validation"),
                "The T is right. Its NLL is that of the scans it was chosen on: report the test scans'."),
        Mistake("judged on all scans", _with(judge="all"),
                "The T is right. Its NLL should be that of the test scans alone."),
        Mistake("chosen by accuracy", _with(measure=_errors),
                "T never changes which class comes first, so accuracy is the same at every T. Choose by NLL."),
        Mistake("the largest", _with(measure=lambda *given: -_nll(*given)),
                "You took the T with the largest NLL. Smaller is better."),
        Mistake("multiplied", _multiplied,
                "Your T is smaller than 1 for a teacher that is too loud. What does T do to the logits?"),
        Mistake("place in the grid", _index,
                "The NLL is right. Your first number is a place in the grid; asked is the T that stands there."),
    ),
    passed="Chosen on validation patients, judged on test patients.",
    otherwise="You have {got}, expected was {wanted}. Return two numbers: the T of the grid, then the test scans' NLL.",
)  # fmt: skip
