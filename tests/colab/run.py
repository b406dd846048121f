"""The course with the versions that Colab ships: `make colab`.

Makes an environment from requirements.txt, runs the setup cell of the notebooks in it as Colab would (a copy of this
checkout stands for the address on GitHub), looks that no version has changed, then runs every notebook in smoke.

Use: python tests/colab/run.py FOLDER    FOLDER is made where it is missing, and kept
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
COLAB_PYTHON = (3, 12)
MAY_CHANGE = {"protobuf"}  # onnx asks for a newer one than Colab keeps for TensorFlow, which the course does not use
SET_UP = """
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
exec(sys.stdin.read())
"""
COURSE = """
import sys
from pathlib import Path
from kdoct_utils.course.notebooks import run_course
for only in (None, ["07", "more"]):
    run_course("smoke", only=only, notebooks_folder=Path(sys.argv[1]), run_dir=sys.argv[2])
"""


def setup_cell(source: Path) -> str:
    """The first code cell of the notebooks, with a folder in place of the repository's address."""
    notebook = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    cell = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return re.sub(r'"git\+https://[^"]*"', lambda _: repr(str(source)), cell)


def pins() -> dict[str, str]:
    """Name -> version of what Colab ships; a version may end in ``.*``."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def changed(installed: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What is not there in the wanted version, and should be."""
    wanted = {name: version for name, version in wanted.items() if name not in MAY_CHANGE}
    found = {name: installed.get(name.lower().replace("_", "-"), "missing") for name in wanted}
    return [
        f"{name} is {found[name]}, not {version}"
        for name, version in wanted.items()
        if not (found[name] + ".").startswith(version.removesuffix("*").rstrip(".") + ".")
    ]


def installed(python: Path) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True).stdout
    return {item["name"].lower().replace("_", "-"): item["version"].split("+")[0] for item in json.loads(listed)}


def complaints_of(notebooks: Path) -> list[str]:
    """What executed notebooks wrote to standard error: warnings that their reader would see."""
    found = []
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        found += [f"{path.stem}: {''.join(said['text'])}" for said in outputs if said.get("name") == "stderr"]
    return found


def main(folder: Path) -> None:
    if sys.version_info[:2] != COLAB_PYTHON:
        print(f"Colab has Python {'.'.join(map(str, COLAB_PYTHON))}; this is {sys.version.split()[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    python = folder.resolve() / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = os.environ | {"PYTHONPATH": "", "JUPYTER_PREFER_ENV_PATH": "1"}
    if not (folder / "ready").exists():
        print(f"installing what Colab ships into {folder / 'env'}: several minutes, 7 GB with torch")
        venv.create(folder / "env", with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", REQUIREMENTS], check=True)
        (folder / "ready").touch()
    print("the notebooks' setup cell")
    source = folder.resolve() / "source"  # pip would leave a build folder behind in the checkout
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "kdoct_utils", source / "kdoct_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([python, "-m", "pip", "uninstall", "-qq", "-y", "kdoct_utils"], check=True)
    settings = {"env": environment, "cwd": folder, "check": True}  # not this folder, which holds the package too
    subprocess.run([python, "-c", SET_UP], input=setup_cell(source).encode(), **settings)
    if wrong := changed(installed(python), pins()):
        sys.exit(f"the setup cell has changed what Colab ships: {'; '.join(wrong)}")
    shutil.rmtree(folder / "run", ignore_errors=True)
    subprocess.run([python, "-c", COURSE, str(ROOT / "notebooks"), str(folder.resolve() / "run")], **settings)
    if complaints := complaints_of(folder / "run" / "notebooks"):
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
