"""The networks are counted rightly, the steps are the course's own, and too little memory is said."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.reference_loop import PilScans, train_reference

from kdoct_utils.course import check as checks
from kdoct_utils.course import cli, true_step
from kdoct_utils.course.true_step import (
    check_parameters,
    check_steps,
    phantom_scans,
    step_trainer,
    take_steps,
    take_steps_apart,
    true_step_checks,
)
from kdoct_utils.learn.models import parameter_groups
from kdoct_utils.profiles import get_profile

PAPER = get_profile("paper")
SMOKE = replace(get_profile("smoke"), name="tiny", **{
    f"{role}_training": replace(getattr(get_profile("smoke"), f"{role}_training"), batch_size=6, accumulation=2)
    for role in ("teacher", "student")
})  # fmt: skip
TAKEN = {"device": "this CPU", "precision": "bf16", "batch_size": 4, "accumulation": 4, "steps": 1, "seconds": 8.0,
         "images_per_second": 2.0, "peak_bytes": 7 * 10**9, "loss": 1.0}  # fmt: skip


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(true_step, "gpu_memory", lambda: None)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_steps_are_the_courses_own_and_measured(role, monkeypatch):
    trainer = step_trainer(SMOKE, role, 2)
    assert trainer.steps == 2 and len(set(trainer.train_set.indices.tolist())) == 24
    assert set(trainer.train_set.target.tolist()) == {0, 1, 2}
    assert trainer.config.frozen_epochs == 0 and trainer.config.swa_learning_rate is None
    assert trainer.augmentation.name == role and trainer.image_size == SMOKE.image_size
    assert trainer.objective.describe()["objective"] == {"teacher": "FocalObjective"}.get(role, "DistillationObjective")
    wanted = parameter_groups(trainer.model, getattr(SMOKE, f"{role}_training"))
    for group, own in zip(trainer.optimizer.param_groups, wanted, strict=True):
        assert all(group[name] == own[name] for name in ("name", "lr", "weight_decay"))

    taken, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: taken.append(1) or real(*a, **k))
    found = take_steps(SMOKE, role, steps=3)
    assert len(taken) == 3 == found["steps"] and found["precision"] == "float32"
    assert found["seconds"] > 0 and found["images_per_second"] == pytest.approx(12 / found["seconds"])
    assert np.isfinite(found["loss"]) and found["peak_bytes"] > (50e6 if found["device"] == "this CPU" else 0)


def test_the_clock_counts_from_step_to_step_and_the_first_warms_up(monkeypatch):
    times = iter([10.0, 13.0, 14.0, 16.0])
    monkeypatch.setattr(true_step, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert take_steps(SMOKE, "teacher", 3)["seconds"] == 1.5


def test_too_little_memory_is_said(monkeypatch, no_gpu):
    check = check_steps(PAPER, "teacher", 1, 1e15)
    assert not check.ok and "the weights alone need 1000000.0 GB" in check.found and "--no-step" in check.remedy
    monkeypatch.setattr(true_step, "_offer_to_the_killer", sys.exit)  # ends the process before it works
    with pytest.raises(MemoryError, match="want of memory"):
        take_steps_apart(SMOKE, "student", 1)
    check = check_steps(SMOKE, "student", 1, 0)
    assert not check.ok and "want of memory" in check.found


def test_paper_takes_a_step_of_both_and_no_step_counts_only(no_gpu, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(true_step, "take_steps_apart", lambda *a: seen.append(a[1:]) or TAKEN)
    monkeypatch.setattr(true_step, "BYTES_A_PARAMETER", 0)
    lines = list(true_step_checks(PAPER))
    assert seen == [("teacher", 1), ("student", 1)] and all(line.ok for line in lines)
    assert [line.name for line in lines] == ["teacher", "student", "teacher steps", "student steps"]
    assert [line.numbers["parameters"] for line in lines[:2]] == [196_424_451, 7_705_221]
    assert all("as published" in line.found for line in lines[:2])
    assert "1 of 4 x 4 scans at 384 px (focal loss; bf16 on this CPU" in lines[2].found
    assert "8 s a step, 2 images/s, peak 7.0 GB" in lines[2].found and lines[2].numbers == {"steps": TAKEN}
    other = check_parameters(PAPER, "teacher", 197_767_336)
    assert not other.ok and "197.77 M" in other.found and "196.42 M are published" in other.found and other.remedy
    assert "published" not in check_parameters(SMOKE, "teacher", 10**6).found

    monkeypatch.setattr(checks, "run_checks", lambda *_: [])
    for profile, names in (("paper", ["teacher", "student"]), ("smoke", [])):
        with pytest.raises(SystemExit) as end:
            cli.main(["check", "--profile", profile, "--no-step", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert not end.value.code and [line["name"] for line in found] == names
    assert len(seen) == 2


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_reference_loop_runs(role):
    """It is what the benchmark holds the package against."""
    scans = phantom_scans(SMOKE, 24)
    images, target = scans.images, scans.target.numpy()
    torch.manual_seed(0)
    rate, losses = train_reference(SMOKE, role, images, target, device="cpu", precision="no", workers=0)
    assert rate > 0 and losses.shape == (4,) and np.isfinite(losses).all()
    view, label = PilScans(images, target, SMOKE, role)[0]
    assert view.shape == (1, 32, 32) and label == target[0]
