"""Many runs of one notebook, side by side: on this machine through joblib, or on a Dask cluster.

Each run has a run folder, and executes in a process of its own. How it ended is kept there in ``result.json``: what is
done is not done again, so a sweep that was stopped, however hard, goes on where it was. A run is held by a file lock
while it executes: two sweeps, or a cluster that gives a run to a second worker, wait for the first and take its result.
"""

from __future__ import annotations

import functools
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import joblib

from kdoct_utils.course.check import check_memory
from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.grid import Sweep, SweepRun, plan_sweep
from kdoct_utils.course.notebooks import TIMEOUTS, notebook_number
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import RunError, atomic_path, load_run, open_run, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

DONE, FAILED, STOPPED = "done", "failed", "stopped"
SECONDS_TO_STOP = 20.0  # that a stopped sweep waits for its processes to end
SECONDS_TO_CONNECT = 30.0
LONGEST_ERROR = 300  # characters of the one line in the table; result.json has all of it


class Stopped(Exception):
    """The sweep that this run belongs to was stopped."""


def run_sweep(
    notebook: str,
    grid: Mapping[str, object],
    *,
    seeds: int = 1,
    seed: int = 0,
    jobs: int = 1,
    profile: str = "quick",
    dataset: str | None = None,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    scheduler: str | None = None,
    timeout: float | None = None,
    again: bool = False,
    progress: bool = True,
    notebooks_folder: Path | None = None,
) -> Sweep:
    """Execute the grid (see ``plan_sweep``) and keep a row a run in ``results.csv``, written anew as runs end.

    jobs: runs at the same time on this machine, which share its cores. scheduler: address of a Dask scheduler,
    "tcp://host:port"; then its workers do the runs, one for each of their threads, and jobs counts for nothing. They
    need this package and must see the run folders under the same paths.
    timeout: seconds a run may take; None: the profile's in ``course.TIMEOUTS``.
    again: also execute runs that are done; the networks in their folders are kept.

    A run that fails is recorded with its error, and the others go on. Calling again does those that failed or are
    missing. Raises RunError (a ValueError) before anything starts for values that are not valid, a machine too
    small, a folder of other runs, or a cluster that is not there.
    """
    sweep = plan_sweep(
        notebook, grid, seeds=seeds, seed=seed, profile=profile, dataset=dataset, data_root=data_root, run_dir=run_dir,
        notebooks_folder=notebooks_folder,
    )  # fmt: skip
    threads = None
    if jobs < 1:
        raise RunError(f"a sweep needs at least one job, not {jobs}")
    if scheduler is None:
        settings = get_profile(profile)
        memory = check_memory(replace(settings, memory_gb=settings.memory_gb * jobs))
        if not memory.ok:
            raise RunError(f"{memory.found} with --jobs {jobs}. {memory.remedy}, or fewer --jobs")
        threads = max(1, joblib.cpu_count() // jobs)
    for run in sweep.runs:
        open_run(
            run.folder, profile=profile, dataset=sweep.dataset, data_root=data_root, seed=run.seed,
            options=run.options, shared=sweep.shared,
        )  # fmt: skip
        if again:
            run.result_file.unlink(missing_ok=True)
    stop = sweep.folder / f".stop-{secrets.token_hex(4)}"
    limit = TIMEOUTS[profile] if timeout is None else timeout
    work = functools.partial(perform, timeout=limit, threads=threads, stop=stop)
    do = functools.partial(_on_cluster, scheduler) if scheduler else functools.partial(_here, jobs)
    _do_all(sweep, do, work, stop, progress)
    return sweep


Work = Callable[..., dict]  # of a SweepRun; threads= says with how many it may compute


def _do_all(
    sweep: Sweep,
    do: Callable[[Sequence[SweepRun], Work], Generator[dict, None, None]],
    work: Work,
    stop: Path,
    progress: bool,
) -> None:
    """Do the runs that are not done, and keep the table and the bar up to date."""
    from tqdm.auto import tqdm

    finished = {run.name: result for run in sweep.runs if (result := finished_result(run))}
    todo = [run for run in sweep.runs if run.name not in finished]
    rows = {run.name: results_row(run, finished[run.name]) for run in sweep.runs if run.name in finished}
    runs = {run.name: run for run in sweep.runs}
    failed = 0
    write_results(sweep, rows)
    results = do(todo, work) if todo else (none for none in ())
    bar = tqdm(total=len(sweep.runs), initial=len(finished), unit="run", desc="sweep", disable=not progress)
    try:
        with bar:
            for result in results:
                name = result["run"]
                rows[name] = results_row(runs[name], result)
                write_results(sweep, rows)
                failed += result["status"] == FAILED
                if progress and result["status"] == FAILED:
                    bar.write(f"{name} failed: {result['error']}", file=sys.stderr)
                bar.set_description(name, refresh=False)
                bar.set_postfix(failed=failed, refresh=False)
                bar.update()
    except BaseException:  # also Ctrl-C: what was started must not go on alone
        stop.touch()
        results.close()  # nothing new is started
        _wait_until_stopped(todo)
        stop.unlink(missing_ok=True)
        raise


def _wait_until_stopped(runs: Sequence[SweepRun]) -> None:
    """Wait until no run is held, for a limited time."""
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + SECONDS_TO_STOP
    for run in runs:
        try:
            with FileLock(_lock_file(run), timeout=max(0.0, deadline - time.monotonic())):
                continue
        except Timeout:
            continue  # on a cluster that cannot be reached, or another sweep's


# --- where runs are done ---------------------------------------------------------------------------------------------


def _here(jobs: int, runs: Sequence[SweepRun], work: Work) -> Generator[dict, None, None]:
    """On this machine. Threads are enough: each waits for the process that executes its run."""
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, backend="threading", batch_size=1, return_as="generator_unordered")
    yield from parallel(delayed(work)(run) for run in runs)


