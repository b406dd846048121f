"""Windows and macOS, by not using what they lack: looked for by ruff (pyproject.toml), since none runs these tests."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_what_ruff_does_not_know_is_not_used():
    """Text of a process in an encoding that differs; links, which ask for a privilege; a shell in a notebook."""
    for path in sorted((ROOT / "kdoct_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    for path in sorted((ROOT / "kdoct_utils").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
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
