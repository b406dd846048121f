"""Read one B-scan and crop it to the band that holds the retina.

A Spectralis frame is 496 rows high and the retina takes a quarter to a third of them; shrunk whole to 64 pixels,
a druse is smaller than a pixel. Small inputs therefore crop to the retina first, as Srinivasan et al.
(Biomed. Opt. Express 5:3568, 2014) and Rasti et al. (IEEE TMI 37:1024, 2018) did. Images are grey here:
uint8 arrays of shape (height, width), 0 black to 255 white.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from scipy import ndimage

FRAME_HEIGHT = 496  # rows of a Spectralis frame, 3.87 um each
BAND_ROWS = 300  # of them kept: 1.16 mm, room for a tilted or swollen retina
BAND_COLUMNS = 512  # columns kept of a frame of that height: 6 mm at 11.8 um
BAND_HEIGHT = BAND_ROWS / FRAME_HEIGHT  # as a fraction of the height of any frame

WHITE = 180  # registration borders are 255, a little less where JPEG rings and where their edge is slanted
GROWN = 4  # pixels that JPEG ringing and interpolation reach from a border into the picture
GREY_MODES = ("1", "L", "LA", "I", "F")  # of Pillow
SMALLEST_SIDE = 16  # pixels; anything smaller is no B-scan


class ScanError(ValueError):
    """Scans that cannot be used as they are; the message names the file or row and what would be valid."""


def decode_image(file: BinaryIO | str | Path, name: str) -> np.ndarray:
    """Decode one image as stored: uint8, (height, width), or (height, width, 3) where it is in color.

    16-bit images keep their upper eight bits. name: what messages call it.
    Raises ScanError, with the name, if it is missing, truncated, not an image or too small to be a B-scan.
    An image that cannot be read never becomes a black one.
    """
    try:
        with Image.open(file) as image:
            image.load()  # decoding happens here; a truncated file fails here
            if image.mode.startswith("I;16"):
                pixels = np.asarray(image) >> 8
            else:
                pixels = np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    except FileNotFoundError as error:
        raise ScanError(f"{name}: no such file") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ScanError(f"{name}: cannot be read as an image ({error})") from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise ScanError(f"{name}: {pixels.shape[1]} x {pixels.shape[0]} pixels are too few for a B-scan")
    return pixels.astype(np.uint8)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luminance (height, width) of a grey (height, width) or color (height, width, 3) uint8 image."""
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def read_image(path: str | Path) -> np.ndarray:
    """Read one image file as grey uint8, shape (height, width). Raises ScanError as decode_image does."""
    return to_grey(decode_image(path, str(path)))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink or enlarge a (height, width) uint8 image to (size, size), with antialiasing (Lanczos)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def border_mask(image: np.ndarray) -> np.ndarray:
    """Find the white borders that registration leaves, as a boolean mask of the image's shape.

    Registration turns and shifts the frame, so what it leaves uncovered lies beyond a straight line; such a piece
    always holds a corner of the frame, and its depth changes slowly along each side. So: from each of the four
    sides, the run of white pixels inward; its running median, which ignores a bright retinal layer that touches
    the side; only runs joined without a gap to an end of that side; grown by GROWN pixels.
    """
    white = image >= WHITE
    mask = np.zeros_like(white)
    # Views of the same memory in which each side in turn is the top.
    for side, part in ((white, mask), (white[::-1], mask[::-1]), (white.T, mask.T), (white.T[::-1], mask.T[::-1])):
        depth = _border_depth(side)
        part |= np.arange(len(side))[:, None] < depth[None, :]
    if not mask.any():
        return mask
    return ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=GROWN)


def _border_depth(white: np.ndarray) -> np.ndarray:
    """Depth in pixels (width,) of the white border at the top of a boolean image (height, width)."""
    height, width = white.shape
    run = np.where(white.all(axis=0), height, np.argmin(white, axis=0))
    run = ndimage.median_filter(run, size=width // 16 * 2 + 1, mode="nearest")
    gaps = np.flatnonzero(run == 0)
    if gaps.size:
        run[gaps[0] : gaps[-1] + 1] = 0  # what lies between the first and the last gap touches no corner
    return run


def fill_borders(image: np.ndarray) -> np.ndarray:
    """Replace white registration borders by the picture mirrored at their edge.

    A mirrored picture has the noise and the brightness of its neighborhood and no edge, so a border gives a network
    nothing to learn the class from. Pixels outside the borders stay as they are. Returns a new (height, width)
    uint8 array. Raises ScanError if the whole image is white.
    """
    mask = border_mask(image)
    if not mask.any():
        return image.copy()
    if mask.all():
        raise ScanError("the image is white all over")
    filled = image.copy()
    rows, columns = np.nonzero(mask)
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    edge_rows, edge_columns = nearest[0][mask], nearest[1][mask]
    source_rows = np.clip(2 * edge_rows - rows, 0, image.shape[0] - 1)
    source_columns = np.clip(2 * edge_columns - columns, 0, image.shape[1] - 1)
    # A mirror image may itself fall into another border: take the nearest picture pixel there.
    filled[mask] = image[nearest[0][source_rows, source_columns], nearest[1][source_rows, source_columns]]
    return filled


def find_band(image: np.ndarray) -> tuple[int, int, int, int]:
    """Find the retina band of a frame: (top, bottom, left, right), half open, in pixels.

    image: uint8 (height, width), with or without white registration borders.
    Columns: the central 6 mm, that is min(width, height * 512 / 496), twice as many in high-resolution frames
    (wider than twice their height), whose columns lie half as far apart.
    Rows: BAND_HEIGHT of the height, placed so that they hold the most retina; where many positions hold it whole,
    the middle one, as far as the frame allows. Raises ScanError if the image is flat or white all over.
    """
    return _find_band(fill_borders(image))


def _find_band(filled: np.ndarray) -> tuple[int, int, int, int]:
    height, width = filled.shape
    density = 2 if width > 2 * height else 1
    kept = min(width, round(density * height * BAND_COLUMNS / FRAME_HEIGHT))
    left = (width - kept) // 2
    rows = round(height * BAND_HEIGHT)
    signal = _retina_per_row(filled[:, left : left + kept])
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
    """Crop a frame to its retina band (see find_band), white registration borders filled (see fill_borders).

    image: uint8 (height, width). Returns uint8 (round(height * 300 / 496), columns of the central 6 mm).
    """
    filled = fill_borders(image)
    top, bottom, left, right = _find_band(filled)
    return filled[top:bottom, left:right]
