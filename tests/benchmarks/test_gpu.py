"""Distillation with profiles colab and paper on a CUDA device beside the reference loop: `make bench`."""

import pytest
import torch
from reference_loop import train_reference

from kdoct_utils.course.true_step import phantom_scans, take_steps
from kdoct_utils.profiles import get_profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
STEPS = 40


@pytest.mark.parametrize("name", ["colab", "paper"])
def test_package_beside_the_reference(name, measured):
    profile = get_profile(name)
    training = profile.student_training
    ours = take_steps(profile, "student", STEPS)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    scans = phantom_scans(profile, STEPS * training.batch_size * training.accumulation)
    theirs, _ = train_reference(
        profile, scans.images, scans.target.numpy(), device="cuda", precision=training.precision, workers=4
    )
    peaks, rate = [ours["peak_bytes"] / 1e9, torch.cuda.max_memory_reserved() / 1e9], ours["images_per_second"]
    measured(f"distillation in profile {name} on the GPU, against the public code's loop",
             f"{rate / theirs:.2f} ({rate:.0f} against {theirs:.0f} images/s; "
             f"{peaks[0]:.1f} and {peaks[1]:.1f} GB)", "")  # fmt: skip
