"""What a notebook takes from the run folder, and makes there when it is missing: scans, split, teacher, its logits.

Each is kept with its recipe, see `kdoct_utils.lab.keep`. What another recipe made is made again, never used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from torch import nn

from kdoct_utils.data.splits import load_splits, new_split, save_splits
from kdoct_utils.judge.metrics import evaluate, evaluate_networks, hits, probabilities
from kdoct_utils.lab.beyond import draw_beyond, join_beyond
from kdoct_utils.lab.keep import file_hash, full_recipe, keep, keep_network, short_hash, why_again
from kdoct_utils.lab.reading import kept_pictures, kept_scans
from kdoct_utils.learn import models
from kdoct_utils.learn.inference import ScanImages, cache_teacher_logits, predict_logits
from kdoct_utils.learn.losses import balanced_class_weights
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.objectives import FocalObjective, Objective
from kdoct_utils.learn.pipelines import EVALUATION, STUDENT, TEACHER, AugmentConfig, weakened
from kdoct_utils.learn.trainer import Trainer, TrainingResult, threads
from kdoct_utils.profiles import Profile
from kdoct_utils.runs import RunFolder, atomic_path, read_json, write_json

PREDICTION_COLUMNS = ["network", "seed", "fold", "scan_id", "group", "label"]


@dataclass(frozen=True)
class CourseData:
    """Scans, pictures and split of a run, in one order.

    table: SCAN_COLUMNS and what else the dataset has; images: uint8 (n, R, R); role: (n,) "train", "validation", "test"
    or "unused"; hashes: scan_id to SHA-256; split_hash: of the file that says the roles. On phantoms "test" are
    patients beyond the folds (`kdoct_utils.lab.beyond`), the fold's own are "fold test", "clinic" is a second clinic's.
    beyond: hash of what the patients beyond the folds follow from, "" where there are none.
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
    beyond: str = ""

    @property
    def target(self) -> np.ndarray:
        return self.table["target"].to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """(n,) the independent patients: what is split, resampled and counted."""
        return self.table["group"].to_numpy(dtype=object)

    @cached_property
    def scans_hash(self) -> str:
        """Of the bytes of all scans in the folds, in the order of the table."""
        return short_hash({"scans": list(self.hashes.values())})

    def rows(self, role: str) -> np.ndarray:
        """Row numbers of a role."""
        return np.flatnonzero(self.role == role)

    def part(self, role: str, rows: np.ndarray | None = None, target: np.ndarray | None = None) -> ScanImages:
        """The scans of a role for training or prediction; rows and target (n,) replace the role's own."""
        rows = self.rows(role) if rows is None else np.asarray(rows)
        target = self.target if target is None else target
        return ScanImages(self.images, target[rows], rows=rows)


def course_data(run: RunFolder, fold: int | None = None, progress: bool = True, beyond: bool = True) -> CourseData:
    """Read the scans, cache their pictures and write the split, or take all three from the run folder.

    fold: whose test patients are tested; None: the run's. beyond: test phantoms on patients beyond the folds; False
    tests the fold's own, as real data are tested.
    Raises ScanError or SplitError for faults in the data, SplitError for an unknown fold.
    """
    fold = run.options.fold if fold is None else fold
    table, record = kept_scans(run, progress)
    if not run.splits_file.exists():
        split = new_split(table, run.seed, run.options, record["class_names"])
        record["split_hash"] = save_splits(split, run.splits_file)
        write_json(run.provenance_file, record)
    split = load_splits(run.splits_file, table, record.get("split_hash"))
    part = split[split["fold"] == fold]
    if part.empty:
        raise ValueError(f"no fold {fold}; folds of this split: 0 to {split['fold'].max()}")
    data = CourseData(
        table=table.drop(columns="image_hash"),
        images=kept_pictures(run, table, progress),
        role=table["scan_id"].map(part.set_index("scan_id")["role"]).to_numpy(dtype=object),
        class_names=tuple(record["class_names"]),
        provenance=record["provenance"],
        hashes=dict(zip(table["scan_id"], table["image_hash"], strict=True)),
        split=split,
        split_hash=split.attrs["hash"],
        fold=fold,
    )
    return join_beyond(data, draw_beyond(run)) if beyond else data


