"""kdoct workshop: says what is missing without touching anything, makes it, and finds it made the second time."""

import json
import shutil
from dataclasses import replace

import nbformat
import pytest
from bs4 import BeautifulSoup
from test_course import write_notebook

from kdoct_utils.course import cli, notebooks, workshop
from kdoct_utils.course.check import Check
from kdoct_utils.course.workshop import make_copies, make_plan, next_lines, prepare
from kdoct_utils.runs import RunError, open_run

NOTEBOOKS = notebooks.NOTEBOOKS[:2]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Two notebooks of one line each are the course, and packages load at once."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", NOTEBOOKS)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in NOTEBOOKS:
        write_notebook(folder / name, "print(seed)")
    monkeypatch.setattr(workshop, "HEAVY", ("json",))
    return make_plan("smoke", notebooks_folder=folder, progress=False)


def by_name(steps):
    return {step.name: step for step in steps}


def test_the_run_lies_where_the_notebooks_look(plan, tmp_path):
    assert plan.folder == plan.notebooks.parent / "runs" / "smoke"
    assert make_plan().folder.parts[-2:] == ("runs", "quick")
    assert "run_dir" in next_lines(plan, ready=True)[-1] and len(next_lines(make_plan(), ready=True)) == 1
    for inside in ("", "notebooks", "notebooks/new", "runs", "runs/smoke/copies"):
        with pytest.raises(RunError, match="another folder"):
            make_plan("smoke", notebooks_folder=plan.notebooks, copies=plan.notebooks.parent / inside)


def test_a_machine_is_prepared_once(plan):
    look = replace(plan, check_only=True)
    before = sorted(plan.notebooks.parent.rglob("*"))
    steps = by_name(prepare(look))
    assert not steps["scans"].ok and not steps["notebooks"].ok
    assert "0 of 2 done, not 00, 01. Run the same command without --check-only" in str(steps["notebooks"])
    assert "loading" not in steps and steps["Python"].ok
    assert sorted(plan.notebooks.parent.rglob("*")) == before

    steps = by_name(prepare(plan))
    assert all(step.ok for step in steps.values()), list(map(str, steps.values()))
    assert "of which 2 were executed now" in steps["notebooks"].found
    assert (plan.folder / "index.html").exists() and (plan.folder / "images.npy").exists()
    assert all(step.ok for step in prepare(look))
    stamps = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.ipynb")}

    (plan.folder / "notebooks" / NOTEBOOKS[1]).unlink()
    assert "1 of 2 done, not 01" in by_name(prepare(look))["notebooks"].found
    assert "of which 1 were executed now" in by_name(prepare(plan))["notebooks"].found
    after = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.ipynb")}
    assert [path.name for path in after if after[path] != stamps[path]] == [NOTEBOOKS[1]]


