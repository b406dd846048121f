"""One notebook in one process: papermill runs it, the parent watches time and memory.

``python -m kdoct_utils.course.execute`` is the child; its job comes as a line of JSON on standard input, so that
floats stay exact. That input stays open as long as the parent lives: when it ends, however the parent died, the child
stops its kernel and itself, on any system. One process a notebook, since many papermill runs in one process share
ports and leak.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kdoct_utils.course.check import available_cores
from kdoct_utils.runs import RunError

try:
    import resource
except ModuleNotFoundError:  # Windows: the peak is what polling sees
    resource = None

POLL_SECONDS = 0.2
SHOWN_LINES = 25  # of a failing cell
LARGEST = "bytes of the largest process: "
ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


@dataclass(frozen=True)
class Execution:
    """What a notebook cost: wall time, and resident memory at its peak in millions of bytes.

    peak_mb is the larger of two: all its processes together, looked at every ``POLL_SECONDS`` (pages that they share
    count in each), and the largest of them alone at its own peak, which the system records however short it was.
    """

    seconds: float
    peak_mb: float


def execute_notebook(
    source: Path,
    output: Path,
    parameters: dict[str, object],
    *,
    cwd: Path,
    timeout: float,
    on_cells: Callable[[int], None] | None = None,
    on_poll: Callable[[], None] | None = None,
    threads: int | None = None,
) -> Execution:
    """Execute ``source`` into ``output`` with ``parameters``, in its own process.

    timeout: seconds for the whole notebook. on_cells: called with the number of finished code cells as it grows.
    on_poll: called every ``POLL_SECONDS``; what it raises stops the notebook and is raised here.
    threads: at most so many a process computes with; None: as many as there are cores.
    ``output`` keeps what was executed, also on failure. It is written by one process at a time, the others wait.

    Raises RunError with the cell's number, source and error if a cell fails, the kernel dies or time runs out.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    job = {"input_path": str(source), "output_path": str(output), "parameters": parameters, "cwd": str(cwd)}
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "kdoct_utils.course.execute"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(threads),
        )
        with process.stdin:  # open until the end: see main
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            peak, in_time = _watch(process, output, started + timeout, on_cells, on_poll)
        seconds = time.monotonic() - started
        log.seek(0)
        said = log.read().decode(errors="replace")
    if not in_time:
        raise RunError(_failure(source, output, f"had not ended after {timeout:g} s and was stopped", ""))
    if process.returncode != 0:
        raise RunError(_failure(source, output, "stopped", _reason(said, peak)))
    recorded = re.findall(LARGEST + r"(\d+)", said)
    return Execution(round(seconds, 1), round(max([peak, *map(int, recorded)]) / 1e6, 1))


def child_environment(threads: int | None = None) -> dict[str, str]:
    """The child imports this very package, uses this Python's kernel, and no more threads than there are cores.

    threads: no more than these either; fewer where the environment says so.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    wanted = {"JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        said = os.environ.get(name, str(available_cores()))
        wanted[name] = str(min(threads, int(said))) if threads and said.isdigit() else said
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | wanted | {"PYTHONPATH": os.pathsep.join(paths)}


def _watch(
    process: subprocess.Popen,
    output: Path,
    deadline: float,
    on_cells: Callable[[int], None] | None,
    on_poll: Callable[[], None] | None,
) -> tuple[int, bool]:
    """Wait for the end. Returns (peak bytes, whether it ended in time); leaves no process of the tree behind."""
    seen: set[psutil.Process] = {psutil.Process(process.pid)}
    peak, stamp = 0, None
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                return peak, False
            peak = max(peak, _tree_memory(process.pid, seen))
            if on_poll:
                on_poll()
            if on_cells and (changed := _modified(output)) != stamp:
                stamp = changed
                on_cells(_finished_cells(output))
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        return peak, True
    finally:  # the kernel has a session of its own: it would outlive a stopped parent
        alive = [child for child in seen if child.is_running()]
        for child in alive:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=5)
        process.wait()


def _tree_memory(pid: int, seen: set[psutil.Process]) -> int:
    """Resident bytes of a process and all below it; those found are added to ``seen``."""
    try:
        seen.update(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in list(seen):
        try:
            total += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            seen.discard(process)
    return total


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def own_code_cells(notebook: dict) -> list[dict]:
    """The code cells of an executed notebook without those that papermill added."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not ADDED_BY_PAPERMILL & set(cell["metadata"].get("tags", []))
    ]


