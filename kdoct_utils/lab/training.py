"""Train one arm with one seed, or take it from the run folder: `train` is the one door to a network of any arm.

`kdoct_utils.lab.arms` says what the arms are. Notebook 05's students lie in the run folder, all others in its
``ablations/``. Where such an arm has the usual views, the teacher answers beforehand, every view of every epoch: up to
rounding that is the live teacher, and all arms of a seed share its answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import LIGHT, TEACHERS_OF, Arm, StudentRecipe, changed, find_arm
from kdoct_utils.lab.keep import file_hash, full_recipe, keep_network, why_again
from kdoct_utils.lab.material import (
    ablations,
    answers,
    permuted,
    pretrained_student,
    pretraining,
    student_scans,
    teacher_data,
)
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.learn import models
from kdoct_utils.learn.inference import ScanImages
from kdoct_utils.learn.losses import balanced_class_weights
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
    OneSidedObjective,
)
from kdoct_utils.learn.pipelines import STUDENT, TEACHER, weakened
from kdoct_utils.learn.pretraining import pretrain_backbone
from kdoct_utils.learn.schedules import steps_per_epoch
from kdoct_utils.learn.trainer import TrainingResult, threads
from kdoct_utils.profiles import Profile, TrainingConfig, check_parameter
from kdoct_utils.runs import RunFolder

AUGMENTATIONS = {"student": None, "light": weakened(STUDENT, LIGHT), "heavy": TEACHER}  # None: the profile's
OBJECTIVES = {
    "kd": DistillationObjective, "labels": CrossEntropyObjective, "focal": FocalObjective, "dkd": DKDObjective,
    "dist": DISTObjective, "mixup": ConsistentMixupObjective, "one_sided": OneSidedObjective,
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A network of an arm, in eval mode, and its training. reused: it was there. steps: of the optimizer.

    logits: (n_test, classes), and then no model, where `experiments.run_arms` has asked it.
    """

    file: Path
    history: pd.DataFrame
    steps: int
    reused: bool
    model: nn.Module | None = None
    logits: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        """What the training took, whenever that was."""
        return float(self.history["seconds"].sum())


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
    the profile's. Other values than the profile's show in the names of the files, so that no network replaces another.
    teacher: weights of another teacher than the run's, to learn from.
    Raises ValueError for an unknown arm, or a temperature or alpha out of range.
    """
    training = plan(run, data, arm, seed, temperature, alpha, teacher)
    model = training.build()

    def fit(checkpoint: Path) -> TrainingResult:
        return training.fit(model, checkpoint=checkpoint, name=training.title, progress=progress)

    reused = keep_network(training.home, model, training.file, training.recipe, fit)
    history = pd.read_csv(training.history_file)
    per_epoch = steps_per_epoch(training.scans, training.config.batch_size, training.config.accumulation)
    steps = int(history["seconds"].notna().sum() * per_epoch)  # the row of the average has no seconds
    network = model[training.arm.recipe.weights] if training.arm.network == "teacher" else model
    return Trained(training.file, history, steps, reused, network)


# --- what a training is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """All that is known of a training before anything is built. arm: with the temperature and alpha that it will have.

    home, name: where its files lie, and what they are called. scans: their number. build: makes the network. fit:
    trains it, given what else `Trainer` takes.
    """

    arm: Arm
    home: RunFolder
    name: str
    config: TrainingConfig
    scans: int
    recipe: dict
    build: Callable[[], nn.Module]
    fit: Callable[..., TrainingResult]

    @property
    def title(self) -> str:
        return f"{self.arm.label}, seed {self.recipe['seed']}"

    @property
    def file(self) -> Path:
        return self.home.network_file(self.name)

    @property
    def history_file(self) -> Path:
        return self.home.history_file(self.name)

    @property
    def is_missing(self) -> bool:
        return why_again(self.file, self.recipe, [self.history_file]) is not None

    @property
    def cost(self) -> float:
        """Epochs, beside others; a live teacher takes as long again."""
        recipe = self.arm.recipe
        live = isinstance(recipe, StudentRecipe) and (self.arm.course or not recipe.can_be_kept)
        return recipe.effort * (1 + live)


def plan(
    run: RunFolder,
    data: CourseData,
    arm: str | Arm,
    seed: int,
    temperature: float | None = None,
    alpha: float | None = None,
    teacher: Path | None = None,
) -> Training:
    """What `train` would do. A teacher that the arm learns from is made now where it is missing."""
    arm = find_arm(arm)
    arm = find_arm(arm.against) if arm.test_views else arm  # only tested in another way
    if arm.network == "teacher":
        return _teacher_training(run, data, arm, seed)
    return _student_training(run, data, _completed(arm, run.profile, temperature, alpha), seed, teacher)


def _completed(arm: Arm, profile: Profile, temperature: float | None, alpha: float | None) -> Arm:
    """The arm with a temperature and an alpha that are not the profile's, where it has none of its own."""
    given = {"temperature": temperature, "alpha": alpha}
    given = {name: float(check_parameter(name, value)) for name, value in given.items() if value is not None}
    own = {
        name: value for name, value in given.items()
        if value != getattr(profile, name) and getattr(arm.recipe, name) is None and arm.recipe.asks_teacher
    }  # fmt: skip
    return replace(arm, changes=dict(arm.changes) | own)


