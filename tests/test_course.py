"""The runner, on tiny notebooks: what is refused, what a failure says, what is run again, what is measured."""

import json
import re
import time
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdoct_utils.course import check as checks
from kdoct_utils.course import execute
from kdoct_utils.course import notebooks as course
from kdoct_utils.course.execute import execute_notebook
from kdoct_utils.course.notebooks import TIMEOUTS, find_notebooks_folder, run_course, select_notebooks
from kdoct_utils.course.parameters import declared_parameters, parse_assignments
from kdoct_utils.course.progress import CourseBar
from kdoct_utils.course.report import report_run
from kdoct_utils.profiles import PARAMETERS, PROFILES, check_parameter
from kdoct_utils.runs import RunError, open_run
from tools.publish import publish

COMMON = 'profile: str = "quick"\ndataset: str = "phantom"\ndata_root: str = ""\nrun_dir: str = ""\nseed: int = 0\n'


def write_notebook(path, *code, parameters=COMMON, title="A notebook"):
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nAbout it.")])
    notebook.cells += [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [new_code_cell(source) for source in code]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "notebooks"
    made.mkdir()
    return made


def run_smoke(folder, only=("00", "01"), **options):
    arguments = {"only": only, "progress": False, "notebooks_folder": folder, "run_dir": folder.parent / "run"}
    return run_course("smoke", **({"seed": 5} | arguments | options))


def test_a_run_that_goes_on_gives_notebooks_its_dataset_options_again(folder):
    declared = COMMON + 'split: str = "patient"  # or official'
    write_notebook(folder / "00_first.ipynb", "print(split)", parameters=declared)
    write_notebook(folder / "01_second.ipynb", "print(split)", parameters=declared)
    run = run_smoke(folder, only=["00"], parameters={"split": "official"})
    run_smoke(folder)  # without being told again; the first is done
    assert [stream(run.notebooks_dir / name) for name in ("00_first.ipynb", "01_second.ipynb")] == ["official\n"] * 2
    with pytest.raises(RunError, match="holds a run with split = 'official', not 'patient'"):
        run_smoke(folder, parameters={"split": "patient"})


def test_a_run_fails_clearly_goes_on_and_measures(folder):
    first = write_notebook(
        folder / "00_first.ipynb", "import time\nblock = bytearray(300_000_000)\ntime.sleep(1)", "print(seed, profile)",
        "from kdoct_utils.show.sliders import Slider, sliders\nsliders(str, object=Slider(0, 1, 0))",
    )  # fmt: skip
    mended = folder.parent / "mended"
    second_code = [f"import pathlib\nassert pathlib.Path({str(mended)!r}).exists(), 'not mended'", "print(alpha)"]
    write_notebook(
        folder / "01_second.ipynb", *second_code, parameters=COMMON + "alpha: float = 0.7  # weight of soft labels"
    )
    with pytest.raises(RunError) as failure:
        run_smoke(folder)
    message = str(failure.value)
    assert "01_second.ipynb stopped at code cell 2 of 3" in message
    assert "    assert pathlib.Path(" in message and "AssertionError: not mended" in message
    assert "Traceback" not in message

    run = open_run(folder.parent / "run", profile="smoke", dataset="phantom", seed=5)
    assert set(run.read_metrics()["notebooks"]) == {"00"}
    executed = run.notebooks_dir / first.name
    done_before = executed.stat().st_mtime_ns

    mended.touch()
    run_smoke(folder, parameters={"alpha": "1e-05"})
    assert executed.stat().st_mtime_ns == done_before  # not run again
    costs = run.read_metrics()["notebooks"]
    assert set(costs) == {"00", "01"}
    assert costs["01"]["peak_mb"] + 200 < costs["00"]["peak_mb"] < 1000  # 300 MB of it is the block
    assert costs["00"]["seconds"] > 0
    text = executed.read_text()
    assert "5 smoke" in text
    assert "<kdoct-slider" in text and not re.search("widget-(view|state)", text)  # no kernel is there for a live face
    assert stream(run.notebooks_dir / "01_second.ipynb") == "1e-05\n"

    stamps = {path.name: path.stat().st_mtime_ns for path in run.notebooks_dir.glob("*.ipynb")}
    write_notebook(folder / "00_first.ipynb", "print('new source')")
    run_smoke(folder, parameters={"alpha": "1e-05"})
    after = {path.name: path.stat().st_mtime_ns for path in run.notebooks_dir.glob("*.ipynb")}
    assert {name for name in after if after[name] != stamps[name]} == {"00_first.ipynb"}
    check_report(run)
    check_publish(run, folder)


def stream(executed):
    cells = json.loads(executed.read_text())["cells"]
    return "".join("".join(item.get("text", "")) for cell in cells for item in cell.get("outputs", []))


def check_report(run):
    run.update_metrics("teacher", {"accuracy": 0.91, "interval": [0.88, 0.94], "n_scans": 10, "n_patients": 4})
    run.update_metrics("kd_gain", {"estimate": 0.01, "low": -0.02, "high": 0.04, "seeds": 3})
    text = report_run(run).read_text()
    assert "No difference is shown: the interval includes zero (phantoms, 32 px, 3 seeds)." in text
    assert text.count("<h1>") == 1 and '<html lang="en">' in text and "prefers-color-scheme: dark" in text
    assert '<th scope="col">accuracy</th>' in text and '<th scope="row">teacher</th>' in text
    assert "open: the interval includes zero" in text
    assert 'href="notebooks/01_second.html"' in text
    assert "new source" in (run.notebooks_dir / "00_first.html").read_text()


def check_publish(run, folder):
    root = folder.parent
    (root / "pyproject.toml").write_text('[project.urls]\nrepository = "https://github.com/someone/course"\n')
    marks = "<!-- kdoct:{0} -->\nold\n<!-- /kdoct:{0} -->\n"
    (root / "README.md").write_text("# Course\n" + marks.format("badges") + "kept\n" + marks.format("notebooks"))
    for _ in range(2):  # twice is the same as once
        publish(run, root)
    readme = (root / "README.md").read_text()
    assert "kept" in readme and "old" not in readme
    assert readme.count("[00 A notebook](notebooks/00_first.ipynb)") == 1
    notebook = nbformat.read(folder / "01_second.ipynb", as_version=4)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[3].outputs[0].text == "1e-05\n" and set(notebook.metadata["kdoct"]) == {"seconds", "peak_mb"}
    title = notebook.cells[0].source
    assert title.count("Time and memory") == 1 and title.count("mybinder.org/v2/gh/someone/course") == 1
    write_notebook(folder / "00_first.ipynb", "print('changed since')")
    with pytest.raises(RunError, match="00_first.ipynb has changed"):
        publish(run, root)


def test_a_notebook_that_hangs_is_stopped_with_its_kernel(folder, monkeypatch):
    pid_file = folder.parent / "pid"
    new = f"{pid_file}.new"
    tell = f"with open({new!r}, 'w') as file: file.write(str(os.getpid()))\nos.rename({new!r}, {str(pid_file)!r})"
    code = f"import os, time\n{tell}\ntime.sleep(600)"
    source = write_notebook(folder / "00_hangs.ipynb", code)
    # An hour passes as soon as the cell runs, however slow this machine is.
    monkeypatch.setattr(execute, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * pid_file.exists()))
    with pytest.raises(RunError, match=r"(?s)had not ended after 600 s.*code cell 2 of 2.*time.sleep\(600\)"):
        execute_notebook(source, folder.parent / "out.ipynb", {}, cwd=folder, timeout=600)
    kernel = int(pid_file.read_text())
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE


