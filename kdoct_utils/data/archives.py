"""Zip archives, also one within another, read without unpacking by hand.

A file that is to be read in jumps, such as an archive or an array in another archive, is read where it lies if it is
stored there plainly. If it was compressed, each jump would decompress it anew: it is unpacked once, to the cache
folder, and checked by size and CRC whenever it is opened.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import platformdirs
from tqdm.auto import tqdm

from kdoct_utils.data.images import ScanError
from kdoct_utils.runs import atomic_path

CHUNK = 1 << 20  # bytes copied or checked at a time
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field; 30 bytes before an entry's data
ENCRYPTED = 0x1  # bit of ZipInfo.flag_bits
# What zipfile and its decompressors raise for archives that are damaged, or packed in a way they do not know.
FAULTS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error,
    OSError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def is_archive(name: str) -> bool:
    """Whether a file name is that of a zip archive."""
    return name.lower().endswith(".zip")


class Archive:
    """An open zip archive. Several threads may read at once.

    name: what messages call it. stamp: changes when the outermost file does.
    Raises ScanError, naming archive and entry, for what is damaged or encrypted.
    """

    def __init__(self, file: BinaryIO, name: str, stamp: str, path: Path, start: int) -> None:
        self.name, self._stamp = name, stamp
        self._file, self._path, self._start = file, path, start  # where it begins in the file on disk
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(file)
        except FAULTS as error:
            raise ScanError(
                f"{name}: cannot be read as a zip archive ({error}); was the download cut short?"
            ) from error
        # Some packers write backslashes. Of entries with one name the last counts, as in unpacking.
        self._infos = {info.filename.replace("\\", "/"): info for info in self._zip.infolist() if not info.is_dir()}
        for entry, info in self._infos.items():
            if info.flag_bits & ENCRYPTED:
                raise ScanError(f"{self.where(entry)}: is encrypted; unpack {name} with its password first")

    @classmethod
    def open(cls, path: Path) -> Archive:
        """The archive in a file."""
        try:
            status = os.stat(path)
            return cls(open(path, "rb"), str(path), f"{status.st_size}-{status.st_mtime_ns}", path, 0)
        except OSError as error:
            raise ScanError(f"{path}: cannot be read ({error.strerror})") from error

    def entries(self) -> list[str]:
        """Names of all files in it, with forward slashes."""
        return list(self._infos)

    def stamp(self, entry: str) -> str:
        """Size and CRC of a file in it."""
        return f"{self._infos[entry].file_size}-{self._infos[entry].CRC:08x}"

    def size(self, entry: str) -> int:
        """Bytes of a file in it, unpacked."""
        return self._infos[entry].file_size

    def where(self, entry: str) -> str:
        """What messages call a file in it."""
        return f"{self.name} > {entry}"

    def read(self, entry: str, most: int = -1) -> bytes:
        """The content of a file in it, checked by its CRC; or ``most`` bytes of its beginning, not checked."""
        try:
            with self._lock, self._zip.open(self._infos[entry]) as file:
                return file.read(most)
        except FAULTS as error:
            raise self._damaged(entry, error) from error

    def on_disk(self, entry: str, check: bool = True) -> tuple[Path, int]:
        """A file on disk, and the place in it at which the content of an entry begins.

        That is the archive's own file where the entry is stored plainly, and a file in the cache folder if not.
        check: compare the content of a plainly stored entry with its CRC; what is in the cache always is.
        """
        info = self._infos[entry]
        if info.compress_type != zipfile.ZIP_STORED:
            return self._unpacked(entry), 0
        try:
            with self._lock:
                self._file.seek(info.header_offset)
                signature, *lengths = LOCAL_HEADER.unpack(self._file.read(LOCAL_HEADER.size))
        except FAULTS as error:
            raise self._damaged(entry, error) from error
        if signature != zipfile.stringFileHeader:
            raise self._damaged(entry, "no entry where the directory says")
        start = self._start + info.header_offset + LOCAL_HEADER.size + sum(lengths)
        if check and _crc(self._path, start, info.file_size) != info.CRC:
            raise self._damaged(entry, "its CRC is another")
        return self._path, start

    def open_inside(self, entry: str) -> Archive:
        """An archive that is a file in this one."""
        path, start = self.on_disk(entry, check=False)  # its own entries have CRCs too
        if path != self._path:
            return Archive(open(path, "rb"), self.where(entry), self._stamp_of(entry), path, 0)
        inside = io.BufferedReader(_Stretch(path, start, self.size(entry)))
        return Archive(inside, self.where(entry), self._stamp_of(entry), path, start)

    def _stamp_of(self, entry: str) -> str:
        return f"{self._stamp} {entry} {self.stamp(entry)}"

    def _damaged(self, entry: str, error: object) -> ScanError:
        return ScanError(f"{self.where(entry)}: cannot be read from the archive ({error})")

    def _unpacked(self, entry: str) -> Path:
        """An entry as a file of its own in the cache folder; what lies there counts only if size and CRC agree."""
        key = hashlib.sha256(self._stamp_of(entry).encode()).hexdigest()[:20]
        info, path = self._infos[entry], cache_root() / "archives" / f"{key}{Path(entry).suffix}"
        if path.is_file() and path.stat().st_size == info.file_size and _crc(path, 0, info.file_size) == info.CRC:
            return path
        bar = tqdm(total=info.file_size, desc=f"unpacking {Path(entry).name}", unit="B", unit_scale=True)
        try:
            with bar, atomic_path(path) as temporary, temporary.open("wb") as file, self._zip.open(info) as packed:
                while chunk := packed.read(CHUNK):  # the last read raises if the CRC is not the entry's
                    file.write(chunk)
                    bar.update(len(chunk))
        except FAULTS as error:
            raise ScanError(f"{self.where(entry)}: cannot be unpacked to {path.parent} ({error})") from error
        return path


class _Stretch(io.RawIOBase):
    """A stretch of a file on disk, as a file of its own."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = open(path, "rb", buffering=0), start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence] + offset
        if at < 0:
            raise ValueError("a place before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        self._file.seek(self._start + self._at)
        got = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


def _crc(path: Path, start: int, length: int) -> int:
    crc = 0
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(CHUNK, length))):
            crc = zlib.crc32(chunk, crc)
            length -= len(chunk)
    return crc


def cache_root() -> Path:
    """The folder for what can be made again: KDOCT_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("KDOCT_CACHE") or platformdirs.user_cache_dir("kdoct"))
