"""Scores of an arm over seeds, against stages.score and hand-made logits; figures say what they are given."""

from __future__ import annotations

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdoct_utils.lab.stages import CourseData, score
from kdoct_utils.show.comparison import (
    answers_figure,
    dose_figure,
    forest_figure,
    pushes_figure,
    pushes_svg,
    range_figure,
    right,
    score_seeds,
    seed_curves,
    share_figure,
    told,
)

CLASSES = ("normal", "drusen", "cnv")


@pytest.fixture
def data() -> CourseData:
    """12 test scans of 6 patients, two of each class, and 3 training scans."""
    target = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 2])
    groups = [f"p{k // 2}" for k in range(12)] + ["t0", "t1", "t2"]
    table = pd.DataFrame({"scan_id": range(15), "target": target, "group": groups})
    role = np.array(["test"] * 12 + ["train"] * 3, dtype=object)
    return CourseData(table, np.zeros((15, 2, 2), np.uint8), role, CLASSES, {}, {}, pd.DataFrame(), "", 0)


@pytest.fixture
def logits(data) -> list[np.ndarray]:
    """Two seeds: the first errs on one scan, the second on three."""
    perfect = 5.0 * np.eye(3)[data.target[:12]]
    first, second = perfect.copy(), perfect.copy()
    first[0] = [0, 5, 0]
    second[[4, 5, 11]] = [5, 0, 0]
    return [first, second]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_right_marks_every_seed(data, logits):
    found = right(data, logits)
    assert found.shape == (2, 12)
    assert np.flatnonzero(~found[0]).tolist() == [0] and np.flatnonzero(~found[1]).tolist() == [4, 5, 11]


def test_scores_are_the_means_of_the_seeds(data, logits):
    found = score_seeds(data, logits)
    each = [score(data, one) for one in logits]
    for name in ("accuracy", "sensitivity", "specificity", "auc", "ece"):
        assert found[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
    assert found["accuracy"] == pytest.approx(20 / 24) and found["by_seed"] == pytest.approx([11 / 12, 9 / 12])
    assert found["confusion"] == [[7, 1, 0], [2, 6, 0], [1, 0, 7]]
    assert (found["n_scans"], found["n_patients"], found["seeds"]) == (12, 6, 2)


def test_interval_holds_the_accuracy_and_knows_both_patients_and_seeds(data, logits):
    low, high = score_seeds(data, logits)["interval"]
    assert 0 < low < 20 / 24 < high <= 1
    sure = score_seeds(data, [5.0 * np.eye(3)[data.target[:12]]])
    assert sure["interval"] == [1.0, 1.0]


def test_a_score_that_no_seed_has_is_none(data):
    target = np.zeros(15, int)
    alone = CourseData(data.table.assign(target=target), data.images, data.role, CLASSES, {}, {}, data.split, "", 0)
    found = score_seeds(alone, [np.zeros((12, 3))] * 2)
    assert found["auc"] is None and found["specificity"] is None and found["accuracy"] == 1.0


def history(accuracies: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"epoch": range(len(accuracies)), "validation_accuracy": accuracies})


def test_seed_curves_average_the_epochs_that_all_reached():
    histories = {
        "student_alone": [history([0.2, 0.4, 0.9]), history([0.4, 0.6])],
        "student_kd": [history([0.5, 0.5, 0.5]), history([0.5, 0.7, 0.9])],
    }
    figure, last = seed_curves(histories, title="learning")
    assert last == pytest.approx({"student_alone": 0.5, "student_kd": 0.6})
    lines = figure.axes[0].get_lines()
    assert np.allclose(lines[0].get_ydata(), [0.3, 0.5]) and np.allclose(lines[0].get_xdata(), [1, 2])
    assert len(lines) == 2 + 4
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["student alone", "student, KD"]


def test_one_epoch_is_a_curve_too():
    figure, last = seed_curves({"student_kd": [history([0.5])]}, title="short")
    assert last == {"student_kd": 0.5}
    assert figure.axes[0].get_lines()[0].get_markevery() == 1  # a line of one point is seen by its marker


def test_ranges_span_the_views():
    still, moving = np.array([0.9, 0.1, 0.5]), np.array([[0.8, 0.2, 0.5], [0.6, 0.3, 0.4]])
    axis = range_figure(still, moving, ylabel="probability", title="moves").axes[0]
    assert axis.get_lines()[0].get_ydata().tolist() == [0.1, 0.5, 0.9]
    spans = [segment[:, 1].tolist() for segment in axis.collections[0].get_segments()]
    assert spans == [[0.2, 0.3], [0.4, 0.5], [0.6, 0.8]]


