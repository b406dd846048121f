"""Losses against closed forms, torch, torchvision, timm and scipy."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from timm.task import LogitDistillationTask
from torch import nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from kdoct_utils.learn.losses import (
    balanced_class_weights,
    decoupled_loss,
    distillation_loss,
    distillation_terms,
    focal_loss,
    relation_loss,
    soften,
)

USUAL = {"temperature": 4.0, "alpha": 0.7}
LOSSES = {"KD": distillation_loss, "DKD": decoupled_loss, "DIST": relation_loss}
LOSSES = {name: partial(loss, **USUAL) for name, loss in LOSSES.items()}


def random_case(seed=0, batch=6, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = 2 * torch.randn(batch, classes, generator=generator, dtype=dtype)
    teacher = 2 * torch.randn(batch, classes, generator=generator, dtype=dtype)
    target = torch.randint(classes, (batch,), generator=generator)
    return student, teacher, target


def decoupled_terms(*case, temperature, reduction="mean"):
    """The true class's part and the others', before they are weighed."""
    first, both = (decoupled_loss(*case, temperature, 1.0, beta, reduction) for beta in (0.0, 1.0))
    return first, both - first


def relation_terms(*case, temperature):
    """(within scans (batch,), over the batch ())."""
    inter, intra = (relation_loss(*case, temperature, 1.0, 1.0 - k, float(k), "none") for k in (0, 1))
    return inter, intra.mean()


# ---- focal loss


def test_focal_loss_is_its_formula():
    for p_true, gamma in itertools.product((0.01, 0.3, 0.9), (0.5, 2.0, 5.0)):
        logits = torch.tensor([[p_true, (1 - p_true) / 2, (1 - p_true) / 2]], dtype=torch.float64).log()
        expected = -((1 - p_true) ** gamma) * math.log(p_true)
        assert focal_loss(logits, torch.tensor([0]), gamma).item() == pytest.approx(expected, rel=1e-12)


def test_focal_loss_with_two_classes_is_torchvisions_sigmoid_focal_loss():
    student, _, target = random_case(classes=2)
    # A softmax over (0, z) is a sigmoid of z.
    expected = sigmoid_focal_loss(student[:, 1] - student[:, 0], target.double(), alpha=-1, gamma=2)
    torch.testing.assert_close(focal_loss(student, target, 2.0, reduction="none"), expected)


def test_gamma_zero_is_cross_entropy():
    student, _, target = random_case()
    torch.testing.assert_close(focal_loss(student, target, gamma=0), functional.cross_entropy(student, target))
    weights = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(
        focal_loss(student, target, 0, weights, reduction="none"),
        functional.cross_entropy(student, target, weights, reduction="none"),
    )


def test_class_weights_scale_the_loss_and_leave_the_focus_alone():
    """The reference code takes p_t from weighted cross-entropy and gets p_t ** w_t. The mean is over images."""
    p_true, weight, gamma = 0.6, 2.5, 2.0
    logits = torch.tensor([[p_true, 1 - p_true]], dtype=torch.float64).log().repeat(2, 1)
    target, weights = torch.tensor([0, 0]), torch.tensor([weight, 1.0], dtype=torch.float64)
    right = -weight * (1 - p_true) ** gamma * math.log(p_true)
    for reduction, expected in (("none", [right, right]), ("mean", right), ("sum", 2 * right)):
        found = focal_loss(logits, target, gamma, weights, reduction)
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_focal_gradient_is_right_and_finite_where_the_model_is_certain():
    student, _, target = random_case()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: focal_loss(logits, target, 2.0), (student,))
    certain = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        (gradient,) = torch.autograd.grad(focal_loss(certain, torch.tensor([0, 0]), gamma), certain)
        assert torch.isfinite(gradient).all()
        assert gradient[1].abs().sum() > 0.1  # the wrong one still teaches


@given(counts=st.lists(st.integers(0, 50), min_size=2, max_size=4).filter(any))
@settings(max_examples=40, deadline=None)
def test_balanced_weights_times_counts_are_equal_and_have_mean_one(counts):
    target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weights = balanced_class_weights(target, len(counts))
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    occurring = torch.tensor(counts) > 0
    shares = (weights * torch.tensor(counts))[occurring]
    torch.testing.assert_close(shares, shares[:1].expand_as(shares))
    assert (weights[~occurring] == 1).all()


# ---- distillation


def test_distillation_loss_and_soft_labels_are_their_closed_forms():
    temperature, alpha = 4.0, 0.7
    student, teacher = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[3.0, 0.0]]).double()

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    q, p = sigmoid(2 / temperature), sigmoid(3 / temperature)
    assert soften(teacher, temperature)[0].tolist() == pytest.approx([p, 1 - p])
    assert soften(teacher, 1e9)[0].tolist() == pytest.approx([0.5, 0.5])
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected = alpha * temperature**2 * divergence - (1 - alpha) * math.log(sigmoid(-2))
    actual = distillation_loss(student, teacher, torch.tensor([1]), temperature, alpha)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_distillation_loss_and_its_gradient_are_timms():
    """timm's task takes whole networks: these pass their input, the logits, through."""

    class Logits(nn.Module):
        num_classes = in_chans = 3
        pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

        def __init__(self, weight: torch.Tensor):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, images):
            return images.mean(dim=(2, 3)) @ self.weight

    inputs, weights, target = random_case(dtype=torch.float32)
    student, teacher = Logits(weights[:3]), Logits(weights[3:])
    images = inputs[:, :, None, None].expand(-1, -1, 4, 4)
    theirs = LogitDistillationTask(
        student, teacher, nn.CrossEntropyLoss(), distill_loss_weight=0.7, task_loss_weight=0.3, temperature=4.0,
        verbose=False,
    )(images, target)  # fmt: skip
    ours = distillation_loss(student(images), teacher(images), target, **USUAL)
    torch.testing.assert_close(ours, theirs["loss"])
    expected, actual = (torch.autograd.grad(loss, student.weight)[0] for loss in (theirs["loss"], ours))
    torch.testing.assert_close(actual, expected)


