"""The report of a run: its tables, and its signs of trouble from what notebook 05 kept."""

import json

import nbformat
import pytest
from bs4 import BeautifulSoup

from kdoct_utils.course import cli
from kdoct_utils.course.report import run_results, run_tables, run_text, signs_lines
from kdoct_utils.runs import open_run

HEALTHY = {"teacher_before": 0.95, "teacher": 0.94, "students": [0.91, 0.92, 0.93], "divergence": 0.08}
LEAKING = HEALTHY | {"teacher": 0.90, "difference": [0.001, 0.04]}
NAMES = ["student above teacher", "weak student, low KL", "large spread over seeds", "weak teacher before distilling"]


@pytest.fixture
def kept(tmp_path):
    """A function that keeps metrics in a run with one executed notebook, and returns the run."""
    run = open_run(tmp_path, profile="smoke", dataset="phantom", seed=0)
    run.notebooks_dir.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 05 · A <notebook>")])
    nbformat.write(notebook, run.notebooks_dir / "05_a.ipynb")

    def keep(**metrics):
        for section, value in metrics.items():
            run.update_metrics(section, value)
        return run

    return keep


def test_fired_signs_are_shown_with_what_to_check(kept, capsys):
    run = kept(diagnosis=LEAKING)
    printed = []
    for arguments in (["report", str(run.path)], ["report", str(run.path), "--json"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert not end.value.code
        printed.append(capsys.readouterr().out)
    results = json.loads(printed[1])
    assert results["signs_of_trouble"] == run_results(run)["signs_of_trouble"]
    [fired] = results["signs_of_trouble"]["fired"]
    assert fired["name"] == NAMES[0] and "excludes zero" in fired["finding"]
    page = run.index_file.read_text(encoding="utf-8")
    for text in (printed[0], BeautifulSoup(page, "html.parser").get_text()):
        assert "Signs of trouble" in text and "student above teacher: student 92.0%" in text
        assert "Check next: Suspect leakage" in text
        assert NAMES[2] not in text  # quiet signs are not listed
    assert "05 · A &lt;notebook&gt;" in page  # text is escaped


def test_none_fired_is_said(kept):
    signs = run_results(kept(diagnosis=HEALTHY))
    assert signs["signs_of_trouble"]["quiet"] == NAMES
    assert len(signs_lines(signs)) == 1 and "none fired of 4" in signs_lines(signs)[0]


def test_a_run_without_networks_has_no_such_section(kept):
    results = run_results(kept(leakage_gap={"estimate": 0.3, "low": 0.2, "high": 0.4, "seeds": [1, 2, 3]}))
    assert "signs_of_trouble" not in results and "Signs of trouble" not in run_text(results)
    [row] = run_tables(results)["Differences"].to_dict("records")
    assert list(row.values()) == ["scan split minus patient split", "0.300", "[0.200, 0.400]", "3", "above zero"]


def test_results_of_an_unfinished_run():
    assert run_text({}) == "This run has no results yet."
    tables = run_tables({"student_kd": {"accuracy": None, "interval": None, "n_scans": 3, "n_patients": 2}})
    [row] = tables["Networks on the test patients"].to_dict("records")
    assert list(row.values()) == ["student, distilled (real time)", *["–"] * 5, "3", "2"]
