"""Figures of 05 and 05c: what a student is told and pushed to, how answers move, what a gain is worth elsewhere.

Each takes data and returns (figure, alternative text, takeaway), for `output.show`; `seed_curves` is the report's.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdoct_utils.judge.verdicts import in_points, reading, told
from kdoct_utils.show.explorers import PUSHES
from kdoct_utils.show.figures import draw_bars, draw_interval, draw_scan, scan_grid
from kdoct_utils.show.style import LINE_COLORS, headline, look, message

Shown = tuple[Figure, str, str]


def answers_figure(
    images: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], class_names: Sequence[str], temperature: float
) -> Shown:
    """Pictures of one scan beside bars of what is said of it.

    images: name -> (H, W) in 0..255. answers: who -> probabilities (classes,); "label" and "teacher" are among them.
    """
    names = [look(name).label for name in class_names]
    figure, axes = plt.subplots(1, len(images) + 1, figsize=(6.8, 2.5), width_ratios=[1.0] * len(images) + [1.7])
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        draw_scan(axis, image, name)
    looks = dict(zip(answers, zip(LINE_COLORS, ("", "///", "..."), strict=False), strict=False))
    draw_bars(axes[-1], pd.DataFrame(answers, names), looks)
    axes[-1].set(xlim=(0, 1), xlabel=f"probability at T = {temperature:g}")
    axes[-1].legend(fontsize=8, ncols=len(answers), loc="lower left", bbox_to_anchor=(-0.3, 1.0), columnspacing=1.0)
    headline(figure, f"One word from the label, {len(names)} numbers from the teacher")
    said = {who: ", ".join(f"{name} {p:.2f}" for name, p in zip(names, row, strict=True))
            for who, row in answers.items()}  # fmt: skip
    alt = f"{', '.join(images)} of one scan, and bars. {' '.join(f'The {who} says {s}.' for who, s in said.items())}"
    label = names[int(np.argmax(answers["label"]))]
    return figure, alt, f"The label says one word, {label}. The teacher says of this view: {said['teacher']}."


def pushes_figure(panels: Mapping[float, Mapping[str, np.ndarray]], class_names: Sequence[str]) -> Shown:
    """What raises (right) and lowers (left) each class's logit. panels: α -> name in PUSHES -> (classes,)."""
    names = [look(name).label for name in class_names]
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 1.5 + 0.35 * len(names)), sharex=True,
                                squeeze=False)  # fmt: skip
    for axis, (alpha, pushes) in zip(axes[0], panels.items(), strict=True):
        draw_bars(axis, pd.DataFrame({name: pushes[name] for name in PUSHES}, names), PUSHES)
        axis.get_legend().remove()
        axis.axvline(0, color="black", linewidth=1)
        axis.set_title(f"α = {alpha:g}", fontsize=9, fontweight="normal")
        axis.set_xlabel("push on the logit")
        axis.label_outer()
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=len(PUSHES), loc="outside lower center")
    first, last = list(panels.values())[0], list(panels.values())[-1]  # all label, all teacher
    against = [name for name, a, b in zip(names, last["teacher"], first["label"], strict=True) if a * b < 0]
    pulled = f"disagree on {', '.join(against)}" if against else "agree on the direction of every class"
    headline(figure, f"Teacher and label {pulled}")
    sums = [f"α = {alpha:g}: " + ", ".join(f"{name} {v:+.2f}" for name, v in zip(names, p["sum"], strict=True))
            for alpha, p in panels.items()]  # fmt: skip
    alt = f"Bars of the teacher's push, the label's push and their sum, a panel for each α. Sums at {'; '.join(sums)}."
    return figure, alt, f"On this view teacher and label {pulled}; α decides who is heard."


def views_figure(
    images: Sequence[np.ndarray], answers: np.ndarray, class_names: Sequence[str], moved: tuple[float, float]
) -> Shown:
    """A scan as stored and views of it, each under what the teacher says of it.

    images: (H, W) in 0..255 each, the stored scan first. answers: probabilities (images, classes). moved: how far this
    scan's soft label moves, and the mean of all scans, in nats.
    """
    said = [f"{look(class_names[row.argmax()]).label} {row.max():.2f}" for row in answers]
    heads = ["as stored", *(f"view {k}" for k in range(1, len(images)))]
    titles = [f"{head}:\n{words}" for head, words in zip(heads, said, strict=True)]
    figure = scan_grid(images, titles, columns=len(images), width=6.8 / len(images),
                       title="One scan, another answer to every view")  # fmt: skip
    listed = "; ".join(title.replace("\n", " ") for title in titles)
    takeaway = f"Of the scans asked, this one's answers move most ({moved[0]:.2f} nats, the mean is {moved[1]:.3f})."
    return figure, f"A scan and views of it. The teacher says, {listed}.", takeaway


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
    pictures: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, Sequence[float]]],
    gains: Mapping[str, Mapping[str, float]],
) -> Shown:
    """Two datasets: a picture of each, how each network fares on both, and what KD adds on each, in pairs.

    pictures: name of the dataset -> (H, W) in 0..255. scores: the same names -> arm -> mean sensitivity of each seed's
    network. gains: the same names -> estimate, low, high and by_seed of KD minus alone.
    """
    figure, axes = plt.subplots(2, 2, figsize=(6.8, 4.6), height_ratios=(1.0, 1.15))
    for axis, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        draw_scan(axis, picture, name)
    slopes, paired = axes[1]
    names, arms = list(scores), list(next(iter(scores.values())))
    for arm in arms:
        for k, pair in enumerate(zip(*(scores[name][arm] for name in names), strict=True)):
            slopes.plot((0, 1), pair, color=look(arm).color, marker=look(arm).marker, linestyle="-", linewidth=1.2,
                        label=None if k else look(arm).label)  # fmt: skip
    slopes.set(xticks=(0, 1), xticklabels=names, xlim=(-0.15, 1.15), ylabel="mean sensitivity")
    slopes.set_title("a line is one network", fontsize=9, fontweight="normal")
    slopes.legend(fontsize=8)
    _draw_gains(paired, gains)
    headline(figure, f"KD − alone. {told(list(gains), [reading(gain) for gain in gains.values()])}")
    listed = "; ".join(f"{name} {in_points(gain)}" for name, gain in gains.items())
    means = [f"{look(arm).label} " + " and ".join(f"{np.mean(scores[name][arm]):.3f}" for name in names)
             for arm in arms]  # fmt: skip
    alt = f"A scan of each; mean sensitivities on {' and '.join(names)}: {'; '.join(means)}. KD − alone: {listed}."
    return figure, alt, f"KD minus alone, mean sensitivity, in pairs: {listed}."


def _draw_gains(axis: Axes, gains: Mapping[str, Mapping[str, float]]) -> None:
    for row, gain in enumerate(gains.values()):
        draw_interval(axis, row, tuple(100 * gain[key] for key in ("estimate", "low", "high")), look("student_kd"))
        seaborn.stripplot(x=[100 * one for one in gain["by_seed"]], y=row + 0.25, orient="h", native_scale=True,
                          jitter=False, size=4, color=look("student_kd").color, ax=axis)  # fmt: skip
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    axis.set(yticks=range(len(gains)), yticklabels=list(gains), ylim=(len(gains) - 0.5, -0.5), ylabel="",
               xlabel="KD − alone, points (95% interval;\na dot is one seed's pair)")  # fmt: skip
    axis.grid(axis="y", visible=False)
