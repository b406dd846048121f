"""Where a dataset's images lie: a folder, or a zip archive. A source lists its files, and gives the bytes or pixels
of one.
"""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from kdoct_utils.data.archives import Archive, is_archive
from kdoct_utils.data.images import ScanError, StoredImage, decode_image

ARCHIVE_DEPTH = 2  # folders below data_root in which archives are looked for
ARCHIVE_LEVELS = 3  # archives within one another that are opened


class Source(ABC):
    """Images by name. Names are relative, with forward slashes; they are the ``path`` of the scan table."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """Every file's name and stamp, sorted by name. A stamp differs when the file does: size and time of change,
        or size and CRC in an archive. Hidden files are left out."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of one file, as stored: what is hashed. Raises ScanError if it is not there."""

    @abstractmethod
    def where(self, name: str) -> str:
        """What messages call a file, so that a user finds it."""

    def decode(self, name: str, content: bytes) -> StoredImage:
        """The image in what ``read`` gave, so that a file is read once. Raises ScanError, naming the file."""
        return decode_image(content, self.where(name))

    def pixels(self, name: str) -> np.ndarray:
        """One image as stored: uint8 (height, width), or (height, width, 3) in color. Raises ScanError, naming it."""
        return self.decode(name, self.read(name)).pixels

    def identity(self) -> str:
        """Tells this place from all others on the machine: hashes are kept by it."""
        return f"{type(self).__name__} {os.path.abspath(self.where(''))}"


class FolderSource(Source):
    """The files under a folder, listed once. names: only these, which may also lie elsewhere; None for all of them."""

    def __init__(self, root: Path, names: Iterable[str] | None = None) -> None:
        self.root = Path(root)
        self.names = None if names is None else sorted(set(names))
        self._listed: dict[str, str] | None = None

    def files(self) -> dict[str, str]:
        if self._listed is None:  # asking the disk about 100,000 files takes longer than all else that a reader does
            self._listed = self._list()
        return dict(self._listed)

    def _list(self) -> dict[str, str]:
        if self.names is not None:
            return {name: _stamp(os.stat(self.root / name)) for name in self.names if (self.root / name).is_file()}
        found: dict[str, str] = {}
        folders, linked, seen = [("", os.fspath(self.root))], [], set()
        while folders or linked:  # links last, so that a folder bears its own name where it has one
            prefix, folder = folders.pop() if folders else linked.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in seen:
                    continue  # links may run in circles
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if _hidden(entry.name):
                            continue
                        if entry.is_dir():
                            (linked if entry.is_symlink() else folders).append((f"{prefix}{entry.name}/", entry.path))
                        elif entry.is_file():
                            found[prefix + entry.name] = _stamp(entry.stat())
                        elif entry.is_symlink():
                            found[prefix + entry.name] = "leads nowhere"  # reading it is an error that names it
            except OSError as error:
                raise ScanError(f"{folder}: cannot be listed ({error.strerror})") from error
            linked.sort(reverse=True)
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise ScanError(f"{self.where(name)}: cannot be read ({error.strerror})") from error

    def where(self, name: str) -> str:
        return str(self.root / name)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _hidden(name: str) -> bool:
    """What systems leave beside the files of a user: .DS_Store, ._name, and the folder __MACOSX of archives."""
    return name.startswith(".") or name == "__MACOSX"


class ZipSource(Source):
    """The files in a zip archive; an archive in it is read as if it had been unpacked where it lies.

    Several threads may read at once. Raises ScanError, naming archive and entry, for what is damaged or encrypted.
    """

    def __init__(self, path: Path) -> None:
        self._outer = Archive.open(Path(path))
        self._entries: dict[str, tuple[Archive, str]] = {}
        self._add("", self._outer, ARCHIVE_LEVELS - 1)

    def _add(self, place: str, archive: Archive, levels: int) -> None:
        for entry in archive.entries():
            name = place + entry
            if any(_hidden(part) for part in name.split("/")):
                continue
            if is_archive(name) and levels:
                self._add(_parent(name), archive.open_inside(entry), levels - 1)
            else:
                self._entries.setdefault(name, (archive, entry))

    def files(self) -> dict[str, str]:
        return {name: archive.stamp(entry) for name, (archive, entry) in sorted(self._entries.items())}

    def read(self, name: str) -> bytes:
        if name not in self._entries:
            raise ScanError(f"{self.where(name)}: no such file")
        archive, entry = self._entries[name]
        return archive.read(entry)

    def where(self, name: str) -> str:
        archive, entry = self._entries.get(name, (self._outer, name))
        return archive.where(entry)


class JoinedSource(Source):
    """Several sources as one tree: pairs of a place in it ("" or "a/b/") and what lies there.

    Where two have a file of the same name, the first counts.
    """

    def __init__(self, parts: list[tuple[str, Source]]) -> None:
        self._parts = parts
        self._owners: dict[str, tuple[Source, str]] = {}
        self.files()

    def files(self) -> dict[str, str]:
        stamps: dict[str, str] = {}
        for place, source in self._parts:
            for inside, stamp in source.files().items():
                name = place + inside
                self._owners.setdefault(name, (source, inside))
                stamps.setdefault(name, stamp)
        return dict(sorted(stamps.items()))

    def _owner(self, name: str) -> tuple[Source, str]:
        return self._owners.get(name, (self._parts[0][1], name))

    def read(self, name: str) -> bytes:
        source, inside = self._owner(name)
        return source.read(inside)

    def where(self, name: str) -> str:
        source, inside = self._owner(name)
        return source.where(inside)


def open_source(root: Path, complete: Callable[[Collection[str]], bool]) -> Source:
    """What lies at ``root`` as one source: a folder, a zip archive, or a folder in which the data are still zipped.

    complete: whether these file names make up the dataset. Only where a folder's own files do not, the archives in
    it (at most ARCHIVE_DEPTH folders down) are opened, and read as if they had been unpacked where they lie.
    Raises ScanError for anything else, and for a damaged or encrypted archive.
    """
    root = Path(root)
    if not root.exists():
        raise ScanError(f"data_root {root}: no such file or folder")
    if not root.is_dir():
        if not zipfile.is_zipfile(root) and not is_archive(root.name):
            raise ScanError(f"data_root {root} is neither a folder nor a zip archive")
        return ZipSource(root)
    folder = FolderSource(root)
    names = folder.files()
    archives = [name for name in names if is_archive(name) and name.count("/") <= ARCHIVE_DEPTH]
    if complete(names) or not archives:
        return folder
    return JoinedSource([("", folder), *((_parent(name), ZipSource(root / name)) for name in archives)])


def _parent(name: str) -> str:
    """The place of a file: "" or "a/b/"."""
    return name[: name.rfind("/") + 1]
