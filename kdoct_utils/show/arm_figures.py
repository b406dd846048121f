"""Figures that set arms beside each other: what they are told, how they learn and score (05).

Numbers in, a Figure out, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from kdoct_utils.show.explorers import PUSHES
from kdoct_utils.show.figures import draw_bars, draw_interval, draw_scan
from kdoct_utils.show.style import LINE_COLORS, headline, look, message


def answers_figure(
    images: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], class_names: Sequence[str], *, xlabel: str,
    title: str,
) -> Figure:
    """Pictures of one scan beside bars of what is said of it.

    images: name -> (H, W) in 0..255. answers: who -> probabilities (classes,).
    """
    widths = [1.0] * len(images) + [1.7]
    figure, axes = plt.subplots(1, len(widths), figsize=(6.8, 2.5), width_ratios=widths)
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        draw_scan(axis, image, name)
    looks = dict(zip(answers, zip(LINE_COLORS, ("", "///", "..."), strict=False), strict=False))
    draw_bars(axes[-1], pd.DataFrame(answers, [look(name).label for name in class_names]), looks)
    axes[-1].set(xlim=(0, 1), xlabel=xlabel)
    axes[-1].legend(fontsize=8, ncols=len(answers), loc="lower left", bbox_to_anchor=(-0.3, 1.0), columnspacing=1.0)
    headline(figure, title)
    return figure


def pushes_figure(
    panels: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str], *, xlabel: str, title: str
) -> Figure:
    """What raises (right) and lowers (left) each class's logit. panels: heading -> name in PUSHES -> (classes,)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 1.5 + 0.35 * len(class_names)), sharex=True,
                                squeeze=False)  # fmt: skip
    for axis, (heading, pushes) in zip(axes[0], panels.items(), strict=True):
        table = pd.DataFrame({name: pushes[name] for name in PUSHES}, [look(name).label for name in class_names])
        draw_bars(axis, table, PUSHES)
        axis.get_legend().remove()
        axis.axvline(0, color="black", linewidth=1)
        axis.set_title(heading, fontsize=9, fontweight="normal")
        axis.set_xlabel(xlabel)
        axis.label_outer()
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=len(PUSHES), loc="outside lower center")
    headline(figure, title)
    return figure


def range_figure(still: np.ndarray, moving: np.ndarray, *, shown: int = 40, ylabel: str, title: str) -> Figure:
    """For scans sorted by ``still`` (n,), a dot there and a bar over the range of ``moving`` (views, n)."""
    order = np.argsort(still)[np.unique(np.linspace(0, len(still) - 1, shown).round().astype(int))]
    figure, axis = plt.subplots()
    axis.vlines(range(len(order)), moving.min(axis=0)[order], moving.max(axis=0)[order], color="#9AA5B1", linewidth=3,
                label=f"range over {len(moving)} views")  # fmt: skip
    axis.plot(range(len(order)), still[order], "o", markersize=4, color=LINE_COLORS[1], label="plain scan")
    axis.set(xlabel=f"{len(order)} of {len(still)} training scans, sorted by the plain answer", ylabel=ylabel)
    axis.set_xticks([])
    axis.legend(fontsize=8)
    message(axis, title)
    return figure


def seed_curves(
    histories: Mapping[str, Sequence[pd.DataFrame]], *, title: str, size: tuple[float, float] | None = None
) -> tuple[Figure, dict[str, float]]:
    """Validation accuracy by epoch: for each arm the mean of its seeds, in a band from the lowest to the highest.

    Epochs that not every training reached are left out of the means. size: in inches, if not the style's.
    Returns the figure and each arm's last mean.
    """
    table = pd.concat([history.assign(arm=look(arm).label, seed=seed, epoch=history["epoch"] + 1)
                       for arm, runs in histories.items() for seed, history in enumerate(runs)])  # fmt: skip
    reached = min(len(history) for runs in histories.values() for history in runs)
    both = table[table["epoch"] <= reached]
    figure, axis = plt.subplots(figsize=size)
    seaborn.lineplot(both, x="epoch", y="validation_accuracy", hue="arm", ax=axis, style="arm",
                     palette={look(arm).label: look(arm).color for arm in histories},
                     markers={look(arm).label: look(arm).marker for arm in histories},
                     errorbar=("pi", 100), err_kws={"alpha": 0.15}, markersize=7, markeredgewidth=0.5)  # fmt: skip
    axis.set(ylabel="validation accuracy", xticks=range(1, reached + 1, -(-reached // 12)))
    axis.legend(fontsize=8)
    message(axis, title)
    last = both[both["epoch"] == reached].groupby("arm")["validation_accuracy"].mean()
    return figure, {arm: float(last[look(arm).label]) for arm in histories}


def transfer_figure(
    pictures: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, tuple[float, float, float]]], *, xlabel: str,
    title: str,
) -> Figure:
    """A picture of each of two datasets, and what every arm scores on them.

    pictures: name of the dataset -> (H, W) in 0..255. scores: the same names -> arm -> (estimate, low, high).
    """
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 2.7), width_ratios=(0.95, 0.95, 2.0))
    for axis, (name, picture) in zip(axes, pictures.items(), strict=False):
        draw_scan(axis, picture, name)
    axis, arms = axes[2], list(next(iter(scores.values())))
    for side, (name, of_arms) in enumerate(scores.items()):
        for row, arm in enumerate(arms):
            draw_interval(axis, row + 0.24 * (side - 0.5), of_arms[arm], look(arm), capsize=3, markersize=6,
                          marker="os"[side], markerfacecolor=("white", look(arm).color)[side],
                          label=name if row == 0 else None)  # fmt: skip
    axis.set(yticks=range(len(arms)), yticklabels=[look(arm).label for arm in arms], xlabel=f"{xlabel}\n(95% interval)",
             ylim=(len(arms) - 0.5, -0.5))  # fmt: skip
    axis.grid(axis="y", visible=False)
    axis.locator_params(axis="x", nbins=5)
    axis.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    headline(figure, title)
    return figure
