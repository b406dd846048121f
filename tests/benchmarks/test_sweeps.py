"""How much quicker two workers do a sweep than one, on this machine and over a Dask cluster: `make bench`."""

import time
from importlib.util import find_spec
from pathlib import Path

from kdoct_utils.course.sweep import plan_sweep, run_sweep

RUNS = 2  # of notebook 05 in profile smoke, with different data: nothing is shared


def seconds(folder: Path, **way: object) -> float:
    started = time.perf_counter()
    results = run_sweep(plan_sweep("05", {}, seeds=RUNS, profile="smoke", run_dir=folder), progress=False, **way)
    took = time.perf_counter() - started
    assert results["status"].tolist() == RUNS * ["done"]
    return took


def test_two_workers(tmp_path, measured, request):
    one, two = seconds(tmp_path / "one", jobs=1), seconds(tmp_path / "two", jobs=2)
    measured(f"sweep of {RUNS} runs, 2 local workers against 1", f"{one / two:.2f} times as quick: efficiency "
             f"{one / two / 2:.2f} ({one:.0f} and {two:.0f} s)", "")  # fmt: skip
    if find_spec("distributed") is not None:
        address, start_workers = request.getfixturevalue("cluster")
        start_workers(2)
        spread = seconds(tmp_path / "dask", scheduler=address)
        measured("the same over a Dask cluster of 2 workers", f"{one / spread:.2f} times as quick: efficiency "
                 f"{one / spread / 2:.2f} ({spread:.0f} s)", "")  # fmt: skip
    assert two < 1.2 * one
