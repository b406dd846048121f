"""Clean one frame of what does not belong to the eye, measure what was found, and make the picture a network sees.

Three things in the public datasets differ between classes and say nothing of the eye, so a network can learn them in
place of the disease: the colored scale bar of NEH, its small pictures on a black canvas, and the white borders that
registration left in UCSD. Each is found by a rule that is written down where it is applied.
Frames are uint8 arrays, (height, width), or (height, width, 3) where they are stored in color.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdoct_utils.data.bands import (
    SMALLEST_SIDE,
    ScanError,
    StoredImage,
    border_mask,
    cut_band,
    mirror_into,
    resize,
    to_grey,
)

PICTURE_VERSION = 1  # raise it by one when pictures, measures or thumbnails come out otherwise: caches are made anew
THUMBNAIL = 32  # pixels; side of the small whole frames in which near-identical scans are sought

COLOR = 16  # difference between color channels, of 255; JPEG leaves grey areas without any
BAR_EXTENT = 0.2  # of width and of height, at most; NEH's bar takes 0.07 and 0.04
BAR_GROWN = 8  # pixels; a JPEG block, as far as the bar's edge rings

BLACK = 4  # of 255; a canvas is 0, and JPEG keeps it so beyond the blocks at the picture's edge
CANVAS_MARGIN = 0.1  # of width and of height that must be canvas
LIT = 0.25  # share of the most lit row (or column) that a row of the picture reaches, dark vitreous and all
JPEG_BLOCK = 8  # pixels

FLAT = 8  # levels between darkest and brightest; the lowest contrast of a real frame is some 100

Box = tuple[int, int, int, int]  # top, bottom, left, right; half open, in pixels


@dataclass(frozen=True)
class Cleaned:
    """A frame without what is not the eye, and what was found.

    grey: uint8 (height, width). border: share of the frame's pixels that was white registration border, 0 to 1.
    scale_bar, canvas: whether there was one. brightness: mean level of the pixels that were kept as stored, 0 to 255.
    """

    grey: np.ndarray
    border: float
    scale_bar: bool
    canvas: bool
    brightness: float


def clean_frame(pixels: np.ndarray) -> Cleaned:
    """Take out a scale bar, cut the picture out of a black canvas, fill white registration borders; in this order.

    A frame without any of the three comes back as it is, in grey. See find_scale_bar, find_canvas and
    bands.border_mask for the rules. Raises ScanError for a frame that is black, white or flat.
    """
    grey = to_grey(pixels)
    if int(grey.max()) - int(grey.min()) < FLAT:
        white = "white all over" if grey.min() > 255 - FLAT else f"flat, all of its pixels are about {grey.max()}"
        raise ScanError(f"the image is {white}: there is no retina in it")
    bar = np.zeros(grey.shape, bool)
    box = find_scale_bar(pixels)
    if box is not None:
        bar[box[0] : box[1], box[2] : box[3]] = True
    picture = find_canvas(np.where(bar, 0, grey))  # a bar that lies beside the picture does not widen it
    if picture is not None:
        top, bottom, left, right = picture
        grey, bar = grey[top:bottom, left:right], bar[top:bottom, left:right]
    bar = _reach_sides(bar)
    border = border_mask(grey)
    if bar.any():
        # What lies under a bar is not known. It counts as white here, lest it make a gap in a border.
        bridged = border_mask(np.where(bar, 255, grey))
        border = bridged & ~bar if (bridged & ~_grown(bar)).any() else np.zeros_like(bar)
    filled = mirror_into(grey, border | bar)
    kept = grey[~(border | bar)]
    if int(filled.max()) - int(filled.min()) < FLAT:
        raise ScanError("the image is flat: there is no retina in it")
    return Cleaned(filled, float(border.mean()), box is not None, picture is not None, float(kept.mean()))


def find_scale_bar(pixels: np.ndarray) -> Box | None:
    """The box that holds a colored scale bar, with the pixels that JPEG changed around it; None where there is none.

    The rule: pixels whose channels differ by more than COLOR, all within a box of at most BAR_EXTENT of the width and
    of the height; that box, grown by BAR_GROWN pixels. A frame that is colored more widely holds no bar: it is in
    false colors, and its luminance is used. A frame stored in grey holds none that could be told from tissue.
    """
    if pixels.ndim == 2:
        return None
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    colored = highest - lowest > COLOR
    if not colored.any():
        return None
    box = _bounds(colored.any(axis=1), colored.any(axis=0))
    height, width = colored.shape
    if box[1] - box[0] > BAR_EXTENT * height or box[3] - box[2] > BAR_EXTENT * width:
        return None
    return (
        max(box[0] - BAR_GROWN, 0), min(box[1] + BAR_GROWN, height),
        max(box[2] - BAR_GROWN, 0), min(box[3] + BAR_GROWN, width),
    )  # fmt: skip


def remove_scale_bar(pixels: np.ndarray) -> np.ndarray:
    """The frame in grey (height, width), a colored scale bar replaced by the picture mirrored at its box."""
    grey, box = to_grey(pixels), find_scale_bar(pixels)
    if box is None:
        return grey
    mask = np.zeros(grey.shape, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mirror_into(grey, _reach_sides(mask))


def _reach_sides(mask: np.ndarray) -> np.ndarray:
    """A mask's box, made to reach the sides of the frame that are nearer than it is thick.

    A strip that narrow between box and side would be mirrored over and over.
    """
    if not mask.any():
        return mask
    height, width = mask.shape
    top, bottom, left, right = _bounds(mask.any(axis=1), mask.any(axis=0))
    thick = min(bottom - top, right - left)
    wider = np.zeros_like(mask)
    wider[
        0 if top < thick else top : height if height - bottom < thick else bottom,
        0 if left < thick else left : width if width - right < thick else right,
    ] = True
    return wider


def _grown(mask: np.ndarray) -> np.ndarray:
    top, bottom, left, right = _bounds(mask.any(axis=1), mask.any(axis=0))
    wider = np.zeros_like(mask)
    wider[max(top - BAR_GROWN, 0) : bottom + BAR_GROWN, max(left - BAR_GROWN, 0) : right + BAR_GROWN] = True
    return wider


def _bounds(rows: np.ndarray, columns: np.ndarray) -> Box:
    """From the first to the last row and column that are marked, half open."""
    marked_rows, marked_columns = np.flatnonzero(rows), np.flatnonzero(columns)
    return int(marked_rows[0]), int(marked_rows[-1]) + 1, int(marked_columns[0]), int(marked_columns[-1]) + 1


def find_canvas(image: np.ndarray) -> Box | None:
    """The rectangle of a small picture on a black canvas; None for an ordinary frame. image: grey (height, width).

    The rule: a pixel above BLACK is lit; the picture reaches from the first to the last row, and column, with at
    least LIT times as many lit pixels as the fullest one. It lies on a canvas if the rows beside it are at least
    CANVAS_MARGIN of the height, and the columns beside it as much of the width, and nothing but what JPEG leaves at
    its edge is lit there. Both are asked, since some scanners leave black rows above a retina, but no black columns
    beside it: a retina runs from side to side.
    """
    lit = image > BLACK
    rows, columns = lit.mean(axis=1), lit.mean(axis=0)
    if not rows.max():
        return None
    top, bottom, left, right = _bounds(rows >= LIT * rows.max(), columns >= LIT * columns.max())
    height, width = image.shape
    if (bottom - top) > (1 - CANVAS_MARGIN) * height or (right - left) > (1 - CANVAS_MARGIN) * width:
        return None
    if min(bottom - top, right - left) < SMALLEST_SIDE:
        return None
    beside = lit.copy()
    beside[max(top - JPEG_BLOCK, 0) : bottom + JPEG_BLOCK, max(left - JPEG_BLOCK, 0) : right + JPEG_BLOCK] = False
    return None if beside.any() else (top, bottom, left, right)


def trim_canvas(image: np.ndarray) -> np.ndarray:
    """A small picture on a black canvas, cut out; any other frame as it is. image: grey (height, width)."""
    picture = find_canvas(image)
    return image if picture is None else image[picture[0] : picture[1], picture[2] : picture[3]]


def make_picture(cleaned: Cleaned, size: int, crop_to_band: bool) -> np.ndarray:
    """What a network sees of a frame: uint8 (size, size), of the retina band or of the whole frame."""
    return resize(cut_band(cleaned.grey) if crop_to_band else cleaned.grey, size)


def make_thumbnail(cleaned: Cleaned) -> np.ndarray:
    """The whole frame shrunk to uint8 (THUMBNAIL, THUMBNAIL)."""
    return resize(cleaned.grey, THUMBNAIL)


def measures(stored: StoredImage, cleaned: Cleaned) -> dict:
    """What could betray the class without the eye, of one image; see ScanSet.measured for the columns."""
    height, width = stored.pixels.shape[:2]
    return {
        "format": stored.format,
        "color": stored.pixels.ndim == 3,
        "width": width,
        "height": height,
        "border": cleaned.border,
        "scale_bar": cleaned.scale_bar,
        "canvas": cleaned.canvas,
        "brightness": cleaned.brightness,
    }
