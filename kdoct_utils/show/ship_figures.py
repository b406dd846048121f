"""Figures of notebook 06 about the file that ships: what it answers, and when it keeps silent.

Each takes numbers and returns (figure, alternative text, takeaway).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.figure import Figure

from kdoct_utils.show.edge_figures import format_panels, rounding, share_bars
from kdoct_utils.show.figures import scan_grid
from kdoct_utils.show.style import LINE_COLORS, headline

Told = tuple[Figure, str, str]


def answers_figure(frames: Mapping[str, np.ndarray], answers: Sequence) -> Told:
    """Frames, each under what the file says of it. answers: an `edge.classifier.Answer` a frame."""
    said = [f"{one.decision}, p = {max(one.probabilities.values()):.2f}" if one.probabilities else one.decision
            for one in answers]  # fmt: skip
    refused = sum(one.decision == "refused" for one in answers)
    titles = [f"{name}:\n{text}" for name, text in zip(frames, said, strict=True)]
    grey = [frame if frame.ndim == 2 else frame.mean(axis=2) for frame in frames.values()]
    unsure = sum(one.decision == "not sure" for one in answers)
    title = f"One file: {len(said) - refused - unsure} frames named, {unsure} not sure, {refused} refused"
    figure = scan_grid(grey, titles, columns=3, width=2.3, title=title)
    alt = f"{len(frames)} pictures with the file's answer above each. {'; '.join(titles)}.".replace("\n", " ")
    return figure, alt, f"From a frame to an answer in one call; {refused + unsure} of {len(frames)} get no class."


def mistakes_figure(kept: Mapping[str, float], count: int) -> Told:
    """kept: mistake -> share of the answers that stay, 0 to 1. count: validation scans asked."""
    worst, mildest = min(kept, key=kept.get), max(kept, key=kept.get)
    figure = share_bars(kept, xlabel=f"validation scans that keep their answer (%, n = {count})",
                        title=f"“{worst}”: {kept[worst]:.0%} of the answers stay, and nothing complains")
    alt = "Bars: share of answers that stay the same under each mistake. " + "; ".join(
        f"{name} {share:.0%}" for name, share in kept.items()) + "."
    return figure, alt, (f"“{worst}” changes the most answers, “{mildest}” is the hardest to notice:"
                         f" {kept[mildest]:.0%} stay. None of them raises an error.")  # fmt: skip


def rounding_figure(values: np.ndarray, back: np.ndarray, scale: float) -> Told:
    """Activations (n,) before and after a round trip through 8 bits, with steps of ``scale``."""
    figure = rounding(values, back, scale, title=f"Steps of {scale:.4f}: never off by more than half of one")
    upper = (values > (values.max() + values.min()) / 2).mean()
    error = np.sqrt(np.square(back - values).mean()) / values.std()
    alt = (f"Left: histogram of {len(values):,} activations from {values.min():.2f} to {values.max():.2f}, log scale."
           f" Right: error of the round trip close to zero, a saw tooth within half a step, {scale / 2:.4f}.")
    return figure, alt, (f"The typical error is {error:.1%} of the activations' spread. {upper:.1%} of them lie in the"
                         " upper half of the range, and use half of the levels.")  # fmt: skip


def formats_figure(formats: Mapping[str, Mapping]) -> Told:
    """Bytes, latency and accuracy of each file. formats: name -> bytes, latency_ms, accuracy, interval; FP32 first."""
    first, *_, last = formats.values()
    smaller = first["bytes"] / last["bytes"]
    figure = format_panels(formats, title=f"{list(formats)[-1]} takes {1 / smaller:.0%} of the bytes")
    words = " ".join(f"{name}: {row['bytes'] / 1000:.0f} kB, {row['latency_ms']:.2f} ms, accuracy {row['accuracy']:.3f}"
                     " [{:.3f}, {:.3f}].".format(*row["interval"]) for name, row in formats.items())
    return figure, f"File size, latency and accuracy. {words}", (
        f"The smallest file is {smaller:.1f} times smaller, and not four: biases, guarded layers, the distance and the"
        " names of nodes stay as they are.")


def threshold_figure(lines: np.ndarray, found: Sequence[Mapping], chosen: float) -> Told:
    """Sensitivity and specificity against the threshold, with their intervals. found: of `decide.rates`, one a line."""
    figure, axis = plt.subplots(figsize=(6.8, 3.0))
    for name, color, style in zip(("sensitivity", "specificity"), LINE_COLORS, ("-", "--"), strict=False):
        rows = [one[name] for one in found]
        axis.plot(lines, [row["estimate"] for row in rows], style, color=color, label=name)
        axis.fill_between(lines, [row["low"] for row in rows], [row["high"] for row in rows], color=color, alpha=0.18)
    axis.axvline(chosen, color="black", linestyle=":", label=f"chosen: {chosen:.2f}")
    axis.set(xlabel="threshold of the probability of disease", ylabel="share of test scans", ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="lower center")
    at = found[int(np.abs(lines - chosen).argmin())]
    words = " and ".join("{} {estimate:.1%} [{low:.1%}, {high:.1%}]".format(name, **at[name])
                         for name in ("sensitivity", "specificity"))  # fmt: skip
    shares = (f"{name} {at[name]['estimate']:.0%}" for name in ("sensitivity", "specificity"))
    headline(figure, f"At {chosen:.2f}, chosen on validation: {' and '.join(shares)} on test")
    return figure, f"Sensitivity falls and specificity rises with the threshold. At {chosen:.2f}, marked: {words}.", (
        f"On test scans, with intervals that count patients: {words}.")  # fmt: skip


def risk_figure(coverage: np.ndarray, risk: np.ndarray, chosen: float) -> Told:
    """Errors among the scans answered, against the share that is answered. chosen: the share that the rule answers."""
    figure, axis = plt.subplots(figsize=(6.8, 2.8))
    axis.plot(100 * coverage, 100 * risk, color=LINE_COLORS[0])
    at = float(np.interp(chosen, coverage, risk))
    axis.plot(100 * chosen, 100 * at, "o", color=LINE_COLORS[1], markersize=8, label=f"the rule answers {chosen:.0%}")
    axis.set(xlabel="test scans answered, the surest first (%)", ylabel="errors among them (%)", ylim=(0, None))
    axis.legend(fontsize=8)
    headline(figure, f"{1 - chosen:.0%} silence takes the errors from {risk[-1]:.1%} to {at:.1%}")
    return figure, (f"Errors against coverage: {risk[-1]:.1%} when every test scan is answered, {at:.1%} at"
                    f" {chosen:.0%}."), (f"Who leaves {1 - chosen:.0%} of the scans to a reader errs on {at:.1%} of the"
                                         f" rest in place of {risk[-1]:.1%} of all.")  # fmt: skip


def distance_figure(distances: Mapping[str, np.ndarray], allowed: float) -> Told:
    """How far pictures are from the training scans, a row a kind. distances: kind -> (n,), the scans first; inf:
    stopped before there was a distance."""
    figure, axis = plt.subplots(figsize=(6.8, 1.0 + 0.32 * len(distances)))
    refused = {kind: float((np.asarray(values) > allowed).mean()) for kind, values in distances.items()}
    labels = {kind: f"{kind} ({refused[kind]:.1%} refused)" for kind in distances}
    end = 2 * max(np.max(values, where=np.isfinite(values), initial=0) for values in distances.values())
    points = [(labels[kind], min(value, end)) for kind, values in distances.items() for value in values[:200]]
    seaborn.stripplot(x=[value for _, value in points], y=[name for name, _ in points], size=3, alpha=0.6, jitter=0.25,
                      color=LINE_COLORS[0], ax=axis)
    axis.axvline(allowed, color=LINE_COLORS[1], linestyle="--", label=f"allowed: {allowed:.1f}")
    axis.set(xscale="log", xlabel="distance from the training scans (log scale; right end: stopped before)", ylabel="")
    axis.legend(fontsize=8, loc="lower right")
    known, *odd = refused
    others = np.mean([refused[kind] for kind in odd])
    headline(figure, f"Refused: {refused[known]:.1%} of the {known}, {others:.0%} of what is none")
    words = "; ".join(f"{kind} {share:.0%}" for kind, share in refused.items())
    return figure, f"Distances by kind of picture, and the largest allowed, {allowed:.1f}. Refused: {words}.", (
        f"Refused are {refused[known]:.1%} of the {known} and {others:.1%} of the others, on average over their kinds.")
