"""One style for every figure of the course: a seaborn theme, and a fixed look for each class and arm."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import matplotlib
import seaborn
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdoct_utils.show.output import SCREEN_DPI


@dataclass(frozen=True)
class Look:
    """How one class or arm is drawn everywhere: the color never stands alone."""

    label: str
    color: str
    marker: str
    hatch: str


# Color differences hold for protan, deutan and tritan sight and against white; tests/test_figures.py measures them.
CLASS_LOOKS = {
    "normal": Look("normal", "#0072B2", "o", ""),
    "drusen": Look("drusen", "#D07C00", "s", "///"),
    "cnv": Look("CNV", "#7A1F5C", "^", "..."),
    "dme": Look("DME", "#1B9E77", "D", "xxx"),
}
# The keys are those of metrics.json.
ARM_LOOKS = {
    "teacher": Look("teacher", "#222222", "*", ""),
    "student_alone": Look("student alone", "#7F7F7F", "X", "///"),
    "student_kd": Look("student, KD", "#D55E00", "P", "..."),
    "student_cached": Look("student, cached KD", "#0072B2", "v", "xxx"),
}
LOOKS = CLASS_LOOKS | ARM_LOOKS
READING_LOOKS = {  # what an interval allows to say: `judge.verdicts`
    "gain": Look("gain shown", "#0072B2", "^", ""),
    "loss": Look("loss shown", "#D55E00", "v", ""),
    "open": Look("open", "#6B6B6B", "o", ""),
}
SEQUENTIAL = "cividis"  # lightness rises steadily, so it survives a grey printer
LINE_COLORS = ("#0072B2", "#D55E00", "#1B9E77", "#7A1F5C", "#222222", "#7F7F7F")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
RC = {
    "figure.figsize": (6.8, 3.2),
    "figure.dpi": SCREEN_DPI,
    "figure.constrained_layout.use": True,
    "font.sans-serif": matplotlib.rcParamsDefault["font.sans-serif"],  # the first comes with matplotlib: one everywhere
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "axes.prop_cycle": cycler(color=LINE_COLORS) + cycler(linestyle=LINE_STYLES),
}


def look(name: str) -> Look:
    """The Look of a class ("drusen", ...) or an arm ("student_kd", ...). ValueError lists the valid names."""
    if name not in LOOKS:
        raise ValueError(f"no fixed look for {name!r}; valid names: {', '.join(LOOKS)}")
    return LOOKS[name]


def use_style() -> None:
    """Set the course's theme for matplotlib and seaborn: call once, after the imports."""
    seaborn.set_theme(context="paper", style="ticks", font_scale=1.04, rc=RC)  # 1.04: letters of 10 points


def message(axis: Axes, text: str) -> None:
    """Set an axis' title, broken into lines that fit its width (a title is a message, so it is long)."""
    inches = axis.get_position().width * axis.figure.get_figwidth()
    axis.set_title("\n".join(textwrap.wrap(text, max(18, round(inches * 10.8)))))


def headline(figure: Figure, text: str) -> None:
    """Set the title over several panels, broken into lines that fit the figure's width; none for empty text."""
    if text:
        lines = textwrap.wrap(text, max(18, round(figure.get_figwidth() * 10.3)))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold")
