"""Sliders over a drawing, for notebooks, and a way for tests to call what a slider would call.

`sliders` uses only what ipywidgets 7.7 (Colab) and 8 share. Sliders and the reset button work from the keyboard
(Tab, then arrow keys; the number beside a slider can be typed over). A drawing is a matplotlib Figure or a string of
SVG or HTML; a string is quicker by far: `bars_svg` and `curves_svg` take well under a millisecond, redrawing a Figure
some 75 ms on one core, so temperature and gamma sliders use strings.

Runners of notebooks never move a slider, so a drawing that fails away from its start value passes unseen.
Every `sliders` call is therefore registered; `check_registered` calls each drawing at its sliders' ends and
`run_and_check` does so inside a notebook's own kernel.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .outputs import figure_png
from .svg import bars_svg, curves_svg, scan_html

__all__ = [
    "Choice", "Panel", "Registered", "Slider", "bars_svg", "check_registered", "clear_registered", "curves_svg",
    "registered", "run_and_check", "scan_html", "sliders",
]  # fmt: skip

Draw = Callable[..., "Figure | str"]
LABEL_STYLE = {"description_width": "150px"}


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

    def widget(self, name: str) -> ipywidgets.Widget:
        whole = all(isinstance(value, int) for value in (self.low, self.high, self.start, self.step))
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        return kind(
            value=self.start, min=self.low, max=self.high, step=self.step, description=self.label or name,
            continuous_update=True, style=LABEL_STYLE, layout=ipywidgets.Layout(width="480px"),
        )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of several values, such as the name of a class or scan. The first is the start."""

    options: tuple
    label: str = ""

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("Choice needs at least one option")

    @property
    def start(self) -> Any:
        return self.options[0]

    @property
    def ends(self) -> tuple:
        return self.options  # every option: there are few, and each may fail by itself

    def widget(self, name: str) -> ipywidgets.Widget:
        return ipywidgets.Dropdown(
            options=self.options, value=self.start, description=self.label or name, style=LABEL_STYLE,
            layout=ipywidgets.Layout(width="480px"),
        )  # fmt: skip


@dataclass(frozen=True)
class Registered:
    """A drawing and its controls, as `sliders` saw them."""

    name: str
    draw: Draw
    controls: Mapping[str, Slider | Choice]

    def ends(self) -> list[dict[str, Any]]:
        """Argument sets: each control at each end with the others at their start, then all low and all high."""
        start = {name: control.start for name, control in self.controls.items()}
        sets = [start | {name: end} for name, control in self.controls.items() for end in control.ends]
        return sets + [{name: control.ends[i] for name, control in self.controls.items()} for i in (0, -1)]


_registry: dict[str, Registered] = {}


def registered() -> tuple[Registered, ...]:
    """All drawings that `sliders` was given in this process, the latest of each name."""
    return tuple(_registry.values())


def clear_registered() -> None:
    """Forget all registered drawings (for tests)."""
    _registry.clear()


def check_registered() -> list[str]:
    """Call every registered drawing at its controls' ends. Returns their names.

    Raises RuntimeError, from the drawing's own error, naming the drawing and the values that broke it.
    """
    for item in registered():
        for values in item.ends():
            try:
                _as_html(item.draw(**values), item.name)
            except Exception as error:
                raise RuntimeError(f"slider drawing {item.name!r} fails at {values}: {error}") from error
    return [item.name for item in registered()]


