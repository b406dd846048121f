"""Prepare a machine for a workshop, so that no participant waits; or only say what is missing.

Each step says whether it is ready, what was found and, where it is not, what to do. A second call finds everything
done. All notebooks take what they need from the one run folder; where asked for, a folder for participants is made
with a copy of it and with notebooks that have no outputs yet.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kdoct_utils.course import notebooks as course
from kdoct_utils.course.check import Check, run_checks
from kdoct_utils.course.parameters import read_notebook
from kdoct_utils.data.files import cache_root
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import CONFIG_NAME, RunError, RunFolder, atomic_path, open_run

# Slow the first time only: Python compiles them, matplotlib looks for fonts, the system keeps the files in memory.
HEAVY = ("torch", "torchvision", "timm", "accelerate", "sklearn", "pandas", "onnx", "onnxruntime", "papermill",
         "ipywidgets", "matplotlib.font_manager", "kdoct_utils.lab.stages", "kdoct_utils.edge.measure")  # fmt: skip
EDITORS = ("jupyterlab", "notebook")
LEFT_OUT = ("notebooks", "*.html", ".*")  # of a copied run: executed notebooks, report and slides give answers away
REMEDY = "Run the same command without --check-only"


@dataclass(frozen=True)
class Plan:
    """The run that participants will use. folder: where it lies or will lie.

    copies: the folder for participants, or None where none is wanted. solutions: they go into it too. slides: they are
    written. check_only: nothing is changed. progress: whether bars are shown.
    """

    profile: str
    dataset: str
    data_root: str | Path | None
    folder: Path
    seed: int
    notebooks: Path
    copies: Path | None = None
    solutions: bool = False
    slides: bool = False
    check_only: bool = False
    progress: bool = True

    def run(self) -> RunFolder | None:
        """The run folder, made where it is missing; with check_only None in that case."""
        if self.check_only and not (self.folder / CONFIG_NAME).is_file():
            return None
        kept = {"profile": self.profile, "dataset": self.dataset, "data_root": self.data_root, "seed": self.seed}
        return open_run(self.folder, **kept)


def make_plan(
    profile: str = "quick", dataset: str | None = None, data_root: str | Path | None = None,
    run_dir: str | Path | None = None, seed: int = 0, notebooks_folder: Path | None = None,
    copies: str | Path | None = None, **options: bool,
) -> Plan:  # fmt: skip
    """What to prepare. run_dir: by default the folder in which the notebooks look, runs/<profile> beside notebooks/.

    copies: a folder for participants, outside of the course. options: solutions, slides, check_only, progress.
    Raises RunError or ValueError for a value that is not valid.
    """
    dataset = course.check_dataset(get_profile(profile), dataset, data_root)
    notebooks = notebooks_folder or course.find_notebooks_folder()
    folder = Path(run_dir) if run_dir else notebooks.parent / course.default_run_dir(profile, dataset, seed)
    folder = folder.expanduser().resolve()
    apart = Path(copies).expanduser().resolve() if copies else None
    if apart and (apart.is_relative_to(notebooks.resolve()) or apart.is_relative_to(folder)
                  or folder.is_relative_to(apart) or apart == notebooks.parent.resolve()):  # fmt: skip
        raise RunError(f"copies cannot lie in {apart}, in or around the course or its run: name another folder")
    return Plan(profile, dataset, data_root, folder, seed, notebooks, apart, **options)


def prepare(plan: Plan) -> Iterator[Check]:
    """Do, or with check_only look at, one step after the other; each is yielded as it ends."""
    fits = True  # nothing heavy is begun where something before it is missing
    for check in run_checks(plan.profile, plan.folder):
        fits = fits and check.ok
        yield check
    editors = ", ".join(name for name in EDITORS if find_spec(name))
    yield Check("editor", bool(editors), editors or "no JupyterLab, no Notebook", 'Run: pip install -e ".[lab]"')
    steps = {"scans": make_scans, "notebooks": run_notebooks}
    if not plan.check_only:
        steps = {"loading": load_packages, **steps, "report": write_report}
    if plan.slides:
        steps["slides"] = make_slides
    if plan.copies:
        steps["copies"] = make_copies
    for name, work in steps.items():
        found, remedy = "not tried", "Fix the lines above first"
        if fits or plan.check_only:
            try:
                found, remedy = work(plan)
            except (RunError, OSError) as error:
                found, remedy = str(error), "Fix that, then run the same command again"
        fits = fits and not remedy
        yield Check(name, not remedy, found, remedy)


# --- the steps: each tells what it found and, where that is not what is needed, the remedy ---------------------------


def load_packages(plan: Plan) -> tuple[str, str]:
    """Import the heavy packages once, in a process of its own."""
    code = f"import importlib\nfor name in {HEAVY!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2], "Install the course again: pip install -e ."
    return f"{len(HEAVY)} heavy packages load", ""


def make_scans(plan: Plan) -> tuple[str, str]:
    """The scans, decoded once, and their split."""
    run = plan.run()
    if run is None or not (run.images_file.exists() and run.splits_file.exists()):
        if plan.check_only:
            return f"none in {plan.folder.name}", REMEDY
        from kdoct_utils.lab.stages import course_data

        course_data(run, progress=plan.progress)
    size = sum(path.stat().st_size for path in cache_root().rglob("*") if path.is_file())
    return f"{plan.dataset}, drawn or read, and split; {size / 1e6:.0f} MB in the cache folder", ""


def run_notebooks(plan: Plan) -> tuple[str, str]:
    """Every core notebook executed into the run folder, so that its networks are there."""
    paths = course.select_notebooks(None, plan.notebooks)
    run = plan.run()
    missing = course.unfinished(run, paths) if run else [path.name for path in paths]
    if missing and plan.check_only:
        numbers = ", ".join(map(course.notebook_number, missing))
        return f"{len(paths) - len(missing)} of {len(paths)} done, not {numbers}", REMEDY
    if missing:
        course.run_course(
            plan.profile, plan.dataset, plan.data_root, plan.folder, plan.seed, progress=plan.progress,
            notebooks_folder=plan.notebooks,
        )  # fmt: skip
    return f"all {len(paths)} in {plan.folder.name}, of which {len(missing)} were executed now", ""


def write_report(plan: Plan) -> tuple[str, str]:
    """The run's index.html, to show what participants will get."""
    from kdoct_utils.course.report import report_run

    return str(Path(plan.folder.name) / report_run(plan.run()).name), ""


