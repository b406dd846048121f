"""`make book`: the course as a static site, from the notebooks as they are committed, with their outputs.

Sources are staged first, since a page needs a few things otherwise than a notebook does: pictures with their
alternative text, sliders as HTML, badges that need no network, answers folded. Then Sphinx makes the pages.
Every warning of Sphinx is an error: a link or an anchor that leads nowhere stops the build.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat

from kdoct_utils.show.output import with_alt_text

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
FOLDERS = ("", "more", "exercises", "solutions")  # under notebooks/
DEMO = "runs/quick/demo/index.html"  # `kdoct demo --run-dir runs/quick` writes it; part of the site where it is there
DEMO_LINE = '- **Trying it?** <a href="demo/index.html">Two students read a B-scan</a>, in your browser alone.'
NO_DEMO = "The page that stands here is not part of this site; <code>kdoct demo --run-dir runs/quick</code> makes it."
BADGE = re.compile(r"\[!\[([^\]]+)\]\(https://[^)]+\.svg\)\]\(([^)]+)\)")
BETWEEN = ")\n[!["  # two badges
ATTACHMENT = re.compile(r"!\[([^\]]*)\]\(attachment:([^)]+)\)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)\s#]*)#([^)\s]+)\)")


def stage(root: Path, target: Path) -> list[Path]:
    """Write what Sphinx reads of the course in `root` into the folder `target`, files that changed only. Returns them.
    """
    demo = (root / DEMO).is_file()
    index = (HERE / "index.md").read_text(encoding="utf-8")
    pages = {"index.md": index.replace("<!-- demo -->\n", DEMO_LINE + "\n" if demo else "")}
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        pages[path.relative_to(root).as_posix()] = on_the_site(path.read_text(encoding="utf-8"))
    for folder in FOLDERS:
        for path in sorted((root / "notebooks" / folder).glob("[0-9][0-9]*_*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            title = notebook["cells"][0]
            if folder == "solutions":  # so that a search tells it from the exercise
                title["source"] = re.sub(r"\A(# .*): exercises", r"\1: solutions", "".join(title["source"]))
            pages[path.relative_to(root).as_posix()] = json.dumps(page_of(notebook, demo), indent=1, ensure_ascii=False)
    for stale in {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} - pages.keys():
        (target / stale).unlink()
    for name, text in pages.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in [root / "LICENSE", *(root / "docs").glob("*.png")]:
        shutil.copyfile(path, target / path.relative_to(root))
    return [target / name for name in pages]


def page_of(notebook: dict, demo: bool) -> dict:
    """A notebook as its page shows it: pictures with their words, no progress bars, which have no end on a page.

    demo: whether the site has the demo page; else a sentence stands for it.
    """
    notebook = with_alt_text(nbformat.from_dict(notebook))
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "markdown":
            cell["source"] = with_attachments(on_the_site(text), cell.pop("attachments", {}))
            continue
        if "google.colab" in text:
            fold(cell, "hide-input", "Setup for Colab")
        elif cell["metadata"].get("jupyter", {}).get("source_hidden"):
            fold(cell, "hide-input", "Code that sets up or draws")
        if "solution" in tags:
            fold(cell, "hide-cell", "A solution")
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            if not demo and '<iframe class="demo"' in (data := output.get("data", {})).get("text/html", ""):
                data["text/html"] = NO_DEMO
    return notebook


def fold(cell: dict, tag: str, summary: str) -> None:
    """Show the cell as a line to open."""
    cell["metadata"]["tags"].append(tag)
    cell["metadata"]["mystnb"] = {"code_prompt_show": summary, "code_prompt_hide": summary}


def picture(base64: str, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{"".join(base64.split())}">'


def with_attachments(text: str, attachments: dict) -> str:
    """Markdown in which attached pictures are part of the text."""
    return ATTACHMENT.sub(lambda found: picture("".join(attachments[found[2]]["image/png"]), found[1]), text)


def on_the_site(text: str) -> str:
    """Markdown with plain links for badges, whose pictures lie on other servers, and with the site's anchors."""
    text = BADGE.sub(r"[\1](\2)", text.replace(BETWEEN, ") · [!["))
    return ANCHOR.sub(lambda found: f"]({found[1]}#{slug(found[2])})", text)


def slug(heading: str) -> str:
    """The anchor of a heading on the site. Anchors as JupyterLab makes them, `What-is-a-T²?`, become the same."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def build(output: Path, work: Path, root: Path = ROOT) -> int:
    """Make the site of the course in `root` in the folder `output`; `work` holds what is in between.

    Returns Sphinx's exit code, which is not 0 after any warning.
    """
    from sphinx.cmd.build import main

    stage(root, work / "source")
    if (output / ".buildinfo").exists():  # a site that Sphinx made: pages of sources that are gone go too
        shutil.rmtree(output)
    code = main([
        "--fail-on-warning", "--keep-going", "--quiet", "--jobs", "auto", "--builder", "html",
        "--conf-dir", str(HERE), "--doctree-dir", str(work / "doctrees"), str(work / "source"), str(output),
    ])  # fmt: skip
    if (root / DEMO).is_file():
        (output / "demo").mkdir(exist_ok=True)
        shutil.copyfile(root / DEMO, output / "demo" / "index.html")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "build" / "book")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    given = parser.parse_args()
    chosen = given.output.resolve()
    code = build(chosen, chosen.with_name(f"{chosen.name}-work"), given.root.resolve())
    print(f"The site: {chosen / 'index.html'}" if not code else "The site has errors: see above", file=sys.stderr)
    sys.exit(code)
