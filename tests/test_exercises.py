"""Exercises answer back: right answers pass, each usual mistake gets its own hint, blanks are named, none drifts."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
import torch

from kdoct_utils import exercises
from kdoct_utils.exercises import distillation
from kdoct_utils.exercises.checking import BLANK, Check, NotYet, same
from kdoct_utils.runs import RunError
from tools.making import exercise_from, make_exercises

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
CHECKS = {
    name: value
    for item in pkgutil.iter_modules(exercises.__path__)
    for name, value in vars(importlib.import_module(f"kdoct_utils.exercises.{item.name}")).items()
    if isinstance(value, Check)
}


def hint(check: Check, answer: object) -> str:
    with pytest.raises(NotYet) as caught:
        check(answer)
    return str(caught.value)


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_answer_passes_each_mistake_gets_its_own_hint_and_a_blank_is_named(name, capsys):
    check = CHECKS[name]
    check(check.right)
    assert name.startswith("check_") and capsys.readouterr().out == f"Passed. {check.passed}\n"
    hints = [text for _, text in check.mistakes]
    assert len({*hints, check.otherwise}) == len(hints) + 1 > 2
    assert [hint(check, answer) for answer, _ in check.mistakes] == hints
    assert hint(check, ...) == BLANK
    if callable(check.right):
        assert hint(check, lambda *arguments: ...) == hint(check, lambda *arguments: (..., ...)) == BLANK


SQUARE = Check(
    lambda x: x**2,
    (lambda x: 2 * x, "Twice is not squared."),
    (lambda x: x.nothing, "never given, since it never ran"),
    cases=[(torch.tensor([1.0, 3.0]),), (torch.tensor([-2.0]),)],
    passed="A square it is.",
    otherwise="No square: {got}.",
)


def test_hints_of_a_check(capsys):
    SQUARE(lambda x: x * x)
    assert capsys.readouterr().out == "Passed. A square it is.\n"
    assert hint(SQUARE, lambda x: x + x) == "Twice is not squared."
    assert hint(SQUARE, lambda x: x + 1) == "No square: [2. 4.]."  # what is right is not shown
    assert hint(SQUARE, lambda x: x[:1] ** 2) == "No square: [1.] (shape (1,) in place of (2,))."
    assert "stopped with ZeroDivisionError" in hint(SQUARE, lambda x: 1 / 0)
    assert hint(SQUARE, None) == hint(SQUARE, lambda x: None) == BLANK
    SQUARE(lambda x: x.mul_(x))  # no answer changes the next one's input
    SQUARE(lambda x: x**2)
    assert NotYet("Look again.")._render_traceback_() == ["Not yet. Look again."]  # no traceback


def test_one_step_in_the_words_of_other_students(capsys):
    """The same mistakes written in another way get the same hints: what happened is looked at, not how it is put."""

    def step(another_view=False, eval_mode=True, update=True, kept=True):
        def one(student, teacher, optimizer, scans, target, augment):
            optimizer.zero_grad()
            teacher.train(not eval_mode)
            view = augment(scans)
            said = student(view)
            with torch.inference_mode() if kept else torch.enable_grad():
                told = teacher(augment(scans) if another_view else view)
            distillation.distillation_loss(said, told.clone().detach(), target, 4.0, 0.7).backward()
            if update:
                optimizer.step()

        return one

    distillation.check_step(step())
    assert capsys.readouterr().out.startswith("Passed.")
    for wrong, words in (({"another_view": True}, "see different views"), ({"eval_mode": False}, "in training mode"),
                         ({"update": False}, "the weights stay"), ({"kept": False}, "pass is recorded")):  # fmt: skip
        assert words in hint(distillation.check_step, step(**wrong))


def test_what_counts_as_the_same():
    for answer in (702.28, 702, 703):  # a number of patients may be rounded up
        CHECKS["check_patients_needed"](answer)
    for a, b, equal in (
        (1.0, 1.0 + 1e-7, True),
        (1.0, 1.01, False),
        (torch.ones(2, requires_grad=True), np.ones(2), True),
        (np.ones((2, 1)), np.ones(2), False),
        (float("nan"), float("nan"), True),
        ("a", "a", True),
        ("1", 1.0, False),
        ({"x": 1, "y": [1, 2]}, {"x": 1, "y": (1, 2)}, True),
        ({"x": 1}, {"y": 1}, False),
        (None, 0.0, False),
        ([1, 2], [1, 2, 3], False),
        (ValueError("x"), 1.0, False),
    ):
        assert same(a, b) is same(b, a) is equal, (a, b)


def a_solution() -> nbformat.NotebookNode:
    cell = nbformat.v4
    book = cell.new_notebook(cells=[cell.new_markdown_cell("# Exercise"), cell.new_code_cell("x = ...")])
    book.cells += [cell.new_code_cell("x = 1\nplot(x)"), cell.new_code_cell("check_x(x)")]
    book.cells[1].metadata["tags"], book.cells[2].metadata["tags"] = ["starter"], ["solution"]
    picture = cell.new_output("display_data", {"image/png": "abc\n"}, metadata={"image/png": {"alt": "A line [x]."}})
    book.cells[2].outputs, book.cells[3].outputs = [picture], [cell.new_output("stream", text="Passed.")]
    return book


def test_an_exercise_has_no_answers_but_their_pictures():
    exercise = exercise_from(a_solution())
    assert [cell.source for cell in exercise.cells[1::2]] == ["x = ...", "check_x(x)"]
    assert exercise.cells[2].source.startswith("What the solution draws")
    assert exercise.cells[2].source.endswith("![A line (x).](attachment:expected.png)")
    assert exercise.cells[2].attachments == {"expected.png": {"image/png": "abc"}}
    assert all(cell.outputs == [] and cell.execution_count is None for cell in exercise.cells[1::2])
    nbformat.validate(exercise)


def test_what_cannot_be_made_is_refused_and_what_has_no_solution_removed(tmp_path):
    book = a_solution()
    del book.cells[1]
    with pytest.raises(RunError, match="no starter"):
        exercise_from(book)
    with pytest.raises(RunError, match="no cell tagged 'solution'"):
        exercise_from(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]))
    for folder in ("solutions", "exercises"):
        (tmp_path / folder).mkdir()
    nbformat.write(a_solution(), tmp_path / "solutions" / "02_x.ipynb")
    (tmp_path / "exercises" / "01_old.ipynb").write_text("{}")
    assert make_exercises(tmp_path) == [tmp_path / "exercises" / "02_x.ipynb"]
    assert [path.name for path in (tmp_path / "exercises").iterdir()] == ["02_x.ipynb"]


def test_every_notebook_has_solutions_and_the_exercises_are_made_from_them():
    names = [path.name for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]
    assert [path.name for path in SOLUTIONS] == names
    for path in SOLUTIONS:
        made = nbformat.writes(exercise_from(nbformat.read(path, as_version=4))) + "\n"
        kept = (NOTEBOOKS / "exercises" / path.name).read_text(encoding="utf-8")
        assert made == kept, f"exercises/{path.name} is not made from its solution; run: python -m tools.making"


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_three_to_five_exercises_each_with_its_check(path):
    text = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
    titles = re.findall(r"^## \d\. ", text, re.M)
    called = re.findall(r"^(check_\w+)\(", text, re.M)
    assert 3 <= len(titles) <= 5 and len(titles) <= len(called) and set(called) <= set(CHECKS)
    assert f"exercises/{path.name}" in (NOTEBOOKS / path.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_an_exercise_runs_up_to_its_first_blank(path, tmp_path):
    """In this process; that solutions run to their end is seen by nbval, each in a kernel."""
    names = {"profile": "smoke", "run_dir": str(tmp_path)}
    with matplotlib.rc_context(), pytest.raises(NotYet, match=re.escape(BLANK)):
        for source in code(NOTEBOOKS / "exercises" / path.name):
            exec(source, names)
            names |= {"profile": "smoke", "run_dir": str(tmp_path)} if "profile: str" in source else {}
    assert source.startswith("check_")
