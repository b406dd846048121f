"""Paired differences between arms over data seeds, from `judge.regimes.gains`: figure and sentence (03, 04)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from kdoct_utils.show.figures import draw_interval
from kdoct_utils.show.style import Look, headline

BETTER, WORSE = Look("gain", "#0072B2", "^", ""), Look("loss", "#D55E00", "v", "")
OPEN = Look("no difference shown", "#555555", "o", "")


def in_points(row: Mapping[str, float]) -> str:
    """ "+0.4 points (95% interval -0.1 to +0.9; 12 data seeds)" of a row with estimate, low, high and seeds."""
    estimate, low, high = (100 * row[key] for key in ("estimate", "low", "high"))
    return f"{estimate:+.1f} points (95% interval {low:+.1f} to {high:+.1f}; {row['seeds']} data seeds)"


def verdict(row: Mapping[str, float], arm: str, against: str) -> str:
    """A sentence on a paired difference in accuracy, as far as its interval allows. arm, against: in words."""
    if row["low"] > 0 or row["high"] < 0:
        more = "more" if row["low"] > 0 else "less"
        return f"{arm} is {more} accurate than {against}: {in_points(row)}. The interval excludes zero."
    most = 100 * max(-row["low"], row["high"])
    return (f"{arm} and {against} are not shown to differ: {in_points(row)}. A difference of more than {most:.1f} "
            "points lies outside the interval.")  # fmt: skip


def gains_figure(
    found: pd.DataFrame, labels: Mapping[str, str], *, against: str, title: str
) -> tuple[Figure, str, str]:
    """A row an arm: its difference in each data seed as a dot, mean and 95 % t-interval. (figure, alt, takeaway).

    found: of `judge.regimes.gains`, at least one row. labels: arm -> name of its row. against: what all are held
    against, in words.
    """
    figure, axis = plt.subplots(figsize=(6.8, 1.25 + 0.6 * len(found)))
    for place, (_, row) in enumerate(found.iterrows()):
        look = BETTER if row["low"] > 0 else WORSE if row["high"] < 0 else OPEN
        values = [100 * one for one in row["by_seed"]]
        seaborn.stripplot(x=values, y=place + 0.26, orient="h", native_scale=True, jitter=0.05, size=4, alpha=0.6,
                          color=look.color, ax=axis)  # fmt: skip
        draw_interval(axis, place, tuple(100 * row[key] for key in ("estimate", "low", "high")), look)
        words = f"{100 * row['estimate']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        axis.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)  # fmt: skip
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    names = [labels[arm] for arm in found["arm"]]
    rows = ["\n".join(textwrap.wrap(name, 26)) for name in names]
    axis.set(yticks=range(len(found)), yticklabels=rows, ylim=(len(found) - 0.4, -0.5), ylabel="",
             xlabel=f"points of accuracy against {against}\n(95% interval; a dot is one data seed)")  # fmt: skip
    axis.grid(axis="y", visible=False)
    headline(figure, title)
    listed = "; ".join(f"{name} {in_points(row)}" for name, (_, row) in zip(names, found.iterrows(), strict=True))
    return (
        figure,
        f"Paired differences in accuracy against {against}: {listed}.",
        f"On phantoms, against {against}: {listed}.",
    )


def pair_figure(row: pd.Series, arm: str, against: str) -> tuple[Figure, str, str]:
    """`gains_figure` of one row, with the title and takeaway that its interval allows. arm, against: in words."""
    title = f"No difference between {arm} and {against} is shown"
    title = f"{arm[0].upper()}{arm[1:]} is more accurate than {against}" if row["low"] > 0 else title
    title = f"{arm[0].upper()}{arm[1:]} is less accurate than {against}" if row["high"] < 0 else title
    figure, alt, _ = gains_figure(pd.DataFrame([row]), {row["arm"]: arm}, against=against, title=title)
    return figure, alt, verdict(row, arm[0].upper() + arm[1:], against)
