"""Distillation loops measured beside one another, each in a process of its own: python loops.py NAME STEPS.

The work is the same everywhere: a ConvNeXtV2-Atto teacher answers live, a MobileNetV3-small-0.5 student learns, 96 px,
batches of 32, the student's full augmentation, AdamW, gradients clipped. Prints one line of JSON.

What the loops of others get is timm's own networks; ours are the course's, built by `build_model`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from reference_loop import PilScans, jpeg_frames, timm_network, train_reference
from torch.utils.data import DataLoader

from kdoct_utils.course.true_step import clock_steps, phantom_scans, step_trainer
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.inference import cache_teacher_logits
from kdoct_utils.learn.models import build_model, parameter_groups
from kdoct_utils.learn.objectives import CachedLogits, DistillationObjective
from kdoct_utils.learn.pipelines import STUDENT
from kdoct_utils.profiles import ModelConfig, Profile, get_profile

BATCH, WARM = 32, 8  # steps that warm up are not counted


def bench_profile() -> Profile:
    quick = get_profile("quick")
    training = replace(quick.student_training, batch_size=BATCH, fast=True, threads=None)
    return replace(
        quick, name="bench", image_size=96, channels=3, start_weights="none", student_training=training,
        teacher=ModelConfig("convnextv2_atto", dropout=0.0), student=ModelConfig("mobilenetv3_small_050", dropout=0.2),
    )  # fmt: skip


def networks(profile: Profile, build: Callable = build_model) -> tuple[torch.nn.Module, torch.nn.Module]:
    teacher = build(profile.teacher, 3, profile.channels).eval().requires_grad_(False)
    return teacher, build(profile.student, 3, profile.channels).train()


def scans(profile: Profile, steps: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = phantom_scans(profile, steps * profile.student_training.batch_size)
    return drawn.images, drawn.target.numpy()


def rate(seconds: list[float], batch: int = BATCH) -> float:
    """Images a second of the steps after the warm-up, by their median: other work on the machine slows a few down."""
    return batch / float(np.median(seconds[WARM:]))


def reference(steps: int) -> float:
    """The public code's way: files opened in every epoch, PIL image by image in four workers as there."""
    profile = bench_profile()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, content in enumerate(jpeg_frames(patients=8, slices=5)):  # few: all are in the system's file cache
            paths.append(f"{folder}/{number:03d}.jpg")
            Path(paths[-1]).write_bytes(content)
        paths, target = np.resize(paths, steps * BATCH), np.arange(steps * BATCH) % 3
        return train_reference(profile, paths, target, device="cpu", precision="no", workers=4)[0]


def reference_in_memory(steps: int, profile: Profile | None = None) -> float:
    """The same spared of its files: it starts from our stored images."""
    profile = profile or bench_profile()
    return train_reference(profile, *scans(profile, steps), device="cpu", precision="no", workers=2)[0]


def timm_task(steps: int) -> float:
    """timm's LogitDistillationTask in a loop without needless waits: channels last, fused AdamW, no loss read off."""
    from timm.task import LogitDistillationTask

    profile = bench_profile()
    teacher, student = (network.to(memory_format=torch.channels_last) for network in networks(profile, timm_network))
    task = LogitDistillationTask(
        student_model=student, teacher_model=teacher, criterion=torch.nn.CrossEntropyLoss(),
        task_loss_weight=1 - profile.alpha, temperature=profile.temperature, verbose=False,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(student, profile.student_training), fused=True)
    loader = DataLoader(PilScans(*scans(profile, steps), profile), BATCH, shuffle=True, num_workers=2)
    seconds, before = [], time.perf_counter()
    for images, target in loader:
        task(images.contiguous(memory_format=torch.channels_last), target)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), profile.student_training.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(-before + (before := time.perf_counter()))
    return BATCH * len(seconds[WARM:]) / sum(seconds[WARM:])  # workers come in bursts: no median here


def package(steps: int, cached: bool = False, profile: Profile | None = None) -> float:
    """The course's trainer. cached: with the teacher's logits for these very views, computed beforehand."""
    profile = profile or bench_profile()
    trainer = step_trainer(profile, "student", steps)
    if cached:
        logits = cache_teacher_logits(
            trainer.objective.teacher, trainer.train_set, STUDENT, 0, 1, profile.image_size, profile.channels,
            progress=False,
        )  # fmt: skip
        trainer.objective = DistillationObjective(CachedLogits(logits), profile.temperature, profile.alpha)
    marks = clock_steps(trainer)
    trainer.fit()
    return rate(list(np.diff(marks)), profile.student_training.batch_size)


def floor(steps: int) -> float:
    """The same step on tensors that are in memory already: what no data path can beat."""
    profile = bench_profile()
    teacher, student = networks(profile)
    training = profile.student_training
    objective = DistillationObjective(teacher, profile.temperature, profile.alpha)
    objective.use_fast_teacher(compiled=False)
    optimizer = torch.optim.AdamW(parameter_groups(student, training), fused=True)
    seconds, before = [], time.perf_counter()
    images, target = map(torch.from_numpy, scans(profile, 1))
    rows = np.arange(BATCH)
    inputs = augment(images, rows, STUDENT, 0, 0, profile.image_size, profile.channels)
    for _ in range(steps):
        objective(student, inputs, target, torch.from_numpy(rows), 0)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), training.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(-before + (before := time.perf_counter()))
    return rate(seconds)


LOOPS: dict[str, Callable[[int], float]] = {
    "reference": reference,
    "reference, in memory": reference_in_memory,
    "timm": timm_task,
    "package": package,
    "package, cached logits": lambda steps: package(steps, cached=True),
    "floor": floor,
    "quick, reference": lambda steps: reference_in_memory(steps, get_profile("quick")),
    "quick, package": lambda steps: package(steps, profile=get_profile("quick")),  # one thread, as that profile says
}

if __name__ == "__main__":
    name, steps = sys.argv[1], int(sys.argv[2])
    print(json.dumps({"loop": name, "images_per_second": LOOPS[name](steps)}))
