"""Pointwise intensity steps for a batch of grey images: whatever their number, one table look-up per image.

A step that turns every grey level into another is a table of 256 entries, and steps in a row are one table too.
Even what depends on the whole image (contrast, autocontrast, equalize) only needs its histogram, which the table
carries along; so no step touches pixels. Results are whole numbers at each step, as torchvision's on uint8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def change_intensity(images: Tensor, operations: np.ndarray, values: np.ndarray) -> Tensor:
    """Each image through its own row of steps, first to last.

    images: (batch, height, width) uint8. operations, values: see intensity_tables.
    Returns (batch, height, width) float32 in 0..1.
    """
    acting, tables = intensity_tables(lambda rows: _histograms(images[rows]), operations, values)
    result = images.float() / 255
    if len(acting):
        rows = torch.as_tensor(acting, device=images.device)
        levels = images[rows].flatten(1).long()  # (acting, pixels)
        result[rows] = (tables / 255).gather(1, levels).view(-1, *images.shape[1:])
    return result


def intensity_tables(
    histograms: Callable[[np.ndarray], Tensor], operations: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, Tensor]:
    """What becomes of each grey level in the images that change at all.

    histograms: gives (n, 256) pixels of each level for rows (n,) of the batch. operations: (batch, slots) names;
    those that are not in POINTWISE are passed over. values: (batch, slots): factor for brightness and contrast, bits
    kept for posterize (rounded), threshold 0..255 for solarize, unused for autocontrast and equalize.
    Returns the rows that change (n,), and their tables (n, 256) float32 of whole numbers 0..255.
    """
    acting = np.isin(operations, list(POINTWISE))  # (batch, slots)
    changed = np.flatnonzero(acting.any(axis=1))
    if not len(changed):
        return changed, torch.empty(0, 256)
    operations, values, acting = operations[changed], values[changed], acting[changed]
    histogram = histograms(changed)  # (n, 256)
    device = histogram.device
    table = torch.arange(256.0, device=device).repeat(len(changed), 1)
    for slot in range(acting.shape[1]):
        for name in np.unique(operations[acting[:, slot], slot]):
            chosen = np.flatnonzero(operations[:, slot] == name)
            rows = torch.as_tensor(chosen, device=device)
            value = torch.as_tensor(values[chosen, slot, None], dtype=torch.float32, device=device)  # (chosen, 1)
            table[rows] = POINTWISE[name](table[rows], value, histogram[rows])
    return changed, table


def _histograms(images: Tensor) -> Tensor:
    """(batch, 256) float32: pixels of each grey level."""
    levels = images.flatten(1).long()
    counts = torch.zeros(len(images), 256, device=images.device)
    return counts.scatter_add_(1, levels, torch.ones((), device=images.device).expand(levels.shape))


# Each step: (table (n, 256) of whole numbers 0..255, value (n, 1), histogram of the images (n, 256)) -> table


def _brightness(table: Tensor, factor: Tensor, histogram: Tensor) -> Tensor:
    return (table * factor).clamp(0, 255).floor()


def _contrast(table: Tensor, factor: Tensor, histogram: Tensor) -> Tensor:
    mean = (histogram * table).sum(1, keepdim=True) / histogram.sum(1, keepdim=True)
    return (table * factor + mean * (1 - factor)).clamp(0, 255).floor()


def _posterize(table: Tensor, bits: Tensor, histogram: Tensor) -> Tensor:
    step = 2 ** (8 - bits.round())
    return (table / step).floor() * step


def _solarize(table: Tensor, threshold: Tensor, histogram: Tensor) -> Tensor:
    return torch.where(table >= threshold, 255 - table, table)


def _autocontrast(table: Tensor, value: Tensor, histogram: Tensor) -> Tensor:
    low = torch.where(histogram > 0, table, 256).amin(1, keepdim=True)
    high = torch.where(histogram > 0, table, -1).amax(1, keepdim=True)
    stretched = ((table - low) * 255 / (high - low).clamp_min(1)).clamp(0, 255).floor()
    return torch.where(high > low, stretched, table)


def _equalize(table: Tensor, value: Tensor, histogram: Tensor) -> Tensor:
    """Pillow's rule: the brightest level does not count, and steps are whole numbers of pixels."""
    counts = torch.zeros_like(histogram).scatter_add_(1, table.long(), histogram)
    cumulative = counts.cumsum(1)
    brightest = cumulative.argmax(1, keepdim=True)  # the first place where the sum is complete
    step = ((counts.sum(1, keepdim=True) - counts.gather(1, brightest)) / 255).floor()
    below = cumulative - counts
    levels = ((below + (step / 2).floor()) / step.clamp_min(1)).floor().clamp(0, 255)
    return torch.where(step > 0, levels.gather(1, table.long()), table)


POINTWISE = {
    "brightness": _brightness,
    "contrast": _contrast,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
