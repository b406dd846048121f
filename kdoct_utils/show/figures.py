"""The figures that several notebooks need. Each takes plain arrays and returns a Figure; give that to `output.show`
with its alternative text and takeaway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kdoct_utils.show.style import LINE_COLORS, LINE_STYLES, LOOKS, SEQUENTIAL, Look, headline, message


def draw_scan(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """A B-scan (H, W) in 0..255 on an axis without frame, under a plain title."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_axis_off()
    axis.set_title(title, fontsize=9, fontweight="normal")


def draw_interval(
    axis: Axes, row: float, estimate: tuple[float, float, float], look: Look, **options: object
) -> None:
    """An (estimate, low, high) across an axis, as a marker on a bar. options: of matplotlib's errorbar."""
    middle, low, high = estimate
    options = {"markersize": 8, "capsize": 4, "marker": look.marker} | options
    axis.errorbar(middle, row, xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], color=look.color,
                  linestyle="none", **options)  # fmt: skip


def draw_bars(
    axis: Axes, table: pd.DataFrame, looks: Mapping[str, tuple[str, str]], *, kind: str = "barh", **options: object
) -> None:
    """Bars of a table: a group (or, with stacked=True, a bar) a row, from the top, and in it a bar a column.

    looks: column -> color and hatch. kind: "bar" for upright ones. options: of pandas' DataFrame.plot.
    """
    colors, hatches = zip(*(looks[name] for name in table), strict=True)
    table.plot(kind=kind, ax=axis, color=list(colors), edgecolor="white", rot=0, width=0.8, **options)
    for bars, hatch in zip(axis.containers, hatches, strict=True):
        for bar in bars:
            bar.set_hatch(hatch)
    axis.legend(fontsize=8, ncols=table.shape[1])
    axis.grid(axis="y" if kind == "barh" else "x", visible=False)
    axis.set(xlabel="", ylabel="")
    if kind == "barh":
        axis.invert_yaxis()


def scan_grid(
    images: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, title: str = "", columns: int | None = None,
    width: float = 1.7,
) -> Figure:
    """B-scans side by side. images: each (H, W) uint8 or float in its own 0..255; width: inches a scan."""
    columns = columns or min(len(images), 4)
    rows = -(-len(images) // columns)
    height = width * images[0].shape[0] / images[0].shape[1] + 0.3
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows + 0.3 * bool(title)),
                                squeeze=False)  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, above in zip(axes.flat, images, titles or [""] * len(images), strict=False):
        draw_scan(axis, image, above)
    headline(figure, title)
    return figure


def layer_overlay(
    image: np.ndarray, layers: np.ndarray, names: Sequence[str], *, title: str = "",
    membrane: tuple[str, int] | None = None,
) -> Figure:
    """A B-scan beside the same scan with its layers tinted and named at the edge; neighbors differ in tint.

    image, layers: (H, W); layers holds indices into names. Index 0 is taken as background and left clear.
    membrane: name of a line, and the index of the layer whose upper edge it is.
    """
    present = [int(value) for value in np.unique(layers) if value > 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.0))
    draw_scan(left, image)
    draw_scan(right, image)
    height, width = layers.shape
    # Thin layers crowd, so the names are spread evenly and a line leads from each to its layer.
    order = sorted(present, key=lambda value: np.nonzero(layers == value)[0].mean())
    places = np.linspace(0.04 * height, 0.96 * height, len(order)) if len(order) > 1 else [height / 2]
    for k, (value, place) in enumerate(zip(order, places, strict=True)):
        color = to_rgb(LINE_COLORS[k % 4])
        tint = np.zeros((height, width, 4))
        tint[layers == value] = (*color, 0.5)
        right.imshow(tint)
        right.contour(layers == value, levels=[0.5], colors="white", linewidths=0.4)  # neighbors have close tints
        column = np.flatnonzero((layers == value).any(axis=0))[-1]  # the layer's right end
        row = np.flatnonzero(layers[:, column] == value).mean()
        right.annotate(
            names[value], xy=(column, row), xytext=(1.06 * width, place), fontsize=8, va="center",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.2, "relpos": (0, 0.5)},
        )  # fmt: skip
    if membrane and membrane[1] in present:
        edge = (layers == membrane[1]).argmax(axis=0)
        left.plot(np.arange(width), edge, color="#FFD166", linewidth=1, linestyle=":")
        left.annotate(membrane[0], (0.08 * width, edge[int(0.08 * width)]), (0.08 * width, 0.92 * height), fontsize=8,
                      color="#FFD166", arrowprops={"arrowstyle": "-", "color": "#FFD166"})  # fmt: skip
    headline(figure, title)
    return figure


