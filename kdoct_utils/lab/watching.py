"""Notebook 02's trainings: networks that are asked at once, and trainings that are watched scan by scan."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import ARMS, RARE_CLASS, Arm, find_arm
from kdoct_utils.lab.experiments import side_by_side, workers
from kdoct_utils.lab.keep import keep, keep_network
from kdoct_utils.lab.material import ablations, student_scans
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.lab.training import plan, train, training_name
from kdoct_utils.learn.objectives import CrossEntropyObjective
from kdoct_utils.learn.trainer import TrainingResult
from kdoct_utils.runs import RunFolder

RARE_ARMS = {"cross-entropy": "rare_alone", "focal": "rare_focal", "weighted CE": "rare_weighted",
             "weighted focal": "rare_weighted_focal"}  # fmt: skip


def rare_arms(data: CourseData) -> tuple[str, dict[str, Arm]]:
    """The class that is made rare, and by name of the loss the arms that train with it.

    Where the data have no RARE_CLASS, nothing is made rare: it is the class with the fewest training scans as it is.
    """
    arms = {loss: ARMS[name] for loss, name in RARE_ARMS.items()}
    if RARE_CLASS in data.class_names:
        return RARE_CLASS, arms
    counts = np.bincount(data.target[data.rows("train")], minlength=len(data.class_names))
    usual = {
        loss: replace(arm, changes={key: value for key, value in arm.changes.items() if key != "rare"})
        for loss, arm in arms.items()
    }
    return data.class_names[counts.argmin()], usual


def beside_teacher(
    run: RunFolder, data: CourseData, tasks: Mapping[str, Callable[[], object]], desc: str = "trainings"
) -> dict[str, object]:
    """What each task returns, by name. Where several are done at a time, so is what later notebooks need.

    The run's teacher (03) comes first, for it takes longest, and last the students that ask no teacher (05).
    """
    jobs = workers(run, len(tasks))
    teacher = {"the run's teacher": partial(stages.teacher_file, run, data, progress=False)}
    students = {f"student alone, seed {seed}": partial(_made, run, data, seed) for seed in range(run.profile.seeds)}
    found = side_by_side(teacher | dict(tasks) | students if jobs > 1 else dict(tasks), jobs, desc)
    return {name: found[name] for name in tasks}


def _made(run: RunFolder, data: CourseData, seed: int) -> None:
    """It lies in its file: nothing need travel between processes."""
    train(run, data, "student_alone", seed, progress=False)


def asked(run: RunFolder, data: CourseData, arm: str | Arm, seed: int) -> np.ndarray:
    """Logits (n_test, classes) for the test scans, of the network of an arm that is trained now where it is missing."""
    return stages.test_logits(run, data, train(run, data, arm, seed, progress=False).model)


def sensitivities(data: CourseData, logits: np.ndarray) -> dict[str, float]:
    """Of each class the share of its test scans that is found, and "macro", their mean. logits: (n_test, classes)."""
    truth = data.target[data.rows("test")]
    found = logits.argmax(axis=1) == truth
    by_class = {data.class_names[k]: float(found[truth == k].mean()) for k in np.unique(truth)}
    return by_class | {"macro": float(np.mean(list(by_class.values())))}


def watched(run: RunFolder, data: CourseData, arm: str | Arm, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """What `asked` returns, and p_t of every training scan in every epoch, as the training met it: in a view, with
    dropout.

    arm: one that learns from labels alone, such as "rare_alone". The table has a row per training scan: given, the
    label that it has in training; right, the one it should have (class numbers); then a column per epoch, "1" and on.
    Raises ValueError for an arm with another loss.
    """
    arm = find_arm(arm)
    if arm.network != "student" or arm.recipe.objective != "labels":
        raise ValueError(f"arm {arm.name!r} is not trained with cross-entropy alone, so there is no p_t to watch")
    training = plan(run, data, arm, seed)

    def watch() -> pd.DataFrame:
        scans, objective = student_scans(data, arm.recipe, run.seed), Watching()
        model = stages.new_student(run, data, seed)

        def fit(checkpoint: Path) -> TrainingResult:  # no checkpoint: what was met before it would be lost
            return stages.student_trainer(run, data, model, objective, seed, train=scans, progress=False).fit()

        if training.is_missing:  # to be watched changes no network, so this is the arm's
            keep_network(training.home, model, training.file, training.recipe, fit)
        else:
            fit(training.file)
        met = objective.table(len(scans)).loc[scans.indices.numpy()]
        return pd.DataFrame({"given": scans.target.numpy(), "right": data.target[scans.rows]}).join(
            met.reset_index(drop=True)
        )

    file = ablations(run).path / f"watched_{training_name(arm, seed)}.csv"
    table = keep(file, training.recipe | {"watched": "p_t"}, watch, code=(watched, Watching))
    return asked(run, data, arm, seed), table


def p_matrix(table: pd.DataFrame) -> Tensor:
    """p_t of `watched`, (scans, epochs), kept a hair away from 0 and 1 so that logarithms stay finite."""
    return torch.from_numpy(table.drop(columns=["given", "right"]).to_numpy(copy=True)).clamp(1e-6, 1 - 1e-6)


class Watching(CrossEntropyObjective):
    """Cross-entropy that keeps p_t of each scan that training meets. For one process."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[Tensor, Tensor]] = []

    def forward(
        self, model: nn.Module, images: Tensor, target: Tensor, indices: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        losses, logits = super().forward(model, images, target, indices, view)
        self.met.append((indices, torch.exp(-losses.detach())))
        return losses, logits

    def table(self, n_scans: int) -> pd.DataFrame:
        """A row per scan, by its index, a column per epoch: every scan is met once an epoch."""
        indices, p_true = (torch.cat(values).cpu().numpy() for values in zip(*self.met, strict=True))
        epoch = 1 + np.arange(len(indices)) // n_scans
        table = pd.DataFrame({"index": indices, "epoch": epoch.astype(str), "p": p_true.round(5)})
        return table.pivot(index="index", columns="epoch", values="p")[list(map(str, np.unique(epoch)))]
