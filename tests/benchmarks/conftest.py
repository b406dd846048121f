"""`make bench` prints what it measured as one table and writes it into docs/speed.md, with the machine it ran on."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
import torch
from measuring import verdict

from kdoct_utils.runs import atomic_path
from tools.publish import fill_block

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
Measured = Callable[[str, str, str], None]


def machine() -> str:
    """Processor, cores and versions; no name of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {joblib.cpu_count()} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}"


@pytest.fixture
def one_thread():
    """torch on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def measured():
    """Takes rows: what was measured, what came out, what it should be. Missed bars are said, not hidden."""
    rows: list[tuple[str, str, str]] = []
    yield lambda what, result, aim="": rows.append((what, result, verdict(result, aim)))
    if not rows:
        return
    lines = [f"Measured in one run of `make bench` on: {machine()}.", "", "| what | measured | aim |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    print("\n" + "\n".join(lines))
    if os.environ.get("KDOCT_BENCH_WRITE"):
        text = fill_block(PAGE.read_text(encoding="utf-8"), "bench", "\n".join(lines))
        with atomic_path(PAGE) as temporary:
            temporary.write_text(text, encoding="utf-8")
