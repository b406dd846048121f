"""Runs read together, against numbers worked out by hand: folds pooled, ensembles that have seen nothing, pairs."""

import numpy as np
import pandas as pd
import pytest

from kdoct_utils.judge.crossval import (
    counts,
    ensemble_out_of_fold,
    fold_scores,
    folds_of_sweep,
    hits,
    mean_and_spread,
    paired_arms,
    pool_out_of_fold,
    pooled_scores,
    read_predictions,
)
from kdoct_utils.judge.metrics import evaluate

NAMES = ["normal", "drusen", "cnv"]


def predictions(rows, network="student_kd", seed=0, fold=0):
    """rows: (scan, patient, label, said), or (scan, patient, label, probabilities)."""
    made = []
    for scan, group, label, said in rows:
        answer = [0.8 if name == said else 0.1 for name in NAMES] if isinstance(said, str) else said
        keys = {"network": network, "seed": seed, "fold": fold, "scan_id": scan, "group": group, "label": label}
        made.append(keys | dict(zip(["p_normal", "p_drusen", "p_cnv"], answer, strict=True)))
    return pd.DataFrame(made)


def split_of(test_fold):
    """Each scan tested in one fold of three, a validation scan in the next, trained on in the last."""
    roles = ("test", "validation", "train")
    return pd.DataFrame(
        [
            {"scan_id": scan, "fold": fold, "role": roles[(fold - held) % 3]}
            for fold in range(3)
            for scan, held in test_fold.items()
        ]
    )


FOLDS = [
    predictions([("a1", "a", "normal", "normal"), ("a2", "a", "normal", "drusen")], fold=0),
    predictions([("b1", "b", "drusen", "drusen"), ("b2", "b", "drusen", "drusen")], fold=1),
    predictions([("c1", "c", "cnv", "cnv"), ("c2", "c", "cnv", "normal")], fold=2),
]
SPLIT = split_of({"a1": 0, "a2": 0, "b1": 1, "b2": 1, "c1": 2, "c2": 2})


def test_the_mean_and_spread_of_repeats():
    found = mean_and_spread([0.9, 0.8, 1.0, float("nan"), None])
    assert found["mean"] == pytest.approx(0.9) and found["n"] == 3
    assert found["sd"] == pytest.approx((0.02 / 3) ** 0.5)  # over n, not n - 1: as the paper reports
    assert mean_and_spread([]) == {"mean": None, "sd": None, "n": 0}


def test_a_finished_sweep_over_folds_is_read(tmp_path):
    for number, part in enumerate(FOLDS):
        (tmp_path / f"fold{number}").mkdir()
        part.to_csv(tmp_path / f"fold{number}" / "predictions.csv", index=False)
    runs = pd.DataFrame({"run": [f"fold{number}" for number in range(len(FOLDS))], "status": "done"})
    runs.to_csv(tmp_path / "results.csv", index=False)
    (row,) = folds_of_sweep(tmp_path).itertuples()
    assert row.Index == "student_kd" and row.folds == 3 and row.patients == 3
    assert row.pooled.startswith("66.67 (") and row._1.startswith("66.67 ± ")
    beyond = FOLDS[0].assign(fold=1)  # the same patients in both folds, as phantoms beyond them
    beyond.to_csv(tmp_path / "fold1" / "predictions.csv", index=False)
    runs[:2].to_csv(tmp_path / "results.csv", index=False)
    (row,) = folds_of_sweep(tmp_path).itertuples()
    assert row.folds == 2 and row.patients == 1 and row.pooled.startswith("50.00 (")


