"""The scan table: one row per B-scan, the same columns whatever the dataset, with a provenance record.

``read_scans`` reads any dataset of the registry; ``ScanSet.images`` makes the pictures that a network sees.
A fault in the data is a ScanError that names the file or row; nothing is replaced or relabeled in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kdoct_utils.data import cache
from kdoct_utils.data.band import resize
from kdoct_utils.data.files import Source
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.common import UNKNOWN_PATIENT, Found
from kdoct_utils.data.readers.neh import read_neh
from kdoct_utils.data.readers.octdl import read_octdl
from kdoct_utils.data.readers.octmnist import read_octmnist
from kdoct_utils.data.readers.own import read_own
from kdoct_utils.data.readers.ucsd import read_ucsd
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions, DatasetInfo
from kdoct_utils.profiles import CLASS_NAMES, Profile

SCAN_COLUMNS = [
    "scan_id", "path", "dataset", "patient", "group", "eye", "slice", "patient_class", "label", "target",
]
READERS: dict[str, Callable[[Path, DataOptions], Found]] = {
    "neh": read_neh, "ucsd": read_ucsd, "octmnist": read_octmnist, "octdl": read_octdl, "csv": read_own,
}  # fmt: skip
DEFAULT_OPTIONS = DataOptions()
EXAMPLES = 5  # names shown for each reason of refusal
PAIRS_NAMED = 8  # pairs of patients that a note names before it counts the rest


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
        """What could betray the class of a scan without its eye, one row per scan, indexed by scan_id.

        format ("jpeg", "png", "tiff", "bmp", "npz" or "phantom"); color (whether stored in color channels); width and
        height as stored, in pixels; border (share of the frame that is white registration border, 0 to 1); scale_bar;
        canvas (whether it is a small picture on a black canvas); brightness (mean level of what is neither, 0 to 255).
        Made in the same pass as pictures and thumbnails, and kept. Raises ScanError as ``images`` does.
        """
        if self.render is None:
            table, _ = cache.measured(self.source, *self._contents(), progress)
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
            return cache.measured(self.source, *self._contents(), progress)[1]
        drawn, side = self.images(self.drawn_size, crop_to_band=True), cache.THUMBNAIL
        return np.stack([resize(image, side, side) for image in drawn])

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
    if dataset not in DATASETS:
        raise ScanError(f"unknown dataset {dataset!r}; valid datasets: {', '.join(DATASETS)}")
    info = DATASETS[dataset]
    render, source, drawn_size = None, None, None
    if dataset in PHANTOMS:
        found, hashes, render = _draw_phantoms(dataset, data_root, profile, seed)
        drawn_size = profile.resize_size
    else:
        if data_root is None or str(data_root) == "":
            raise ScanError(f"{dataset} needs data_root; expected there: {info.layout}")
        root = Path(data_root).expanduser()
        if not root.exists():
            raise ScanError(f"data_root {data_root}: no such file or folder")
        found = READERS[dataset](root, options)
        source = found.source
        if found.table.empty:
            raise ScanError(f"{data_root} holds no scans of {dataset}; expected: {info.layout}")
        paths = found.table["path"].tolist()
        contents = cache.file_hashes(source, paths, progress)
        hashes = dict(zip(found.table["scan_id"].tolist(), map(contents.get, paths), strict=True))

    table = found.table.assign(dataset=dataset).sort_values("scan_id", ignore_index=True)
    # Linked before the filter: an image that the filter drops still shows that two patients are one.
    table["group"] = link_patients(table, hashes)
    _note_links(table, hashes, found)
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


@lru_cache(maxsize=1)
def _cohort(dataset: str, patients: int, slices: int, size: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Phantoms and their table. The last cohort drawn stays in memory, since a notebook reads its scans twice."""
    from kdoct_utils.phantom.render import phantom_cohort
    from kdoct_utils.phantom.scanners import SCANNERS

    return phantom_cohort(patients, slices, size, seed, DATASETS[dataset].classes, SCANNERS[dataset])


def _draw_phantoms(
    dataset: str, data_root: str | Path | None, profile: Profile, seed: int
) -> tuple[Found, dict[str, str], Callable[[int], np.ndarray]]:
    """Phantoms of the profile: what a reader would find, their hashes, and how to draw them at any size."""
    if data_root is not None and str(data_root) != "":
        raise ScanError(f"phantoms are drawn from the seed: data_root must be empty, not {data_root}")

    def draw(size: int) -> tuple[np.ndarray, pd.DataFrame]:
        return _cohort(dataset, profile.phantom_patients, profile.phantom_slices, size, seed)

    def render(size: int) -> np.ndarray:
        return images if size == profile.resize_size else draw(size)[0]

    images, table = draw(profile.resize_size)
    scan_ids = [f"{name}/{number:03d}" for name, number in zip(table["patient"], table["slice"], strict=True)]
    paths = [str(index) for index in range(len(table))]
    table = table.assign(scan_id=scan_ids, path=paths, slice=table["slice"].astype("Int64"))
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    found = Found(table, None, notes=[f"drawn from seed {seed} in the retina band; no patient is real"])
    return found, dict(zip(scan_ids, hashes, strict=True)), render


