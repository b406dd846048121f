"""OCTDL: one table of labels beside disease folders, extracted or still zipped; its diseases and conditions are mapped
to the course's classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.common import (
    IMAGE_SUFFIXES,
    UNKNOWN_EYE,
    Found,
    nearest_table,
    parse_table,
    places,
    refuse_blanks,
    refuse_contradictions,
    unexpected_layout,
)
from kdoct_utils.data.sources import open_source
from kdoct_utils.datasets import DataOptions

OCTDL_TABLE = "OCTDL_labels.csv"
OCTDL_IMAGES = "OCTDL"
# The columns that are used. The table also has subcategory, image_width and image_hight (spelled so).
OCTDL_COLUMNS = ["file_name", "disease", "condition", "patient_id", "eye", "sex", "year"]
MISSING = "0"  # stands for a value that is not known
UNKNOWN = UNKNOWN_EYE  # what the course writes instead, in eye, sex and year
LEFT_OUT = "left out"


class Rule(NamedTuple):
    """What becomes of the scans of one disease and condition. label: a class of the course, "" to leave them out."""

    disease: str
    condition: str
    label: str
    why: str


RULES = (
    Rule("NO", "NO", "normal", "no disease"),
    Rule("AMD", "drusen", "drusen", "early macular degeneration: drusen, no new vessels"),
    Rule("AMD", "MNV", "cnv", "macular neovascularization is the newer name of choroidal neovascularization"),
    Rule("AMD", "MNV_suspected", "", "AMD, MNV_suspected: the new vessels are not certain, so neither class is"),
    Rule("DME", "ME", "dme", "edema of the macula in diabetes"),
    Rule("DME", "DRIL", "dme", "disorganized inner layers in an eye with diabetic macular edema"),
    Rule("DME", "DME", "dme", "diabetic macular edema"),
    Rule("ERM", "ERM", "", "ERM: epiretinal membrane, no class of the course"),
    Rule("RAO", "none", "", "RAO: retinal artery occlusion, no class of the course"),
    Rule("RVO", "ME", "", "RVO: retinal vein occlusion, no class of the course; its edema is not diabetic"),
    Rule("RVO", "DRIL", "", "RVO: retinal vein occlusion, no class of the course; its edema is not diabetic"),
    Rule("VID", "MH", "", "VID: vitreomacular interface disease, no class of the course"),
)


def published_table() -> pd.DataFrame:
    """The label table of OCTDL as published, all columns as strings: 2,064 rows of 820 patients; no image with it.

    Source: Kulyabin et al., OCTDL, Sci. Data 11:365 (2024); license CC BY 4.0 as reported; unchanged.
    """
    with resources.files("kdoct_utils.data.readers").joinpath("octdl_labels.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def mapping_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a rule: disease, condition, class (or "left out"), scans and patients of ``table``, why.

    table: with the columns disease, condition and patient_id, such as published_table().
    """
    patients = table.groupby(["disease", "condition"])["patient_id"].agg(["size", "nunique"])
    counts = patients.reindex([rule[:2] for rule in RULES], fill_value=0)
    return pd.DataFrame(
        {
            "disease": [rule.disease for rule in RULES],
            "condition": [rule.condition for rule in RULES],
            "class": [rule.label or LEFT_OUT for rule in RULES],
            "scans": counts["size"].to_numpy(),
            "patients": counts["nunique"].to_numpy(),
            "why": [rule.why for rule in RULES],
        }
    )


