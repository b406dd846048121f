"""What the readers share: the record of what was found, spellings of classes, and tables read from CSV files."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kdoct_utils.data.files import Source
from kdoct_utils.data.images import ScanError
from kdoct_utils.datasets import DATASETS

PARTS = {"train": "train", "val": "validation", "test": "test"}  # as publishers call them -> as the course does
UNKNOWN_EYE = "unknown"
UNKNOWN_PATIENT = ""  # a dataset that gives no patients cannot be split by patient; splits.make_splits refuses it
FOUND_COLUMNS = ["scan_id", "path", "patient", "eye", "slice", "patient_class", "label"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

NAMES_SHOWN = 4  # files in a message
_UCSD_FOLDERS = "(?:CNV|DME|DRUSEN|NORMAL)"
# One file name that only this dataset has: how a layout is recognized wherever it lies, up to four folders deep.
_SIGNS = {
    dataset: re.compile(rf"(?P<place>(?:[^/]+/){{0,4}}?){name}", re.IGNORECASE)
    for dataset, name in {
        "neh": r"data_information\.csv",
        "ucsd": rf"(?:(?:train|test|val)/)?{_UCSD_FOLDERS}/{_UCSD_FOLDERS}-\d+-\d+\.jpe?g",
        "octdl": r"OCTDL_labels\.csv",
    }.items()
}


@dataclass
class Found:
    """What a reader found in its ``source``.

    table: DataFrame of FOUND_COLUMNS, and of any further ones the dataset has (such as splits.PART); path names a
    file of the source. refused: reason -> rows or files that were left out for it. notes: what else a user of the
    data should know. counts: what was counted on the way, under the names of DatasetInfo.published_counts.
    """

    table: pd.DataFrame
    source: Source | None  # None: drawn, not read
    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str, names: Iterable[str]) -> None:
        """Record rows or files that were left out."""
        if names := sorted(names):
            self.refused.setdefault(reason, []).extend(names)


def is_image(name: str) -> bool:
    """Whether a file is called as an image is."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def places(dataset: str, names: Iterable[str]) -> list[str]:
    """The folders in which a dataset's layout begins, judged by file names: "" or "a/b/", the shallowest first."""
    found = {match["place"] for match in map(_SIGNS[dataset].fullmatch, names) if match}
    return sorted(found, key=lambda place: (place.count("/"), place))


def unexpected_layout(dataset: str, root: Path, names: Iterable[str], because: str = "") -> ScanError:
    """The error for a data_root that is not laid out as its dataset is: what is expected, what was found instead,
    and where the dataset is to be had.

    names: of all files under root, relative, with forward slashes. because: a sentence on what lacks, if known.
    """
    names, info = sorted(names, key=lambda name: (name.count("/"), name)), DATASETS[dataset]
    such = f", such as {', '.join(names[:NAMES_SHOWN])}" if names else ""
    lines = [f"{root} is not laid out as {dataset} is. {because}".rstrip(), f"  expected: {info.layout}"]
    lines.append(f"  found: {len(names)} files{such}")
    if info.url:
        lines.append(f"  {info.title} is to be had at {info.url} (license: {info.license}; cite {info.citation})")
        lines += [f"  {info.download}"] if info.download else []
    return ScanError("\n".join(lines))


def class_name(spelling: object, dataset: str, where: str) -> str:
    """The course's name of a class, however it is spelled. Raises ScanError for any other."""
    name = str(spelling).strip().lower()
    valid = DATASETS[dataset].classes
    if name not in valid:
        raise ScanError(f"{where}: unknown label {spelling!r}; valid labels for {dataset}: {', '.join(valid)}")
    return name


# --- tables ----------------------------------------------------------------------------------------------------------


