"""Notebook 02's trainings: p_t is what training met, the teacher is trained beside them, a rare class is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from on_runs import run_and_data

from kdoct_utils.lab import stages, watching
from kdoct_utils.lab.material import student_scans
from kdoct_utils.lab.watching import Watching, asked, beside_teacher, p_matrix, rare_arms, sensitivities, watched
from kdoct_utils.learn.objectives import CrossEntropyObjective
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import open_run

SMOKE = get_profile("smoke")
TINY = replace(
    SMOKE, phantom_patients=5, phantom_slices=2, phantom_test_patients=2,
    student_training=replace(SMOKE.student_training, epochs=2),
)  # fmt: skip

run, data = run_and_data(TINY, seed=0)


def test_a_watched_training_tells_each_scans_p_in_each_epoch_and_is_kept(run, data, monkeypatch):
    logits, table = watched(run, data, "noisy_alone", 0)
    scans = student_scans(data, rare_arms(data)[1]["cross-entropy"].recipe, run.seed)
    assert list(table) == ["given", "right", "1", "2"] and len(table) == len(data.rows("train")) > len(scans)
    wrong = table["given"] != table["right"]
    assert wrong.sum() == round(0.3 * len(table))
    p = p_matrix(table)
    assert p.shape == (len(table), 2) and ((p > 0) & (p < 1)).all() and not torch.equal(p[:, 0], p[:, 1])
    monkeypatch.setattr(stages.Trainer, "fit", lambda trainer: pytest.fail("trained again"))
    assert watched(run, data, "noisy_alone", 0)[1].equals(table)
    np.testing.assert_array_equal(asked(run, data, "noisy_alone", 0), logits)  # it is the arm's own network
    with pytest.raises(ValueError, match="'noisy_focal' is not trained with cross-entropy"):
        watched(run, data, "noisy_focal", 0)


def test_a_watched_network_is_the_one_that_the_arm_would_have(run, data, tmp_path):
    """Trained under observation, or without: the same weights."""
    seen = watched(run, data, "rare_alone", 1)[0]
    other = open_run(tmp_path, profile=TINY, dataset="phantom")
    np.testing.assert_array_equal(asked(other, stages.course_data(other, progress=False), "rare_alone", 1), seen)


def test_watching_changes_no_loss_and_every_scan_has_its_own_p():
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    order, watching_one = torch.tensor([3, 0, 5, 1, 4, 2]), Watching()
    for epoch in range(2):
        for part in (order[:4], order[4:]):
            images = logits[part] * (1 + epoch)
            given = (torch.nn.Identity(), images, target[part], part + 10, epoch)
            losses, _ = watching_one(*given)
            torch.testing.assert_close(losses, CrossEntropyObjective()(*given)[0])
    table = watching_one.table(6)
    for epoch in range(2):
        p = (logits * (1 + epoch)).softmax(dim=1)[torch.arange(6), target]
        np.testing.assert_allclose(table[str(epoch + 1)].loc[10 + np.arange(6)], p, atol=1e-5)


def test_the_teacher_is_trained_among_them_only_where_several_are(run, data, monkeypatch):
    done = []

    def pretend(tasks, jobs, desc):
        done.append((list(tasks), jobs))
        return {name: name for name in tasks}

    monkeypatch.setattr(watching, "side_by_side", pretend)
    students = [f"student alone, seed {seed}" for seed in range(TINY.seeds)]
    for jobs, names in ((1, ["a"]), (2, ["the run's teacher", "a", *students])):
        monkeypatch.setattr(watching, "workers", lambda run, trainings, jobs=jobs: jobs)
        assert beside_teacher(run, data, {"a": None}) == {"a": "a"}
        assert done.pop() == (names, jobs)


def test_sensitivities_are_of_the_test_scans(run, data):
    logits = asked(run, data, "rare_alone", 0)
    found = sensitivities(data, logits)
    per_class = stages.score(data, logits)["per_class"]
    assert {name: found[name] for name in per_class} == pytest.approx(
        {name: one["sensitivity"] for name, one in per_class.items()}
    )
    assert found["macro"] == pytest.approx(np.mean([found[name] for name in data.class_names]))


def test_without_drusen_the_rarest_class_is_taken_as_it_is(data):
    assert rare_arms(data)[0] == "drusen"
    without = replace(data, class_names=("normal", "dme", "cnv"))
    name, arms = rare_arms(without)
    counts = np.bincount(data.target[data.rows("train")])
    assert name == without.class_names[counts.argmin()]
    assert all(arm.recipe.rare == 0 for arm in arms.values()) and arms["weighted focal"].recipe.class_weights
