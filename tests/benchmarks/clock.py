"""How the benchmarks read the clock, and what they say of it."""

import re
import time
from collections.abc import Callable

import numpy as np


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
