"""Figures of arms over several training seeds, for notebooks 05 and 07. An arm is one way of training."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.show.style import LINE_COLORS, curves, headline, look, message
from kdoct_utils.show.svg import framed_svg


def answers_figure(
    images: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    xlabel: str,
    title: str,
) -> Figure:
    """Pictures of one scan beside bars of what is said of it.

    images: name -> (H, W) in 0..255. answers: who -> probabilities (classes,).
    """
    widths = [1.0] * len(images) + [1.7]
    figure, axes = plt.subplots(1, len(widths), figsize=(6.8, 2.5), width_ratios=widths)
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(name, fontsize=9, fontweight="normal")
        axis.set_axis_off()
    axis, height = axes[-1], 0.8 / len(answers)
    for row, (who, probabilities) in enumerate(answers.items()):
        places = np.arange(len(class_names)) + height * (row - (len(answers) - 1) / 2)
        axis.barh(places, probabilities, 0.9 * height, color=LINE_COLORS[row], hatch=("", "///", "...")[row % 3],
                  edgecolor="white", label=who)  # fmt: skip
    labels = [look(name).label for name in class_names]
    axis.set(yticks=range(len(labels)), yticklabels=labels, xlim=(0, 1), xlabel=xlabel)
    axis.invert_yaxis()
    axis.legend(fontsize=8, ncols=len(answers), loc="lower left", bbox_to_anchor=(-0.3, 1.0), columnspacing=1.0)
    headline(figure, title)
    return figure


PUSHES = {"teacher": ("#222222", "///"), "label": ("#0072B2", ""), "sum": ("#D55E00", "...")}


def pushes_figure(
    panels: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str], *, xlabel: str, title: str
) -> Figure:
    """What raises (right) and lowers (left) each class's logit. panels: heading -> name in PUSHES -> (classes,)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 1.5 + 0.35 * len(class_names)), sharex=True, sharey=True)
    for axis, (heading, pushes) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for row, (name, (color, hatch)) in enumerate(PUSHES.items()):
            places = np.arange(len(class_names)) + 0.27 * (row - 1)
            axis.barh(places, pushes[name], 0.25, color=color, hatch=hatch, edgecolor="white", label=name)
        axis.axvline(0, color="black", linewidth=1)
        axis.set_title(heading, fontsize=9, fontweight="normal")
        axis.set(yticks=range(len(class_names)), yticklabels=[look(name).label for name in class_names], xlabel=xlabel)
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=len(PUSHES), loc="outside lower center")
    headline(figure, title)
    return figure


def pushes_svg(pushes: Mapping[str, np.ndarray], class_names: Sequence[str], *, limit: float, title: str) -> str:
    """One panel of `pushes_figure` as an SVG string for a slider. limit: the push at either end, always the same."""
    left, room, row, width = 130, 330, 46, 560
    zero, bottom = left + room / 2, 40 + row * len(class_names)
    parts = [f'<path d="M{zero} 34V{bottom}" stroke="black"/>']
    for i, name in enumerate(class_names):
        y = 40 + row * i
        parts.append(f'<text x="{left - 8}" y="{y + 24}" text-anchor="end">{html.escape(look(name).label)}</text>')
        parts.append(f'<text x="{left + room + 8}" y="{y + 36}" font-size="12">sum {pushes["sum"][i]:+.3f}</text>')
        for k, (who, (color, _)) in enumerate(PUSHES.items()):
            length = room / 2 * float(np.clip(pushes[who][i] / limit, -1, 1))
            parts.append(f'<rect x="{min(zero, zero + length):.1f}" y="{y + 12 * k}" width="{abs(length):.1f}" '
                         f'height="{10 if who == "sum" else 8}" fill="{color}"/>')  # fmt: skip
    for k, (who, (color, _)) in enumerate(PUSHES.items()):
        x, place = left + 130 * k, ("first bar", "second bar", "third bar")[k]
        parts.append(f'<rect x="{x}" y="{bottom + 6}" width="12" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 16}" y="{bottom + 15}" font-size="12">{who} ({place})</text>')
    spoken = "; ".join(f"{look(n).label} {v:+.3f}" for n, v in zip(class_names, pushes["sum"], strict=True))
    return framed_svg(title, f"sum {spoken}", width, bottom + 26, parts)


def range_figure(still: np.ndarray, moving: np.ndarray, *, shown: int = 40, ylabel: str, title: str) -> Figure:
    """For scans sorted by ``still`` (n,), a dot there and a bar over the range of ``moving`` (views, n)."""
    order = np.argsort(still)[np.unique(np.linspace(0, len(still) - 1, shown).round().astype(int))]
    figure, axis = plt.subplots()
    axis.vlines(range(len(order)), moving.min(axis=0)[order], moving.max(axis=0)[order], color="#9AA5B1", linewidth=3,
                label=f"range over {len(moving)} views")  # fmt: skip
    axis.plot(range(len(order)), still[order], "o", markersize=4, color=LINE_COLORS[1], label="plain scan")
    axis.set(xlabel="training scans, sorted by the plain answer", ylabel=ylabel, xticks=[])
    axis.legend(fontsize=8)
    message(axis, title)
    return figure


