"""The report names the signs of trouble of a run from what the run kept, and says what it cannot know."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from kdoct_utils.course import cli
from kdoct_utils.course.report import page, read_results, results_text, signs_lines
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


@pytest.fixture
def run(tmp_path):
    return open_run(tmp_path, profile="smoke", dataset="phantom", seed=0)


# --- from what a run kept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", [HEALTHY, LEAKING, HEALTHY | {"students": [0.7, 0.7], "divergence": 0.01}])
def test_the_kept_section_gives_the_notebooks_signs(measured):
    found = diagnose({"diagnosis": measured})
    assert found.signs == signs_of_trouble(**measured) and not found.undecided
    assert found.fired == tuple(sign for sign in found.signs if sign.fires)


def test_the_kept_section_comes_before_the_networks():
    assert [sign.name for sign in diagnose(sections() | {"diagnosis": LEAKING}).fired] == NAMES[:1]


@pytest.mark.parametrize(
    "changes, fired",
    [
        ({}, []),
        ({"teacher": 0.9}, NAMES[:1]),
        ({"students": (0.8, 0.9, 0.99)}, [NAMES[2]]),
        ({"before": 0.85}, [NAMES[3]]),
    ],
)
def test_without_the_section_the_networks_are_read(changes, fired):
    found = diagnose(sections(**changes))
    assert [sign.name for sign in found.fired] == fired
    assert [sign.name for sign in found.signs] == NAMES and not found.undecided  # no student here is weak


def test_a_weak_student_without_its_divergence_is_left_undecided():
    found = diagnose(sections(students=(0.7, 0.71)))
    assert list(found.undecided) == [NAMES[1]] and "KL" in found.undecided[NAMES[1]]
    assert [sign.name for sign in found.signs] == [NAMES[0], *NAMES[2:]]


@pytest.mark.parametrize(
    "metrics, decided",
    [
        ({}, []),
        ({"teacher": {"accuracy": 0.9, "validation_accuracy": 0.85}}, [NAMES[3]]),
        ({"student_kd": {"accuracy": 0.9}}, NAMES[1:3]),
        ({"leakage_gap": {"estimate": 0.3}}, []),
    ],
)
def test_half_a_run_is_half_a_diagnosis(metrics, decided):
    found = diagnose(metrics)
    assert [sign.name for sign in found.signs] == decided
    assert sorted(found.undecided) == sorted(set(NAMES) - set(decided))


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


@pytest.fixture
def logits():
    random = np.random.default_rng(0)
    teacher = 3 * random.normal(size=(40, 3))
    return {"teacher": [teacher], "student_kd": [teacher + random.normal(size=(40, 3)) for _ in range(2)]}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_from_predictions_is_the_losss(logits, temperature, tmp_path):
    table = predictions(logits)
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "p.csv", index=False)  # in any order, through a file
    teacher, target = torch.from_numpy(logits["teacher"][0]), torch.zeros(40, dtype=torch.long)
    terms = [
        distillation_terms(torch.from_numpy(one), teacher, target, temperature)[0] for one in logits["student_kd"]
    ]
    wanted = torch.stack(terms).mean().item() / temperature**2
    assert divergence_of(pd.read_csv(tmp_path / "p.csv"), temperature) == pytest.approx(wanted, rel=1e-6)


def test_divergence_of_a_certain_teacher_is_finite():
    logits = {"teacher": [np.array([[900.0, 0.0, 0.0]])], "student_kd": [np.array([[2.0, 1.0, 0.0]])]}
    assert np.isfinite(divergence_of(predictions(logits), 4.0))


def test_predictions_decide_what_the_sections_leave_open(logits):
    metrics = sections(students=(0.7, 0.71))
    close = predictions(logits | {"student_kd": [logits["teacher"][0] + 0.01]})
    assert [sign.name for sign in diagnose(metrics, close).fired] == [NAMES[1]]
    assert diagnose(metrics, predictions({"teacher": logits["teacher"]})).undecided  # no student among them


# --- text, JSON and page ---------------------------------------------------------------------------------------------


def keep(run, metrics):
    for section, value in metrics.items():
        run.update_metrics(section, value)


def test_fired_signs_are_shown_with_what_to_check(run, capsys):
    keep(run, sections() | {"diagnosis": LEAKING})
    results = read_results(run)
    assert json.loads(json.dumps(results["signs_of_trouble"])) == results["signs_of_trouble"]
    (fired,) = results["signs_of_trouble"]["fired"]
    assert fired["name"] == NAMES[0] and "does not hold zero" in fired["finding"]
    for text in (results_text(results), BeautifulSoup(page(run, []), "html.parser").get_text()):
        assert "Signs of trouble" in text and "student above teacher: student 92.0%" in text
        assert "Check next: Suspect leakage" in text
        assert NAMES[2] not in text  # quiet signs are not listed


def test_one_line_where_none_fired(run):
    keep(run, {"diagnosis": HEALTHY})
    signs = read_results(run)["signs_of_trouble"]
    assert signs["quiet"] == NAMES and len(signs_lines(signs)) == 1 and "none fired of 4" in signs_lines(signs)[0]


def test_what_is_undecided_is_said(run):
    keep(run, sections(students=(0.7, 0.71)))
    lines = signs_lines(read_results(run)["signs_of_trouble"])
    assert len(lines) == 2 and "none fired of 3" in lines[0]
    assert lines[1].startswith("not decided: weak student, low KL (the KL from the teacher not measured)")


def test_a_run_without_networks_has_no_such_section(run):
    keep(run, {"leakage_gap": {"estimate": 0.3, "low": 0.2, "high": 0.4, "seeds": 3}})
    assert "signs_of_trouble" not in read_results(run) and "Signs of trouble" not in page(run, [])
    assert "Signs of trouble" not in results_text(read_results(run))


def test_the_command_prints_them(run, capsys):
    keep(run, {"diagnosis": LEAKING})
    run.notebooks_dir.mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 05 · A notebook")])
    nbformat.write(notebook, run.notebooks_dir / "05_a.ipynb")
    for arguments in (["report", str(run.path)], ["report", str(run.path), "--json"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert not end.value.code
        out = capsys.readouterr().out
        assert "Suspect leakage" in out
    assert json.loads(out)["signs_of_trouble"]["fired"][0]["name"] == NAMES[0]
    assert "Suspect leakage" in run.index_file.read_text(encoding="utf-8")
