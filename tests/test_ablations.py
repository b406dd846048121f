"""Ablations: every arm runs, changes what it says, has the budget of its rival, and is kept by recipe."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from test_training import same_weights

from kdoct_utils.judge.metrics import paired_difference
from kdoct_utils.lab import arm_training, stages
from kdoct_utils.lab.ablations import COMPARED, compare_arms, run_arms
from kdoct_utils.lab.arm_training import ArmResult, arm_network, lab, train_arm, wrong_labels
from kdoct_utils.lab.arms import ARMS, SETS, Arm, StudentRecipe, TeacherRecipe, arms_for, changed, choose_arms
from kdoct_utils.learn.models import weights_metadata
from kdoct_utils.learn.objectives import CachedLogits
from kdoct_utils.learn.pipelines import STUDENT, TEACHER
from kdoct_utils.profiles import PROFILES, get_profile
from kdoct_utils.runs import open_run

SMOKE = get_profile("smoke")
TINY = replace(SMOKE, phantom_patients=5, phantom_slices=3)
# "last": among so few scans the first epoch is often the best, and arms could not be told apart.
TRAINED = replace(
    TINY,
    student_training=replace(TINY.student_training, epochs=3, batch_size=8, select_on="last", learning_rate=5e-3),
    teacher_training=replace(TINY.teacher_training, epochs=16),  # an arm's teacher has 4, the last 2 averaged
)
LONGER = {"alone_longer"}  # the one arm that is held against an arm of another budget: patience is its question


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(tmp_path_factory.mktemp("run"), profile=TRAINED, dataset="phantom", seed=3)


@pytest.fixture(scope="module")
def data(run):
    return stages.course_data(run, progress=False)


@pytest.fixture(scope="module")
def arms():
    return arms_for(TRAINED, extra=True)


@pytest.fixture(scope="module")
def results(run, data, arms):
    return run_arms(run, data, arms, seeds=[0], progress=False)


@pytest.fixture
def fits(monkeypatch):
    """The trainers that were set to work."""
    done, fit = [], stages.Trainer.fit
    monkeypatch.setattr(stages.Trainer, "fit", lambda trainer: done.append(trainer) or fit(trainer))
    return done


def recipe_in(path):
    return json.loads(weights_metadata(path)["recipe"])


# --- the table -------------------------------------------------------------------------------------------------------


def test_rivals_come_first_are_of_the_same_kind_and_have_the_same_budget():
    seen = set()
    for arm in ARMS.values():
        if arm.against:
            rival = ARMS[arm.against]
            assert arm.against in seen and rival.network == arm.network
            assert (arm.recipe.effort == rival.recipe.effort) == (arm.name not in LONGER), arm.name
            assert arm.changes != rival.changes or arm.test_views != rival.test_views
        seen.add(arm.name)
    assert {arm.name for arm in ARMS.values() if not arm.against} == {"student_alone", "teacher_average"}
    assert len({(arm.network, str(arm.changes), arm.test_views) for arm in ARMS.values()}) == len(ARMS)


def test_an_arm_and_its_rival_differ_in_one_thing():
    more = {  # the second change follows from the first
        "noisy_kd": {"objective", "teacher"}, "noisy_kd_right_teacher": {"objective"},
        "kd_relations": {"objective", "temperature"},  # the published T of that loss
    }  # fmt: skip
    for arm in ARMS.values():
        if arm.against and not arm.test_views:
            ours, theirs = (one.recipe.__dict__ for one in (arm, ARMS[arm.against]))
            differ = {name for name in ours if ours[name] != theirs[name]}
            assert differ == more.get(arm.name, differ) and len(differ) <= len(more.get(arm.name, "1")), arm.name


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gets_arms_that_it_can_train(name):
    arms, imagenet = arms_for(PROFILES[name], extra=True), PROFILES[name].start_weights == "imagenet"
    names = {arm.name for arm in arms}
    assert ("alone_pretrained" in names) == (not imagenet) and ("alone_scratch" in names) == imagenet
    assert ("teacher_scratch" in names) == (PROFILES[name].start_weights != "none")
    assert {arm.against for arm in arms} - {""} <= names
    usual = {arm.name for arm in arms_for(PROFILES[name])}
    assert usual < names and {ARMS[arm].against for arm in usual} - {""} <= usual


def test_faults_in_an_arm_are_named():
    with pytest.raises(ValueError, match="arm 'a' changes unknown 'temprature'; valid: objective, temperature"):
        Arm("a", "a", "?", changes={"temprature": 2.0})
    with pytest.raises(ValueError, match="unknown objective 'kl'; valid: kd, labels"):
        Arm("a", "a", "?", changes={"objective": "kl"})
    with pytest.raises(ValueError, match="unknown network 'pupil'"):
        Arm("a", "a", "?", network="pupil")
    with pytest.raises(ValueError, match="repeated views"):
        StudentRecipe(views=2, augmentation="heavy")
    with pytest.raises(ValueError, match="unknown weights 'last'; valid: average, best"):
        TeacherRecipe(weights="last")


def test_changed_lists_what_changes_a_training():
    assert changed(StudentRecipe()) == changed(TeacherRecipe(weights="best")) == {}
    assert changed(StudentRecipe(temperature=2.0, noise=0.1)) == {"temperature": 2.0, "noise": 0.1}
    every = StudentRecipe("labels", 2.0, 0.1, "view", 0, "light", 0.1, "noisy", "none", 2.0)
    assert len(changed(every)) == len(fields(StudentRecipe)) - 2  # all but answers and views, which need the usual


# --- wrong labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_exactly_the_share_of_training_labels_is_wrong(data, share):
    noisy = wrong_labels(data, share, seed=0)
    differ = noisy.target != data.target
    assert differ[data.rows("train")].sum() == round(share * len(data.rows("train")))
    assert not differ[data.role != "train"].any()
    assert set(noisy.target) <= {0, 1, 2} and noisy.split_hash == data.split_hash
    assert np.array_equal(noisy.images, data.images)


def test_wrong_labels_follow_from_their_seed_and_leave_the_data_alone(data):
    before = data.target.copy()
    first, again, other = (wrong_labels(data, 0.5, seed).target for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(data.target, before)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        wrong_labels(data, 1.5, 0)


def test_wrong_labels_are_for_training_only(run, data, results, fits):
    train_arm(run, data, ARMS["noisy_focal"], 7, progress=False)
    (trainer,) = fits
    expected = wrong_labels(data, 0.3, run.seed).target
    assert np.array_equal(trainer.train_set.target.numpy(), expected[data.rows("train")])
    assert np.array_equal(trainer.validation_set.target.numpy(), data.target[data.rows("validation")])


def test_the_noisy_teacher_has_learned_wrong_labels_and_teaches(run, data, results, fits):
    arm_training.train_teachers(run, data, arm_training.NOISY_TEACHER, 7, progress=False)
    expected = wrong_labels(data, 0.3, run.seed).target
    assert np.array_equal(fits[0].train_set.target.numpy(), expected[data.rows("train")])
    train_arm(run, data, ARMS["noisy_kd"], 7, progress=False)
    train_arm(run, data, ARMS["noisy_kd_right_teacher"], 7, progress=False)
    pair, _ = arm_training.train_teachers(run, data, arm_training.NOISY_TEACHER, run.seed, progress=False)
    noisy, right = (trainer.objective.teacher for trainer in fits[1:])
    assert same_weights(noisy.state_dict(), pair["average"].state_dict())
    assert isinstance(right, CachedLogits)  # those of the run's teacher


# --- training --------------------------------------------------------------------------------------------------------


def test_every_arm_runs_with_the_budget_of_its_rival(data, arms, results):
    assert set(results) == {arm.name for arm in arms}
    for arm in arms:
        for network, rival in zip(results[arm.name], results.get(arm.against, results[arm.name]), strict=True):
            assert network.logits.shape == (len(data.rows("test")), 3) and np.isfinite(network.logits).all()
            assert network.steps == rival.steps * (2 if arm.name in LONGER else 1)
            assert not network.reused
    steps = TRAINED.student_training.epochs * -(-len(data.rows("train")) // TRAINED.student_training.batch_size)
    assert {network.steps for network in results["student_kd"]} == {steps}


def test_arms_are_told_apart_by_recipe_and_by_their_answers(run, arms, results):
    recipes = [json.dumps(recipe_in(path), sort_keys=True) for path in lab(run).path.glob("*_seed0.safetensors")]
    trainings = {(arm.network, str(changed(arm.recipe))) for arm in arms}
    assert len(recipes) == len(set(recipes)) == len(trainings)
    answers = {name: networks[0].logits.tobytes() for name, networks in results.items()}
    assert len(set(answers.values())) == len(answers)


def test_predictions_are_kept_by_arm(run, data, arms, results):
    kept = pd.read_csv(run.predictions_file)
    assert set(kept["network"]) == {arm.name for arm in arms}
    assert (kept[kept["seed"] == 0].groupby("network").size() == len(data.rows("test"))).all()


def test_nothing_is_trained_twice_and_a_seed_gives_the_same_numbers(run, data, arms, results, fits):
    again = run_arms(run, data, arms, seeds=[0], progress=False)
    assert not fits
    for name, networks in again.items():
        for network, before in zip(networks, results[name], strict=True):
            np.testing.assert_array_equal(network.logits, before.logits)
            assert network.reused and network.steps == before.steps


def test_a_seed_gives_the_same_numbers_in_another_folder(tmp_path, data, results):
    names = ["kd_mixup", "kd_decoupled", "noisy_kd", "teacher_best", "alone_pretrained"]
    other = open_run(tmp_path / "other", profile=TRAINED, dataset="phantom", seed=3)
    copied = stages.course_data(other, progress=False)
    again = run_arms(other, copied, [ARMS[name] for name in names], [0], progress=False)
    for name in names:
        np.testing.assert_array_equal(again[name][0].logits, results[name][0].logits)


def test_two_processes_give_what_one_gives(tmp_path):
    names = ["student_kd", "kd_test_views", "kd_relations"]

    def trained(jobs):
        other = open_run(tmp_path / str(jobs), profile=TRAINED, dataset="phantom", seed=3)
        copied = stages.course_data(other, progress=False)
        stages.teacher(other, copied, progress=False)
        return run_arms(other, copied, [ARMS[name] for name in names], [0], jobs=jobs, progress=False)

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, joblib.cpu_count() // 2))  # as many as each of two processes has: sums in one order
    try:
        alone, together = trained(1), trained(2)
    finally:
        torch.set_num_threads(threads)
    for name in names:
        for one, other in zip(alone[name], together[name], strict=True):
            np.testing.assert_allclose(other.logits, one.logits, atol=1e-4)
            assert not other.reused


def test_answers_given_beforehand_train_as_a_live_teacher(run, data, results):
    """The arm T = 2 learns from kept answers; the course's student of that T has a live teacher."""
    alone = replace(run, path=run.path / "live")
    alone.path.mkdir()
    shutil.copy(run.teacher_file, alone.teacher_file)
    stages.student(alone, data, "kd", 0, stages.teacher(run, data, progress=False), temperature=2.0, progress=False)
    live = pd.read_csv(alone.history_file("student_kd_seed0"))
    kept = pd.read_csv(lab(run).history_file("student_temperature-2.0_seed0"))
    assert len(live) == 3
    np.testing.assert_allclose(kept["train_loss"], live["train_loss"], rtol=1e-3)


