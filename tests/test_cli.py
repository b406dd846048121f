"""The kdoct command: its errors are one clear message, its tables come as JSON, its help needs no torch."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from on_disk import write_neh_folder
from PIL import Image

from kdoct_utils import runs
from kdoct_utils.course import check as checks
from kdoct_utils.course import cli
from kdoct_utils.course.check import Check, check_disk, check_memory, check_packages, run_checks
from kdoct_utils.data.data_report import WIDTH
from kdoct_utils.data.scans import ScanSet
from kdoct_utils.datasets import DATASETS
from kdoct_utils.phantom.miniature import write_ucsd_folder
from kdoct_utils.profiles import PROFILES, get_profile
from kdoct_utils.runs import open_run


def kdoct(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_help_and_run_planning_import_nothing_heavy():
    script = (
        "import sys\n"
        "import kdoct_utils.course.cli, kdoct_utils.course.notebooks, kdoct_utils.runs\n"
        "try: kdoct_utils.course.cli.main(['run', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'pandas', 'papermill', 'matplotlib', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--only" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_user_can_mend_is_one_message(capsys):
    cases = [
        (["run", "--profile", "quik"], "unknown profile 'quik'; valid profiles: smoke, quick, colab, paper"),
        (["run", "--dataset", "neh"], "needs --data-root"),
        (["run", "-p", "alpha"], "-p takes name=value, not 'alpha'"),
        (["run", "-p", "alpha=2"], "parameter 'alpha' takes float, at least 0 and at most 1 (weight of the soft-label"),
        (["check", "--profile", "quik"], "valid profiles"),
        (["data", "nhe"], "unknown dataset 'nhe'; valid datasets: phantom, neh"),
        (["data", "--data-root", "scans"], "--data-root needs the name of a dataset: phantom, neh"),
        (["data", "ucsd", "--data-root", "no-such"], "data_root no-such: no such file or folder"),
        (["data", "ucsd", "--data-root", ".", "--split", "scan"], "unknown split 'scan'; valid splits: patient, offic"),
        (["report", "no-such-run"], "no-such-run is not a run folder"),
    ]
    for arguments, message in cases:
        code, out, err = kdoct(capsys, *arguments)
        assert code == 2 and out == "", arguments
        assert err.startswith("kdoct: ") and message in err
        assert "Traceback" not in err and err.count("\n") == 1


def test_options_reach_the_run(capsys, monkeypatch, tmp_path):
    from kdoct_utils.course import notebooks as course
    from kdoct_utils.course import report

    seen = {}

    def fake_run(*values, **options):
        seen.update(values=values, options=options)
        run = open_run(tmp_path, profile="smoke", dataset="phantom", seed=2)
        run.update_metrics("teacher", {"accuracy": 0.5})
        return run

    monkeypatch.setattr(course, "run_course", fake_run)
    monkeypatch.setattr(report, "report_run", lambda run: run.index_file)
    options = ["-p", "alpha=0.5", "-p", "note=a=b", "--only", "03,05"]
    options += ["--profile", "smoke", "--seed", "2", "--run-dir", str(tmp_path), "--json"]
    code, out, _ = kdoct(capsys, "run", *options)
    assert code == 0
    assert json.loads(out)["teacher"] == {"accuracy": 0.5}
    assert seen["values"] == ("smoke", None, "", tmp_path, 2, {"alpha": "0.5", "note": "a=b"})
    assert seen["options"] == {"only": ["03", "05"]}


def test_datasets_and_profiles_are_listed_for_people_and_programs(capsys):
    code, out, err = kdoct(capsys, "data")
    assert code == 0 and err == "" and max(map(len, out.splitlines())) <= WIDTH
    for info in DATASETS.values():
        assert f"{info.name}: {info.title}" in out and info.url in out and info.license in " ".join(out.split())
    assert list(json.loads(kdoct(capsys, "profiles", "--json")[1])) == list(PROFILES)
    assert "Kermany" in json.loads(kdoct(capsys, "data", "ucsd", "--json")[1])["ucsd"]["citation"]


@pytest.fixture(scope="module")
def ucsd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "with spaces"
    folder.mkdir()
    return folder, write_ucsd_folder(folder, 0, patients_per_class=6, slices=2)


def test_data_tells_what_a_folder_holds(capsys, ucsd_folder):
    folder, planted = ucsd_folder
    code, out, err = kdoct(capsys, "data", "ucsd", "--data-root", str(folder), "--split", "official")
    assert code == 0 and len(out.splitlines()) <= 60
    assert "Traceback" not in err
    (shared,) = planted["train and test"]
    words = " ".join(out.split())
    assert f"in several of the publishers' parts, with 3 scans; such as ucsd/{shared}" in words
    assert "sets of byte-identical images: 2, of 4 scans; different patients: 2" in words
    assert "no patient lies in two of train, validation and test (fold 0)" in words
    assert "share a patient or an image with the test part, and are not used" in words
    for heading in ("Notes", "Split with the publishers' test part held out", "Audits"):
        assert f"\n\n{heading}" in out


def test_data_as_json_is_strict_and_audits_can_be_left_out(capsys, ucsd_folder, monkeypatch):
    folder, _ = ucsd_folder
    command = ("data", "ucsd", "--data-root", str(folder))
    code, out, _ = kdoct(capsys, *command, "--json")
    record = json.loads(out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))["ucsd"]
    assert code == 0 and str(folder) not in out
    assert record["found"]["scans"] == sum(record["split"]["roles"].values())
    assert len(record["audits"]["identical_images"]) == 2 and len(record["audits"]["shortcuts"]) == 7
    assert record["audits"]["same_patient"][0]["lies_in"] == ["train", "test"]
    monkeypatch.setattr(ScanSet, "measured", lambda *_, **__: pytest.fail("an image was decoded"))
    code, out, _ = kdoct(capsys, *command, "--no-audit")
    assert code == 0 and "Audits" not in out


def test_counts_beside_published_ones_and_all_labels(capsys, tmp_path):
    write_neh_folder(tmp_path, 3, 3, 0)
    filtered = kdoct(capsys, "data", "neh", "--data-root", str(tmp_path), "--no-audit")[1]
    everything = kdoct(capsys, "data", "neh", "--data-root", str(tmp_path), "--no-audit", "--all-labels")[1]
    assert "Differs from what was published\n  - rows: 27 found, 16,822 published" in filtered
    assert "NORMAL folder, cnv label 0" in filtered
    assert "worst-case filter" in filtered and "worst-case filter" not in everything
    assert "27 scans of 9 patients" in everything


def test_what_cannot_be_split_is_described_and_led_to_what_can(capsys, tmp_path):
    for number, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(number).integers(0, 90, (48, 64), dtype=np.uint8)
        pixels[20:28] += 120
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "scans.csv").write_text("path,label,patient\na.png,normal,p1\nb.png,cnv,p2\n")
    code, out, _ = kdoct(capsys, "data", "csv", "--data-root", str(tmp_path / "scans.csv"))
    assert code == 0 and "cannot be told: too few patients" in " ".join(out.split())
    assert "no class has 2 groups of patients" in out


def test_check_fails_with_the_remedy(capsys, monkeypatch):
    found = [Check("a", True, "fine"), Check("b", False, "too old", "Do this")]
    monkeypatch.setattr(checks, "run_checks", lambda *_: found)
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
    check = check_packages(["numpy>=99", "no-such-package-kdoct>=1", "typer>=0.1"])
    assert not check.ok
    assert "no-such-package-kdoct missing" in check.found and "typer" not in check.found
    assert check.remedy == 'Run: pip install "numpy>=99" "no-such-package-kdoct>=1"'


def test_memory_is_the_containers_or_the_gpus_and_disk_that_of_a_folder_yet_to_be_made(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "CGROUP", tmp_path)
    machine = checks.memory_limit()
    for text, limit in (("2147483648\n", 2**31), ("max\n", machine)):
        (tmp_path / "memory.max").write_text(text)
        assert checks.memory_limit() == limit
    monkeypatch.setattr(checks, "memory_limit", lambda: 12_000_000_000)
    monkeypatch.setattr(checks, "gpu_memory", lambda: ("GPU", 40_000_000_000))
    assert check_memory(get_profile("paper")).ok
    monkeypatch.setattr(checks, "gpu_memory", lambda: ("GPU", 16_000_000_000))
    assert "16.0 GB of GPU memory, profile paper needs 24 GB" in str(check_memory(get_profile("paper")))
    seen = []
    free = SimpleNamespace(free=1_000_000_000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: seen.append(place) or free)
    check = check_disk(get_profile("quick"), tmp_path / "a" / "b")
    assert seen == [tmp_path.resolve()] and not check.ok
    assert str(check).startswith("[FAIL] disk: 1.0 GB free, profile quick needs 3 GB. Free some space")