def read_octdl(root: Path, options: DataOptions) -> Found:
    """OCTDL: ``OCTDL_labels.csv`` and the disease folders in ``OCTDL``.

    root: the folder that holds both, one around it, or one in which ``OCTDL.zip`` still is one.
    RULES say which class a disease and condition belong to; what has no class is left out and counted by name. The
    patient is ``octdl/<patient_id>``. Further columns: disease, condition, sex ("F", "M" or "unknown"), year (a
    string, "unknown" where it is 0). slice is the last number of the file name. The extension may be any of
    IMAGE_SUFFIXES, and letter case may differ; rows without an image are refused and counted.

    Raises ScanError, naming the line, for a disease with a condition that RULES do not know, other values of eye,
    sex or year, a missing patient_id, and one that is not the file name's.
    """
    source = open_source(root, _complete)
    names = source.files()
    table_name = nearest_table("octdl", OCTDL_TABLE, root, names)
    where = source.where(table_name)
    table = parse_table(source.read(table_name), where, OCTDL_COLUMNS)
    refuse_blanks(table, OCTDL_COLUMNS, where)
    found = Found(pd.DataFrame(), source)
    repeated = table.duplicated(OCTDL_COLUMNS)
    found.refuse("exact duplicate row", [f"line {line}" for line in table.loc[repeated, "line"]])
    table = table[~repeated].copy()
    refuse_contradictions(table, "file_name", where)
    _check_values(table, where)
    table["slice"] = _numbers(table, where)
    table["patient"] = "octdl/" + table["patient_id"]
    table = _with_classes(table, where)
    table = _with_files(table, found, root, str(PurePosixPath(table_name).parent))
    found.counts = _counts(table)
    found.notes = _notes(table)
    for reason, rows in table[table["label"] == ""].groupby("why"):
        found.refuse(str(reason), rows["file_name"].tolist())
    kept = table[table["label"] != ""]
    found.table = pd.DataFrame(
        {
            "scan_id": "octdl/" + kept["disease"] + "/" + kept["file_name"],
            "path": kept["file"],
            "patient": kept["patient"],
            "eye": kept["eye"].replace(MISSING, UNKNOWN),
            "slice": kept["slice"],
            "patient_class": kept["label"],
            "label": kept["label"],
            "disease": kept["disease"],
            "condition": kept["condition"],
            "sex": kept["sex"].replace(MISSING, UNKNOWN),
            "year": kept["year"].replace(MISSING, UNKNOWN),
        }
    )
    return found


def _check_values(table: pd.DataFrame, where: str) -> None:
    for column, pattern, valid in (
        ("patient_id", r"0*[1-9]\d*", "a whole number above 0"),
        ("eye", "OD|OS|0", "OD, OS, 0 (not known)"),
        ("sex", "F|M|0", "F, M, 0 (not known)"),
        ("year", r"0|\d{4}", "four digits, 0 (not known)"),
    ):
        wrong = table[~table[column].str.fullmatch(pattern)]
        if len(wrong):
            row = wrong.iloc[0]
            raise ScanError(f"{where}, line {row['line']}: {column} is {row[column]!r}; valid: {valid}")


def _numbers(table: pd.DataFrame, where: str) -> pd.Series:
    """Last number of each file name, <disease>_<patient_id>_<number>, which must name the row's own patient."""
    parts = table["file_name"].str.extract(r"_(\d+)_(\d+)$")
    wrong = table[parts[0].notna() & (parts[0] != table["patient_id"])]
    if len(wrong):
        row = wrong.iloc[0]
        raise ScanError(
            f"{where}, line {row['line']}: file_name {row['file_name']} names another patient than "
            f"patient_id {row['patient_id']}"
        )
    return pd.to_numeric(parts[1]).astype("Int64")


