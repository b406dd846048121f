"""Costs are counted rightly, the steps are the course's own, and too little memory is said beforehand."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from benchmarks.reference_loop import PilScans, train_reference
from torch import nn

from kdoct_utils.course import check as checks
from kdoct_utils.course import cli, costs, paper_check, stretch
from kdoct_utils.course.costs import (
    GPU,
    GPUS,
    SavedBytes,
    count_network,
    days_at,
    get_gpu,
    gpu_days,
    gpu_memory_needed,
    images_seen,
    memory_parts,
    profile_costs,
)
from kdoct_utils.course.paper_check import check_card, check_parameters, check_steps, duration, scale_checks
from kdoct_utils.course.stretch import Stretch, StretchError, phantom_data, run_apart, run_stretch, stretch_trainer
from kdoct_utils.learn.models import build_model, parameter_groups
from kdoct_utils.profiles import ModelConfig, get_profile
from kdoct_utils.runs import plain

PAPER, SMOKE = get_profile("paper"), get_profile("smoke")
GIGA = 1e9


@pytest.fixture(scope="module")
def paper():
    return profile_costs(PAPER)


@pytest.fixture(scope="module")
def smoke():
    return profile_costs(SMOKE)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(paper_check, "gpu_memory", lambda: None)


def made_up(profile, role, steps, batch_size, accumulation, **changes):
    """A stretch that nobody ran."""
    settings = {
        "role": role, "device": "cpu", "precision": "bf16", "batch_size": batch_size, "accumulation": accumulation,
        "steps": steps, "seconds": 8.0, "images_per_second": batch_size * accumulation / 8, "peak_bytes": 7 * 10**9,
        "activation_bytes": 3_600_000_000, "loss": 1.0,
    }  # fmt: skip
    return Stretch(**settings | changes)


# --- counting --------------------------------------------------------------------------------------------------------


def test_the_papers_networks_have_the_published_parameters(paper):
    assert paper["teacher"].parameters == 196_424_451 and paper["student"].parameters == 7_705_221
    for role in paper:
        check = check_parameters(role, paper[role])
        assert check.ok and "as published" in check.found
    assert "196.42 M" in check_parameters("teacher", paper["teacher"]).found


def test_another_network_fails_the_check(paper):
    check = check_parameters("teacher", replace(paper["teacher"], parameters=197_767_336))
    assert not check.ok and "197.77 M" in check.found and "196.42 M are published" in check.found and check.remedy


def test_a_network_without_a_published_number_is_only_counted(smoke):
    assert check_parameters("teacher", smoke["teacher"]).ok
    assert "published" not in check_parameters("teacher", smoke["teacher"]).found


def test_arithmetic_is_the_published_one():
    # Woo et al. 2023: ConvNeXt V2-L has 34.4 G multiply-adds at 224 px; Tan and Le 2019: EfficientNet-B2 1.0 G at 260.
    large = count_network(ModelConfig("convnextv2_large", dropout=0.0), 3, 224)
    assert large.forward_flops / 2e9 == pytest.approx(34.4, rel=0.01)
    small = count_network(ModelConfig("efficientnet_b2", dropout=0.0), 3, 260)
    assert small.forward_flops / 2e9 == pytest.approx(1.0, rel=0.05)


def test_a_backward_pass_costs_twice_a_forward_pass_depthwise_or_not(paper):
    for cost in paper.values():
        assert cost.training_flops / cost.forward_flops == pytest.approx(3, rel=0.01)
        assert 1.5 < cost.training_calls / cost.forward_calls < 3.5


@pytest.mark.parametrize("groups, stride", [(1, 1), (8, 1), (4, 2)])
def test_backward_of_a_convolution_by_hand(groups, stride):
    from torch.utils.flop_counter import FlopCounterMode

    layer = nn.Conv2d(8, 16, 3, groups=groups, stride=stride, padding=1)
    images = torch.zeros(2, 8, 12, 12, requires_grad=True)
    mapping = {torch.ops.aten.convolution_backward: costs._convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        output = layer(images)
        assert counter.get_total_flops() == 2 * output.numel() * 9 * 8 // groups
        output.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * output.numel() * 9 * 8 // groups


def test_kept_bytes_by_hand():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    images = torch.randn(5, 4)
    with SavedBytes(model) as held:
        model(images).sum()
    assert held.total() == 5 * (4 + 8) * 4  # the input, and the ReLU's output, which two layers share


def test_counting_without_numbers_equals_counting_with_them(smoke):
    model = build_model(SMOKE.teacher, 3, SMOKE.channels).train()
    with SavedBytes(model) as held:
        model(torch.randn(6, SMOKE.channels, 32, 32))
    assert held.total() == pytest.approx(6 * smoke["teacher"].activation_bytes)


def test_memory_parts_by_hand(paper):
    parts = memory_parts(PAPER, "teacher", paper, 4, activation_bytes=3e9)
    assert sum(parts.values()) == 4 * 196_424_451 * (1 + 1 + 2 + 1 + 1) + 3e9  # the last two: best and SWA weights
    student = memory_parts(PAPER, "student", paper, 8, activation_bytes=1e9)
    assert sum(student.values()) == 4 * 7_705_221 * (1 + 1 + 2 + 1) + 4 * 196_424_451 + 1e9
    counted = memory_parts(PAPER, "teacher", paper, 4)["activations"]
    assert counted == 4 * paper["teacher"].activation_bytes + 2 * 196_424_451
    assert gpu_memory_needed({"all": 10e9}) == pytest.approx(1e9 + 11.5e9)


def test_days_by_hand(paper):
    trained, validated = images_seen(PAPER, "teacher")
    assert trained == pytest.approx(5 * 150 * 0.64 * 12_649) and validated == pytest.approx(trained / 4)
    assert days_at(PAPER, "teacher", 100.0) == pytest.approx((trained + validated / 3) / 100 / 86_400)
    slow = GPU("slow", 10, 80)  # arithmetic decides
    teacher = paper["teacher"]
    flops = trained * teacher.training_flops + validated * teacher.forward_flops
    assert gpu_days(PAPER, paper, slow)["teacher"] == pytest.approx([flops / (s * 1e13) / 86_400 for s in (0.54, 0.2)])
    endless = GPU("endless", 1e9, 80)  # starting operations decides
    calls = trained * teacher.training_calls / 4 + validated * teacher.forward_calls / 4
    assert gpu_days(PAPER, paper, endless)["teacher"] == pytest.approx([calls * s / 86_400 for s in (5e-6, 10e-6)])


def test_the_live_teacher_is_in_the_students_days(paper):
    days = gpu_days(PAPER, paper, GPUS["A100-80"])
    free = paper | {"teacher": replace(paper["teacher"], forward_flops=0.0, forward_calls=0)}
    assert gpu_days(PAPER, free, GPUS["A100-80"])["student"][0] < 0.7 * days["student"][0]


def test_gpus_go_by_name():
    assert get_gpu("h100") is GPUS["H100"]
    with pytest.raises(ValueError, match="unknown GPU 'P100'; valid GPUs: T4, "):
        get_gpu("P100")


@pytest.mark.parametrize("days, text", [(0.01, "14 min"), (0.5, "12.0 h"), (7.2, "7 days"), (3650, "10 years")])
def test_durations(days, text):
    assert duration(days) == text


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_stretch_is_the_courses_training(role):
    training = replace(costs.training_of(SMOKE, role), frozen_epochs=5, swa_learning_rate=1e-5)
    trainer = stretch_trainer(replace(SMOKE, **{f"{role}_training": training}), role, 2, 6, 2, seed=0)
    assert len(trainer.train_set) == 2 * 2 * 6 and len(set(trainer.train_set.indices.tolist())) == 24
    assert trainer.steps == 2 and trainer.config.frozen_epochs == 0 and trainer.config.swa_learning_rate is None
    assert trainer.augmentation.name == role and trainer.image_size == SMOKE.image_size
    assert trainer.objective.describe()["objective"] == {"teacher": "FocalObjective"}.get(role, "DistillationObjective")
    wanted = parameter_groups(trainer.model, training)
    groups = [(group["name"], group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups]
    assert groups == [(group["name"], group["lr"], group["weight_decay"]) for group in wanted]


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_stretch_takes_its_steps_and_measures_them(role, smoke, monkeypatch):
    taken = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: taken.append(1) or real(*a, **k))
    found = run_stretch(SMOKE, role, steps=3, batch_size=6, accumulation=2)
    assert len(taken) == 3 == found.steps
    assert found.seconds > 0 and found.images_per_second == pytest.approx(12 / found.seconds)
    assert np.isfinite(found.loss) and found.precision == "float32"
    assert found.activation_bytes == pytest.approx(6 * smoke[role].activation_bytes, rel=0.02)  # and the loss's few
    if found.device == "cpu":
        assert found.peak_bytes > 50e6


def test_clock_counts_from_step_to_step(monkeypatch):
    times = iter([10.0, 13.0, 14.0])
    monkeypatch.setattr(stretch, "_mark", lambda device: next(times))
    trainer = stretch_trainer(SMOKE, "teacher", 2, 6, 1, seed=0)
    if trainer.device.type == "cpu":
        seconds = stretch.clock_steps(trainer)
        trainer.fit()
        assert seconds() == [3.0, 1.0]


def test_the_first_step_warms_up(monkeypatch):
    monkeypatch.setattr(stretch, "clock_steps", lambda trainer: lambda: [100.0, 2.0, 4.0][: trainer.steps])
    assert run_stretch(SMOKE, "teacher", 3, batch_size=6).seconds == 3.0
    assert run_stretch(SMOKE, "teacher", 1, batch_size=6).seconds == 100.0


def test_phantoms_show_their_class_and_repeat_under_new_indices():
    data = phantom_data(SMOKE, 100, 7, seed=0)
    assert len(data.rows("train")) == 100 and len(data.rows("validation")) == 7
    assert data.images.shape == (107, SMOKE.resize_size, SMOKE.resize_size)
    assert (data.table["label"] == data.table["patient_class"]).all()
    assert set(data.target[:30]) == {0, 1, 2} and data.table["scan_id"].is_unique


def test_bad_stretches_are_refused():
    with pytest.raises(ValueError, match="at least one step"):
        run_stretch(SMOKE, "teacher", 0)
    with pytest.raises(ValueError, match="valid: teacher, student"):
        run_stretch(SMOKE, "tutor", 1)


def test_what_crosses_to_the_process_can_be_pickled():
    sent = (run_stretch, PAPER, made_up(PAPER, "teacher", 1, 4, 4))
    assert pickle.loads(pickle.dumps(sent)) == sent


def test_a_process_that_dies_is_told_about(monkeypatch):
    monkeypatch.setattr(stretch, "_offer_to_the_killer", sys.exit)  # ends the process before it works
    with pytest.raises(StretchError, match="want of memory"):
        run_apart(SMOKE, "student")


# --- lines -----------------------------------------------------------------------------------------------------------


def run_checks_with(free, monkeypatch, paper, run):
    monkeypatch.setattr(paper_check, "free_memory", lambda: free)
    return check_steps(PAPER, "teacher", paper, 1, run)


def test_fewer_images_where_memory_is_short(monkeypatch, no_gpu, paper):
    asked = []

    def run(profile, role, steps, batch_size, accumulation):
        asked.append((batch_size, accumulation))
        return made_up(profile, role, steps, batch_size, accumulation)

    check = run_checks_with(20 * GIGA, monkeypatch, paper, run)
    assert check.ok and "does not fit" not in check.found
    check = run_checks_with(8 * GIGA, monkeypatch, paper, run)
    assert check.ok and "the profile's batch of 4 does not fit" in check.found
    assert asked == [(4, 4), (1, 16)]  # 16 scans a step either way


def test_too_little_memory_is_said_and_not_tried(monkeypatch, no_gpu, paper):
    check = run_checks_with(3 * GIGA, monkeypatch, paper, pytest.fail)
    assert not check.ok and "3.0 GB free" in check.found and "needs 7.2 GB" in check.found
    assert "Free 4.2 GB" in check.remedy and "--no-step" in check.remedy


def test_a_killed_stretch_is_a_failed_line(monkeypatch, no_gpu, paper):
    def run(*_):
        raise StretchError("its process was killed")

    check = run_checks_with(20 * GIGA, monkeypatch, paper, run)
    assert not check.ok and check.found == "its process was killed" and check.remedy


def test_cards(paper):
    assert check_card(PAPER, paper, GPUS["H100"], {}, asked=True).ok
    old = check_card(PAPER, paper, GPUS["T4"], {}, asked=True)
    assert not old.ok and "no bf16" in old.found
    assert check_card(PAPER, paper, GPUS["T4"], {}, asked=False).ok
    assert "no bf16" not in check_card(get_profile("colab"), paper, GPUS["T4"], {}, asked=True).found
    small = check_card(PAPER, paper, GPU("small", 100, 8), {}, asked=True)
    assert not small.ok and "8 GB, 100 TFLOPS: does not fit" in small.found


def test_measured_activations_lower_the_least_memory(paper):
    measured = {"teacher": made_up(PAPER, "teacher", 1, 4, 4)}
    check = check_card(PAPER, paper, GPU("edge", 100, 12), measured, asked=False)
    low, high = check.numbers["memory_bytes"]["teacher"]
    assert low == pytest.approx(gpu_memory_needed(memory_parts(PAPER, "teacher", paper, 4, 3.6e9))) and low < high
    assert check.numbers["verdict"] == "may fit"
    half = made_up(PAPER, "teacher", 1, 2, 8, activation_bytes=int(0.39284e9 + 1.6036e9))
    found = paper_check.measured_activations(PAPER, paper, half)
    assert found == pytest.approx(0.39284e9 + 2 * 1.6036e9, rel=1e-4)  # weights in half precision are there once
    assert paper_check.measured_activations(PAPER, paper, replace(half, precision="float32")) is None


def test_small_profiles_take_no_step_unless_asked(no_gpu):
    assert list(scale_checks("smoke")) == []
    lines = list(scale_checks("smoke", steps=2, run=lambda *a: made_up(*a, precision="float32")))
    names = [line.name for line in lines]
    assert names[:5] == ["teacher", "student", "teacher steps", "student steps", "five folds here"]
    assert all(line.ok for line in lines) and "2 of 1 x 32 scans at 32 px" in lines[2].found
    program = json.loads(json.dumps(plain([asdict(line) for line in lines])))
    assert program[2]["numbers"]["stretch"]["peak_bytes"] == 7 * 10**9


def test_paper_takes_a_step_of_both(no_gpu, monkeypatch):
    monkeypatch.setattr(paper_check, "free_memory", lambda: 64 * GIGA)
    seen = []
    lines = list(scale_checks("paper", gpu="H100", run=lambda *a: seen.append(a[1:]) or made_up(*a)))
    assert seen == [("teacher", 1, 4, 4), ("student", 1, 8, 2)]
    assert [line.name for line in lines][-2:] == ["on H100", "assumed"]
    assert "random start weights, no model hub asked" in lines[2].found


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="unknown profile"):
        list(scale_checks("papper"))
    with pytest.raises(ValueError, match="valid GPUs"):
        list(scale_checks("paper", gpu="abacus"))
    with pytest.raises(ValueError, match="at least 0"):
        list(scale_checks("paper", steps=-1))


def test_the_command_counts_without_a_step(capsys, monkeypatch):
    monkeypatch.setattr(checks, "run_checks", lambda *_: [])
    monkeypatch.setattr(stretch, "run_apart", pytest.fail)
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "--profile", "paper", "--no-step", "--gpu", "H100", "--json"])
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert not end.value.code and list(lines) == ["teacher", "student", "on H100", "assumed"]
    assert lines["teacher"]["numbers"]["parameters"] == 196_424_451
    assert lines["on H100"]["numbers"]["card"]["memory_gb"] == 80


# --- the reference's loop, for the benchmark -------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_reference_loop_runs(role):
    tiny = replace(SMOKE.teacher_training, batch_size=6, accumulation=2)
    profile = replace(SMOKE, teacher_training=tiny, student_training=tiny)
    data = phantom_data(profile, 24, 1, seed=0)
    rows = data.rows("train")
    images, target = data.images[rows], data.target[rows]
    torch.manual_seed(0)
    rate, losses = train_reference(profile, role, images, target, device="cpu", precision="no", workers=0)
    assert rate > 0 and losses.shape == (4,) and np.isfinite(losses).all()
    view, label = PilScans(images, target, profile, role)[0]
    assert view.shape == (1, 32, 32) and label == target[0]
