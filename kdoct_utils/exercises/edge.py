"""Checks of the exercises to notebook 06: latency, batch norm, 8 bits, thresholds, and files that cannot be read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdoct_utils.exercises.checking import Check, Mistake, applied_to

__all__ = ["check_fold", "check_latency", "check_operating_point", "check_rates", "check_read", "check_round_trip"]

# --- 1. a latency ----------------------------------------------------------------------------------------------------

# Seconds of calls: two slow ones to warm up, a busy moment of the machine among the others.
CALLS = [0.0500, 0.0120, 0.0011, 0.0010, 0.0012, 0.0300, 0.0013]


def _median_ms(seconds: list[float], warmup: int) -> float:
    return 1000 * float(np.median(seconds[warmup:]))


check_latency = Check(
    "check_latency",
    right=_median_ms,
    observe=applied_to((CALLS, 2), (CALLS[:3] + CALLS[5:], 1)),
    mistakes=(
        Mistake("mean", lambda seconds, warmup: 1000 * np.mean(seconds[warmup:]),
                "One busy moment of the machine pulls your number up. Which average hardly notices a single outlier?"),
        Mistake("no warm-up", lambda seconds, warmup: 1000 * np.median(seconds),
                "The first calls are still in your number. They pay for what later calls find ready."),
        Mistake("mean without warm-up", lambda seconds, warmup: 1000 * np.mean(seconds),
                "Two things at once: the first calls are still counted, and one slow call pulls your average up."),
        Mistake("the last ones dropped", lambda seconds, warmup: 1000 * np.median(seconds[:-warmup]),
                "You left out the last calls. Which ones warm up?"),
        Mistake("seconds", lambda seconds, warmup: np.median(seconds[warmup:]),
                "The number is right, its unit is not: milliseconds were asked for."),
    ),
    passed="A median after a warm-up: neither the first calls nor a busy moment decide.",
    otherwise="You get {got} where {wanted} is right.",
)  # fmt: skip

# --- 2. folding a batch norm -----------------------------------------------------------------------------------------


def _norm(seed: int) -> tuple[Tensor, ...]:
    """weight (3, 3, 3, 3), bias, then gamma, beta, mean and variance of a batch norm (3,), and eps.

    As many input as output channels, so that a factor laid along the wrong axis runs; one variance is near eps.
    """
    random = torch.Generator().manual_seed(seed)
    weight, bias, beta, mean = (torch.randn(shape, generator=random) for shape in ((3, 3, 3, 3), 3, 3, 3))
    gamma, variance = 0.5 + torch.rand(2, 3, generator=random)
    variance[1] = 2e-3
    return weight, bias, gamma, beta, mean, variance, 1e-3


def _folded(weight, bias, gamma, beta, mean, variance, eps):
    factor = gamma / (variance + eps).sqrt()
    return weight * factor.view(-1, 1, 1, 1), (bias - mean) * factor + beta


def _lost_bias(weight, bias, *norm):
    return _folded(weight, torch.zeros_like(bias), *norm)


def _bias_not_scaled(weight, bias, gamma, beta, mean, variance, eps):
    factor = gamma / (variance + eps).sqrt()
    return weight * factor.view(-1, 1, 1, 1), bias + beta - mean * factor


def _no_root(weight, bias, gamma, beta, mean, variance, eps):
    return _folded(weight, bias, gamma, beta, mean, (variance + eps) ** 2, 0)


def _along_the_inputs(weight, bias, gamma, beta, mean, variance, eps):
    factor = gamma / (variance + eps).sqrt()
    return weight * factor.view(1, -1, 1, 1), (bias - mean) * factor + beta


def _along_the_columns(weight, bias, gamma, beta, mean, variance, eps):
    factor = gamma / (variance + eps).sqrt()
    return weight * factor, (bias - mean) * factor + beta


check_fold = Check(
    "check_fold",
    right=_folded,
    observe=applied_to(_norm(0), _norm(1)),
    mistakes=(
        Mistake("no eps", lambda *given: _folded(*given[:-1], 0.0),
                "Look at the channel with the smallest variance. Something small stands beside it in a batch norm, and "
                "is not small there."),
        Mistake("bias lost", _lost_bias,
                "Weights right, bias not. The convolution had a bias of its own: what does the batch norm do to it?"),
        Mistake("bias not scaled", _bias_not_scaled,
                "Weights right, bias not. The batch norm multiplies all that the convolution gives, its bias too."),
        Mistake("no root", _no_root,
                "A batch norm divides by a standard deviation. You divided by a variance."),
        Mistake("along the inputs", _along_the_inputs,
                "The factor lies along the second axis of the weight. Its shape is (outputs, inputs, k, k): which of "
                "them does the batch norm see?"),
        Mistake("along the columns", _along_the_columns,
                "Without a view the factor lies along the last axis, the columns of the kernel. It runs because there "
                "are as many columns as channels. Which axis holds the output channels?"),
    ),
    passed="The batch norm is gone, and nothing else has changed.",
    otherwise="In weight or bias you get {got} where {wanted} is right.",
)  # fmt: skip

# --- 3. eight bits ---------------------------------------------------------------------------------------------------


def _kernel(seed: int) -> Tensor:
    """(4, 4, 3, 3): output channels of very different size, each with its own largest weight, some negative."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 4, 3, 3, generator=random) * torch.tensor([0.02, 0.3, 1.0, 4.0]).view(-1, 1, 1, 1)


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-127, 127) * scale


