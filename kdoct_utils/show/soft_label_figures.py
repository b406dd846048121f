"""Figures of notebook 04: soft labels by temperature, their entropy and gradient, calibration, T in calibrated units.

Each takes data and returns figure, alternative text and takeaway, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdoct_utils.judge.claims import TEMPERATURES, ask
from kdoct_utils.judge.verdicts import GAIN, OPEN, in_points
from kdoct_utils.show.figures import class_bars, curves, draw_scan, scan_grid
from kdoct_utils.show.style import headline, look, message

Drawn = tuple[Figure, str, str]
TEACHERS = {"teacher": ("focal teacher", "s", "#0072B2"),
            "teacher_cross_entropy": ("cross-entropy teacher", "o", "#D55E00")}  # fmt: skip


def heated_figure(probabilities: np.ndarray, temperatures: Sequence[float], names: Sequence[str]) -> Drawn:
    """One answer at several temperatures. probabilities: (temperatures, classes), the likeliest class first."""
    p = np.asarray(probabilities)
    entropy = -np.sum(p * np.log(p), axis=1)
    groups = [f"T = {t}\nH = {h:.2f}" for t, h in zip(temperatures, entropy, strict=True)]
    figure = class_bars(p, names, groups, title="Temperature raises the small probabilities")
    first, second, third = (look(name).label for name in names)
    ratios = p[:, 1] / p[:, 2]
    alt = (
        f"Bars of the probabilities of {first}, {second} and {third} at T = {', '.join(map(str, temperatures))}. The "
        f"three draw together; {first} stays first. Entropy rises from {entropy[0]:.2f} to {entropy[-1]:.2f} nats."
    )
    return figure, alt, (f"{second} stays ahead of {third}, by {ratios[0]:.2f} to 1 at T = {temperatures[0]} and by "
                         f"{ratios[2]:.2f} to 1 at T = {temperatures[2]}.")  # fmt: skip


def answers_by_temperature_figure(
    images: Sequence[np.ndarray],
    soft: Sequence[np.ndarray],
    labels: Sequence[str],
    kinds: Sequence[str],
    temperatures: Sequence[float],
    names: Sequence[str],
) -> Drawn:
    """Scans, each beside its soft labels. images: (H, W) each; soft: (temperatures, classes) each; labels: the true
    classes; kinds: what each scan is there for."""
    figure, axes = plt.subplots(len(images), 2, figsize=(6.8, 1.95 * len(images)), width_ratios=(1, 3.4), squeeze=False)
    groups, spoken = [f"T = {t}" for t in temperatures], []
    for image, p, label, kind, (left, right) in zip(images, soft, labels, kinds, axes, strict=True):
        draw_scan(left, image)
        class_bars(p, names, groups, title=f"{kind}: {look(label).label}", ylim=(0, 1.12), axis=right)
        right.set_yticks([0, 0.5, 1])
        if right is not axes[0, 1]:
            right.get_legend().remove()
        said = ", ".join(f"{look(name).label} {one:.2f}" for name, one in zip(names, np.asarray(p)[0], strict=True))
        spoken.append(f"{kind}, truly {look(label).label}: {said}")
    listed = ", ".join(map(str, temperatures))
    alt = f"Scans with the teacher's soft labels at T = {listed}. At T = 1, {'; '.join(spoken)}."
    return figure, alt, "The order of the classes stays at every T. A high T makes sure and unsure answers look alike."


def entropy_figure(
    temperatures: np.ndarray, climb: Mapping[str, Sequence[float]], example: Sequence[float], classes: int
) -> Drawn:
    """Entropy of soft labels against T. climb: class -> mean over its scans; example: of the made-up answer."""
    figure, axis = plt.subplots(figsize=(6.8, 3.2))
    limit = np.log(classes)
    axis.axhline(limit, color="black", linewidth=1, linestyle=":")
    axis.annotate(f"limit: log {classes} = {limit:.2f}", (temperatures[-1], limit), ha="right", va="bottom", fontsize=8)
    axis.plot(temperatures, example, color="#222222", linewidth=1.2, linestyle="--", label="the example (3 classes)")
    curves(temperatures, climb, xlabel="temperature T", ylabel="entropy of the soft label (nats)", axis=axis,
           title="The entropy of every answer climbs towards log C")  # fmt: skip
    axis.set(ylim=(0, 1.12 * limit), xticks=[1, 2, 4, 6, 8, 10])
    lines = "; ".join(f"{look(name).label} from {values[0]:.2f} to {values[-1]:.2f}" for name, values in climb.items())
    rise = {name: values[-1] - values[0] for name, values in climb.items()}
    most = max(rise, key=rise.get)
    alt = (f"Entropy against temperature from {temperatures[0]:g} to {temperatures[-1]:g}, mean over the validation "
           f"scans of each class: {lines}; the example from {example[0]:.2f} to {example[-1]:.2f} nats.")  # fmt: skip
    return figure, alt, (f"{look(most).label} gains most, {rise[most]:.2f} nats: its answers start at "
                         f"{climb[most][0]:.2f} nats, and all end near {limit:.2f}.")  # fmt: skip


def gradient_figure(temperatures: np.ndarray, norms: np.ndarray, limit: float, shown: float) -> Drawn:
    """Norm of the gradient of KL (temperatures,) with and without T², from T = 1. limit: of T² times the norm."""
    with_square = temperatures**2 * norms
    figure, axis = plt.subplots(figsize=(6.8, 3.2))
    lines = {"KL alone": norms, "T² KL": with_square, "limit of KL: ∝ 1/T²": limit / temperatures**2}
    curves(temperatures, lines, xlabel="temperature T", ylabel="gradient norm, mean a scan", axis=axis,
           title="Without T² the teacher's gradient fades as T grows")  # fmt: skip
    axis.set(xscale="log", yscale="log", xticks=[1, 2, 4, 10, 30], xticklabels=["1", "2", "4", "10", "30"])
    axis.minorticks_off()
    fall, change = norms[0] / np.interp(shown, temperatures, norms), with_square[-1] / norms[0]
    alt = ("Gradient norm of the soft loss against temperature, both axes logarithmic. From T = 1 to "
           f"{temperatures[-1]:.0f} KL alone goes from {norms[0]:.2g} to {norms[-1]:.2g}, T² KL from {norms[0]:.2g} to "
           f"{with_square[-1]:.2g}.")  # fmt: skip
    return figure, alt, (f"From T = 1 to {shown:g} the gradient of KL shrinks {fall:.1f}-fold (T² = {shown**2:g}); "
                         f"with T² it stays within a factor of {max(change, 1 / change):.2f} up to T = "
                         f"{temperatures[-1]:.0f}.")  # fmt: skip


def directions_figure(x: np.ndarray, directions: Mapping[str, np.ndarray], believed: float, name: str) -> Drawn:
    """Both directions of KL against the student's probability x (n,) of a class that the teacher believes in."""
    label = look(name).label
    figure = curves(x, directions, xlabel=f"student's probability of {label} (teacher's: {believed:.2f})",
                    ylabel="KL (nats)", title="KL(teacher ‖ student) does not forgive a class ruled out")  # fmt: skip
    figure.axes[0].set_ylim(0, 0.55)
    figure.axes[0].axvline(believed, color="black", linewidth=1, linestyle=":")
    ends = {one: (float(values[0]), float(values[-1])) for one, values in directions.items()}
    spoken = "; ".join(f"{one} is {a:.2f} at {x[0]:.4f} and {b:.2f} at {x[-1]:.1f}" for one, (a, b) in ends.items())
    (first, _), (second, _) = ends.values()
    return (
        figure,
        f"Both divergences are zero at {believed:.2f}. {spoken}.",
        (f"Near 0 the teacher-first KL is {first / second:.1f} times the other, and grows without bound."),
    )


