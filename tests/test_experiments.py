"""Experiments: every arm runs, changes what it says, has the budget of its rival, and is kept by recipe."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_training import same_weights

from kdoct_utils.judge.metrics import paired_difference
from kdoct_utils.lab import experiments, stages
from kdoct_utils.lab.arms import ARMS, SETS, Arm, StudentRecipe, TeacherRecipe, arms_for, changed, choose_arms
from kdoct_utils.lab.experiments import COMPARED, compare_arms, run_arms, side_by_side, train_all, workers
from kdoct_utils.lab.keep import recipe_of
from kdoct_utils.lab.training import NOISY_TEACHER, Trained, train, wrong_labels
from kdoct_utils.learn.objectives import CachedLogits, DistillationObjective
from kdoct_utils.learn.pipelines import STUDENT, TEACHER
from kdoct_utils.profiles import PROFILES, get_profile
from kdoct_utils.runs import RunError, open_run

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


def test_wrong_labels_are_for_training_and_for_the_noisy_teacher(run, data, results, fits):
    expected = wrong_labels(data, 0.3, run.seed).target[data.rows("train")]
    train(run, data, "noisy_focal", 7, progress=False)
    train(run, data, NOISY_TEACHER, 7, progress=False)
    for trainer in fits:
        assert np.array_equal(trainer.train_set.target.numpy(), expected)
        assert np.array_equal(trainer.validation_set.target.numpy(), data.target[data.rows("validation")])
    train(run, data, "noisy_kd", 7, progress=False)
    train(run, data, "noisy_kd_right_teacher", 7, progress=False)
    noisy, right = (trainer.objective.teacher for trainer in fits[2:])
    teacher = train(run, data, NOISY_TEACHER, run.seed, progress=False).model
    assert same_weights(noisy.state_dict(), teacher.state_dict())
    assert isinstance(right, CachedLogits)  # those of the run's teacher


# --- training --------------------------------------------------------------------------------------------------------


def test_every_arm_runs_with_the_budget_of_its_rival(run, data, arms, results):
    assert set(results) == {arm.name for arm in arms}
    for arm in arms:
        for network, rival in zip(results[arm.name], results.get(arm.against, results[arm.name]), strict=True):
            assert network.logits.shape == (len(data.rows("test")), 3) and np.isfinite(network.logits).all()
            assert network.steps == rival.steps * (2 if arm.name in LONGER else 1)
            assert not network.reused and network.seconds > 0
    steps = TRAINED.student_training.epochs * -(-len(data.rows("train")) // TRAINED.student_training.batch_size)
    assert {network.steps for network in results["student_kd"]} == {steps}
    answers = {name: networks[0].logits.tobytes() for name, networks in results.items()}
    assert len(set(answers.values())) == len(answers)  # every arm says something of its own
    kept = pd.read_csv(run.predictions_file)
    assert set(kept["network"]) == {arm.name for arm in arms}
    assert (kept[kept["seed"] == 0].groupby("network").size() == len(data.rows("test"))).all()


def test_nothing_is_trained_twice_and_a_name_finds_the_network(run, data, arms, results, fits):
    again = run_arms(run, data, arms, seeds=[0], progress=False)
    assert not fits
    for name, networks in again.items():
        np.testing.assert_array_equal(networks[0].logits, results[name][0].logits)
        assert networks[0].reused and networks[0].steps == results[name][0].steps
    for name in ("student_alone", "kd_decoupled", "teacher_best"):
        model = train(run, data, name, 0, progress=False).model
        np.testing.assert_array_equal(stages.test_logits(run, data, model), results[name][0].logits)
    with pytest.raises(ValueError, match="unknown arm 'slow'; valid arms: student_alone, student_kd"):
        train(run, data, "slow", 0)


def test_files_of_the_course_keep_their_names_and_others_say_what_differs(run, data, results, fits):
    names = ("student_alone", "student_kd", "student_cached")
    found = {train(run, data, name, 0, progress=False).file for name in names}
    assert {file.name for file in found} == {f"{name}_seed0.safetensors" for name in names}
    assert all(file.parent == run.path for file in found) and run.history_file("student_kd_seed0").exists()
    assert train(run, data, "student_kd", 0, TRAINED.temperature, TRAINED.alpha).file in found and not fits
    hotter = train(run, data, "student_kd", 0, temperature=2, alpha=0.5, progress=False).file
    assert hotter == run.network_file("student_kd_temperature-2.0_alpha-0.5_seed0") and hotter not in found
    assert train(run, data, "student_alone", 0, temperature=2, alpha=0.5).file in found  # it has neither


def test_alpha_reaches_every_arm_and_replaces_no_network(run, data, results, fits):
    """Notebook 05 with -p alpha=.5, then 07 without, and the other way round."""
    names = ("student_kd", "student_cached", "kd_temperature_2", "kd_alpha_0.9")
    usual = {name: train(run, data, name, 0, progress=False).file for name in names}
    before = {file: file.read_bytes() for file in usual.values()}
    varied = {name: train(run, data, name, 0, alpha=0.5, progress=False).file for name in names}
    assert [trainer.objective.alpha for trainer in fits] == [0.5] * 3
    assert varied["kd_alpha_0.9"] == usual["kd_alpha_0.9"]  # this arm has an alpha of its own
    assert all(recipe_of(varied[name])["alpha"] == 0.5 for name in names[:3])
    assert before == {file: file.read_bytes() for file in usual.values()}
    either = [train(run, data, "kd_alpha_0.5", 0, alpha=alpha, progress=False).file for alpha in (None, 0.5)]
    assert either[0] == either[1]


def test_side_by_side_gives_the_same_weights_in_another_folder(tmp_path, run, data, results):
    names = ["student_kd", "kd_mixup", "noisy_kd", "teacher_best", "alone_pretrained"]
    other = open_run(tmp_path / "other", profile=TRAINED, dataset="phantom", seed=3)
    copied = stages.course_data(other, progress=False)
    found = train_all(other, copied, [(name, 0) for name in names], jobs=2, progress=False)
    for name, trained in zip(names, found, strict=True):
        one = train(run, data, name, 0, progress=False)
        assert not trained.reused and one.reused
        assert same_weights(trained.model.state_dict(), one.model.state_dict()), name


def test_what_a_process_says_comes_along(capsys):
    assert side_by_side({"a": partial(print, "made again"), "b": int}, 2, progress=False) == {"a": None, "b": 0}
    assert capsys.readouterr().out == "made again\n"


def test_a_workers_error_is_one_clear_error(run, data, monkeypatch):
    assert workers(run, 5) == 1 and workers(run, 5, jobs=2) == 2 and workers(run, 0, jobs=2) == 1  # smoke: here
    quick = replace(run, profile=get_profile("quick"))
    monkeypatch.setattr(experiments, "cpu_count", lambda: 16)
    assert 1 <= workers(quick, 7) <= 7
    assert workers(replace(run, profile=get_profile("colab")), 7, jobs=4) == 1
    fine, killed = partial(pow, 2, 5), partial(os._exit, 9)
    assert side_by_side({"b": fine, "a": fine}, 1, progress=False) == {"b": 32, "a": 32}
    for jobs in (1, 2):
        with pytest.raises(ZeroDivisionError) as caught:
            side_by_side({"a": fine, "KD, seed 2": partial(divmod, 1, 0)}, jobs, progress=False)
        assert caught.value.__notes__ == ["while training KD, seed 2"]
    with pytest.raises(RunError, match="was killed, perhaps for want of memory: . of 2 trainings are not done"):
        side_by_side({"a": killed, "b": fine}, 2, progress=False)


def test_answers_given_beforehand_train_as_a_live_teacher(run, data, results):
    """The arm T = 2 learns from kept answers; the course's student of that T has a live teacher."""
    live = train(run, data, "student_kd", 0, temperature=2.0, progress=False).history
    kept = train(run, data, "kd_temperature_2", 0, progress=False).history
    assert len(live) == 3
    np.testing.assert_allclose(kept["train_loss"], live["train_loss"], rtol=1e-3)


