"""What a notebook takes from the run folder, and makes there when it is missing.

Each stage is kept with its recipe: the split, the seed, the teacher and the hyper-parameters that
made it. A stage whose recipe is another is made again, never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from torch import nn

from kdoct_utils.data.cache import open_pictures, picture_key
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.scans import ScanSet, read_scans
from kdoct_utils.data.splits import load_splits, make_splits, official_splits, save_splits
from kdoct_utils.judge.metrics import evaluate, probabilities
from kdoct_utils.lab.keep import file_hash, short_hash, take_or_answer, take_or_train
from kdoct_utils.learn.inference import ScanImages, cache_teacher_logits, predict_logits
from kdoct_utils.learn.losses import balanced_class_weights
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.objectives import (
    CachedLogits,
    CrossEntropyObjective,
    DistillationObjective,
    FocalObjective,
    Objective,
)
from kdoct_utils.learn.pipelines import EVALUATION, STUDENT, TEACHER, AugmentConfig, weakened
from kdoct_utils.learn.trainer import Trainer, TrainingResult
from kdoct_utils.runs import RunFolder, atomic_path, link_or_copy, read_json, write_json

STUDENT_KINDS = ("alone", "kd", "cached")
PREDICTION_COLUMNS = ["network", "seed", "fold", "scan_id", "group", "label"]


@dataclass(frozen=True)
class CourseData:
    """Scans, pictures and split of a run, in one order.

    table: SCAN_COLUMNS and what else the dataset has; images: uint8 (n, R, R) memory map; role: (n,) "train",
    "validation", "test" or "unused"; hashes: scan_id to SHA-256; split_hash: of the file that says the roles.
    """

    table: pd.DataFrame
    images: np.ndarray
    role: np.ndarray
    class_names: tuple[str, ...]
    provenance: dict
    hashes: dict[str, str]
    split: pd.DataFrame
    split_hash: str
    fold: int

    @property
    def target(self) -> np.ndarray:
        return self.table["target"].to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """(n,) the independent patients: what is split, resampled and counted."""
        return self.table["group"].to_numpy(dtype=object)

    def rows(self, role: str) -> np.ndarray:
        """Row numbers of a role."""
        return np.flatnonzero(self.role == role)

    def part(self, role: str, rows: np.ndarray | None = None, target: np.ndarray | None = None) -> ScanImages:
        """The scans of a role for training or prediction; rows and target (n,) replace the role's own."""
        rows = self.rows(role) if rows is None else np.asarray(rows)
        target = self.target if target is None else target
        return ScanImages(self.images, target[rows], rows=rows)


def course_data(run: RunFolder, fold: int | None = None, progress: bool = True) -> CourseData:
    """Read the scans, cache their pictures and write the split, or take all three from the run folder.

    fold: whose test patients are tested; None: the run's.
    Raises ScanError or SplitError for faults in the data, SplitError for an unknown fold.
    """
    fold = run.options.fold if fold is None else fold
    if not _has_data(run):
        _share_data(run, progress) if run.shared else _read_into(run, progress)
    record = read_json(run.provenance_file)
    types = {"scan_id": str, "path": str, "patient": str, "group": str, "eye": str, "slice": "Int64"}
    table = pd.read_csv(run.table_file, dtype=types, keep_default_na=False, na_values={"slice": [""]})
    if not run.splits_file.exists():
        split = new_split(run, table, record["class_names"])
        record["split_hash"] = save_splits(split, run.splits_file)
        write_json(run.provenance_file, record)
    split = load_splits(run.splits_file, table, record.get("split_hash"))
    part = split[split["fold"] == fold]
    if part.empty:
        raise ValueError(f"no fold {fold}; folds of this split: 0 to {split['fold'].max()}")
    return CourseData(
        table=table.drop(columns="image_hash"),
        images=_images(run, table, progress),
        role=table["scan_id"].map(part.set_index("scan_id")["role"]).to_numpy(dtype=object),
        class_names=tuple(record["class_names"]),
        provenance=record["provenance"],
        hashes=dict(zip(table["scan_id"], table["image_hash"], strict=True)),
        split=split,
        split_hash=split.attrs["hash"],
        fold=fold,
    )


