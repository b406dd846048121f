"""Drawings for the sliders of single notebooks: splits and lesions (01), the temperature bench (04), pushes (05).

Strings of SVG, each made in a millisecond or two. Every meaning is said twice: by color, and by letter, hatch or words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kdoct_utils.data.splits import ROLES
from kdoct_utils.phantom.anatomy import (
    LAYER_LEVELS,
    LAYER_NAMES,
    Patient,
    layer_heights,
    lesion_profiles,
    visible_classes,
)
from kdoct_utils.show.style import look
from kdoct_utils.show.svg import framed_svg, png_uri, svg_prose, svg_text

# --- notebook 01: who is tested in a split ---------------------------------------------------------------------------

MARKS = {"train": "", "validation": "V", "test": "T"}
FRAMES = {"train": 'stroke="{}"', "validation": 'stroke="#000" stroke-dasharray="3 2"',
          "test": 'stroke="#000" stroke-width="2"'}  # fmt: skip
SQUARE, GAP, LEFT = 24, 14, 8  # pixels
SPLIT_KEY = (
    "A column is a patient, a square a scan. T: tested. V: for validation. Pale: trained on. x: tested and trained on."
)


def split_svg(table: pd.DataFrame, roles: Sequence[str], *, title: str) -> str:
    """A square per scan, a column per patient, in the colors of the classes: who is tested, and who trained on as well.

    table: group and label of each scan; all groups have as many scans. roles: of each scan, in ROLES.
    Under a column stands an x where its patient is tested and trained on.
    """
    foot = 58 + SQUARE * (len(table) // table["group"].nunique())
    parts, x = [], LEFT
    for name, members in table.assign(role=list(roles)).groupby("label", sort=False):
        mark, start = look(name), x
        for _, rows in members.groupby("group", sort=False):
            parts += [_square(x, 58 + SQUARE * k, mark.color, role) for k, role in enumerate(rows["role"])]
            if {"train", "test"} <= set(rows["role"]):
                parts.append(svg_text(x + 11, foot + 16, "x", SQUARE, bold=True, anchor="middle"))
            x += SQUARE + 4
        parts.append(f'<rect x="{start}" y="50" width="{x - start - 6}" height="4" fill="{mark.color}"/>')
        parts.append(svg_text(start, 44, mark.label, x - start))
        x += GAP
    seen, tested = seen_of_tested(table, roles)
    words = f"{seen} of {tested} test patients were seen in training"
    width = max(x, 600)
    parts.append(svg_text(LEFT, foot + 36, f"{words}.", width - 2 * LEFT, bold=True))
    parts += svg_prose(LEFT, foot + 54, SPLIT_KEY, width - 2 * LEFT)
    spoken = "; ".join(f"{list(roles).count(role)} scans {role}" for role in ROLES)
    return framed_svg(title, f"{spoken}. {words}", width, foot + 78, parts)


def seen_of_tested(table: pd.DataFrame, roles: Sequence[str]) -> tuple[int, int]:
    """How many of the groups with a scan in test have another in train, and how many groups have one in test."""
    have = {role: set(table.loc[np.asarray(roles, object) == role, "group"]) for role in ROLES}
    return len(have["test"] & have["train"]), len(have["test"])


def _square(x: int, y: int, color: str, role: str) -> str:
    square = (f'<rect x="{x}" y="{y}" width="{SQUARE - 2}" height="{SQUARE - 2}" fill="{color}" '
              f'fill-opacity="{1 if role == "test" else 0.25}" {FRAMES[role].format(color)}/>')  # fmt: skip
    if not MARKS[role]:
        return square
    # A full color carries no letter that can be read on each of them, so the letter stands on a white plate.
    plate = f'<rect x="{x + 5}" y="{y + 4}" width="12" height="14" fill="#fff"/>' if role == "test" else ""
    return square + plate + svg_text(x + 11, y + 16, MARKS[role], SQUARE, anchor="middle")


# --- notebook 01: what a lesion does to the layers -------------------------------------------------------------------

COLUMN_UM = 50
PLAN_X = np.arange(-1400, 1401, COLUMN_UM, dtype=np.float32)  # um along the scan
PLAN_TOP = 920  # um above Bruch's membrane at the upper edge
STEP, UM = 8, 0.26  # pixels for a column; for 1 um in depth
NAMED = ("RNFL", "IPL", "INL", "OPL", "ONL", "EZ", "outer segments", "RPE", "choroid")
HATCHES = {  # of the two spaces that fluid opens: pattern, line, color
    LAYER_NAMES.index("subretinal space"): ("above", "M0 0L6 6", "#4CC9F0"),
    LAYER_NAMES.index("sub-RPE space"): ("below", "M0 6L6 0", "#FFD166"),
}
PATTERN = ('<pattern id="{}" width="6" height="6" patternUnits="userSpaceOnUse"><path d="{}" stroke="{}" '
           'stroke-width="2"/></pattern>')  # fmt: skip


def scaled_lesions(patient: Patient, times: float) -> Patient:
    """The same eye with its lesions as many times as high: drusen, detachments with their fluid, swelling and cysts."""
    lesions = patient.lesions
    parts = {name: getattr(lesions, name).copy() for name in ("drusen", "detachments", "cysts", "edema")}
    parts["drusen"][:, 3:] *= times
    parts["detachments"][:, 4:] *= times
    parts["cysts"][:, 3:] *= min(times, 1.0)
    parts["edema"][:, 3:] *= times
    return replace(patient, lesions=replace(lesions, **parts))


def plan_of(patient: Patient, away_um: float) -> dict[str, object]:
    """One slice: "heights" of all boundaries over Bruch's membrane (15, columns), the largest lesions (um), label."""
    y = np.array([away_um], np.float32)
    profile = lesion_profiles(patient, PLAN_X, y)
    return {
        "heights": layer_heights(patient, PLAN_X, y, profile)[:, 0],
        "lift": float((profile["drusen"] + profile["detachment"]).max()),
        "subretinal": float((profile["fluid"] + profile["material"]).max()),
        "swelling": float(profile["thickening"].max()),
        "label": visible_classes(patient, profile)[0],
    }


