"""Figures of a report (`kdoct_utils.course.report`): narrow, so that a phone shows them almost at their size.

Sections of metrics.json in; figure, alternative text and takeaway out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdoct_utils.judge.verdicts import GAIN, LOSS, OPEN, reading
from kdoct_utils.show.arm_figures import seed_curves
from kdoct_utils.show.figures import draw_interval
from kdoct_utils.show.style import ARM_LOOKS, LINE_COLORS, READING_LOOKS, Look, headline, look
from kdoct_utils.show.teacher_figures import training_figure

Told = tuple[Figure, str, str]
TITLES = {  # by what the interval of the gain allows to say
    GAIN: "The distilled student is {:.1f} points more accurate than the student alone",
    LOSS: "The distilled student is {:.1f} points less accurate than the student alone",
    OPEN: "No difference between the student distilled and alone is shown",
}
WIDTH = 4.6  # inches: 414 pixels, where a phone has about 390


def networks_figure(scores: Mapping[str, Mapping], gain: Mapping | None) -> Told:
    """Accuracy of each network with its interval, a dot a training seed; below, what distilling gained.

    scores: arm -> its section of metrics.json (accuracy, interval, perhaps by_seed). gain: section kd_gain, if any.
    """
    rows = [(look(arm), score["accuracy"], score["interval"], score.get("by_seed")) for arm, score in scores.items()]
    heights = [len(rows)] + [1.25] * bool(gain)
    figure, axes = plt.subplots(len(heights), 1, figsize=(WIDTH, 1.3 + 0.55 * sum(heights)), height_ratios=heights,
                                squeeze=False)  # fmt: skip
    _interval_rows(axes[0, 0], rows, "{:.1f}%")
    axes[0, 0].set_xlabel("accuracy (%)")
    title = "Accuracy of the networks on patients they have not seen"
    alt = [f"{drawn.label} {value:.1%} ({low:.1%} to {high:.1%})" for drawn, value, (low, high), _ in rows]
    takeaway = "Bars: 95% intervals over patients (of students over training seeds, too). Dots: training seeds."
    if gain:
        drawn = replace(READING_LOOKS[reading(gain)], label="gain")
        _interval_rows(axes[1, 0], [(drawn, gain["estimate"], (gain["low"], gain["high"]), None)], "{:+.1f}")
        axes[1, 0].axvline(0, color="black", linewidth=1, linestyle=":")
        axes[1, 0].set_xlabel("points of accuracy, distilled minus alone")
        title = TITLES[reading(gain)].format(100 * abs(gain["estimate"]))
        alt.append(f"gain {100 * gain['estimate']:+.1f} points ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})")
    headline(figure, title)
    return figure, f"Accuracy with 95% intervals: {'; '.join(alt)}.", takeaway


def _interval_rows(axis: Axes, rows: Sequence[tuple], number: str) -> None:
    """Rows of (look, estimate, (low, high), values of the seeds or None), drawn times 100. number: a format."""
    for place, (drawn, value, interval, seeds) in enumerate(rows):
        draw_interval(axis, place, tuple(100 * one for one in (value, *interval)), drawn, markeredgecolor="white",
                      markeredgewidth=0.5)  # fmt: skip
        words = number.format(100 * value)
        axis.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        if seeds and len(seeds) > 1:
            seaborn.stripplot(x=[100 * one for one in seeds], y=place + 0.32, orient="h", native_scale=True, size=4,
                              jitter=False, color=drawn.color, edgecolor="white", linewidth=0.5, ax=axis)  # fmt: skip
    axis.set(yticks=range(len(rows)), yticklabels=[drawn.label for drawn, *_ in rows], ylabel="",
             ylim=(len(rows) - 0.4, -0.6))  # fmt: skip
    axis.grid(axis="y", visible=False)
    axis.locator_params(axis="x", nbins=6)


def learning_figures(
    teacher: pd.DataFrame | None, chosen: str, students: Mapping[str, Sequence[pd.DataFrame]]
) -> list[Told]:
    """Learning curves of the teacher and of the students, as far as there are some.

    teacher, students (arm -> one a seed): history tables. chosen: the teacher's weights that were kept.
    """
    figures = [] if teacher is None else [training_figure(teacher.assign(epoch=teacher["epoch"] + 1), chosen, WIDTH)]
    if students:
        figure, last = seed_curves(students, title="The students, by epoch", size=(WIDTH, 3.6))
        listed = "; ".join(f"{look(arm).label} {value:.1%}" for arm, value in last.items())
        figures.append((figure, f"Validation accuracy of the students by epoch, means over seeds at the end: {listed}.",
                        f"Validation accuracy in the last epoch: {listed}. Bands hold all seeds."))  # fmt: skip
    return figures


def front_figure(formats: Mapping[str, Mapping]) -> Told:
    """Accuracy by size of the file, latency beside each point; a line joins what no other file beats in both.

    formats: section edge of metrics.json, name -> bytes, latency_ms, accuracy and perhaps interval (fractions of 1).
    """
    by_size = sorted(formats.items(), key=lambda item: (item[1]["bytes"], -item[1]["accuracy"]))
    front, best = [], -1.0
    for name, found in by_size:
        if found["accuracy"] > best:
            front, best = [*front, name], found["accuracy"]
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    axis.step(*zip(*((formats[name]["bytes"] / 1000, 100 * formats[name]["accuracy"]) for name in front), strict=True),
              where="post", color="#9AA5B1", linewidth=1.4, linestyle="--", zorder=1)  # fmt: skip
    for place, (name, found) in enumerate(by_size):
        x, y, color = found["bytes"] / 1000, 100 * found["accuracy"], LINE_COLORS[place % 6]
        axis.vlines(x, *(100 * one for one in found.get("interval") or 2 * [found["accuracy"]]), color=color)
        axis.plot(x, y, "osDPX^v"[place % 7], color=color, markersize=8, markeredgecolor="white", linestyle="none",
                  label=f"{name}: {found['latency_ms']:.2g} ms")  # fmt: skip
    axis.set(xlabel="file (kB)", ylabel="accuracy (%)")
    axis.margins(x=0.15)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center", title="median latency of one scan", title_fontsize=8)
    small, large = by_size[0], by_size[-1]
    times, lost = large[1]["bytes"] / small[1]["bytes"], 100 * (large[1]["accuracy"] - small[1]["accuracy"])
    headline(figure, f"The smallest file is {small[0]}: {times:.1f} times smaller than {large[0]}")
    listed = [f"{name} {one['bytes'] / 1000:.0f} kB, {one['latency_ms']:.2g} ms, {one['accuracy']:.1%}"
              for name, one in by_size]  # fmt: skip
    takeaway = (f"Its accuracy is {abs(lost):.1f} points {'lower' if lost >= 0 else 'higher'}. Bars: 95% intervals "
                "over patients. Dashed: no other file beats these in both.")  # fmt: skip
    return figure, f"Accuracy by size of the file: {'; '.join(listed)}.", takeaway


def swept_figure(accuracy: pd.DataFrame, name: str, order: Sequence[str], labels: Mapping[str, str]) -> Told:
    """Mean accuracy of the runs of a sweep by a parameter, bars from the lowest run to the highest.

    accuracy: a row per run, "value" (text) and a column per network. order: the values; labels: network -> its words.
    """
    points = accuracy.melt("value", var_name="network", value_name="accuracy").dropna()
    drawn = [ARM_LOOKS.get(network, Look(network, "#444444", "o", "")) for network in accuracy.columns.drop("value")]
    means = points.groupby(["network", "value"], sort=False)["accuracy"].mean()
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    seaborn.pointplot(
        points, x="value", y="accuracy", hue="network", order=order, palette=[one.color for one in drawn], ax=axis,
        markers=[one.marker for one in drawn], dodge=0.3 if len(drawn) > 1 else False, errorbar=("pi", 100),
    )  # fmt: skip
    axis.set(xlabel=name)
    axis.get_legend().remove()
    handles, networks = axis.get_legend_handles_labels()
    figure.legend(handles, [labels[one] for one in networks], fontsize=8, ncols=1, loc="outside lower left")
    widest = (means.groupby("network").max() - means.groupby("network").min()).sort_values().index[-1]
    values = means[widest]
    headline(figure, f"Accuracy by {name}")
    spoken = "; ".join(f"{labels[network]} at {value}: {mean:.3f}" for (network, value), mean in means.items())
    alt = f"Mean accuracy of the runs by {name}, bars from the lowest to the highest. {spoken}."
    takeaway = (f"{labels[widest][0].upper()}{labels[widest][1:]} changes most with {name}: from {values.min():.1%} at "
                f"{values.idxmin()} to {values.max():.1%} at {values.idxmax()}.")  # fmt: skip
    return figure, alt, takeaway
