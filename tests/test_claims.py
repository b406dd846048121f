"""Claims: what Holm's correction leaves, from which data, and what the paper's own numbers say."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdoct_utils.judge import claims, published
from kdoct_utils.judge.regimes import gain_spread, gains, holm, interval_p
from kdoct_utils.judge.sample_size import (
    Agreement,
    closed_form_equal,
    data_seeds_needed,
    equivalence_p,
    half_width,
)
from kdoct_utils.judge.verdicts import GAIN, LOSS, NOT_TESTED, OPEN, told
from kdoct_utils.lab.arms import ARMS


def measured(**arms):
    """A table with an accuracy a data seed for each arm, and a drusen sensitivity half as large."""
    rows = [(1000 + seed, arm, 0, one, one / 2) for arm, values in arms.items() for seed, one in enumerate(values)]
    return pd.DataFrame(rows, columns=["seed", "arm", "student", "accuracy", "sensitivity_drusen"])


BASE = np.array([0.80, 0.82, 0.79, 0.81])
TABLE = measured(student_alone=BASE, student_kd=BASE + [0.05, 0.06, 0.05, 0.06],
                 student_cached=BASE + [0, 0.02, 0, 0.01],
                 kd_weak_teacher=BASE - [0.05, 0.06, 0.05, 0.06])  # fmt: skip


def test_every_claim_and_question_is_about_arms_that_there_are():
    arms = {arm for pair in claims.COURSE for arm in pair}
    assert arms <= set(ARMS) | set(claims.TEMPERATURES)
    assert {arm.name for arm in ARMS.values() if arm.name.startswith("kd_") and "teacher" in arm.name} <= arms


def test_one_claim_has_one_verdict_wherever_it_is_asked():
    found = claims.ask(TABLE, claims.FAILURES).set_index("arm")
    assert list(found.index) == ["student_kd", "kd_weak_teacher"]
    assert found["reading"].tolist() == [GAIN, LOSS]
    assert found["question"].tolist() == ["The usual KD", "Another teacher"]
    family = gains(TABLE, list({frozenset(pair): pair for pair in claims.COURSE}.values()))
    assert len(family) == 4  # each pair once, in whatever direction it is asked
    corrected = dict(zip(family["arm"] + family["against"], family["holm"], strict=True))
    for pair in (("student_kd", "student_alone"), ("kd_weak_teacher", "student_alone")):
        assert claims.ask(TABLE, [pair])["holm"].item() == pytest.approx(corrected["".join(pair)])
        assert claims.ask(TABLE, [pair[::-1]])["holm"].item() == pytest.approx(corrected["".join(pair)])
    absent = claims.left_out(TABLE, claims.FAILURES)
    assert "`kd_blind_teacher`" in absent and "`student_kd`" not in absent
    assert claims.left_out(TABLE, {"one?": [("student_kd", "student_alone")]}) == ""
    by_class = claims.class_gains(TABLE, ["drusen", "dme"])
    assert by_class[["question", "class"]].to_numpy().tolist() == [["same labels", "drusen"]]
    assert by_class["estimate"][0] == pytest.approx(0.0275)
    ours = claims.over_data_seeds(TABLE)
    assert ours["text"].tolist() == [claim[0] for claim in claims.CLAIMS[:3]]
    assert told(["a", "b"], [GAIN, OPEN]) == "Gain shown: a. Open: b."


def test_data_seeds_decide_where_they_are_and_this_run_elsewhere():
    light = {"estimate": 0.02, "low": 0.01, "high": 0.03}
    live = {"alone_light - student_alone": light, "student_kd - student_alone": light}
    judged = claims.judge_claims(TABLE, live).set_index(["arm", "against"])
    assert judged.loc[("student_kd", "student_alone"), "seeds"] == 4
    turned = judged.loc[("student_alone", "alone_light")]
    assert (turned["estimate"], turned["low"], turned["high"], turned["seeds"]) == (-0.02, -0.03, -0.01, 1)
    assert turned["reading"] == LOSS
    shown = claims.in_words(judged.reset_index())["verdict"].tolist()
    assert {"shown here", "the opposite is shown here", NOT_TESTED} <= set(shown)
    untested = judged.loc[("kd_test_views", "student_kd")]
    assert np.isnan(untested["holm"]) and untested["reading"] == NOT_TESTED
    here = judged[judged["seeds"] == 1]  # those of this run are a family of their own
    np.testing.assert_allclose(here["holm"], holm(here["p"].to_numpy(dtype=float)))
    alone = claims.judge_claims(TABLE.iloc[:0], live)  # on real scans nothing is carried
    assert alone.set_index("arm").loc["student_kd", "seeds"].iloc[0] == 1
    assert (alone["reading"] != NOT_TESTED).sum() == 2


def test_an_interval_and_its_p_belong_together():
    assert interval_p(0.0196, 0.0, 0.0392) == pytest.approx(0.05)
    assert interval_p(0.0, 0.0, 0.0) == 1 and interval_p(0.1, 0.1, 0.1) == 0
    compared = pd.DataFrame({"estimate": [0.02, 0.02], "low": [0.001, -0.01], "high": [0.039, 0.05]})
    assert claims.with_holm(compared)["reading"].tolist() == [OPEN, OPEN]  # not both


def test_two_one_sided_tests():
    values = np.random.default_rng(0).normal(0.001, 0.004, 20)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.90)  # TOST at .05 is the 90 % interval in the margin
    assert equivalence_p(values, 1.0001 * max(-low, high)) < 0.05 < equivalence_p(values, 0.9999 * max(-low, high))
    other = values - values.mean()
    assert equivalence_p(values, 0.02, other) < 0.001 < 0.5 < equivalence_p(values, 0.0001, other)


def test_patients_for_equality_are_those_whose_interval_fits_the_margin():
    agreement, margin = Agreement(0.07, 0.0, (1,)), 0.02
    n = round(closed_form_equal(margin, agreement))
    draws = np.random.default_rng(0).multinomial(n, [0.035, 0.035, 0.93], size=4000)
    mean, error = (draws[:, 0] - draws[:, 1]) / n, np.sqrt(draws[:, 0] + draws[:, 1]) / n
    shown = (np.abs(mean) + stats.norm.ppf(0.95) * error < margin).mean()
    assert shown == pytest.approx(0.8, abs=0.03)


def test_data_seeds_for_a_half_width_and_where_the_spread_comes_from():
    n = data_seeds_needed(0.01, 0.01, 0.02)
    assert half_width(0.01, 0.02, n) <= 0.01 < half_width(0.01, 0.02, n - 1)
    assert half_width(0.0, 0.02, 10, 4) == pytest.approx(stats.t.ppf(0.975, 9) * 0.01 / 10**0.5)
    random, rows = np.random.default_rng(1), []
    for seed in range(400):
        gain = 0.03 + 0.02 * random.normal()
        rows += [(seed, arm, s, base + 0.01 * random.normal()) for s in (0, 1)
                 for arm, base in (("student_alone", 0.8), ("student_kd", 0.8 + gain))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["seed", "arm", "student", "accuracy"])
    found = gain_spread(table, "student_kd", "student_alone")
    assert found["students"] == 2
    assert found["training"] == pytest.approx(0.01 * 2**0.5, rel=0.1) and found["data"] == pytest.approx(0.02, rel=0.15)
    one = gain_spread(table[table["student"] == 0], "student_kd", "student_alone")
    assert np.isnan(one["training"]) and one["data"] == one["total"]


def test_what_the_papers_own_numbers_say():
    found = claims.recomputed_claims().set_index("claim")["verdict"]
    assert found["NEH, student: accuracy"] == "agrees" and found["NEH, teacher: specificity"] == "contradicted"
    assert found["UCSD, teacher: accuracy"] == "one agrees, one is contradicted"
    assert found.filter(like="nearly as good").tolist() == [OPEN]
    assert "FPN-VGG16" in claims.not_beaten_on_neh() and "HOG + SVM" not in claims.not_beaten_on_neh()
    assert len(published.disagreements()) == (~published.beside_printed()["agrees"]).sum()
    assert "one fixed test set" in published.folds_compared("ucsd")
    assert "hold other scans" in published.folds_compared("neh")
