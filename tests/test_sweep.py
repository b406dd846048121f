"""Sweeps: the grid, runs side by side, what a stop of any kind leaves behind, and the same on a real Dask cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import joblib
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from test_course import COMMON, write_notebook

from kdoct_utils.course import cli, sweep, workers
from kdoct_utils.course.sweep import plan_sweep, run_sweep
from kdoct_utils.course.sweep_report import (
    cross_validation_table,
    differences_table,
    read_predictions,
    report_sweep,
    sweep_text,
)
from kdoct_utils.data.splits import make_splits, save_splits
from kdoct_utils.runs import RunError, load_run, open_run, write_json

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = COMMON + 'temperature: float = 4.0\nalpha: float = 0.7\nkind: str = "kd"\nswa: bool = True\n'
# A run leaves a file in marks/ when it starts and one when it ends; each file holds the process ids above it.
MARK = """
import os, pathlib, secrets, psutil
marks = pathlib.Path(run_dir).parent.parent / "marks"
marks.mkdir(exist_ok=True)
def mark(what):
    pids = [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]
    path = marks / f"{what}-{temperature:g}-{secrets.token_hex(4)}"
    new = path.with_name("." + path.name)
    new.write_text(" ".join(map(str, pids)))
    new.rename(path)
again = bool(list(marks.glob(f"start-{temperature:g}-*")))
mark("start")
"""
WAIT_THE_FIRST_TIME = "import time\nif temperature == 2 and not again: time.sleep(600)"
ONE_THREAD = "import os\nassert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '1'"
SHARE = f"import joblib\nassert joblib.cpu_count() == {max(1, joblib.cpu_count() // 2)}"
SCORE = """
from kdoct_utils.runs import load_run
run = load_run(run_dir)
run.update_metrics("student_kd", {"accuracy": temperature / 10 + seed / 100, "interval": [0.1, 0.9], "names": ["a"]})
run.update_metrics("kd_gain", {"estimate": alpha, "low": None})
mark("end")
"""
# A sweep in a process of its own: home, how, values of the temperature.
SCRIPT = """
import json, signal, sys
from pathlib import Path
from kdoct_utils.course.sweep import plan_sweep, run_sweep
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
home, how = Path(sys.argv[1]), json.loads(sys.argv[2])
made = plan_sweep("05", {"temperature": sys.argv[3]}, profile="smoke", run_dir=home / "sweep",
                  notebooks_folder=home / "notebooks")
run_sweep(made, progress=False, **how)
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def planned(home, grid, *code, **options):
    """A sweep over a small notebook of this code."""
    write_notebook(home / "notebooks" / "05_fake.ipynb", *code, parameters=PARAMETERS)
    settings = {"profile": "smoke", "run_dir": home / "sweep", "notebooks_folder": home / "notebooks"}
    return plan_sweep("05", grid, **(settings | options))


