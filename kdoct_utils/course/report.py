"""What a run measured, as tables and as one HTML page beside the executed notebooks."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from kdoct_utils.course.notebooks import notebook_number, notebook_title
from kdoct_utils.runs import RunError, RunFolder, atomic_path

if TYPE_CHECKING:
    from pandas import DataFrame

NETWORKS = {
    "teacher": "teacher",
    "student_alone": "student alone",
    "student_kd": "student, distilled (real time)",
    "student_cached": "student, distilled (cached logits)",
}
DIFFERENCES = {"kd_gain": "distilled minus alone", "leakage_gap": "scan split minus patient split"}

# Contrast of text and links on the background is at least 4.5 : 1 in both schemes.
STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #ffffff; --line: #59636e; --band: #f0f3f6; --link: #0550ae }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --line: #8b949e; --band: #1c2128; --link: #79c0ff }
}
body { font: 1rem/1.6 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 }
main { max-width: 60rem; margin: auto; padding: 1.5rem }
a { color: var(--link) }
a:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { background: var(--band) }
"""


def number_text(value: float | None, digits: int = 3) -> str:
    """A dash where nothing was measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval_text(low: float | None, high: float | None) -> str:
    """[low, high] as text; a dash where nothing was measured."""
    return "–" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def results_table(metrics: dict) -> DataFrame:
    """One row a network that the run has scored on its test patients; fractions of 1, 95 % interval of the accuracy."""
    import pandas as pd

    rows = {}
    for key, name in NETWORKS.items():
        if key in metrics:
            found = metrics[key]
            rows[name] = {
                "accuracy": number_text(found.get("accuracy")),
                "95 % interval": interval_text(*(found.get("interval") or (None, None))),
                "sensitivity": number_text(found.get("sensitivity")),
                "specificity": number_text(found.get("specificity")),
                "calibration error": number_text(found.get("ece")),
                "B-scans": found.get("n_scans"),
                "patients": found.get("n_patients"),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def differences_table(metrics: dict) -> DataFrame:
    """The paired differences of the course, each with what its interval allows to say."""
    import pandas as pd

    rows = {}
    for key, name in DIFFERENCES.items():
        if key in metrics:
            found = metrics[key]
            low, high, seeds = found.get("low"), found.get("high"), found.get("seeds")
            rows[name] = {
                "estimate": number_text(found.get("estimate")),
                "95 % interval": interval_text(low, high),
                "seeds": len(seeds) if isinstance(seeds, list) else seeds,
                "so the difference is": read_interval(low, high),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("accuracy difference")


def read_interval(low: float | None, high: float | None) -> str:
    """What an interval of a difference says about its sign."""
    if low is None or high is None:
        return "not measured"
    return "above zero" if low > 0 else "below zero" if high < 0 else "not told apart from zero"


def edge_table(metrics: dict) -> DataFrame:
    """Size, latency and accuracy of each exported format."""
    import pandas as pd

    formats = {name: found for name, found in metrics.get("edge", {}).items() if isinstance(found, dict)}
    rows = {
        name: {
            "kilobytes": number_text(None if found.get("bytes") is None else found["bytes"] / 1000, 0),
            "milliseconds a B-scan": number_text(found.get("latency_ms"), 2),
            "accuracy": number_text(found.get("accuracy")),
        }
        for name, found in formats.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("format")


def cost_table(metrics: dict) -> DataFrame:
    """Wall time and peak memory of each notebook."""
    import pandas as pd

    rows = {
        number: {"seconds": number_text(found.get("seconds"), 0), "peak MB": number_text(found.get("peak_mb"), 0)}
        for number, found in sorted(metrics.get("notebooks", {}).items())
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("notebook")


def tables(metrics: dict) -> dict[str, DataFrame]:
    """Every table that the run has rows for, by title."""
    found = {
        "Networks on the test patients": results_table(metrics),
        "Differences": differences_table(metrics),
        "On the edge": edge_table(metrics),
        "Time and memory": cost_table(metrics),
    }
    return {title: table for title, table in found.items() if len(table)}


def read_results(run: RunFolder) -> dict:
    """``metrics.json`` and, where there is anything to judge, "signs_of_trouble".

    That section holds fired ([{name, finding, check_next}]), quiet ([names]) and undecided (name -> what is missing).
    """
    import pandas as pd

    from kdoct_utils.judge.diagnosis import diagnose

    metrics = run.read_metrics()
    kept = run.predictions_file.exists()
    found = diagnose(metrics, pd.read_csv(run.predictions_file, dtype={"scan_id": str}) if kept else None)
    if not found.signs:
        return metrics
    fired = [{"name": sign.name, "finding": sign.finding, "check_next": sign.check_next} for sign in found.fired]
    quiet = [sign.name for sign in found.signs if not sign.fires]
    return metrics | {"signs_of_trouble": {"fired": fired, "quiet": quiet, "undecided": found.undecided}}


def signs_lines(signs: dict) -> list[str]:
    """ "signs_of_trouble" in words: a line a sign that fired, one line where none did, one on those undecided."""
    lines = [f"{sign['name']}: {sign['finding']}. Check next: {sign['check_next']}" for sign in signs["fired"]]
    if not lines:
        lines = [f"none fired of {len(signs['quiet'])} looked at. That proves nothing: the next error is quiet too."]
    if signs["undecided"]:
        missing = "; ".join(f"{name} ({why})" for name, why in signs["undecided"].items())
        lines.append(f"not decided: {missing}. Notebook 05 measures what is missing.")
    return lines


def results_text(results: dict) -> str:
    """The tables for a terminal, and the signs of trouble. results: of `read_results`, or metrics.json alone."""
    parts = [f"{title}\n{table.reset_index().to_string(index=False)}" for title, table in tables(results).items()]
    if "signs_of_trouble" in results:
        parts.append("\n".join(["Signs of trouble", *signs_lines(results["signs_of_trouble"])]))
    return "\n\n".join(parts) or "This run has no results yet."


def report(run: RunFolder) -> Path:
    """Write ``index.html`` and, beside each executed notebook, its HTML. Returns the page's path.

    Raises RunError if the run has no executed notebook.
    """
    notebooks = sorted(run.notebooks_dir.glob("*.ipynb"))
    if not notebooks:
        raise RunError(f"{run.path} has no executed notebook; `kdoct run` makes them")
    for notebook in notebooks:
        export_notebook(notebook)
    text = page(run, notebooks)
    with atomic_path(run.index_file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return run.index_file


def export_notebook(notebook: Path) -> Path:
    """The executed notebook as HTML in the same folder; made again only where the notebook is newer."""
    html = notebook.with_suffix(".html")
    if html.exists() and html.stat().st_mtime >= notebook.stat().st_mtime:
        return html
    import nbformat
    from nbconvert import HTMLExporter

    from kdoct_utils.show.output import with_alt_text

    resources = {"metadata": {"name": notebook.stem}}  # the page's title
    executed = with_alt_text(nbformat.read(notebook, as_version=4))
    text, _ = HTMLExporter().from_notebook_node(executed, resources)
    with atomic_path(html) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return html


def page(run: RunFolder, notebooks: list[Path]) -> str:
    """The report as one self-contained page."""
    results = read_results(run)
    shown = "\n".join(scrolling_table(title, table) for title, table in tables(results).items())
    signs = _signs_html(results["signs_of_trouble"]) if "signs_of_trouble" in results else ""
    title = f"KD-OCT course: profile {run.profile.name}, dataset {run.dataset}, seed {run.seed}"
    departs = run.profile.departs_from_paper
    note = f"<p>Departs from the paper: {escape(departs)}.</p>" if departs else ""
    body = f"""<p>Fractions of 1, with 95 % intervals from resampled patients. For teaching; not a medical device.</p>
{note}
<h2>Results</h2>
{shown or "<p>Nothing has been measured yet.</p>"}
{signs}<h2>Notebooks and figures</h2>
<ol start="0">
{"".join(_notebook_html(notebook) for notebook in notebooks)}
</ol>"""
    return html_page(title, body)


def html_page(title: str, body: str) -> str:
    """A self-contained page in the style of all reports. title: text, also the heading; body: HTML under it."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def scrolling_table(title: str, table: DataFrame) -> str:
    """A table with caption, row and column headers; it scrolls by itself where the page is too narrow."""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in [table.index.name, *table.columns])
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(name))}</th>'
        + "".join(f"<td>{escape('–' if value is None else str(value))}</td>" for value in row)
        + "</tr>"
        for name, row in zip(table.index, table.itertuples(index=False), strict=True)
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0"><table>'
        f"<caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _signs_html(signs: dict) -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in signs_lines(signs))
    return f"<h2>Signs of trouble</h2>\n<ul>\n{items}</ul>\n"


def _notebook_html(notebook: Path) -> str:
    target = f"notebooks/{notebook.stem}.html"
    figures = "".join(
        f'<li><a href="{target}#cell-id={cell_id}">{escape(text)}</a></li>\n' for cell_id, text in figures_of(notebook)
    )
    listed = f"<ul>\n{figures}</ul>" if figures else ""
    return (
        f'<li value="{int(notebook_number(notebook.name))}"><a href="{target}">{escape(notebook_title(notebook))}</a>'
        f"{listed}</li>\n"
    )


def figures_of(notebook: Path) -> list[tuple[str, str]]:
    """(cell id, alt text) of each picture in an executed notebook; where it has no alt text, "Figure" and a number."""
    found: list[tuple[str, str]] = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            kinds = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
            if kinds:
                metadata = output.get("metadata", {})
                alt = metadata.get(kinds[0], {}).get("alt") or metadata.get("alt") or f"Figure {len(found) + 1}"
                found.append((cell.get("id", ""), re.sub(r"\s+", " ", alt)))
    return found
