"""One reader for each dataset's layout on disk; ``scans.read_scans`` makes the scan table from what they find.

A reader lists every scan with its own label and the patient's class, and says what it refused and why. It guesses
nothing: a label that it does not know is an error, never a class.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from kdoct_utils.bands import ScanError
from kdoct_utils.datasets import DATASETS

UNKNOWN_EYE = "unknown"
FOUND_COLUMNS = ["scan_id", "path", "patient", "eye", "slice", "patient_class", "label"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

NEH_TABLE = "data_information.csv"
NEH_IMAGES = "NEH_UT_2021RetinalOCTDataset"
NEH_COLUMNS = ["Patient ID", "Class", "Eye", "B-scan", "Label", "Directory"]
UCSD_PARTS = ("train", "test", "val")
UCSD_NAME = re.compile(r"([A-Za-z]+)-(\d+)-(\d+)\.jpe?g", re.IGNORECASE)
CSV_NAME = "scans.csv"
CSV_COLUMNS = ["path", "label", "patient"]
CSV_OPTIONAL = ["eye", "slice", "patient_class"]


@dataclass
class Found:
    """What a reader found under ``root``.

    table: DataFrame of FOUND_COLUMNS; path is relative to root (or absolute, where a csv says so).
    refused: reason -> rows or files that were left out for it. notes: what else a user of the data should know.
    """

    table: pd.DataFrame
    root: Path
    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, reason: str, names: list[str]) -> None:
        """Record rows or files that were left out."""
        if names:
            self.refused.setdefault(reason, []).extend(sorted(names))


def _class_name(spelling: object, dataset: str, where: str) -> str:
    """The course's name of a class, however it is spelled. Raises ScanError for any other."""
    name = str(spelling).strip().lower()
    valid = DATASETS[dataset].classes
    if name not in valid:
        raise ScanError(f"{where}: unknown label {spelling!r}; valid labels for {dataset}: {', '.join(valid)}")
    return name


def _read_table(path: Path, required: list[str]) -> pd.DataFrame:
    """A CSV file as strings, with the column ``line``: its line in the file.

    Raises ScanError if it is missing, malformed or empty, or columns lack.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except FileNotFoundError as error:
        raise ScanError(f"{path}: no such file") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ScanError(f"{path}: cannot be read as a CSV file ({error})") from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise ScanError(
            f"{path}: wrong columns, {', '.join(missing)} not found; "
            f"required: {', '.join(required)}; found: {', '.join(table.columns)}"
        )
    table = table.apply(lambda column: column.str.strip())
    table["line"] = range(2, len(table) + 2)  # the header is line 1
    table = table[(table[required] != "").any(axis=1)]  # blank lines are not rows
    if table.empty:
        raise ScanError(f"{path}: no rows")
    return table


def _refuse_blanks(table: pd.DataFrame, columns: list[str], path: Path) -> None:
    for column in columns:
        blank = table.loc[table[column] == "", "line"]
        if len(blank):
            raise ScanError(f"{path}, line {blank.iloc[0]}: {column} is empty")


def _slice_numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
    wrong = table[(table[column] != "") & (numbers.isna() | (numbers % 1 != 0))]
    if len(wrong):
        row = wrong.iloc[0]
        raise ScanError(f"{path}, line {row['line']}: {column} {row[column]!r} is not a whole number")
    return numbers.astype("Int64")


def _refuse_contradictions(table: pd.DataFrame, column: str, path: Path) -> None:
    """Rows that name one file must agree in everything; identical rows are gone before this is called."""
    twice = table[table[column].duplicated(keep=False)].sort_values([column, "line"])
    if len(twice):
        first, second = twice.iloc[0], twice.iloc[1]
        raise ScanError(
            f"{path}, lines {first['line']} and {second['line']}: {first[column]} is listed twice, "
            "with different entries"
        )


def _files_under(folder: Path) -> list[str]:
    """Relative paths of all files, with forward slashes, sorted: the same whatever the file system's order."""
    files = []
    for parent, _, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        files += [(relative / name).as_posix() for name in names]
    return sorted(files)