@pytest.fixture
def with_copies(plan, tmp_path):
    """A finished run of notebooks that have outputs and exercises, and a folder for participants to be made."""
    for folder in ("exercises", "solutions"):
        (plan.notebooks / folder).mkdir()
        text = (plan.notebooks / NOTEBOOKS[1]).read_text()
        (plan.notebooks / folder / NOTEBOOKS[1]).write_text(text)
    notebook = nbformat.read(plan.notebooks / NOTEBOOKS[0], as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="0")]
    notebook.cells[-1].update(execution_count=3)
    nbformat.write(notebook, plan.notebooks / NOTEBOOKS[0])
    open_run(plan.folder, profile="smoke", dataset="phantom")
    for name in ("teacher.safetensors", "index.html", "ablations/deep/a.csv", "notebooks/00_start_here.ipynb"):
        (plan.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (plan.folder / name).write_text("made")
    return replace(plan, copies=tmp_path / "for participants", solutions=True)


def test_copies_have_no_outputs_and_find_their_run(with_copies):
    assert make_copies(replace(with_copies, check_only=True))[1] and not with_copies.copies.exists()
    found, remedy = make_copies(with_copies)
    assert not remedy and found.startswith("4 notebooks without outputs")
    assert str(with_copies.copies) in next_lines(with_copies, ready=True)[0]
    copied = sorted(with_copies.copies.rglob("*.ipynb"))
    assert len(copied) == 4
    for path in copied:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
        values = {}
        exec(notebook.cells[1].source, values)
        assert values["profile"] == "smoke" and values["seed"] == 0 and values["data_root"] == ""
        run = open_run(path.parent / values["run_dir"], profile="smoke", dataset="phantom")
        assert run.path == with_copies.copies / "runs" / "smoke" and run.teacher_file.read_text() == "made"
        assert (run.path / "ablations" / "deep" / "a.csv").exists()
        assert not (run.path / "index.html").exists() and not (run.path / "notebooks").exists()
    of_the_course = nbformat.read(with_copies.notebooks / NOTEBOOKS[0], as_version=4)
    assert of_the_course.cells[-1].outputs and of_the_course.cells[-1].execution_count == 3


def test_copies_hold_solutions_only_where_asked(with_copies):
    path = with_copies.notebooks / NOTEBOOKS[0]
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = f"# A [way](more/x.ipynb) and [solutions](solutions/{NOTEBOOKS[1]})"
    nbformat.write(notebook, path)
    make_copies(replace(with_copies, solutions=False))
    assert not (with_copies.copies / "notebooks" / "solutions").exists()
    copied = nbformat.read(with_copies.copies / "notebooks" / NOTEBOOKS[0], as_version=4)
    assert copied.cells[0].source == "# A [way](more/x.ipynb) and solutions (your teacher has them)"


def test_slides_show_each_figure_under_its_takeaway(tmp_path):
    from kdoct_utils.show.slides import write_slides

    def figure(takeaway, alt):
        about = {"image/png": {"alt": alt, "width": 300}}
        drawn = nbformat.v4.new_output("display_data", {"image/png": "AAAA\n", "text/plain": alt}, metadata=about)
        return [drawn, nbformat.v4.new_output("display_data", {"text/plain": f"Takeaway: {takeaway}"})]

    outputs = figure("it <grew>. By 3 points.", "a line") + figure("it fell.", "a bar")
    outputs += figure("told again.", "a line")
    cells = [nbformat.v4.new_markdown_cell("# 05 · KD"), nbformat.v4.new_code_cell("draw()", outputs=outputs)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert write_slides({"05 · KD": notebook, "06": notebook}, tmp_path / "slides.html") == 5  # 06 shows nothing new
    page = BeautifulSoup((tmp_path / "slides.html").read_text(encoding="utf-8"), "html.parser")
    titles = [one.text for one in page.find_all(["h1", "h2"])]
    assert titles[1:] == ["05 · KD", "It <grew>", "It fell", "Told again", "06"]
    assert [picture["src"] for picture in page.find_all("img")] == ["data:image/png;base64,AAAA"] * 3
    assert "By 3 points." in page.text and not page.select("[src^=http], link")


def test_a_changed_copy_is_kept_and_named(with_copies):
    look = replace(with_copies, check_only=True)
    make_copies(with_copies)
    assert not make_copies(look)[1] and not make_copies(with_copies)[1]
    mine, lost = (with_copies.copies / "notebooks" / name for name in NOTEBOOKS[:2])
    mine.write_text(mine.read_text().replace("print(seed)", "my answer"))
    lost.unlink()
    (with_copies.copies / "runs" / "smoke" / "teacher.safetensors").write_text("mine")
    assert "3 of 4" in make_copies(look)[0]
    found, remedy = make_copies(with_copies)
    assert remedy and NOTEBOOKS[0] in found and NOTEBOOKS[1] not in found
    assert "my answer" in mine.read_text() and lost.exists()
    assert (with_copies.copies / "runs" / "smoke" / "teacher.safetensors").read_text() == "mine"
    open_run(other := with_copies.folder.with_name("other"), profile="smoke", dataset="phantom", seed=1)
    (with_copies.copies / "runs" / "smoke" / "config.json").write_text((other / "config.json").read_text())
    with pytest.raises(RunError, match="another run"):
        make_copies(with_copies)


def test_what_stops_a_step_is_said_and_what_follows_waits(plan, monkeypatch):
    monkeypatch.setattr(workshop, "EDITORS", ("no_such_editor",))
    bad = plan.notebooks / NOTEBOOKS[0]
    bad.write_text(bad.read_text().replace("print(seed)", "1 / 0"))
    steps = by_name(prepare(plan))
    assert not steps["editor"].ok and "[lab]" in str(steps["editor"])
    assert steps["scans"].ok
    assert not steps["notebooks"].ok and "ZeroDivisionError" in steps["notebooks"].found
    assert steps["report"].found == "not tried"
    shutil.rmtree(plan.folder)
    monkeypatch.setattr(workshop, "run_checks", lambda *_: [Check("memory", False, "1 GB", "Get more")])
    steps = by_name(prepare(plan))
    assert str(steps["memory"]) == "[FAIL] memory: 1 GB. Get more"
    assert steps["notebooks"].found == "not tried" and not plan.folder.exists()


def test_the_command_tells_people_and_programs(capsys, monkeypatch):
    for ok in (True, False):
        steps = [Check("Python", True, "3.12"), Check("notebooks", ok, "some", "Run it")]
        monkeypatch.setattr(workshop, "prepare", lambda *_, steps=steps: iter(steps))
        printed = []
        for option in ("--check-only", "--json"):
            with pytest.raises(SystemExit) as end:
                cli.main(["workshop", option])
            assert end.value.code == (0 if ok else 1)
            printed.append(capsys.readouterr().out)
        assert printed[0].splitlines()[:2] == list(map(str, steps)) and ("Not ready" in printed[0]) != ok
        assert json.loads(printed[1])["ready"] is ok
