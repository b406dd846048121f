"""The docs that teachers use: links that lead somewhere, plans whose minutes add up, a glossary in order."""

import importlib.util
import json
import re
from pathlib import Path

from tools.publish import reading_minutes

ROOT = Path(__file__).resolve().parents[1]
book = importlib.util.module_from_spec(importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py"))
book.__spec__.loader.exec_module(book)
DOCS = sorted((ROOT / "docs").glob("*.md"))
WORKSHOP = (ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")


def headings(path):
    """Anchors that the site gives to a notebook's or a page's headings."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    return {book.slug(heading.strip(" `*")) for heading in re.findall(r"^#{1,6} +(.+)$", text, re.M)}


def test_links_of_the_docs_lead_to_sections_that_exist():
    for path in DOCS:
        for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", path.read_text(encoding="utf-8")):
            place, _, anchor = link.partition("#")
            assert (path.parent / place).exists(), (path.name, link)
            assert not anchor or book.slug(anchor) in headings(path.parent / place), (path.name, link)


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


def test_the_minutes_of_a_plan_add_up_and_its_sections_are_there():
    for plan, hours in (("Two hours", 2), ("Half a day", 3.5), ("Two days", 12)):
        section = re.search(rf"^### {plan}\n(.*?)(?=^###? |\Z)", WORKSHOP, re.M | re.S)[1]
        assert sum(map(int, re.findall(r"^\| (\d+) \|", section, re.M))) == 60 * hours
    named = 0  # **04:** *Title*, *Title*: each is a heading of that notebook
    for number, text in re.findall(r"^- \*\*(\d\d):\*\* (.+)$", WORKSHOP, re.M):
        (notebook,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        for title in re.findall(r"\*([^*]+)\*", text):
            assert book.slug(title) in headings(notebook), title
            named += 1
    assert named > 20


def test_the_two_hour_plan_has_two_exercises_that_exist():
    section = re.search(r"^### Two hours\n(.*?)(?=^### )", WORKSHOP, re.M | re.S)[1]
    rows = re.findall(r"^\| (\d+) \| \[exercise (\d) of \d\d\]\(\.\./(\S+)\) \| \*(.+?)\*", section, re.M)
    assert len(rows) == 2
    for minutes, number, path, title in rows:
        assert int(minutes) >= 10 and book.slug(f"{number}. {title}") in headings(ROOT / path)


def test_every_prediction_has_an_expected_answer():
    from tools.answers import answers_page, prompts

    paths = sorted((ROOT / "notebooks").glob("0?_*.ipynb"))
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found = list(prompts(cells))
        assert len(found) == sum("**Before you run:**" in "".join(cell["source"]) for cell in cells)
        assert all(len(question) > 15 for _, question, _ in found)
        if all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code"):  # else to be published yet
            assert all(len(answer) > 15 for _, _, answer in found), path.name
    rows = answers_page(paths).count("\n| *")
    assert rows > 25 and "| *" in (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")


def test_the_times_of_the_plans_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"\(notebooks/(\d\d)_\S+\) \|(?: \d+ min \|)? ([^|]+) \| [\d.]+ GB", readme))
    rows = re.findall(r"^\| \d+ \| .*?notebooks/(\d\d)_.*\| ([^|]+) \|$", WORKSHOP, re.M)
    assert len(rows) > 15 and all(measured[number] == time for number, time in rows)


def test_reading_minutes_follow_their_formula():
    text = {"cell_type": "markdown", "metadata": {}, "source": ["**Before you run.** "] + 297 * ["word "]}
    seen = {"cell_type": "code", "metadata": {}, "source": 15 * ["x\n"], "outputs": 3 * [{"data": {"image/png": ""}}]}
    hidden = seen | {"metadata": {"jupyter": {"source_hidden": True}}, "outputs": []}
    assert reading_minutes({"cells": [hidden]}) == 0
    assert reading_minutes({"cells": [text]}) == 5  # 120 s and 90 s
    assert reading_minutes({"cells": [seen]}) == 5  # 120 s and 180 s
    assert reading_minutes({"cells": [text, seen, hidden]}) == 10
