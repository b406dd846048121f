"""Bring your own: a CSV file that names scans, labels and patients."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.common import (
    FOUND_COLUMNS,
    OFFICIAL_PART,
    UNKNOWN_EYE,
    Found,
    class_name,
    places,
    read_table,
    refuse_blanks,
    refuse_contradictions,
    slice_numbers,
    unexpected_layout,
)
from kdoct_utils.data.sources import FolderSource
from kdoct_utils.datasets import DataOptions

CSV_NAME = "scans.csv"
CSV_COLUMNS = ["path", "label", "patient"]
CSV_OPTIONAL = ["eye", "slice", "patient_class"]
CSV_PARTS = ("train", "validation", "test")
RESERVED = ("scan_id", "dataset", "group", "target")  # columns of the scan table that the course makes itself


def read_own(root: Path, options: DataOptions) -> Found:
    """Bring your own: a CSV file with the columns path, label and patient, and if you like eye, slice, patient_class,
    and part (train, validation or test) where somebody has fixed the parts already.

    root: the CSV file, or a folder that holds ``scans.csv``. Relative paths start at its folder.
    Further columns are kept under their own names, as strings. Exact duplicate rows are dropped and counted; every
    other fault is an error that names the line.
    """
    csv_path = _csv_file(root)
    folder = csv_path.parent
    table = read_table(csv_path, CSV_COLUMNS)
    refuse_blanks(table, CSV_COLUMNS, csv_path)
    further = _further_columns(table, csv_path)
    for column in CSV_OPTIONAL:
        if column not in table.columns:
            table[column] = table["label"] if column == "patient_class" else ""
    table["path"] = [Path(os.path.normpath(path)).as_posix() for path in table["path"]]
    source = FolderSource(folder, table["path"])
    found = Found(pd.DataFrame(), source)
    repeated = table.duplicated(table.columns.drop("line"))
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    refuse_contradictions(table, "path", csv_path)
    for column in ("label", "patient_class"):
        table[column] = [
            class_name(value, "csv", f"{csv_path}, line {line}, {column}")
            for value, line in zip(table[column], table["line"], strict=True)
        ]
    there = source.files()
    lost = [(line, path) for line, path in zip(table["line"], table["path"], strict=True) if path not in there]
    if lost:
        raise ScanError(f"{csv_path}, line {lost[0][0]}: no such file {lost[0][1]} ({len(lost)} missing in all)")
    table["slice"] = slice_numbers(table, "slice", csv_path)
    table["eye"] = table["eye"].str.upper().replace("", UNKNOWN_EYE)
    table["patient"] = "csv/" + table["patient"]
    table["scan_id"] = "csv/" + table["path"]
    found.table = table[FOUND_COLUMNS + further]
    return found


def _csv_file(root: Path) -> Path:
    if not root.is_dir():
        return root
    if not (root / CSV_NAME).is_file():
        names = FolderSource(root).files()
        tables = [name for name in names if name.lower().endswith(".csv") and "/" not in name]
        because = f"There is no {CSV_NAME}."
        if tables and not places("csv", names):
            because += f" A table of another name is itself the data_root, such as {root / tables[0]}."
        raise unexpected_layout("csv", root, names, because)
    return root / CSV_NAME


def _further_columns(table: pd.DataFrame, csv_path: Path) -> list[str]:
    """Columns beyond those that the course knows, in their order; part is checked, made-up names are refused."""
    further = [column for column in table.columns if column not in {"line", *CSV_COLUMNS, *CSV_OPTIONAL}]
    for column in further:
        if column in RESERVED or column == "":
            what = f"column {column} is made by the course; rename it" if column else "a column has no name"
            raise ScanError(f"{csv_path}: {what}")
    if OFFICIAL_PART in further:
        wrong = table[~table[OFFICIAL_PART].isin(CSV_PARTS)]
        if len(wrong):
            row = wrong.iloc[0]
            raise ScanError(
                f"{csv_path}, line {row['line']}: unknown part {row[OFFICIAL_PART]!r}; valid: {', '.join(CSV_PARTS)}"
            )
    return further