def training_name(arm: Arm, seed: int) -> str:
    """Name of a training's files: arms that only test it in another way share it."""
    if arm.course:
        set_here = {name: getattr(arm.recipe, name) for name in ("temperature", "alpha")}
        changes, first = {name: value for name, value in set_here.items() if value is not None}, arm.name
    else:
        changes, first = changed(arm.recipe), arm.network if changed(arm.recipe) else f"{arm.network}_usual"
    return "_".join([first, *(f"{key}-{value}" for key, value in changes.items()), f"seed{seed}"])


def _student_training(run: RunFolder, data: CourseData, arm: Arm, seed: int, teacher: Path | None) -> Training:
    recipe, profile = arm.recipe, run.profile
    config = _scaled(profile.student_training, recipe.effort)
    if recipe.scans == "clinic":
        config = replace(config, select_on="last")  # nobody there has clean labels to choose by
    network = profile.lite_student if recipe.student == "lite" else profile.student
    varied = replace(run, profile=replace(profile, student_training=config, student=network))
    temperature = profile.temperature if recipe.temperature is None else recipe.temperature
    alpha = profile.alpha if recipe.alpha is None else recipe.alpha
    wanted = stages.training_recipe(varied, data, "student", seed) | _changes(run, arm)
    code = [stages.new_student, stages.student_trainer, student_scans, OBJECTIVES[recipe.objective], models]
    if recipe.asks_teacher:
        wanted |= {"teacher": file_hash(_teacher_file(run, data, recipe, teacher))}
        wanted |= {"temperature": temperature, "alpha": alpha}
    if recipe.objective == "focal":
        wanted["gamma"] = profile.gamma
    if recipe.scans == "clinic":
        wanted |= {"beyond": data.beyond}
    if recipe.start == "phantom":
        wanted["pretraining"] = pretraining(run)
        code.append(pretrain_backbone)

    scans = student_scans(data, recipe, run.seed)

    def build() -> nn.Module:
        if recipe.start == "profile":
            return stages.new_student(varied, data, seed)
        model = build_model(network, len(data.class_names), profile.channels, "none", seed)
        if recipe.start == "phantom":
            load_backbone(model, pretrained_student(run, data))
        return model

    def fit(model: nn.Module, **options: object) -> TrainingResult:
        objective = _objective(run, data, arm, scans, seed, teacher, temperature, alpha)
        options |= {"train": scans, "augmentation": AUGMENTATIONS[recipe.augmentation]}
        return stages.student_trainer(varied, data, model, objective, seed, **options).fit()

    home = run if arm.course else ablations(run)
    recipe_of_all = full_recipe(wanted, code)
    return Training(arm, home, training_name(arm, seed), config, len(scans), recipe_of_all, build, fit)