def _read_cells(output: Path) -> list[dict]:
    try:
        return own_code_cells(json.loads(output.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return []  # papermill has not written it yet, or is writing


def _status(cell: dict) -> str:
    return _papermill(cell).get("status", "")


def _papermill(cell: dict) -> dict:
    return cell["metadata"].get("papermill", {})


def _finished_cells(output: Path) -> int:
    return sum(_status(cell) == "completed" for cell in _read_cells(output))


def _reason(said: str, peak: float) -> str:
    """What the child process said last, where no cell holds the error."""
    if "DeadKernelError" in said:
        return f"its kernel died, most often for lack of memory (peak seen: {peak / 1e6:.0f} MB)"
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "papermill gave no reason"


def _failure(source: Path, output: Path, what: str, reason: str) -> str:
    """The message for a notebook that did not end well: cell number, source and error."""
    cells = _read_cells(output)
    started = [number for number, cell in enumerate(cells, 1) if _papermill(cell).get("start_time")]
    if not started:
        return f"{source.name} {what}: {reason or 'no cell had started'}"
    wrong = [number for number in started if _errors(cells[number - 1]) or _status(cells[number - 1]) == "failed"]
    number = wrong[0] if wrong else started[-1]  # a dead kernel leaves no error in its cell
    cell = cells[number - 1]
    lines = "".join(cell["source"]).splitlines()
    shown = lines[:SHOWN_LINES] + (["..."] if len(lines) > SHOWN_LINES else [])
    errors = _errors(cell)
    error = f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else reason
    head = f"{source.name} {what} at code cell {number} of {len(cells)}:"
    return "\n".join([head, textwrap.indent("\n".join(shown), "    "), *filter(None, [error])])


def _errors(cell: dict) -> list[dict]:
    return [output for output in cell["outputs"] if output["output_type"] == "error"]


def _end_with_parent() -> None:
    """Wait until standard input ends, then end the kernel and this process."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when Python shuts down
        continue
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(1)


def _sparing_engine() -> type:
    """papermill's engine, saving when a code cell starts and at the end: enough to tell where a killed run stood.

    As it comes it saves the whole notebook twice a cell, text cells too: three seconds for one of 200 cells.
    """
    from papermill.engines import NBClientEngine

    class SparingEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            save = nb_man.save

            def save_at_a_start() -> None:
                cells = (cell for cell in nb_man.nb.cells if cell.cell_type == "code")
                if any(cell.metadata.papermill["status"] == nb_man.RUNNING for cell in cells):
                    save()

            nb_man.save = save_at_a_start
            try:
                return super().execute_managed_notebook(nb_man, kernel_name, **options)
            finally:
                nb_man.save = save

    return SparingEngine


def main() -> None:
    """Execute the job on standard input, or end with the process that gave it."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import papermill
    from filelock import FileLock
    from papermill.engines import papermill_engines

    papermill_engines.register("sparing", _sparing_engine())
    job |= {"engine_name": "sparing", "kernel_name": "python3", "progress_bar": False}
    output = Path(job["output_path"])
    try:
        with FileLock(output.with_name(f".{output.stem}.lock")):  # one whose parent died may still be ending
            papermill.execute_notebook(**job)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}")  # the output notebook holds the rest
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        print(f"{LARGEST}{unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")


if __name__ == "__main__":
    main()
