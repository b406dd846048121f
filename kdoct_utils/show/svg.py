"""Drawings quick enough to follow a slider: strings of SVG that a screen reader reads out.

About a tenth of a millisecond each, against some 75 for a matplotlib figure. A browser takes whatever sans-serif font
its machine has, so text is given room for a wide one: `svg_text` squeezes a line that could be too long, and
`svg_prose` breaks it.
"""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from kdoct_utils.show.style import LINE_COLORS, LOOKS

LETTER = 0.57  # mean width of a letter in DejaVu Sans, of the font size; few fonts are wider
BOLD_LETTER = 0.65
DASHES = ("", "8 4", "8 3 2 3", "2 3", "12 3", "4 2")


def svg_text(
    x: float, y: float, text: str, room: float, *, size: int = 14, bold: bool = False, anchor: str = "",
    upright: bool = False,
) -> str:
    """One line of text that takes no more than `room` pixels in any font. anchor: SVG's text-anchor, if not start."""
    settings = f' font-size="{size}"' if size != 14 else ""
    settings += ' font-weight="bold"' * bold + (f' text-anchor="{anchor}"' if anchor else "")
    if len(text) * size * (BOLD_LETTER if bold else LETTER) > room:
        settings += f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"'
    spot = f'transform="translate({x:g} {y:g}) rotate(-90)"' if upright else f'x="{x:g}" y="{y:g}"'
    return f"<text {spot}{settings}>{html.escape(text)}</text>"


def svg_prose(x: float, y: float, text: str, room: float, *, size: int = 12) -> list[str]:
    """Text broken into lines of at most `room` pixels, 1.35 font sizes apart; y is that of the first."""
    lines = textwrap.wrap(text, int(room / (size * LETTER)))
    return [svg_text(x, round(y + 1.35 * size * i), line, room, size=size) for i, line in enumerate(lines)]


def framed_svg(title: str, description: str, width: int, height: int, parts: Sequence[str]) -> str:
    """Parts of a drawing under a title, with the words that a screen reader says."""
    # The white ground keeps the black text readable in a dark theme.
    name, spoken = html.escape(title), html.escape(description)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}: {spoken}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">'
        f'<title>{name}</title><desc>{spoken}</desc><rect width="100%" height="100%" fill="white"/>'
        f"{svg_text(8, 20, title, width - 16, bold=True)}{''.join(parts)}</svg>"
    )


def bars_svg(
    labels: Sequence[str], values: Sequence[float], *, title: str, maximum: float | None = None,
    reference: Sequence[float] | None = None, reference_label: str = "", decimals: int = 3, width: int = 560,
) -> str:
    """Horizontal bars as an SVG string that a screen reader reads out.

    labels: class or arm names get their fixed color. values: >= 0. maximum: the value of a full bar
    (default: the largest value drawn). reference: a second row of values, drawn as black ticks.
    Raises ValueError for values that are negative or not finite.
    """
    values = [float(value) for value in values]
    marks = [float(value) for value in reference] if reference is not None else []
    if any(not math.isfinite(value) or value < 0 for value in values + marks):
        raise ValueError(f"bars need finite values >= 0, not {values + marks}")
    full = maximum or max(values + marks) or 1.0
    left, right, row = 130, 70, 34
    room = width - left - right
    parts = []
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        shown = LOOKS[label].label if label in LOOKS else str(label)
        color = LOOKS[label].color if label in LOOKS else LINE_COLORS[i % len(LINE_COLORS)]
        length, y = room * min(value / full, 1.0), 40 + row * i
        parts += [
            svg_text(left - 8, y + 16, shown, left - 16, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="22" fill="{color}"/>',
            svg_text(left + room + 8, y + 16, f"{value:.{decimals}f}", right - 12),
        ]
        if marks:
            x = left + room * min(marks[i] / full, 1.0)
            parts.append(f'<path d="M{x:.1f} {y - 4}v30" stroke="black" stroke-width="2"/>')
    note = f"ticks: {reference_label}" if marks and reference_label else ""
    if note:
        parts.append(svg_text(left, 54 + row * len(values), note, room + right, size=12))
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
    parts += [svg_text(left - 6, top + drop + 4, f"{ylim[0]:g}", 46, anchor="end"),
              svg_text(left - 6, top + 4, f"{ylim[1]:g}", 46, anchor="end"),
              svg_text(left, height - 26, f"{x[0]:g}", 80, anchor="middle"),
              svg_text(left + room, height - 26, f"{x[-1]:g}", 80, anchor="middle"),
              svg_text(left + room / 2, height - 8, xlabel, room, anchor="middle"),
              svg_text(16, top + drop / 2, ylabel, drop + 20, anchor="middle", upright=True)]  # fmt: skip
    for i, (name, values) in enumerate(lines.items()):
        y = np.asarray(values, dtype=float)
        if y.shape != x.shape or not np.isfinite(y).all():
            raise ValueError(f"line {name!r} needs {len(x)} finite values")
        down = top + drop * (1 - (np.clip(y, *ylim) - ylim[0]) / (ylim[1] - ylim[0]))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
        stroke = f'stroke="{LINE_COLORS[i % 6]}" stroke-width="2.5" stroke-dasharray="{DASHES[i % 6]}"'
        key = top + 18 * i + 8
        parts += [f'<polyline points="{points}" fill="none" {stroke}/>',
                  f'<path d="M{width - right + 8} {key}h26" {stroke}/>',
                  svg_text(width - right + 38, key + 4, name, right - 42, size=12)]  # fmt: skip
    if mark is not None:
        place = left + room * (mark - x[0]) / (x[-1] - x[0])
        parts.append(f'<path d="M{place:.1f} {top}v{drop}" stroke="black" stroke-dasharray="2 3"/>')
    spoken = "; ".join(f"{name}: {values[0]:.3g} to {values[-1]:.3g}" for name, values in lines.items())
    return framed_svg(title, spoken, width, height, parts)


def scan_html(image: np.ndarray, alt: str, width: int = 150) -> str:
    """A B-scan as an HTML image, to stand beside a drawing. image: (H, W) uint8; width: pixels on the page."""
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
