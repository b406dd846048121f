"""What each file costs and what it is worth, beside one another, and which of them to ship.

The large networks of the paper are measured by ``python -m tools.edge_costs`` and carried as a table: ConvNeXtV2-Large
alone is 800 MB of weights and minutes of work. Everything else is measured where it is asked for.
"""

import io
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.edge.measure import cold_start, time_in_turns
from kdoct_utils.judge.metrics import evaluate, paired_difference, probabilities

WITHIN, AS_QUICK = 0.01, 1.1  # what may be lost for a cheaper file, 0..1; what counts as equally quick, a ratio

Key = tuple[str, str]  # student, format


def price_files(
    paths: Mapping[Key, Path],
    images: np.ndarray,
    target: np.ndarray,
    patients: np.ndarray,
    judges: tuple[np.ndarray, np.ndarray],
    turns: int = 7,
    runs: int = 30,
    starts: int = 3,
) -> pd.DataFrame:
    """A row a file, indexed by student and format ("FP32" first).

    images (n, R, R), target and patients (n,): test scans. judges: (images, target) of the validation scans, for
    `choose_file`. turns, runs: of `time_in_turns`, one scan, one thread. starts: of `cold_start`; 0 leaves it out.
    Columns: bytes, median_ms, p95_ms, per_second (scans, 64 at a time), cold_start_s, peak_mb, accuracy with low and
    high, ece, judged (accuracy on validation scans); lost, lost_low, lost_high: accuracy minus that of the same
    student's first file, paired, patients resampled. Shares are 0..1, intervals 95 %.
    Raises EdgeError for a file whose classes are not those of the first.
    """
    models = {key: OnnxClassifier(path) for key, path in paths.items()}
    names = next(iter(models.values())).class_names
    for (student, kind), model in models.items():
        if model.class_names != names:
            found = f"{student}, {kind}: {', '.join(model.class_names)}"
            raise EdgeError(f"files of other classes cannot be compared: {found}, not {', '.join(names)}")
    timed = time_in_turns({key: lambda m=m: m.logits(images[:1]) for key, m in models.items()}, turns, runs)
    batch = images[np.arange(64) % len(images)]
    many = time_in_turns({key: lambda m=m: m.logits(batch) for key, m in models.items()}, 3, 1, 1)
    rows, first = [], {}
    for key, model in models.items():
        answers = model.logits(images)
        right = answers.argmax(axis=1) == target
        lost = paired_difference(right, first.setdefault(key[0], right), patients)
        scores = evaluate(probabilities(answers), target, patients, names)
        row = dict(zip(("student", "format"), key, strict=True)) | {"bytes": Path(paths[key]).stat().st_size}
        row |= {name: timed[key][name] for name in ("median_ms", "p95_ms")}
        row |= {"per_second": 1000 * len(batch) / many[key]["median_ms"]}
        row |= cold_start(paths[key], starts) if starts else {}
        row |= {"accuracy": scores["accuracy"], "low": scores["interval"][0], "high": scores["interval"][1]}
        row |= {"ece": scores["ece"], "judged": float((model.predict(judges[0]) == judges[1]).mean())}
        rows.append(row | {"lost": lost["estimate"], "lost_low": lost["low"], "lost_high": lost["high"]})
    return pd.DataFrame(rows).set_index(["student", "format"])


def choose_file(prices: pd.DataFrame) -> Key:
    """The file to ship, by what validation scans, clock and scale say; test scans have no say.

    Of the files that are within WITHIN of the most accurate on validation scans, the quickest; of those as quick, up
    to AS_QUICK, the smallest. prices: of `price_files`.
    """
    good = prices[prices["judged"] >= prices["judged"].max() - WITHIN - 1e-9]
    quick = good[good["median_ms"] <= AS_QUICK * good["median_ms"].min()]
    return quick["bytes"].idxmin()


def shipping_sentence(prices: pd.DataFrame, chosen: Key) -> str:
    """Which file to ship and why, in Markdown. chosen: of `choose_file`."""
    row, best = prices.loc[chosen], prices["judged"].idxmax()
    plain = prices.loc[(chosen[0], "FP32")] if (chosen[0], "FP32") in prices.index else row
    good = int((prices["judged"] >= prices["judged"].max() - WITHIN - 1e-9).sum())
    text = (
        f"Ship **{chosen[0]}, {chosen[1]}**. Of {len(prices)} files {good} are within {100 * WITHIN:.0f} point of the "
        f"most accurate one on validation scans ({', '.join(best)}). Of these it is the quickest, or the smallest of "
        f"those as quick: {row['median_ms']:.2f} ms, {row['bytes'] / 1000:,.0f} kB. "
    )
    if chosen[1] != "FP32":
        text += (
            f"Its student's FP32 file takes {plain['median_ms']:.2f} ms and {plain['bytes'] / 1000:,.0f} kB; on test "
            "patients the difference in accuracy is {:+.1f} points [{:+.1f}, {:+.1f}]. ".format(
                *(100 * row[name] for name in ("lost", "lost_low", "lost_high"))
            )
        )
    return text + "Its accuracy on test patients is {:.1%} [{:.1%}, {:.1%}].".format(*row[["accuracy", "low", "high"]])


def kept_costs() -> tuple[pd.DataFrame, str]:
    """The carried measurement of networks at full size, a row a network, runtime and number of threads, and where it
    was made.

    Columns: network, runtime, threads, side (pixels), parameters, bytes, median_ms, p95_ms, per_second,
    five_views_ms, cold_start_s, peak_mb; NaN where something was not measured.
    """
    text = (files("kdoct_utils.edge") / "costs.csv").read_text(encoding="utf-8")
    note, _, table = text.partition("\n")
    return pd.read_csv(io.StringIO(table)), note.strip("# ")
