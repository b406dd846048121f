"""Many runs read as one: folds pooled, ensembles judged on scans that no member has seen, arms compared in pairs.

Everything starts from the predictions that runs keep (``predictions.csv``): a row per test scan and network, with the
columns network, seed (of its training), fold (whose test patients it has not seen), scan_id, group, label, p_<class>.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.judge.metrics import confusion_scores, many_confusion_scores, paired_difference, percentile_interval

KEYS = ["network", "seed", "fold", "scan_id", "group", "label"]
SEEN_ROLES = ("train", "validation")  # a network is chosen on its validation scans: they are not new to it
SCORES = ("accuracy", "sensitivity", "specificity")
RESAMPLES = 2000


def read_predictions(path: str | Path) -> pd.DataFrame:
    """The predictions of a run. Raises ValueError, naming the file, for one that lacks a column."""
    table = pd.read_csv(path, dtype={"scan_id": str, "group": str, "label": str}, keep_default_na=False)
    missing = [name for name in KEYS if name not in table]
    if missing or not class_names(table):
        raise ValueError(f"{path} lacks {', '.join(missing) or 'probabilities (p_<class>)'}")
    return table


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes that the predictions have probabilities for, in their order."""
    return [name.removeprefix("p_") for name in table if name.startswith("p_")]


def said(table: pd.DataFrame) -> np.ndarray:
    """(rows,) the class with the highest probability."""
    names = np.array(class_names(table), dtype=object)
    return names[table[[f"p_{name}" for name in names]].to_numpy(dtype=np.float64).argmax(axis=1)]


def hits(table: pd.DataFrame) -> np.ndarray:
    """(rows,) bool: is that class the label?"""
    return said(table) == table["label"].to_numpy(dtype=object)


