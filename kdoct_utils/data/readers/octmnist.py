"""OCTMNIST: one npz file of small square pictures, in parts that its publishers fixed, without patient numbers."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.data.files import File, Source, packed_files
from kdoct_utils.data.images import ScanError, StoredImage
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.data.splits import PART
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.profiles import CLASS_NAMES

OCTMNIST_LABELS = ("cnv", "dme", "drusen", "normal")  # in the order of the file's numbers
MD5 = DATASETS["octmnist"].md5  # of each published file


class Pictures(Source):
    """Square pictures by name, such as ``train/17``; their files give uint8 pixels, row by row."""

    def decode(self, name: str, content: bytes) -> StoredImage:
        side = math.isqrt(len(content))
        return StoredImage(np.frombuffer(content, np.uint8).reshape(side, side), "npz")


def read_octmnist(root: Path, options: DataOptions) -> Found:
    """OCTMNIST: ``octmnist.npz`` or one of its larger sizes, or a folder that holds one of them.

    The file's MD5 must be one of the published ones, unless ``options.verify`` is off; then a note says that it is
    not. No patient is known: patient is UNKNOWN_PATIENT, and the column ``part`` has the publishers' parts. The
    notes say what that means for a result. No array is ever in memory whole: each is unpacked to the cache folder.

    Raises ScanError for several files in a folder, another MD5, missing arrays, pictures that are not square uint8,
    and labels that are not a whole number from 0 to 3 for each picture.
    """
    path = _the_file(root)
    notes = _check_md5(path, options.verify)
    packed, status = packed_files(path, str(path)), path.stat()
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    tables, pictures = [], {}
    for part, name in common.PARTS.items():
        where, images = _array(path, packed, f"{part}_images")
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2]:
            raise ScanError(f"{where}: {images.dtype} of shape {shape}; expected uint8 of shape (n, side, side)")
        names = [f"{part}/{number}" for number in range(len(images))]
        for number, image in enumerate(images):
            pictures[names[number]] = File(f"{where}, picture {number}", stamp, image.tobytes)
        table = pd.DataFrame({"path": names, "label": _labels(*_array(path, packed, f"{part}_labels"), len(images))})
        tables.append(table.assign(**{PART: name}))
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(
        scan_id="octmnist/" + table["path"].str.replace(r"\d+", lambda number: number[0].zfill(6), regex=True),
        patient=common.UNKNOWN_PATIENT, eye=common.UNKNOWN_EYE, slice=pd.array([pd.NA] * len(table), dtype="Int64"),
        patient_class=table["label"],
    )[[*common.FOUND_COLUMNS, PART]]  # fmt: skip
    counts = {f"{name} scans": int((table[PART] == name).sum()) for name in common.PARTS.values()}
    return Found(table, Pictures(path, pictures), notes=notes + _notes(table, shape[1]), counts=counts)


def _the_file(root: Path) -> Path:
    """The one npz file that is meant."""
    if root.is_file():
        return root
    names = Source.of_folder(root).files()
    here = [name for name in MD5 if name in names]
    if not here:
        raise common.unexpected_layout("octmnist", root, names)
    if len(here) > 1:
        raise ScanError(f"{root} holds {', '.join(here)}; name the one to read, such as data_root {root / here[0]}")
    return root / here[0]


def _check_md5(path: Path, verify: bool) -> list[str]:
    """Nothing for a published file; for another one a note, or a ScanError if it must be verified."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found in MD5.values():
        return []
    expected = MD5.get(path.name) or ", ".join(f"{md5} ({name})" for name, md5 in MD5.items())
    if not verify:
        return [f"{path.name} is not the published file: its MD5 is {found}, published: {expected}"]
    raise ScanError(
        f"{path}: its MD5 is {found}, published: {expected}. It is cut short, changed, or another file. "
        f"Download it again ({DATASETS['octmnist'].download}), or take it as it is with verify=False "
        "(`kdoct run -p verify=False`, `kdoct data --no-verify`)"
    )


def _array(path: Path, packed: dict[str, File], name: str) -> tuple[str, np.ndarray]:
    """What messages call an array of the npz file, and the array, mapped into memory."""
    file = packed.get(f"{name}.npy")
    if file is None:
        found = ", ".join(sorted(entry.removesuffix(".npy") for entry in packed)) or "none"
        raise ScanError(f"{path}: no array {name}; arrays found: {found}")
    unpacked = file.unpack()
    try:
        return file.where, np.load(unpacked, mmap_mode="r").view(np.ndarray)
    except Exception as error:  # an array file that is damaged raises almost anything
        raise ScanError(f"{file.where}: cannot be read as an array ({error})") from error


def _labels(where: str, numbers: np.ndarray, count: int) -> np.ndarray:
    """Class names (count,) of one part, from their numbers (count,) or (count, 1)."""
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.size != count:
        expected = f"whole numbers, one for each of {count} pictures"
        raise ScanError(f"{where}: {numbers.dtype} of shape {numbers.shape}; expected {expected}")
    numbers = numbers.reshape(-1)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(OCTMNIST_LABELS)))
    if len(wrong):
        valid = ", ".join(f"{number} {name}" for number, name in enumerate(OCTMNIST_LABELS))
        raise ScanError(f"{where}: label {numbers[wrong[0]]} of picture {wrong[0]}; valid: {valid}")
    return np.array(OCTMNIST_LABELS, dtype=object)[numbers]


def _notes(table: pd.DataFrame, side: int) -> list[str]:
    share = pd.crosstab(table[PART], table["label"], normalize="index").reindex(
        index=list(common.PARTS.values()), columns=list(CLASS_NAMES), fill_value=0.0
    )
    shares = ", ".join(f"{name} {share.at['train', name]:.0%} and {share.at['test', name]:.0%}" for name in CLASS_NAMES)
    return [
        "no patient numbers are given: a split by patient is impossible, and a patient may lie in several of the parts",
        "intervals resample scans as if each were a patient; scans of one patient are alike, so they are too narrow",
        f"shares of the classes in train and in test: {shares}",
        f"pictures of {side} x {side} px: enlarging them adds no detail",
        "the class of the whole patient is not given: patient_class repeats the label",
    ]