def test_repeated_views_are_the_first_ones(run, data, results, fits):
    train_arm(run, data, replace(ARMS["kd_views_4"], changes={"views": 2}), 5, progress=False)
    objective = fits[-1].objective
    assert objective.views == 2 and objective.teacher.logits.shape == (2, len(data.rows("train")), 3)
    train_arm(run, data, ARMS["kd_alpha_0.5"], 5, progress=False)
    np.testing.assert_array_equal(fits[-1].objective.teacher.logits[:2], objective.teacher.logits)
    assert fits[-1].objective.views == 3 and fits[-1].objective.alpha == 0.5


def test_augmentation_and_start_weights_reach_the_training(run, data, results, fits):
    train_arm(run, data, ARMS["alone_heavy"], 5, progress=False)
    train_arm(run, data, ARMS["alone_light"], 5, progress=False)
    train_arm(run, data, ARMS["student_alone"], 5, progress=False)
    heavy, light, usual = (trainer.augmentation for trainer in fits)
    assert heavy == TEACHER and usual == STUDENT and 0 < light.rotation < usual.rotation
    pretrained = arm_training.pretrained_student(run, data, progress=False)
    assert recipe_in(pretrained)["patients"] == 2 * TRAINED.phantom_patients
    assert "pretraining" in recipe_in(lab(run).path / "student_objective-labels_start-phantom_seed0.safetensors")


