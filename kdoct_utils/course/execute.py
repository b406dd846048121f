"""One notebook in one process: papermill puts its parameters in, nbclient runs it, the parent watches time and memory.

``python -m kdoct_utils.course.execute`` is the child; its job comes as a line of JSON on standard input, so that
floats stay exact. That input stays open as long as the parent lives: when it ends, however the parent died, the child
stops its kernel and itself, on any system. One process a notebook, since many executions in one process share ports
and leak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import joblib
import psutil

from kdoct_utils.runs import STATUS_VARIABLE, RunError, report_status

POLL_SECONDS = 0.2
SHOWN_LINES = 25  # of a failing cell
ADDED_BY_PAPERMILL = "injected-parameters"


def execute_notebook(
    source: Path,
    output: Path,
    parameters: dict[str, object],
    *,
    cwd: Path,
    timeout: float,
    on_poll: Callable[[str], None] | None = None,
    threads: int | None = None,
    cores: int | None = None,
) -> dict[str, float]:
    """Execute ``source`` into ``output`` with ``parameters``, in its own process.

    timeout: seconds for the whole notebook. on_poll: called every ``POLL_SECONDS`` with what runs now, such as
    "student KD, seed 2, epoch 4/10".
    threads: that a process computes with; None: as many as there are cores, or as the environment says.
    cores: that all processes together may use, so how many trainings run side by side; None: all.
    ``output`` keeps what was executed, also on failure. It is written by one process at a time, the others wait.

    Returns "seconds" of wall time and "peak_mb": resident memory of all its processes at its peak, in millions of
    bytes, looked at every ``POLL_SECONDS``; pages that they share count in each.
    Raises RunError with the cell's number, source and error if a cell fails, the kernel dies or time runs out.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    job = {"source": str(source), "output": str(output), "parameters": parameters, "cwd": str(cwd)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        log, status = Path(scratch, "log"), Path(scratch, "status")
        started = time.monotonic()
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "kdoct_utils.course.execute"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=child_environment(threads, cores) | {STATUS_VARIABLE: str(status)},
            )
        with process.stdin:  # open until the end: see main
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            peak, in_time = _watch(process, started + timeout, lambda: on_poll and on_poll(_text(status)))
        seconds, last_line = time.monotonic() - started, _text(log).strip().rpartition("\n")[2]
    if not in_time:
        raise RunError(_failure(source, output, f"had not ended after {timeout:g} s and was stopped", ""))
    if process.returncode != 0:
        reason = last_line or "no reason was given"
        raise RunError(_failure(source, output, "stopped", f"{reason} (peak memory: {peak / 1e6:.0f} MB)"))
    return {"seconds": round(seconds, 1), "peak_mb": round(peak / 1e6, 1)}


def _watch(process: subprocess.Popen, deadline: float, on_poll: Callable[[], None]) -> tuple[int, bool]:
    """Wait for the end. Returns (peak bytes, whether it ended in time); leaves no process of the tree behind."""
    root, peak = psutil.Process(process.pid), 0
    seen = {root}
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                return peak, False
            peak = max(peak, _tree_memory(root, seen))
            on_poll()
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        return peak, True
    finally:
        _kill(seen)  # the kernel has a session of its own: it would outlive a stopped parent
        process.wait()


def child_environment(threads: int | None = None, cores: int | None = None) -> dict[str, str]:
    """The child imports this very package, uses this Python's kernel, and no more threads than there are cores.

    threads: no more than these either; fewer where the environment says so. cores: what joblib takes for all there are.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    wanted = {"JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    # glibc keeps what a training step frees for the next step, instead of asking the system anew: a tenth of its time
    wanted |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        said = os.environ.get(name, str(joblib.cpu_count()))
        wanted[name] = str(min(threads, int(said))) if threads and said.isdigit() else said
    if cores:
        wanted["LOKY_MAX_CPU_COUNT"] = str(cores)
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | wanted | {"PYTHONPATH": os.pathsep.join(paths)}


def _text(path: Path) -> str:
    """What a file says now; nothing where it is not there, or is being replaced."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tree_memory(root: psutil.Process, seen: set[psutil.Process]) -> int:
    """Resident bytes of a process and all below it; those found are added to ``seen``."""
    with suppress(psutil.NoSuchProcess):
        seen.update(root.children(recursive=True))
    total = 0
    for process in seen:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_info().rss
    return total


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def own_code_cells(notebook: dict) -> list[dict]:
    """The code cells of an executed notebook without the one that papermill added."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and ADDED_BY_PAPERMILL not in cell["metadata"].get("tags", [])
    ]


def _failure(source: Path, output: Path, what: str, reason: str) -> str:
    """The message for a notebook that did not end well: number and source of the last cell that started, and error."""
    try:
        cells = own_code_cells(json.loads(_text(output)))
    except json.JSONDecodeError:  # not written yet, or stopped while it was
        cells = []
    started = [number for number, cell in enumerate(cells, 1) if "execution" in cell["metadata"]]
    if not started:
        return f"{source.name} {what}: {reason or 'no cell had started'}"
    cell = cells[started[-1] - 1]
    lines = "".join(cell["source"]).splitlines()
    shown = lines[:SHOWN_LINES] + (["..."] if len(lines) > SHOWN_LINES else [])
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    error = f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else reason
    head = f"{source.name} {what} at code cell {started[-1]} of {len(cells)}:"
    return "\n".join([head, textwrap.indent("\n".join(shown), "    "), *filter(None, [error])])


# --- the child -------------------------------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """Wait until standard input ends, then end the kernel and this process."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when Python shuts down
        continue
    _kill(set(psutil.Process().children(recursive=True)))
    os._exit(1)


def main() -> None:
    """Execute the job on standard input, or end with the process that gave it."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import nbformat
    import papermill
    from filelock import FileLock
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    from kdoct_utils.show.live import without_widgets

    output = Path(job["output"])
    with FileLock(output.with_name(f".{output.stem}.lock")):  # one whose parent died may still be ending
        notebook = papermill.execute_notebook(
            job["source"], str(output), job["parameters"], prepare_only=True, kernel_name="python3", progress_bar=False
        )
        code = own_code_cells(notebook)
        numbers = {id(cell): f"cell {number} of {len(code)}" for number, cell in enumerate(code, 1)}
        for cell in code:
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)  # nbclient makes it anew when the cell starts

        def save(**_: object) -> None:
            nbformat.write(notebook, output)

        def start(cell: dict, cell_index: int) -> None:
            """Keep where the notebook stands, for those who find it stopped, and tell it to the parent."""
            save()
            report_status(numbers.get(id(cell), ""))

        place = {"metadata": {"path": job["cwd"]}}
        client = NotebookClient(
            notebook, kernel_name="python3", resources=place, on_cell_execute=start, store_widget_state=False
        )
        try:
            client.execute()
        except CellExecutionError as error:
            sys.exit(f"{error.ename}: {error.evalue}")  # the output notebook holds the rest
        except DeadKernelError:
            sys.exit("its kernel died, most often for lack of memory")
        finally:
            for cell in code:  # only now: nbclient counts outputs while it updates them
                cell.outputs = [nbformat.from_dict(output) for output in without_widgets(cell.outputs)]
            save()


if __name__ == "__main__":
    main()
