"""Decoupled distillation and DIST against identities, scipy and hand numbers; their objectives in the training loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from test_losses import random_case
from test_training import CONFIG, CONVNEXT, EFFICIENTNET, SIZE, make_scans, make_trainer, same_weights
from torch import nn
from torch.nn import functional

from kdoct_utils.learn.inference import cache_teacher_logits
from kdoct_utils.learn.losses import (
    decoupled_loss,
    decoupled_terms,
    distillation_terms,
    relation_loss,
    relation_terms,
    soften,
)
from kdoct_utils.learn.models import build_model, state_copy
from kdoct_utils.learn.objectives import (
    CachedLogits,
    ConsistentMixupObjective,
    DistillationObjective,
    DISTObjective,
    DKDObjective,
)
from kdoct_utils.learn.pipelines import STUDENT

LOSSES = {"DKD": decoupled_loss, "DIST": relation_loss}


# ---- decoupled distillation


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [3, 4])
def test_kl_is_the_target_part_plus_the_other_part_muted_by_the_teachers_certainty(temperature, classes):
    student, teacher, target = random_case(classes=classes, batch=12)
    soft, _ = distillation_terms(student, teacher, target, temperature, reduction="none")
    first, second = decoupled_terms(student, teacher, target, temperature, reduction="none")
    p_true = soften(teacher, temperature)[torch.arange(12), target]
    torch.testing.assert_close(first + (1 - p_true) * second, soft)
    assert (second > 0).all() and (first > 0).all()


def test_decoupled_terms_are_their_definition():
    student, teacher, target = random_case(classes=4)
    p, q = (torch.softmax(logits / 2, dim=1).numpy() for logits in (teacher, student))
    first, second = decoupled_terms(student, teacher, target, temperature=2.0, reduction="none")
    for row, true in enumerate(target.tolist()):
        b, c = np.array([p[row, true], 1 - p[row, true]]), np.array([q[row, true], 1 - q[row, true]])
        assert first[row].item() == pytest.approx(4 * np.sum(b * np.log(b / c)))
        b, c = (np.delete(one[row], true) / np.delete(one[row], true).sum() for one in (p, q))
        assert second[row].item() == pytest.approx(4 * np.sum(b * np.log(b / c)))


def test_decoupled_loss_weighs_its_parts():
    student, teacher, target = random_case()
    first, second = decoupled_terms(student, teacher, target)
    hard = functional.cross_entropy(student, target)
    expected = 0.6 * (first + 3 * second) + 0.4 * hard
    torch.testing.assert_close(decoupled_loss(student, teacher, target, alpha=0.6, beta=3.0), expected)


def test_with_two_classes_nothing_is_left_to_the_others():
    student, teacher, target = random_case(classes=2)
    soft, _ = distillation_terms(student, teacher, target)
    first, second = decoupled_terms(student, teacher, target)
    assert second.item() == 0
    torch.testing.assert_close(first, soft)


def test_a_certain_teacher_leaves_no_nan():
    """1 - p_t is 1e-35 here: it must not be rounded to 0 before its logarithm is taken."""
    teacher = torch.tensor([[80.0, 0.0, -3.0]])
    student = torch.tensor([[-80.0, 40.0, 0.0]], requires_grad=True)
    loss = decoupled_loss(student, teacher, torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


# ---- DIST


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_relations_are_scipys_correlations(temperature):
    student, teacher, target = random_case(batch=9, classes=4)
    ours, theirs = (torch.softmax(logits / temperature, dim=1).numpy() for logits in (student, teacher))
    inter, intra = relation_terms(student, teacher, target, temperature)
    expected = [1 - pearsonr(a, b).statistic for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(inter.numpy(), temperature**2 * np.array(expected), rtol=1e-9)
    expected = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(ours.T, theirs.T, strict=True)])
    assert intra.item() == pytest.approx(temperature**2 * expected)


def test_relations_forgive_a_straight_line_and_nothing_else():
    _, teacher, target = random_case(batch=8)
    probabilities = torch.softmax(teacher, dim=1)
    milder = (0.4 * probabilities + 0.6 / 3).log()  # softmax of it: the same order, nearer to 1/3
    inter, intra = relation_terms(milder, teacher, target)
    assert inter.abs().max() < 1e-12 and abs(intra.item()) < 1e-12
    soft, _ = distillation_terms(milder, teacher, target, temperature=1.0)
    assert soft > 0.01  # Kullback-Leibler does not forgive it
    inter, intra = relation_terms(teacher.flip(1), teacher, target)
    assert inter.max() > 0.5 and intra > 0.1
    # A line of its own for each scan keeps the order within scans and breaks that over the batch.
    share = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)[:, None]
    inter, intra = relation_terms((share * probabilities + (1 - share) / 3).log(), teacher, target)
    assert inter.abs().max() < 1e-12 and intra > 0.05


def test_the_relation_over_scans_belongs_to_the_batch():
    student, teacher, target = random_case(batch=8)
    alone = relation_loss(student[:4], teacher[:4], target[:4], reduction="none")
    among = relation_loss(student, teacher, target, reduction="none")[:4]
    assert not torch.allclose(alone, among)
    without = [relation_loss(student[:n], teacher[:n], target[:n], gamma=0.0, reduction="none")[:4] for n in (4, 8)]
    torch.testing.assert_close(*without)


def test_relation_loss_is_the_published_one_on_a_batch():
    student, teacher, target = random_case(batch=8)
    inter, intra = relation_terms(student, teacher, target)
    expected = 0.6 * (2 * inter.mean() + 3 * intra) + 0.4 * functional.cross_entropy(student, target)
    weights = {"alpha": 0.6, "beta": 2.0, "gamma": 3.0}
    torch.testing.assert_close(relation_loss(student, teacher, target, **weights), expected)
    each = relation_loss(student, teacher, target, **weights, reduction="none")
    assert each.shape == (8,)
    torch.testing.assert_close(each.mean(), expected)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_student_that_does_not_vary_has_a_finite_gradient(batch):
    _, teacher, target = random_case(batch=batch, dtype=torch.float32)
    student = torch.zeros(batch, 3, requires_grad=True)
    loss = relation_loss(student, teacher, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    inter, intra = relation_terms(student, teacher, target)
    torch.testing.assert_close(inter, torch.ones(batch))
    assert intra.item() == pytest.approx(1)


# ---- both


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_and_the_teacher_gets_none(name):
    student, teacher, target = random_case(batch=5)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits, teacher.detach(), target), (student,))
    LOSSES[name](student, teacher, target).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_raised_and_faults_are_named(name):
    student, teacher, target = random_case()
    half = LOSSES[name](student.bfloat16(), teacher.bfloat16(), target)
    assert half.dtype == torch.float32 and torch.isfinite(half)
    with pytest.raises(ValueError, match=r"alpha.*-0\.1"):
        LOSSES[name](student, teacher, target, alpha=-0.1)
    with pytest.raises(ValueError, match="temperature.*0"):
        LOSSES[name](student, teacher, target, temperature=0)
    with pytest.raises(ValueError, match="differ in shape"):
        LOSSES[name](student, teacher[:, :2], target)
    with pytest.raises(ValueError, match=r"beta.*-1"):
        decoupled_loss(student, teacher, target, beta=-1)


# ---- objectives


class Watched(nn.Module):
    """Passes a network through and keeps what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shown = network, []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return self.network(images)


