"""The site: every page, link, anchor and picture; no network; sliders, search and dark theme in a browser.

What teachers get besides: plans whose minutes add up and whose times are the measured ones, and a glossary that leads
to where each term is built.
"""

from __future__ import annotations

import filecmp
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

from kdoct_utils.runs import RunError
from kdoct_utils.show.sliders import Slider, sliders
from kdoct_utils.show.svg import bars_svg
from tools.publish import minutes, with_running_times

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "book" / "build.py"
book = importlib.util.module_from_spec(importlib.util.spec_from_file_location("book_build", SCRIPT))
book.__spec__.loader.exec_module(book)
SOURCES = [path.relative_to(ROOT) for folder in book.FOLDERS for path in (ROOT / "notebooks" / folder).glob("*.ipynb")]
DOCS = sorted((ROOT / "docs").glob("*.md"))
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


def test_every_source_has_its_page_with_its_own_title(pages):
    wanted = [path.with_suffix(".html").as_posix() for path in [*SOURCES, *(doc.relative_to(ROOT) for doc in DOCS)]]
    assert not {"index.html", "search.html", *wanted} - pages.keys()
    titles = [pages[name].title.text for name in wanted]
    assert len(set(titles)) == len(titles)


def test_every_link_and_anchor_leads_somewhere(pages, site):
    anchors = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    dead, followed = [], 0
    for name, page in pages.items():
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


