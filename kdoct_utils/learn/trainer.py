"""One training loop for teacher and student.

``Trainer._train_epoch`` is the algorithm: forward, loss, backward, step. All else happens at the end of an epoch:
validation, history, weight averaging, early stopping and the checkpoint.
"""

from __future__ import annotations

import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm.auto import tqdm

from kdoct_utils.learn.augment import AugmentConfig, augment
from kdoct_utils.learn.checkpoints import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from kdoct_utils.learn.inference import ScanImages, cache_teacher_logits, predict_logits
from kdoct_utils.learn.loss_report import LossReport, TrainingError
from kdoct_utils.learn.memory import keep_freed_memory
from kdoct_utils.learn.models import freeze_backbone, parameter_groups, state_copy
from kdoct_utils.learn.objectives import (
    CachedDistillationObjective,
    CrossEntropyObjective,
    DistillationObjective,
    FocalObjective,
    Objective,
)
from kdoct_utils.learn.schedules import batches_per_epoch, epoch_batches, learning_rate_factor, steps_per_epoch
from kdoct_utils.profiles import TrainingConfig
from kdoct_utils.runs import report_status

__all__ = [
    "CachedDistillationObjective", "CrossEntropyObjective", "DistillationObjective", "FocalObjective", "Objective",
    "ScanImages", "Trainer", "TrainingError", "TrainingResult", "batches_per_epoch", "cache_teacher_logits",
    "learning_rate_factor", "predict_logits",
]  # fmt: skip

T, U = TypeVar("T"), TypeVar("U")
SELECTIONS = ("loss", "accuracy", "last")


@dataclass(frozen=True)
class TrainingResult:
    """history: a row an epoch, and one for the average; the row that ``chosen`` names is marked in ``weights``.

    scores: for "best" and, where weights were averaged, "swa": epoch, loss and accuracy on the validation scans.
    """

    history: pd.DataFrame
    chosen: str
    scores: dict[str, dict[str, float]]


@dataclass
class _Progress:
    """Where a run stands after its last finished epoch; all of it is in the checkpoint."""

    swa_from: int  # first epoch of weight averaging; never reached where there is none
    last_epoch: int  # one past the last
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    best: dict | None = None  # score of the best epoch
    stale: int = 0  # epochs since then


