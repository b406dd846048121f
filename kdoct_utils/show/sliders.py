"""Sliders over a drawing, for notebooks, with two faces: live where there is a kernel, drawn beforehand elsewhere.

    sliders(bars, temperature=Slider(0.25, 20.0, 4.0, 0.5, "temperature T", log=True), scan=Choice(("easy", "hard")),
            number=Slider(1, 99, 1, 1, "number", live_only=True), own=Upload("your own scan"), shuffled=("number",))

**Live** (``live.py``): in JupyterLab 4, Notebook 7, VS Code and Colab, once the cell has run. ipywidgets controls call
``bars`` for any value: an integer Slider takes every integer, another one tenths of its step. So a drawing computes
from its values (under 50 ms) and looks nothing up by a value of a Slider. An error stands in the drawing's place.
**Drawn**: in a published notebook, the site and an exported page. The cell called ``bars`` for every combination of the
values that the steps give; HTML holds them all, compressed, with a short script (``slider.js``) that swaps them. What
takes too many frames is for the live face alone: a Slider or Choice with ``live_only=True``, an Upload; here it
keeps its start.

Both keep their height, have a label at every control, work from the keyboard, and go back with Reset. A drawing is a
matplotlib Figure or a string of SVG or HTML; a string is smaller and quicker by far (`svg.bars_svg` and
`svg.curves_svg`: well under a millisecond, a Figure some 75).

`check_registered`, in a notebook's last cell, calls each of its drawings again at its controls' ends, and moves its
live face to values that no frame holds.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kdoct_utils.show.live import LiveFace, has_kernel
from kdoct_utils.show.output import SCREEN_DPI, figure_png

Draw = Callable[..., "Figure | str"]
MOST_FRAMES = 600  # drawings of one slider
LARGEST_KB = 120  # compressed, all drawings of one slider together: notebooks must stay small
SCRIPT = Path(__file__).with_name("slider.js")
DATA_URI = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]+")
ROW = 36  # pixels of one control


@dataclass(frozen=True)
class Slider:
    """A number to move. low <= start <= high; integers throughout give an integer slider.

    step: between the values drawn beforehand. The live face takes every integer, or tenths of the step.
    log: equal ways are equal factors, and step counts doublings: 0.5 draws two values an octave. 0 < low.
    live_only: moves in the live face alone.
    """

    low: float
    high: float
    start: float
    step: float = 0.1
    label: str = ""  # shown before the slider, units included; default: the argument's name
    log: bool = False
    live_only: bool = False

    def __post_init__(self) -> None:
        if not (self.low <= self.start <= self.high and self.low < self.high and self.step > 0):
            raise ValueError(f"slider needs low <= start <= high, low < high and step > 0, not {self}")
        if self.log and self.low <= 0:
            raise ValueError(f"a slider with log=True needs low > 0, not {self}")

    @property
    def whole(self) -> bool:
        return not self.log and all(isinstance(one, int) for one in (self.low, self.high, self.start, self.step))

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def values(self) -> tuple[float, ...]:
        """Every value drawn beforehand: from low to high by step, and start itself; exact decimals (log: 3 digits)."""
        if self.log:
            steps = math.floor(math.log2(self.high / self.low) / self.step + 1e-9)
            places = {float(f"{self.low * 2 ** (k * self.step):.3g}") for k in range(steps + 1)}
            return tuple(sorted(places | {float(self.low), float(self.start), float(self.high)}))
        low, high, start, step = (Decimal(str(value)) for value in (self.low, self.high, self.start, self.step))
        places = {low + k * step for k in range(math.floor((high - low) / step) + 1)} | {start, high}
        return tuple((int if self.whole else float)(place) for place in sorted(places))

    @property
    def shown(self) -> tuple[str, ...]:
        """The values as words, with as many decimals as they need."""
        if self.log:
            return tuple(f"{value:g}" for value in self.values)
        decimals = max(map(decimals_of, self.values))
        return tuple(f"{value:.{decimals}f}" for value in self.values)

    @property
    def decimals(self) -> int:
        """Of the live face's values."""
        places = [decimals_of(self.low), decimals_of(self.start), decimals_of(self.step) + 1]
        return 0 if self.whole else max(places)

    def widget(self, name: str) -> Any:
        """Its ipywidget."""
        settings = {"value": self.start, **row(self.label or name)}
        if self.whole:
            return ipywidgets.IntSlider(min=self.low, max=self.high, **settings)
        if self.log:
            low, high = math.log2(self.low), math.log2(self.high)
            return ipywidgets.FloatLogSlider(base=2, min=low, max=high, step=self.step / 10, readout_format=".3g",
                                             **settings)  # fmt: skip
        return ipywidgets.FloatSlider(min=self.low, max=self.high, step=self.step / 10,
                                      readout_format=f".{self.decimals}f", **settings)  # fmt: skip

    def taken(self, value: float) -> float:
        """A value of the widget as the reader sees it: rounded as it is shown, between the ends."""
        rounded = float(f"{value:.3g}") if self.log else round(value, self.decimals)
        return (int if self.whole else float)(min(max(rounded, self.low), self.high))

    def any(self) -> float:
        """A value at random."""
        if self.whole:
            return random.randint(self.low, self.high)
        place = random.random()
        span = (self.high / self.low) ** place if self.log else place * (self.high - self.low)
        return self.taken(self.low * span if self.log else self.low + span)

    @property
    def between(self) -> float | None:
        """A value near the middle that only the live face has, if there is one."""
        middle = len(self.values) // 2
        value = self.taken(sum(self.values[middle - 1 : middle + 1]) / 2)
        return None if value in self.values else value


