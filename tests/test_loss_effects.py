"""Losses on the carried measurement: differences, Holm over the family, sentences that say no more, figures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdoct_utils.judge import loss_effects
from kdoct_utils.judge.loss_effects import EFFECTS, NOISE, measured, missing_arms, price, sentence, told
from kdoct_utils.judge.regimes import holm
from kdoct_utils.judge.verdicts import GAIN, LOSS, OPEN
from kdoct_utils.lab import arms
from kdoct_utils.show import loss_figures

MEANS = {"student_alone": 0.8, "alone_focal": 0.8, "noisy_alone": 0.7, "noisy_focal": 0.6, "rare_alone": 0.5,
         "rare_focal": 0.5, "rare_weighted": 0.7, "rare_weighted_focal": 0.7}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    rows = [
        {"seed": seed, "arm": arm, "student": 0}
        | {f"sensitivity_{name}": mean + 0.02 * random.normal() for name in ("normal", "drusen", "cnv")}
        for seed in range(12) for arm, mean in MEANS.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_effect_is_a_t_interval_over_data_seeds_in_one_family(table):
    effects = measured(table)
    assert len(effects) == len(EFFECTS) and missing_arms(table) == ""
    macro = table.assign(macro=table.filter(like="sensitivity_").mean(axis=1)).pivot(
        index="seed", columns="arm", values="macro")  # fmt: skip
    values = (macro["noisy_focal"] - macro["noisy_alone"] - macro["alone_focal"] + macro["student_alone"]).to_numpy()
    row = effects.iloc[-1]
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half))
    np.testing.assert_allclose(effects["holm"], holm(effects["p"].to_numpy()))
    readings = dict(zip(zip(effects["question"], effects["label"], strict=True), effects["reading"], strict=True))
    assert readings["rare class: its own sensitivity", "class weights"] == GAIN
    assert readings[NOISE, "focal loss, wrong labels"] == LOSS
    assert readings[NOISE, "focal loss, right labels"] == OPEN


def test_what_is_not_measured_is_said(table):
    part = table[~table["arm"].str.startswith("rare")]
    assert set(measured(part)["question"]) == {NOISE}
    assert "rare_focal" in missing_arms(part) and "noisy_focal" not in missing_arms(part)
    assert "nothing can be said" in told(measured(part), part, "rare class")
    nothing = table[table["arm"] == "student_alone"]
    assert measured(nothing).empty and price(nothing).empty


def test_a_sentence_says_no_more_than_holm_allows():
    row = {"words": "No difference is shown", "estimate": 0.02, "low": 0.001, "high": 0.039, "holm": 0.2,
           "reading": OPEN}  # fmt: skip
    assert "p = 0.20 after Holm" in sentence(row)
    assert sentence(row | {"low": -0.001, "high": 0.041}).endswith("Up to 4.1 points are not ruled out.")
    assert sentence(row | {"words": "It helps", "reading": GAIN}) == "It helps: +2.0 points [+0.1, +3.9]."


def test_a_floor_is_no_equality(table):
    columns = list(table.filter(like="sensitivity_"))
    low = table.copy()
    low.loc[low["arm"].eq("rare_alone"), columns] = 0.01
    assert "floor" in told(measured(low), low, "rare class")
    assert "floor" not in told(measured(table), table, "rare class")


def test_the_words_are_those_of_the_arms():
    assert loss_effects.RARE == arms.RARE_CLASS and (arms.RARE, arms.NOISE) == (0.1, 0.3)  # "a tenth", "30%"
    for effect in EFFECTS:
        assert sum(effect.arms.values()) == 0 and set(effect.arms) <= set(arms.ARMS)


def test_figures_come_with_words(table):
    p = np.linspace(0.01, 0.99, 50)
    lines = {"cross-entropy": 1 - p, "γ = 2": (1 - p) * (1 - p) * (1 + 3 * p)}
    epochs = pd.DataFrame({"a": [0.1, 0.2], "b": [0.3, 0.4]}, index=[1, 2])
    for figure, alt, takeaway in (
        loss_figures.effects_figure(measured(table)),
        loss_figures.loss_and_pull_figure(p, lines, lines),
        loss_figures.real_weight_figure(p, {"normal": 0.5, "drusen": 2.0}, {"normal": p, "drusen": p}, 2.0),
        loss_figures.epochs_figure(epochs, ("chance", 0.5), ylabel="share", title="A message"),
        loss_figures.wrong_labels_figure(p, p < 0.3, {"of scans": 0.3, "of CE's pull": 0.4, "of focal's pull": 0.5}),
    ):
        assert len(alt) > 60 and "nan" not in alt + takeaway and takeaway.endswith(".")
        assert figure.get_suptitle()
        plt.close(figure)
    assert "class weights found more" in loss_figures.effects_message(measured(table)).lower()