def test_what_an_arm_changes_reaches_its_training(run, data, results, fits):
    names = ("alone_heavy", "alone_light", "student_alone", "alone_longer", "kd_alpha_0.5", "student_kd")
    for name in (*names, "teacher_average"):
        train(run, data, name, 5, progress=False)
    heavy, light, usual, longer, kept, live, teacher = fits
    assert heavy.augmentation == TEACHER and usual.augmentation == STUDENT
    assert 0 < light.augmentation.rotation < STUDENT.rotation
    short, gentle = TRAINED.student_training, TRAINED.teacher_training
    assert (longer.config.epochs, longer.config.patience) == (2 * short.epochs, 2 * short.patience)
    assert (teacher.config.epochs, teacher.config.patience) == (4, gentle.patience)
    assert type(live.objective) is DistillationObjective and live.objective.teacher is not kept.objective.teacher
    assert isinstance(kept.objective.teacher, CachedLogits) and not isinstance(live.objective.teacher, CachedLogits)
    assert kept.objective.views == 3 and kept.objective.alpha == 0.5
    train(run, data, replace(ARMS["kd_views_4"], changes={"views": 2}), 5, progress=False)
    repeated = fits[-1].objective  # the views that repeat are the first ones
    assert repeated.views == 2 and repeated.teacher.logits.shape == (2, len(data.rows("train")), 3)
    np.testing.assert_array_equal(kept.objective.teacher.logits[:2], repeated.teacher.logits)
    recipe = recipe_of(train(run, data, "alone_pretrained", 0, progress=False).file)
    assert recipe["pretraining"]["patients"] == 2 * TRAINED.phantom_patients


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_another_teacher_means_another_student(tmp_path, run, data, results, fits, capsys):
    shutil.copytree(run.path, tmp_path / "copy")
    copy = open_run(tmp_path / "copy", profile=TRAINED, dataset="phantom", seed=3)
    other = replace(copy, profile=replace(TRAINED, gamma=0.0))
    assert train(other, data, "noisy_alone", 0, progress=False).reused  # it has no teacher
    assert not train(other, data, "kd_alpha_0.9", 0, progress=False).reused
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "teacher.safetensors is made again: gamma 2.0 -> 0.0"
    assert last == "student_alpha-0.9_seed0.safetensors is made again: teacher" and len(fits) == 2
    fits.clear()  # a teacher from elsewhere, as notebook 07 has one
    home = replace(copy, path=tmp_path / "home")
    home.path.mkdir()
    taught = train(home, data, "student_kd", 0, teacher=run.teacher_file, progress=False)
    assert len(fits) == 1 and taught.file.parent == home.path
    one = train(run, data, "student_kd", 0, progress=False).model
    assert same_weights(taught.model.state_dict(), one.state_dict())


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


