"""Networks: sizes, groups, weights in and out, and errors that name the valid choices."""

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
)
from kdoct_utils.profiles import PAPER_TEACHER_TRAINING, PROFILES, QUICK_TEACHER, ModelConfig

SMALL = ModelConfig("efficientnet_course_small", dropout=0.1)
TINY_TEACHER = PROFILES["smoke"].teacher


def test_paper_networks_have_the_published_sizes():
    for role, published, within in (("teacher", 196.42e6, 0.01e6), ("student", 7.705e6, 0.001e6)):
        with torch.device("meta"):  # shapes without memory
            model = build_model(getattr(PROFILES["paper"], role), 3, 3)
        assert count_parameters(model) == pytest.approx(published, abs=within)


def test_every_profile_builds_both_families():
    for name, profile in PROFILES.items():
        with torch.device("meta"):
            networks = [build_model(getattr(profile, role), 3, profile.channels) for role in ("teacher", "student")]
        assert [type(network).__name__ for network in networks] == ["ConvNeXt", "EfficientNet"]
        assert any("grn" in module for module, _ in networks[0].named_modules())  # what makes it a ConvNeXt V2
        teacher, student = map(count_parameters, networks)
        assert teacher > student * (1 if name == "smoke" else 3)


def test_course_student_is_small_and_takes_grey_and_color():
    for channels, size in ((1, 64), (3, 96)):
        model = build_model(SMALL, 4, channels).eval()
        assert 0.09e6 < count_parameters(model) < 0.12e6
        assert model(torch.zeros(2, channels, size, size)).shape == (2, 4)


def test_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (build_model(SMALL, 3, 1, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv_stem.weight, again.conv_stem.weight)
    assert not torch.equal(first.conv_stem.weight, other.conv_stem.weight)


def test_lite_students_have_what_integers_like():
    for profile in PROFILES.values():
        model = build_model(profile.lite_student, 3, profile.channels)
        kinds = {type(module).__name__ for module in model.modules()}
        assert "ReLU6" in kinds and not kinds & {"SiLU", "SqueezeExcite", "Sigmoid"}, profile.name
    quick = PROFILES["quick"]
    usual, lite = (count_parameters(build_model(one, 3, 1)) for one in (quick.student, quick.lite_student))
    assert 1 < lite / usual < 1.5  # wider for the gates that it lacks, and no more than that


def test_parameter_groups_cover_each_parameter_once_with_its_rate_floor_and_decay():
    training = replace(PAPER_TEACHER_TRAINING, learning_rate=1e-3, backbone_learning_rate=2e-4)
    training = replace(training, minimum_learning_rate=1e-6, weight_decay=0.05)
    for config in (SMALL, QUICK_TEACHER):
        model = build_model(config, 3, 1)
        groups = {group["name"]: group for group in parameter_groups(model, training)}
        assert list(groups) == ["backbone", "backbone, no decay", "head", "head, no decay"]
        where = {id(parameter): name for name, group in groups.items() for parameter in group["params"]}
        assert len(where) == sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
        in_head = {id(parameter) for parameter in model.get_submodule(head_name(model)).parameters()}
        norms = [module for module in model.modules() if "Norm" in type(module).__name__]
        in_norms = {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}
        for name, parameter in model.named_parameters():
            part = "head" if id(parameter) in in_head else "backbone"
            plain = name.endswith("bias") or id(parameter) in in_norms
            assert where[id(parameter)] == (f"{part}, no decay" if plain else part), name
        assert [group["weight_decay"] for group in groups.values()] == [0.05, 0, 0.05, 0]
        assert [group["lr"] for group in groups.values()] == [2e-4, 2e-4, 1e-3, 1e-3]
        np.testing.assert_allclose([group["floor"] for group in groups.values()], [2e-7, 2e-7, 1e-6, 1e-6])
    one_rate = parameter_groups(model, replace(training, backbone_learning_rate=None))
    assert {group["lr"] for group in one_rate} == {1e-3}


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
    path, color = tmp_path / "pretrained.safetensors", tmp_path / "color.safetensors"
    save_weights(source, path)
    fresh_head = target.head.fc.weight.clone()
    load_backbone(target, path)
    assert torch.equal(target.stages[3].blocks[0].mlp.fc1.weight, source.stages[3].blocks[0].mlp.fc1.weight)
    assert torch.equal(target.head.fc.weight, fresh_head)
    save_weights(build_model(TINY_TEACHER, 3, 3), color)
    with pytest.raises(ModelError, match="1 of another shape, such as stem.0.weight"):
        load_backbone(target, color)
    save_file({name: value for name, value in load_file(path).items() if name != "stem.0.weight"}, path)
    with pytest.raises(ModelError, match="1 missing, such as stem.0.weight"):
        load_backbone(target, path)


def test_unknown_choices_name_the_valid_ones():
    student = replace(PROFILES["paper"].student, pretrained_tag="nope")
    for config, start_weights, message in (
        (replace(SMALL, architecture="resnet5"), "none", "'resnet5'.*convnextv2_tiny.*efficientnet_course_small"),
        (SMALL, "random", "'random'; valid: none, phantom, imagenet"),
        (SMALL, "imagenet", "no ImageNet weights here; valid start weights: none, phantom"),
        (student, "imagenet", "efficientnet_b2.nope.*ra_in1k"),
    ):
        with pytest.raises(ModelError, match=message):
            build_model(config, 3, 1, start_weights)


def test_imagenet_weights_that_cannot_be_fetched_are_not_replaced(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise FileNotFoundError("the hub is out of reach")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="efficientnet_b2.ra_in1k.*out of reach.*huggingface.co"):
        build_model(PROFILES["paper"].student, 3, 3, "imagenet")


def test_weights_survive_the_disk_and_the_same_weights_are_the_same_bytes(tmp_path):
    """Whatever the memory format, and whatever order Rust's maps have today: recipes name a teacher by its hash."""
    model, about = build_model(SMALL, 3, 3, seed=1), {"chosen": "best", "recipe": "r", "seed": 0, "fold": 1}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_weights(model, paths[0], about)
    save_weights(model.to(memory_format=torch.contiguous_format), paths[1], dict(reversed(about.items())))
    assert paths[0].read_bytes() == paths[1].read_bytes() and sorted(tmp_path.iterdir()) == paths
    target = build_model(SMALL, 3, 3, seed=2)
    assert load_weights(target, paths[0]) == {"chosen": "best", "recipe": "r", "seed": "0", "fold": "1"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


# ---- the quicker norm of ConvNeXtV2


def two_norms(channels: int, channels_last: bool = False) -> tuple[GlobalResponseNorm, QuickResponseNorm]:
    theirs = GlobalResponseNorm(channels, channels_last=channels_last)
    torch.manual_seed(0)
    torch.nn.init.normal_(theirs.weight), torch.nn.init.normal_(theirs.bias)
    return theirs, QuickResponseNorm(theirs)


def test_the_quick_norm_and_its_gradients_are_timms():
    for channels_last, shape in ((True, (5, 7, 8, 6)), (False, (5, 6, 7, 8))):
        found, x = [], torch.randn(shape, dtype=torch.float64)
        for layer in two_norms(6, channels_last):
            seen = x.clone().requires_grad_(True)
            value = layer.double()(seen).pow(3).sum()
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
    expected = theirs(x)
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(ours.to(dtype)(x.to(dtype)).float(), expected, rtol=0.05, atol=0.1)


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
