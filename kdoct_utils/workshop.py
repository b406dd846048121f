"""Prepare a machine for a workshop, so that no participant waits; or only say what is missing.

Each step says whether it is ready, what was found and, where it is not, what to do. A second call finds everything
done. Nothing is copied: all notebooks take what they need from the one run folder.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from kdoct_utils.archives import cache_root
from kdoct_utils.checks import run_checks
from kdoct_utils.course import (
    check_dataset,
    default_run_dir,
    find_notebooks_folder,
    notebook_number,
    run_course,
    select_notebooks,
    unfinished,
)
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import CONFIG_NAME, RunError, RunFolder, open_run

# Slow the first time only: Python compiles them, matplotlib looks for fonts, the system keeps the files in memory.
HEAVY = ("torch", "torchvision", "timm", "accelerate", "sklearn", "pandas", "onnx", "onnxruntime", "papermill",
         "ipywidgets", "matplotlib.font_manager", "kdoct_utils.stages", "kdoct_utils.edge")  # fmt: skip
EDITORS = ("jupyterlab", "notebook", "google.colab")
COMMAND = "Run: kdoct workshop"


@dataclass(frozen=True)
class Step:
    """One line of the preparation. remedy is empty where ready. seconds: what it took here, now."""

    name: str
    ready: bool
    found: str
    remedy: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        took = f" ({self.seconds:.0f} s)" if self.seconds >= 1 else ""
        line = f"[{'READY' if self.ready else 'MISSING'}] {self.name}: {self.found}{took}"
        return line if self.ready else f"{line.rstrip('.')}. {self.remedy}"


@dataclass(frozen=True)
class Plan:
    """The run that participants will use. folder: where it lies or will lie."""

    profile: str
    dataset: str
    data_root: str | Path | None
    folder: Path
    seed: int
    notebooks: Path

    def run(self) -> RunFolder:
        """The run folder; made where there is none."""
        return open_run(
            self.folder, profile=self.profile, dataset=self.dataset, data_root=self.data_root, seed=self.seed
        )


def make_plan(
    profile: str = "quick",
    dataset: str | None = None,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    notebooks_folder: Path | None = None,
) -> Plan:
    """What to prepare. run_dir: by default the folder in which the notebooks look, runs/<profile> beside notebooks/.

    Raises RunError or ValueError for a value that is not valid.
    """
    dataset = check_dataset(get_profile(profile), dataset, data_root)
    notebooks = notebooks_folder or find_notebooks_folder()
    folder = Path(run_dir) if run_dir else notebooks.parent / default_run_dir(profile, dataset, seed)
    return Plan(profile, dataset, data_root, folder.expanduser().resolve(), seed, notebooks)


def prepare(plan: Plan, *, check_only: bool = False, progress: bool = True) -> Iterator[Step]:
    """Do, or with check_only look at, one step after the other; each is yielded as it ends."""
    fits = True  # nothing heavy is begun where something before it is missing
    for check in run_checks(plan.profile, plan.folder):
        fits = fits and check.ok
        yield Step(check.name, check.ok, check.found, "" if check.ok else check.remedy)
    yield editor_step()
    steps = [scans_step, notebooks_step] if check_only else [loading_step, scans_step, notebooks_step, report_step]
    for step in steps:
        if not check_only and not fits:
            yield Step(step_name(step), False, "not tried", "Mend the lines above first")
        else:
            started = time.perf_counter()
            made = guarded(partial(step, plan, check_only=check_only, progress=progress), step_name(step))
            fits = fits and made.ready
            yield replace(made, seconds=round(time.perf_counter() - started, 1))


def step_name(step: Callable) -> str:
    return step.__name__.removesuffix("_step")


def guarded(step: Callable[[], Step], name: str) -> Step:
    """The step, or what stopped it as a step that is not ready."""
    try:
        return step()
    except (RunError, OSError) as error:
        return Step(name, False, str(error), "Mend that, then run kdoct workshop again")


def editor_step() -> Step:
    """Something that opens notebooks."""
    found = [name for name in EDITORS if _is_there(name)]
    if found:
        return Step("editor", True, ", ".join(found))
    return Step("editor", False, "no JupyterLab, no Notebook", 'Run: pip install -e ".[lab]"')


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def loading_step(plan: Plan, *, check_only: bool, progress: bool) -> Step:
    """Import the heavy packages once, in a process of its own."""
    code = f"import importlib\nfor name in {HEAVY!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Step("loading", False, last, "Install the course again: pip install -e .")
    return Step("loading", True, f"{len(HEAVY)} heavy packages load")


def scans_step(plan: Plan, *, check_only: bool, progress: bool) -> Step:
    """The scans, decoded once, and their split."""
    there = (plan.folder / CONFIG_NAME).is_file()
    run = plan.run() if there or not check_only else None
    if run is None or not (run.images_file.exists() and run.splits_file.exists()):
        if check_only:
            return Step("scans", False, f"none in {plan.folder.name}", COMMAND)
        from kdoct_utils.stages import course_data

        course_data(run, progress=progress)
    size = sum(path.stat().st_size for path in cache_root().rglob("*") if path.is_file())
    return Step("scans", True, f"{plan.dataset}, drawn or read, and split; {size / 1e6:.0f} MB in the cache folder")


def notebooks_step(plan: Plan, *, check_only: bool, progress: bool) -> Step:
    """Every core notebook executed into the run folder, so that its networks are there."""
    paths = select_notebooks(None, plan.notebooks)
    there = (plan.folder / CONFIG_NAME).is_file()
    missing = unfinished(plan.run(), paths) if there else [path.name for path in paths]
    if missing and check_only:
        numbers = ", ".join(map(notebook_number, missing))
        return Step("notebooks", False, f"{len(paths) - len(missing)} of {len(paths)} done, not {numbers}", COMMAND)
    if missing:
        run_course(plan.profile, plan.dataset, plan.data_root, plan.folder, plan.seed, progress=progress,
                   notebooks_folder=plan.notebooks)  # fmt: skip
    done = f"{len(missing)} executed now, {len(paths) - len(missing)} were done"
    return Step("notebooks", True, f"all {len(paths)} ({done}) in {plan.folder.name}")


def report_step(plan: Plan, *, check_only: bool, progress: bool) -> Step:
    """The run's index.html, to show what participants will get."""
    from kdoct_utils.report import report

    return Step("report", True, str(Path(plan.folder.name) / report(plan.run()).name))


def next_lines(plan: Plan, ready: bool) -> list[str]:
    """What to tell the teacher in the end."""
    if not ready:
        return ["Not ready: mend the lines marked MISSING, then run the command again. What is done stays done."]
    lines = ["Ready. Participants open notebooks/00_start_here.ipynb."]
    if not is_default(plan):
        lines.append(f'They set profile = "{plan.profile}" and run_dir = "{plan.folder}" in the parameters cell.')
    return lines


def is_default(plan: Plan) -> bool:
    """Is it the run that the notebooks take when nothing is changed in them?"""
    same = (plan.profile, plan.dataset, plan.seed) == ("quick", "phantom", 0)
    return same and plan.folder == (plan.notebooks.parent / "runs" / "quick").resolve()
