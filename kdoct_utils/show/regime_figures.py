"""The course's central figure: what a teacher adds, by what its student has. Read from `judge.regimes`.

A table in; figure, alternative text and takeaway out, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from kdoct_utils.judge.claims import ask
from kdoct_utils.judge.regimes import PERMUTED, REGIMES, by_data_seed, gains
from kdoct_utils.judge.verdicts import in_points, verdict
from kdoct_utils.show.figures import draw_interval
from kdoct_utils.show.style import Look, headline

WITH_TEACHER = Look("the teacher's answers", "#D55E00", "P", "")
WITH_PERMUTED = Look("its answers, permuted within a class", "#0072B2", "s", "")
YOURS = Look("this run", "#222222", "D", "")
TOLD = {
    "same labels": "same labels\n(the paper's setting)",
    "patients' labels": "patients' labels\n(a second clinic)",
    "few labels and a pool": "few labels\nand a pool",
}


def map_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each place on the map. table: of `kept_regimes`.

    Columns: alone, kd, teacher (accuracies, means over data seeds); estimate, low, high (gain, 95 % t-interval), holm,
    seeds, by_seed; permuted_estimate, permuted_low, permuted_high (the gain left when the answers are permuted among
    the scans of one class; NaN where not measured).
    """
    scores, rows = by_data_seed(table), {}
    found = ask(table, [pair[:2] for pair in REGIMES.values()])
    left = ask(table, [(PERMUTED[name], pair[1]) for name, pair in REGIMES.items()])
    for name, (kd, alone, _) in REGIMES.items():
        gain = found[found["arm"] == kd]
        if gain.empty:
            continue
        rows[name] = gain.iloc[0].drop(["arm", "against", "p"]).to_dict()
        common = scores[[alone, kd, "teacher"]].dropna()
        rows[name] |= dict(zip(("alone", "kd", "teacher"), common.mean(), strict=True))
        permuted = left[left["arm"] == PERMUTED[name]]
        for key in ("estimate", "low", "high"):
            rows[name][f"permuted_{key}"] = permuted[key].iloc[0] if len(permuted) else np.nan
    return pd.DataFrame.from_dict(rows, orient="index")


def map_message(table: pd.DataFrame) -> str:
    """What the intervals allow to say of the map in one sentence, for a title."""
    rows, scores = map_rows(table), by_data_seed(table)
    by_regime = {name: scores[kd] - scores[alone] for name, (kd, alone, _) in REGIMES.items() if name in rows.index}
    more = []
    for name, gain in by_regime.items():  # is the gain there larger than with the same labels, in pairs?
        if name != "same labels" and "same labels" in by_regime:
            pairs = pd.DataFrame({"more": gain, "same": by_regime["same labels"]}).dropna().stack().reset_index()
            pairs.columns = ["seed", "arm", "accuracy"]
            more += [len(pairs) > 2 and gains(pairs, [("more", "same")])["low"].iloc[0] > 0]
    helped = [name for name in rows.index if rows.loc[name, "low"] > 0]
    if len(helped) == len(rows) and more and all(more):
        return "A teacher helps most where it knows what the labels do not say"
    if len(helped) == len(rows):
        return "A teacher helps in all of these places"
    return f"A teacher helps here: {'; '.join(helped)}" if helped else "No gain is shown in any of these places"


