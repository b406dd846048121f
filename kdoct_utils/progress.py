"""Progress bars that also tell in a saved notebook where they ended."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


class ProgressBar(tqdm):
    """tqdm.auto's bar, shown once more when it ends.

    A bar in a notebook is a widget. Whoever opens the saved notebook without its widgets, on GitHub for one, is shown
    the text that went with the widget when it first appeared: 0 %. Here that text is sent again at the end.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._shown = None
        if not IN_NOTEBOOK:
            super().__init__(*args, **options)
            return
        from IPython.display import display

        super().__init__(*args, display=False, **options)
        if not self.disable:
            self._shown = display(self.container, display_id=True)

    def close(self) -> None:
        super().close()
        if self._shown is not None:
            self._shown.update(self.container)
            self._shown = None


def without_widget(output: dict) -> dict:
    """A notebook's output with its text alone where it is a widget too: a saved widget has no kernel to draw it."""
    data = output.get("data", {})
    if WIDGET_VIEW not in data or "text/plain" not in data:
        return output
    return output | {"data": {kind: content for kind, content in data.items() if kind != WIDGET_VIEW}}