def new_split(run: RunFolder, table: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The split that the run's options ask for: folds over patients, or the publishers' test part held out."""
    settings = {"class_names": class_names, "allow_tiny": True}
    if run.options.split == "official":
        return official_splits(table, run.seed, keep_shared=run.options.keep_shared, **settings)
    return make_splits(table, run.seed, **settings)


def _has_data(run: RunFolder) -> bool:
    drawn = run.data_root is None  # pictures of files lie in the cache, which may be emptied at any time
    return run.provenance_file.exists() and run.table_file.exists() and (run.images_file.exists() or not drawn)


def _images(run: RunFolder, table: pd.DataFrame, progress: bool) -> np.ndarray:
    """The pictures in the order of the table, a memory map: drawn ones from the run folder, others from the cache."""
    profile = run.profile
    if run.data_root is None:
        return np.load(run.images_file, mmap_mode="r")
    kept = open_pictures(picture_key(table["image_hash"].tolist(), profile.resize_size, profile.crop_to_band))
    if kept is not None:
        return kept
    scans = _read(run, progress)
    changed = set(zip(table["scan_id"], table["image_hash"], strict=True)) ^ set(scans.hashes.items())
    if changed:
        raise ScanError(
            f"the scans in {run.data_root} are no longer those of this run: {len(changed)} differ, such as "
            f"{min(changed)[0]}; choose another run_dir"
        )
    return scans.images(profile.resize_size, profile.crop_to_band, progress=progress)


def _read(run: RunFolder, progress: bool) -> ScanSet:
    return read_scans(
        run.dataset, run.data_root, profile=run.profile, seed=run.seed, options=run.options, progress=progress
    )


def _share_data(run: RunFolder, progress: bool) -> None:
    """Take the scans and the split of a sweep's other runs on the same data; the first of them makes both."""
    same = {"dataset": run.dataset, "root": str(run.data_root), "seed": run.seed, "profile": run.profile.name}
    options = asdict(run.options) | {"fold": 0}  # one split serves all folds
    folder = run.shared / f"data_{short_hash(same | options)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        together = replace(run, path=folder, shared=None)
        course_data(together, fold=0, progress=progress)
    for name in ("images_file", "table_file", "splits_file", "provenance_file"):
        if getattr(together, name).exists():
            link_or_copy(getattr(together, name), getattr(run, name))


def _read_into(run: RunFolder, progress: bool) -> None:
    scans = _read(run, progress)
    pictures = scans.images(run.profile.resize_size, run.profile.crop_to_band, progress=progress)
    if scans.source is None:
        with atomic_path(run.images_file) as temporary:
            np.save(temporary, pictures)
    with atomic_path(run.table_file) as temporary:
        scans.table.assign(image_hash=scans.table["scan_id"].map(scans.hashes)).to_csv(temporary, index=False)
    write_json(run.provenance_file, {"class_names": scans.class_names, "provenance": scans.provenance})


# --- teacher ---------------------------------------------------------------------------------------------------------


def new_teacher(run: RunFolder, data: CourseData) -> nn.Module:
    """The profile's teacher with its start weights and a fresh head."""
    profile = run.profile
    return build_model(profile.teacher, len(data.class_names), profile.channels, profile.start_weights, run.seed)


def teacher_trainer(
    run: RunFolder,
    data: CourseData,
    model: nn.Module,
    gamma: float | None = None,
    *,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Trainer:
    """The paper's teacher training: focal loss with balanced class weights, heavy augmentation, SWA."""
    profile = run.profile
    train = data.part("train")
    weights = balanced_class_weights(train.target, len(data.class_names))
    return Trainer(
        model,
        FocalObjective(profile.gamma if gamma is None else gamma, weights),
        train,
        data.part("validation"),
        profile.teacher_training,
        augmentation=weakened(TEACHER, profile.teacher_augmentation),
        image_size=profile.image_size,
        channels=profile.channels,
        seed=run.seed,
        checkpoint=checkpoint,
        progress=progress,
    )


def teacher(run: RunFolder, data: CourseData, gamma: float | None = None, progress: bool = True) -> nn.Module:
    """The trained teacher in eval mode: from the run folder, or trained now."""
    recipe = {"stage": "teacher", "seed": run.seed, "split": data.split_hash, "fold": data.fold}
    recipe["gamma"] = run.profile.gamma if gamma is None else gamma
    model = new_teacher(run, data)

    def train(checkpoint: Path) -> TrainingResult:
        return teacher_trainer(run, data, model, gamma, checkpoint=checkpoint, progress=progress).fit()

    take_or_train(run, model, run.teacher_file, recipe, train, "teacher")
    return model


def teacher_logits(run: RunFolder, data: CourseData, model: nn.Module, progress: bool = True) -> np.ndarray:
    """The teacher's logits (n, classes) for every scan as it is, without augmentation."""
    profile = run.profile
    recipe = {"stage": "teacher_logits", "teacher": file_hash(run.teacher_file), "split": data.split_hash}

    def answer() -> np.ndarray:
        everything = data.part("", rows=np.arange(len(data.table)))
        size, channels = profile.image_size, profile.channels
        return cache_teacher_logits(model, everything, EVALUATION, 0, 1, size, channels, progress=progress)[0]

    return take_or_answer(run.teacher_logits_file, recipe, answer)


# --- students --------------------------------------------------------------------------------------------------------


def new_student(run: RunFolder, data: CourseData, seed: int) -> nn.Module:
    """The profile's student: ImageNet weights where the profile starts from them, else fresh ones of that seed."""
    profile = run.profile
    start = "imagenet" if profile.start_weights == "imagenet" else "none"  # phantom weights are a teacher's
    return build_model(profile.student, len(data.class_names), profile.channels, start, seed)


def student_trainer(
    run: RunFolder,
    data: CourseData,
    model: nn.Module,
    objective: Objective,
    seed: int,
    *,
    train: ScanImages | None = None,
    augmentation: AugmentConfig = STUDENT,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Trainer:
    """The profile's student training for any objective; train replaces the training scans."""
    return Trainer(
        model,
        objective,
        data.part("train") if train is None else train,
        data.part("validation"),
        run.profile.student_training,
        augmentation=augmentation,
        image_size=run.profile.image_size,
        channels=run.profile.channels,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )


def student_objective(
    run: RunFolder, data: CourseData, kind: str, teacher_model: nn.Module | None, temperature: float, alpha: float
) -> Objective:
    """What a student of that kind is trained for: labels alone, a live teacher, or the teacher's kept logits."""
    if kind not in STUDENT_KINDS:
        raise ValueError(f"unknown kind of student {kind!r}; valid kinds: {', '.join(STUDENT_KINDS)}")
    if kind == "alone":
        return CrossEntropyObjective()
    if teacher_model is None:
        raise ValueError(f"a {kind!r} student needs a teacher")
    if kind == "kd":
        return DistillationObjective(teacher_model, temperature, alpha)
    logits = teacher_logits(run, data, teacher_model, progress=False)
    return DistillationObjective(CachedLogits(logits[None], replay=False), temperature, alpha)


def student_recipe(
    run: RunFolder, data: CourseData, kind: str, seed: int, temperature: float, alpha: float
) -> dict[str, object]:
    """All that a student of the course follows from, as kept with its weights."""
    recipe = {"stage": "student", "kind": kind, "seed": seed, "split": data.split_hash, "fold": data.fold}
    if kind != "alone":
        recipe |= {"teacher": file_hash(run.teacher_file), "temperature": temperature, "alpha": alpha}
    return recipe


def student(
    run: RunFolder,
    data: CourseData,
    kind: str,
    seed: int,
    teacher_model: nn.Module | None = None,
    temperature: float | None = None,
    alpha: float | None = None,
    progress: bool = True,
) -> nn.Module:
    """A trained student in eval mode: from the run folder, or trained now.

    kind: "alone" (cross-entropy), "kd" (a live teacher sees every view) or "cached" (the teacher's
    logits for the plain scan). seed: of weights, order, augmentation and dropout.
    """
    temperature = run.profile.temperature if temperature is None else temperature
    alpha = run.profile.alpha if alpha is None else alpha
    recipe = student_recipe(run, data, kind, seed, temperature, alpha)
    model = new_student(run, data, seed)
    name = f"student_{kind}_seed{seed}"

    def train(checkpoint: Path) -> TrainingResult:
        objective = student_objective(run, data, kind, teacher_model, temperature, alpha)
        return student_trainer(run, data, model, objective, seed, checkpoint=checkpoint, progress=progress).fit()

    take_or_train(run, model, run.student_file(kind, seed), recipe, train, name)
    return model


def test_logits(run: RunFolder, data: CourseData, model: nn.Module, views: bool = False) -> np.ndarray:
    """Logits (n_test, classes) of the test scans; views: averaged over the five test-time views."""
    return predict_logits(model, data.part("test"), run.profile.image_size, run.profile.channels, views=views)


def keep_predictions(run: RunFolder, data: CourseData, network: str, seed: int, logits: np.ndarray) -> None:
    """Keep the probabilities of the test scans in ``predictions.csv``, for comparisons over runs and folds.

    network: a name as in metrics.json, such as "student_kd". seed: of its training. logits: (n_test, classes).
    Rows of the same network, seed and fold are replaced. One row a test scan: PREDICTION_COLUMNS, then p_<class>.
    """
    rows = data.rows("test")
    of_class = probabilities(logits)  # (n_test, classes)
    table = data.table.iloc[rows][["scan_id", "group", "label"]].assign(network=network, seed=seed, fold=data.fold)
    table = table[PREDICTION_COLUMNS].assign(
        **{f"p_{name}": of_class[:, position] for position, name in enumerate(data.class_names)}
    )
    with FileLock(run.path / ".predictions.lock"):
        if run.predictions_file.exists():
            kept = pd.read_csv(run.predictions_file, dtype={"scan_id": str, "group": str})
            same = (kept["network"] == network) & (kept["seed"] == seed) & (kept["fold"] == data.fold)
            table = pd.concat([kept[~same], table], ignore_index=True)
        with atomic_path(run.predictions_file) as temporary:
            table.to_csv(temporary, index=False)


def score(data: CourseData, logits: np.ndarray, role: str = "test", seed: int = 0) -> dict:
    """metrics.evaluate for the scans of a role, patients resampled. logits: (n of that role, classes)."""
    rows = data.rows(role)
    return evaluate(probabilities(logits), data.target[rows], data.groups[rows], data.class_names, seed=seed)
