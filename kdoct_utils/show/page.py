"""What reports are made of: tables as text, figures in data URIs, and one self-contained HTML page (see templates/)."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.runs import atomic_path
from kdoct_utils.show.output import figure_png, shown_width

Tables = dict[str, pd.DataFrame]  # by title; every cell is text, the first column names the rows


def read_interval(low: float | None, high: float | None) -> str:
    """What an interval of a difference says about its sign."""
    if low is None or high is None:
        return "not measured"
    return "above zero" if low > 0 else "below zero" if high < 0 else "open: the interval includes zero"


def cell_text(value: object, digits: int = 3) -> str:
    """A number with its digits, [low, high] of two, text as it is; a dash where nothing was measured."""
    if isinstance(value, (list, tuple)) and None not in value:
        return f"[{', '.join(cell_text(part, digits) for part in value)}]"
    if value is None or isinstance(value, (list, tuple)) or value != value:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def text_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows as text. columns: key in a row -> its title; the first names the row."""
    table = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return table.rename(columns=columns).map(cell_text)


def terminal_text(tables: Tables) -> str:
    """Each table under its title, not cut to the width of the terminal as rich would."""
    return "\n\n".join(f"{title}\n{table.to_string(index=False)}" for title, table in tables.items())


def embedded(figure: Figure, alt: str, takeaway: str) -> dict[str, object]:
    """A figure for a template: src (PNG in a data URI), width in pixels, alt, takeaway."""
    png = figure_png(figure, description=alt)
    plt.close(figure)
    src = "data:image/png;base64," + base64.b64encode(png).decode()
    return {"src": src, "width": shown_width(png), "alt": alt, "takeaway": takeaway}


def write_page(path: Path, template: str, **content: object) -> Path:
    """Fill a template, escaping all text, and write the page."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("kdoct_utils.show")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    with atomic_path(path) as temporary:
        temporary.write_text(environment.get_template(template).render(content), encoding="utf-8")
    return path
