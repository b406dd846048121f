"""What every test runs with: a cache folder of this session alone, never the user's. The site, and a Dask cluster."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from hypothesis import settings

matplotlib.use("Agg")  # no test opens a window

settings.register_profile("gate", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """KDOCT_CACHE, for this process and those it starts; what one test leaves there, the next may find."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDOCT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def quirky(tmp_path_factory):
    """The miniature NEH and what was planted in it. Read only."""
    from kdoct_utils.phantom.miniature import write_quirky_neh

    folder = tmp_path_factory.mktemp("quirky")
    return folder, write_quirky_neh(folder, 0)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the course's site, as `make book` makes it."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    folder = tmp_path_factory.mktemp("built") / "book"
    script = Path(__file__).resolve().parents[1] / "book" / "build.py"
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def cluster():
    """The address of a real scheduler on a port of its own, and a function that starts workers and waits for them."""
    distributed = pytest.importorskip("distributed", reason="not installed: pip install dask distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, processes = f"tcp://127.0.0.1:{port}", []

    def start(*command):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        processes.append(subprocess.Popen([sys.executable, "-m", "dask", *command], env=environment, **quiet))
        return processes[-1]

    def workers(count):
        made = [start("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard") for _ in range(count)]
        with distributed.Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=30)
        return made

    start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    try:
        yield address, workers
    finally:
        for process in processes:
            process.kill()
            process.wait()
