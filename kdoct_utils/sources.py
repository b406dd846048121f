"""Where a dataset's images lie: a folder. A source lists its files, and gives the bytes or pixels of one."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from kdoct_utils.bands import ScanError, decode_image


class Source(ABC):
    """Images by name. Names are relative, with forward slashes; they are the ``path`` of the scan table."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """Every file's name and stamp, sorted by name. A stamp (size and time of change) differs when the file does."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of one file, as stored: what is hashed. Raises ScanError if it is not there."""

    @abstractmethod
    def where(self, name: str) -> str:
        """What messages call a file, so that a user finds it."""

    def pixels(self, name: str) -> np.ndarray:
        """One image as stored: uint8 (height, width), or (height, width, 3) in color. Raises ScanError, naming it."""
        return decode_image(io.BytesIO(self.read(name)), self.where(name))


class FolderSource(Source):
    """The files under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def files(self) -> dict[str, str]:
        found, folders = {}, [("", os.fspath(self.root))]
        while folders:
            prefix, folder = folders.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append((f"{prefix}{entry.name}/", entry.path))
                    else:
                        status = entry.stat()
                        found[prefix + entry.name] = f"{status.st_size}-{status.st_mtime_ns}"
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise ScanError(f"{self.where(name)}: cannot be read ({error.strerror})") from error

    def where(self, name: str) -> str:
        return str(self.root / name)
