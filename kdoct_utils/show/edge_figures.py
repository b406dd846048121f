"""Figures of notebook 06: rounding to integers, and what each format costs. Numbers in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from kdoct_utils.show.figures import draw_bars
from kdoct_utils.show.style import LINE_COLORS, LINE_STYLES, headline, look

WORK_LOOKS = (("#0072B2", ""), ("#D07C00", "///"), ("#1B9E77", "..."), ("#7A1F5C", "xxx"), ("#BBBBBB", ""),
              ("#222222", "\\\\\\"))  # fmt: skip


def share_bars(shares: Mapping[str, float], *, xlabel: str, title: str) -> Figure:
    """One horizontal bar a name. shares: fractions of 1, drawn in percent."""
    figure, axis = plt.subplots(figsize=(6.8, 1.0 + 0.3 * len(shares)))
    bars = axis.barh(list(shares), [100 * share for share in shares.values()], color=LINE_COLORS[0])
    axis.bar_label(bars, fmt="%.0f%%", padding=3, fontsize=9)
    axis.set(xlim=(0, 112), xlabel=xlabel)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    headline(figure, title)
    return figure


def rounding(values: np.ndarray, back: np.ndarray, scale: float, *, title: str) -> Figure:
    """The values of a tensor, and how far each is from what comes back after rounding. values, back: (n,)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.9))
    seaborn.histplot(values, bins=80, color=LINE_COLORS[0], alpha=1, linewidth=0, legend=False, ax=left)
    left.set(xlabel="activation", ylabel="values (log scale)", yscale="log")
    near = np.flatnonzero(np.abs(values) < 3 * scale)
    near = near[:: max(1, len(near) // 3000)]
    right.plot(values[near], (back - values)[near], ".", markersize=2, color=LINE_COLORS[1])
    for side in (-0.5, 0.5):
        right.axhline(side * scale, color="black", linestyle=":", linewidth=1)
    right.set(xlabel="activation, close to 0", ylabel="error of the round trip", ylim=(-0.8 * scale, 0.8 * scale))
    right.annotate("half a step", (1, 0.5 * scale), xycoords=("axes fraction", "data"), xytext=(0, 3),
                   textcoords="offset points", fontsize=8, ha="right")  # fmt: skip
    headline(figure, title)
    return figure


def stairs(
    places: np.ndarray, lines: Mapping[str, np.ndarray], bits: Sequence[int], errors: Sequence[float], *, title: str
) -> Figure:
    """Share of weights below each place, smooth and rounded, beside the error for each number of bits.

    lines: name -> (places,) shares, the first the unrounded. errors: fractions of the weights' size, one a bit.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.9))
    for name, share in lines.items():
        left.step(places, share, where="post", label=name, linewidth=1.4)
    left.set(xlabel="weight", ylabel="share of weights below")
    left.legend(fontsize=8)
    right.semilogy(bits, [100 * error for error in errors], marker="o")
    for bit, error in zip(bits, errors, strict=True):
        right.annotate(f"{error:.1%}", (bit, 100 * error), xytext=(4, 4), textcoords="offset points", fontsize=8)
    _plain_log(right)
    right.set(xlabel="bits", ylabel="error (% of the weights)", xticks=bits)
    right.margins(x=0.12, y=0.12)
    headline(figure, title)
    return figure


def channel_errors(ranges: np.ndarray, step: float, errors: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Channels sorted by their largest weight: that weight beside a shared step, and each one's rounding error.

    ranges: (channels,) > 0. errors: name -> (channels,) fractions of a channel's size.
    """
    order = np.argsort(ranges)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.9))
    left.semilogy(ranges[order], label="largest weight")
    left.axhline(step, color="black", linestyle=":", linewidth=1.4, label="one shared step")
    left.set(xlabel="channel, sorted", ylabel="absolute weight", ylim=(step / 3, 3 * ranges.max()))
    left.legend(fontsize=8, loc="center right")
    for (name, values), style in zip(errors.items(), LINE_STYLES, strict=False):
        right.semilogy(100 * np.maximum(np.asarray(values)[order], 1e-4), linestyle=style, linewidth=1.4, label=name)
    _plain_log(left)
    _plain_log(right)
    right.set(xlabel="channel, sorted", ylabel="error (% of the channel)")
    right.legend(fontsize=8)
    headline(figure, title)
    return figure


