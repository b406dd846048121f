"""OCTMNIST: one npz file of small square pictures, in parts that its publishers fixed, without patient numbers."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.data.archives import Archive, cache_root
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.arrays import ArraySource, array_entry, read_array
from kdoct_utils.data.readers.common import OFFICIAL_PART, UNKNOWN_EYE, UNKNOWN_PATIENT, Found, unexpected_layout
from kdoct_utils.data.sources import FolderSource
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.runs import RunError, read_json, write_json

OCTMNIST_LABELS = ("cnv", "dme", "drusen", "normal")  # in the order of the file's numbers
OCTMNIST_PARTS = {"train": "train", "val": "validation", "test": "test"}  # as its arrays are called, as the course does
MD5 = DATASETS["octmnist"].md5  # of each published file


def read_octmnist(root: Path, options: DataOptions) -> Found:
    """OCTMNIST: ``octmnist.npz`` or one of its larger sizes, or a folder that holds one of them.

    The file's MD5 must be one of the published ones, unless ``options.verify`` is off; then a note says that it is
    not. No patient is known: patient is UNKNOWN_PATIENT, and the column ``part`` has the publishers' parts. The
    notes say what that means for a result.

    Raises ScanError for several files in a folder, another MD5, missing arrays, pictures that are not square uint8,
    labels that are no whole numbers from 0 to 3, and arrays of one part that differ in length.
    """
    path = _the_file(Path(root))
    note = _check_md5(path, options.verify)
    archive = Archive.open(path)
    source = ArraySource(path, archive, {part: f"{part}_images" for part in OCTMNIST_PARTS}, checked=note is None)
    sides = {shape[1] for shape in source.shapes.values()}
    if len(sides) > 1:
        raise ScanError(f"{path}: the parts have pictures of different sizes, {', '.join(map(str, sorted(sides)))} px")
    tables = []
    for part, name in OCTMNIST_PARTS.items():
        label = _labels(archive, part, source.shapes[part][0])
        numbers = range(len(label))
        scans = {
            "scan_id": [f"octmnist/{part}/{number:06d}" for number in numbers],
            "path": [f"{part}/{number}" for number in numbers],
            "patient": UNKNOWN_PATIENT,
            "eye": UNKNOWN_EYE,
            "slice": pd.array([pd.NA] * len(label), dtype="Int64"),
            "patient_class": label,
            "label": label,
            OFFICIAL_PART: name,
        }
        tables.append(pd.DataFrame(scans))
    table = pd.concat(tables, ignore_index=True)
    counts = {f"{name} scans": int((table[OFFICIAL_PART] == name).sum()) for name in OCTMNIST_PARTS.values()}
    notes = ([note] if note else []) + _notes(table, sides.pop())
    return Found(table, source, notes=notes, counts=counts)


def _the_file(root: Path) -> Path:
    """The one npz file that is meant."""
    if root.is_file():
        return root
    names = FolderSource(root).files()
    here = [name for name in MD5 if name in names]
    if not here:
        raise unexpected_layout("octmnist", root, names)
    if len(here) > 1:
        raise ScanError(f"{root} holds {', '.join(here)}; name the one to read, such as data_root {root / here[0]}")
    return root / here[0]


def _check_md5(path: Path, verify: bool) -> str | None:
    """None for a published file; for another one a note, or a ScanError if it must be verified."""
    try:
        found = _md5(path)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror})") from error
    if found in MD5.values():
        return None
    expected = MD5.get(path.name) or ", ".join(f"{md5} ({name})" for name, md5 in MD5.items())
    if not verify:
        return f"{path.name} is not the published file: its MD5 is {found}, published: {expected}"
    raise ScanError(
        f"{path}: its MD5 is {found}, published: {expected}. It is cut short, changed, or another file. "
        f"Download it again ({DATASETS['octmnist'].download}), or take it as it is with verify=False "
        "(`kdoct run -p verify=False`, `kdoct data --no-verify`)"
    )


def _md5(path: Path) -> str:
    """The MD5 of a file, kept for the next time as long as its size and time of change stay: it may have gigabytes."""
    status = path.stat()
    file_is = {"path": str(path.resolve()), "size": status.st_size, "changed": status.st_mtime_ns}
    kept = cache_root() / "md5" / f"{hashlib.sha256(file_is['path'].encode()).hexdigest()[:20]}.json"
    with suppress(RunError):  # there is none yet, or it is damaged
        record = read_json(kept)
        if record == file_is | {"md5": record.get("md5", "")}:
            return record["md5"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    with suppress(OSError):  # where the cache cannot be written, it is computed each time
        write_json(kept, file_is | {"md5": found})
    return found


def _labels(archive: Archive, part: str, count: int) -> np.ndarray:
    """Class names (count,) of one part."""
    entry = array_entry(archive, f"{part}_labels")
    numbers = read_array(archive, entry)
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.shape not in ((numbers.size,), (numbers.size, 1)):
        raise ScanError(
            f"{archive.where(entry)}: {numbers.dtype} of shape {numbers.shape}; expected whole numbers of shape (n, 1)"
        )
    if len(numbers) != count:
        raise ScanError(f"{archive.where(entry)}: {len(numbers)} labels for {count} pictures")
    numbers = numbers.reshape(-1)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(OCTMNIST_LABELS)))
    if len(wrong):
        valid = ", ".join(f"{number} {name}" for number, name in enumerate(OCTMNIST_LABELS))
        raise ScanError(f"{archive.where(entry)}: label {numbers[wrong[0]]} of picture {wrong[0]}; valid: {valid}")
    return np.array(OCTMNIST_LABELS, dtype=object)[numbers]


def _notes(table: pd.DataFrame, side: int) -> list[str]:
    share = pd.crosstab(table[OFFICIAL_PART], table["label"], normalize="index").reindex(
        index=list(OCTMNIST_PARTS.values()), columns=list(CLASS_NAMES), fill_value=0.0
    )
    shares = ", ".join(f"{name} {share.at['train', name]:.0%} and {share.at['test', name]:.0%}" for name in CLASS_NAMES)
    return [
        "no patient numbers are given: a split by patient is impossible, and a patient may lie in several of the parts",
        "intervals resample scans as if each were a patient; scans of one patient are alike, so they are too narrow",
        f"shares of the classes in train and in test: {shares}",
        f"pictures of {side} x {side} px: enlarging them adds no detail",
        "the class of the whole patient is not given: patient_class repeats the label",
    ]
