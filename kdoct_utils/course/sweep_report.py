"""What a sweep found: its arms side by side, differences in pairs, folds pooled; for a terminal and as an HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from itertools import product
from pathlib import Path
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.course.grid import Sweep, SweepRun, value_text
from kdoct_utils.course.report import NETWORKS, html_page, interval_text, number_text, read_interval, scrolling_table
from kdoct_utils.course.sweep import DONE, finished_result, read_results
from kdoct_utils.data.splits import load_splits
from kdoct_utils.datasets import PHANTOMS, DataOptions
from kdoct_utils.judge import crossval
from kdoct_utils.judge.metrics import patient_bootstrap, percentile_interval
from kdoct_utils.runs import atomic_path, load_run
from kdoct_utils.show import style as plots
from kdoct_utils.show.output import figure_png

Predictions = Mapping[str, pd.DataFrame]  # by the name of the run
OPTIONS = tuple(DataOptions.types())
MARKERS = ("o", "s", "^", "D", "v", "P")


def network_name(key: str) -> str:
    return NETWORKS.get(key, key)


def read_all_predictions(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """The predictions that the finished runs kept, by the name of the run.

    Phantoms of another seed are other patients under the same names, so the seed becomes part of their names.
    """
    found = {}
    for run in sweep.runs:
        path = load_run(run.folder).predictions_file
        if finished_result(run) and path.exists():
            found[run.name] = crossval.read_predictions(path)
            if sweep.dataset in PHANTOMS:
                found[run.name]["group"] = f"seed {run.seed}: " + found[run.name]["group"]
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def arms_table(sweep: Sweep, results: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """One row a combination of values: accuracy of every network, mean ± population SD over its seeds and folds."""
    names = [name for name in sweep.grid if name != "fold"]
    accuracy = _accuracies(results, predictions)
    rows = {}
    for combination in product(*(sweep.grid[name] for name in names)):
        arm = [
            run.name for run in sweep.runs if all(run.given[n] == v for n, v in zip(names, combination, strict=True))
        ]
        chosen = accuracy[accuracy.index.isin(arm)]
        row = {network_name(key): _spread_text(chosen[key]) for key in accuracy}
        rows[_arm_text(names, combination)] = row | {"runs": len(chosen)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("accuracy, mean ± SD")


def _accuracies(results: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """A row a finished run, a column a network: from its predictions, else from its metrics."""
    done = results[results["status"] == DONE].set_index("run")
    scored = [name.removesuffix("_accuracy") for name in done if name.endswith("_accuracy")]
    known = [key for key in scored if key in NETWORKS] or scored
    found = done[[f"{key}_accuracy" for key in known]].set_axis(known, axis=1)
    told = {
        run: table.assign(hit=crossval.hits(table)).groupby("network")["hit"].mean()
        for run, table in predictions.items()
    }
    found = pd.DataFrame.from_dict(told, orient="index").reindex(found.index).combine_first(found)
    order = [key for key in NETWORKS if key in found]
    return found[[*order, *(key for key in found if key not in order)]]


def _arm_text(names: list[str], values: tuple) -> str:
    return ", ".join(f"{name} {value_text(value)}" for name, value in zip(names, values, strict=True)) or "all runs"


def _spread_text(values: pd.Series) -> str:
    found = crossval.mean_and_spread(values)
    return "–" if not found["n"] else f"{found['mean']:.3f} ± {found['sd']:.3f}"


def differences(sweep: Sweep, predictions: Predictions) -> pd.DataFrame:
    """Each value of a swept parameter against its first, in pairs of runs that differ in nothing else.

    Columns: parameter, value, reference, network, estimate, low, high, pairs, by_seed (dict: sweep seed -> difference).
    Dataset options are left out, since they change what is tested, and so are networks that a value does not change.
    """
    rows = []
    for name in [name for name in sweep.swept if name not in OPTIONS]:
        reference, *others = sweep.grid[name]
        for value in others:
            pairs = list(_pairs(sweep, predictions, name, value, reference))
            networks = dict.fromkeys(network for run, _ in pairs for network in predictions[run.name]["network"])
            for network in networks:
                tables = [(predictions[run.name], predictions[other.name]) for run, other in pairs]
                found = crossval.paired_arms(tables, network)
                by_seed = pd.Series(found.pop("by_pair")).groupby([run.seed for run, _ in pairs]).mean().to_dict()
                if any(by_seed.values()) or found["low"] != found["high"]:
                    row = {"parameter": name, "value": value, "reference": reference, "network": network}
                    rows.append(row | found | {"pairs": len(pairs), "by_seed": by_seed})
    return pd.DataFrame(rows)


def _pairs(
    sweep: Sweep, predictions: Predictions, name: str, value: object, reference: object
) -> Iterator[tuple[SweepRun, SweepRun]]:
    def rest(run: SweepRun) -> tuple:
        return run.seed, *(str(other) for key, other in run.given.items() if key != name)

    there = [run for run in sweep.runs if run.name in predictions]
    references = {rest(run): run for run in there if run.given[name] == reference}
    for run in there:
        if run.given[name] == value and rest(run) in references:
            yield run, references[rest(run)]


def differences_table(found: pd.DataFrame) -> pd.DataFrame:
    """``differences`` for readers."""
    rows = {
        f"{row.parameter} {value_text(row.value)} minus {value_text(row.reference)}: {network_name(row.network)}": {
            "estimate": f"{row.estimate:+.3f}",
            "95 % interval": interval_text(row.low, row.high),
            "by seed": ", ".join(f"{value:+.3f}" for value in row.by_seed.values()),
            "pairs": row.pairs,
            "so the difference is": read_interval(row.low, row.high),
        }
        for row in found.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("accuracy difference")


def cross_validation(sweep: Sweep, predictions: Predictions) -> tuple[pd.DataFrame, list[str]]:
    """For every arm, seed and network: mean and SD over folds, and scores of the pooled out-of-fold predictions.

    A network that was trained with several seeds in each fold has a second row: their ensemble, on scans that none of
    them has seen. Returns the rows and sentences on what could not be pooled; both empty where fold is not swept.
    """
    rows, notes = [], []
    if "fold" not in sweep.swept:
        return pd.DataFrame(), notes
    groups: dict[tuple, list[SweepRun]] = {}
    for run in sweep.runs:
        if run.name in predictions:
            arm = tuple(value for name, value in run.given.items() if name != "fold")
            groups.setdefault((run.seed, *map(str, arm)), []).append(run)
    for (seed, *_), runs in groups.items():
        names = [name for name in sweep.grid if name != "fold"]
        arm = _arm_text(names, tuple(runs[0].given[name] for name in names)) + f", seed {seed}"
        together = pd.concat([predictions[run.name] for run in runs], ignore_index=True)
        split = _split_of(runs[0])
        for network, part in together.groupby("network", sort=False):
            try:
                rows += [{"arm": arm, **row} for row in _pooled_rows(network, part, split)]
            except ValueError as error:
                notes.append(f"{arm}: {error}.")
    return pd.DataFrame(rows), notes


def _split_of(run: SweepRun) -> pd.DataFrame | None:
    """The split of all folds; None where the notebook made none."""
    folder = load_run(run.folder)
    if not (folder.splits_file.exists() and folder.table_file.exists()):
        return None
    return load_splits(folder.splits_file, pd.read_csv(folder.table_file, dtype=str, keep_default_na=False))


def _pooled_rows(network: str, part: pd.DataFrame, split: pd.DataFrame | None) -> Iterator[dict]:
    by_fold = crossval.fold_scores(part).groupby("fold")["accuracy"].mean()
    pooled = crossval.pool_out_of_fold(part, split)
    folds = crossval.mean_and_spread(by_fold)
    yield {"network": network, "members": 1, "folds": folds} | crossval.pooled_scores(pooled)
    seeds = part["seed"].nunique()
    if seeds > 1 and split is not None:
        ensemble = crossval.ensemble_out_of_fold(part, split)
        folds = crossval.mean_and_spread(crossval.fold_scores(ensemble)["accuracy"])
        yield {"network": network, "members": seeds, "folds": folds} | crossval.pooled_scores(ensemble)


def cross_validation_table(found: pd.DataFrame) -> pd.DataFrame:
    """``cross_validation`` for readers."""
    rows = {}
    for row in found.to_dict("records"):
        members = f", ensemble of {row['members']} seeds" if row["members"] > 1 else ""
        rows[f"{row['arm']}: {network_name(row['network'])}{members}"] = {
            "accuracy, mean ± SD over folds": f"{row['folds']['mean']:.3f} ± {row['folds']['sd']:.3f}",
            **{
                f"pooled {name}": f"{number_text(row[name]['estimate'])} "
                f"{interval_text(row[name]['low'], row[name]['high'])}"
                for name in crossval.SCORES
            },
            "folds": row["folds"]["n"],
            "patients": row["n_patients"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("out-of-fold predictions")


def failures_table(results: pd.DataFrame) -> pd.DataFrame:
    """The runs that failed, each with its error."""
    failed = results[results["status"] != DONE]
    return failed.set_index("run")[["error"]].rename_axis("run") if len(failed) else pd.DataFrame()


def tables(sweep: Sweep) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Every table that the sweep has rows for, by title, and sentences on what is missing."""
    results, predictions = read_results(sweep), read_all_predictions(sweep)
    pooled, notes = cross_validation(sweep, predictions)
    found = {
        "Arms": arms_table(sweep, results, predictions),
        "Differences in pairs": differences_table(differences(sweep, predictions)),
        "Cross-validation": cross_validation_table(pooled),
        "Runs that failed": failures_table(results),
    }
    if len(results) < len(sweep.runs):
        notes.append(f"{len(sweep.runs) - len(results)} of {len(sweep.runs)} runs are missing.")
    if not predictions and (results["status"] == DONE).any():
        notes.append(f"{sweep.notebook.name} keeps no predictions, so nothing is compared scan by scan.")
    return {title: table for title, table in found.items() if len(table)}, notes


