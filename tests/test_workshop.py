"""kdoct workshop: says what is missing without touching anything, makes it, and finds it made the second time."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdoct_utils import cli, workshop
from kdoct_utils.course import NOTEBOOKS
from kdoct_utils.workshop import Step, make_plan, next_lines, prepare

COMMON = 'profile: str = "quick"\ndataset: str = "phantom"\ndata_root: str = ""\nrun_dir: str = ""\nseed: int = 0\n'


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Seven notebooks of one line each, and packages that load at once."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in NOTEBOOKS:
        cells = [new_markdown_cell(f"# {name[:2]} · Title"), new_code_cell(COMMON, metadata={"tags": ["parameters"]})]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=[*cells, new_code_cell("print(seed)")], metadata=kernel), folder / name)
    monkeypatch.setattr(workshop, "HEAVY", ("json",))
    return make_plan("smoke", notebooks_folder=folder)


def by_name(steps):
    return {step.name: step for step in steps}


def test_the_run_lies_where_the_notebooks_look(plan):
    assert plan.folder == plan.notebooks.parent / "runs" / "smoke"
    assert make_plan().folder.parts[-2:] == ("runs", "quick") and workshop.is_default(make_plan())
    assert "run_dir" in next_lines(plan, ready=True)[-1] and len(next_lines(make_plan(), ready=True)) == 1


def test_check_only_says_what_is_missing_and_writes_nothing(plan):
    before = sorted(plan.notebooks.parent.rglob("*"))
    steps = by_name(prepare(plan, check_only=True))
    assert not steps["scans"].ready and not steps["notebooks"].ready
    assert "0 of 7 done" in str(steps["notebooks"]) and "Run: kdoct workshop" in str(steps["notebooks"])
    assert "loading" not in steps and steps["Python"].ready and steps["Python"].remedy == ""
    assert sorted(plan.notebooks.parent.rglob("*")) == before


def test_a_machine_is_prepared_once(plan):
    steps = by_name(prepare(plan, progress=False))
    assert all(step.ready for step in steps.values()), list(map(str, steps.values()))
    assert "7 executed now, 0 were done" in steps["notebooks"].found and steps["notebooks"].seconds > 0
    assert (plan.folder / "index.html").exists() and (plan.folder / "images.npy").exists()
    assert all(step.ready for step in prepare(plan, check_only=True))
    stamps = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.ipynb")}

    (plan.folder / "notebooks" / NOTEBOOKS[3]).unlink()
    assert "6 of 7 done, not 03" in by_name(prepare(plan, check_only=True))["notebooks"].found
    again = by_name(prepare(plan, progress=False))
    assert "1 executed now, 6 were done" in again["notebooks"].found
    after = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.ipynb")}
    assert [path.name for path in after if after[path] != stamps[path]] == [NOTEBOOKS[3]]


def test_what_stops_a_step_is_said_and_what_follows_waits(plan, monkeypatch):
    monkeypatch.setattr(workshop, "EDITORS", ("no_such_editor", "no_such.editor"))
    bad = plan.notebooks / NOTEBOOKS[0]
    bad.write_text(bad.read_text().replace("print(seed)", "1 / 0"))
    steps = by_name(prepare(plan, progress=False))
    assert not steps["editor"].ready and "[lab]" in str(steps["editor"])
    assert steps["scans"].ready
    assert not steps["notebooks"].ready and "ZeroDivisionError" in steps["notebooks"].found
    assert steps["report"].found == "not tried"
    monkeypatch.setattr(workshop, "HEAVY", ("no_such_package",))
    steps = by_name(prepare(plan, progress=False))
    assert "no_such_package" in steps["loading"].found and steps["notebooks"].found == "not tried"


def test_a_machine_too_small_is_not_loaded_with_work(plan, monkeypatch):
    from kdoct_utils.checks import Check

    monkeypatch.setattr(workshop, "run_checks", lambda *_: [Check("memory", False, "1 GB", "Get more")])
    steps = by_name(prepare(plan, progress=False))
    assert str(steps["memory"]) == "[MISSING] memory: 1 GB. Get more"
    assert steps["notebooks"].found == "not tried" and not plan.folder.exists()


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["workshop", *arguments])
    return end.value.code, capsys.readouterr().out


@pytest.mark.parametrize("ready", [True, False])
def test_the_command_tells_people_and_programs(capsys, monkeypatch, ready):
    steps = [Step("Python", True, "3.12"), Step("notebooks", ready, "some", "" if ready else "Run it", 61.2)]
    monkeypatch.setattr(workshop, "prepare", lambda *_, **__: iter(steps))
    code, out = command(capsys, "--check-only")
    assert code == (0 if ready else 1)
    assert out.splitlines()[:2] == list(map(str, steps)) and ("Not ready" in out) != ready
    code, out = command(capsys, "--json")
    told = json.loads(out)
    assert code == (0 if ready else 1) and told["ready"] is ready and told["seconds"] == 61.2
    assert told["steps"][1]["name"] == "notebooks" and told["run_dir"].endswith("quick")
