"""Many runs of one notebook: the grid of values, the runs side by side, and what they measured in one table.

Each run has a run folder, and executes in a process of its own. How it ended is kept there in ``result.json``: what is
done is not done again, so a sweep that was stopped, however hard, goes on where it was. A run is held by a file lock
while it executes: two sweeps, or a cluster that gives a run to a second worker, wait for the first and take its result.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
from filelock import FileLock

from kdoct_utils.course import notebooks as course
from kdoct_utils.course.check import check_memory
from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.parameters import plan_parameters, settable_parameters
from kdoct_utils.course.workers import Results, on_cluster, on_this_machine
from kdoct_utils.profiles import Profile, check_parameter, get_profile
from kdoct_utils.runs import RunError, atomic_path, load_run, open_run, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

DONE, FAILED = "done", "failed"
LONGEST_ERROR = 300  # characters of the one line in the table; result.json has all of it


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a notebook with its parameters, in a run folder of its own.

    given: the value of every parameter of the grid. parameters: what the notebook gets. options: fields of DataOptions.
    mark: hash of all that decides the result; a result with the same mark is not computed again.
    """

    name: str
    notebook: Path
    given: dict[str, object]
    parameters: dict[str, object]
    options: dict[str, object]
    seed: int
    folder: Path
    mark: str

    @property
    def result_file(self) -> Path:
        """How the run ended."""
        return self.folder / "result.json"

    def finished_result(self) -> dict | None:
        """What result.json holds if the run is done with the same notebook, parameters and package; else None."""
        result = read_json(self.result_file) if self.result_file.exists() else {}
        return result if result.get("mark") == self.mark and result.get("status") == DONE else None


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid over one notebook. grid: every parameter that was given, with its values in order."""

    folder: Path
    notebook: Path
    profile: Profile
    dataset: str
    data_root: str | Path | None
    grid: dict[str, tuple]
    runs: tuple[SweepRun, ...]

    @property
    def results_file(self) -> Path:
        return self.folder / "results.csv"

    @property
    def swept(self) -> list[str]:
        """The parameters with more than one value."""
        return [name for name, values in self.grid.items() if len(values) > 1]


# --- the grid: every value is checked before a folder is made --------------------------------------------------------


def plan_sweep(
    notebook: str, grid: Mapping[str, object], *, seeds: int = 1, seed: int = 0, profile: str = "quick",
    dataset: str | None = None, data_root: str | Path | None = None, run_dir: str | Path | None = None,
    notebooks_folder: Path | None = None,
) -> Sweep:  # fmt: skip
    """Every combination of the values in ``grid``, each with ``seeds`` seeds from ``seed`` on.

    notebook: number or name. grid: parameter -> values, as a list or as text with commas, cast to the declared types;
    dataset options such as fold and split are parameters too. A seed decides phantoms, split and all weights.

    The seed changes fastest: neighbors need different teachers, so that runs side by side seldom wait for one another.
    Raises ValueError for a name or value that is not valid.
    """
    size = get_profile(profile)
    dataset = course.check_dataset(size, dataset, data_root)
    there = notebooks_folder or course.find_notebooks_folder()
    found = course.select_notebooks([notebook], there) if notebook.strip() else []
    if len(found) != 1:
        raise RunError(f"a sweep runs one notebook, by number or name, not {notebook!r}")
    path, values = found[0], read_grid(found[0], grid)
    parts = ["sweep", course.notebook_number(path.name), profile, *([dataset] if dataset != "phantom" else []), *values]
    folder = Path(run_dir or Path("runs") / "-".join(parts)).expanduser().resolve()
    runs = []
    for combination in product(*values.values()):  # sklearn's ParameterGrid sorts the names, and with them the rows
        given = dict(zip(values, combination, strict=True))
        for one_seed in range(seed, seed + seeds):
            own = folder / _folder_name(given, one_seed)
            common = course.common_values(size, dataset, data_root, own, one_seed)
            plan, options = plan_parameters([path], common, given)
            decides = {"parameters": plan[path.name] | {"run_dir": ""}, "options": options}  # its folder may move
            mark = course.fingerprint(path, decides | {"common": [profile, dataset, one_seed]})
            runs.append(SweepRun(own.name, path, given, plan[path.name], options, one_seed, own, mark))
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RunError(f"two runs would share the folder {twice[0]!r}: give them values that differ more")
    return Sweep(folder, path, size, dataset, data_root, values, tuple(runs))


def read_grid(notebook: Path, grid: Mapping[str, object]) -> dict[str, tuple]:
    """The values of each parameter, cast. Raises ValueError for an unknown name or a value that does not fit."""
    kinds, values = settable_parameters([notebook], grid), {}
    for name, given in grid.items():
        parts = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
        parts = parts if isinstance(parts, (list, tuple)) else [parts]
        if not parts or (len(parts) > 1 and "" in parts):
            raise RunError(f"parameter {name!r} has an empty value in {given!r}")
        values[name] = tuple(check_parameter(name, part, kinds[name]) for part in parts)
    return values


def _folder_name(given: Mapping[str, object], seed: int) -> str:
    name = "_".join(f"{key}={value_text(value)}" for key, value in {**given, "seed": seed}.items())
    return re.sub(r"[^\w.+=-]+", "-", name)


def value_text(value: object) -> str:
    """A value in few characters: 2.0 as "2", where that is the same number."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