def doubtful_figure(
    images: Sequence[np.ndarray], believed: np.ndarray, labels: Sequence[str], wrong: np.ndarray, names: Sequence[str]
) -> Drawn:
    """The scans with the highest entropy. believed: (n, classes); wrong: (n,) bool."""
    entropy = -np.sum(believed * np.log(np.maximum(believed, 1e-12)), axis=1)
    captions = [f"{look(label).label}, H = {h:.2f}\n" + ", ".join(f"{p:.2f}" for p in row)
                for label, h, row in zip(labels, entropy, believed, strict=True)]  # fmt: skip
    listed = ", ".join(look(name).label for name in names)
    figure = scan_grid(images, captions, title=f"Most ambiguous scans ({listed})")
    alt = (f"The {len(images)} validation scans with the highest entropy, each with its true class and the teacher's "
           f"probabilities for {listed}. The teacher is wrong on {wrong.sum()} of them.")  # fmt: skip
    return figure, alt, f"The teacher is wrong on {wrong.sum()} of these {len(images)}."


def calibration_figure(
    confidence: np.ndarray,
    correct: np.ndarray,
    temperatures: np.ndarray,
    errors: Mapping[str, Sequence[float]],
    best: float,
) -> Drawn:
    """Left: share right against confidence at T = 1, in 15 bins. Right: calibration errors against T.

    confidence, correct: (n,). errors: name -> (temperatures,). best: the T with the lowest cross-entropy.
    """
    bins = pd.DataFrame({"said": confidence, "right": correct}).groupby(np.minimum(confidence * 15, 14).astype(int))
    table = bins.mean().assign(scans=bins.size())
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.0))
    left.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    seaborn.scatterplot(table, x="said", y="right", size="scans", sizes=(20, 220), color="#0072B2", alpha=0.7, ax=left)
    left.set(xlabel="confidence of the teacher", ylabel="share it gets right", xlim=(0, 1), ylim=(0, 1.03))
    left.legend(title="scans", fontsize=8, title_fontsize=8)
    gap = float((confidence - correct).mean())
    message(left, f"At T = 1 it says {confidence.mean():.0%} and is right on {correct.mean():.0%}")
    curves(temperatures, errors, xlabel="temperature T", ylabel="calibration error", axis=right,
           title=f"NLL is lowest at T = {best:.2f}")  # fmt: skip
    right.axvline(best, color="black", linewidth=1, linestyle=":")
    right.set(xscale="log", xticks=[0.1, 0.2, 0.5, 1, 2, 5], xticklabels=["0.1", "0.2", "0.5", "1", "2", "5"])
    right.minorticks_off()
    spoken = "; ".join(f"{name} {np.interp(1, temperatures, values):.3f}" for name, values in errors.items())
    alt = (f"Left: share right against confidence in {len(table)} bins, larger dots for more scans; dotted: agreement. "
           f"Right: calibration errors against T from {temperatures[0]:.1f} to {temperatures[-1]:.0f}; at T = 1 "
           f"{spoken}; dotted: T = {best:.2f}.")  # fmt: skip
    return figure, alt, (f"Confidence minus accuracy is {gap:+.3f} at T = 1. The T that fits these scans best is "
                         f"{best:.2f}.")  # fmt: skip