def decimals_of(value: float) -> int:
    return max(-Decimal(str(value)).normalize().as_tuple().exponent, 0)


def row(label: str) -> dict[str, Any]:
    """What every widget of a control has: its label before it, and its width."""
    layout = {"width": "34em", "max_width": "98%"}
    return {"description": label, "style": {"description_width": "11em"}, "layout": layout}


@dataclass(frozen=True)
class Choice:
    """One of several values, such as the name of a class or scan. The first is the start.

    live_only: moves in the live face alone.
    """

    values: tuple
    label: str = ""
    live_only: bool = False

    @property
    def start(self) -> Any:
        return self.values[0]

    @property
    def ends(self) -> tuple:
        return self.values if len(self.values) <= 20 else (self.values[0], self.values[-1])  # few may each fail alone

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(map(str, self.values))

    def widget(self, name: str) -> Any:
        """Its ipywidget."""
        options = list(zip(self.shown, self.values, strict=True))
        return ipywidgets.Dropdown(options=options, value=self.start, **row(self.label or name))

    def taken(self, value: Any) -> Any:
        return value

    def any(self) -> Any:
        """A value at random."""
        return random.choice(self.values)


@dataclass(frozen=True)
class Upload:
    """A file of the reader, for the live face alone: None until one is chosen, and after Reset; then its bytes."""

    label: str = ""
    accept: str = "image/*"
    start: None = None
    live_only: bool = True

    def widget(self, name: str) -> Any:
        """Its ipywidget."""
        layout = {"width": "max-content"}
        return ipywidgets.FileUpload(accept=self.accept, description=self.label or name, layout=layout)

    def taken(self, value: Any) -> bytes | None:
        """The file chosen last: ipywidgets 7 gives a dict by name, 8 a tuple."""
        files = list(value.values() if isinstance(value, dict) else value)
        return bytes(files[-1]["content"]) if files else None


Control = Slider | Choice | Upload