def _per_channel(weight: Tensor) -> Tensor:
    return _rounded(weight, weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127)


def _cut_off(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    return (weight / scale).to(torch.int8) * scale


check_round_trip = Check(
    "check_round_trip",
    right=_per_channel,
    observe=applied_to((_kernel(0),), (-_kernel(1),)),
    mistakes=(
        Mistake("per tensor", lambda weight: _rounded(weight, weight.abs().max() / 127),
                "Your largest channel is right, the small ones are coarse. How many scales does your tensor have?"),
        Mistake("per input channel",
                lambda weight: _rounded(weight, weight.abs().amax(dim=(0, 2, 3), keepdim=True) / 127),
                "One scale a channel, but of the inputs. A weight has the shape (outputs, inputs, k, k)."),
        Mistake("largest without its sign",
                lambda weight: _rounded(weight, weight.amax(dim=(1, 2, 3), keepdim=True) / 127),
                "Some weights are cut off. In those channels the largest weight in size is negative."),
        Mistake("cut off", _cut_off,
                "Your error reaches a whole step and always points to 0. Turning into an integer is not rounding."),
        Mistake("255 steps from 0",
                lambda weight: _rounded(weight, weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 255),
                "Your steps are half as wide, and the large weights are cut off. From 0 to the largest there are 127 "
                "levels, for the sign takes the other half."),
        Mistake("still integers",
                lambda weight: (weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127)).round(),
                "These are the numbers of the levels. What is read again is the level itself."),
    ),
    passed="Each channel uses all its levels, and no weight is off by more than half its channel's step.",
    otherwise="For some weight you get {got} where {wanted} is right.",
)  # fmt: skip

# --- 4. an operating point -------------------------------------------------------------------------------------------

# Scores for disease of patients who are ill (True) and healthy (False). The test patients are the harder ones.
VALIDATION = np.array([0.95, 0.90, 0.80, 0.75, 0.60, 0.55, 0.35, 0.50, 0.40, 0.30, 0.20, 0.10, 0.05])
VALIDATION_ILL = np.array([True] * 7 + [False] * 6)
TEST = np.array([0.92, 0.70, 0.45, 0.38, 0.25, 0.65, 0.42, 0.36, 0.33, 0.28, 0.22, 0.15])
TEST_ILL = np.array([True] * 5 + [False] * 7)


def _rates(score: np.ndarray, ill: np.ndarray, threshold: float) -> tuple[float, float]:
    called = score >= threshold
    return called[ill].mean(), (~called)[~ill].mean()


def _predictive(score, ill, threshold):
    called = score >= threshold
    return ill[called].mean(), (~ill)[~called].mean()


def _of_all(score, ill, threshold):
    return np.mean((score >= threshold) & ill), np.mean((score < threshold) & ~ill)


check_rates = Check(
    "check_rates",
    right=_rates,
    observe=applied_to((TEST, TEST_ILL, 0.36), (VALIDATION, VALIDATION_ILL, 0.58)),
    mistakes=(
        Mistake("swapped", lambda *given: _rates(*given)[::-1],
                "Both numbers are there, in the wrong order. Sensitivity is about patients who are ill."),
        Mistake("predictive values", _predictive,
                "You divide by those who were called ill or healthy. Divide by those who are."),
        Mistake("above only", lambda score, ill, threshold: _rates(score, ill, np.nextafter(threshold, 1)),
                "A score equal to the threshold counts as ill here. Yours does not."),
        Mistake("false alarms", lambda *given: (_rates(*given)[0], 1 - _rates(*given)[1]),
                "Your second number is the share of the healthy who were called ill. Specificity is the others."),
        Mistake("of all patients", _of_all,
                "You divide by all patients. Each rate is about one of the two groups alone."),
    ),
    passed="Each rate has its own group of patients to divide by.",
    otherwise="You get {got} where {wanted} is right.",
)  # fmt: skip


def _highest(score: np.ndarray, ill: np.ndarray, wanted: float) -> float:
    """The highest score at which at least a share `wanted` of the ill is found."""
    return max(one for one in score if _rates(score, ill, one)[0] >= wanted)


def _point(validation_score, validation_ill, test_score, test_ill, wanted):
    threshold = _highest(validation_score, validation_ill, wanted)
    return threshold, *_rates(test_score, test_ill, threshold)


