"""What is made once of a dataset's images and kept: hashes of the files, pictures, measures and thumbnails.

Hashes are kept by place, name and stamp of a file: a file that did not change is not read again. All else is kept by
the content it was made of, so that it is found again wherever the files lie, and never taken for other files.
All of it lies in files.cache_root() and may be deleted at any time.
joblib.Memory would hold all pictures in memory at once (16 GB for UCSD at 384 px).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from kdoct_utils.data.band import resize, to_picture
from kdoct_utils.data.files import Source, cache_root
from kdoct_utils.data.frames import clean_frame
from kdoct_utils.data.images import ScanError
from kdoct_utils.runs import atomic_path

PICTURE_VERSION = 2  # raise it by one when pictures, measures or thumbnails come out otherwise: all are made anew
THUMBNAIL = 32  # pixels; side of the small whole frames in which near-identical scans are sought
FAULTS_NAMED = 5  # images in one message


def file_hashes(source: Source, names: Iterable[str], progress: bool = True) -> dict[str, str]:
    """SHA-256 of the content of each file of a source: kept ones for files with the same stamp, the others hashed now.

    Raises ScanError for a file that cannot be read.
    """
    stamps = source.files()
    keys = {name: f"{name} {stamps.get(name)}" for name in names}
    path = cache_root() / "file_hashes" / f"{_sha256(os.path.abspath(source.root))}.json"
    kept = json.loads(path.read_bytes()) if path.is_file() else {}  # key -> hash
    new = [name for name, key in keys.items() if key not in kept]
    if new:
        hashed = _in_threads(lambda name: _sha256(source.read(name)), new)
        bar = tqdm(hashed, "hashing", len(new), unit="file", disable=not progress)
        kept |= {keys[name]: digest for name, digest in zip(new, bar, strict=True)}
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(kept), encoding="ascii")
        except OSError as error:
            raise _no_room("the hashes", error) from error
    return {name: kept[key] for name, key in keys.items()}


def _sha256(content: bytes | str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()


def picture_key(hashes: Sequence[str], size: int, crop_to_band: bool) -> str:
    """Names the pictures of these files, in this order, at this size. hashes: SHA-256 of each file's content."""
    return _sha256(f"pictures {PICTURE_VERSION} {size} {bool(crop_to_band)} {len(hashes)} {''.join(hashes)}")[:32]


def open_pictures(key: str) -> np.ndarray | None:
    """The pictures kept under a key, a read-only memory map uint8 (n, size, size); None where there are none."""
    path = cache_root() / "pictures" / f"{key}.npy"
    return np.load(path, mmap_mode="r") if path.is_file() else None


def pictures(
    source: Source, paths: Sequence[str], hashes: Sequence[str], size: int, crop_to_band: bool, progress: bool = True
) -> np.ndarray:
    """The pictures of these files, in this order: from the cache, or decoded now and kept, in one pass with measures
    and thumbnails. A read-only memory map, uint8 (n, size, size).

    hashes: SHA-256 of each file's content; a file that holds something else by now is an error.
    Raises ScanError, naming the file, for an image that cannot be read or holds no retina, and where the cache
    folder has no room.
    """
    path = cache_root() / "pictures" / f"{picture_key(hashes, size, crop_to_band)}.npy"

    def make() -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size)}
        picture = partial(to_picture, size=size, crop=crop_to_band, clean=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            # Picture by picture, not through a memory map: a full disk is an error here, and a crash there.
            file.writelines(_decode_all(source, paths, hashes, progress, picture))

    _keep(path, "the pictures", make)
    return np.load(path, mmap_mode="r")


def measured(
    source: Source, paths: Sequence[str], hashes: Sequence[str], progress: bool = True
) -> tuple[pd.DataFrame, np.ndarray]:
    """Measures (one row an image; columns: ScanSet.measured) and thumbnails (uint8 (n, 32, 32), of whole frames) of
    these files, in this order: from the cache, or decoded now and kept. Raises ScanError as ``pictures`` does.
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

    Raises ScanError at the end if any file is at fault, and says how many are.
    """

    def decode(name: str, expected: str) -> tuple[dict, np.ndarray, bytes] | ScanError:
        try:
            content = source.read(name)
            if _sha256(content) != expected:
                raise ScanError("has changed since its dataset was read; read it again")
            stored = source.decode(name, content)
            grey, found = clean_frame(stored.pixels)
            height, width = stored.pixels.shape[:2]
            found |= {"format": stored.format, "color": stored.pixels.ndim == 3, "width": width, "height": height}
            return found, resize(grey, THUMBNAIL, THUMBNAIL), picture(grey).tobytes() if picture else b""
        except ScanError as error:
            where = source.where(name)
            return error if str(error).startswith(where) else ScanError(f"{where}: {error}")

    rows, thumbnails, faults = [], [], []
    decoded = _in_threads(decode, paths, hashes)
    for made in tqdm(decoded, "images" if picture else "measuring", len(paths), unit="scan", disable=not progress):
        if isinstance(made, ScanError):
            faults.append(str(made))
            continue
        rows.append(made[0])
        thumbnails.append(made[1])
        yield made[2]
    if faults:
        more = f"\n{len(faults)} images cannot be used in all" if len(faults) > 1 else ""
        raise ScanError("\n".join(faults[:FAULTS_NAMED]) + more)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    with atomic_path(_measures_path(hashes)) as temporary:
        np.savez(temporary, thumbnails=np.stack(thumbnails), **columns)


def _in_threads(work: Callable, *items: Sequence) -> Iterator:
    """work(...) of each, in order, done in threads; what waits is given up when the caller stops."""
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from threads.map(work, *items)
    finally:
        threads.shutdown(cancel_futures=True)


def _keep(path: Path, what: str, make: Callable) -> None:
    """``make`` the file where it is not there. One process makes, the others wait."""
    if path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):  # of a process that was killed
                left.unlink(missing_ok=True)
            if not path.is_file():  # or another process has made it meanwhile
                make()
    except OSError as error:
        raise _no_room(what, error) from error


def _no_room(what: str, error: OSError) -> ScanError:
    return ScanError(
        f"{what} cannot be kept in {cache_root()} ({error.strerror or error}); set the environment variable "
        "KDOCT_CACHE to a folder with room that you may write to"
    )
