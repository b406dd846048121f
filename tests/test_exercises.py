"""Exercises answer back: right answers pass, each usual mistake gets its own hint, blanks are named, none drifts."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kdoct_utils import exercises
from kdoct_utils.exercises import distillation
from kdoct_utils.exercises.checking import BLANK, Check, Mistake, NotYet, applied_to, same
from kdoct_utils.runs import RunError
from tools.making import exercise_from, make_exercises

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
MODULES = [item.name for item in pkgutil.iter_modules(exercises.__path__) if item.name not in ("checking", "making")]


def all_checks() -> dict[str, Check]:
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"kdoct_utils.exercises.{name}")
        found |= {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, Check)}
    return found


CHECKS = all_checks()
MISTAKES = [(name, mistake) for name, check in CHECKS.items() for mistake in check.mistakes]


def hint(check: Check, answer: object) -> str:
    with pytest.raises(NotYet) as caught:
        check(answer)
    return str(caught.value)


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_answer_passes_and_the_hints_differ(name, capsys):
    check = CHECKS[name]
    assert name.split(".")[1] == check.name and check.name.startswith("check_")
    check(check.right)
    assert capsys.readouterr().out.startswith("Passed. ")
    hints = [mistake.hint for mistake in check.mistakes] + [check.otherwise]
    assert len(set(hints)) == len(hints) and check.mistakes


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{name}: {item.name}" for name, item in MISTAKES])
def test_every_mistake_gets_its_own_hint(name, mistake):
    assert hint(CHECKS[name], mistake.answer) == mistake.hint


@pytest.mark.parametrize("name", CHECKS)
def test_a_blank_is_named(name):
    assert hint(CHECKS[name], ...) == BLANK
    if callable(CHECKS[name].right):
        assert hint(CHECKS[name], lambda *arguments, **named: ...) == BLANK


SQUARE = Check(
    "check_square",
    right=lambda x: x**2,
    observe=applied_to((torch.tensor([1.0, 3.0]),), (torch.tensor([-2.0]),)),
    mistakes=(Mistake("doubled", lambda x: 2 * x, "Twice is not squared."),
              Mistake("stops", lambda x: x.nothing, "never given, since it never ran")),
    passed="A square it is.",
    otherwise="{got} is not {wanted}.",
)  # fmt: skip


def test_hints_of_a_check(capsys):
    SQUARE(lambda x: x * x)
    assert capsys.readouterr().out == "Passed. A square it is.\n"
    assert hint(SQUARE, lambda x: x + x) == "Twice is not squared."
    assert hint(SQUARE, lambda x: x + 1) == "[2. 4.] is not [1. 9.]."
    assert hint(SQUARE, lambda x: x[:1] ** 2) == "[1.] is not [1. 9.]."
    assert "stopped with ZeroDivisionError" in hint(SQUARE, lambda x: 1 / 0)
    assert hint(SQUARE, None) == hint(SQUARE, lambda x: None) == BLANK


def test_a_hint_can_name_the_place():
    check = Check("check_x", right={"a": 1.0, "b": {"c": 2.0}}, mistakes=(), passed="", otherwise="{where}: {got}.")
    assert hint(check, {"a": 1.0, "b": {"c": 3.0}}) == "b, c: 3.."
    assert hint(check, {"a": 0.0, "b": {"c": 2.0}}) == "a: 0.."
    assert hint(check, {"a": 0.0}) == "the answer: {'a': 0.0}."


def test_one_step_in_the_words_of_other_students(capsys):
    """The same mistakes written in another way get the same hints: what happened is looked at, not how it is put."""
    hints = {mistake.name: mistake.hint for mistake in distillation.check_step.mistakes}

    def step(student_first=False, mode=True, update=True, kept=True):
        def one(student, teacher, optimizer, scans, target, augment):
            optimizer.zero_grad()
            teacher.train(not mode)
            view = augment(scans)
            said = student(view)
            with torch.inference_mode() if kept else torch.enable_grad():
                told = teacher(augment(scans) if student_first else view)
            distillation.distillation_loss(said, told.clone().detach(), target, 4.0, 0.7).backward()
            if update:
                optimizer.step()

        return one

    distillation.check_step(step())
    assert capsys.readouterr().out.startswith("Passed.")
    assert hint(distillation.check_step, step(student_first=True)) == hints["two views"]
    assert hint(distillation.check_step, step(mode=False)) == hints["teacher not in eval"]
    assert hint(distillation.check_step, step(update=False)) == hints["step forgotten"]
    assert hint(distillation.check_step, step(kept=False)) == hints["teacher with a gradient"]


def test_roles_say_which_condition_fails():
    def deal(patients, seed):
        names = sorted(set(patients))
        order = np.random.default_rng(seed).permutation(len(names))
        return {name: "train" if k < 70 else "validation" if k < 85 else "test"
                for name, k in zip(names, order, strict=True)}  # fmt: skip

    told = hint(distillation.check_roles, deal)
    assert "64% train" in told and "20% test" in told and "16% validation" not in told.split("Checked")[0]


def test_an_answer_cannot_change_the_next_ones_input():
    def in_place(x):
        return x.mul_(x)

    SQUARE(in_place)
    SQUARE(lambda x: x**2)


def test_the_hint_is_shown_without_a_traceback():
    assert NotYet("Look again.")._render_traceback_() == ["Not yet. Look again."]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1.0, 1.0 + 1e-7, True),
        (1.0, 1.01, False),
        (torch.ones(2, requires_grad=True), np.ones(2), True),
        (np.ones((2, 1)), np.ones(2), False),
        (float("nan"), float("nan"), True),
        ("a", "a", True),
        ("a", 1.0, False),
        ({"x": 1, "y": [1, 2]}, {"x": 1, "y": (1, 2)}, True),
        ({"x": 1}, {"y": 1}, False),
        ({1, 2}, {2, 1}, True),
        (None, 0.0, False),
        ([1, 2], [1, 2, 3], False),
        (ValueError("x"), 1.0, False),
    ],
)
def test_what_counts_as_the_same(a, b, equal):
    assert same(a, b) is equal and same(b, a) is equal


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


def test_an_answer_without_a_starter_and_a_notebook_without_answers_are_refused(tmp_path):
    book = a_solution()
    del book.cells[1]
    with pytest.raises(RunError, match="no starter"):
        exercise_from(book)
    with pytest.raises(RunError, match="no cell tagged 'solution'"):
        exercise_from(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]))
    with pytest.raises(RunError, match="no solutions"):
        make_exercises(tmp_path)


def test_exercises_without_a_solution_are_removed(tmp_path):
    for folder in ("solutions", "exercises"):
        (tmp_path / folder).mkdir()
    nbformat.write(a_solution(), tmp_path / "solutions" / "02_x.ipynb")
    (tmp_path / "exercises" / "01_old.ipynb").write_text("{}")
    assert [path.name for path in make_exercises(tmp_path)] == ["02_x.ipynb"]
    assert [path.name for path in (tmp_path / "exercises").iterdir()] == ["02_x.ipynb"]


def test_every_notebook_has_solutions_and_the_exercises_are_made_from_them():
    names = [path.name for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]
    assert [path.name for path in SOLUTIONS] == names
    for path in SOLUTIONS:
        made = nbformat.writes(exercise_from(nbformat.read(path, as_version=4))) + "\n"
        kept = (NOTEBOOKS / "exercises" / path.name).read_text(encoding="utf-8")
        assert made == kept, f"exercises/{path.name} is not made from its solution; run: kdoct exercises"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_three_to_five_exercises_each_with_its_check(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    titles = re.findall(r"^## \d\. ", text, re.M)
    assert 3 <= len(titles) <= 5
    called = [re.findall(r"^(check_\w+)\(", "".join(cell["source"]), re.M) for cell in cells]
    called = [name for names in called for name in names]
    assert len(called) >= len(titles)
    known = {check.name for check in CHECKS.values()}
    assert set(called) <= known
    main = json.loads((NOTEBOOKS / path.name).read_text(encoding="utf-8"))["cells"]
    assert any(f"exercises/{path.name}" in "".join(cell["source"]) for cell in main)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_an_exercise_runs_up_to_its_first_blank(path, tmp_path):
    parameters = {"profile": "smoke", "run_dir": str(tmp_path / "run")}
    book = load_notebook_node(str(NOTEBOOKS / "exercises" / path.name))
    book = parameterize_notebook(book, parameters)
    with pytest.raises(CellExecutionError) as caught:
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert caught.value.ename == "NotYet" and BLANK in caught.value.evalue
    first = next(cell for cell in book.cells if cell.cell_type == "code" and "check_" in cell.source
                 and not cell.source.startswith(("from", "import")))  # fmt: skip
    assert any(output.output_type == "error" for output in first.outputs)
