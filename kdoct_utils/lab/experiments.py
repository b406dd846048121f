"""Train many arms and seeds, side by side where that is quicker, and compare them."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import psutil
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm.auto import tqdm

from kdoct_utils.judge.metrics import hits, paired_difference
from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import ARMS, TEACHERS_OF, Arm, find_arm
from kdoct_utils.lab.material import pretrained_student
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.lab.training import Trained, Training, plan, train
from kdoct_utils.runs import RunError, RunFolder, memory_limit

T = TypeVar("T")
PROCESS_BYTES = 1e9  # that a process with torch and a small training takes
COMPARED = ("arm", "label", "question", "against", "accuracy", "estimate", "low", "high", "seeds", "steps", "seconds",
            "reused")  # fmt: skip


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
    """`training.train` for each (arm, seed), those that are missing side by side; jobs as in `workers`."""
    return list(_train_each(run, data, wanted, (temperature, alpha, teacher), jobs, progress))


def train_and_ask(
    run: RunFolder,
    data: CourseData,
    wanted: Sequence[tuple[str | Arm, int]],
    temperature: float | None = None,
    alpha: float | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> list[Trained]:
    """As `train_all`, with what each network says of the test scans, asked side by side too: logits, and no model."""
    return list(_train_each(run, data, wanted, (temperature, alpha, None), jobs, progress, ask=True))


def run_arms(
    run: RunFolder,
    data: CourseData,
    arms: Sequence[Arm],
    seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    alpha: float | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> dict[str, list[Trained]]:
    """Every arm with every seed and what it says of the test scans: name -> one of each seed, in their order.

    seeds: of the students, and of the teachers where an arm trains them; None for as many as the profile has.
    temperature, alpha, jobs: as in `train_all`. The probabilities are kept in ``predictions.csv`` under the arm's name.
    An arm that tests the networks of another in another way trains nothing of its own.
    """
    seeds = list(range(run.profile.seeds)) if seeds is None else list(seeds)
    wanted = [(arm, seed) for arm in arms for seed in seeds]
    results: dict[str, list[Trained]] = {arm.name: [] for arm in arms}
    answers: dict[bool, dict] = {True: {}, False: {}}  # of the course's students, and of the others
    for (arm, seed), trained in zip(
        wanted, train_and_ask(run, data, wanted, temperature, alpha, jobs, progress), strict=True
    ):
        answers[arm.course][arm.name, seed] = trained.logits
        results[arm.name].append(trained)
    for course, found in answers.items():
        # Those of notebook 05 stay: metrics.json tells of them, and they may have another alpha.
        stages.keep_predictions(run, data, found, replace=not course)
    return results


def _train_each(
    run: RunFolder, data: CourseData, wanted: Sequence[tuple[str | Arm, int]], options: tuple, jobs: int | None,
    progress: bool, ask: bool = False,
) -> Iterator[Trained]:  # fmt: skip
    """One network at a time, so that not all of them lie in memory. options: the further arguments of `train`."""
    arms = [(find_arm(arm), seed) for arm, seed in wanted]
    recipes = [arm.recipe for arm, _ in arms if arm.network == "student"]
    own_bars = progress and run.profile.student_training.threads != 1  # trainings of minutes or hours
    if any(recipe.asks_teacher for recipe in recipes) and options[-1] is None:
        stages.teacher_file(run, data, progress)
    if any(recipe.start == "phantom" for recipe in recipes):
        pretrained_student(run, data)
    for name in {recipe.teacher for recipe in recipes if recipe.asks_teacher} - {"course"}:
        train(run, data, TEACHERS_OF[name], run.seed, progress=own_bars)
    sharing: dict[Path, tuple[Training, list]] = {}  # arms may share a training, and be tested in other ways
    for pair in arms:
        one = plan(run, data, *pair, *options)
        sharing.setdefault(one.file, (one, []))[1].append(pair)
    missing = {file for file, (one, _) in sharing.items() if one.is_missing}
    # The longest first, so that no process ends with one while the others have nothing left to do.
    order = sorted(sharing.items(), key=lambda each: -each[1][0].cost * (each[0] in missing))
    tasks = {
        one.title: partial(_train_one, run, data, pairs, options, ask, progress=own_bars)
        for file, (one, pairs) in order if ask or file in missing
    }  # fmt: skip
    found = side_by_side(tasks, workers(run, len(tasks), jobs), progress=progress and not own_bars)
    said = {key: logits for each in found.values() for key, logits in each.items()}
    for arm, seed in arms:
        trained = train(run, data, arm, seed, *options, progress=False)
        model = None if ask else trained.model
        logits = said.get((arm.name, seed))
        yield replace(trained, reused=trained.file not in missing, model=model, logits=logits)


def _train_one(
    run: RunFolder, data: CourseData, pairs: Sequence[tuple[Arm, int]], options: tuple, ask: bool, progress: bool
) -> dict[tuple[str, int], np.ndarray]:
    """Train the network that these arms share. It is read from its file; what it says of the test scans comes along."""
    said = {}
    for arm, seed in pairs if ask else pairs[:1]:
        model = train(run, data, arm, seed, *options, progress=progress).model
        if ask:
            said[arm.name, seed] = stages.test_logits(run, data, model, views=arm.test_views)
    return said


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
    return max(1, min(jobs, trainings, int(min(psutil.virtual_memory().available, memory_limit()) / PROCESS_BYTES)))


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


# --- comparing -------------------------------------------------------------------------------------------------------


def compare_arms(
    data: CourseData, results: Mapping[str, Sequence[Trained]], arms: Mapping[str, Arm] = ARMS
) -> pd.DataFrame:
    """A row an arm: its accuracy on the test scans, and the paired difference to the arm it is held against.

    results: as from `run_arms`. Columns COMPARED: accuracy is the mean over seeds; estimate, low and high are the
    difference and its 95 % interval over patients and seeds, NaN where there is nothing to compare with; seeds and
    reused count networks; steps and seconds are means over seeds.
    """
    rows, compared = data.rows("test"), []
    right = {name: hits([one.logits for one in networks], data.target[rows]) for name, networks in results.items()}
    for name, networks in results.items():
        arm = arms[name]
        row = {"arm": name, "label": arm.label, "question": arm.question, "against": arm.against}
        row["accuracy"] = right[name].mean()
        if arm.against in right:
            row |= paired_difference(right[name], right[arm.against], data.groups[rows])
        row |= {"seeds": len(networks), "reused": sum(one.reused for one in networks)}
        compared.append(row | {key: np.mean([getattr(one, key) for one in networks]) for key in ("steps", "seconds")})
    return pd.DataFrame(compared, columns=COMPARED)
