"""The notebooks in order: each is executed by papermill into the run folder, in a process of its own.

A run that was stopped goes on where it was: a notebook that is already done with the same source, parameters and
package version is skipped.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kdoct_utils import __version__
from kdoct_utils.course.check import check_memory
from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.parameters import cast, declared_parameters, share_parameters
from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import Profile, get_profile
from kdoct_utils.runs import RunError, RunFolder, atomic_path, open_run

NOTEBOOKS = (
    "00_start_here.ipynb",
    "01_data_and_patient_splits.ipynb",
    "02_focal_loss.ipynb",
    "03_teacher_with_swa.ipynb",
    "04_temperature_and_soft_labels.ipynb",
    "05_realtime_distillation.ipynb",
    "06_edge_export.ipynb",
)
# Seconds that one notebook may take. A limit on mistakes, not a promise: papermill's own is forever.
TIMEOUTS = {"smoke": 600.0, "quick": 3600.0, "colab": 12 * 3600.0, "paper": 14 * 24 * 3600.0}
COMMON_PARAMETERS = ("profile", "dataset", "data_root", "run_dir", "seed")  # set by options of their own


def find_notebooks_folder() -> Path:
    """The ``notebooks`` folder beside the package. Raises RunError where the package was installed without it."""
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    if not folder.is_dir():
        raise RunError(
            f"there is no folder {folder}; the notebooks are not part of the installed package: "
            "clone the repository and install it with `pip install -e .`"
        )
    return folder


def notebook_number(name: str) -> str:
    """ "03" of "03_teacher_with_swa.ipynb"."""
    return name.split("_")[0]


def select_notebooks(only: Sequence[str] | None, folder: Path) -> list[Path]:
    """Paths of the core notebooks, or of those that ``only`` names by number ("03", "3") or by name, in course order.

    A number or name beyond the core finds any notebook in the folder. Raises RunError for one that is not there.
    """
    there = sorted(path.name for path in folder.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        missing = [name for name in NOTEBOOKS if name not in there]
        if missing:
            raise RunError(f"{folder} lacks {', '.join(missing)}")
        return [folder / name for name in NOTEBOOKS]
    chosen = set()
    for wanted in only:
        key = wanted.strip().removesuffix(".ipynb")
        names = [name for name in there if key.zfill(2) == notebook_number(name) or key == name.removesuffix(".ipynb")]
        if not names:
            raise RunError(f"no notebook {wanted!r}; valid: {', '.join(notebook_number(name) for name in there)}")
        chosen.update(names)
    return [folder / name for name in sorted(chosen)]


def fingerprint(notebook: Path, parameters: dict[str, object]) -> str:
    """Hash of what decides a notebook's result: cell sources and tags, parameters, package version. Not its outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [
        [cell["cell_type"], "".join(cell["source"]), sorted(cell["metadata"].get("tags", []))]
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    text = json.dumps([code, parameters, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finished_fingerprint(executed: Path) -> str | None:
    """The hash that a completed execution left in the executed notebook; None if it was never completed."""
    if not executed.exists():
        return None
    try:
        metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
    except json.JSONDecodeError:  # the run was killed while papermill was writing
        return None
    return metadata.get("kdoct", {}).get("fingerprint")


def default_run_dir(profile: str, dataset: str, seed: int) -> Path:
    """runs/quick; another dataset or seed adds its name, since a run folder holds one run."""
    parts = [profile, *([dataset] if dataset != "phantom" else []), *([f"seed{seed}"] if seed else [])]
    return Path("runs") / "-".join(parts)


def check_dataset(profile: Profile, dataset: str | None, data_root: str | Path | None) -> str:
    """The dataset's name: "phantom" where none is given and the profile is meant for it.

    Raises RunError for an unknown dataset, one that needs a data_root, or a data_root that is not there.
    """
    from kdoct_utils.datasets import DATASETS, PHANTOMS

    if dataset is None:
        if "phantom" not in profile.datasets:
            raise RunError(f"profile {profile.name!r} needs --dataset: {' or '.join(profile.datasets)}")
        dataset = "phantom"
    if dataset not in DATASETS:
        raise RunError(f"unknown dataset {dataset!r}; valid datasets: {', '.join(DATASETS)}")
    if not data_root and dataset not in PHANTOMS:
        raise RunError(f"dataset {dataset!r} needs --data-root, the folder that holds it")
    if data_root and not Path(data_root).expanduser().exists():
        raise RunError(f"there is no data_root {data_root}")
    return dataset


def plan_parameters(
    notebooks: Sequence[Path], common: dict[str, object], given: dict[str, object]
) -> dict[str, dict[str, object]]:
    """What each notebook is given: those of the common and the given parameters that it declares.

    Raises RunError for a given parameter that none declares, or that has an option of its own.
    """
    for name in given:
        if name in COMMON_PARAMETERS:
            raise RunError(f"{name} is set by --{name.replace('_', '-')}, not by -p")
    declared = {path.name: declared_parameters(path) for path in notebooks}
    shared = share_parameters(given, declared)
    known = {name for types in declared.values() for name in types}
    of_run = share_parameters({name: value for name, value in common.items() if name in known}, declared)
    return {name: of_run[name] | shared[name] for name in declared}


def split_off_options(
    parameters: dict[str, object], notebooks: Sequence[Path]
) -> tuple[dict[str, object], dict[str, object]]:
    """The parameters for notebooks, and those of them that are dataset options, cast to their types.

    An option that no notebook declares is left out of the first.
    """
    types = DataOptions.types()
    options = {name: cast(name, value, types[name]) for name, value in parameters.items() if name in types}
    declared = {name for path in notebooks for name in declared_parameters(path)}
    return {name: value for name, value in parameters.items() if name in declared or name not in types}, options


def changed_options(run: RunFolder) -> dict[str, object]:
    """The dataset options of a run that are not the defaults, so that a notebook run later is given them again."""
    defaults = DataOptions()
    return {name: value for name, value in asdict(run.options).items() if value != getattr(defaults, name)}


def unfinished(run: RunFolder, notebooks: Sequence[Path]) -> list[str]:
    """Names of those of the notebooks that this run folder does not hold executed, as they are now."""
    root = str(run.data_root) if run.data_root else ""
    values = (run.profile.name, run.dataset, root, str(run.path), run.seed)
    common = dict(zip(COMMON_PARAMETERS, values, strict=True))
    plan = plan_parameters(notebooks, common, split_off_options(changed_options(run), notebooks)[0])
    return [
        path.name
        for path in notebooks
        if finished_fingerprint(run.notebooks_dir / path.name) != fingerprint(path, plan[path.name])
    ]


def run_course(
    profile: str | Profile = "quick",
    dataset: str | None = None,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    parameters: dict[str, object] | None = None,
    *,
    only: Sequence[str] | None = None,
    again: bool = False,
    timeout: float | None = None,
    progress: bool = True,
    notebooks_folder: Path | None = None,
) -> RunFolder:
    """Execute the notebooks of the course in order and return their run folder.

    parameters: values by name; a notebook gets those that it declares, cast to its types. Those that are fields of
    DataOptions (such as split) also decide how the whole run reads its dataset.
    only: numbers or names of the notebooks to run. again: also those that are already done.
    timeout: seconds a notebook may take; None: the profile's in ``TIMEOUTS``.

    Everything is checked before the first notebook starts. Raises RunError (a ValueError) for a value that is not
    valid, a machine too small, a run folder of another run, or a notebook that fails; running again goes on from there.
    """
    profile = get_profile(profile) if isinstance(profile, str) else profile
    dataset = check_dataset(profile, dataset, data_root)
    folder = notebooks_folder or find_notebooks_folder()
    notebooks = select_notebooks(only, folder)
    path = Path(run_dir or default_run_dir(profile.name, dataset, seed)).expanduser().resolve()
    root = str(Path(data_root).expanduser().resolve()) if data_root else ""
    values = (profile.name, dataset, root, str(path), seed)
    common = dict(zip(COMMON_PARAMETERS, values, strict=True))
    given, options = split_off_options(parameters or {}, notebooks)
    plan_parameters(notebooks, common, given)  # refuses wrong names before a folder is made
    memory = check_memory(profile)
    if not memory.ok:
        raise RunError(f"{memory.found}. {memory.remedy}")
    run = open_run(path, profile=profile, dataset=dataset, data_root=data_root, seed=seed, options=options)
    plan = plan_parameters(notebooks, common, split_off_options(changed_options(run), notebooks)[0] | given)
    limit = TIMEOUTS[profile.name] if timeout is None else timeout
    _run_notebooks(run, notebooks, plan, again=again, timeout=limit, progress=progress)
    return run


def _run_notebooks(
    run: RunFolder,
    notebooks: Sequence[Path],
    plan: dict[str, dict[str, object]],
    *,
    again: bool,
    timeout: float,
    progress: bool,
) -> None:
    from tqdm.auto import tqdm

    sizes = {path.name: count_code_cells(path) for path in notebooks}
    with tqdm(total=sum(sizes.values()), unit="cell", disable=not progress) as bar:
        before = 0
        for path in notebooks:
            bar.set_description(path.stem)
            executed = run.notebooks_dir / path.name
            mark = fingerprint(path, plan[path.name])
            if not again and finished_fingerprint(executed) == mark:
                said = "already done"
            else:
                said = _run_one(run, path, executed, plan[path.name], mark, timeout, bar, before)
            before += sizes[path.name]
            bar.update(before - bar.n)
            if progress:
                bar.write(f"{path.stem}: {said}", file=sys.stderr)  # standard output is for results


def _run_one(run, path, executed, parameters, mark, timeout, bar, before) -> str:
    def show(finished: int) -> None:
        bar.update(before + finished - bar.n)

    try:
        cost = execute_notebook(path, executed, parameters, cwd=path.parent, timeout=timeout, on_cells=show)
    except RunError as error:
        raise RunError(
            f"{error}\nWhat was executed is in {executed}. Once the cause is mended, run the same command again: "
            "notebooks that are done are skipped."
        ) from None
    number = notebook_number(path.name)
    run.update_metrics("notebooks", {number: {"seconds": cost.seconds, "peak_mb": cost.peak_mb}})
    _mark_finished(executed, mark)
    return f"{cost.seconds:.0f} s, {cost.peak_mb:.0f} MB"


def _mark_finished(executed: Path, mark: str) -> None:
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    notebook["metadata"]["kdoct"] = {"fingerprint": mark}
    with atomic_path(executed) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def count_code_cells(notebook: Path) -> int:
    """Code cells of a notebook file. Raises RunError if it does not parse."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError) as error:
        raise RunError(f"{notebook} is not a notebook ({error})") from None
    return sum(cell["cell_type"] == "code" for cell in cells)


def notebook_title(notebook: Path) -> str:
    """Text of the first level-one heading, without mark-up; the file's name where there is none."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1].strip().replace("*", "").replace("`", "")
    return notebook.stem
