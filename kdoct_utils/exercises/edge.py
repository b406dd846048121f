"""Checks of the exercises of notebook 06: latency, batch norm, 8 bits, thresholds, and files that cannot be read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdoct_utils.exercises.checking import Check

_CALLS = [0.0500, 0.0120, 0.0011, 0.0010, 0.0012, 0.0300, 0.0013]  # seconds: two slow ones to warm up, a busy moment

check_latency = Check(
    lambda seconds, warmup: 1000 * np.median(seconds[warmup:]),
    (lambda seconds, warmup: 1000 * np.mean(seconds[warmup:]),
     "One busy moment of the machine pulls your number up. Which average hardly notices a single outlier?"),
    (lambda seconds, warmup: 1000 * np.median(seconds),
     "The first calls are still in your number. They pay for what later calls find ready."),
    (lambda seconds, warmup: np.median(seconds[warmup:]),
     "The number is right, its unit is not: milliseconds were asked for."),
    cases=[(_CALLS, 2), (_CALLS[:3] + _CALLS[5:], 1)],
    passed="A median after a warm-up: neither the first calls nor a busy moment decide.",
    otherwise="You get {got}. Sort the calls that count by hand: which one stands in the middle?",
)  # fmt: skip


def _norm(seed: int) -> tuple:
    """weight (3, 3, 3, 3), bias, then gamma, beta, mean and variance (one near eps) of a batch norm (3,), and eps."""
    random = torch.Generator().manual_seed(seed)
    weight, bias, beta, mean = (torch.randn(shape, generator=random) for shape in ((3, 3, 3, 3), 3, 3, 3))
    gamma, variance = 0.5 + torch.rand(2, 3, generator=random)
    variance[1] = 2e-3
    return weight, bias, gamma, beta, mean, variance, 1e-3


def _folded(weight, bias, gamma, beta, mean, variance, eps) -> tuple[Tensor, Tensor]:
    return fuse_conv_bn_weights(weight, bias, mean, variance, eps, gamma, beta)


check_fold = Check(
    _folded,
    (lambda *given: _folded(*given[:-1], 0.0),
     "Look at the channel with the smallest variance: what stands beside it in a batch norm?"),
    (lambda weight, bias, *norm: _folded(weight, torch.zeros_like(bias), *norm),
     "Weights right, bias not. The convolution had a bias of its own: what does the batch norm do to it?"),
    cases=[_norm(0), _norm(1)],
    passed="The batch norm is gone, and nothing else has changed.",
    otherwise="In weight or bias you get {got}. Try numbers: a kernel of one weight, a norm of one channel.",
)  # fmt: skip


def _kernel(seed: int) -> Tensor:
    """(4, 4, 3, 3): output channels of very different size, each with its own largest weight, some negative."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 4, 3, 3, generator=random) * torch.tensor([0.02, 0.3, 1.0, 4.0]).view(-1, 1, 1, 1)


def _step(weight: Tensor) -> Tensor:
    return weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127


def _rounded(weight: Tensor, step: Tensor) -> Tensor:
    return (weight / step).round().clamp(-127, 127) * step


check_round_trip = Check(
    lambda weight: _rounded(weight, _step(weight)),
    (lambda weight: _rounded(weight, weight.abs().max() / 127),
     "Your largest channel is right, the small ones are coarse. How many scales does your tensor have?"),
    (lambda weight: _rounded(weight, weight.amax(dim=(1, 2, 3), keepdim=True) / 127),
     "Some weights are cut off. In those channels the largest weight in size is negative."),
    cases=[(_kernel(0),), (-_kernel(1),)],
    passed="Each channel uses all its levels, and no weight is off by more than half its channel's step.",
    otherwise="For some weight you get {got}. Does each channel's largest weight in size come back as it was?",
)  # fmt: skip

# Scores for disease of patients who are ill (True) and healthy (False). The test patients are the harder ones.
_VALIDATION = (np.array([0.95, 0.90, 0.80, 0.75, 0.60, 0.55, 0.35, 0.50, 0.40, 0.30, 0.20, 0.10, 0.05]),
               np.array([True] * 7 + [False] * 6))  # fmt: skip
