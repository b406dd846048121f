"""Sliders: every drawing is made beforehand and kept small, errors are seen, readers without scripts get words.

What a browser makes of them is tested in test_browser.py.
"""

import base64
import json
import zlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup

from kdoct_utils.show import sliders as module
from kdoct_utils.show.sliders import Choice, Slider, check_registered, sliders
from kdoct_utils.show.svg import scan_html


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
    assert set(bundle) == {"text/html", "text/plain"}  # a widget view shows as "VBox(...)" where nothing draws it
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
