"""What scans and splits look like: eyes and their lesions (00, 01), what a split tests and what is nearest to it (01).

Data in; figure, alternative text and takeaway out, for `output.show`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from kdoct_utils.show.figures import draw_bars, draw_scan, scan_grid
from kdoct_utils.show.style import CLASS_LOOKS, headline, look

Told = tuple[Figure, str, str]
OUTLINE = "#FFD166"
ROLE_SHADES = {"train": "#DDDDDD", "validation": "#D07C00", "test": "#00224E"}


# --- notebook 00 -----------------------------------------------------------------------------------------------------


def distillation_figure(image: np.ndarray, label: str, answer: Mapping[str, float]) -> Told:
    """What distillation is: a scan, what its label says, what a teacher says, and the student that learns from both.

    image: (H, W) in 0..255. label: its class. answer: class -> the teacher's probability.
    """
    names = [look(name).label for name in answer]
    figure, axes = plt.subplots(1, 4, figsize=(6.8, 2.3), width_ratios=(1.5, 1.25, 1.25, 1.1))
    draw_scan(axes[0], image, "one scan")
    says = {"the label says": [float(name == label) for name in answer], "the teacher says": list(answer.values())}
    for axis, (who, values), color, hatch in zip(axes[1:], says.items(), ("#0072B2", "#D55E00"), ("", "///"),
                                                 strict=False):  # fmt: skip
        draw_bars(axis, pd.DataFrame({who: values}, names), {who: (color, hatch)}, legend=False)
        if axis.get_legend():
            axis.get_legend().remove()
        for row, value in enumerate(values):
            axis.text(value + 0.03, row, f"{value:.2f}", va="center", fontsize=9)
        axis.set(xlim=(0, 1.35), xticks=[])
        axis.set_title(who, fontsize=9, fontweight="normal")
        for side in axis.spines.values():
            side.set_visible(False)
    axes[3].set_axis_off()
    axes[3].text(0.62, 0.5, "student:\nsmall, learns\nfrom both", ha="center", va="center", fontsize=9,
                 transform=axes[3].transAxes,
                 bbox={"boxstyle": "round,pad=0.5", "facecolor": "#F2F2F2", "edgecolor": "#444444"})  # fmt: skip
    axes[3].add_patch(FancyArrowPatch((-0.15, 0.5), (0.18, 0.5), arrowstyle="-|>", mutation_scale=14, color="#444444",
                                      transform=axes[3].transAxes, clip_on=False))  # fmt: skip
    headline(figure, "A label names one class; a teacher weighs them all")
    spoken = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, answer.values(), strict=True))
    alt = (f"A synthetic scan; bars of its label, {look(label).label} 1.00 and nothing else; bars of a teacher's "
           f"answer: {spoken}. An arrow leads to a box: the student learns from both.")  # fmt: skip
    return figure, alt, "distillation trains the student on the label and on the teacher's whole answer."


def guess_figure(images: Sequence[np.ndarray], letters: Sequence[str]) -> Told:
    """Scans under letters, for a guess. images: (H, W) in 0..255."""
    figure = scan_grid(images, list(letters), title="One of these eyes is healthy: which?", columns=2, width=3.3)
    alt = (f"{len(images)} synthetic B-scans, lettered {', '.join(letters)}: stacks of bright and dark layers under a "
           f"dark vitreous. {len(images) - 1} have a lesion.")  # fmt: skip
    return figure, alt, "write your guess down before you go on."


def answer_figure(
    images: Sequence[np.ndarray], lesions: Sequence[np.ndarray], small: Sequence[np.ndarray], classes: Sequence[str],
    letters: Sequence[str],
) -> Told:
    """The same scans with names and outlined lesions; below each, the picture that the networks get."""
    size = small[0].shape[0]
    healthy = letters[list(classes).index("normal")]
    figure, axes = plt.subplots(2, len(classes), figsize=(6.8, 3.7))
    for k, (above, below) in enumerate(axes.T):
        draw_scan(above, images[k], f"{letters[k]}: {look(classes[k]).label}")
        if (lesions[k] > 0).any():
            above.contour(lesions[k] > 0, levels=[0.5], colors=OUTLINE, linewidths=1.2)
        draw_scan(below, small[k])
    headline(figure, f"{healthy} is healthy; below, what a network sees: {size} x {size} pixels")
    named = ", ".join(f"{letter} {look(name).label}" for letter, name in zip(letters, classes, strict=True))
    alt = f"The same scans with their names: {named}. Lesions are outlined. Below each, the scan at {size} px a side."
    return figure, alt, f"{named}. Drusen and CNV both lift the RPE, so a network may mix them up."


# --- notebook 01: what a B-scan shows --------------------------------------------------------------------------------


def lesions_figure(examples: Mapping[str, tuple[np.ndarray, np.ndarray]], side: int = 150) -> Told:
    """Whole frames, one a class, and below each the place of its largest lesion, enlarged and outlined.

    examples: class -> frame and lesion codes, both (H, W). side: rows of the enlarged part.
    """
    share = {name: float((lesions > 0).mean()) for name, (_, lesions) in examples.items()}
    figure, axes = plt.subplots(2, len(examples), figsize=(7.2, 3.3))
    for (name, (picture, lesions)), (above, below) in zip(examples.items(), axes.T, strict=True):
        rows, columns = np.nonzero(lesions)
        bright = np.unravel_index(picture.sum(axis=1).argmax(), picture.shape[:1])[0]
        middle = (np.median(rows), np.median(columns)) if len(rows) else (bright - 30, picture.shape[1] / 2)
        top = int(np.clip(middle[0] - side / 2, 0, picture.shape[0] - side))
        left = int(np.clip(middle[1] - side * 0.75, 0, picture.shape[1] - 1.5 * side))
        part = np.s_[top : top + side, left : left + int(1.5 * side)]
        draw_scan(above, picture, look(name).label)
        above.add_patch(Rectangle((left, top), 1.5 * side, side, fill=False, edgecolor=OUTLINE, linewidth=1))
        draw_scan(below, picture[part], f"lesions: {share[name]:.1%} of the frame")
        if (lesions[part] > 0).any():
            below.contour(lesions[part] > 0, levels=[0.5], colors=OUTLINE, linewidths=0.9)
    fewest = min((name for name in share if name != "normal"), key=share.get)
    headline(figure, f"Lesions are small: {look(fewest).label} cover {share[fewest]:.1%} of this frame")
    listed = ", ".join(f"{look(name).label} {value:.1%}" for name, value in share.items())
    alt = f"Whole phantom frames, below each its framed part, lesions outlined. Share of the pixels: {listed}."
    return figure, alt, f"Most of a frame is empty. Lesions cover, of the frame: {listed}."


def place_figure(volumes: pd.DataFrame, source: str) -> Told:
    """Where in a volume slices show disease: by class, patients' shares with their mean and 95 % interval.

    volumes: patient, eye, slice, label, patient_class of whole volumes. source: whose they are, in words.
    """
    number = volumes["slice"].astype(float)
    by_eye = number.groupby([volumes["patient"], volumes["eye"]])
    place = (by_eye.rank(method="first") - 1) / (by_eye.transform("size") - 1)  # 0 first slice, 1 last
    away = (2 * place - 1).abs().fillna(0)  # 0 in the middle, 1 at the edge
    away = (5 * away).round() / 5 if away.round(6).nunique() > 6 else away.round(2)
    sick = volumes.assign(away=(100 * away).round().astype(int), shows=100.0 * (volumes["label"] != "normal"))
    sick = sick[sick["patient_class"] != "normal"]
    shares = sick.groupby(["patient_class", "patient", "away"], as_index=False)["shows"].mean()
    figure, axis = plt.subplots(figsize=(6.8, 2.8))
    told = []
    for k, (name, part) in enumerate(shares.groupby("patient_class")):
        one = look(name)
        seaborn.lineplot(part, x="away", y="shows", errorbar=("ci", 95), seed=0, err_style="bars", color=one.color,
                         marker=one.marker, linestyle=("-", "--", "-.")[k % 3], label=one.label, ax=axis)  # fmt: skip
        means = part.groupby("away")["shows"].mean()
        told.append(f"{one.label} {means.iloc[0]:.0f}% in the middle, {means.iloc[-1]:.0f}% at the edge")
    axis.set(xlabel="distance from the middle of the volume (% of the way to its edge)",
             ylabel="slices that show disease (%)", ylim=(0, 104))  # fmt: skip
    axis.legend(fontsize=8)
    headline(figure, "Slices of diseased eyes may look normal, most of all at the edge of the volume"
             if _falls(shares) else "Slices of diseased eyes may look normal")
    alt = (f"Share of the slices of diseased eyes that show disease, with 95% intervals over patients: "
           f"{'; '.join(told)}. Source: {source}.")  # fmt: skip
    return figure, alt, f"Slices of diseased eyes that show disease: {'; '.join(told)} ({source})."


def _falls(shares: pd.DataFrame) -> bool:
    """Whether in each class the edge shows disease less often than the middle, beyond twice the standard error."""
    for _, part in shares.groupby("patient_class"):
        wide = part.pivot_table(index="patient", columns="away", values="shows")
        change = (wide.iloc[:, 0] - wide.iloc[:, -1]).dropna()
        if len(change) < 2 or change.mean() < 2 * change.std() / len(change) ** 0.5:
            return False
    return True


# --- notebook 01: splits ---------------------------------------------------------------------------------------------


def nearest_figure(
    pictures: Sequence[np.ndarray], table: pd.DataFrame, by_scan: np.ndarray, by_patient: np.ndarray
) -> Told:
    """Tested scans, each beside the training scan nearest to it when the split is by scan and when it is by patient.

    pictures: (n, H, W). table: scan by scan, label, group, slice. by_scan, by_patient: (n,) rows of the nearest. Shown
    are two plain cases: right with the leak, wrong without.
    """
    label, group = table["label"].to_numpy(object), table["group"].to_numpy(object)
    number = table["slice"].astype(float).to_numpy()  # NaN where a dataset gives none
    same = group[by_scan] == group
    following = same & (np.abs(number[by_scan] - number) == 1)
    helped = (by_patient >= 0) & (by_scan >= 0) & (label[by_scan] == label) & (label[by_patient] != label)
    picked = table.iloc[np.lexsort((~following, ~same, ~helped))].drop_duplicates("label").index[:2]

    def caption(row: int, test: int) -> str:
        if row == test:
            return f"tested: {look(label[row]).label}"
        near = "next slice" if abs(number[row] - number[test]) == 1 else "another slice"
        return f"{look(label[row]).label}: {'other patient' if group[row] != group[test] else f'same patient, {near}'}"

    shown = [(row, caption(row, test)) for test in picked for row in (test, by_scan[test], by_patient[test])]
    captions = [words for _, words in shown]
    figure = scan_grid([pictures[row] for row, _ in shown], captions, columns=3, width=2.2,
                       title="Tested | nearest, split by scan | nearest, split by patient")
    rows = "; ".join(", ".join(captions[start : start + 3]) for start in range(0, len(captions), 3))
    alt = f"{len(picked)} tested scans, each beside its nearest training scan under either split. In rows: {rows}."
    return figure, alt, (f"Plain cases. Split by scan, {same.mean():.0%} of the nearest scans are of the same "
                         f"patient, and {following.mean():.0%} are the very next slice.")  # fmt: skip


def folds_figure(split: pd.DataFrame, class_of: pd.Series, most: int = 20) -> Told:
    """Who has which role in each fold, a column per patient. class_of: class by group. most: patients of a class."""
    names = [name for name in CLASS_LOOKS if (class_of == name).any()]
    drawn = pd.concat([class_of[class_of == name].iloc[:most] for name in names])
    roles = split.drop_duplicates(["group", "fold"]).pivot(index="fold", columns="group", values="role")[drawn.index]
    shade = roles.apply(lambda column: column.map(list(ROLE_SHADES).index)).to_numpy()
    figure, axis = plt.subplots(figsize=(6.8, 2.5))
    _draw_roles(axis, shade)
    for name in names:
        columns = np.flatnonzero(drawn == name)
        axis.axvline(columns[-1] + 0.5, color="white", linewidth=4)
        axis.text(columns.mean(), -0.65, look(name).label, ha="center", va="bottom", fontsize=9)
    axis.set(yticks=range(len(roles)), ylabel="fold", xlabel=f"patients ({len(drawn)} of {len(class_of)})", xticks=[])
    headline(figure, "In each fold a patient has one role; nobody is tested twice")
    alt = (f"A grid of {len(roles)} folds by {len(drawn)} patients, sorted by class and shaded by role. "
           "No column has more than one test cell.")  # fmt: skip
    return figure, alt, f"{len(class_of)} patients, {len(roles)} folds: in a fold nobody has two roles."


def _draw_roles(axis: plt.Axes, shade: np.ndarray) -> None:
    """A grid of roles, numbers into ROLE_SHADES, with their legend."""
    axis.imshow(shade, cmap=ListedColormap(ROLE_SHADES.values()), aspect="auto", vmin=0, vmax=2)
    axis.grid(False)
    keys = [Patch(color=color, label=role) for role, color in ROLE_SHADES.items()]
    axis.figure.legend(handles=keys, loc="outside right upper", fontsize=8)


def rules_figure(table: pd.DataFrame, roles: Mapping[str, Sequence[str]], seen: Mapping[str, float]) -> Told:
    """One fold of a split by scan and of one by patient: a cell a scan, a block a patient.

    table: group of each scan; all groups have as many. roles: rule -> role of each scan. seen: rule -> share of the
    tested patients that were trained on, over all folds and seeds.
    """
    shade = np.stack([[list(ROLE_SHADES).index(role) for role in given] for given in roles.values()])
    size = len(table) // table["group"].nunique()
    figure, axis = plt.subplots(figsize=(6.8, 1.7))
    _draw_roles(axis, shade)
    for column in range(size - 1, len(table) - 1, size):
        axis.axvline(column + 0.5, color="white", linewidth=3)
    for row, column in zip(*np.nonzero(shade == 2), strict=True):
        axis.text(column, row, "T", color="white", ha="center", va="center", fontsize=6)
    axis.set(yticks=range(len(roles)), yticklabels=roles, xticks=[],
             xlabel=f"scans of {table['group'].nunique()} patients (one fold)")  # fmt: skip
    headline(figure, "By scan, a tested patient's other scans are trained on")
    alt = (f"{len(roles)} rows of {len(table)} scans in blocks of {size}, one block a patient, shaded by role. By scan "
           "the blocks are of mixed shades; by patient each block has one.")  # fmt: skip
    told = ", ".join(f"{share:.0%} when split {rule}" for rule, share in seen.items())
    return figure, alt, f"Tested patients that were trained on as well, over all folds drawn: {told}."


# --- beside the way: 01b ---------------------------------------------------------------------------------------------


def band_figure(frames: Mapping[str, np.ndarray], bands: Mapping[str, tuple], small: Mapping[str, tuple]) -> Told:
    """Frames with the retina band outlined; the whole frame and the band, both shrunk to what a small network sees.

    bands: name -> top, bottom, left, right. small: name -> whole frame and band, (size, size) each.
    """
    size = next(iter(small.values()))[0].shape[0]
    figure, axes = plt.subplots(len(frames), 3, figsize=(6.8, 2.2 * len(frames)), width_ratios=(1.5, 1, 1),
                                squeeze=False)  # fmt: skip
    for row, (name, picture) in zip(axes, frames.items(), strict=True):
        versions = (picture, *small[name])
        for axis, version, title in zip(row, versions, (name, f"whole frame, {size} px", f"band, {size} px"),
                                        strict=True):  # fmt: skip
            draw_scan(axis, version, title)
        top, bottom, left, right = bands[name]
        row[0].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=OUTLINE))
    name, (top, bottom, left, right) = next(iter(bands.items()))
    high, wide = frames[name].shape
    headline(figure, "The band gives the retina more of a small picture")
    alt = (f"{len(frames)} frames with the band outlined, each beside the whole frame and the band, both shrunk to "
           f"{size} px. In the band the layers are thicker.")  # fmt: skip
    sides = ", and so does the retina at both sides" if right - left < wide else ""
    return figure, alt, (f"The band keeps {(bottom - top) / high:.0%} of the rows and {(right - left) / wide:.0%} of "
                         f"the columns: vitreous and deep tissue go{sides}.")  # fmt: skip


def cleaned_figure(
    stored: Mapping[str, np.ndarray], cleaned: Mapping[str, np.ndarray], bar: tuple[int, int, int, int]
) -> Told:
    """Frames as stored above the same without scale bar, canvas or border.

    bar: top, bottom, left and right of the scale bar of the first frame; its surroundings are enlarged.
    """
    figure, axes = plt.subplots(2, len(stored), figsize=(6.8, 3.4))
    for (name, picture), column in zip(stored.items(), axes.T, strict=True):
        for axis, shown, title in zip(column, (picture, cleaned[name]), (name, "cleaned"), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=9, fontweight="normal")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(True)  # so that a white border ends where the frame ends
    top, bottom, left, right = bar
    around = np.s_[max(top - 8, 0) : bottom + 8, max(left - 8, 0) : right + 8]
    for axis, picture in zip(axes[:, 0], (list(stored.values())[0], list(cleaned.values())[0]), strict=True):
        inset = axis.inset_axes((0.4, 0.04, 0.56, 0.34))
        inset.imshow(picture[around], cmap="gray", vmin=0, vmax=255)
        inset.set(xticks=[], yticks=[])
        inset.grid(False)
        inset.spines[:].set(visible=True, color=OUTLINE)
        axis.add_patch(Rectangle((left - 8, top - 8), right - left + 16, bottom - top + 16, fill=False,
                                 edgecolor=OUTLINE))  # fmt: skip
    headline(figure, "As stored, and without what is not the eye")
    alt = (f"Frames as stored: {', '.join(stored)}; below each the same without them: bar and borders filled, the "
           "small picture cut out.")  # fmt: skip
    return figure, alt, "Everything later is made from cleaned frames."
