"""Slides of the course: one figure of a notebook each, its takeaway as the title, in one HTML file without network."""

import re
from collections.abc import Mapping
from pathlib import Path

from kdoct_utils.show.page import write_page


def figure_slides(notebook: dict) -> list[dict[str, object]]:
    """What a slide shows of every figure with a takeaway: title, rest (of the takeaway), src, alt, width."""
    slides = []
    for cell in notebook["cells"]:
        outputs = [output for output in cell.get("outputs", []) if "data" in output]
        for output, after in zip(outputs, outputs[1:], strict=False):
            words = "".join(after["data"].get("text/plain", ""))
            if "image/png" not in output["data"] or not words.startswith("Takeaway: "):
                continue
            title, _, rest = words.removeprefix("Takeaway: ").replace(". ", ".\0", 1).partition("\0")
            src = "data:image/png;base64," + "".join("".join(output["data"]["image/png"]).split())
            about = output["metadata"]["image/png"]
            title = title[0].upper() + title[1:].removesuffix(".")
            slides.append({"title": title, "rest": rest, "src": src, "alt": about["alt"], "width": about["width"]})
    return slides


def write_slides(notebooks: Mapping[str, dict], path: Path) -> int:
    """Write the slides of executed notebooks, title -> JSON, in their order, and return how many there are.

    A slide with its title and goal opens each notebook. A figure that an earlier notebook shows, too, comes once.
    """
    chapters, seen = [], set()
    for title, notebook in notebooks.items():
        new = [slide for slide in figure_slides(notebook) if slide["alt"] not in seen]
        seen.update(slide["alt"] for slide in new)
        goal = re.search(r"^After this notebook .+$", "".join(notebook["cells"][0]["source"]), re.M)
        chapters.append({"title": title, "goal": goal[0] if goal else "", "slides": new})
    write_page(path, "slides.html", chapters=chapters)
    return sum(1 + len(chapter["slides"]) for chapter in chapters)