def plan_svg(patient: Patient, away_um: float, *, title: str) -> str:
    """One slice as a plan: layers in their display levels and named, lesions hatched, Bruch's membrane drawn level."""
    plan = plan_of(patient, away_um)
    y = 34 + UM * (PLAN_TOP - plan["heights"])  # (15, columns), pixels
    bottom, width = round(34 + UM * (PLAN_TOP + 160)), STEP * (len(PLAN_X) - 1)
    parts = [f"<defs>{''.join(PATTERN.format(*hatch) for hatch in HATCHES.values())}</defs>",
             f'<rect y="34" width="{width}" height="{bottom - 34}" fill="#111"/>']  # fmt: skip
    for k in range(len(LAYER_NAMES) - 2):  # from the vitreous down: each boundary, and all below it in the next layer
        level = round(max(float(LAYER_LEVELS[k + 1]), 30))
        if k + 1 in HATCHES and np.ptp(y[k] - y[k + 1]) < 0.5:
            continue
        steps = np.round(y[k]).astype(int)  # whole pixels, each from the last: short, and alike from drawing to drawing
        outline = f"M0 {steps[0]}l" + " ".join(f"{STEP} {step}" for step in np.diff(steps)) + f"V{bottom}H0z"
        parts.append(f'<path d="{outline}" fill="rgb({level},{level},{level})"/>')
        if k + 1 in HATCHES:
            parts.append(f'<path d="{outline}" fill="url(#{HATCHES[k + 1][0]})"/>')
    parts += _cysts(patient, away_um, y) + _names(y[:, -1], width)
    words = (
        f"Label {look(plan['label']).label}: the RPE is lifted by {plan['lift']:.0f} µm at most (hatched ///), the "
        f"retina by {plan['subretinal']:.0f} µm off the RPE (\\\\\\), and swollen by {plan['swelling']:.0f} µm."
    )
    parts += svg_prose(8, bottom + 20, words, width + 114, size=13)
    return framed_svg(title, words, width + 130, bottom + 48, parts)