def maps_figure(
    images: np.ndarray, masks: np.ndarray, maps: Mapping[str, np.ndarray], row_titles: Sequence[str], *, title: str
) -> Figure:
    """Scans with their lesion outlined, and over each the maps; a cross marks each map's largest pixel.

    images, masks: (n, H, W). maps: name -> (n, H, W) in 0..1, a column each: the more, the less of the scan is seen.
    row_titles: (n,).
    """
    columns = 1 + len(maps)
    side = min(2.2, 6.8 / columns)
    figure, axes = plt.subplots(len(images), columns, figsize=(side * columns, side * len(images) + 0.6),
                             squeeze=False)  # fmt: skip
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for axis, (name, drawn) in zip(axes[row], [("lesion", None), *maps.items()], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=np.percentile(image, 99))
            if drawn is not None:
                veil = np.empty((*mask.shape, 4))
                veil[..., :3], veil[..., 3] = to_rgb("#FFA630"), 0.75 * np.clip(drawn[row], 0, 1)
                axis.imshow(veil)
                if drawn[row].any():
                    down, across = np.unravel_index(drawn[row].argmax(), mask.shape)
                    axis.plot(across, down, "x", color="white", markersize=10, markeredgewidth=3.5)
                    axis.plot(across, down, "x", color="black", markersize=9, markeredgewidth=1.6)
            axis.contour(mask, levels=[0.5], colors="#56D0FF", linewidths=1.4)
            if row == 0:
                axis.set_title(name, fontsize=9, fontweight="normal")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        axes[row, 0].set_ylabel(row_titles[row], fontsize=9)
    headline(figure, title)
    return figure


def confusion_matrix(counts: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Counts and row percentages. counts: (classes, classes), rows the true class, columns the predicted one."""
    counts = np.asarray(counts)
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)  # a class without scans gives a row of zeros
    words = [[f"{count}\n{part:.0%}" if total else f"{count}\n–" for count, part in zip(row, parts, strict=True)]
             for row, parts, total in zip(counts, share, totals, strict=True)]  # fmt: skip
    labels = [LOOKS[name].label if name in LOOKS else name for name in class_names]
    side = 1.3 + 0.85 * len(class_names)
    figure, axis = plt.subplots(figsize=(side + 1.4, side))
    seaborn.heatmap(share, vmin=0, vmax=1, cmap=SEQUENTIAL, square=True, annot=np.array(words), fmt="",
                    annot_kws={"fontsize": 9}, xticklabels=labels, yticklabels=labels, ax=axis,
                    cbar_kws={"label": "share of the true class", "shrink": 0.8})  # fmt: skip
    for text, part in zip(axis.texts, share.flat, strict=True):
        text.set_color("black" if part > 0.47 else "white")  # at least 4.5 : 1, more than seaborn's own choice
    axis.tick_params(rotation=0)
    axis.set(xlabel="predicted class", ylabel="true class (number of scans)")
    message(axis, title)
    return figure


def class_bars(
    values: np.ndarray, class_names: Sequence[str], groups: Sequence[str], *, title: str, ylabel: str = "probability",
    ylim: tuple[float, float] = (0, 1), axis: Axes | None = None,
) -> Figure:
    """Groups of bars, one bar per class in its fixed look, each with its value. values: (groups, classes)."""
    axis = axis or plt.subplots(figsize=(6.8, 2.8))[1]
    looks = [LOOKS.get(name, Look(name, LINE_COLORS[k % 6], "o", "")) for k, name in enumerate(class_names)]
    table = pd.DataFrame(np.asarray(values, dtype=float), groups, [look.label for look in looks])
    draw_bars(axis, table, {look.label: (look.color, look.hatch) for look in looks}, kind="bar")
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set(ylabel=ylabel, ylim=ylim)
    message(axis, title)
    return axis.figure


def interval_plot(
    estimates: Mapping[str, tuple[float, float, float]], *, xlabel: str, title: str, reference: float | None = None,
    reference_label: str = "", seeds: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Estimates with 95% intervals, one row each. estimates: name -> (estimate, low, high).

    Names that are classes or arms get their fixed look; any other is drawn in grey under its own name.
    reference: a value to compare with, such as 0 for a difference. seeds: name -> what each seed measured, as dots
    under its row. ValueError for an interval that does not hold its estimate.
    """
    figure, axis = plt.subplots(figsize=(6.8, 1.1 + 0.45 * len(estimates)))
    labels = []
    for row, (name, (estimate, low, high)) in enumerate(estimates.items()):
        if not low <= estimate <= high:
            raise ValueError(f"{name}: interval [{low}, {high}] does not hold its estimate {estimate}")
        look = LOOKS.get(name, Look(name, "#444444", "o", ""))
        labels.append(look.label)
        draw_interval(axis, row, (estimate, low, high), look)
        axis.annotate(f"{estimate:.3f}  [{low:.3f}, {high:.3f}]", (1.01, row), xycoords=("axes fraction", "data"),
                      va="center", fontsize=9)  # fmt: skip
        if seeds and len(seeds.get(name, ())) > 1:
            seaborn.stripplot(x=seeds[name], y=row + 0.3, orient="h", native_scale=True, jitter=False, size=4,
                              color=look.color, edgecolor="white", linewidth=0.5, ax=axis)  # fmt: skip
    if reference is not None:
        axis.axvline(reference, color="black", linewidth=1, linestyle=":")
        if reference_label:
            axis.annotate(reference_label, (reference, 0), xycoords=("data", "axes fraction"), xytext=(3, 3),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    under = "95% interval; small dots: seeds" if seeds else "95% interval"
    axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5), ylabel="",
             xlabel=f"{xlabel} ({under})")  # fmt: skip
    axis.grid(axis="y", visible=False)
    axis.locator_params(axis="x", nbins=7)
    headline(figure, title)  # over the whole width: long names leave the axis little
    return figure


