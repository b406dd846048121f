"""The published matrices give the numbers in the literature notes, and sample sizes agree with closed forms."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import recall_score

from kdoct_utils.datasets import DATASETS as REGISTERED
from kdoct_utils.judge.published import (
    DATASETS,
    MODELS,
    SCORES,
    beside_printed,
    classes,
    confusions,
    fold_scores,
    fold_sizes,
    student_minus_teacher,
)
from kdoct_utils.judge.sample_size import (
    NEH_PATIENTS,
    NEH_SCANS_A_PATIENT,
    Agreement,
    closed_form,
    measure_agreement,
    patients_needed,
    power_curves,
    sensitivity_table,
    simulate_power,
    smallest_difference,
)


def test_recomputed_scores_and_which_printed_numbers_hold():
    table = fold_scores()
    counts = confusions("neh", "student")[2]
    true, said = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    row = table.query("dataset == 'neh' and model == 'student' and fold == 3").iloc[0]
    assert row["accuracy"] == pytest.approx((true == said).mean())
    assert row["sensitivity"] == pytest.approx(recall_score(true, said, average="macro"))
    assert row["specificity"] == pytest.approx(np.mean([recall_score(true != k, said != k) for k in range(3)]))
    found = table.groupby(["dataset", "model"])[list(SCORES)].agg(["mean", lambda folds: folds.std(ddof=0)])
    np.testing.assert_allclose(
        100 * found.loc["neh"].loc[list(MODELS)],
        [[92.57, 2.32, 92.90, 2.08, 96.22, 1.14], [92.46, 1.36, 92.15, 1.29, 96.04, 0.78]], atol=0.006,
    )  # fmt: skip
    ucsd = table.query("dataset == 'ucsd'")
    assert ucsd["accuracy"].max() < 0.984 and (ucsd["scans"] == 1000).all()
    printed = beside_printed()
    wrong = printed[~printed["agrees"]]
    assert list(zip(wrong["dataset"], wrong["model"], wrong["score"], wrong["printed"], strict=True)) == [
        ("neh", "teacher", "specificity", "98.1 ± 0.8"),
        ("ucsd", "teacher", "accuracy", "98.4"),
        ("ucsd", "student", "accuracy", "98.4"),
    ]
    assert wrong["recomputed"].tolist() == ["96.22 ± 1.14", "97.72", "97.74"]
    assert (wrong["best_fold"].to_numpy() < [98.1, 98.4, 98.4]).all()  # not a single fold reaches what is printed
    assert np.allclose(wrong["difference"], [-1.88, -0.68, -0.66], atol=0.005)


def test_matrices_hold_the_datasets_scans_in_folds_that_differ():
    published = REGISTERED["neh"].published_counts
    for model in MODELS:
        counts = confusions("neh", model)
        assert counts.shape == (5, 3, 3)
        wanted = [published[f"worst-case rows, {name}"] for name in classes("neh")]
        assert counts.sum(axis=(0, 2)).tolist() == wanted  # teacher and student: every scan once
        assert confusions("ucsd", model).sum(axis=2).tolist() == [[250] * 4] * 5
    assert classes("ucsd") == ("normal", "drusen", "cnv", "dme")
    sizes = fold_sizes("neh")
    assert sizes.loc[3, ("teacher", "normal")] == 1229 and sizes.loc[3, ("student", "normal")] == 1097


def test_nothing_is_shown_between_student_and_teacher():
    for dataset in DATASETS:
        found = student_minus_teacher(dataset)
        assert found["t_interval"][0] < 0 < found["t_interval"][1]
        assert found["welch_interval"][0] < 0 < found["welch_interval"][1]
    found, table = student_minus_teacher("neh"), fold_scores().query("dataset == 'neh'")
    table = table.pivot(index="fold", columns="model", values="accuracy")
    difference = (table["student"] - table["teacher"]).to_numpy()
    half = stats.t.ppf(0.975, 4) * difference.std(ddof=1) / np.sqrt(5)
    assert found["estimate"] == pytest.approx(-0.00106, abs=1e-5)
    assert found["t_interval"] == pytest.approx([difference.mean() - half, difference.mean() + half])


# --- how many patients -----------------------------------------------------------------------------------------------


def mcnemar_pairs(difference, disagreement, power=0.8):
    """Connor 1987, pairs for a two-sided test at .05."""
    there = stats.norm.ppf(power) * np.sqrt(disagreement - difference**2)
    return ((stats.norm.ppf(0.975) * np.sqrt(disagreement) + there) / difference) ** 2


def test_sample_sizes_are_mcnemars_times_the_design_effect():
    for difference, disagreement, correlation, scans in (
        (0.001, 0.07, 0.0, 1), (0.01, 0.03, 0.0, 1), (0.02, 0.14, 0.0, 10), (0.005, 0.07, 0.2, 29),
    ):  # fmt: skip
        agreement = Agreement(disagreement, correlation, (scans,))
        wanted = mcnemar_pairs(difference, disagreement) * (1 + (scans - 1) * correlation) / scans
        assert closed_form(difference, agreement) == pytest.approx(wanted)
        assert patients_needed(difference, agreement, repeats=4000) == pytest.approx(wanted, rel=0.05)
    assert 100_000 < patients_needed(0.001) < 150_000  # a tenth of a point takes more patients than there are
    smallest = smallest_difference()
    assert 0.01 < smallest < 0.03 and closed_form(smallest) == pytest.approx(NEH_PATIENTS)
    assert NEH_SCANS_A_PATIENT == round(12_649 / NEH_PATIENTS)


def test_few_unequal_patients_against_studies_drawn_patient_by_patient():
    patients, difference, agreement = 6, 0.18, Agreement(0.2, 0.3, (2, 5, 20))
    random, studies = np.random.default_rng(1), 4000
    shares = np.array([0.2 + difference, 0.2 - difference, 1.6]) / 2 * (1 / 0.3 - 1)
    sizes = random.choice(agreement.scans, (studies, patients))
    lead = random.multinomial(sizes, random.dirichlet(shares, (studies, patients))) @ [1, -1, 0]
    estimate = lead.sum(axis=1) / sizes.sum(axis=1)
    spread = ((lead - estimate[:, None] * sizes) ** 2).sum(axis=1) * patients / (patients - 1)
    seen = (estimate > stats.t.ppf(0.975, patients - 1) * np.sqrt(spread) / sizes.sum(axis=1)).mean()
    found = simulate_power(difference, [patients], agreement, repeats=20_000)[0]
    assert found == pytest.approx(seen, abs=4 * np.sqrt(0.25 / studies))


def test_power_rises_with_patients_and_difference_and_false_alarms_are_as_rare_as_promised():
    assert simulate_power(1e-9, [400], Agreement(0.07, 0.2), repeats=20_000)[0] == pytest.approx(0.025, abs=0.006)
    table = power_curves(patients=[50, 5000, 500_000])
    assert (table.diff().dropna() > -0.03).all(axis=None)
    assert (table.diff(axis=1).iloc[:, 1:] > -0.03).all(axis=None)
    assert table.loc[500_000, 0.001] > 0.99 and table.loc[50, 0.001] < 0.1
    table = sensitivity_table(0.01, disagreements=(0.03, 0.07), correlations=(0.0, 0.4))
    assert (table.diff().dropna() > 0).all(axis=None) and (table.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)


def test_agreement_is_found_again_in_data():
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(4000), 8)
    shares = random.dirichlet(np.array([0.09, 0.06, 0.85]) * (1 / 0.25 - 1), 4000)
    outcome = (random.random(len(patients))[:, None] > shares.cumsum(axis=1)[patients]).sum(axis=1)  # 0, 1, 2
    found = measure_agreement(outcome != 1, outcome != 0, patients)
    assert found.disagreement == pytest.approx(0.15, abs=0.01) and found.correlation == pytest.approx(0.25, abs=0.03)
    assert found.scans == (8,) * 4000


def test_unknown_names_and_impossible_studies_are_refused():
    for call, words in (
        (lambda: confusions("octdl", "teacher"), "valid: neh, ucsd and teacher, student"),
        (lambda: confusions("neh", "tutor"), "valid: neh, ucsd and teacher, student"),
        (lambda: patients_needed(0.1), "above 0 and at most the disagreement, 0.07, not 0.1"),
        (lambda: measure_agreement([1, 0], [1, 0], ["a", "a"]), "classifiers that differ"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