@pytest.fixture
def teacher():
    return build_model(CONVNEXT, 3, 1, seed=8).eval()


def batch_of(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, SIZE, SIZE, generator=generator), torch.arange(n) % 3, torch.arange(40, 40 + n)


@pytest.mark.parametrize(
    "objective,loss",
    [(DKDObjective, lambda *logits: decoupled_loss(*logits, 4.0, 0.7, 1.0, "none")),
     (DISTObjective, lambda *logits: relation_loss(*logits, 1.0, 0.7, reduction="none"))],
)  # fmt: skip
def test_objectives_are_their_losses_with_a_live_teacher(teacher, objective, loss):
    images, target, indices = batch_of()
    model = build_model(EFFICIENTNET, 3, 1, seed=1).eval()
    losses, logits = objective(teacher)(model, images, target, indices, 0)
    with torch.no_grad():
        expected = loss(model(images), teacher(images), target)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(logits, model(images))


@pytest.mark.parametrize("objective", [DistillationObjective, DKDObjective, DISTObjective])
def test_cached_logits_teach_as_the_teacher_itself(teacher, objective):
    scans = make_scans(30)
    cached = CachedLogits(cache_teacher_logits(teacher, scans, STUDENT, 4, 3, SIZE, 1, progress=False))
    live, cached = (make_trainer(objective(one), config=CONFIG).fit() for one in (teacher, cached))
    np.testing.assert_allclose(cached.history.train_loss, live.history.train_loss, rtol=1e-4)


def test_mixup_shows_both_networks_the_same_blend(teacher):
    images, target, indices = batch_of()
    watched, student = Watched(teacher), Watched(build_model(EFFICIENTNET, 3, 1, seed=1).eval())
    objective = ConsistentMixupObjective(watched, temperature=2.0, seed=5)
    losses, logits = objective(student, images, target, indices, 3)
    assert torch.equal(watched.shown[0], student.shown[0])
    blend = watched.shown[0]
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
    objective = ConsistentMixupObjective(teacher, seed=5)
    first = objective.blend(images, indices, 3)
    torch.manual_seed(123)
    assert torch.equal(objective.blend(images, indices, 3), first)
    assert not torch.equal(objective.blend(images, indices, 4), first)
    assert not torch.equal(objective.blend(images, indices + 1, 3), first)
    assert not torch.equal(ConsistentMixupObjective(teacher, seed=6).blend(images, indices, 3), first)
    shares = [objective.blend(torch.eye(2).view(2, 1, 1, 2), torch.tensor([n, 0]), 0)[0, 0, 0, 1] for n in range(200)]
    shares = torch.stack(shares)
    assert 0.45 < shares.mean() < 0.55 and shares.std() == pytest.approx(1 / 12**0.5, abs=0.03)  # even over 0..1


def test_mixup_needs_a_live_teacher():
    with pytest.raises(ValueError, match="needs a live teacher"):
        ConsistentMixupObjective(CachedLogits(np.zeros((1, 4, 3))))


@pytest.mark.parametrize("objective", [DKDObjective, DISTObjective, ConsistentMixupObjective])
def test_training_is_repeatable_and_leaves_the_teacher_alone(teacher, objective):
    before = state_copy(teacher)
    results = [make_trainer(objective(teacher), config=replace(CONFIG, epochs=2)) for _ in range(2)]
    histories = [trainer.fit().history.drop(columns="seconds") for trainer in results]
    assert histories[0].equals(histories[1])
    assert same_weights(results[0].model.state_dict(), results[1].model.state_dict())
    assert same_weights(teacher.state_dict(), before)
    assert objective(teacher).describe() != DistillationObjective(teacher).describe()