def test_arms_that_train_longer_have_more_patience(run, data, results, fits):
    train_arm(run, data, ARMS["alone_longer"], 5, progress=False)
    train_arm(run, data, ARMS["teacher_average"], 5, progress=False)
    longer, teacher = (trainer.config for trainer in fits)
    usual = TRAINED.student_training
    assert (longer.epochs, longer.patience) == (2 * usual.epochs, 2 * usual.patience)
    assert (teacher.epochs, teacher.patience) == (4, TRAINED.teacher_training.patience)


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, run, results):
    """The run folder again, to be changed."""
    shutil.copytree(run.path, tmp_path / "copy")
    return open_run(tmp_path / "copy", profile=TRAINED, dataset="phantom", seed=3)


def test_another_teacher_means_another_student(copy, data, results, fits):
    stages.teacher(copy, data, gamma=0.0, progress=False)
    other = stages.teacher(copy, data, gamma=0.0, progress=False)
    fits.clear()
    result = train_arm(copy, data, ARMS["kd_alpha_0.9"], 0, other, progress=False)
    assert len(fits) == 1 and not result.reused
    assert not np.allclose(result.logits, results["kd_alpha_0.9"][0].logits)
    assert train_arm(copy, data, ARMS["noisy_alone"], 0, other, progress=False).reused  # it has no teacher


