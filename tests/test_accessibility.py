"""Notebooks, docs, figures and the site for people who listen, use a keyboard, or see colors otherwise.

Colors are told apart in tests/test_figures.py; here the rest: headings, words for pictures, table headers, names of
links, contrast of text in figures, and axe-core over every page in light and dark.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from browsing import CHROMIUM, axe_faults, open_page
from bs4 import BeautifulSoup
from matplotlib.text import Text
from test_figures import linear

from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.show import figures
from kdoct_utils.show.style import SEQUENTIAL, use_style
from kdoct_utils.show.svg import bars_svg, curves_svg

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted((ROOT / "notebooks").rglob("[0-9][0-9]*_*.ipynb"))
TEXTS = [*BOOKS, ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "book" / "index.md"]
AA = 4.5  # WCAG 2.2, 1.4.3: contrast of text
COLORS = "red|green|blue|orange|purple|violet|yellow|pink|brown|gr[ae]y"
MARKS = "line|curve|bar|dot|point|area|band|box|cell|row|column|text|one"
VAGUE = {"here", "this", "link", "click here", "this notebook", "there", "more"}


def read(path):
    """Of a notebook or page: its Markdown without code between fences, and the outputs of its code."""
    text, outputs = path.read_text(encoding="utf-8"), []
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), outputs


def html_of(output):
    return BeautifulSoup("".join(output.get("data", {}).get("text/html", "")), "html.parser")


# --- notebooks and docs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_text_can_be_heard(path):
    prose, outputs = read(path)
    said = [prose, *("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)]

    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", prose, re.M)]
    assert levels[0] == 1 and levels.count(1) == 1, "one title"
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), "a level is skipped"
    assert not re.search(r"^#{1,6} ", "\n".join(said[1:]), re.M), "what is computed has no headings"

    for part in said:
        for head in re.findall(r"^(\|.*\|)\n\|[ :|-]+\|$", part, re.M):
            names = [name.strip() for name in re.split(r"(?<!\\)\|", head)[1:-1]]
            assert all(names[1:]), head  # only the corner may be empty
        links = {name.strip(" *`").lower() for name in re.findall(r"(?<!!)\[([^\[\]]+)\]\(", part)}
        assert not VAGUE & links
        folds = re.findall(r"<details>\s*<summary>(.*?)</summary>", part, re.S)
        assert part.count("<details") == len(folds) == part.count("</details>") and all(map(str.strip, folds))
        found = re.search(rf"\b(?:{COLORS})\s+(?:{MARKS})s?\b|\bin (?:{COLORS})\b", part, re.I)
        assert not found, f"{found[0]!r}: name the mark by its label, shape or place as well"
    told = re.findall(r"!\[([^\]]*)\]\((?!https://(?:mybinder|colab))", prose) if path.suffix == ".ipynb" else []
    for output in outputs:
        page = html_of(output)
        for table in page.find_all("table"):
            assert table.find("caption").text.strip() and table.select('thead th[scope="col"]')
        if "image/png" in output.get("data", {}):
            told.append(output["metadata"]["image/png"]["alt"])
        told += [picture.get("alt", "") for picture in page.find_all("img")]
        told += [drawing.get("aria-label", "") for drawing in page.find_all("svg")]
    assert all(len(words) > 20 for words in told)  # of every picture


# --- text in figures -------------------------------------------------------------------------------------------------


def contrast(one, other):
    low, high = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (one, other))  # luminance
    return (high + 0.05) / (low + 0.05)


def test_text_of_figures_and_drawings_can_be_read():
    use_style()
    scan = np.random.default_rng(0).integers(0, 200, (32, 48)).astype(np.uint8)
    mask = np.repeat([0, 1, 2, 3], 8)[:, None] * np.ones((1, 48), dtype=int)
    lines = {name: [0, 1] for name in CLASS_NAMES}
    for figure in (
        figures.class_bars(np.full((2, 4), 0.25), CLASS_NAMES, ["a", "b"], title="t"),
        figures.curves([1, 2], lines, xlabel="x", ylabel="y", title="t"),
        figures.layer_overlay(scan, mask, ["none", "A", "B", "C"], title="t"),
        figures.interval_plot({"a": (1, 0, 2)}, xlabel="x", title="t", reference=0, reference_label="none"),
    ):
        texts = [item for item in figure.findobj(Text) if item.get_text().strip()]
        assert texts and all(contrast(item.get_color(), "white") >= AA for item in texts)
        plt.close(figure)
    for share in (0, 25, 40, *range(44, 51)):  # contrast is least where the text changes from white to black
        figure = figures.confusion_matrix([[share, 100 - share], [0, 1]], ("normal", "cnv"), title="t")
        for item, value in zip(figure.axes[0].texts[:2], (share, 100 - share), strict=True):
            assert contrast(item.get_color(), plt.get_cmap(SEQUENTIAL)(value / 100)) >= AA, value
        plt.close(figure)
    curves = curves_svg([0, 1], {"a": [0, 1], "b": [1, 0]}, title="t", xlabel="x", ylabel="y", ylim=(0, 1), mark=0.5)
    bars = bars_svg(["normal", "drusen"], [1, 2], title="t", reference=[1, 1], reference_label="before")
    for page in (BeautifulSoup(drawing, "html.parser") for drawing in (bars, curves)):
        assert page.select_one('svg[role="img"]')["aria-label"].strip()
        assert all(contrast(item.get("fill") or "black", "white") >= AA for item in page.find_all("text"))
    assert len({item.get("stroke-dasharray") for item in page.find_all("polyline")}) == 2  # more than color
    assert {"a", "b"} <= {item.text for item in page.find_all("text")}


# --- pages in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["light", "dark"])
def axe(request):
    """Finds what axe-core finds on a page: rule -> the first elements that break it."""
    if CHROMIUM is None or not all(map(importlib.util.find_spec, ("playwright", "axe_playwright_python"))):
        pytest.skip("no Chromium, or no playwright, or no axe-playwright-python")
    only = ["color-contrast"] if request.param == "dark" else None  # nothing else differs
    with open_page(color_scheme=request.param) as page:

        def find(path, **context):
            page.goto(path.as_uri())
            return axe_faults(page, context or None, only)

        yield find


@pytest.mark.slow
def test_every_page_of_the_site_passes_axe(axe, site):
    paths = sorted(site.rglob("*.html"))  # code in colors takes axe a second a page: one is looked at below
    faults = {path.relative_to(site).as_posix(): axe(path, exclude=[[".highlight"]]) for path in paths}
    assert {name: found for name, found in faults.items() if found} == {} and len(paths) > 10
    assert axe(site / "notebooks" / "00_start_here.html", include=[[".highlight"]]) == {}


@pytest.mark.slow
def test_the_report_of_a_run_passes_axe(axe, tmp_path):
    from kdoct_utils.course.report import report_run
    from kdoct_utils.runs import open_run

    run = open_run(tmp_path / "run", profile="smoke", dataset="phantom", seed=0)
    score = {"accuracy": 0.9, "interval": [0.88, 0.94], "n_scans": 10, "n_patients": 4, "seeds": 1}
    run.update_metrics("student_kd", score | {"confusion": [[9, 1], [0, 10]], "class_names": ["normal", "cnv"]})
    run.update_metrics("kd_gain", {"estimate": 0.01, "low": -0.02, "high": 0.04, "seeds": 3})
    run.update_metrics("notebooks", {"00": {"seconds": 3.0, "peak_mb": 800.0}})
    run.notebooks_dir.mkdir()
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", run.notebooks_dir)
    assert axe(report_run(run)) == {}
