"""What is kept is taken by its own recipe alone; the recipe knows the code; a mismatch says why in one line."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kdoct_utils
from kdoct_utils.lab.keep import fingerprint, keep, recipe_of
from kdoct_utils.learn import models
from kdoct_utils.learn.objectives import DistillationObjective, FocalObjective
from kdoct_utils.learn.trainer import Trainer

VALUES = {
    "a.csv": pd.DataFrame({"row": [1, 2], "loss": [0.1, 0.2]}),
    "a.json": {"classes": ["normal", "cnv"], "n": 3},
    "a.safetensors": {"weights": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)},
}


def same(a, b):
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


@pytest.mark.parametrize("name", VALUES)
def test_a_result_is_made_again_only_for_another_recipe_and_says_why(tmp_path, capsys, name):
    path, made = tmp_path / "deep" / name, []

    def make():
        made.append(1)
        return VALUES[name]

    recipe = {"temperature": 4.0, "rows": (3, 5), "training": {"epochs": 2, "lr": 0.1}, "teacher": "a" * 64}
    for _ in range(2):
        assert same(VALUES[name], keep(path, recipe, make))
    assert len(made) == 1 and capsys.readouterr().out == ""  # nothing is said where nothing was there
    assert recipe_of(path) == recipe | {"rows": [3, 5]}
    other = recipe | {"temperature": 2.0, "teacher": "b" * 64, "training": {"epochs": 3, "lr": 0.1}}
    keep(path, other, make)
    line = f"{name} is made again: teacher; temperature 4.0 -> 2.0; training.epochs 2 -> 3\n"
    assert len(made) == 2 and capsys.readouterr().out == line
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        keep(path, recipe, lambda: 1 / 0)
    assert path.read_bytes() == before and [file.name for file in path.parent.glob("[!.]*")] == [name]


def test_faults_in_what_is_kept(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    for content in (b"", b"no safetensors at all"):
        path.write_bytes(content)
        assert keep(path, {"seed": 0}, lambda: {"x": torch.ones(2)})["x"].sum() == 2
        assert "a.safetensors is made again: the file cannot be read" in capsys.readouterr().out
    (tmp_path / "a.csv").write_text("row\n1\n")  # a table of one's own, or of an older version
    assert keep(tmp_path / "a.csv", {"seed": 0}, lambda: pd.DataFrame({"row": [2]}), code=[keep])["row"].tolist() == [2]
    assert "it does not say by which code it was made" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"cannot keep a.pkl; valid suffixes: \.safetensors"):
        keep(tmp_path / "a.pkl", {}, dict)


def test_what_lies_beside_is_shared_or_missed_with_the_rest(tmp_path, capsys):
    made = []

    def one(run):
        def make():
            made.append(run)
            (tmp_path / run).mkdir(exist_ok=True)
            (tmp_path / run / "history.csv").write_text("epoch\n0\n")
            return {"x": torch.ones(2)}, {"chosen": "best"}

        path = tmp_path / run / "net.safetensors"
        keep(path, {"seed": 0}, make, shared=tmp_path / "shared", beside=[path.with_name("history.csv")])
        return path

    first, second = one("a"), one("b")
    assert made == ["a"] and second.samefile(first)
    assert second.with_name("history.csv").read_text() == "epoch\n0\n"
    assert models.weights_metadata(second)["chosen"] == "best"
    first.with_name("history.csv").unlink()
    one("a")
    assert made == ["a"] and first.with_name("history.csv").exists()  # the shared folder has it
    assert "net.safetensors is made again: history.csv is missing" in capsys.readouterr().out


def test_who_wants_the_same_file_waits_for_it(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.ones(3)}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: keep(tmp_path / "a.safetensors", {}, make)["x"].sum(), range(8)))
    assert len(made) == 1 and found == [3] * 8


def test_a_fingerprint_knows_what_a_training_goes_through():
    focal, distilled = fingerprint(Trainer, FocalObjective), fingerprint(Trainer, DistillationObjective, models)
    assert {"learn.losses", "learn.trainer", "learn.augment", "torch", "timm"} <= focal.keys() & distilled.keys()
    assert focal["learn.losses"] != distilled["learn.losses"] and focal["learn.trainer"] == distilled["learn.trainer"]
    assert not {"runs", "profiles"} & distilled.keys()  # their values are in the recipe
    assert fingerprint(same).keys() == {"same", "torch", "timm"}  # a function outside of the package


# --- an edited loss --------------------------------------------------------------------------------------------------

FOCAL = "p_true = torch.exp(-cross_entropy)"
LOSS = "return alpha * soft + (1 - alpha) * hard"
SCRIPT = """
from kdoct_utils.lab.keep import keep
from kdoct_utils.learn.objectives import DistillationObjective, FocalObjective

for objective in (FocalObjective, DistillationObjective):
    keep(f"{objective.__name__}.json", {"seed": 0}, lambda: print("made") or {}, code=[objective])
"""


def test_an_edited_loss_never_meets_an_old_network(tmp_path):
    real = Path(kdoct_utils.__file__).parent
    shutil.copytree(real, tmp_path / "kdoct_utils", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    losses = tmp_path / "kdoct_utils" / "learn" / "losses.py"
    source = losses.read_text()
    assert LOSS in source and FOCAL in source
    for objective in (FocalObjective, DistillationObjective):  # by the package as it is
        keep(tmp_path / f"{objective.__name__}.json", {"seed": 0}, dict, code=[objective])

    # A comment and a docstring are no other focal loss; the distillation loss is another.
    edited = source.replace(FOCAL, f"# per scan\n    {FOCAL}").replace("Source: Lin", "By Lin")
    losses.write_text(edited.replace(LOSS, LOSS.replace("alpha * soft", "3 * alpha * soft")))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    line = "DistillationObjective.json is made again: code changed: learn.losses"
    assert done.stdout.splitlines() == [line, "made"]
