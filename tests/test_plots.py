"""Figures: colors told apart by every eye, small files, alternative text where each reader looks for it."""

from __future__ import annotations

import base64
import io
import weakref
from itertools import combinations
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb
from nbconvert import HTMLExporter
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.show import output as outputs
from kdoct_utils.show import style as plots
from tools.publish import carry_outputs

# Linear-RGB matrices for full color-vision deficiency: Machado, Oliveira and Fernandes 2009.
SIGHT = {
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
rng = np.random.default_rng(0)
SCAN = rng.integers(0, 200, (32, 48)).astype(np.uint8)


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(
        outputs, "display", lambda data, raw=False, metadata=None: shown.append((data, metadata or {}))
    )
    return shown


def linear(color: str) -> np.ndarray:
    value = np.array(to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def seen(color: str, sight: str) -> np.ndarray:
    """The color in CIE Lab as that sight has it."""
    value = np.clip(np.asarray(SIGHT[sight]) @ linear(color), 0, 1)
    value = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    return rgb2lab(value[None, None])[0, 0]


@pytest.mark.parametrize("looks", [plots.CLASS_LOOKS, plots.ARM_LOOKS], ids=["classes", "arms"])
@pytest.mark.parametrize("sight", SIGHT)
def test_colors_differ_for_every_sight(looks, sight):
    colors = [item.color for item in looks.values()]
    differences = [deltaE_ciede2000(seen(a, sight), seen(b, sight)) for a, b in combinations(colors, 2)]
    assert min(differences) > 12


@pytest.mark.parametrize("looks", [plots.CLASS_LOOKS, plots.ARM_LOOKS], ids=["classes", "arms"])
def test_looks_have_a_second_cue_and_contrast(looks):
    assert len({item.marker for item in looks.values()}) == len(looks)
    assert len({item.hatch for item in looks.values()}) == len(looks)
    for item in looks.values():
        luminance = linear(item.color) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3, f"{item.label}: WCAG asks 3:1 of graphics on white"


def test_looks_cover_the_classes_and_unknown_names_are_refused():
    assert tuple(plots.CLASS_LOOKS) == CLASS_NAMES
    with pytest.raises(ValueError, match="'amd'.*normal.*student_kd"):
        plots.look("amd")


def test_diverging_map_survives_grey():
    lightness = rgb2lab(plots.DIVERGING(np.linspace(0, 1, 64))[None, :, :3])[0, :, 0]
    assert (np.diff(lightness) > 0).all()


def test_png_is_small_and_true_to_color():
    figure, axis = plt.subplots()
    axis.plot(range(10), color="#0072B2")
    axis.plot([5], [2], marker="o", markersize=5, color="#D55E00")  # a small spot must keep its color
    png = plots.figure_png(figure, description="a line and a spot")
    picture = Image.open(io.BytesIO(png))
    assert len(png) < 20_000 and picture.mode == "P" and picture.text["Description"] == "a line and a spot"
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for wanted in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (255, 255, 255)):
        assert np.abs(pixels - wanted).max(axis=1).min() <= 12


def test_png_of_speckle_gives_up_colors_for_size():
    figure = plots.scan_grid([rng.integers(0, 255, (96, 96)).astype(np.uint8) for _ in range(4)])
    roomy, tight = plots.figure_png(figure, largest_kb=1000), plots.figure_png(figure, largest_kb=1)
    assert len(tight) < 0.7 * len(roomy)
    assert len(Image.open(io.BytesIO(tight)).getcolors()) <= 16


def test_show_takes_the_size_that_a_notebook_can_spare(displayed):
    for largest_kb in (1000, 1):
        figure = plots.scan_grid([rng.integers(0, 255, (96, 96)).astype(np.uint8)])
        plots.show(figure, alt="speckle", takeaway="It is grainy.", largest_kb=largest_kb)
    roomy, tight = (picture["image/png"] for picture, _ in displayed[::2])
    assert len(tight) < 0.7 * len(roomy)


def test_show_leaves_no_figure_in_memory(displayed):
    def show_one():
        figure = plots.scan_grid([np.zeros((96, 96), np.uint8)])
        plots.show(figure, alt="black", takeaway="It is gone.")
        return weakref.ref(figure.axes[0])

    seen = show_one()
    plots.show(plt.figure(), alt="empty", takeaway="Showing collects what went before.")
    assert seen() is None


def test_show_reaches_every_reader(displayed):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    alt = 'Accuracy rises from .6 to .9 & stays "there" <always>.'
    plots.show(figure, alt=alt, takeaway="KD adds **7 points**.")
    (picture, metadata), (prose, _) = displayed
    assert not plt.fignum_exists(figure.number)
    assert metadata == {"image/png": {"alt": alt}} and picture["text/plain"] == alt
    assert prose["text/markdown"].startswith("**Takeaway:** KD adds **7 points**.") and "<always>" not in prose[
        "text/markdown"
    ]
    saved = [
        nbformat.v4.new_output(
            "display_data",
            {**picture, "image/png": base64.b64encode(picture["image/png"]).decode()},
            metadata=metadata,
        ),
        nbformat.v4.new_output("display_data", prose),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=saved)])
    nbformat.validate(notebook)
    page = BeautifulSoup(HTMLExporter().from_notebook_node(plots.with_alt_text(notebook))[0], "html.parser")
    assert [image["alt"] for image in page.select("main img")] == [alt]
    assert page.select_one("main details").text == "Figure in words" + alt
    assert page.select_one("main strong + strong").text == "7 points"
    assert "image/png" in notebook.cells[0].outputs[0].data, "the notebook itself is left alone"


