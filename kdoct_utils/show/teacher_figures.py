"""Figures of notebook 03: GRN, pre-training, views, learning rates, and the loss around averaged weights.

Each takes data and returns figure, alternative text and takeaway, for `output.show`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.learn.pipelines import AugmentConfig, only, steps
from kdoct_utils.learn.pretraining import SEED_SPACE, TISSUES
from kdoct_utils.learn.schedules import learning_rate_factor
from kdoct_utils.phantom.anatomy import LAYER_NAMES, draw_patient
from kdoct_utils.phantom.render import render_band
from kdoct_utils.profiles import TrainingConfig
from kdoct_utils.show.figures import confusion_matrix, curves, draw_scan, interval_plot, learning_curves, scan_grid
from kdoct_utils.show.style import LINE_COLORS, SEQUENTIAL, headline, look

Drawn = tuple[Figure, str, str]


def grn_figure(shares: Mapping[str, np.ndarray], gain: float) -> Drawn:
    """Norms of the feature maps inside one block, each relative to their mean, the largest before GRN first.

    shares: name of the line -> (maps,); the first is before GRN, the second after the network's own gains, whose mean
    size is ``gain``, the third after gains of 1.
    """
    before, own, ones = shares.values()
    order = np.argsort(before)[::-1]
    figure, axis = plt.subplots(figsize=(6.8, 2.9))
    for (name, values), marker in zip(shares.items(), ("o", "s", "^"), strict=True):
        axis.plot(values[order], marker=marker, markevery=8, markersize=4, label=name)
    axis.set(xlabel="feature map, the strongest first", ylabel="norm / mean norm")
    axis.legend(fontsize=8)
    spread = [float(values.std()) for values in (before, own, ones)]
    moved = np.abs(own - before).max()
    wide = spread[2] > spread[0]
    headline(figure, f"A gain of 1 {'pulls' if wide else 'does not pull'} the feature maps apart; this block's own "
                     f"gains (mean size {gain:.2f}) move them by {moved:.2f} at most")  # fmt: skip
    alt = (f"Norms of {len(order)} feature maps relative to their mean, sorted. Strongest and weakest before GRN: "
           f"{before[order[0]]:.2f} and {before[order[-1]]:.2f}; after the block's own gains {own[order[0]]:.2f} and "
           f"{own[order[-1]]:.2f}; after gains of 1 {ones[order[0]]:.2f} and {ones[order[-1]]:.2f}.")  # fmt: skip
    takeaway = (f"The spread of the norms (standard deviation) is {spread[0]:.2f} before GRN, {spread[1]:.2f} after "
                f"this block's own gains and {spread[2]:.2f} after gains of 1.")  # fmt: skip
    return figure, alt, takeaway


def lesson_figure(size: int) -> Drawn:
    """One lesson of the pre-training: a phantom of size x size pixels and, for every pixel, its layer or lesion."""
    lesson = render_band(draw_patient("cnv", [SEED_SPACE, 0, 0, 2]), slices=5, size=size)
    layers, lesions = lesson.layers[2], lesson.lesions[2]
    tissues = np.where(lesions > 0, len(LAYER_NAMES) - 1 + lesions, layers)  # (S, S), index into TISSUES
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3.2))
    draw_scan(left, lesson.images[2], "what the network saw")
    right.imshow(tissues, cmap=SEQUENTIAL, vmin=0, vmax=len(TISSUES) - 1)
    right.set_axis_off()
    right.set_title("what it had to say", fontsize=9, fontweight="normal")
    headline(figure, "Pre-training: name layer or lesion at every pixel")
    kinds = len(np.unique(tissues))
    alt = f"A synthetic B-scan with a neovascular lesion, and each of its {kinds} layers and lesions in its own shade."
    return (
        figure,
        alt,
        f"One picture of {size} x {size} px gives {tissues.size:,} labels. No physician had to draw them.",
    )


def views_figure(
    picture: Callable[[AugmentConfig, int], np.ndarray],
    plain: AugmentConfig,
    paper: AugmentConfig,
    whole: Mapping[str, AugmentConfig],
    label: str,
) -> Drawn:
    """One scan after each step alone (of eight draws the one that changes most), then views of whole pipelines.

    picture(config, view): gray levels (S, S). whole: name -> pipeline, a row of six views each.
    """
    still = picture(plain, 0)

    def boldest(config: AugmentConfig) -> np.ndarray:
        return max(
            (picture(config, view) for view in range(8)), key=lambda seen: np.abs(seen - still.astype(float)).mean()
        )

    tiles = [("plain scan", still)] + [(step.replace("_", " "), boldest(only(paper, step))) for step in steps(paper)]
    tiles += [("", np.full_like(still, 255))] * (-len(tiles) % 6)
    tiles += [(f"{name}, view {view}", picture(config, view)) for name, config in whole.items() for view in range(1, 7)]
    title = "The teacher's augmentation: each step alone, then all together"
    figure = scan_grid([image for _, image in tiles], [name for name, _ in tiles], columns=6, width=1.25, title=title)
    named = ", ".join(step.replace("_", " ") for step in steps(paper))
    alt = (
        f"One {label} scan after each of {len(steps(paper))} steps alone: {named}. Below, six views of each whole "
        f"pipeline ({', '.join(whole)})."
    )
    return figure, alt, f"{len(steps(paper))} steps, and the label must survive every one of them."


def averaging_from(config: TrainingConfig) -> int:
    """How many epochs are done when the averaging of weights starts, where patience does not bring it forward."""
    return min(math.ceil(config.swa_start * config.epochs), config.epochs - 1)


def planned_rates(config: TrainingConfig, in_epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates of head and backbone at every step, (epochs * in_epoch,) each; NaN while the backbone is frozen.

    in_epoch: steps in an epoch.
    """
    total, warmup = config.epochs * in_epoch, round(config.warmup_epochs * in_epoch)
    peaks, floor = (config.learning_rate, config.backbone_learning_rate), config.minimum_learning_rate
    head, backbone = (
        np.array([peak * learning_rate_factor(step, total, warmup, floor / peak) for step in range(total)])
        for peak in peaks
    )
    backbone[: config.frozen_epochs * in_epoch] = np.nan
    for rates in (head, backbone):
        rates[averaging_from(config) * in_epoch :] = config.swa_learning_rate
    return head, backbone


