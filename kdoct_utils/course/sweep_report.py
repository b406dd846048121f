"""What a sweep found: its arms side by side, differences in pairs, folds pooled; for a terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from kdoct_utils.course.report import NETWORKS
from kdoct_utils.course.sweep import DONE, Sweep, SweepRun, read_results, value_text
from kdoct_utils.data.splits import load_splits
from kdoct_utils.datasets import PHANTOMS, DataOptions
from kdoct_utils.judge import crossval
from kdoct_utils.runs import load_run
from kdoct_utils.show.page import Tables, cell_text, embedded, read_interval, terminal_text, text_table, write_page

COMPARED = {"name": "accuracy difference", "estimate": "estimate", "interval": "95 % interval", "by_seed": "by seed",
            "pairs": "pairs", "reading": "so the difference is"}  # fmt: skip
POOLED = {"name": "out-of-fold predictions", "folds_accuracy": "accuracy, mean ± SD over folds",
          "accuracy": "pooled accuracy", "sensitivity": "pooled sensitivity", "specificity": "pooled specificity",
          "folds": "folds", "n_patients": "patients"}  # fmt: skip
ABOUT_TABLES = (
    "Fractions of 1 on test patients. ± is the population standard deviation over the runs of an arm. Intervals of 95 "
    "% resample patients; those of differences also the training seeds inside a run. They do not know what another "
    "split or teacher would change: for that, compare the differences by seed. About one in twenty intervals leaves "
    "zero by chance."
)

Predictions = Mapping[str, pd.DataFrame]  # of the finished runs of a sweep, by the run's name


def read_predictions(sweep: Sweep) -> Predictions:
    """The predictions that the finished runs kept.

    Phantoms of another seed are other patients under the same names, so the seed becomes part of their names.
    """
    found = {}
    for run in sweep.runs:
        path = load_run(run.folder).predictions_file
        if run.finished_result() and path.exists():
            found[run.name] = crossval.read_predictions(path)
            if sweep.dataset in PHANTOMS:
                found[run.name]["group"] = f"seed {run.seed}: " + found[run.name]["group"]
    return found


def sweep_tables(sweep: Sweep, predictions: Predictions) -> tuple[Tables, list[str]]:
    """Every table that the sweep has rows for, and sentences on what is missing."""
    results = read_results(sweep)
    failed = results[results["status"] != DONE]
    pooled, notes = cross_validation_table(sweep, predictions)
    found = {
        "Arms": arms_table(sweep, accuracies(results)),
        "Differences in pairs": differences_table(sweep, predictions),
        "Cross-validation": pooled,
        "Runs that failed": failed[["run", "error"]],
    }
    if len(results) < len(sweep.runs):
        notes.append(f"{len(sweep.runs) - len(results)} of {len(sweep.runs)} runs are missing.")
    if not predictions and len(failed) < len(results):
        notes.append(f"{sweep.notebook.name} keeps no predictions, so nothing is compared scan by scan.")
    return {title: table for title, table in found.items() if len(table)}, notes


def sweep_text(sweep: Sweep) -> str:
    """The tables for a terminal."""
    tables, notes = sweep_tables(sweep, read_predictions(sweep))
    return "\n\n".join([terminal_text(tables), *notes])


def arm_of(run: SweepRun) -> str:
    """The values of a run without its fold, in words."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in run.given.items() if name != "fold") or "all runs"


def network_name(network: str) -> str:
    """A network in words; its own name where the course has none for it."""
    return NETWORKS.get(network, network)


def spread_text(values: pd.Series) -> str:
    """Mean ± population SD; a dash where nothing was measured."""
    found = crossval.mean_and_spread(values)
    return f"{found['mean']:.3f} ± {found['sd']:.3f}" if found["n"] else "–"


