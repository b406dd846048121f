"""From a frame to the picture a network sees, with numpy alone: training, runtime and board share this one file.

White borders are filled, the retina's band is cut out (as by Srinivasan et al., Biomed. Opt. Express 5:3568, 2014), its
pixels are averaged. Frames are uint8, (H, W) in grey or (H, W, 3) in color.
"""
import numpy as np

FRAME_ROWS, BAND_ROWS, BAND_COLUMNS = 496, 300, 512  # of a Spectralis frame: kept are 1.16 mm of depth, 6 mm of width
DEEPER, FLAT, WHITE, GROWN = 20, 8, 180, 4  # rows from the retina's middle to all tissue's; levels; reach of ringing
SIDES = (lambda a: a, lambda a: a[::-1], lambda a: a.T, lambda a: a.T[::-1])  # views: each side is the top once


def to_picture(frame: np.ndarray, size: int, crop: bool = True, clean: bool = False) -> np.ndarray:
    """uint8 (size, size): the band of a frame, or its whole. clean: grey, no borders. ValueError: flat or white."""
    filled = frame if clean else fill_borders(to_grey(frame))[0]
    top, bottom, left, right = find_band(filled) if crop else (0, len(filled), 0, filled.shape[1])
    return resize(filled[top:bottom, left:right], size, size)


def to_grey(frame: np.ndarray) -> np.ndarray:  # luminance (H, W), in Pillow's whole numbers
    return frame if frame.ndim == 2 else (frame @ np.array([19595, 38470, 7471]) + 32768 >> 16).astype(np.uint8)


def fill_borders(grey: np.ndarray, hidden: np.ndarray | bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The frame with white borders mirrored at their edge, and the mask of what was filled; both (H, W).

    A border holds a corner: from each side the white run inward, its running median (no bright layer that touches the
    side), and of it only what no gap parts from a corner. hidden: pixels that count as white."""
    white, mask, filled = (grey >= WHITE) | hidden, np.zeros(grey.shape, bool), grey.copy()
    grown = max(round(GROWN * min(len(grey) / FRAME_ROWS, 1)), 1)
    for top in SIDES if not white.all() else ():
        if top(white)[0].any():
            run = np.where(top(white).all(axis=0), len(top(white)), top(white).argmin(axis=0))
            run = np.median(around(run, len(run) // 16), axis=1).astype(int)
            gaps = np.flatnonzero(run == 0)
            run[min(gaps, default=0) : max(gaps, default=-1) + 1] = 0
            run = around(run, grown).max(axis=1)
            top(mask)[:] |= np.arange(len(top(mask)))[:, None] < np.where(run > 0, run + grown, 0)
    nearest = np.full(grey.shape, grey.size)  # pixels to the mask's edge, along the row or column
    for top in SIDES if mask.any() else ():
        rows, last = np.arange(len(top(mask)))[:, None], len(top(mask)) - 1
        edge = np.minimum.accumulate(np.where(top(mask), grey.size, rows)[::-1])[::-1]
        mirror = np.clip(2 * edge - rows, 0, last)
        mirror = np.where(np.take_along_axis(top(mask), mirror, 0), np.minimum(edge, last), mirror)
        near = top(mask) & (edge - rows < top(nearest)) & (edge <= last)
        top(filled)[near], top(nearest)[near] = np.take_along_axis(top(grey), mirror, 0)[near], (edge - rows)[near]
    if np.ptp(filled) < FLAT or white.all():
        raise ValueError(f"the image is flat or white, about {grey.max()} of 255: there is no retina in it")
    return filled, mask


def find_band(filled: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a frame without borders: its central 6 mm, its BAND_ROWS with most bright tissue."""
    (height, width), scale = filled.shape, len(filled) / FRAME_ROWS
    wide, tall = min(width, round((2 if width > 2 * height else 1) * scale * BAND_COLUMNS)), round(scale * BAND_ROWS)
    left, step = (width - wide) // 2, max(int(4 * scale), 1)  # rows and columns that are averaged: less speckle
    coarse = resize(filled[:, left : left + wide], -(-height // step), -(-wide // step)).astype(float)
    tissue = np.clip(coarse - coarse.mean() - coarse.std(), 0, None).sum(axis=1)
    tissue[[0, -1]] = 0  # where a frame was shrunk, a border thinner than a pixel is a bright row, but not white
    held = np.convolve(np.repeat(tissue, step)[:height], np.ones(tall))  # in each position, within the frame or not
    best = np.flatnonzero(held >= held.max() * (1 - 1e-3)) - tall + 1
    top = int(np.clip(round(best.mean() - DEEPER * scale), 0, height - tall))
    return top, top + tall, left, left + wide


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (height, width): exact area averages where (H, W) shrinks, linear in between where it grows."""
    return np.floor(overlaps(len(image), height) @ image @ overlaps(image.shape[1], width).T + 0.5).astype(np.uint8)


def overlaps(old: int, new: int) -> np.ndarray:
    """(new, old) weights: how much of each old pixel lies in a box around each new one, at least one old pixel wide."""
    middle, half = (np.arange(new)[:, None] + 0.5) * old / new, max(old / new, 1) / 2
    ends = np.maximum(middle - half, np.arange(old)), np.minimum(middle + half, np.arange(1, old + 1))
    return (shared := np.clip(ends[1] - ends[0], 0, None)) / shared.sum(axis=1, keepdims=True)


def around(values: np.ndarray, by: int) -> np.ndarray:
    """(n, 2 * by + 1): each value with its neighbors, the ends repeated."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, by, mode="edge"), 2 * by + 1)