def _provenance(
    info: DatasetInfo, table: pd.DataFrame, found: Found, class_names: tuple[str, ...], options: DataOptions
) -> dict:
    absent = [name for name in info.classes if name not in class_names]
    notes = found.notes + ([f"no scans of class {', '.join(absent)}"] if absent else [])
    differ = {what: of for what, of in info.published_counts.items() if found.counts.get(what, of) != of}
    return {
        "dataset": info.name,
        **{name: getattr(info, name) for name in ("title", "version", "license", "citation", "url")},
        "published": dict(info.published_counts),
        "counted": dict(found.counts),
        "differences": [f"{what}: {found.counts[what]:,} found, {of:,} published" for what, of in differ.items()],
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


# --- what identical images tell --------------------------------------------------------------------------------------


def link_patients(table: pd.DataFrame, hashes: dict[str, str]) -> pd.Series:
    """The independent group of each row: patients that share a byte-identical image are one, as is who they share
    images with in turn. A group bears the name of its first patient in alphabetical order. Scans whose patient is not
    known are no patient together: each stands for itself, under its scan_id.

    table: with the columns scan_id and patient. hashes: scan_id -> hash of the image. Returns strings, indexed like
    table.
    """
    owners = table["patient"].where(table["patient"] != UNKNOWN_PATIENT, table["scan_id"])
    patients, names = pd.factorize(owners, sort=True)
    images, distinct = pd.factorize(table["scan_id"].map(hashes))
    # A graph of patients and images, an edge for each scan: who is connected belongs together.
    size = len(names) + len(distinct)
    edges = coo_array((np.ones(len(table), bool), (patients, len(names) + images)), shape=(size, size))
    component = connected_components(edges, directed=False)[1][: len(names)]  # (patients,)
    first = pd.Series(np.arange(len(names))).groupby(component).transform("min").to_numpy()  # names are sorted
    return pd.Series(np.asarray(names, object)[first][patients], index=table.index, name="group", dtype=object)


def linked_pairs(table: pd.DataFrame, hashes: dict[str, str]) -> pd.DataFrame:
    """Every two patients that share an image, one row a pair, sorted.

    Columns: patient, twin, scans (distinct images shared), patient_class and twin_class (several are joined by "/"),
    contradictory (whether an image that they share has two patient_classes).
    """
    rows = table.assign(image=table["scan_id"].map(hashes))[["image", "patient", "patient_class"]].drop_duplicates()
    rows = rows[(rows["patient"] != UNKNOWN_PATIENT) & rows["image"].duplicated(keep=False)]
    pairs = rows.merge(rows, on="image", suffixes=("", "_twin"))
    pairs = pairs[pairs["patient"] < pairs["patient_twin"]]
    pairs = pairs.assign(contradictory=pairs["patient_class"] != pairs["patient_class_twin"])
    pairs = pairs.rename(columns={"patient_twin": "twin", "patient_class_twin": "twin_class"})
    return pairs.groupby(["patient", "twin"]).agg(
        scans=("image", "nunique"),
        patient_class=("patient_class", lambda classes: "/".join(sorted(set(classes)))),
        twin_class=("twin_class", lambda classes: "/".join(sorted(set(classes)))),
        contradictory=("contradictory", "any"),
    ).reset_index()


def _note_links(table: pd.DataFrame, hashes: dict[str, str], found: Found) -> None:
    """Count and note in ``found`` what identical images tell about all scans of a dataset, before any filter."""
    pairs = linked_pairs(table, hashes)
    contradictory = pairs[pairs["contradictory"]]
    found.counts["linked pairs"] = len(pairs)
    found.counts["patients with contradictory labels"] = len({*contradictory["patient"], *contradictory["twin"]})
    if (table["patient"] != UNKNOWN_PATIENT).any():
        found.counts["groups"] = int(table["group"].nunique())
    image = table["scan_id"].map(hashes)
    labels = table.groupby(image)["label"].agg(["size", "nunique"])
    copied = labels[labels["size"] > 1]
    if len(copied):
        found.notes.append(
            f"{copied['size'].sum()} scans are byte-identical to another, in {len(copied)} sets; "
            f"{(copied['nunique'] > 1).sum()} sets carry contradictory labels; their patients share a group"
        )
    if len(pairs):
        names = [f"{row.patient} ({row.patient_class}) = {row.twin} ({row.twin_class})" for row in pairs.itertuples()]
        more = f"; and {len(pairs) - PAIRS_NAMED} more" if len(pairs) > PAIRS_NAMED else ""
        found.notes.append(f"patients share images, so they are one group: {'; '.join(names[:PAIRS_NAMED])}{more}")
