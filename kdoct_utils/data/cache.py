"""What is made once of a dataset's images and kept: hashes of the files, pictures, measures and thumbnails.

Hashes are kept by place, name and stamp of a file: a file that did not change is not read again. All else is kept by
the content it was made of, so that it is found again wherever the files lie, and never taken for other files.
Nothing is trusted for being there: a cache file whose key, size or check sum is not what it must be is made anew.
All of it lies in archives.cache_root() and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from kdoct_utils.data.archives import cache_root
from kdoct_utils.data.frames import PICTURE_VERSION, clean_frame, make_picture, make_thumbnail, measures
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.sources import Source
from kdoct_utils.runs import RunError, atomic_path, read_json, write_json

HASH_VERSION = 1  # of the file of kept hashes
BATCH = 16  # files a thread takes at a time
FAULTS_NAMED = 5  # images in one message, beside the first
READ_BYTES = 1 << 22  # at a time, when a check sum is verified


# --- hashes ----------------------------------------------------------------------------------------------------------


def file_hashes(source: Source, names: Iterable[str], progress: bool = True) -> dict[str, str]:
    """SHA-256 of the content of each file of a source: kept ones for files with the same stamp, the others hashed now.

    A hashing that is stopped keeps what it has. Raises ScanError for a file that cannot be read.
    """
    names, stamps = list(dict.fromkeys(names)), source.files()
    path = cache_root() / "hashes" / f"{_short(source.identity())}.checked"
    kept = _read_hashes(path, source.identity())
    new = [name for name in names if name not in kept or kept[name][0] != stamps.get(name)]
    if new:
        batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
        try:
            with tqdm(total=len(new), desc="hashing", unit="file", disable=not progress) as bar:
                for some in in_parallel(lambda batch: {name: _sha256(source.read(name)) for name in batch}, batches):
                    kept |= {name: (stamps.get(name), digest) for name, digest in some.items()}
                    bar.update(len(some))
        finally:
            _write_hashes(path, source.identity(), kept)
    return {name: kept[name][1] for name in names}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(text: str) -> str:
    return _sha256(text.encode("utf-8", "surrogatepass"))[:32]


def _read_hashes(path: Path, identity: str) -> dict[str, tuple[str, str]]:
    """Name -> stamp and hash; nothing from a file that is missing, damaged, or of another place or version."""
    content = _read_checked(path)
    if content is None:
        return {}
    record = json.loads(content)
    if (record["version"], record["place"]) != (HASH_VERSION, identity):
        return {}
    return dict(zip(record["names"], zip(record["stamps"], record["hashes"], strict=True), strict=True))


def _write_hashes(path: Path, identity: str, known: dict[str, tuple[str, str]]) -> None:
    stamps, hashes = zip(*known.values(), strict=True) if known else ((), ())
    record = {
        "version": HASH_VERSION,
        "place": identity,
        "names": list(known),
        "stamps": stamps,
        "hashes": hashes,
    }
    _write_checked(path, json.dumps(record).encode("ascii"), "the hashes")


# --- pictures --------------------------------------------------------------------------------------------------------


def picture_key(hashes: Sequence[str], size: int, crop_to_band: bool) -> str:
    """Names the pictures of these files, in this order, at this size. hashes: SHA-256 of each file's content."""
    return _short(f"pictures {PICTURE_VERSION} {size} {bool(crop_to_band)} {len(hashes)} {''.join(hashes)}")


def open_pictures(key: str) -> np.ndarray | None:
    """The pictures kept under a key, a read-only memory map uint8 (n, size, size); None where there are none to trust.

    Trusted as written is a file with the size and time of change that its record gives; one with another time, such
    as a copy, after its check sum was verified.
    """
    path = _picture_path(key)
    try:
        record, status = read_json(path.with_suffix(".json")), path.stat()
        found = np.load(path, mmap_mode="r")
    except (RunError, OSError, ValueError, EOFError):
        return None
    facts = {"key": key, "shape": list(found.shape), "size": status.st_size}
    if found.dtype != np.uint8 or any(record.get(name) != value for name, value in facts.items()):
        return None
    if record.get("changed_ns") != status.st_mtime_ns:
        if _crc_of(path) != record.get("crc32"):
            return None
        with suppress(OSError):  # a cache that may only be read is verified every time
            write_json(path.with_suffix(".json"), record | {"changed_ns": status.st_mtime_ns})
    return found


