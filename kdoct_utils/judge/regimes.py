"""When does a teacher help? The measurement that the package carries, over data seeds that nothing was chosen on.

``python -m tools.regimes`` makes it: for every data seed phantoms, a teacher and students of their own, all tested on
1,200 patients beyond the folds. Data seeds are the independent repeats; differences are paired within each.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy import stats

from kdoct_utils.judge.diagnosis import signs_of_trouble

# The three places on the map: name, the arm with the teacher, the arm without, and what the student has.
REGIMES = {
    "same labels": ("student_kd", "student_alone", "the teacher's own scans and labels"),
    "patients' labels": ("clinic_kd", "clinic_alone", "other patients' scans, each labeled with a diagnosis"),
    "few labels and a pool": ("pool_kd", "pool_alone", "24 labeled patients, or 288 the teacher answers for"),
}
# The same, with the teacher's answers permuted among the scans of one class: the class stays, the scan is lost.
PERMUTED = {
    "same labels": "kd_permuted", "patients' labels": "clinic_permuted", "few labels and a pool": "pool_permuted"
}
OVER_SEEDS = ("estimate", "low", "high", "p", "seeds", "by_seed")  # what is kept of a difference


def kept_regimes() -> tuple[pd.DataFrame, str]:
    """The carried measurement, a row per network, and how it was made.

    Columns: seed (of the data), arm ("teacher" and names as in `kdoct_utils.lab.arms`), student (its seed), accuracy,
    ece, sensitivity_<class>, best_temperature (of the teacher), steps, seconds.
    """
    text = (files("kdoct_utils.judge") / "regimes_quick.csv").read_text(encoding="utf-8")
    note, _, rows = text.partition("\n")
    table, (setting, _, calls) = pd.read_csv(io.StringIO(rows)), note.strip("# ").partition(": ")
    codes = " and ".join(dict.fromkeys(re.findall(r"code (\w+)", calls)))
    return table, f"{setting}, data seeds {table['seed'].min()} to {table['seed'].max()}, code {codes}"


def by_data_seed(table: pd.DataFrame, score: str = "accuracy") -> pd.DataFrame:
    """A row per data seed, a column per arm: the score, averaged over the students of that data seed."""
    return table.pivot_table(index="seed", columns="arm", values=score, aggfunc="mean")


def gains(table: pd.DataFrame, pairs: Sequence[tuple[str, str]], score: str = "accuracy") -> pd.DataFrame:
    """For each (arm, arm held against) the mean paired difference over data seeds, as a family of claims.

    Columns: arm, against, estimate, low, high (95 %, Student's t over data seeds), p (two-sided), holm (p after Holm's
    correction for all pairs together), seeds, by_seed (the differences). Pairs without two common data seeds are left
    out. Source of the correction: Holm 1979.
    """
    scores, rows = by_data_seed(table, score), []
    for arm, against in pairs:
        if not {arm, against} <= set(scores):
            continue
        values = (scores[arm] - scores[against]).dropna().to_numpy()
        if len(values) < 2:
            continue
        rows.append({"arm": arm, "against": against} | over_data_seeds(values))
    found = pd.DataFrame(rows, columns=["arm", "against", *OVER_SEEDS])
    found.insert(6, "holm", holm(found["p"].to_numpy()))
    return found


def over_data_seeds(values: np.ndarray) -> dict[str, object]:
    """OVER_SEEDS of a difference, from its value in each data seed, (seeds,): the mean and Student's t."""
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return dict(zip(OVER_SEEDS, (values.mean(), low, high, test.pvalue, len(values), values.tolist()), strict=True))


def gain_spread(table: pd.DataFrame, arm: str, against: str, score: str = "accuracy") -> dict[str, float]:
    """Where the spread of a gain comes from, as standard deviations (fractions of 1).

    total: of the gains over data seeds, as measured. training: what another training of one student of each arm adds
    within a data seed (NaN where no data seed trained two). data: what remains, patients, teacher and test patients.
    students: trained of each arm in a data seed.
    """
    of_both = table[table["arm"].isin((arm, against))].groupby(["arm", "seed"])[score]
    students = int(of_both.size().min())
    training = of_both.var(ddof=1).groupby("arm").mean().sum(min_count=2) ** 0.5
    scores = by_data_seed(table, score)
    total = (scores[arm] - scores[against]).std(ddof=1)
    data = max(0.0, total**2 - np.nan_to_num(training) ** 2 / students) ** 0.5
    return {"total": float(total), "training": float(training), "data": float(data), "students": students}


def interval_p(estimate: float, low: float, high: float) -> float:
    """The two-sided p that goes with a 95 % interval of a nearly normal estimate."""
    error = (high - low) / (2 * stats.norm.ppf(0.975))
    return float(2 * stats.norm.sf(abs(estimate) / error)) if error > 0 else float(estimate == 0)


def holm(p: np.ndarray) -> np.ndarray:
    """p values (n,) after Holm's step-down correction: below 0.05, the claim holds with all others in mind."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(corrected, 1)
    return found


def signs_by_arm(table: pd.DataFrame, arms: Mapping[str, str]) -> pd.DataFrame:
    """How often each sign of trouble fires: a row per arm, a column per sign, shares of the data seeds.

    arms: distilled arm -> its teacher's row, such as "kd_weak_teacher" -> "teacher_weak". Arms that were not measured,
    or without their divergence, are left out. A teacher's accuracy on test patients stands for that on validation ones.
    """
    if "divergence" not in table:
        return pd.DataFrame()
    rows = {}
    for arm, teacher in arms.items():
        taught = table[(table["arm"] == arm) & table["divergence"].notna()].groupby("seed")
        accuracy = table[table["arm"] == teacher].set_index("seed")["accuracy"]
        found = [
            {sign.name: sign.fires for sign in signs_of_trouble(
                teacher_before=accuracy[seed], teacher=accuracy[seed], students=students["accuracy"].tolist(),
                divergence=students["divergence"].mean())}
            for seed, students in taught if seed in accuracy.index
        ]  # fmt: skip
        if found:
            rows[arm] = pd.DataFrame(found).mean()
    return pd.DataFrame(rows).T
