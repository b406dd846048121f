"""One training loop for teacher and student.

``Trainer._train_epoch`` is the algorithm: forward, loss, backward, step. All else happens at the end of an epoch:
validation, history, weight averaging, early stopping and the checkpoint.
"""

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm.auto import tqdm

from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.checkpoints import Progress, TrainingError, resume, save_checkpoint
from kdoct_utils.learn.inference import ScanImages, predict_logits
from kdoct_utils.learn.models import freeze_backbone, parameter_groups, state_copy
from kdoct_utils.learn.objectives import Objective
from kdoct_utils.learn.pipelines import AugmentConfig
from kdoct_utils.learn.schedules import epoch_batches, learning_rate_factor, steps_per_epoch
from kdoct_utils.profiles import TrainingConfig
from kdoct_utils.runs import report_status

SELECTIONS = ("loss", "accuracy", "last")
LOOK_EVERY = 10  # optimizer steps between looks at the loss: each look makes a GPU wait


@dataclass(frozen=True)
class TrainingResult:
    """history: a row per epoch, and one for the average; the row that ``chosen`` names is marked in ``weights``.

    scores: for "best" and, where weights were averaged, "swa": epoch, loss and accuracy on the validation scans.
    """

    history: pd.DataFrame
    chosen: str
    scores: dict[str, dict[str, float]]


