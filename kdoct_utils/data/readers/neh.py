"""NEH: the Noor Eye Hospital set as published, a CSV file beside class folders, extracted or still zipped."""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from kdoct_utils.data.files import open_source
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.datasets import DataOptions

NEH_TABLE = "data_information.csv"
NEH_COLUMNS = ["Patient ID", "Class", "Eye", "B-scan", "Label", "Directory"]
NEH_CLASSES = ("normal", "drusen", "cnv")
_CASE_IMAGE = re.compile(
    rf"(?P<place>(?:.*/)?)(?:{'|'.join(NEH_CLASSES)})/[^/]+/(?:O[DS]/)?[^/]+(?:{'|'.join(common.IMAGE_SUFFIXES)})",
    re.IGNORECASE,
)


def read_neh(root: Path, options: DataOptions) -> Found:
    """Noor Eye Hospital: ``data_information.csv`` and the class folders.

    root: the folder as published, a folder or archive around it, or the published zip within a zip.
    A patient number is unique only within its class folder, so the patient is ``neh/<Class>/<Patient ID>``.
    Exact duplicate rows are dropped. A path without a file is looked up with letter case ignored; if the file it
    then names has a row of its own, the odd row is refused as a duplicate; if there is no such file, it is refused.
    """
    source = open_source(root, _complete)
    table_name = common.nearest_table("neh", NEH_TABLE, source)
    where = source.where(table_name)
    filled = ["Patient ID", "Class", "Label", "Directory"]
    table = common.parse_table(source.read(table_name), where, NEH_COLUMNS, filled)
    table["Directory"] = table["Directory"].str.replace("\\", "/")
    for column in ("Class", "Label"):
        table[column.lower()] = common.class_column(table, column, "neh", where)
    table["slice"] = common.whole_numbers(table, "B-scan", where)
    names = source.files()
    place = _image_place(root, names, table["Directory"])
    files = [name.removeprefix(place) for name in names if name.startswith(place)]

    found = Found(table, source)
    distinct = common.without_copies(table, NEH_COLUMNS, "Directory", found, where)
    rows, table = table, _resolve_files(distinct, files, found, where)
    found.counts = _counts(rows, distinct["Directory"].isin(files), table)
    images = set(filter(_CASE_IMAGE.fullmatch, files))
    found.refuse("image without a row in the table", images - set(table["file"]))
    found.table = table.assign(
        scan_id="neh/" + table["file"],
        path=place + table["file"],
        patient="neh/" + table["class"].str.upper() + "/" + table["Patient ID"],
        eye=table["Eye"].str.upper().replace("", common.UNKNOWN_EYE),
        patient_class=table["class"],
    )[common.FOUND_COLUMNS]
    return found


def _complete(names: Collection[str]) -> bool:
    return bool(common.places("neh", names)) and any(map(_CASE_IMAGE.fullmatch, names))


def _image_place(root: Path, names: Collection[str], directories: pd.Series) -> str:
    """The folder that the table's paths start from: of all that hold class folders, the one with most of its images."""
    listed = set(directories.str.lower())
    matches = [match for match in map(_CASE_IMAGE.fullmatch, names) if match]
    held = Counter(match["place"] for match in matches if match[0].removeprefix(match["place"]).lower() in listed)
    if not held:
        because = f"None of the {len(listed)} images that {NEH_TABLE} lists is there, such as {directories.iloc[0]}."
        raise common.unexpected_layout("neh", root, names, because)
    return min(held, key=lambda place: (-held[place], place.count("/"), place))


def _resolve_files(table: pd.DataFrame, files: list[str], found: Found, where: str) -> pd.DataFrame:
    """Add the column ``file``: the real spelling of each row's file. Rows without one are refused and counted."""
    by_lower = {name.lower(): name for name in files}
    exact = table["Directory"].isin(files)
    table["file"] = table["Directory"].where(exact, table["Directory"].str.lower().map(by_lower)).tolist()
    lost = table["file"].isna()
    found.refuse("no such file", table.loc[lost, "Directory"])
    taken = ~exact & table["file"].isin(table.loc[exact, "file"])
    found.refuse("another row's file in another letter case", table.loc[taken, "Directory"])
    table = table[~lost & ~taken]
    common.refuse_contradictions(table, "file", where)
    return table


def _counts(rows: pd.DataFrame, with_file: pd.Series, scans: pd.DataFrame) -> dict[str, int]:
    """What DatasetInfo.published_counts has. rows: as published; with_file: of the distinct ones; scans: as read."""
    passed = Counter(rows.loc[rows["class"] == rows["label"], "label"])
    patients = scans["class"] + "/" + scans["Patient ID"]
    pairs = Counter(zip(scans["class"], scans["label"], strict=True))
    return {
        "rows": len(rows),
        "worst-case rows": passed.total(),
        **{f"worst-case rows, {name}": passed[name] for name in NEH_CLASSES},
        "exact duplicate rows": len(rows) - len(with_file),
        "paths without a file": int((~with_file).sum()),
        "scans": len(scans),
        "patients": patients.nunique(),
        "eyes": (patients + " " + scans["Eye"]).nunique(),
        "worst-case scans": sum(pairs[name, name] for name in NEH_CLASSES),
        **{f"{name.upper()} folder, {of} label": pairs[name, of] for name in NEH_CLASSES for of in NEH_CLASSES},
    }
