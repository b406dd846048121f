"""Sliders: every drawing is made beforehand and kept small, errors are seen, readers without scripts get words.

What a browser makes of them is tested in test_browser.py.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
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

from kdoct_utils.show import sliders as widgets
from kdoct_utils.show.style import CLASS_LOOKS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def empty_registry():
    widgets.clear_registered()
    yield
    widgets.clear_registered()


def unpacked(panel):
    """What slider.js reads, with the pictures put back."""
    element = BeautifulSoup(panel.html, "html.parser").find("kdoct-slider")
    data = json.loads(zlib.decompress(base64.b64decode(element["data-frames"])))
    for number, uri in enumerate(data["uris"]):
        data["drawings"] = [drawing.replace(f"\x1a{number};", uri) for drawing in data["drawings"]]
    return data


def test_every_combination_is_drawn_once_in_the_order_of_the_controls():
    calls = []

    def drawing(temperature, scan):
        calls.append((temperature, scan))
        return f"<b>{temperature} {scan}</b>"

    scans = widgets.Choice(("a", "b"), label="scan to soften")
    panel = widgets.sliders(drawing, temperature=(1.0, 2.0, 1.5, 0.5), scan=scans, height=180)
    assert calls == [(t, scan) for t in (1.0, 1.5, 2.0) for scan in "ab"] == list(panel.frames)
    data = unpacked(panel)
    assert [data["drawings"][k] for k in data["frames"]] == [f"<b>{t} {scan}</b>" for t, scan in calls]
    assert data["name"] == "drawing" and data["height"] == 180
    assert data["controls"] == [
        {"label": "temperature", "kind": "slider", "values": ["1.0", "1.5", "2.0"], "start": 1},
        {"label": "scan to soften", "kind": "choice", "values": ["a", "b"], "start": 0},
    ]


@pytest.mark.parametrize(
    ("slider", "values", "shown"),
    [
        ((0, 3, 2, 1), [0, 1, 2, 3], ["0", "1", "2", "3"]),
        ((0.1, 0.5, 0.3, 0.1), [0.1, 0.2, 0.3, 0.4, 0.5], ["0.1", "0.2", "0.3", "0.4", "0.5"]),  # exact
        ((1, 2, 1, 0.25), [1.0, 1.25, 1.5, 1.75, 2.0], ["1.00", "1.25", "1.50", "1.75", "2.00"]),
        ((0.0, 20.0, 0.0, 10.0), [0.0, 10.0, 20.0], ["0", "10", "20"]),
        ((0.0, 1.0, 0.7, 0.4), [0.0, 0.4, 0.7, 0.8, 1.0], ["0.0", "0.4", "0.7", "0.8", "1.0"]),  # off the grid
        ((1e-5, 3e-5, np.float64(2e-5), 1e-5), [1e-5, 2e-5, 3e-5], ["0.00001", "0.00002", "0.00003"]),
    ],
)  # fmt: skip
def test_slider_values_are_exact_decimals(slider, values, shown):
    found = widgets.Slider(*slider)
    assert list(found.values) == values and list(found.shown) == shown
    assert {type(value) for value in found.values} == {type(values[0])}


def test_figures_become_images_with_alt_text_and_are_closed():
    def loss_curve(gamma):
        figure, axis = plt.subplots(figsize=(2, 2))
        axis.plot([0, gamma])
        return figure

    before = plt.get_fignums()
    panel = widgets.sliders(loss_curve, gamma=(0.0, 2.0, 2.0, 1.0))
    image = BeautifulSoup(panel.frames[2.0,], "html.parser").img
    assert image["alt"] == "loss curve, gamma = 2" and image["src"].startswith("data:image/png;base64,")
    assert plt.get_fignums() == before


def test_what_repeats_is_stored_once():
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    picture = widgets.scan_html(noise, "noise")
    panel = widgets.sliders(lambda x, y: f"{picture}{picture} x = {x}", name="pair", x=(0, 9, 0, 1), y=(0, 9, 0, 1))
    data = unpacked(panel)
    assert len(data["frames"]) == 100 and len(data["drawings"]) == 10 and len(data["uris"]) == 1
    assert data["drawings"][3] == panel.frames[3, 0] == f"{picture}{picture} x = 3"
    assert len(panel.html) < 2 * len(picture) + 6000


def test_too_many_drawings_and_too_large_ones_are_refused():
    def never(x, y):
        raise AssertionError("counted first")

    with pytest.raises(ValueError, match="slider 'never' has 1111 combinations of values.*600.*coarser steps"):
        widgets.sliders(never, x=(0, 100, 0, 1), y=(0, 10, 0, 1))
    random = np.random.default_rng(0)

    def noise(x):
        return widgets.scan_html(random.integers(0, 256, (64, 64), dtype=np.uint8), "noise")

    with pytest.raises(ValueError, match=r"'noise' take 1\d\d kB compressed.*120 kB"):
        widgets.sliders(noise, x=(0, 39, 0, 1))


def test_an_error_names_the_values_that_broke_the_drawing():
    def inverse(x):
        return f"{1 / (x - shift[0])}"

    shift = [2.0]
    with pytest.raises(RuntimeError, match=r"'inverse' fails at \{'x': 2.0\}: float division") as caught:
        widgets.sliders(inverse, x=(0.0, 4.0, 1.0, 1.0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    shift[0] = 10.0
    widgets.sliders(inverse, x=(0.0, 4.0, 1.0, 1.0))
    shift[0] = 4.0
    with pytest.raises(RuntimeError, match=r"'inverse' fails at \{'x': 4.0\}"):
        widgets.check_registered()


def test_a_drawing_of_another_type_is_refused():
    with pytest.raises(RuntimeError, match="Figure or a string.*int"):
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
    for options in ((), ("a", "b", "a")):
        with pytest.raises(ValueError, match="at least one option and none twice"):
            widgets.Choice(options)


def test_readers_without_scripts_get_a_sentence():
    panel = widgets.sliders(lambda x: "", name="soft <labels>", x=(0, 1, 0))
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}  # a widget view shows as "VBox(...)" where nothing draws it
    element = BeautifulSoup(bundle["text/html"], "html.parser").find("kdoct-slider")
    assert element.text == bundle["text/plain"] and "soft <labels>" in element.text
    assert "min-height: 392px" in element["style"]


def test_the_script_is_small_and_fits_into_a_page():
    script = widgets.SCRIPT.read_text(encoding="utf-8")
    assert len(script) < 4000 and "</script" not in script and "http" not in script
    assert 'customElements.get("kdoct-slider") ||' in script  # a page holds it once for each slider


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
    monkeypatch.setenv("PYTHONPATH", str(Path(widgets.__file__).parents[2]))  # the kernel starts in tmp_path
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
