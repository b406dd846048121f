"""Drawings for sliders: they hold what they were given, say it in words, and leave room for a wide font."""

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image, ImageFont

from kdoct_utils.phantom.anatomy import VISIBLE_DRUSE_UM, draw_patient
from kdoct_utils.show.explorers import (
    SPLIT_KEY,
    plan_of,
    plan_svg,
    pushes_svg,
    scaled_lesions,
    seen_of_tested,
    split_svg,
)
from kdoct_utils.show.style import CLASS_LOOKS
from kdoct_utils.show.svg import bars_svg, curves_svg, framed_svg, scan_html, svg_prose

TABLE = pd.DataFrame({"group": ["a", "a", "b", "b", "c", "c"], "label": ["normal"] * 2 + ["cnv"] * 4})


def tree(drawing):
    return BeautifulSoup(drawing, "html.parser").svg


def texts(drawing):
    return [text.get_text() for text in tree(drawing).find_all("text")]


def bar_lengths(drawing):
    return [float(bar["width"]) for bar in tree(drawing).find_all("rect")[1:]]  # the first is the ground


# --- bars, curves, scans ---------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_values_and_read_out_and_curves_run_between_the_corners():
    svg = bars_svg(["normal", "cnv", "x<y"], [0.5, 0.25, 0], title="T = 4 & more", maximum=1)
    np.testing.assert_allclose(bar_lengths(svg), [180, 90, 0], atol=0.1)
    root = tree(svg)
    assert root["role"] == "img" and root.title.text == "T = 4 & more"
    assert root.desc.text == "normal 0.500; cnv 0.250; x<y 0.000"
    assert root.find_all("rect")[2]["fill"] == CLASS_LOOKS["cnv"].color
    assert {"CNV", "x<y", "0.250"} <= set(texts(svg))
    curves = curves_svg([0, 1, 2], {"rising": [0, 5, 10]}, title="t", xlabel="x", ylabel="y", ylim=(0, 10), mark=1)
    assert tree(curves).polyline["points"] == "56.0,256.0 243.0,146.0 430.0,36.0"  # between the corners
    with pytest.raises(ValueError, match="'rising' needs 2 finite"):
        curves_svg([0, 1], {"rising": [0, np.nan]}, title="t", xlabel="x", ylabel="y", ylim=(0, 1))
    for values in ([-1, 1], [float("nan"), 1]):
        with pytest.raises(ValueError):
            bars_svg(["a", "b"], values, title="t")


def test_a_scan_is_shown_pixel_by_pixel_with_its_words():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tag = BeautifulSoup(scan_html(image, 'a "scan" & more', width=80), "html.parser").img
    assert tag["alt"] == 'a "scan" & more' and tag["width"] == "80" and "pixelated" in tag["style"]
    data = base64.b64decode(tag["src"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


# --- text fits whatever the font -------------------------------------------------------------------------------------


def test_lines_that_could_be_too_long_are_squeezed_and_prose_is_broken():
    long = tree(framed_svg("A title " * 20, "words", 560, 40, [])).find("text")
    assert float(long["textlength"]) == 544 and tree(framed_svg("short", "w", 560, 40, [])).find("text")["x"] == "8"
    assert not tree(framed_svg("short", "w", 560, 40, [])).find("text").has_attr("textlength")
    lines = svg_prose(8, 20, SPLIT_KEY, 584)
    assert len(lines) == 2 and " ".join(tree(f"<svg>{line}</svg>").text for line in lines) == SPLIT_KEY
    wide = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 12)
    assert all(wide.getlength(tree(f"<svg>{line}</svg>").text) <= 584 for line in lines)


# --- notebook 01 -----------------------------------------------------------------------------------------------------


def test_a_split_is_counted_and_marked():
    svg = split_svg(TABLE, ["train", "test", "test", "test", "train", "validation"], title="t")
    found = texts(svg)
    assert found.count("T") == 3 and found.count("V") == 1 and found.count("x") == 1
    assert "1 of 2 test patients were seen in training." in found
    assert "3 scans test" in tree(svg)["aria-label"] and "1 of 2" in tree(svg)["aria-label"]
    # validation alone is not training
    assert seen_of_tested(TABLE, ["validation", "test", "train", "train", "train", "train"]) == (0, 1)


def test_lesions_grow_the_label_follows_and_the_eye_stays():
    eye = draw_patient("drusen", 10)
    before = eye.lesions.drusen.copy()
    plans = {times: plan_of(scaled_lesions(eye, times), 0.0) for times in (0.25, 0.5, 1.0, 1.5, 2.0)}
    assert plans[2.0]["lift"] == pytest.approx(4 * plans[0.5]["lift"], rel=1e-3)
    assert plans[1.0]["lift"] == plan_of(eye, 0.0)["lift"]
    np.testing.assert_array_equal(eye.lesions.drusen, before)
    for plan in plans.values():
        assert plan["label"] == ("drusen" if plan["lift"] >= VISIBLE_DRUSE_UM else "normal")
    quiet = plan_svg(draw_patient("normal", 4), 0.0, title="a plan")
    places = [float(text["y"]) for text in tree(quiet).find_all("text") if text.get("font-size") == "12"]
    assert (np.diff(places) >= 12).all()  # names do not touch


# --- notebooks 03 and 05 ---------------------------------------------------------------------------------------------


def test_pushes_are_drawn_to_both_sides():
    pushes = {"teacher": np.array([0.2, -0.1, -0.1]), "label": np.array([-0.4, 0.6, -0.2])}
    pushes["sum"] = pushes["teacher"] + pushes["label"]
    svg = pushes_svg(pushes, ("normal", "drusen", "cnv"), limit=1.0, title="Pushes <now>")
    bars = [(float(bar["x"]), float(bar["width"])) for bar in tree(svg).find_all("rect") if bar.get("height") in "8 10"]
    zero = 130 + 330 / 2
    assert len(bars) == 9 + 3  # and the legend
    assert bars[0] == (zero, 33.0) and bars[1] == (pytest.approx(zero - 66), 66.0)
    assert "Pushes &lt;now&gt;" in svg and "CNV -0.300" in svg
