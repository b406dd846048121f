"""What a run found: tables for a terminal, and a page to look at beside the executed notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from kdoct_utils.course.notebooks import notebook_title
from kdoct_utils.datasets import PHANTOMS
from kdoct_utils.judge import crossval
from kdoct_utils.judge.diagnosis import signs_of_trouble
from kdoct_utils.judge.verdicts import sentence
from kdoct_utils.runs import RunError, RunFolder, atomic_path, read_json
from kdoct_utils.show.page import Tables, cell_text, embedded, read_interval, terminal_text, text_table, write_page
from kdoct_utils.show.style import look, use_style

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
FORMATS = {"name": "format", "kilobytes": "kilobytes", "latency": "milliseconds per B-scan", "accuracy": "accuracy"}
COSTS = {"name": "notebook", "seconds": "seconds", "peak_mb": "peak MB"}


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
    """The signs of trouble in words: a line per sign that fired, one line where none did."""
    if "signs_of_trouble" not in results:
        return []
    signs = results["signs_of_trouble"]
    lines = [f"{sign['name']}: {sign['finding']}. Check next: {sign['check_next']}" for sign in signs["fired"]]
    return lines or [f"None of {len(signs['quiet'])} signs fired. That proves nothing: an error need not raise one."]


def run_text(results: dict) -> str:
    """The tables for a terminal, and the signs of trouble. results: of `run_results`, or metrics.json alone."""
    parts = [terminal_text(run_tables(results))] if run_tables(results) else []
    if lines := signs_lines(results):
        parts.append("\n".join(["Signs of trouble", *lines]))
    return "\n\n".join(parts) or "This run has no results yet."


# --- the page --------------------------------------------------------------------------------------------------------


def finding(run: RunFolder, metrics: Mapping[str, Mapping]) -> str:
    """The one sentence on what a run found, with its setting and interval."""
    setting = f"{'phantoms' if run.dataset in PHANTOMS else run.dataset}, {run.profile.image_size} px"
    for key, who, against in (("kd_gain", "The student with a teacher", "the same student alone"),
                              ("leakage_gap", "A split by scan", "a split by patient")):  # fmt: skip
        found = metrics.get(key, {})
        if found.get("low") is not None:
            seeds = len(found["seeds"]) if isinstance(found["seeds"], list) else found["seeds"]
            return f"{sentence(found, who, against)[:-1]} ({setting}, {seeds} seeds)."
    if (teacher := metrics.get("teacher", {})).get("interval"):
        low, high = teacher["interval"]
        return (f"The teacher names {teacher['accuracy']:.1%} of the test scans correctly (95% interval {low:.1%} to "
                f"{high:.1%}; {setting}, {teacher['n_patients']} patients).")  # fmt: skip
    return "This run has trained no network yet."


def run_sections(run: RunFolder, results: Mapping) -> tuple[list[dict], str]:
    """The parts of the page (title, with figures, cards, lines or tables), and one line on those that the run lacks."""
    from kdoct_utils.show import report_figures, teacher_figures

    arms = {arm: results[arm] for arm in NETWORKS if "confusion" in results.get(arm, {})}
    gain = results["kd_gain"] if results.get("kd_gain", {}).get("low") is not None else None
    named = {arm: look(arm).label[0].upper() + look(arm).label[1:] for arm in arms}
    matrices = [teacher_figures.tested_figure(arms[arm], arms[arm]["class_names"], named[arm])
                for arm in arms if arm != "student_cached"]  # fmt: skip
    edge = {name: found for name, found in results.get("edge", {}).items() if found.get("accuracy") is not None}
    parts = {
        "The networks": {"figures": [report_figures.networks_figure(arms, gain)] if arms else []},
        "Which class is taken for which": {"figures": matrices, "lines": ["Counts over all seeds."] * bool(arms)},
        "How they learned": {"figures": learning(run, results)},
        "The student's worst errors": errors(run),
        "On the edge": {"figures": [report_figures.front_figure(edge)] if edge else []},
        "Signs of trouble": {"lines": signs_lines(results)},
        "The data": data(run),
    }
    for part in parts.values():
        part["figures"] = [embedded(*figure) for figure in part.get("figures", [])]
    lacking = [title.lower() for title, part in parts.items() if not any(part.values())]
    found = [{"title": title} | part for title, part in parts.items() if any(part.values())]
    return found, f"Not in this run: {', '.join(lacking)}." if lacking else ""


def learning(run: RunFolder, results: Mapping) -> list[tuple]:
    """Learning curves of the networks that this run trained."""
    from kdoct_utils.show.report_figures import learning_figures

    chosen, file = results.get("teacher", {}).get("chosen"), run.history_file("teacher")
    students = {arm: [pd.read_csv(path) for path in sorted(run.path.glob(f"history_{arm}_seed*.csv"))]
                for arm in NETWORKS}  # fmt: skip
    teacher = pd.read_csv(file) if chosen and file.exists() else None
    return learning_figures(teacher, chosen, {arm: found for arm, found in students.items() if found})


def errors(run: RunFolder) -> dict:
    """The scans of which the distilled student is surest that they are something else, with what both networks said."""
    from kdoct_utils.lab.reading import pictures_there
    from kdoct_utils.show.svg import png_uri

    if not run.predictions_file.exists():
        return {}
    table = crossval.read_predictions(run.predictions_file)
    table = table[(table["fold"] == run.options.fold) & table["network"].isin(["teacher", "student_kd"])]
    if table["network"].nunique() < 2:
        return {}
    worst, counted = crossval.worst_errors(table, "student_kd", "teacher")
    pictures, cards = pictures_there(run, set(worst["scan_id"])), []
    for row in worst[worst["scan_id"].isin(pictures)].itertuples():
        words = {who: f"{'✓' if named == row.label else '✗'} {look(named).label}, {sure:.0%}" for who, named, sure in
                 (("student", row.student, row.student_p), ("teacher", row.teacher, row.teacher_p))}  # fmt: skip
        alt = f"B-scan {row.scan_id}, labeled {look(row.label).label}"
        cards.append({"src": png_uri(pictures[row.scan_id]), "alt": alt, "label": look(row.label).label} | words)
    line = (f"Averaged over its seeds, the distilled student is wrong on {counted['wrong']:,} of {counted['scans']:,} "
            f"test scans. The teacher is right on {counted['saved']:,} of these.")  # fmt: skip
    return {"lines": [f"{line} Where the student was surest, one scan per patient:" if cards else line], "cards": cards}


def data(run: RunFolder) -> dict:
    """What the data were, and how many patients had which role."""
    from kdoct_utils.lab.reading import patients_by_role

    if not run.provenance_file.exists():
        return {}
    record, roles = read_json(run.provenance_file)["provenance"], patients_by_role(run)
    lines = [f"{record['title']}; license: {record['license']}."]
    lines += [f"{count:,} scans were left out: {reason}." for reason, count in record["refused"].items()]
    table = text_table(roles.to_dict("records"), {"role": "role", "patients": "patients", "scans": "B-scans"})
    return {"lines": lines, "tables": {"Patients by role": table}}


def report_run(run: RunFolder) -> Path:
    """Write ``index.html`` and, beside each executed notebook, its HTML. Returns the page's path.

    Raises RunError if the run has no executed notebook.
    """
    paths = sorted(run.notebooks_dir.glob("*.ipynb"))
    if not paths:
        raise RunError(f"{run.path} has no executed notebook; `kdoct run` makes them")
    use_style()
    results = run_results(run)
    sections, lacking = run_sections(run, results)
    opening = sections.pop(0)["figures"] if sections and sections[0]["title"] == "The networks" else []
    links = {notebook_title(path): export_notebook(path).relative_to(run.path).as_posix() for path in paths}
    return write_page(
        run.index_file, "report.html", lead=finding(run, results), sections=sections, links=links,
        opening=opening,
        title=f"What this run found: profile {run.profile.name}, dataset {run.dataset}, seed {run.seed}",
        notes=[lacking, f"Profile {run.profile.name}: {run.profile.purpose}. For teaching; not a medical device."],
        tables=run_tables(results),
        tables_note="Fractions of 1, with 95 % intervals from resampled patients.",
        departs=run.profile.departs_from_paper,
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