def _plain_log(axis: Axes) -> None:
    """0.1, 0.3, 1, 3, 10 beside a logarithmic axis, whatever its range."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def logit_scatter(full: np.ndarray, small: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Logits of the 8-bit file against those of the float file, both (n, classes), in the looks of the classes."""
    figure, axis = plt.subplots(figsize=(5.0, 3.8))
    axis.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=1, label="equal")
    for k, name in enumerate(class_names):
        drawn = look(name)
        axis.plot(full[:, k], small[:, k], drawn.marker, markersize=3, color=drawn.color, label=drawn.label, alpha=0.6)
    axis.set(xlabel="logit, float file", ylabel="logit, INT8 file")
    axis.legend(fontsize=8, markerscale=2)
    headline(figure, title)
    return figure


def format_panels(formats: Mapping[str, Mapping], *, title: str) -> Figure:
    """Size, latency and accuracy side by side. formats: rows of `edge.measure`, each with interval [low, high]."""
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 2.7))
    names = list(formats)
    panels = (("bytes", 1e-3, "%.0f", "file (kB)"), ("latency_ms", 1.0, "%.2f", "latency (ms)"))
    for axis, (key, factor, digits, label) in zip(axes, panels, strict=False):
        bars = axis.bar(names, [formats[name][key] * factor for name in names], color=LINE_COLORS[: len(names)])
        axis.bar_label(bars, fmt=digits, fontsize=8)
        axis.set_title(label, fontsize=10, fontweight="normal")
        axis.margins(y=0.15)
        axis.grid(axis="x", visible=False)
    for i, row in enumerate(formats.values()):
        axes[2].plot([i, i], row["interval"], color=LINE_COLORS[i], linestyle="-")
        axes[2].plot(i, row["accuracy"], "osDPX"[i % 5], color=LINE_COLORS[i], markersize=7)
    axes[2].set(xticks=range(len(names)), xticklabels=names, xlim=(-0.5, len(names) - 0.5))
    axes[2].set_title("accuracy (95% interval)", fontsize=10, fontweight="normal")
    headline(figure, title)
    return figure


