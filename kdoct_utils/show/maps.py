"""Where a network looks: maps drawn over scans, for notebook 05."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kdoct_utils.show.style import headline


def maps_figure(
    images: np.ndarray, masks: np.ndarray, maps: Mapping[str, np.ndarray], row_titles: Sequence[str], *, title: str
) -> Figure:
    """Scans with their lesion outlined, and beside each the maps over it; a cross marks each map's largest pixel.

    images, masks: (n, H, W). maps: name -> (n, H, W), a column each. row_titles: (n,).
    """
    columns = 1 + len(maps)
    figure, axes = plt.subplots(len(images), columns, figsize=(1.6 * columns, 1.6 * len(images) + 0.5), squeeze=False)
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for axis, (name, drawn) in zip(axes[row], [("lesion", None), *maps.items()], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.contour(mask, levels=[0.5], colors="#FFD166", linewidths=1.2)
            if drawn is not None:
                axis.imshow(drawn[row], cmap="cividis", vmin=0, vmax=1, alpha=0.5)
                if drawn[row].any():
                    down, across = np.unravel_index(drawn[row].argmax(), mask.shape)
                    axis.plot(across, down, "x", color="white", markersize=9, markeredgewidth=3)
                    axis.plot(across, down, "x", color="black", markersize=8, markeredgewidth=1.4)
            if row == 0:
                axis.set_title(name, fontsize=9, fontweight="normal")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        axes[row, 0].set_ylabel(row_titles[row], fontsize=9)
    headline(figure, title)
    return figure
