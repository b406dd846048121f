"""Objectives: their losses with a live teacher or cached logits, frozen teachers, and quicker ones."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_training import CONFIG, CONVNEXT, EFFICIENTNET, SIZE, make_scans, make_trainer, numbers, same_weights

from kdoct_utils.learn.inference import cache_teacher_logits
from kdoct_utils.learn.losses import decoupled_loss, distillation_terms, relation_loss
from kdoct_utils.learn.models import build_model, state_copy
from kdoct_utils.learn.objectives import (
    CachedLogits,
    ConsistentMixupObjective,
    CrossEntropyObjective,
    DistillationObjective,
    DISTObjective,
    DKDObjective,
    OneSidedObjective,
)
from kdoct_utils.learn.pipelines import STUDENT

USUAL = {"temperature": 4.0, "alpha": 0.7}


@pytest.fixture
def teacher():
    return build_model(CONVNEXT, 3, 1, seed=8).eval()


def batch_of(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, SIZE, SIZE, generator=generator), torch.arange(n) % 3, torch.arange(40, 40 + n)


def test_teacher_stays_frozen_in_eval_mode_and_unchanged():
    teacher = build_model(replace(EFFICIENTNET, dropout=0.5), 3, 1, seed=8).train()  # BatchNorm and dropout would move
    before = state_copy(teacher)
    objective = DistillationObjective(teacher, **USUAL)
    make_trainer(objective, network=EFFICIENTNET).fit()
    assert same_weights(teacher.state_dict(), before)
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teacher_that_is_set_free_is_noticed():
    objective = DistillationObjective(build_model(EFFICIENTNET, 3, 1), **USUAL)
    batch = (build_model(CONVNEXT, 3, 1), torch.zeros(2, 1, 32, 32), torch.zeros(2).long(), torch.arange(2), 0)
    objective.teacher.bn1.train()
    with pytest.raises(RuntimeError, match="training mode"):
        objective(*batch)
    objective.teacher.eval().classifier.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="not frozen"):
        objective(*batch)


def test_cached_logits_repeat_their_views_or_meet_new_ones():
    seen = []

    class Watching(DistillationObjective):
        def forward(self, model, images, target, indices, view):
            seen.append(view)
            return super().forward(model, images, target, indices, view)

    for replay, views in ((True, [0, 1, 0]), (False, [0, 1, 2])):
        seen.clear()
        make_trainer(Watching(CachedLogits(np.zeros((2, 30, 3)), replay=replay), **USUAL)).fit()
        assert seen[::4] == views


def test_a_one_sided_temperature_softens_the_teacher_alone():
    model, teacher = (build_model(EFFICIENTNET, 3, 1, seed=seed).eval() for seed in (1, 2))
    images, target = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 0])
    losses, logits = OneSidedObjective(teacher, temperature=4.0, alpha=1.0)(model, images, target, torch.arange(4), 0)
    soft = torch.softmax(teacher(images).detach() / 4, dim=1)
    expected = F.kl_div(torch.log_softmax(logits, dim=1), soft, reduction="none").sum(dim=1)
    torch.testing.assert_close(losses, expected)


def test_class_weights_weigh_the_losses_of_training_only():
    model, weights = build_model(EFFICIENTNET, 3, 1).eval(), torch.tensor([0.5, 1.0, 1.5])
    images, target = torch.randn(3, 1, 32, 32), torch.tensor([0, 1, 2])
    plain, _ = CrossEntropyObjective()(model, images, target, torch.arange(3), 0)
    objective = CrossEntropyObjective(class_weights=weights)
    losses, logits = objective(model, images, target, torch.arange(3), 0)
    torch.testing.assert_close(losses, weights * plain)
    torch.testing.assert_close(objective.validation_losses(logits, target), plain)


def test_label_smoothing_is_for_training_only():
    model, target = build_model(CONVNEXT, 3, 1).eval(), torch.tensor([0, 2])
    images = torch.randn(2, 1, 32, 32)
    losses, logits = CrossEntropyObjective(label_smoothing=0.1)(model, images, target, torch.arange(2), 0)
    smooth = torch.full((2, 3), 0.1 / 3)
    smooth[[0, 1], target] += 0.9
    torch.testing.assert_close(losses, -(smooth * logits.log_softmax(dim=1)).sum(dim=1))
    plain = CrossEntropyObjective(label_smoothing=0.1).validation_losses(logits, target)
    torch.testing.assert_close(plain, -logits.log_softmax(dim=1)[[0, 1], target])


# --- quicker ---------------------------------------------------------------------------------------------------------


def test_a_fast_teacher_says_nearly_the_same_and_stays_as_it_was():
    exact, fast = (build_model(CONVNEXT, 3, 1, seed=8) for _ in range(2))
    expected = make_trainer(DistillationObjective(exact, **USUAL)).fit().history
    trainer = make_trainer(DistillationObjective(fast, **USUAL), config=replace(CONFIG, fast=True))
    found = trainer.fit().history
    assert {value.dtype for value in trainer.objective.fast_teacher.parameters()} == {torch.bfloat16}
    assert same_weights(exact.state_dict(), fast.state_dict())
    assert not np.array_equal(found.train_loss, expected.train_loss)
    np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=0.02)
    cached = DistillationObjective(CachedLogits(np.zeros((1, 30, 3))), **USUAL)  # no teacher to ask sooner
    plain, quick = (make_trainer(cached, config=replace(CONFIG, fast=way, epochs=1)).fit() for way in (False, True))
    assert numbers(plain) == numbers(quick)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_the_same_within_noise():
    """As on a GPU; the weights that come out carry the names of the plain network."""
    trainers = [
        make_trainer(DistillationObjective(build_model(CONVNEXT, 3, 1, seed=8), **USUAL),
                     config=replace(CONFIG, epochs=1), network=EFFICIENTNET) for _ in range(2)
    ]  # fmt: skip
    plain, trainer = trainers
    trainer.compiled = True
    trainer.objective.use_fast_teacher(compiled=True)
    expected, found = plain.fit().history, trainer.fit().history
    np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=0.02)
    assert trainer.model.state_dict().keys() == plain.model.state_dict().keys()


# --- other ways to distill --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [DistillationObjective, DKDObjective, DISTObjective])
def test_cached_logits_teach_as_the_teacher_itself(teacher, objective):
    """With a view an epoch cached, both runs see the same images and the same soft labels."""
    scans = make_scans(30).subset(np.random.default_rng(0).permutation(30))  # need not be in the order of training
    logits = cache_teacher_logits(teacher, scans, STUDENT, 4, 3, SIZE, 1, batch_size=7, progress=False)
    assert logits.shape == (3, 30, 3) and logits.dtype == np.float32
    cached = CachedLogits(logits, scans.indices.numpy())
    live, cached = (make_trainer(objective(one, **USUAL), config=CONFIG).fit() for one in (teacher, cached))
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(cached.history[column], live.history[column], rtol=1e-4)


def test_other_objectives_are_their_losses_with_a_live_teacher(teacher):
    images, target, indices = batch_of()
    model = build_model(EFFICIENTNET, 3, 1, seed=1).eval()
    for objective, loss in ((DKDObjective, decoupled_loss), (DISTObjective, relation_loss)):
        for weights in ({}, {"beta": 2.0}):
            losses, logits = objective(teacher, **USUAL, **weights)(model, images, target, indices, 0)
            with torch.no_grad():
                expected = loss(model(images), teacher(images), target, **USUAL, **weights, reduction="none")
            torch.testing.assert_close(losses, expected)
            torch.testing.assert_close(logits, model(images))
            assert objective(teacher, **USUAL, **weights).describe().items() >= weights.items()


def test_caches_that_do_not_fit_are_refused(teacher):
    logits = np.zeros((1, 29, 3))
    for message, make in (
        ("no cached teacher logits for 1 of the 30 training scans",
         lambda: make_trainer(DistillationObjective(CachedLogits(logits), **USUAL))),
        (r"shape \(29, 3\); expected \(views, scans, classes\)", lambda: CachedLogits(logits[0])),
        ("3 indices for the cached logits of 29 scans", lambda: CachedLogits(logits, np.arange(3))),
        ("needs a live teacher", lambda: ConsistentMixupObjective(CachedLogits(logits), temperature=4.0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make()


def test_mixup_shows_both_networks_the_same_blend(teacher):
    images, target, indices = batch_of()
    student, shown = build_model(EFFICIENTNET, 3, 1, seed=1).eval(), []
    for network in (teacher, student):
        network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach().clone()))
    objective = ConsistentMixupObjective(teacher, temperature=2.0, seed=5)
    losses, logits = objective(student, images, target, indices, 3)
    blend = shown[0]
    assert len(shown) == 2 and torch.equal(blend, shown[1])
    share = ((blend - images)[0] / (images[-1] - images[0])).median().item()
    assert 0 < share < 1
    torch.testing.assert_close(blend, (1 - share) * images + share * images.roll(1, dims=0), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        soft, _ = distillation_terms(logits, teacher(blend), target, 2.0, reduction="none")
    torch.testing.assert_close(losses, soft)
    other_labels = objective(student, images, (target + 1) % 3, indices, 3)[0]
    torch.testing.assert_close(other_labels, losses)  # no label counts


def test_the_blend_follows_from_seed_view_and_batch_alone(teacher):
    images, _, indices = batch_of()
    objective, other = (ConsistentMixupObjective(teacher, seed=seed, temperature=4.0) for seed in (5, 6))
    first = objective.blend(images, indices, 3)
    torch.manual_seed(123)
    assert torch.equal(objective.blend(images, indices, 3), first)
    for one, scans, view in ((objective, indices, 4), (objective, indices + 1, 3), (other, indices, 3)):
        assert not torch.equal(one.blend(images, scans, view), first)