def tables_text(sweep: Sweep) -> str:
    """The tables for a terminal."""
    found, notes = tables(sweep)
    parts = [f"{title}\n{table.reset_index().to_string(index=False)}" for title, table in found.items()]
    return "\n\n".join([*parts, *notes])


# --- page ------------------------------------------------------------------------------------------------------------


def report(sweep: Sweep) -> Path:
    """Write ``index.html`` into the sweep's folder and return its path."""
    found, notes = tables(sweep)
    title = f"Sweep of notebook {sweep.notebook.stem}: profile {sweep.profile}, dataset {sweep.dataset}"
    parts = [
        "<p>Fractions of 1 on test patients. ± is the population standard deviation over the runs of an arm. "
        "Intervals of 95 % resample patients; those of differences also the training seeds inside a run. They do not "
        "know what another split or teacher would change: for that, compare the differences by seed. Of many intervals "
        "some leave zero by chance: about one in twenty. For teaching; not a medical device.</p>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        "<h2>Results</h2>",
        *(scrolling_table(name, table) for name, table in found.items()),
        *_figures_html(sweep),
        "<h2>Runs</h2>",
        _runs_html(sweep),
    ]
    with atomic_path(sweep.index_file) as temporary:
        temporary.write_text(html_page(title, "\n".join(parts)), encoding="utf-8")
    return sweep.index_file


