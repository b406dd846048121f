"""A bundle answers as the course does, where there is no torch, one core and 512 MB; and it complains clearly."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from kdoct_utils.course.cli import main
from kdoct_utils.data.band import to_picture
from kdoct_utils.edge import bundle as packing
from kdoct_utils.edge.bundle import REQUIREMENTS, SOURCES, parity_frames, write_bundle
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.edge.decide import set_decision
from kdoct_utils.edge.export import export_onnx
from kdoct_utils.edge.measure import TRAINING_PACKAGES
from kdoct_utils.learn.models import build_model
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.profiles import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("normal", "drusen", "cnv")
RULE = {"temperature": 1.5, "threshold": 0.5, "wanted_sensitivity": 0.95, "sure_above": 0.34, "coverage": 0.9}
# What a board has: one core, 512 MB, and none of the packages that training needs.
CHILD = """
import os, resource, runpy, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
forbidden, sys.argv = sys.argv[1].split(","), sys.argv[2:]
sys.modules.update(dict.fromkeys(forbidden))  # None there makes every import of the name fail
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    ours = sys.modules["kdoct_utils.edge.classifier"].__file__
    assert ours.startswith(sys.path[0]), ours
"""


def model_file(folder, classes=CLASSES):
    images, _ = phantom_cohort(30, 3, 35, 0)
    model = build_model(ModelConfig("efficientnet_course_tiny", dropout=0.0), len(classes), 1, seed=0)
    file = export_onnx(model, folder / "student.onnx", image_size=32, stored_size=35, channels=1, class_names=classes,
                       training_images=images)  # fmt: skip
    pictures = {name: to_picture(frame, 35) for name, frame in parity_frames().items()}
    far = dict(zip(pictures, OnnxClassifier(file).outputs(np.stack(list(pictures.values())))[1].tolist(), strict=True))
    noise, eyes = far.pop("noise.png"), max(far.values())
    assert eyes < noise, "nothing lies between scans and noise"
    set_decision(file, RULE | {"refuse_above": (eyes + noise) / 2})
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bundle(model, tmp_path):
    return write_bundle(model, tmp_path / "bundle")


def run(program, *arguments, python=sys.executable, forbidden=TRAINING_PACKAGES):
    """A program of a bundle on what a board has."""
    environment = {"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1"}
    command = [python, "-c", CHILD, ",".join(forbidden), str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=program.parent, timeout=120)


def test_it_answers_as_the_course_does(bundle, model):
    frames = sorted((bundle / "parity").glob("*.png"))
    done = run(bundle / "classify.py", "--json", *frames)
    assert done.returncode == 0, done.stderr
    classifier, decisions = OnnxClassifier(model), set()
    for frame, line in zip(frames, done.stdout.splitlines(), strict=True):
        there, here = json.loads(line), classifier.classify_file(frame)
        decisions.add(there["decision"])
        assert there["decision"] == here.decision and there["refer"] == here.refer
        assert there["probabilities"] == pytest.approx(here.probabilities, abs=1e-6)
    assert "refused" in decisions and decisions & {*CLASSES, "not sure"}, "frames must be answered and refused"
    words = run(bundle / "classify.py", "example.jpeg").stdout
    assert words.startswith("example.jpeg: ") and len(words.splitlines()) == 1


def test_it_holds_the_very_files_of_the_course(bundle):
    for name in SOURCES:
        assert (bundle / "kdoct_utils" / name).read_bytes() == (ROOT / "kdoct_utils" / name).read_bytes(), name
    digests = json.loads((bundle / "manifest.json").read_text())["sha256"]
    files = {str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file()}
    assert files == {*digests, "manifest.json"}
    assert all(hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(REQUIREMENTS) <= set(asked) and (bundle / "requirements.txt").read_text().split() == [*REQUIREMENTS]


def test_the_check_sees_another_model_and_a_changed_file(bundle, tmp_path):
    done = run(bundle / "check.py")
    assert done.returncode == 0 and f"{len(parity_frames())} frames: the same answers" in done.stdout, done.stderr
    source = bundle / "kdoct_utils" / "data" / "band.py"
    source.write_bytes(source.read_bytes() + b"\n")
    (other := tmp_path / "other").mkdir()
    (bundle / "model.onnx").write_bytes(model_file(other, (*CLASSES, "dme")).read_bytes())
    done = run(bundle / "check.py")
    assert done.returncode == 1
    for words in ("band.py is not the file that was packed", "model.onnx is not the file", "native_0.png: "):
        assert words in done.stdout


def test_timing_says_where_and_how_long(bundle):
    done = run(bundle / "timing.py", "--calls", 20)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runtime"] and 0 < found["cold_start_s"] and 20 < found["peak_mb"] < 512
    network, whole = found["network, threads 1"], found["file to answer, threads 1"]
    assert 0 < network["median_ms"] <= network["p95_ms"] and network["median_ms"] < whole["median_ms"]


def bad_files(folder, frame):
    """Name -> a file that cannot be used, and what the message says of it."""
    whole = frame.read_bytes()
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.png").write_text("no picture")
    Image.new("1", (5000, 5000)).save(folder / "huge.png")
    expected = {"cut.jpeg": "cannot be read", "empty.png": "empty", "words.png": "none of JPEG", "huge.png": "too many"}
    return expected | {"nowhere.png": "cannot be read"}


def test_bad_frames_are_one_clear_line_each(bundle, tmp_path):
    expected = bad_files(tmp_path, bundle / "example.jpeg")
    done = run(bundle / "classify.py", bundle / "example.jpeg", *(tmp_path / name for name in expected))
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == len(expected)
    for line, (name, words) in zip(lines, expected.items(), strict=True):
        assert line.startswith("classify: ") and name in line and words in line
    assert len(done.stdout.splitlines()) == 1  # the good one is answered


def foreign(folder):
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "f.onnx")
    return folder / "f.onnx"


def test_a_foreign_or_damaged_model_is_refused_there_and_here(bundle, tmp_path, capsys):
    (damaged := tmp_path / "damaged.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:3000])
    missing = tmp_path / "no.onnx"
    for file, words in ((foreign(tmp_path), "metadata"), (damaged, "not a readable"), (missing, "no model file")):
        done = run(bundle / "classify.py", "--model", file, "example.jpeg")
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
        with pytest.raises(SystemExit) as stopped:
            main(["bundle", str(file), "--output", str(tmp_path / "x.zip")])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


def test_it_is_written_whole_or_not_at_all(model, bundle, tmp_path, monkeypatch):
    (busy := tmp_path / "busy").mkdir()
    (busy / "thesis.txt").write_text("mine")
    with pytest.raises(EdgeError, match="busy is there already and is no bundle"):
        write_bundle(model, busy)
    before = sorted(tmp_path.rglob("*"))
    broken = {"model.onnx": model.read_bytes(), "README.md": "no bytes"}
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_contents", lambda model: broken)
        for output in (bundle, tmp_path / "new"):
            with pytest.raises(TypeError):
                write_bundle(model, output)
    assert sorted(tmp_path.rglob("*")) == before
    (bundle / "left.txt").write_text("of an earlier one")
    with pytest.raises(SystemExit) as stopped:
        main(["bundle", str(model), "--output", str(bundle)])
    assert stopped.value.code == 0
    assert not (bundle / "left.txt").exists() and run(bundle / "check.py").returncode == 0
    archive = write_bundle(model, tmp_path / "packed.zip")
    assert archive.read_bytes() == write_bundle(model, tmp_path / "again" / "packed.zip").read_bytes()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "from_zip")
    for file in bundle.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert (tmp_path / "from_zip" / "packed" / file.relative_to(bundle)).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_an_environment_of_three_packages_is_enough(bundle, tmp_path):
    """What the bundle's README asks for, and no more: under 150 MB, and all of the programs run there."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile", "-r"]
    if subprocess.run([*pip, str(bundle / "requirements.txt")], capture_output=True).returncode:
        pytest.skip("no package index at hand")
    installed = sum(file.stat().st_size for file in home.rglob("*") if file.is_file() and not file.is_symlink())
    assert installed < 150e6, f"{installed / 1e6:.0f} MB"
    for program, arguments in (("check.py", ()), ("classify.py", ("example.jpeg",)), ("timing.py", ("--calls", 20))):
        done = run(bundle / program, *arguments, python=str(python), forbidden=["nothing"])
        assert done.returncode == 0, done.stdout + done.stderr
    outside = subprocess.run([str(python), "-c", "import torch"], capture_output=True)
    assert outside.returncode, "torch is there: this is not the environment that was meant"
