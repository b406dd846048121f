"""Two drawings for the sliders of notebook 01: who is tested in a split, and what a lesion does to the layers.

Strings of SVG, each made in a millisecond or two. Every meaning is said twice: by color, and by letter, hatch or words.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
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
from kdoct_utils.show.svg import framed_svg

__all__ = ["plan_of", "plan_svg", "scaled_lesions", "seen_of_tested", "split_svg"]

MARKS = {"train": "", "validation": "V", "test": "T"}
SQUARE, GAP, LEFT = 24, 14, 8  # pixels
COLUMN_UM = 50
PLAN_X = np.arange(-1400, 1401, COLUMN_UM, dtype=np.float32)  # um along the scan
PLAN_TOP = 920  # um above Bruch's membrane at the upper edge
STEP, UM = 8, 0.26  # pixels for a column; for 1 um in depth
NAMED = ("RNFL", "IPL", "INL", "OPL", "ONL", "EZ", "outer segments", "RPE", "choroid")
SUBRETINAL, SUB_RPE = LAYER_NAMES.index("subretinal space"), LAYER_NAMES.index("sub-RPE space")


def split_svg(table: pd.DataFrame, roles: Sequence[str], *, title: str) -> str:
    """One square a scan, one column a patient, in the colors of the classes: who is tested, and who trained on as well.

    table: group and label of each scan; all groups have as many scans. roles: of each scan, in ROLES.
    Under a column stands an x where its patient is tested and trained on. Raises ValueError for lengths that differ.
    """
    if len(table) != len(roles):
        raise ValueError(f"{len(table)} scans and {len(roles)} roles")
    groups = table["group"].unique()
    deep = len(table) // len(groups)
    parts, spoken, x = [], [], LEFT
    for name, members in table.assign(role=list(roles)).groupby("label", sort=False):
        mark, start = look(name), x
        for _, rows in members.groupby("group", sort=False):
            for k, role in enumerate(rows["role"]):
                parts.append(_square(x, 58 + SQUARE * k, mark.color, role))
            if {"train", "test"} <= set(rows["role"]):
                parts.append(f'<text x="{x + 11}" y="{58 + SQUARE * deep + 16}" text-anchor="middle" '
                             'font-weight="bold">x</text>')  # fmt: skip
            x += SQUARE + 4
        parts.append(f'<rect x="{start}" y="50" width="{x - start - 6}" height="4" fill="{mark.color}"/>'
                     f'<text x="{start}" y="44">{html.escape(mark.label)}</text>')  # fmt: skip
        x += GAP
    seen, tested = seen_of_tested(table, roles)
    words = f"{seen} of {tested} test patients were seen in training"
    foot = 58 + SQUARE * deep + 42
    parts.append(f'<text x="{LEFT}" y="{foot}" font-weight="bold">{words}.</text>')
    parts.append(f'<text x="{LEFT}" y="{foot + 20}" font-size="12">A column is a patient, a square a scan. T: tested. '
                 "V: for validation. Pale: trained on. x: tested and trained on.</text>")  # fmt: skip
    for role in ROLES:
        spoken.append(f"{list(roles).count(role)} scans {role}")
    return framed_svg(title, f"{'; '.join(spoken)}. {words}", max(x, 600), foot + 32, parts)


def seen_of_tested(table: pd.DataFrame, roles: Sequence[str]) -> tuple[int, int]:
    """How many of the groups with a scan in test have another in train, and how many groups have one in test."""
    have = {role: set(table.loc[np.asarray(roles, object) == role, "group"]) for role in ROLES}
    return len(have["test"] & have["train"]), len(have["test"])


def _square(x: int, y: int, color: str, role: str) -> str:
    side = SQUARE - 2
    frame = {"train": f'stroke="{color}"', "validation": 'stroke="#000" stroke-dasharray="3 2"',
             "test": 'stroke="#000" stroke-width="2"'}[role]  # fmt: skip
    pale = 1 if role == "test" else 0.25
    square = f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{color}" fill-opacity="{pale}" {frame}/>'
    if not MARKS[role]:
        return square
    # A full color carries no letter that can be read on each of them, so the letter stands on a white plate.
    plate = f'<rect x="{x + 5}" y="{y + 4}" width="12" height="14" fill="#fff"/>' if role == "test" else ""
    return f'{square}{plate}<text x="{x + 11}" y="{y + 16}" text-anchor="middle">{MARKS[role]}</text>'


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
    heights = layer_heights(patient, PLAN_X, y, profile)[:, 0]
    lift = profile["drusen"] + profile["detachment"]
    return {
        "heights": heights,
        "lift": float(lift.max()),
        "subretinal": float((profile["fluid"] + profile["material"]).max()),
        "swelling": float(profile["thickening"].max()),
        "label": visible_classes(patient, profile)[0],
    }


def plan_svg(patient: Patient, away_um: float, *, title: str) -> str:
    """One slice as a plan: layers in their display levels and named, lesions hatched, Bruch's membrane drawn level."""
    plan = plan_of(patient, away_um)
    heights = plan["heights"]
    y = 34 + UM * (PLAN_TOP - heights)  # (15, columns), pixels
    bottom = round(34 + UM * (PLAN_TOP + 160))
    width = STEP * (len(PLAN_X) - 1)
    parts = [f"<defs>{_hatch('above', 'M0 0L6 6', '#4CC9F0')}{_hatch('below', 'M0 6L6 0', '#FFD166')}</defs>",
             f'<rect y="34" width="{width}" height="{bottom - 34}" fill="#111"/>']  # fmt: skip
    for k in range(len(LAYER_NAMES) - 2):  # from the vitreous down: each boundary, and all below it in the next layer
        level = round(max(float(LAYER_LEVELS[k + 1]), 30))
        space = {SUBRETINAL: "above", SUB_RPE: "below"}.get(k + 1)
        if space and np.ptp(y[k] - y[k + 1]) < 0.5:
            continue
        outline = _path(y[k]) + f"V{bottom}H0z"
        parts.append(f'<path d="{outline}" fill="rgb({level},{level},{level})"/>')
        if space:
            parts.append(f'<path d="{outline}" fill="url(#{space})"/>')
    parts += _cysts(patient, away_um, y) + _names(y[:, -1], width)
    label = look(plan["label"]).label
    words = [
        f"Label {label}: the RPE is lifted by {plan['lift']:.0f} µm at most (hatched ///),",
        f"the retina by {plan['subretinal']:.0f} µm off the RPE (\\\\\\), and swollen by {plan['swelling']:.0f} µm.",
    ]
    parts += [f'<text x="8" y="{bottom + 20 + 18 * i}" font-size="13">{line}</text>' for i, line in enumerate(words)]
    return framed_svg(title, " ".join(words), width + 130, bottom + 48, parts)


