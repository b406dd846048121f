"""Put what a run measured where readers look: outputs, badges, time and memory in the notebooks and the README.

    python -m tools.publish runs/quick

What is written stands between marks such as ``<!-- kdoct:badges -->`` and ``<!-- /kdoct:badges -->``.
The rest of the text is left alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

from kdoct_utils.course.execute import own_code_cells
from kdoct_utils.course.notebooks import finished_fingerprint, notebook_number, notebook_path, notebook_title
from kdoct_utils.judge.regimes import REGIMES, by_data_seed, gains, kept_regimes
from kdoct_utils.judge.verdicts import in_points
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import RunError, RunFolder, atomic_path, load_run
from kdoct_utils.show.live import without_widgets
from kdoct_utils.show.output import figure_png
from tools.answers import answers_page
from tools.overview import carried_map, scans_figure

ROOT = Path(__file__).resolve().parents[1]
BRANCH = "main"
DROPPED_METADATA = ("papermill", "execution")  # times and paths of the machine that ran it


def repository_url(root: Path) -> str:
    """The one setting: ``[project.urls] repository`` in the pyproject.toml of ``root``."""
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    url = urls.get("repository", "")
    if not re.fullmatch(r"https://github\.com/[^/]+/[^/]+", url):
        raise RunError(f"pyproject.toml: [project.urls] repository = {url!r} is not https://github.com/<owner>/<name>")
    return url


def badges(notebook: str, repository: str) -> str:
    """Markdown of the Binder and Colab badges that open ``notebook`` (a path in the notebooks folder)."""
    slug = repository.removeprefix("https://github.com/")
    binder = f"https://mybinder.org/v2/gh/{slug}/{BRANCH}?urlpath=lab/tree/notebooks/{notebook}"
    colab = f"https://colab.research.google.com/github/{slug}/blob/{BRANCH}/notebooks/{notebook}"
    return (
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})\n"
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
    )


def minutes(seconds: float) -> str:
    """ "under 1 min", "3 min": rounded up, since a promise should hold."""
    return "under 1 min" if seconds < 60 else f"{-(-int(seconds) // 60)} min"


def gigabytes(megabytes: float) -> str:
    """Rounded up to a tenth."""
    return f"{-(-megabytes // 100) / 10:.1f} GB"


def visible(cell: dict) -> bool:
    """Whether a reader sees the code of this cell: not folded away."""
    return cell["cell_type"] == "code" and not cell["metadata"].get("jupyter", {}).get("source_hidden")


def reading_minutes(notebook: dict) -> int:
    """How long a reader takes, by a formula: words, visible lines of code, figures and predictions, each at its pace.

    150 words a minute, computed prose too; 8 seconds a line of code; 60 a figure; 90 a "Before you run". The paces fit
    what three first readings took (00: 35 minutes, 01: 150 to 180, 02: 120 to 150). Rounded up to 5 minutes.
    """
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    shown = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts += ["".join(data.get("text/markdown", "")) for data in shown]
    words = sum(len(re.sub(r"<[^>]*>|\([^)]*\)", " ", text).split()) for text in texts)
    lines = sum(len("".join(cell["source"]).splitlines()) for cell in notebook["cells"] if visible(cell))
    predictions = sum(text.count("Before you run") for text in texts)
    seconds = words / 2.5 + 8 * lines + 60 * sum("image/png" in data for data in shown) + 90 * predictions
    return 5 * -(-int(seconds) // 300)


def cost_line(notebook: dict, cost: dict, profile: str) -> str:
    """The sentence on a reader's minutes, and the machine's time and memory, under a notebook's title."""
    return (
        f"About {reading_minutes(notebook)} minutes to read and do. "
        f"Time and memory, measured with profile `{profile}` on CPU: {minutes(cost['seconds'])}, "
        f"{gigabytes(cost['peak_mb'])} at the peak."
    )


