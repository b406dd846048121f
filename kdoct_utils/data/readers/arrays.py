"""Images that lie in the arrays of one npz file, read one at a time."""

from __future__ import annotations

import io
import math
import os
import threading
from pathlib import Path

import numpy as np

from kdoct_utils.data.archives import Archive
from kdoct_utils.data.images import SMALLEST_SIDE, ScanError, StoredImage
from kdoct_utils.data.sources import Source

HEADER_BYTES = 4096  # more than the header of any plain array
READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArraySource(Source):
    """The images in some arrays of an npz file; image 17 of part "train" is called ``train/17``.

    No array is ever in memory whole: one that is stored plainly is memory-mapped where it lies; one that is
    compressed is unpacked to the cache folder when its first image is read (see archives), and mapped there.
    Several threads may read at once.

    archive: the npz file, which is a zip archive. arrays: part -> name of its array, such as "train_images".
    checked: the file is known to be whole; else a plainly stored array is checked by its CRC before it is used.
    Raises ScanError for an array that is missing, damaged, or not uint8 of shape (n, side, side).
    """

    def __init__(self, path: Path, archive: Archive, arrays: dict[str, str], checked: bool = False) -> None:
        status = os.stat(path)
        self._stamp = f"{status.st_size}-{status.st_mtime_ns}"
        self._archive, self._checked = archive, checked
        self._entries = {part: array_entry(archive, name) for part, name in arrays.items()}
        self.shapes = {part: self._shape(entry) for part, entry in self._entries.items()}  # part -> (n, side, side)
        self._maps: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def _shape(self, entry: str) -> tuple[int, ...]:
        shape, _, dtype, _ = array_header(self._archive, entry)
        if dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2] or shape[1] < SMALLEST_SIDE or not shape[0]:
            raise ScanError(
                f"{self._archive.where(entry)}: {dtype} of shape {shape}; expected square pictures: uint8 of shape "
                f"(n, side, side), at least one, side {SMALLEST_SIDE} or more"
            )
        return shape

    def files(self) -> dict[str, str]:
        names = (f"{part}/{number}" for part, shape in self.shapes.items() for number in range(shape[0]))
        return dict.fromkeys(sorted(names), self._stamp)

    def read(self, name: str) -> bytes:
        """The pixels of one picture, row by row."""
        part, _, number = name.partition("/")
        if part not in self.shapes or not number.isdecimal() or int(number) >= self.shapes[part][0]:
            raise ScanError(f"{self.where(name)}: no such picture")
        return self._map(part)[int(number)].tobytes()

    def decode(self, name: str, content: bytes) -> StoredImage:
        side = self.shapes[name.partition("/")[0]][1]
        return StoredImage(np.frombuffer(content, np.uint8).reshape(side, side), "npz")

    def where(self, name: str) -> str:
        part, _, number = name.partition("/")
        if part not in self._entries:
            return f"{self._archive.name}, {name}" if name else self._archive.name
        return f"{self._archive.where(self._entries[part])}, picture {number}"

    def _map(self, part: str) -> np.ndarray:
        with self._lock:
            if part not in self._maps:
                entry = self._entries[part]
                shape, column_major, dtype, length = array_header(self._archive, entry)
                path, start = self._archive.on_disk(entry, check=not self._checked)
                order = "F" if column_major else "C"
                self._maps[part] = np.memmap(path, dtype, "r", offset=start + length, shape=shape, order=order)
            return self._maps[part]


def array_entry(archive: Archive, name: str) -> str:
    """The archive's entry of an array. Raises ScanError, naming the arrays that are there, if it is not."""
    entry = f"{name}.npy"
    if entry not in archive.entries():
        found = sorted(found.removesuffix(".npy") for found in archive.entries())
        raise ScanError(f"{archive.name}: no array {name}; arrays found: {', '.join(found) or 'none'}")
    return entry


def array_header(archive: Archive, entry: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, type, and length in bytes of an array's header; the data follow it.

    Raises ScanError for what is no array, holds Python objects, or is longer or shorter than its header says.
    """
    start = io.BytesIO(archive.read(entry, HEADER_BYTES))
    try:
        shape, column_major, dtype = READ_HEADER[np.lib.format.read_magic(start)](start)
    except (ValueError, KeyError) as error:
        raise ScanError(f"{archive.where(entry)}: cannot be read as an array ({error})") from error
    if dtype.hasobject:
        raise ScanError(f"{archive.where(entry)}: holds Python objects, not numbers")
    length, size = start.tell(), archive.size(entry)
    if length + math.prod(shape) * dtype.itemsize != size:
        raise ScanError(f"{archive.where(entry)}: {size} bytes do not hold {dtype} of shape {shape}")
    return shape, column_major, dtype, length


def read_array(archive: Archive, entry: str) -> np.ndarray:
    """A small array, whole. Raises ScanError as array_header does."""
    array_header(archive, entry)
    return np.lib.format.read_array(io.BytesIO(archive.read(entry)), allow_pickle=False)
