"""What a run measured: tables for a terminal, and one HTML page beside the executed notebooks (see templates/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdoct_utils.course.notebooks import notebook_number, notebook_title
from kdoct_utils.judge.diagnosis import signs_of_trouble
from kdoct_utils.runs import RunError, RunFolder, atomic_path

NETWORKS = {
    "teacher": "teacher",
    "student_alone": "student alone",
    "student_kd": "student, distilled (real time)",
    "student_cached": "student, distilled (cached logits)",
}
DIFFERENCES = {"kd_gain": "distilled minus alone", "leakage_gap": "scan split minus patient split"}
# keys -> titles of the columns of the tables
SCORES = {"name": "network", "accuracy": "accuracy", "interval": "95 % interval", "sensitivity": "sensitivity",
          "specificity": "specificity", "ece": "calibration error", "n_scans": "B-scans",
          "n_patients": "patients"}  # fmt: skip
COMPARED = {"name": "accuracy difference", "estimate": "estimate", "interval": "95 % interval", "seeds": "seeds",
            "reading": "so the difference is"}  # fmt: skip
FORMATS = {"name": "format", "kilobytes": "kilobytes", "latency": "milliseconds a B-scan", "accuracy": "accuracy"}
COSTS = {"name": "notebook", "seconds": "seconds", "peak_mb": "peak MB"}

Tables = dict[str, pd.DataFrame]  # by title; every cell is text, the first column names the rows


def read_interval(low: float | None, high: float | None) -> str:
    """What an interval of a difference says about its sign."""
    if low is None or high is None:
        return "not measured"
    return "above zero" if low > 0 else "below zero" if high < 0 else "not told apart from zero"


def cell_text(value: object, digits: int = 3) -> str:
    """A number with its digits, [low, high] of two, text as it is; a dash where nothing was measured."""
    if isinstance(value, (list, tuple)) and None not in value:
        return f"[{', '.join(cell_text(part, digits) for part in value)}]"
    if value is None or isinstance(value, (list, tuple)) or value != value:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def text_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows as text. columns: key in a row -> its title; the first names the row."""
    table = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return table.rename(columns=columns).map(cell_text)


def terminal_text(tables: Tables) -> str:
    """Each table under its title, not cut to the width of the terminal as rich would."""
    return "\n\n".join(f"{title}\n{table.to_string(index=False)}" for title, table in tables.items())


def write_page(path: Path, template: str, **content: object) -> Path:
    """Fill a template, escaping all text, and write the page."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("kdoct_utils.course")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    with atomic_path(path) as temporary:
        temporary.write_text(environment.get_template(template).render(content), encoding="utf-8")
    return path


def run_results(run: RunFolder) -> dict:
    """``metrics.json`` and, where notebook 05 measured what they need, "signs_of_trouble".

    That section holds fired ([{name, finding, check_next}]) and quiet ([names]).
    """
    metrics = run.read_metrics()
    if "diagnosis" not in metrics:
        return metrics
    found = signs_of_trouble(**metrics["diagnosis"])
    fired = [{"name": one.name, "finding": one.finding, "check_next": one.check_next} for one in found if one.fires]
    return metrics | {"signs_of_trouble": {"fired": fired, "quiet": [one.name for one in found if not one.fires]}}


def run_tables(metrics: dict) -> Tables:
    """Every table that the run has rows for. Scores are fractions of 1."""
    networks = [{"name": name} | metrics[key] for key, name in NETWORKS.items() if key in metrics]
    differences = [{"name": name} | metrics[key] for key, name in DIFFERENCES.items() if key in metrics]
    for row in differences:
        interval, seeds = (row.get("low"), row.get("high")), row.get("seeds")
        row |= {"interval": interval, "reading": read_interval(*interval)}
        row["seeds"] = len(seeds) if isinstance(seeds, list) else seeds
    edge = [
        {"name": name, "kilobytes": cell_text(found["bytes"] / 1000, 0), "latency": cell_text(found["latency_ms"], 2),
         "accuracy": found["accuracy"]}
        for name, found in metrics.get("edge", {}).items()
    ]  # fmt: skip
    costs = [
        {"name": number} | {key: cell_text(found.get(key), 0) for key in ("seconds", "peak_mb")}
        for number, found in sorted(metrics.get("notebooks", {}).items())
    ]
    found = {
        "Networks on the test patients": text_table(networks, SCORES),
        "Differences": text_table(differences, COMPARED),
        "On the edge": text_table(edge, FORMATS),
        "Time and memory": text_table(costs, COSTS),
    }
    return {title: table for title, table in found.items() if len(table)}


def signs_lines(results: dict) -> list[str]:
    """The signs of trouble in words: a line a sign that fired, one line where none did."""
    if "signs_of_trouble" not in results:
        return []
    signs = results["signs_of_trouble"]
    lines = [f"{sign['name']}: {sign['finding']}. Check next: {sign['check_next']}" for sign in signs["fired"]]
    if not lines:
        lines = [f"none fired of {len(signs['quiet'])} looked at. That proves nothing: the next error is quiet too."]
    return lines


def run_text(results: dict) -> str:
    """The tables for a terminal, and the signs of trouble. results: of `run_results`, or metrics.json alone."""
    parts = [terminal_text(run_tables(results))] if run_tables(results) else []
    if lines := signs_lines(results):
        parts.append("\n".join(["Signs of trouble", *lines]))
    return "\n\n".join(parts) or "This run has no results yet."


def report_run(run: RunFolder) -> Path:
    """Write ``index.html`` and, beside each executed notebook, its HTML. Returns the page's path.

    Raises RunError if the run has no executed notebook.
    """
    paths = sorted(run.notebooks_dir.glob("*.ipynb"))
    if not paths:
        raise RunError(f"{run.path} has no executed notebook; `kdoct run` makes them")
    notebooks = [
        {
            "number": int(notebook_number(path.name)[:2]),
            "title": notebook_title(path),
            "page": export_notebook(path).relative_to(run.path).as_posix(),
        }
        for path in paths
    ]
    results = run_results(run)
    return write_page(
        run.index_file, "run.html", notebooks=notebooks, tables=run_tables(results), signs=signs_lines(results),
        title=f"KD-OCT course: profile {run.profile.name}, dataset {run.dataset}, seed {run.seed}",
        departs_from_paper=run.profile.departs_from_paper,
    )  # fmt: skip


def export_notebook(notebook: Path) -> Path:
    """The executed notebook as HTML in the same folder; made again only where the notebook is newer."""
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime:
        return page
    import nbformat
    from nbconvert import HTMLExporter

    from kdoct_utils.show.output import with_alt_text

    executed = with_alt_text(nbformat.read(notebook, as_version=4))
    text, _ = HTMLExporter().from_notebook_node(executed, {"metadata": {"name": notebook.stem}})  # the page's title
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page
