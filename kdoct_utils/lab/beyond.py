"""Phantom patients beyond the folds: those that only test, and those of a second clinic.

Phantoms are free. So a run on them is tested on patients drawn for nothing else, as many as its profile says, and a
second clinic has as many patients as the run trains on, of the same scanner. Real data have neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kdoct_utils.datasets import DATASETS, PHANTOMS
from kdoct_utils.lab.keep import full_recipe, keep, short_hash
from kdoct_utils.phantom import scanners
from kdoct_utils.phantom.render import phantom_cohort
from kdoct_utils.runs import RunFolder, atomic_path

if TYPE_CHECKING:
    from kdoct_utils.lab.stages import CourseData

# Goes behind a cohort's seeds, so that no patient is in two of them. The second scanner's own number is 20.
STREAMS = {"test": 1, "clinic": 2}


@dataclass(frozen=True)
class Beyond:
    """table: the columns of the scan table but target, and role ("test" or "clinic"), a row per B-scan.

    images: uint8 (n, R, R) in its order. recipe_hash: of all that they follow from.
    """

    table: pd.DataFrame
    images: np.ndarray
    recipe_hash: str


def patients_beyond(run: RunFolder) -> dict[str, int]:
    """Patients of each class by role; empty on real data."""
    if run.dataset not in PHANTOMS or not run.profile.phantom_test_patients:
        return {}
    return {"test": run.profile.phantom_test_patients, "clinic": round(0.64 * run.profile.phantom_patients)}


def draw_beyond(run: RunFolder) -> Beyond | None:
    """The patients beyond the folds, drawn now or taken from the run folder; None on real data.

    Scans that test show their patient's class where the run's options ask that of all scans (``worst_case``); the
    second clinic keeps every scan, with the label that it shows and its patient's class.
    """
    wanted = patients_beyond(run)
    if not wanted:
        return None
    profile = run.profile
    recipe = {"dataset": run.dataset, "seed": run.seed, "patients": wanted, "slices": profile.phantom_slices}
    recipe |= {"size": profile.resize_size, "worst_case": run.options.worst_case}
    recipe = full_recipe(recipe, (phantom_cohort, scanners, _draw))

    def make() -> pd.DataFrame:
        parts = [_draw(run, role, count) for role, count in wanted.items()]
        with atomic_path(run.beyond_images_file) as temporary:
            np.save(temporary, np.concatenate([images for _, images in parts]))
        return pd.concat([table for table, _ in parts], ignore_index=True)

    table = keep(run.beyond_table_file, recipe, make, shared=run.shared, beside=[run.beyond_images_file])
    return Beyond(table, np.load(run.beyond_images_file, mmap_mode="r"), short_hash(recipe))


def join_beyond(data: CourseData, more: Beyond | None) -> CourseData:
    """The data with ``more`` behind the scans of the folds; the fold's own test scans are then "fold test"."""
    if more is None:
        return data
    added = more.table.assign(target=more.table["label"].map(data.class_names.index))
    own = np.where(data.role == "test", "fold test", data.role).astype(object)
    return replace(
        data,
        table=pd.concat([data.table, added[data.table.columns]], ignore_index=True),
        images=np.concatenate([data.images, more.images]),
        role=np.concatenate([own, added["role"].to_numpy(dtype=object)]),
        beyond=more.recipe_hash,
    )


def _draw(run: RunFolder, role: str, patients: int) -> tuple[pd.DataFrame, np.ndarray]:
    profile, own = run.profile, scanners.SCANNERS[run.dataset]
    style = replace(own, name=f"{own.name}/{role}", seed_stream=(*own.seed_stream, STREAMS[role]))
    size, classes = profile.resize_size, DATASETS[run.dataset].classes
    images, table = phantom_cohort(patients, profile.phantom_slices, size, run.seed, classes, style)
    shown = table["patient_class"] == table["label"]
    chosen = np.flatnonzero(shown) if role == "test" and run.options.worst_case else np.arange(len(table))
    scan_ids = [f"{name}/{number:03d}" for name, number in zip(table["patient"], table["slice"], strict=True)]
    paths = [str(number) for number in range(len(table))]
    table = table.assign(scan_id=scan_ids, path=paths, dataset=run.dataset, group=table["patient"], role=role)
    return table.iloc[chosen].reset_index(drop=True), images[chosen]
