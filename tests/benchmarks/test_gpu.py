"""Profiles colab and paper on a CUDA device beside the loop settings of the reference: `make bench`.

Prints images a second and peak memory, one line of JSON for each measurement.
"""

import json

import pytest
import torch
from reference_loop import train_reference

from kdoct_utils.course.check import GB
from kdoct_utils.course.true_step import phantom_scans, take_steps
from kdoct_utils.profiles import get_profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
STEPS = 40


def report(profile, role, loop, images_per_second, peak_bytes):
    """Print a measurement."""
    found = {
        "device": torch.cuda.get_device_name(), "profile": profile.name, "network": role, "loop": loop,
        "images_per_second": images_per_second, "peak_gb": peak_bytes / GB,
    }  # fmt: skip
    print("\n" + json.dumps(found))
    return found


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("name", ["colab", "paper"])
def test_package_beside_the_reference(name, role):
    profile = get_profile(name)
    training = getattr(profile, f"{role}_training")
    taken = take_steps(profile, role, STEPS)
    ours = report(profile, role, "package", taken["images_per_second"], taken["peak_bytes"])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    scans = phantom_scans(profile, STEPS * training.batch_size * training.accumulation)
    rate, losses = train_reference(
        profile, role, scans.images, scans.target.numpy(), device="cuda", precision=training.precision
    )
    theirs = report(profile, role, "reference", rate, torch.cuda.max_memory_reserved())
    print(f"package / reference: {ours['images_per_second'] / theirs['images_per_second']:.2f}")
    assert len(losses) == STEPS * training.accumulation
    assert ours["images_per_second"] > 0 and theirs["images_per_second"] > 0
