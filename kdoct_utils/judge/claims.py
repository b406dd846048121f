"""What is claimed, and what intervals, Holm's correction and the paper's own counts allow to say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from kdoct_utils.judge import published
from kdoct_utils.judge.regimes import PERMUTED, REGIMES, gains, holm, interval_p
from kdoct_utils.judge.sample_size import equivalence_p
from kdoct_utils.judge.verdicts import GAIN, LOSS, NOT_TESTED, OPEN, in_points, reading

Pairs = Sequence[tuple[str, str]]  # arm, and the arm that it is held against

FOUND = ("estimate", "low", "high", "p", "holm", "seeds")
# Claim, the arm that is claimed to be better, and the arm that it is held against.
CLAIMS = (
    ("distillation helps (same scans, same labels)", "student_kd", "student_alone"),
    ("cached logits help", "student_cached", "student_alone"),
    ("a live teacher is better than cached logits", "student_kd", "student_cached"),
    ("the student comes up to its teacher", "student_kd", "teacher"),
    ("focal loss helps the teacher", "teacher", "teacher_cross_entropy"),
    ("weight averaging (SWA) helps the teacher", "teacher_average", "teacher_best"),
    ("T = 4 is better than T = 2", "student_kd", "kd_temperature_2"),
    ("T = 4 is better than T = 6", "student_kd", "kd_temperature_6"),
    ("α = 0.7 is better than 0.5", "student_kd", "kd_alpha_0.5"),
    ("α = 0.7 is better than 0.9", "student_kd", "kd_alpha_0.9"),
    ("full augmentation helps a student (alone)", "student_alone", "alone_light"),
    ("test-time augmentation helps", "kd_test_views", "student_kd"),
)
OUR_CLAIMS = (  # of the course, not of the paper
    ("a teacher helps where labels are the patients'", "clinic_kd", "clinic_alone"),
    ("a teacher helps where few scans have labels", "pool_kd", "pool_alone"),
    ("a scan's own answers beat permuted ones", "student_kd", "kd_permuted"),
)
WHOSE = {"The paper claims that": CLAIMS, "This course claims that": OUR_CLAIMS}
# Is it the teacher, or what comes with it? Question -> pairs of an arm and its rival.
FAIR: Mapping[str, Pairs] = {
    "KD, live − students without a teacher": (
        ("student_kd", "student_alone"), ("student_kd", "alone_weighted"), ("student_kd", "alone_smoothed"),
        ("student_kd", "alone_equal_seconds"), ("student_kd", "alone_half_longer"),
    ),
    "KD − the same with permuted answers": (
        ("student_kd", "kd_permuted"), ("clinic_kd", "clinic_permuted"), ("pool_kd", "pool_permuted"),
    ),
    "KD, live − answers given beforehand": (("student_kd", "student_cached"), ("student_kd", "kd_views_1")),
    "KD, live − KD in another way": (
        ("student_kd", "kd_alpha_1"), ("student_kd", "kd_cross_entropy_teacher"), ("student_kd", "kd_one_sided"),
    ),
}  # fmt: skip
# Where does it fail? Each against labels alone, trained as long.
FAILURES: Mapping[str, Pairs] = {
    "The usual KD": (("student_kd", "student_alone"),),
    "Another teacher": tuple((f"kd_{name}_teacher", "student_alone") for name in ("middling", "weak", "blind")),
    "Another temperature": tuple((name, "student_alone") for name in (
        "kd_temperature_2", "kd_temperature_20", "kd_one_sided")),
    "Another length of training": (("kd_short", "alone_short"), ("kd_longer", "alone_longer")),
}  # fmt: skip
# A teacher's row in the measurement -> its students by the T that was set.
TEMPERATURES: Mapping[str, Mapping[int, str]] = {
    "teacher": {1: "kd_temperature_1", 2: "kd_temperature_2", 4: "student_kd", 20: "kd_temperature_20"},
    "teacher_cross_entropy": {1: "kd_cross_entropy_teacher_1", 2: "kd_cross_entropy_teacher_2",
                              4: "kd_cross_entropy_teacher", 20: "kd_cross_entropy_teacher_20"},
}  # fmt: skip
# All pairs that any notebook asks about: one family for Holm's correction.
COURSE: Pairs = (
    *(pair for questions in (FAIR, FAILURES) for pairs in questions.values() for pair in pairs),
    *(claim[1:] for claim in (*CLAIMS, *OUR_CLAIMS)),
    *((PERMUTED[name], alone) for name, (_, alone, _) in REGIMES.items()),
    *((arm, rival) for arms in TEMPERATURES.values() for t, arm in arms.items() if t != 4
      for rival in (arms[4], "student_alone")),
)


def ask(table: pd.DataFrame, questions: Mapping[str, Pairs] | Pairs) -> pd.DataFrame:
    """`regimes.gains` of the pairs that the table holds, corrected as part of all claims of the course.

    One difference has one verdict wherever it stands: Holm's correction counts every pair that any notebook asks
    about, and those asked here. questions: pairs of arms, or questions with pairs each, which add a column question.
    Also adds reading (`verdicts`). table: of `regimes.kept_regimes`.
    """
    named = questions if isinstance(questions, Mapping) else {"": questions}
    asked = {tuple(pair): question for question, pairs in named.items() for pair in pairs}
    each = {frozenset(pair): pair for pair in (*COURSE, *asked)}  # in either direction it is one claim
    family = gains(table, list(each.values()))
    corrected = {frozenset(pair): p for *pair, p in family[["arm", "against", "holm"]].itertuples(index=False)}
    found = gains(table, list(asked))
    pairs = list(zip(found["arm"], found["against"], strict=True))
    found["holm"] = [corrected[frozenset(pair)] for pair in pairs]
    return _read(found.assign(question=[asked[pair] for pair in pairs]) if isinstance(questions, Mapping) else found)


def over_data_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`ask` of the claims that the table holds both arms of; text is the claim, question says whose it is."""
    words = {(arm, against): claim for claims in WHOSE.values() for claim, arm, against in claims}
    found = ask(table, {whose: [claim[1:] for claim in claims] for whose, claims in WHOSE.items()})
    return found.assign(text=[words[pair] for pair in zip(found["arm"], found["against"], strict=True)])


