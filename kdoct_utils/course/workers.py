"""Where the runs of a sweep are done: side by side on this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from kdoct_utils.runs import RunError

if TYPE_CHECKING:
    from kdoct_utils.course.sweep import SweepRun

SECONDS_TO_CONNECT = 30.0

Work = Callable[["SweepRun"], dict]  # executes a run and returns how it ended
Results = Generator[dict, None, None]  # of the runs, as they end


def on_this_machine(jobs: int, runs: Sequence[SweepRun], work: Work) -> Results:
    """jobs: runs at the same time. Threads are enough: each waits for the process that executes its run."""
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, backend="threading", batch_size=1, return_as="generator_unordered")
    yield from parallel(delayed(work)(run) for run in runs)


def on_cluster(address: str, runs: Sequence[SweepRun], work: Work, died: Callable[[SweepRun, str], dict]) -> Results:
    """On the workers of the Dask scheduler at ``address``. A run whose worker dies is given to another one.

    died: records a run whose workers have died too often. Futures, as joblib's Dask backend waits forever for such a
    run (joblib 1.6). Raises RunError where Dask is not installed, or scheduler or workers are not there.
    """
    if not runs:
        return
    try:
        from dask.distributed import Client, KilledWorker, as_completed
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
        futures = {client.submit(work, run, key=f"{run.name}-{secrets.token_hex(4)}", pure=False): run for run in runs}
        for future in as_completed(futures, loop=client.loop):
            if future.status not in ("finished", "error"):
                raise RunError(f"the scheduler at {address} went away; start one and run the same command again")
            error = future.exception()
            if isinstance(error, KilledWorker):
                message = f"the workers that executed it died, the last at {error.last_worker.address}"
                yield died(futures[future], message)
            else:
                yield future.result()  # raises what is no fault of a run
