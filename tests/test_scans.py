"""The scan table of every dataset, one's own scans, damaged tables, and who belongs together."""

import json
import re
from pathlib import Path

import numpy as np
import on_disk
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import edit, read, write_images

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.common import parse_table
from kdoct_utils.data.scans import READERS, SCAN_COLUMNS, link_patients, linked_pairs, read_scans
from kdoct_utils.data.splits import audit_leakage, make_splits
from kdoct_utils.datasets import DATASETS, PHANTOMS
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

SMOKE = PROFILES["smoke"]


@pytest.fixture
def own(tmp_path):
    rows = [("a.png", "Normal", "p1"), ("b.png", "CNV", "p2"), ("sub/c.png", "drusen", "p3"), ("d.png", "cnv ", "p2")]
    write_images(tmp_path, [row[0] for row in rows])
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


# --- what every reader promises ---------------------------------------------------------------------------------------


def test_every_reader_returns_the_scan_table_and_a_record(own, quirky, tmp_path):
    assert {*PHANTOMS, *READERS} == set(DATASETS)  # every dataset of the registry is drawn or read
    names = ["NORMAL/NORMAL-1-2", "NORMAL/NORMAL-7-1", "CNV/CNV-7-9", "CNV/CNV-3-1"]
    write_images(tmp_path / "ucsd", [f"{name}.jpeg" for name in names])
    for dataset, root in (("phantom", None), ("ucsd", tmp_path / "ucsd"), ("neh", quirky[0]), ("csv", own)):
        scans = read(dataset, root)
        table = scans.table
        assert list(table.columns) == SCAN_COLUMNS
        assert table["scan_id"].is_unique and table["scan_id"].is_monotonic_increasing
        assert not table.drop(columns="slice").isna().any().any()
        assert list(scans.class_names) == [name for name in CLASS_NAMES if name in set(table["label"])]
        assert [scans.class_names[target] for target in table["target"]] == table["label"].tolist()
        for column in ("scan_id", "patient", "group"):
            assert table[column].str.startswith(f"{dataset}/").all()
        assert set(scans.hashes) == set(table["scan_id"])
        record, info = json.loads(json.dumps(scans.provenance)), DATASETS[dataset]
        assert (record["title"], record["license"], record["citation"]) == (info.title, info.license, info.citation)
        assert record["found"]["scans"] == len(scans) == sum(record["found"]["labels"].values())
        assert record["found"]["patients"] == table["patient"].nunique()
        images = scans.images(16, crop_to_band=True, progress=False)
        assert images.shape == (len(scans), 16, 16) and images.dtype == np.uint8
        scans.table = table.iloc[::-1].reset_index(drop=True)
        np.testing.assert_array_equal(scans.images(16, crop_to_band=True, progress=False), images[::-1])


def test_a_wrong_request_names_the_valid_ones():
    for dataset, root, message in (
        ("noor", None, "unknown dataset 'noor'; valid datasets: phantom, neh, ucsd"),
        ("octmnist", "", "octmnist needs data_root; expected there: octmnist.npz"),
        ("neh", None, "neh needs data_root; expected there: data_information.csv"),
        ("ucsd", "no/such/place", "no/such/place: no such file or folder"),
        ("csv", "no/such.csv", "no/such.csv: no such file or folder"),
        ("phantom", "somewhere", "data_root must be empty, not somewhere"),
    ):
        with pytest.raises(ScanError, match=message):
            read(dataset, root)


def test_phantoms_are_those_of_the_profile_and_seed():
    every, worst = read("phantom", None, worst_case=False), read("phantom", None)
    assert len(every) == 3 * SMOKE.phantom_patients * SMOKE.phantom_slices
    assert every.class_names == ("normal", "drusen", "cnv")
    images = every.images(SMOKE.resize_size, crop_to_band=True)
    other = read_scans("phantom", None, profile=SMOKE, seed=1).images(SMOKE.resize_size, crop_to_band=True)
    assert (other[0] != images[0]).any()
    # The worst-case filter keeps the scans that show their patient's class.
    shown = every.table["patient_class"] == every.table["label"]
    assert 0 < shown.sum() < len(every)
    assert worst.table["scan_id"].tolist() == every.table.loc[shown, "scan_id"].tolist()
    assert sum(worst.provenance["refused"].values()) == (~shown).sum()
    np.testing.assert_array_equal(worst.images(SMOKE.resize_size, True), images[shown.to_numpy()])


# --- bring your own ---------------------------------------------------------------------------------------------------


def test_the_five_scans_of_the_readme(tmp_path):
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_scans.csv").write_text(block)
    expected = [line.split(",") for line in block.splitlines()[1:]]
    assert len(expected) == 5
    write_images(tmp_path, [path for path, _, _ in expected])
    scans = read("csv", tmp_path / "my_scans.csv")
    assert scans.table[["path", "label", "patient"]].values.tolist() == sorted(
        [path, label, f"csv/{patient}"] for path, label, patient in expected
    )
    assert scans.images(16, crop_to_band=True, progress=False).shape == (5, 16, 16)
    frame = make_splits(scans.table, seed=0, allow_tiny=True)
    assert set(frame.loc[frame["role"] == "test", "group"]) == set(scans.table["patient"])
    for fold in range(frame.attrs["folds"]):
        assert audit_leakage(scans.table, frame, fold, scans.hashes).empty


