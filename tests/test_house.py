"""The house: the README's map of the package is complete and imports only point down; importing is cheap."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdoct_utils"
FILES = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
MODULES = sorted({path.parts[0].removesuffix(".py") for path in FILES} - {"__init__"})


def floors():
    """Module name -> line of the README's map."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme[readme.index("cli          the kdoct command") :].split("```")[0].splitlines()
    found = {}
    for floor, line in enumerate(lines):
        for word in re.findall(r"\b[a-z_]+\b", line):
            if word in MODULES:
                found.setdefault(word, floor)
    return found


def imported(module):
    """Names of the package's modules that a module (or folder of them) imports, and the names it takes from them."""
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else (PACKAGE / module).glob("*.py")
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("kdoct_utils")):
            names = [alias.name for alias in node.names]
            target = (node.module or "").removeprefix("kdoct_utils").lstrip(".").split(".")[0]
            yield from [(target, names)] if target else [(name, []) for name in names]


def test_the_map_names_every_module():
    assert sorted(floors()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_and_take_no_underscore_names(module):
    for target, names in imported(module):
        if target in MODULES:
            assert floors()[target] >= floors()[module], f"{module} imports {target} from above"
        assert not [name for name in names if name.startswith("_") and name != "__version__"]


@pytest.mark.parametrize("module", ["kdoct_utils", "kdoct_utils.course.cli", "kdoct_utils.runs"])
def test_importing_does_not_load_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'timm', 'pandas'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "torch" not in done.stdout and "timm" not in done.stdout
