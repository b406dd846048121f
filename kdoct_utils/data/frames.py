"""Clean one frame of what does not belong to the eye, crop it to the retina, and make the picture a network sees.

Three things in the public datasets differ between classes and say nothing of the eye, so a network can learn them in
place of the disease: the colored scale bar of NEH, its small pictures on a black canvas, and the white borders that
registration left in UCSD. Each is found by a rule that is written down where it is applied.

A Spectralis frame is 496 rows high and the retina takes a quarter to a third of them; shrunk whole to 64 pixels,
a druse is smaller than a pixel. Small inputs therefore crop to the band of the retina first, as Srinivasan et al.
(Biomed. Opt. Express 5:3568, 2014) and Rasti et al. (IEEE TMI 37:1024, 2018) did.
Frames are uint8 arrays, (height, width), or (height, width, 3) where they are stored in color.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from kdoct_utils.data.images import SMALLEST_SIDE, ScanError, StoredImage, resize, to_grey

PICTURE_VERSION = 1  # raise it by one when pictures, measures or thumbnails come out otherwise: caches are made anew
THUMBNAIL = 32  # pixels; side of the small whole frames in which near-identical scans are sought
FLAT = 8  # levels between darkest and brightest; the lowest contrast of a real frame is some 100

COLOR = 16  # difference between color channels, of 255; JPEG leaves grey areas without any
BAR_EXTENT = 0.2  # of width and of height, at most; NEH's bar takes 0.07 and 0.04
JPEG_BLOCK = 8  # pixels; as far as JPEG changes what lies beside an edge

BLACK = 4  # of 255; a canvas is 0, and JPEG keeps it so beyond the blocks at the picture's edge
CANVAS_MARGIN = 0.1  # of width and of height that must be canvas
LIT = 0.25  # share of the most lit row (or column) that a row of the picture reaches, dark vitreous and all

WHITE = 180  # registration borders are 255, a little less where JPEG rings and where their edge is slanted
BORDER_GROWN = 4  # pixels that ringing and interpolation reach from a border into a Spectralis frame; fewer in lower

FRAME_HEIGHT = 496  # rows of a Spectralis frame, 3.87 um each
BAND_ROWS = 300  # of them kept: 1.16 mm, room for a tilted or swollen retina
BAND_COLUMNS = 512  # columns kept of a frame of that height: 6 mm at 11.8 um
BAND_HEIGHT = BAND_ROWS / FRAME_HEIGHT  # as a fraction of the height of any frame

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

    A frame without any of the three comes back as it is, in grey. See find_scale_bar, find_canvas and border_mask
    for the rules. Raises ScanError for a frame that is black, white or flat.
    """
    grey = to_grey(pixels)
    if int(grey.max()) - int(grey.min()) < FLAT:
        white = "white all over" if grey.min() > 255 - FLAT else f"flat, all of its pixels are about {grey.max()}"
        raise ScanError(f"the image is {white}: there is no retina in it")
    bar, box = np.zeros(grey.shape, bool), find_scale_bar(pixels)
    if box is not None:
        bar[_within(box)] = True
    canvas = find_canvas(np.where(bar, 0, grey))  # a bar that lies beside the picture does not widen it
    if canvas is not None:
        grey, bar = grey[_within(canvas)], bar[_within(canvas)]
    border = border_mask(grey)
    if bar.any():
        box = _to_near_sides(_bounds(bar), bar.shape)
        bar[_within(box)] = True
        # What lies under a bar is not known. It counts as white here, lest it make a gap in a border.
        border = border_mask(np.where(bar, 255, grey)) & ~bar
        beyond = border.copy()
        beyond[_within(_grown(box, bar.shape))] = False
        border &= beyond.any()
    filled = fill_borders(grey, border | bar)
    kept = grey[~(border | bar)]
    if int(filled.max()) - int(filled.min()) < FLAT:
        raise ScanError("the image is flat: there is no retina in it")
    return Cleaned(filled, float(border.mean()), box is not None, canvas is not None, float(kept.mean()))


