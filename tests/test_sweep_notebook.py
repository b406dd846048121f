"""A true sweep over notebook 05: two runs, what they share, and the report on both."""

from __future__ import annotations

import pytest

from kdoct_utils.course.sweep import read_results, run_sweep
from kdoct_utils.course.sweep_report import read_all_predictions, report
from kdoct_utils.judge.crossval import hits


def test_notebook_05_over_two_temperatures_shares_one_teacher(tmp_path):
    made = run_sweep("05", {"temperature": [1, 4]}, jobs=2, profile="smoke", run_dir=tmp_path / "sweep", progress=False)
    results = read_results(made)
    assert results["status"].tolist() == ["done", "done"]
    assert len(list(made.shared.glob("teacher_*.safetensors"))) == 1
    assert len(list(made.shared.glob("student_alone_seed0_*.safetensors"))) == 1
    assert len(list(made.shared.glob("student_kd_seed0_*.safetensors"))) == 2
    predictions = read_all_predictions(made)
    for run in made.runs:
        kept = predictions[run.name].query("network == 'student_kd'")
        accuracy = results.set_index("run").loc[run.name, "student_kd_accuracy"]
        assert hits(kept).mean() == pytest.approx(accuracy)
    assert "Accuracy by temperature" in report(made).read_text()