def pictures(
    source: Source, paths: Sequence[str], hashes: Sequence[str], size: int, crop_to_band: bool, progress: bool = True
) -> np.ndarray:
    """The pictures of these files, in this order: from the cache, or decoded now and kept, in one pass with measures
    and thumbnails. A read-only memory map, uint8 (n, size, size).

    hashes: SHA-256 of each file's content; a file that holds something else by now is an error.
    Raises ScanError, naming the file, for an image that cannot be read or holds no retina, and where the cache
    folder has no room.
    """
    key = picture_key(hashes, size, crop_to_band)
    found = open_pictures(key)
    if found is not None:
        return found
    path = _picture_path(key)
    with writing("the pictures"), _lock(path):
        found = open_pictures(key)  # another process may have made them meanwhile
        if found is not None:
            return found
        for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):  # of a process that was killed
            left.unlink(missing_ok=True)
        _ask_for_room(path.parent, len(paths) * size * size)
        work = _Pass(source, paths, hashes, lambda cleaned: make_picture(cleaned, size, crop_to_band), progress)
        _write_pictures(path, key, (len(paths), size, size), work)
    found = open_pictures(key)
    if found is None:
        raise ScanError(f"{path} is not what was written to it: is the disk sound?")
    return found


def _picture_path(key: str) -> Path:
    return cache_root() / "pictures" / f"{key}.npy"


