"""How long does an answer take on this machine? python timing.py [--minutes 10]

Prints JSON: the processor, seconds from starting Python to the first answer, milliseconds from a file to its answer and
of the network alone (median and 95th percentile) for each number of threads, and the peak memory. A board without a fan
slows down as it warms up: --minutes goes on for that long and says how the last tenth differs from the first.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdoct_utils.edge.classifier import OnnxClassifier, processor

HERE = Path(__file__).resolve().parent


def milliseconds(call: Callable[[], object], calls: int) -> np.ndarray:
    """(calls,) of each call, after five that warm up."""
    found = np.empty(calls)
    for number in range(-5, calls):
        start = time.perf_counter()
        call()
        if number >= 0:
            found[number] = 1000 * (time.perf_counter() - start)
    return found


def in_words(times: np.ndarray) -> dict[str, float]:
    return {"median_ms": round(float(np.median(times)), 3), "p95_ms": round(float(np.quantile(times, 0.95)), 3)}


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, where the system says (Linux)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def measure(folder: Path, calls: int, minutes: float) -> dict[str, object]:
    """All that is printed."""
    frame, starts = folder / "example.jpeg", []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, str(folder / "classify.py"), str(frame)], check=True, capture_output=True)
        starts.append(time.perf_counter() - start)
    found: dict[str, object] = processor() | {"cold_start_s": round(sorted(starts)[1], 3)}
    for threads in sorted({1, 2, os.cpu_count() or 1}):
        if threads <= (os.cpu_count() or 1):
            classifier = OnnxClassifier(folder / "model.onnx", threads)
            side = classifier.stored_size
            scan = np.zeros((1, side, side), np.uint8)
            network = milliseconds(lambda c=classifier, s=scan: c.logits(s), calls)
            found[f"network, threads {threads}"] = in_words(network)
            whole = milliseconds(lambda c=classifier: c.classify_file(frame), max(5, calls // 10))
            found[f"file to answer, threads {threads}"] = in_words(whole)
    found["peak_mb"] = peak_memory_mb()
    if minutes:
        classifier, until, taken = OnnxClassifier(folder / "model.onnx"), time.monotonic() + 60 * minutes, []
        while time.monotonic() < until:
            taken.append(np.median(milliseconds(lambda: classifier.logits(scan), calls)))
        tenth = max(1, len(taken) // 10)
        found[f"last tenth of {minutes:g} minutes against the first"] = round(
            float(np.median(taken[-tenth:]) / np.median(taken[:tenth])), 2
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="timed calls of each kind")
    parser.add_argument("--minutes", type=float, default=0, help="go on for so long, to see a board warm up")
    given = parser.parse_args()
    print(json.dumps(measure(HERE, given.calls, given.minutes), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