def _runs_html(sweep: Sweep) -> str:
    items = []
    for run in sweep.runs:
        executed = run.folder / "notebooks" / run.notebook.name
        name, target = escape(run.name), quote(f"{run.name}/notebooks/{run.notebook.name}")
        items.append(f'<li><a href="{target}">{name}</a></li>' if executed.exists() else f"<li>{name}</li>")
    table = f'<p>All numbers: <a href="{sweep.results_file.name}">{sweep.results_file.name}</a>.</p>'
    return "\n".join([table, "<ul>", *items, "</ul>"])


def points(sweep: Sweep, predictions: Predictions, name: str) -> dict[str, list[dict]]:
    """For each network and value of a parameter: accuracy over all runs with that value, resampling patients.

    Returns network -> a list in the order of the values, of {value, estimate, low, high}.
    """
    found: dict[str, list[dict]] = {}
    for value in sweep.grid[name]:
        runs = [run for run in sweep.runs if run.given[name] == value and run.name in predictions]
        if not runs:
            continue
        together = pd.concat([predictions[run.name] for run in runs], ignore_index=True)
        for network, part in together.groupby("network", sort=False):
            right = crossval.hits(part).astype(float)
            low, high = percentile_interval(patient_bootstrap(right, part["group"].to_numpy(dtype=str)))
            found.setdefault(network, []).append(
                {"value": value, "estimate": float(right.mean()), "low": low, "high": high}
            )
    return found


