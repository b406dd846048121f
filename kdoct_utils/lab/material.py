"""What a network learns from: scans, labels that may be wrong, a patient's or few, and a teacher's answers."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import RARE_CLASS, StudentRecipe, TeacherRecipe
from kdoct_utils.lab.keep import file_hash, full_recipe, keep, keep_network, short_hash
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.learn import models
from kdoct_utils.learn.inference import ScanImages, cache_teacher_logits
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.pretraining import pretrain_backbone
from kdoct_utils.learn.trainer import TrainingResult, threads
from kdoct_utils.runs import RunFolder

PRETRAINING_EPOCHS = 4


def ablations(run: RunFolder) -> RunFolder:
    """The run in a folder of its own, for what only the ablations need."""
    return replace(run, path=run.path / "ablations")


# --- scans and labels ------------------------------------------------------------------------------------------------


def student_scans(data: CourseData, recipe: StudentRecipe, seed: int) -> ScanImages:
    """The scans that a student trains on, with the labels that the recipe gives them.

    seed: of the run; decides which labels are wrong, and which patients are labeled. Few patients' scans are repeated
    to about as many as all patients have, each repeat under a number of its own, so that it is seen in other views.
    Raises ValueError where the data have no second clinic.
    """
    rows = data.rows(recipe.scans)
    if not len(rows):
        raise ValueError(f"these data have no scans of {recipe.scans!r}: a second clinic is drawn for phantoms only")
    target = wrong_labels(data, recipe.noise, seed).target
    if recipe.labeled_by == "patient":
        target = data.table["patient_class"].map(data.class_names.index).to_numpy()
    if recipe.labeled_by == "nobody":
        target = np.zeros_like(target)  # never looked at: alpha is 1
    if recipe.rare:
        rows = without_most(data, rows, recipe.rare, seed)
    if not recipe.patients:
        return data.part("", rows=rows, target=target)
    few = rows_of_few(data, rows, recipe.patients, seed)
    repeats = max(1, round(len(rows) / len(few)))
    few = np.tile(few, repeats)
    return ScanImages(data.images, target[few], indices=len(data.table) + np.arange(len(few)), rows=few)


def without_most(data: CourseData, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """``rows`` without most patients of RARE_CLASS: a share of them stays, at least one."""
    if RARE_CLASS not in data.class_names:
        raise ValueError(f"no class {RARE_CLASS!r} to make rare; classes: {', '.join(data.class_names)}")
    rare = data.target[rows] == data.class_names.index(RARE_CLASS)
    patients = np.unique(data.groups[rows][rare])
    stay = np.random.default_rng((seed, 5)).permutation(patients)[: max(1, round(share * len(patients)))]
    return rows[~rare | np.isin(data.groups[rows], stay)]


def rows_of_few(data: CourseData, rows: np.ndarray, patients: int, seed: int) -> np.ndarray:
    """Of ``rows`` those of so many patients of each class, drawn by the seed."""
    generator, table = np.random.default_rng((seed, 3)), data.table.iloc[rows]
    drawn: list[str] = []
    for _, group in table.groupby("patient_class")["group"]:
        drawn += generator.permutation(np.unique(group))[:patients].tolist()
    return rows[table["group"].isin(drawn).to_numpy()]


def teacher_data(data: CourseData, recipe: TeacherRecipe, seed: int) -> CourseData:
    """The data with the training scans and labels of that teacher; validation and test stay."""
    data = wrong_labels(data, recipe.noise, seed)
    rows, role = data.rows("train"), data.role.copy()
    stay = rows_of_few(data, rows, recipe.patients, seed) if recipe.patients else rows
    if recipe.unseen:
        if recipe.unseen not in data.class_names:
            raise ValueError(f"unknown class {recipe.unseen!r}; classes: {', '.join(data.class_names)}")
        stay = stay[data.target[stay] != data.class_names.index(recipe.unseen)]
    role[np.setdiff1d(rows, stay)] = "unused"
    return replace(data, role=role)


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


# --- a teacher's answers ---------------------------------------------------------------------------------------------


def answers(run: RunFolder, data: CourseData, seed: int, teacher: nn.Module, file: Path, scans: str) -> np.ndarray:
    """The teacher's logits (epochs, n, classes) for the views that a student of that seed will see.

    file: the teacher's weights. scans: "train" or "clinic", as in `StudentRecipe`.
    """
    profile, epochs = run.profile, run.profile.student_training.epochs
    recipe = {
        "stage": "answers", "teacher": file_hash(file), "split": data.split_hash, "fold": data.fold, "seed": seed,
        "views": epochs, "scans": data.scans_hash, "augmentation": asdict(stages.student_views(profile)),
        "image": [profile.image_size, profile.channels],
    }  # fmt: skip
    recipe |= {"of": scans, "beyond": data.beyond} if scans == "clinic" else {}
    recipe = full_recipe(recipe, (cache_teacher_logits, models))

    def answer() -> dict[str, np.ndarray]:
        part, size, channels = data.part(scans), profile.image_size, profile.channels
        views = stages.student_views(profile)
        with threads(profile.student_training.threads):
            logits = cache_teacher_logits(teacher, part, views, seed, epochs, size, channels, progress=False)
        return {"logits": logits}

    folder = run.shared or ablations(run).path
    return keep(folder / f"answers_seed{seed}_{short_hash(recipe)}.safetensors", recipe, answer)["logits"].numpy()


def permuted(answers: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
    """The same answers (epochs, n, classes), each given to another scan with the same label; target: (n,).

    A student still learns what the teacher says of a class on average, and how sure it is, but nothing about a scan.
    """
    generator, order = np.random.default_rng((seed, 4)), np.arange(len(target))
    for label in np.unique(target):
        of_label = np.flatnonzero(target == label)
        order[of_label] = generator.permutation(of_label)
    return answers[:, order]


# --- start weights ---------------------------------------------------------------------------------------------------


def pretraining(run: RunFolder) -> dict:
    return {"patients": 2 * run.profile.phantom_patients, "epochs": PRETRAINING_EPOCHS, "seed": 0}


def pretrained_student(run: RunFolder, data: CourseData) -> Path:
    """File of a student whose backbone has learned to name the layers of other phantoms; one for all seeds."""
    profile, settings, home = run.profile, pretraining(run), ablations(run)
    model = build_model(profile.student, len(data.class_names), profile.channels, "none", settings["seed"])

    def fit(checkpoint: Path) -> TrainingResult:
        with threads(profile.student_training.threads):
            accuracy = pretrain_backbone(model, profile.image_size, profile.channels, **settings, progress=False)
        return TrainingResult(pd.DataFrame([settings | {"pixel_accuracy": accuracy}]), "last", {})

    path = home.network_file("student_pretrained")
    recipe = {"stage": "pretraining", "image": [profile.image_size, profile.channels]} | settings
    recipe |= {"network": asdict(profile.student)}
    keep_network(home, model, path, full_recipe(recipe, (pretrain_backbone, models)), fit)
    return path
