"""Train one arm of the ablations with one seed, or take it from the run folder.

Networks, their histories and teachers' answers are kept by recipe in ``ablations/`` in the run folder. Students that
notebook 05 has trained are taken from where it keeps them.
Where an arm has the usual views, the teacher answers beforehand, every view of every epoch: up to rounding that is
the live teacher, and all arms of a seed share the answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import ARMS, LIGHT, Arm, StudentRecipe, TeacherRecipe, changed
from kdoct_utils.lab.keep import file_hash, recipe_of, short_hash, take_or_answer, take_or_train
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.learn.inference import cache_teacher_logits
from kdoct_utils.learn.models import build_model, load_backbone
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
from kdoct_utils.learn.trainer import TrainingResult
from kdoct_utils.profiles import TrainingConfig
from kdoct_utils.runs import RunFolder

AUGMENTATIONS = {"student": STUDENT, "light": weakened(STUDENT, LIGHT), "heavy": TEACHER}
DISTILLATIONS = {"kd": DistillationObjective, "dkd": DKDObjective, "dist": DISTObjective}
COURSE_KINDS = {
    StudentRecipe(objective="labels"): "alone",
    StudentRecipe(): "kd",
    StudentRecipe(answers="scan"): "cached",
}
NOISY_TEACHER = TeacherRecipe(noise=ARMS["noisy_kd"].recipe.noise)
PRETRAINING_EPOCHS = 4


@dataclass(frozen=True)
class ArmResult:
    """A network of an arm. logits: (n_test, classes). reused: nothing was trained now.

    steps: optimizer steps of its training. seconds: what the training took, whenever that was.
    """

    logits: np.ndarray
    reused: bool
    steps: int
    seconds: float


def lab(run: RunFolder) -> RunFolder:
    """The run in a folder of its own, for what only the ablations need."""
    return replace(run, path=run.path / "ablations")


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


# --- one arm ---------------------------------------------------------------------------------------------------------


def train_arm(
    run: RunFolder,
    data: CourseData,
    arm: Arm,
    seed: int,
    teacher_model: nn.Module | None = None,
    progress: bool = True,
) -> ArmResult:
    """The network of an arm and seed, taken from the run folder or trained now, and its logits of the test scans.

    teacher_model: the run's teacher; None takes it from the run folder, or trains it.
    The probabilities are kept in ``predictions.csv`` under the arm's name.
    """
    model, result = arm_network(run, data, arm, seed, teacher_model, progress)
    logits = stages.test_logits(run, data, model, views=arm.test_views)
    stages.keep_predictions(run, data, arm.name, seed, logits)
    return replace(result, logits=logits)


def arm_network(
    run: RunFolder,
    data: CourseData,
    arm: Arm,
    seed: int,
    teacher_model: nn.Module | None = None,
    progress: bool = True,
) -> tuple[nn.Module, ArmResult]:
    """The network itself, taken or trained as in `train_arm`; the result has no logits yet."""
    if arm.network == "teacher":
        pair, result = train_teachers(run, data, arm.recipe, seed, progress)
        return pair[arm.recipe.weights], result
    return _student(run, data, arm.recipe, seed, teacher_model, progress)


def _student(
    run: RunFolder,
    data: CourseData,
    recipe: StudentRecipe,
    seed: int,
    teacher_model: nn.Module | None,
    progress: bool,
) -> tuple[nn.Module, ArmResult]:
    config = _scaled(run.profile.student_training, recipe.effort)
    teacher, teacher_file = _teacher_of(run, data, recipe, teacher_model, progress)
    home, name, wanted = _student_recipe(run, data, recipe, seed, config, teacher_file)
    model = _new_student(run, data, recipe, seed, progress)
    noisy = wrong_labels(data, recipe.noise, run.seed)
    varied = replace(run, profile=replace(run.profile, student_training=config))

    def train(checkpoint: Path) -> TrainingResult:
        objective = _objective(run, data, recipe, seed, teacher, progress)
        return stages.student_trainer(
            varied, noisy, model, objective, seed, augmentation=AUGMENTATIONS[recipe.augmentation],
            checkpoint=checkpoint, progress=progress,
        ).fit()  # fmt: skip

    reused = take_or_train(home, model, home.path / f"{name}.safetensors", wanted, train, name)
    return model, _result(home, data, name, config, reused)


def _student_recipe(
    run: RunFolder,
    data: CourseData,
    recipe: StudentRecipe,
    seed: int,
    config: TrainingConfig,
    teacher_file: Path | None,
) -> tuple[RunFolder, str, dict]:
    """Where a student is kept, under which name, and by which recipe."""
    temperature, alpha = _temperature_and_alpha(run, recipe)
    kind = COURSE_KINDS.get(recipe)
    if kind:  # notebook 05 trains the same: take its student, but never overwrite one of another recipe
        wanted = stages.student_recipe(run, data, kind, seed, temperature, alpha)
        path = run.student_file(kind, seed)
        same = recipe_of(path) == json.dumps(wanted, sort_keys=True)
        return run if same else lab(run), path.stem, wanted
    wanted = _common_recipe(run, data, recipe, seed, config)
    if teacher_file:
        wanted |= {"teacher": file_hash(teacher_file), "temperature": temperature, "alpha": alpha}
    if recipe.start == "phantom":
        wanted["pretraining"] = _pretraining(run)
    return lab(run), training_name(recipe, seed), wanted


def _objective(
    run: RunFolder,
    data: CourseData,
    recipe: StudentRecipe,
    seed: int,
    teacher: nn.Module | None,
    progress: bool,
) -> Objective:
    temperature, alpha = _temperature_and_alpha(run, recipe)
    if recipe.objective == "labels":
        return CrossEntropyObjective()
    if recipe.objective == "focal":
        return FocalObjective(run.profile.gamma)
    if recipe.objective == "mixup":
        return ConsistentMixupObjective(teacher, temperature, seed)
    source = teacher
    if recipe.answers == "scan":
        source = CachedLogits(stages.teacher_logits(run, data, teacher, progress=progress)[None], replay=False)
    elif recipe.can_be_kept and recipe not in COURSE_KINDS:
        answers = _answers(run, data, seed, teacher, progress)[: recipe.views or None]
        source = CachedLogits(answers, data.rows("train"))
    return DISTILLATIONS[recipe.objective](source, temperature, alpha)


def _answers(run: RunFolder, data: CourseData, seed: int, teacher: nn.Module, progress: bool) -> np.ndarray:
    """The run's teacher's logits (epochs, n_train, classes) for the views that a student of that seed will see."""
    profile = run.profile
    epochs = profile.student_training.epochs
    recipe = {
        "stage": "answers", "teacher": file_hash(run.teacher_file), "split": data.split_hash, "fold": data.fold,
        "seed": seed, "views": epochs, "augmentation": asdict(STUDENT), "image": [profile.image_size, profile.channels],
    }  # fmt: skip
    path = (run.shared or lab(run).path) / f"answers_seed{seed}_{short_hash(recipe)}.safetensors"

    def answer() -> np.ndarray:
        train, size, channels = data.part("train"), profile.image_size, profile.channels
        return cache_teacher_logits(teacher, train, STUDENT, seed, epochs, size, channels, progress=progress)

    return take_or_answer(path, recipe, answer)


# --- start weights and teachers --------------------------------------------------------------------------------------


def _new_student(run: RunFolder, data: CourseData, recipe: StudentRecipe, seed: int, progress: bool) -> nn.Module:
    if recipe.start == "profile":
        return stages.new_student(run, data, seed)
    model = build_model(run.profile.student, len(data.class_names), run.profile.channels, "none", seed)
    if recipe.start == "phantom":
        load_backbone(model, pretrained_student(run, data, progress))
    return model


def _pretraining(run: RunFolder) -> dict:
    return {"patients": 2 * run.profile.phantom_patients, "epochs": PRETRAINING_EPOCHS, "seed": 0}


def pretrained_student(run: RunFolder, data: CourseData, progress: bool) -> Path:
    """File of a student whose backbone has learned to name the layers of other phantoms; one for all seeds."""
    profile, settings, home = run.profile, _pretraining(run), lab(run)
    model = build_model(profile.student, len(data.class_names), profile.channels, "none", settings["seed"])

    def train(checkpoint: Path) -> TrainingResult:
        accuracy = pretrain_backbone(model, profile.image_size, profile.channels, **settings, progress=progress)
        return TrainingResult(pd.DataFrame([settings | {"pixel_accuracy": accuracy}]), "last", {})

    path = home.path / "student_pretrained.safetensors"
    recipe = {"stage": "pretraining", "image": [profile.image_size, profile.channels]} | settings
    take_or_train(home, model, path, recipe, train, path.stem)
    return path


def _teacher_of(
    run: RunFolder, data: CourseData, recipe: StudentRecipe, teacher_model: nn.Module | None, progress: bool
) -> tuple[nn.Module | None, Path | None]:
    """The teacher that a student learns from, and its file; None twice where it learns from labels alone."""
    if not recipe.asks_teacher:
        return None, None
    if recipe.teacher == "noisy":
        pair, _ = train_teachers(run, data, NOISY_TEACHER, run.seed, progress)
        return pair["average"], lab(run).path / f"{training_name(NOISY_TEACHER, run.seed)}.safetensors"
    if teacher_model is None:
        teacher_model = stages.teacher(run, data, progress=progress)
    return teacher_model, run.teacher_file


def train_teachers(
    run: RunFolder, data: CourseData, recipe: TeacherRecipe, seed: int, progress: bool
) -> tuple[nn.ModuleDict, ArmResult]:
    """Both sets of weights of one teacher's training, its "best" epoch and its "average": trained or taken."""
    profile, home = run.profile, lab(run)
    config = _scaled(profile.teacher_training, recipe.effort)
    start = profile.start_weights if recipe.start == "profile" else recipe.start
    varied = replace(run, seed=seed, profile=replace(profile, start_weights=start, teacher_training=config))
    pair = nn.ModuleDict({weights: stages.new_teacher(varied, data) for weights in ("best", "average")})
    gamma = profile.gamma if recipe.gamma is None else recipe.gamma
    noisy = wrong_labels(data, recipe.noise, run.seed)

    def train(checkpoint: Path) -> TrainingResult:
        trainer = stages.teacher_trainer(varied, noisy, pair["best"], gamma, checkpoint=checkpoint, progress=progress)
        result = trainer.fit()
        trainer.load("swa")
        pair["average"].to(trainer.device).load_state_dict(pair["best"].state_dict())
        trainer.load("best")
        return result

    name = training_name(recipe, seed)
    wanted = _common_recipe(run, data, recipe, seed, config) | {"gamma": gamma, "start_weights": start}
    reused = take_or_train(home, pair, home.path / f"{name}.safetensors", wanted, train, name)
    return pair, _result(home, data, name, config, reused)