# --- the runs --------------------------------------------------------------------------------------------------------


def run_sweep(sweep: Sweep, *, jobs: int = 1, scheduler: str | None = None, progress: bool = True) -> pd.DataFrame:
    """Execute the runs that are not done and return ``results.csv``: a row per run, written anew as runs end.

    jobs: runs at the same time on this machine, which share its cores. scheduler: address of a Dask scheduler,
    "tcp://host:port"; then its workers do the runs, one for each of their threads, and jobs counts for nothing. They
    need this package and must see the run folders under the same paths.

    A run that fails is recorded with its error, and the others go on. Calling again does those that failed or are
    missing. Where this process ends early, so do its runs on this machine; what workers of a cluster have begun goes
    on. Raises RunError (a ValueError) before anything starts for a machine too small, a folder of other runs, or a
    cluster that is not there.
    """
    profile, cores = sweep.profile, None
    if scheduler is None:
        memory = check_memory(replace(profile, memory_gb=profile.memory_gb * jobs))
        if not memory.ok:
            raise RunError(f"{memory.found} with --jobs {jobs}. {memory.remedy}, or fewer --jobs")
        cores = max(1, joblib.cpu_count() // jobs)
    for run in sweep.runs:
        open_run(run.folder, profile=profile, dataset=sweep.dataset, data_root=sweep.data_root, seed=run.seed,
                 options=run.options, shared=sweep.folder / "shared")  # fmt: skip
    work = functools.partial(perform, timeout=course.TIMEOUTS[profile.name], cores=cores)
    todo = [run for run in sweep.runs if not run.finished_result()]
    results = on_cluster(scheduler, todo, work, _record) if scheduler else on_this_machine(jobs, todo, work)
    _collect(sweep, results, progress)
    return read_results(sweep)


def _collect(sweep: Sweep, results: Results, progress: bool) -> None:
    """Keep the table and the bar up to date while results come."""
    from tqdm.auto import tqdm

    runs = {run.name: run for run in sweep.runs}
    rows = {run.name: results_row(run, result) for run in sweep.runs if (result := run.finished_result())}
    if rows:
        write_results(sweep, rows)
    failed = 0
    with tqdm(total=len(runs), initial=len(rows), unit="run", desc="sweep", disable=not progress) as bar:
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


def perform(run: SweepRun, *, timeout: float, cores: int | None) -> dict:
    """Execute one run in a process of its own and record how it ended, unless that is recorded already.

    The run folder must be there. cores: that the run may use; None: as OMP_NUM_THREADS says, which Dask sets to 1.
    Returns what result.json holds: run, status ("done" or "failed"), error, message, mark and seconds.
    """
    with FileLock(run.folder / ".run.lock"):  # the system lets go of it when the holder dies
        return run.finished_result() or _execute(run, timeout, cores)


def _execute(run: SweepRun, timeout: float, cores: int | None) -> dict:
    folder, started = load_run(run.folder), time.monotonic()
    cores = cores or int(os.environ.get("OMP_NUM_THREADS", "1"))
    threads = folder.profile.student_training.threads or cores
    for stale in (run.result_file, folder.metrics_file, folder.predictions_file):
        stale.unlink(missing_ok=True)  # a result holds what this execution measured, nothing else
    try:
        cost = execute_notebook(
            run.notebook, folder.notebooks_dir / run.notebook.name, run.parameters, cwd=run.notebook.parent,
            timeout=timeout, threads=threads, cores=cores,
        )  # fmt: skip
    except (RunError, OSError) as error:
        return _record(run, str(error), round(time.monotonic() - started, 1))
    folder.update_metrics("notebooks", {course.notebook_number(run.notebook.name): cost})
    return _record(run, "", cost["seconds"], DONE)


def _record(run: SweepRun, message: str, seconds: float | None = None, status: str = FAILED) -> dict:
    result = {"run": run.name, "status": status, "error": one_line(message), "message": message, "mark": run.mark,
              "seconds": seconds}  # fmt: skip
    write_json(run.result_file, result)
    return result


def one_line(message: str) -> str:
    """The head of an error and its cause, without the source that stands between them."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("    ")]
    return textwrap.shorten(" ".join(lines[:2]), LONGEST_ERROR, placeholder="...")


# --- results ---------------------------------------------------------------------------------------------------------


def results_row(run: SweepRun, result: dict) -> dict:
    """One row of results.csv: the run, how it ended, and every number in its metrics.json."""
    folder = load_run(run.folder)
    row = {"run": run.name, "notebook": run.notebook.stem, **run.given, "seed": run.seed, "fold": folder.options.fold}
    row |= {name: result[name] for name in ("status", "error", "seconds")}
    measured = folder.read_metrics() if result["status"] == DONE else {}
    return row | flat({name: value for name, value in measured.items() if name != "notebooks"})


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

    table = pd.DataFrame([rows[run.name] for run in sweep.runs if run.name in rows])
    with atomic_path(sweep.results_file) as temporary:
        table.to_csv(temporary, index=False)


def read_results(sweep: Sweep) -> pd.DataFrame:
    """results.csv of a sweep."""
    import pandas as pd

    return pd.read_csv(sweep.results_file, keep_default_na=False, na_values=[""])  # "none" may be a value
