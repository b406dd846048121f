"""UCSD / Kermany: class folders, plain or under train, test and val."""

import re
from pathlib import Path

import pandas as pd

from kdoct_utils.data.files import Source, open_source
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.data.splits import PART
from kdoct_utils.datasets import DATASETS, DataOptions

UCSD_NAME = re.compile(r"([A-Za-z]+)-(\d+)-(\d+)\.jpe?g", re.IGNORECASE)
VERSION_TOLERANCE = 0.01  # share by which the number of images may miss a version's


def read_ucsd(root: Path, options: DataOptions) -> Found:
    """UCSD / Kermany: class folders, in ``data_root`` itself or in its train, test and val folders; or zipped.

    Files are named CLASS-patient-index.jpeg; the number is the patient across classes and parts, so the patient is
    ``ucsd/<number>``. The patient's class is not given apart from the scan's: patient_class repeats the label.
    Further column where the folders train, test and val are there: part ("train", "test", "validation").
    Files whose name breaks the pattern or contradicts the folder are refused and counted.
    """
    source = open_source(root, lambda names: bool(common.places("ucsd", names)))
    starts = common.places("ucsd", source.files())
    if not starts:
        raise common.unexpected_layout("ucsd", root, source.files())
    place = starts[0]
    images, elsewhere = _class_images(source, place)
    found, rows = Found(pd.DataFrame(), source), []
    for part, folder, file in images:
        inside = "/".join(filter(None, (part, folder, file)))
        label = common.class_name(folder, "ucsd", source.where(place + inside))
        match = UCSD_NAME.fullmatch(file)
        if match is None:
            found.refuse("file name is not CLASS-patient-index.jpeg", [inside])
        elif match[1].lower() != label:
            found.refuse("file name and folder name different classes", [inside])
        else:
            scan_id, patient, number = f"ucsd/{inside}", f"ucsd/{match[2]}", int(match[3])
            scan = (scan_id, place + inside, patient, common.UNKNOWN_EYE, number, label, label)
            rows.append((*scan, common.PARTS.get(part.lower(), "")))
    table = pd.DataFrame(rows, columns=[*common.FOUND_COLUMNS, PART])
    if elsewhere:
        found.notes.append(f"{len(elsewhere)} images outside the class folders are not read, such as {elsewhere[0]}")
    found.notes.append("no eye and no class of the whole patient are given: patient_class repeats the label")
    _count(table, found)
    found.table = table if (table[PART] != "").any() else table[common.FOUND_COLUMNS]
    return found


def _class_images(source: Source, place: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Files of the class folders as (part or "", folder, file name), in the order of names; and images elsewhere."""
    names, classes = source.files(), DATASETS["ucsd"].classes
    split = [tuple(name.removeprefix(place).split("/")) for name in names if name.startswith(place)]
    nested = [path for path in split if len(path) == 3 and path[0].lower() in common.PARTS]
    flat = [("", *path) for path in split if len(path) == 2 and path[0].lower() not in common.PARTS]
    parts_used = any(folder.lower() in classes for _, folder, _ in nested)
    # A folder beside real class folders that holds images is an unknown class: class_name makes it an error.
    candidates = nested if parts_used else flat
    images = [path for path in candidates if path[1].lower() in classes or common.is_image(path[2])]
    read = {"/".join(filter(None, path)) for path in images}
    others = (name.removeprefix(place) for name in names)
    return images, [name for name in others if name not in read and common.is_image(name)]


def _count(table: pd.DataFrame, found: Found) -> None:
    """Tell the version by the number of images, and count what is published of it."""
    n = len(table) + sum(map(len, found.refused.values()))
    published = DATASETS["ucsd"].published_counts
    third = published["training scans (version 3)"] + published["test scans (version 3)"]
    of_version = {"2": published["scans (version 2)"], "3": third}
    tested, trained = table[table[PART] == "test"], table[table[PART] != "test"]
    counts = {
        "scans": len(table),
        "patients": table["patient"].nunique(),
        "training scans": len(trained),
        "test scans": len(tested),
        "test patients": tested["patient"].nunique(),
        "patients in train and test": len(set(trained.loc[trained[PART] == "train", "patient"]) & {*tested["patient"]}),
    }
    for version, scans in of_version.items():
        if abs(n - scans) <= VERSION_TOLERANCE * scans:
            found.notes.append(f"version {version}, told from the number of images")
            found.counts = {f"{what} (version {version})": count for what, count in counts.items()}
