"""What publishers left in their frames, and the eye did not make: taken out before the picture is made.

NEH's colored scale bar and its small pictures on a black canvas differ between classes, so a network can learn them in
place of the disease; as it can UCSD's white borders, which `band` fills. Each is found by a rule.
"""

from __future__ import annotations

import numpy as np

from kdoct_utils.data.band import FLAT, fill_borders, to_grey
from kdoct_utils.data.images import SMALLEST_SIDE, ScanError

COLOR = 16  # difference between color channels, of 255; JPEG leaves grey areas without any
BAR_EXTENT = 0.2  # of width and of height, at most; NEH's bar takes 0.07 and 0.04
JPEG_BLOCK = 8  # pixels; as far as JPEG changes what lies beside an edge
BLACK = 4  # of 255; a canvas is 0, and JPEG keeps it so beyond the blocks at the picture's edge
CANVAS_MARGIN = 0.1  # of width and of height that must be canvas
LIT = 0.25  # share of the most lit row (or column) that a row of the picture reaches, dark vitreous and all

Box = tuple[int, int, int, int]  # top, bottom, left, right; half open, in pixels


def clean_frame(pixels: np.ndarray) -> tuple[np.ndarray, dict]:
    """The frame in grey without scale bar, canvas and borders, and what was found: border (share of the frame's
    pixels), scale_bar, canvas (whether there was one), brightness (mean level of what was kept as stored).

    A frame without any of the three comes back as it is. Raises ScanError for a frame that is black, white or flat.
    """
    grey = to_grey(pixels)
    hidden, bar = np.zeros(grey.shape, bool), find_scale_bar(pixels)
    if bar is not None:
        hidden[_within(bar)] = True
    canvas = find_canvas(np.where(hidden, 0, grey))  # a bar that lies beside the picture does not widen it
    if canvas is not None:
        grey, hidden = grey[_within(canvas)], hidden[_within(canvas)]
    try:
        filled, border = fill_borders(grey)
        if border.any() and hidden.any():  # what a bar hides may be border: it makes no gap in one
            filled, border = fill_borders(grey, hidden)
    except ValueError as error:
        raise ScanError(str(error)) from error
    if hidden.any():
        top, bottom, left, right = _box(hidden)
        edge = top if top > len(grey) - bottom else bottom  # of the side that has more picture
        filled[top:bottom, left:right] = filled[2 * edge - 1 - np.arange(top, bottom), left:right]
    kept = grey[~(border | hidden)]
    if not kept.size or np.ptp(filled) < FLAT:
        raise ScanError("the image is flat: there is no retina in it")
    found = {"border": float((border & ~hidden).mean()), "scale_bar": bar is not None, "canvas": canvas is not None}
    return filled, found | {"brightness": float(kept.mean())}


def find_scale_bar(pixels: np.ndarray) -> Box | None:
    """The box that holds a colored scale bar, with the pixels that JPEG changed around it; None where there is none.

    The rule: pixels whose channels differ by more than COLOR, all within a box of at most BAR_EXTENT of the width and
    of the height; that box, grown by JPEG_BLOCK. A frame that is colored more widely is in false colors.
    """
    if pixels.ndim == 2 or not (colored := np.ptp(pixels, axis=2) > COLOR).any():
        return None
    box = _box(colored)
    return _grown(box) if (_extent(box) <= BAR_EXTENT * np.array(colored.shape)).all() else None


def find_canvas(image: np.ndarray) -> Box | None:
    """The rectangle of a small picture on a black canvas; None for an ordinary frame. image: grey (height, width).

    The rule: a pixel above BLACK is lit; the picture reaches from the first to the last row, and column, with at
    least LIT times as many lit pixels as the fullest one. It lies on a canvas if CANVAS_MARGIN of the height and of
    the width or more lie beside it, and nothing but what JPEG leaves at its edge is lit there.
    """
    lit = image > BLACK
    rows, columns = lit.mean(axis=1), lit.mean(axis=0)
    if not rows.max():
        return None
    box = _box(np.outer(rows >= LIT * rows.max(), columns >= LIT * columns.max()))
    extent = _extent(box)
    if (extent > (1 - CANVAS_MARGIN) * np.array(image.shape)).any() or extent.min() < SMALLEST_SIDE:
        return None
    lit[_within(_grown(box))] = False
    return None if lit.any() else box


def _box(mask: np.ndarray) -> Box:
    """The smallest box around all that is marked."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _within(box: Box) -> tuple[slice, slice]:
    return slice(box[0], box[1]), slice(box[2], box[3])


def _extent(box: Box) -> np.ndarray:
    return np.array([box[1] - box[0], box[3] - box[2]])


def _grown(box: Box) -> Box:
    """The box and JPEG_BLOCK pixels around it; a slice ends at the frame by itself."""
    top, bottom, left, right = box
    return max(top - JPEG_BLOCK, 0), bottom + JPEG_BLOCK, max(left - JPEG_BLOCK, 0), right + JPEG_BLOCK