def _on_cluster(address: str, runs: Sequence[SweepRun], work: Work) -> Generator[dict, None, None]:
    """On the workers of a Dask scheduler. A run whose worker dies is given to another one.

    Futures rather than joblib's Dask backend: that waits forever for a run whose workers have died too often.
    """
    try:
        from dask.distributed import Client, as_completed
    except ModuleNotFoundError:
        raise RunError(
            "--scheduler needs dask and distributed, which are not installed; run: pip install dask distributed"
        ) from None
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except OSError as error:
        raise RunError(f"no Dask scheduler answers at {address}: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except TimeoutError:
            raise RunError(f"the scheduler at {address} has no worker; start one: dask worker {address}") from None
        slots = Counter()  # of each machine
        for worker, count in client.nthreads().items():
            slots[urlsplit(worker).hostname] += count
        share = functools.partial(_on_worker, work, slots)
        futures = {client.submit(share, run, key=f"{run.name}-{secrets.token_hex(4)}", pure=False): run for run in runs}
        for future in as_completed(futures, loop=client.loop):
            yield _outcome(future, futures[future], address)


def _on_worker(work: Work, slots: Mapping[str, int], run: SweepRun) -> dict:
    """A run with its share of the cores of its machine. slots: runs that each machine does at the same time."""
    from dask.distributed import get_worker

    worker = get_worker()
    beside = slots.get(urlsplit(worker.address).hostname) or worker.state.nthreads  # 0: it has come since
    return work(run, threads=max(1, joblib.cpu_count() // beside))


def _outcome(future, run: SweepRun, address: str) -> dict:
    """The result of a run on a cluster; a failed one where its workers died."""
    from dask.distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise RunError(f"the scheduler at {address} went away; start one and run the same command again")
    error = future.exception()
    if not isinstance(error, KilledWorker):
        raise error
    return _record(run, FAILED, f"the workers that executed it died, the last at {error.last_worker.address}")


# --- one run ---------------------------------------------------------------------------------------------------------


def perform(run: SweepRun, *, timeout: float, threads: int | None, stop: Path) -> dict:
    """Execute one run in a process of its own and record how it ended, unless that is recorded already.

    The run folder must be there. stop: a file; where it appears, the run is stopped and nothing is recorded.
    Returns what result.json holds: run, status ("done" or "failed"), error, message, mark and seconds; or the status
    "stopped".
    """

    def check() -> None:
        if stop.exists():
            raise Stopped

    try:
        with _held(run, check):
            return finished_result(run) or _execute(run, timeout, threads, check)
    except Stopped:
        return {"run": run.name, "status": STOPPED}


def _execute(run: SweepRun, timeout: float, threads: int | None, check: Callable[[], None]) -> dict:
    folder = load_run(run.folder)
    for stale in (run.result_file, folder.metrics_file, folder.predictions_file):
        stale.unlink(missing_ok=True)  # a result holds what this execution measured, nothing else
    executed = folder.notebooks_dir / run.notebook.name
    started = time.monotonic()
    try:
        cost = execute_notebook(
            run.notebook, executed, run.parameters, cwd=run.notebook.parent, timeout=timeout, on_poll=lambda _: check(),
            threads=threads,
        )  # fmt: skip
    except (RunError, OSError) as error:
        return _record(run, FAILED, str(error), round(time.monotonic() - started, 1))
    number = notebook_number(run.notebook.name)
    folder.update_metrics("notebooks", {number: {"seconds": cost.seconds, "peak_mb": cost.peak_mb}})
    return _record(run, DONE, "", cost.seconds)


def _record(run: SweepRun, status: str, message: str, seconds: float | None = None) -> dict:
    result = {
        "run": run.name,
        "status": status,
        "error": one_line(message),
        "message": message,
        "mark": run.mark,
        "seconds": seconds,
    }
    write_json(run.result_file, result)
    return result


def one_line(message: str) -> str:
    """The head of an error and its cause, without the source that stands between them."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("    ")]
    text = " ".join(lines[:2])
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 3] + "..."


def finished_result(run: SweepRun) -> dict | None:
    """What result.json holds if the run is done with the same notebook, parameters and package; else None."""
    if not run.result_file.exists():
        return None
    result = read_json(run.result_file)
    return result if result.get("mark") == run.mark and result.get("status") == DONE else None


def _lock_file(run: SweepRun) -> Path:
    return run.folder / ".run.lock"


@contextmanager
def _held(run: SweepRun, check: Callable[[], None]) -> Iterator[None]:
    """Hold the run, as soon as nobody else does; the system lets go of it when the holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_file(run))
    while True:
        check()
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


# --- results ---------------------------------------------------------------------------------------------------------


def results_row(run: SweepRun, result: dict) -> dict:
    """One row of results.csv: the run, how it ended, and every number in its metrics.json."""
    row = {"run": run.name, "notebook": run.notebook.stem, **run.given, "seed": run.seed, "fold": run.fold}
    row |= {name: result[name] for name in ("status", "error", "seconds")}
    if result["status"] != DONE:
        return row
    metrics = load_run(run.folder).read_metrics()
    return row | flat({name: value for name, value in metrics.items() if name != "notebooks"})


def flat(metrics: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested numbers by one name each: {"kd_gain": {"low": 0}} as {"kd_gain_low": 0}.

    A pair called interval becomes _low and _high; other lists and texts are left out.
    """
    found: dict[str, object] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}_")
        elif name == "interval" and isinstance(value, (list, tuple)) and len(value) == 2:
            found |= {f"{prefix}{name}_low": value[0], f"{prefix}{name}_high": value[1]}
        elif value is None or isinstance(value, (bool, int, float)):
            found[f"{prefix}{name}"] = value
    return found


def write_results(sweep: Sweep, rows: Mapping[str, dict]) -> None:
    """results.csv: the rows that there are, in the order of the grid."""
    import pandas as pd

    there = [rows[run.name] for run in sweep.runs if run.name in rows]
    table = pd.DataFrame(there) if there else pd.DataFrame(columns=["run", "notebook", *sweep.grid, "seed", "status"])
    with atomic_path(sweep.results_file) as temporary:
        table.to_csv(temporary, index=False)


def read_results(sweep: Sweep) -> pd.DataFrame:
    """results.csv of a sweep."""
    import pandas as pd

    return pd.read_csv(sweep.results_file, keep_default_na=False, na_values=[""])  # "none" may be a value
