"""Notebook 02's figures: data in; figure, alternative text and takeaway out, for `output.show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from kdoct_utils.judge.loss_effects import NOISE, OF_RARE
from kdoct_utils.judge.verdicts import GAIN, LOSS, OPEN, in_points
from kdoct_utils.show.figures import curves
from kdoct_utils.show.gain_figures import forest
from kdoct_utils.show.style import LINE_COLORS, LINE_STYLES, headline, look

Shown = tuple[Figure, str, str]


def effects_figure(effects: pd.DataFrame) -> Shown:
    """What losses do over data seeds. effects: of `judge.loss_effects.measured`; a small dot is a data seed."""
    rows = effects.assign(text=effects["label"])
    figure, _, _ = forest(rows, "", xlabel="points of sensitivity", title=effects_message(effects))
    rows = []
    for question, part in effects.groupby("question", sort=False):
        of_question = ", ".join(f"{row['label']} {in_points(row)}" for _, row in part.iterrows())
        rows.append(f"{question[:1].upper()}{question[1:]}: {of_question}")
    low, high = effects["seeds"].min(), effects["seeds"].max()
    seeds = f"{low}" if low == high else f"{low} to {high}"
    alt = f"Differences with 95% intervals and a dot for each of {seeds} data seeds. {'. '.join(rows)}."
    return figure, alt, f"On phantoms, {seeds} data seeds: {effects_message(effects)}."


def effects_message(effects: pd.DataFrame) -> str:
    """What the corrected intervals allow to say, in one line."""
    rare, parts = effects[effects["question"] == OF_RARE], []
    if len(rare):
        ways = {side: rare.loc[rare["reading"] == side, "label"].tolist() for side in (GAIN, LOSS)}
        found = [f"{' and '.join(ways[GAIN])} found more of the rare class"] if ways[GAIN] else []
        found += [f"{' and '.join(ways[LOSS])} found less of it"] if ways[LOSS] else []
        parts.append(", ".join(found) or "no loss is shown to change what is found of the rare class")
    told = {GAIN: "helped", LOSS: "hurt", OPEN: "is not shown to help or hurt"}
    noise = effects[effects["question"] == NOISE]
    by_labels = {kind: told[row["reading"]] for kind in ("right labels", "wrong labels")
                 for _, row in noise.iterrows() if row["label"].endswith(kind)}  # fmt: skip
    if len(by_labels) == 2 and len(set(by_labels.values())) == 1:
        parts.append(f"focal loss {by_labels['wrong labels']}, with right labels and with wrong ones")
    else:
        parts += [f"with {kind} focal loss {word}" for kind, word in by_labels.items()]
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def loss_and_pull_figure(
    p_true: Sequence[float], losses: Mapping[str, Sequence[float]], pulls: Mapping[str, Sequence[float]]
) -> Shown:
    """Losses and pulls against p_t. losses, pulls: name -> (n,), cross-entropy first."""
    p_true, (plain, *others) = np.asarray(p_true), [np.asarray(line) for line in pulls.values()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.2))
    curves(p_true, losses, xlabel="$p_t$", ylabel="loss (nats)", title="", axis=left)
    curves(p_true, pulls, xlabel="$p_t$", ylabel="pull at the true logit", title="", axis=right)
    left.set_ylim(0, 4)
    right.get_legend().remove()
    meets = [p_true[line >= plain].max() for line in others]
    gains = [p_true[(line - plain).argmax()] for line in others]
    headline(figure, "A larger γ lets a scan go sooner; most is gained at small $p_t$, and nothing at 0")
    named = ", ".join(f"{name} at {p:.2f}" for name, p in zip(list(pulls)[1:], meets, strict=True))
    most = ", ".join(f"{p:.2f}" for p in gains)
    alt = ("Two panels against p_t from 0 to 1. Left, the loss: all curves fall, with a larger gamma faster. Right, "
           "the pull: cross-entropy is a straight line from 1 to 0; a larger gamma starts there too, rises above it "
           f"and then falls far below. They cross: {named}. The gain is largest at p_t = {most}.")  # fmt: skip
    at = np.abs(p_true - 0.9).argmin()
    ratios = ", ".join(f"{line[at] / plain[at]:.2f}" for line in others)
    return figure, alt, f"At p_t = 0.9 these γ pull {ratios} times as hard as cross-entropy."


def real_weight_figure(
    p_true: Sequence[float], weights: Mapping[str, float], real: Mapping[str, Sequence[float]], gamma: float
) -> Shown:
    """The weight that a scan has with the error, against p_t. weights: class -> as set. real: class -> (n,)."""
    p_true = np.asarray(p_true)
    figure = curves(p_true, real, xlabel="$p_t$", ylabel="", title="")
    axis = figure.axes[0]
    for name, weight in weights.items():
        axis.axhline(weight, color=look(name).color, linewidth=1, alpha=0.6)
    axis.set(yscale="log", xlim=(0, 1), ylabel="weight that a scan has\n(thin lines: as set)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ratio = max(weights.values()) / min(weights.values())
    headline(figure, f"Near $p_t$ = 1 a ratio of {ratio:.0f} between classes becomes {ratio ** (1 + gamma):,.0f}")
    middle = np.abs(p_true - 0.5).argmin()
    told = "; ".join(f"{look(name).label} set to {weights[name]:.2f}, at p_t = 0.5 it is {real[name][middle]:.2f}"
                     for name in weights)  # fmt: skip
    alt = ("Class weights that scans have against p_t, on a log scale, each with a thin flat line at the weight as "
           "set. Curves of weights above 1 lie over their line, those below 1 under it, the more the larger p_t. "
           f"{told}.")  # fmt: skip
    return figure, alt, f"With the error a weight w acts as w to the power of {1 + gamma:g} near p_t = 1."


def epochs_figure(lines: pd.DataFrame, reference: tuple[str, float], *, ylabel: str, title: str) -> Shown:
    """Shares by epoch. lines: a row per epoch (from 1), a column per line. reference: name and value of a flat line."""
    figure, axis = plt.subplots(figsize=(6.8, 3.0))
    for (name, values), color, style, mark in zip(lines.items(), LINE_COLORS, LINE_STYLES, "osv^DX", strict=False):
        axis.plot(lines.index, values, color=color, linestyle=style, marker=mark, markersize=5, label=name)
    axis.axhline(reference[1], color="#6B6B6B", linewidth=1, linestyle=":", label=reference[0])
    axis.set(xlabel="epoch of the training", ylabel=ylabel, ylim=(0, 1.02),
             xticks=lines.index[:: -(-len(lines) // 12)])  # fmt: skip
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    headline(figure, title)
    told = "; ".join(f"{name} {values.iloc[0]:.2f} in the first epoch, {values.iloc[-1]:.2f} in the last"
                     for name, values in lines.items())  # fmt: skip
    alt = f"Lines over the epochs, {ylabel.replace('$', '')}: {told}; {reference[0]} {reference[1]:.2f} throughout."
    return figure, alt, f"{title}."


def wrong_labels_figure(p_true: np.ndarray, wrong: np.ndarray, shares: Mapping[str, float]) -> Shown:
    """p_t (n,) of right and wrong labels, and the wrong labels' share of scans and pulls. wrong: (n,) bool."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.9), width_ratios=(1.3, 1))
    for mask, name, color, hatch in ((~wrong, "label right", "#0072B2", ""), (wrong, "label wrong", "#D55E00", "///")):
        seaborn.histplot(p_true[mask], bins=20, binrange=(0, 1), stat="density", alpha=0.6, color=color, hatch=hatch,
                         edgecolor="white", label=name, ax=left)  # fmt: skip
    left.set(xlabel="$p_t$ of the label given", ylabel="density of training scans")
    left.legend(fontsize=8)
    table = pd.DataFrame({"of": list(shares), "percent": [100 * value for value in shares.values()]})
    seaborn.barplot(table, x="percent", y="of", hue="of", palette=["#9AA5B1", "#222222", "#D55E00"], legend=False,
                    ax=right)  # fmt: skip
    for bars in right.containers:
        right.bar_label(bars, fmt="%.0f%%", fontsize=9, padding=3)
    right.set(xlabel="share of wrong labels (%)", xlim=(0, 100), ylabel="")
    right.grid(axis="y", visible=False)
    told = ", ".join(f"{value:.0%} {of}" for of, value in shares.items())
    headline(figure, f"Wrong labels are {told}")
    means = f"{p_true[~wrong].mean():.2f} for right labels and {p_true[wrong].mean():.2f} for wrong ones"
    alt = f"Left: histograms of p_t; its mean is {means}. Right: bars, wrong labels are {told}."
    return figure, alt, f"Wrong labels are {told}."


