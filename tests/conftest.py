"""What every test runs with: a cache folder of this session alone, never the user's. And the site, made once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """KDOCT_CACHE, for this process and those it starts; what one test leaves there, the next may find."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDOCT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the course's site, as `make book` makes it."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    folder = tmp_path_factory.mktemp("built") / "book"
    script = Path(__file__).resolve().parents[1] / "book" / "build.py"
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
