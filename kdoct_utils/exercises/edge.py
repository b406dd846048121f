"""Checks of the exercises of notebook 06: latency, batch norm, ranges of integers, silence, and a small file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdoct_utils.exercises.checking import Check
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.profiles import CLASS_NAMES

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


# Activations with a long tail, as after SiLU, and the limits that a quantizer may choose among.
_LONG = torch.cat([torch.linspace(-1, 1, 400), torch.tensor([9.0, -14.0])])
_LIMITS = [0.5, 1.0, 2.0, 4.0, 8.0, 14.0]


def _clipped(values: Tensor, limit: float, bits: int, levels: int = -1, clip: bool = True) -> Tensor:
    step = limit / (2 ** (bits - 1) + levels)
    back = (values / step).round() * step
    return back.clamp(-limit, limit) if clip else back


def _best_limit(values, limits, bits, error=lambda x: x.square().mean(), **how) -> float:
    return min(limits, key=lambda limit: float(error(_clipped(values, limit, bits, **how) - values)))


check_limit = Check(
    _best_limit,
    (lambda values, limits, bits: _best_limit(values, limits, bits, clip=False),
     "You choose the finest steps. What becomes of the values beyond the limit?"),
    (lambda values, limits, bits: max(limits),
     "The largest limit cuts nothing off. What does it cost all the values that are small?"),
    (lambda values, limits, bits: _best_limit(values, limits, bits, error=lambda x: x.abs().max()),
     "That limit makes the largest single error small. The mean of the squared errors was asked for."),
    cases=[(_LONG, _LIMITS, 4), (_LONG.repeat(2), _LIMITS[::-1], 3), (_LONG * 0.5, _LIMITS, 6)],
    passed="Few bits want a tight range: some values are cut off, and all the others gain.",
    otherwise="For one case you choose {got}. Round, cut off at the limit, and compare the squared errors.",
)  # fmt: skip

# How sure a network was, and whether it was right: validation scans, and test scans that are harder.
_JUDGES = (np.array([0.99, 0.97, 0.95, 0.90, 0.85, 0.80, 0.70, 0.65, 0.60, 0.50]),
           np.array([True, True, True, True, False, True, True, False, True, False]))  # fmt: skip
_TESTED = (np.array([0.98, 0.96, 0.91, 0.88, 0.82, 0.75, 0.72, 0.64, 0.55, 0.45]),
           np.array([True, True, False, True, True, True, False, False, True, False]))  # fmt: skip


def _answered(sure: np.ndarray, right: np.ndarray, line: float) -> tuple[float, float]:
    return (sure >= line).mean(), (~right[sure >= line]).mean()


def _silence(judges: tuple, tested: tuple, wanted: float) -> tuple[float, float, float]:
    """The lowest confidence above which at most ``wanted`` of the judges' answers are wrong; and what it does."""
    line = min(one for one in judges[0] if _answered(*judges, one)[1] <= wanted)
    return line, *_answered(*tested, line)


check_silence = Check(
    lambda v, v_right, t, t_right, wanted: _silence((v, v_right), (t, t_right), wanted),
    (lambda v, v_right, t, t_right, wanted: _silence((t, t_right), (t, t_right), wanted),
     "Your errors are as few as was asked for by construction: the test scans chose the line."),
    (lambda v, v_right, t, t_right, wanted: _silence((v, v_right), (v, v_right), wanted),
     "The line is right. Share and errors are of the scans that chose it, and those flatter it."),
    (lambda v, v_right, t, t_right, wanted: (
        (line := _silence((v, v_right), (t, t_right), wanted)[0]), (t >= line).mean(), (~t_right & (t >= line)).mean()),
     "Line and share are right. Errors among whom? Who keeps silent makes none."),
    cases=[(*_JUDGES, *_TESTED, 0.15), (*_JUDGES, *_TESTED, 0.25)],
    passed="Chosen on validation, measured once on test: silence buys fewer errors, often more than were asked for.",
    otherwise="You get {got}. Three numbers: the line, the share that is answered, the errors among those.",
)  # fmt: skip

_WANTED = ("at most 200 kB", "more than half of new phantoms named", "black is farther off than any scan")


def _facts(file: str | dict) -> dict[str, bool]:
    """What is wanted of the small file, and whether it is so. file: its path."""
    if isinstance(file, dict):
        return file
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images, table = phantom_cohort(40, 1, session.get_inputs()[0].shape[-1], seed=2029)
    logits, distance = session.run(["logits", "distance"], {"image": images[:, None]})
    (far,) = session.run(["distance"], {"image": np.zeros_like(images[:1, None])})
    right = logits.argmax(axis=1) == table["label"].map(CLASS_NAMES.index)
    found = Path(file).stat().st_size <= 200_000, bool(right.mean() > 0.5), bool(far[0] > distance.max())
    return dict(zip(_WANTED, found, strict=True))


def _but(*missing: int) -> dict[str, bool]:
    return {name: number not in missing for number, name in enumerate(_WANTED)}


check_small_file = Check(
    _but(),
    (_but(0), "It answers and refuses, and is too large. What takes bytes: weights, scales, protections, operators?"),
    (_but(1), "Small enough, and it guesses. Did it train long enough, and was it calibrated on training scans?"),
    (_but(2), "Small and right, but it would answer to a black picture. What does export_onnx need for a distance?"),
    observe=_facts,
    passed="A student for 200 kB: it answers, and knows a black picture when it sees one.",
    otherwise="Not so yet, among others: {where}. Mend one thing at a time.",
)
