"""Figures and sentences on paired differences over data seeds say what their intervals allow, and no more."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdoct_utils.judge.claims import TEMPERATURES, ask
from kdoct_utils.judge.verdicts import in_points, sentence, verdict
from kdoct_utils.show.gain_figures import pair_figure
from kdoct_utils.show.soft_label_figures import temperature_figure, two_teachers
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
             "best_temperature": {"teacher": 0.4, "teacher_cross_entropy": 1.0}.get(arm)}
            for seed in range(seeds) for arm, mean in means.items()]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("gap", "words", "told"), [(0.05, "is more accurate than", "gained"),
    (-0.05, "is less accurate than", "lost"), (0.0, "No difference", "No difference is shown")])  # fmt: skip
def test_a_pair_is_told_as_far_as_its_interval_goes(gap, words, told):
    table = made_up({"teacher_average": 0.9 + gap, "teacher_best": 0.9})
    row = ask(table, [("teacher_average", "teacher_best")]).iloc[0]
    figure, alt, takeaway = pair_figure(row, "the average", "the best epoch")
    assert told in takeaway and in_points(row) in alt and "12 data seeds" in alt and "12 data seeds" in takeaway
    assert words in figure.get_suptitle().replace("\n", " ")
    dots = sum(len(points.get_offsets()) for points in figure.axes[0].collections if len(points.get_offsets()) > 1)
    assert dots == 12


def test_one_difference_has_one_verdict_and_says_why():
    row = {"estimate": 0.02, "low": 0.01, "high": 0.03}
    assert sentence(row, "KD", "labels alone") == (
        "KD gained 2.0 points against labels alone [+1.0, +3.0]; the interval excludes zero.")  # fmt: skip
    assert verdict(row | {"holm": 0.2}).endswith("among so many claims chance can do that (p = 0.20 after Holm)")
    assert "No difference is shown" in sentence(row | {"holm": 0.2}, "a", "b")
    lost = {"estimate": -0.02, "low": -0.03, "high": -0.01}
    assert "lost 2.0 points" in sentence(lost, "a", "b") and verdict(lost).startswith("a loss is shown")
    assert verdict({"estimate": 0.0, "low": -0.01, "high": 0.01}) == (
        "neither gain nor loss is shown: the interval includes zero")  # fmt: skip


def test_students_of_two_teachers_stand_at_the_calibrated_place_of_their_t():
    assert temperature_figure(made_up({"teacher": 0.95, "student_alone": 0.8, "student_kd": 0.82})) is None
    means = {"teacher": 0.95, "teacher_cross_entropy": 0.95, "student_alone": 0.8}
    means |= {arm: 0.84 for arms in TEMPERATURES.values() for arm in arms.values()}
    figure, alt, takeaway = temperature_figure(made_up(means | {"kd_temperature_20": 0.7}))
    assert "focal teacher, T = 20 (50.0 calibrated)" in alt and "cross-entropy teacher, T = 4 (4.0 calibrated)" in alt
    assert figure.get_suptitle() == "Focal teacher, T = 20 is worse than T = 4" and takeaway.endswith("than T = 4.")


def test_two_teachers_are_compared_where_both_were_measured():
    table = made_up({"teacher": 0.95, "teacher_cross_entropy": 0.96})
    assert "T = 4 acts like 10.0" in two_teachers(table) and "cross-entropy has an accuracy of 9" in two_teachers(table)
    assert two_teachers(table[table["arm"] == "nobody"]) == ""
