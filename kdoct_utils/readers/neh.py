"""NEH: the Noor Eye Hospital set as published, a CSV file beside class folders."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pandas as pd

from kdoct_utils.bands import ScanError
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.readers.common import (
    UNKNOWN_EYE,
    Found,
    class_name,
    read_table,
    refuse_blanks,
    refuse_contradictions,
    slice_numbers,
)
from kdoct_utils.sources import FolderSource

NEH_TABLE = "data_information.csv"
NEH_IMAGES = "NEH_UT_2021RetinalOCTDataset"
NEH_COLUMNS = ["Patient ID", "Class", "Eye", "B-scan", "Label", "Directory"]


def read_neh(root: Path, options: DataOptions) -> Found:
    """Noor Eye Hospital: ``data_information.csv`` and the class folders.

    A patient number is unique only within its class folder, so the patient is ``neh/<Class>/<Patient ID>``.
    Exact duplicate rows are dropped. A path without a file is looked up with letter case ignored; if the file it
    then names has a row of its own, the odd row is refused as a duplicate; if there is no such file, it is refused.
    """
    csv_path = root / NEH_TABLE
    table = read_table(csv_path, NEH_COLUMNS)
    refuse_blanks(table, ["Patient ID", "Class", "Label", "Directory"], csv_path)
    source = FolderSource(root)
    prefix = NEH_IMAGES + "/" if (root / NEH_IMAGES).is_dir() else ""
    files = [name.removeprefix(prefix) for name in source.files() if name.startswith(prefix)]
    found = Found(pd.DataFrame(), source)

    repeated = table.duplicated(NEH_COLUMNS)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    table["Directory"] = table["Directory"].str.replace("\\", "/")
    for column in ("Class", "Label"):
        names = [
            class_name(value, "neh", f"{csv_path}, line {line}, {column}")
            for value, line in zip(table[column], table["line"], strict=True)
        ]
        table[column.lower()] = names
    table["slice"] = slice_numbers(table, "B-scan", csv_path)
    refuse_contradictions(table, "Directory", csv_path)
    table = _resolve_files(table, files, found, csv_path)

    spelled = table["file"].str.extract(r"_([A-Za-z]+)\.[A-Za-z]+$")[0].str.lower()
    differ = int((spelled.notna() & (spelled != table["label"])).sum())
    if differ:
        found.notes.append(f"{differ} file names carry another label than their row; the row's label counts")
    found.table = pd.DataFrame(
        {
            "scan_id": "neh/" + table["file"],
            "path": [str(PurePosixPath(prefix, file)) for file in table["file"]],
            "patient": "neh/" + table["class"].str.upper() + "/" + table["Patient ID"],
            "eye": table["Eye"].str.upper().replace("", UNKNOWN_EYE),
            "slice": table["slice"],
            "patient_class": table["class"],
            "label": table["label"],
        }
    )
    return found


def _resolve_files(table: pd.DataFrame, files: list[str], found: Found, csv_path: Path) -> pd.DataFrame:
    """Add the column ``file``: the real spelling of each row's file. Rows without one are refused and counted."""
    exact = set(files)
    by_case: dict[str, list[str]] = {}
    for file in files:
        by_case.setdefault(file.lower(), []).append(file)

    def real_name(directory: str) -> str | None:
        candidates = by_case.get(directory.lower(), [])
        if directory in exact:
            return directory
        return candidates[0] if len(candidates) == 1 else None

    table = table.assign(file=[real_name(directory) for directory in table["Directory"]])
    lost = table["file"].isna()
    found.refuse("no such file", table.loc[lost, "Directory"].tolist())
    if lost.all():
        raise ScanError(
            f"{csv_path}: none of the {len(table)} images it lists is there, the first is "
            f"{table['Directory'].iloc[0]}; expected: {DATASETS['neh'].layout}"
        )
    table = table[~lost]
    odd = table["file"] != table["Directory"]
    taken = odd & table["file"].isin(set(table.loc[~odd, "file"]))
    found.refuse("another row's file in another letter case", table.loc[taken, "Directory"].tolist())
    table = table[~taken]
    refuse_contradictions(table, "file", csv_path)
    if (odd & ~taken).any():
        found.notes.append(f"{int((odd & ~taken).sum())} paths were found under another letter case")
    return table