class Trainer:
    """Train ``model`` for ``objective`` and leave it holding the weights that did best on ``validation_set``.

    image_size: pixels, what the network sees. seed: order, augmentation and dropout follow from it.
    name: what is trained, for the bar and `runs.report_status`. progress: show one bar with the loss and the time left.
    checkpoint: file to go on from and to write after every epoch; None for neither. A run that was killed continues
    from its last whole epoch to the same numbers.
    Under ``torchrun`` or ``accelerate launch`` each process takes its share of every batch: ``config.batch_size`` is
    per process. torch's global random generator is seeded anew at every epoch.

    Raises ValueError for empty sets or an unknown ``select_on``; ``fit`` raises TrainingError for a loss that is not
    a number, and CheckpointError for the checkpoint of another run.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, train_set: ScanImages, validation_set: ScanImages,
        config: TrainingConfig, *, augmentation: AugmentConfig, image_size: int, channels: int, seed: int,
        name: str = "training", checkpoint: Path | None = None, progress: bool = True,
    ):  # fmt: skip
        _check_sets(training=train_set, validation=validation_set)
        if config.select_on not in SELECTIONS:
            raise ValueError(f"unknown select_on {config.select_on!r}; valid: {', '.join(SELECTIONS)}")
        objective.check(train_set.indices)
        self.accelerator = _accelerator(config.precision)
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.model, self.objective = model.to(self.device), objective.to(self.device)
        self.compiled = config.fast and self.device.type == "cuda"  # elsewhere compiling costs more than it saves
        if config.fast:
            objective.use_fast_teacher(self.compiled)
        self.train_set, self.validation_set, self.config = train_set, validation_set, config
        self.augmentation, self.image_size, self.channels = augmentation, image_size, channels
        self.seed, self.name, self.checkpoint, self.show_progress = seed, name, checkpoint, progress
        self.steps = steps_per_epoch(len(train_set), config.batch_size, config.accumulation, self.processes)
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=self.device.type in ("cpu", "cuda"))
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.prepared: nn.Module | None = None  # the model as Accelerate wraps it
        self.network: nn.Module | None = None  # what is called: that, compiled or not
        self.frozen: bool | None = None
        averages = config.swa_learning_rate is not None
        swa_from = min(math.ceil(config.swa_start * config.epochs), config.epochs - 1) if averages else config.epochs
        self.state = Progress(swa_from=swa_from, last_epoch=config.epochs)
        self.best_weights: dict[str, Tensor] = {}
        self.average: AveragedModel | None = None

    def fit(self) -> TrainingResult:
        """Train to the end, from the checkpoint if there is one."""
        resume(self)
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
                self._end_epoch(train_loss, time.perf_counter() - started)
                self._report(self.state.epoch)
                bar.total = self.state.last_epoch * self.steps
            return self._choose()

    def _train_epoch(self, epoch: int, bar: tqdm) -> float:
        """Every training scan once. Returns the loss averaged over them."""
        view = epoch if self.objective.views is None else epoch % self.objective.views
        config, losses, pending, scans = self.config, [], [], []
        mine = (self.seed, epoch, self.accelerator.process_index, self.processes)
        groups = epoch_batches(len(self.train_set), config.batch_size, config.accumulation, *mine)
        for step, (batches, n_scans) in enumerate(groups):
            self._set_learning_rates(epoch, step)
            step_loss = torch.zeros((), device=self.device)
            for number, batch in enumerate(batches, start=1):
                images, target, indices = self._inputs(batch, view)
                last = number == len(batches)  # then processes exchange their gradients, once a step
                with nullcontext() if last else self.accelerator.no_sync(self.network):
                    with self.accelerator.autocast():
                        image_losses, _ = self.objective(self.network, images, target, indices, view)  # (batch,)
                    loss = image_losses.sum() / n_scans  # this batch's share of the mean over the step's scans
                    self.accelerator.backward(loss * self.processes)  # processes average their gradients
                step_loss += loss.detach()
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            pending.append(step_loss)
            scans.append(n_scans)
            if len(pending) == LOOK_EVERY or step + 1 == len(groups):
                losses += self._look(pending, epoch, len(losses), bar)
                pending = []
        return float(np.average(losses, weights=scans))

    # --- around a step -----------------------------------------------------------------------------------------------

    def _look(self, pending: list[Tensor], epoch: int, before: int, bar: tqdm) -> list[float]:
        """The losses of some steps, ``before`` many into the epoch, over all processes; raises at one that is NaN."""
        losses = self.accelerator.reduce(torch.stack(pending), "sum").tolist()
        for step, loss in enumerate(losses, start=before + 1):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss is {loss} in epoch {epoch + 1}, step {step}. The checkpoint of the last "
                    "whole epoch is intact; lower the learning rate, or use precision 'no' or 'bf16'"
                )
        bar.update(len(losses))
        bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.3f}", refresh=False)
        return losses

    def _inputs(self, positions: np.ndarray, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images (batch, channels, S, S), target (batch,), indices (batch,), all on the device."""
        batch = self.train_set.take(positions)
        if self.device.type == "cuda":  # a GPU fetches them by itself from pinned memory, and nobody waits
            batch = [values.pin_memory() for values in batch]
        images, target, indices = (values.to(self.device, non_blocking=True) for values in batch)
        images = augment(images, batch[2], self.augmentation, self.seed, view, self.image_size, self.channels)
        return images, target, indices

    def _set_learning_rates(self, epoch: int, step: int) -> None:
        total, warmup = self.config.epochs * self.steps, round(self.config.warmup_epochs * self.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            factor = learning_rate_factor(epoch * self.steps + step, total, warmup, group["floor"] / peak)
            # Averaging wants weights that wander around the optimum, so its learning rate stays up.
            group["lr"] = self.config.swa_learning_rate if epoch >= self.state.swa_from else peak * factor

    # --- around an epoch ---------------------------------------------------------------------------------------------

    def _report(self, epoch: int) -> None:
        if self.accelerator.is_main_process:
            report_status(f"{self.name}, epoch {epoch}/{self.state.last_epoch}")

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
            self.network = torch.compile(self.prepared, dynamic=False) if self.compiled else self.prepared
            self.frozen = frozen

    def _end_epoch(self, train_loss: float, seconds: float) -> None:
        epoch = self.state.epoch
        for buffer in self.model.buffers() if self.processes > 1 else ():
            broadcast(buffer)
        score = self._validate(epoch)
        if self.state.best is None or self._beats(score, self.state.best):
            self.state.best, self.state.stale, self.best_weights = score, 0, state_copy(self.model)
        else:
            self.state.stale += 1
        if epoch >= self.state.swa_from:
            self.average = self.average or AveragedModel(self.model)
            self.average.update_parameters(self.model)
        self._record(score, train_loss, self.optimizer.param_groups[-1]["lr"], seconds)  # the head's learning rate
        self.state.epoch += 1
        self._stop_early()
        save_checkpoint(self)

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
        if self.config.select_on == "accuracy":
            return (score["accuracy"], -score["loss"]) > (other["accuracy"], -other["loss"])
        return self.config.select_on == "last" or score["loss"] < other["loss"]

    def _record(self, score: dict, train_loss: float, learning_rate: float, seconds: float, weights: str = "") -> None:
        validation = {"validation_loss": score["loss"], "validation_accuracy": score["accuracy"]}
        row = {"epoch": score["epoch"], "train_loss": train_loss} | validation | {"learning_rate": learning_rate}
        self.state.history.append(row | {"seconds": seconds, "weights": weights})

    def _stop_early(self) -> None:
        """End the run after ``patience`` epochs without a better score. Where weights are to be averaged, that
        phase comes early instead, from the best weights: an average that never starts is worth nothing."""
        state = self.state
        if state.stale < self.config.patience or state.epoch >= state.swa_from:
            return
        if self.config.swa_learning_rate is None:
            state.last_epoch = state.epoch
        else:
            state.last_epoch -= state.swa_from - state.epoch
            state.swa_from = state.epoch
            self.model.load_state_dict(self.best_weights)

    # --- after the last epoch ----------------------------------------------------------------------------------------

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


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """torch computes with so many of the processor's threads within the block; None leaves their number alone.

    Small networks gain little from a second thread, and beside a busy process they become many times slower.
    Another number of threads may change the last digits of a result.
    """
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _accelerator(precision: str) -> Accelerator:
    """For a GPU where there is one, else for CPU processes: fp16 is float32 there, with a warning."""
    gpu = torch.accelerator.is_available()
    if precision == "fp16" and not gpu:
        warnings.warn("precision fp16 needs a GPU; there is none, so this run is in float32", stacklevel=3)
        precision = "no"
    return Accelerator(mixed_precision=precision, cpu=not gpu)


def _check_sets(**sets: ScanImages) -> None:
    for name, data in sets.items():
        if len(data) == 0:
            raise ValueError(f"the {name} set holds no scan")
