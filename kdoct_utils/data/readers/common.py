"""What the readers share: the record of what was found, spellings of classes, and tables read from CSV files."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from kdoct_utils.data.files import Source
from kdoct_utils.data.images import ScanError
from kdoct_utils.datasets import DATASETS

PARTS = {"train": "train", "val": "validation", "test": "test"}  # as publishers call them -> as the course does
UNKNOWN_EYE = "unknown"
UNKNOWN_PATIENT = ""  # a dataset that gives no patients cannot be split by patient; splits.make_splits refuses it
FOUND_COLUMNS = ["scan_id", "path", "patient", "eye", "slice", "patient_class", "label"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

NAMES_SHOWN = 4  # folders or files that a message names before it counts the rest
_UCSD_FOLDERS = "(?:CNV|DME|DRUSEN|NORMAL)"
# One file name that only this dataset has: how a layout is recognized wherever it lies, up to four folders deep.
_SIGNS = {
    dataset: re.compile(rf"(?P<place>(?:[^/]+/){{0,4}}?){name}", re.IGNORECASE)
    for dataset, name in {
        "neh": r"data_information\.csv",
        "ucsd": rf"(?:(?:train|test|val)/)?{_UCSD_FOLDERS}/{_UCSD_FOLDERS}-\d+-\d+\.jpe?g",
        "octmnist": r"octmnist(?:_\d+)?\.npz",
        "octdl": r"OCTDL_labels\.csv",
        "csv": r"scans\.csv",
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
    where it seems to lie, and where the dataset is to be had.

    names: of all files under root, relative, with forward slashes. because: a sentence on what lacks, if known.
    """
    names, info = sorted(names), DATASETS[dataset]
    lines = [f"{root} is not laid out as {dataset} is." + (f" {because}" if because else "")]
    lines += [f"  expected: {info.layout}", f"  found: {_summary(names)}"]
    deeper = [place for place in places(dataset, names) if place]
    others = [(name, place) for name in _SIGNS if name != dataset for place in places(name, names)[:1]]
    if deeper:
        lines.append(f"  {dataset} seems to lie deeper: data_root {root / deeper[0]}")
    else:
        lines += [f"  it looks like {name}: dataset {name}, data_root {root / place}" for name, place in others]
    if info.url:
        lines.append(f"  {info.title} is to be had at {info.url} (license: {info.license}; cite {info.citation})")
        lines += [f"  {info.download}"] if info.download else []
    return ScanError("\n".join(lines))


def _summary(names: list[str]) -> str:
    """What lies under a folder in one line: folders and files of its first level, images by suffix."""

    def some(kind: str, of: list[str]) -> str:
        shown = ", ".join(of[:NAMES_SHOWN]) + (", ..." if len(of) > NAMES_SHOWN else "")
        return f"{len(of)} {kind}{'s' if len(of) > 1 else ''} ({shown})" if of else f"no {kind}s"

    if not names:
        return "no files"
    folders = some("folder", sorted({name.split("/")[0] for name in names if "/" in name}))
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    images = ", ".join(f"{suffixes[suffix]} {suffix}" for suffix in IMAGE_SUFFIXES if suffixes[suffix]) or "none"
    return f"{folders}, {some('file', [name for name in names if '/' not in name])}; images: {images}"


def class_name(spelling: object, dataset: str, where: str) -> str:
    """The course's name of a class, however it is spelled. Raises ScanError for any other."""
    name = str(spelling).strip().lower()
    valid = DATASETS[dataset].classes
    if name not in valid:
        raise ScanError(f"{where}: unknown label {spelling!r}; valid labels for {dataset}: {', '.join(valid)}")
    return name


# --- tables ----------------------------------------------------------------------------------------------------------


def nearest_table(dataset: str, file_name: str, source: Source) -> str:
    """The table of that name, in any letter case, that lies nearest to the source's root.

    Raises ScanError if there is none, or several equally near.
    """
    names = source.files()
    tables = [name for name in names if PurePosixPath(name).name.lower() == file_name.lower()]
    tables = [name for name in tables if name.count("/") == min(table.count("/") for table in tables)]
    if not tables:
        raise unexpected_layout(dataset, source.root, names, f"There is no {file_name}.")
    if len(tables) > 1:
        found = ", ".join(tables)
        raise ScanError(f"{source.root} holds {len(tables)} tables, {found}; data_root must hold one of them")
    return tables[0]


def parse_table(content: bytes, where: str, required: list[str], filled: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV file as stripped strings, with the further column ``line``: each row's line in the file.

    where: what messages call the file. filled: columns that no row may leave empty.
    Blank lines, and rows with nothing in the required columns, are no rows.
    Raises ScanError, naming file and line, if it is not UTF-8 text separated by commas, a row has more or fewer
    fields than the header, a field runs over several lines (a quote that is not closed), a column lacks or occurs
    twice, or there are no rows.
    """
    columns, rows, lines = _parse_rows(_as_text(content, where), where)
    missing = [column for column in required if column not in columns]
    if missing:
        separator = {";": "semicolons", "\t": "tabs"}
        wrong = [name for sign, name in separator.items() if len(columns) == 1 and sign in columns[0]]
        raise ScanError(
            f"{where}: wrong columns, {', '.join(missing)} not found; required: {', '.join(required)}; "
            f"found: {', '.join(columns)}"
            + (f" (the fields are separated by {wrong[0]}; save the file with commas)" if wrong else "")
        )
    twice = [column for column, times in Counter(columns).items() if times > 1]
    if twice or "line" in columns:
        problem = f"column {twice[0]!r} occurs twice" if twice else "a column may not be called line; rename it"
        raise ScanError(f"{where}: {problem}")
    table = pd.DataFrame(rows, columns=columns, dtype=object).assign(line=lines)
    table = table[(table[required] != "").any(axis=1)]
    if table.empty:
        raise ScanError(f"{where}: no rows")
    for column in filled:
        check_rows(table, table[column] == "", where, f"{column} is empty")
    return table.reset_index(drop=True)


def _as_text(content: bytes, where: str) -> str:
    def line(position: int) -> int:
        return content.count(b"\n", 0, position) + 1

    if b"\0" in content:
        kind = "UTF-16 text?" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "a damaged file?"
        raise ScanError(f"{where}, line {line(content.index(0))}: a zero byte ({kind} save it as UTF-8)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScanError(f"{where}, line {line(error.start)}: cannot be read as UTF-8 text ({error.reason})") from error


def _parse_rows(text: str, where: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and their lines of comma-separated text; every field stripped."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines = [], []
    try:
        for fields in reader:
            if any("\n" in field or "\r" in field for field in fields):
                line = reader.line_num
                raise ScanError(f"{where}, line {line}: a field runs over several lines; is a quote missing?")
            fields = [field.strip() for field in fields]
            if any(fields):
                rows.append(fields)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ScanError(f"{where}, line {reader.line_num}: cannot be read as a CSV file ({error})") from error
    if not rows:
        raise ScanError(f"{where}: cannot be read as a CSV file (it is empty)")
    for fields, line in zip(rows, lines, strict=True):
        if len(fields) != len(rows[0]):
            raise ScanError(f"{where}, line {line}: {len(fields)} fields, the header has {len(rows[0])}")
    return rows[0], rows[1:], lines[1:]


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