def marked(home, what):
    """The temperatures of the runs that have started or ended, once for each time."""
    return sorted(float(path.name.split("-")[1]) for path in (home / "marks").glob(f"{what}-*"))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def gone(pids):
    def over(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(map(over, pids))


@contextmanager
def sweep_process(home, values, **how):
    arguments = [sys.executable, "-c", SCRIPT, str(home), json.dumps(how), values]
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# --- the grid --------------------------------------------------------------------------------------------------------


def test_the_grid_has_every_combination_cast_and_named(home, monkeypatch):
    monkeypatch.chdir(home)
    grid = {"temperature": "1, 2.5", "fold": "0,1", "swa": "no", "kind": "a b,c"}
    made = planned(home, grid, seeds=2, run_dir=None)
    assert made.folder == home / "runs" / "sweep-05-smoke-temperature-fold-swa-kind"
    assert made.grid == {"temperature": (1.0, 2.5), "fold": (0, 1), "swa": (False,), "kind": ("a b", "c")}
    assert made.swept == ["temperature", "fold", "kind"] and len(made.runs) == 16
    first, second = made.runs[:2]  # the seed changes fastest
    assert first.name == "temperature=1_fold=0_swa=False_kind=a-b_seed=0" and first.folder == made.folder / first.name
    assert (first.seed, second.seed) == (0, 1)
    assert first.options == {"fold": 0} and "fold" not in first.parameters  # the notebook does not declare it
    assert first.parameters["kind"] == "a b" and first.parameters["temperature"] == 1.0
    assert first.parameters["run_dir"] == str(first.folder) and first.parameters["profile"] == "smoke"
    assert len({run.mark for run in made.runs}) == 16
    moved = planned(home, {"temperature": [1], "fold": 0, "swa": False, "kind": "a b"}, run_dir="x")
    assert moved.runs[0].mark == first.mark  # the folder decides nothing


def test_what_is_not_valid_is_refused_before_anything_is_made(home):
    for grid, message in (
        ({"temprature": "1"}, "parameter 'temprature'; valid names: alpha, kind, .*; of the dataset: .*split.*fold"),
        ({"seed": "1,2"}, "seed is set by --seed, not by -p"),
        ({"temperature": "1,hot"}, "'temperature' takes float, above 0 .*, not 'hot'"),
        ({"temperature": "1,,2"}, "'temperature' has an empty value in '1,,2'"),
        ({"temperature": []}, "'temperature' has an empty value"),
        ({"temperature": "1,1.0"}, "two runs would share the folder 'temperature=1_seed=0'"),
        ({"kind": "a/b,a b"}, "two runs would share the folder 'kind=a-b_seed=0'"),
    ):
        with pytest.raises(ValueError, match=message):
            planned(home, grid)
    with pytest.raises(RunError, match="needs --data-root"):
        planned(home, {}, dataset="neh")
    with pytest.raises(RunError, match="with --jobs 1000000. .* or fewer --jobs"):
        run_sweep(planned(home, {"temperature": "1,2"}), jobs=10**6)
    for notebook, message in (("07", "no notebook '07'; valid: 05"), (" ", "a sweep runs one notebook")):
        with pytest.raises(RunError, match=message):
            plan_sweep(notebook, {}, notebooks_folder=home / "notebooks")
    with pytest.raises(ValueError, match="unknown split 'random'; valid splits: patient, official"):
        run_sweep(planned(home, {"split": "random"}))
    assert not list((home / "sweep").glob("*/notebooks"))


# --- on this machine -------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_recorded_and_tried_again_and_the_others_are_not(home, capsys, monkeypatch):
    fails = f"import pathlib\nassert temperature != 2 or pathlib.Path({str(home / 'mended')!r}).exists(), 'too\\nhot'"
    planned(home, {}, MARK, f"{ONE_THREAD}\n{SHARE}", fails, SCORE)
    monkeypatch.setattr(sweep.course, "find_notebooks_folder", lambda: home / "notebooks")
    folder = home / "sweep"
    command = ["sweep", "05", "-p", "temperature=1,2,3", "-p", "alpha=.5", "--profile", "smoke", "--jobs", "2"]
    command += ["--run-dir", str(folder)]
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--json"])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    failed = "05_fake.ipynb stopped at code cell 4 of 5: AssertionError: too"
    assert "1 of 3 runs failed; the same command tries them again" in err
    assert f"temperature=2_alpha=0.5_seed=0 failed: {failed}" in err
    assert "3/3" in err and "failed=1" in err  # the bar
    assert marked(home, "start") == [1, 2, 3] and marked(home, "end") == [1, 3]
    table = pd.read_csv(folder / "results.csv")
    assert list(table)[:8] == ["run", "notebook", "temperature", "alpha", "seed", "fold", "status", "error"]
    assert table["status"].tolist() == ["done", "failed", "done"] and table["error"][1] == failed
    assert table["student_kd_accuracy"].isna().tolist() == [False, True, False]
    assert table["student_kd_interval_high"][2] == 0.9 and table["kd_gain_estimate"][0] == 0.5
    assert json.loads(out)[1]["error"] == failed and json.loads(out)[1]["student_kd_accuracy"] is None
    page = (folder / "index.html").read_text()
    assert page.count("<h1>") == 1 and "Runs that failed" in page and "keeps no predictions" in page
    # the folder of a run is a run folder, which knows the sweep's shared folder
    run = load_run(folder / "temperature=1_alpha=0.5_seed=0")
    assert run.shared == folder / "shared" and set(run.read_metrics()["notebooks"]) == {"05"}

    (home / "mended").touch()
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 0 and "temperature 2, alpha 0.5" in capsys.readouterr().out
    assert marked(home, "start") == [1, 2, 2, 3] and marked(home, "end") == [1, 2, 3]
    table = pd.read_csv(folder / "results.csv")
    assert table["status"].tolist() == ["done"] * 3 and table["student_kd_accuracy"].tolist() == [0.1, 0.2, 0.3]


def test_a_run_is_never_executed_twice_at_once(home, monkeypatch):
    [run] = opened(planned(home, {"temperature": "1"})).runs
    monkeypatch.setattr(sweep, "execute_notebook", lambda *_, **__: pytest.fail("it was executed"))
    with ThreadPoolExecutor() as pool:
        with FileLock(run.folder / ".run.lock"):  # another process has it
            waiting = [pool.submit(sweep.perform, run, timeout=60, cores=1) for _ in range(2)]
            time.sleep(0.2)
            finish(run, [("teacher", 0, "a1", "a", "normal", "normal")])
            assert not any(future.done() for future in waiting)
        assert [future.result(timeout=20)["status"] for future in waiting] == ["done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("how, jobs", [(signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_sweep_that_is_stopped_leaves_no_process_and_goes_on_where_it_was(home, how, jobs):
    made = planned(home, {"temperature": "1,2"}, MARK, WAIT_THE_FIRST_TIME, SCORE)
    with sweep_process(home, "1,2", jobs=jobs) as process:
        # the run with 2 waits; before or beside it, the first is done
        wait_for(made.runs[0].result_file.exists)
        started = wait_for(lambda: list((home / "marks").glob("start-2-*")))
        children = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        process.send_signal(how)
        code = process.wait(timeout=30)
    assert code in {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (-2, 1)}[how]
    assert int(started[0].read_text().split()[0]) in children  # the kernel
    wait_for(lambda: gone(children), seconds=10)  # they find their parent gone
    results = run_sweep(made, jobs=2, progress=False)
    assert marked(home, "end") == [1, 2] and marked(home, "start") == [1, 2, 2]  # what was done is not done again
    assert results["status"].tolist() == ["done", "done"]


# --- on a cluster ----------------------------------------------------------------------------------------------------


def test_a_cluster_does_the_runs(home, cluster):
    address, start_workers = cluster
    made = planned(home, {"temperature": "1,2"}, MARK, ONE_THREAD, SCORE)
    start_workers(1)
    results = run_sweep(made, scheduler=address, progress=False)
    assert results["status"].tolist() == ["done", "done"] and marked(home, "end") == [1, 2]


@pytest.mark.slow
def test_a_cluster_does_every_run_once_though_a_worker_is_killed(home, cluster):
    address, start_workers = cluster
    planned(home, {}, MARK, ONE_THREAD, WAIT_THE_FIRST_TIME, SCORE)
    running = start_workers(2)
    with sweep_process(home, "1,2,3,4", scheduler=address) as process:
        started = wait_for(lambda: list((home / "marks").glob("start-2-*")))[0]
        kernel, *above = map(int, started.read_text().split())
        [doomed] = [worker for worker in running if worker.pid in above]  # the one that waits in run 2
        doomed.kill()
        assert process.wait(timeout=60) == 0
    assert gone([kernel])  # the killed worker's run did not go on beside its second execution
    assert marked(home, "end") == [1, 2, 3, 4]
    assert marked(home, "start") == [1, 2, 2, 3, 4]
    table = pd.read_csv(home / "sweep" / "results.csv")
    assert table["temperature"].tolist() == [1, 2, 3, 4] and table["status"].tolist() == ["done"] * 4


def test_a_cluster_that_is_not_there_is_an_error(home, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(RunError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        run_sweep(planned(home, {}), scheduler="tcp://127.0.0.1:9", progress=False)


# --- what is read from a sweep ---------------------------------------------------------------------------------------


def opened(made):
    """The sweep, its run folders there and empty."""
    for run in made.runs:
        open_run(run.folder, profile="smoke", dataset="phantom", seed=run.seed, options=run.options)
    return made


def finish(run, rows):
    """Leave in a run's folder what an execution would. rows: (network, training seed, scan, patient, label, said)."""
    folder = load_run(run.folder)
    table = pd.DataFrame(rows, columns=["network", "seed", "scan_id", "group", "label", "said"])
    table = table.assign(fold=folder.options.fold)
    for network, part in table.groupby("network"):
        folder.update_metrics(network, {"accuracy": (part["label"] == part["said"]).mean()})
    for name in ("normal", "drusen"):
        table[f"p_{name}"] = 0.1 + 0.8 * (table["said"] == name)
    table.drop(columns="said").to_csv(folder.predictions_file, index=False)
    result = {"run": run.name, "status": "done", "error": "", "message": "", "mark": run.mark, "seconds": 1.0}
    write_json(run.result_file, result)
    return run.name, sweep.results_row(run, result)


def test_values_are_compared_in_pairs_of_the_same_seed(home):
    made = opened(planned(home, {"temperature": "1,2", "worst_case": "yes,no"}, seeds=2))
    wrong = {(1.0, 0): "x", (2.0, 1): "x"}  # (temperature, seed) -> the patient whom the student gets wrong

    def rows(run):
        for patient in "xy":
            said = "drusen" if wrong.get((run.given["temperature"], run.seed)) == patient else "normal"
            yield "student_kd", 0, f"{patient}1", patient, "normal", said
            yield "teacher", run.seed, f"{patient}1", patient, "normal", "drusen"

    ended = [run for run in made.runs if run.options["worst_case"]]
    sweep.write_results(made, dict(finish(run, list(rows(run))) for run in ended))
    predictions = read_predictions(made)
    [found] = differences_table(made, predictions).to_dict("records")  # same teacher; worst_case has no pairs
    assert found.pop("95 % interval") == "[-0.750, 0.750]"  # phantoms x of two seeds are two patients
    assert list(found.values()) == [
        "temperature 2 minus 1: student, distilled (real time)", "+0.000", "+0.500, -0.500", "2",
        "open: the interval includes zero",
    ]  # fmt: skip
    text = sweep_text(made)
    assert "0.750 ± 0.250" in text and "4 of 8 runs are missing." in text
    page = report_sweep(made).read_text()
    assert 'alt="Mean accuracy of the runs by temperature, bars from the lowest to the highest.' in page
    assert "student, distilled (real time) at 1: 0.750;" in page and 'src="data:image/png;base64,' in page
    assert '<p class="lead">4 of 8 runs are done.' in page
    assert "temperature%3D1_worst_case" not in page  # only notebooks that were executed are linked


def test_folds_are_pooled_and_their_ensemble_is_out_of_fold(home):
    made = opened(planned(home, {"fold": "0,1"}))
    table = pd.DataFrame({"patient": list("abcdefgh"), "label": ["normal", "drusen"] * 4, "target": [0, 1] * 4})
    table = table.assign(patient_class=table["label"], group=table["patient"], scan_id=table["patient"] + "1")
    split = make_splits(table, 0, folds=2, allow_tiny=True)
    rows = {}
    for run in made.runs:
        folder, fold = load_run(run.folder), run.options["fold"]
        table.to_csv(folder.table_file, index=False)
        save_splits(split, folder.splits_file)
        part = table[table["scan_id"].isin(split.query("fold == @fold and role == 'test'")["scan_id"])]
        # seed 0 is right everywhere; seed 1 says normal everywhere, in fold 1 only
        name, row = finish(
            run,
            [
                ("student_kd", seed, row.scan_id, row.group, row.label, "normal" if seed and fold else row.label)
                for row in part.itertuples()
                for seed in (0, 1)
            ],
        )
        rows[name] = row
    sweep.write_results(made, rows)
    predictions = read_predictions(made)
    found, notes = cross_validation_table(made, predictions)
    assert notes == [] and found["patients"].tolist() == ["8", "8"] and found["folds"].tolist() == ["2", "2"]
    # folds: 1 and (1 + .5) / 2; the two seeds of fold 1 are level on drusen, the first class of equals is taken
    assert found["accuracy, mean ± SD over folds"].tolist() == ["0.875 ± 0.125", "0.750 ± 0.250"]
    assert [cell.split()[0] for cell in found["pooled accuracy"]] == ["0.875", "0.750"]
    assert found["pooled sensitivity"][0].startswith("0.875 [")  # (1 + 6 / 8) / 2
    assert "ensemble of 2 seeds" in report_sweep(made).read_text()
    found, notes = cross_validation_table(made, {name: predictions[name] for name in list(predictions)[:1]})
    assert found.empty and "4 scans were never tested" in notes[0]

    # Phantoms are tested on patients beyond the folds, by the networks of all folds.
    beyond = {name: one.assign(scan_id="x" + one["scan_id"], group="x") for name, one in predictions.items()}
    found, notes = cross_validation_table(made, beyond)
    assert notes == [] and found["patients"].tolist() == ["1"] and found["pooled accuracy"][0].startswith("0.875")
