"""Sphinx settings of the course's site; `book/build.py` stages the sources and calls Sphinx with them."""

import re
import sys
import tomllib
from pathlib import Path

from pygments.lexers.special import TextLexer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "KD-OCT course"
version = release = PROJECT["version"]
language = "en"
extensions = ["myst_nb", "mathml"]
root_doc = "index"

# Notebooks are shown with the outputs that are committed: nothing is executed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_mime_priority_overrides = [("html", "text/html", 0)]
nb_code_prompt_show = "Show {type}"
nb_code_prompt_hide = "Hide {type}"

myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_digits = False
myst_heading_anchors = 3
html_math_renderer = "mathml"

html_theme = "furo"
html_title = "KD-OCT: a course on knowledge distillation for retinal OCT"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_copy_source = False
html_show_search_summary = False  # a page opened from a disk may not fetch others
html_show_sphinx = False
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {"top_of_page_buttons": []}


def setup(app):
    app.add_lexer("csv", TextLexer)
    app.connect("build-finished", tidy)


# What the theme leaves out for people who listen to a page or use it by keyboard: pattern -> what takes its place.
TIDIER = {
    r'<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    r'<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    r'<aside class="toc-drawer( no-toc)?">': r'<aside class="toc-drawer\1" aria-label="This page">',
    r'<th class="head([^"]*)">': r'<th scope="col" class="head\1">',
    r"<th[^>]*>(<p></p>)?</th>": "<td></td>",  # an empty corner heads nothing
    # wide tables scroll
    r'<div class="(output text_html)">(?=\s*<table)': r'<div class="\1" role="group" aria-label="Table" tabindex="0">',
    r'<div class="(table-wrapper[^"]*)">': r'<div class="\1" role="group" aria-label="Table" tabindex="0">',
    r"<pre>": '<pre tabindex="0">',  # its long lines scroll
    r'(<article[^>]*>\s*)(<noscript>)': r"\1<h1>Search</h1>\n\2",  # of the search page
}


def tidy(app, failed):
    """Every page that this build wrote, or an earlier one: nothing here is done twice."""
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        tidier = text
        for pattern, better in TIDIER.items():
            tidier = re.sub(pattern, better, tidier)
        if tidier != text:
            path.write_text(tidier, encoding="utf-8")
