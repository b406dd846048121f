"""What an exported student says, how soon, and that it says so without torch.

An exported file describes itself. Its input ``image`` is uint8 (batch, 1, R, R), grey, as scans are stored
(`Profile.resize_size`); resizing to the network's side S, scaling, ImageNet normalization and repeating grey to
three channels are nodes of the graph, so a device cannot get them wrong. Its output ``logits`` is float32
(batch, classes). The class names are in the file's metadata.

Importing this module needs numpy and onnxruntime only; making files needs torch and onnx, using them does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier


def check_parity(reference: np.ndarray, path: str | Path, images: np.ndarray) -> dict[str, float]:
    """How far a file's logits are from those that torch gave for the same images.

    reference: (n, classes), from `inference.predict_logits`. images: (n, R, R) uint8.
    Returns max_difference (of logits) and agreement (share of equal predictions, 0..1).
    """
    if len(reference) != len(images) or len(images) == 0:
        raise EdgeError(f"{len(reference)} rows of logits for {len(images)} images; parity needs one each, and some")
    logits = OnnxClassifier(path).logits(images)
    same = logits.argmax(axis=1) == np.asarray(reference).argmax(axis=1)
    return {"max_difference": float(np.abs(logits - reference).max()), "agreement": float(same.mean())}


def time_calls(call: Callable[[], Any], runs: int = 100, warmup: int = 10) -> dict[str, float]:
    """Median and 90th percentile of the wall time of a call, in milliseconds, after some calls to warm up."""
    for _ in range(warmup):
        call()
    seconds = _clock(call, runs)
    return {"median_ms": 1000 * float(np.median(seconds)), "p90_ms": 1000 * float(np.quantile(seconds, 0.9))}


def time_in_turns(
    calls: Mapping[Any, Callable[[], Any]], turns: int = 7, runs: int = 30, warmup: int = 3
) -> dict[Any, dict[str, float]]:
    """Wall time of calls that take turns, so that a busy moment of the machine does not hit one of them alone.

    Each turn starts with ``warmup`` calls that do not count: the others have emptied the processor's caches, and their
    idle threads may still spin. Returns, by name, median_ms, p95_ms and by_turn (the median of each turn, in ms).
    """
    seconds: dict[Any, list[np.ndarray]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(warmup):
                call()
            seconds[name].append(_clock(call, runs))
    return {
        name: {
            "median_ms": 1000 * float(np.median(every)), "p95_ms": 1000 * float(np.quantile(every, 0.95)),
            "by_turn": [1000 * float(np.median(turn)) for turn in every],
        }
        for name, every in seconds.items()
    }  # fmt: skip


def _clock(call: Callable[[], Any], runs: int) -> np.ndarray:
    seconds = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        call()
        seconds[i] = time.perf_counter() - start
    return seconds


def time_by_operation(path: str | Path, runs: int = 50) -> dict[str, float]:
    """Microseconds a scan spends in each kind of operation at batch 1, one thread, by ONNX Runtime's profiler.

    The names are those of the graph as the runtime rewrote it, so QLinearConv may stand where the file has Conv.
    Profiling costs time itself: compare shares, and take the latency from `time_calls`. The slowest tenth of the calls
    of each node is left out, as a busy moment of the machine. The longest come first.
    """
    side = OnnxClassifier(path).stored_size
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 3, True
    image = np.random.default_rng(0).integers(0, 256, (1, 1, side, side), np.uint8)
    calls: dict[tuple[str, str], list[int]] = defaultdict(list)  # microseconds by node and its operation
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(["logits"], {"image": image})
        for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                calls[event["name"], event["args"]["op_name"]].append(event["dur"])
    spent: Counter[str] = Counter()
    for (_, operation), durations in calls.items():
        spent[operation] += float(np.mean(sorted(durations)[: -(-9 * len(durations) // 10)]))
    return dict(spent.most_common())


_CHILD = """
import json, sys, time
# None in sys.modules makes every import of that name fail, wherever it is installed.
sys.modules.update(dict.fromkeys(json.loads(sys.argv[3])))
start = time.perf_counter()
import numpy
from kdoct_utils.edge.classifier import OnnxClassifier
classifier = OnnxClassifier(sys.argv[1])
logits = classifier.logits(numpy.load(sys.argv[2], allow_pickle=False))
seconds = time.perf_counter() - start
try:
    status = open("/proc/self/status", encoding="utf-8").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
except OSError:
    peak = None
print(json.dumps({"logits": logits.tolist(), "class_names": classifier.class_names, "seconds": seconds,
                  "peak_mb": peak}))
"""
TRAINING_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "onnx", "sklearn", "pandas", "scipy", "cv2",
                     "matplotlib")  # fmt: skip


def run_without_torch(
    path: str | Path, images_file: str | Path, forbidden: Sequence[str] = TRAINING_PACKAGES, timeout: int = 120
) -> dict[str, Any]:
    """Predict in a new Python process in which the training packages cannot be imported, as on a small device.

    images_file: .npy, uint8 (n, R, R). Returns predictions (n,), logits (n, classes), class_names, seconds (from the
    first import to the answer), cold_start_s (from starting Python to its end), peak_mb (memory of that process; None
    where the system does not say) and forbidden. Raises EdgeError with the child's last line when it fails.
    """
    command = [sys.executable, "-c", _CHILD, str(path), str(images_file), json.dumps(list(forbidden))]
    start = time.perf_counter()
    # run beside the package, so that it is found even when it is not installed
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace",
                          timeout=timeout, check=False, cwd=Path(__file__).resolve().parents[2])  # fmt: skip
    whole = time.perf_counter() - start
    if done.returncode:
        raise EdgeError(f"the run without torch failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    logits = np.asarray(answer["logits"], dtype=np.float32)
    return {"predictions": logits.argmax(axis=1), "logits": logits, "class_names": tuple(answer["class_names"]),
            "seconds": answer["seconds"], "cold_start_s": whole, "peak_mb": answer["peak_mb"],
            "forbidden": tuple(forbidden)}  # fmt: skip


def peak_memory_mb() -> float | None:
    """The most memory that this process has held so far, in MB; None where the system does not say, outside of Linux.

    Not from getrusage: there a child begins with the peak of its parent.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def cold_start(path: str | Path, starts: int = 3) -> dict[str, float | None]:
    """From starting Python, without torch, to the answer to one scan: cold_start_s and peak_mb, medians of ``starts``.

    The file is read from the disk's cache: the first start after a reboot takes longer.
    """
    side = OnnxClassifier(path).stored_size
    with tempfile.TemporaryDirectory() as folder:
        np.save(scan := Path(folder) / "scan.npy", np.zeros((1, side, side), np.uint8))
        found = [run_without_torch(path, scan) for _ in range(starts)]
    peaks = [one["peak_mb"] for one in found if one["peak_mb"] is not None]
    return {"cold_start_s": float(np.median([one["cold_start_s"] for one in found])),
            "peak_mb": float(np.median(peaks)) if peaks else None}  # fmt: skip
