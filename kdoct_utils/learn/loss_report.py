"""The losses of an epoch: shown as they come, and watched for the first that is not a number."""

from __future__ import annotations

import math

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

LOOK_EVERY = 10  # optimizer steps between looks at the loss: each look makes a GPU wait


class TrainingError(RuntimeError):
    """A training run that cannot go on."""


class LossReport:
    """Gathers the losses of an epoch, shows them, and stops the run at the first that is not a number.

    Losses stay on the device and come over in bunches: a GPU would have to wait for each look.
    """

    def __init__(self, accelerator: Accelerator, bar: tqdm, epoch: int):
        self.accelerator, self.bar, self.epoch = accelerator, bar, epoch
        self.pending: list[Tensor] = []
        self.losses: list[float] = []
        self.scans: list[int] = []

    def add(self, loss: Tensor, n_scans: int) -> None:
        """The loss of one optimizer step: this process's share of the mean over its ``n_scans`` scans."""
        self.pending.append(loss)
        self.scans.append(n_scans)
        if len(self.pending) == LOOK_EVERY:
            self._look()

    def mean(self) -> float:
        """The loss of the epoch, averaged over scans, not over steps."""
        if self.pending:
            self._look()
        return float(np.average(self.losses, weights=self.scans))

    def _look(self) -> None:
        for loss in self.accelerator.reduce(torch.stack(self.pending), "sum").tolist():
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss is {loss} in epoch {self.epoch + 1}, step {len(self.losses)}. The checkpoint of the last "
                    "whole epoch is intact; lower the learning rate, or use precision 'no' or 'bf16'"
                )
        self.bar.update(len(self.pending))
        self.bar.set_postfix(epoch=self.epoch + 1, loss=f"{self.losses[-1]:.3f}", refresh=False)
        self.pending.clear()
