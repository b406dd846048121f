"""What a notebook shows: small pictures true to their colors, words for every reader, tables with headers."""

import base64
import io
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image

from kdoct_utils.show import output
from kdoct_utils.show.figures import scan_grid
from tools.publish import carry_outputs

rng = np.random.default_rng(0)


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(output, "display", lambda data, raw=False, metadata=None: shown.append((data, metadata or {})))
    yield shown
    plt.close("all")


def test_png_is_small_and_true_to_color(displayed):
    figure, axis = plt.subplots()
    axis.plot(range(10), color="#0072B2")
    axis.plot([5], [2], marker="o", markersize=5, color="#D55E00")  # a small spot must keep its color
    png = output.figure_png(figure, description="a line and a spot")
    picture = Image.open(io.BytesIO(png))
    assert len(png) < 40_000 and picture.mode == "P" and picture.text["Description"] == "a line and a spot"
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for wanted in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (255, 255, 255)):
        assert np.abs(pixels - wanted).max(axis=1).min() <= 12
    for largest_kb in (1000, 1):  # speckle gives up colors for the size that a notebook can spare
        figure = scan_grid(list(rng.integers(0, 255, (4, 96, 96)).astype(np.uint8)))
        output.show(figure, alt="speckle", takeaway="It is grainy.", largest_kb=largest_kb)
    roomy, tight = (picture["image/png"] for picture, _ in displayed[::2])
    assert len(tight) < 0.7 * len(roomy) and len(Image.open(io.BytesIO(tight)).getcolors()) <= 16
    for words in ({"alt": " ", "takeaway": "x"}, {"alt": "x", "takeaway": ""}):
        with pytest.raises(ValueError, match="alt=.*takeaway="):
            output.show(plt.figure(), **words)


def test_show_reaches_every_reader(displayed):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    alt = 'Accuracy rises from .6 to .9 & stays "there" <always>.'
    output.show(figure, alt=alt, takeaway="KD adds **7 points**.")
    (picture, metadata), (prose, _) = displayed
    assert not plt.fignum_exists(figure.number)
    about = metadata["image/png"]
    kept = Image.open(io.BytesIO(picture["image/png"])).width  # sharper than it is shown
    assert about["alt"] == alt and about["width"] == pytest.approx(kept / 2, abs=1)
    assert picture["text/plain"] == alt
    assert prose["text/markdown"].startswith("**Takeaway:** KD adds **7 points**.")
    assert "<always>" not in prose["text/markdown"]
    encoded = {**picture, "image/png": base64.b64encode(picture["image/png"]).decode()}
    saved = [nbformat.v4.new_output("display_data", encoded, metadata=metadata),
             nbformat.v4.new_output("display_data", prose)]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=saved)])
    nbformat.validate(notebook)
    page = BeautifulSoup(HTMLExporter().from_notebook_node(output.with_alt_text(notebook))[0], "html.parser")
    assert [(image["alt"], image["width"]) for image in page.select("main img")] == [(alt, str(about["width"]))]
    assert page.select_one("main details").text == "Figure in words" + alt
    assert "image/png" in notebook.cells[0].outputs[0].data, "the notebook itself is left alone"


def test_progress_bars_are_left_out_and_other_widgets_keep_their_html():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab"}, "text/plain": "training: 0%"}
    bar = {"output_type": "display_data", "data": view, "metadata": {}}
    slider = bar | {"data": view | {"text/html": "<b>a drawing</b>"}}
    saved = [nbformat.from_dict(one) for one in (bar, slider)]
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()", outputs=saved)])
    executed.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"ab": {}}}}
    page = HTMLExporter().from_notebook_node(output.with_alt_text(executed))[0]
    assert "training: 0%" not in page and "<b>a drawing</b>" in page and "html-manager" not in page
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()")])
    carry_outputs(source, executed, "bars.ipynb")
    twin = {"text/plain": "training: 0%", "text/html": "<b>a drawing</b>"}
    assert source.cells[0].outputs == [bar | {"data": twin}]


def test_table_has_headers_and_a_plain_twin(displayed):
    frame = pd.DataFrame(
        {"accuracy": [0.91234, np.nan], "scans": [10, 20], "note": ["a<b", None]}, index=["teacher", "KD"]
    )
    output.show_table(frame, "Results & more")
    data = displayed[0][0]
    table = ElementTree.fromstring(data["text/html"])
    assert table.find("caption").text == "Results & more"
    assert [cell.text for cell in table.findall("thead/tr/th[@scope='col']")] == ["accuracy", "scans", "note"]
    assert [cell.text for cell in table.findall("tbody/tr/th[@scope='row']")] == ["teacher", "KD"]
    cells = [[cell.text for cell in row.findall("td")] for row in table.findall("tbody/tr")]
    assert cells == [["0.912", "10", "a<b"], ["–", "20", "–"]]
    assert data["text/plain"].splitlines()[0] == "Results & more" and "0.912" in data["text/plain"]
