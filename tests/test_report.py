"""The report of a run names its signs of trouble from what the run kept, and says what it cannot know."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from kdoct_utils.course import cli
from kdoct_utils.course.report import run_results, run_tables, run_text, signs_lines
from kdoct_utils.judge.diagnosis import diagnose, divergence_of, signs_of_trouble
from kdoct_utils.learn.losses import distillation_terms
from kdoct_utils.runs import open_run

HEALTHY = {"teacher_before": 0.95, "teacher": 0.94, "students": [0.91, 0.92, 0.93], "divergence": 0.08}
LEAKING = HEALTHY | {"teacher": 0.90, "difference": [0.001, 0.04]}
NAMES = ["student above teacher", "weak student, low KL", "large spread over seeds", "weak teacher before distilling"]


def sections(teacher=0.94, before=0.95, students=(0.91, 0.92, 0.93)):
    """What the networks' sections of metrics.json hold of it, without a section of its own."""
    student = {"accuracy": float(np.mean(students)), "by_seed": list(students), "temperature": 4.0}
    return {"teacher": {"accuracy": teacher, "validation_accuracy": before}, "student_kd": student}


def names(signs):
    return [sign.name for sign in signs]


# --- from what a run kept --------------------------------------------------------------------------------------------


def test_the_kept_section_gives_the_notebooks_signs_before_the_networks():
    for measured in (HEALTHY, LEAKING, HEALTHY | {"students": [0.7, 0.7], "divergence": 0.01}):
        found = diagnose({"diagnosis": measured})
        assert found.signs == signs_of_trouble(**measured) and not found.undecided
        assert found.fired == tuple(sign for sign in found.signs if sign.fires)
    assert names(diagnose(sections() | {"diagnosis": LEAKING}).fired) == NAMES[:1]


def test_without_the_section_the_networks_are_read_and_half_a_run_is_half_a_diagnosis():
    for changes, fired in (({}, []), ({"students": (0.8, 0.9, 0.99)}, [NAMES[2]]), ({"before": 0.85}, [NAMES[3]])):
        found = diagnose(sections(**changes))
        assert names(found.fired) == fired
        assert names(found.signs) == NAMES and not found.undecided  # no student here is weak
    for metrics, decided in (
        ({}, []),
        ({"teacher": {"accuracy": 0.9, "validation_accuracy": 0.85}}, [NAMES[3]]),
        ({"student_kd": {"accuracy": 0.9}}, NAMES[1:3]),
        (sections(students=(0.7, 0.71)), [NAMES[0], *NAMES[2:]]),
    ):
        found = diagnose(metrics)
        assert names(found.signs) == decided and sorted(found.undecided) == sorted(set(NAMES) - set(decided))


def predictions(logits):
    """predictions.csv from name -> list of (n, classes) by seed."""
    tables = []
    for network, many in logits.items():
        for seed, one in enumerate(many):
            p = torch.softmax(torch.from_numpy(one), dim=1).numpy()
            table = pd.DataFrame(p, columns=["p_normal", "p_drusen", "p_cnv"])
            table.insert(0, "scan_id", [f"s{row}" for row in range(len(p))])
            tables.append(table.assign(network=network, seed=seed, fold=0))
    return pd.concat(tables, ignore_index=True)


def test_divergence_from_predictions_is_the_losss(tmp_path):
    random = np.random.default_rng(0)
    logits = {"teacher": [3 * random.normal(size=(40, 3))]}
    logits["student_kd"] = [logits["teacher"][0] + random.normal(size=(40, 3)) for _ in range(2)]
    predictions(logits).sample(frac=1, random_state=0).to_csv(tmp_path / "p.csv", index=False)  # in any order
    teacher, target = torch.from_numpy(logits["teacher"][0]), torch.zeros(40, dtype=torch.long)
    for temperature in (1.0, 4.0):
        terms = [
            distillation_terms(torch.from_numpy(one), teacher, target, temperature)[0] for one in logits["student_kd"]
        ]
        wanted = torch.stack(terms).mean().item() / temperature**2
        assert divergence_of(pd.read_csv(tmp_path / "p.csv"), temperature) == pytest.approx(wanted, rel=1e-6)
    certain = {"teacher": [np.array([[900.0, 0.0, 0.0]])], "student_kd": [np.array([[2.0, 1.0, 0.0]])]}
    assert np.isfinite(divergence_of(predictions(certain), 4.0))
    # predictions decide what the sections leave open
    metrics = sections(students=(0.7, 0.71))
    close = predictions(logits | {"student_kd": [logits["teacher"][0] + 0.01]})
    assert names(diagnose(metrics, close).fired) == [NAMES[1]]
    assert diagnose(metrics, predictions({"teacher": logits["teacher"]})).undecided  # no student among them


# --- text, JSON and page ---------------------------------------------------------------------------------------------


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
    run = kept(**sections(), diagnosis=LEAKING)
    printed = []
    for arguments in (["report", str(run.path)], ["report", str(run.path), "--json"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert not end.value.code
        printed.append(capsys.readouterr().out)
    results = json.loads(printed[1])
    assert results["signs_of_trouble"] == run_results(run)["signs_of_trouble"]
    [fired] = results["signs_of_trouble"]["fired"]
    assert fired["name"] == NAMES[0] and "does not hold zero" in fired["finding"]
    page = run.index_file.read_text(encoding="utf-8")
    for text in (printed[0], BeautifulSoup(page, "html.parser").get_text()):
        assert "Signs of trouble" in text and "student above teacher: student 92.0%" in text
        assert "Check next: Suspect leakage" in text
        assert NAMES[2] not in text  # quiet signs are not listed
    assert "05 · A &lt;notebook&gt;" in page  # text is escaped


def test_none_fired_is_said_and_so_is_what_is_undecided(kept):
    signs = run_results(run := kept(diagnosis=HEALTHY))
    assert signs["signs_of_trouble"]["quiet"] == NAMES
    assert len(signs_lines(signs)) == 1 and "none fired of 4" in signs_lines(signs)[0]
    run.metrics_file.unlink()
    lines = signs_lines(run_results(kept(**sections(students=(0.7, 0.71)))))
    assert len(lines) == 2 and "none fired of 3" in lines[0]
    assert lines[1].startswith("not decided: weak student, low KL (the KL from the teacher not measured)")


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
