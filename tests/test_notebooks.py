"""The notebooks as documents: parameters, cells, outputs, parts, links. Headings and words: test_accessibility."""

import json
import re
import statistics
from pathlib import Path

import pytest

from kdoct_utils.profiles import PROFILES
from kdoct_utils.show.live import WIDGET_VIEW
from tools.publish import badges, repository_url, visible

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
BOOKS = CORE + sorted((ROOT / "notebooks" / "more").glob("[0-9][0-9][a-z]_*.ipynb"))
SHORT = [path for path in CORE if path.stem[:2] != "06"]  # held to the limits of length
SHARED = ["profile: str", "dataset: str", "data_root: str", "run_dir: str", "seed: int"]


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def book(request):
    return request.param


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_all_notebooks_are_there():
    assert [path.stem[:2] for path in CORE] == ["00", "01", "02", "03", "04", "05", "06", "07"]


def test_one_parameters_cell_with_the_shared_names(book):
    tagged = [cell for cell in cells(book, "code") if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = source(tagged[0]).splitlines()
    assert [line.split(" =")[0] for line in lines[:5]] == SHARED
    for line in lines:  # hyper-parameters have their home in the profile
        if line.startswith(("temperature: ", "alpha: ", "gamma: ")):
            assert line.split("=")[1].split("#")[0].strip() == "None"


def test_one_setup_cell_for_colab_from_the_one_setting():
    setups = {source(cells(path, "code")[0]) for path in BOOKS}
    assert len(setups) == 1
    setup = setups.pop()
    assert 'if "google.colab" in sys.modules' in setup and f"git+{repository_url(ROOT)}" in setup


def test_code_cells_are_short(book):
    code = cells(book, "code")
    assert max(len(source(cell).splitlines()) for cell in code) <= 25
    assert statistics.median(len(source(cell).splitlines()) for cell in code if visible(cell)) <= 6


@pytest.mark.parametrize("book", SHORT, ids=lambda path: path.stem)
def test_a_core_notebook_can_be_finished(book):
    code, text = cells(book, "code"), "\n".join(source(cell) for cell in cells(book, "markdown"))
    assert len(code) + len(cells(book, "markdown")) <= 80
    assert sum(len(source(cell).splitlines()) for cell in code if visible(cell)) <= 300
    assert text.count("Before you run") <= 6


def test_outputs_are_there_and_clean(book):
    code = cells(book, "code")
    text = json.dumps([cell["outputs"] for cell in code])
    assert all(cell["execution_count"] for cell in code)
    assert "Traceback" not in text and "Warning" not in text
    assert WIDGET_VIEW not in text and "widgets" not in json.loads(book.read_text(encoding="utf-8"))["metadata"]
    assert not re.search(r"/(root|home|work|tmp|usr)/|site-packages", text)
    assert book.stat().st_size < 1_500_000


def test_the_parts_of_a_notebook(book):
    text = "\n".join(source(cell) for cell in cells(book, "markdown"))
    for part in ("You will", "## Now you have", *(["## Exercises", "## Sources"] if book in CORE else [])):
        assert part in text


def test_badges_come_from_the_one_setting(book):
    first = source(cells(book, "markdown")[0])
    assert badges(book.relative_to(ROOT / "notebooks").as_posix(), repository_url(ROOT)) in first
    assert "measured with profile" in first


def test_links_between_notebooks_lead_somewhere(book):
    for cell in cells(book, "markdown"):
        for link in re.findall(r"\]\(((?!https?:|#|mailto:)[^)]+)\)", source(cell)):
            assert (book.parent / link.split("#")[0]).exists(), link


def test_the_readme_shows_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in BOOKS:
        assert path.relative_to(ROOT).as_posix() in readme
    for name in PROFILES:
        assert f"`{name}`" in readme
    for link in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", readme):
        assert (ROOT / link).exists(), link