def test_own_scans_need_only_path_label_patient_and_may_lie_anywhere(own):
    scans = read("csv", own)
    assert scans.table["label"].tolist() == ["normal", "cnv", "cnv", "drusen"]
    assert scans.table["path"].tolist() == ["a.png", "b.png", "d.png", "sub/c.png"]
    assert scans.table["patient"].tolist() == ["csv/p1", "csv/p2", "csv/p2", "csv/p3"]
    pd.testing.assert_frame_equal(read("csv", own / "scans.csv").table, scans.table)
    (own / "tables").mkdir()
    elsewhere, paths = own / "tables" / "mine.csv", ["../a.png", str(own / "b.png"), ".././sub/c.png", "../d.png"]
    pd.read_csv(own / "scans.csv", dtype=str).assign(path=paths).to_csv(elsewhere, index=False)
    other = read("csv", elsewhere)
    assert other.table["path"].tolist() == sorted(["../a.png", str(own / "b.png"), "../sub/c.png", "../d.png"])
    assert set(other.hashes.values()) == set(scans.hashes.values())


def test_optional_columns_are_used_and_others_kept(own):
    more = {"eye": "od", "slice": "4", "patient_class": ["normal", "cnv", "cnv", "cnv"], "age": ["61", "", "70", "55"],
            "Device name": "S1", "part": ["train", "train", "test", "test"]}  # fmt: skip
    edit(own / "scans.csv", lambda rows: rows.assign(**more))
    scans = read("csv", own)
    assert set(scans.table["eye"]) == {"OD"} and set(scans.table["slice"]) == {4}
    assert len(scans) == 3 and scans.class_names == ("normal", "cnv")  # the drusen scan of a cnv patient is filtered
    assert list(scans.table.columns) == [*SCAN_COLUMNS, "age", "Device name", "part"]
    assert scans.table["age"].tolist() == ["61", "", "55"]
    assert scans.table["part"].tolist() == ["train", "train", "test"]
    text = (own / "scans.csv").read_text()  # a row that differs in a further column only is no duplicate
    row = text.splitlines()[2]
    (own / "scans.csv").write_text(text + row + "\n")
    assert read("csv", own, worst_case=False).provenance["refused"] == {"exact duplicate row": 1}
    (own / "scans.csv").write_text(text + row.replace("S1", "S2") + "\n")
    with pytest.raises(ScanError, match="lines 3 and 6: b.png is listed twice, with different entries"):
        read("csv", own)


def test_faults_in_own_tables_are_errors_that_name_the_line(own):
    rows = pd.read_csv(own / "scans.csv", dtype=str)
    for changed, message in (
        (rows.rename(columns={"label": "Label"}), "wrong columns, label not found; .*found: path, Label"),
        (rows.assign(label="CNW"), "line 2, label: unknown label 'CNW'; valid labels for csv: normal"),
        (rows.assign(patient=["p1", "", "p3", "p2"]), "line 3: patient is empty"),
        (rows.assign(path=["a.png", "b.png", "x.png", "y.png"]), r"line 4: no such file x.png \(2 miss"),
        (rows.assign(path=["a.png", "b.png", "./a.png", "d.png"]), "lines 2 and 4: a.png is listed twice"),
        (rows.assign(slice="2.5"), "line 2: slice '2.5' is not a whole number"),
        (rows.iloc[:0], "scans.csv: no rows"),
        (rows.assign(group="g"), "scans.csv: column group is made by the course; rename it"),
        (rows.assign(line="1"), "occurs twice, or is called line"),
        (rows.assign(part=["train", "test", "val", "test"]), "line 4: unknown part 'val'; valid: train, valid"),
        (rows.assign(part=["train", "", "train", "test"]), "line 3: unknown part ''"),
    ):
        changed.to_csv(own / "scans.csv", index=False)
        with pytest.raises(ScanError, match=message):
            read("csv", own)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(order=st.randoms(use_true_random=False), bom=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_own_tables_may_be_ordered_and_saved_in_any_way(tmp_path_factory, order, bom, end):
    folder = tmp_path_factory.getbasetemp() / "ordered"
    rows = [["a.png", "normal", "p1", "OD", "1"], ["b.png", "cnv", "p2", "OS", "2"], ["c.png", "cnv", "p3", "", ""]]
    if not folder.exists():
        write_images(folder, [row[0] for row in rows])
    header = ["path", "label", "patient", "eye", "slice"]
    columns = order.sample(range(5), 5)
    lines = [",".join(row[k] for k in columns) for row in order.sample(rows, 3)]
    text = end.join([",".join(header[k] for k in columns), *lines, *order.sample([""] * 3, order.randrange(3))])
    (folder / "scans.csv").write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    table = read("csv", folder).table
    assert table[["path", "label", "patient", "eye"]].values.tolist() == [
        ["a.png", "normal", "csv/p1", "OD"], ["b.png", "cnv", "csv/p2", "OS"], ["c.png", "cnv", "csv/p3", "unknown"],
    ]  # fmt: skip
    assert table["slice"].tolist() == [1, 2, pd.NA]


# --- damaged tables ---------------------------------------------------------------------------------------------------

CSV = b"path,label,patient\na.png,normal,p1\nb.png,cnv,p2\nc.png,normal,p3\nd.png,cnv,p4\n"


def test_damaged_tables_are_errors_that_name_file_and_line(tmp_path):
    for content, message in (
        (b"", "wrong columns, path, label, patient not found.*found: none"),
        (b"path,label,patient\n,,\n", "no rows"),
        (CSV.replace(b"cnv,p2", b"cnv,m\xfcller"), "line 3: cannot be read as a CSV file in UTF-8"),
        (CSV.decode().encode("utf-16"), "line 1: cannot be read as a CSV file in UTF-8"),
        (CSV.replace(b"c.png", b"c\0png"), "line 4: a line break or a zero byte"),
        (CSV.replace(b"b.png", b'"b.png').replace(b"d.png", b'd.png"'), "line 5: "),
        (CSV.replace(b"b.png", b'"b".png'), "line 3: cannot be read as a CSV file"),
        (CSV.replace(b"cnv,p2", b"cnv"), "line 3: 2 fields, the header has 3"),
        (CSV.replace(b"cnv,p2", b"cnv,p2,x"), "line 3: 4 fields, the header has 3"),
        (CSV.replace(b",", b";"), "wrong columns, path, label, patient not found.*separated by commas"),
        (b"path,label,patient,label\na.png,normal,p1,x\n", "a column occurs twice"),
    ):
        (tmp_path / "scans.csv").write_bytes(content)
        with pytest.raises(ScanError, match=rf"scans\.csv(, |: )({message})"):
            read("csv", tmp_path)
    (tmp_path / "neh.zip").write_bytes(on_disk.zip_bytes({"data_information.csv": b"", "CNV/1/000_CNV.jpg": b"x"}))
    with pytest.raises(ScanError, match="neh-.*data_information.csv: wrong columns"):
        read("neh", tmp_path / "neh.zip")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(CSV)), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=3))
