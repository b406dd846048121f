"""The networks are counted rightly, the steps are the course's own, and too little memory is said."""

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.reference_loop import train_reference

from kdoct_utils.course import check as checks
from kdoct_utils.course import cli, true_step
from kdoct_utils.course.true_step import check_steps, phantom_scans, step_trainer, take_steps
from kdoct_utils.learn.models import parameter_groups
from kdoct_utils.profiles import get_profile

SMALL = replace(get_profile("smoke").student_training, batch_size=6, accumulation=2)
SMOKE = replace(get_profile("smoke"), teacher_training=SMALL, student_training=SMALL)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_steps_are_the_courses_own_and_the_first_warms_up(role, monkeypatch):
    trainer = step_trainer(SMOKE, role, 2)
    assert trainer.steps == 2 and len(set(trainer.train_set.indices.tolist())) == 24
    assert trainer.augmentation.name == role and trainer.config.frozen_epochs == 0
    assert trainer.objective.describe()["objective"] == {"teacher": "FocalObjective"}.get(role, "DistillationObjective")
    for group, own in zip(trainer.optimizer.param_groups, parameter_groups(trainer.model, SMALL), strict=True):
        assert all(group[name] == own[name] for name in ("name", "lr", "weight_decay"))
    times = iter([10.0, 13.0, 14.0, 16.0])
    monkeypatch.setattr(true_step, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    found = take_steps(SMOKE, role, steps=3)
    assert found["seconds"] == 1.5 and found["images_per_second"] == 8 and found["precision"] == "float32"
    assert found["peak_bytes"] > (50e6 if found["device"] == "this CPU" else 0)


def test_check_counts_takes_a_step_of_both_networks_and_says_too_little_memory(monkeypatch, capsys):
    taken = {"device": "this CPU", "precision": "bf16", "batch_size": 4, "accumulation": 4, "seconds": 8.0,
             "images_per_second": 2.0, "peak_bytes": 7e9}  # fmt: skip
    for name, value in (
        ("gpu_memory", lambda: None),
        ("ProcessPoolExecutor", lambda number, mp_context: ThreadPoolExecutor(number)),
        ("take_steps", lambda *_: taken),
        ("BYTES_A_PARAMETER", -1),
    ):
        monkeypatch.setattr(true_step, name, value)
    monkeypatch.setattr(checks, "run_checks", lambda *_: [])
    for options, names in (
        (["paper"], ["teacher", "student", "teacher steps", "student steps"]),
        (["paper", "--no-step"], ["teacher", "student"]),
        (["smoke"], []),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["check", "--json", "--profile", *options])
        found = json.loads(capsys.readouterr().out)
        assert not end.value.code and [line["name"] for line in found] == names
        if len(names) == 4:
            assert "196.42 M parameters" in found[0]["found"]
            assert "1 of 4 x 4 scans at 384 px (bf16 on this CPU" in found[2]["found"]
            assert "8 s a step, 2 images/s, peak 7.0 GB" in found[3]["found"]
    check = check_steps(SMOKE, "teacher", 1e15)
    assert not check.ok and "the weights alone need 1000000.0 GB" in check.found and "--no-step" in check.remedy

    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(true_step, "take_steps", die)
    assert "want of memory" in check_steps(SMOKE, "student", 0).found


def test_the_loop_that_the_benchmark_holds_the_package_against_runs():
    scans = phantom_scans(SMOKE, 24)
    torch.manual_seed(0)
    rate, losses = train_reference(SMOKE, scans.images, scans.target.numpy(), device="cpu", precision="no", workers=0)
    assert rate > 0 and losses.shape == (4,) and np.isfinite(losses).all()
