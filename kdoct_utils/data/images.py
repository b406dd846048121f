"""Read one B-scan from a file: its pixels as stored, or a ScanError that names the file; never a damaged image.

Images are uint8 arrays, 0 black to 255 white: (height, width), or (height, width, 3) where they are stored in color.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")  # what is decoded; Pillow's others may start programs or need plugins
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # of Pillow, beside the 16-bit ones
SMALLEST_SIDE = 16  # pixels; anything smaller is no B-scan
MOST_PIXELS = 2**24  # 34 times a Spectralis frame; anything larger is no B-scan, or is made to fill the memory
FEWEST_DEEP_LEVELS = 2**14  # of a 16-bit image; darker ones hold 10, 12 or 14 bits, and their upper 8 are near black
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag, and its value in negatives, which Pillow turns for 8 bits only
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"  # markers; neither occurs within compressed data


class ScanError(ValueError):
    """Scans that cannot be used as they are; the message names the file or row and what would be valid."""


@dataclass(frozen=True)
class StoredImage:
    """An image as it is stored. format: "jpeg", "png", "tiff" or "bmp", told by the content whatever the file is
    called; "npz" for an array's.
    """

    pixels: np.ndarray
    format: str


def read_image(path: str | Path) -> np.ndarray:
    """The pixels of one image file as they are stored, uint8. Raises ScanError as decode_image does."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(content, str(path)).pixels


def decode_image(content: bytes, name: str) -> StoredImage:
    """Decode the content of one image file. name: what messages call it.

    16-bit images keep their upper eight bits; an image turned by its EXIF tag is turned upright, as viewers show it.
    Raises ScanError, with the name, for an image that is empty, cut off or damaged, holds several pictures, is partly
    transparent, a negative of 16 bits, stored with 32 bits or in CMYK, or has too few or too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_header(image, content)
            if image.format == "PNG":  # its decoder checks no sums, and goes on over lost blocks filled with zeros
                Image.open(io.BytesIO(content), formats=FORMATS).verify()
            image.load()  # decoding happens here; a cut-off file fails here
            ImageOps.exif_transpose(image, in_place=True)
            return StoredImage(_eight_bits(image), image.format.lower())
    except ScanError as error:
        raise ScanError(f"{name}: {error}") from error
    except Exception as error:  # on damaged files Pillow raises almost anything
        reason = f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        reason = reason if content else "the file is empty"
        raise ScanError(f"{name}: cannot be read as an image ({reason})") from error


def _check_header(image: Image.Image, content: bytes) -> None:
    """Raise a ScanError for what can be said against an image before its pixels are decoded."""
    width, height = image.size
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # I: PNG in Pillow < 11
    if min(width, height) < SMALLEST_SIDE:
        raise ScanError(f"{width} x {height} pixels are too few for a B-scan")
    if width * height > MOST_PIXELS:
        raise ScanError(f"{width} x {height} pixels are too many for a B-scan")
    if getattr(image, "n_frames", 1) > 1:
        raise ScanError(f"it holds {image.n_frames} pictures; a B-scan is one: save each as a file of its own")
    if image.mode not in MODES and not deep:
        raise ScanError(f"it is stored as Pillow's {image.mode!r}; save it as grey or RGB with 8 bits")
    # Decoders make something of a file whose end was lost and filled with zeros: only its last marker tells.
    if image.format == "JPEG" and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        raise ScanError("cannot be read as an image (the end of the JPEG is missing)")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 (height, width) or (height, width, 3). image: decoded, in one of MODES or with 16 bits."""
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
            raise ScanError("it is a negative with 16 bits (white is zero); save it with black as zero")
        if deep.max() < FEWEST_DEEP_LEVELS:
            raise ScanError(f"its 16 bits reach no more than {deep.max()} of 65535; save it with 8")
        return (deep >> 8).astype(np.uint8)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise ScanError("it is partly transparent, and what shows through is not told: save it without transparency")
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB"))