class Trainer:
    """Train ``model`` for ``objective`` and leave it holding the weights that did best on ``validation_set``.

    image_size: pixels, what the network sees. seed: order, augmentation and dropout follow from it.
    name: what is trained, for the bar and `runs.report_status`.
    checkpoint: file to go on from and to write after every epoch; None for neither. A run that was killed continues
    from its last whole epoch to the same numbers.
    progress: show one bar with the loss and the time left.
    accelerator: Accelerate's; one with ``config.precision`` is made where it is None. Under ``torchrun`` or
    ``accelerate launch`` each process takes its share of every batch: ``config.batch_size`` is per process.

    torch's global random generator is seeded anew at every epoch.

    Raises ValueError for empty sets or an unknown ``select_on``; ``fit`` raises TrainingError for a loss that is not
    a number, and CheckpointError for the checkpoint of another run.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train_set: ScanImages,
        validation_set: ScanImages,
        config: TrainingConfig,
        *,
        augmentation: AugmentConfig,
        image_size: int,
        channels: int,
        seed: int,
        name: str = "training",
        checkpoint: Path | None = None,
        progress: bool = True,
        accelerator: Accelerator | None = None,
    ):
        _check(config, train_set, validation_set)
        objective.check(train_set.indices)
        self.accelerator = accelerator or make_accelerator(config.precision)
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.model = model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.objective = objective.to(self.device)
        self.objective.quicken(config.teacher_precision, config.channels_last, config.compiled)
        self.train_set, self.validation_set, self.config = train_set, validation_set, config
        self.augmentation, self.image_size, self.channels = augmentation, image_size, channels
        self.seed, self.name, self.checkpoint, self.show_progress = seed, name, checkpoint, progress
        self.steps = steps_per_epoch(len(train_set), config.batch_size, config.accumulation, self.processes)
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=fused)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.prepared: nn.Module | None = None  # the model as Accelerate wraps it
        self.network: nn.Module | None = None  # what is called: that, compiled or not
        self.frozen: bool | None = None
        averages = config.swa_learning_rate is not None
        swa_from = min(math.ceil(config.swa_start * config.epochs), config.epochs - 1) if averages else config.epochs
        self.state = _Progress(swa_from=swa_from, last_epoch=config.epochs)
        self.best_weights: dict[str, Tensor] = {}
        self.average: AveragedModel | None = None

    def fit(self) -> TrainingResult:
        """Train to the end, from the checkpoint if there is one."""
        if self.device.type == "cpu":
            keep_freed_memory()
        self._resume()
        bar = tqdm(
            total=self.state.last_epoch * self.steps, initial=self.state.epoch * self.steps, unit="step",
            desc=self.name, disable=not (self.show_progress and self.accelerator.is_main_process),
        )  # fmt: skip
        with threads(self.config.threads), bar:
            while self.state.epoch < self.state.last_epoch:
                started = time.perf_counter()
                self._report(self.state.epoch + 1)
                self._start_epoch()
                train_loss = self._train_epoch(self.state.epoch, bar)
                self._end_epoch(train_loss, started)
                self._report(self.state.epoch)
                bar.total = self.state.last_epoch * self.steps
            return self._choose()

    def _report(self, epoch: int) -> None:
        if self.accelerator.is_main_process:
            report_status(f"{self.name}, epoch {epoch}/{self.state.last_epoch}")

    def _train_epoch(self, epoch: int, bar: tqdm) -> float:
        """Every training scan once. Returns the loss averaged over them."""
        view = epoch if self.objective.views is None else epoch % self.objective.views
        report = LossReport(self.accelerator, bar, epoch)
        steps = self._batches(epoch)
        every_batch = [batch for batches, _ in steps for batch in batches]
        # a CPU's cores are all busy with the step itself: a second thread would only get in their way
        prepared = map if self.device.type == "cpu" else prepared_ahead
        inputs = prepared(lambda batch: self._inputs(batch, view), every_batch)
        for step, (batches, n_scans) in enumerate(steps):
            self._set_learning_rates(epoch, step)
            step_loss = torch.zeros((), device=self.device)
            for number in range(1, len(batches) + 1):
                images, target, indices = next(inputs)
                with self._exchange_gradients(now=number == len(batches)):
                    with self.accelerator.autocast():
                        losses, _ = self.objective(self.network, images, target, indices, view)  # (batch,)
                    loss = losses.sum() / n_scans  # this batch's share of the mean over the step's scans
                    self.accelerator.backward(loss * self.processes)  # processes average their gradients
                step_loss += loss.detach()
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            report.add(step_loss, n_scans)
        return report.mean()

    # --- around a step -----------------------------------------------------------------------------------------------

    def _batches(self, epoch: int) -> list[tuple[list[np.ndarray], int]]:
        return epoch_batches(
            len(self.train_set), self.config.batch_size, self.config.accumulation, self.seed, epoch,
            self.accelerator.process_index, self.processes,
        )  # fmt: skip

    def _inputs(self, positions: np.ndarray, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images (batch, channels, S, S), target (batch,), indices (batch,), all on the device."""
        images, target, indices = self.train_set.__getitems__(positions)
        images = augment(
            self._sent(images), indices, self.augmentation, self.seed, view, self.image_size, self.channels
        )
        return images, self._sent(target), self._sent(indices)

    def _sent(self, values: Tensor) -> Tensor:
        """On the device; a GPU fetches them by itself from pinned memory, and nobody waits."""
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)

    def _set_learning_rates(self, epoch: int, step: int) -> None:
        total, warmup = self.config.epochs * self.steps, round(self.config.warmup_epochs * self.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            factor = learning_rate_factor(epoch * self.steps + step, total, warmup, group["floor"] / peak)
            # Averaging wants weights that wander around the optimum, so its learning rate stays up.
            group["lr"] = self.config.swa_learning_rate if epoch >= self.state.swa_from else peak * factor

    def _exchange_gradients(self, now: bool) -> AbstractContextManager:
        """Processes exchange gradients once a step, in its last batch."""
        return nullcontext() if now else self.accelerator.no_sync(self.network)

    # --- around an epoch ---------------------------------------------------------------------------------------------

    def _start_epoch(self) -> None:
        epoch = self.state.epoch
        # Dropout follows from seed, epoch and process alone: a resumed run meets the same numbers.
        stream = np.random.SeedSequence((self.seed, epoch, self.accelerator.process_index))
        torch.manual_seed(int(stream.generate_state(1)[0]))
        self.model.train()
        frozen = epoch < self.config.frozen_epochs
        freeze_backbone(self.model, frozen)
        if frozen != self.frozen:  # several processes must agree anew on which gradients they exchange
            self._unwrap()
            self.prepared = self.accelerator.prepare_model(self.model)
            self.network = torch.compile(self.prepared, dynamic=False) if self.config.compiled else self.prepared
            self.frozen = frozen

    def _end_epoch(self, train_loss: float, started: float) -> None:
        epoch = self.state.epoch
        if self.processes > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)
        score = self._validate(epoch)
        if self.state.best is None or self._beats(score, self.state.best):
            self.state.best, self.state.stale, self.best_weights = score, 0, state_copy(self.model)
        else:
            self.state.stale += 1
        if epoch >= self.state.swa_from:
            self.average = self.average or AveragedModel(self.model)
            self.average.update_parameters(self.model)
        head_rate = self.optimizer.param_groups[-1]["lr"]
        self._record(score, train_loss, head_rate, time.perf_counter() - started)
        self.state.epoch += 1
        self._stop_early()
        self._save()

    def _validate(self, epoch: int) -> dict[str, float]:
        """Loss and accuracy on the validation scans, each process taking its share. Raises on a loss that is NaN.

        Where the last epoch is taken whatever its score, the others are not scored: NaN.
        """
        if self.config.select_on == "last" and epoch + 1 < self.state.last_epoch:
            return {"epoch": epoch, "loss": math.nan, "accuracy": math.nan}
        mine = range(self.accelerator.process_index, len(self.validation_set), self.processes)
        totals = torch.zeros(2, device=self.device)
        if len(mine):
            share = self.validation_set.subset(np.asarray(mine))
            with self.accelerator.autocast():
                logits = predict_logits(self.model, share, self.image_size, self.channels)
            logits, target = torch.from_numpy(logits).to(self.device), share.target.to(self.device)
            losses = self.objective.validation_losses(logits, target)
            totals = torch.stack([losses.sum(), (logits.argmax(dim=1) == target).sum().to(losses)])
        totals = self.accelerator.reduce(totals, "sum").tolist()
        loss, accuracy = (total / len(self.validation_set) for total in totals)
        if not math.isfinite(loss):
            raise TrainingError(f"validation loss is {loss} after epoch {epoch + 1}")
        return {"epoch": epoch, "loss": loss, "accuracy": accuracy}

    def _beats(self, score: dict, other: dict) -> bool:
        """Whether a score is strictly better; equal accuracies are told apart by their loss. "last" prefers whatever
        is newer: an experiment that is judged on the validation scans must not choose its epoch on them too."""
        if self.config.select_on == "last":
            return True
        if self.config.select_on == "loss":
            return score["loss"] < other["loss"]
        return (score["accuracy"], -score["loss"]) > (other["accuracy"], -other["loss"])

    def _record(self, score: dict, train_loss: float, learning_rate: float, seconds: float, weights: str = "") -> None:
        self.state.history.append(
            {
                "epoch": score["epoch"],
                "train_loss": train_loss,
                "validation_loss": score["loss"],
                "validation_accuracy": score["accuracy"],
                "learning_rate": learning_rate,
                "seconds": seconds,
                "weights": weights,
            }
        )

    def _stop_early(self) -> None:
        """End the run after ``patience`` epochs without a better score. Where weights are to be averaged, that
        phase comes early instead, from the best weights: an average that never starts is worth nothing."""
        state, before_average = self.state, self.state.epoch < self.state.swa_from
        if state.stale < self.config.patience or not before_average:
            return
        if self.config.swa_learning_rate is None:
            state.last_epoch = state.epoch
        else:
            state.last_epoch -= state.swa_from - state.epoch
            state.swa_from = state.epoch
            self.model.load_state_dict(self.best_weights)

    def load(self, weights: str) -> None:
        """After ``fit``: put the weights of the "best" epoch or of the average, "swa", into the model, in eval mode.

        Raises ValueError where there are no such weights.
        """
        if weights == "best" and self.best_weights:
            self.model.load_state_dict(self.best_weights)
        elif weights == "swa" and self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
            self._refresh_batch_norm()
        else:
            raise ValueError(f"this training has no weights {weights!r}; it can have: best, swa")
        self.model.eval()

    def _choose(self) -> TrainingResult:
        """Score the average, load the better of it and the best epoch, and hand the model back bare."""
        self._unwrap()
        freeze_backbone(self.model, False)
        chosen, scores = "best", {"best": self.state.best}
        if self.average is not None:
            self.load("swa")
            scores["swa"] = self._validate(self.state.epoch - 1)
            chosen = "swa" if self._beats(scores["swa"], self.state.best) else "best"
            self._record(scores["swa"], math.nan, math.nan, math.nan, weights="swa")
        if chosen == "best":
            self.load("best")
        history = pd.DataFrame(self.state.history)
        history.loc[self.state.best["epoch"], "weights"] = "best"
        return TrainingResult(history, chosen, scores)

    def _refresh_batch_norm(self) -> None:
        """BatchNorm statistics belong to the weights they were gathered with: gather them anew for the average.

        Does nothing for a network without BatchNorm (ConvNeXtV2).
        """
        view = max(0, self.state.epoch - 1)
        torch.manual_seed(self.seed)
        groups = epoch_batches(len(self.train_set), self.config.batch_size * self.processes, 1, self.seed, view)
        with self.accelerator.autocast():
            update_bn((self._inputs(batch, view)[0] for batches, _ in groups for batch in batches), self.model)

    def _unwrap(self) -> None:
        if self.prepared is not None:
            self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
            self.prepared = self.network = None

    # --- the checkpoint ----------------------------------------------------------------------------------------------

    def _identity(self) -> dict:
        """What must not change between a kill and going on."""
        scans = np.concatenate([part.numpy() for data in (self.train_set, self.validation_set)
                                for part in (data.indices, data.target)])  # fmt: skip
        return {
            "training": asdict(self.config),
            "augmentation": asdict(self.augmentation),
            "objective": self.objective.describe(),
            "network": {name: list(value.shape) for name, value in self.model.state_dict().items()},
            "input": [self.channels, self.image_size],
            "seed": self.seed,
            "scans": zlib.crc32(scans.tobytes()),
            "processes": self.processes,
        }

    def _save(self) -> None:
        if self.checkpoint is not None and self.accelerator.is_main_process:
            parts = {
                "model": self.model.state_dict(),
                "best": self.best_weights,
                "optimizer": optimizer_tensors(self.optimizer),
                "average": {} if self.average is None else self.average.state_dict(),
            }
            scaler = self.accelerator.scaler  # of fp16
            state = asdict(self.state) | {"scaler": None if scaler is None else scaler.state_dict()}
            save_checkpoint(self.checkpoint, parts, state, self._identity())
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            return
        parts, state = load_checkpoint(self.checkpoint, self._identity())
        scaler = state.pop("scaler")
        if scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        self.state = _Progress(**state)
        self.model.load_state_dict(parts["model"])
        self.best_weights = parts["best"]
        restore_optimizer(self.optimizer, parts["optimizer"])
        if "average" in parts:
            self.average = AveragedModel(self.model)
            self.average.load_state_dict(parts["average"])


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """torch computes with so many of the processor's threads within the block; None leaves their number alone.

    Small networks gain little from a second thread, and beside a busy process they become many times slower: OpenMP's
    threads wait for one another at every layer. Another number of threads may change the last digits of a result.
    """
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepared_ahead(prepare: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """``prepare(item)`` for each item in turn, each begun while the one before is in use.

    One other thread prepares, so nothing depends on chance. What it raises is raised here, in its turn.
    """
    with ThreadPoolExecutor(1) as pool:
        now = None
        for item in items:
            following = pool.submit(prepare, item)
            if now is not None:
                yield now.result()
            now = following
        if now is not None:
            yield now.result()


def make_accelerator(precision: str) -> Accelerator:
    """Accelerate for this machine: a GPU where there is one, else CPU processes.

    fp16 needs a GPU: without one the run is in float32, and a warning says so.
    """
    gpu = torch.accelerator.is_available()
    if precision == "fp16" and not gpu:
        warnings.warn("precision fp16 needs a GPU; there is none, so this run is in float32", stacklevel=3)
        precision = "no"
    return Accelerator(mixed_precision=precision, cpu=not gpu)


def _check(config: TrainingConfig, train_set: ScanImages, validation_set: ScanImages) -> None:
    if config.select_on not in SELECTIONS:
        raise ValueError(f"unknown select_on {config.select_on!r}; valid: {', '.join(SELECTIONS)}")
    if config.epochs < 1 or config.batch_size < 1 or config.accumulation < 1:
        raise ValueError("epochs, batch_size and accumulation must be at least 1")
    for name, data in (("training", train_set), ("validation", validation_set)):
        if len(data) == 0:
            raise ValueError(f"the {name} set holds no scan")
