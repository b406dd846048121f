"""The course within Binder's limits, one core and 2 GB for all processes together: `make binder`.

Binder's own start script sets the environment. Each notebook runs by itself, in order, into one run folder; the memory
of its whole tree of processes is watched, and a notebook that takes more than the limit is stopped.

Use: python tests/binder/run.py PROFILE RUN_FOLDER [NUMBER ...]    NUMBER: of a notebook, such as 04; default: all
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 2 * 1024**3
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (None where it was stopped for its memory), seconds, most bytes held."""

    status: int | None
    seconds: float
    peak: int


def tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and all below it. Pages that several share count once in all, where the system tells."""
    total = 0
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in tree:
        try:
            memory = member.memory_full_info()
            total += getattr(memory, "pss", 0) or memory.rss
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return total


def run_within(command: Sequence[str], limit: int = LIMIT_BYTES, cores: int = 1) -> Ended:
    """Run a command on so many cores, and stop it with all below it when it holds more than limit bytes."""
    started = time.monotonic()
    process = psutil.Popen(command, cwd=ROOT)
    peak = 0
    if hasattr(process, "cpu_affinity"):  # macOS has none: there, time is that of all cores
        process.cpu_affinity(process.cpu_affinity()[:cores])  # what it starts inherits it
    while process.poll() is None:
        peak = max(peak, tree_bytes(process))
        if peak > limit:
            for member in [*process.children(recursive=True), process]:
                try:
                    member.kill()
                except psutil.NoSuchProcess:
                    continue
            process.wait()
            return Ended(None, time.monotonic() - started, peak)
        try:
            process.wait(POLL_SECONDS)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            continue
    return Ended(process.returncode, time.monotonic() - started, peak)


def main(profile: str, run_dir: str, numbers: Sequence[str]) -> None:
    folder = ROOT / "notebooks"
    names = sorted(path.name for place in (".", "more") for path in (folder / place).glob("[0-9][0-9]*_*.ipynb"))
    numbers = numbers or [name.split("_")[0] for name in names]
    start = [] if os.name == "nt" else [str(ROOT / "binder" / "start")]
    course = [sys.executable, "-m", "kdoct_utils.course.cli", "run", "--profile", profile, "--run-dir", run_dir]
    ended = {number: run_within([*start, *course, "--only", number]) for number in numbers}
    print(f"\nprofile {profile} on one core, at most {LIMIT_BYTES / 1024**3:g} GiB")
    for number, end in ended.items():
        how = {0: "done", None: "STOPPED: too much memory"}.get(end.status, f"FAILED with {end.status}")
        print(f"{number}   {end.seconds / 60:5.1f} min   {end.peak / 1024**3:.2f} GiB   {how}")
    sys.exit(any(end.status != 0 for end in ended.values()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
