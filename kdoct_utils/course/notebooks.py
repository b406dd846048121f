"""The notebooks in order: each is executed into the run folder, in a process of its own.

A run that was stopped goes on where it was: a notebook that is already done with the same source, parameters and
package version is skipped.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from kdoct_utils import __version__
from kdoct_utils.course.check import check_memory
from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.parameters import COMMON_PARAMETERS, plan_parameters, read_notebook
from kdoct_utils.course.progress import CourseBar
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions
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
PUBLISHED_RUN = ("quick", "phantom")  # profile and dataset whose times the notebooks' metadata hold (tools.publish)
# Seconds that one notebook may take. A limit on mistakes, not a promise.
TIMEOUTS = {"smoke": 1200.0, "quick": 3 * 3600.0, "colab": 12 * 3600.0, "paper": 14 * 24 * 3600.0}


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
    """ "03" of "03_teacher_with_swa.ipynb", "01b" of "01b_datasets_and_their_quirks.ipynb"."""
    return name.split("_")[0]


def notebook_path(name: str, folder: Path) -> Path:
    """Where a notebook lies: in the course's folder or, beside the way through the course, in its ``more``."""
    beside = folder / "more" / name
    return beside if beside.exists() else folder / name


def select_notebooks(only: Sequence[str] | None, folder: Path) -> list[Path]:
    """Paths of the core notebooks, or of those that ``only`` names by number ("03", "3") or by name, in course order.

    A number or name beyond the core finds any notebook in the folder or in its folder ``more`` ("01b"); "more" finds
    all of the latter. Raises RunError for one that is not there.
    """
    beside = [path.name for path in folder.glob("more/[0-9][0-9][a-z]_*.ipynb")]
    there = sorted([path.name for path in folder.glob("[0-9][0-9]_*.ipynb")] + beside)
    if not only:
        missing = [name for name in NOTEBOOKS if name not in there]
        if missing:
            raise RunError(f"{folder} lacks {', '.join(missing)}")
        return [folder / name for name in NOTEBOOKS]
    chosen = set()
    for wanted in only:
        key = wanted.strip().removesuffix(".ipynb")
        number = key.zfill(2 + key[-1:].isalpha())
        names = [name for name in there if number == notebook_number(name) or key == name.removesuffix(".ipynb")]
        names += beside if key == "more" else []
        if not names:
            raise RunError(f"no notebook {wanted!r}; valid: {', '.join(notebook_number(name) for name in there)}")
        chosen.update(names)
    return [notebook_path(name, folder) for name in sorted(chosen)]


