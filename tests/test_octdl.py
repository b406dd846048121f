"""OCTDL: the real published table, its mapping to the course's classes, and faults in its layout."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from on_disk import edit, read
from PIL import Image

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.octdl import RULES, mapping_table, published_table
from kdoct_utils.datasets import DATASETS
from kdoct_utils.profiles import CLASS_NAMES

TABLE = "OCTDL_labels.csv"
PUBLISHED = DATASETS["octdl"].published_counts


def write_octdl(root, rows):
    """The label table, and for every row a small image that no other row has."""
    noise = np.random.default_rng(0).integers(0, 255, (len(rows), 16, 16), dtype=np.uint8)
    for pixels, disease, name in zip(noise, rows["disease"], rows["file_name"], strict=True):
        folder = root / "OCTDL" / disease
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    rows.to_csv(root / TABLE, index=False)
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The whole published table with images of our own."""
    return read("octdl", write_octdl(tmp_path_factory.mktemp("octdl"), published_table()))


@pytest.fixture(scope="module")
def small_source(tmp_path_factory):
    """Two rows of every disease and condition."""
    rows = published_table().groupby(["disease", "condition"]).head(2)
    return write_octdl(tmp_path_factory.mktemp("small"), rows)


@pytest.fixture
def small(small_source, tmp_path):
    return Path(shutil.copytree(small_source, tmp_path / "octdl"))


def put(column, value, row=3):
    """A change of one cell; row 3 is line 5 of the file."""

    def change(rows):
        rows.iloc[row, rows.columns.get_loc(column)] = value
        return rows

    return change


# --- the published table ---


def test_the_packaged_table_has_the_published_counts():
    table = published_table()
    assert len(table) == PUBLISHED["scans"] and table["patient_id"].nunique() == PUBLISHED["patients"]
    for disease, scans in table["disease"].value_counts().items():
        assert scans == PUBLISHED[f"{disease} scans"]
    assert table.loc[table["disease"] == "AMD", "patient_id"].nunique() == PUBLISHED["AMD patients"]
    assert (table.groupby("patient_id")["disease"].nunique() > 1).sum() == 1
    # Every condition has one rule, and the reverse.
    assert sorted(rule[:2] for rule in RULES) == sorted(set(zip(table["disease"], table["condition"], strict=True)))
    assert mapping_table(table)["scans"].sum() == len(table)
    assert {rule.label for rule in RULES} == {"", *CLASS_NAMES}


def test_the_real_table_gives_the_counts_of_its_conditions(real):
    table = published_table()
    counted = table.groupby(["disease", "condition"]).size()
    assert real.provenance["found"]["labels"] == {
        "normal": counted["NO", "NO"],
        "drusen": counted["AMD", "drusen"],
        "cnv": counted["AMD", "MNV"],
        "dme": counted["DME"].sum(),
    }
    left_out = {reason.split(":")[0]: n for reason, n in real.provenance["refused"].items()}
    assert left_out == {
        "AMD, MNV_suspected": counted["AMD", "MNV_suspected"],
        **{disease: counted[disease].sum() for disease in ("ERM", "RAO", "RVO", "VID")},
    }
    assert len(real) + sum(left_out.values()) == len(table)
    assert real.provenance["found"]["patients"] == real.table["patient"].nunique() < PUBLISHED["patients"]


def test_scans_keep_what_the_table_says_of_them(real):
    assert (real.table["patient_class"] == real.table["label"]).all()
    row = real.table.set_index("scan_id").loc["octdl/DME/dme_4986761_2"]
    assert (row["patient"], row["label"], row["slice"]) == ("octdl/4986761", "dme", 2)
    names = real.table["scan_id"].str.rsplit("/", n=1).str[1]
    columns = ["eye", "sex", "year"]
    published = published_table().set_index("file_name").loc[names, columns].replace("0", "unknown")
    assert (real.table[columns].to_numpy() == published.to_numpy()).all()
    # Patients in two diseases or classes are named.
    notes = "\n".join(real.provenance["notes"])
    assert "patients with scans in several diseases: 1, such as octdl/4986761 (AMD, DME)" in notes
    assert "octdl/2071012 (drusen, left out); octdl/4986761 (cnv, dme); octdl/5748269 (cnv, left out)" in notes


# --- layout and faults ---


def test_missing_and_unlisted_images_are_refused_and_counted(small):
    lost = sorted((small / "OCTDL" / "NO").iterdir())[0]
    lost.rename(lost.with_name("no_77_1.jpg"))
    (small / "OCTDL" / "NO" / "._no_77_1.jpg").write_text("what a Mac leaves")
    scans = read("octdl", small)
    examples = scans.provenance["refused_examples"]
    assert examples["no such file"] == [f"NO/{lost.stem}"]
    assert examples["image without a row in the table"] == ["OCTDL/NO/no_77_1.jpg"]
    assert (scans.table["label"] == "normal").sum() == 1


def same_scans(root, before):
    found = read("octdl", root)
    pd.testing.assert_frame_equal(found.table.drop(columns="path"), before.table.drop(columns="path"))
    assert found.hashes == before.hashes


def test_zipped_images_folders_around_and_rows_that_occur_twice_change_nothing(small):
    before = read("octdl", small)
    edit(small / TABLE, lambda rows: pd.concat([rows, rows.iloc[[0, 3]]]).sample(frac=1, random_state=0))
    same_scans(small.parent, before)
    assert read("octdl", small).provenance["refused"]["exact duplicate row"] == 2
    shutil.make_archive(str(small / "OCTDL"), "zip", small, "OCTDL")  # as downloaded, beside the table
    shutil.rmtree(small / "OCTDL")
    same_scans(small, before)


def test_faults_in_the_table_are_errors_that_name_the_line(small):
    content = (small / TABLE).read_bytes()
    for change, message in (
        (put("condition", "glaucoma"), "line 5: unknown disease '[A-Z]+' with condition 'glaucoma'; valid: NO with NO"),
        (put("disease", "AMDD"), "line 5: unknown disease 'AMDD'"),
        (put("condition", ""), "line 5: condition is empty"),
        (put("patient_id", "12"), "line 5: file_name .* names another patient than patient_id 12"),
        (lambda rows: pd.concat([rows, rows.iloc[[0]].assign(eye="OS")]), "lines 2 and .* is listed twice, with diff"),
    ):
        (small / TABLE).write_bytes(content)
        edit(small / TABLE, change)
        with pytest.raises(ScanError, match=message):
            read("octdl", small)
    for damaged in (b"", b"\xff\xfe\x00\x01\x02", b'file_name,disease\n"amd', b"\x89PNG\r\n\x1a\n"):
        (small / TABLE).write_bytes(damaged)
        with pytest.raises(ScanError, match=TABLE):
            read("octdl", small)