def learning_curves(history: pd.DataFrame, *, title: str, width: float = 6.8) -> Figure:
    """Loss and validation accuracy by epoch, from a history table (see trainer.TrainingResult).

    Needs columns epoch, train_loss, validation_loss, validation_accuracy; where `weights` says "swa",
    the epoch's averaged weights are drawn as stars. width: inches; under 5 the two panels stand above each other.
    """
    averaged = history["weights"].eq("swa") if "weights" in history else pd.Series(False, index=history.index)
    plain, swa, trained = history[~averaged], history[averaged], history.drop_duplicates("epoch")
    shape, height = ((2, 1), 4.6) if width < 5 else ((1, 2), 2.8)
    figure, (left, right) = plt.subplots(*shape, figsize=(width, height))
    left.plot(trained["epoch"], trained["train_loss"], marker="o", markersize=4, label="training")
    left.plot(plain["epoch"], plain["validation_loss"], marker="s", markersize=4, label="validation")
    right.plot(plain["epoch"], plain["validation_accuracy"], marker="s", markersize=4, color=LINE_COLORS[1],
               linestyle=LINE_STYLES[1], label="validation")  # fmt: skip
    if len(swa):
        star = {"marker": "*", "markersize": 9, "linestyle": "none", "color": "#7A1F5C", "label": "validation, SWA"}
        left.plot(swa["epoch"], swa["validation_loss"], **star)
        right.plot(swa["epoch"], swa["validation_accuracy"], **star)
    left.set(xlabel="epoch", ylabel="loss per scan (nats)")
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="lower right")
    headline(figure, title)
    return figure


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, title: str,
    axis: Axes | None = None,
) -> Figure:
    """Named lines over x, in the fixed look of a class or arm where the name has one. Returns the figure."""
    axis = axis or plt.subplots()[1]
    for (name, values), style in zip(lines.items(), LINE_STYLES * (1 + len(lines) // 6), strict=False):
        if name in LOOKS:
            axis.plot(x, values, color=LOOKS[name].color, linestyle=style, marker=LOOKS[name].marker, markevery=0.2,
                      label=LOOKS[name].label)  # fmt: skip
        else:
            axis.plot(x, values, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8)
    message(axis, title)
    return axis.figure
