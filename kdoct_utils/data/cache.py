"""What is made once of a dataset's images and kept: hashes of the files, pictures, measures and thumbnails.

Hashes are kept by place, name and stamp of a file: a file that did not change is not read again. All else is kept by
the content it was made of, so that it is found again wherever the files lie, and never taken for other files.
Nothing is trusted for being there: a cache file whose check sum is not what it must be is made anew.
All of it lies in files.cache_root() and may be deleted at any time.
joblib.Memory would hold all pictures in memory at once (16 GB for UCSD at 384 px), and trust what it finds on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from kdoct_utils.data.files import Source, cache_root, crc_of
from kdoct_utils.data.frames import PICTURE_VERSION, clean_frame, make_picture, make_thumbnail, measures
from kdoct_utils.data.images import ScanError
from kdoct_utils.runs import atomic_path

FAULTS_NAMED = 5  # images in one message, beside the first
CRC_BYTES = 8  # a check sum in hexadecimal digits, at the end of each file


# --- hashes ----------------------------------------------------------------------------------------------------------


def file_hashes(source: Source, names: Iterable[str], progress: bool = True) -> dict[str, str]:
    """SHA-256 of the content of each file of a source: kept ones for files with the same stamp, the others hashed now.

    A hashing that is stopped keeps what it has. Raises ScanError for a file that cannot be read.
    """
    stamps = source.files()
    keys = {name: f"{name} {stamps.get(name)}" for name in names}
    path = cache_root() / "hashes" / f"{_sha256(os.path.abspath(source.root))}.json"
    kept = json.loads(path.read_bytes()[:-CRC_BYTES]) if _is_whole(path) else {}  # key -> hash
    new = [name for name, key in keys.items() if key not in kept]
    if new:
        hashed = _in_threads(lambda name: _sha256(source.read(name)), new)
        bar = tqdm(hashed, "hashing", len(new), unit="file", disable=not progress)
        try:
            for name, digest in zip(new, bar, strict=True):
                kept[keys[name]] = digest
        finally:
            _write(path, [json.dumps(kept).encode("ascii")], "the hashes")
    return {name: kept[key] for name, key in keys.items()}


def _sha256(content: bytes | str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()


# --- pictures --------------------------------------------------------------------------------------------------------


def picture_key(hashes: Sequence[str], size: int, crop_to_band: bool) -> str:
    """Names the pictures of these files, in this order, at this size. hashes: SHA-256 of each file's content."""
    return _sha256(f"pictures {PICTURE_VERSION} {size} {bool(crop_to_band)} {len(hashes)} {''.join(hashes)}")[:32]


def open_pictures(key: str) -> np.ndarray | None:
    """The pictures kept under a key, a read-only memory map uint8 (n, size, size); None where there are none that
    are as they were written."""
    path = cache_root() / "pictures" / f"{key}.npy"
    return np.load(path, mmap_mode="r") if _is_whole(path) else None


def pictures(
    source: Source, paths: Sequence[str], hashes: Sequence[str], size: int, crop_to_band: bool, progress: bool = True
) -> np.ndarray:
    """The pictures of these files, in this order: from the cache, or decoded now and kept, in one pass with measures
    and thumbnails. A read-only memory map, uint8 (n, size, size).

    hashes: SHA-256 of each file's content; a file that holds something else by now is an error.
    Raises ScanError, naming the file, for an image that cannot be read or holds no retina, and where the cache
    folder has no room.
    """
    key, shape = picture_key(hashes, size, crop_to_band), (len(paths), size, size)
    path = cache_root() / "pictures" / f"{key}.npy"

    def make() -> None:
        free = shutil.disk_usage(path.parent).free
        if free < np.prod(shape):
            raise ScanError(
                f"the pictures need {np.prod(shape) / 1e9:.1f} GB in {path.parent}, where {free / 1e9:.1f} GB are "
                "free; set the environment variable KDOCT_CACHE to a folder with more room"
            )
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        picture = partial(make_picture, size=size, crop_to_band=crop_to_band)
        decoded = _decode_all(source, paths, hashes, progress, picture)
        # Picture by picture, not through a memory map: a full disk is an error there, and the end of the process here.
        _write(path, chain([header.getvalue()], decoded), "the pictures")

    _keep(path, "the pictures", make)
    return np.load(path, mmap_mode="r")


# --- measures and thumbnails -----------------------------------------------------------------------------------------