def test_temperature_squared_keeps_the_gradient_the_same_size():
    """At high T the gradient tends to (student - teacher) / classes for centred logits, whatever T is."""
    student, teacher, target = random_case()
    student = (student - student.mean(dim=1, keepdim=True)).requires_grad_()
    teacher = teacher - teacher.mean(dim=1, keepdim=True)
    limit = (student - teacher).detach() / 3
    for temperature in (1e3, 1e4):
        soft, _ = distillation_terms(student, teacher, target, temperature, reduction="sum")
        (gradient,) = torch.autograd.grad(soft, student)
        torch.testing.assert_close(gradient, limit, rtol=1e-2, atol=1e-2)


def test_reductions_agree_and_alpha_weighs():
    student, teacher, target = random_case()
    soft, hard = distillation_terms(student, teacher, target, reduction="none", temperature=4.0)
    for alpha in (0.0, 0.5, 0.7, 1.0):
        each = distillation_loss(student, teacher, target, alpha=alpha, reduction="none", temperature=4.0)
        assert each.shape == soft.shape == hard.shape == (6,)
        torch.testing.assert_close(each, alpha * soft + (1 - alpha) * hard)
        mean = distillation_loss(student, teacher, target, alpha=alpha, temperature=4.0)
        torch.testing.assert_close(mean, each.mean())


# ---- decoupled distillation


def test_kl_is_the_target_part_plus_the_other_part_muted_by_the_teachers_certainty():
    for temperature, classes in ((1.0, 4), (4.0, 3), (4.0, 2)):
        student, teacher, target = random_case(classes=classes, batch=12)
        soft, _ = distillation_terms(student, teacher, target, temperature, reduction="none")
        first, second = decoupled_terms(student, teacher, target, temperature=temperature, reduction="none")
        p_true = soften(teacher, temperature)[torch.arange(12), target]
        torch.testing.assert_close(first + (1 - p_true) * second, soft)
        assert (first > 0).all() and ((second > 0).all() if classes > 2 else not second.any())


def test_decoupled_loss_is_its_definition():
    student, teacher, target = random_case(classes=4)
    p, q = (torch.softmax(logits / 2, dim=1).numpy() for logits in (teacher, student))
    expected = 0.4 * functional.cross_entropy(student, target, reduction="none").numpy()
    for row, true in enumerate(target.tolist()):
        pairs = [[(one[row, true], 1 - one[row, true]) for one in (p, q)]]
        pairs += [[np.delete(one[row], true) / np.delete(one[row], true).sum() for one in (p, q)]]
        first, second = (4 * np.sum(np.array(b) * np.log(np.array(b) / np.array(c))) for b, c in pairs)
        expected[row] += 0.6 * (first + 3 * second)
    for reduction, wanted in (("none", expected), ("mean", expected.mean())):
        found = decoupled_loss(student, teacher, target, 2.0, alpha=0.6, beta=3.0, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), wanted)


