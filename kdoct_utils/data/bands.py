"""Read one B-scan and crop it to the band that holds the retina.

A Spectralis frame is 496 rows high and the retina takes a quarter to a third of them; shrunk whole to 64 pixels,
a druse is smaller than a pixel. Small inputs therefore crop to the retina first, as Srinivasan et al.
(Biomed. Opt. Express 5:3568, 2014) and Rasti et al. (IEEE TMI 37:1024, 2018) did. Images are grey here:
uint8 arrays of shape (height, width), 0 black to 255 white.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps
from scipy import ndimage

FRAME_HEIGHT = 496  # rows of a Spectralis frame, 3.87 um each
BAND_ROWS = 300  # of them kept: 1.16 mm, room for a tilted or swollen retina
BAND_COLUMNS = 512  # columns kept of a frame of that height: 6 mm at 11.8 um
BAND_HEIGHT = BAND_ROWS / FRAME_HEIGHT  # as a fraction of the height of any frame

WHITE = 180  # registration borders are 255, a little less where JPEG rings and where their edge is slanted
GROWN = 4  # pixels that JPEG ringing and interpolation reach from a border into a Spectralis frame; fewer in lower ones
SMALLEST_SIDE = 16  # pixels; anything smaller is no B-scan
MOST_PIXELS = 2**24  # 34 times a Spectralis frame; anything larger is no B-scan, or is made to fill the memory
FEWEST_DEEP_LEVELS = 2**14  # of a 16-bit image; darker ones hold 10, 12 or 14 bits, and their upper 8 are near black

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")  # what is decoded; Pillow's others may start programs or need plugins
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # of Pillow, beside the 16-bit ones
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag, and its value in negatives
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"  # markers; neither occurs within compressed data
# What Pillow raises on damaged files, found by damaging many.
DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError,
    MemoryError, struct.error, Image.DecompressionBombError,
)  # fmt: skip


class ScanError(ValueError):
    """Scans that cannot be used as they are; the message names the file or row and what would be valid."""


@dataclass(frozen=True)
class StoredImage:
    """An image as it is stored. pixels: uint8 (height, width), or (height, width, 3) where it has color channels;
    format: "jpeg", "png", "tiff" or "bmp", told by the content whatever the file is called; "npz" for an array's.
    """

    pixels: np.ndarray
    format: str


def decode_image(content: bytes, name: str) -> StoredImage:
    """Decode the content of one image file. name: what messages call it.

    16-bit images keep their upper eight bits; a grey palette becomes grey; an image turned by its EXIF tag is turned
    upright, as viewers show it. An image that cannot be read never becomes a black one: ScanError, with the name, for
    one that is empty, cut off or damaged, holds several pictures, is partly transparent, is stored with 32 bits or in
    CMYK, or has too few or too many pixels for a B-scan.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ScanError(f"{name}: not read, since PIL.ImageFile.LOAD_TRUNCATED_IMAGES lets cut-off files pass")
    if not content:
        raise ScanError(f"{name}: cannot be read as an image (the file is empty)")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            fault = _fault(image, content)
            if fault is None:
                if image.format == "PNG":  # its decoder checks no sums, and goes on over lost blocks filled with zeros
                    Image.open(io.BytesIO(content), formats=FORMATS).verify()
                image.load()  # decoding happens here; a cut-off file fails here
                fault = _transparency(image)
            if fault is not None:
                raise ScanError(f"{name}: {fault}")
            ImageOps.exif_transpose(image, in_place=True)
            return StoredImage(_eight_bits(image, name), image.format.lower())
    except ScanError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ScanError(f"{name}: cannot be read as an image (none of {', '.join(FORMATS)})") from error
    except DAMAGE as error:
        raise ScanError(f"{name}: cannot be read as an image ({error})") from error


def _fault(image: Image.Image, content: bytes) -> str | None:
    """What an image's header says against it, before its pixels are decoded."""
    width, height = image.size
    pictures = getattr(image, "n_frames", 1)
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # I: PNG in Pillow < 11
    if min(width, height) < SMALLEST_SIDE:
        return f"{width} x {height} pixels are too few for a B-scan"
    if width * height > MOST_PIXELS:
        return f"{width} x {height} pixels are too many for a B-scan"
    if pictures > 1:
        return f"it holds {pictures} pictures; a B-scan is one: save each as a file of its own"
    if image.mode not in MODES and not deep:
        return f"it is stored as Pillow's {image.mode!r}; save it as grey or RGB with 8 bits, or as grey with 16"
    # Decoders make something of a file whose end was lost and filled with zeros: only its last marker tells.
    if image.format == "JPEG" and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        return "cannot be read as an image (the end of the JPEG is missing)"
    return None


def _transparency(image: Image.Image) -> str | None:
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        return "it is partly transparent, and what shows through is not told: save it without transparency"
    return None


def _eight_bits(image: Image.Image, name: str) -> np.ndarray:
    """uint8 (height, width) or (height, width, 3). image: in one of MODES or with 16 bits."""
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns it for 8 bits only
            deep = 65535 - deep
        if deep.max() < FEWEST_DEEP_LEVELS:
            raise ScanError(
                f"{name}: its 16 bits reach no more than {deep.max()} of 65535; if they hold 10, 12 or 14 bits, "
                "save it with 8"
            )
        return (deep >> 8).astype(np.uint8)
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGB"))
    if image.mode in ("P", "PA") and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0].copy()
    return pixels


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luminance (height, width) of a grey (height, width) or color (height, width, 3) uint8 image."""
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def read_image(path: str | Path) -> np.ndarray:
    """Read one image file as grey uint8, shape (height, width). Raises ScanError as decode_image does."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ScanError(f"{path}: no such file") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror})") from error
    return to_grey(decode_image(content, str(path)).pixels)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink or enlarge a (height, width) uint8 image to (size, size), with antialiasing (Lanczos)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def border_mask(image: np.ndarray) -> np.ndarray:
    """Find the white borders that registration leaves, as a boolean mask of the image's shape.

    Registration turns and shifts the frame, so what it leaves uncovered lies beyond a straight line; such a piece
    always holds a corner of the frame, and its depth changes slowly along each side. So: from each of the four
    sides, the run of white pixels inward; its running median, which ignores a bright retinal layer that touches
    the side; only runs joined without a gap to an end of that side; grown by GROWN pixels, in proportion to the
    height where it is less than a Spectralis frame's, and by at least one.
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
    grown = max(round(GROWN * min(len(image) / FRAME_HEIGHT, 1)), 1)
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


def fill_borders(image: np.ndarray) -> np.ndarray:
    """Replace white registration borders by the picture mirrored at their edge.

    A mirrored picture has the noise and the brightness of its neighborhood and no edge, so a border gives a network
    nothing to learn the class from. Pixels outside the borders stay as they are. Returns a new (height, width)
    uint8 array. Raises ScanError if the whole image is white.
    """
    return mirror_into(image, border_mask(image))


def mirror_into(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the pixels of a boolean mask by the picture mirrored at the mask's edge; both (height, width).

    Returns a new array. Raises ScanError if the mask covers the whole image.
    """
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
    """Crop a frame to its retina band (see find_band), white registration borders filled (see fill_borders).

    image: uint8 (height, width). Returns uint8 (round(height * 300 / 496), columns of the central 6 mm).
    """
    return cut_band(fill_borders(image))


def cut_band(filled: np.ndarray) -> np.ndarray:
    """The retina band of a frame without borders, such as frames.clean_frame gives: crop_to_band's second half."""
    top, bottom, left, right = _find_band(filled)
    return filled[top:bottom, left:right]