def test_students_of_the_course_are_taken_and_never_overwritten(copy, data, fits):
    shutil.rmtree(lab(copy).path)
    teacher = stages.teacher(copy, data, progress=False)
    stages.student(copy, data, "kd", 0, teacher, progress=False)
    stages.student(copy, data, "alone", 0, progress=False)
    stages.student(copy, data, "kd", 1, teacher, temperature=9.0, progress=False)
    course, fits[:] = copy.student_file("kd", 1).read_bytes(), []
    for name, seed, there in (("student_kd", 0, True), ("student_alone", 0, True), ("student_kd", 1, False)):
        assert train_arm(copy, data, ARMS[name], seed, teacher, progress=False).reused == there
    assert len(fits) == 1 and copy.student_file("kd", 1).read_bytes() == course
    assert [path.name for path in lab(copy).path.glob("*.safetensors")] == ["student_kd_seed1.safetensors"]


def test_runs_of_a_sweep_train_an_arm_once(tmp_path, fits):
    def one(name):
        run = open_run(tmp_path / name, profile=TINY, dataset="phantom", seed=3, shared=tmp_path / "together")
        data = stages.course_data(run, progress=False)
        chosen = [ARMS[arm] for arm in ("student_kd", "kd_views_1", "teacher_average")]
        return run_arms(run, data, chosen, [0], progress=False)

    first, second = one("a"), one("b")
    assert len(fits) == 4  # the run's teacher, two students, the arm's teacher
    for name in first:
        np.testing.assert_array_equal(first[name][0].logits, second[name][0].logits)
        assert second[name][0].reused


# --- comparing -------------------------------------------------------------------------------------------------------


def made_up(data, shares):
    """For each share, two networks that are right on that share of the test scans."""
    target = data.target[data.rows("test")]
    answers = {}
    for name, share in shares.items():
        right = np.arange(len(target)) < share * len(target)
        logits = np.eye(3)[np.where(right, target, (target + 1) % 3)]
        answers[name] = [ArmResult(logits, reused, 30, 2.0) for reused in (True, False)]
    return answers


def test_an_arm_is_compared_with_its_rival_patient_by_patient(data):
    found = made_up(data, {"student_alone": 1 / 3, "student_kd": 2 / 3, "kd_views_1": 1.0})
    table = compare_arms(data, found).set_index("arm")
    assert tuple(table.reset_index().columns) == COMPARED
    assert table["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert np.isnan(table.loc["student_alone", "estimate"])
    right = {name: np.stack([one.logits.argmax(1) == data.target[data.rows("test")] for one in networks])
             for name, networks in found.items()}  # fmt: skip
    expected = paired_difference(right["kd_views_1"], right["student_kd"], data.groups[data.rows("test")])
    row = table.loc["kd_views_1"]
    assert row["estimate"] == pytest.approx(1 / 3) and row["against"] == "student_kd"
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])
    assert (table[["seeds", "steps", "reused"]] == [2, 30, 1]).all(axis=None)


def test_all_arms_can_be_held_against_one(data):
    found = made_up(data, {"student_alone": 1 / 3, "student_kd": 2 / 3, "kd_views_1": 1.0})
    table = compare_arms(data, found, baseline="student_alone").set_index("arm")
    assert table["estimate"].tolist() == pytest.approx([np.nan, 1 / 3, 2 / 3], nan_ok=True)
    with pytest.raises(ValueError, match="no results of 'teacher'; there are: student_alone, student_kd, kd_views_1"):
        compare_arms(data, found, baseline="teacher")
    without = compare_arms(data, {"kd_views_1": found["kd_views_1"]})
    assert np.isnan(without.loc[0, "estimate"])  # its rival was not run


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_arms_are_chosen_by_set_or_name_with_their_rivals(profile):
    few, core, everything = ({arm.name for arm in choose_arms(profile, name)} for name in SETS)
    assert few < core < everything == {arm.name for arm in arms_for(profile, extra=True)}
    assert [arm.name for arm in choose_arms(profile, "noisy_kd, kd_alpha_0.5")] == [
        "student_alone", "student_kd", "kd_alpha_0.5", "noisy_alone", "noisy_kd",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown arm 'kd_beta'; valid: few, core, all, or of student_alone"):
        choose_arms(profile, "student_kd,kd_beta")


def test_an_arms_network_is_the_one_whose_logits_are_kept(run, data):
    arm = ARMS["student_alone"]
    trained = train_arm(run, data, arm, 0, progress=False)
    model, taken = arm_network(run, data, arm, 0, progress=False)
    assert taken.reused
    np.testing.assert_array_equal(stages.test_logits(run, data, model), trained.logits)
