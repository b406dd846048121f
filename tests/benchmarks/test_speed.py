"""What things cost on this machine, on one core: `make bench`. Ratios are taken within one run."""

import numpy as np
import pytest
import torch
from clock import seconds

from kdoct_utils.learn import models
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.objectives import CrossEntropyObjective, DistillationObjective
from kdoct_utils.learn.pipelines import STUDENT, TEACHER
from kdoct_utils.profiles import get_profile

pytestmark = pytest.mark.usefixtures("one_thread")


def milliseconds(work):
    """Median time of one call."""
    return 1000 * float(np.median(seconds(lambda _: work(), 15, warm=2)))


def test_what_a_live_teacher_costs():
    profile = get_profile("quick")
    scans = torch.randint(0, 255, (32, profile.resize_size, profile.resize_size), dtype=torch.uint8)
    indices, target = torch.arange(32), torch.arange(32) % 3
    teacher = models.build_model(profile.teacher, 3, profile.channels)
    student = models.build_model(profile.student, 3, profile.channels).train()

    def step(objective):
        images = augment(scans, indices, STUDENT, 0, 0, profile.image_size, profile.channels)
        losses, _ = objective(student, images, target, indices, 0)
        losses.mean().backward()

    alone = milliseconds(lambda: step(CrossEntropyObjective()))
    distilled = milliseconds(lambda: step(DistillationObjective(teacher, temperature=4.0, alpha=0.7)))
    views = milliseconds(lambda: augment(scans, indices, TEACHER, 0, 0, profile.image_size, profile.channels))
    print(f"\nstudent alone {alone:.1f} ms a step of 32; with a live teacher {distilled / alone:.2f} times that")
    print(f"teacher's augmentation: {views / alone:.2f} of a student step")
    assert distilled > alone
