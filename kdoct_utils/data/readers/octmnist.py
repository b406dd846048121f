"""OCTMNIST: one npz file of small square pictures, in parts that its publishers fixed, without patient numbers."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.data.files import Source, unpacked
from kdoct_utils.data.images import ScanError, StoredImage
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.data.splits import PART
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.profiles import CLASS_NAMES

OCTMNIST_LABELS = ("cnv", "dme", "drusen", "normal")  # in the order of the file's numbers
MD5 = DATASETS["octmnist"].md5  # of each published file


class Pictures(Source):
    """Square pictures by name, such as ``train/17``: the number in the array of its part, uint8 (n, side, side)."""

    def __init__(self, path: Path, parts: dict[str, np.ndarray]) -> None:
        names = [f"{part}/{number}" for part, images in parts.items() for number in range(len(images))]
        super().__init__(path, dict.fromkeys(names, path))
        self._parts = parts

    def read(self, name: str) -> bytes:
        part, number = name.split("/")
        return self._parts[part][int(number)].tobytes()

    def decode(self, name: str, content: bytes) -> StoredImage:
        side = math.isqrt(len(content))
        return StoredImage(np.frombuffer(content, np.uint8).reshape(side, side), "npz")

    def where(self, name: str) -> str:
        return f"{self.root}, picture {name}"


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
    tables, parts = [], {}
    for part, name in common.PARTS.items():
        images = parts[part] = _array(path, f"{part}_images")
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
            what = f"{images.dtype} of shape {images.shape}; expected uint8 of shape (n, side, side)"
            raise ScanError(f"{path}, {part}_images: {what}")
        names = [f"{part}/{number}" for number in range(len(images))]
        tables.append(pd.DataFrame({"path": names, "label": _labels(path, part, len(images)), PART: name}))
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(
        scan_id="octmnist/" + table["path"].str.replace(r"\d+", lambda number: number[0].zfill(6), regex=True),
        patient=common.UNKNOWN_PATIENT, eye=common.UNKNOWN_EYE, slice=pd.array([pd.NA] * len(table), dtype="Int64"),
        patient_class=table["label"],
    )[[*common.FOUND_COLUMNS, PART]]  # fmt: skip
    counts = {f"{name} scans": int((table[PART] == name).sum()) for name in common.PARTS.values()}
    return Found(table, Pictures(path, parts), notes=notes + _notes(table, images.shape[1]), counts=counts)


def _the_file(root: Path) -> Path:
    """The one npz file that is meant."""
    if root.is_file():
        return root
    here = [name for name in MD5 if (root / name).is_file()]
    if not here:
        raise common.unexpected_layout("octmnist", root, Source.of_folder(root).files())
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


def _array(path: Path, name: str) -> np.ndarray:
    """An array of the npz file, mapped into memory."""
    file = unpacked(path) / f"{name}.npy"
    if not file.is_file():
        found = ", ".join(sorted(other.stem for other in file.parent.glob("*.npy"))) or "none"
        raise ScanError(f"{path}: no array {name}; arrays found: {found}")
    try:
        return np.load(file, mmap_mode="r").view(np.ndarray)
    except Exception as error:  # an array file that is damaged raises almost anything
        raise ScanError(f"{path}, {name}: cannot be read as an array ({error})") from error


def _labels(path: Path, part: str, count: int) -> np.ndarray:
    """Class names (count,) of one part, from their numbers (count, 1)."""
    numbers = _array(path, f"{part}_labels")
    where = f"{path}, {part}_labels"
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
