"""Sliders over a drawing, for notebooks: moved by the browser alone, with no kernel behind them.

`sliders` calls the drawing for every combination of its controls' values, when the cell runs. What it shows is HTML
that holds all of these, compressed, with a short script (``slider.js``) that swaps them: the same in JupyterLab,
Notebook 7, VS Code, Colab and in an exported page. Every control has a label, works from the keyboard and goes back
with Reset. A drawing is a matplotlib Figure or a string of SVG or HTML; a string is smaller and quicker by far
(`svg.bars_svg` and `svg.curves_svg`: well under a millisecond, a Figure some 75).

`check_registered`, in a notebook's last cell, calls each of its drawings again at its controls' ends.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kdoct_utils.show.output import SCREEN_DPI, figure_png

Draw = Callable[..., "Figure | str"]
MOST_FRAMES = 600  # drawings of one slider
LARGEST_KB = 120  # compressed, all drawings of one slider together: notebooks must stay small
SCRIPT = Path(__file__).with_name("slider.js")
DATA_URI = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]+")
ROW = 36  # pixels of one control


@dataclass(frozen=True)
class Slider:
    """A number to move. low <= start <= high; integers throughout give an integer slider."""

    low: float
    high: float
    start: float
    step: float = 0.1
    label: str = ""  # shown before the slider, units included; default: the argument's name

    def __post_init__(self) -> None:
        if not (self.low <= self.start <= self.high and self.low < self.high and self.step > 0):
            raise ValueError(f"slider needs low <= start <= high, low < high and step > 0, not {self}")

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def values(self) -> tuple[float, ...]:
        """Every value it can take: exact decimals from low to high by step, and start itself."""
        low, high, start, step = (Decimal(str(value)) for value in (self.low, self.high, self.start, self.step))
        places = {low + k * step for k in range(math.floor((high - low) / step) + 1)} | {start, high}
        whole = all(isinstance(value, int) for value in (self.low, self.high, self.start, self.step))
        return tuple((int if whole else float)(place) for place in sorted(places))

    @property
    def shown(self) -> tuple[str, ...]:
        """The values as words, with as many decimals as they need."""
        decimals = max(-Decimal(str(value)).normalize().as_tuple().exponent for value in self.values)
        return tuple(f"{value:.{max(decimals, 0)}f}" for value in self.values)


@dataclass(frozen=True)
class Choice:
    """One of several values, such as the name of a class or scan. The first is the start."""

    values: tuple
    label: str = ""

    @property
    def start(self) -> Any:
        return self.values[0]

    @property
    def ends(self) -> tuple:
        return self.values  # every option: there are few, and each may fail by itself

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(map(str, self.values))


class Panel:
    """Controls over drawings. As the last value of a cell it shows itself.

    frames: the drawing, as HTML, for every combination of values (in the order of the controls).
    """

    def __init__(self, name: str, draw: Draw, controls: Mapping[str, Slider | Choice], height: int) -> None:
        self.name, self.draw, self.controls, self.height = name, draw, controls, height
        count = math.prod(len(control.values) for control in controls.values())
        if count > MOST_FRAMES:
            raise ValueError(f"slider {name!r} has {count} combinations of values; at most {MOST_FRAMES} are "
                             "drawn beforehand: give it coarser steps")  # fmt: skip
        combinations = itertools.product(*(control.values for control in controls.values()))
        self.frames = {values: self.drawn(dict(zip(controls, values, strict=True))) for values in combinations}
        self._packed = self._pack()
        if len(self._packed) > 1000 * LARGEST_KB:
            raise ValueError(f"the drawings of slider {name!r} take {len(self._packed) / 1000:.0f} kB compressed; "
                             f"at most {LARGEST_KB} kB are kept in a notebook: draw fewer or simpler ones")  # fmt: skip

    def drawn(self, values: Mapping[str, Any]) -> str:
        """The drawing for these values, as HTML. RuntimeError, from the drawing's own, names the values."""
        try:
            drawing = self.draw(**values)
            if isinstance(drawing, str):
                return drawing
            if not isinstance(drawing, Figure):
                found = type(drawing).__name__
                raise TypeError(f"a drawing must be a matplotlib Figure or a string of SVG or HTML, not {found}")
            png = base64.b64encode(figure_png(drawing, 36, dpi=SCREEN_DPI)).decode()
            plt.close(drawing)
        except Exception as error:
            raise RuntimeError(f"slider drawing {self.name!r} fails at {dict(values)}: {error}") from error
        words = ", ".join(f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
                          for key, value in values.items())  # fmt: skip
        return f'<img alt="{html.escape(f"{self.name}, {words}")}" src="data:image/png;base64,{png}">'

    def check(self) -> None:
        """Draw anew: each control at each end with the others at their start, then all low and all high."""
        start = {key: control.start for key, control in self.controls.items()}
        for key, control in self.controls.items():
            for end in control.ends:
                self.drawn(start | {key: end})
        for i in (0, -1):
            self.drawn({key: control.ends[i] for key, control in self.controls.items()})

    def _pack(self) -> bytes:
        """What slider.js reads: drawings and the pictures inside them, each stored once."""
        drawings: dict[str, int] = {}
        uris: dict[str, int] = {}
        frames = []
        for drawing in self.frames.values():
            # \x1a stands in no HTML, so that it can mark the place of a picture
            bare = DATA_URI.sub(lambda found: f"\x1a{uris.setdefault(found[0], len(uris))};", drawing)
            frames.append(drawings.setdefault(bare, len(drawings)))
        controls = [
            {"label": control.label or key, "kind": type(control).__name__.lower(), "values": control.shown,
             "start": control.values.index(control.start)}
            for key, control in self.controls.items()
        ]  # fmt: skip
        data = {"name": self.name, "height": self.height, "controls": controls, "drawings": list(drawings),
                "uris": list(uris), "frames": frames}  # fmt: skip
        return zlib.compress(json.dumps(data, ensure_ascii=False).encode(), 9)

    @property
    def html(self) -> str:
        """The element, its script, and what readers without scripts get in their place."""
        room = self.height + ROW * (len(self.controls) + 1)  # kept free, so that the page does not jump
        return (
            f'<kdoct-slider style="display: block; min-height: {room}px" '
            f'data-frames="{base64.b64encode(self._packed).decode()}"><p><em>{html.escape(self.note)}</em></p>'
            f"</kdoct-slider>\n<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>"
        )

    @property
    def note(self) -> str:
        return f"Slider “{self.name}”: run this cell to move it; the figure near it shows the same."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/html": self.html, "text/plain": self.note}


_panels: dict[str, Panel] = {}  # of this process, the latest of each name


def sliders(draw: Draw, *, name: str = "", height: int = 320, **controls: Slider | Choice) -> Panel:
    """Controls over ``draw(**values)``, which is called here for every combination of their values.

    draw: returns a matplotlib Figure or a string of SVG or HTML, the same for the same values.
    name: what the sliders are called by readers and tests; default: the function's name.
    height: pixels kept for the drawing, whatever it draws.
    controls: a Slider or Choice for each argument of draw.
    Raises ValueError for more than 600 combinations, and for drawings that take more than 120 kB
    compressed; RuntimeError, from the drawing's own error, naming the values that broke it.
    """
    name = name or draw.__name__.replace("_", " ").strip()
    _panels[name] = Panel(name, draw, controls, height)
    return _panels[name]


def check_registered() -> list[str]:
    """Call every drawing that `sliders` was given in this process at its controls' ends. Returns their names.

    Raises RuntimeError, from the drawing's own error, naming the drawing and the values that broke it.
    """
    for panel in _panels.values():
        panel.check()
    return list(_panels)
