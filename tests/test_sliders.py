"""Sliders: the drawn face is made beforehand and kept small, the live one computes; errors are seen in both.

What a browser makes of them is tested in test_browser.py.
"""

import base64
import json
import time
import zlib
from datetime import datetime

import ipywidgets
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup

from kdoct_utils.show import sliders as module
from kdoct_utils.show.live import WIDGET_VIEW
from kdoct_utils.show.sliders import Choice, Slider, Upload, check_registered, sliders
from kdoct_utils.show.svg import bars_svg, scan_html


@pytest.fixture(autouse=True)
def no_panels(monkeypatch):
    monkeypatch.setattr(module, "_panels", {})


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

    scans = Choice(("a", "b"), label="scan to soften")
    panel = sliders(drawing, temperature=Slider(1.0, 2.0, 1.5, 0.5), scan=scans, height=180)
    assert calls == [(t, scan) for t in (1.0, 1.5, 2.0) for scan in "ab"] == list(panel.frames)
    data = unpacked(panel)
    assert [data["drawings"][k] for k in data["frames"]] == [f"<b>{t} {scan}</b>" for t, scan in calls]
    assert data["name"] == "drawing" and data["height"] == 180
    assert data["controls"] == [
        {"label": "temperature", "kind": "slider", "values": ["1.0", "1.5", "2.0"], "start": 1},
        {"label": "scan to soften", "kind": "choice", "values": ["a", "b"], "start": 0},
    ]


def test_slider_values_are_exact_decimals():
    with pytest.raises(ValueError, match="slider needs"):
        Slider(0, 1, 5)
    for slider, values, shown in (
        ((0, 3, 2, 1), [0, 1, 2, 3], ["0", "1", "2", "3"]),
        ((0.1, 0.5, 0.3, 0.1), [0.1, 0.2, 0.3, 0.4, 0.5], ["0.1", "0.2", "0.3", "0.4", "0.5"]),  # exact
        ((0.0, 1.0, 0.7, 0.4), [0.0, 0.4, 0.7, 0.8, 1.0], ["0.0", "0.4", "0.7", "0.8", "1.0"]),  # off the grid
        ((1e-5, 3e-5, np.float64(2e-5), 1e-5), [1e-5, 2e-5, 3e-5], ["0.00001", "0.00002", "0.00003"]),
    ):
        found = Slider(*slider)
        assert list(found.values) == values and list(found.shown) == shown
        assert {type(value) for value in found.values} == {type(values[0])}


def test_figures_become_images_that_are_closed_and_readers_without_scripts_get_a_sentence():
    def loss_curve(gamma):
        figure, axis = plt.subplots(figsize=(2, 2))
        axis.plot([0, gamma])
        return figure

    before = plt.get_fignums()
    panel = sliders(loss_curve, gamma=Slider(0.0, 2.0, 2.0, 1.0))
    image = BeautifulSoup(panel.frames[2.0,], "html.parser").img
    assert image["alt"] == "loss curve, gamma = 2" and image["src"].startswith("data:image/png;base64,")
    assert plt.get_fignums() == before
    bundle = sliders(lambda x: "", name="soft <labels>", x=Slider(0, 1, 0))._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}  # no kernel, so no widget
    element = BeautifulSoup(bundle["text/html"], "html.parser").find("kdoct-slider")
    assert element.text == bundle["text/plain"] and "soft <labels>" in element.text


def test_what_repeats_is_stored_once_and_too_much_is_refused():
    random, digits = np.random.default_rng(0), Slider(0, 9, 0, 1)
    picture = scan_html(random.integers(0, 256, (60, 60), dtype=np.uint8), "noise")
    panel = sliders(lambda x, y: f"{picture}{picture} x = {x}", name="pair", x=digits, y=digits)
    data = unpacked(panel)
    assert len(data["frames"]) == 100 and len(data["drawings"]) == 10 and len(data["uris"]) == 1
    assert data["drawings"][3] == panel.frames[3, 0] == f"{picture}{picture} x = 3"
    assert len(panel.html) < 2 * len(picture) + 6000

    with pytest.raises(ValueError, match="slider '<lambda>' has 1111 combinations of values.*600.*coarser steps"):
        sliders(lambda x, y: "", x=Slider(0, 100, 0, 1), y=Slider(0, 10, 0, 1))

    def noise(x):
        return scan_html(random.integers(0, 256, (64, 64), dtype=np.uint8), "noise")

    with pytest.raises(ValueError, match=r"'noise' take 1\d\d kB compressed.*120 kB"):
        sliders(noise, x=Slider(0, 39, 0, 1))


def test_an_error_names_the_values_that_broke_the_drawing():
    def inverse(x):
        return f"{1 / (x - shift[0])}"

    shift, steps = [2.0], Slider(0.0, 4.0, 1.0, 1.0)
    with pytest.raises(RuntimeError, match=r"'inverse' fails at \{'x': 2.0\}: float division") as caught:
        sliders(inverse, x=steps)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    shift[0] = 10.0
    sliders(inverse, x=steps)
    shift[0] = 4.0
    with pytest.raises(RuntimeError, match=r"'inverse' fails at \{'x': 4.0\}"):
        check_registered()
    with pytest.raises(RuntimeError, match="Figure or a string.*int"):
        sliders(lambda x: 3, x=steps)