def _cysts(patient: Patient, away_um: float, y: np.ndarray) -> list[str]:
    drawn = []
    for x, slice_um, depth, along, across, high in patient.lesions.cysts[:, :6]:
        near = 1 - ((away_um - slice_um) / max(across, 1)) ** 2
        if near > 0 and abs(x) < PLAN_X[-1] and high > 0:
            column = int((x - PLAN_X[0]) / COLUMN_UM)
            middle = y[0, column] + depth * (y[6, column] - y[0, column])
            half, tall = near**0.5 * along * STEP / COLUMN_UM, near**0.5 * high * UM
            drawn.append(f'<ellipse cx="{STEP * column}" cy="{middle:.0f}" rx="{half:.0f}" ry="{tall:.0f}" '
                         'fill="#1c1c1c" stroke="#FFD166"/>')  # fmt: skip
    return drawn


def _names(edge: np.ndarray, width: int) -> list[str]:
    """Layer names beside the right edge, far enough apart to be read, each with a line to its layer."""
    parts, free = [], 0.0
    for name in NAMED:
        k = LAYER_NAMES.index(name)
        middle = (edge[k - 1] + edge[k]) / 2 if name != "choroid" else edge[k - 1] + 20
        place = max(middle, free)
        free = place + 14
        parts.append(f'<path d="M{width} {middle:.0f}L{width + 14} {place:.0f}" stroke="#000"/>')
        parts.append(svg_text(width + 18, round(place + 4), name, 108, size=12))
    return parts


# --- notebook 05: what teacher and label push a student to -----------------------------------------------------------

PUSHES = {"teacher": ("#222222", "///"), "label": ("#0072B2", ""), "sum": ("#D55E00", "...")}


def pushes_svg(pushes: Mapping[str, np.ndarray], class_names: Sequence[str], *, limit: float, title: str) -> str:
    """One panel of `arm_figures.pushes_figure`, for a slider. limit: the push at either end, always the same."""
    left, room, row, width = 130, 330, 46, 560
    zero, bottom = left + room / 2, 40 + row * len(class_names)
    parts = [f'<path d="M{zero} 34V{bottom}" stroke="black"/>']
    for i, name in enumerate(class_names):
        y = 40 + row * i
        parts.append(svg_text(left - 8, y + 24, look(name).label, left - 16, anchor="end"))
        parts.append(svg_text(left + room + 8, y + 36, f"sum {pushes['sum'][i]:+.3f}", 88, size=12))
        for k, (who, (color, _)) in enumerate(PUSHES.items()):
            length = room / 2 * float(np.clip(pushes[who][i] / limit, -1, 1))
            parts.append(f'<rect x="{min(zero, zero + length):.1f}" y="{y + 12 * k}" width="{abs(length):.1f}" '
                         f'height="{10 if who == "sum" else 8}" fill="{color}"/>')  # fmt: skip
    for k, (who, (color, _)) in enumerate(PUSHES.items()):
        x = left + 130 * k
        parts.append(f'<rect x="{x}" y="{bottom + 6}" width="12" height="10" fill="{color}"/>')
        parts.append(svg_text(x + 16, bottom + 15, f"{who} ({('first', 'second', 'third')[k]} bar)", 112, size=12))
    spoken = "; ".join(f"{look(n).label} {v:+.3f}" for n, v in zip(class_names, pushes["sum"], strict=True))
    return framed_svg(title, f"sum {spoken}", width, bottom + 26, parts)


