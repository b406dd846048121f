"""Figures of notebook 07: the paper's folds, power, what data seeds buy, and scores that flatter.

Each takes numbers and returns the figure, its alternative text and its takeaway, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.judge import sample_size
from kdoct_utils.judge.verdicts import in_points
from kdoct_utils.show.figures import interval_plot
from kdoct_utils.show.style import ARM_LOOKS, LINE_COLORS, LINE_STYLES, Look, message

Shown = tuple[Figure, str, str]  # with alternative text and takeaway
def power_figure(curves: pd.DataFrame, needed: Mapping[float, int], agreement: sample_size.Agreement) -> Shown:
    """Power against patients, of simulated studies; crosses show the closed form at 80 %.

    curves: of `sample_size.power_curves`; needed: difference -> patients for a power of 80 %.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.4))
    for d, marker, color in zip(curves, "osD^v", LINE_COLORS, strict=False):
        axis.plot(curves.index, curves[d], label=f"{100 * d:g}", color=color, linestyle="-", marker=marker,
                  markersize=4)  # fmt: skip
        axis.plot(sample_size.closed_form(d, agreement), 0.8, "x", color="black", markersize=8, markeredgewidth=1.5)
    axis.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
    axis.axvline(sample_size.NEH_PATIENTS, color="black", linewidth=0.8, linestyle="--")
    axis.annotate("NEH ", (sample_size.NEH_PATIENTS, 0.72), ha="right", fontsize=8)
    axis.set(xscale="log", xlabel=f"patients ({agreement.scans[0]} scans each)", ylim=(0, 1.03),
             ylabel="share of studies that see it")  # fmt: skip
    axis.legend(title="true difference,\npoints", fontsize=8, title_fontsize=8, bbox_to_anchor=(1, 0.8))
    smallest, limit = min(needed), sample_size.smallest_difference(sample_size.NEH_PATIENTS, agreement)
    message(axis, f"{100 * smallest:g} point takes about {needed[smallest]:,} patients")
    listed = ", ".join(f"{100 * d:g}: {count:,}" for d, count in needed.items())
    return (figure, f"Power against the number of patients. Patients for a power of 80 %, by points: {listed}.",
            f"By the closed form NEH's {sample_size.NEH_PATIENTS} patients show differences from about "
            f"{100 * limit:.1f} points on. {100 * smallest:g} point takes "
            f"{needed[smallest] / sample_size.NEH_PATIENTS:,.0f} times as many.")  # fmt: skip


def data_seeds_figure(spread: Mapping[str, float], measured: int, most: int = 40) -> Shown:
    """Half-width of the interval for a gain by the number of data seeds. spread: of `regimes.gain_spread`."""
    seeds, data = np.arange(2, most + 1), spread["data"]
    known = not np.isnan(spread["training"])
    training = spread["training"] if known else 0.0
    students = [1, 3] if known else [1]
    widths = {n: 100 * sample_size.half_width(data, training, seeds, n) for n in students}
    figure, axis = plt.subplots(figsize=(6.8, 3.0))
    for (n, width), color, style in zip(widths.items(), LINE_COLORS, LINE_STYLES, strict=False):
        axis.plot(seeds, width, color=color, linestyle=style, label=f"{n} student{'s' * (n > 1)} of each arm")
    axis.axvline(measured, color="black", linewidth=0.8, linestyle=":")
    axis.annotate(" measured here", (measured, 0.93), xycoords=("data", "axes fraction"), fontsize=8)
    axis.set(xlabel="data seeds (new patients, teacher and students in each)", ylabel="half-width (points)",
             ylim=(0, 4 * widths[students[0]][6]), xlim=(2, most))  # fmt: skip
    axis.legend(fontsize=8)
    half = {n: float(width[measured - 2]) for n, width in widths.items()}
    message(axis, f"{measured} data seeds: a gain is known to ±{half[students[0]]:.1f} points")
    listed = "; ".join(f"{n} of each arm ±{value:.1f}" for n, value in half.items())
    more = f"; with {students[-1]} students in each instead of one, ±{half[students[-1]]:.1f}" if known else ""
    five = f"Five repeats, as many as the paper has folds, give ±{widths[students[0]][3]:.1f}."
    return (figure, f"Half-width of the 95% interval by number of data seeds. At {measured}: {listed} points.",
            f"one student of each arm in {measured} data seeds: ±{half[students[0]]:.1f} points{more}. {five}")


