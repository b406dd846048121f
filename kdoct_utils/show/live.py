"""The live face of a slider: ipywidgets controls whose callback computes, for as long as there is a kernel.

`sliders.Panel` shows it in one bundle with the face that was drawn beforehand. JupyterLab 4, Notebook 7, VS Code and
Colab take the widget of such a bundle; whatever knows no widgets takes the HTML. Once the kernel has gone a saved
widget is only an error message, so executed and published notebooks keep the HTML alone (`without_widgets`).
Nothing is used here that ipywidgets 7.7 (Colab) and 8 do not both have.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
GROUND = '<div style="min-height: 100%; line-height: normal; color: #000; background: #fff">{}</div>'


def has_kernel() -> bool:
    """Whether a notebook's kernel runs this process, so that its widgets can call back."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def without_widgets(outputs: list[dict]) -> list[dict]:
    """A cell's outputs as a saved page can show them. A widget has no kernel there: its HTML twin stays, and a progress
    bar, which has none (its text is that of its first moment, 0 %), goes."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET_VIEW not in data:
            kept.append(output)
        elif "text/html" in data:
            kept.append(output | {"data": {kind: content for kind, content in data.items() if kind != WIDGET_VIEW}})
    return kept


class LiveFace:
    """Widgets over a drawing that is made anew whenever one of them moves.

    controls: `sliders.Slider`, `Choice` or `Upload` for each argument of drawing. drawing: HTML for a dict of values.
    shuffled: names of the controls that a button sets at random; none, no button.
    values: what is shown now. error: what the drawing raised for these values, or None.
    """

    def __init__(
        self,
        controls: Mapping[str, Any],
        drawing: Callable[[dict[str, Any]], str],
        height: int,
        shuffled: Sequence[str] = (),
    ) -> None:
        self.controls, self.drawing = controls, drawing
        self.values = {key: control.start for key, control in controls.items()}
        self.error: Exception | None = None
        self._held = False
        self.area = ipywidgets.HTML(layout={"height": f"{height}px", "overflow": "auto", "margin": "8px 0 0 0"})
        buttons = [self._button("Reset", "Back to the start values", self.reset)]
        if shuffled:
            buttons.append(self._button("Random", "Draw at random", lambda: self.shuffle(shuffled)))
        self.inputs = {key: control.widget(key) for key, control in controls.items()}
        for key, widget in self.inputs.items():
            widget.observe(lambda change, key=key: self._take(key, change["new"]), "value")
        self.box = ipywidgets.VBox([*self.inputs.values(), ipywidgets.HBox(buttons), self.area])
        self.redraw()

    @staticmethod
    def _button(description: str, tooltip: str, action: Callable[[], None]) -> Any:
        button = ipywidgets.Button(description=description, tooltip=tooltip, layout={"width": "auto"})
        button.on_click(lambda _: action())
        return button

    @property
    def bundle(self) -> dict[str, Any]:
        """What a notebook asks for to show the widgets (ipywidgets 7 and 8 each say it in a way of their own)."""
        return {WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}

    def _take(self, key: str, value: Any) -> None:
        self.values[key] = self.controls[key].taken(value)
        self.redraw()

    def redraw(self) -> None:
        """Draw for the values of now. An error is shown in the drawing's place: a callback has nowhere to raise it."""
        if self._held:
            return
        try:
            content, self.error = self.drawing(dict(self.values)), None
        except Exception as error:
            self.error = error
            content = f'<p role="alert" style="padding: 8px"><strong>{html.escape(str(error))}</strong></p>'
        self.area.value = GROUND.format(content)

    @contextmanager
    def _once(self):
        """Several controls are set; one drawing follows."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.redraw()

    def move(self, **values: Any) -> None:
        """Set controls to these values, as a reader does."""
        with self._once():
            for key, value in values.items():
                self.inputs[key].value = value

    def reset(self) -> None:
        """Back to the start values."""
        with self._once():
            for key, widget in self.inputs.items():
                start = self.controls[key].start  # None of a file: as a new widget has it
                widget.set_trait("value", type(widget.value)() if start is None else start)

    def shuffle(self, names: Sequence[str]) -> None:
        """These controls at random."""
        self.move(**{key: self.controls[key].any() for key in names})