def fill_block(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of ``name``. Raises RunError where the marks are missing."""
    begin, end = f"<!-- kdoct:{name} -->", f"<!-- /kdoct:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise RunError(f"the text needs the marks {begin} and {end} once, in this order")
    return text[: text.index(begin) + len(begin)] + f"\n{content}\n" + text[text.index(end) :]


def with_marks(text: str, names: tuple[str, ...] = ("badges", "cost")) -> str:
    """``text`` of a first markdown cell with the marks that it lacks put under its title."""
    missing = [name for name in names if f"<!-- kdoct:{name} -->" not in text]
    marks = "\n\n".join(f"<!-- kdoct:{name} -->\n<!-- /kdoct:{name} -->" for name in missing)
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{marks}\n{rest}" if marks else text


def publish(run: RunFolder, root: Path = ROOT) -> list[Path]:
    """Write the run's outputs, badges and costs into the notebooks of ``root``, and badges and table into its README.

    Each notebook's metadata get ``kdoct: {seconds, peak_mb}``, from which a later run tells how long it will take.
    docs/workshop.md gets this run's times in its plans, docs/answers.md what came out at each prediction; the README's
    table and map come from the carried measurement.
    Returns the files written. Raises RunError if an executed notebook is not complete or its source has changed since.
    """
    metrics, repository = run.read_metrics(), repository_url(root)
    costs, notebooks = metrics.get("notebooks", {}), []
    for executed in sorted(run.notebooks_dir.glob("*.ipynb")):
        source = notebook_path(executed.name, root / "notebooks")
        cost = costs.get(notebook_number(executed.name))
        if not source.exists() or cost is None or finished_fingerprint(executed) is None:
            raise RunError(f"{executed.name} is not complete in {run.path}; run it again")
        links = badges(source.relative_to(root / "notebooks").as_posix(), repository)
        _publish_notebook(source, executed, links, cost, run.profile.name)
        notebooks.append(source)
    readme, workshop = root / "README.md", root / "docs" / "workshop.md"
    text = fill_block(readme.read_text(encoding="utf-8"), "badges", badges(notebooks[0].name, repository))
    text = fill_block(text, "regimes", regimes_block()) if "<!-- kdoct:regimes -->" in text else text
    _write(readme, fill_block(text, "notebooks", notebook_table(notebooks, costs)))
    written = [*notebooks, readme]
    if workshop.exists():
        _write(workshop, with_running_times(workshop.read_text(encoding="utf-8"), costs))
        _write(root / "docs" / "answers.md", answers_page(sorted((root / "notebooks").glob("0?_*.ipynb"))))
        written += [workshop, root / "docs" / "answers.md"]
    for name, figure in (("overview", scans_figure()), ("map", carried_map())) if workshop.exists() else ():
        written.append(root / "docs" / f"{name}.png")
        _write(written[-1], figure_png(figure, largest_kb=150))
    return written


def _write(path: Path, content: str | bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def with_running_times(text: str, costs: dict) -> str:
    """Markdown in which each table row of the block ``plans`` ends in the time that its notebooks took; a dash if none.

    A notebook that costs knows nothing of leaves its row as it was.
    """
    begin, end = "<!-- kdoct:plans -->", "<!-- /kdoct:plans -->"
    plans = text[text.find(begin) + len(begin) : text.find(end)].strip("\n")
    lines = []
    for line in plans.splitlines():
        numbers = re.findall(r"\]\((?:\.\./)?notebooks/(\d\d)_", line)
        if re.match(r"\| *\d", line) and all(number in costs for number in numbers):
            time = minutes(sum(costs[number]["seconds"] for number in numbers)) if numbers else "–"
            line = f"{line.rstrip().removesuffix('|').rpartition('|')[0]}| {time} |"
        lines.append(line)
    return fill_block(text, "plans", "\n".join(lines))


def notebook_table(notebooks: list[Path], costs: dict) -> str:
    """Markdown table: notebook, a reader's minutes, the machine's, memory."""
    lines = ["| notebook | to read | machine | peak memory |", "|---|---|---|---|"]
    for path in notebooks:
        number, title = notebook_number(path.name), notebook_title(path)
        cost, read = costs[number], reading_minutes(json.loads(path.read_text(encoding="utf-8")))
        place = f"more/{path.name}" if path.parent.name == "more" else path.name
        link = f"[{title if title.startswith(number) else f'{number} {title}'}](notebooks/{place})"
        lines.append(f"| {link} | {read} min | {minutes(cost['seconds'])} | {gigabytes(cost['peak_mb'])} |")
    return "\n".join(lines)


def regimes_block() -> str:
    """Markdown: the carried measurement of when a teacher helps, a row per regime, and its setting."""
    table, _ = kept_regimes()
    scores = by_data_seed(table)
    found = gains(table, [(arm, against) for arm, against, _ in REGIMES.values()]).set_index("arm")
    lines = ["| what the student has | alone | with the teacher | gain, 95% interval |", "|---|---|---|---|"]
    for arm, against, has in REGIMES.values():
        alone, taught, gain = scores[against].mean(), scores[arm].mean(), found.loc[arm]
        lines.append(f"| {has} | {alone:.1%} | {taught:.1%} | {in_points(gain)} |")
    patients, teacher = 3 * get_profile("quick").phantom_test_patients, f"{scores['teacher'].mean():.1%}"
    setting = f"Means over {len(scores)} data seeds that nothing was chosen on, {patients:,} test patients in each"
    rivals = {"labels alone with 1.3 times the epochs, about the seconds of KD": ("student_kd", "alone_equal_seconds"),
              "labels alone with 1.5 times the epochs": ("student_kd", "alone_half_longer"),
              "labels alone, both with twice the epochs": ("kd_longer", "alone_longer")}  # fmt: skip
    longer = gains(table, list(rivals.values())).set_index(["arm", "against"]).to_dict("index")
    told = "; ".join(f"{in_points(longer[pair])} against {words}" for words, pair in rivals.items() if pair in longer)
    return "\n".join([*lines, "", f"{setting} (phantoms, 64 px). Accuracy of the teacher: {teacher}.", "",
                      f"How long a student trains counts as well. In the first row KD differs by {told}."])  # fmt: skip


def carry_outputs(notebook: dict, done: dict, name: str) -> None:
    """Put the outputs of an executed notebook into its source, in place.

    Raises RunError where the source's code is no longer what was executed.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    done_cells = own_code_cells(done)
    if ["".join(cell["source"]) for cell in cells] != ["".join(cell["source"]) for cell in done_cells]:
        raise RunError(f"{name} has changed since it was executed; run it again")
    for count, (cell, result) in enumerate(zip(cells, done_cells, strict=True), 1):
        cell["execution_count"] = count
        outputs = without_widgets(result["outputs"])
        cell["outputs"] = [one | {"execution_count": count} if "execution_count" in one else one for one in outputs]
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key not in DROPPED_METADATA}


def _publish_notebook(source: Path, executed: Path, badge_lines: str, cost: dict, profile: str) -> None:
    notebook = json.loads(source.read_text(encoding="utf-8"))
    carry_outputs(notebook, json.loads(executed.read_text(encoding="utf-8")), source.name)
    notebook["metadata"].pop("widgets", None)  # state of widgets that `carry_outputs` leaves out
    notebook["metadata"]["kdoct"] = {name: round(cost[name], 1) for name in ("seconds", "peak_mb")}
    first = next((cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"), None)
    if first is None:
        raise RunError(f"{source.name} has no markdown cell for its title")
    text = with_marks("".join(first["source"]))
    text = fill_block(fill_block(text, "badges", badge_lines), "cost", cost_line(notebook, cost, profile))
    first["source"] = text.splitlines(keepends=True)
    _write(source, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 1, with the reason on stderr, where the run cannot be published."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, nargs="?", default=Path("runs/quick"), help="the finished run folder")
    try:
        for path in publish(load_run(parser.parse_args(arguments).run_dir)):
            print(f"wrote {path.name}")
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