# --- training --------------------------------------------------------------------------------------------------------


def new_teacher(run: RunFolder, data: CourseData) -> nn.Module:
    """The profile's teacher with its start weights and a fresh head."""
    profile = run.profile
    return build_model(profile.teacher, len(data.class_names), profile.channels, profile.start_weights, run.seed)


def new_student(run: RunFolder, data: CourseData, seed: int) -> nn.Module:
    """The profile's student: ImageNet weights where the profile starts from them, else fresh ones of that seed."""
    profile = run.profile
    start = "imagenet" if profile.start_weights == "imagenet" else "none"  # phantom weights are a teacher's
    return build_model(profile.student, len(data.class_names), profile.channels, start, seed)


def teacher_trainer(run: RunFolder, data: CourseData, model: nn.Module, **options: object) -> Trainer:
    """The paper's teacher training: focal loss with balanced class weights, heavy augmentation, SWA.

    options: further arguments of `Trainer`, such as name and progress.
    """
    profile, train = run.profile, data.part("train")
    objective = FocalObjective(profile.gamma, balanced_class_weights(train.target, len(data.class_names)))
    return Trainer(
        model, objective, train, data.part("validation"), profile.teacher_training,
        augmentation=weakened(TEACHER, profile.teacher_augmentation), image_size=profile.image_size,
        channels=profile.channels, seed=run.seed, **options,
    )  # fmt: skip


def student_trainer(
    run: RunFolder,
    data: CourseData,
    model: nn.Module,
    objective: Objective,
    seed: int,
    *,
    train: ScanImages | None = None,
    augmentation: AugmentConfig | None = None,
    **options: object,
) -> Trainer:
    """The profile's student training for an objective; train, augmentation replace its own. options: of `Trainer`."""
    profile = run.profile
    augmentation = student_views(profile) if augmentation is None else augmentation
    return Trainer(
        model, objective, data.part("train") if train is None else train, data.part("validation"),
        profile.student_training, augmentation=augmentation, image_size=profile.image_size,
        channels=profile.channels, seed=seed, **options,
    )  # fmt: skip


def student_views(profile: Profile) -> AugmentConfig:
    """The paper's student pipeline, at the strength that the profile gives it."""
    return weakened(STUDENT, profile.student_augmentation)


def training_recipe(run: RunFolder, data: CourseData, network: str, seed: int) -> dict[str, object]:
    """What every training of a "teacher" or "student" follows from, whatever else does."""
    profile = run.profile
    return {
        "stage": network, "seed": seed, "split": data.split_hash, "fold": data.fold, "scans": data.scans_hash,
        "image": [profile.image_size, profile.channels], "start_weights": profile.start_weights,
        "network": asdict(getattr(profile, network)), "training": asdict(getattr(profile, f"{network}_training")),
        "augmentation": getattr(profile, f"{network}_augmentation"),
    }  # fmt: skip


def teacher(run: RunFolder, data: CourseData, progress: bool = True) -> nn.Module:
    """The trained teacher in eval mode: from the run folder, or trained now."""
    model = new_teacher(run, data)

    def train(checkpoint: Path) -> TrainingResult:
        return teacher_trainer(run, data, model, name="teacher", checkpoint=checkpoint, progress=progress).fit()

    keep_network(run, model, run.teacher_file, teacher_recipe(run, data), train)
    return model


def kept_teacher(run: RunFolder) -> tuple[nn.Module, tuple[str, ...]] | None:
    """The teacher that the run folder holds, in eval mode, and its classes; None where there is none. Trains nothing,
    and reads no scan."""
    if not (run.teacher_file.exists() and run.provenance_file.exists()):
        return None
    class_names = tuple(read_json(run.provenance_file)["class_names"])
    model = build_model(run.profile.teacher, len(class_names), run.profile.channels)
    models.load_weights(model, run.teacher_file)
    return model.eval(), class_names


def teacher_file(run: RunFolder, data: CourseData, progress: bool = True) -> Path:
    """The file of the trained teacher, which is there already or made now."""
    if why_again(run.teacher_file, teacher_recipe(run, data), [run.history_file("teacher")]) is not None:
        teacher(run, data, progress)
    return run.teacher_file


