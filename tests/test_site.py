"""The site: every page, link, anchor and picture; no network; sliders, search and dark theme in a browser."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from browsing import CHROMIUM, open_page
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "book" / "build.py"
NOTEBOOKS = [path.relative_to(ROOT) for path in (ROOT / "notebooks").rglob("[0-9][0-9]*_*.ipynb")]
pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no Chromium, or no playwright"
)


@pytest.fixture(scope="module")
def pages(site):
    """Path in the site -> the parsed page."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
    }


# --- the whole site --------------------------------------------------------------------------------------------------


def test_every_link_and_anchor_leads_somewhere_and_nothing_is_loaded_from_elsewhere(pages, site):
    anchors = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    dead, followed = [], 0
    for name, page in pages.items():
        for tag in page.find_all(["script", "img", "iframe", "link"]):
            source = tag.get("src") or (tag.get("href") if tag.name == "link" else "") or ""
            assert not re.match(r"(https?:)?//", source), f"{name}: {source}"
        assert not page.select("script:-soup-contains('require.js')")
        for tag in page.find_all(["a", "img", "script", "link"]):
            target = tag.get("href") or tag.get("src") or ""
            if re.match(r"(https?|mailto|data):", target) or target in ("", "#"):
                continue
            place, anchor = urldefrag(target)
            file = (site / name).parent / unquote(place.partition("?")[0]) if place else site / name
            inside = file.resolve().relative_to(site.resolve()).as_posix()
            followed += 1
            if not file.exists() or (anchor and inside in anchors and unquote(anchor) not in anchors[inside]):
                dead.append(f"{name}: {target}")
    assert dead == [] and followed > 500


def test_a_notebook_loses_nothing_on_its_way_to_the_page(pages):
    for source in NOTEBOOKS:
        page = pages[source.with_suffix(".html").as_posix()]
        cells = json.loads((ROOT / source).read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        pictures = [alt for cell in cells for alt in re.findall(r"!\[([^\]]*)\]\(attachment:", "".join(cell["source"]))]
        pictures += [one["metadata"]["image/png"]["alt"] for one in outputs if "image/png" in one.get("data", {})]
        assert sorted(image["alt"] for image in page.select("article img")) == sorted(pictures), source
        html = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
        assert len(page.select("kdoct-slider")) == sum("<kdoct-slider" in text for text in html), source
        assert len(page.select("article .text_html table")) == sum(text.count("<table") for text in html), source
        assert len(page.select(".cell_input")) == len(code), source
        solutions = sum("solution" in cell["metadata"].get("tags", []) for cell in code)
        hidden = sum("google.colab" in "".join(cell["source"])  # the setup for Colab, and other plumbing
                     or cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in code)
        assert len(page.select("details.hide")) == solutions + hidden, source
    docs = [path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")]
    wanted = [path.with_suffix(".html").as_posix() for path in [*NOTEBOOKS, *docs]]
    assert "index.html" in pages and len({pages[name].title.text for name in wanted}) == len(wanted)
    page = pages["notebooks/02_focal_loss.html"]  # formulas are drawn without a script
    assert len(page.find_all("math")) > 20
    for text in page.article.find_all(string=re.compile(r"\\(frac|gamma|log)")):
        assert any(tag.name in ("pre", "script") or "tex" in (tag.get("class") or []) for tag in text.parents), text


@needs_browser
def test_a_slider_moves_on_a_dark_page_and_stays_white_and_the_search_finds_a_term(site):
    with open_page(color_scheme="dark") as page:
        page.goto((site / "notebooks" / "04_temperature_and_soft_labels.html").as_uri())
        slider = page.get_by_role("slider").first
        before = slider.get_attribute("aria-valuetext")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") != before
        ground = "element => getComputedStyle(element).backgroundColor"
        assert page.locator("body").evaluate(ground) != "rgb(255, 255, 255)"
        assert page.locator("kdoct-slider").first.evaluate(ground) == "rgb(255, 255, 255)"
        page.goto(f"{(site / 'search.html').as_uri()}?q=temperature")
        page.locator("#search-results li").first.wait_for()
        found = page.locator("#search-results li a").all_text_contents()
        assert any("04" in text for text in found) and page.said == []


# --- a small site ----------------------------------------------------------------------------------------------------


def a_course(root, text):
    """A repository with a few notebooks; the text stands in 01."""
    for folder in ("docs", "notebooks/exercises", "notebooks/more", "notebooks/solutions"):
        (root / folder).mkdir(parents=True)
    written = {"00_start_here": "# S", "01_a": f"# A\n\n{text}", "02_b": "# B\n\n## What is a T²?\n\n[up](01_a.ipynb)",
               "exercises/01_a": "# C\n\n[main](../01_a.ipynb)", "solutions/01_a": "# C",
               "more/01b_c": "# M\n\n[main](../01_a.ipynb)"}  # fmt: skip
    for name, words in written.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(words)])
        notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    for name in ("README.md", *(f"docs/{page}.md" for page in PAGES)):
        (root / name).write_text("# D\n")
    (root / "LICENSE").write_text("free")
    return root


PAGES = ("glossary", "workshop", "datasets", "sweeps", "package", "board", "speed")


def build(course, output):
    """What Sphinx complained of."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    command = [sys.executable, str(SCRIPT), str(output), "--root", str(course)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("has errors" in done.stderr) == bool(done.returncode)
    return done.stderr if done.returncode else ""


def test_dead_links_stop_the_build(tmp_path):
    good, dead = "[02](02_b.ipynb#What-is-a-T²?)", ("02_b.ipynb#What-is-that?", "03_c.ipynb", "#nowhere")
    assert build(a_course(tmp_path / "good", good), tmp_path / "site") == ""
    said = build(a_course(tmp_path / "dead", " ".join(f"[there]({link})" for link in dead)), tmp_path / "site")
    assert said.count("WARNING") == said.count("xref_missing") == len(dead) and "01_a.ipynb" in said
