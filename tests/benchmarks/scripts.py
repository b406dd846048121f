"""The scripts of the benchmarks, each in a process of its own: neither memory nor warmth of one reaches another."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from kdoct_utils.course.execute import child_environment

HERE = Path(__file__).resolve().parent


def run_script(script: str, *arguments: object, weigh: bool = False, **environment: str) -> dict:
    """What a script in this folder prints last, as JSON.

    weigh: adds ``peak_bytes``, the peak memory of all its processes together; to look at it slows them down.
    Raises AssertionError with the end of what the script complained of.
    """
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = psutil.Popen(command, stdout=said, stderr=complained, env=child_environment() | environment)
        peak = 0
        try:
            while weigh and process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, _memory_of(process))
                time.sleep(0.05)
            process.wait(900)
        finally:
            if process.poll() is None:
                process.kill()
        said.seek(0), complained.seek(0)
        if process.returncode:
            raise AssertionError(f"{script} stopped: {complained.read()[-800:]}")
        return json.loads(said.read().splitlines()[-1]) | ({"peak_bytes": peak} if weigh else {})


def _memory_of(process: psutil.Process) -> int:
    """Bytes that it and its workers hold; pages that several of them share count once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            full = one.memory_full_info()
        except psutil.Error:  # a worker that has just ended
            continue
        total += getattr(full, "pss", full.uss)
    return total
