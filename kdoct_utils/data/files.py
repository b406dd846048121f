"""Where a dataset's images lie: in a folder, or in zip archives, which are unpacked once, to the cache folder."""

import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import platformdirs
from filelock import FileLock

from kdoct_utils.data.images import ScanError, StoredImage, decode_image

ARCHIVE_DEPTH = 2  # folders below data_root, or below the top of an archive, in which archives are looked for
ARCHIVE_LEVELS = 3  # archives within one another that are opened


def cache_root() -> Path:
    """The folder for what can be made again: KDOCT_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("KDOCT_CACHE") or platformdirs.user_cache_dir("kdoct"))


class Source:
    """A dataset's files by name: relative, with forward slashes; names are the ``path`` of the scan table.

    root: what it was read from. paths: where each file lies, by its name; what is no file is left out.
    """

    def __init__(self, root: Path, paths: Mapping[str, str | Path]) -> None:
        self.root = Path(root)
        stamps = {name: _stamp(paths[name]) for name in sorted(paths)}
        self._stamps = {name: stamp for name, stamp in stamps.items() if stamp}
        self._paths = {name: str(paths[name]) for name in self._stamps}

    @classmethod
    def of_folder(cls, root: Path) -> Self:
        """The files under a folder; hidden ones are left out."""
        return cls(root, dict(_walk(root)))

    def files(self) -> dict[str, str]:
        """Every file's name and stamp, which differs when the file does, sorted by name."""
        return dict(self._stamps)

    def read(self, name: str) -> bytes:
        """The content of one file, as stored: what is hashed. Raises ScanError, naming it, if it cannot be read."""
        try:
            return Path(self.where(name)).read_bytes()
        except OSError as error:
            raise ScanError(f"{self.where(name)}: cannot be read ({error.strerror})") from error

    def decode(self, name: str, content: bytes) -> StoredImage:
        """The image in what ``read`` gave, so that a file is read once. Raises ScanError, naming the file."""
        return decode_image(content, self.where(name))

    def pixels(self, name: str) -> np.ndarray:
        """One image as stored: uint8 (height, width), or (height, width, 3) in color. Raises ScanError, naming it."""
        return self.decode(name, self.read(name)).pixels

    def where(self, name: str) -> str:
        """What messages call a file: its path."""
        return self._paths.get(name, str(self.root / name))


def open_source(root: Path, complete: Callable[[Collection[str]], bool]) -> Source:
    """What lies at ``root``: a folder, a zip archive, or either in which the data are still zipped.

    complete: whether these file names make up the dataset. Only as long as they do not, the archives among them (at
    most ARCHIVE_DEPTH folders down) are unpacked, and read as if that had been done where they lie. Where two
    have a file of the same name, the first counts.
    Raises ScanError for anything else, and for a damaged archive.
    """
    if not root.is_dir() and not _is_archive(root.name):
        raise ScanError(f"data_root {root} is neither a folder nor a zip archive")
    paths = dict(_walk(root)) if root.is_dir() else {root.name: root}
    opened: set[str] = set()
    for level in range(1, ARCHIVE_LEVELS + 1):
        near = (name for name in sorted(paths) if _is_archive(name) and name.count("/") <= ARCHIVE_DEPTH * level)
        archives = [name for name in near if name not in opened]
        if complete(paths) or not archives:
            break
        for name in archives:
            place = name[: name.rfind("/") + 1]
            paths = {place + entry: path for entry, path in _walk(unpacked(Path(paths[name])))} | paths
        opened.update(archives)
    return Source(root, paths)


def unpacked(archive: Path) -> Path:
    """The folder in the cache that holds what is in a zip archive; unpacked where it is not there yet.

    Raises ScanError, naming the archive, if it is damaged or there is no room.
    """
    key = hashlib.sha256(f"{archive.resolve()} {_stamp(archive)}".encode()).hexdigest()[:20]
    folder = cache_root() / "archives" / f"{archive.stem}-{key}"
    half = folder.with_name(f".{folder.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{half}.lock"):  # one process unpacks, the others wait
            if not folder.is_dir():
                shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(half)  # raises if a CRC is not the entry's
                half.rename(folder)
    except Exception as error:  # of damaged archives zipfile raises almost anything
        shutil.rmtree(half, ignore_errors=True)
        why = f"{archive}: cannot be unpacked to {folder.parent} ({error}); was the download cut short?"
        raise ScanError(why) from error
    return folder


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Names and paths of all files under a folder."""

    def stop(error: OSError) -> None:
        raise ScanError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    seen = set()  # links may run in circles
    for folder, folders, names in os.walk(root, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not _hidden(name))
        place = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        if real not in seen:
            yield from ((place + name, os.path.join(folder, name)) for name in names if not _hidden(name))
        seen.add(real)


def _stamp(path: str | Path) -> str | None:
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
