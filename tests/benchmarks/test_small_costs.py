"""What a user waits for besides training: start, phantoms, intervals: `make bench`."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from kdoct_utils.execute import child_environment
from kdoct_utils.metrics import evaluate, paired_difference, patient_bootstrap
from kdoct_utils.phantom import draw_patient, render_band
from kdoct_utils.profiles import CLASS_NAMES


def seconds(work, repeats=5):
    """The best of some calls: the cost without what else the machine does."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize(
    ("what", "arguments", "aim"),
    [
        ("import kdoct_utils", ["-c", "import kdoct_utils"], 0.3),
        ("kdoct --help", ["-m", "kdoct_utils.cli", "--help"], 0.5),
    ],
)
def test_start(what, arguments, aim, measured):
    run = [sys.executable, *arguments]
    bare = seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    took = seconds(lambda: subprocess.run(run, check=True, capture_output=True, env=child_environment()))
    measured(f"`{what}`", f"{took:.2f} s, of which Python itself {bare:.2f} s", f"under {aim} s")
    assert took < 4 * aim


def test_phantoms(measured):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    patients = [draw_patient(CLASS_NAMES[k % 4], [9, k]) for k in range(8)]
    for size in (64, 96):
        cost = 1000 * seconds(lambda size=size: [render_band(patient, 10, size) for patient in patients]) / 80
        measured(f"phantom B-scan at {size} px, one core", f"{cost:.2f} ms", "under 1 ms" if size == 96 else "")
    torch.set_num_threads(before)
    assert cost < 3


def test_intervals(measured):
    random = np.random.default_rng(0)
    patients = random.integers(0, 441, 12649).astype(str)  # NEH in numbers
    target = random.integers(0, 3, 12649)
    chances = random.dirichlet(np.ones(3), 12649)
    correct = random.random((3, 12649)) < 0.9
    took = seconds(lambda: patient_bootstrap(correct[0], patients, resamples=10_000), 3)
    measured("10,000 resamples of 441 patients, 12,649 predictions", f"{took:.2f} s", "under 2 s")
    pairs = seconds(lambda: paired_difference(correct, ~correct, patients, resamples=10_000), 3)
    measured("the same for a paired difference over 3 seeds", f"{pairs:.2f} s", "")
    scores = seconds(lambda: evaluate(chances, target, patients, ("a", "b", "c")), 3)
    measured("all scores of 12,649 predictions, with their interval", f"{scores:.2f} s", "")
    assert took < 4