def find_scale_bar(pixels: np.ndarray) -> Box | None:
    """The box that holds a colored scale bar, with the pixels that JPEG changed around it; None where there is none.

    The rule: pixels whose channels differ by more than COLOR, all within a box of at most BAR_EXTENT of the width and
    of the height; that box, grown by JPEG_BLOCK. A frame that is colored more widely is in false colors.
    """
    if pixels.ndim == 2:
        return None
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    colored = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue) > COLOR
    if not colored.any():
        return None
    box, (height, width) = _bounds(colored), colored.shape
    too_large = box[1] - box[0] > BAR_EXTENT * height or box[3] - box[2] > BAR_EXTENT * width
    return None if too_large else _grown(box, colored.shape)


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
    box = _bounds(np.outer(rows >= LIT * rows.max(), columns >= LIT * columns.max()))
    high, wide = box[1] - box[0], box[3] - box[2]
    limit_high, limit_wide = (1 - CANVAS_MARGIN) * image.shape[0], (1 - CANVAS_MARGIN) * image.shape[1]
    if high > limit_high or wide > limit_wide or min(high, wide) < SMALLEST_SIDE:
        return None
    lit[_within(_grown(box, lit.shape))] = False
    return None if lit.any() else box


def border_mask(image: np.ndarray) -> np.ndarray:
    """Find the white borders that registration leaves, as a boolean mask of the image's shape, (height, width).

    What registration leaves uncovered lies beyond a straight line and holds a corner of the frame. So: from each of
    the four sides, the run of white pixels inward; its running median, which ignores a bright retinal layer that
    touches the side; only runs joined without a gap to an end of that side; grown by BORDER_GROWN pixels.
    """
    white = image >= WHITE
    mask = np.zeros_like(white)
    # Views of the same memory in which each side in turn is the top.
    for side, part in ((white, mask), (white[::-1], mask[::-1]), (white.T, mask.T), (white.T[::-1], mask.T[::-1])):
        depth = _border_depth(side)
        if depth.any():
            part |= np.arange(len(side))[:, None] < depth[None, :]
    if not mask.any():
        return mask
    grown = max(round(BORDER_GROWN * min(len(image) / FRAME_HEIGHT, 1)), 1)
    return ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=grown)


