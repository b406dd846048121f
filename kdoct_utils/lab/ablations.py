"""Train the arms of the ablations with equal budgets, and set each beside the arm that it is held against.

`kdoct_utils.lab.arms` says what the arms are, `kdoct_utils.lab.arm_training` how one of them is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from kdoct_utils.judge.metrics import hits, paired_difference
from kdoct_utils.lab import stages
from kdoct_utils.lab.arm_training import (
    NOISY_TEACHER,
    ArmResult,
    pretrained_student,
    train_arm,
    train_teachers,
    training_name,
)
from kdoct_utils.lab.arms import ARMS, Arm
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.runs import RunFolder

COMPARED = ("arm", "label", "question", "against", "accuracy", "estimate", "low", "high", "seeds", "steps", "seconds",
            "reused")  # fmt: skip


def run_arms(
    run: RunFolder,
    data: CourseData,
    arms: Sequence[Arm],
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> dict[str, list[ArmResult]]:
    """Every arm with every seed: name -> results in the order of the seeds.

    seeds: of the students, and of the teachers where an arm trains them; None for as many as the profile has.
    jobs: trainings at a time, each a process with its share of the cores; leave it at 1 on a GPU.
    An arm that tests the networks of another in another way trains nothing of its own.
    """
    seeds = list(range(run.profile.seeds)) if seeds is None else list(seeds)
    if any(arm.network == "student" and arm.recipe.asks_teacher for arm in arms):
        stages.teacher(run, data, progress=progress)
    results: dict[tuple[str, int], ArmResult] = {}
    first, second = _tasks(run, data, arms, seeds)
    # Processes that each want every core wait for one another most of the time: ten times as slow on two cores.
    threads = max(1, cpu_count() // jobs) if jobs > 1 else None
    bar = tqdm(total=len(first) + len(second), desc="ablations", unit="training", disable=not progress)
    with bar, parallel_config(backend="loky", inner_max_num_threads=threads):
        for tasks in (first, second):  # what several trainings need is made before them
            for done in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
                results |= done
                bar.update()
    return {arm.name: [results[arm.name, seed] for seed in seeds] for arm in arms}


def _tasks(run: RunFolder, data: CourseData, arms: Sequence[Arm], seeds: Sequence[int]) -> tuple[list, list]:
    """Calls for joblib: teachers and what several students need, then the students, the longest ones first."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(training_name(arm.recipe, 0), []).append(arm)
    students = [group for group in groups.values() if group[0].network == "student"]
    teachers = [group for group in groups.values() if group[0].network == "teacher"]
    students.sort(key=lambda group: -group[0].recipe.effort * (1 + (not group[0].recipe.can_be_kept)))
    before = [delayed(_train_group)(run, data, group, seed) for group in teachers for seed in seeds]
    if any(group[0].recipe.teacher == "noisy" for group in students):
        before.insert(0, delayed(_prepare)(train_teachers, run, data, NOISY_TEACHER, run.seed, False))
    if any(group[0].recipe.start == "phantom" for group in students):
        before.insert(0, delayed(_prepare)(pretrained_student, run, data, False))
    return before, [delayed(_train_group)(run, data, group, seed) for group in students for seed in seeds]


def _prepare(make: Callable[..., object], *arguments: object) -> dict:
    make(*arguments)
    return {}


def _train_group(run: RunFolder, data: CourseData, group: Sequence[Arm], seed: int) -> dict[tuple[str, int], ArmResult]:
    """Arms that share one training: it is done for the first of them."""
    results = {(arm.name, seed): train_arm(run, data, arm, seed, progress=False) for arm in group}
    reused = results[group[0].name, seed].reused
    return {key: replace(result, reused=reused) for key, result in results.items()}


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
    return pd.DataFrame(_compared(data.groups[rows], right, results, baseline, arms), columns=COMPARED)


def _compared(
    groups: np.ndarray,
    right: Mapping[str, np.ndarray],
    results: Mapping[str, Sequence[ArmResult]],
    baseline: str | None,
    arms: Mapping[str, Arm],
) -> Iterator[dict]:
    for name, networks in results.items():
        arm = arms[name]
        against = baseline or arm.against
        row = {"arm": name, "label": arm.label, "question": arm.question, "against": against}
        row["accuracy"] = right[name].mean()
        if against in right and against != name:
            row |= paired_difference(right[name], right[against], groups)
        yield row | {
            "seeds": len(networks),
            "steps": np.mean([one.steps for one in networks]),
            "seconds": np.mean([one.seconds for one in networks]),
            "reused": sum(one.reused for one in networks),
        }