def measured(
    source: Source, paths: Sequence[str], hashes: Sequence[str], progress: bool = True
) -> tuple[pd.DataFrame, np.ndarray]:
    """Measures (one row an image, the columns of frames.measures) and thumbnails (uint8 (n, 32, 32), of whole frames)
    of these files, in this order: from the cache, or decoded now and kept. Raises ScanError as ``pictures`` does.
    """
    path = _measures_path(hashes)
    _keep(path, "the measures", lambda: deque(_decode_all(source, paths, hashes, progress), maxlen=0))
    with np.load(path, allow_pickle=False) as arrays:
        columns = dict(arrays)
    thumbnails = columns.pop("thumbnails")
    return pd.DataFrame(columns), thumbnails


def _measures_path(hashes: Sequence[str]) -> Path:
    return cache_root() / "measures" / f"{_sha256(f'{PICTURE_VERSION} {len(hashes)} ' + ''.join(hashes))[:32]}.npz"


def _decode_all(
    source: Source, paths: Sequence[str], hashes: Sequence[str], progress: bool, picture: Callable | None = None
) -> Iterator[bytes]:
    """Decode every file once, in threads: its picture comes out, if asked for; measures and thumbnails are kept.

    Raises ScanError at the end if any file is at fault, naming all that are.
    """

    def decode(name: str, expected: str) -> tuple[dict, np.ndarray, bytes] | ScanError:
        try:
            content = source.read(name)
            if _sha256(content) != expected:
                raise ScanError("has changed since its dataset was read; read it again")
            stored = source.decode(name, content)
            cleaned = clean_frame(stored.pixels)
            return measures(stored, cleaned), make_thumbnail(cleaned), picture(cleaned).tobytes() if picture else b""
        except ScanError as error:
            where = source.where(name)
            return error if str(error).startswith(where) else ScanError(f"{where}: {error}")

    rows, thumbnails, faults = [], [], {}
    decoded = _in_threads(decode, paths, hashes)
    bar = tqdm(decoded, "images" if picture else "measuring", len(paths), unit="scan", disable=not progress)
    for name, made in zip(paths, bar, strict=True):
        if isinstance(made, ScanError):
            faults[name] = made
            continue
        rows.append(made[0])
        thumbnails.append(made[1])
        yield made[2]
    if faults:
        (_, first), *others = faults.items()
        named = ", ".join(source.where(name) for name, _ in others[:FAULTS_NAMED])
        more = f" and {len(others) - FAULTS_NAMED} more" if len(others) > FAULTS_NAMED else ""
        all_of_them = f"\n{len(faults)} images cannot be used in all; the others: {named}{more}" if others else ""
        raise ScanError(f"{first}{all_of_them}")
    content = io.BytesIO()
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    np.savez(content, thumbnails=np.stack(thumbnails), **columns)
    _write(_measures_path(hashes), [content.getvalue()], "the measures")


# --- files -----------------------------------------------------------------------------------------------------------


def _in_threads(work: Callable, *items: Sequence) -> Iterator:
    """work(...) of each, in order, done in threads. What waits is given up at the first error, or when the caller
    stops. Decoding, filtering and hashing release the interpreter's lock.
    """
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from threads.map(work, *items)
    finally:
        threads.shutdown(cancel_futures=True)


def _keep(path: Path, what: str, make: Callable) -> None:
    """``make`` the file where it is not whole. One process makes, the others wait."""
    if _is_whole(path):
        return
    with _writing(what):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if _is_whole(path):
                return  # another process has made it meanwhile
            for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):  # of a process that was killed
                left.unlink(missing_ok=True)
            make()
            if not _is_whole(path):
                raise ScanError(f"{path} is not what was written to it: is the disk sound?")


def _write(path: Path, chunks: Iterable[bytes], what: str) -> None:
    """The chunks in one file, and at its end their check sum, which the file's name goes into too."""
    crc = zlib.crc32(path.name.encode())
    with _writing(what), atomic_path(path) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            crc = zlib.crc32(chunk, crc)
        file.write(f"{crc:0{CRC_BYTES}x}".encode())


def _is_whole(path: Path) -> bool:
    """Whether a file is there and as ``_write`` left it."""
    try:
        length = path.stat().st_size - CRC_BYTES
        crc = crc_of(path, zlib.crc32(path.name.encode()), length)
        with path.open("rb") as file:
            file.seek(max(length, 0))
            return file.read() == f"{crc:0{CRC_BYTES}x}".encode()
    except OSError:
        return False


@contextmanager
def _writing(what: str) -> Iterator[None]:
    """Errors of the disk as a ScanError that says where the cache lies and how to move it."""
    try:
        yield
    except OSError as error:
        raise ScanError(
            f"{what} cannot be kept in {cache_root()} ({error.strerror or error}); set the environment variable "
            "KDOCT_CACHE to a folder with room that you may write to"
        ) from error