# --- notebook 04: the temperature bench ------------------------------------------------------------------------------

SCAN_ROOM, COLUMN, BENCH_ROW, STRONGEST = 166, 192, 22, 2.0  # pixels; the push that fills a bar


def bench_svg(
    image: np.ndarray, answers: Mapping[str, Mapping[str, object]], class_names: Sequence[str], *, title: str,
    caption: str,
) -> str:  # fmt: skip
    """A scan, and beside it what each network says of it at one temperature and what that costs.

    image: (H, W) uint8. answers: for each network "at T" and "at 1", its probabilities (classes,); any numbers, each
    under its name, nan where there is none; and, of a student, "push": minus the gradient of its loss, (classes,).
    """
    rows = max(sum(np.ndim(value) == 0 for value in found.values()) for found in answers.values())
    foot = 52 + BENCH_ROW * (2 * len(class_names) + 1) + 17 * rows
    parts = [f'<image href="{png_uri(image)}" x="8" y="34" width="150" height="150" '
             'preserveAspectRatio="none" style="image-rendering: pixelated"/>',
             *svg_prose(8, 202, caption, SCAN_ROOM - 16, size=12)]  # fmt: skip
    for k, (who, found) in enumerate(answers.items()):
        parts += _bench_column(SCAN_ROOM + COLUMN * k, who, found, class_names, rows)
    width = SCAN_ROOM + COLUMN * len(answers)
    parts.append(svg_text(SCAN_ROOM, foot + 14, "Upright ticks: probability at T = 1. Push: where the loss moves each "
                          "logit.", width - SCAN_ROOM - 8, size=12))  # fmt: skip
    spoken = []
    for who, found in answers.items():
        shares = zip(class_names, found["at T"], strict=True)
        spoken.append(f"{who}: " + ", ".join(f"{look(name).label} {p:.3f}" for name, p in shares))
    return framed_svg(title, ". ".join([caption, *spoken]), width, foot + 24, parts)


def _bench_column(x: int, who: str, found: Mapping, class_names: Sequence[str], rows: int) -> list[str]:
    bar, label, y = x + 56, 52, 44
    parts = [svg_text(x, y, who, COLUMN - 12, bold=True)]
    for name, p, plain in zip(class_names, found["at T"], found["at 1"], strict=True):
        y += BENCH_ROW
        parts += [svg_text(x, y, look(name).label, label, size=12),
                  f'<rect x="{bar}" y="{y - 12}" width="{80 * p:.1f}" height="15" fill="{look(name).color}"/>',
                  f'<path d="M{bar + 80 * plain:.1f} {y - 15}v21" stroke="black" stroke-width="2"/>',
                  svg_text(bar + 86, y, f"{p:.3f}", 42, size=12)]  # fmt: skip
    y += 6
    for name, value in found.items():
        if np.ndim(value) == 0:
            y += 17
            number = "no label" if np.isnan(value) else f"{value:.3f}"
            parts.append(svg_text(x, y, f"{name} {number}", COLUMN - 12, size=12))
    if "push" not in found:
        return parts
    y, zero = 50 + BENCH_ROW * len(class_names) + 17 * rows + 20, bar + 40
    parts += [svg_text(x, y, "push on each logit", COLUMN - 12, size=12, bold=True),
              f'<path d="M{zero} {y + 6}v{BENCH_ROW * len(class_names)}" stroke="black"/>']  # fmt: skip
    for name, push in zip(class_names, found["push"], strict=True):
        y += BENCH_ROW
        length = 40 * float(np.clip(push / STRONGEST, -1, 1))
        parts += [svg_text(x, y, look(name).label, label, size=12),
                  f'<rect x="{min(zero, zero + length):.1f}" y="{y - 11}" width="{abs(length):.1f}" height="13" '
                  f'fill="#D55E00"/>', svg_text(bar + 86, y, f"{push:+.3f}", 42, size=12)]  # fmt: skip
    return parts
