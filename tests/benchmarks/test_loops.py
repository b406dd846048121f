"""The course's distillation loop beside others on the same work, each in a process of its own: `make bench`."""

import subprocess
import sys

import pytest
from loops import LOOPS
from measuring import run_script

STEPS = 60
BUSY = "import torch; a = torch.randn(1000, 1000)\nwhile True: a @ a"  # on every core, as a second training would be
ROUNDS = 2  # the better one counts: other work on the machine only ever slows down


def run_loop(name: str, weigh: bool = False) -> dict:
    return run_script("loops.py", name, STEPS, weigh=weigh)


@pytest.fixture(scope="module")
def found():
    """Loop -> images a second of its better round."""
    rounds = [{name: run_loop(name)["images_per_second"] for name in LOOPS} for _ in range(ROUNDS)]  # interleaved
    best = {name: max(one[name] for one in rounds) for name in LOOPS}
    for name, rate in best.items():
        print(f"\n{name}: {rate:.0f} images/s", end="")
    return best


def test_distillation_loops(found, measured):
    work = "distillation at 96 px"

    def ratio(what: str, a: str, b: str, aim: str) -> None:
        measured(f"{work}: {what}", f"{found[a] / found[b]:.2f} ({found[a]:.0f} against {found[b]:.0f} images/s)", aim)

    ratio("against the public code's loop", "package", "reference", "at least 3")
    ratio("against the public code's, spared of its files", "package", "reference, in memory", "")
    ratio("against timm's task in a tuned loop", "package", "timm", "at least 1.9")
    ratio("share of its own floor", "package", "floor", "at least 0.95")
    ratio("cached logits against a live teacher", "package, cached logits", "package", "at least 1.45")
    assert found["package"] > found["reference"]


def test_beside_a_busy_process(found, measured):
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        beside = {name: run_loop(name)["images_per_second"] for name in ("quick, package", "quick, reference")}
    finally:
        busy.kill()
        busy.wait()
    for name, rate in beside.items():
        measured(f"beside a busy process, share of its own quiet speed: {name}",
                 f"{rate / found[name]:.2f} ({rate:.0f} against {found[name]:.0f} images/s)", "")  # fmt: skip
    for way, rates in (("quiet", found), ("beside a busy process", beside)):
        measured(f"quick student's KD against the public code's, spared of its files: {way}",
                 f"{rates['quick, package'] / rates['quick, reference']:.2f}", "")  # fmt: skip


def test_memory(measured):
    theirs, ours = (run_loop(name, weigh=True)["peak_bytes"] for name in ("reference", "package"))
    measured("distillation at 96 px: peak memory against the public code's loop, workers counted",
             f"{ours / theirs:.2f} ({ours / 1e6:.0f} against {theirs / 1e6:.0f} MB)", "at most 0.9")  # fmt: skip
    assert ours < 1.2 * theirs
