"""A profile at its true size on this machine: its networks counted, and optimizer steps that are really taken.

The steps are the course's own: its trainer, objectives, augmentation and optimizer groups, on phantoms drawn at the
profile's size. Start weights are random, so that no model hub is asked; they change neither time nor memory.
"""

import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from kdoct_utils.course.check import GB, Check, gpu_memory
from kdoct_utils.learn.inference import ScanImages
from kdoct_utils.learn.models import build_model, count_parameters
from kdoct_utils.learn.objectives import DistillationObjective, FocalObjective
from kdoct_utils.learn.pipelines import STUDENT, TEACHER, weakened
from kdoct_utils.learn.trainer import Trainer
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.profiles import CLASS_NAMES, Profile
from kdoct_utils.runs import memory_limit

CLASSES = CLASS_NAMES[:3]
STEPS_ON_CPU, STEPS_ON_GPU = 1, 20  # a step of the paper's teacher is minutes on a CPU; a GPU has to warm up first
BYTES_A_PARAMETER = 20  # in float32: the weight, its gradient, AdamW's two averages, the best weight so far


def true_step_checks(profile: Profile, steps: bool = True) -> Iterator[Check]:
    """Count "teacher" and "student" and, with steps, take true optimizer steps of each; yielded as it becomes known."""
    parameters = {}
    for role in ("teacher", "student"):
        config = getattr(profile, role)
        with torch.device("meta"):  # built without its numbers
            parameters[role] = count_parameters(build_model(config, len(CLASSES), profile.channels))
        found = f"{config.architecture}, {parameters[role] / 1e6:.2f} M parameters with {len(CLASSES)} classes"
        yield Check(role, True, found)
    for role in parameters if steps else ():
        held = parameters[role] * BYTES_A_PARAMETER + (4 * parameters["teacher"] if role == "student" else 0)
        yield check_steps(profile, role, held)


def check_steps(profile: Profile, role: str, least_bytes: float) -> Check:
    """Take true optimizer steps of one network with the profile's batch. least_bytes: what its weights alone take."""
    name, remedy = f"{role} steps", "Free some memory, use a machine with more, or pass --no-step"
    gpu = gpu_memory()
    free = gpu[1] if gpu else min(psutil.virtual_memory().available, memory_limit())
    if free < least_bytes:
        found = f"{free / GB:.1f} GB free, the weights alone need {least_bytes / GB:.1f} GB in training"
        return Check(name, False, found, remedy)
    steps = STEPS_ON_GPU if gpu else STEPS_ON_CPU
    print(f"training the {role} for {steps} optimizer step(s): minutes on a CPU", file=sys.stderr, flush=True)
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # so that its peak memory, and its end, are its own
            taken = pool.submit(take_steps, profile, role, steps).result()
    except (BrokenProcessPool, torch.OutOfMemoryError):
        return Check(name, False, "its process was stopped, most likely for want of memory", remedy)
    told = (
        f"{steps} of {taken['accumulation']} x {taken['batch_size']} scans at {profile.image_size} px "
        f"({taken['precision']} on {taken['device']}; random start weights): {taken['seconds']:.3g} s a step, "
        f"{taken['images_per_second']:.3g} images/s, peak {taken['peak_bytes'] / GB:.1f} GB"
    )
    return Check(name, True, told)


def take_steps(profile: Profile, role: str, steps: int) -> dict:
    """Train the profile's "teacher" or "student" (with a live teacher) for some optimizer steps, and measure.

    seconds: of a step; where there are several, the first, which warms up, is left out. peak_bytes: of the GPU, or of
    this process where there is none.
    """
    trainer = step_trainer(profile, role, steps)
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    marks = clock_steps(trainer)
    trainer.fit()
    seconds = float(np.mean(np.diff(marks)[1 if steps > 1 else 0 :]))
    config, precision = trainer.config, trainer.accelerator.mixed_precision
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "this CPU",
        "precision": "float32" if precision == "no" else precision,
        "batch_size": config.batch_size,
        "accumulation": config.accumulation,
        "seconds": seconds,
        "images_per_second": config.batch_size * config.accumulation / seconds,
        "peak_bytes": torch.cuda.max_memory_reserved() if on_gpu else peak_memory(),
    }


def step_trainer(profile: Profile, role: str, steps: int, train: ScanImages | None = None) -> Trainer:
    """The course's trainer for that network, with an epoch of ``steps`` steps over phantoms, or over ``train``.

    The backbone is not frozen, nothing is averaged, and the learning rates are those of the warm-up's first steps.
    """
    training = getattr(profile, f"{role}_training")
    training = replace(training, epochs=1, frozen_epochs=0, swa_learning_rate=None)
    drawn = (1 if train is not None else steps * training.accumulation) * training.batch_size
    scans = phantom_scans(profile, drawn + training.batch_size)
    rows = np.arange(len(scans))
    model = build_model(profile.teacher, len(CLASSES), profile.channels, seed=0)
    objective, augmentation = FocalObjective(profile.gamma), weakened(TEACHER, profile.teacher_augmentation)
    if role == "student":
        objective, augmentation = DistillationObjective(model, profile.temperature, profile.alpha), STUDENT
        model = build_model(profile.student, len(CLASSES), profile.channels, seed=0)
    return Trainer(
        model, objective, scans.subset(rows[:drawn]) if train is None else train, scans.subset(rows[drawn:]), training,
        augmentation=augmentation, image_size=profile.image_size, channels=profile.channels, seed=0, progress=False,
    )  # fmt: skip


def phantom_scans(profile: Profile, number: int) -> ScanImages:
    """Phantoms at the profile's size that show their class, repeated as often as needed: each with its own index."""
    images, table = phantom_cohort(2, 5, profile.resize_size, 0)
    shown = np.flatnonzero(table["label"] == table["patient_class"])
    chosen = np.resize(np.random.default_rng(0).permutation(shown), number)  # classes mixed
    return ScanImages(images[chosen], table["label"].map(CLASSES.index).to_numpy()[chosen])


def clock_steps(trainer: Trainer) -> list[float]:
    """Note when each optimizer step of the trainer ends, in seconds; the first note is of now."""
    marks = [time.perf_counter()]

    def mark(*_: object) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()  # a GPU works behind its program's back
        marks.append(time.perf_counter())

    trainer.optimizer.optimizer.register_step_post_hook(mark)  # of torch's optimizer, which Accelerate wraps
    return marks


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far; where no system counts them, those of now."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss would count the process that started this one too
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8"))[1])
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)
