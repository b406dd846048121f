"""Figures and sentences on paired differences over data seeds say what their intervals allow, and no more."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdoct_utils.judge.regimes import gains
from kdoct_utils.show.gain_figures import gains_figure, in_points, pair_figure
from kdoct_utils.show.soft_label_figures import TEMPERATURES_OF, temperature_figure, two_teachers
from kdoct_utils.show.style import use_style


@pytest.fixture(autouse=True)
def style():
    use_style()
    yield
    plt.close("all")


def made_up(means: dict[str, float], seeds: int = 12, spread: float = 0.01) -> pd.DataFrame:
    """A row a network and data seed, the arms in pairs."""
    random = np.random.default_rng(0)
    rows = [{"seed": 1000 + seed, "arm": arm, "accuracy": mean + spread * random.normal(), "ece": 0.05,
             "best_temperature": 0.4 if arm == "teacher" else np.nan}
            for seed in range(seeds) for arm, mean in means.items()]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("gap", "words"), [(0.05, "is more accurate than"), (-0.05, "is less accurate than"),
                                            (0.0, "not shown to differ")])  # fmt: skip
def test_a_pair_is_told_as_far_as_its_interval_goes(gap, words):
    table = made_up({"teacher_average": 0.9 + gap, "teacher_best": 0.9})
    row = gains(table, [("teacher_average", "teacher_best")]).iloc[0]
    figure, alt, takeaway = pair_figure(row, "the average", "the best epoch")
    assert words in takeaway and in_points(row) in takeaway and in_points(row) in alt and "12 data seeds" in alt
    title = figure.get_suptitle().replace("\n", " ")
    assert (words in title) if gap else "No difference" in title
    dots = sum(len(points.get_offsets()) for points in figure.axes[0].collections if len(points.get_offsets()) > 1)
    assert dots == 12


def test_several_arms_stand_in_the_order_given():
    table = made_up({"a": 0.92, "b": 0.85, "c": 0.9})
    figure, alt, _ = gains_figure(gains(table, [("a", "c"), ("b", "c")]), {"a": "first", "b": "second"}, against="c",
                                  title="Two arms")  # fmt: skip
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["first", "second"]
    assert alt.index("first") < alt.index("second")


def test_temperatures_stand_at_their_calibrated_place_and_missing_arms_are_said():
    assert temperature_figure(made_up({"teacher": 0.95, "student_alone": 0.8, "student_kd": 0.82})) is None
    means = {"teacher": 0.95, "student_alone": 0.8, "student_kd": 0.84} | dict.fromkeys(TEMPERATURES_OF, 0.84)
    figure, alt, takeaway = temperature_figure(made_up(means | {"kd_temperature_20": 0.7}))
    assert "T = 20 (50.0 calibrated)" in alt and "T = 4 (10.0 calibrated)" in alt
    assert figure.get_suptitle() == "T = 20 is worse than T = 4" and "against T = 4: T = 1" in takeaway


def test_two_teachers_are_compared_where_both_were_measured():
    table = made_up({"teacher": 0.95, "teacher_cross_entropy": 0.96})
    assert "T = 4 acts like 10.0" in two_teachers(table) and "cross-entropy has an accuracy of 9" in two_teachers(table)
    assert two_teachers(table[table["arm"] == "nobody"]) == ""
