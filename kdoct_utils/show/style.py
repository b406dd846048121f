"""One style for every figure of the course, and the figures that several notebooks need.

Each figure function takes plain arrays and returns a Figure; give that to `show`
(from outputs.py, here too for short) with its alternative text and takeaway.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.show.output import PNG_DPI, figure_png, say, show, show_table, table_html, with_alt_text

__all__ = [
    "ARM_LOOKS", "CLASS_LOOKS", "DIVERGING", "LINE_COLORS", "LINE_STYLES", "SEQUENTIAL", "Look", "class_bars",
    "confusion_matrix", "curves", "figure_png", "headline", "interval_plot", "layer_overlay", "learning_curves",
    "lesion_overlay", "look", "message", "say", "scan_grid", "show", "show_table", "table_html", "use_style",
    "with_alt_text",
]  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one class or arm is drawn everywhere: the color never stands alone."""

    label: str
    color: str
    marker: str
    hatch: str


# Color differences hold for protan, deutan and tritan sight and against white; tests/test_plots.py measures them.
CLASS_LOOKS = dict(
    zip(
        CLASS_NAMES,
        (
            Look("normal", "#0072B2", "o", ""),
            Look("drusen", "#D07C00", "s", "///"),
            Look("CNV", "#7A1F5C", "^", "..."),
            Look("DME", "#1B9E77", "D", "xxx"),
        ),
        strict=True,
    )
)
# The keys are those of metrics.json.
ARM_LOOKS = {
    "teacher": Look("teacher", "#222222", "*", ""),
    "student_alone": Look("student alone", "#7F7F7F", "X", "///"),
    "student_kd": Look("student, KD", "#D55E00", "P", "..."),
    "student_cached": Look("student, cached KD", "#0072B2", "v", "xxx"),
}
SEQUENTIAL = "cividis"  # lightness rises steadily, so it survives a grey printer
# Dark blue, grey, light yellow: the sign can still be read when the color is gone.
DIVERGING = LinearSegmentedColormap.from_list("course_diverging", ("#00224E", "#8C8C8C", "#FFE27A"))
LINE_COLORS = ("#0072B2", "#D55E00", "#1B9E77", "#7A1F5C", "#222222", "#7F7F7F")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def look(name: str) -> Look:
    """The Look of a class ("drusen", ...) or an arm ("student_kd", ...). ValueError lists the valid names."""
    looks = {**CLASS_LOOKS, **ARM_LOOKS}
    if name not in looks:
        raise ValueError(f"no fixed look for {name!r}; valid names: {', '.join(looks)}")
    return looks[name]


def use_style() -> None:
    """Set the course's matplotlib style: call once, after the imports."""
    plt.rcParams.update(plt.rcParamsDefault | {"backend": plt.rcParams["backend"]})
    plt.rcParams.update(
        {
            "figure.figsize": (6.8, 3.2),
            "figure.dpi": PNG_DPI,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "axes.prop_cycle": cycler(color=LINE_COLORS) + cycler(linestyle=LINE_STYLES),
        }
    )


def message(axis: Axes, text: str) -> None:
    """Set an axis' title, broken into lines that fit its width (a title is a message, so it is long)."""
    inches = axis.get_position().width * axis.figure.get_figwidth()
    axis.set_title("\n".join(textwrap.wrap(text, max(18, round(inches * 11.5)))))


def headline(figure: Figure, text: str) -> None:
    """Set the title over several panels, broken into lines that fit the figure's width; none for empty text."""
    if text:
        lines = textwrap.wrap(text, max(18, round(figure.get_figwidth() * 11)))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold")


def scan_grid(
    images: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, title: str = "", columns: int | None = None,
    width: float = 1.7,
) -> Figure:
    """B-scans side by side. images: each (H, W) uint8 or float in its own 0..255; width: inches a scan."""
    if len(images) == 0 or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"{len(images)} images for {len(titles) if titles is not None else 0} titles")
    columns = columns or min(len(images), 4)
    rows = -(-len(images) // columns)
    height = width * images[0].shape[0] / images[0].shape[1] + 0.3
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows + 0.3 * bool(title)),
                                squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        if titles is not None:
            axis.set_title(titles[i], fontsize=9, fontweight="normal")
    headline(figure, title)
    return figure


