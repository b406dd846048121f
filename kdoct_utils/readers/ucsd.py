"""UCSD / Kermany: class folders, plain or under train, test and val."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from kdoct_utils.bands import ScanError
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.readers.common import FOUND_COLUMNS, IMAGE_SUFFIXES, UNKNOWN_EYE, Found, class_name
from kdoct_utils.sources import FolderSource

UCSD_PARTS = ("train", "test", "val")
UCSD_NAME = re.compile(r"([A-Za-z]+)-(\d+)-(\d+)\.jpe?g", re.IGNORECASE)


def read_ucsd(root: Path, options: DataOptions) -> Found:
    """UCSD / Kermany: class folders, in ``data_root`` itself or in its train, test and val folders.

    Files are named CLASS-patient-index.jpeg; the number is the patient across classes and parts, so the patient is
    ``ucsd/<number>``. The patient's class is not given apart from the scan's: patient_class repeats the label.
    Files whose name breaks the pattern or contradicts the folder are refused and counted.
    """
    folders = _ucsd_class_folders(root)
    found = Found(pd.DataFrame(), FolderSource(root))
    rows = []
    empty = set(folders.values())
    for folder, label in folders.items():
        for file in sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            path = (folder / file).relative_to(root).as_posix()
            match = UCSD_NAME.fullmatch(file)
            if match is None:
                found.refuse("file name is not CLASS-patient-index.jpeg", [path])
            elif match[1].lower() != label:
                found.refuse("file name and folder name different classes", [path])
            else:
                rows.append((f"ucsd/{path}", path, f"ucsd/{match[2]}", UNKNOWN_EYE, int(match[3]), label, label))
                empty.discard(label)
    if empty:
        raise ScanError(f"{root}: no scans in the folders of class {', '.join(sorted(empty))}")
    found.table = pd.DataFrame(rows, columns=FOUND_COLUMNS)
    found.notes.append("no eye and no class of the whole patient are given: patient_class repeats the label")
    return found


def _ucsd_class_folders(root: Path) -> dict[Path, str]:
    """Class folder -> class name, for either layout, in sorted order. Raises ScanError for anything else."""
    inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    parts = [path for path in inside if path.name.lower() in UCSD_PARTS]
    folders, others = {}, []
    for parent in parts or [root]:
        for folder in sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if folder.name.lower() in DATASETS["ucsd"].classes:
                folders[folder] = folder.name.lower()
            elif any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
                others.append(folder)
    mixed = parts and any(path.name.lower() in DATASETS["ucsd"].classes for path in inside)
    if mixed or not folders:
        names = ", ".join(path.name for path in inside[:8]) or "no folders"
        raise ScanError(f"{root} holds {names}; expected: {DATASETS['ucsd'].layout}")
    for folder in others:
        class_name(folder.name, "ucsd", str(folder))  # beside real class folders it is an unknown class: an error
    return folders
