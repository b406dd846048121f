"""How often the signs of trouble fire where they should, and where they should not: `diagnosis` on measured arms."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kdoct_utils.judge.regimes import signs_by_arm

COPY, WEAK_TEACHER = "weak student, low KL", "weak teacher before distilling"
# What is wrong -> arm -> its teacher's row in the measurement.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "the teacher is at fault": {"kd_blind_teacher": "teacher_blind", "kd_weak_teacher": "teacher_weak"},
    "the recipe is at fault": dict.fromkeys(("kd_one_sided", "kd_permuted", "clinic_permuted", "kd_short"), "teacher"),
    "nothing is at fault": {
        "kd_middling_teacher": "teacher_middling", "kd_cross_entropy_teacher": "teacher_cross_entropy",
    } | dict.fromkeys(("student_kd", "student_cached", "kd_alpha_1", "clinic_kd", "pool_kd"), "teacher"),
}  # fmt: skip
# The arms that a sign is meant for; a sign that is not named here is meant for none of them.
MEANT: Mapping[str, tuple[str, ...]] = {
    COPY: ("kd_blind_teacher",), WEAK_TEACHER: ("kd_blind_teacher", "kd_weak_teacher")
}


def fired_by_arm(table: pd.DataFrame) -> pd.DataFrame:
    """A row an arm of GROUPS that was measured with its divergence, a column a sign: share of data seeds that it fires.

    Further columns: group, seeds. table: of `regimes.kept_regimes`. Empty where nothing was measured.
    """
    parts = []
    for group, arms in GROUPS.items():
        for arm, teacher in arms.items():
            found = signs_by_arm(table, {arm: teacher})
            if len(found):
                taught = set(table.loc[(table["arm"] == arm) & table["divergence"].notna(), "seed"])
                seeds = len(taught & set(table.loc[table["arm"] == teacher, "seed"]))
                parts.append(found.assign(group=group, seeds=seeds))
    return pd.concat(parts) if parts else pd.DataFrame()


def hits_and_false_alarms(fired: pd.DataFrame) -> pd.DataFrame:
    """Of `fired_by_arm`: a row a sign, with hits of should, runs that it is meant for, and alarms of should_not."""
    rows = {}
    for sign in fired.columns.drop(["group", "seeds"]):
        runs, meant = fired[sign] * fired["seeds"], fired.index.isin(MEANT.get(sign, ()))
        rows[sign] = {"hits": runs[meant].sum(), "should": fired.loc[meant, "seeds"].sum(),
                      "alarms": runs[~meant].sum(), "should_not": fired.loc[~meant, "seeds"].sum()}  # fmt: skip
    return pd.DataFrame(rows).T.round().astype(int)