def test_a_dead_kernel_is_named(folder):
    source = write_notebook(folder / "00_dies.ipynb", "import os\nos._exit(1)")
    with pytest.raises(RunError, match=r"(?s)code cell 2 of 2.*os._exit\(1\).*kernel died.*memory"):
        execute_notebook(source, folder.parent / "out.ipynb", {}, cwd=folder, timeout=60)


def test_what_is_left_follows_from_what_was_expected_and_from_this_machine():
    expected = {"02": 60.0, "05": 180.0, "06": 30.0}
    bar = CourseBar(["02", "05", "06"], expected, shown=False)
    assert bar.left(0.0) == 270.0 and bar.left(40.0) == 230.0
    bar = CourseBar(["05", "06"], expected, {"02": 150.0}, shown=False)  # 0.4 times the speed; 30 s of trust: half
    assert bar.left(0.0) == pytest.approx(420.0) and bar.left(60.0) == pytest.approx(360.0)
    assert bar.left(900.0) == pytest.approx(150.0)  # five times as long as usual: so will 06
    assert CourseBar(["05", "07"], expected, shown=False).left(0.0) is None


def test_the_bar_names_what_runs_and_makes_no_time_up(capsys):
    now = [0.0]
    bar = CourseBar(["02_focal", "05_kd"], {"02_focal": 60.0, "05_kd": 240.0}, clock=lambda: now[0])
    with bar.bar:
        bar.start()
        now[0] = 60.0
        bar.show("cell 7 of 40")
        assert bar.bar.desc == "02 · cell 7 of 40" and (bar.bar.n, bar.bar.total) == (60.0, 300.0)
        bar.finish("60 s, 900 MB")
        bar.start()
        now[0] = 180.0
        bar.show("student KD, seed 2, epoch 4/10")
        line = str(bar.bar)
        assert line.startswith("05 · student KD, seed 2, epoch 4/10 |") and line.endswith(", 02:00 left")
        assert (bar.bar.n, bar.bar.total) == (180.0, 300.0)
        bar.finish("120 s, 900 MB")
    assert "02_focal: 60 s, 900 MB" in capsys.readouterr().err


