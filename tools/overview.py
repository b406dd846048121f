"""The README's one figure: what the scans look like, and what a run measured on them."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.show.figures import draw_interval, draw_scan
from kdoct_utils.show.style import ARM_LOOKS, look, use_style

CLASSES = ("normal", "drusen", "cnv")
SEEDS = (2, 10, 0)  # phantoms whose lesions are easy to see
CROP = slice(100, 400)  # rows of the frame


def overview_figure(metrics: dict, setting: str) -> Figure:
    """Three phantoms over the accuracy of each arm with its 95% interval.

    metrics: of metrics.json, with the arms of ARM_LOOKS. setting: of the numbers, such as "phantoms, 64 px".
    Raises KeyError, naming the arm, where one was not measured.
    """
    use_style()
    figure = plt.figure(figsize=(8.2, 3.7))
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1))
    for column, (name, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        axis = figure.add_subplot(grid[0, column])
        image = render_frames(draw_patient(name, [2025, seed]), 1).images[0][CROP]
        draw_scan(axis, image, f"{look(name).label} (phantom)")
    _intervals(figure.add_subplot(grid[1, :]), metrics, setting)
    return figure


def _intervals(axis: plt.Axes, metrics: dict, setting: str) -> None:
    for row, (arm, drawn) in enumerate(ARM_LOOKS.items()):
        accuracy, (low, high) = metrics[arm]["accuracy"], metrics[arm]["interval"]
        draw_interval(axis, row, (accuracy, low, high), drawn, markersize=9)
        axis.annotate(f"{accuracy:.3f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    gain = metrics["kd_gain"]
    points = f"{100 * gain['estimate']:+.1f} points [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    names = [drawn.label for drawn in ARM_LOOKS.values()]
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axis.set_xlabel(f"accuracy on test patients, 95% interval ({setting})")
    axis.set_title(f"Distillation changes the student by {points}")
