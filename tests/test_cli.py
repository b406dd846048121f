"""The kdoct command: its errors are one clear message, its tables come as JSON, its help needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdoct_utils import checks, cli
from kdoct_utils.checks import Check, check_disk, check_memory, check_packages, run_checks
from kdoct_utils.profiles import PROFILES, get_profile
from kdoct_utils.runs import RunError, open_run


def kdoct(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_help_and_run_planning_import_nothing_heavy():
    script = (
        "import sys\n"
        "import kdoct_utils.cli, kdoct_utils.course, kdoct_utils.runs\n"
        "try: kdoct_utils.cli.main(['run', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'pandas', 'papermill', 'matplotlib', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--only" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "--profile", "quik"], "unknown profile 'quik'; valid profiles: smoke, quick, colab, paper"),
        (["run", "--dataset", "neh"], "needs --data-root"),
        (["run", "-p", "alpha"], "-p takes name=value, not 'alpha'"),
        (["check", "--profile", "quik"], "valid profiles"),
        (["data", "nhe"], "unknown dataset 'nhe'; valid datasets: phantom, neh"),
        (["report", "no-such-run"], "no-such-run is not a run folder"),
    ],
)
def test_what_the_user_can_mend_is_one_message(capsys, arguments, message):
    code, out, err = kdoct(capsys, *arguments)
    assert code == 2 and out == ""
    assert err.startswith("kdoct: ") and message in err
    assert "Traceback" not in err and err.count("\n") == 1


def test_an_error_can_still_be_traced(monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(RunError):
        cli.main(["report", "no-such-run"])


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def broken(*_, **__):
        raise KeyError("a fault")

    monkeypatch.setattr(checks, "run_checks", broken)
    with pytest.raises(KeyError):
        cli.main(["check"])


def test_options_reach_the_run(capsys, monkeypatch, tmp_path):
    from kdoct_utils import course, report

    seen = {}

    def fake_run(*values, **options):
        seen.update(values=values, options=options)
        run = open_run(tmp_path, profile="smoke", dataset="phantom", seed=2)
        run.update_metrics("teacher", {"accuracy": 0.5})
        return run

    monkeypatch.setattr(course, "run_course", fake_run)
    monkeypatch.setattr(report, "report", lambda run: run.index_file)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    options = ["-p", "alpha=0.5", "-p", "note=a=b", "--only", "03,05", "--again", "--timeout-minutes", "2"]
    code, out, _ = kdoct(
        capsys, "run", "--profile", "smoke", "--seed", "2", "--run-dir", str(tmp_path), *options, "--json"
    )
    assert code == 0
    assert json.loads(out)["teacher"] == {"accuracy": 0.5}
    assert seen["values"] == ("smoke", None, "", tmp_path, 2, {"alpha": "0.5", "note": "a=b"})
    assert seen["options"] == {"only": ["03", "05"], "again": True, "timeout": 120.0}


def test_tables_come_as_json(capsys):
    code, out, _ = kdoct(capsys, "profiles", "--json")
    assert code == 0 and list(json.loads(out)) == list(PROFILES)
    code, out, _ = kdoct(capsys, "data", "ucsd", "--json")
    assert code == 0 and "Kermany" in json.loads(out)["ucsd"]["citation"]


def test_check_fails_with_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr(
        checks, "run_checks", lambda *_: [Check("a", True, "fine"), Check("b", False, "too old", "Do this")]
    )
    code, out, _ = kdoct(capsys, "check")
    assert code == 1 and out == "[OK] a: fine\n[FAIL] b: too old. Do this\n"
    code, out, _ = kdoct(capsys, "check", "--json")
    assert code == 1 and [item["ok"] for item in json.loads(out)] == [True, False]


def test_checks_of_this_machine(monkeypatch):
    monkeypatch.setattr(checks, "gpu_memory", lambda: None)
    found = {check.name: check for check in run_checks("smoke")}
    assert list(found) == ["Python", "packages", "memory", "disk", "cores", "GPU"]
    assert found["Python"].ok and found["GPU"].ok
    assert not {check.name: check for check in run_checks("paper")}["GPU"].ok


def test_missing_and_old_packages_are_named():
    check = check_packages(["numpy>=99", "no-such-package-kdoct>=1", "typer>=0.1"])
    assert not check.ok
    assert "no-such-package-kdoct missing" in check.found and "typer" not in check.found
    assert check.remedy == 'Run: pip install "numpy>=99" "no-such-package-kdoct>=1"'


def test_a_gpu_can_hold_what_the_host_cannot(monkeypatch):
    monkeypatch.setattr(checks, "memory_limit", lambda: 12_000_000_000)
    monkeypatch.setattr(checks, "gpu_memory", lambda: ("GPU", 40_000_000_000))
    assert check_memory(get_profile("paper")).ok
    monkeypatch.setattr(checks, "gpu_memory", lambda: ("GPU", 16_000_000_000))
    assert "16.0 GB of GPU memory, profile paper needs 24 GB" in str(check_memory(get_profile("paper")))


def test_container_limits_count(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "CGROUP", tmp_path)
    machine = checks.memory_limit()
    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert checks.memory_limit() == 2**31 and checks.available_cores() == 1
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.memory_limit() == machine


def test_disk_of_a_folder_yet_to_be_made(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        checks.shutil, "disk_usage", lambda place: seen.append(place) or SimpleNamespace(free=1_000_000_000)
    )
    check = check_disk(get_profile("quick"), tmp_path / "a" / "b")
    assert seen == [tmp_path.resolve()] and not check.ok
    assert str(check).startswith("[FAIL] disk: 1.0 GB free, profile quick needs 3 GB. Free some space")