def test_times_are_those_of_the_published_run_or_of_the_runs_own_folder(folder):
    sources = [write_notebook(folder / name) for name in ("00_a.ipynb", "01_b.ipynb")]
    for source in sources:
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["kdoct"] = {"seconds": 40.0, "peak_mb": 900.0}
        nbformat.write(notebook, source)
    for profile, expected in (("quick", {"00_a": 40.0, "01_b": 40.0}), ("smoke", {"00_a": 80.0})):
        run = open_run(folder.parent / profile, profile=profile, dataset="phantom")
        run.update_metrics("notebooks", {"00": {"seconds": 80.0, "peak_mb": 1.0}})
        assert course.expected_seconds(run, sources, []) == (expected, {"00_a": 80.0})


def test_what_a_notebook_tells_reaches_the_one_who_waits(folder):
    tell = "import os, time\nfrom kdoct_utils.runs import report_status\nreport_status('student KD, epoch 4/10')"
    code = [f"{tell}\ntime.sleep(1)", "print(os.environ['OMP_NUM_THREADS'])\ntime.sleep(1)"]
    source = write_notebook(folder / "00_tells.ipynb", *code)
    seen = []
    execute_notebook(source, folder / "out.ipynb", {}, cwd=folder, timeout=60, on_poll=seen.append, threads=1)
    assert list(dict.fromkeys(seen))[-2:] == ["student KD, epoch 4/10", "cell 3 of 3"]
    assert stream(folder / "out.ipynb") == "1\n"