def _with_classes(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Add the columns label ("" where the scan is left out) and why, by RULES; letter case does not count."""
    rules = {(rule.disease.lower(), rule.condition.lower()): rule for rule in RULES}
    keys = zip(table["disease"].str.lower(), table["condition"].str.lower(), strict=True)
    of_row = [rules.get(key) for key in keys]
    for rule, line, disease, condition in zip(
        of_row, table["line"], table["disease"], table["condition"], strict=True
    ):
        if rule is None:
            valid = ", ".join(f"{rule.disease} with {rule.condition}" for rule in RULES)
            raise ScanError(
                f"{where}, line {line}: unknown disease {disease!r} with condition {condition!r}; valid: {valid}"
            )
    return table.assign(
        disease=[rule.disease for rule in of_row],
        condition=[rule.condition for rule in of_row],
        label=[rule.label for rule in of_row],
        why=[rule.why for rule in of_row],
    )


def _key(name: str) -> str | None:
    """What a file of the source is called in the table, <disease>/<file_name> in small letters; None for no image."""
    path = PurePosixPath(name.lower())
    return f"{path.parent.name}/{path.stem}" if path.suffix in IMAGE_SUFFIXES else None


def _complete(names: Collection[str]) -> bool:
    diseases = {rule.disease.lower() for rule in RULES}
    return bool(places("octdl", names)) and any((_key(name) or "").split("/")[0] in diseases for name in names)


def _with_files(table: pd.DataFrame, found: Found, root: Path, place: str) -> pd.DataFrame:
    """Add the column ``file``, the source's name of each row's image; refuse and count rows without one.

    place: the folder of the table in the source.
    """
    names = found.source.files()
    by_key: dict[str | None, list[str]] = {}
    for name in names:
        by_key.setdefault(_key(name), []).append(name)
    by_key.pop(None, None)
    keys = (table["disease"] + "/" + table["file_name"]).str.lower()
    published = [
        str(PurePosixPath(place, OCTDL_IMAGES, disease, f"{name}.jpg"))
        for disease, name in zip(table["disease"], table["file_name"], strict=True)
    ]

    def real_name(key: str, published: str) -> str | None:
        candidates = by_key.get(key, [])
        if published in candidates or not candidates:
            return published if candidates else None
        if len(candidates) > 1:
            raise ScanError(f"{root}: {published} is not there, and may be any of {', '.join(candidates)}")
        return candidates[0]

    table = table.assign(file=[real_name(*pair) for pair in zip(keys, published, strict=True)])
    lost = table["file"].isna()
    if lost.all():
        because = f"None of the {len(table)} images that {OCTDL_TABLE} lists is there, such as {published[0]}."
        raise unexpected_layout("octdl", root, names, because)
    found.refuse("no such file", [name for name, gone in zip(published, lost, strict=True) if gone])
    unlisted = [name for key in by_key.keys() - set(keys) for name in by_key[key]]
    found.refuse("image without a row in the table", unlisted)
    return table[~lost]


def _counts(table: pd.DataFrame) -> dict[str, int]:
    """What DatasetInfo.published_counts has, counted in the rows whose image is there, before classes are mapped."""
    counts = {"scans": len(table), "patients": table["patient"].nunique()}
    for disease in dict.fromkeys(rule.disease for rule in RULES):
        counts[f"{disease} scans"] = int((table["disease"] == disease).sum())
    counts["AMD patients"] = table.loc[table["disease"] == "AMD", "patient"].nunique()
    return counts


def _notes(table: pd.DataFrame) -> list[str]:
    outcome = table["label"].where(table["label"] != "", LEFT_OUT)
    notes = ["the class of the whole patient is not given: patient_class repeats the label"]
    for sentence, values in (
        ("in several diseases", table["disease"]),
        ("with scans of several classes, or with some left out", outcome),
        ("listed with several sexes", table["sex"]),
        ("listed with several years", table["year"]),
    ):
        known = values[values != MISSING]
        several = known.groupby(table["patient"]).unique()
        several = several[several.map(len) > 1]
        if len(several):
            named = _some(f"{patient} ({', '.join(sorted(of))})" for patient, of in several.items())
            notes.append(f"patients {sentence}: {len(several)}, {named}")
    blank = (table["eye"] == MISSING) & (table["label"] != "")
    if blank.any():
        notes.append(f"{int(blank.sum())} scans of the course's classes give no eye")
    return notes


def _some(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
