"""pyproject.toml, environment.yml and binder/ say the same, and the package needs nothing that they leave out."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from kdoct_utils.course.check import PYTHON_NEEDED

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# where conda-forge has another name, or a build that leaves out what the course does not use
CONDA_NAMES = {
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
    "nbconvert": "nbconvert-core",
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "py-opencv",
    "dask": "dask-core",
}
IMPORT_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "pytorch_grad_cam": "grad-cam",
    "sklearn": "scikit-learn",
}


def bounds(requirements):
    """Name -> lower bound, as conda spells the names."""
    parsed = [Requirement(line) for line in requirements]
    return {CONDA_NAMES.get(item.name, item.name): str(item.specifier) for item in parsed}


def conda_environment(path):
    """The file's channels and packages: name -> version text, and its pip part."""
    loaded = yaml.safe_load((ROOT / path).read_text())
    packages, pip = {}, []
    for item in loaded["dependencies"]:
        if isinstance(item, dict):
            pip = item["pip"]
        else:
            name, version = re.fullmatch(r"([a-z0-9_-]+)(.*)", item).groups()
            packages[name] = version
    return loaded["channels"], packages, pip


NEEDED = bounds(PROJECT["dependencies"])
EXTRAS = {name: bounds(lines) for name, lines in PROJECT["optional-dependencies"].items()}
LAB, EVERY = EXTRAS["lab"], EXTRAS["lab"] | EXTRAS["test"] | EXTRAS["sweep"] | EXTRAS["book"]  # browser: for pip alone


def test_every_dependency_has_one_lower_bound_and_a_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement)
        line = next(line for line in lines if f'"{requirement}"' in line)
        assert re.search(r"#\s*\S+", line), f"{requirement} has no reason"


@pytest.mark.parametrize(
    "path, wanted", [("environment.yml", NEEDED | EVERY), ("binder/environment.yml", NEEDED | LAB)]
)
def test_conda_environments_agree_with_pyproject(path, wanted):
    channels, packages, pip = conda_environment(path)
    assert channels == ["conda-forge", "nodefaults"]
    assert {name: version for name, version in packages.items() if name not in ("python", "pip")} == wanted
    assert pip == (["-e ."] if path == "environment.yml" else [])  # binder's postBuild installs the package


def test_python_versions_agree():
    needed = ".".join(map(str, PYTHON_NEEDED))
    assert PROJECT["requires-python"] == f">={needed}"
    assert conda_environment("environment.yml")[1]["python"] == f">={needed}"
    pinned = conda_environment("binder/environment.yml")[1]["python"]
    assert tuple(map(int, re.fullmatch(r"=(\d+)\.(\d+)", pinned).groups())) >= PYTHON_NEEDED


def test_binder_scripts_stop_at_errors_and_hand_over(tmp_path):
    for name in ("postBuild", "start"):
        assert os.access(ROOT / "binder" / name, os.X_OK)
    post_build = (ROOT / "binder" / "postBuild").read_text()
    assert re.search(r"^set -e", post_build, re.MULTILINE) and "--no-deps -e ." in post_build
    command = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    done = subprocess.run([ROOT / "binder" / "start", *command], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    with pytest.raises(subprocess.CalledProcessError):  # a pip that fails must fail the build
        (tmp_path / "pip").write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / "pip").chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        subprocess.run([ROOT / "binder" / "postBuild"], env=os.environ | {"PATH": path}, cwd=tmp_path, check=True)


def test_what_the_package_imports_is_declared():
    found = {}
    for path in (ROOT / "kdoct_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {module.split(".")[0]: path.name for module in modules}
    needed = {Requirement(line).name for line in PROJECT["dependencies"]}
    names = {name: IMPORT_NAMES.get(name, name).lower().replace("_", "-") for name in found}
    imported = {name for name in names if name not in (*sys.stdlib_module_names, "kdoct_utils")}
    assert {"numpy", "torch", "typer"} <= imported
    assert {found[name] for name in imported if names[name] not in needed} == {"workers.py"}  # dask, an extra


def test_shipped_files_are_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    shipped = [path.relative_to(ROOT / "kdoct_utils") for path in (ROOT / "kdoct_utils").rglob("*") if path.is_file()]
    left_out = [
        str(path)
        for path in shipped
        if path.suffix not in (".py", ".pyc") and not any(path.match(pattern) for pattern in patterns)
    ]
    assert left_out == []


# --- Colab and Binder: the course itself runs under their limits in `make colab` and `make binder` -------------------


def load(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_colab_ships_what_its_setup_does_not_install():
    """The setup cell installs the package with --no-deps: what it needs must be there, in a version it takes."""
    colab = load("tests/colab/run.py")
    cell = colab.setup_cell(ROOT)
    pins = {name.lower().replace("_", "-"): version.removesuffix(".*") for name, version in colab.pins().items()}
    for requirement in map(Requirement, PROJECT["dependencies"]):
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