class Panel:
    """Controls over drawings. As the last value of a cell it shows itself.

    frames: the drawing, as HTML, for every combination of values (in the order of the controls that are not live only).
    """

    def __init__(
        self, name: str, draw: Draw, controls: Mapping[str, Control], height: int, shuffled: Sequence[str] = ()
    ) -> None:
        self.name, self.draw, self.controls, self.height, self.shuffled = name, draw, controls, height, shuffled
        if unknown := [key for key in shuffled if key not in controls]:
            raise ValueError(f"slider {name!r} cannot shuffle {unknown}; its controls are {list(controls)}")
        self.start = {key: control.start for key, control in controls.items()}
        self.steps = {key: control for key, control in controls.items() if not control.live_only}
        count = math.prod(len(control.values) for control in self.steps.values())
        if count > MOST_FRAMES:
            raise ValueError(f"slider {name!r} has {count} combinations of values; at most {MOST_FRAMES} are "
                             "drawn beforehand: give it coarser steps")  # fmt: skip
        combinations = itertools.product(*(control.values for control in self.steps.values()))
        self.frames = {values: self.drawn(self.start | dict(zip(self.steps, values, strict=True)))
                       for values in combinations}  # fmt: skip
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
        """Draw anew, and move the live face: each control to each end with the others at their start, all low, all
        high, and between the values drawn beforehand. RuntimeError names the values that broke the drawing."""
        movable = {key: control for key, control in self.controls.items() if not isinstance(control, Upload)}
        places = [{key: end} for key, control in movable.items() for end in control.ends]
        places += [{key: control.ends[i] for key, control in movable.items()} for i in (0, -1)]
        for values in places:
            self.drawn(self.start | values)
        sliders_only = {key: control for key, control in movable.items() if isinstance(control, Slider)}
        between = {key: one.between for key, one in sliders_only.items() if one.between is not None}
        for values in [*places, *({key: value} for key, value in between.items()), between]:
            self.live.reset()
            self.live.move(**values)
            if self.live.error:
                raise self.live.error
        self.live.reset()

    @cached_property
    def live(self) -> LiveFace:
        """Made when it is first asked for."""
        return LiveFace(self.controls, self.drawn, self.height, self.shuffled)

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
            for key, control in self.steps.items()
        ]  # fmt: skip
        data = {"name": self.name, "height": self.height, "controls": controls, "drawings": list(drawings),
                "uris": list(uris), "frames": frames}  # fmt: skip
        return zlib.compress(json.dumps(data, ensure_ascii=False).encode(), 9)

    @property
    def html(self) -> str:
        """The element, its script, and what readers without scripts get in their place."""
        room = self.height + ROW * (len(self.steps) + 1)  # kept free, so that the page does not jump
        return (
            f'<kdoct-slider style="display: block; min-height: {room}px" '
            f'data-frames="{base64.b64encode(self._packed).decode()}"><p><em>{html.escape(self.note)}</em></p>'
            f"</kdoct-slider>\n<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>"
        )

    @property
    def note(self) -> str:
        return f"Slider “{self.name}”: run this cell to move it; the figure near it shows the same."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        drawn = {"text/html": self.html, "text/plain": self.note}
        return drawn | (self.live.bundle if has_kernel() else {})


_panels: dict[str, Panel] = {}  # of this process, the latest of each name


def sliders(
    draw: Draw, *, name: str = "", height: int = 320, shuffled: Sequence[str] = (), **controls: Control
) -> Panel:
    """Controls over ``draw(**values)``: live where there is a kernel, drawn beforehand for where there is none.

    draw: returns a matplotlib Figure or a string of SVG or HTML, the same for the same values. It is called here for
    every combination of the values that are drawn beforehand, and later for whatever a reader moves to.
    name: what the sliders are called by readers and tests; default: the function's name.
    height: pixels kept for the drawing, whatever it draws.
    shuffled: the controls that a button "Random" of the live face draws at random; none, no button.
    controls: a Slider, Choice or Upload for each argument of draw.
    Raises ValueError for more than 600 combinations, and for drawings that take more than 120 kB
    compressed; RuntimeError, from the drawing's own error, naming the values that broke it.
    """
    name = name or draw.__name__.replace("_", " ").strip()
    _panels[name] = Panel(name, draw, controls, height, shuffled)
    return _panels[name]


def check_registered() -> list[str]:
    """Call every drawing that `sliders` was given in this process at its controls' ends, and move its live face to
    them and between the values drawn beforehand. Returns their names.

    Raises RuntimeError, from the drawing's own error, naming the drawing and the values that broke it.
    """
    for panel in _panels.values():
        panel.check()
    return list(_panels)
