"""Differences with their intervals, a dot a data seed: one way to draw them, for all notebooks.

Each takes rows as `judge.verdicts` reads them, and returns figure, alternative text and takeaway, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdoct_utils.judge.verdicts import (
    GAIN,
    LOSS,
    OF_DIFFERENCES,
    OPEN,
    Words,
    counted,
    in_points,
    reading,
    sentence,
    told,
)
from kdoct_utils.show.figures import draw_interval
from kdoct_utils.show.style import READING_LOOKS, headline

Shown = tuple[Figure, str, str]


def forest(compared: pd.DataFrame, what: str, *, xlabel: str = "points of accuracy", title: str = "",
           words: Words = OF_DIFFERENCES, dot: str = "data seed") -> Shown:  # fmt: skip
    """Differences with 95 % intervals, a row each, under the heading of their question. what: they are.

    compared: text, estimate, low, high (fractions of 1) and, where they are there, question (rows of one together),
    holm, and by_seed (the difference in each data seed, or what dot says), drawn as dots. Filled markers: shown.
    title: "" counts what is shown. words: for it.
    """
    questions = compared["question"] if "question" in compared else pd.Series("", compared.index)
    headings = questions.ne(questions.shift()) & questions.ne("")
    places = np.arange(len(compared)) + 0.9 * headings.cumsum().to_numpy()
    readings = [reading(row) for _, row in compared.iterrows()]
    figure, axis = plt.subplots(figsize=(6.8, max(2.2, 1.35 + 0.29 * (places[-1] + 1))))
    dots = "by_seed" in compared
    np.random.seed(0)  # of seaborn's jitter: the same picture every time
    for place, found, (_, row) in zip(places, readings, compared.iterrows(), strict=True):
        look = READING_LOOKS[found]
        if dots:
            seaborn.stripplot(x=100 * np.array(row["by_seed"]), y=place + 0.32, orient="h", native_scale=True,
                              jitter=0.1, size=3.2, color=look.color, alpha=0.6, ax=axis)  # fmt: skip
        draw_interval(axis, place, tuple(100 * row[["estimate", "low", "high"]].astype(float)), look, markersize=6,
                      capsize=3, linewidth=1.4, label=words[found][0], zorder=3,
                      markerfacecolor="white" if found == OPEN else look.color)  # fmt: skip
    above = places[headings.to_numpy()] - 0.95
    axis.set_yticks([*places, *above], [*compared["text"], *questions[headings]])
    for label in axis.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    under = f"95% interval; a dot is one {dot}" if dots else "95% interval"
    axis.set(xlabel=f"{xlabel}\n({under})", ylim=(places[-1] + 0.7, places[0] - (1.6 if len(above) else 0.6)))
    _tidy(axis, [one for one, _ in words.values()])
    headline(figure, title or f"{what}: {counted(readings, words)}")
    names = compared["text"] if compared["text"].is_unique else questions + ", " + compared["text"]
    listed = "; ".join(f"{name} {in_points(row)}" for name, (_, row) in zip(names, compared.iterrows(), strict=True))
    return figure, f"{what}, {xlabel} with 95% intervals: {listed}.", told(names, readings, words)


def _tidy(axis: Axes, words: Sequence[str]) -> None:
    """Zero, no grid across, and a legend that says each word once."""
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    axis.set_ylabel("")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", labelsize=8, length=0)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    handles = {word: handles[word] for word in words if word in handles}
    axis.legend(handles.values(), handles, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0),
                borderaxespad=0.1)  # fmt: skip


def pair_figure(row: pd.Series, arm: str, against: str) -> Shown:
    """One difference, such as a row of `judge.claims.ask`, with the title that its interval allows.

    arm, against: in words.
    """
    told = {GAIN: "{} is more accurate than {}", LOSS: "{} is less accurate than {}",
            OPEN: "No difference between {} and {} is shown"}  # fmt: skip
    title = told[reading(row)].format(arm, against)
    what = f"{arm} minus {against}"
    rows = pd.DataFrame([row]).assign(text=f"{in_points(row)}\n{row['seeds']} data seeds")
    figure, _, _ = forest(rows, what, title=title[0].upper() + title[1:])
    return (figure, f"Accuracy of {what}, over {row['seeds']} data seeds: {in_points(row)}.",
            f"{sentence(row, arm[0].upper() + arm[1:], against)} Over {row['seeds']} data seeds.")  # fmt: skip
