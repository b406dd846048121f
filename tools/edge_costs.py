"""Measure what networks cost on a processor: latency, throughput, start, memory, bytes; torch beside ONNX Runtime.

    python -m tools.edge_costs prepare FOLDER   # makes the files, compiles; minutes, may run beside other work
    python -m tools.edge_costs measure FOLDER   # reads the clock; five minutes on a machine that does nothing else

The quick student and its lite sibling at 64 px; the paper's student, its lite sibling and the paper's teacher at
384 px, untrained, for weights do not change a clock. The table is written into the package
(`kdoct_utils/edge/costs.csv`) and into docs/board.md.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from kdoct_utils.edge.classifier import OnnxClassifier, processor
from kdoct_utils.edge.measure import cold_start, peak_memory_mb, time_in_turns
from kdoct_utils.edge.prices import kept_costs
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.profiles import PROFILES, ModelConfig
from kdoct_utils.runs import atomic_path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "board.md"
OUTPUT = ROOT / "kdoct_utils" / "edge" / "costs.csv"
FORMATS = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8"}
SLOW = 0.5  # seconds; a call that takes longer is timed a few times only, and not warmed up in every turn
CALIBRATION = 3  # phantom scans: ranges do not change a clock
CLASSES = ("normal", "drusen", "cnv")
QUICK, PAPER = PROFILES["quick"], PROFILES["paper"]

Folder = Annotated[Path, typer.Argument(help="Where the files lie; 3 GB.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Network:
    """side: pixels that it sees. stored: pixels that the file takes. scans: in a batch, for the throughput.

    compiled: the numbers of threads for which torch compiles it; each takes minutes for a network at 384 px.
    """

    config: ModelConfig
    side: int
    stored: int
    channels: int
    scans: int
    compiled: tuple[int, ...] = ()


NETWORKS = {
    "quick student": Network(QUICK.student, QUICK.image_size, QUICK.resize_size, 1, 64, (1, 2)),
    "quick lite student": Network(QUICK.lite_student, QUICK.image_size, QUICK.resize_size, 1, 64, (1, 2)),
    "EfficientNet-B2": Network(PAPER.student, PAPER.image_size, PAPER.resize_size, 3, 5, (1,)),
    "EfficientNet-Lite2": Network(PAPER.lite_student, PAPER.image_size, PAPER.resize_size, 3, 5),
    "ConvNeXtV2-Large": Network(PAPER.teacher, PAPER.image_size, PAPER.resize_size, 3, 5),
}


def slug(name: str) -> str:
    return name.lower().replace(" ", "_")


def scans(network: Network, count: int) -> np.ndarray:
    """Phantom scans, uint8 (count, R, R)."""
    return phantom_cohort(-(-count // 3), 1, network.stored, 0, CLASSES)[0][:count]


# --- what is measured ------------------------------------------------------------------------------------------------


def build(network: Network):
    """The untrained network in eval mode; its batch norms have seen scans, so that numbers have their usual size."""
    import torch

    from kdoct_utils.learn.models import build_model

    model = build_model(network.config, len(CLASSES), network.channels)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain mean of what is shown
    if norms:
        with torch.no_grad():
            model.train()(prepared(network, scans(network, 6)))
    return model.eval()


def prepared(network: Network, images: np.ndarray):
    """(n, R, R) uint8 -> (n, channels, S, S): what the file does with a scan before the network sees it."""
    import torch
    from torch.nn.functional import interpolate

    scan = torch.from_numpy(images[:, None]).float() / 255
    scan = interpolate(scan, (network.side, network.side), mode="bilinear", align_corners=False)
    return ((scan - 0.45) / 0.225).expand(-1, network.channels, -1, -1)


@app.command()
def prepare(folder: Folder) -> None:
    """Make the ONNX files of every network, and let torch compile."""
    from kdoct_utils.edge.export import export_onnx, quantize_int8, to_fp16

    folder.mkdir(parents=True, exist_ok=True)
    for name, network in NETWORKS.items():
        place = folder / slug(name)
        if not place.with_suffix(".done").exists():
            model = build(network)
            path = export_onnx(model, folder / f"{slug(name)}_fp32.onnx", image_size=network.side,
                               stored_size=network.stored, channels=network.channels, class_names=CLASSES)  # fmt: skip
            to_fp16(path, folder / f"{slug(name)}_fp16.onnx")
            quantize_int8(path, folder / f"{slug(name)}_int8.onnx", scans(network, CALIBRATION))
            place.with_suffix(".done").write_text(str(sum(p.numel() for p in model.parameters())))
        for threads in network.compiled:
            run_clock(folder, name, threads, turns=0)
        typer.echo(f"{name}: ready")


# --- the clock -------------------------------------------------------------------------------------------------------


def run_clock(folder: Path, name: str, threads: int, turns: int) -> list[dict]:
    """`clock` in a process of its own, which has that many threads from the start."""
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    command = [sys.executable, "-m", "tools.edge_costs", "clock", str(folder), name, str(threads), str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{name}, {threads} threads: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


@app.command()
def clock(folder: Folder, name: str, threads: int, turns: int) -> None:
    """Time one network in every runtime, in turns, and print the rows as JSON; with no turn, only let torch compile."""
    import torch

    network, rows = NETWORKS[name], []
    torch.set_num_threads(threads)
    model, images = build(network), scans(network, max(5, network.scans))
    if not turns:
        with torch.inference_mode():
            answer = torch.compile(model) if threads in network.compiled else model
            answer(prepared(network, images[:1]))
        typer.echo("[]")
        return
    files = {f"ONNX Runtime, {kind}": OnnxClassifier(folder / f"{slug(name)}_{end}.onnx", threads)
             for kind, end in FORMATS.items()}  # fmt: skip

    def by_torch(module: torch.nn.Module) -> Callable[[np.ndarray], object]:
        def answer(batch: np.ndarray) -> object:
            with torch.inference_mode():
                return module(prepared(network, batch))

        return answer

    calls = {"torch, eager": by_torch(model)}
    if threads in network.compiled:
        calls["torch, compiled"] = by_torch(torch.compile(model))
    calls |= {kind: file.logits for kind, file in files.items()}
    one, five, many = images[:1], images[:5], images[: network.scans]
    slowest = max(_seconds(lambda call=call: call(one)) for call in calls.values())  # the second call of each
    slow = slowest > SLOW
    runs, warmup, turns = (1, 0, min(turns, 3)) if slow else (int(np.clip(0.25 / slowest, 2, 50)), 2, turns)
    timed = time_in_turns({kind: lambda call=call: call(one) for kind, call in calls.items()}, turns, runs, warmup)
    calls.pop("torch, compiled", None)  # it would compile again for every other batch
    repeats = (1, 1, 0) if slow else (3, 1, 1)
    in_five = {} if slow and threads > 1 else {kind: lambda call=call: call(five) for kind, call in calls.items()}
    batches = time_in_turns(in_five, *repeats)
    if network.scans > 5:
        larger = time_in_turns({kind: lambda call=call: call(many) for kind, call in calls.items()}, *repeats)
    for kind, found in timed.items():
        row = {"network": name, "runtime": kind, "threads": threads, "side": network.side}
        row |= {key: found[key] for key in ("median_ms", "p95_ms")}
        if kind in batches:
            most = larger[kind] if network.scans > 5 else batches[kind]
            row |= {"five_views_ms": batches[kind]["median_ms"]}
            row |= {"per_second": 1000 * max(5, network.scans) / most["median_ms"]}
        rows.append(row)
    typer.echo(json.dumps(rows))


def _seconds(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@app.command()
def start(folder: Folder, name: str) -> None:
    """Answer to one scan by torch, in a process that does nothing else; print its peak memory in MB."""
    import torch

    torch.set_num_threads(1)
    network = NETWORKS[name]
    from kdoct_utils.learn.models import build_model

    model = build_model(network.config, len(CLASSES), network.channels).eval()
    with torch.inference_mode():
        model(prepared(network, np.zeros((1, network.stored, network.stored), np.uint8)))
    typer.echo(peak_memory_mb())


def start_by_torch(folder: Path, name: str, starts: int = 2) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.edge_costs", "start", str(folder), name]
    seconds, peaks = [], []
    for _ in range(starts):
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        seconds.append(time.perf_counter() - begin)
        peaks.append(float(done.stdout.splitlines()[-1]))
    return {"cold_start_s": min(seconds), "peak_mb": max(peaks)}


@app.command()
def measure(folder: Folder, only: Annotated[str, typer.Option(help="Networks, with commas; all without.")] = "",
            turns: int = 7) -> None:  # fmt: skip
    """Read the clock, and write the table into the package and the page on boards."""
    rows = []
    for name in [one for one in NETWORKS if not only or one in only.split(",")]:
        begin = time.perf_counter()
        found = [row for threads in (1, 2) for row in run_clock(folder, name, threads, turns)]
        for row in found:
            end = FORMATS.get(row["runtime"].rpartition(" ")[2])
            file = folder / f"{slug(name)}_{end}.onnx"
            row["parameters"] = int((folder / slug(name)).with_suffix(".done").read_text())
            row["bytes"] = file.stat().st_size if end else 4 * row["parameters"]
            if row["threads"] == 1 and end:
                row |= cold_start(file, 1 if "Large" in name else 3)
            elif row["threads"] == 1 and "eager" in row["runtime"]:
                row |= start_by_torch(folder, name)
        rows += found
        typer.echo(f"{name}: {time.perf_counter() - begin:.0f} s", err=True)
    write(pd.DataFrame(rows), OUTPUT if not only else folder / "costs.csv")
    if not only:
        page()


@app.command()
def page() -> None:
    """Write the kept table, and what became of the bars, into docs/board.md."""
    from tools.publish import fill_block

    table, note = kept_costs()
    text = fill_block(PAGE.read_text(encoding="utf-8"), "costs", "\n".join([f"Measured on: {note}.", "", *bars(table),
                                                                          "", *page_rows(table)]))  # fmt: skip
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def bars(table: pd.DataFrame) -> list[str]:
    """What was promised beside what came out, as a Markdown table."""
    alone = table[table["threads"] == 1].set_index(["network", "runtime"])
    speed, weight = alone["median_ms"], alone["bytes"]
    float32, int8 = "ONNX Runtime, FP32", "ONNX Runtime, INT8"
    quicker = speed["EfficientNet-B2", "torch, eager"] / speed["EfficientNet-B2", float32]
    share = weight["EfficientNet-B2", int8] / weight["EfficientNet-B2", float32]
    lite = speed["quick lite student", float32] / speed["quick lite student", int8]
    start = alone.loc[("quick student", int8), "cold_start_s"]
    rows = [
        ("EfficientNet-B2, ONNX Runtime FP32 against torch eager", f"{quicker:.2f} times as quick", "at least 2.3",
         quicker >= 2.3),
        ("EfficientNet-B2, INT8 file against FP32", f"{share:.2f} of the bytes", "at most 0.30", share <= 0.3),
        ("quick lite student, INT8 against FP32", f"{lite:.2f} times as quick", "above 1", lite > 1),
        ("first answer of the quick student, INT8", f"{start:.2f} s", "under 0.5 s", start < 0.5),
    ]  # fmt: skip
    lines = ["| what | measured | aim |", "|---|---|---|"]
    return lines + [f"| {what} | {found} | {aim}{'' if met else ': **missed**'} |" for what, found, aim, met in rows]


def page_rows(table: pd.DataFrame) -> list[str]:
    """The measurement as a Markdown table, a row a network and runtime."""
    timed = table.dropna(subset="median_ms")
    one, two = (timed[timed["threads"] == n].set_index(["network", "runtime"]) for n in (1, 2))
    lines = ["| network, pixels | runtime | 1 thread, ms (95%) | 2 threads, ms | five views, ms | scans/s |"
             " first answer, s | memory, MB | file, MB |", "|---|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip

    def number(value: float) -> str:
        return "" if pd.isna(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    for (network, runtime), row in one.iterrows():
        cells = [f"{network}, {row['side']:.0f}", runtime, f"{number(row['median_ms'])} ({number(row['p95_ms'])})"]
        cells += [number(two["median_ms"].get((network, runtime), np.nan))]  # not compiled for every number of threads
        cells += [number(row[key]) for key in ("five_views_ms", "per_second", "cold_start_s", "peak_mb")]
        lines.append(f"| {' | '.join([*cells, number(row['bytes'] / 1e6)])} |")
    return lines


def write(table: pd.DataFrame, path: Path) -> None:
    import timm
    import torch

    about = processor()
    note = (f"# {about['name']}, {os.cpu_count()} cores, {'with' if about['vnni'] else 'without'} VNNI;"
            f" Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__},"
            f" {about['runtime']}")  # fmt: skip
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(note + "\n")
        table.to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    app()
