"""The ``kdoct`` command. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdoct_utils import __version__
from kdoct_utils.profiles import PROFILES, get_profile

if TYPE_CHECKING:
    from kdoct_utils.runs import RunFolder

app = typer.Typer(
    help="KD-OCT: run the course, read a run, check this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program, not a table.")]
ProfileName = Annotated[str, typer.Option("--profile", help=f"One of {', '.join(PROFILES)}.")]
Dataset = Annotated[str | None, typer.Option(help="See `kdoct data`; phantom where the profile allows it.")]
DataRoot = Annotated[str, typer.Option("--data-root", help="The folder that holds the dataset.")]
RunDir = Annotated[Path | None, typer.Option(help="The folder to make or go on with; one in runs/ if not given.")]
Seed = Annotated[int, typer.Option(help="Decides phantoms, splits, start weights and draws; of a sweep, the first.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        metavar="NAME=VALUE",
        help="A notebook's parameter; repeat for more. In a sweep NAME=V1,V2, also fold=0,1.",
    ),
]


def print_json(value: object) -> None:
    """Print ``value`` as strictly valid JSON on standard output."""
    from kdoct_utils.runs import plain

    typer.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def shown(lines: Iterable, as_json: bool) -> list:
    """All of the lines; each is printed as it comes, since the next may take minutes."""
    found = []
    for line in lines:
        found.append(line)
        if not as_json:
            typer.echo(line)
    return found


@app.command()
def run(
    profile: ProfileName = "quick",
    dataset: Dataset = None,
    data_root: DataRoot = "",
    run_dir: RunDir = None,
    seed: Seed = 0,
    parameter: Parameters = None,
    only: Annotated[str, typer.Option(help="Notebooks to run, such as 03,05,01b; more: all in notebooks/more.")] = "",
    as_json: AsJson = False,
) -> None:
    """Execute the notebooks in order into a run folder, print its results and write its index.html."""
    from kdoct_utils.course.notebooks import run_course
    from kdoct_utils.course.parameters import parse_assignments

    names = [name for name in only.split(",") if name.strip()]
    given = parse_assignments(parameter or [])
    show_results(run_course(profile, dataset, data_root, run_dir, seed, given, only=names), as_json)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run folder.")], as_json: AsJson = False) -> None:
    """Write index.html from a run folder and print its results."""
    from kdoct_utils.runs import load_run

    show_results(load_run(run_dir), as_json)


def show_results(run: RunFolder, as_json: bool) -> None:
    """Write a run's report; print what it measured, and its signs of trouble."""
    from kdoct_utils.course.report import report_run, run_results, run_text

    index, results = report_run(run), run_results(run)
    print_json(results) if as_json else typer.echo(run_text(results))
    typer.echo(f"\nReport: {index}", err=as_json)


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(help="The notebook to run, by number or name, such as 05.")],
    parameter: Parameters = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs a combination, with seeds from --seed on: other phantoms, split, weights.")
    ] = 1,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time; they share this machine's cores.")] = 1,
    profile: ProfileName = "quick",
    dataset: Dataset = None,
    data_root: DataRoot = "",
    run_dir: RunDir = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="A Dask scheduler; its workers do the runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one notebook for every combination of values, and compare the runs; exit code 1 where one failed."""
    from kdoct_utils.course.parameters import parse_assignments
    from kdoct_utils.course.sweep import FAILED, plan_sweep, run_sweep

    made = plan_sweep(
        notebook, parse_assignments(parameter or []), seeds=seeds, seed=seed, profile=profile, dataset=dataset,
        data_root=data_root, run_dir=run_dir,
    )  # fmt: skip
    results = run_sweep(made, jobs=jobs, scheduler=scheduler)
    from kdoct_utils.course.sweep_report import report_sweep, sweep_text

    index = report_sweep(made)
    print_json(results.to_dict("records")) if as_json else typer.echo(sweep_text(made))
    typer.echo(f"\nResults: {made.results_file}\nReport: {index}", err=as_json)
    if failed := (results["status"] == FAILED).sum():
        typer.echo(f"kdoct: {failed} of {len(results)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


@app.command()
def check(
    profile: ProfileName = "quick",
    run_dir: Annotated[Path, typer.Option(help="Where the run folder will be, for free disk space.")] = Path("."),
    no_step: Annotated[bool, typer.Option("--no-step", help="Only count: take no optimizer step.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether this machine can run a profile; exit code 1 where it cannot.

    With colab and paper, also count the networks and take a true training step of each.
    """
    from kdoct_utils.course.check import run_checks

    found = shown(run_checks(profile, run_dir), as_json)
    if get_profile(profile).needs_gpu:
        from kdoct_utils.course.true_step import true_step_checks

        found += shown(true_step_checks(get_profile(profile), not no_step), as_json)
    if as_json:
        print_json([asdict(item) for item in found])
    if not all(item.ok for item in found):
        raise typer.Exit(1)


@app.command()
def profiles(as_json: AsJson = False) -> None:
    """List the profiles and how each departs from the paper."""
    if as_json:
        print_json({name: asdict(profile) for name, profile in PROFILES.items()})
        return
    for profile in PROFILES.values():
        typer.echo(
            f"{profile.name}: {profile.purpose}\n"
            f"    input {profile.image_size} px; {profile.teacher.architecture} teaches "
            f"{profile.student.architecture}; start weights {profile.start_weights}\n"
            f"    at most {profile.teacher_training.epochs} and {profile.student_training.epochs} epochs; "
            f"{profile.memory_gb:g} GB of memory; data {', '.join(profile.datasets)}\n"
            f"    departs from the paper: {profile.departs_from_paper or 'nowhere'}"
        )


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A dataset; none lists them all.")] = None,
    data_root: DataRoot = "",
    split: Annotated[str, typer.Option(help="patient, or official for the publishers' test part.")] = "patient",
    all_labels: Annotated[
        bool, typer.Option("--all-labels", help="Also scans that do not show their patient's class (NEH).")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Read also a file whose MD5 is not the published one (OCTMNIST).")
    ] = False,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Read and count only; no image is decoded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print where a dataset is to be had, its license, citation and layout; with --data-root, what was found there."""
    from kdoct_utils.data.data_report import facts_text, read_data, report_text
    from kdoct_utils.datasets import DATASETS, DataOptions

    if name is not None and name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; valid datasets: {', '.join(DATASETS)}")
    if data_root and name is None:
        raise ValueError(f"--data-root needs the name of a dataset: {', '.join(DATASETS)}")
    if data_root:
        options = DataOptions(worst_case=not all_labels, split=split, verify=not no_verify)
        record, found = read_data(name, data_root, options, audits=not no_audit)
        audits = {"audits": found.as_dict() if found else None}
        print_json({name: record | audits}) if as_json else typer.echo(report_text(record, found))
        return
    chosen = [DATASETS[name]] if name else list(DATASETS.values())
    if as_json:
        print_json({info.name: asdict(info) for info in chosen})
        return
    last = f"Nothing is downloaded. To see what a folder holds:\n  kdoct data {name or 'NAME'} --data-root FOLDER"
    typer.echo("\n\n".join([*map(facts_text, chosen), last]))


@app.command()
def workshop(
    profile: ProfileName = "quick",
    dataset: Dataset = None,
    data_root: DataRoot = "",
    run_dir: RunDir = None,
    seed: Seed = 0,
    copies: Annotated[
        Path | None, typer.Option(help="Also make a folder for participants: notebooks without outputs, and the run.")
    ] = None,
    solutions: Annotated[bool, typer.Option("--with-solutions", help="The copies hold the solutions, too.")] = False,
    slides: Annotated[
        bool, typer.Option("--slides", help="Also write slides.html into the run folder: the notebooks' figures.")
    ] = False,
    check_only: Annotated[bool, typer.Option("--check-only", help="Change nothing: only say what is missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prepare this machine for a workshop, so that no participant waits; exit code 1 where it is not ready."""
    from kdoct_utils.course.workshop import make_plan, next_lines, prepare

    plan = make_plan(
        profile, dataset, data_root, run_dir, seed, copies=copies, solutions=solutions, slides=slides,
        check_only=check_only, progress=not as_json,
    )  # fmt: skip
    steps = shown(prepare(plan), as_json)
    ready = all(step.ok for step in steps)
    if as_json:
        print_json({"ready": ready, "run_dir": str(plan.folder), "steps": [*map(asdict, steps)]})
    else:
        typer.echo("\n".join(["", *next_lines(plan, ready)]))
    if not ready:
        raise typer.Exit(1)


@app.command()
def bundle(
    model: Annotated[Path, typer.Argument(help="An ONNX file of notebook 06, such as runs/quick/student_int8.onnx.")],
    output: Annotated[Path, typer.Option(help="A .zip, or a folder.")] = Path("oct_bundle.zip"),
    card: Annotated[Path | None, typer.Option(help="Its model card, to go along.")] = None,
) -> None:
    """Pack a model for a machine with only numpy, pillow and onnxruntime: programs, frames to check, timing."""
    from kdoct_utils.edge.bundle import write_bundle

    typer.echo(f"wrote {write_bundle(model, output, card)}; there: python check.py, python classify.py FRAME.jpeg")


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="A run folder with trained students.")],
    output: Annotated[Path | None, typer.Option(help="The folder to write; the run's demo if not given.")] = None,
) -> None:
    """Write a web page on which a run's two students read a B-scan in the browser, offline."""
    from kdoct_utils.course.demo import run_demo
    from kdoct_utils.runs import load_run

    page = run_demo(load_run(run_dir), output)
    size = page.stat().st_size / 1e6
    typer.echo(f"wrote {page} ({size:.1f} MB): open it in a browser, from the disk or a server; it needs no network")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"kdoct {__version__}")
        raise typer.Exit()


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what the user can fix is one clear message and exit code 2, without a traceback."""
    if arguments is None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a stopped command stops its kernels
    try:
        app(args=arguments, prog_name="kdoct")
    except (ValueError, OSError) as error:  # RunError, ScanError and SplitError are ValueErrors
        typer.echo(f"kdoct: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("kdoct: stopped; run the same command again to go on", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
