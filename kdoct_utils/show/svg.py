"""Drawings quick enough to follow a slider: strings of SVG that a screen reader reads out.

About a tenth of a millisecond each, against some 75 for a matplotlib figure.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from kdoct_utils.show.style import ARM_LOOKS, CLASS_LOOKS, LINE_COLORS


def bars_svg(
    labels: Sequence[str], values: Sequence[float], *, title: str, maximum: float | None = None,
    reference: Sequence[float] | None = None, reference_label: str = "", decimals: int = 3, width: int = 560,
) -> str:
    """Horizontal bars as an SVG string that a screen reader reads out.

    labels: class or arm names get their fixed color. values: >= 0. maximum: the value of a full bar
    (default: the largest value drawn). reference: a second row of values, drawn as black ticks.
    Raises ValueError for lengths that differ and for values that are negative or not finite.
    """
    values = [float(value) for value in values]
    marks = [float(value) for value in reference] if reference is not None else []
    if len(labels) != len(values) or (marks and len(marks) != len(values)):
        raise ValueError(f"{len(labels)} labels, {len(values)} values and {len(marks)} reference values")
    if any(not math.isfinite(value) or value < 0 for value in values + marks):
        raise ValueError(f"bars need finite values >= 0, not {values + marks}")
    full = maximum or max(values + marks) or 1.0
    looks = {**CLASS_LOOKS, **ARM_LOOKS}
    left, right, row = 130, 70, 34
    room = width - left - right
    parts = []
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        shown = looks[label].label if label in looks else str(label)
        color = looks[label].color if label in looks else LINE_COLORS[i % len(LINE_COLORS)]
        length, y = room * min(value / full, 1.0), 40 + row * i
        parts.append(
            f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{html.escape(shown)}</text>'
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="22" fill="{color}"/>'
            f'<text x="{left + room + 8}" y="{y + 16}">{value:.{decimals}f}</text>'
        )
        if marks:
            x = left + room * min(marks[i] / full, 1.0)
            parts.append(f'<path d="M{x:.1f} {y - 4}v30" stroke="black" stroke-width="2"/>')
    note = f"ticks: {reference_label}" if marks and reference_label else ""
    if note:
        parts.append(f'<text x="{left}" y="{54 + row * len(values)}" font-size="12">{html.escape(note)}</text>')
    spoken = "; ".join(f"{label} {value:.{decimals}f}" for label, value in zip(labels, values, strict=True))
    return framed_svg(title, spoken, width, 50 + row * len(values) + 14 * bool(note), parts)


def curves_svg(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, title: str, xlabel: str, ylabel: str,
    ylim: tuple[float, float], mark: float | None = None, width: int = 560, height: int = 300,
) -> str:
    """Named lines over x as an SVG string. ylim is fixed, so that the eye sees the line move, not the axis.

    mark: an x to draw a dotted upright at. Raises ValueError for lengths that differ and values that are not finite.
    """
    x = np.asarray(x, dtype=float)
    left, right, top, bottom = 56, 130, 36, 44
    room, drop = width - left - right, height - top - bottom
    across = left + room * (x - x[0]) / (x[-1] - x[0])
    parts = [f'<path d="M{left} {top}v{drop}h{room}" fill="none" stroke="black"/>']
    for low, share in ((ylim[0], 1.0), (ylim[1], 0.0)):
        parts.append(f'<text x="{left - 6}" y="{top + drop * share + 4:.0f}" text-anchor="end">{low:g}</text>')
    for value, place in ((x[0], left), (x[-1], left + room)):
        parts.append(f'<text x="{place}" y="{height - 26}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{left + room / 2}" y="{height - 8}" text-anchor="middle">{html.escape(xlabel)}</text>')
    parts.append(f'<text transform="translate(16 {top + drop / 2}) rotate(-90)" text-anchor="middle">'
                 f"{html.escape(ylabel)}</text>")  # fmt: skip
    for i, (name, values) in enumerate(lines.items()):
        y = np.asarray(values, dtype=float)
        if y.shape != x.shape or not np.isfinite(y).all():
            raise ValueError(f"line {name!r} needs {len(x)} finite values")
        down = top + drop * (1 - (np.clip(y, *ylim) - ylim[0]) / (ylim[1] - ylim[0]))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
        color, dash = LINE_COLORS[i % 6], ("", "8 4", "8 3 2 3", "2 3", "12 3", "4 2")[i % 6]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5" '
                     f'stroke-dasharray="{dash}"/>')  # fmt: skip
        key = top + 18 * i + 8
        parts.append(f'<path d="M{width - right + 8} {key}h26" stroke="{color}" stroke-width="2.5" '
                     f'stroke-dasharray="{dash}"/>')  # fmt: skip
        parts.append(f'<text x="{width - right + 38}" y="{key + 4}" font-size="12">{html.escape(name)}</text>')
    if mark is not None:
        place = left + room * (mark - x[0]) / (x[-1] - x[0])
        parts.append(f'<path d="M{place:.1f} {top}v{drop}" stroke="black" stroke-dasharray="2 3"/>')
    spoken = "; ".join(f"{name}: {values[0]:.3g} to {values[-1]:.3g}" for name, values in lines.items())
    return framed_svg(title, spoken, width, height, parts)


def scan_html(image: np.ndarray, alt: str, width: int = 150) -> str:
    """A B-scan as an HTML image, to stand beside a drawing. image: (H, W) uint8; width: pixels on the page.

    Raises ValueError for an image of another kind and for empty alternative text.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or not alt.strip():
        found = f"{image.dtype} {image.shape} with {alt!r}"
        raise ValueError(f"expected a uint8 image (height, width) with alternative text, not {found}")
    # Pixels are shown as they are: a browser would smooth away what the network sees.
    return (
        f'<img alt="{html.escape(alt)}" width="{width}" style="image-rendering: pixelated; vertical-align: top" '
        f'src="{png_uri(image)}">'
    )


def png_uri(pixels: np.ndarray) -> str:
    """The pixels as a PNG in a data URI: (H, W) gray or (H, W, 3) colors, uint8."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def framed_svg(title: str, description: str, width: int, height: int, parts: Sequence[str]) -> str:
    """Parts of a drawing under a title, with the words that a screen reader says."""
    # The white ground keeps the black text readable in a dark theme.
    name, spoken = html.escape(title), html.escape(description)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}: {spoken}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">'
        f'<title>{name}</title><desc>{spoken}</desc><rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="20" font-weight="bold">{name}</text>{"".join(parts)}</svg>'
    )
