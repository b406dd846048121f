"""Experiments: every arm runs, changes what it says, has the budget of its rival, and is kept by recipe."""

import os
import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from on_runs import run_and_data
from test_training import same_weights

from kdoct_utils.judge.metrics import paired_difference
from kdoct_utils.lab import experiments, stages
from kdoct_utils.lab.arms import ARMS, SETS, TEACHERS_OF, Arm, StudentRecipe, TeacherRecipe, arms_for, choose_arms
from kdoct_utils.lab.experiments import COMPARED, compare_arms, run_arms, side_by_side, train_all, workers
from kdoct_utils.lab.keep import recipe_of
from kdoct_utils.lab.material import wrong_labels
from kdoct_utils.lab.training import Trained, plan, train
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
BUDGETS = {  # times that of the arm held against
    "alone_longer": 2.0, "alone_short": 0.3, "alone_equal_seconds": 1.3, "alone_half_longer": 1.5,
}  # fmt: skip

run, data = run_and_data(TRAINED)


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


@pytest.fixture
def trainer_of(run, data, results, monkeypatch):
    """A function: the trainer of an arm whose seed nobody has trained, stopped before its first epoch."""
    seen = []

    def stop(trainer):
        seen.append(trainer)
        raise InterruptedError

    def trainer(arm, **options):
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(stages.Trainer, "fit", stop)
            train(run, data, arm, 5, progress=False, **options)
        return seen[-1]

    return trainer


# --- the table -------------------------------------------------------------------------------------------------------


def test_rivals_come_first_have_the_same_budget_and_differ_in_one_thing():
    more = {  # the second change follows from the first
        "noisy_kd": {"objective", "teacher"}, "noisy_kd_right_teacher": {"objective"},
        "kd_relations": {"objective", "temperature"},  # the published T of that loss
        "rare_focal": {"objective"}, "rare_weighted_focal": {"objective"},
        "pool_kd": {"objective", "alpha", "labeled_by", "patients"},  # few labels, or a teacher for all
    }  # fmt: skip
    seen = set()
    for arm in ARMS.values():
        if arm.against:
            rival = ARMS[arm.against]
            assert arm.against in seen and rival.network == arm.network
            assert (arm.recipe.effort == rival.recipe.effort) == (arm.name not in BUDGETS), arm.name
            ours, theirs = asdict(arm.recipe), asdict(rival.recipe)
            differ = {name for name in ours if ours[name] != theirs[name]}
            assert differ == more.get(arm.name, differ) and len(differ) <= len(more.get(arm.name, "1")), arm.name
            assert differ or arm.test_views != rival.test_views
        seen.add(arm.name)
    assert {arm.name for arm in ARMS.values() if not arm.against} == {
        "student_alone", "clinic_alone", "pool_alone", "teacher_average"
    }  # fmt: skip
    assert len({(arm.network, str(arm.changes), arm.test_views) for arm in ARMS.values()}) == len(ARMS)
    with pytest.raises(ValueError, match="tests the networks of 'student_kd'"):
        Arm("views", "", "", "student_kd", {"alpha": 0.5}, test_views=True)


def test_every_profile_gets_arms_that_it_can_train_chosen_by_set_or_name_with_their_rivals():
    for profile in PROFILES.values():
        few, core, everything = ({arm.name for arm in choose_arms(profile, name)} for name in SETS)
        assert few < core < everything == {arm.name for arm in arms_for(profile, extra=True)}
        assert ("alone_pretrained" in everything) == (profile.start_weights != "imagenet")
        assert ("alone_scratch" in everything) == (profile.start_weights == "imagenet")
        assert ("teacher_scratch" in everything) == (profile.start_weights != "none")
        for chosen in (few, core, everything, {arm.name for arm in arms_for(profile)}):
            assert {ARMS[arm].against for arm in chosen} - {""} <= chosen
        assert [arm.name for arm in choose_arms(profile, "noisy_kd, kd_alpha_0.5")] == [
            "student_alone", "student_kd", "kd_alpha_0.5", "noisy_alone", "noisy_kd",
        ]  # fmt: skip
        assert "clinic_kd" in everything
        assert not any(arm.recipe.scans == "clinic" for arm in choose_arms(profile, "all", clinic=False)
                       if arm.network == "student")  # fmt: skip
        with pytest.raises(ValueError, match="unknown arm 'kd_beta'; valid: few, core, all, or of student_alone"):
            choose_arms(profile, "student_kd,kd_beta")