def test_any_bytes_of_a_table_may_be_wrong(changes):
    content = CSV
    for position, new, removed in changes:
        content = content[:position] + new + content[position + removed :]
    try:
        table = parse_table(content, "x.csv", ["path", "label", "patient"])
    except ScanError as error:
        assert str(error).startswith(("x.csv, line ", "x.csv: "))
    else:
        assert not table.isna().any().any() and (table["line"].diff().dropna() > 0).all()
        assert all(isinstance(value, str) and value == value.strip() for value in table["path"])


# --- linking ----------------------------------------------------------------------------------------------------------


def naive_groups(patients, images):
    """The definition, slowly: whoever shares an image takes the smaller name, until nothing changes."""
    group, before = {patient: patient for patient in patients}, None
    while group != before:
        before = dict(group)
        for a, x in zip(patients, images, strict=True):
            for b, y in zip(patients, images, strict=True):
                if x == y:
                    group[a] = group[b] = min(group[a], group[b])
    return group


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 12)), min_size=1, max_size=25),
       order=st.randoms(use_true_random=False))
def test_linked_patients_are_those_of_the_definition_in_any_order(rows, order):
    table = pd.DataFrame(rows, columns=["patient", "image"])
    table["scan_id"] = [f"s{k}" for k in range(len(table))]
    hashes = {scan_id: str(image) for scan_id, image in zip(table["scan_id"], table["image"], strict=True)}
    expected = table["patient"].map(naive_groups(*zip(*rows, strict=True)))
    assert link_patients(table, hashes).tolist() == expected.tolist()
    shuffled = table.sample(frac=1, random_state=order.randrange(1000))
    pd.testing.assert_series_equal(link_patients(shuffled, hashes).sort_index(), link_patients(table, hashes))


def test_scans_of_unknown_patients_are_linked_by_identical_images_only():
    table = pd.DataFrame({"scan_id": list("dcba"), "patient": ["", "", "", "p"]})
    assert link_patients(table, {"a": "1", "b": "1", "c": "2", "d": "2"}).tolist() == ["c", "c", "b", "b"]


def test_linked_pairs_are_those_that_share_an_image():
    table = pd.DataFrame({
        "scan_id": list("abcdefg"), "patient": ["p", "q", "q", "r", "s", "", ""],
        "patient_class": ["cnv", "cnv", "drusen", "normal", "normal", "cnv", "drusen"],
    })  # fmt: skip
    pairs = linked_pairs(table, dict(zip("abcdefg", "1122344", strict=True)))
    assert pairs[["patient", "twin", "scans", "contradictory"]].values.tolist() == [
        ["p", "q", 1, False], ["q", "r", 1, True],
    ]  # fmt: skip
    assert pairs[["patient_class", "twin_class"]].values.tolist() == [["cnv", "cnv"], ["drusen", "normal"]]