def teacher_recipe(run: RunFolder, data: CourseData) -> dict[str, object]:
    """What a teacher follows from: its data, its profile's hyper-parameters and the code."""
    recipe = training_recipe(run, data, "teacher", run.seed)
    recipe["gamma"] = run.profile.gamma
    return full_recipe(recipe, (new_teacher, teacher_trainer, models))


def teacher_logits(run: RunFolder, data: CourseData, model: nn.Module, progress: bool = True) -> np.ndarray:
    """The teacher's logits (n, classes) for every scan as it is, without augmentation."""
    size, channels = run.profile.image_size, run.profile.channels
    recipe = {
        "stage": "teacher_logits", "teacher": file_hash(run.teacher_file), "scans": data.scans_hash,
        "beyond": data.beyond, "image": [size, channels],
    }  # fmt: skip

    def answer() -> dict[str, np.ndarray]:
        everything = data.part("", rows=np.arange(len(data.table)))
        with threads(run.profile.student_training.threads):  # as in trainings: the same digits wherever it is asked
            logits = cache_teacher_logits(model, everything, EVALUATION, 0, 1, size, channels, progress=progress)
        return {"logits": logits[0]}

    return keep(run.teacher_logits_file, recipe, answer, code=(cache_teacher_logits, models))["logits"].numpy()


# --- answers and scores ----------------------------------------------------------------------------------------------


def test_logits(run: RunFolder, data: CourseData, model: nn.Module, views: bool = False) -> np.ndarray:
    """Logits (n_test, classes) of the test scans; views: averaged over the five test-time views."""
    return predict_logits(model, data.part("test"), run.profile.image_size, run.profile.channels, views=views)


def keep_predictions(
    run: RunFolder, data: CourseData, answers: Mapping[tuple[str, int], np.ndarray], replace: bool = True
) -> None:
    """Keep the probabilities of the test scans in ``predictions.csv``, for comparisons over runs and folds.

    answers: (network, seed of its training) -> logits (n_test, classes); a network is named as in metrics.json, such
    as "student_kd". Rows of the same network, seed and fold are replaced, or else stay. One row per test scan:
    PREDICTION_COLUMNS, then p_<class>.
    """
    scans = data.table.iloc[data.rows("test")][["scan_id", "group", "label"]]
    tables = [
        scans.assign(network=network, seed=seed, fold=data.fold)[PREDICTION_COLUMNS].assign(
            **{f"p_{name}": one for name, one in zip(data.class_names, probabilities(logits).T, strict=True)}
        )
        for (network, seed), logits in answers.items()
    ]
    key = PREDICTION_COLUMNS[:3]
    with FileLock(run.path / ".predictions.lock"):
        if run.predictions_file.exists():
            kept = pd.read_csv(run.predictions_file, dtype={"scan_id": str, "group": str})
            known = set(map(tuple, kept[key].drop_duplicates().to_numpy()))
            if replace:
                new = {(network, seed, data.fold) for network, seed in answers}
                kept = kept[[one not in new for one in zip(*(kept[name] for name in key), strict=True)]]
            else:
                tables = [table for table in tables if tuple(table[key].iloc[0]) not in known]
            tables = [kept, *tables]
        with atomic_path(run.predictions_file) as temporary:
            pd.concat(tables, ignore_index=True).to_csv(temporary, index=False, float_format="%.9g")


def score(data: CourseData, logits: np.ndarray, role: str = "test", seed: int = 0) -> dict:
    """metrics.evaluate for the scans of a role, patients resampled. logits: (n of that role, classes)."""
    rows = data.rows(role)
    return evaluate(probabilities(logits), data.target[rows], data.groups[rows], data.class_names, seed=seed)


def right(data: CourseData, logits: Sequence[np.ndarray], role: str = "test") -> np.ndarray:
    """(seeds, n of that role) bool: which scans each seed's network names correctly. logits as in `score_seeds`."""
    return hits(logits, data.target[data.rows(role)])


def score_seeds(data: CourseData, logits: Sequence[np.ndarray]) -> dict:
    """metrics.evaluate_networks for the test scans: the scores of an arm. logits: (n_test, classes) of each seed."""
    rows = data.rows("test")
    return evaluate_networks(logits, data.target[rows], data.groups[rows], data.class_names)
