"""Figures of arms say what they are given."""

from __future__ import annotations

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdoct_utils.show.comparison import (
    answers_figure,
    dose_figure,
    forest_figure,
    pushes_figure,
    pushes_svg,
    range_figure,
    seed_curves,
    share_figure,
    told,
)

CLASSES = ("normal", "drusen", "cnv")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


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
