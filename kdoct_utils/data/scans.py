"""The scan table: one row a B-scan, the same columns whatever the dataset, with a provenance record.

``read_scans`` reads any dataset of the registry; ``ScanSet.images`` makes the pictures that a network sees.
A fault in the data is a ScanError that names the file or row; nothing is replaced or relabeled in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.data import cache
from kdoct_utils.data.frames import THUMBNAIL
from kdoct_utils.data.images import ScanError, resize
from kdoct_utils.data.links import link_patients, note_links
from kdoct_utils.data.readers import READERS, Found
from kdoct_utils.data.readers.common import UNKNOWN_PATIENT
from kdoct_utils.data.sources import Source
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions, DatasetInfo
from kdoct_utils.profiles import CLASS_NAMES, Profile

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
    drawn_size: side in pixels at which the phantoms were drawn, None for files.
    """

    table: pd.DataFrame
    provenance: dict
    class_names: tuple[str, ...]
    hashes: dict[str, str]
    source: Source | None = None
    render: Callable[[int], np.ndarray] | None = field(default=None, repr=False)
    drawn_size: int | None = None

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
        if record["differences"]:
            counted = record["counted"]
            pairs = [(what, counted.get(what, of), of) for what, of in record["published"].items()]
            differ = [f"{what} {n:,} ({of:,})" for what, n, of in pairs if n != of]
            lines.append(f"found (published), where they differ: {'; '.join(differ)}")
        return "\n".join(line for line in [*lines, *record["notes"]] if line)

    def images(self, size: int, crop_to_band: bool, progress: bool = True) -> np.ndarray:
        """All pictures in the order of the table: uint8, shape (len(self), size, size).

        Of files: a read-only memory map from the cache, where they are made once. A picture is a frame without scale
        bar, black canvas and white borders (see frames.clean_frame), resized; crop_to_band: only its retina band.
        Phantoms are drawn in the band whichever is asked.
        Raises ScanError, naming the file, for an image that cannot be read or holds no retina.
        """
        if self.render is not None:
            return self.render(size)[self.table["path"].astype(int)]
        return cache.pictures(self.source, *self._contents(), size, crop_to_band, progress)

    def measured(self, progress: bool = True) -> pd.DataFrame:
        """What could betray the class of a scan without its eye, one row a scan, indexed by scan_id.

        format ("jpeg", "png", "tiff", "bmp", "npz" or "phantom"); color (whether stored in color channels); width and
        height as stored, in pixels; border (share of the frame that is white registration border, 0 to 1); scale_bar;
        canvas (whether it is a small picture on a black canvas); brightness (mean level of what is neither, 0 to 255).
        Made in the same pass as pictures and thumbnails, and kept. Raises ScanError as ``images`` does.
        """
        if self.render is None:
            table = cache.measured(self.source, *self._contents(), progress).table
            return table.set_axis(pd.Index(self.table["scan_id"]), axis=0)
        drawn = self.images(self.drawn_size, crop_to_band=True)
        facts = {"format": "phantom", "color": False, "width": self.drawn_size, "height": self.drawn_size}
        facts |= {"border": 0.0, "scale_bar": False, "canvas": False, "brightness": drawn.mean(axis=(1, 2))}
        return pd.DataFrame(facts, index=pd.Index(self.table["scan_id"]))

    def thumbnails(self, progress: bool = True) -> np.ndarray:
        """Every scan as a small whole frame, cleaned: uint8 (len(self), 32, 32), in the order of the table.

        Of phantoms: their band. Made in the same pass as ``measured``. Raises ScanError as ``images`` does.
        """
        if self.render is None:
            return cache.measured(self.source, *self._contents(), progress).thumbnails
        return np.stack([resize(image, THUMBNAIL) for image in self.images(self.drawn_size, crop_to_band=True)])

    def _contents(self) -> tuple[list[str], list[str]]:
        """Names of the files and hashes of their content, in the order of the table."""
        return self.table["path"].tolist(), [self.hashes[scan_id] for scan_id in self.table["scan_id"].tolist()]


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

    Raises ScanError for an unknown dataset, a missing folder, unknown labels, wrong columns, and where fewer than two
    classes remain.
    """
    info = _dataset_info(dataset)
    render, source, drawn_size = None, None, None
    if dataset in PHANTOMS:
        found, hashes, render = _draw_phantoms(dataset, data_root, profile, seed)
        drawn_size = profile.resize_size
    else:
        found = READERS[dataset](_existing_root(dataset, data_root), options)
        source = found.source
        if found.table.empty:
            raise ScanError(f"{data_root} holds no scans of {dataset}; expected: {info.layout}")
        paths = found.table["path"].tolist()
        contents = cache.file_hashes(source, paths, progress)
        hashes = dict(zip(found.table["scan_id"].tolist(), map(contents.get, paths), strict=True))

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
    hashes = {scan_id: hashes[scan_id] for scan_id in table["scan_id"].tolist()}
    provenance = _provenance(info, table, found, class_names, options)
    further = [column for column in found.table if column not in SCAN_COLUMNS]
    return ScanSet(table[SCAN_COLUMNS + further], provenance, class_names, hashes, source, render, drawn_size)


def _dataset_info(dataset: str) -> DatasetInfo:
    if dataset not in DATASETS:
        raise ScanError(f"unknown dataset {dataset!r}; valid datasets: {', '.join(DATASETS)}")
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
    from kdoct_utils.phantom.render import phantom_cohort
    from kdoct_utils.phantom.scanners import SCANNERS

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
