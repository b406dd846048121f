"""How much quicker two workers do a sweep than one, on this machine and over a Dask cluster: `make bench`."""

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdoct_utils.sweep import read_results, run_sweep

ROOT = Path(__file__).resolve().parents[2]
RUNS = 2  # of notebook 05 in profile smoke, with different data: nothing is shared


def seconds(folder: Path, **way: object) -> float:
    started = time.perf_counter()
    made = run_sweep("05", {}, seeds=RUNS, profile="smoke", run_dir=folder, progress=False, **way)
    took = time.perf_counter() - started
    assert len(read_results(made)) == RUNS and (read_results(made)["status"] == "done").all()
    return took


@pytest.fixture
def cluster():
    """Address of a scheduler with two workers of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    worker = ["worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
    processes = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], env=environment, stderr=subprocess.DEVNULL)
        for command in (["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], worker, worker)
    ]
    try:
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_workers(tmp_path, measured, request):
    one, two = seconds(tmp_path / "one", jobs=1), seconds(tmp_path / "two", jobs=2)
    measured(f"sweep of {RUNS} runs, 2 local workers against 1", f"{one / two:.2f} times as quick: efficiency "
             f"{one / two / 2:.2f} ({one:.0f} and {two:.0f} s)", "")  # fmt: skip
    if find_spec("distributed") is not None:
        spread = seconds(tmp_path / "dask", scheduler=request.getfixturevalue("cluster"))
        measured("the same over a Dask cluster of 2 workers", f"{one / spread:.2f} times as quick: efficiency "
                 f"{one / spread / 2:.2f} ({spread:.0f} s)", "")  # fmt: skip
    assert two < 1.2 * one
