"""The README's two figures: what the scans look like, and where a teacher helps."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kdoct_utils.judge.regimes import kept_regimes
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.show.figures import draw_scan
from kdoct_utils.show.regime_figures import map_figure
from kdoct_utils.show.style import look, use_style

SEEDS = {"normal": 2, "drusen": 10, "cnv": 0}  # phantoms whose lesions are easy to see
CROP = slice(60, 440)  # rows of the frame


def scans_figure() -> Figure:
    """A phantom of each class, side by side."""
    use_style()
    figure, axes = plt.subplots(1, len(SEEDS), figsize=(8.2, 2.0))
    for axis, (name, seed) in zip(axes, SEEDS.items(), strict=True):
        image = render_frames(draw_patient(name, [2025, seed]), 1).images[0][CROP]
        draw_scan(axis, image, f"{look(name).label} (phantom)")
    return figure


def carried_map() -> Figure:
    """The map of the measurement that the package carries."""
    use_style()
    return map_figure(kept_regimes()[0])[0]