def rates_figure(plans: Mapping[str, tuple[TrainingConfig, int]]) -> Drawn:
    """Learning rates by epoch, a panel a plan. plans: heading -> training and its steps in an epoch."""
    figure, axes = plt.subplots(1, len(plans), figsize=(6.8, 3.1), squeeze=False)
    spoken, jumps = [], []
    for axis, (heading, (config, in_epoch)) in zip(axes[0], plans.items(), strict=True):
        (head, backbone), start = planned_rates(config, in_epoch), averaging_from(config)
        done = np.arange(len(head)) / in_epoch
        axis.semilogy(done, head, label="head")
        axis.semilogy(done, backbone, label="backbone")
        frozen = config.frozen_epochs
        axis.axvspan(0, frozen, color="#BBBBBB", alpha=0.5, label="backbone frozen", linewidth=0)
        axis.axvspan(start, config.epochs, color="#FFE27A", alpha=0.5, label="averaging", linewidth=0)
        axis.set(xlabel="epochs done")
        axis.set_title(heading, fontsize=9, fontweight="normal")
        times = [rates[start * in_epoch] / rates[start * in_epoch - 1] for rates in (head, backbone)]
        jumps.append(f"{heading}: {times[0]:.1f} times for the head, {times[1]:.1f} times for the backbone")
        spoken.append(
            f"{heading}: head up to {head.max():g}, backbone up to {np.nanmax(backbone):g} and frozen for {frozen} of "
            f"{config.epochs} epochs, averaging after {start} of them at {head[-1]:g}"
        )
    axes[0, 0].set_ylabel("learning rate")
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    headline(figure, "Warm up, fall along a cosine, then hold and average")
    return (
        figure,
        f"Learning rates by epoch. {'. '.join(spoken)}.",
        f"Where averaging starts, the rate changes. {'; '.join(jumps)}.",
    )


def training_figure(history: pd.DataFrame, chosen: str, width: float = 6.8) -> Drawn:
    """Loss and accuracy of a training by epoch. history: epochs counted from 1; chosen: "swa" or "best" weights.

    width: inches, see `learning_curves`.
    """
    epochs = history[history["weights"] != "swa"]
    first, last, best = epochs.iloc[0], epochs.iloc[-1], epochs.loc[epochs["validation_loss"].idxmin()]
    kept = "the average" if chosen == "swa" else f"epoch {best['epoch']:.0f}, the best,"
    figure = learning_curves(history, title=f"The teacher after {len(epochs)} epochs: {kept} is kept", width=width)
    alt = (f"Training loss goes from {first['train_loss']:.3f} to {last['train_loss']:.3f} nats, validation loss from "
           f"{first['validation_loss']:.3f} to {last['validation_loss']:.3f}; its lowest is "
           f"{best['validation_loss']:.3f} in epoch {best['epoch']:.0f}. Validation accuracy ends at "
           f"{last['validation_accuracy']:.2f}.")  # fmt: skip
    side = "above" if last["train_loss"] > last["validation_loss"] else "below"
    return figure, alt, (f"At the end the training loss is {side} the validation loss. It is measured on augmented "
                         "pictures, with units dropped.")  # fmt: skip