def _border_depth(white: np.ndarray) -> np.ndarray:
    """Depth in pixels (width,) of the white border at the top of a boolean image (height, width)."""
    height, width = white.shape
    if not white[0].any():  # as in most frames
        return np.zeros(width, int)
    run = np.where(white.all(axis=0), height, np.argmin(white, axis=0))
    run = ndimage.median_filter(run, size=width // 16 * 2 + 1, mode="nearest")
    gaps = np.flatnonzero(run == 0)
    if gaps.size:
        run[gaps[0] : gaps[-1] + 1] = 0  # what lies between the first and the last gap touches no corner
    return run


def fill_borders(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Replace white registration borders by the picture mirrored at their edge: a new uint8 (height, width).

    mask: replace these pixels, boolean (height, width); None for border_mask's.
    Raises ScanError if the whole image is white.
    """
    mask = border_mask(image) if mask is None else mask
    if not mask.any():
        return image.copy()
    if mask.all():
        raise ScanError("the image is white all over")
    filled = image.copy()
    rows, columns = np.nonzero(mask)
    # The nearest pixel outside the mask is at most one pixel outside its box: no need to look at the whole frame.
    top, left = max(rows.min() - 1, 0), max(columns.min() - 1, 0)
    box = mask[top : rows.max() + 2, left : columns.max() + 2]
    nearest = ndimage.distance_transform_edt(box, return_distances=False, return_indices=True)
    nearest += np.array([top, left])[:, None, None]
    edge_rows, edge_columns = nearest[0][box], nearest[1][box]
    source_rows = np.clip(2 * edge_rows - rows, 0, image.shape[0] - 1)
    source_columns = np.clip(2 * edge_columns - columns, 0, image.shape[1] - 1)
    # A mirror image may itself fall into the mask again: take the nearest picture pixel there.
    again = mask[source_rows, source_columns]
    at = source_rows[again] - top, source_columns[again] - left
    source_rows[again], source_columns[again] = nearest[0][at], nearest[1][at]
    filled[mask] = image[source_rows, source_columns]
    return filled


def find_band(image: np.ndarray) -> Box:
    """Find the band of a frame, uint8 (height, width), that holds the retina.

    Columns: the central 6 mm, that is min(width, height * 512 / 496), twice as many in high-resolution frames
    (wider than twice their height), whose columns lie half as far apart.
    Rows: BAND_HEIGHT of the height, placed so that they hold the most retina; where many positions hold it whole,
    the middle one, as far as the frame allows. Raises ScanError if the image is flat or white all over.
    """
    return _band_of(fill_borders(image))


def _band_of(filled: np.ndarray) -> Box:
    """find_band of a frame without white borders."""
    height, width = filled.shape
    density = 2 if width > 2 * height else 1
    kept = min(width, round(density * height * BAND_COLUMNS / FRAME_HEIGHT))
    left = (width - kept) // 2
    rows = round(height * BAND_HEIGHT)
    signal = _retina_per_row(filled[:, left : left + kept])
    signal[[0, -1]] = 0  # where a frame was shrunk, a white border thinner than a pixel is a bright row, but not white
    # Retina in each position, also those that hang over the frame, so that a retina near its end is centered too.
    held = np.convolve(signal, np.ones(rows), mode="full")  # (height + rows - 1,); entry k has its top at k - rows + 1
    best = np.flatnonzero(held >= held.max() * (1 - 1e-3)) - rows + 1
    top = int(np.clip(round(best.mean()), 0, height - rows))
    return top, top + rows, left, left + kept


def _retina_per_row(image: np.ndarray) -> np.ndarray:
    """How much bright tissue each row holds, shape (height,): smoothed brightness above mean + standard deviation.

    Background fills most of a frame, so that threshold lies between vitreous and retina at any gain.
    """
    if image.min() == image.max():
        raise ScanError("the image is flat: there is no retina in it")
    height = image.shape[0]
    smooth = ndimage.gaussian_filter(image.astype(np.float32), sigma=(height / 250, height / 125))
    return np.clip(smooth - (smooth.mean() + smooth.std()), 0, None).sum(axis=1)


def crop_to_band(image: np.ndarray) -> np.ndarray:
    """The band of a frame (see find_band), its white borders filled: uint8 (band height, band width)."""
    filled = fill_borders(image)
    return filled[_within(_band_of(filled))]


def make_picture(cleaned: Cleaned, size: int, crop_to_band: bool) -> np.ndarray:
    """What a network sees of a frame: uint8 (size, size), of the retina band or of the whole frame."""
    return resize(cleaned.grey[_within(_band_of(cleaned.grey))] if crop_to_band else cleaned.grey, size)


def make_thumbnail(cleaned: Cleaned) -> np.ndarray:
    """The whole frame shrunk to uint8 (THUMBNAIL, THUMBNAIL)."""
    return resize(cleaned.grey, THUMBNAIL)


def measures(stored: StoredImage, cleaned: Cleaned) -> dict:
    """What could betray the class without the eye, of one image; see ScanSet.measured for the columns."""
    height, width = stored.pixels.shape[:2]
    found = {"format": stored.format, "color": stored.pixels.ndim == 3, "width": width, "height": height}
    return found | {name: getattr(cleaned, name) for name in ("border", "scale_bar", "canvas", "brightness")}


# --- boxes -----------------------------------------------------------------------------------------------------------


def _within(box: Box) -> tuple[slice, slice]:
    return slice(box[0], box[1]), slice(box[2], box[3])


def _bounds(mask: np.ndarray) -> Box:
    """The smallest box around all that is marked."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _grown(box: Box, shape: tuple[int, int]) -> Box:
    """The box and JPEG_BLOCK pixels around it, as far as the frame reaches."""
    (top, bottom, left, right), by = box, JPEG_BLOCK
    return max(top - by, 0), min(bottom + by, shape[0]), max(left - by, 0), min(right + by, shape[1])


def _to_near_sides(box: Box, shape: tuple[int, int]) -> Box:
    """The box, made to reach the sides of the frame that are nearer than it is thick: a strip that narrow between
    box and side would be mirrored over and over.
    """
    (top, bottom, left, right), (height, width) = box, shape
    thick = min(bottom - top, right - left)
    top, bottom = 0 if top < thick else top, height if height - bottom < thick else bottom
    left, right = 0 if left < thick else left, width if width - right < thick else right
    return top, bottom, left, right
