"""What focal loss and class weights do for a rare class and with wrong labels, read from the carried measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from kdoct_utils.judge.regimes import OVER_SEEDS, by_data_seed, gains, holm, over_data_seeds
from kdoct_utils.judge.verdicts import GAIN, LOSS, OPEN, excludes_zero, in_points, reading, reason

RARE, SENSITIVITY = "drusen", "sensitivity_"  # the class made rare, and how columns of classes begin
WEIGHTS_ON_CE = {"rare_weighted": 1, "rare_alone": -1}
FOCAL_ON_CE = {"rare_focal": 1, "rare_alone": -1}
FOCAL_ON_WEIGHTS = {"rare_weighted_focal": 1, "rare_weighted": -1}
RIGHT, WRONG = {"alone_focal": 1, "student_alone": -1}, {"noisy_focal": 1, "noisy_alone": -1}

TROUBLE = {  # question -> the arm in trouble, the score, and both in words
    "rare class": ("rare_alone", SENSITIVITY + RARE, f"sensitivity for {RARE}", "a tenth of its patients left"),
    "wrong labels": ("noisy_alone", "macro", "macro sensitivity", "30% of the training labels wrong"),
}


@dataclass(frozen=True)
class Effect:
    """One claim. arms: arm -> its sign in the difference. score: column, or "macro", the mean sensitivity.

    above, below, unclear: what holds where the difference is shown to be positive, negative, or is not shown.
    """

    question: str
    label: str
    arms: Mapping[str, int]
    score: str
    above: str
    below: str
    unclear: str


OF_RARE, OF_ALL = "rare class: its own sensitivity", "rare class: macro sensitivity"
NOISE = "wrong labels: macro sensitivity"
EFFECTS = (
    Effect(OF_RARE, "focal loss", FOCAL_ON_CE, SENSITIVITY + RARE,
           "Focal loss alone finds more of the rare class", "Focal loss alone finds less of the rare class",
           "Focal loss alone is not shown to find more or less of the rare class"),
    Effect(OF_RARE, "class weights", WEIGHTS_ON_CE, SENSITIVITY + RARE,
           "Class weights find more of the rare class", "Class weights find less of the rare class",
           "Class weights are not shown to find more or less of the rare class"),
    Effect(OF_RARE, "focal loss beside weights", FOCAL_ON_WEIGHTS, SENSITIVITY + RARE,
           "With weights already there, focal loss finds still more", "With weights there, focal loss finds less",
           "With weights already there, focal loss is not shown to change what is found"),
    Effect(OF_ALL, "focal loss", FOCAL_ON_CE, "macro",
           "Over all classes, focal loss alone is a gain", "Over all classes, focal loss alone is a loss",
           "Over all classes, focal loss alone is neither shown to gain nor to lose"),
    Effect(OF_ALL, "class weights", WEIGHTS_ON_CE, "macro",
           "Over all classes, weighting is a gain", "Over all classes, weights cost more than they bring",
           "Over all classes, weights are neither shown to gain nor to lose"),
    Effect(OF_ALL, "focal loss beside weights", FOCAL_ON_WEIGHTS, "macro",
           "Over all classes, focal loss improves on weights", "Over all classes, focal loss makes weights worse",
           "Over all classes, focal loss beside weights is not shown to change anything"),
    Effect(NOISE, "focal loss, right labels", RIGHT, "macro",
           "With right labels focal loss is better than cross-entropy", "With right labels focal loss is worse",
           "With right labels no difference between the losses is shown"),
    Effect(NOISE, "focal loss, wrong labels", WRONG, "macro",
           "With wrong labels focal loss is better than cross-entropy", "With wrong labels focal loss is worse",
           "With wrong labels no difference between the losses is shown"),
    Effect(NOISE, "the second minus the first", WRONG | {arm: -sign for arm, sign in RIGHT.items()}, "macro",
           "Focal loss stands noise better than cross-entropy does", "Noise hurts focal loss more than cross-entropy",
           "That noise hurts one loss more than the other is not shown"),
)  # fmt: skip


def with_macro(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `kept_regimes` with a column "macro": the mean of the classes' sensitivities."""
    return table.assign(macro=table.filter(like=SENSITIVITY).mean(axis=1))


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each of EFFECTS that the table of `kept_regimes` holds the arms of: one family of claims.

    Columns: question, label, estimate, low, high (fractions; 95 %, Student's t over data seeds), p, holm (p with all
    rows in mind), seeds, by_seed, reading (GAIN, LOSS or OPEN, with holm) and words for it.
    """
    table, rows = with_macro(table), []
    for effect in EFFECTS:
        scores = by_data_seed(table, effect.score)
        if not set(effect.arms) <= set(scores):
            continue
        values = sum(sign * scores[arm] for arm, sign in effect.arms.items()).dropna().to_numpy()
        if len(values) < 2:
            continue
        rows.append({"question": effect.question, "label": effect.label, "effect": effect} | over_data_seeds(values))
    found = pd.DataFrame(rows, columns=["question", "label", *OVER_SEEDS, "effect"])
    found.insert(6, "holm", holm(found["p"].to_numpy(dtype=float)))
    found["reading"] = [reading(row) for _, row in found.iterrows()]
    sides = {GAIN: "above", LOSS: "below", OPEN: "unclear"}
    found["words"] = [getattr(row.effect, sides[row.reading]) for row in found.itertuples()]
    return found.drop(columns="effect")


def sentence(row: pd.Series) -> str:
    """A row of `measured` as a sentence: what holds, by how much, and how sure that is."""
    size = f"{row['words']}: {in_points(row)}"
    if row["reading"] != OPEN:
        return f"{size}."
    if excludes_zero(row):
        return f"{size}: {reason(row)}."
    return f"{size}. Up to {100 * max(-row['low'], row['high']):.1f} points are not ruled out."


def told(effects: pd.DataFrame, table: pd.DataFrame, question: str) -> str:
    """A list in Markdown: what the trouble costs cross-entropy, then the rows whose question begins so.

    effects: of `measured`, for the table of `kept_regimes`. Where nothing was measured, a line that says so.
    """
    rows = [f"- {sentence(row)}" for _, row in effects.iterrows() if row["question"].startswith(question)]
    if not rows:
        return "- The carried measurement lacks these arms: nothing can be said yet."
    arm, score, name, trouble = TROUBLE[question]
    scores = by_data_seed(with_macro(table), score)[["student_alone", arm]].dropna()
    before, after = scores.mean()
    cost = f"- With cross-entropy, {name} is {before:.1%} with the data as they are, and {after:.1%} with {trouble} " \
           f"(means of {len(scores)} data seeds)."  # fmt: skip
    floor = ["- That is the floor: no loss can find much less. No difference there means that a loss does not lift the "
             "class off the floor, not that two losses are equal."]  # fmt: skip
    return "\n".join([cost, *(floor if after < 0.05 else []), *rows])


def price(table: pd.DataFrame) -> pd.DataFrame:
    """Change of each class's sensitivity against rare_alone, in words: a row per loss, a column per class."""
    losses = {"rare_focal": "focal", "rare_weighted": "weighted CE", "rare_weighted_focal": "weighted focal"}
    rows = {}
    for column in table.filter(like=SENSITIVITY):
        found = gains(table, [(arm, "rare_alone") for arm in losses], column)
        rows[column.removeprefix(SENSITIVITY)] = {losses[row["arm"]]: in_points(row) for _, row in found.iterrows()}
    return pd.DataFrame(rows).rename(columns={"cnv": "CNV"})


def missing_arms(table: pd.DataFrame) -> str:
    """A sentence on the arms that the carried measurement lacks, "" where it has all."""
    needed = dict.fromkeys(arm for effect in EFFECTS for arm in effect.arms)
    missing = [arm for arm in needed if arm not in set(table["arm"])]
    return f"The carried measurement lacks {', '.join(missing)}; what needs them is left out here." if missing else ""
