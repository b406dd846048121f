"""The plane through a walk of the weights."""

import numpy as np
import pytest
import torch

from kdoct_utils.learn.landscape import plane_through


def snapshots(places):
    """Weights at these places of one plane."""
    numbers = torch.Generator().manual_seed(0)
    start, first, second = torch.randn(3, 12, generator=numbers)
    flat = [start + a * first + b * second for a, b in places]
    return [{"layer": each[:8].view(2, 4), "norm": each[8:], "count": torch.tensor(k)} for k, each in enumerate(flat)]


def test_a_plane_gives_back_the_weights_that_span_it():
    weights = snapshots([(0, 0), (1, 0), (0, 2), (3, -1)])
    plane = plane_through(weights)
    assert plane.share == pytest.approx(1.0)
    for each, point in zip(weights, plane.points, strict=True):
        found = plane.at(*point)
        assert found["count"] == 0 and found["layer"].dtype == torch.float32
        for name in ("layer", "norm"):
            torch.testing.assert_close(found[name], each[name], rtol=1e-4, atol=1e-5)


def test_lengths_are_kept_means_stay_means_and_the_square_of_places_holds_every_point():
    weights = snapshots([(0, 0), (1, 0), (0, 2)])
    plane = plane_through(weights)
    apart = torch.cat([(weights[0][name] - weights[1][name]).flatten() for name in ("layer", "norm")]).norm()
    assert np.linalg.norm(plane.points[0] - plane.points[1]) == pytest.approx(float(apart), rel=1e-5)
    half = plane.at(*plane.points[:2].mean(axis=0))["norm"]
    torch.testing.assert_close(half, (weights[0]["norm"] + weights[1]["norm"]) / 2, rtol=1e-4, atol=1e-5)
    x, y = plane.around(5)
    assert len(x) == len(y) == 5 and np.ptp(x) == pytest.approx(np.ptp(y))
    for axis, places in enumerate((x, y)):
        assert places.min() < plane.points[:, axis].min() and places.max() > plane.points[:, axis].max()
