"""OCTDL: one table of labels beside disease folders, extracted or still zipped; its diseases and conditions are mapped
to the course's classes.
"""

from collections.abc import Collection
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from kdoct_utils.data.files import open_source
from kdoct_utils.data.readers import common
from kdoct_utils.data.readers.common import Found
from kdoct_utils.datasets import DataOptions

OCTDL_TABLE = "OCTDL_labels.csv"
# The columns that are used. The table also has subcategory, image_width and image_hight (spelled so).
OCTDL_COLUMNS = ["file_name", "disease", "condition", "patient_id", "eye", "sex", "year"]
MISSING = "0"  # stands for a value that is not known
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
    counts = table.groupby(["disease", "condition"])["patient_id"].agg(scans="size", patients="nunique")
    rules = pd.DataFrame(RULES).rename(columns={"label": "class"}).replace({"class": {"": LEFT_OUT}})
    counts = counts.reindex([rule[:2] for rule in RULES], fill_value=0).reset_index(drop=True)
    return rules.join(counts)[["disease", "condition", "class", "scans", "patients", "why"]]


def read_octdl(root: Path, options: DataOptions) -> Found:
    """OCTDL: ``OCTDL_labels.csv`` and the disease folders in ``OCTDL``.

    root: the folder that holds both, one around it, or one in which ``OCTDL.zip`` still is one.
    RULES say which class a disease and condition belong to; what has no class is left out and counted by name. The
    patient is ``octdl/<patient_id>``. Further columns: disease, condition, sex ("F", "M" or "unknown"), year (a
    string, "unknown" where it is 0). slice is the last number of the file name. The extension may be any of
    common.IMAGE_SUFFIXES, and letter case may differ; rows without an image are refused and counted.

    Raises ScanError, naming the line, for a disease with a condition that RULES do not know, an empty field, and a
    patient_id that is not the file name's.
    """
    source = open_source(root, _complete)
    table_name = common.nearest_table("octdl", OCTDL_TABLE, source)
    where = source.where(table_name)
    table = common.parse_table(source.read(table_name), where, OCTDL_COLUMNS, filled=OCTDL_COLUMNS)
    found = Found(table, source)
    table = common.without_copies(table, OCTDL_COLUMNS, "file_name", found, where)
    table = _checked(table, where)
    files = {_key(name): name for name in source.files() if common.is_image(name)}
    listed = table["disease"] + "/" + table["file_name"]
    table["file"] = listed.str.lower().map(files)
    if table["file"].isna().all():
        because = f"None of the {len(table)} images that {OCTDL_TABLE} lists is there, such as {listed.iloc[0]}."
        raise common.unexpected_layout("octdl", root, source.files(), because)
    found.refuse("no such file", listed[table["file"].isna()])
    found.refuse("image without a row in the table", [files[key] for key in files.keys() - set(listed.str.lower())])
    table = table[table["file"].notna()]
    found.counts, found.notes = _counts(table), _notes(table)
    for reason, rows in table[table["label"] == ""].groupby("why"):
        found.refuse(str(reason), rows["file_name"])
    kept = table[table["label"] != ""]
    known = kept[["eye", "sex", "year"]].replace(MISSING, common.UNKNOWN_EYE)
    found.table = kept.assign(
        scan_id="octdl/" + kept["disease"] + "/" + kept["file_name"],
        path=kept["file"],
        patient="octdl/" + kept["patient_id"],
        patient_class=kept["label"],
        **known,
    )[[*common.FOUND_COLUMNS, "disease", "condition", "sex", "year"]]
    return found


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Add the columns slice (the last number of the file name, <disease>_<patient_id>_<number>), label ("" where the
    scan is left out) and why (by RULES; letter case does not count).
    """
    parts = table["file_name"].str.extract(r"_(\d+)_(\d+)$")
    problem = "file_name {file_name} names another patient than patient_id {patient_id}"
    common.check_rows(table, parts[0].notna() & (parts[0] != table["patient_id"]), where, problem)
    rules = {(rule.disease.lower(), rule.condition.lower()): rule for rule in RULES}
    keys = zip(table["disease"].str.lower(), table["condition"].str.lower(), strict=True)
    of_row = pd.Series([rules.get(key) for key in keys], index=table.index, dtype=object)
    valid = ", ".join(f"{rule.disease} with {rule.condition}" for rule in RULES)
    problem = "unknown disease {disease!r} with condition {condition!r}; valid: " + valid
    common.check_rows(table, of_row.isna(), where, problem)
    by_rule = {name: [getattr(rule, name) for rule in of_row] for name in Rule._fields}
    return table.assign(slice=pd.to_numeric(parts[1]).astype("Int64"), **by_rule)


def _key(name: str) -> str:
    """What a file is called in the table, <disease>/<file_name> in small letters."""
    path = PurePosixPath(name.lower())
    return f"{path.parent.name}/{path.stem}"


def _complete(names: Collection[str]) -> bool:
    diseases = {rule.disease.lower() for rule in RULES}
    return bool(common.places("octdl", names)) and any(_key(name).split("/")[0] in diseases for name in names)


def _counts(table: pd.DataFrame) -> dict[str, int]:
    """What DatasetInfo.published_counts has, counted in the rows whose image is there, before classes are mapped."""
    scans = table["disease"].value_counts()
    return {
        "scans": len(table),
        "patients": table["patient_id"].nunique(),
        **{f"{disease} scans": int(scans.get(disease, 0)) for disease in dict.fromkeys(rule.disease for rule in RULES)},
        "AMD patients": table.loc[table["disease"] == "AMD", "patient_id"].nunique(),
    }


def _notes(table: pd.DataFrame) -> list[str]:
    notes = ["the class of the whole patient is not given: patient_class repeats the label"]
    for where, values in (("diseases", table["disease"]), ("classes", table["label"].replace("", LEFT_OUT))):
        held = values.groupby("octdl/" + table["patient_id"]).unique()
        several = [f"{patient} ({', '.join(sorted(of))})" for patient, of in held.items() if len(of) > 1]
        if several:
            notes.append(f"patients with scans in several {where}: {len(several)}, such as {'; '.join(several[:5])}")
    return notes