def make_slides(plan: Plan) -> tuple[str, str]:
    """slides.html in the run folder, from the figures of its executed notebooks."""
    from kdoct_utils.show.slides import write_slides

    path = plan.folder / "slides.html"
    if plan.check_only:
        return (str(path), "") if path.exists() else ("none", REMEDY)
    executed = [plan.run().notebooks_dir / found.name for found in course.select_notebooks(None, plan.notebooks)]
    count = write_slides({course.notebook_title(one): read_notebook(one) for one in executed}, path)
    return f"{count} in {path}", ""


def make_copies(plan: Plan) -> tuple[str, str]:
    """Notebooks without outputs for participants, and beside them a copy of the run folder.

    A copy that somebody has changed is kept as it is, and named. Raises RunError where the run there is another one.
    """
    texts, run_copy = clean_notebooks(plan), plan.copies / "runs" / plan.folder.name
    there = [name for name in texts if (plan.copies / name).exists()]
    changed = [name for name in there if (plan.copies / name).read_text(encoding="utf-8") != texts[name]]
    ours, theirs = plan.folder / CONFIG_NAME, run_copy / CONFIG_NAME
    if theirs.exists() and ours.exists() and ours.read_bytes() != theirs.read_bytes():
        raise RunError(f"{run_copy} belongs to another run; name another folder for the copies")
    if plan.check_only and not (len(there) == len(texts) and theirs.exists()):
        run = "the run" if theirs.exists() else "not the run"
        return f"{len(there)} of {len(texts)} notebooks and {run} in {plan.copies.name}", REMEDY
    if not plan.check_only:
        for name in texts.keys() - there:
            with atomic_path(plan.copies / name) as temporary:
                temporary.write_text(texts[name], encoding="utf-8")
        left_out = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(plan.folder, run_copy, ignore=left_out, copy_function=copy_if_missing, dirs_exist_ok=True)
    if changed:
        found = f"{len(changed)} of {len(texts)} notebooks in {plan.copies.name} differ and are kept: "
        return found + ", ".join(changed), "For blank ones delete these, or name another folder"
    return f"{len(texts)} notebooks without outputs, and the run, in {plan.copies.name}", ""


def copy_if_missing(source: str, target: str) -> None:
    if not Path(target).exists():
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def clean_notebooks(plan: Plan) -> dict[str, str]:
    """Path in the folder for participants -> text: every notebook without outputs, its parameters set to this run."""
    cleaned = {}
    for folder in (".", "more", "exercises", *["solutions"] * plan.solutions):
        run_dir = Path(".." if folder == "." else "../..", "runs", plan.folder.name)
        values = course.common_values(get_profile(plan.profile), plan.dataset, plan.data_root, run_dir, plan.seed)
        for path in sorted((plan.notebooks / folder).glob("*.ipynb")):
            name = path.relative_to(plan.notebooks.parent).as_posix()
            cleaned[name] = clean_notebook(path, values | {"run_dir": run_dir.as_posix()}, plan.solutions)
    return cleaned


def clean_notebook(path: Path, values: dict[str, object], solutions: bool = False) -> str:
    """The notebook's text without outputs, its parameters cell with these values; comments in that cell stay.

    solutions: False leaves out links to them, which would lead nowhere.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and not solutions:
            text, asking = "".join(cell["source"]), r"\1 (your teacher has them)"
            cell["source"] = re.sub(r"\[([^]]*)\]\([^)]*solutions/[^)]*\)", asking, text).splitlines(keepends=True)
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        if "parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            for name, value in values.items():
                line, written = rf'^({name}(?:: *\w+)? = )("[^"]*"|-?\d+)', json.dumps(value, ensure_ascii=False)
                source = re.sub(line, lambda found, written=written: found[1] + written, source, flags=re.M)
            cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def next_lines(plan: Plan, ready: bool) -> list[str]:
    """What to tell the teacher in the end."""
    if not ready:
        return ["Not ready: fix the lines marked FAIL, then run the command again. What is done stays done."]
    if plan.copies:
        copy = shlex.join(["cp", "-r", str(plan.copies), "FOLDER"])
        return [f"Ready. Each participant takes a copy, and opens notebooks/00_start_here.ipynb in it: {copy}"]
    lines = ["Ready. Participants open notebooks/00_start_here.ipynb."]
    if plan.folder != (plan.notebooks.parent / "runs" / "quick").resolve():  # the notebooks take that run by themselves
        lines.append(f'They set profile = "{plan.profile}" and run_dir = "{plan.folder}" in the parameters cell.')
    return lines
