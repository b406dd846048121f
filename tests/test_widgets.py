"""Sliders: each drawing works at its ends, errors are seen, and readers without a kernel get words."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbclient.exceptions import CellExecutionError
from PIL import Image

from kdoct_utils import widgets
from kdoct_utils.plots import CLASS_LOOKS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def empty_registry():
    widgets.clear_registered()
    yield
    widgets.clear_registered()


def test_drawing_follows_the_slider_and_reset_draws_once():
    calls = []

    def drawing(temperature, scan):
        calls.append((temperature, scan))
        return f"<b>{temperature} {scan}</b>"

    panel = widgets.sliders(drawing, temperature=(1.0, 10.0, 4.0, 0.5), scan=widgets.Choice(("a", "b")))
    temperature, scan = panel.controls["temperature"], panel.controls["scan"]
    assert temperature.continuous_update and temperature.description == "temperature"
    assert panel.area.layout.height == "320px"
    temperature.value, scan.value = 2.0, "b"
    assert panel.area.value == "<b>2.0 b</b>"
    panel.reset_button.click()
    assert panel.area.value == "<b>4.0 a</b>"
    assert calls == [(4.0, "a"), (2.0, "a"), (2.0, "b"), (4.0, "a")]


def test_integers_give_an_integer_slider():
    panel = widgets.sliders(lambda scan: f"{scan!r}", scan=widgets.Slider(0, 5, 2, 1, label="scan number"))
    panel.controls["scan"].value = 3
    assert panel.area.value == "3" and panel.controls["scan"].description == "scan number"


def test_figures_become_images_with_alt_text_and_are_closed():
    def loss_curve(gamma):
        figure, axis = plt.subplots()
        axis.plot([0, gamma])
        return figure

    before = plt.get_fignums()
    panel = widgets.sliders(loss_curve, gamma=(0.0, 5.0, 2.0))
    image = ElementTree.fromstring(panel.area.value.replace(">", "/>"))
    assert image.get("alt") == "loss curve, gamma = 2" and image.get("src").startswith("data:image/png;base64,")
    assert plt.get_fignums() == before


def test_an_error_is_shown_and_raised():
    def inverse(x):
        return f"{1 / x}"

    panel = widgets.sliders(inverse, x=(0.0, 2.0, 1.0))
    with pytest.raises(ZeroDivisionError):
        panel.controls["x"].value = 0.0
    assert all(words in panel.area.value for words in ('role="alert"', "ZeroDivisionError", "x = 0"))
    with pytest.raises(RuntimeError, match=r"'inverse' fails at \{'x': 0.0\}"):
        widgets.check_registered()


def test_a_drawing_of_another_type_is_refused():
    with pytest.raises(TypeError, match="Figure or a string.*int"):
        widgets.sliders(lambda x: 3, x=(0, 1, 0))


def test_every_control_is_taken_to_each_end():
    seen = []
    widgets.sliders(lambda a, b: seen.append((a, b)) or "", name="pair", a=(0, 9, 5), b=widgets.Choice(("p", "q", "r")))
    seen.clear()
    assert widgets.check_registered() == ["pair"]
    assert seen == [(0, "p"), (9, "p"), (5, "p"), (5, "q"), (5, "r"), (0, "p"), (9, "r")]


@pytest.mark.parametrize("spec", [(3, 1, 2), (0, 1, 5), (0, 1, 0, 0), "0-1", (1, 2), 4])
def test_bad_specs_are_refused(spec):
    with pytest.raises(ValueError, match="slider needs|give a Slider"):
        widgets.sliders(lambda x: "", x=spec)


def test_no_controls_and_empty_choice_are_refused():
    with pytest.raises(ValueError, match="at least one control"):
        widgets.sliders(lambda: "")
    with pytest.raises(ValueError, match="at least one option"):
        widgets.Choice(())


def test_a_reader_without_a_kernel_gets_a_sentence():
    panel = widgets.sliders(lambda x: "", name="soft labels", x=(0, 1, 0))
    bundle = panel._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert "soft labels" in bundle["text/plain"] and "VBox" not in bundle["text/plain"]


def rectangles(svg: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(f"{SVG}rect")[1:]  # the first is the ground


def test_bars_are_as_long_as_their_values_and_read_out():
    svg = widgets.bars_svg(["normal", "cnv", "x<y"], [0.5, 0.25, 0], title="T = 4 & more", maximum=1)
    widths = [float(bar.get("width")) for bar in rectangles(svg)]
    np.testing.assert_allclose(widths, [180, 90, 0], atol=0.1)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.find(f"{SVG}title").text == "T = 4 & more"
    assert root.find(f"{SVG}desc").text == "normal 0.500; cnv 0.250; x<y 0.000"
    assert rectangles(svg)[1].get("fill") == CLASS_LOOKS["cnv"].color
    assert {"CNV", "x<y", "0.250"} <= {item.text for item in root.findall(f"{SVG}text")}


def test_bars_mark_their_reference():
    svg = widgets.bars_svg(["a", "b"], [1, 2], title="t", reference=[2, 4], reference_label="T = 1")
    assert svg.count('stroke="black"') == 2 and "ticks: T = 1" in svg
    assert [float(bar.get("width")) for bar in rectangles(svg)] == [90, 180]


@pytest.mark.parametrize("values", [[-1, 1], [float("nan"), 1], [1], [float("inf"), 1]])
def test_bars_refuse_what_they_cannot_draw(values):
    with pytest.raises(ValueError):
        widgets.bars_svg(["a", "b"], values, title="t")


def test_bars_of_zeros_are_drawn_empty():
    assert [bar.get("width") for bar in rectangles(widgets.bars_svg(["a"], [0], title="t"))] == ["0.0"]


def test_curves_run_between_the_corners():
    svg = widgets.curves_svg([0, 1, 2], {"rising": [0, 5, 10]}, title="t", xlabel="x", ylabel="y", ylim=(0, 10), mark=1)
    points = ElementTree.fromstring(svg).find(f"{SVG}polyline").get("points")
    assert points == "56.0,256.0 243.0,146.0 430.0,36.0"
    with pytest.raises(ValueError, match="'rising' needs 2 finite"):
        widgets.curves_svg([0, 1], {"rising": [0, np.nan]}, title="t", xlabel="x", ylabel="y", ylim=(0, 1))


def test_a_scan_is_shown_pixel_by_pixel_with_its_words():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tag = BeautifulSoup(widgets.scan_html(image, 'a "scan" & more', width=80), "html.parser").img
    assert tag["alt"] == 'a "scan" & more' and tag["width"] == "80" and "pixelated" in tag["style"]
    data = base64.b64decode(tag["src"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    for wrong, alt in ((image.astype(float), "x"), (image[None], "x"), (image, " ")):
        with pytest.raises(ValueError, match="alternative text"):
            widgets.scan_html(wrong, alt)


def notebook(path, source: str):
    parameters = nbformat.v4.new_code_cell("top = 1.0", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_a_notebook_is_run_and_its_drawings_called_at_their_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(widgets.__file__).parents[1]))  # the kernel starts in tmp_path
    source = (
        "from kdoct_utils import widgets\n"
        "def inverse(x):\n    return str(1 / (x - top))\n"
        "widgets.sliders(inverse, x=(2.0, 5.0, 3.0))"
    )
    path = notebook(tmp_path / "n.ipynb", source)
    before = path.read_bytes()
    assert widgets.run_and_check(path, timeout=60) == ["inverse"]
    assert path.read_bytes() == before
    with pytest.raises(CellExecutionError, match="'inverse' fails at {'x': 5.0}"):
        widgets.run_and_check(path, {"top": 5.0}, timeout=60)