def read_neh(root: Path) -> Found:
    """Noor Eye Hospital: ``data_information.csv`` and the class folders.

    A patient number is unique only within its class folder, so the patient is ``neh/<Class>/<Patient ID>``.
    Exact duplicate rows are dropped. A path without a file is looked up with letter case ignored; if the file it
    then names has a row of its own, the odd row is refused as a duplicate; if there is no such file, it is refused.
    """
    csv_path = root / NEH_TABLE
    table = _read_table(csv_path, NEH_COLUMNS)
    _refuse_blanks(table, ["Patient ID", "Class", "Label", "Directory"], csv_path)
    images = root / NEH_IMAGES if (root / NEH_IMAGES).is_dir() else root
    prefix = NEH_IMAGES if images != root else ""
    found = Found(pd.DataFrame(), root)

    repeated = table.duplicated(NEH_COLUMNS)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    table["Directory"] = table["Directory"].str.replace("\\", "/")
    for column in ("Class", "Label"):
        names = [
            _class_name(value, "neh", f"{csv_path}, line {line}, {column}")
            for value, line in zip(table[column], table["line"], strict=True)
        ]
        table[column.lower()] = names
    table["slice"] = _slice_numbers(table, "B-scan", csv_path)
    _refuse_contradictions(table, "Directory", csv_path)
    table = _resolve_files(table, _files_under(images), found, csv_path)

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
    _refuse_contradictions(table, "file", csv_path)
    if (odd & ~taken).any():
        found.notes.append(f"{int((odd & ~taken).sum())} paths were found under another letter case")
    return table


def read_ucsd(root: Path) -> Found:
    """UCSD / Kermany: class folders, in ``data_root`` itself or in its train, test and val folders.

    Files are named CLASS-patient-index.jpeg; the number is the patient across classes and parts, so the patient is
    ``ucsd/<number>``. The patient's class is not given apart from the scan's: patient_class repeats the label.
    Files whose name breaks the pattern or contradicts the folder are refused and counted.
    """
    folders = _ucsd_class_folders(root)
    found = Found(pd.DataFrame(), root)
    rows = []
    empty = set(folders.values())
    for folder, label in folders.items():
        for file in sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            path = (folder / file).relative_to(root).as_posix()
            match = UCSD_NAME.fullmatch(file)
            if match is None:
                found.refuse("file name is not CLASS-patient-index.jpeg", [path])
            elif match[1].lower() != label:
                found.refuse("file name and folder name different classes", [path])
            else:
                rows.append((f"ucsd/{path}", path, f"ucsd/{match[2]}", UNKNOWN_EYE, int(match[3]), label, label))
                empty.discard(label)
    if empty:
        raise ScanError(f"{root}: no scans in the folders of class {', '.join(sorted(empty))}")
    found.table = pd.DataFrame(rows, columns=FOUND_COLUMNS)
    found.notes.append("no eye and no class of the whole patient are given: patient_class repeats the label")
    return found


def _ucsd_class_folders(root: Path) -> dict[Path, str]:
    """Class folder -> class name, for either layout, in sorted order. Raises ScanError for anything else."""
    inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    parts = [path for path in inside if path.name.lower() in UCSD_PARTS]
    folders, others = {}, []
    for parent in parts or [root]:
        for folder in sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if folder.name.lower() in DATASETS["ucsd"].classes:
                folders[folder] = folder.name.lower()
            elif any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
                others.append(folder)
    mixed = parts and any(path.name.lower() in DATASETS["ucsd"].classes for path in inside)
    if mixed or not folders:
        names = ", ".join(path.name for path in inside[:8]) or "no folders"
        raise ScanError(f"{root} holds {names}; expected: {DATASETS['ucsd'].layout}")
    for folder in others:
        _class_name(folder.name, "ucsd", str(folder))  # beside real class folders it is an unknown class: an error
    return folders


def read_csv(root: Path) -> Found:
    """Bring your own: a CSV file with the columns path, label and patient, and if you like eye, slice, patient_class.

    root: the CSV file, or a folder that holds ``scans.csv``. Relative paths start at its folder.
    Exact duplicate rows are dropped and counted; every other fault is an error that names the line.
    """
    csv_path = root / CSV_NAME if root.is_dir() else root
    folder = csv_path.parent
    table = _read_table(csv_path, CSV_COLUMNS)
    _refuse_blanks(table, CSV_COLUMNS, csv_path)
    for column in CSV_OPTIONAL:
        if column not in table.columns:
            table[column] = table["label"] if column == "patient_class" else ""
    found = Found(pd.DataFrame(), folder)
    table["path"] = [os.path.normpath(path) for path in table["path"]]
    repeated = table.duplicated(CSV_COLUMNS + CSV_OPTIONAL)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    _refuse_contradictions(table, "path", csv_path)
    for column in ("label", "patient_class"):
        table[column] = [
            _class_name(value, "csv", f"{csv_path}, line {line}, {column}")
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
    table["slice"] = _slice_numbers(table, "slice", csv_path)
    table["eye"] = table["eye"].str.upper().replace("", UNKNOWN_EYE)
    table["patient"] = "csv/" + table["patient"]
    table["path"] = [Path(path).as_posix() for path in table["path"]]
    table["scan_id"] = "csv/" + table["path"]
    found.table = table[FOUND_COLUMNS]
    return found


# Datasets that are registered without a reader are refused by name in scans.read_scans.
READERS = {"neh": read_neh, "ucsd": read_ucsd, "csv": read_csv}
