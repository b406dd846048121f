"""The report of a run: its tables, and its signs of trouble from what notebook 05 kept."""

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from kdoct_utils.course import cli
from kdoct_utils.course.report import report_run, run_results, run_tables, run_text, signs_lines
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
    assert len(signs_lines(signs)) == 1 and "None of 4 signs fired" in signs_lines(signs)[0]


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


def test_a_page_opens_with_what_was_found_and_shows_the_worst_errors(kept):
    """Two patients in ten are wrong; the surest error comes first, with its picture and what both networks said."""
    names, rows = ["normal", "drusen"], []
    for patient in range(10):
        for network, sure in (("teacher", 0.9), ("student_kd", 0.1 if patient == 3 else 0.4 if patient == 7 else 0.8)):
            rows.append((network, 0, 0, f"p{patient}", f"p{patient}", "normal", sure, 1 - sure))
    columns = ["network", "seed", "fold", "scan_id", "group", "label", "p_normal", "p_drusen"]
    score = {"accuracy": 0.8, "interval": [0.5, 1.0], "confusion": [[8, 2], [0, 0]], "class_names": names, "seeds": 1,
             "n_scans": 10, "n_patients": 10}  # fmt: skip
    run = kept(teacher=score | {"chosen": "best"}, student_alone=score, student_kd=score, diagnosis=HEALTHY,
               kd_gain={"estimate": 0.05, "low": 0.01, "high": 0.09, "seeds": 3})  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_csv(run.predictions_file, index=False)
    pd.DataFrame({"scan_id": [f"p{patient}" for patient in range(10)]}).to_csv(run.table_file, index=False)
    np.save(run.images_file, np.zeros((10, 8, 8), np.uint8))
    page = BeautifulSoup(report_run(run).read_text(encoding="utf-8"), "html.parser")
    assert "gained 5.0 points against the same student alone [+1.0, +9.0]" in page.select_one(".lead").text
    assert "wrong on 2 of 10" in page.text and "The teacher is right on 2 of these" in page.text
    cards = [card.get_text(" ").split() for card in page.select(".cards figure")]
    assert cards == [f"label normal student ✗ drusen, {sure} teacher ✓ normal, 90%".split() for sure in ("90%", "60%")]
    assert "Not in this run: how they learned, on the edge, the data." in page.text
    pictures = page.find_all("img")
    assert len(pictures) == 6
    assert all(picture["src"].startswith("data:") and len(picture["alt"]) > 15 for picture in pictures)
    assert not page.select("[src^=http], link, details[open]") and len(page.select("details table")) == 2