def test_faults_in_an_arm_are_named():
    for call, words in (
        (lambda: Arm("a", "a", "?", changes={"temprature": 2.0}),
         "arm 'a' changes unknown 'temprature'; valid: objective, temperature"),
        (lambda: Arm("a", "a", "?", changes={"objective": "kl"}), "unknown objective 'kl'; valid: kd, labels"),
        (lambda: Arm("a", "a", "?", network="pupil"), "unknown network 'pupil'"),
        (lambda: StudentRecipe(views=2, augmentation="heavy"), "repeated views"),
        (lambda: TeacherRecipe(weights="last"), "unknown weights 'last'; valid: average, best"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()


# --- wrong labels ----------------------------------------------------------------------------------------------------


def test_exactly_the_share_of_training_labels_is_wrong_by_their_seed(data):
    before = data.target.copy()
    for share in (0.0, 0.3, 1.0):
        noisy, again, other = (wrong_labels(data, share, seed) for seed in (0, 0, 1))
        differ = noisy.target != data.target
        assert differ[data.rows("train")].sum() == round(share * len(data.rows("train")))
        assert not differ[data.role != "train"].any() and set(noisy.target) <= {0, 1, 2}
        assert np.array_equal(noisy.target, again.target)
        assert np.array_equal(noisy.target, other.target) == (share == 0)
    assert np.array_equal(data.target, before)  # left alone
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        wrong_labels(data, 1.5, 0)


def test_wrong_labels_are_for_training_and_for_the_noisy_teacher(run, data, trainer_of):
    expected = wrong_labels(data, 0.3, run.seed).target[data.rows("train")]
    for arm in ("noisy_focal", TEACHERS_OF["noisy"]):
        trainer = trainer_of(arm)
        assert np.array_equal(trainer.train_set.target.numpy(), expected)
        assert np.array_equal(trainer.validation_set.target.numpy(), data.target[data.rows("validation")])
    noisy, right = (trainer_of(arm).objective.teacher for arm in ("noisy_kd", "noisy_kd_right_teacher"))
    teacher = train(run, data, TEACHERS_OF["noisy"], run.seed, progress=False).model
    assert same_weights(noisy.state_dict(), teacher.state_dict())
    assert isinstance(right, CachedLogits)  # those of the run's teacher


# --- training --------------------------------------------------------------------------------------------------------


def test_every_arm_runs_with_the_budget_of_its_rival(run, data, arms, results):
    assert set(results) == {arm.name for arm in arms}
    for arm in arms:
        for network, rival in zip(results[arm.name], results.get(arm.against, results[arm.name]), strict=True):
            assert network.logits.shape == (len(data.rows("test")), 3) and np.isfinite(network.logits).all()
            ratio = network.steps / rival.steps
            assert ratio == pytest.approx(BUDGETS.get(arm.name, 1), abs=0.4 if arm.name in BUDGETS else 0.2), arm.name
            assert not network.reused and network.seconds > 0
    steps = TRAINED.student_training.epochs * -(-len(data.rows("train")) // TRAINED.student_training.batch_size)
    assert {network.steps for network in results["student_kd"]} == {steps}
    answers = {name: networks[0].logits.tobytes() for name, networks in results.items()}
    same = [pair for pair in combinations(answers, 2) if answers[pair[0]] == answers[pair[1]]]
    # 1.3 and 1.5 times three epochs are four; and with 8 patients of a class both teachers know all
    assert set(same) <= {("alone_equal_seconds", "alone_half_longer"), ("kd_weak_teacher", "kd_middling_teacher")}
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


def test_files_say_what_differs_and_alpha_replaces_no_network(run, data, results):
    """Notebook 05 with -p alpha=.5, then 07 without, and the other way round."""
    def file(name, *options):
        return plan(run, data, name, 0, *options).file

    names = ("student_alone", "student_kd", "student_cached")
    assert [file(name) for name in names] == [run.path / f"{name}_seed0.safetensors" for name in names]
    assert all(file(name).exists() for name in names) and run.history_file("student_kd_seed0").exists()
    assert file("student_kd", TRAINED.temperature, TRAINED.alpha) == file("student_kd")
    assert file("student_kd", 2, 0.5) == run.network_file("student_kd_temperature-2.0_alpha-0.5_seed0")
    assert file("student_alone", 2, 0.5) == file("student_alone")  # it has neither
    for name in ("student_kd", "student_cached", "kd_temperature_2"):
        assert plan(run, data, name, 0, alpha=0.5).recipe["alpha"] == 0.5
        assert file(name, None, 0.5) != file(name)
    assert file("kd_alpha_0.9", None, 0.5) == file("kd_alpha_0.9")  # this arm has an alpha of its own
    assert file("kd_alpha_0.5", None, 0.5) == file("kd_alpha_0.5")
    assert {"learn.losses", "learn.trainer", "torch"} <= recipe_of(file("student_kd"))["code"].keys()


def test_side_by_side_gives_the_same_weights_in_another_folder(tmp_path, run, data, results):
    names = ["student_kd", "kd_mixup"]
    shutil.copytree(run.path, tmp_path / "other")
    other = open_run(tmp_path / "other", profile=TRAINED, dataset="phantom", seed=3)
    for name in names:
        plan(other, data, name, 0).file.unlink()
    found = train_all(other, data, [(name, 0) for name in names], jobs=2, progress=False)
    for name, trained in zip(names, found, strict=True):
        one = train(run, data, name, 0, progress=False)
        assert not trained.reused and one.reused
        assert same_weights(trained.model.state_dict(), one.model.state_dict()), name


def test_a_workers_error_is_one_clear_error_and_what_it_says_comes_along(run, monkeypatch, capsys):
    assert workers(run, 5) == 1 and workers(run, 5, jobs=2) == 2 and workers(run, 0, jobs=2) == 1  # smoke: here
    monkeypatch.setattr(experiments, "cpu_count", lambda: 16)
    assert 1 <= workers(replace(run, profile=get_profile("quick")), 7) <= 7
    assert workers(replace(run, profile=get_profile("colab")), 7, jobs=4) == 1
    tasks = {"b": partial(print, "made again"), "a": partial(pow, 2, 5)}
    for jobs in (1, 2):
        assert list(side_by_side(tasks, jobs, progress=False).items()) == [("b", None), ("a", 32)]
        assert capsys.readouterr().out == "made again\n"
        with pytest.raises(ZeroDivisionError) as caught:
            side_by_side({"a": tasks["a"], "KD, seed 2": partial(divmod, 1, 0)}, jobs, progress=False)
        assert caught.value.__notes__ == ["while training KD, seed 2"]
    with pytest.raises(RunError, match="was killed, perhaps for want of memory: . of 2 trainings are not done"):
        side_by_side({"a": partial(os._exit, 9), "b": partial(pow, 2, 5)}, 2, progress=False)


def test_what_an_arm_changes_reaches_its_training(run, data, trainer_of):
    names = ("alone_heavy", "alone_light", "student_alone", "alone_longer", "kd_alpha_0.5", "student_kd")
    heavy, light, usual, longer, kept, live, teacher = map(trainer_of, (*names, "teacher_average"))
    assert heavy.augmentation == TEACHER and usual.augmentation == STUDENT
    assert 0 < light.augmentation.rotation < STUDENT.rotation
    short, gentle = TRAINED.student_training, TRAINED.teacher_training
    assert (longer.config.epochs, longer.config.patience) == (2 * short.epochs, 2 * short.patience)
    assert (teacher.config.epochs, teacher.config.patience) == (4, gentle.patience)
    assert type(live.objective) is DistillationObjective and not isinstance(live.objective.teacher, CachedLogits)
    assert isinstance(kept.objective.teacher, CachedLogits)
    assert kept.objective.views == 3 and kept.objective.alpha == 0.5
    assert trainer_of("student_cached", alpha=0.25).objective.alpha == 0.25
    repeated = trainer_of(replace(ARMS["kd_views_4"], changes={"views": 2})).objective
    assert repeated.views == 2 and repeated.teacher.logits.shape == (2, len(data.rows("train")), 3)
    np.testing.assert_array_equal(kept.objective.teacher.logits[:2], repeated.teacher.logits)  # the first ones
    recipe = plan(run, data, "alone_pretrained", 0).recipe
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
    slack = 1 / len(data.rows("test"))
    table = compare_arms(data, found).set_index("arm")
    assert tuple(table.reset_index().columns) == COMPARED
    assert table["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3, 1.0], abs=slack)
    assert np.isnan(table.loc["student_alone", "estimate"])
    right = {name: np.stack([one.logits.argmax(1) == data.target[data.rows("test")] for one in networks])
             for name, networks in found.items()}  # fmt: skip
    expected = paired_difference(right["kd_views_1"], right["student_kd"], data.groups[data.rows("test")])
    row = table.loc["kd_views_1"]
    assert np.isnan(compare_arms(data, {"kd_views_1": found["kd_views_1"]}).loc[0, "estimate"])  # without its rival
    assert row["estimate"] == pytest.approx(1 / 3, abs=slack) and row["against"] == "student_kd"
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])
    assert (table[["seeds", "steps", "reused", "seconds"]] == [2, 30, 1, 2]).all(axis=None)