_TEST = (np.array([0.92, 0.70, 0.45, 0.38, 0.25, 0.65, 0.42, 0.36, 0.33, 0.28, 0.22, 0.15]),
         np.array([True] * 5 + [False] * 7))  # fmt: skip


def _recalls(ill: np.ndarray, called: np.ndarray) -> tuple[float, float]:
    return called[ill].mean(), (~called)[~ill].mean()


def _rates(score: np.ndarray, ill: np.ndarray, threshold: float) -> tuple[float, float]:
    return _recalls(ill, score >= threshold)


check_rates = Check(
    _rates,
    (lambda *given: _rates(*given)[::-1],
     "Both numbers are there, in the wrong order. Sensitivity is about patients who are ill."),
    (lambda score, ill, threshold: _recalls(ill, score > threshold),
     "A score equal to the threshold counts as ill here. Yours does not."),
    cases=[(*_TEST, 0.36), (*_VALIDATION, 0.58)],
    passed="Each rate has its own group of patients to divide by.",
    otherwise="You get {got}. For each rate: who is counted, and out of whom?",
)  # fmt: skip


def _point(validation: tuple, test: tuple, wanted: float) -> tuple[float, float, float]:
    """The highest validation score that finds the wanted share of the ill, and the rates on `test`."""
    score, ill = validation
    threshold = max(one for one in score if _rates(score, ill, one)[0] >= wanted)
    return threshold, *_rates(*test, threshold)


check_operating_point = Check(
    lambda v, v_ill, t, t_ill, wanted: _point((v, v_ill), (t, t_ill), wanted),
    (lambda v, v_ill, t, t_ill, wanted: _point((t, t_ill), (t, t_ill), wanted),
     "Your sensitivity is what was asked for by construction: the test patients chose the threshold."),
    (lambda v, v_ill, t, t_ill, wanted: _point((v, v_ill), (v, v_ill), wanted),
     "The threshold is right. The two rates are of the patients who chose it, and those flatter it."),
    cases=[(*_VALIDATION, *_TEST, 0.95), (*_VALIDATION, *_TEST, 0.55)],
    passed="Chosen on validation, measured once on test. The test sensitivity may well miss what was asked for.",
    otherwise="You get {got}. The three numbers are threshold, sensitivity, specificity: who chooses, and who judges?",
)  # fmt: skip

_KNOWN = {"normal": 0, "drusen": 1, "cnv": 2}
_ROWS = [("a.png", "cnv"), ("b.png", "drusen"), ("c.png", "CNV?"), ("d.png", "normal"), ("e.png", "cnv"),
         ("f.png", "drusne")]  # fmt: skip


def _read_or_stop(name: str) -> np.ndarray:
    """A picture (4, 4) for every name but two, whose files are cut short: those raise OSError."""
    if name in ("b.png", "e.png"):
        raise OSError(f"{name}: file is cut short")
    return np.full((4, 4), ord(name[0]), np.uint8)


def _read(rows, read, known, black: bool = False, class_0: bool = False) -> tuple[list, list, list]:
    """The right answer, or one of the reference's habits: black pictures, class 0."""
    pictures, targets, refused = [], [], []
    for name, label in rows:
        try:
            picture = read(name)
        except OSError:
            picture = np.zeros((4, 4), np.uint8) if black else None
        if picture is None or (label not in known and not class_0):
            refused.append(name)
        else:
            pictures.append(picture)
            targets.append(known.get(label, 0))
    return pictures, targets, refused


check_read = Check(
    _read,
    (lambda *given: _read(*given, black=True),
     "A file that cannot be read is still among your pictures. A network will answer to it, and be scored."),
    (lambda *given: _read(*given, class_0=True),
     "A label that nobody knows is among your targets, as a class that it may not be. Which one is 0?"),
    (lambda *given: (*_read(*given)[:2], []),
     "Pictures and targets are right. But who will know that some are missing? Name them."),
    cases=[(_ROWS, _read_or_stop, _KNOWN), (_ROWS[3:4] + _ROWS[:2], _read_or_stop, _KNOWN)],
    passed="What cannot be read is refused and named, and every picture has its own label.",
    otherwise="Among pictures, targets or names you get {got}. What does each row add to which list?",
)  # fmt: skip
