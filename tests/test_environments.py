"""Colab and Binder: their versions and limits. The course itself runs under them in `make colab` and `make binder`."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def load(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_colab_ships_what_its_setup_does_not_install():
    """The setup cell installs the package with --no-deps: what it needs must be there, in a version it takes."""
    colab = load("tests/colab/run.py")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    cell = colab.setup_cell(ROOT)
    pins = {name.lower().replace("_", "-"): version.removesuffix(".*") for name, version in colab.pins().items()}
    for requirement in map(Requirement, needed):
        if f'"{requirement.name}"' not in cell:
            assert requirement.name in pins, f"{requirement.name} is neither shipped nor installed"
    installed = set(re.findall(r'"([a-z-]+)"', cell)) - {"--no-deps"}
    assert not installed & pins.keys()  # least of all torch
    compile(cell, "setup", "exec")
    assert repr(str(ROOT)) in cell and "github.com" not in cell


def test_a_command_is_held_to_its_core_and_its_memory():
    binder = load("tests/binder/run.py")
    block = "import time; block = bytearray(b'1') * 400_000_000; time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {block!r}])"
    ended = binder.run_within([sys.executable, "-c", child], limit=300_000_000)
    assert ended.status is None and ended.peak > 300_000_000 and ended.seconds < 50
    count = "import os, sys; sys.exit(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1)"
    ended = binder.run_within([sys.executable, "-c", f"import time; time.sleep(1); {count}"])
    assert ended.status == 1 and 1_000_000 < ended.peak < 300_000_000


def test_binder_builds_what_its_folder_says():
    if importlib.util.find_spec("repo2docker") is None:
        pytest.skip("jupyter-repo2docker is not installed")
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(ROOT)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-1000:]
    pinned = re.search(r"python=([\d.]+)", (ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))[1]
    assert f"Building conda environment for python={pinned}" in text
    assert "src/binder/environment.yml" in text and "src/environment.yml" not in text
    assert "RUN ./binder/postBuild" in text and re.search(r"R2D_ENTRYPOINT=.*binder/start", text)
