"""Scans in batches, and predictions in their order."""

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
    for message, call, *arguments in (
        ("11 images, 10 targets and 11 indices", ScanImages, images, np.zeros(10)),
        (r"float64 of shape \(11, 35, 35\); expected uint8", ScanImages, images / 255, np.zeros(11)),
        ("no image to predict", predict_logits, build_model(NETWORK, 3, 1), images[:0], 32, 1),
    ):
        with pytest.raises(ValueError, match=message):
            call(*arguments)


def test_predictions_are_in_order_and_leave_the_mode_alone(images):
    model = build_model(NETWORK, 4, 3).eval()
    with torch.no_grad():  # BatchNorm must not average over the batch, so any batch size gives the same
        expected = model(augment(torch.from_numpy(images), np.arange(11), EVALUATION, 0, 0, 32, 3)).numpy()
        views = [model(view).numpy() for view in test_time_views(torch.from_numpy(images), 32, 3)]
    model.train()
    logits = predict_logits(model, images, 32, 3, batch_size=4)
    assert model.training and logits.shape == (11, 4) and logits.dtype == np.float32
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(logits, expected, **close)
    reverse = ScanImages(images, np.zeros(11)).subset(np.arange(11)[::-1])
    np.testing.assert_allclose(predict_logits(model, reverse, 32, 3), expected[::-1], **close)
    np.testing.assert_allclose(predict_logits(model, images, 32, 3, views=True), np.mean(views, axis=0), **close)