# --- what they share -------------------------------------------------------------------------------------------------


def _scaled(config: TrainingConfig, effort: float) -> TrainingConfig:
    """More epochs need more patience, or an arm that is to train longer would be stopped as early as the others."""
    patience = round(max(1.0, effort) * config.patience)
    return replace(config, epochs=max(1, round(effort * config.epochs)), patience=patience)


def _temperature_and_alpha(run: RunFolder, recipe: StudentRecipe) -> tuple[float, float]:
    profile = run.profile
    return (
        profile.temperature if recipe.temperature is None else recipe.temperature,
        profile.alpha if recipe.alpha is None else recipe.alpha,
    )


def _common_recipe(
    run: RunFolder, data: CourseData, recipe: StudentRecipe | TeacherRecipe, seed: int, config: TrainingConfig
) -> dict:
    wanted = {"stage": "ablation", "network": type(recipe).__name__, "changes": changed(recipe), "seed": seed}
    wanted |= {"split": data.split_hash, "fold": data.fold, "epochs": config.epochs}
    if recipe.effort > 1:
        wanted["patience"] = config.patience
    return wanted | ({"noise_seed": run.seed} if recipe.noise else {})


def training_name(recipe: StudentRecipe | TeacherRecipe, seed: int) -> str:
    """Name of a training: arms that only test it in another way share it."""
    network = "student" if isinstance(recipe, StudentRecipe) else "teacher"
    changes = [f"{key}-{value}" for key, value in changed(recipe).items()]
    return "_".join([network, *(changes or ["usual"]), f"seed{seed}"])


def _result(home: RunFolder, data: CourseData, name: str, config: TrainingConfig, reused: bool) -> ArmResult:
    history = pd.read_csv(home.history_file(name))
    epochs = history["seconds"].notna().sum()  # the row of the average has none
    steps = steps_per_epoch(len(data.rows("train")), config.batch_size, config.accumulation)
    return ArmResult(np.empty(0), reused, int(epochs * steps), float(history["seconds"].sum()))
