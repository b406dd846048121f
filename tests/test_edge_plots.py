"""The drawings of notebook 06 hold the numbers that they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kdoct_utils.show import edge_plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_share_bars_are_in_percent():
    axis = edge_plots.share_bars({"a": 0.25, "b": 1.0}, xlabel="share (%)", title="t").axes[0]
    assert [bar.get_width() for bar in axis.patches] == [25, 100]


def test_rounding_draws_errors_close_to_zero_only():
    values = np.linspace(-1, 1, 2001)
    back = np.round(values / 0.1) * 0.1
    drawn = edge_plots.rounding(values, back, 0.1, title="t").axes[1].lines[0]
    assert np.abs(drawn.get_xdata()).max() < 0.3 and np.abs(drawn.get_ydata()).max() <= 0.05 + 1e-9


def test_stairs_draw_every_line_and_error():
    places = np.linspace(-1, 1, 5)
    lines = {"float": places, "3 bits": np.sign(places)}
    left, right = edge_plots.stairs(places, lines, [2, 3], [0.5, 0.25], title="t").axes
    assert [line.get_label() for line in left.lines] == ["float", "3 bits"]
    assert list(right.lines[0].get_ydata()) == [50, 25]


def test_channel_errors_share_one_order():
    ranges, values = np.array([3.0, 1.0, 2.0]), [0.3, 0.1, 0.2]
    left, right = edge_plots.channel_errors(ranges, 0.1, {"one scale": values}, title="t").axes
    assert list(left.lines[0].get_ydata()) == [1, 2, 3]
    np.testing.assert_allclose(right.lines[0].get_ydata(), [10, 20, 30])


def test_logit_scatter_has_a_line_a_class():
    full = np.arange(6.0).reshape(2, 3)
    axis = edge_plots.logit_scatter(full, full + 1, ("normal", "drusen", "cnv"), title="t").axes[0]
    assert [line.get_label() for line in axis.lines] == ["equal", "normal", "drusen", "CNV"]
    assert list(axis.lines[2].get_ydata()) == [2, 5]


def test_format_panels_draw_sizes_times_and_intervals():
    formats = {"fp32": {"bytes": 4000, "latency_ms": 0.5, "accuracy": 0.8, "interval": [0.7, 0.9]},
               "int8": {"bytes": 2000, "latency_ms": 0.6, "accuracy": 0.7, "interval": [0.6, 0.8]}}  # fmt: skip
    size, speed, accuracy = edge_plots.format_panels(formats, title="t").axes
    assert [bar.get_height() for bar in size.patches] == [4, 2]
    assert [bar.get_height() for bar in speed.patches] == [0.5, 0.6]
    assert list(accuracy.lines[2].get_ydata()) == [0.6, 0.8]


def test_time_bars_stack():
    axis = edge_plots.time_bars({"fp32": {"a": 1, "b": 2}, "int8": {"a": 3, "b": 4}}, title="t").axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches] == [(0, 1), (0, 3), (1, 2), (3, 4)]
