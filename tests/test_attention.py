"""Maps of networks that look where we made them look, and scores in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from kdoct_utils.learn.attention import (
    FIRST_PATIENT,
    energy_inside,
    grad_cam,
    lesion_scans,
    looked_at,
    middle,
    pointing_game,
    shuffled,
)
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.models import build_model, state_copy
from kdoct_utils.learn.pipelines import EVALUATION
from kdoct_utils.profiles import PROFILES, get_profile

SIZE, CELL = 64, 8


class Looker(nn.Module):
    """Brightness in cells of 8 px; class k is the brightness of one cell of its own, class 2 of none."""

    feature_info = [{"reduction": 1, "module": "seen"}, {"reduction": CELL, "module": "cells"},
                    {"reduction": 32, "module": "coarse"}]  # fmt: skip

    def __init__(self, spots):
        super().__init__()
        self.seen = nn.Identity()
        self.cells = nn.Conv2d(1, 1, CELL, stride=CELL, bias=False)
        self.coarse = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)
        nn.init.constant_(self.cells.weight, 1 / CELL**2)
        weights = torch.zeros(3, SIZE // CELL, SIZE // CELL)
        for number, (row, column) in enumerate(spots):
            weights[number, row, column] = 1.0
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        cells = self.cells(self.seen(images)).relu()  # normalized: only what is brighter than the mean is above 0
        return self.norm(self.dropout(torch.einsum("bij,kij->bk", cells[:, 0], self.weights)))


def bright_at(*cells):
    image = np.zeros((SIZE, SIZE), np.uint8)
    for row, column in cells:
        image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 255
    return image


CORNER, OTHER = (0, 0), (5, 6)


def test_the_map_is_where_the_network_looks():
    images = np.stack([bright_at(CORNER), bright_at(OTHER)])
    model = Looker([CORNER, OTHER])
    maps = grad_cam(model, images, np.array([0, 1]), SIZE, 1)
    assert maps.shape == (2, SIZE, SIZE) and maps.dtype == np.float32
    np.testing.assert_allclose([maps.min(), maps.max()], [0, 1], atol=1e-5)
    assert pointing_game(maps, images > 0, 0).tolist() == [1, 1]
    assert pointing_game(maps, images[::-1] > 0, 8).tolist() == [0, 0]
    assert (energy_inside(maps, images > 0) > 0.5).all()
    nothing = grad_cam(model, images, np.array([2, 2]), SIZE, 1)  # a class that nothing speaks for
    assert not nothing.any()
    assert not pointing_game(nothing, images > 0, 99).any() and not energy_inside(nothing, images > 0).any()


def test_contrast_asks_against_the_other_classes():
    model, images = Looker([CORNER, CORNER]), bright_at(CORNER)[None]
    with torch.no_grad():
        model.weights[1] = 2 * model.weights[0]  # both rise with the corner; class 1 twice as fast
    for number, contrast, seen in ((0, False, True), (0, True, False), (1, True, True)):  # 1 - (2 + 0) / 2 = 0
        assert grad_cam(model, images, np.array([number]), SIZE, 1, contrast=contrast).any() == seen


def test_batches_change_nothing_and_the_network_is_as_it_was():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (7, SIZE, SIZE), dtype=np.uint8)
    model = Looker([CORNER, OTHER]).train()
    model.weights.grad = torch.ones_like(model.weights)
    model.cells.requires_grad_(False)
    before, classes = state_copy(model), np.arange(7) % 2
    maps = grad_cam(model, images, classes, SIZE, 1, batch_size=3)
    np.testing.assert_allclose(maps, grad_cam(model, images, classes, SIZE, 1), atol=1e-6)
    assert model.training and model.weights.requires_grad and not model.cells.weight.requires_grad
    assert torch.equal(model.weights.grad, torch.ones_like(model.weights))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(IndexError):
        grad_cam(model, images, np.full(7, 3), SIZE, 1)
    assert model.training and model.weights.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_by_hand_on_the_networks_of_the_course():
    profile = get_profile("quick")
    size, channels = profile.image_size, profile.channels
    images = np.random.default_rng(0).integers(0, 256, (2, size, size), dtype=np.uint8)
    for config in (profile.teacher, profile.student):
        model = build_model(config, 3, channels, seed=1).eval()
        maps = grad_cam(model, images, np.array([1, 2]), size, channels)
        layer, stride = looked_at(model, size)
        kept = []
        handle = layer.register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
        logits = model(augment(torch.from_numpy(images), torch.arange(2), EVALUATION, 0, 0, size, channels))
        handle.remove()
        (slope,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], kept[0])
        coarse = (slope.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()
        assert coarse.shape[1] == size // stride >= 8
        fine = nn.functional.interpolate(coarse[:, None], (size, size), mode="bilinear")[:, 0].detach().numpy()
        low, high = coarse.amin(dim=(1, 2)).detach().numpy(), coarse.amax(dim=(1, 2)).detach().numpy()
        fine = (fine - low[:, None, None]) / (high - low)[:, None, None]
        fine -= fine.min(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(maps, fine / fine.max(axis=(1, 2), keepdims=True), atol=1e-4)


def test_teacher_and_student_are_looked_at_in_cells_of_one_size():
    for profile in PROFILES.values():
        with torch.device("meta"):
            networks = [build_model(getattr(profile, role), 3, profile.channels) for role in ("teacher", "student")]
        sides = {looked_at(network, profile.image_size)[1] for network in networks}
        assert len(sides) == 1 and profile.image_size // sides.pop() >= 8
    with pytest.raises(ValueError, match="no layer of Looker has 100 x 100 cells"):
        looked_at(Looker([CORNER]), SIZE, cells=100)


def test_scores_in_closed_form():
    masks, one, flat = np.zeros((1, 10, 10), bool), np.zeros((1, 10, 10)), np.ones((1, 10, 10))
    masks[0, 4:6, 4:6] = True
    one[0, 4, 8] = 1.0  # three columns from the lesion
    assert [pointing_game(one, masks, t)[0] for t in (0, 2.9, 3, 50)] == [0, 0, 1, 1]
    for tolerance, share in ((0, 4), (1, 12), (1.5, 16)):  # four sides of two pixels; corners are 1.4 away
        assert pointing_game(flat, masks, tolerance) == pytest.approx(share / 100)
    assert middle(masks)[0].sum() == 4 and middle(np.ones((1, 5, 5), bool))[0].sum() == 1
    assert pointing_game(middle(masks), masks, 0)[0] == 1
    one[0, 4, 4] = 1.0  # two largest pixels, one of them on the lesion
    assert pointing_game(one, masks, 0)[0] == 0.5 == energy_inside(one, masks)[0]
    assert energy_inside(flat, masks) == pytest.approx(4 / 100)


def test_scans_with_a_lesion_and_the_same_eyes_without():
    scans = lesion_scans(["drusen", "cnv"], 3, 5, 48, seed=0)
    again = lesion_scans(["drusen"], 3, 5, 48, seed=0)
    n = len(scans.labels)
    assert scans.images.shape == scans.healthy.shape == scans.masks.shape
    assert n == len(scans.patients) == len(scans.images) and set(scans.labels) == {"drusen", "cnv"}
    assert scans.masks.any(axis=(1, 2)).all()
    assert scans.patients[0] == f"drusen/{FIRST_PATIENT}" and len(set(scans.patients)) <= 6
    np.testing.assert_array_equal(scans.images[: len(again.images)], again.images)
    changed = scans.images != scans.healthy
    assert (changed & scans.masks).any(axis=(1, 2)).all()
    with pytest.raises(ValueError, match="no lesion is seen in 2 patients of normal"):
        lesion_scans(["normal"], 2, 3, 48, seed=0)


def test_a_shuffled_network_has_the_same_numbers_elsewhere():
    model = build_model(get_profile("smoke").student, 3, 1, seed=0)
    ours, mixed, again, other = (
        list(network.parameters()) for network in (model, *(shuffled(model, seed) for seed in (0, 0, 1)))
    )
    assert sum(not torch.equal(a, b) for a, b in zip(ours, mixed, strict=True)) > 5
    ordered = [[one.flatten().sort().values for one in network] for network in (ours, mixed)]
    assert all(map(torch.equal, *ordered))
    assert all(map(torch.equal, mixed, again)) and not all(map(torch.equal, mixed, other))