def layer_overlay(image: np.ndarray, layers: np.ndarray, names: Sequence[str], *, title: str = "") -> Figure:
    """A B-scan beside the same scan with its layers tinted and named at the edge.

    image, layers: (H, W); layers holds indices into names. Index 0 is taken as background and left clear.
    """
    figure, right, present = _scan_twice(image, layers, names, "layer")
    height, width = layers.shape
    colors = plt.get_cmap("cividis")(np.linspace(0.15, 1, max(len(present), 2)))
    rows = np.arange(height)[:, None]
    # Thin layers crowd, so the names are spread evenly and a line leads from each to its layer.
    depth = {value: float((rows * (layers == value)).sum() / (layers == value).sum()) for value in present}
    order = sorted(present, key=depth.get)
    places = np.linspace(0.04 * height, 0.96 * height, len(order)) if len(order) > 1 else [height / 2]
    for value, place, color in zip(order, places, colors, strict=False):
        tint = np.zeros((height, width, 4))
        tint[layers == value] = (*color[:3], 0.45)
        right.imshow(tint)
        right.contour(layers == value, levels=[0.5], colors="white", linewidths=0.4)  # neighbors have close tints
        column = np.flatnonzero((layers == value).any(axis=0))[-1]  # the layer's right end
        row = np.flatnonzero(layers[:, column] == value).mean()
        right.annotate(
            names[value], xy=(column, row), xytext=(1.06 * width, place), fontsize=8, va="center",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.2, "relpos": (0, 0.5)},
        )
    headline(figure, title)
    return figure


def lesion_overlay(image: np.ndarray, lesions: np.ndarray, names: Sequence[str], *, title: str = "") -> Figure:
    """A B-scan with its lesions outlined and hatched. lesions: (H, W) indices into names, 0 for none."""
    figure, right, present = _scan_twice(image, lesions, names, "lesion")
    handles = []
    hatches = ("////", "....", "xxxx", "\\\\\\\\", "++++", "oooo")
    # bright: a scan is dark; each outline also has its own hatch
    colors = ("#FFD166", "#4CC9F0", "#FF8FA3", "#80ED99", "#FFFFFF", "#F4A261")
    for value in present:
        color, hatch = colors[(value - 1) % 6], hatches[(value - 1) % 6]
        mask = (lesions == value).astype(float)
        with plt.rc_context({"hatch.color": color, "hatch.linewidth": 0.6}):
            right.contourf(mask, levels=[0.5, 1.5], colors="none", hatches=[hatch]).set_edgecolor(color)
        right.contour(mask, levels=[0.5], colors=color, linewidths=1.4)
        handles.append(Patch(facecolor="#333333", edgecolor=color, hatch=hatch, label=names[value]))
    if handles:
        right.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    else:
        right.set_title("no lesion in this scan", fontsize=9, fontweight="normal")
    headline(figure, title)
    return figure


def _scan_twice(image: np.ndarray, mask: np.ndarray, names: Sequence[str], kind: str) -> tuple[Figure, Axes, list[int]]:
    """The same B-scan left and right, the axis to draw over, and the indices above 0 that the mask holds."""
    if image.shape != mask.shape or image.ndim != 2:
        raise ValueError(f"image {image.shape} and mask {mask.shape} must both be (height, width) and equal")
    present = [int(value) for value in np.unique(mask) if value > 0]
    if present and present[-1] >= len(names):
        raise ValueError(f"{kind} index {present[-1]} has no name; {len(names)} names given")
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.0))
    for axis in axes:
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_axis_off()
    return figure, axes[1], present