def _teacher_training(run: RunFolder, data: CourseData, arm: Arm, seed: int) -> Training:
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

    def build() -> nn.ModuleDict:
        return nn.ModuleDict({weights: stages.new_teacher(varied, data) for weights in ("best", "average")})

    taught = teacher_data(data, recipe, run.seed)

    def fit(pair: nn.ModuleDict, **options: object) -> TrainingResult:
        trainer = stages.teacher_trainer(varied, taught, pair["best"], **options)
        result = trainer.fit()
        with threads(varied.profile.teacher_training.threads):
            trainer.load("swa")
        pair["average"].to(trainer.device).load_state_dict(pair["best"].state_dict())
        trainer.load("best")
        return result

    wanted = stages.teacher_recipe(varied, data) | _changes(run, arm)
    config = varied.profile.teacher_training
    scans = len(taught.rows("train"))
    return Training(arm, ablations(run), training_name(arm, seed), config, scans, wanted, build, fit)


def _changes(run: RunFolder, arm: Arm) -> dict:
    drawn = arm.recipe.noise or arm.recipe.patients
    return {"changes": changed(arm.recipe)} | ({"noise_seed": run.seed} if drawn else {})


def _scaled(config: TrainingConfig, effort: float) -> TrainingConfig:
    """More epochs need more patience, or an arm that is to train longer would be stopped as early as the others."""
    patience = round(max(1.0, effort) * config.patience)
    return replace(config, epochs=max(1, round(effort * config.epochs)), patience=patience)


# --- what a student learns from --------------------------------------------------------------------------------------


def _teacher_file(run: RunFolder, data: CourseData, recipe: StudentRecipe, teacher: Path | None) -> Path:
    """The file of the teacher that a student learns from, trained now where it is missing."""
    if recipe.teacher != "course":
        return train(run, data, TEACHERS_OF[recipe.teacher], run.seed, progress=False).file
    return teacher or stages.teacher_file(run, data, progress=False)


def _teacher(run: RunFolder, data: CourseData, recipe: StudentRecipe, teacher: Path | None) -> nn.Module:
    if recipe.teacher != "course":
        return train(run, data, TEACHERS_OF[recipe.teacher], run.seed, progress=False).model
    if teacher is None:
        return stages.teacher(run, data, progress=False)
    load_weights(model := stages.new_teacher(run, data), teacher)
    return model


def _objective(
    run: RunFolder, data: CourseData, arm: Arm, scans: ScanImages, seed: int, teacher: Path | None, temperature: float,
    alpha: float,
) -> Objective:  # fmt: skip
    recipe = arm.recipe
    weights = balanced_class_weights(scans.target, len(data.class_names)) if recipe.class_weights else None
    if recipe.objective == "labels":
        return CrossEntropyObjective(recipe.smoothing, weights)
    if recipe.objective == "focal":
        return FocalObjective(run.profile.gamma, weights)
    model = _teacher(run, data, recipe, teacher)
    if recipe.objective == "mixup":
        return ConsistentMixupObjective(model, temperature, seed)
    source: nn.Module | CachedLogits = model
    if recipe.answers == "scan":
        source = CachedLogits(stages.teacher_logits(run, data, model, progress=False)[None], replay=False)
    elif recipe.can_be_kept and not arm.course:
        found = answers(run, data, seed, model, _teacher_file(run, data, recipe, teacher), recipe.scans)
        if recipe.answers == "permuted":  # among scans of one label; without labels, of what the teacher says
            labels = found[0].argmax(axis=1) if recipe.labeled_by == "nobody" else scans.target.numpy()
            found = permuted(found, labels, run.seed)
        source = CachedLogits(found[: recipe.views or None], data.rows(recipe.scans))
    return OBJECTIVES[recipe.objective](source, temperature, alpha)