def value_figure(found: Mapping[str, list[dict]], values: tuple, name: str) -> Figure:
    """Accuracy with its interval for each value of a parameter and each network. found: see ``points``."""
    plots.use_style()
    figure, axis = plt.subplots()
    places = {str(value): place for place, value in enumerate(values)}
    for number, (network, line) in enumerate(found.items()):
        shift = 0.08 * (number - (len(found) - 1) / 2)  # intervals side by side, not on one another
        x = np.array([places[str(point["value"])] for point in line]) + shift
        middle, low, high = (np.array([point[key] for point in line]) for key in ("estimate", "low", "high"))
        color, marker = plots.LINE_COLORS[number % 6], MARKERS[number % 6]
        if network in plots.ARM_LOOKS:
            color, marker = plots.look(network).color, plots.look(network).marker
        style = plots.LINE_STYLES[number % 6]
        axis.errorbar(
            x, middle, yerr=[middle - low, high - middle], color=color, marker=marker, linestyle=style, capsize=4,
            label=network_name(network),
        )  # fmt: skip
    axis.set(xticks=range(len(values)), xticklabels=[value_text(value) for value in values])
    axis.set(xlabel=name, ylabel="accuracy\n(95% interval over patients)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ranges = {network: np.ptp([point["estimate"] for point in line]) for network, line in found.items()}
    widest = max(ranges, key=ranges.get)
    ends = [value([point["estimate"] for point in found[widest]]) for value in (min, max)]
    title = f"{network_name(widest)}: {ends[0]:.3f} to {ends[1]:.3f} by {name}"
    plots.message(axis, title if ranges[widest] else f"No network changes with {name}")
    return figure


def _figures_html(sweep: Sweep) -> Iterator[str]:
    """A figure with its alternative text for each swept parameter."""
    predictions = read_all_predictions(sweep)
    for name in sweep.swept:
        found = points(sweep, predictions, name)
        if not found:
            continue
        others = [other for other in sweep.swept if other != name]
        over = f" over all values of {' and '.join(others)}" if others else ""
        spoken = "; ".join(
            f"{network_name(network)} " + ", ".join(f"{value_text(p['value'])}: {p['estimate']:.3f}" for p in line)
            for network, line in found.items()
        )
        figure = value_figure(found, sweep.grid[name], name)
        alt = f"Accuracy by {name}{over}, with intervals. {spoken}."
        png = base64.b64encode(figure_png(figure, description=alt)).decode()
        plt.close(figure)
        yield (
            f'<h2>{escape(name)}</h2>\n<p><img alt="{escape(alt)}" src="data:image/png;base64,{png}" '
            f'style="max-width: 100%; background: white"></p>\n<p>{escape(alt)}</p>'
        )