def seed_curves(histories: Mapping[str, Sequence[pd.DataFrame]], *, title: str) -> tuple[Figure, dict[str, float]]:
    """Validation accuracy by epoch: for each arm the mean of its seeds, and each seed as a thin line.

    Epochs that not every training reached are left out of the means. Returns the figure and each arm's last mean.
    """
    reached = min(len(history) for runs in histories.values() for history in runs)
    means = {
        arm: np.mean([history["validation_accuracy"][:reached] for history in runs], axis=0)
        for arm, runs in histories.items()
    }
    epochs = np.arange(1, reached + 1)
    figure = curves(epochs, means, xlabel="epoch", ylabel="validation accuracy", title=title)
    axis = figure.axes[0]
    if reached <= 12:
        for line in axis.get_lines():
            line.set_markevery(1)  # also where a single epoch is all there is
    for arm, runs in histories.items():
        for history in runs:
            axis.plot(history["epoch"] + 1, history["validation_accuracy"], "-", color=look(arm).color, linewidth=0.7,
                      alpha=0.5)  # fmt: skip
    axis.set_xticks(epochs if reached <= 12 else epochs[:: reached // 10])
    return figure, {arm: float(mean[-1]) for arm, mean in means.items()}


def dose_figure(curve: Mapping[float, Mapping[str, float]], *, xlabel: str, ylabel: str, title: str) -> Figure:
    """Estimates with their intervals against a number. curve: number -> {"estimate", "low", "high"}."""
    numbers = sorted(curve)
    middle, low, high = (np.array([curve[number][key] for number in numbers]) for key in ("estimate", "low", "high"))
    figure, axis = plt.subplots(figsize=(6.8, 2.9))
    axis.errorbar(numbers, middle, yerr=[middle - low, high - middle], marker="o", capsize=4, color=LINE_COLORS[0])
    axis.set(xlabel=xlabel, ylabel=ylabel, xticks=numbers)
    message(axis, title)
    return figure


def share_figure(shares: pd.DataFrame, *, xlabel: str, title: str) -> Figure:
    """Stacked bars. shares: a row a bar, a column a part, rows sum to 1."""
    figure, axis = plt.subplots(figsize=(6.8, 1.2 + 0.3 * len(shares)))
    left = np.zeros(len(shares))
    for name, color, hatch in zip(shares, ("#D55E00", "#F0C060", "#0072B2"), ("///", "...", ""), strict=True):
        axis.barh(shares.index, shares[name], left=left, color=color, hatch=hatch, edgecolor="white", label=name)
        left += shares[name].to_numpy()
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(xlabel=xlabel, xlim=(0, 1))
    axis.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1)
    headline(figure, title)
    return figure


def transfer_figure(
    pictures: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    xlabel: str,
    title: str,
) -> Figure:
    """A picture of each of two datasets, and what every arm scores on them.

    pictures: name of the dataset -> (H, W) in 0..255. scores: the same names -> arm -> (estimate, low, high).
    """
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 2.7), width_ratios=(0.95, 0.95, 2.0))
    for axis, (name, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axis.set_title(name, fontsize=9, fontweight="normal")
        axis.set_axis_off()
    axis, arms = axes[2], list(next(iter(scores.values())))
    for side, (name, of_arms) in enumerate(scores.items()):
        for row, arm in enumerate(arms):
            (middle, low, high), color = of_arms[arm], look(arm).color
            axis.errorbar(middle, row + 0.24 * (side - 0.5), xerr=[[middle - low], [high - middle]], capsize=3,
                          color=color, marker="os"[side], markerfacecolor=("white", color)[side], linestyle="none",
                          label=name if row == 0 else None)  # fmt: skip
    axis.set(yticks=range(len(arms)), yticklabels=[look(arm).label for arm in arms], xlabel=f"{xlabel}\n(95% interval)",
             ylim=(len(arms) - 0.5, -0.5))  # fmt: skip
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    headline(figure, title)
    return figure


TOLD = {"better": ("^", "#0072B2"), "worse": ("v", "#D55E00"), "not told apart": ("o", "#6B6B6B")}


def told(row: Mapping[str, float]) -> str:
    """What an interval allows to say of a difference, one of TOLD. row: has low and high."""
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not told apart"


def forest_figure(compared: pd.DataFrame, *, xlabel: str, title: str) -> Figure:
    """Differences with 95 % intervals, one row an arm under the heading of its question.

    compared: columns question, text, estimate, low and high, rows of a question together, as drawn.
    What an interval tells is its marker and its color; an open circle is not told apart from zero.
    """
    headings = compared["question"].ne(compared["question"].shift())
    places = np.arange(len(compared)) + 0.9 * headings.cumsum().to_numpy()
    figure, axis = plt.subplots(figsize=(6.8, 1.2 + 0.235 * places[-1]))
    drawn = set()
    for place, (_, row) in zip(places, compared.iterrows(), strict=True):
        word = told(row)
        marker, color = TOLD[word]
        errors = [[max(0.0, row["estimate"] - row["low"])], [max(0.0, row["high"] - row["estimate"])]]
        axis.errorbar(row["estimate"], place, xerr=errors, color=color, marker=marker, markersize=6, capsize=3,
                      linewidth=1.4, linestyle="none", label=None if word in drawn else word,
                      markerfacecolor="white" if word == "not told apart" else color)  # fmt: skip
        drawn.add(word)
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    above, questions = places[headings.to_numpy()] - 0.95, compared.loc[headings, "question"]
    axis.set_yticks([*places, *above], [*compared["text"], *questions])
    for label in axis.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    axis.tick_params(axis="y", labelsize=8, length=0)
    axis.set(xlabel=f"{xlabel} (95% interval)", ylim=(places[-1] + 0.7, places[0] - 1.6))
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    headline(figure, title)
    return figure
