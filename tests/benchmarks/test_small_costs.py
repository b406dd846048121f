"""What a user waits for besides training: start, phantoms, intervals: `make bench`."""

import subprocess
import sys

import numpy as np
import pytest
from measuring import seconds

from kdoct_utils.course.execute import child_environment
from kdoct_utils.judge.metrics import evaluate, paired_difference, patient_bootstrap
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_band
from kdoct_utils.profiles import CLASS_NAMES


def best(work, repeats=5):
    """Seconds of the quickest call: the cost without what else the machine does."""
    return float(seconds(lambda _: work(), repeats, warm=0).min())


@pytest.mark.parametrize(
    ("what", "arguments", "aim"),
    [
        ("import kdoct_utils", ["-c", "import kdoct_utils"], 0.3),
        ("kdoct --help", ["-m", "kdoct_utils.course.cli", "--help"], 0.5),
    ],
)
def test_start(what, arguments, aim, measured):
    run = [sys.executable, *arguments]
    bare = best(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    took = best(lambda: subprocess.run(run, check=True, capture_output=True, env=child_environment()))
    measured(f"`{what}`", f"{took:.2f} s, of which Python itself {bare:.2f} s", f"under {aim} s")
    assert took < 4 * aim


def test_phantoms(measured, one_thread):
    patients = [draw_patient(CLASS_NAMES[k % 4], [9, k]) for k in range(8)]
    for size in (64, 96):
        cost = 1000 * best(lambda size=size: [render_band(patient, 10, size) for patient in patients]) / 80
        measured(f"phantom B-scan at {size} px, one core", f"{cost:.2f} ms", "under 1 ms" if size == 96 else "")
    assert cost < 3


def test_intervals(measured):
    random = np.random.default_rng(0)
    patients = random.integers(0, 441, 12649).astype(str)  # NEH in numbers
    target = random.integers(0, 3, 12649)
    chances = random.dirichlet(np.ones(3), 12649)
    correct = random.random((3, 12649)) < 0.9
    took = best(lambda: patient_bootstrap(correct[0], patients, resamples=10_000), 3)
    measured("10,000 resamples of 441 patients, 12,649 predictions", f"{took:.2f} s", "under 2 s")
    pairs = best(lambda: paired_difference(correct, ~correct, patients, resamples=10_000), 3)
    measured("the same for a paired difference over 3 seeds", f"{pairs:.2f} s", "")
    scores = best(lambda: evaluate(chances, target, patients, ("a", "b", "c")), 3)
    measured("all scores of 12,649 predictions, with their interval", f"{scores:.2f} s", "")
    assert took < 4