def test_answers_draw_a_bar_for_every_class_and_answer():
    answers = {"label": np.array([1.0, 0, 0]), "teacher": np.array([0.7, 0.2, 0.1])}
    figure = answers_figure({"scan": np.zeros((4, 4))}, answers, CLASSES, xlabel="probability", title="what is said")
    assert figure.get_suptitle() == "what is said"
    axis = figure.axes[-1]
    widths = [bar.get_width() for bar in axis.patches]
    assert widths == pytest.approx([1, 0, 0, 0.7, 0.2, 0.1])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["normal", "drusen", "CNV"]


def test_doses_are_drawn_in_order_with_their_intervals():
    curve = {0.7: {"estimate": 0.8, "low": 0.7, "high": 0.85}, 0.0: {"estimate": 0.5, "low": 0.4, "high": 0.6}}
    axis = dose_figure(curve, xlabel="alpha", ylabel="accuracy", title="dose").axes[0]
    line = axis.get_lines()[0]
    assert line.get_xdata().tolist() == [0.0, 0.7] and line.get_ydata().tolist() == [0.5, 0.8]
    spans = axis.containers[0].lines[2][0].get_segments()
    assert np.allclose([segment[:, 1] for segment in spans], [[0.4, 0.6], [0.7, 0.85]])


def test_shares_fill_the_bar():
    shares = pd.DataFrame({"train": [0.6, 0.0], "validation": [0.2, 0.0], "test": [0.2, 1.0]}, index=["a", "b"])
    axis = share_figure(shares, xlabel="share", title="roles").axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axis.patches]
    assert ends == pytest.approx([0.6, 0.0, 0.8, 0.0, 1.0, 1.0])


def test_what_an_interval_tells_is_marker_and_word():
    rows = pd.DataFrame(
        {
            "question": ["one?", "one?", "two?"],
            "text": ["a - b", "c - b", "d - b"],
            "estimate": [2.0, -2.0, 1.0],
            "low": [1.0, -3.0, 0.0],
            "high": [3.0, -1.0, 2.0],
        }
    )
    assert [told(row) for _, row in rows.iterrows()] == ["better", "worse", "not told apart"]  # touching zero is none
    axis = forest_figure(rows, xlabel="points", title="forest").axes[0]
    assert [drawn.lines[0].get_marker() for drawn in axis.containers] == ["^", "v", "o"]
    assert [drawn.lines[0].get_xdata()[0] for drawn in axis.containers] == [2.0, -2.0, 1.0]
    spans = [drawn.lines[2][0].get_segments()[0][:, 0].tolist() for drawn in axis.containers]
    assert np.allclose(spans, [[1.0, 3.0], [-3.0, -1.0], [0.0, 2.0]])
    shown = dict(zip([label.get_text() for label in axis.get_yticklabels()], axis.get_yticks(), strict=True))
    assert shown["one?"] < shown["a - b"] < shown["c - b"] < shown["two?"] < shown["d - b"]


def test_pushes_are_drawn_to_both_sides():
    pushes = {"teacher": np.array([0.2, -0.1, -0.1]), "label": np.array([-0.4, 0.6, -0.2])}
    pushes["sum"] = pushes["teacher"] + pushes["label"]
    figure = pushes_figure({"one": pushes, "two": pushes}, CLASSES, xlabel="push", title="Pushes")
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [*pushes["teacher"], *pushes["label"], *pushes["sum"]]
    plt.close(figure)
    drawing = pushes_svg(pushes, CLASSES, limit=1.0, title="Pushes <now>")
    bars = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="(?:8|10)" fill', drawing)
    zero = 130 + 330 / 2
    starts = [(float(x), float(width)) for x, width in bars if "." in x]  # the legend's have no decimal point
    assert len(starts) == 9
    assert starts[0] == (zero, 33.0) and starts[1] == (pytest.approx(zero - 66), 66.0)
    assert "Pushes &lt;now&gt;" in drawing and "CNV -0.300" in drawing
    assert pushes_svg(pushes, CLASSES, limit=0.1, title="cut").count('width="165.0"') > 3