def test_progress_bars_are_left_out_and_other_widgets_keep_their_html():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab"}, "text/plain": "training: 0%"}
    bar = {"output_type": "display_data", "data": view, "metadata": {}}
    slider = bar | {"data": view | {"text/html": "<b>a drawing</b>"}}
    saved = [nbformat.from_dict(one) for one in (bar, slider)]
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()", outputs=saved)])
    executed.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"ab": {}}}}
    page = HTMLExporter().from_notebook_node(plots.with_alt_text(executed))[0]
    assert "training: 0%" not in page and "<b>a drawing</b>" in page and "html-manager" not in page
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()")])
    carry_outputs(source, executed, "bars.ipynb")
    twin = {"text/plain": "training: 0%", "text/html": "<b>a drawing</b>"}
    assert source.cells[0].outputs == [bar | {"data": twin}]


@pytest.mark.parametrize("words", [{"alt": " ", "takeaway": "x"}, {"alt": "x", "takeaway": ""}])
def test_show_wants_words(words, displayed):
    with pytest.raises(ValueError, match="alt=.*takeaway="):
        plots.show(plt.figure(), **words)
    assert displayed == []


def test_table_has_headers_and_a_plain_twin(displayed):
    frame = pd.DataFrame(
        {"accuracy": [0.91234, np.nan], "scans": [10, 20], "note": ["a<b", None]}, index=["teacher", "KD"]
    )
    plots.show_table(frame, "Results & more")
    data = displayed[0][0]
    table = ElementTree.fromstring(data["text/html"])
    assert table.find("caption").text == "Results & more"
    assert [cell.text for cell in table.findall("thead/tr/th[@scope='col']")] == ["accuracy", "scans", "note"]
    assert [cell.get("style")[11:] for cell in table.findall("thead/tr/th")] == ["right", "right", "left"]
    assert [cell.text for cell in table.findall("thead/tr/td")] == [None]  # an empty corner heads nothing
    assert [cell.text for cell in table.findall("tbody/tr/th[@scope='row']")] == ["teacher", "KD"]
    cells = [[cell.text for cell in row.findall("td")] for row in table.findall("tbody/tr")]
    assert cells == [["0.912", "10", "a<b"], ["–", "20", "–"]]
    assert data["text/plain"].splitlines()[0] == "Results & more" and "0.912" in data["text/plain"]


def texts(figure) -> list[str]:
    return [item.get_text() for item in figure.findobj(matplotlib.text.Text) if item.get_text()]


def test_confusion_matrix_writes_counts_and_row_percentages():
    figure = plots.confusion_matrix([[3, 1], [0, 0]], ["normal", "cnv"], title="A message")
    assert {"3\n75%", "1\n25%", "0\n–", "A message", "CNV", "predicted class"} <= set(texts(figure))
    with pytest.raises(ValueError, match="normal, cnv"):
        plots.confusion_matrix([[1]], ["normal", "cnv"], title="x")