def test_folds_pool_into_one_test_set():
    pooled = pool_out_of_fold(pd.concat(FOLDS), SPLIT)
    assert pooled["scan_id"].tolist() == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert hits(pooled).tolist() == [True, False, True, True, True, False]
    assert counts(pooled).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    by_fold = fold_scores(pooled).set_index("fold")["accuracy"]
    assert by_fold.tolist() == [0.5, 1.0, 0.5]
    scores = pooled_scores(pooled)
    assert scores["accuracy"]["estimate"] == pytest.approx(4 / 6)
    assert scores["sensitivity"]["estimate"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert scores["specificity"]["estimate"] == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    # of three patients with accuracies .5, 1 and .5: every mean of three draws lies in [.5, 1]
    assert (scores["accuracy"]["low"], scores["accuracy"]["high"]) == (0.5, 1.0)
    assert (scores["n_scans"], scores["n_patients"], scores["seeds"]) == (6, 3, 1)


def test_pooled_scores_are_those_of_an_evaluation():
    generator = np.random.default_rng(0)
    labels = np.repeat(NAMES, 40)
    answers = generator.dirichlet(np.ones(3), 120)
    patients = np.array([f"p{number // 6}" for number in range(120)])
    found = pooled_scores(predictions(zip(map(str, range(120)), patients, labels, answers, strict=True)))
    known = evaluate(answers, np.repeat(range(3), 40), patients, NAMES, resamples=2000, seed=0)
    for name in ("accuracy", "sensitivity", "specificity"):
        assert found[name]["estimate"] == pytest.approx(known[name])
    assert [found["accuracy"]["low"], found["accuracy"]["high"]] == pytest.approx(known["interval"])


def test_a_pool_with_a_gap_or_an_overlap_is_refused():
    everything = pd.concat(FOLDS)
    for table, split, words in (
        (pd.concat([FOLDS[0], FOLDS[2]]), SPLIT,
         "student_kd, seed 0: 2 scans were never tested, such as b1; folds here: 0, 2"),
        (pd.concat([everything, FOLDS[0].assign(fold=1)]), None,
         "2 scans are tested more than once, such as a1"),
        (pd.concat([everything, predictions([("a3", "a", "normal", "normal")], fold=1)]), None,
         "patient a is in the test parts of two folds"),
        (pd.concat([FOLDS[0].assign(fold=2), FOLDS[1]]), SPLIT,
         r"a1 was seen by student_kd seed 0 of fold 2 \(train\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            pool_out_of_fold(table, split)
    unused = SPLIT.assign(role=SPLIT["role"].where(SPLIT["scan_id"].str[0] != "b", "unused"))
    assert len(pool_out_of_fold(pd.concat([FOLDS[0], FOLDS[2]]), unused)) == 4


def test_an_ensemble_of_seeds_is_judged_out_of_fold():
    other = FOLDS[0].assign(seed=1, p_normal=[0.2, 0.9], p_drusen=[0.7, 0.05], p_cnv=[0.1, 0.05])
    found = ensemble_out_of_fold(pd.concat([FOLDS[0], other]), SPLIT)
    assert found[["scan_id", "seed", "fold"]].to_numpy().tolist() == [["a1", -1, 0], ["a2", -1, 0]]
    np.testing.assert_allclose(found[["p_normal", "p_drusen", "p_cnv"]], [[0.5, 0.4, 0.1], [0.5, 0.425, 0.075]])
    assert hits(found).tolist() == [True, True]
    with pytest.raises(ValueError, match="the ensemble has 1 members on a2 and 2 on a1"):
        ensemble_out_of_fold(pd.concat([FOLDS[0], other.head(1)]), SPLIT)
    # the public code's ensemble, the students of all folds on one fold's test scans, is refused
    cross_fold = pd.concat([FOLDS[0], FOLDS[0].assign(fold=1), FOLDS[0].assign(fold=2)])
    words = r"^2 scans are not new.*a1 was seen by student_kd seed 0 of fold 1 \(validation\); .* of fold 2 \(train\)"
    with pytest.raises(ValueError, match=words):
        ensemble_out_of_fold(cross_fold, SPLIT)
    with pytest.raises(ValueError, match="scan a1 is not in fold 7 of the split"):
        ensemble_out_of_fold(FOLDS[0].assign(fold=7), SPLIT)
    # the publishers' test part is new to the networks of every fold: there the average is fair
    assert ensemble_out_of_fold(cross_fold, SPLIT.assign(role="test"))["fold"].tolist() == [-1, -1]


def test_arms_are_compared_in_pairs():
    reference = [predictions([("x1", "x", "cnv", "normal"), ("y1", "y", "cnv", "cnv")], seed=s) for s in (0, 1)]
    arm = [predictions([("y1", "y", "cnv", "cnv"), ("x1", "x", "cnv", "cnv")], seed=s) for s in (0, 1)]  # other order
    arm[1]["p_normal"] = 0.9  # the second seed is wrong on both
    pair = pd.concat(arm), pd.concat(reference)
    found = paired_arms([pair, (pair[1].assign(group="z"), pair[1].assign(group="z"))], "student_kd")
    # first pair: (1 + 1 + 0 + 0 - 0 - 1 - 0 - 1) / 4 = 0; second: the reference against itself
    assert found["by_pair"] == [0.0, 0.0] and found["estimate"] == 0.0 and found["seeds"] == 2
    assert found["low"] < 0 < found["high"]
    better = paired_arms([(pd.concat(arm[:1]), pd.concat(reference[:1]))], "student_kd")
    assert better["by_pair"] == [0.5] and better["estimate"] == 0.5
    assert (better["low"], better["high"]) == (0.0, 1.0)  # two patients: +1 and 0
    for other, message in (
        (pair[1].query("scan_id != 'x1'"), "differ in test scans or training seeds"),
        (pair[1].assign(network="teacher"), "no predictions of 'student_kd'; valid networks: teacher"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_arms([(pair[0], other)], "student_kd")
    with pytest.raises(ValueError, match="different numbers of training seeds"):
        paired_arms([pair, (reference[0], reference[0])], "student_kd")


def test_predictions_are_read_as_text_and_checked(tmp_path):
    path = tmp_path / "predictions.csv"
    predictions([("007", "NA", "normal", "cnv")]).to_csv(path, index=False)
    assert read_predictions(path).loc[0, ["scan_id", "group"]].tolist() == ["007", "NA"]
    path.write_text("network,seed\nteacher,0\n")
    with pytest.raises(ValueError, match="predictions.csv lacks fold, scan_id, group, label"):
        read_predictions(path)
    with pytest.raises(ValueError, match="no probabilities for the labels dme; classes: normal, drusen, cnv"):
        counts(predictions([("a", "a", "dme", "cnv")]))