# --- comparing -------------------------------------------------------------------------------------------------------


def made_up(data, shares):
    """For each share, two networks that are right on that share of the test scans."""
    target = data.target[data.rows("test")]
    answers = {}
    for name, share in shares.items():
        right = np.arange(len(target)) < share * len(target)
        logits = np.eye(3)[np.where(right, target, (target + 1) % 3)]
        history = pd.DataFrame({"seconds": [1.5, 0.5]})
        answers[name] = [Trained(Path(name), history, 30, reused, logits=logits) for reused in (True, False)]
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
    assert np.isnan(compare_arms(data, {"kd_views_1": found["kd_views_1"]}).loc[0, "estimate"])  # without its rival
    assert row["estimate"] == pytest.approx(1 / 3) and row["against"] == "student_kd"
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])
    assert (table[["seeds", "steps", "reused", "seconds"]] == [2, 30, 1, 2]).all(axis=None)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_arms_are_chosen_by_set_or_name_with_their_rivals(profile):
    few, core, everything = ({arm.name for arm in choose_arms(profile, name)} for name in SETS)
    assert few < core < everything == {arm.name for arm in arms_for(profile, extra=True)}
    assert [arm.name for arm in choose_arms(profile, "noisy_kd, kd_alpha_0.5")] == [
        "student_alone", "student_kd", "kd_alpha_0.5", "noisy_alone", "noisy_kd",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown arm 'kd_beta'; valid: few, core, all, or of student_alone"):
        choose_arms(profile, "student_kd,kd_beta")