def test_nothing_is_loaded_from_elsewhere(pages):
    for name, page in pages.items():
        for tag in page.find_all(["script", "img", "iframe", "link"]):
            source = tag.get("src") or (tag.get("href") if tag.name == "link" else "") or ""
            assert not re.match(r"(https?:)?//", source), f"{name}: {source}"
        assert not page.select("script:-soup-contains('require.js')")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_loses_nothing_on_its_way_to_the_page(source, pages):
    page = pages[source.with_suffix(".html").as_posix()]
    cells = json.loads((ROOT / source).read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    sources = ["".join(cell["source"]) for cell in cells]
    pictures = [alt for text in sources for alt in re.findall(r"!\[([^\]]*)\]\(attachment:", text)]
    pictures += [output["metadata"]["image/png"]["alt"] for cell in cells for output in cell.get("outputs", [])
                 if "image/png" in output.get("data", {})]  # fmt: skip
    shown = [image["alt"] for image in page.select("article img")]
    assert sorted(shown) == sorted(pictures)
    html = ["".join(data.get("text/html", "")) for data in outputs]
    assert len(page.select("kdoct-slider")) == sum("<kdoct-slider" in text for text in html)
    assert len(page.select("article .text_html table")) == sum(text.count("<table") for text in html)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(page.select(".cell_input")) == len(code)
    solutions = sum("solution" in cell["metadata"].get("tags", []) for cell in code)
    assert len(page.select("details.hide")) == solutions + 1  # and the setup for Colab


def test_formulas_are_drawn_without_a_script(pages):
    page = pages["notebooks/02_focal_loss.html"]
    assert len(page.find_all("math")) > 20
    assert not [text for text in page.article.find_all(string=re.compile(r"\\(frac|gamma|log)")) if not _is_code(text)]


def _is_code(text):
    return any(parent.name in ("pre", "script") or "tex" in (parent.get("class") or []) for parent in text.parents)


# --- a small site ----------------------------------------------------------------------------------------------------


def a_course(root, text="See [02](02_b.ipynb#What-is-a-T²?)."):
    """A repository with two notebooks; the first has a slider, a figure and a progress bar."""
    for folder in ("docs", "notebooks/exercises", "notebooks/solutions"):
        (root / folder).mkdir(parents=True)
    new = nbformat.v4
    panel = sliders(lambda t: bars_svg(["a", "b"], [t, 10 - t], title=f"T = {t:g}", maximum=10), name="shares",
                    t=Slider(1.0, 9.0, 3.0, 1.0, label="T"))  # fmt: skip
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    cell = new.new_code_cell("slide()", execution_count=1)
    cell.outputs = [
        new.new_output("display_data", {"text/html": panel.html, "text/plain": "note"}),
        new.new_output("display_data", {"image/png": dot}, metadata={"image/png": {"alt": 'A <dot> "here"'}}),
        new.new_output("display_data", {book.WIDGET: {}, "text/plain": "half done"}),
        new.new_output("stream", name="stderr", text="noise"),
    ]
    badge = "[![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/x)"
    first = new.new_notebook(cells=[new.new_markdown_cell(f"# A\n\n{badge}\n\n{text}"), cell])
    second = new.new_notebook(cells=[new.new_markdown_cell("# B\n\n## What is a T²?\n\n[up](01_a.ipynb)")])
    for name, notebook in (("01_a", first), ("02_b", second), ("exercises/01_a", second), ("solutions/01_a", second)):
        for other in notebook.cells if "/" in name else []:
            other.source = "# C\n\n## What is a T²?\n\n[main](../01_a.ipynb)"
        notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    nbformat.write(new.new_notebook(cells=[new.new_markdown_cell("# S")]), root / "notebooks" / "00_start_here.ipynb")
    for name in ("README.md", "docs/glossary.md", "docs/workshop.md"):
        (root / name).write_text("# D\n")
    (root / "LICENSE").write_text("free")
    return root


def build(course, output):
    """What Sphinx complained of."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    command = [sys.executable, str(SCRIPT), str(output), "--root", str(course)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("has errors" in done.stderr) == bool(done.returncode)
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def small_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    assert build(a_course(folder / "course"), folder / "site") == ""
    return folder / "site"


def test_pictures_have_words_and_progress_bars_are_gone(small_site):
    text = (small_site / "notebooks" / "01_a.html").read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert page.select_one("article img")["alt"] == 'A <dot> "here"'
    assert "noise" not in text and "half done" not in text
    assert [link.text for link in page.select('a[href="https://mybinder.org/x"]')] == ["Open in Binder"]
    assert page.select_one('article a[href^="02_b.html#what-is-a-t"]')


@pytest.mark.parametrize("link", ["02_b.ipynb#What-is-that?", "03_c.ipynb", "#nowhere"])
def test_a_dead_link_stops_the_build(link, tmp_path):
    said = build(a_course(tmp_path / "course", f"[there]({link})"), tmp_path / "site")
    assert said.count("WARNING") == 1 and "xref_missing" in said and "01_a.ipynb" in said


def test_the_same_sources_make_the_same_site(small_site, tmp_path):
    for _ in range(2):  # the second time over the first
        assert build(small_site.parent / "course", tmp_path / "site") == ""
    names = sorted(path.relative_to(small_site).as_posix() for path in small_site.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*")
                           if path.is_file())  # fmt: skip
    _, different, failed = filecmp.cmpfiles(small_site, tmp_path / "site", names, shallow=False)
    assert different == [] and failed == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_slider_moves_on_the_page_and_stays_white(small_site, scheme):
    with open_page(color_scheme=scheme) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((small_site / "notebooks" / "01_a.html").as_uri())
        slider = page.get_by_role("slider", name="T")
        assert slider.get_attribute("aria-valuetext").startswith("3")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext").startswith("4")
        assert page.locator("kdoct-slider svg > text", has_text="4.000").count() == 1
        ground = "element => getComputedStyle(element).backgroundColor"
        for drawn in ("kdoct-slider", "article img"):
            assert page.locator(drawn).first.evaluate(ground) == "rgb(255, 255, 255)"
        dark = page.locator("body").evaluate(ground) != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        assert page.said == [] and all(url.startswith(("file:", "data:", "blob:")) for url in asked)


@needs_browser
def test_the_search_finds_a_term(site):
    with open_page() as page:
        page.goto(f"{(site / 'search.html').as_uri()}?q=temperature")
        page.locator("#search-results li").first.wait_for()
        found = page.locator("#search-results li a").all_text_contents()
        assert any("04" in text for text in found) and page.said == []


# --- docs ------------------------------------------------------------------------------------------------------------


def headings(path):
    """Anchors that the site gives to a notebook's or a page's headings."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    return {book.slug(heading.strip(" `*")) for heading in re.findall(r"^#{1,6} +(.+)$", text, re.M)}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_links_of_the_docs_lead_to_sections_that_exist(path):
    links = re.findall(r"\]\(((?!https?:)[^)]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        place, _, anchor = link.partition("#")
        assert (path.parent / place).exists(), link
        assert not anchor or book.slug(anchor) in headings(path.parent / place), link


def test_the_glossary_is_in_order_and_each_term_leads_somewhere():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)[1:]
    terms = [term for term, _, _ in rows]
    assert len(terms) > 50 and len(set(terms)) == len(terms)
    spoken = [re.sub(r"^[αγ] ", "", term.lower()).replace("²", "squared") for term in terms]
    letters = [re.sub("[^a-z0-9]", "", term) for term in spoken]
    assert letters == sorted(letters)
    assert all("ipynb#" in where for _, _, where in rows)
    assert all(1 <= len(re.findall(r"[.:](?: |$)", text)) <= 3 and len(text) < 200 for _, text, _ in rows)
    linked = {where[1:3] for _, _, where in rows}
    assert linked == {f"0{number}" for number in range(8)}


WORKSHOP = (ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("plan", "hours"), [("Two hours", 2), ("Half a day", 3.5), ("Two days", 12)])
def test_the_minutes_of_a_plan_add_up(plan, hours):
    section = re.search(rf"^### {plan}\n(.*?)(?=^###? |\Z)", WORKSHOP, re.M | re.S)[1]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", section, re.M))) == 60 * hours


def test_the_sections_that_a_plan_names_are_there():
    """**04:** *Title*, *Title*: each is a heading of that notebook."""
    named = 0
    for number, text in re.findall(r"^- \*\*(\d\d):\*\* (.+)$", WORKSHOP, re.M):
        (notebook,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        for title in re.findall(r"\*([^*]+)\*", text):
            assert book.slug(title) in headings(notebook), title
            named += 1
    assert named > 20


def test_the_times_of_the_plans_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"\(notebooks/(\d\d)_\S+\) \| ([^|]+) \|", readme))
    rows = re.findall(r"^\| \d+ \| .*?/(\d\d)_.*\| ([^|]+) \|$", WORKSHOP, re.M)
    assert len(rows) > 15 and all(measured[number] == time for number, time in rows)


def test_running_times_are_filled_in():
    marks = "a\n<!-- kdoct:plans -->\n{}\n<!-- /kdoct:plans -->\nb"
    rows = ["| minutes | part | runs for |", "|---|---|---|", "| 5 | break | old |",
            "| 30 | [x](../notebooks/01_x.ipynb) and [y](../notebooks/02_y.ipynb#z) | old |",
            "| 30 | [z](../notebooks/07_z.ipynb) | old |"]  # fmt: skip
    filled = with_running_times(marks.format("\n".join(rows)), {"01": {"seconds": 50}, "02": {"seconds": 100}})
    lines = filled.splitlines()[2:-2]
    assert lines[:2] == rows[:2] and lines[4] == rows[4]
    assert lines[2] == "| 5 | break | – |" and lines[3].endswith(f"| {minutes(150)} |")
    assert with_running_times(filled, {}) == filled
    with pytest.raises(RunError, match="marks"):
        with_running_times("no marks", {})