def nearest_table(dataset: str, file_name: str, source: Source) -> str:
    """The table of that name, in any letter case, that lies nearest to the root.

    Raises ScanError if there is none, or several are equally near.
    """
    names = source.files()
    tables = [name for name in names if f"/{name}".lower().endswith(f"/{file_name}".lower())]
    nearest = [name for name in tables if name.count("/") == min(one.count("/") for one in tables)]
    if len(nearest) > 1:
        raise ScanError(f"{source.root} holds {', '.join(nearest)}; data_root must hold one of them")
    if not nearest:
        raise unexpected_layout(dataset, source.root, names, f"There is no {file_name}.")
    return nearest[0]


def parse_table(content: bytes, where: str, required: list[str], filled: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV file as stripped strings, with the further column ``line``: each row's line in the file.

    where: what messages call the file. required: columns. filled: those that no row may leave empty. Blank lines are
    no rows.
    Raises ScanError, naming file and line, if it is no UTF-8 text separated by commas, a row has more or fewer fields
    than the header, a field holds a line break (a quote that is not closed), a column lacks or occurs twice, or there
    are no rows.
    """
    lines, rows = [], []
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append([field.strip() for field in fields])
                lines.append(reader.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        line = content.count(b"\n", 0, error.start) + 1 if isinstance(error, UnicodeError) else reader.line_num
        raise ScanError(f"{where}, line {line}: cannot be read as a CSV file in UTF-8 ({error})") from error
    columns = rows[0] if rows else []
    missing = [column for column in required if column not in columns]
    if missing:
        raise ScanError(
            f"{where}: wrong columns, {', '.join(missing)} not found; required: {', '.join(required)}, separated by "
            f"commas; found: {', '.join(columns) or 'none'}"
        )
    for line, fields in zip(lines, rows, strict=True):
        if len(fields) != len(columns):
            raise ScanError(f"{where}, line {line}: {len(fields)} fields, the header has {len(columns)}")
        if any("\n" in field or "\r" in field or "\0" in field for field in fields):
            raise ScanError(f"{where}, line {line}: a line break or a zero byte in a field; is a quote missing?")
    if len({*columns, "line"}) <= len(columns):
        raise ScanError(f"{where}: a column occurs twice, or is called line; found: {', '.join(columns)}")
    if len(rows) < 2:
        raise ScanError(f"{where}: no rows")
    table = pd.DataFrame(rows[1:], columns=columns, dtype=object).assign(line=lines[1:])
    for column in filled:
        check_rows(table, table[column] == "", where, f"{column} is empty")
    return table


def check_rows(table: pd.DataFrame, wrong: pd.Series, where: str, problem: str) -> None:
    """Raise ScanError for the first row that is wrong. problem: in which columns may be named, as in {eye!r}."""
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ScanError(f"{where}, line {row['line']}: {problem.format(**row)}")


def class_column(table: pd.DataFrame, column: str, dataset: str, where: str) -> list[str]:
    """The course's names of the classes in a column. Raises ScanError, naming the line, for any other."""
    spelled = zip(table[column], table["line"], strict=True)
    return [class_name(value, dataset, f"{where}, line {line}, {column}") for value, line in spelled]


def whole_numbers(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """A column as Int64, missing where it is empty. Raises ScanError for anything else."""
    numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
    wrong = (table[column] != "") & (numbers.isna() | (numbers % 1 != 0))
    check_rows(table, wrong, where, f"{column} {{{column}!r}} is not a whole number")
    return numbers.astype("Int64")


def without_copies(table: pd.DataFrame, columns: list[str], key: str, found: Found, where: str) -> pd.DataFrame:
    """The table without rows that repeat another in these columns, which are counted as refused.

    Raises ScanError where two of the others have the same key, such as a path.
    """
    repeated = table.duplicated(columns)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    refuse_contradictions(table[~repeated], key, where)
    return table[~repeated].copy()


def refuse_contradictions(table: pd.DataFrame, key: str, where: str) -> None:
    """Raise ScanError where two rows name one file."""
    twice = table[table[key].duplicated(keep=False)].sort_values([key, "line"])
    if len(twice):
        first, second = twice["line"].iloc[:2]
        raise ScanError(
            f"{where}, lines {first} and {second}: {twice[key].iloc[0]} is listed twice, with different entries"
        )
