"""What happens when in a training run: the learning rate of a step, and the scans of an epoch."""

import math

import numpy as np


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int, floor_fraction: float) -> float:
    """Fraction of the peak learning rate at optimizer step ``step`` (0 to total_steps - 1).

    Rises linearly over ``warmup_steps`` without starting at zero, is 1 at step ``warmup_steps`` and falls along half
    a cosine towards ``floor_fraction`` at step ``total_steps``.
    Source: Loshchilov and Hutter 2017 (cosine), Goyal et al. 2017 (warm-up).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor_fraction + (1 - floor_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def steps_per_epoch(n_scans: int, batch_size: int, accumulation: int, processes: int = 1) -> int:
    """Optimiser steps in an epoch: every scan is used, the last incomplete group included."""
    return math.ceil(batches_per_epoch(n_scans, batch_size, processes) / accumulation)


def batches_per_epoch(n_scans: int, batch_size: int, processes: int = 1) -> int:
    """Forward passes of each process in an epoch. Raises ValueError where a process would have no scan."""
    if n_scans < processes or n_scans < 1:
        raise ValueError(f"{n_scans} training scans are too few for {processes} process(es)")
    return min(math.ceil(n_scans / (batch_size * processes)), n_scans // processes)


def epoch_batches(
    n_scans: int, batch_size: int, accumulation: int, seed: int, epoch: int, process: int = 0, processes: int = 1
) -> list[tuple[list[np.ndarray], int]]:
    """Shuffled positions of one epoch, grouped by optimizer step: [(batches of this process, scans in the step)].

    A batch holds at most ``batch_size`` scans a process and the remainder is spread over all batches rather than left
    as a tiny last one, whose BatchNorm statistics would be worthless. The count is over all processes: a loss summed
    over a process's scans and divided by it adds up to the mean over the scans of the step.
    """
    order = np.random.default_rng((seed, epoch)).permutation(n_scans)
    batches = np.array_split(order, batches_per_epoch(n_scans, batch_size, processes))
    groups = [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]
    return [
        ([np.array_split(batch, processes)[process] for batch in group], sum(map(len, group))) for group in groups
    ]
