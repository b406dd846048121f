"""How the benchmarks read the clock, what they say of it, and scripts that run in a process of their own."""

import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from kdoct_utils.course.execute import child_environment


def seconds(work: Callable[[int], object], repeats: int, warm: int = 1) -> np.ndarray:
    """Seconds of each call of work(number) after some that warm up."""
    times = []
    for number in range(repeats + warm):
        start = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - start)
    return np.array(times[warm:])


def verdict(result: str, aim: str) -> str:
    """The aim, marked where the first number of the result misses it: "at least 3", "at most 0.3", "under 1 ms"."""
    asked = re.match(r"(at least|at most|under) ([\d.]+)", aim)
    if asked is None:
        return aim
    found, bound = float(re.match(r"[\d.]+", result.replace(",", ""))[0]), float(asked[2])
    met = {"at least": found >= bound, "at most": found <= bound, "under": found < bound}[asked[1]]
    return aim if met else f"{aim}: **missed**"


def run_script(script: str, *arguments: object, weigh: bool = False) -> dict:
    """What a script in this folder prints last, as JSON: neither memory nor warmth of one run reaches another.

    weigh: adds ``peak_bytes``, the peak memory of all its processes together; to look at it slows them down.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = psutil.Popen(command, stdout=said, stderr=complained, env=child_environment())
        peak = 0
        try:
            while weigh and process.poll() is None:
                with contextlib.suppress(psutil.Error):  # a worker that has just ended
                    memory = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
                    peak = max(peak, sum(getattr(one, "pss", one.uss) for one in memory))  # shared pages count once
                time.sleep(0.05)
            process.wait(900)
        finally:
            process.kill()
        said.seek(0), complained.seek(0)
        assert process.returncode == 0, f"{script} stopped: {complained.read()[-800:]}"
        return json.loads(said.read().splitlines()[-1]) | ({"peak_bytes": peak} if weigh else {})