# --- sentences -------------------------------------------------------------------------------------------------------


def rare_or_hard(shares: pd.DataFrame, label: str) -> str:
    """What focal loss adds to a rare class's share of the pull. shares: a row per epoch, a column per loss."""
    more = 100 * (shares["focal"] - shares["cross-entropy"])
    words = "Weights know from the start which class is rare; focal loss turns to it only later."
    if more.iloc[-1] <= more.iloc[0] + 1:
        words = "Here focal loss does not find the rare class later on either."
    return (f"Against cross-entropy, focal loss changes the share of {label} by {more.iloc[0]:+.0f} points in the "
            f"first epoch and by {more.iloc[-1]:+.0f} in the last. {words}")  # fmt: skip


def chased(shares: Mapping[str, float], wrong: float, right: float) -> str:
    """Whether focal loss chases wrong labels. shares: as in `wrong_labels_figure`; wrong, right: of the pull kept."""
    words = ("So its attention **goes to the wrong labels**, because they look hard. Does that harm new patients? That "
             "is another question, and the next cell's.")  # fmt: skip
    if shares["of focal's pull"] <= shares["of CE's pull"] + 0.01:
        words = "So its attention does not go to the wrong labels in this training."
    kept = f"{wrong:.0%} at wrong labels and {right:.0%} at right ones"
    return f"Of cross-entropy's pull focal loss has {kept}. {words}"


def when_to_look(auc: pd.Series) -> str:
    """In which epoch wrong labels are found best. auc: by epoch."""
    best, last = auc.idxmax(), auc.index[-1]
    if auc[best] > auc[last] + 0.01:
        return f"Wrong labels are found best in epoch {best}: AUC {auc[best]:.2f}, and {auc[last]:.2f} at the end"
    if auc[last] > auc.iloc[0] + 0.01:
        return f"Wrong labels are found better later on: AUC {auc.iloc[0]:.2f} at first, {auc[last]:.2f} last"
    return f"Wrong labels are found as well at the end as before (AUC {auc[last]:.2f})"