def order_figure(order: pd.DataFrame, labels: Mapping[str, str], names: tuple[str, str]) -> Shown:
    """Each arm's score at home against its score on another dataset. order: a row per arm, columns own and other."""
    firsts = {side: order[side].idxmax() for side in order}
    figure, axis = plt.subplots(figsize=(6.8, 3.2))
    for (name, row), marker in zip(order.iterrows(), "osD^<>ph8d" * len(order), strict=False):
        drawn, first = ARM_LOOKS.get(name, Look("", "#9AA5B1", marker, "")), name in firsts.values()
        named = first or name in ARM_LOOKS or len(order) <= 8  # more do not fit
        axis.plot(row["own"], row["other"], drawn.marker, color=drawn.color, markersize=8, linestyle="none",
                  label=labels[name] if named else None, markeredgecolor="black",
                  markeredgewidth=1.6 if first else 0.4)  # fmt: skip
    axis.set(xlabel=f"mean sensitivity on own test patients ({names[0]})", ylabel=f"on {names[1]}")
    axis.margins(0.1)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    rank = order["own"].corr(order["other"], method="spearman")
    message(axis, f"Highest at home: {labels[firsts['own']]}. Elsewhere: {labels[firsts['other']]}")
    listed = "; ".join(f"{labels[name]} {row['own']:.3f} and {row['other']:.3f}" for name, row in order.iterrows())
    same = "also" if firsts["own"] == firsts["other"] else "not"
    return (figure, f"Mean sensitivity of each arm at home and elsewhere: {listed}.",
            f"The first at home is {same} the first elsewhere; rank correlation of the {len(order)} arms {rank:+.2f}.")


def _bars(bars: Mapping[str, tuple[float, float, float]], what: str, **options: object) -> tuple[Figure, str]:
    """`interval_plot`, with its alternative text."""
    decimals = 2 if "points" in options["xlabel"] else 3
    listed = "; ".join(f"{name} {e:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"
                       for name, (e, low, high) in bars.items())  # fmt: skip
    return interval_plot(bars, **options), f"{what} with 95% intervals: {listed}."


def student_teacher_figure(of_sets: Mapping[str, Mapping]) -> Shown:
    """Published student minus teacher. of_sets: dataset -> what `published.student_minus_teacher` found."""
    ways = {"welch_interval": "two samples", "t_interval": "as five pairs"}
    bars = {f"{name.upper()}, {label}": tuple(100 * np.array([one["estimate"], *one[way]]))
            for name, one in of_sets.items() for way, label in ways.items()}  # fmt: skip
    holding = f"{sum(low <= 0 <= high for _, low, high in bars.values())} of {len(bars)} intervals hold zero"
    drawn = _bars(bars, "Published student minus teacher, points", xlabel="points of accuracy", reference=0,
                  title=f"Student minus teacher: {holding}")  # fmt: skip
    return (*drawn, f"{holding}. That is not “equal”: on NEH a loss of up to "
            f"{-bars['NEH, two samples'][1]:.1f} points fits the same folds.")  # fmt: skip


def informed_figure(effect: Mapping[str, Mapping[str, float]], shares: Mapping[str, tuple[float, float]]) -> Shown:
    """Informed minus clean. effect: who -> difference; shares: who -> accuracy informed and clean."""
    bars = {f"{who}, informed − clean": tuple(100 * found[key] for key in ("estimate", "low", "high"))
            for who, found in effect.items()}  # fmt: skip
    drawn = _bars(bars, "Accuracy, informed minus clean, in points", xlabel="points of accuracy", reference=0,
                  title=f"One pair of teachers, both ways: {in_points(effect['teachers, both ways'])}")  # fmt: skip
    both = [f"{who} {informed:.1%} informed, {clean:.1%} clean" for who, (informed, clean) in shares.items()]
    return *drawn, f"On the same test patients: {'; '.join(both)}."


def of_informed(effect: Mapping[str, Mapping[str, float]]) -> str:
    """What the intervals of `informed_figure` allow to say."""
    said = []
    for who, what in {"teachers, both ways": "An informed teacher", "students": "Its student"}.items():
        found = effect[who]
        end = f"holds zero. It allows up to {100 * found['high']:.1f} points, so it is no proof of harmlessness."
        end = "lies above zero: a score that no new patient would confirm." if found["low"] > 0 else end
        end = "lies below zero: a leak need not flatter to make a number worthless." if found["high"] < 0 else end
        said.append(f"**{what}** scored {in_points(found)} against the clean one; the interval {end}")
    return "\n\n".join(said) + " Another pair of teachers may differ by more than these intervals know."


def ensemble_figure(scores: Mapping[str, Mapping[str, float]], members: int, knew: float) -> Shown:
    """Pooled accuracies; the second is an ensemble out of fold, the last one of all folds. knew: of its members."""
    bars = {name: (one["estimate"], one["low"], one["high"]) for name, one in scores.items()}
    _, honest, mixed = (one[0] for one in bars.values())
    drawn = _bars(bars, "Pooled accuracy over patients", xlabel="accuracy",
                  title=f"All folds against out of fold: {100 * (mixed - honest):+.1f} points")  # fmt: skip
    return (*drawn, f"Of the {members} members of the ensemble of all folds, {knew:.1f} have trained on the scan that "
            "they judge. Its score is of memory, not of new patients.")  # fmt: skip