def left_out(table: pd.DataFrame, questions: Mapping[str, Pairs]) -> str:
    """A paragraph on the arms of the questions that the table does not hold, "" where it holds all."""
    arms = dict.fromkeys(arm for pairs in questions.values() for pair in pairs for arm in pair)
    absent = [f"`{arm}`" for arm in arms if arm not in set(table["arm"])]
    return f"\n\nNot measured over data seeds, so not shown: {', '.join(absent)}." if absent else ""


def class_gains(table: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The gains of the three regimes as sensitivity of each class, one family for Holm: columns as `ask`, and class."""
    parts = [
        gains(table, [(arm, alone)], f"sensitivity_{name}").assign(question=regime, **{"class": name})
        for regime, (arm, alone, _) in REGIMES.items()
        for name in class_names
        if f"sensitivity_{name}" in table
    ]
    found = pd.concat(parts, ignore_index=True)
    return _read(found.assign(holm=holm(found["p"].to_numpy())))


def _read(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(reading=[reading(row) for _, row in found.iterrows()])


def with_holm(compared: pd.DataFrame) -> pd.DataFrame:
    """Differences with estimate, low and high (95 %), and then p, holm (all rows are one family) and reading."""
    p = [interval_p(*row) for row in compared[["estimate", "low", "high"]].to_numpy(dtype=float)]
    return _read(compared.assign(p=p, holm=holm(np.array(p))))


def judge_claims(table: pd.DataFrame, live: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Each claim with what was found, over data seeds where the carried measurement has both arms, else in this run.

    table: of `regimes.kept_regimes`. live: "ARM - RIVAL" -> estimate, low, high of this run (one data seed), in
    either direction. A row a claim: claim, arm, against, ours (not the paper's), estimate, low, high, p, seeds (data
    seeds; 1 for this run), holm (as in `ask`; those of this run are a family of their own), reading.
    """
    rows = []
    for ours, claims in ((False, CLAIMS), (True, OUR_CLAIMS)):
        for claim, arm, against in claims:
            over = ask(table, [(arm, against)])
            found = over.iloc[0][list(FOUND)].to_dict() if len(over) else _of_this_run(live, arm, against)
            rows.append({"claim": claim, "arm": arm, "against": against, "ours": ours} | found)
    judged = pd.DataFrame(rows)
    here = judged["seeds"] == 1
    judged.loc[here, "holm"] = holm(judged.loc[here, "p"].to_numpy(dtype=float))
    return _read(judged)


def in_words(judged: pd.DataFrame) -> pd.DataFrame:
    """`judge_claims` as a table for readers."""
    words = {GAIN: "shown here", LOSS: "the opposite is shown here"}
    where = [f"{row['seeds']:.0f} data seeds" if row["seeds"] > 1 else "this run, one data seed"
             for _, row in judged.iterrows()]  # fmt: skip
    tested = judged["reading"] != NOT_TESTED
    return pd.DataFrame({
        "claim": judged["claim"], "whose": judged["ours"].map({True: "the course", False: "the paper"}),
        "difference [95%]": [in_points(row) if np.isfinite(row["estimate"]) else "–" for _, row in judged.iterrows()],
        "measured over": pd.Series(where, judged.index).where(tested, "–"),
        "p after Holm": judged["holm"].map("{:.2g}".format).where(tested, "–"),
        "verdict": judged["reading"].replace(words),
    })  # fmt: skip


def _of_this_run(live: Mapping[str, Mapping[str, float]], arm: str, against: str) -> dict[str, float]:
    if f"{arm} - {against}" in live:
        one = live[f"{arm} - {against}"]
        estimate, low, high = one["estimate"], one["low"], one["high"]
    elif f"{against} - {arm}" in live:
        one = live[f"{against} - {arm}"]
        estimate, low, high = -one["estimate"], -one["high"], -one["low"]
    else:
        return dict.fromkeys(FOUND, np.nan)
    p = interval_p(estimate, low, high)
    return dict(zip(FOUND, (estimate, low, high, p, np.nan, 1), strict=True))


def recomputed_claims(margin: float = 0.01) -> pd.DataFrame:
    """The claims that the paper's own numbers can test. Columns: claim, claimed, recomputed, verdict.

    margin: within which student and teacher are called equal, as a fraction of 1.
    """
    beside, rows = published.beside_printed(), []
    for (dataset, model, score), part in beside.groupby(["dataset", "model", "score"], sort=False):
        verdict = "agrees" if part["agrees"].all() else "contradicted"
        verdict = "one agrees, one is contradicted" if part["agrees"].nunique() > 1 else verdict
        texts = [" and ".join(f"{text} %" for text in part[key].unique()) for key in ("printed", "recomputed")]
        rows.append((f"{dataset.upper()}, {model}: {score}", *texts, verdict))
    scores = published.fold_scores().query("dataset == 'neh'").groupby("model")["accuracy"].apply(np.array)
    equal = equivalence_p(scores["student"], margin, scores["teacher"])
    gap = published.student_minus_teacher("neh")
    low, high = (100 * bound for bound in gap["welch_interval"])
    found = (f"{100 * gap['estimate']:+.2f} points [{low:+.1f}, {high:+.1f}] as two samples; equal within "
             f"{100 * margin:g} point: p = {equal:.2f}")  # fmt: skip
    rows.append(("the student is nearly as good as its teacher on NEH", "92.46 against 92.6 %", found,
                 "agrees" if equal < 0.05 else OPEN))  # fmt: skip
    near = not_beaten_on_neh()
    found = f"Welch tests with Holm's correction: open against {', '.join(near)}" if near else "better than all listed"
    found += "; FPN-VGG16 pre-trained on UCSD is published with 93.4 ± 1.4 %"
    rows.append(("KD-OCT is better than others on NEH", "92.6 against 92.0 % (FPN-VGG16)", found,
                 OPEN if near else "agrees"))  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "claimed", "recomputed", "verdict"])


def not_beaten_on_neh(mean: float = 92.6, spread: float = 2.3, folds: int = 5) -> list[str]:
    """The published methods that the printed teacher is not shown to beat: Welch tests, Holm over all of them.

    mean, spread: as printed, percent; the spreads are population standard deviations over the folds.
    """
    widen = np.sqrt(folds / (folds - 1))
    p = [stats.ttest_ind_from_stats(mean, spread * widen, folds, other, one * widen, folds, equal_var=False).pvalue
         for other, one in published.OTHERS_ON_NEH.values()]  # fmt: skip
    return [name for name, one in zip(published.OTHERS_ON_NEH, holm(np.array(p)), strict=True) if one >= 0.05]
