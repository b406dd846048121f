"""Measure when a teacher helps: every arm on fresh data seeds, each with phantoms, teacher and students of its own.

    python -m tools.regimes runs/regimes --first 1000 --seeds 16

Data seeds run side by side, one thread each. A killed run goes on where it was: each network is kept with its recipe.
The table is written into the package (`kdoct_utils/judge/regimes_quick.csv`). Several calls put their rows together:
a network measured again replaces its row, all others stay, and the note in the first line holds what each call
measured, with the fingerprint of its code.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.special import rel_entr, softmax

from kdoct_utils.judge.metrics import best_temperature
from kdoct_utils.lab import stages, training
from kdoct_utils.lab.arms import ARMS, TEACHERS_OF
from kdoct_utils.lab.experiments import side_by_side
from kdoct_utils.lab.keep import file_hash, fingerprint, keep, short_hash
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.lab.training import Trained, train
from kdoct_utils.learn.inference import predict_logits
from kdoct_utils.runs import RunFolder, atomic_path, open_run

KEYS = ["seed", "arm", "student"]  # of a network
OUTPUT = Path(__file__).resolve().parents[1] / "kdoct_utils" / "judge" / "regimes_quick.csv"
# The arms that the bars are about, with the networks that each data seed trains of each, then the others.
CORE = {"student_alone": 2, "student_kd": 2, "kd_permuted": 1, "clinic_alone": 1, "clinic_kd": 1, "clinic_permuted": 1,
        "pool_alone": 1, "pool_kd": 1, "pool_permuted": 1}  # fmt: skip
MORE = dict.fromkeys((
    "student_cached", "kd_alpha_1", "kd_one_sided", "kd_temperature_20", "alone_short", "kd_short", "kd_weak_teacher",
    "kd_middling_teacher", "kd_blind_teacher", "alone_smoothed", "alone_weighted", "kd_temperature_2",
    "alone_equal_seconds", "alone_half_longer", "kd_cross_entropy_teacher", "kd_views_1", "alone_longer", "kd_longer",
    "kd_temperature_1", "kd_cross_entropy_teacher_1", "kd_cross_entropy_teacher_2", "kd_cross_entropy_teacher_20",
    "alone_pretrained", "kd_pretrained",
), 1)  # fmt: skip

FOCAL = dict.fromkeys((
    "rare_alone", "rare_weighted", "rare_focal", "rare_weighted_focal", "noisy_alone", "noisy_focal", "alone_focal",
    "teacher_average", "teacher_best",
), 1)  # fmt: skip


def row_of(seed: int, arm: str, student: int, found: dict) -> dict:
    """Scores of one network on the test patients, from `kept_scores`."""
    row = {"seed": seed, "arm": arm, "student": student, "accuracy": found["accuracy"], "ece": found["ece"]}
    row |= {f"sensitivity_{name}": one["sensitivity"] for name, one in found["per_class"].items()}
    return row | {name: found[name] for name in ("agreement", "divergence") if name in found}


def measure(folder: Path, profile: str, seed: int, arms: dict[str, int]) -> Path:
    """Train and test every arm on one data seed; the file with a row per network."""
    run = open_run(folder / f"seed{seed}", profile=profile, dataset="phantom", seed=seed)
    data = stages.course_data(run, progress=False)
    answers = stages.teacher_logits(run, data, stages.teacher(run, data, progress=False), progress=False)
    rows, of_teacher = [teacher_row(data, seed, answers)], {"course": answers[data.rows("test")]}
    for name, students in arms.items():
        other = getattr(ARMS[name].recipe, "teacher", "course")
        if other not in of_teacher:
            found = train(run, data, TEACHERS_OF[other], seed, progress=False)
            of_teacher[other] = stages.test_logits(run, data, found.model)
            rows.append(row_of(seed, f"teacher_{other}", 0, stages.score(data, of_teacher[other])))
            size, channels = run.profile.image_size, run.profile.channels
            validation = predict_logits(found.model, data.part("validation"), size, channels)
            rows[-1]["best_temperature"] = best_temperature(validation, data.target[data.rows("validation")])
        for student in range(students):
            found = train(run, data, name, student, progress=False)
            row = row_of(seed, name, student, kept_scores(run, data, name, student, found, of_teacher[other]))
            rows.append(row | {"steps": found.steps, "seconds": round(found.seconds, 1)})
    file = run.path / "regimes.csv"
    with atomic_path(file) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return file


def kept_scores(run: RunFolder, data: CourseData, arm: str, student: int, found: Trained, teacher: np.ndarray) -> dict:
    """`stages.score` on the test patients and `beside_teacher`, from the run folder or found now.

    By arm, since two arms may share a training: a teacher's average and its best epoch.
    """

    def score() -> dict:
        logits = stages.test_logits(run, data, found.model)
        return stages.score(data, logits) | beside_teacher(logits, teacher, run.profile.temperature)

    recipe = {"network": file_hash(found.file), "test": data.beyond}
    recipe |= {"teacher": hashlib.sha256(teacher.tobytes()).hexdigest()}
    code = (stages.score, stages.test_logits, beside_teacher)
    return keep(run.path / "scores" / f"{arm}_{student}.json", recipe, score, code=code)


def beside_teacher(logits: np.ndarray, teacher: np.ndarray, temperature: float) -> dict[str, float]:
    """agreement: share of scans with the teacher's answer; divergence: mean KL(teacher_T || student_T) in nats.

    logits, teacher: (n, classes), of the student and of the teacher of its arm (of the run, where it had none).
    """
    soft, ours = (softmax(one.astype(np.float64) / temperature, axis=1) for one in (teacher, logits))
    same = logits.argmax(axis=1) == teacher.argmax(axis=1)
    return {"agreement": float(same.mean()), "divergence": float(rel_entr(soft, ours).sum(axis=1).mean())}


def teacher_row(data: CourseData, seed: int, logits: np.ndarray) -> dict:
    """The teacher's scores, and the temperature that calibrates it on the validation patients. logits: of all scans."""
    rows = data.rows("validation")
    row = row_of(seed, "teacher", 0, stages.score(data, logits[data.rows("test")]))
    return row | {"best_temperature": best_temperature(logits[rows], data.target[rows])}


