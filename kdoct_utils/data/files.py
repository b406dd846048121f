"""Where a dataset's images lie: in a folder, in a zip archive, or in one within either.

An archive in another is unpacked once, to the cache folder: zipfile, and so fsspec, would read it where it lies, but
from its beginning for every file that is not the next.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

import numpy as np
import platformdirs

from kdoct_utils.data.images import ScanError, StoredImage, decode_image
from kdoct_utils.runs import atomic_path

ARCHIVE_DEPTH = 2  # folders below data_root, or below the top of an archive, in which archives are looked for
ARCHIVE_LEVELS = 3  # archives within one another that are opened
ZIP_LOCK = threading.Lock()  # a ZipFile is read by one thread at a time


def cache_root() -> Path:
    """The folder for what can be made again: KDOCT_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("KDOCT_CACHE") or platformdirs.user_cache_dir("kdoct"))


class File(NamedTuple):
    """One file of a dataset.

    where: what messages call it: the path of a file on disk. stamp: differs when the file does: size and time of
    change, or size and CRC in an archive. read, unpack: give its content, or a copy on disk, where it is not on disk.
    """

    where: str
    stamp: str
    read: Callable[[], bytes] | None = None
    unpack: Callable[[], Path] | None = None


class Source:
    """A dataset's files by name: relative, with forward slashes; names are the ``path`` of the scan table.

    root: what it was read from. Hidden files are left out. Several threads may read at once.
    """

    def __init__(self, root: Path, found: Mapping[str, File]) -> None:
        self.root, self._found = Path(root), dict(sorted(found.items()))
        self._stamps = {name: file.stamp for name, file in self._found.items()}

    @classmethod
    def of_folder(cls, root: Path, names: Iterable[str] | None = None) -> Self:
        """The files under a folder. names: only these, which may also lie elsewhere; None for all of them."""
        paths = _walk(str(root)) if names is None else ((name, os.path.join(root, name)) for name in names)
        stamps = ((name, path, _stamp(path)) for name, path in paths)
        return cls(root, {name: File(path, stamp) for name, path, stamp in stamps if stamp})

    def files(self) -> dict[str, str]:
        """Every file's name and stamp, sorted by name."""
        return dict(self._stamps)

    def file(self, name: str) -> File:
        """Raises ScanError if there is none of this name."""
        if name not in self._found:
            raise ScanError(f"{self.where(name)}: cannot be read (no such file)")
        return self._found[name]

    def read(self, name: str) -> bytes:
        """The content of one file, as stored: what is hashed. Raises ScanError, naming it, if it cannot be read."""
        file = self.file(name)
        try:
            return file.read() if file.read else Path(file.where).read_bytes()
        except Exception as error:  # of damaged archives zipfile raises almost anything
            why = getattr(error, "strerror", None) or error
            raise ScanError(f"{self.where(name)}: cannot be read ({why})") from error

    def decode(self, name: str, content: bytes) -> StoredImage:
        """The image in what ``read`` gave, so that a file is read once. Raises ScanError, naming the file."""
        return decode_image(content, self.where(name))

    def pixels(self, name: str) -> np.ndarray:
        """One image as stored: uint8 (height, width), or (height, width, 3) in color. Raises ScanError, naming it."""
        return self.decode(name, self.read(name)).pixels

    def where(self, name: str) -> str:
        """What messages call a file, so that a user finds it."""
        return self._found[name].where if name in self._found else str(self.root / name)

    @property
    def zipped(self) -> bool:
        """Whether any of it lies in an archive."""
        return any(file.unpack for file in self._found.values())


def open_source(root: Path, complete: Callable[[Collection[str]], bool]) -> Source:
    """What lies at ``root``: a folder, a zip archive, or either in which the data are still zipped.

    complete: whether these file names make up the dataset. Only as long as they do not, the archives among them (at
    most ARCHIVE_DEPTH folders down) are opened, and read as if they had been unpacked where they lie. Where two
    have a file of the same name, the first counts.
    Raises ScanError for anything else, and for a damaged archive.
    """
    if not root.is_dir() and not _is_archive(root.name) and not zipfile.is_zipfile(root):
        raise ScanError(f"data_root {root} is neither a folder nor a zip archive")
    source = Source.of_folder(root) if root.is_dir() else Source(root, packed_files(root, str(root)))
    opened: set[str] = set()
    for level in range(1, ARCHIVE_LEVELS + 1):
        names = source.files()
        near = (name for name in names if _is_archive(name) and name.count("/") <= ARCHIVE_DEPTH * level)
        inside = [name for name in near if name not in opened]
        if complete(names) or not inside:
            break
        found = {}
        for name in inside:
            file, place = source.file(name), name[: name.rfind("/") + 1]
            packed = packed_files(file.unpack() if file.unpack else Path(file.where), file.where)
            found = {place + entry: of for entry, of in packed.items()} | found
        source = Source(root, found | {name: source.file(name) for name in names})
        opened.update(inside)
    return source


def packed_files(path: Path, where: str) -> dict[str, File]:
    """Name -> file of all in a zip archive. where: what messages call it.

    Raises ScanError, naming archive and entry, for what is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise ScanError(f"{where}: cannot be read as a zip archive ({error}); was the download cut short?") from error
    found = {}
    for info in archive.infolist():  # of entries with one name the last counts, as in unpacking
        name = info.filename.replace("\\", "/")  # which some packers write
        entry = f"{where} > {name}"
        if not name.endswith("/") and not any(map(_hidden, name.split("/"))):
            read, unpack = partial(_read_entry, archive, info), partial(_unpack, archive, info, entry)
            found[name] = File(entry, f"{info.file_size}-{info.CRC:08x}", read, unpack)
    return found


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with ZIP_LOCK:
        return archive.read(info)  # raises if the CRC is not the entry's


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Path:
    """An entry as a file in the cache folder, copied there once."""
    name = PurePosixPath(info.filename)
    key = hashlib.sha256(f"{name} {info.file_size} {info.CRC}".encode()).hexdigest()[:20]
    path = cache_root() / "archives" / f"{key}{name.suffix}"
    if path.is_file() and path.stat().st_size == info.file_size:
        return path
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file, archive.open(info) as packed:
            shutil.copyfileobj(packed, file, 1 << 20)  # the last read raises if the CRC is not the entry's
    except Exception as error:
        raise ScanError(f"{where}: cannot be unpacked to {path.parent} ({error})") from error
    return path


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Names and paths of all files under a folder."""

    def stop(error: OSError) -> None:
        raise ScanError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    seen = set()  # links may run in circles
    for folder, folders, names in os.walk(root, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not _hidden(name))
        place = "" if folder == root else Path(folder).relative_to(root).as_posix() + "/"
        if real not in seen:
            yield from ((place + name, os.path.join(folder, name)) for name in names if not _hidden(name))
        seen.add(real)


def _stamp(path: str) -> str | None:
    """Size and time of change; None for what is no file. A link that leads nowhere is one: reading it is an error."""
    try:
        status = os.stat(path)
    except OSError:
        return "none" if os.path.islink(path) else None
    return f"{status.st_size}-{status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else None


def _hidden(name: str) -> bool:
    """What systems leave beside the files of a user: .DS_Store, ._name, and the folder __MACOSX of archives."""
    return name.startswith(".") or name == "__MACOSX"


def _is_archive(name: str) -> bool:
    return name.lower().endswith(".zip")