def map_figure(
    table: pd.DataFrame, here: Mapping[str, Mapping[str, float]] | None = None
) -> tuple[Figure, str, str]:
    """The map: gain in points by regime, a small dot a data seed. Returns figure, alternative text and takeaway.

    table: of `kept_regimes`. A plus is the mean over data seeds with its 95 % t-interval, a square the same for
    permuted answers. Beside each row stand the accuracies of the student alone, with its teacher, and of the teacher.
    here: regime -> estimate, low and high of one run, drawn as a diamond over its row.
    """
    rows = map_rows(table)
    figure, (axis, beside) = plt.subplots(1, 2, figsize=(6.8, 1.3 + 0.75 * len(rows)), width_ratios=(2.3, 1),
                                       sharey=True)  # fmt: skip
    dots = rows["by_seed"].explode().astype(float).mul(100).rename("points").rename_axis("regime").reset_index()
    places = {name: place for place, name in enumerate(rows.index)}
    dots["place"] = dots["regime"].map(places) - 0.2
    seaborn.stripplot(dots, x="points", y="place", orient="h", native_scale=True, jitter=0.06, size=3.5, alpha=0.6,
                      color=WITH_TEACHER.color, ax=axis)  # fmt: skip
    for name, row in rows.iterrows():
        for before, look, below in (("", WITH_TEACHER, 0.0), ("permuted_", WITH_PERMUTED, 0.26)):
            numbers = tuple(100 * row[[before + key for key in ("estimate", "low", "high")]].astype(float))
            if np.isfinite(numbers).all():
                draw_interval(axis, places[name] + below, numbers, look, markersize=9 if not below else 6, capsize=4,
                              markeredgecolor="white" if not below else look.color, markeredgewidth=0.8,
                              markerfacecolor="white" if below else look.color, zorder=3,
                              label=None if places[name] else look.label)  # fmt: skip
    here = {name: gain for name, gain in (here or {}).items() if name in places}
    for k, (name, gain) in enumerate(here.items()):
        draw_interval(axis, places[name] - 0.38, tuple(100 * gain[key] for key in ("estimate", "low", "high")), YOURS,
                      markersize=5, capsize=3, label=None if k else YOURS.label)  # fmt: skip
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    axis.set(yticks=range(len(rows)), yticklabels=[TOLD[name] for name in rows.index], ylabel="",
             ylim=(len(rows) - 0.45, -0.55), xlabel="points of accuracy gained by the teacher\n"
             f"(mean and 95% interval; a dot is one of {_seeds(rows)} data seeds)")  # fmt: skip
    axis.grid(axis="y", visible=False)
    beside.set_axis_off()
    beside.set_xlim(-0.5, 2.5)
    headings = {"alone": "alone", "kd": "with\nteacher", "teacher": "the\nteacher"}
    for column, (key, heading) in enumerate(headings.items()):
        beside.annotate(heading, (column, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
        for name, row in rows.iterrows():
            beside.text(column, places[name], f"{row[key]:.1%}", ha="center", va="center", fontsize=9)
    axis.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1,
                columnspacing=1.0, handletextpad=0.3)  # fmt: skip
    headline(figure, map_message(table))
    listed = [
        f"{name}: alone {row['alone']:.1%}, with a teacher {row['kd']:.1%} (the teacher itself {row['teacher']:.1%}), "
        f"gain {in_points(row)}"
        + (f", with permuted answers {in_points(_permuted(row))}" if np.isfinite(row["permuted_low"]) else "")
        for name, row in rows.iterrows()
    ]
    alt = f"Gain by regime over {_seeds(rows)} data seeds, a dot a data seed. {'; '.join(listed)}."
    alt += "".join(f" This run, {name}: {in_points(gain)}." for name, gain in here.items())
    parts = [f"{name} {in_points(row)}" for name, row in rows.iterrows()]
    takeaway = f"On phantoms, accuracy with the 95% interval over data seeds: {'; '.join(parts)}."
    if here:
        takeaway = "This run, one draw: " + "; ".join(f"{name} {in_points(gain)}" for name, gain in here.items()) + "."
    return figure, alt, takeaway


def _permuted(row: pd.Series) -> dict[str, float]:
    return {key: row[f"permuted_{key}"] for key in ("estimate", "low", "high")}


def _seeds(rows: pd.DataFrame) -> str:
    low, high = rows["seeds"].min(), rows["seeds"].max()
    return f"{high:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def claims_table(table: pd.DataFrame, claims: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Differences of accuracy over data seeds, one row a claim, for `output.show_table`.

    table: of `kept_regimes`. claims: words -> (arm, arm held against); those not measured are left out. The p values
    are Holm's, as in `judge.claims.ask`.
    """
    words = {pair: name for name, pair in claims.items()}
    found = ask(table, list(words))
    return pd.DataFrame({
        "points": [f"{100 * value:+.1f}" for value in found["estimate"]],
        "95% interval": [f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}" for _, row in found.iterrows()],
        "p (Holm)": [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in found["holm"]],
        "data seeds": found["seeds"].tolist(),
        "what is shown": [verdict(row) for _, row in found.iterrows()],
    }, [words[pair] for pair in zip(found["arm"], found["against"], strict=True)])  # fmt: skip
