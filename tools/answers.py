"""What to expect at each "Before you run": the page for teachers, made from the published notebooks."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdoct_utils.course.notebooks import notebook_title

LONGEST = 600  # characters of an answer
# Where the nearest words mislead: the start of a question -> words of its answer.
MARKERS = {
    "guess both accuracies": "Leakage gap",
    "what does 0.10 against 0.05": "more like CNV",
    "which of the steps": "A vertical flip",
    "why must the learning rate": "stand still",
    "write down your guess for KD": "KD minus alone is",
    "will the teacher be worth more": "same labels",
    "the teacher is the same in all three": "same labels +",
    "which of the two *teachers*": "On the same test patients: teacher",
}
HEAD = """# Expected answers

For teachers: every "Before you run" of the core notebooks, and what came out. Numbers are those of the published run
(profile `quick`, phantoms) or of the measurement that the course carries; `python -m tools.publish` writes this page.
Another machine or seed gives other numbers; which way they point should stay.
"""


def prompts(cells: Sequence[dict]) -> Iterator[tuple[str, str, str]]:
    """(section, question, answer) of every prediction in a notebook's cells; the answer is "" where none was found."""
    section, texts = "", ["".join(cell["source"]) for cell in cells]
    asked = [place for place, text in enumerate(texts) if "**Before you run:**" in text] + [len(cells)]
    for place, text in enumerate(texts):
        titles = re.findall(r"^#{2,} (.+)$", text, re.M) if cells[place]["cell_type"] == "markdown" else []
        section = titles[-1] if titles else section
        if place in asked:
            question = text.split("**Before you run:**")[1].split("\n\n")[0].split("<details>")[0]
            until = min(asked[asked.index(place) + 1], place + 25)
            question = one_line(question)
            yield section, question, answer(question, cells[place:until])


def answer(question: str, cells: Sequence[dict]) -> str:
    """The answer that is folded away at the question, and of the sentences that these cells computed the nearest.

    Nearest: with the marker of the question, most of its words, and numbers. Without both, the first paragraph.
    """
    marker = next((found for start, found in MARKERS.items() if question.startswith(start)), "\0")
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    folds = re.findall(r"<details>\s*<summary>(?:Answer|Found)[^<]*</summary>(.*?)</details>", "".join(texts[:2]), re.S)
    marked = re.findall(r"<details>\s*<summary>[^<]*</summary>(.*?)</details>", "".join(texts), re.S)
    folds = [text for text in marked if marker in text] + folds
    said = ["".join(output.get("data", {}).get("text/markdown", "")).split("<details>")[0]
            for cell in cells for output in cell.get("outputs", [])]  # fmt: skip
    computed = sorted(filter(None, said), key=lambda text: (
        marker not in text, -len(words(question) & words(text)) - bool(re.search(r"\d", text))))  # fmt: skip
    prose = [part for text in texts[1:] for part in text.split("\n\n") if part[:1] not in "#<|$["]
    chosen = folds[:1] if any(marker in text for text in folds) else folds[:1] + computed[:1]
    return " ".join(shortened(one_line(part)) for part in chosen or prose[:1])


def words(text: str) -> set[str]:
    """The words of a text in small letters, short ones left out."""
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3 or word in ("kd", "cnv", "t")}


def one_line(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.replace("**Takeaway:**", "").split()).replace("|", "\\|")


def shortened(text: str) -> str:
    """Whole sentences, up to LONGEST characters where there are that short ones."""
    sentences = re.split(r"(?<=[.?!:]) (?=[A-Z*“])", text)
    kept = sentences[0]
    for sentence in sentences[1:]:
        if len(kept) + len(sentence) >= LONGEST:
            break
        kept += " " + sentence
    return kept


def answers_page(notebooks: Sequence[Path]) -> str:
    """Markdown: a table a notebook, a row a prediction."""
    parts = [HEAD]
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        rows = [f"| *{section}* {question[:1].upper()}{question[1:]} | {found[:1].upper()}{found[1:]} |"
                for section, question, found in prompts(cells)]  # fmt: skip
        if rows:
            parts.append("\n".join([f"## {notebook_title(path)}", "", "| asked | found |", "|---|---|", *rows, ""]))
    return "\n".join(parts)
