"""When a compiler pays: what it costs at the first step, and what each later step saves. `make bench`."""

from scripts import run_script

from kdoct_utils.learn.schedules import steps_per_epoch
from kdoct_utils.profiles import get_profile

STEPS = 40


def test_break_even(tmp_path, measured):
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # nothing is compiled yet
    ways = ("eager", "compiled")
    rounds = {way: [run_script("first_step.py", way, STEPS, **cache) for _ in range(2)] for way in ways}
    # the first round is the one that compiles; of the later steps the quicker round counts, as elsewhere
    eager_first, first = (found[0]["first"] for found in rounds.values())
    eager, compiled = (min(one["later"] for one in found) for found in rounds.values())
    training = get_profile("quick").student_training
    in_quick = training.epochs * steps_per_epoch(1200, training.batch_size, training.accumulation, 1)
    cost, saved = first - eager_first, eager - compiled
    steps = f"{cost / saved:,.0f} steps" if saved > 0 else "never"
    measured("compiling teacher and student at 96 px pays for itself after",
             f"{steps} ({cost:.0f} s at first, {1000 * saved:.1f} ms a step saved; a student of `quick` takes "
             f"about {in_quick} steps)", "")  # fmt: skip
    assert cost > 0