def plane_figure(
    across: np.ndarray,
    up: np.ndarray,
    surface: np.ndarray,
    places: Mapping[str, np.ndarray],
    losses: Mapping[str, Sequence[float]],
) -> Drawn:
    """Left: the loss around the weights, seen from above, dark where it is low. Right: the losses of the weights.

    across, up (k,), surface (k, k): where the loss was measured. places: name -> (n, 2) of start, snapshots, mean and
    annealed weights. losses: the same names -> (n,); of the mean, that of the mean after each snapshot.
    """
    marks = {"start": ("D", "#FFFFFF"), "snapshots": ("o", "#56B4E9"), "annealed": ("s", "#D55E00"),
             "mean": ("*", "#FFE27A")}  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.7))
    figure.colorbar(
        left.pcolormesh(across, up, surface, cmap=SEQUENTIAL, shading="gouraud"), ax=left, label="loss (nats)"
    )
    left.plot(*np.vstack([places["start"], places["snapshots"]]).T, color="white", linewidth=1)
    for name, (marker, color) in marks.items():
        left.plot(*places[name].T, marker, color=color, markeredgecolor="black", label=name,
                  markersize={"*": 12, "s": 9}.get(marker, 7))  # fmt: skip
    left.set(xlabel="distance (norm of weights)", ylabel="distance (norm of weights)", aspect="equal")
    numbers = np.arange(1, len(losses["snapshots"]) + 1)
    right.plot(numbers, losses["snapshots"], marker="o", label="snapshot")
    right.plot(numbers, losses["mean"], marker="*", markersize=10, label="mean so far")
    for k, name in enumerate(("start", "annealed"), start=2):
        right.axhline(losses[name][0], color=LINE_COLORS[k], linestyle=(":", "-.")[k - 2], linewidth=1.5, label=name)
    right.set(xlabel="snapshots taken", ylabel="focal loss per scan (nats)", xticks=numbers)
    for axis in (left, right):
        axis.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1)
    ends = {"the start": losses["start"][0], "the last snapshot": losses["snapshots"][-1],
            "the mean": losses["mean"][-1], "the annealed weights": losses["annealed"][0]}  # fmt: skip
    ranked = sorted(ends, key=ends.get)
    headline(
        figure, f"On these scans {ranked[0]} {'have' if 'weights' in ranked[0] else 'has'} the lowest loss of the four"
    )
    spoken = ", ".join(f"{name} {ends[name]:.4f}" for name in ranked)
    alt = (f"Left: validation loss in the plane nearest to the start, {len(numbers)} snapshots and the annealed "
           f"weights, measured at {surface.size} places, from {surface.min():.4f} to {surface.max():.4f} nats. Right: "
           f"loss by number of snapshots. At the end: {spoken}.")  # fmt: skip
    return figure, alt, f"Loss a scan, lowest first: {spoken} nats. One short walk of one teacher."


def patience_figure(epochs: int, patience: int, swa_start: int) -> Drawn:
    """Snapshots in the average of a run that stops after its patience, against its last better epoch."""
    last_better = np.arange(1, epochs + 1)  # the run gets better until that epoch and never again
    averaged = np.maximum(0, np.minimum(epochs, last_better + patience) - swa_start)
    needed = int(last_better[averaged > 0].min())
    figure = curves(last_better, {"public code": averaged}, xlabel="last epoch with a better validation loss",
                    ylabel="snapshots in the average", title="A run that is done early never averages anything")
    alt = (f"Snapshots in the average against the last epoch that was better: none up to epoch {needed - 1}, then "
           f"rising to {averaged[-1]}.")  # fmt: skip
    return figure, alt, (f"A run must still get better in epoch {needed} of {epochs} or later, or its average is the "
                         "initial weights.")  # fmt: skip


def gate_figure(scores: Mapping[str, Mapping], gate: float, go: bool) -> Drawn:
    """Accuracy with its interval by role against the gate. scores: role -> record of `stages.score`."""
    rows = {f"{role} patients": (score["accuracy"], *score["interval"]) for role, score in scores.items()}
    verdict = "The gate is open" if go else "The gate is closed"
    figure = interval_plot(rows, xlabel="accuracy", title=verdict, reference=gate, reference_label=f"gate {gate:.0%}")
    words = [f"{name} {value:.3f} ({low:.3f} to {high:.3f})" for name, (value, low, high) in rows.items()]
    held_out = scores["validation"]
    alt = f"Accuracy with its 95% interval: {'; '.join(words)}. The gate stands at {gate:.2f}."
    return figure, alt, f"{verdict}: {held_out['accuracy']:.1%} on {held_out['n_patients']} validation patients."


def tested_figure(score: Mapping, class_names: Sequence[str], name: str = "Test accuracy") -> Drawn:
    """Confusion matrix of the test scans. score: record of `stages.score`; name: of the network, for the title."""
    counts, (low, high) = np.array(score["confusion"]), score["interval"]
    labels = [look(name).label for name in class_names]
    errors = counts - np.diag(np.diag(counts))
    row, column = np.unravel_index(errors.argmax(), errors.shape)
    worst = f"{labels[row]} taken for {labels[column]}, {errors[row, column]} of {counts[row].sum()} scans"
    title = f"{name} {score['accuracy']:.1%} on {score['n_scans']} scans"
    right = "; ".join(f"{label} {counts[k, k]} of {counts[k].sum()}" for k, label in enumerate(labels))
    alt = f"Confusion matrix with counts and row percentages. Right: {right}."
    takeaway = (f"Accuracy {score['accuracy']:.1%}, 95% interval {low:.1%} to {high:.1%} over {score['n_patients']} "
                f"patients. Most frequent mistake: {worst if errors.any() else 'none'}.")  # fmt: skip
    return confusion_matrix(counts, class_names, title=title), alt, takeaway