def test_nothing_starts_when_a_value_is_not_valid(folder, monkeypatch):
    monkeypatch.setattr(course, "execute_notebook", lambda *_, **__: pytest.fail("a notebook was started"))
    parameters = COMMON + "alpha: float = 0.7\ntemperature: float = None\nseeds: int = 3\n"
    write_notebook(folder / "00_a.ipynb", parameters=parameters)
    cases = [
        ({"parameters": {"alhpa": "0.5"}}, "parameter 'alhpa'; valid names: alpha, seeds, temperature; of the dataset"),
        ({"parameters": {"alpha": "2"}}, "'alpha' takes float, at least 0 and at most 1 .*, not '2'"),
        ({"parameters": {"temperature": "-1"}}, "'temperature' takes float, above 0 .* or none, not '-1'"),
        ({"seed": -1}, "'seed' takes int, at least 0"),
        ({"parameters": {"seed": "1"}}, "seed is set by --seed"),
        ({"dataset": "neh"}, "needs --data-root"),
        ({"dataset": "neh", "data_root": folder / "none"}, "there is no data_root"),
        ({"only": ["09"]}, "no notebook '09'; valid: 00"),
        ({"only": None}, "lacks 00_start_here.ipynb, 01_data"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            run_smoke(folder, **({"only": ["00"]} | options))
    with pytest.raises(ValueError, match="valid profiles: smoke, quick, colab, paper"):
        run_course("huge", notebooks_folder=folder)
    with pytest.raises(RunError, match="profile 'paper' needs --dataset: neh or ucsd"):
        run_course("paper", notebooks_folder=folder)
    monkeypatch.setattr(checks, "memory_limit", lambda: 500_000_000)
    monkeypatch.setattr(checks, "gpu_memory", lambda: None)
    with pytest.raises(RunError, match="0.5 GB of memory, profile smoke needs 1 GB. Choose a smaller profile"):
        run_smoke(folder, only=["00"])
    assert not (folder.parent / "run").exists()


def test_parameters_are_read_with_their_types_and_values_cast_or_refused(folder):
    cell = 'kind: str = "kd"\ntemperature: float = None  # as the profile'
    path = write_notebook(folder / "00_a.ipynb", parameters=cell)
    assert declared_parameters(path) == {"kind": str, "temperature": PARAMETERS["temperature"] | None}
    path = write_notebook(folder / "00_b.ipynb", parameters="alpha = 0.5")
    with pytest.raises(RunError, match="'alpha' needs a plain type; write `alpha: type = value"):
        declared_parameters(path)
    taken = [("3", int, 3), ("2", float, 2.0), ("no", bool, False), ("7", str, "7"), ("none", float | None, None),
             (np.float32(0.5), PARAMETERS["alpha"], 0.5), (np.int64(3), PARAMETERS["seed"], 3)]  # fmt: skip
    for value, kind, expected in taken:
        found = check_parameter("name", value, kind)
        assert found == expected and type(found) is type(expected), value
    refused = [("maybe", bool), (True, int), (1, str), ("1.5", int), ("none", float), ("inf", float),
               (float("nan"), PARAMETERS["alpha"]), ("0", PARAMETERS["temperature"])]  # fmt: skip
    for value, kind in refused:
        with pytest.raises(ValueError, match="parameter 'name' takes"):
            check_parameter("name", value, kind)


def test_every_number_that_a_notebook_takes_has_a_range_and_every_profile_a_time_limit():
    folder = find_notebooks_folder()
    for notebook in [*folder.glob("*.ipynb"), *folder.glob("more/*.ipynb")]:
        for name, kind in declared_parameters(notebook).items():
            assert kind in (str, bool) or kind in (PARAMETERS[name], PARAMETERS[name] | None), (notebook.name, name)
    assert set(TIMEOUTS) == set(PROFILES)


def test_assignments_and_names_of_notebooks(folder):
    assert parse_assignments(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"], ["a b=1"]):
        with pytest.raises(RunError):
            parse_assignments(wrong)
    for name in ("00_a.ipynb", "03_b.ipynb", "10_c.ipynb"):
        write_notebook(folder / name)
    assert [path.name for path in select_notebooks(["10_c.ipynb", "3", "03"], folder)] == ["03_b.ipynb", "10_c.ipynb"]
    (folder / "more").mkdir()
    for name in ("03b_d.ipynb", "10b_e.ipynb"):
        write_notebook(folder / "more" / name)
    found = select_notebooks(["3b", "03"], folder)
    assert [path.relative_to(folder).as_posix() for path in found] == ["03_b.ipynb", "more/03b_d.ipynb"]
    assert [path.name for path in select_notebooks(["more"], folder)] == ["03b_d.ipynb", "10b_e.ipynb"]