def temperature_figure(table: pd.DataFrame) -> Drawn | None:
    """Gain over labels alone against T in calibrated units, for students of two teachers; None without such arms.

    table: of `judge.regimes.kept_regimes`. T in calibrated units: the T that is set, divided by the one that calibrates
    the teacher (geometric mean over data seeds). A small dot is a data seed.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.6))
    listed, told = [], []
    for teacher, (name, marker, color) in TEACHERS.items():
        arms, unit = TEMPERATURES[teacher], calibrating_temperatures(table, teacher)
        found = ask(table, [(arm, "student_alone") for arm in arms.values()])
        if found.empty or unit.empty:
            continue
        set_at = {arm: t for t, arm in arms.items()}
        found["T"] = found["arm"].map(set_at)
        found["place"] = found["T"] / np.exp(np.log(unit).mean())
        _draw_temperatures(axis, found, name, marker, color)
        listed += [f"{name}, T = {row['T']} ({row['place']:.1f} calibrated) {in_points(row)}"
                   for _, row in found.iterrows()]  # fmt: skip
        for _, row in ask(table, [(arm, arms[4]) for t, arm in arms.items() if t != 4]).iterrows():
            if row["reading"] != OPEN:
                t, better = set_at[row["arm"]], "better" if row["reading"] == GAIN else "worse"
                told.append(f"{name}, T = {t} is {better} than T = 4")
    if len(listed) < 2:
        plt.close(figure)
        return None
    axis.axhline(0, color="black", linewidth=1, linestyle=":")
    axis.set(xscale="log", xlabel="T in calibrated units: T divided by the T* that calibrates the teacher",
             ylabel="points gained over\nlabels alone")  # fmt: skip
    places = [1, 2, 5, 10, 20, 50]
    axis.set_xticks(places, [str(place) for place in places])
    axis.minorticks_off()
    axis.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    message = "; ".join(told) or "No T is shown to differ from T = 4"
    headline(figure, message[0].upper() + message[1:])
    return figure, f"Gain over labels alone by temperature: {'; '.join(listed)}.", f"On phantoms, 64 px: {message}."


def _draw_temperatures(axis: Axes, found: pd.DataFrame, name: str, marker: str, color: str) -> None:
    """The students of one teacher: mean, 95 % t-interval and a dot a data seed at each T."""
    for _, row in found.iterrows():
        jitter = np.exp(np.random.default_rng(0).uniform(-0.06, 0.06, row["seeds"]))
        axis.plot(row["place"] * jitter, 100 * np.array(row["by_seed"]), marker, color=color, alpha=0.3, markersize=3)
        middle, low, high = (100 * row[key] for key in ("estimate", "low", "high"))
        label = name if row["T"] == 4 else None
        axis.errorbar(row["place"], middle, yerr=[[middle - low], [high - middle]], color=color, marker=marker,
                      markersize=8, capsize=5, markeredgecolor="white", label=label)  # fmt: skip
        axis.annotate(f"T = {row['T']}", (row["place"], middle), (7, 4), textcoords="offset points", fontsize=8,
                      color=color)  # fmt: skip
    axis.plot(found["place"], 100 * found["estimate"], color=color, linewidth=0.8, linestyle="--")


def calibrating_temperatures(table: pd.DataFrame, teacher: str = "teacher") -> pd.Series:
    """The T that calibrates each data seed's teacher, where it was measured. table: of `kept_regimes`."""
    return table.loc[table["arm"] == teacher].set_index("seed")["best_temperature"].dropna()


def two_teachers(table: pd.DataFrame) -> str:
    """A sentence on the calibration of the focal and the cross-entropy teachers. table: of `kept_regimes`."""
    words = []
    for arm, name in (("teacher", "focal loss"), ("teacher_cross_entropy", "cross-entropy")):
        rows, best = table[table["arm"] == arm], calibrating_temperatures(table, arm)
        if len(rows):
            unit = float(np.exp(np.log(best).mean())) if len(best) else float("nan")
            hot = f", and T = 4 acts like {4 / unit:.1f} on its calibrated logits" if len(best) else ""
            words.append(f"a teacher trained with {name} has an accuracy of {rows['accuracy'].mean():.1%}, an ECE of "
                         f"{rows['ece'].mean():.3f}{hot}")  # fmt: skip
    told = "; ".join(words)
    return f"On average {told}." if words else ""