def run_and_check(
    notebook: Path | str, parameters: Mapping[str, Any] | None = None, *, timeout: int = 600
) -> list[str]:
    """Run a notebook in a kernel of its own, then `check_registered` there. Returns the names checked.

    parameters override the notebook's `parameters` cell. The notebook file is not written.
    Raises nbclient's CellExecutionError, which holds the failing cell and its error.
    """
    import nbformat
    from nbclient import NotebookClient
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = Path(notebook)
    content = load_notebook_node(str(notebook))  # gives every cell the tags that the next step looks for
    if parameters:
        content = parameterize_notebook(content, dict(parameters))
    check = "from kdoct_utils import widgets as _widgets\nprint('\\n'.join(_widgets.check_registered()))"
    content.cells.append(nbformat.v4.new_code_cell(check))
    NotebookClient(content, timeout=timeout, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    return "".join(output.get("text", "") for output in content.cells[-1].outputs).split("\n")[:-1]


class Panel:
    """Controls over a drawing. As the last value of a cell it shows itself."""

    def __init__(self, name: str, draw: Draw, controls: Mapping[str, Slider | Choice], height: int) -> None:
        self.name, self.draw = name, draw
        self.controls = {key: control.widget(key) for key, control in controls.items()}
        self._starts = {key: control.start for key, control in controls.items()}
        self._paused = False
        # a fixed height keeps the page from jumping under the reader's hand
        self.area = ipywidgets.HTML(layout=ipywidgets.Layout(height=f"{height}px", overflow="hidden"))
        self.reset_button = ipywidgets.Button(description="Reset", tooltip=f"Back to the start values of {name}")
        self.reset_button.on_click(lambda _button: self.reset())
        self.box = ipywidgets.VBox([*self.controls.values(), self.reset_button, self.area])
        for control in self.controls.values():
            control.observe(lambda _change: self.redraw(), names="value")
        self.redraw()

    def redraw(self) -> None:
        """Draw for the present values. An error is shown in place of the drawing and raised."""
        if self._paused:
            return
        values = {key: control.value for key, control in self.controls.items()}
        try:
            self.area.value = _as_html(self.draw(**values), f"{self.name}, {_words(values)}")
        except Exception as error:
            shown = html.escape(f"{type(error).__name__}: {error}")
            self.area.value = f'<pre role="alert">This drawing failed at {html.escape(_words(values))}\n{shown}</pre>'
            raise

    def reset(self) -> None:
        """Put every control back to its start and draw once."""
        self._paused = True
        try:
            for key, control in self.controls.items():
                control.value = self._starts[key]
        finally:
            self._paused = False
        self.redraw()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        # A reader without a kernel gets this sentence, not "VBox(children=...".
        note = f"Slider “{self.name}”: run this notebook to move it; the figure near it shows the same."
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "text/html": f"<p><em>{html.escape(note)}</em></p>",
            "text/plain": note,
        }


def sliders(draw: Draw, *, name: str = "", height: int = 320, **specs: Slider | Choice | tuple | Sequence) -> Panel:
    """Controls over ``draw(**values)``, redrawn while they move.

    draw: returns a matplotlib Figure or a string of SVG or HTML.
    name: what the sliders are called by readers and tests; default: the function's name.
    height: pixels kept for the drawing, whatever it draws.
    specs: one Slider or Choice for each argument of draw; ``(low, high, start)`` and ``(low, high, start, step)``
      are short for a Slider.
    Raises ValueError for a bad spec, and whatever draw raises at the start values.
    """
    if not specs:
        raise ValueError("sliders needs at least one control, such as temperature=Slider(1, 10, 4)")
    controls = {key: _control(key, spec) for key, spec in specs.items()}
    name = name or draw.__name__.replace("_", " ").strip()
    _registry[name] = Registered(name, draw, controls)
    return Panel(name, draw, controls, height)


def _control(key: str, spec: object) -> Slider | Choice:
    if isinstance(spec, (Slider, Choice)):
        return spec
    if isinstance(spec, tuple) and len(spec) in (3, 4):
        return Slider(*spec)
    raise ValueError(f"{key}={spec!r}: give a Slider, a Choice, (low, high, start) or (low, high, start, step)")


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
                     for key, value in values.items())  # fmt: skip


def _as_html(drawing: Figure | str, alt: str) -> str:
    if isinstance(drawing, str):
        return drawing
    if isinstance(drawing, Figure):
        png = base64.b64encode(figure_png(drawing)).decode()
        plt.close(drawing)
        return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}">'
    raise TypeError(f"a drawing must be a matplotlib Figure or a string of SVG or HTML, not {type(drawing).__name__}")
