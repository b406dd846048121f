"""Train arms, each with a seed, side by side where that is quicker; keep them, and compare them.

`train` is the one door to a trained network of any arm; `kdoct_utils.lab.arms` says what the arms are. Notebook 05's
students lie in the run folder, all others in its ``ablations/``. Where such an arm has the usual views, the teacher
answers beforehand, every view of every epoch: up to rounding that is the live teacher, and all arms of a seed share it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import psutil
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from torch import nn
from tqdm.auto import tqdm

from kdoct_utils.judge.metrics import hits, paired_difference
from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import ARMS, LIGHT, Arm, StudentRecipe, changed
from kdoct_utils.lab.keep import file_hash, full_recipe, keep, short_hash, why_again
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.learn import models
from kdoct_utils.learn.inference import cache_teacher_logits
from kdoct_utils.learn.models import build_model, load_backbone, load_weights
from kdoct_utils.learn.objectives import (
    CachedLogits,
    ConsistentMixupObjective,
    CrossEntropyObjective,
    DistillationObjective,
    DISTObjective,
    DKDObjective,
    FocalObjective,
    Objective,
)
from kdoct_utils.learn.pipelines import STUDENT, TEACHER, weakened
from kdoct_utils.learn.pretraining import pretrain_backbone
from kdoct_utils.learn.schedules import steps_per_epoch
from kdoct_utils.learn.trainer import TrainingResult, threads
from kdoct_utils.profiles import Profile, TrainingConfig
from kdoct_utils.runs import RunError, RunFolder

T = TypeVar("T")
AUGMENTATIONS = {"student": STUDENT, "light": weakened(STUDENT, LIGHT), "heavy": TEACHER}
OBJECTIVES = {
    "kd": DistillationObjective, "labels": CrossEntropyObjective, "focal": FocalObjective, "dkd": DKDObjective,
    "dist": DISTObjective, "mixup": ConsistentMixupObjective,
}  # fmt: skip
NOISY_TEACHER = Arm("teacher_noisy", "teacher, wrong labels", "", network="teacher",
                    changes={"noise": ARMS["noisy_kd"].recipe.noise})  # fmt: skip
PRETRAINING_EPOCHS = 4
PROCESS_BYTES = 1e9  # that a process with torch and a small training takes
COMPARED = ("arm", "label", "question", "against", "accuracy", "estimate", "low", "high", "seeds", "steps", "seconds",
            "reused")  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A network of an arm, in eval mode, and its training. reused: it was there. steps: of the optimizer."""

    model: nn.Module
    file: Path
    history: pd.DataFrame
    steps: int
    reused: bool

    @property
    def seconds(self) -> float:
        """What the training took, whenever that was."""
        return float(self.history["seconds"].sum())


@dataclass(frozen=True)
class ArmResult:
    """What a network of an arm says of the test scans, logits (n_test, classes); the rest as in `Trained`."""

    logits: np.ndarray
    reused: bool
    steps: int
    seconds: float


# --- the one door ----------------------------------------------------------------------------------------------------


def train(
    run: RunFolder,
    data: CourseData,
    arm: str | Arm,
    seed: int,
    temperature: float | None = None,
    alpha: float | None = None,
    teacher: Path | None = None,
    progress: bool = True,
) -> Trained:
    """The network of an arm and seed: from the run folder, or trained now.

    arm: its name in ARMS, or one of your own. temperature, alpha: where the arm leaves them to the profile; None is
    the profile's. Other values than the profile's show in the names of the files, so that networks do not replace one
    another. teacher: weights of another teacher than the run's, to learn from.
    Raises ValueError for an unknown arm.
    """
    plan = _plan(run, data, arm, seed, temperature, alpha, teacher)
    model, history = plan.network(), plan.home.history_file(plan.name)

    def fit(checkpoint: Path) -> TrainingResult:
        return plan.fit(model, checkpoint=checkpoint, name=plan.title, progress=progress)

    reused = stages.keep_network(plan.home, model, plan.file, plan.recipe, fit)
    epochs = pd.read_csv(history)
    per_epoch = steps_per_epoch(len(data.rows("train")), plan.config.batch_size, plan.config.accumulation)
    network = model if isinstance(plan.arm.recipe, StudentRecipe) else model[plan.arm.recipe.weights]
    steps = int(epochs["seconds"].notna().sum() * per_epoch)  # the row of the average has no seconds
    return Trained(network, plan.file, epochs, steps, reused)


