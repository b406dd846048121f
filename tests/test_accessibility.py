"""Notebooks, docs, figures and the site for people who listen, use a keyboard, or see colors otherwise.

Colors are told apart in tests/test_figures.py; here the rest: headings, words for pictures, table headers, names of
links, contrast of text in figures, and axe-core over every page in light and dark.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from browsing import CHROMIUM, open_page
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.show import figures
from kdoct_utils.show.style import SEQUENTIAL, use_style
from kdoct_utils.show.svg import bars_svg, curves_svg, scan_html

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted((ROOT / "notebooks").rglob("[0-9][0-9]_*.ipynb"))
TEXTS = [*BOOKS, ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "book" / "index.md"]
AA = 4.5  # WCAG 2.2, 1.4.3: contrast of text
COLORS = "red|green|blue|orange|purple|violet|yellow|pink|brown|gr[ae]y"
MARKS = "line|curve|bar|dot|point|area|band|box|cell|row|column|text|one"
has = importlib.util.find_spec


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def prose(path):
    """Markdown that a reader sees, without code between fences."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        text = "\n\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell["outputs"]] if path.suffix == ".ipynb" else []


def said(path):
    """The prose, and what code cells say in Markdown."""
    return [prose(path), *("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs(path))]


@pytest.fixture(params=TEXTS, ids=name_of)
def text(request):
    return request.param


@pytest.fixture(params=BOOKS, ids=name_of)
def book(request):
    return request.param


# --- notebooks and docs ----------------------------------------------------------------------------------------------


def test_one_title_and_no_level_is_skipped(text):
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", prose(text), re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert not re.search(r"^#{1,6} ", "\n".join(said(text)[1:]), re.M)  # what is computed has no headings


def test_every_picture_is_told_in_words(book):
    told = re.findall(r"!\[([^\]]*)\]\((?!https://(?:mybinder|colab))", prose(book))
    for output in outputs(book):
        data = output.get("data", {})
        if "image/png" in data:
            told.append(output["metadata"]["image/png"]["alt"])
        page = BeautifulSoup("".join(data.get("text/html", "")), "html.parser")
        told += [picture.get("alt", "") for picture in page.find_all("img")]
        told += [drawing.get("aria-label", "") for drawing in page.find_all("svg")]
    assert all(len(words) > 20 for words in told)


def test_every_table_has_headers(text):
    for part in said(text):
        for head in re.findall(r"^(\|.*\|)\n\|[ :|-]+\|$", part, re.M):
            names = [name.strip() for name in re.split(r"(?<!\\)\|", head)[1:-1]]
            assert all(names[1:]), head  # only the corner may be empty
    for output in outputs(text):
        page = BeautifulSoup("".join(output.get("data", {}).get("text/html", "")), "html.parser")
        for table in page.find_all("table"):
            assert table.find("caption").text.strip() and table.select('thead th[scope="col"]')


def test_links_and_folds_say_what_they_lead_to(text):
    for part in said(text):
        names = re.findall(r"(?<!!)\[([^\[\]]+)\]\(", part)
        vague = {"here", "this", "link", "click here", "this notebook", "there", "more"}
        assert not vague & {name.strip(" *`").lower() for name in names}
        folds = re.findall(r"<details>\s*<summary>(.*?)</summary>", part, re.S)
        assert part.count("<details") == len(folds) == part.count("</details>") and all(map(str.strip, folds))


def test_no_meaning_in_color_alone(text):
    for part in said(text):
        found = re.search(rf"\b(?:{COLORS})\s+(?:{MARKS})s?\b|\bin (?:{COLORS})\b", part, re.I)
        assert not found, f"{found[0]!r}: name the mark by its label, shape or place as well"


# --- text in figures -------------------------------------------------------------------------------------------------


def contrast(one, other):
    def luminance(color):
        value = np.array(to_rgba(color)[:3])
        value = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return float(value @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("black", "white") == pytest.approx(21) and contrast("#767676", "white") == pytest.approx(4.54, 0.01)


rng = np.random.default_rng(0)
SCAN = rng.integers(0, 200, (32, 48)).astype(np.uint8)
MASK = np.repeat([0, 1, 2, 3], 8)[:, None] * np.ones((1, 48), dtype=int)
HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "val_accuracy": [0.5, 0.7]})
FIGURES = {
    "bars": lambda: figures.class_bars(np.full((2, 4), 0.25), CLASS_NAMES, ["a", "b"], title="t"),
    "curves": lambda: figures.curves([1, 2], {name: [0, 1] for name in CLASS_NAMES}, xlabel="x", ylabel="y", title="t"),
    "layers": lambda: figures.layer_overlay(SCAN, MASK, ["none", "A", "B", "C"], title="t"),
    "grid": lambda: figures.scan_grid([SCAN] * 2, ["a", "b"], title="t"),
    "confusion": lambda: figures.confusion_matrix(rng.integers(0, 40, (4, 4)), CLASS_NAMES, title="t"),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_text_of_figures_can_be_read(kind):
    use_style()
    figure = FIGURES[kind]()
    inside = [item for axis in figure.axes for item in axis.texts if kind == "confusion"]
    texts = [item for item in figure.findobj(Text) if item.get_text().strip() and item not in inside]
    assert texts and all(contrast(item.get_color(), "white") >= AA for item in texts)
    plt.close(figure)


def test_counts_of_a_confusion_matrix_can_be_read_on_every_shade():
    worst = []
    for share in range(101):
        figure = figures.confusion_matrix([[share, 100 - share], [0, 1]], ("normal", "cnv"), title="t")
        for item, value in zip(figure.axes[0].texts[:2], (share, 100 - share), strict=True):
            worst.append((contrast(item.get_color(), plt.get_cmap(SEQUENTIAL)(value / 100)), value))
        plt.close(figure)
    assert min(worst)[0] >= AA, min(worst)


DRAWINGS = {
    "bars": bars_svg(["normal", "drusen"], [1, 2], title="t", reference=[1, 1], reference_label="before"),
    "curves": curves_svg([0, 1], {"a": [0, 1], "b": [1, 0]}, title="t", xlabel="x", ylabel="y", ylim=(0, 1), mark=0.5),
    "scan": scan_html(SCAN, "A scan of noise, for the test."),
}


@pytest.mark.parametrize("kind", DRAWINGS)
def test_drawings_of_sliders_have_a_name_and_dark_text(kind):
    page = BeautifulSoup(DRAWINGS[kind], "html.parser")
    named = [*page.select('svg[role="img"][aria-label]'), *page.select("img[alt]")]
    assert len(named) == 1 and (named[0].get("aria-label") or named[0]["alt"]).strip()
    for item in page.find_all("text"):
        fill = item.get("fill") or re.sub(r".*fill:\s*([^;]+).*", r"\1", item.get("style", "")) or "black"
        assert contrast(fill, "white") >= AA


def test_curves_differ_by_more_than_color():
    page = BeautifulSoup(DRAWINGS["curves"], "html.parser")
    lines = page.find_all("polyline")
    assert len(lines) == 2 and len({item.get("stroke-dasharray") for item in lines}) == 2
    assert {"a", "b"} <= {item.text for item in page.find_all("text")}  # and each has its name beside it


# --- pages in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["light", "dark"])
def axe(request):
    """Finds what axe-core finds on a page: rule -> the first elements that break it."""
    if CHROMIUM is None or not has("playwright") or not has("axe_playwright_python"):
        pytest.skip("no Chromium, or no playwright, or no axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    with open_page(color_scheme=request.param) as page:

        def find(path, **context):
            page.goto(path.as_uri())
            options = {"resultTypes": ["violations"], "preload": False}
            if request.param == "dark":
                options["runOnly"] = ["color-contrast"]  # nothing else differs
            found = Axe().run(page, context=context or None, options=options)
            return {
                rule["id"]: [node["html"][:150] for node in rule["nodes"][:3]] for rule in found.response["violations"]
            }

        yield find


def test_every_page_of_the_site_passes_axe(axe, site):
    paths = sorted(site.rglob("*.html"))
    faults = {}
    for path in paths:  # code in colors takes axe a second a page: it is looked at below
        if found := axe(path, exclude=[[".highlight"]]):
            faults[path.relative_to(site).as_posix()] = found
    assert faults == {} and len(paths) > 10


def test_colors_of_code_pass_axe(axe, site):
    assert axe(site / "notebooks" / "00_start_here.html", include=[[".highlight"]]) == {}


def test_the_report_of_a_run_passes_axe(axe, tmp_path):
    from kdoct_utils.course.report import report_run
    from kdoct_utils.runs import open_run

    run = open_run(tmp_path / "run", profile="smoke", dataset="phantom", seed=0)
    run.update_metrics("teacher", {"accuracy": 0.91, "interval": [0.88, 0.94], "n_scans": 10, "n_patients": 4})
    run.update_metrics("kd_gain", {"estimate": 0.01, "low": -0.02, "high": 0.04, "seeds": 3})
    run.update_metrics("notebooks", {"00": {"seconds": 3.0, "peak_mb": 800.0}})
    run.notebooks_dir.mkdir()
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", run.notebooks_dir)
    assert axe(report_run(run)) == {}
