"""How the benchmarks read the clock."""

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