def train_all(
    run: RunFolder,
    data: CourseData,
    wanted: Sequence[tuple[str | Arm, int]],
    temperature: float | None = None,
    alpha: float | None = None,
    teacher: Path | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> list[Trained]:
    """`train` for each (arm, seed), those that are missing side by side; jobs as in `workers`."""
    return list(_train_each(run, data, wanted, (temperature, alpha, teacher), jobs, progress))


def _train_each(
    run: RunFolder, data: CourseData, wanted: Sequence[tuple[str | Arm, int]], options: tuple, jobs: int | None,
    progress: bool,
) -> Iterator[Trained]:  # fmt: skip
    """One network at a time, so that not all of them lie in memory."""
    new = _train_missing(run, data, wanted, options, jobs, progress)
    for arm, seed in wanted:
        trained = train(run, data, arm, seed, *options, progress=False)
        yield replace(trained, reused=trained.file not in new)


def _train_missing(
    run: RunFolder, data: CourseData, wanted: Sequence[tuple[str | Arm, int]], options: tuple, jobs: int | None,
    progress: bool,
) -> set[Path]:  # fmt: skip
    """The files of the networks that were trained now: first what several of them need, then all others."""
    arms = [(find_arm(arm), seed) for arm, seed in wanted]
    recipes = [arm.recipe for arm, _ in arms if arm.network == "student"]
    if options[2] is None and any(recipe.asks_teacher for recipe in recipes):
        stages.teacher_file(run, data, progress)
    before: dict[str, Callable[[], object]] = {}
    if any(recipe.start == "phantom" for recipe in recipes):
        before["pre-training"] = partial(_quietly, pretrained_student, run, data)
    if any(recipe.asks_teacher and recipe.teacher == "noisy" for recipe in recipes):
        arms.insert(0, (NOISY_TEACHER, run.seed))
    side_by_side(before, 1, progress=False)
    new: set[Path] = set()
    own_bars = progress and run.profile.student_training.threads != 1  # trainings of minutes or hours
    for network in ("teacher", "student"):
        plans = {}
        for arm, seed in arms:
            if arm.network == network:
                plan = _plan(run, data, arm, seed, *options)
                if why_again(plan.file, plan.recipe, [plan.home.history_file(plan.name)]) is not None:
                    plans.setdefault(plan.file, (plan, arm, seed))
        # The longest first, and those with a live teacher: the last ones shall be short.
        order = sorted(plans.values(), key=lambda each: -each[0].cost)
        tasks = {
            plan.title: partial(_quietly, train, run, data, arm, seed, *options, progress=own_bars)
            for plan, arm, seed in order
        }
        side_by_side(tasks, workers(run, len(tasks), jobs), progress=progress and not own_bars)
        new |= set(plans)
    return new


def _quietly(make: Callable[..., object], *arguments: object, **options: object) -> None:
    """Without the result, which would travel between processes."""
    make(*arguments, **options)


# --- side by side ----------------------------------------------------------------------------------------------------


def workers(run: RunFolder, trainings: int, jobs: int | None = None) -> int:
    """How many trainings of the run to do at a time, each with one thread in a process of its own.

    jobs: at most, None for as many as there are cores. Memory counts too. 1, which means this process, on a graphics
    card, where the profile's trainings use several threads, and in smoke, where starting a process takes longer.
    """
    if torch.accelerator.is_available() or run.profile.student_training.threads != 1:
        return 1
    if jobs is None:
        jobs = 1 if run.profile.name == "smoke" else cpu_count()
    return max(1, min(jobs, trainings, int(psutil.virtual_memory().available / PROCESS_BYTES)))


def side_by_side(
    tasks: Mapping[str, Callable[[], T]], jobs: int, desc: str = "trainings", progress: bool = True
) -> dict[str, T]:
    """What each task returns, by name; so many at a time, each in a process of its own and with one thread.

    jobs: 1 does them here, one after the other, to the same numbers.
    Raises the first error of a task, which says whose it is; RunError where a process is killed.
    """
    results: dict[str, T] = {}
    with tqdm(total=len(tasks), desc=desc, unit="training", disable=not progress or not tasks) as bar:
        if jobs == 1:
            found = ((*_named(name, task), "") for name, task in tasks.items())
        else:
            with parallel_config(backend="loky", inner_max_num_threads=1):
                found = Parallel(jobs, return_as="generator_unordered")(
                    delayed(_apart)(name, task) for name, task in tasks.items()
                )
        try:
            for name, result, said in found:
                results[name] = result
                if said:
                    tqdm.write(said.rstrip())
                bar.update()
        except BrokenProcessPool as error:
            raise RunError(
                f"a process that trained was killed, perhaps for want of memory: {len(tasks) - len(results)} of "
                f"{len(tasks)} trainings are not done. Again with jobs=1, or free some memory; nothing done is lost"
            ) from error
    return {name: results[name] for name in tasks}


def _named(name: str, task: Callable[[], T]) -> tuple[str, T]:
    try:
        return name, task()
    except Exception as error:
        error.add_note(f"while training {name}")
        raise


def _apart(name: str, task: Callable[[], T]) -> tuple[str, T, str]:
    """In a process of its own, whose output nobody sees: what it says comes along."""
    with redirect_stdout(io.StringIO()) as said:
        return *_named(name, task), said.getvalue()


# --- what a training is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """All that is known of a training before anything is built. arm: with the temperature and alpha that it will have.

    home, name: where its files lie, and how they are called. network: builds it. fit: trains it.
    """

    arm: Arm
    home: RunFolder
    name: str
    title: str
    config: TrainingConfig
    recipe: dict
    network: Callable[[], nn.Module]
    fit: Callable[..., TrainingResult]

    @property
    def file(self) -> Path:
        return self.home.network_file(self.name)

    @property
    def cost(self) -> float:
        """What it takes beside others: a live teacher takes as long again."""
        recipe = self.arm.recipe
        live = isinstance(recipe, StudentRecipe) and (self.arm.course or not recipe.can_be_kept)
        return recipe.effort * (1 + live)


def find_arm(arm: str | Arm) -> Arm:
    """The arm of that name. Raises ValueError, with the valid names, for any other."""
    if isinstance(arm, str) and arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; valid arms: {', '.join(ARMS)}")
    return ARMS[arm] if isinstance(arm, str) else arm


def _plan(
    run: RunFolder, data: CourseData, arm: str | Arm, seed: int, temperature: float | None, alpha: float | None,
    teacher: Path | None,
) -> _Plan:  # fmt: skip
    arm = _completed(find_arm(arm), run.profile, temperature, alpha)
    make = _student_plan if arm.network == "student" else _teacher_plan
    return make(run, data, arm, seed, teacher)


def _completed(arm: Arm, profile: Profile, temperature: float | None, alpha: float | None) -> Arm:
    """The arm with a temperature and an alpha that are not the profile's, where it has none of its own."""
    if arm.network == "teacher" or not arm.recipe.asks_teacher:
        return arm
    given = {"temperature": temperature, "alpha": alpha}
    own = {
        name: float(value) for name, value in given.items()
        if value is not None and value != getattr(profile, name) and getattr(arm.recipe, name) is None
    }  # fmt: skip
    return replace(arm, changes=dict(arm.changes) | own)


def ablations(run: RunFolder) -> RunFolder:
    """The run in a folder of its own, for what only the ablations need."""
    return replace(run, path=run.path / "ablations")


def training_name(arm: Arm, seed: int) -> str:
    """Name of a training's files: arms that only test it in another way share it."""
    if arm.course:
        set_here = {name: getattr(arm.recipe, name) for name in ("temperature", "alpha")}
        changes, first = {name: value for name, value in set_here.items() if value is not None}, arm.name
    else:
        changes, first = changed(arm.recipe), arm.network if changed(arm.recipe) else f"{arm.network}_usual"
    return "_".join([first, *(f"{key}-{value}" for key, value in changes.items()), f"seed{seed}"])


def _student_plan(run: RunFolder, data: CourseData, arm: Arm, seed: int, teacher: Path | None) -> _Plan:
    recipe, profile = arm.recipe, run.profile
    varied = replace(run, profile=replace(profile, student_training=_scaled(profile.student_training, recipe.effort)))
    temperature = profile.temperature if recipe.temperature is None else recipe.temperature
    alpha = profile.alpha if recipe.alpha is None else recipe.alpha
    wanted = stages.training_recipe(varied, data, "student", seed) | _changes(run, arm)
    code = [stages.new_student, stages.student_trainer, OBJECTIVES[recipe.objective], models]
    if recipe.asks_teacher:
        wanted |= {"teacher": file_hash(_teacher_file(run, data, recipe, teacher))}
        wanted |= {"temperature": temperature, "alpha": alpha}
    if recipe.objective == "focal":
        wanted["gamma"] = profile.gamma
    if recipe.start == "phantom":
        wanted["pretraining"] = _pretraining(run)
        code.append(pretrain_backbone)

    def network() -> nn.Module:
        if recipe.start == "profile":
            return stages.new_student(run, data, seed)
        model = build_model(profile.student, len(data.class_names), profile.channels, "none", seed)
        if recipe.start == "phantom":
            load_backbone(model, pretrained_student(run, data))
        return model

    def fit(model: nn.Module, **options: object) -> TrainingResult:
        noisy = wrong_labels(data, recipe.noise, run.seed)
        objective = _objective(run, data, arm, seed, teacher, temperature, alpha)
        augmentation = AUGMENTATIONS[recipe.augmentation]
        return stages.student_trainer(varied, noisy, model, objective, seed, augmentation=augmentation, **options).fit()

    home, title = run if arm.course else ablations(run), f"{arm.label}, seed {seed}"
    config = varied.profile.student_training
    return _Plan(arm, home, training_name(arm, seed), title, config, full_recipe(wanted, code), network, fit)


def _teacher_plan(run: RunFolder, data: CourseData, arm: Arm, seed: int, _: Path | None) -> _Plan:
    """Both sets of weights of one training, its "best" epoch and its "average"."""
    recipe, profile = arm.recipe, run.profile
    varied = replace(
        run, seed=seed,
        profile=replace(
            profile, teacher_training=_scaled(profile.teacher_training, recipe.effort),
            start_weights=profile.start_weights if recipe.start == "profile" else recipe.start,
            gamma=profile.gamma if recipe.gamma is None else recipe.gamma,
        ),
    )  # fmt: skip

    def network() -> nn.ModuleDict:
        return nn.ModuleDict({weights: stages.new_teacher(varied, data) for weights in ("best", "average")})

    def fit(pair: nn.ModuleDict, **options: object) -> TrainingResult:
        trainer = stages.teacher_trainer(varied, wrong_labels(data, recipe.noise, run.seed), pair["best"], **options)
        result = trainer.fit()
        with threads(varied.profile.teacher_training.threads):
            trainer.load("swa")
        pair["average"].to(trainer.device).load_state_dict(pair["best"].state_dict())
        trainer.load("best")
        return result

    wanted = stages.teacher_recipe(varied, data) | _changes(run, arm)
    config, title = varied.profile.teacher_training, f"{arm.label}, seed {seed}"
    name = training_name(arm, seed)
    return _Plan(arm, ablations(run), name, title, config, wanted, network, fit)


def _changes(run: RunFolder, arm: Arm) -> dict:
    return {"changes": changed(arm.recipe)} | ({"noise_seed": run.seed} if arm.recipe.noise else {})


def _scaled(config: TrainingConfig, effort: float) -> TrainingConfig:
    """More epochs need more patience, or an arm that is to train longer would be stopped as early as the others."""
    patience = round(max(1.0, effort) * config.patience)
    return replace(config, epochs=max(1, round(effort * config.epochs)), patience=patience)


def wrong_labels(data: CourseData, share: float, seed: int) -> CourseData:
    """The same data with a share of the training labels wrong: scans drawn evenly, each with another class, evenly.

    Exactly round(share * n) labels change; those of validation and test scans stay right.
    Raises ValueError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    generator, rows = np.random.default_rng((seed, 1)), data.rows("train")
    wrong = generator.permutation(rows)[: round(share * len(rows))]
    target, classes = data.target.copy(), len(data.class_names)
    target[wrong] = (target[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return replace(data, table=data.table.assign(target=target))


# --- what a student learns from --------------------------------------------------------------------------------------


def _teacher_file(run: RunFolder, data: CourseData, recipe: StudentRecipe, teacher: Path | None) -> Path:
    """The file of the teacher that a student learns from, trained now where it is missing."""
    if recipe.teacher == "noisy":
        return train(run, data, NOISY_TEACHER, run.seed, progress=False).file
    return teacher or stages.teacher_file(run, data, progress=False)


def _objective(
    run: RunFolder, data: CourseData, arm: Arm, seed: int, teacher: Path | None, temperature: float, alpha: float
) -> Objective:
    recipe = arm.recipe
    if recipe.objective == "labels":
        return CrossEntropyObjective()
    if recipe.objective == "focal":
        return FocalObjective(run.profile.gamma)
    if recipe.teacher == "noisy":
        model = train(run, data, NOISY_TEACHER, run.seed, progress=False).model
    elif teacher is None:
        model = stages.teacher(run, data, progress=False)
    else:
        load_weights(model := stages.new_teacher(run, data), teacher)
    if recipe.objective == "mixup":
        return ConsistentMixupObjective(model, temperature, seed)
    source: nn.Module | CachedLogits = model
    if recipe.answers == "scan":
        source = CachedLogits(stages.teacher_logits(run, data, model, progress=False)[None], replay=False)
    elif recipe.can_be_kept and not arm.course:
        answers = _answers(run, data, seed, model, _teacher_file(run, data, recipe, teacher))
        source = CachedLogits(answers[: recipe.views or None], data.rows("train"))
    return OBJECTIVES[recipe.objective](source, temperature, alpha)


def _answers(run: RunFolder, data: CourseData, seed: int, teacher: nn.Module, file: Path) -> np.ndarray:
    """The teacher's logits (epochs, n_train, classes) for the views that a student of that seed will see."""
    profile, epochs = run.profile, run.profile.student_training.epochs
    recipe = {
        "stage": "answers", "teacher": file_hash(file), "split": data.split_hash, "fold": data.fold, "seed": seed,
        "views": epochs, "scans": data.scans_hash, "augmentation": asdict(STUDENT),
        "image": [profile.image_size, profile.channels],
    }  # fmt: skip
    recipe = full_recipe(recipe, (cache_teacher_logits, models))

    def answer() -> dict[str, np.ndarray]:
        train, size, channels = data.part("train"), profile.image_size, profile.channels
        with threads(profile.student_training.threads):
            logits = cache_teacher_logits(teacher, train, STUDENT, seed, epochs, size, channels, progress=False)
        return {"logits": logits}

    folder = run.shared or ablations(run).path
    return keep(folder / f"answers_seed{seed}_{short_hash(recipe)}.safetensors", recipe, answer)["logits"].numpy()


def _pretraining(run: RunFolder) -> dict:
    return {"patients": 2 * run.profile.phantom_patients, "epochs": PRETRAINING_EPOCHS, "seed": 0}


def pretrained_student(run: RunFolder, data: CourseData) -> Path:
    """File of a student whose backbone has learned to name the layers of other phantoms; one for all seeds."""
    profile, settings, home = run.profile, _pretraining(run), ablations(run)
    model = build_model(profile.student, len(data.class_names), profile.channels, "none", settings["seed"])

    def fit(checkpoint: Path) -> TrainingResult:
        with threads(profile.student_training.threads):
            accuracy = pretrain_backbone(model, profile.image_size, profile.channels, **settings, progress=False)
        return TrainingResult(pd.DataFrame([settings | {"pixel_accuracy": accuracy}]), "last", {})

    path = home.network_file("student_pretrained")
    recipe = {"stage": "pretraining", "image": [profile.image_size, profile.channels]} | settings
    recipe |= {"network": asdict(profile.student)}
    stages.keep_network(home, model, path, full_recipe(recipe, (pretrain_backbone, models)), fit)
    return path


# --- comparing -------------------------------------------------------------------------------------------------------


def run_arms(
    run: RunFolder,
    data: CourseData,
    arms: Sequence[Arm],
    seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    alpha: float | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> dict[str, list[ArmResult]]:
    """Every arm with every seed: name -> results in the order of the seeds.

    seeds: of the students, and of the teachers where an arm trains them; None for as many as the profile has.
    temperature, alpha, jobs: as in `train_all`. The probabilities are kept in ``predictions.csv`` under the arm's name.
    An arm that tests the networks of another in another way trains nothing of its own.
    """
    seeds = list(range(run.profile.seeds)) if seeds is None else list(seeds)
    wanted = [(arm, seed) for arm in arms for seed in seeds]
    results: dict[str, list[ArmResult]] = {arm.name: [] for arm in arms}
    each = _train_each(run, data, wanted, (temperature, alpha, None), jobs, progress)
    for (arm, seed), trained in zip(wanted, each, strict=True):
        logits = stages.test_logits(run, data, trained.model, views=arm.test_views)
        stages.keep_predictions(run, data, arm.name, seed, logits)
        results[arm.name].append(ArmResult(logits, trained.reused, trained.steps, trained.seconds))
    return results


def compare_arms(
    data: CourseData,
    results: Mapping[str, Sequence[ArmResult]],
    baseline: str | None = None,
    arms: Mapping[str, Arm] = ARMS,
) -> pd.DataFrame:
    """A row an arm: its accuracy on the test scans, and the paired difference to the arm it is held against.

    results: as from `run_arms`. baseline: name of one arm to hold all against; None for each arm's own.
    Columns COMPARED: accuracy is the mean over seeds; estimate, low and high are the difference and its 95 % interval
    over patients and seeds, NaN where there is nothing to compare with; seeds and reused count networks; steps and
    seconds are means over seeds.
    Raises ValueError for a baseline without results.
    """
    if baseline is not None and baseline not in results:
        raise ValueError(f"no results of {baseline!r}; there are: {', '.join(results)}")
    rows = data.rows("test")
    right = {name: hits([one.logits for one in networks], data.target[rows]) for name, networks in results.items()}
    compared = []
    for name, networks in results.items():
        against = baseline or arms[name].against
        row = {"arm": name, "label": arms[name].label, "question": arms[name].question, "against": against}
        row["accuracy"] = right[name].mean()
        if against in right and against != name:
            row |= paired_difference(right[name], right[against], data.groups[rows])
        row |= {"seeds": len(networks), "reused": sum(one.reused for one in networks)}
        compared.append(row | {key: np.mean([getattr(one, key) for one in networks]) for key in ("steps", "seconds")})
    return pd.DataFrame(compared, columns=COMPARED)
