"""Scans in batches, and predictions in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdoct_utils.learn.augment import augment, test_time_views
from kdoct_utils.learn.inference import ScanImages, predict_logits
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.pipelines import EVALUATION
from kdoct_utils.profiles import ModelConfig

NETWORK = ModelConfig("efficientnet_course_tiny", dropout=0.5)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (11, 35, 35), dtype=np.uint8)


def test_batches_carry_targets_and_indices_of_their_scans(images):
    data = ScanImages(images, np.arange(11) % 3, np.arange(100, 111))
    batch, target, indices = data.take([7, 2])
    assert batch.dtype == torch.uint8 and torch.equal(batch, torch.from_numpy(images[[7, 2]]))
    assert target.tolist() == [1, 2] and indices.tolist() == [107, 102]


def test_rows_pick_scans_from_a_larger_memory_map_without_copying_it(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    everything = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = ScanImages(everything, [0, 1, 2], rows=[9, 4, 0])
    assert data.indices.tolist() == [9, 4, 0]
    part = data.subset(np.array([2, 0]))
    assert part.images is everything
    batch, target, indices = part.take([0, 1])
    assert torch.equal(batch, torch.from_numpy(images[[0, 9]]))
    assert target.tolist() == [2, 0] and indices.tolist() == [0, 9]


def test_sets_that_do_not_agree_are_refused(images):
    with pytest.raises(ValueError, match="11 images, 10 targets and 11 indices"):
        ScanImages(images, np.zeros(10))
    with pytest.raises(ValueError, match=r"float64 of shape \(11, 35, 35\); expected uint8"):
        ScanImages(images / 255, np.zeros(11))


def test_predictions_are_in_order_and_leave_the_mode_alone(images):
    model = build_model(NETWORK, 4, 3).train()
    with torch.no_grad():  # BatchNorm must not average over the batch, so any batch size gives the same
        expected = model.eval()(augment(torch.from_numpy(images), np.arange(11), EVALUATION, 0, 0, 32, 3)).numpy()
    model.train()
    logits = predict_logits(model, images, 32, 3, batch_size=4)
    assert model.training
    assert logits.shape == (11, 4) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)
    reverse = ScanImages(images, np.zeros(11)).subset(np.arange(11)[::-1])
    np.testing.assert_allclose(predict_logits(model, reverse, 32, 3), expected[::-1], rtol=1e-4, atol=1e-6)


def test_views_are_averaged_as_logits(images):
    model = build_model(NETWORK, 3, 1).eval()
    with torch.no_grad():
        expected = np.mean([model(view).numpy() for view in test_time_views(torch.from_numpy(images), 32, 1)], axis=0)
    np.testing.assert_allclose(predict_logits(model, images, 32, 1, views=True), expected, rtol=1e-4, atol=1e-6)


def test_no_images_is_an_error(images):
    with pytest.raises(ValueError, match="no image to predict"):
        predict_logits(build_model(NETWORK, 3, 1), images[:0], 32, 1)