def _hatch(name: str, line: str, color: str) -> str:
    return (f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse"><path d="{line}" '
            f'stroke="{color}" stroke-width="2"/></pattern>')  # fmt: skip


def _path(y: np.ndarray) -> str:
    """A boundary in whole pixels, each step from the last: short, and alike from drawing to drawing."""
    places = np.round(y).astype(int)
    return f"M0 {places[0]}l" + " ".join(f"{STEP} {step}" for step in np.diff(places))


def _cysts(patient: Patient, away_um: float, y: np.ndarray) -> list[str]:
    drawn = []
    for x, slice_um, depth, along, across, high in patient.lesions.cysts[:, :6]:
        near = 1 - ((away_um - slice_um) / max(across, 1)) ** 2
        if near > 0 and abs(x) < PLAN_X[-1] and high > 0:
            column = int((x - PLAN_X[0]) / COLUMN_UM)
            middle = y[0, column] + depth * (y[6, column] - y[0, column])
            shrink = near**0.5
            half = shrink * along * STEP / COLUMN_UM
            drawn.append(f'<ellipse cx="{STEP * column}" cy="{middle:.0f}" rx="{half:.0f}" '
                         f'ry="{shrink * high * UM:.0f}" fill="#1c1c1c" stroke="#FFD166"/>')  # fmt: skip
    return drawn


def _names(edge: np.ndarray, width: int) -> list[str]:
    """Layer names beside the right edge, far enough apart to be read, each with a line to its layer."""
    parts, free = [], 0.0
    for name in NAMED:
        k = LAYER_NAMES.index(name)
        middle = (edge[k - 1] + edge[k]) / 2 if name != "choroid" else edge[k - 1] + 20
        place = max(middle, free)
        free = place + 14
        line = f'<path d="M{width} {middle:.0f}L{width + 14} {place:.0f}" stroke="#000"/>'
        parts.append(f'{line}<text x="{width + 18}" y="{place + 4:.0f}" font-size="12">{html.escape(name)}</text>')
    return parts
