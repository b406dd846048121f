"""Exercises are made from solutions, so that the two cannot drift apart.

A solution notebook is complete and runs. Cells tagged ``solution`` are the answers: an exercise leaves them out.
Before each stands a cell tagged ``starter``, the same with ``...`` for the blanks. What a solution drew is kept in
the exercise as the picture to expect. Outputs of all other cells are dropped.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.runs import RunError, atomic_path
from tools.publish import carry_outputs

SOLUTION, STARTER = "solution", "starter"
LONGEST_SECONDS = 1800  # for one notebook of solutions
EXPECTED = "expected.png"
EXPECTED_WORDS = "What the solution draws with its answer (your check does not need it):"


def exercise_from(solution: NotebookNode, name: str = "the notebook") -> NotebookNode:
    """The exercise: answers left out, the pictures they drew kept.

    Raises RunError where there is no answer to leave out, or an answer has no starter in the cell before it.
    """
    exercise = deepcopy(solution)
    exercise.cells = []
    before: NotebookNode | None = None
    for cell in solution.cells:
        if SOLUTION in _tags(cell):
            if before is None or not {STARTER, SOLUTION} & set(_tags(before)):
                raise RunError(f"{name}: the solution cell {cell.get('id', '?')} has no starter cell before it")
            exercise.cells += [_expected(picture, alt, cell) for picture, alt in _pictures(cell)]
        else:
            exercise.cells.append(_without_outputs(cell))
        before = cell
    if not any(SOLUTION in _tags(cell) for cell in solution.cells):
        raise RunError(f"{name} has no cell tagged {SOLUTION!r}")
    exercise.metadata.pop("widgets", None)
    return exercise


def make_exercises(notebooks: Path) -> list[Path]:
    """Write ``notebooks/exercises/*.ipynb`` from ``notebooks/solutions/*.ipynb``; exercises without one are removed.

    Raises RunError as `exercise_from` does, and where there are no solutions.
    """
    solutions = sorted((notebooks / "solutions").glob("[0-9][0-9]_*.ipynb"))
    if not solutions:
        raise RunError(f"there are no solutions in {notebooks / 'solutions'}")
    folder = notebooks / "exercises"
    folder.mkdir(exist_ok=True)
    for stale in {path.name for path in folder.glob("*.ipynb")} - {path.name for path in solutions}:
        (folder / stale).unlink()
    made = []
    for path in solutions:
        exercise = exercise_from(nbformat.read(path, as_version=4), path.name)
        made.append(folder / path.name)
        with atomic_path(made[-1]) as temporary:
            temporary.write_text(nbformat.writes(exercise) + "\n", encoding="utf-8")
    return made


def run_solutions(notebooks: Path, run_dir: Path, profile: str, only: Sequence[str] = ()) -> list[Path]:
    """Execute the solutions in order and keep their outputs in them.

    run_dir: the course's run folder, from which they take networks. only: numbers such as "04"; none means all.
    Raises RunError, with notebook, cell and error, where one fails; that one is left as it was.
    """
    done = []
    for path in sorted((notebooks / "solutions").glob("[0-9][0-9]_*.ipynb")):
        if only and path.name[:2] not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / path.name
            parameters = {"profile": profile, "run_dir": str(run_dir.resolve())}
            execute_notebook(path, output, parameters, cwd=path.parent, timeout=LONGEST_SECONDS)
            executed = json.loads(output.read_text(encoding="utf-8"))
        notebook = json.loads(path.read_text(encoding="utf-8"))
        carry_outputs(notebook, executed, path.name)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        done.append(path)
    return done


def _tags(cell: NotebookNode) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _pictures(cell: NotebookNode) -> list[tuple[str, str]]:
    """Base64 PNGs that a cell drew, with their alternative text."""
    outputs = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    return [
        (output["data"]["image/png"], output.get("metadata", {}).get("image/png", {}).get("alt", ""))
        for output in outputs
    ]


def _expected(picture: str, alt: str, cell: NotebookNode) -> NotebookNode:
    """A Markdown cell that shows what the answer should draw."""
    words = alt.replace("[", "(").replace("]", ")")
    made = nbformat.v4.new_markdown_cell(f"{EXPECTED_WORDS}\n\n![{words}](attachment:{EXPECTED})")
    made["id"] = f"{cell['id']}-expected"
    made["attachments"] = {EXPECTED: {"image/png": "".join(picture.split())}}
    return made


def _without_outputs(cell: NotebookNode) -> NotebookNode:
    cell = deepcopy(cell)
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    return cell