def put_together(kept: str, rows: pd.DataFrame, setting: str, call: str) -> str:
    """The text of a measurement with a call's rows in it. kept: the text so far, "" for none.

    rows: of `row_of`. setting: what all calls share, such as the profile. call: what this one measured, with its code.
    The first line is a note, "# SETTING: CALL; CALL".
    Raises ValueError where the text so far has another setting.
    """
    note, _, table = kept.partition("\n")
    found, _, calls = note.removeprefix("# ").partition(": ")
    if kept and found != setting:
        raise ValueError(f"the table so far is of {found!r}, not of {setting!r}; give another --output")
    if kept:
        rows = pd.concat([pd.read_csv(io.StringIO(table)), rows], ignore_index=True)
    rows = rows.drop_duplicates(KEYS, keep="last").sort_values(KEYS, key=_in_order, kind="stable")
    told = "; ".join(dict.fromkeys([*filter(None, calls.split("; ")), call]))
    return f"# {setting}: {told}\n{rows.to_csv(index=False, float_format='%.6g')}"


def _in_order(column: pd.Series) -> pd.Series:
    """Arms as in their table, teachers first; numbers as they are."""
    place = {name: number for number, name in enumerate(ARMS)}
    return column.map(lambda name: place.get(name, -1)) if column.name == "arm" else column


def main(
    folder: Path,
    first: Annotated[int, typer.Option(help="First data seed.")] = 1000,
    seeds: Annotated[int, typer.Option(help="How many.")] = 16,
    profile: str = "quick",
    arms: Annotated[str, typer.Option(help="core, all, or names with commas between.")] = "all",
    jobs: int = 2,
    output: Path = OUTPUT,
) -> None:
    """Measure the arms on data seeds that nothing was chosen on."""
    wanted = {"core": CORE, "all": CORE | MORE | FOCAL}.get(arms) or dict.fromkeys(map(str.strip, arms.split(",")), 1)
    tasks = {f"data seed {s}": partial(measure, folder, profile, s, wanted) for s in range(first, first + seeds)}
    files = side_by_side(tasks, jobs, desc="data seeds")
    table = pd.concat([pd.read_csv(file) for file in files.values()], ignore_index=True)
    code = short_hash(fingerprint(training, stages.teacher, stages.course_data))
    call = f"data seeds {first} to {first + seeds - 1}, {len(wanted)} arms, code {code}"
    kept = output.read_text(encoding="utf-8") if output.exists() else ""
    text = put_together(kept, table, f"phantoms, profile {profile}, one thread each", call)
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"{len(table)} networks in {output}")


if __name__ == "__main__":
    typer.run(main)