def accuracies(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every network, a column each, in every finished run; the course's networks where there are any."""
    done = results[results["status"] == DONE].set_index("run")
    found = done.filter(regex="_accuracy$").rename(columns=lambda name: name.removesuffix("_accuracy"))
    return found.filter(list(NETWORKS)) if set(NETWORKS) & set(found) else found


def arms_table(sweep: Sweep, accuracy: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: accuracy of every network over its seeds and folds."""
    rows = []
    for arm in dict.fromkeys(map(arm_of, sweep.runs)):
        chosen = accuracy[accuracy.index.isin([run.name for run in sweep.runs if arm_of(run) == arm])]
        rows.append({"arm": arm, "runs": len(chosen)} | {key: spread_text(chosen[key]) for key in accuracy})
    titles = {key: network_name(key) for key in accuracy}
    return text_table(rows, {"arm": "accuracy, mean ± SD", **titles, "runs": "runs"})


def differences_table(sweep: Sweep, predictions: Predictions) -> pd.DataFrame:
    """Each value of a swept parameter against its first, in pairs of runs that differ in nothing else.

    Dataset options are left out, since they change what is tested, and so are networks that a value does not change.
    """
    rows = []
    there = {(run.seed, str(run.given)): run for run in sweep.runs if run.name in predictions}
    for name in [name for name in sweep.swept if name not in DataOptions.types()]:
        reference, *others = sweep.grid[name]
        for value in others:
            pairs = [
                (run, there[key])
                for run in there.values()
                if run.given[name] == value and (key := (run.seed, str(run.given | {name: reference}))) in there
            ]
            tables = [(predictions[run.name], predictions[other.name]) for run, other in pairs]
            for network in dict.fromkeys(network for table, _ in tables for network in table["network"]):
                found = crossval.paired_arms(tables, network)
                by_seed = pd.Series(found["by_pair"]).groupby([run.seed for run, _ in pairs]).mean()
                if not by_seed.any() and found["low"] == found["high"]:
                    continue
                compared = f"{name} {value_text(value)} minus {value_text(reference)}: {network_name(network)}"
                interval, differences = (found["low"], found["high"]), map("{:+.3f}".format, by_seed)
                cells = (compared, f"{found['estimate']:+.3f}", interval, ", ".join(differences), len(pairs))
                rows.append(dict(zip(COMPARED, (*cells, read_interval(*interval)), strict=True)))
    return text_table(rows, COMPARED)


def cross_validation_table(sweep: Sweep, predictions: Predictions) -> tuple[pd.DataFrame, list[str]]:
    """For every arm, seed and network: mean and SD over folds, and scores of the pooled out-of-fold predictions.

    A network that was trained with several seeds in each fold has a second row: their ensemble, on scans that none of
    them has seen. Where all folds test the same patients, who lie beyond them (phantoms), these are resampled once,
    with what the networks of all folds say. Returns the rows and sentences on what could not be pooled; both empty
    where fold is not swept.
    """
    rows, notes = [], []
    groups: dict[str, list[SweepRun]] = {}
    for run in sweep.runs:
        if "fold" in sweep.swept and run.name in predictions:
            groups.setdefault(f"{arm_of(run)}, seed {run.seed}", []).append(run)
    for arm, runs in groups.items():
        together = pd.concat([predictions[run.name] for run in runs], ignore_index=True)
        folder, split = load_run(runs[0].folder), None
        if folder.splits_file.exists() and folder.table_file.exists():
            split = load_splits(folder.splits_file, pd.read_csv(folder.table_file, dtype=str, keep_default_na=False))
        for network, part in together.groupby("network", sort=False):
            name, seeds = f"{arm}: {network_name(network)}", part["seed"].nunique()
            if split is not None and not part["scan_id"].isin(split["scan_id"]).any():
                rows.append(_pooled_row(name, part, part))
                continue
            try:
                rows.append(_pooled_row(name, part, crossval.pool_out_of_fold(part, split)))
                if seeds > 1 and split is not None:
                    ensemble = crossval.ensemble_out_of_fold(part, split)
                    rows.append(_pooled_row(f"{name}, ensemble of {seeds} seeds", ensemble, ensemble))
            except ValueError as error:
                notes.append(f"{arm}: {error}.")
    return text_table(rows, POOLED), notes


def _pooled_row(name: str, by_fold: pd.DataFrame, pooled: pd.DataFrame) -> dict:
    folds = crossval.fold_scores(by_fold).groupby("fold")["accuracy"].mean()
    row = {"name": name, "folds_accuracy": spread_text(folds), "folds": len(folds)} | crossval.pooled_scores(pooled)
    for score in crossval.SCORES:
        found = row[score]
        row[score] = f"{cell_text(found['estimate'])} {cell_text((found['low'], found['high']))}"
    return row


def report_sweep(sweep: Sweep) -> Path:
    """Write ``index.html`` into the sweep's folder and return its path."""
    from kdoct_utils.show.report_figures import swept_figure
    from kdoct_utils.show.style import use_style

    use_style()
    results = read_results(sweep)
    tables, notes = sweep_tables(sweep, read_predictions(sweep))
    found, figures = accuracies(results).dropna(axis=1, how="all"), []
    labels = {key: network_name(key) for key in found}
    for name in sweep.swept if found.size else ():
        values = {run.name: value_text(run.given[name]) for run in sweep.runs}
        points = found.assign(value=found.index.map(values))
        order = [value_text(value) for value in sweep.grid[name]]
        figures.append(embedded(*swept_figure(points, name, order, labels)))
    pages = {run.name: f"{run.name}/notebooks/{run.notebook.name}" for run in sweep.runs}
    links = {"results.csv, all numbers": sweep.results_file.name}
    links |= {name: page if (sweep.folder / page).exists() else "" for name, page in pages.items()}
    done = int((results["status"] == DONE).sum())
    finding = figures[0]["takeaway"] if figures else "No run has measured a network's accuracy."
    return write_page(
        sweep.folder / "index.html", "report.html", tables=tables, links=links, links_title="The runs",
        lead=f"{done} of {len(sweep.runs)} runs are done. {finding}",
        notes=[*notes, "For teaching; not a medical device."],
        title=f"Sweep of notebook {sweep.notebook.stem}: profile {sweep.profile.name}, dataset {sweep.dataset}",
        opening=figures, tables_note=ABOUT_TABLES,
    )  # fmt: skip
