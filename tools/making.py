"""Exercises are made from solutions, so that the two cannot drift apart.

A solution notebook is complete and runs. Cells tagged ``solution`` are the answers: an exercise leaves them out.
Before each stands a cell tagged ``starter``, the same with ``...`` for the blanks. What a solution drew is kept in
the exercise as the picture to expect. Outputs of all other cells are dropped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.notebooks import find_notebooks_folder
from kdoct_utils.profiles import PROFILES
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
    tags = [cell.metadata.get("tags", []) for cell in solution.cells]
    if not any(SOLUTION in own for own in tags):
        raise RunError(f"{name} has no cell tagged {SOLUTION!r}")
    exercise = deepcopy(solution)
    exercise.metadata.pop("widgets", None)
    exercise.cells = []
    for cell, own, before in zip(deepcopy(solution.cells), tags, [[], *tags], strict=False):
        if SOLUTION not in own:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            exercise.cells.append(cell)
        elif {STARTER, SOLUTION} & set(before):
            drawn = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            exercise.cells += [_expected(output, cell) for output in drawn]
        else:
            raise RunError(f"{name}: the solution cell {cell.get('id', '?')} has no starter cell before it")
    return exercise


def _expected(output: NotebookNode, cell: NotebookNode) -> NotebookNode:
    """A Markdown cell that shows what the answer should draw."""
    words = output.metadata.get("image/png", {}).get("alt", "").replace("[", "(").replace("]", ")")
    made = nbformat.v4.new_markdown_cell(f"{EXPECTED_WORDS}\n\n![{words}](attachment:{EXPECTED})")
    made["id"] = f"{cell['id']}-expected"
    made["attachments"] = {EXPECTED: {"image/png": "".join(output.data["image/png"].split())}}
    return made


def make_exercises(notebooks: Path) -> list[Path]:
    """Write ``notebooks/exercises/*.ipynb`` from ``notebooks/solutions/*.ipynb``; exercises without one are removed.

    Raises RunError as `exercise_from` does, and where there are no solutions.
    """
    solutions = _solutions(notebooks)
    if not solutions:
        raise RunError(f"there are no solutions in {notebooks / 'solutions'}")
    folder = notebooks / "exercises"
    folder.mkdir(exist_ok=True)
    for stale in {path.name for path in folder.glob("*.ipynb")} - {path.name for path in solutions}:
        (folder / stale).unlink()
    for path in solutions:
        exercise = exercise_from(nbformat.read(path, as_version=4), path.name)
        with atomic_path(folder / path.name) as temporary:
            temporary.write_text(nbformat.writes(exercise) + "\n", encoding="utf-8")
    return [folder / path.name for path in solutions]


def run_solutions(notebooks: Path, run_dir: Path, profile: str, only: Sequence[str] = ()) -> list[Path]:
    """Execute the solutions in order and keep their outputs in them.

    run_dir: the course's run folder, from which they take networks. only: numbers such as "04"; none means all.
    Raises RunError, with notebook, cell and error, where one fails; that one is left as it was.
    """
    chosen = [path for path in _solutions(notebooks) if not only or path.name[:2] in only]
    for path in chosen:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / path.name
            parameters = {"profile": profile, "run_dir": str(run_dir.resolve())}
            execute_notebook(path, output, parameters, cwd=path.parent, timeout=LONGEST_SECONDS)
            executed = json.loads(output.read_text(encoding="utf-8"))
        notebook = json.loads(path.read_text(encoding="utf-8"))
        carry_outputs(notebook, executed, path.name)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return chosen


def _solutions(notebooks: Path) -> list[Path]:
    return sorted((notebooks / "solutions").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 1, with the reason on stderr, where the exercises cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m tools.making", description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="execute the solutions first; their pictures are kept")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/quick"), help="the run that solutions take from")
    parser.add_argument("--profile", choices=list(PROFILES), default="quick")
    parser.add_argument("--only", default="", help="solutions to execute, such as 03,05; all where none is named")
    given = parser.parse_args(arguments)
    notebooks = find_notebooks_folder()
    try:
        if given.run:
            for path in run_solutions(notebooks, given.run_dir, given.profile, [*filter(None, given.only.split(","))]):
                print(f"executed {path.name}")
        for path in make_exercises(notebooks):
            print(f"wrote exercises/{path.name}")
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