def _write_pictures(path: Path, key: str, shape: tuple[int, ...], work: _Pass) -> None:
    """Written batch by batch, not through a memory map: a full disk is an error there, and the end of the process
    here.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(header.getvalue())
        crc = zlib.crc32(header.getvalue())
        for batch in work.batches():
            file.write(batch)
            crc = zlib.crc32(batch, crc)
    status = path.stat()
    record = {"key": key, "shape": shape, "size": status.st_size, "changed_ns": status.st_mtime_ns, "crc32": crc}
    write_json(path.with_suffix(".json"), record)
    work.keep()


def _crc_of(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while content := file.read(READ_BYTES):
            crc = zlib.crc32(content, crc)
    return crc


# --- measures and thumbnails -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """table: one row an image, the columns of frames.measures; thumbnails: uint8 (n, 32, 32), of whole frames."""

    table: pd.DataFrame
    thumbnails: np.ndarray


def measured(source: Source, paths: Sequence[str], hashes: Sequence[str], progress: bool = True) -> Measured:
    """Measures and thumbnails of these files, in this order: from the cache, or decoded now and kept.

    Raises ScanError as ``pictures`` does.
    """
    path = _measured_path(hashes)
    found = _read_measured(path, len(paths))
    if found is not None:
        return found
    with writing("the measures"), _lock(path):
        found = _read_measured(path, len(paths))
        if found is not None:
            return found
        work = _Pass(source, paths, hashes, None, progress)
        for _ in work.batches():
            pass
        return work.keep()


def _measured_path(hashes: Sequence[str]) -> Path:
    key = _short(f"measures {PICTURE_VERSION} {len(hashes)} {''.join(hashes)}")
    return cache_root() / "measures" / f"{key}.checked"


def _read_measured(path: Path, n: int) -> Measured | None:
    content = _read_checked(path)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    thumbnails = columns.pop("thumbnails")
    table = pd.DataFrame({name: values.astype(object) if values.dtype.kind == "U" else values
                          for name, values in columns.items()})  # fmt: skip
    return Measured(table, thumbnails) if len(table) == len(thumbnails) == n else None


class _Pass:
    """One decoding of all files, in threads: pictures where they are asked for, measures and thumbnails where they
    are not kept yet.
    """

    def __init__(
        self, source: Source, paths: Sequence[str], hashes: Sequence[str],
        picture: Callable | None, progress: bool,
    ) -> None:  # fmt: skip
        self.source, self.paths, self.hashes, self.picture, self.progress = source, paths, hashes, picture, progress
        self.measures_path = _measured_path(hashes)
        self.kept = _read_measured(self.measures_path, len(paths)) if picture else None
        self.rows: list[dict] = []
        self.thumbnails: list[np.ndarray] = []

    def batches(self) -> Iterator[bytes]:
        """The pictures of some files at a time, row by row. Raises ScanError at the end if any file is at fault."""
        positions = [range(start, min(start + BATCH, len(self.paths))) for start in range(0, len(self.paths), BATCH)]
        faults: list[tuple[str, str]] = []
        what = "measuring" if self.picture is None else "images"
        with tqdm(total=len(self.paths), desc=what, unit="scan", disable=not self.progress) as bar:
            for made, wrong in in_parallel(self._decode_some, positions):
                faults += wrong
                self.rows += [row for row, _, _ in made]
                self.thumbnails += [thumbnail for _, thumbnail, _ in made]
                bar.update(len(made) + len(wrong))
                if self.picture is not None:
                    yield b"".join(picture for _, _, picture in made)
        if faults:
            message = faults[0][1]
            if len(faults) > 1:
                named = ", ".join(self.source.where(name) for name, _ in faults[1 : FAULTS_NAMED + 1])
                more = f" and {len(faults) - 1 - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED + 1 else ""
                message += f"\n{len(faults)} images cannot be used in all; the others: {named}{more}"
            raise ScanError(message)

    def _decode_some(self, positions: range) -> tuple[list[tuple], list[tuple[str, str]]]:
        made, faults = [], []
        for position in positions:
            try:
                made.append(self._decode(self.paths[position], self.hashes[position]))
            except ScanError as error:
                faults.append((self.paths[position], str(error)))
        return made, faults

    def _decode(self, name: str, expected: str) -> tuple[dict | None, np.ndarray | None, bytes]:
        content = self.source.read(name)
        if _sha256(content) != expected:
            raise ScanError(f"{self.source.where(name)}: has changed since its dataset was read; read it again")
        stored = self.source.decode(name, content)
        try:
            cleaned = clean_frame(stored.pixels)
            picture = b"" if self.picture is None else self.picture(cleaned).tobytes()
        except ScanError as error:
            raise ScanError(f"{self.source.where(name)}: {error}") from error
        if self.kept is not None:
            return None, None, picture
        return measures(stored, cleaned), make_thumbnail(cleaned), picture

    def keep(self) -> Measured:
        """What was measured, kept; call it when all batches are done."""
        if self.kept is not None:
            return self.kept
        columns = {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}
        content = io.BytesIO()
        np.savez(content, thumbnails=np.stack(self.thumbnails), **columns)
        _write_checked(self.measures_path, content.getvalue(), "the measures")
        return _read_measured(self.measures_path, len(self.paths))


# --- files -----------------------------------------------------------------------------------------------------------


def in_parallel(work: Callable, items: Sequence) -> Iterator:
    """work(item) of each, in order, done in threads. What waits is given up at the first error, or when the caller
    stops. Decoding, filtering and hashing release the interpreter's lock.
    """
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from threads.map(work, items)
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Errors of the disk as a ScanError that says where the cache lies and how to move it."""
    try:
        yield
    except OSError as error:
        raise ScanError(
            f"{what} cannot be kept in {cache_root()} ({error.strerror or error}); set the environment variable "
            "KDOCT_CACHE to a folder with room that you may write to"
        ) from error


def _ask_for_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ScanError(
            f"the pictures need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; set the "
            "environment variable KDOCT_CACHE to a folder with more room"
        )


def _lock(path: Path) -> FileLock:
    """Held while a file is made, so that two processes do not make it both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def _write_checked(path: Path, content: bytes, what: str) -> None:
    """A check sum and the content, in one file."""
    with writing(what), atomic_path(path) as temporary:
        temporary.write_bytes(f"{zlib.crc32(content):08x}\n".encode() + content)


def _read_checked(path: Path) -> bytes | None:
    """The content that _write_checked wrote; None where the file is missing or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    return stored[9:] if stored[:9] == f"{zlib.crc32(stored[9:]):08x}\n".encode() else None
