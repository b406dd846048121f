"""What identical images tell: which patients are one, which labels contradict each other, which parts share scans."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdoct_utils.data.readers.common import OFFICIAL_PART, UNKNOWN_PATIENT, Found

PAIRS_NAMED = 8  # pairs of patients that a note names before it counts the rest


def link_patients(table: pd.DataFrame, hashes: dict[str, str]) -> pd.Series:
    """The independent group of each row: patients that share a byte-identical image are one, as is who they share
    images with in turn. A group bears the name of its first patient in alphabetical order. Scans whose patient is not
    known are no patient together: each stands for itself, under its scan_id.

    table: with the columns scan_id and patient. hashes: scan_id -> hash of the image. Returns strings, indexed like
    table.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

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

    Columns: patient, twin, scans (distinct images shared), patient_class and twin_class (their patient_class where they
    share; several are joined by "/"), contradictory (whether an image that they share has two patient_classes).
    """
    rows = table.assign(image=table["scan_id"].map(hashes))[["image", "patient", "patient_class"]].drop_duplicates()
    rows = rows[(rows["patient"] != UNKNOWN_PATIENT) & rows["image"].duplicated(keep=False)]
    pairs = rows.merge(rows, on="image", suffixes=("", "_twin"))
    pairs = pairs[pairs["patient"] < pairs["patient_twin"]]
    pairs = pairs.assign(contradictory=pairs["patient_class"] != pairs["patient_class_twin"])

    def joined(classes: pd.Series) -> str:
        return "/".join(sorted(set(classes)))

    return (
        pairs.groupby(["patient", "patient_twin"])
        .agg(
            scans=("image", "nunique"),
            patient_class=("patient_class", joined),
            twin_class=("patient_class_twin", joined),
            contradictory=("contradictory", "any"),
        )
        .reset_index()
        .rename(columns={"patient_twin": "twin"})
    )


def note_links(table: pd.DataFrame, hashes: dict[str, str], found: Found) -> None:
    """Count and note in ``found`` what identical images tell about all scans of a dataset, before any filter.

    table: scan table with the column group; with OFFICIAL_PART, what the published parts share is noted too.
    """
    pairs = linked_pairs(table, hashes)
    contradictory = pairs[pairs["contradictory"]]
    found.counts["linked pairs"] = len(pairs)
    found.counts["patients with contradictory labels"] = len({*contradictory["patient"], *contradictory["twin"]})
    if (table["patient"] != UNKNOWN_PATIENT).any():
        found.counts["groups"] = int(table["group"].nunique())
    _note_identical_images(table, hashes, found)
    for sentence, of in (
        ("patients share images", pairs[~pairs["contradictory"]]),
        ("patients share images and contradict each other in their class", contradictory),
    ):
        if len(of):
            names = [
                f"{row.patient} ({row.patient_class}) = {row.twin} ({row.twin_class}), images shared: {row.scans}"
                for row in of.head(PAIRS_NAMED).itertuples()
            ]
            more = f"; and {len(of) - PAIRS_NAMED} more pairs" if len(of) > PAIRS_NAMED else ""
            found.notes.append(f"{sentence}: {'; '.join(names)}{more}")
    if OFFICIAL_PART in table:
        _note_parts(table, hashes, found)


def _note_identical_images(table: pd.DataFrame, hashes: dict[str, str], found: Found) -> None:
    sets = table.groupby(table["scan_id"].map(hashes))
    copies = sets.size()
    if (copies > 1).any():
        contradictory = int((sets["label"].nunique() > 1).sum())
        found.notes.append(
            f"{int(copies[copies > 1].sum())} scans are byte-identical to another, in {int((copies > 1).sum())} sets; "
            f"{contradictory} sets carry contradictory labels; their patients share a group"
        )


def _note_parts(table: pd.DataFrame, hashes: dict[str, str], found: Found) -> None:
    """How much of the published test part the other parts hold as well: its patients, and its images."""
    in_test = table[OFFICIAL_PART] == "test"
    for what, keys in (("patients", table["patient"]), ("images", table["scan_id"].map(hashes))):
        known = keys != UNKNOWN_PATIENT
        held_out = set(keys[in_test & known])
        shared = held_out & set(keys[~in_test & known])
        if shared:
            share = len(shared) / len(held_out)
            found.notes.append(
                f"{len(shared)} of {len(held_out)} {what} of the test part ({share:.1%}) are in train or validation too"
            )