def fingerprint(notebook: Path, parameters: dict[str, object]) -> str:
    """Hash of what decides a notebook's result: cell sources and tags, parameters, package version. Not its outputs."""
    code = [
        [cell["cell_type"], "".join(cell["source"]), sorted(cell["metadata"].get("tags", []))]
        for cell in read_notebook(notebook)["cells"]
        if cell["cell_type"] == "code"
    ]
    text = json.dumps([code, parameters, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finished_fingerprint(executed: Path) -> str | None:
    """The hash that a completed execution left in the executed notebook; None if it was never completed."""
    with suppress(RunError):  # not there, or killed while it was written
        return read_notebook(executed)["metadata"].get("kdoct", {}).get("fingerprint")
    return None


def default_run_dir(profile: str, dataset: str, seed: int) -> Path:
    """runs/quick; another dataset or seed adds its name, since a run folder holds one run."""
    parts = [profile, *([dataset] if dataset != "phantom" else []), *([f"seed{seed}"] if seed else [])]
    return Path("runs") / "-".join(parts)


def check_dataset(profile: Profile, dataset: str | None, data_root: str | Path | None) -> str:
    """The dataset's name: "phantom" where none is given and the profile is meant for it.

    Raises RunError for an unknown dataset, one that needs a data_root, or a data_root that is not there.
    """
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


def common_values(
    profile: Profile, dataset: str, data_root: str | Path | None, run_dir: Path, seed: int
) -> dict[str, object]:
    """COMMON_PARAMETERS as a notebook gets them."""
    root = str(Path(data_root).expanduser().resolve()) if data_root else ""
    return dict(zip(COMMON_PARAMETERS, (profile.name, dataset, root, str(run_dir), seed), strict=True))


def _plan_of_run(run: RunFolder, notebooks: Sequence[Path], given: Mapping[str, object]) -> dict[Path, tuple]:
    """What each notebook of a run is given, the hash of what decides its result, and whether the run holds it done.

    The dataset options of the run that are not the defaults are among what is given, so that a notebook run later is
    given them again.
    """
    common = common_values(run.profile, run.dataset, run.data_root, run.path, run.seed)
    options = {name: value for name, value in asdict(run.options).items() if value != getattr(DataOptions(), name)}
    plan, _ = plan_parameters(notebooks, common, options | dict(given))
    marks = {path: fingerprint(path, plan[path.name]) for path in notebooks}
    return {
        path: (plan[path.name], mark, finished_fingerprint(run.notebooks_dir / path.name) == mark)
        for path, mark in marks.items()
    }


def unfinished(run: RunFolder, notebooks: Sequence[Path]) -> list[str]:
    """Names of those of the notebooks that this run folder does not hold executed, as they are now."""
    return [path.name for path, (_, _, done) in _plan_of_run(run, notebooks, {}).items() if not done]


def run_course(
    profile: str | Profile = "quick", dataset: str | None = None, data_root: str | Path | None = None,
    run_dir: str | Path | None = None, seed: int = 0, parameters: dict[str, object] | None = None, *,
    only: Sequence[str] | None = None, progress: bool = True, notebooks_folder: Path | None = None,
) -> RunFolder:  # fmt: skip
    """Execute the notebooks of the course in order and return their run folder.

    parameters: values by name; a notebook gets those that it declares, cast to its types. Those that are fields of
    DataOptions (such as split) also decide how the whole run reads its dataset.
    only: numbers or names of the notebooks to run.

    Everything is checked before the first notebook starts. Raises ValueError for a value that is not
    valid, a machine too small, a run folder of another run, or a notebook that fails; running again goes on from there.
    """
    profile = get_profile(profile) if isinstance(profile, str) else profile
    dataset = check_dataset(profile, dataset, data_root)
    notebooks = select_notebooks(only, notebooks_folder or find_notebooks_folder())
    path = Path(run_dir or default_run_dir(profile.name, dataset, seed)).expanduser().resolve()
    given, common = parameters or {}, common_values(profile, dataset, data_root, path, seed)
    _, options = plan_parameters(notebooks, common, given)  # refuses what is not valid before a folder is made
    memory = check_memory(profile)
    if not memory.ok:
        raise RunError(f"{memory.found}. {memory.remedy}")
    run = open_run(path, profile=profile, dataset=dataset, data_root=data_root, seed=seed, options=options)
    plan = _plan_of_run(run, notebooks, given)
    todo = [path.stem for path, (_, _, done) in plan.items() if not done]
    bar = CourseBar(todo, *expected_seconds(run, notebooks, todo), progress)
    with bar.bar:
        for path, (values, mark, _) in plan.items():
            if path.stem not in todo:
                bar.write(f"{path.stem}: already done")
                continue
            bar.start()
            cost = _run_notebook(run, path, values, mark, bar.show)
            bar.finish(f"{cost['seconds']:.0f} s, {cost['peak_mb']:.0f} MB")
    return run


def _run_notebook(
    run: RunFolder, source: Path, parameters: dict[str, object], mark: str, show: Callable[[str], None]
) -> dict[str, float]:
    """Execute one notebook, and record in the run folder what it cost and that it is done."""
    executed = run.notebooks_dir / source.name
    try:
        cost = execute_notebook(
            source, executed, parameters, cwd=source.parent, timeout=TIMEOUTS[run.profile.name], on_poll=show,
            threads=run.profile.student_training.threads,
        )  # fmt: skip
    except RunError as error:
        raise RunError(
            f"{error}\nWhat was executed is in {executed}. Once the cause is fixed, run the same command again: "
            "notebooks that are done are skipped."
        ) from None
    run.update_metrics("notebooks", {notebook_number(source.name): cost})
    notebook = read_notebook(executed)
    notebook["metadata"]["kdoct"] = {"fingerprint": mark}
    with atomic_path(executed) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return cost


def expected_seconds(run: RunFolder, notebooks: Sequence[Path], todo: Sequence[str]) -> tuple[dict, dict]:
    """Seconds that the notebooks will take, and those that the others than ``todo`` took in this run, by name.

    The first are the times that were published, for the run that they were published of; for any other run the times
    that its own folder holds, since they follow from no other profile's.
    """
    costs = run.read_metrics().get("notebooks", {})
    taken = {path.stem: costs[key]["seconds"] for path in notebooks if (key := notebook_number(path.name)) in costs}
    expected = dict(taken)
    if (run.profile.name, run.dataset) == PUBLISHED_RUN:
        published = {path.stem: read_notebook(path)["metadata"].get("kdoct", {}).get("seconds") for path in notebooks}
        expected = {name: seconds for name, seconds in published.items() if seconds}
    return expected, {name: seconds for name, seconds in taken.items() if name not in todo}


def notebook_title(notebook: Path) -> str:
    """Text of the first level-one heading, without mark-up; the file's name where there is none."""
    for cell in read_notebook(notebook)["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1].strip().replace("*", "").replace("`", "")
    return notebook.stem