def test_a_certain_teacher_leaves_no_nan():
    """1 - p_t is 1e-35 here: it must not be rounded to 0 before its logarithm is taken."""
    teacher = torch.tensor([[80.0, 0.0, -3.0]])
    student = torch.tensor([[-80.0, 40.0, 0.0]], requires_grad=True)
    loss = decoupled_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=0.7)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


# ---- DIST


def test_relation_loss_is_scipys_correlations_weighed():
    student, teacher, target = random_case(batch=9, classes=4)
    ours, theirs = (torch.softmax(logits / 4, dim=1).numpy() for logits in (student, teacher))
    inter = np.array([1 - pearsonr(a, b).statistic for a, b in zip(ours, theirs, strict=True)])
    intra = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(ours.T, theirs.T, strict=True)])
    hard = functional.cross_entropy(student, target, reduction="none").numpy()
    expected = 0.6 * 16 * (2 * inter + 3 * intra) + 0.4 * hard
    for reduction, wanted in (("none", expected), ("mean", expected.mean())):
        found = relation_loss(student, teacher, target, 4.0, 0.6, 2.0, 3.0, reduction)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)


def test_relations_forgive_a_straight_line_and_nothing_else():
    _, teacher, target = random_case(batch=8)
    probabilities = torch.softmax(teacher, dim=1)
    milder = (0.4 * probabilities + 0.6 / 3).log()  # softmax of it: the same order, nearer to 1/3
    inter, intra = relation_terms(milder, teacher, target, temperature=1.0)
    assert inter.abs().max() < 1e-12 and abs(intra.item()) < 1e-12
    soft, _ = distillation_terms(milder, teacher, target, temperature=1.0)
    assert soft > 0.01  # Kullback-Leibler does not forgive it
    inter, intra = relation_terms(teacher.flip(1), teacher, target, temperature=1.0)
    assert inter.max() > 0.5 and intra > 0.1
    # A line of its own for each scan keeps the order within scans and breaks that over the batch.
    share = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)[:, None]
    inter, intra = relation_terms((share * probabilities + (1 - share) / 3).log(), teacher, target, temperature=1.0)
    assert inter.abs().max() < 1e-12 and intra > 0.05


def test_a_student_that_does_not_vary_has_a_finite_gradient():
    for batch in (1, 5):
        _, teacher, target = random_case(batch=batch, dtype=torch.float32)
        student = torch.zeros(batch, 3, requires_grad=True)
        relation_loss(student, teacher, target, temperature=1.0, alpha=0.7).backward()
        assert torch.isfinite(student.grad).all()
        inter, intra = relation_terms(student, teacher, target, temperature=1.0)
        torch.testing.assert_close(inter, torch.ones(batch))
        assert intra.item() == pytest.approx(1)


# ---- all


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_the_teacher_gets_none_and_half_precision_is_raised(name):
    student, teacher, target = random_case(batch=5)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits, teacher.detach(), target), (student,))
    LOSSES[name](student, teacher, target).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert LOSSES[name](student.bfloat16(), teacher.bfloat16(), target).dtype == torch.float32


def test_errors_name_what_is_wrong():
    student, teacher, target = random_case()
    focal, weights = partial(focal_loss, gamma=2.0), torch.tensor([0.2, 0.8, 2.0])
    assert focal(student.bfloat16(), target, class_weights=weights).dtype == torch.float32
    faults = [
        ("gamma.*-1", lambda: focal_loss(student, target, gamma=-1)),
        ("'avg'.*mean, sum, none", lambda: focal(student, target, reduction="avg")),
        (r"class_weights.*\(3,\).*\(2,\)", lambda: focal(student, target, class_weights=torch.ones(2))),
        ("batch", lambda: focal(student, target[:2])),
        ("temperature.*-2", lambda: soften(student, -2)),
        ("at least one", lambda: balanced_class_weights(torch.empty(0, dtype=torch.long), 3)),
        (r"0\.\.2", lambda: balanced_class_weights(torch.tensor([0, 3]), 3)),
    ]
    for loss in LOSSES.values():
        faults += [
            (r"alpha.*-0\.1", partial(loss, student, teacher, target, alpha=-0.1)),
            (r"alpha.*1\.5", partial(loss, student, teacher, target, alpha=1.5)),
            ("temperature.*0", partial(loss, student, teacher, target, temperature=0)),
            (r"differ in shape.*\(6, 2\)", partial(loss, student, teacher[:, :2], target)),
        ]
    for message, call in faults:
        with pytest.raises(ValueError, match=message):
            call()
