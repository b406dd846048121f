"""The grid of a sweep: its runs, what each is given, and the folder of each.

Nothing is executed or written here; every value is checked before a run folder is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from kdoct_utils.course.notebooks import (
    check_dataset,
    find_notebooks_folder,
    fingerprint,
    notebook_number,
    select_notebooks,
)
from kdoct_utils.course.parameters import COMMON_PARAMETERS, cast, plan_parameters, settable_parameters
from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import RunError

WHOLE_TYPES = (list, tuple, dict)  # their own commas cannot be told from those of the grid
LONGEST_NAME = 200  # of a folder, in characters; most file systems take 255 bytes


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
    def fold(self) -> int:
        return self.options.get("fold", DataOptions().fold)

    @property
    def result_file(self) -> Path:
        """How the run ended."""
        return self.folder / "result.json"


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid over one notebook. grid: every parameter that was given, with its values in order."""

    folder: Path
    notebook: Path
    profile: str
    dataset: str
    data_root: str
    grid: dict[str, tuple]
    seeds: tuple[int, ...]
    runs: tuple[SweepRun, ...]

    @property
    def shared(self) -> Path:
        """What several runs need: data, split, networks."""
        return self.folder / "shared"

    @property
    def results_file(self) -> Path:
        return self.folder / "results.csv"

    @property
    def index_file(self) -> Path:
        return self.folder / "index.html"

    @property
    def swept(self) -> list[str]:
        """The parameters with more than one value."""
        return [name for name, values in self.grid.items() if len(values) > 1]


def plan_sweep(
    notebook: str,
    grid: Mapping[str, object],
    *,
    seeds: int = 1,
    seed: int = 0,
    profile: str = "quick",
    dataset: str | None = None,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    notebooks_folder: Path | None = None,
) -> Sweep:
    """Every combination of the values in ``grid``, each with ``seeds`` seeds from ``seed`` on.

    notebook: number or name. grid: parameter -> values, as a list or as text with commas, cast to the declared types;
    dataset options such as fold and split are parameters too. A seed decides phantoms, split and all weights.

    The seed changes fastest: neighbors need different teachers, so that runs side by side seldom wait for one another.
    Raises RunError (a ValueError) for a name or value that is not valid.
    """
    settings = get_profile(profile)
    dataset = check_dataset(settings, dataset, data_root)
    path = _one_notebook(notebook, notebooks_folder or find_notebooks_folder())
    if seeds < 1:
        raise RunError(f"a sweep needs at least one seed, not {seeds}")
    values = read_grid(path, grid)
    folder = Path(run_dir or _default_folder(path, settings.name, dataset, values)).expanduser().resolve()
    root = str(Path(data_root).expanduser().resolve()) if data_root else ""
    every_seed = tuple(range(seed, seed + seeds))
    runs = []
    for combination in product(*values.values()):
        given = dict(zip(values, combination, strict=True))
        for one_seed in every_seed:
            runs.append(_plan_run(path, given, (settings.name, dataset, root), one_seed, folder))
    names = [run.name for run in runs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RunError(f"two runs would share the folder {sorted(twice)[0]!r}: give them values that differ more")
    return Sweep(folder, path, settings.name, dataset, root, values, every_seed, tuple(runs))


def read_grid(notebook: Path, grid: Mapping[str, object]) -> dict[str, tuple]:
    """The values of each parameter, cast. Raises RunError for an unknown name or a value that does not fit."""
    types = settable_parameters([notebook], grid)
    return {name: _values(name, given, types[name]) for name, given in grid.items()}


def _values(name: str, given: object, kind: object) -> tuple:
    if kind in WHOLE_TYPES:
        if isinstance(given, str) and not given.startswith(("[", "(", "{")):
            raise RunError(
                f"parameter {name!r} is a {kind.__name__}, which a sweep cannot take apart at commas; "
                f"give one value in brackets, such as {name}=[1,2], for all runs"
            )
        parts = [given]
    elif isinstance(given, str):
        parts = [part.strip() for part in given.split(",")]
        if len(parts) > 1 and "" in parts:
            raise RunError(f"parameter {name!r} has an empty value in {given!r}")
    else:
        parts = list(given) if isinstance(given, (list, tuple)) else [given]
    values = tuple(cast(name, part, kind) for part in parts)
    if not values:
        raise RunError(f"parameter {name!r} has no value")
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise RunError(f"parameter {name!r} has the value {twice[0]!r} twice")
    return values


def _one_notebook(notebook: str, folder: Path) -> Path:
    found = select_notebooks([notebook], folder) if notebook.strip() else []
    if len(found) != 1:
        raise RunError(f"a sweep runs one notebook, by number or name, not {notebook!r}")
    return found[0]


def _default_folder(notebook: Path, profile: str, dataset: str, grid: Mapping[str, tuple]) -> Path:
    """runs/sweep-05-quick-temperature-alpha; another dataset than phantoms adds its name."""
    parts = ["sweep", notebook_number(notebook.name), profile, *([dataset] if dataset != "phantom" else []), *grid]
    return Path("runs") / "-".join(parts)


def _plan_run(
    notebook: Path, given: dict[str, object], common: tuple[str, str, str], seed: int, folder: Path
) -> SweepRun:
    name = "_".join([*(f"{key}={value_text(value)}" for key, value in given.items()), f"seed={seed}"])
    name = re.sub(r"[^\w.+=-]+", "-", name)
    if len(name) > LONGEST_NAME:
        raise RunError(f"{name[:40]}...: {len(name)} characters are too many for the name of a folder")
    profile, dataset, root = common
    values = (profile, dataset, root, str(folder / name), seed)
    plans, options = plan_parameters([notebook], dict(zip(COMMON_PARAMETERS, values, strict=True)), given)
    plan = plans[notebook.name]
    decides = {key: value for key, value in plan.items() if key != "run_dir"}  # a moved sweep keeps its results
    mark = fingerprint(notebook, {"parameters": decides, "options": options, "common": [profile, dataset, seed]})
    return SweepRun(name, notebook, dict(given), plan, options, seed, folder / name, mark)


def value_text(value: object) -> str:
    """A value in few characters: 2.0 as "2", where that is the same number."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
