"""When a compiler pays: what it costs at the first step, and what each later step saves. `make bench`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kdoct_utils.execute import child_environment
from kdoct_utils.profiles import get_profile
from kdoct_utils.schedules import steps_per_epoch

HERE = Path(__file__).resolve().parent
STEPS = 40
SCRIPT = """
import json, sys
import numpy as np
from loops import QUICKER, WARM, bench_profile, clock_steps, stretch_trainer

trainer = stretch_trainer(bench_profile(**(QUICKER if sys.argv[1] == "compiled" else {"teacher_precision": "bf16"})),
                          "student", int(sys.argv[2]), None, None, 0)
seconds = clock_steps(trainer)
trainer.fit()
print(json.dumps([seconds()[0], float(np.median(seconds()[WARM:]))]))
"""


def first_and_later(way: str, cache: Path) -> tuple[float, float]:
    """Seconds of the first step and of one of the later ones, in a process that finds nothing compiled."""
    paths = os.pathsep.join([str(HERE), child_environment()["PYTHONPATH"]])
    environment = child_environment() | {"PYTHONPATH": paths, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT, way, str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_break_even(tmp_path, measured):
    rounds = {way: [first_and_later(way, tmp_path) for _ in range(2)] for way in ("eager", "compiled")}
    # the first round is the one that compiles; of the later steps the quicker round counts, as elsewhere
    eager_first, first = (found[0][0] for found in rounds.values())
    eager, compiled = (min(later for _, later in found) for found in rounds.values())
    training = get_profile("quick").student_training
    in_quick = training.epochs * steps_per_epoch(1200, training.batch_size, training.accumulation, 1)
    cost, saved = first - eager_first, eager - compiled
    steps = f"{cost / saved:,.0f} steps" if saved > 0 else "never"
    measured("compiling teacher and student at 96 px pays for itself after",
             f"{steps} ({cost:.0f} s at first, {1000 * saved:.1f} ms a step saved; a student of `quick` takes "
             f"about {in_quick} steps)", "")  # fmt: skip
    assert cost > 0