def test_interval_plot_draws_the_interval_in_the_arm_look():
    figure = plots.interval_plot({"student_kd": (0.8, 0.7, 0.85), "mine": (0.1, 0, 0.2)}, xlabel="accuracy", title="t")
    line, bars = figure.axes[0].containers[0][0], figure.axes[0].containers[0][2][0]
    assert line.get_color() == plots.ARM_LOOKS["student_kd"].color and line.get_marker() == "P"
    np.testing.assert_allclose(bars.get_segments()[0], [[0.7, 0], [0.85, 0]])
    assert {"student, KD", "mine", "accuracy (95% interval)", "0.800  [0.700, 0.850]"} <= set(texts(figure))
    with pytest.raises(ValueError, match="mine.*does not hold"):
        plots.interval_plot({"mine": (0.9, 0.1, 0.2)}, xlabel="x", title="t")


def test_overlays_name_what_is_there_and_refuse_unnamed_indices():
    mask = np.zeros_like(SCAN, dtype=int)
    mask[5:10], mask[15:20, :20] = 1, 2
    layered = plots.layer_overlay(SCAN, mask, ["none", "RNFL", "RPE"])
    assert {"RNFL", "RPE"} <= set(texts(layered))
    assert len(layered.axes[1].collections) == 2 and not layered.axes[0].collections  # an outline a layer, tinted side
    assert {"drusen", "fluid"} <= set(texts(plots.lesion_overlay(SCAN, mask, ["none", "drusen", "fluid"])))
    assert "no lesion in this scan" in texts(plots.lesion_overlay(SCAN, 0 * mask, ["none"]))
    for overlay in (plots.layer_overlay, plots.lesion_overlay):
        with pytest.raises(ValueError, match="index 2 has no name"):
            overlay(SCAN, mask, ["none", "RNFL"])
        with pytest.raises(ValueError, match="equal"):
            overlay(SCAN, mask[1:], ["none", "a", "b"])


def test_learning_curves_mark_averaged_weights_and_name_missing_columns():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 2],
            "train_loss": [1.0, 0.5, 0.5],
            "validation_loss": [1.1, 0.8, 0.7],
            "validation_accuracy": [0.5, 0.6, 0.7],
            "weights": ["best", "best", "swa"],
        }
    )
    lines = {line.get_label(): line for line in plots.learning_curves(history, title="t").axes[0].get_lines()}
    assert list(lines["training"].get_ydata()) == [1.0, 0.5]
    assert list(lines["validation, SWA"].get_ydata()) == [0.7]
    with pytest.raises(ValueError, match="lacks train_loss, validation_accuracy"):
        plots.learning_curves(history[["epoch", "validation_loss"]], title="t")


def test_grid_and_curves():
    figure = plots.scan_grid([SCAN] * 5, list("abcde"), title="A long title that says something about the scans " * 3)
    assert len(figure.axes) == 8 and set("abcde") <= set(texts(figure))
    with pytest.raises(ValueError, match="5 images for 1 titles"):
        plots.scan_grid([SCAN] * 5, ["a"])
    figure = plots.curves([1, 2], {"normal": [1, 2], "x": [2, 3]}, xlabel="T", ylabel="nats", title="t")
    assert figure.axes[0].get_lines()[0].get_color() == plots.CLASS_LOOKS["normal"].color


def test_class_bars_have_the_values_and_the_class_look():
    values = [[0.85, 0.15], [0.6, 0.4]]
    figure = plots.class_bars(values, ["drusen", "cnv"], ["T = 1", "T = 4"], title="t")
    drusen, cnv = figure.axes[0].containers
    assert [bar.get_height() for bar in drusen] == [0.85, 0.6] and [bar.get_height() for bar in cnv] == [0.15, 0.4]
    assert cnv[0].get_facecolor() == matplotlib.colors.to_rgba(plots.CLASS_LOOKS["cnv"].color)
    assert {"T = 1", "T = 4", "0.85", "0.40", "CNV"} <= set(texts(figure))
    with pytest.raises(ValueError, match="2 groups of 3 classes"):
        plots.class_bars(values, ["normal", "drusen", "cnv"], ["a", "b"], title="t")
