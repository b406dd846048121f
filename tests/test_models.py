"""Networks: sizes, groups, weights in and out, and errors that name the valid choices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.grn import GlobalResponseNorm

from kdoct_utils.learn.models import (
    ModelError,
    QuickResponseNorm,
    build_model,
    count_parameters,
    freeze_backbone,
    head_name,
    load_backbone,
    load_weights,
    parameter_groups,
    save_weights,
    use_quick_norms,
    weights_metadata,
)
from kdoct_utils.profiles import PAPER_TEACHER_TRAINING, PROFILES, QUICK_TEACHER, ModelConfig

SMALL = ModelConfig("efficientnet_course_small", dropout=0.1)
TINY_TEACHER = PROFILES["smoke"].teacher


@pytest.mark.parametrize(("role", "expected"), [("teacher", 196.42e6), ("student", 7.705e6)])
def test_paper_networks_have_the_published_sizes(role: str, expected: float):
    with torch.device("meta"):  # shapes without memory
        model = build_model(getattr(PROFILES["paper"], role), 3, 3)
    assert count_parameters(model) == pytest.approx(expected, abs=0.01e6 if role == "teacher" else 0.001e6)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_builds_both_families(name: str):
    profile = PROFILES[name]
    with torch.device("meta"):
        teacher = build_model(profile.teacher, 3, profile.channels)
        student = build_model(profile.student, 3, profile.channels)
    assert type(teacher).__name__ == "ConvNeXt"
    assert type(student).__name__ == "EfficientNet"
    assert any("grn" in module for module, _ in teacher.named_modules())  # what makes it a ConvNeXt V2
    assert count_parameters(teacher) > count_parameters(student) * (1 if name == "smoke" else 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [64, 96])
def test_course_student_is_small_and_takes_grey_and_color(channels: int, size: int):
    model = build_model(SMALL, 4, channels).eval()
    assert 0.09e6 < count_parameters(model) < 0.12e6
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 4)


def test_course_students_are_known_to_timm():
    assert "efficientnet_course_small" in timm.list_models("efficientnet_course*")
    assert timm.create_model("efficientnet_course_tiny", num_classes=5, in_chans=1).num_classes == 5


def test_dropout_and_drop_path_reach_the_network():
    teacher = build_model(replace(QUICK_TEACHER, dropout=0.3, drop_path=0.1), 3, 1)
    rates = [module.drop_prob for module in teacher.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)
    assert teacher.head.drop.p == 0.3
    assert build_model(replace(SMALL, dropout=0.25), 3, 1).drop_rate == 0.25


def test_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (build_model(SMALL, 3, 1, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv_stem.weight, again.conv_stem.weight)
    assert not torch.equal(first.conv_stem.weight, other.conv_stem.weight)


@pytest.mark.parametrize("config", [SMALL, QUICK_TEACHER], ids=["efficientnet", "convnextv2"])
def test_parameter_groups_cover_each_parameter_once_with_its_rate_floor_and_decay(config: ModelConfig):
    model = build_model(config, 3, 1)
    training = replace(PAPER_TEACHER_TRAINING, learning_rate=1e-3, backbone_learning_rate=2e-4)
    training = replace(training, minimum_learning_rate=1e-6, weight_decay=0.05)
    groups = {group["name"]: group for group in parameter_groups(model, training)}
    assert list(groups) == ["backbone", "backbone, no decay", "head", "head, no decay"]
    where = {id(parameter): name for name, group in groups.items() for parameter in group["params"]}
    assert len(where) == sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    head = model.get_submodule(head_name(model))
    in_head = {id(parameter) for parameter in head.parameters()}
    norm_types = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    norms = {id(p) for module in model.modules() if isinstance(module, norm_types) for p in module.parameters()}
    grn = {id(p) for name, p in model.named_parameters() if ".grn." in name}
    for name, parameter in model.named_parameters():
        part = "head" if id(parameter) in in_head else "backbone"
        plain = name.endswith("bias") or id(parameter) in norms | grn
        assert where[id(parameter)] == (f"{part}, no decay" if plain else part), name
    assert [group["weight_decay"] for group in groups.values()] == [0.05, 0, 0.05, 0]
    assert [group["lr"] for group in groups.values()] == [2e-4, 2e-4, 1e-3, 1e-3]
    np.testing.assert_allclose([group["floor"] for group in groups.values()], [2e-7, 2e-7, 1e-6, 1e-6])


def test_one_learning_rate_serves_everything_where_the_backbone_has_none():
    groups = parameter_groups(build_model(SMALL, 3, 1), PROFILES["quick"].student_training)
    assert {group["lr"] for group in groups} == {PROFILES["quick"].student_training.learning_rate}


def test_floor_above_the_peak_is_refused():
    with pytest.raises(ValueError, match="minimum_learning_rate 1e-07 is above learning_rate 1e-08"):
        parameter_groups(build_model(SMALL, 3, 1), replace(PAPER_TEACHER_TRAINING, learning_rate=1e-8))


def test_frozen_backbone_keeps_weights_and_batch_norm_statistics():
    model = build_model(SMALL, 3, 1).train()
    freeze_backbone(model, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(8, 1, 64, 64)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    freeze_backbone(model, False)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_survive_the_disk_with_their_metadata(tmp_path):
    source, target = build_model(SMALL, 3, 1, seed=1), build_model(SMALL, 3, 1, seed=2)
    save_weights(source, tmp_path / "student.safetensors", {"accuracy": 0.91, "classes": "normal,drusen,cnv"})
    metadata = load_weights(target, tmp_path / "student.safetensors")
    assert metadata == {"accuracy": "0.91", "classes": "normal,drusen,cnv"}
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


def test_loading_refuses_what_does_not_fit_and_changes_nothing(tmp_path):
    path = tmp_path / "student.safetensors"
    save_weights(build_model(SMALL, 3, 1), path)
    model = build_model(SMALL, 4, 1, seed=3)
    before = model.classifier.weight.clone()
    with pytest.raises(ModelError, match="student.safetensors does not fit.*of another shape.*classifier"):
        load_weights(model, path)
    assert torch.equal(model.classifier.weight, before)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(model, path)
    with pytest.raises(ModelError, match="no weights file absent.safetensors"):
        load_weights(model, tmp_path / "absent.safetensors")


def test_backbone_loads_without_its_head(tmp_path):
    source, target = build_model(TINY_TEACHER, 7, 1, seed=1), build_model(TINY_TEACHER, 3, 1, seed=2)
    path = tmp_path / "pretrained.safetensors"
    save_weights(source, path)
    fresh_head = target.head.fc.weight.clone()
    load_backbone(target, path)
    assert torch.equal(target.stages[3].blocks[0].mlp.fc1.weight, source.stages[3].blocks[0].mlp.fc1.weight)
    assert torch.equal(target.head.fc.weight, fresh_head)
    weights = load_file(path)
    weights.pop("stem.0.weight")
    save_file(weights, path)
    with pytest.raises(ModelError, match="1 missing, such as stem.0.weight"):
        load_backbone(target, path)


def test_backbone_of_color_weights_is_refused_for_grey(tmp_path):
    save_weights(build_model(TINY_TEACHER, 3, 3), tmp_path / "color.safetensors")
    with pytest.raises(ModelError, match="1 of another shape, such as stem.0.weight"):
        load_backbone(build_model(TINY_TEACHER, 3, 1), tmp_path / "color.safetensors")


@pytest.mark.parametrize(
    ("config", "start_weights", "message"),
    [
        (replace(SMALL, architecture="resnet5"), "none", "'resnet5'.*convnextv2_tiny.*efficientnet_course_small"),
        (SMALL, "random", "'random'; valid: none, phantom, imagenet"),
        (SMALL, "imagenet", "no ImageNet weights here; valid start weights: none, phantom"),
        (replace(PROFILES["paper"].student, pretrained_tag="nope"), "imagenet", "efficientnet_b2.nope.*ra_in1k"),
    ],
)
def test_unknown_choices_name_the_valid_ones(config: ModelConfig, start_weights: str, message: str):
    with pytest.raises(ModelError, match=message):
        build_model(config, 3, 1, start_weights)


def test_imagenet_weights_that_cannot_be_fetched_are_not_replaced(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise FileNotFoundError("the hub is out of reach")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="efficientnet_b2.ra_in1k.*out of reach.*huggingface.co"):
        build_model(PROFILES["paper"].student, 3, 3, "imagenet")


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """Whatever the memory format, and whatever order Rust's maps have today: recipes name a teacher by its hash."""
    model, about = build_model(SMALL, 3, 3), {"chosen": "best", "recipe": "r", "seed": 0, "fold": 1}
    save_weights(model, tmp_path / "a.safetensors", about)
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "b.safetensors", dict(reversed(about.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert weights_metadata(tmp_path / "a.safetensors") == {"chosen": "best", "recipe": "r", "seed": "0", "fold": "1"}


# ---- the quicker norm of ConvNeXtV2


def two_norms(channels: int, channels_last: bool = False) -> tuple[GlobalResponseNorm, QuickResponseNorm]:
    theirs = GlobalResponseNorm(channels, channels_last=channels_last)
    torch.manual_seed(0)
    torch.nn.init.normal_(theirs.weight), torch.nn.init.normal_(theirs.bias)
    return theirs, QuickResponseNorm(theirs)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_quick_norm_and_its_gradients_are_timms(channels_last):
    theirs, ours = (norm.double() for norm in two_norms(6, channels_last))
    x = torch.randn((5, 7, 8, 6) if channels_last else (5, 6, 7, 8), dtype=torch.float64)
    torch.testing.assert_close(ours.float()(x.float()), theirs.float()(x.float()), rtol=1e-5, atol=1e-5)
    found = []
    for layer in (theirs.double(), ours.double()):
        seen = x.clone().requires_grad_(True)
        value = layer(seen).pow(3).sum()
        found.append((value, *torch.autograd.grad(value, [seen, layer.weight, layer.bias])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_quick_norm_in_extremes_and_in_half_precision():
    black = torch.zeros(2, 3, 4, 4, requires_grad=True)
    two_norms(3)[1](black).sum().backward()
    assert torch.isfinite(black.grad).all()
    large = torch.full((1, 2, 4, 4), 1000.0, dtype=torch.float16)  # whose squares do not fit
    assert torch.isfinite(two_norms(2)[1].half()(large)).all()
    theirs, ours = two_norms(8)
    x = torch.randn(4, 8, 16, 16)
    expected, near = theirs(x), {"rtol": 0.05, "atol": 0.1}
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ours(x.bfloat16())
        assert mixed.dtype == theirs(x.bfloat16()).dtype
    torch.testing.assert_close(mixed.float(), expected, **near)
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(ours.to(dtype)(x.to(dtype)).float(), expected, **near)


def test_a_network_with_quick_norms_keeps_its_parameters_and_its_answers():
    torch.manual_seed(0)
    model = timm.create_model("convnextv2_atto", num_classes=3, in_chans=1).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        before, parameters, names = model(x), list(model.parameters()), list(model.state_dict())
        use_quick_norms(model)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    assert sum(isinstance(module, QuickResponseNorm) for module in model.modules()) == 12  # one a block
