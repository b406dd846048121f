"""The house, beyond what `make lint` holds: one home for a name, small rooms, and nothing that a system lacks."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdoct_utils"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST_MODULE = 350


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree):
    """(module, name) of each ``from kdoct_utils... import name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdoct_utils"):
            yield from ((node.module, alias.name) for alias in node.names)


def defined(tree):
    """The names that a module makes itself, at its top level; what it imports is no name of its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_a_name_is_imported_from_where_it_is_made_and_never_an_underscore_name():
    modules = {dotted(path): defined(tree) for path, tree in TREES.items()}
    users = TREES | {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    wrong = []
    for path, tree in users.items():
        for module, name in imported(tree):
            if f"{module}.{name}" in modules or name in modules[module]:
                continue
            wrong.append(f"{path.relative_to(ROOT)}: {name} is not made in {module}")
        private = [name for _, name in imported(tree) if name.startswith("_") and name != "__version__"]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in private if path in TREES]
    assert wrong == []


def test_modules_fit_in_a_head():
    sizes = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    assert {str(path): lines for path, lines in sizes.items() if lines > LONGEST_MODULE} == {}


def test_every_room_says_what_lives_there():
    for room in (path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        assert len(ast.get_docstring(TREES[room / "__init__.py"]).splitlines()) >= 3, room.name


# --- Windows and macOS: none runs these tests, and ruff looks for most of what they lack (pyproject.toml) -------------


def test_what_ruff_does_not_know_is_not_used():
    """Text of a process in an encoding that differs; links, which ask for a privilege; a shell in a notebook."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name, given = ast.unparse(node.func), {item.arg for item in node.keywords}
                as_text = name.startswith("subprocess.") and given & {"text", "universal_newlines"}
                assert not as_text or "encoding" in given, f"{path.name}: {node.lineno}"
                assert name.split(".")[-1] not in ("symlink", "symlink_to", "hardlink_to"), path.name
    for path in sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
            assert [line for line in lines if line.startswith(("!", "%%bash", "%%sh"))] == [], path.name


def test_processes_start_behind_a_guard():
    """Windows and macOS import a module anew in every process that it starts."""
    starting = {"Process", "Pool", "Popen", "Parallel", "run", "main"}
    for path, tree in TREES.items():
        for node in tree.body:
            called = {ast.unparse(call.func).split(".")[-1] for call in ast.walk(node) if isinstance(call, ast.Call)}
            defined = isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            guarded = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            assert defined or guarded or not starting & called, path.name


def test_file_names_exist_on_every_system():
    done = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    entries = [entry.split("\t") for entry in done.stdout.decode("utf-8").split("\0") if entry]
    names = [name for _, name in entries]
    assert len(names) > 100
    assert [name for mode, name in entries if mode.startswith("120000")] == []  # symbolic links
    assert [name for name in names if re.search(r'[<>:"|?*\\]|[. ](/|$)', name) or not name.isascii()] == []
    reserved = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", re.IGNORECASE)
    assert [name for name in names if reserved.search(name)] == []
    assert len({name.lower() for name in names}) == len(names)
    assert max(map(len, names)) < 120  # Windows stops at 260 with the folder before