def confusion_matrix(counts: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Counts and row percentages. counts: (classes, classes), rows the true class, columns the predicted one."""
    counts = np.asarray(counts)
    if counts.shape != (len(class_names), len(class_names)):
        raise ValueError(f"counts {counts.shape} do not fit {len(class_names)} classes: {', '.join(class_names)}")
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)  # a class without scans gives a row of zeros
    side = 1.3 + 0.85 * len(class_names)
    figure, axis = plt.subplots(figsize=(side + 1.4, side))
    drawn = axis.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        percent = f"{share[row, column]:.0%}" if totals[row, 0] else "–"
        axis.text(column, row, f"{count}\n{percent}", ha="center", va="center", fontsize=9,
                  color="black" if share[row, column] > 0.47 else "white")  # at least 4.5 : 1
    labels = [CLASS_LOOKS[name].label if name in CLASS_LOOKS else name for name in class_names]
    axis.set(xticks=range(len(labels)), yticks=range(len(labels)), xticklabels=labels, yticklabels=labels,
             xlabel="predicted class", ylabel="true class (number of scans)")
    axis.grid(False)
    figure.colorbar(drawn, ax=axis, label="share of the true class", shrink=0.8)
    message(axis, title)
    return figure


def class_bars(
    values: np.ndarray, class_names: Sequence[str], groups: Sequence[str], *, title: str, ylabel: str = "probability",
    ylim: tuple[float, float] = (0, 1), axis: Axes | None = None,
) -> Figure:
    """Groups of bars, one bar a class in its fixed look, each with its value. values: (groups, classes)."""
    values = np.asarray(values, dtype=float)
    if values.shape != (len(groups), len(class_names)):
        raise ValueError(f"values {values.shape} do not fit {len(groups)} groups of {len(class_names)} classes")
    axis = axis or plt.subplots(figsize=(6.8, 2.8))[1]
    width = 0.8 / len(class_names)
    for k, name in enumerate(class_names):
        known = CLASS_LOOKS.get(name, Look(name, LINE_COLORS[k % len(LINE_COLORS)], "o", ""))
        place = np.arange(len(groups)) + width * (k - (len(class_names) - 1) / 2)
        bars = axis.bar(place, values[:, k], 0.92 * width, color=known.color, hatch=known.hatch, edgecolor="white",
                        label=known.label)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set(xticks=range(len(groups)), xticklabels=groups, ylabel=ylabel, ylim=ylim)
    axis.grid(axis="x", visible=False)
    axis.legend(ncols=len(class_names), fontsize=8)
    message(axis, title)
    return axis.figure


def interval_plot(
    estimates: Mapping[str, tuple[float, float, float]], *, xlabel: str, title: str, reference: float | None = None,
    reference_label: str = "",
) -> Figure:
    """Estimates with 95% intervals, one row each. estimates: name -> (estimate, low, high).

    Names that are classes or arms get their fixed look; any other is drawn in grey under its own name.
    reference: a value to compare with, such as 0 for a difference.
    """
    if not estimates:
        raise ValueError("interval_plot needs at least one estimate")
    figure, axis = plt.subplots(figsize=(6.8, 1.1 + 0.45 * len(estimates)))
    labels = []
    for row, (name, (estimate, low, high)) in enumerate(estimates.items()):
        if not low <= estimate <= high:
            raise ValueError(f"{name}: interval [{low}, {high}] does not hold its estimate {estimate}")
        known = {**CLASS_LOOKS, **ARM_LOOKS}.get(name, Look(name, "#444444", "o", ""))
        labels.append(known.label)
        axis.errorbar(estimate, row, xerr=[[estimate - low], [high - estimate]], color=known.color,
                      marker=known.marker, markersize=8, capsize=4, linestyle="none")
        axis.annotate(f"{estimate:.3f}  [{low:.3f}, {high:.3f}]", (1.01, row), xycoords=("axes fraction", "data"),
                      va="center", fontsize=9)
    if reference is not None:
        axis.axvline(reference, color="black", linewidth=1, linestyle=":")
        if reference_label:
            axis.annotate(reference_label, (reference, 0), xycoords=("data", "axes fraction"), xytext=(3, 3),
                          textcoords="offset points", fontsize=8)
    axis.set(yticks=range(len(labels)), yticklabels=labels, xlabel=f"{xlabel} (95% interval)",
             ylim=(len(labels) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    message(axis, title)
    return figure


def learning_curves(history: pd.DataFrame, *, title: str) -> Figure:
    """Loss and validation accuracy by epoch, from a history table (see training.TrainingResult).

    Needs columns epoch, train_loss, validation_loss, validation_accuracy; where `weights` says "swa",
    the epoch's averaged weights are drawn as stars.
    """
    needed = ("epoch", "train_loss", "validation_loss", "validation_accuracy")
    missing = [name for name in needed if name not in history]
    if missing:
        raise ValueError(f"history lacks {', '.join(missing)}; it needs {', '.join(needed)}")
    averaged = history["weights"].eq("swa") if "weights" in history else pd.Series(False, index=history.index)
    plain = history[~averaged]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.8))
    trained = history.drop_duplicates("epoch")
    left.plot(trained["epoch"], trained["train_loss"], marker="o", markersize=4, label="training")
    left.plot(plain["epoch"], plain["validation_loss"], marker="s", markersize=4, label="validation")
    right.plot(plain["epoch"], plain["validation_accuracy"], marker="s", markersize=4, color=LINE_COLORS[1],
               linestyle=LINE_STYLES[1], label="validation")
    if averaged.any():
        swa = history[averaged]
        for axis, column in ((left, "validation_loss"), (right, "validation_accuracy")):
            axis.plot(swa["epoch"], swa[column], marker="*", markersize=9, linestyle="none", color="#7A1F5C",
                      label="validation, SWA")
    left.set(xlabel="epoch", ylabel="loss a scan (nats)")
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
    looks = {**CLASS_LOOKS, **ARM_LOOKS}
    for (name, values), style in zip(lines.items(), LINE_STYLES * (1 + len(lines) // 6), strict=False):
        if name in looks:
            axis.plot(x, values, color=looks[name].color, linestyle=style, marker=looks[name].marker, markevery=0.2,
                      label=looks[name].label)
        else:
            axis.plot(x, values, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8)
    message(axis, title)
    return axis.figure