def test_a_log_slider_draws_by_factors_and_moves_freely():
    slider = Slider(0.25, 20.0, 4.0, 1, log=True)
    assert slider.values == (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0)
    assert slider.shown == ("0.25", "0.5", "1", "2", "4", "8", "16", "20")
    assert all(slider.taken(slider.widget("T").value + slip) == 4.0 for slip in (-1e-9, 0, 1e-9))
    assert slider.taken(2 ** slider.widget("T").max) == 20.0 and slider.taken(3.14159) == 3.14
    with pytest.raises(ValueError, match="low > 0"):
        Slider(0.0, 1.0, 0.5, log=True)
    for other, between in ((Slider(0.0, 1.0, 0.5, 0.25), 0.375), (Slider(147, 1764, 441, 147), 882), (slider, 3.0)):
        assert other.between not in other.values and other.low < other.between < other.high
        assert other.between == pytest.approx(between, rel=0.1)
        assert all(other.low <= other.any() <= other.high for _ in range(20))
    assert Slider(1, 9, 1, 1).between is None  # every integer was drawn


def test_the_live_face_computes_what_no_frame_holds():
    def answer(temperature, scan, number, own):
        return f"<b>{temperature} {scan} {number} {own}</b>"

    panel = sliders(answer, temperature=Slider(1.0, 10.0, 4.0, 3.0), scan=Choice(("a", "b")), own=Upload("own scan"),
                    number=Slider(1, 99, 1, 1, live_only=True), shuffled=("number", "scan"), height=200)  # fmt: skip
    assert len(panel.frames) == 8 and panel.frames[7.0, "b"] == "<b>7.0 b 1 None</b>"  # what is live keeps its start
    assert [control["label"] for control in unpacked(panel)["controls"]] == ["temperature", "scan"]
    live = panel.live
    *inputs, buttons, area = live.box.children
    reset, shuffle = buttons.children
    assert [type(one) for one in inputs] == [
        ipywidgets.FloatSlider, ipywidgets.Dropdown, ipywidgets.FileUpload, ipywidgets.IntSlider
    ]  # fmt: skip
    assert [one.description for one in inputs] == ["temperature", "scan", "own scan", "number"]
    assert "<b>4.0 a 1 None</b>" in area.value and area.layout.height == "200px"
    inputs[0].value, inputs[1].value, inputs[3].value = 4.3, "b", 17
    assert "<b>4.3 b 17 None</b>" in area.value
    inputs[2].set_trait("value", file_of(b"pixels"))
    assert "<b>4.3 b 17 b&#x27;pixels&#x27;</b>" in area.value.replace("'", "&#x27;")
    reset.click()
    assert "<b>4.0 a 1 None</b>" in area.value and not inputs[2].value
    numbers = set()
    for _ in range(20):
        shuffle.click()
        numbers.add(inputs[3].value)
        assert f" {inputs[1].value} {inputs[3].value} None" in area.value
    assert len(numbers) > 5 and inputs[0].value == 4.0
    with pytest.raises(ValueError, match=r"cannot shuffle \['scam'\]; its controls are \['x'\]"):
        sliders(answer, x=Slider(0, 1, 0), shuffled=("scam",))


def file_of(content):
    """What a FileUpload holds: a dict by name in ipywidgets 7, a tuple in 8."""
    if ipywidgets.__version__ < "8":
        return {"scan.png": {"metadata": {}, "content": content}}
    about = {"name": "scan.png", "type": "", "size": len(content), "last_modified": datetime.now()}
    return (about | {"content": memoryview(content)},)


def test_an_error_of_the_live_face_is_shown_and_fails_the_check():
    def root(x):
        if x == 2.5:
            raise ZeroDivisionError("<no root>")
        return f"root {x}"

    panel = sliders(root, x=Slider(0.0, 4.0, 1.0, 1.0))
    panel.live.move(x=2.5)  # no drawn frame holds it
    shown = BeautifulSoup(panel.live.area.value, "html.parser").find(role="alert").text
    assert shown == "slider drawing 'root' fails at {'x': 2.5}: <no root>"
    panel.live.move(x=2.6)
    assert panel.live.error is None and "root 2.6" in panel.live.area.value
    sliders(root, x=Slider(1.0, 4.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match=r"'root' fails at \{'x': 2.5\}"):
        check_registered()


def test_a_kernel_gets_both_faces_and_a_call_back_is_quick(monkeypatch):
    def bars(temperature):
        return bars_svg(["normal", "drusen", "cnv"], [temperature, 1, 1], title=f"T = {temperature}", maximum=20)

    panel = sliders(bars, temperature=Slider(0.25, 20.0, 4.0, 0.5, log=True))
    drawn = panel._repr_mimebundle_()
    monkeypatch.setattr(module, "has_kernel", lambda: True)
    bundle = panel._repr_mimebundle_()
    view = bundle.pop(WIDGET_VIEW)
    assert bundle == drawn and view["model_id"] == panel.live.box.model_id
    took = []
    for step in range(20):
        started = time.perf_counter()
        panel.live.move(temperature=0.3 + step)
        took.append(time.perf_counter() - started)
    assert sorted(took)[10] < 0.05
