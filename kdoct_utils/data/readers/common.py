"""What the readers share: the record of what was found, spellings of classes, and tables read from CSV files."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.sources import Source
from kdoct_utils.datasets import DATASETS

UNKNOWN_EYE = "unknown"
UNKNOWN_PATIENT = ""  # a dataset that gives no patients cannot be split by patient; splits.make_splits refuses it
OFFICIAL_PART = "part"  # further column: "train", "validation" or "test", where the publishers fixed the parts
FOUND_COLUMNS = ["scan_id", "path", "patient", "eye", "slice", "patient_class", "label"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

SEPARATORS = {";": "semicolons", "\t": "tabs"}
NAMES_SHOWN = 4  # folders or files that a message names before it counts the rest
_AROUND = r"(?P<place>(?:[^/]+/){0,4}?)"  # folders around a layout
_UCSD_FOLDERS = "(?:CNV|DME|DRUSEN|NORMAL)"
# One file name that only this dataset has: how a layout is recognized wherever it lies.
_SIGNS = {
    "neh": re.compile(_AROUND + r"data_information\.csv", re.IGNORECASE),
    "ucsd": re.compile(
        _AROUND + rf"(?:(?:train|test|val)/)?{_UCSD_FOLDERS}/{_UCSD_FOLDERS}-\d+-\d+\.jpe?g", re.IGNORECASE
    ),
    "octmnist": re.compile(_AROUND + r"octmnist(?:_\d+)?\.npz", re.IGNORECASE),
    "octdl": re.compile(_AROUND + r"OCTDL_labels\.csv", re.IGNORECASE),
    "csv": re.compile(_AROUND + r"scans\.csv", re.IGNORECASE),
}


@dataclass
class Found:
    """What a reader found in its ``source``.

    table: DataFrame of FOUND_COLUMNS, and of any further ones the dataset has (such as OFFICIAL_PART); path names a
    file of the source. refused: reason -> rows or files that were left out for it. notes: what else a user of the
    data should know. counts: what was counted on the way, under the names of DatasetInfo.published_counts.
    """

    table: pd.DataFrame
    source: Source | None  # None: drawn, not read
    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str, names: list[str]) -> None:
        """Record rows or files that were left out."""
        if names:
            self.refused.setdefault(reason, []).extend(sorted(names))


def places(dataset: str, names: Iterable[str]) -> list[str]:
    """The folders in which a dataset's layout begins, judged by file names: "" or "a/b/", the shallowest first."""
    found = {match["place"] for match in map(_SIGNS[dataset].fullmatch, names) if match}
    return sorted(found, key=lambda place: (place.count("/"), place))


def nearest_table(dataset: str, file_name: str, root: Path, names: Collection[str]) -> str:
    """The table of that name, in any letter case, that lies nearest to root.

    names: of all files under root. Raises ScanError if there is none, or several equally near.
    """
    tables = [name for name in names if PurePosixPath(name).name.lower() == file_name.lower()]
    if not tables:
        raise unexpected_layout(dataset, root, names, f"There is no {file_name}.")
    nearest = min(name.count("/") for name in tables)
    tables = [name for name in tables if name.count("/") == nearest]
    if len(tables) > 1:
        raise ScanError(f"{root} holds {len(tables)} tables, {', '.join(tables)}; data_root must hold one of them")
    return tables[0]


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
    if not names:
        return "no files"
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    files = [name for name in names if "/" not in name]
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    images = [f"{suffixes[suffix]} {suffix}" for suffix in IMAGE_SUFFIXES if suffixes[suffix]]
    return f"{_some(folders, 'folder')}, {_some(files, 'file')}; images: {', '.join(images) or 'none'}"


def _some(names: list[str], what: str) -> str:
    if not names:
        return f"no {what}s"
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"


def class_name(spelling: object, dataset: str, where: str) -> str:
    """The course's name of a class, however it is spelled. Raises ScanError for any other."""
    name = str(spelling).strip().lower()
    valid = DATASETS[dataset].classes
    if name not in valid:
        raise ScanError(f"{where}: unknown label {spelling!r}; valid labels for {dataset}: {', '.join(valid)}")
    return name