def _chosen_on_test(validation_score, validation_ill, test_score, test_ill, wanted):
    return _point(test_score, test_ill, test_score, test_ill, wanted)


def _scored_on_validation(validation_score, validation_ill, test_score, test_ill, wanted):
    return _point(validation_score, validation_ill, validation_score, validation_ill, wanted)


def _lowest(validation_score, validation_ill, test_score, test_ill, wanted):
    return validation_score.min(), *_rates(test_score, test_ill, validation_score.min())


def _most_accurate(validation_score, validation_ill, test_score, test_ill, wanted):
    best = max(sorted(validation_score), key=lambda one: np.mean((validation_score >= one) == validation_ill))
    return best, *_rates(test_score, test_ill, best)


def _by_specificity(validation_score, validation_ill, test_score, test_ill, wanted):
    found = min(one for one in validation_score if _rates(validation_score, validation_ill, one)[1] >= wanted)
    return found, *_rates(test_score, test_ill, found)


check_operating_point = Check(
    "check_operating_point",
    right=_point,
    observe=applied_to(
        (VALIDATION, VALIDATION_ILL, TEST, TEST_ILL, 0.95), (VALIDATION, VALIDATION_ILL, TEST, TEST_ILL, 0.55)
    ),
    mistakes=(
        Mistake("chosen on test", _chosen_on_test,
                "Your threshold was chosen on the test patients, so the sensitivity there is what you asked for, by "
                "construction. On whom may it be chosen?"),
        Mistake("scored on validation", _scored_on_validation,
                "The threshold is right. The two rates are of the patients who chose it, and those flatter it."),
        Mistake("lowest threshold", _lowest,
                "It finds all the ill, and calls nearly all the healthy ill too. Of the thresholds that find enough, "
                "which costs the fewest false alarms?"),
        Mistake("most accurate", _most_accurate,
                "You took the threshold with the most right answers. A screening asked for a sensitivity."),
        Mistake("by specificity", _by_specificity,
                "Your threshold guarantees the specificity. The sensitivity was to be guaranteed."),
    ),
    passed="Chosen on validation, measured once on test. The test sensitivity may well miss what was asked for.",
    otherwise="You get {got} where {wanted} is right. The three numbers are threshold, sensitivity, specificity.",
)  # fmt: skip

# --- 5. files that cannot be read ------------------------------------------------------------------------------------

SIDE = 4
KNOWN = {"normal": 0, "drusen": 1, "cnv": 2}
ROWS = [("a.png", "cnv"), ("b.png", "drusen"), ("c.png", "CNV?"), ("d.png", "normal"), ("e.png", "cnv"),
        ("f.png", "drusne")]  # fmt: skip
TORN = ("b.png", "e.png")


def read_or_stop(name: str) -> np.ndarray:
    """A picture (4, 4) for every name but two, whose files are cut short: those raise OSError."""
    if name in TORN:
        raise OSError(f"{name}: file is cut short")
    return np.full((SIDE, SIDE), ord(name[0]), np.uint8)


def _read(rows, read, known, black=False, class_0=False, names=True):
    """The right answer, or one of the reference's habits: black pictures, class 0, nothing said."""
    pictures, targets, refused = [], [], []
    for name, label in rows:
        try:
            picture = read(name)
        except OSError:
            if not black:
                refused.append(name)
                continue
            picture = np.zeros((SIDE, SIDE), np.uint8)
        if label not in known and not class_0:
            refused.append(name)
            continue
        pictures.append(picture)
        targets.append(known.get(label, 0))
    return pictures, targets, refused if names else []


def _out_of_step(rows, read, known):
    pictures, _, refused = _read(rows, read, known)
    targets = [known[label] for _, label in rows if label in known]
    return pictures, targets, refused


check_read = Check(
    "check_read",
    right=_read,
    observe=applied_to((ROWS, read_or_stop, KNOWN), (ROWS[3:4] + ROWS[:2], read_or_stop, KNOWN)),
    mistakes=(
        Mistake("black picture", lambda *given: _read(*given, black=True),
                "A file that cannot be read is still among your pictures. A network will answer to it, and be scored."),
        Mistake("class 0", lambda *given: _read(*given, class_0=True),
                "A label that nobody knows is among your targets, as a class that it may not be. Which one is 0?"),
        Mistake("black and class 0", lambda *given: _read(*given, black=True, class_0=True),
                "This is the reference: pictures that nobody took, labels that nobody gave, and an empty list."),
        Mistake("in silence", lambda *given: _read(*given, names=False),
                "Pictures and targets are right. But who will know that some are missing? Name them."),
        Mistake("out of step", _out_of_step,
                "You have more targets than pictures: the label of a refused file stayed. Every later label is now "
                "another scan's."),
    ),
    passed="What cannot be read is refused and named, and every picture has its own label.",
    otherwise="Pictures, targets or refused names: you get {got} where {wanted} is right.",
)  # fmt: skip
