"""Windows and macOS, by not using what they lack: read from the source, since no such machine runs these tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LACKING_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
LACKING_IN_OS = {
    "WNOHANG", "chown", "fork", "forkpty", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo",
    "nice", "posix_spawn", "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname",
}  # fmt: skip
LACKING_IN_SIGNAL = {
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2",
    "alarm", "pause", "setitimer",
}  # fmt: skip
PLACES = re.compile(r"(/tmp|/var|/dev|/proc|/sys|/usr|/etc|/opt|/home|/root|/bin|[A-Z]:\\)(/|\\|$)")
LINUX_FILES = {"/proc/self/oom_score_adj", "/proc/self/status", "/sys/fs/cgroup"}  # looked for first
GUARDS = ("AttributeError", "ImportError", "ModuleNotFoundError", "OSError")


def called(node: ast.Call) -> str:
    """The last name of what is called: "read_text" of ``path.read_text()``."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def has(node: ast.Call, name: str) -> bool:
    return any(keyword.arg == name for keyword in node.keywords)


def is_text_mode(node: ast.Call) -> bool:
    """Whether an ``open`` reads or writes text; one whose mode cannot be read off is taken for another kind of open."""
    builtin = isinstance(node.func, ast.Name)
    modes = [item.value for item in node.keywords if item.arg == "mode"] + node.args[1 if builtin else 0 :][:1]
    if not modes:
        return builtin or not node.args  # Image.open(path) is no text
    mode = modes[0].value if isinstance(modes[0], ast.Constant) else "b"
    return isinstance(mode, str) and re.fullmatch(r"[rwaxt+]+", mode) is not None


def is_true(node: ast.Call, name: str) -> bool:
    return any(item.arg == name and getattr(item.value, "value", None) is True for item in node.keywords)


def wrong_call(node: ast.Call) -> str | None:
    name = called(node)
    if name in ("read_text", "write_text") and not has(node, "encoding"):
        return f"{name} without encoding="
    if name == "open" and is_text_mode(node) and not has(node, "encoding"):
        return "text opened without encoding="
    if name in ("NamedTemporaryFile", "TemporaryFile", "fdopen") and has(node, "mode") and not has(node, "encoding"):
        return f"{name} of text without encoding="
    if (is_true(node, "text") or is_true(node, "universal_newlines")) and not has(node, "encoding"):
        return "text=True without encoding="
    if is_true(node, "shell") or name in ("system", "popen") and isinstance(node.func, ast.Attribute):
        return "a shell, which differs"
    if name in ("symlink", "symlink_to", "hardlink_to"):
        return f"{name}: Windows asks for a privilege"
    if name == "rename" and ast.unparse(node.func).startswith(("os.", "path", "temporary", "self.path")):
        return "rename fails on Windows where the target exists: use replace"
    if name in ("get_context", "set_start_method") and "fork" in ast.unparse(node):
        return "fork is on Unix alone"
    return None


def wrong(node: ast.AST, guarded: str) -> str | None:
    """What another system lacks at this node. guarded: source of the tests and handlers around it."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        lacking = LACKING_MODULES & {name.split(".")[0] for name in names}
        return f"import {lacking}" if lacking and not any(guard in guarded for guard in GUARDS) else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        lacking = {"os": LACKING_IN_OS, "signal": LACKING_IN_SIGNAL}.get(node.value.id, set())
        safe = f"hasattr({node.value.id}, '{node.attr}')" in guarded or "AttributeError" in guarded
        return f"{ast.unparse(node)}" if node.attr in lacking and not safe else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and PLACES.match(node.value):
        return f"the place {node.value!r}" if node.value not in LINUX_FILES else None
    return wrong_call(node) if isinstance(node, ast.Call) else None


def findings(node: ast.AST, guarded: str = "") -> list[str]:
    """All of `wrong` below a node, with line numbers; remembers what stands around as it goes down."""
    found = [f"{node.lineno}: {what}"] if (what := wrong(node, guarded)) else []
    if isinstance(node, ast.Try):
        guarded += " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
    if isinstance(node, (ast.If, ast.IfExp)):
        guarded += ast.unparse(node.test)
    if isinstance(node, ast.With):
        guarded += " ".join(ast.unparse(item) for item in node.items if "suppress" in ast.unparse(item))
    for child in ast.iter_child_nodes(node):
        found += findings(child, guarded)
    return found


def test_what_is_looked_for_is_found():
    bad = """
import resource
open("a")
open("a", "w")
path.open("w")
path.read_text()
subprocess.run(["ls"], text=True)
os.fork()
len(os.sched_getaffinity(0))
signal.SIGKILL
"/tmp/x"
os.rename("a", "b")
os.system("ls")
context = multiprocessing.get_context("fork")
path.symlink_to("b")
"""
    assert [item.split(":")[0] for item in findings(ast.parse(bad))] == [str(line) for line in range(2, 16)]
    good = """
try:
    import resource
except ModuleNotFoundError:
    resource = None
open("a", "rb"), open("a", encoding="utf-8"), Image.open("a.png"), archive.open(name), path.open("rb")
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
frame.rename(columns={}), "/tmpx", "a/tmp"
subprocess.run(["ls"], text=True, encoding="utf-8")
"""
    assert findings(ast.parse(good)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "kdoct_utils").rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_uses_what_every_system_has(path):
    assert findings(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_the_notebooks_use_what_every_system_has(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [found for cell in code for found in findings(ast.parse(cell))] == []
    assert [line for cell in code for line in cell.splitlines() if line.startswith(("!", "%%bash", "%%sh"))] == []


def test_processes_start_behind_a_guard():
    """Windows and macOS import a module anew in every process that it starts."""
    for path in sorted((ROOT / "kdoct_utils").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            starts = {called(call) for call in ast.walk(node) if isinstance(call, ast.Call)}
            defined = isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            guarded = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            assert defined or guarded or not starts & {"Process", "Pool", "Popen", "Parallel", "run", "main"}, path.name


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