def read_table(path: Path, required: list[str]) -> pd.DataFrame:
    """The CSV file at ``path``; see parse_table. Raises ScanError if it is missing or not as it must be."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ScanError(f"{path}: {problem}") from error
    return parse_table(content, str(path), required)


def parse_table(content: bytes, where: str, required: list[str]) -> pd.DataFrame:
    """A CSV file as stripped strings, with the further column ``line``: each row's line in the file.

    where: what messages call the file. Blank lines, and rows with nothing in the required columns, are no rows.
    Raises ScanError, naming file and line, if it is not UTF-8 text separated by commas, a row has more or fewer
    fields than the header, a field runs over several lines (a quote that is not closed), a column lacks or occurs
    twice, or there are no rows.
    """
    header, rows, lines = _parse_rows(_as_text(content, where), where)
    missing = [column for column in required if column not in header]
    if missing:
        separator = next((name for sign, name in SEPARATORS.items() if len(header) == 1 and sign in header[0]), None)
        raise ScanError(
            f"{where}: wrong columns, {', '.join(missing)} not found; required: {', '.join(required)}; "
            f"found: {', '.join(header)}"
            + (f" (the fields are separated by {separator}; save the file with commas)" if separator else "")
        )
    twice = [column for column, times in Counter(header).items() if times > 1]
    if twice or "line" in header:
        problem = f"column {twice[0]!r} occurs twice" if twice else "a column may not be called line; rename it"
        raise ScanError(f"{where}: {problem}")
    table = pd.DataFrame(rows, columns=header, dtype=object).assign(line=lines)
    table = table[(table[required] != "").any(axis=1)]
    if table.empty:
        raise ScanError(f"{where}: no rows")
    return table.reset_index(drop=True)


def _as_text(content: bytes, where: str) -> str:
    if b"\0" in content:
        kind = "UTF-16 text?" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "a damaged file?"
        raise ScanError(f"{where}, line {_line_at(content, content.index(0))}: a zero byte ({kind} save it as UTF-8)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_at(content, error.start)
        raise ScanError(f"{where}, line {line}: cannot be read as UTF-8 text ({error.reason})") from error


def _line_at(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def _parse_rows(text: str, where: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and their lines of comma-separated text; every field stripped."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, rows, lines = None, [], []
    try:
        for fields in reader:
            line = reader.line_num
            if any("\n" in field or "\r" in field for field in fields):
                raise ScanError(f"{where}, line {line}: a field runs over several lines; is a quote missing?")
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if header is None:
                header = fields
            elif len(fields) != len(header):
                raise ScanError(f"{where}, line {line}: {len(fields)} fields, the header has {len(header)}")
            else:
                rows.append(fields)
                lines.append(line)
    except csv.Error as error:
        raise ScanError(f"{where}, line {reader.line_num}: cannot be read as a CSV file ({error})") from error
    if header is None:
        raise ScanError(f"{where}: cannot be read as a CSV file (it is empty)")
    return header, rows, lines


def refuse_blanks(table: pd.DataFrame, columns: list[str], path: Path | str) -> None:
    for column in columns:
        blank = table.loc[table[column] == "", "line"]
        if len(blank):
            raise ScanError(f"{path}, line {blank.iloc[0]}: {column} is empty")


def slice_numbers(table: pd.DataFrame, column: str, path: Path | str) -> pd.Series:
    numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
    wrong = table[(table[column] != "") & (numbers.isna() | (numbers % 1 != 0))]
    if len(wrong):
        row = wrong.iloc[0]
        raise ScanError(f"{path}, line {row['line']}: {column} {row[column]!r} is not a whole number")
    return numbers.astype("Int64")


def refuse_contradictions(table: pd.DataFrame, column: str, path: Path | str) -> None:
    """Rows that name one file must agree in everything; identical rows are gone before this is called."""
    twice = table[table[column].duplicated(keep=False)].sort_values([column, "line"])
    if len(twice):
        first, second = twice.iloc[0], twice.iloc[1]
        raise ScanError(
            f"{path}, lines {first['line']} and {second['line']}: {first[column]} is listed twice, "
            "with different entries"
        )
