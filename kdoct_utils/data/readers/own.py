"""Bring your own: a CSV file that names scans, labels and patients."""

import os
from pathlib import Path

from kdoct_utils.data.files import Source
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.data.splits import PART, ROLES
from kdoct_utils.datasets import DataOptions

CSV_NAME = "scans.csv"
CSV_COLUMNS = ["path", "label", "patient"]
CSV_OPTIONAL = ["eye", "slice", "patient_class"]
RESERVED = ("scan_id", "dataset", "group", "target")  # columns of the scan table that the course makes itself


def read_own(root: Path, options: DataOptions) -> Found:
    """Bring your own: a CSV file with the columns path, label and patient, and if you like eye, slice, patient_class,
    and part (train, validation or test) where somebody has fixed the parts already.

    root: the CSV file, or a folder that holds ``scans.csv``. Relative paths start at its folder.
    Further columns are kept under their own names, as strings. Exact duplicate rows are dropped and counted; every
    other fault is an error that names the line.
    """
    csv_path = root / CSV_NAME if root.is_dir() else root
    if not csv_path.is_file():
        because = f"There is no {CSV_NAME}; a table of another name is itself the data_root."
        raise common.unexpected_layout("csv", root, Source.of_folder(root).files(), because)
    where = str(csv_path)
    table = common.parse_table(csv_path.read_bytes(), where, CSV_COLUMNS, filled=CSV_COLUMNS)
    further = [column for column in table.columns if column not in {"line", *CSV_COLUMNS, *CSV_OPTIONAL}]
    for column in set(further) & set(RESERVED):
        raise ScanError(f"{where}: column {column} is made by the course; rename it")
    if PART in further:
        wrong = ~table[PART].isin(ROLES)
        common.check_rows(table, wrong, where, f"unknown part {{{PART}!r}}; valid: {', '.join(ROLES)}")
    for column in CSV_OPTIONAL:
        if column not in table.columns:
            table[column] = table["label"] if column == "patient_class" else ""
    table["path"] = [Path(os.path.normpath(path)).as_posix() for path in table["path"]]
    found = Found(table, Source(csv_path.parent, {path: csv_path.parent / path for path in table["path"]}))
    table = common.without_copies(table, table.columns.drop("line"), "path", found, where)
    for column in ("label", "patient_class"):
        table[column] = common.class_column(table, column, "csv", where)
    lost = ~table["path"].isin(found.source.files())
    common.check_rows(table, lost, where, f"no such file {{path}} ({lost.sum()} missing in all)")
    table["slice"] = common.whole_numbers(table, "slice", where)
    table["eye"] = table["eye"].str.upper().replace("", common.UNKNOWN_EYE)
    table["patient"] = "csv/" + table["patient"]
    table["scan_id"] = "csv/" + table["path"]
    found.table = table[common.FOUND_COLUMNS + further]
    return found
