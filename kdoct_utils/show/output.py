"""What a notebook gives its reader: figures with words, computed prose, tables.

A figure is shown as a small PNG with alternative text and a one-line takeaway under it.
Where the alternative text goes depends on who draws the notebook, so `show` sends it three ways:
as ``alt`` metadata of ``image/png`` (nbconvert's classic template; `with_alt_text` makes its default one obey too),
as the ``text/plain`` twin (VS Code), and as a folded "Figure in words" under the figure, for those that give
an output image no ``alt`` at all: JupyterLab 4.6 and nbconvert's default template.
"""

from __future__ import annotations

import html
import io
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from kdoct_utils.show.live import without_widgets

if TYPE_CHECKING:
    from nbformat import NotebookNode  # takes a second to import, and a notebook seldom needs it

SCREEN_DPI = 90  # at which a figure is shown
PNG_DPI = 2 * SCREEN_DPI  # at which it is kept: sharp on a screen of high resolution, and when enlarged
PNG_LARGEST_KB = 100


def figure_png(
    figure: Figure, largest_kb: float = PNG_LARGEST_KB, description: str = "", dpi: int = PNG_DPI
) -> bytes:
    """The figure as PNG with a palette, fewer colors and then fewer dots an inch until it fits.

    largest_kb is an aim: grainy scans that miss it even with 16 colors are returned all the same.
    description is also written into the PNG itself, for readers of saved pictures.
    """
    note = PngImagePlugin.PngInfo()
    if description:
        note.add_itxt("Description", description)
    tries = []
    for dots, colors in ((dpi, 128), (dpi, 48), (dpi, 16), (0.7 * dpi, 16)):
        drawn, packed = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=dots, facecolor="white")
        picture = Image.open(drawn).convert("RGB")
        # MAXCOVERAGE keeps small spots of a strong color, which MEDIANCUT averages away.
        picture = picture.quantize(colors, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        picture.save(packed, format="png", optimize=True, pnginfo=note, dpi=(dots, dots))
        tries.append(packed.getvalue())
        if len(tries[-1]) <= 1000 * largest_kb:
            break
    return min(tries, key=len)


def show(figure: Figure, alt: str, takeaway: str, *, largest_kb: float = PNG_LARGEST_KB) -> None:
    """Display a figure with its alternative text and takeaway, then close it: show(*figure_function(data)).

    alt: what the figure shows, in words, for a reader who cannot see it (two sentences with the main numbers).
    takeaway: the one line that everybody should remember, best computed from the numbers drawn.
    largest_kb: see figure_png; less of it where a notebook shows many scans.
    Raises ValueError when either is empty.
    """
    if not alt.strip() or not takeaway.strip():
        raise ValueError("a figure needs alt= (what it shows) and takeaway= (what to remember), both in words")
    alt, takeaway = " ".join(alt.split()), " ".join(takeaway.split())
    png = figure_png(figure, largest_kb, description=alt)
    plt.close(figure)
    # raw bytes: IPython encodes them; text/plain is what VS Code speaks for a picture
    about = {"alt": alt, "width": shown_width(png)}
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": about})
    words = f"<details><summary>Figure in words</summary>{html.escape(alt)}</details>"
    say(f"**Takeaway:** {takeaway}\n\n{words}", plain=f"Takeaway: {takeaway}")


def shown_width(png: bytes) -> int:
    """Pixels of a screen that a picture of `figure_png` takes: fewer than it has."""
    picture = Image.open(io.BytesIO(png))
    return round(picture.width * SCREEN_DPI / picture.info["dpi"][0])


def say(text: str, plain: str | None = None) -> None:
    """Display computed prose as Markdown; terminals and tests get `plain` (default: the same text)."""
    display({"text/markdown": text, "text/plain": plain or text}, raw=True)


def show_page(path: Path, title: str, height: int = 860) -> None:
    """Display an HTML file of a run's ``demo`` folder in a frame. height: pixels.

    Jupyter finds it by its path from the notebook, which must lie under the folder that it serves.
    """
    place = html.escape(Path(os.path.relpath(path)).as_posix())
    frame = f'<iframe class="demo" src="{place}" title="{html.escape(title)}" width="100%" height="{height}"></iframe>'
    display({"text/html": frame, "text/plain": f"{title}: {place}"}, raw=True)


def with_alt_text(notebook: NotebookNode) -> NotebookNode:
    """A copy for nbconvert's HTMLExporter, whose default template writes "No description" over our alternative text.

    Every ``image/png`` output with ``alt`` metadata becomes an HTML image that carries it. Progress bars are left out,
    so that the page fetches no script to draw them. The frame of `show_page` is where run folder and site have it.
    """
    from nbformat import from_dict

    notebook = deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in (cell for cell in notebook.cells if "outputs" in cell):
        cell.outputs = [from_dict(output) for output in without_widgets(cell.outputs)]
        for output in cell.outputs:
            about = output.get("metadata", {}).get("image/png", {})
            if "alt" in about:
                png, size = "".join(output.data.pop("image/png").split()), f'width="{about.get("width", "")}"'
                alt = html.escape(about["alt"])
                output.data["text/html"] = f'<img alt="{alt}" {size} src="data:image/png;base64,{png}">'
            if '<iframe class="demo"' in (framed := "".join(output.get("data", {}).get("text/html", ""))):
                output.data["text/html"] = re.sub(r'(?<=class="demo" src=")[^"]*', "../demo/index.html", framed)
    return notebook


def show_table(frame: pd.DataFrame, caption: str, *, decimals: int = 3, index: bool = True) -> None:
    """Display a table with caption and header cells, and the same as plain text.

    decimals applies to floating-point columns. index=False leaves the row names out.
    """
    plain = f"{caption}\n{frame.map(lambda value: _cell(value, decimals)).to_string()}"
    display({"text/html": table_html(frame, caption, decimals, index), "text/plain": plain}, raw=True)


def table_html(frame: pd.DataFrame, caption: str, decimals: int = 3, index: bool = True) -> str:
    """The table as HTML in which a screen reader can tell header cells (scope) from values: pandas writes no scope."""
    sides = ["right" if pd.api.types.is_numeric_dtype(kind) else "left" for kind in frame.dtypes]
    corner = frame.index.name or ""
    head = f'<th scope="col" style="text-align:left">{html.escape(str(corner))}</th>' if corner else "<td></td>"
    head = head * index + "".join(
        f'<th scope="col" style="text-align:{side}">{html.escape(str(name))}</th>'
        for name, side in zip(frame.columns, sides, strict=True)
    )
    rows = []
    for key, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        cells = f'<th scope="row" style="text-align:left">{html.escape(str(key))}</th>' * index
        cells += "".join(f'<td style="text-align:{side}">{html.escape(_cell(value, decimals))}</td>'
                         for value, side in zip(values, sides, strict=True))  # fmt: skip
        rows.append(f"<tr>{cells}</tr>")
    title = f'<caption style="text-align:left;font-weight:bold">{html.escape(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(value: object, decimals: int) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    return f"{value:.{decimals}f}" if isinstance(value, (float, np.floating)) else str(value)