def time_bars(parts: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """Time by kind of work, one stacked bar a format. parts: format -> {work: microseconds}, the same works in each."""
    figure, axis = plt.subplots(figsize=(6.8, 1.6 + 0.35 * len(parts)))
    table = pd.DataFrame(parts).T
    draw_bars(axis, table, dict(zip(table, WORK_LOOKS, strict=False)), stacked=True)
    axis.get_legend().remove()
    axis.set(xlabel="time in operations, profiler on (µs a scan)")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center")
    headline(figure, title)
    return figure


def format_front(prices: pd.DataFrame, chosen: tuple[str, str]) -> tuple[Figure, str, str]:
    """Accuracy against latency and against bytes, a mark a file, a line through those that no other file beats in both.

    prices: of `edge.prices.price_files`, indexed by student and format. chosen: the file that is shipped, ringed.
    Returns the figure, its alternative text and its takeaway.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.9), sharey=True)
    students, formats = (list(dict.fromkeys(prices.index.get_level_values(level))) for level in (0, 1))
    panels = (("median_ms", 1.0, "latency, one scan, one thread (ms)"), ("bytes", 1e-3, "file (kB)"))
    for axis, (cost, factor, label) in zip(axes, panels, strict=True):
        front = prices[_unbeaten(prices[cost], prices["accuracy"])].sort_values(cost)
        axis.step(front[cost] * factor, 100 * front["accuracy"], where="post", color="#BBBBBB", linestyle="-", zorder=1)
        for (student, kind), row in prices.iterrows():
            place, marker = students.index(student), "osD^"[formats.index(kind)]
            color, style = LINE_COLORS[place], LINE_STYLES[place]
            x, bounds = row[cost] * factor, 100 * row[["low", "high"]].to_numpy(float)
            axis.plot([x, x], bounds, color=color, linestyle=style, linewidth=1.2, zorder=2)
            axis.plot(x, 100 * row["accuracy"], marker, color=color, markersize=6, zorder=3)
        axis.plot(prices.loc[chosen, cost] * factor, 100 * prices.loc[chosen, "accuracy"], "o", markersize=14,
                  markerfacecolor="none", markeredgecolor="black", zorder=4)  # fmt: skip
        axis.set(xlabel=label, xlim=(0, 1.12 * factor * prices[cost].max()))
    axes[0].set_ylabel("accuracy on test patients (%)")
    handles = [Line2D([], [], color=LINE_COLORS[i], linestyle=LINE_STYLES[i], label=name)
               for i, name in enumerate(students)]  # fmt: skip
    handles += [Line2D([], [], color="#222222", linestyle="", marker="osD^"[i], label=name)
                for i, name in enumerate(formats)]  # fmt: skip
    handles += [Line2D([], [], color="black", linestyle="", marker="o", markersize=11, markerfacecolor="none",
                       label="shipped"),
                Line2D([], [], color="#BBBBBB", linestyle="-", label="beaten by none in both")]  # fmt: skip
    figure.legend(handles=handles, fontsize=8, ncols=3, loc="outside lower center")
    row = prices.loc[chosen]
    headline(figure, f"{chosen[0]}, {chosen[1]}: {row['median_ms']:.2f} ms, {row['bytes'] / 1000:.0f} kB, "
             f"{row['accuracy']:.1%} right")  # fmt: skip
    every = "; ".join(f"{student}, {kind}: {one['median_ms']:.2f} ms, {one['bytes'] / 1000:.0f} kB, "
                      f"{one['accuracy']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"
                      for (student, kind), one in prices.iterrows())  # fmt: skip
    quickest, smallest = prices["median_ms"].idxmin(), prices["bytes"].idxmin()
    takeaway = (f"{', '.join(quickest)} answers soonest, in {prices['median_ms'].min():.2f} ms; {', '.join(smallest)} "
                f"is the smallest file, with {prices['bytes'].min() / 1000:.0f} kB.")  # fmt: skip
    return figure, f"Accuracy with 95% intervals against latency and file size. {every}.", takeaway


def _unbeaten(cost: pd.Series, worth: pd.Series) -> list[bool]:
    """For each whether no other costs at most as much and is worth more, or costs less and is worth as much."""
    return [not (((cost <= c) & (worth > w)) | ((cost < c) & (worth >= w))).any()
            for c, w in zip(cost, worth, strict=True)]  # fmt: skip


def cost_figure(
    costs: pd.DataFrame, large: str = "ConvNeXtV2-Large", small: str = "EfficientNet-B2"
) -> tuple[Figure, str, str]:
    """Latency of each network in each runtime, one scan at a time. costs: of `edge.prices.kept_costs`.

    large, small: the networks that the title sets beside each other. Returns the figure, its alternative text and its
    takeaway: how much smaller the one is, and how much quicker.
    """
    timed = costs.dropna(subset="median_ms")
    networks, runtimes = (list(dict.fromkeys(timed[name])) for name in ("network", "runtime"))
    figure, axis = plt.subplots(figsize=(6.8, 1.4 + 0.62 * len(networks)))
    for k, (runtime, marker) in enumerate(zip(runtimes, "osD^v", strict=False)):
        for threads in (1, 2):
            part = timed[(timed["runtime"] == runtime) & (timed["threads"] == threads)]
            y = [networks.index(name) + 0.15 * (k - (len(runtimes) - 1) / 2) for name in part["network"]]
            axis.plot(part["median_ms"], y, marker, color=LINE_COLORS[k], markersize=5, label=runtime,
                      markerfacecolor=LINE_COLORS[k] if threads == 1 else "white")  # fmt: skip
    axis.set(xscale="log", xlabel="milliseconds a scan (log scale); filled: one thread, hollow: two",
             yticks=range(len(networks)), yticklabels=networks)  # fmt: skip
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::2], labels[::2], fontsize=8, ncols=3, loc="outside lower center")
    alone = timed[timed["threads"] == 1].set_index(["network", "runtime"])
    at_best = alone["median_ms"].groupby("network").min()
    fewer = alone["parameters"].groupby("network").first()
    smaller, quicker = fewer[large] / fewer[small], at_best[large] / at_best[small]
    headline(figure, f"{smaller:.1f} times fewer parameters answer {quicker:.0f} times sooner")
    both = ("torch, eager", "ONNX Runtime, FP32")
    eager, exported = (alone["median_ms"][small, runtime] for runtime in both)
    alt = "Median latency, one thread: " + "; ".join(
        f"{network}: " + ", ".join(f"{runtime} {ms:.3g} ms" for runtime, ms in alone["median_ms"][network].items())
        for network in networks
    )
    return figure, alt + ".", (
        f"{small} has {smaller:.1f} times fewer parameters than {large} and answers {quicker:.0f} times sooner, each "
        f"in its quickest runtime on one thread ({at_best[small]:.0f} against {at_best[large]:,.0f} ms). In ONNX "
        f"Runtime it is {eager / exported:.1f} times as quick as in torch, with the same 32-bit weights."
    )
