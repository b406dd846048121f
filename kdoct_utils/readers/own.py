"""Bring your own: a CSV file that names scans, labels and patients."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from kdoct_utils.bands import ScanError
from kdoct_utils.datasets import DataOptions
from kdoct_utils.readers.common import (
    FOUND_COLUMNS,
    UNKNOWN_EYE,
    Found,
    class_name,
    read_table,
    refuse_blanks,
    refuse_contradictions,
    slice_numbers,
)
from kdoct_utils.sources import FolderSource

CSV_NAME = "scans.csv"
CSV_COLUMNS = ["path", "label", "patient"]
CSV_OPTIONAL = ["eye", "slice", "patient_class"]


def read_own(root: Path, options: DataOptions) -> Found:
    """Bring your own: a CSV file with the columns path, label and patient, and if you like eye, slice, patient_class.

    root: the CSV file, or a folder that holds ``scans.csv``. Relative paths start at its folder.
    Exact duplicate rows are dropped and counted; every other fault is an error that names the line.
    """
    csv_path = root / CSV_NAME if root.is_dir() else root
    folder = csv_path.parent
    table = read_table(csv_path, CSV_COLUMNS)
    refuse_blanks(table, CSV_COLUMNS, csv_path)
    for column in CSV_OPTIONAL:
        if column not in table.columns:
            table[column] = table["label"] if column == "patient_class" else ""
    found = Found(pd.DataFrame(), FolderSource(folder))
    table["path"] = [os.path.normpath(path) for path in table["path"]]
    repeated = table.duplicated(CSV_COLUMNS + CSV_OPTIONAL)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    refuse_contradictions(table, "path", csv_path)
    for column in ("label", "patient_class"):
        table[column] = [
            class_name(value, "csv", f"{csv_path}, line {line}, {column}")
            for value, line in zip(table[column], table["line"], strict=True)
        ]
    there = [(folder / path).is_file() for path in table["path"]]
    lost = list(table.loc[np.logical_not(there), ["line", "path"]].itertuples(index=False, name=None))
    if lost:
        raise ScanError(f"{csv_path}, line {lost[0][0]}: no such file {lost[0][1]} ({len(lost)} missing in all)")
    known = {"line", *CSV_COLUMNS, *CSV_OPTIONAL}
    ignored = [column for column in table.columns if column not in known]
    if ignored:
        found.notes.append(f"columns not used: {', '.join(ignored)}")
    table["slice"] = slice_numbers(table, "slice", csv_path)
    table["eye"] = table["eye"].str.upper().replace("", UNKNOWN_EYE)
    table["patient"] = "csv/" + table["patient"]
    table["path"] = [Path(path).as_posix() for path in table["path"]]
    table["scan_id"] = "csv/" + table["path"]
    found.table = table[FOUND_COLUMNS]
    return found