def mean_and_spread(values: Sequence[float]) -> dict:
    """mean, sd (population standard deviation, as the paper reports over folds) and n; None of no values."""
    known = np.asarray([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    mean, sd = (float(known.mean()), float(known.std())) if len(known) else (None, None)
    return {"mean": mean, "sd": sd, "n": len(known)}


def counts(table: pd.DataFrame) -> np.ndarray:
    """(classes, classes) scans, rows true, columns predicted. Raises ValueError for a label without probabilities."""
    return _counts_by_patient(table)[0].sum(axis=0)


def fold_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, seed and fold: accuracy, sensitivity and specificity (macro, one against the rest)."""
    rows = [
        dict(zip(KEYS[:3], key, strict=True)) | {name: confusion_scores(counts(part))[name] for name in SCORES}
        for key, part in table.groupby(KEYS[:3], sort=True)
    ]
    return pd.DataFrame(rows, columns=[*KEYS[:3], *SCORES])


def worst_errors(table: pd.DataFrame, student: str, teacher: str, most: int = 8) -> tuple[pd.DataFrame, dict[str, int]]:
    """Scans of which a student is surest that they are what they are not: the surest first, at most one a patient.

    table: predictions of one fold by both networks; their seeds are averaged. Returns a table (scan_id, group, label,
    student and teacher: the class each names, student_p and teacher_p: its probability), and how many "scans" there
    are, are "wrong" for the student, and of these "saved" by the teacher, who is right.
    """
    columns = [f"p_{name}" for name in class_names(table)]
    mean = table.groupby(["network", "scan_id", "group", "label"], sort=False)[columns].mean()
    mean.columns = class_names(table)
    said, sure = (found.unstack("network").reset_index() for found in (mean.idxmax(axis=1), mean.max(axis=1)))
    rows = said.rename(columns={student: "student", teacher: "teacher"})
    rows = rows.assign(student_p=sure[student], teacher_p=sure[teacher])
    wrong = rows[rows["student"] != rows["label"]]
    counted = {"scans": len(rows), "wrong": len(wrong), "saved": int((wrong["teacher"] == wrong["label"]).sum())}
    return wrong.sort_values("student_p", ascending=False).drop_duplicates("group").head(most), counted


def pool_out_of_fold(table: pd.DataFrame, split: pd.DataFrame | None = None) -> pd.DataFrame:
    """The predictions of all folds as one test set: every patient tested once, by networks that never saw him or her.

    table: predictions of the folds, one below the other. split: the split file (scan_id, fold, role); with it, every
    scan that has a role other than "unused" must have been tested, and by the networks of the fold that holds it out.

    Raises ValueError, naming them, for a scan that a network and seed tested twice or not at all, for a patient in the
    test parts of two folds, and for a prediction on a scan that is not in the test part of its fold.
    """
    if split is not None:
        _refuse_seen(table, split)
    for (network, seed), part in table.groupby(KEYS[:2]):
        name, tested = f"{network}, seed {seed}", part["scan_id"]
        twice = tested[tested.duplicated()]
        if len(twice):
            raise ValueError(
                f"{name}: {len(twice)} scans are tested more than once, such as {twice.iloc[0]}; "
                "only folds with test parts of their own can be pooled"
            )
        folds = part.groupby("group")["fold"].nunique()
        if (folds > 1).any():
            raise ValueError(f"{name}: patient {folds.idxmax()} is in the test parts of two folds")
        absent = set() if split is None else set(split.loc[split["role"] != "unused", "scan_id"]) - set(tested)
        if absent:
            folds = ", ".join(map(str, sorted(part["fold"].unique())))
            raise ValueError(
                f"{name}: {len(absent)} scans were never tested, such as {min(absent)}; folds here: {folds}"
            )
    return table.reset_index(drop=True)


def ensemble_out_of_fold(table: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """Probabilities averaged over the members that predict a scan: networks and seeds that have all never seen it.

    table: predictions of the members; each row says in ``fold`` which of the split's folds its network was trained in.
    split: the split file (scan_id, fold, role). Returns predictions with network "ensemble" and seed -1, a row a scan.

    Raises ValueError, naming the members, where one predicts a scan that it was trained or chosen on. An average over
    the networks of all folds does so on every scan: four of its five members know it, and the score says nothing.
    """
    _refuse_seen(table, split)
    members = table.groupby("scan_id", sort=False).size()
    if members.nunique() > 1:
        raise ValueError(
            f"the ensemble has {members.min()} members on {members.idxmin()} and {members.max()} on {members.idxmax()}"
        )
    probabilities = [f"p_{label}" for label in class_names(table)]
    mean = table.groupby(["fold", "scan_id", "group", "label"], sort=False)[probabilities].mean().reset_index()
    if mean["scan_id"].duplicated().any():  # the publishers' test part is held out of every fold
        mean = table.groupby(["scan_id", "group", "label"], sort=False)[probabilities].mean().reset_index()
        mean["fold"] = -1
    return mean.assign(network="ensemble", seed=-1)[[*KEYS, *probabilities]]


def _refuse_seen(table: pd.DataFrame, split: pd.DataFrame) -> None:
    """ValueError, naming the members, where a row's scan is not new to the networks of its fold."""
    roles = table[KEYS[:4]].merge(split[["scan_id", "fold", "role"]], on=["scan_id", "fold"], how="left")
    unknown = roles[roles["role"].isna()]
    if len(unknown):
        row = unknown.iloc[0]
        raise ValueError(f"scan {row['scan_id']} is not in fold {row['fold']} of the split")
    seen = roles[roles["role"].isin(SEEN_ROLES)]
    if len(seen):
        scan = seen["scan_id"].iloc[0]
        members = "; ".join(f"{row.network} seed {row.seed} of fold {row.fold} ({row.role})"
                            for row in seen[seen["scan_id"] == scan].itertuples())  # fmt: skip
        raise ValueError(
            f"{seen['scan_id'].nunique()} scans are not new to all that predict them: {scan} was seen by {members}. "
            "Judge each network on the test scans of its own fold"
        )


def pooled_scores(table: pd.DataFrame) -> dict:
    """Scores of pooled predictions with 95 % intervals that resample patients, all their scans and seeds together.

    table: predictions of one network, of one or more seeds. Returns accuracy, sensitivity and specificity (macro, one
    against the rest), each {"estimate", "low", "high"} in fractions of 1, and n_scans, n_patients, seeds.
    A resample without a class leaves that class out of its macro scores.
    """
    by_patient, patients = _counts_by_patient(table)  # (patients, classes, classes)
    generator, even = np.random.default_rng(0), np.full(len(patients), 1 / len(patients))
    drawn = generator.multinomial(len(patients), even, size=RESAMPLES)
    drawn_counts = np.einsum("rp,pij->rij", drawn, by_patient)  # (resamples, classes, classes)
    estimate, samples = confusion_scores(by_patient.sum(axis=0)), many_confusion_scores(drawn_counts)
    found = {}
    for name in SCORES:  # a resample of one class alone has none to mistake: its specificity is 1
        low, high = percentile_interval(np.nan_to_num(samples[name], nan=1.0))
        found[name] = {"estimate": estimate[name], "low": low, "high": high}
    counted = {"n_scans": table["scan_id"].nunique(), "n_patients": len(patients), "seeds": table["seed"].nunique()}
    return found | counted


def folds_of_sweep(folder: str | Path) -> pd.DataFrame:
    """A row per network of a finished sweep over folds: spread over folds and interval over patients, in percent.

    Where all folds test the same patients, who lie beyond them (phantoms), these are resampled once, with what the
    networks of all folds say.
    """
    done = pd.read_csv(Path(folder) / "results.csv").query("status == 'done'")
    paths = [Path(folder) / name / "predictions.csv" for name in done["run"]]
    found, rows = pd.concat([read_predictions(path) for path in paths if path.exists()]), {}
    for name, part in found.groupby("network"):
        over = mean_and_spread(fold_scores(part).groupby("fold")["accuracy"].mean())
        tested = part.groupby("scan_id")["fold"].nunique()
        pooled = pooled_scores(part if (tested == part["fold"].nunique()).all() else pool_out_of_fold(part))
        one = pooled["accuracy"]
        rows[name] = {
            "over folds": f"{100 * over['mean']:.2f} ± {100 * over['sd']:.2f}", "folds": over["n"],
            "pooled": f"{100 * one['estimate']:.2f} ({100 * one['low']:.2f} to {100 * one['high']:.2f})",
            "patients": pooled["n_patients"],
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _counts_by_patient(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(patients, classes, classes) scans, rows true, columns predicted, and (patients,) the patients."""
    names = class_names(table)
    unknown = set(table["label"]) - set(names)
    if unknown:
        raise ValueError(f"no probabilities for the labels {', '.join(sorted(unknown))}; classes: {', '.join(names)}")
    position = {name: number for number, name in enumerate(names)}
    patients, patient_of = np.unique(table["group"].to_numpy(dtype=str), return_inverse=True)
    found = np.zeros((len(patients), len(names), len(names)))
    np.add.at(found, (patient_of, table["label"].map(position), pd.Series(said(table)).map(position)), 1)
    return found, patients


def paired_arms(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], network: str) -> dict:
    """Accuracy of one arm minus that of another over runs that share their test scans, with a 95 % interval.

    pairs: predictions (arm, reference) of two runs with the same seed and fold. network: whose predictions.
    Scans of all pairs are pooled. A patient who is in several pairs is resampled with all of his or her scans, so give
    patients that only share a name (phantoms of two seeds) names of their own.

    Returns the keys of metrics.paired_difference (seeds: training seeds inside a run), and by_pair: the difference in
    each pair, which shows what another split or teacher changes; the interval does not know that.
    Raises ValueError where the two of a pair differ in test scans or seeds, or pairs in the number of seeds.
    """
    blocks = [(_hits_by_seed(first, network), _hits_by_seed(second, network)) for first, second in pairs]
    for a, b in blocks:
        if not a.columns.equals(b.columns) or not a.index.equals(b.index) or a.isna().any(axis=None):
            raise ValueError(f"{network}: two runs with the same seed and fold differ in test scans or training seeds")
    if len({len(a) for a, _ in blocks}) > 1:
        raise ValueError(f"{network}: runs have different numbers of training seeds")
    a, b = (np.hstack([block[side].to_numpy(dtype=np.float64) for block in blocks]) for side in (0, 1))
    patients = np.concatenate([block[0].columns.get_level_values("group").to_numpy(dtype=str) for block in blocks])
    by_pair = [float(block[0].to_numpy(float).mean() - block[1].to_numpy(float).mean()) for block in blocks]
    return paired_difference(a, b, patients) | {"by_pair": by_pair}


def _hits_by_seed(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Rows: seeds; columns: (scan_id, group), sorted; values: right or not."""
    part = table[table["network"] == network]
    if part.empty:
        raise ValueError(f"no predictions of {network!r}; valid networks: {', '.join(sorted(set(table['network'])))}")
    wide = part.assign(hit=hits(part)).pivot(index="seed", columns=["scan_id", "group"], values="hit")
    return wide.sort_index(axis=1)
