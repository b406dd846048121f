"""A short real stretch of a profile's training: its networks at full size, a few optimizer steps, seconds and memory.

The steps are the course's own: its trainer, objectives, augmentation and optimizer groups, on phantoms drawn at the
profile's size. Start weights are random, so that no model hub is asked; they change neither time nor memory.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from kdoct_utils.course.costs import SavedBytes, training_of
from kdoct_utils.lab import stages
from kdoct_utils.learn.inference import ScanImages
from kdoct_utils.learn.objectives import Objective
from kdoct_utils.learn.trainer import Trainer
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.profiles import CLASS_NAMES, Profile
from kdoct_utils.runs import RunFolder

DRAWN_PATIENTS, DRAWN_SLICES = 2, 5  # phantoms of each class; a longer stretch repeats them with new augmentations


class StretchError(RuntimeError):
    """A stretch that did not come to its end."""


@dataclass(frozen=True)
class Stretch:
    """What was measured. seconds: of an optimizer step; where there are several, the first, which warms up, is left
    out. peak_bytes: of the GPU, or of this process where there is none. activation_bytes: kept for the backward pass
    by one forward pass of batch_size images, weights in half precision among them. loss: mean over the steps."""

    role: str
    device: str
    precision: str
    batch_size: int
    accumulation: int
    steps: int
    seconds: float
    images_per_second: float
    peak_bytes: int
    activation_bytes: int
    loss: float


def run_stretch(
    profile: Profile, role: str, steps: int = 1, batch_size: int | None = None, accumulation: int | None = None,
    seed: int = 0,
) -> Stretch:  # fmt: skip
    """Train the profile's "teacher" or "student" (with a live teacher) for some optimizer steps, and measure.

    batch_size, accumulation: None takes the profile's. The backbone is not frozen, nothing is averaged, and the
    learning rates are those of the first steps of the warm-up.
    """
    if steps < 1:
        raise ValueError(f"a stretch takes at least one step, not {steps}")
    trainer = stretch_trainer(profile, role, steps, batch_size, accumulation, seed)
    weighed = trainer.objective = _Weighed(trainer.objective)
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = clock_steps(trainer)
    history = trainer.fit().history
    per_step = seconds()
    per_step = float(np.mean(per_step[1:] if steps > 1 else per_step))
    precision = trainer.accelerator.mixed_precision
    return Stretch(
        role=role,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        precision="float32" if precision == "no" else precision,
        batch_size=trainer.config.batch_size,
        accumulation=trainer.config.accumulation,
        steps=steps,
        seconds=per_step,
        images_per_second=trainer.config.batch_size * trainer.config.accumulation / per_step,
        peak_bytes=torch.cuda.max_memory_reserved() if on_gpu else peak_memory(),
        activation_bytes=weighed.bytes,
        loss=float(history["train_loss"].iloc[-1]),
    )


def stretch_trainer(
    profile: Profile, role: str, steps: int, batch_size: int | None, accumulation: int | None, seed: int,
    train: ScanImages | None = None,
) -> Trainer:  # fmt: skip
    """The course's trainer for that network, with an epoch of ``steps`` steps over phantoms, or over ``train`` where
    a student is given scans."""
    if role not in ("teacher", "student"):
        raise ValueError(f"unknown network {role!r}; valid: teacher, student")
    training = training_of(profile, role)
    training = replace(
        training, epochs=1, frozen_epochs=0, swa_learning_rate=None,
        batch_size=batch_size or training.batch_size, accumulation=accumulation or training.accumulation,
    )  # fmt: skip
    settings = {f"{role}_training": training, "start_weights": "none"}
    run = RunFolder(Path(), replace(profile, **settings), "phantom", None, seed)  # nothing is read or written there
    drawn = 1 if train is not None else steps * training.accumulation  # batches
    data = phantom_data(profile, drawn * training.batch_size, training.batch_size, seed)
    teacher = stages.new_teacher(run, data)
    if role == "teacher":
        return stages.teacher_trainer(run, data, teacher, progress=False)
    objective = stages.student_objective(run, data, "kd", teacher, profile.temperature, profile.alpha)
    student = stages.new_student(run, data, seed)
    return stages.student_trainer(run, data, student, objective, seed, train=train, progress=False)


def phantom_data(profile: Profile, n_train: int, n_validation: int, seed: int) -> stages.CourseData:
    """Phantoms at the profile's size that show their class, repeated as often as needed: each with its own index."""
    images, table = phantom_cohort(DRAWN_PATIENTS, DRAWN_SLICES, profile.resize_size, seed)
    shown = np.flatnonzero(table["label"] == table["patient_class"])
    shown = np.random.default_rng(seed).permutation(shown)  # classes mixed
    chosen = np.resize(shown, n_train + n_validation)
    classes = CLASS_NAMES[:3]
    table = table.assign(target=table["label"].map(classes.index)).iloc[chosen].reset_index(drop=True)
    return stages.CourseData(
        table=table.assign(group=table["patient"], scan_id=[f"{row:05d}" for row in range(len(table))]),
        images=images[chosen],
        role=np.where(np.arange(len(table)) < n_train, "train", "validation").astype(object),
        class_names=classes, provenance={}, hashes={}, split=table, split_hash="", fold=0,
    )  # fmt: skip


class _Weighed(Objective):
    """An objective that adds up what its first forward pass keeps for the backward pass."""

    def __init__(self, inner: Objective):
        super().__init__()
        self.inner, self.views, self.bytes = inner, inner.views, 0

    def forward(self, model, images, target, indices, view):
        if self.bytes:
            return self.inner(model, images, target, indices, view)
        with SavedBytes(model) as held:
            answer = self.inner(model, images, target, indices, view)
        self.bytes = held.total()
        return answer

    def validation_losses(self, logits, target):
        return self.inner.validation_losses(logits, target)

    def describe(self) -> dict:
        return self.inner.describe()


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far; where no system counts them, those of now."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss would count the process that started this one too
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)


def clock_steps(trainer: Trainer) -> Callable[[], list[float]]:
    """Time the trainer's steps from now on. Returns what gives, after training, the seconds of each.

    A GPU works behind its program's back: its own clock is read, without making it wait.
    """
    marks = [_mark(trainer.device)]
    step = trainer.optimizer.step

    def timed(*values, **options):
        step(*values, **options)
        marks.append(_mark(trainer.device))

    trainer.optimizer.step = timed

    def seconds() -> list[float]:
        if trainer.device.type != "cuda":
            return list(np.diff(marks))
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in zip(marks, marks[1:], strict=False)]

    return seconds


def _mark(device: torch.device):
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def run_apart(
    profile: Profile, role: str, steps: int = 1, batch_size: int | None = None, accumulation: int | None = None
) -> Stretch:
    """`run_stretch` in a process of its own: its peak memory is its own, and so is its end for want of it.

    Raises StretchError where that process was killed.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_offer_to_the_killer) as pool:
        try:
            return pool.submit(run_stretch, profile, role, steps, batch_size, accumulation).result()
        except BrokenProcessPool as error:
            raise StretchError("its process was killed, most likely for want of memory") from error


def _offer_to_the_killer() -> None:
    """Where memory runs out after all, Linux shall end this process before any other."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000", encoding="utf-8")
