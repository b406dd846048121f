"""Profiles colab and paper on a CUDA device beside the loop settings of the reference: `make bench`.

Prints images a second, peak memory and the hours of NEH's five folds, and one line of JSON for each measurement.
"""

import json

import pytest
import torch
from reference_loop import train_reference

from kdoct_utils.course.check import GB
from kdoct_utils.course.costs import days_at, training_of
from kdoct_utils.course.stretch import phantom_data, run_stretch
from kdoct_utils.profiles import get_profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
STEPS = 40


def report(profile, role, loop, images_per_second, peak_bytes):
    """Print a measurement."""
    found = {
        "device": torch.cuda.get_device_name(), "profile": profile.name, "network": role, "loop": loop,
        "images_per_second": images_per_second, "peak_gb": peak_bytes / GB,
        "hours_of_five_folds": 24 * days_at(profile, role, images_per_second),
    }  # fmt: skip
    print("\n" + json.dumps(found))
    return found


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("name", ["colab", "paper"])
def test_package_beside_the_reference(name, role):
    profile = get_profile(name)
    training = training_of(profile, role)
    stretch = run_stretch(profile, role, STEPS)
    ours = report(profile, role, "package", stretch.images_per_second, stretch.peak_bytes)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    data = phantom_data(profile, STEPS * training.batch_size * training.accumulation, 1, 0)
    rows = data.rows("train")
    rate, losses = train_reference(
        profile, role, data.images[rows], data.target[rows], device="cuda", precision=training.precision
    )
    theirs = report(profile, role, "reference", rate, torch.cuda.max_memory_reserved())
    print(f"package / reference: {ours['images_per_second'] / theirs['images_per_second']:.2f}")
    assert stretch.steps == STEPS and len(losses) == STEPS * training.accumulation
    assert ours["images_per_second"] > 0 and theirs["images_per_second"] > 0
