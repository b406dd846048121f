"""Scans, pictures and split of a run: read or drawn once, and kept in its folder."""

from collections.abc import Collection
from dataclasses import asdict

import numpy as np
import pandas as pd

from kdoct_utils.data.band import to_picture
from kdoct_utils.data.cache import open_pictures, picture_key
from kdoct_utils.data.frames import clean_frame
from kdoct_utils.data.images import ScanError, decode_image
from kdoct_utils.data.scans import ScanSet, read_scans
from kdoct_utils.datasets import PHANTOMS
from kdoct_utils.lab.keep import keep
from kdoct_utils.phantom import scanners
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.runs import RunFolder, atomic_path, read_json


def read_now(run: RunFolder, progress: bool = True) -> tuple[pd.DataFrame, np.ndarray, dict]:
    """The scan table with image_hash, its pictures in the same order, and the record of what was read."""
    scans = _scan_set(run, progress)
    pictures = scans.images(run.profile.resize_size, run.profile.crop_to_band, progress=progress)
    table = scans.table.assign(image_hash=scans.table["scan_id"].map(scans.hashes))
    return table, pictures, {"class_names": scans.class_names, "provenance": scans.provenance}


def kept_scans(run: RunFolder, progress: bool = True) -> tuple[pd.DataFrame, dict]:
    """As `read_now`, from the run folder, where pictures that were drawn lie too; runs of a sweep share them."""
    profile, drawn = run.profile, run.dataset in PHANTOMS
    recipe = {"dataset": run.dataset, "data_root": str(run.data_root), "options": asdict(run.options) | {"fold": 0}}
    if drawn:
        recipe |= {
            "seed": run.seed, "patients": profile.phantom_patients, "slices": profile.phantom_slices,
            "size": profile.resize_size,
        }  # fmt: skip

    def make() -> dict:
        table, pictures, record = read_now(run, progress)
        if drawn:
            with atomic_path(run.images_file) as temporary:
                np.save(temporary, pictures)
        with atomic_path(run.table_file) as temporary:
            table.to_csv(temporary, index=False)
        known = read_json(run.provenance_file) if run.provenance_file.exists() else {}
        return record | {key: known[key] for key in ("split_hash",) if key in known}

    record = keep(
        run.provenance_file, recipe, make, code=(phantom_cohort, scanners) if drawn else (), shared=run.shared,
        beside=[run.table_file, *([run.images_file] if drawn else [])],
    )  # fmt: skip
    types = {"scan_id": str, "path": str, "patient": str, "group": str, "eye": str, "slice": "Int64"}
    return pd.read_csv(run.table_file, dtype=types, keep_default_na=False, na_values={"slice": [""]}), record


def _scan_set(run: RunFolder, progress: bool) -> ScanSet:
    options = {"profile": run.profile, "seed": run.seed, "options": run.options, "progress": progress}
    return read_scans(run.dataset, run.data_root, **options)


def kept_pictures(run: RunFolder, table: pd.DataFrame, progress: bool = True) -> np.ndarray:
    """The pictures in the order of the table, a memory map: drawn ones from the run folder, others from the cache."""
    profile = run.profile
    if run.dataset in PHANTOMS:
        return np.load(run.images_file, mmap_mode="r")
    kept = open_pictures(picture_key(table["image_hash"].tolist(), profile.resize_size, profile.crop_to_band))
    if kept is not None:
        return kept
    scans = _scan_set(run, progress)
    changed = set(zip(table["scan_id"], table["image_hash"], strict=True)) ^ set(scans.hashes.items())
    if changed:
        raise ScanError(
            f"the scans in {run.data_root} are no longer those of this run: {len(changed)} differ, such as "
            f"{min(changed)[0]}; choose another run_dir"
        )
    return scans.images(profile.resize_size, profile.crop_to_band, progress=progress)


def pictures_there(run: RunFolder, scan_ids: Collection[str]) -> dict[str, np.ndarray]:
    """scan_id -> picture (R, R) uint8, of scans whose pictures lie in the run folder or the cache; none is made."""
    found = {}
    for table_file, images_file in ((run.table_file, run.images_file), (run.beyond_table_file, run.beyond_images_file)):
        if not table_file.exists():
            continue
        table, profile = pd.read_csv(table_file, comment="#", dtype=str, keep_default_na=False), run.profile
        if images_file.exists():
            images = np.load(images_file, mmap_mode="r")
        else:
            images = open_pictures(picture_key(table["image_hash"].tolist(), profile.resize_size, profile.crop_to_band))
        rows = np.flatnonzero(table["scan_id"].isin(scan_ids)) if images is not None else ()
        found |= {table["scan_id"][row]: np.asarray(images[row]) for row in rows}
    return found


def patients_by_role(run: RunFolder) -> pd.DataFrame:
    """Columns role (in words), patients and scans, of the run's fold; empty where no split was written yet."""
    if not run.splits_file.exists():
        return pd.DataFrame(columns=["role", "patients", "scans"])
    split = pd.read_csv(run.splits_file, keep_default_na=False)
    split = split[split["fold"] == run.options.fold]
    if run.beyond_table_file.exists():
        words = {"test": "test (patients drawn for nothing else)", "clinic": "second clinic"}
        beyond = pd.read_csv(run.beyond_table_file, comment="#").replace({"role": words})
        split = pd.concat([split.replace({"role": {"test": "test of the fold"}}), beyond])
    found = split.groupby("role", sort=False)["group"].agg(["nunique", "size"]).reset_index()
    return found.set_axis(["role", "patients", "scans"], axis=1)


def picture_of_file(run: RunFolder, content: bytes) -> np.ndarray:
    """One more B-scan as the run's networks see theirs: uint8 (R, R). content: of an image file.

    Raises ScanError for a file that is no image of a retina, as far as that can be told.
    """
    frame, _ = clean_frame(decode_image(content, "your file").pixels)
    return to_picture(frame, run.profile.resize_size, crop=run.profile.crop_to_band, clean=True)
