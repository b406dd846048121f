"""The scan table: one row a B-scan, the same columns whatever the dataset, with a provenance record.

``read_scans`` reads any dataset of the registry; ``ScanSet.images`` makes the pictures that a network sees.
A fault in the data is a ScanError that names the file or row; nothing is replaced or relabeled in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kdoct_utils.bands import ScanError, crop_to_band, find_band, read_image, resize, to_grey
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions, DatasetInfo
from kdoct_utils.links import link_patients, note_links
from kdoct_utils.profiles import CLASS_NAMES, Profile
from kdoct_utils.readers import READERS, Found
from kdoct_utils.readers.common import UNKNOWN_PATIENT
from kdoct_utils.sources import Source

__all__ = [
    "DATASETS", "SCAN_COLUMNS", "DataOptions", "DatasetInfo", "ScanError", "ScanSet", "crop_to_band", "find_band",
    "link_patients", "read_image", "read_scans",
]

SCAN_COLUMNS = [
    "scan_id", "path", "dataset", "patient", "group", "eye", "slice", "patient_class", "label", "target",
]
DEFAULT_OPTIONS = DataOptions()
EXAMPLES = 5  # names shown for each reason of refusal


@dataclass
class ScanSet:
    """A dataset as the course uses it.

    table: DataFrame of SCAN_COLUMNS, then further ones that the dataset has, sorted by scan_id; path names a file of
    source, or is an index into the phantoms.
    provenance: what the data are, counts found, what was refused and why; plain JSON types, no absolute paths.
    class_names: the classes present, in the order of CLASS_NAMES; target indexes it.
    hashes: scan_id -> SHA-256 of the file (of the pixels, for phantoms), for the leakage audit.
    source: where the images lie, None for phantoms. render: draws all phantoms at a size, None for files.
    """

    table: pd.DataFrame
    provenance: dict
    class_names: tuple[str, ...]
    hashes: dict[str, str]
    source: Source | None = None
    render: Callable[[int], np.ndarray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def __str__(self) -> str:
        record = self.provenance
        counts = ", ".join(f"{n} {label}" for label, n in record["found"]["labels"].items())
        patients = f"{record['found']['patients']} patients" if record["found"]["patients"] else "unknown patients"
        lines = [
            f"{record['title']} (version {record['version'] or 'not given'}; license: {record['license']})",
            f"{record['citation']} {record['url']}".strip(),
            f"{len(self)} B-scans ({counts}) of {patients} "
            f"in {record['found']['groups']} independent groups",
        ]
        lines += [f"left out: {n} x {reason}" for reason, n in record["refused"].items()]
        lines += [f"not as published: {'; '.join(record['differences'])}"] if record["differences"] else []
        return "\n".join(line for line in [*lines, *record["notes"]] if line)

    def images(
        self, size: int, crop_to_band: bool, progress: bool = True, out: np.ndarray | None = None
    ) -> np.ndarray:
        """All pictures in the order of the table: uint8, shape (len(self), size, size).

        crop_to_band: crop to the retina, borders filled (see bands.crop_to_band); else the whole frame is resized
        as it is, as the paper does. Phantoms are drawn in the band whichever is asked.
        out: an array of that shape and type to write into, such as a memory map; made if None.
        Raises ScanError, naming scan and file, for an image that cannot be read or holds no retina.
        """
        shape = (len(self), size, size)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ScanError(f"out must be uint8 of shape {shape}, not {out.dtype} of shape {out.shape}")
        if self.render is not None:
            out[:] = self.render(size)[self.table["path"].astype(int)]
            return out

        def make(position: int) -> None:
            out[position] = _picture(self.source, self.table["path"].iloc[position], size, crop_to_band)

        # Decoding and filtering release the interpreter lock; each thread writes only its own rows.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            results = threads.map(make, range(len(self)))
            for _ in tqdm(results, total=len(self), desc="images", unit="scan", disable=not progress):
                pass
        return out


def _picture(source: Source, path: str, size: int, crop: bool) -> np.ndarray:
    image = to_grey(source.pixels(path))
    try:
        return resize(crop_to_band(image) if crop else image, size)
    except ScanError as error:
        raise ScanError(f"{source.where(path)}: {error}") from error


def read_scans(
    dataset: str,
    data_root: str | Path | None,
    *,
    profile: Profile,
    seed: int,
    options: DataOptions = DEFAULT_OPTIONS,
    progress: bool = True,
) -> ScanSet:
    """Read a dataset into a ScanSet; the same result whatever the order of rows and files.

    dataset: a name in DATASETS. data_root: where it lies (DATASETS[dataset].layout); None for phantoms.
    profile, seed: say which phantoms are drawn, and at what size.
    options: what else may be asked, such as worst_case=False for every scan with its own label.

    Raises ScanError for an unknown dataset, one without a reader, a missing folder, unknown labels, wrong columns,
    and where fewer than two classes remain.
    """
    info = _dataset_info(dataset)
    render, source = None, None
    if dataset in PHANTOMS:
        found, hashes, render = _draw_phantoms(dataset, data_root, profile, seed)
    else:
        found = READERS[dataset](_existing_root(dataset, data_root), options)
        source = found.source
        if found.table.empty:
            raise ScanError(f"{data_root} holds no scans of {dataset}; expected: {info.layout}")
        hashes = _hash_files(found, progress)

    table = found.table.assign(dataset=dataset).sort_values("scan_id", ignore_index=True)
    # Linked before the filter: an image that the filter drops still shows that two patients are one.
    table["group"] = link_patients(table, hashes)
    note_links(table, hashes, found)
    shows_class = table["patient_class"] == table["label"]
    if options.worst_case:
        dropped = table.loc[~shows_class, "scan_id"].tolist()
        found.refuse("label is not the patient's class (worst-case filter)", dropped)
        table = table[shows_class].reset_index(drop=True)
    class_names = tuple(name for name in CLASS_NAMES if (table["label"] == name).any())
    if len(class_names) < 2:
        only = class_names[0] if class_names else "none"
        raise ScanError(f"{dataset}: two classes are needed, found {only}; valid classes: {', '.join(info.classes)}")
    table["target"] = table["label"].map({name: index for index, name in enumerate(class_names)}).astype(np.int64)
    hashes = {scan_id: hashes[scan_id] for scan_id in table["scan_id"]}
    provenance = _provenance(info, table, found, class_names, options)
    further = [column for column in found.table if column not in SCAN_COLUMNS]
    return ScanSet(table[SCAN_COLUMNS + further], provenance, class_names, hashes, source, render)


def _dataset_info(dataset: str) -> DatasetInfo:
    if dataset not in DATASETS:
        raise ScanError(f"unknown dataset {dataset!r}; valid datasets: {', '.join(DATASETS)}")
    readable = [name for name in DATASETS if name in PHANTOMS or name in READERS]
    if dataset not in readable:
        raise ScanError(f"{dataset} is registered but has no reader yet; datasets with a reader: {', '.join(readable)}")
    return DATASETS[dataset]


def _existing_root(dataset: str, data_root: str | Path | None) -> Path:
    if data_root is None or str(data_root) == "":
        raise ScanError(f"{dataset} needs data_root; expected there: {DATASETS[dataset].layout}")
    root = Path(data_root).expanduser()
    if not root.exists():
        raise ScanError(f"data_root {data_root}: no such file or folder")
    return root


def _draw_phantoms(
    dataset: str, data_root: str | Path | None, profile: Profile, seed: int
) -> tuple[Found, dict[str, str], Callable[[int], np.ndarray]]:
    """Phantoms of the profile: what a reader would find, their hashes, and how to draw them at any size."""
    from kdoct_utils.phantom import phantom_cohort
    from kdoct_utils.scanners import SCANNERS

    if data_root is not None and str(data_root) != "":
        raise ScanError(f"phantoms are drawn from the seed: data_root must be empty, not {data_root}")

    def draw(size: int) -> tuple[np.ndarray, pd.DataFrame]:
        patients, slices, classes = profile.phantom_patients, profile.phantom_slices, DATASETS[dataset].classes
        return phantom_cohort(patients, slices, size, seed, classes, SCANNERS[dataset])

    images, table = draw(profile.resize_size)
    table = table.assign(
        scan_id=[f"{name}/{number:03d}" for name, number in zip(table["patient"], table["slice"], strict=True)],
        path=[str(index) for index in range(len(table))],
        slice=table["slice"].astype("Int64"),
    )
    hashes = {
        scan_id: hashlib.sha256(image.tobytes()).hexdigest()
        for scan_id, image in zip(table["scan_id"], images, strict=True)
    }
    found = Found(table, None, notes=[f"drawn from seed {seed} in the retina band; no patient is real"])

    def render(size: int) -> np.ndarray:
        return images if size == profile.resize_size else draw(size)[0]

    return found, hashes, render


def _hash_files(found: Found, progress: bool) -> dict[str, str]:
    """SHA-256 of every file's bytes."""
    hashes = {}
    pairs = zip(found.table["scan_id"], found.table["path"], strict=True)
    for scan_id, path in tqdm(pairs, total=len(found.table), desc="hashing", unit="scan", disable=not progress):
        hashes[scan_id] = hashlib.sha256(found.source.read(path)).hexdigest()
    return hashes


def _provenance(
    info: DatasetInfo, table: pd.DataFrame, found: Found, class_names: tuple[str, ...], options: DataOptions
) -> dict:
    absent = [name for name in info.classes if name not in class_names]
    notes = found.notes + ([f"no scans of class {', '.join(absent)}"] if absent else [])
    return {
        "dataset": info.name,
        "title": info.title,
        "version": info.version,
        "license": info.license,
        "citation": info.citation,
        "url": info.url,
        "published": dict(info.published_counts),
        "counted": dict(found.counts),
        "differences": [
            f"{what}: {found.counts[what]:,} found, {of:,} published"
            for what, of in info.published_counts.items()
            if found.counts.get(what, of) != of
        ],
        "options": asdict(options),
        "found": {
            "scans": len(table),
            "patients": int(table.loc[table["patient"] != UNKNOWN_PATIENT, "patient"].nunique()),
            "groups": int(table["group"].nunique()),
            "labels": {name: int((table["label"] == name).sum()) for name in class_names},
        },
        "refused": {reason: len(names) for reason, names in found.refused.items()},
        "refused_examples": {reason: names[:EXAMPLES] for reason, names in found.refused.items()},
        "notes": notes,
    }
