"""The run folder: whole files or none, one run a folder, no lost measurement."""

import errno
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from kdoct_utils import runs
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import RunError, atomic_path, load_run, open_run, read_json, write_json


def open_small(folder, **changes):
    arguments = {"profile": "smoke", "dataset": "phantom", "data_root": None, "seed": 3} | changes
    return open_run(folder, **arguments)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_atomic_path_keeps_the_suffix_and_replaces(tmp_path):
    target = tmp_path / "images.npy"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".npy"
        np.save(temporary, np.arange(3))  # adds a suffix of its own where it finds another
        assert target.read_text() == "old"
    assert np.load(target).tolist() == [0, 1, 2]
    assert names(tmp_path) == ["images.npy"]


@pytest.mark.parametrize("full", ["while it is written", "at the flush"])
def test_a_full_disk_leaves_the_old_file(tmp_path, full, monkeypatch):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "config.json", {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(*((runs.Path, "write_text") if full == "while it is written" else (runs.os, "fsync")), no_space)
        with pytest.raises(OSError, match="No space left"):
            write_json(tmp_path / "config.json", {"a": 2})
    assert read_json(tmp_path / "config.json") == {"a": 1} and names(tmp_path) == ["config.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(RunError, match="teacher.safetensors"):
        with atomic_path(tmp_path / "teacher.safetensors"):
            pass
    assert names(tmp_path) == []


def test_json_is_strict_and_takes_numpy(tmp_path):
    write_json(tmp_path / "a.json", {"x": np.float32(0.5), "y": np.arange(2), "z": (1, float("nan"), float("inf"))})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 0.5, "y": [0, 1], "z": [1, None, None]}


def test_a_broken_json_is_named(tmp_path):
    for text, message in (("{", "not valid JSON"), ("[1]", "list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match=f"config.json.*{message}"):
            read_json(tmp_path / "config.json")


def test_a_run_is_taken_up_again_and_its_files_are_those_of_the_course(tmp_path):
    first = open_small(tmp_path / "run", data_root=tmp_path / "data")
    before = first.config_file.read_bytes()
    assert open_small(tmp_path / "run", data_root=tmp_path / "data") == first == load_run(tmp_path / "run")
    assert first.config_file.read_bytes() == before
    config = read_json(first.config_file)
    assert config["profile"] == "smoke" and config["seed"] == 3 and config["versions"]["numpy"] == np.__version__
    assert open_small(tmp_path / "b", data_root="") == open_small(tmp_path / "b", data_root=None)
    files = (first.splits_file, first.teacher_file, first.metrics_file, first.onnx_file, first.int8_file,
             first.index_file, first.history_file("teacher"))  # fmt: skip
    assert [file.name for file in files] == [
        "splits.csv", "teacher.safetensors", "metrics.json", "student.onnx", "student_int8.onnx", "index.html",
        "history_teacher.csv",
    ]  # fmt: skip


def test_another_run_is_refused_by_field(tmp_path):
    open_small(tmp_path / "run")
    for field, other in (("profile", "quick"), ("dataset", "ucsd"), ("data_root", "elsewhere"), ("seed", 4)):
        with pytest.raises(RunError, match=rf"{field} = .*choose another run_dir"):
            open_small(tmp_path / "run", **{field: other})
    with pytest.raises(RunError, match="temperature"):
        open_small(tmp_path / "run", profile=replace(get_profile("smoke"), temperature=2.0))
    with pytest.raises(ValueError, match="smoke, quick, colab, paper"):
        open_small(tmp_path / "new", profile="quik")
    with pytest.raises(RunError, match="not a run folder"):
        load_run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_metrics_merge_within_a_section(tmp_path):
    run = open_small(tmp_path)
    assert run.read_metrics() == {}
    run.update_metrics("edge", {"onnx": {"bytes": 1}, "int8": {"bytes": 2}})
    run.update_metrics("edge", {"int8": {"bytes": 3}})
    run.update_metrics("teacher", {"accuracy": float("nan")})
    assert run.read_metrics() == {"edge": {"onnx": {"bytes": 1}, "int8": {"bytes": 3}}, "teacher": {"accuracy": None}}


def test_concurrent_merges_lose_nothing(tmp_path):
    run = open_small(tmp_path)
    script = (
        "import sys; from kdoct_utils.runs import load_run; run = load_run(sys.argv[1])\n"
        "for i in range(20): run.update_metrics('notebooks', {f'{sys.argv[2]}-{i}': {'seconds': i}})"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(worker)]) for worker in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: run.update_metrics("notebooks", {f"thread-{i}": {"seconds": i}}), range(20)))
    assert [worker.wait(60) for worker in workers] == [0, 0]
    expected = {f"{worker}-{i}" for worker in ("0", "1", "thread") for i in range(20)}
    assert set(run.read_metrics()["notebooks"]) == expected
