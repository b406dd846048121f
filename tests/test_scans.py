"""Readers: what they find, what they refuse, and that order and spelling change nothing."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers import READERS
from kdoct_utils.data.scans import SCAN_COLUMNS, link_patients, read_scans
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions
from kdoct_utils.phantom.miniature import write_neh_folder
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
real_scans = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real B-scans at ../shared/oct_samples/ucsd")
SMOKE = PROFILES["smoke"]


def read(dataset, root, **options):
    return read_scans(dataset, root, profile=SMOKE, seed=0, options=DataOptions(**options), progress=False)


def write_image(path, seed):
    """A small frame with a bright slab, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (48, 64), dtype=np.uint8)
    pixels[20:28] += 120
    Image.fromarray(pixels).save(path)


@pytest.fixture
def ucsd(tmp_path):
    """Two classes, patient 7 in both; in the order of writing that a file system may return."""
    names = ["NORMAL/NORMAL-1-2", "NORMAL/NORMAL-1-1", "NORMAL/NORMAL-7-1", "CNV/CNV-7-9", "CNV/CNV-3-1"]
    for seed, name in enumerate(names):
        write_image(tmp_path / "data" / "OCT" / f"{name}.jpeg", seed)
    return tmp_path / "data" / "OCT"


@pytest.fixture(scope="module")
def neh_source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neh")
    write_neh_folder(folder, 3, 2, 0)
    return folder


@pytest.fixture
def neh(neh_source, tmp_path):
    return Path(shutil.copytree(neh_source, tmp_path / "neh"))


def edit_neh(root, change):
    """Rewrite data_information.csv through ``change`` (DataFrame of strings -> DataFrame)."""
    path = root / "data_information.csv"
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


def neh_file(root, directory):
    return root / "NEH_UT_2021RetinalOCTDataset" / directory


@pytest.fixture
def own(tmp_path):
    rows = [("a.png", "Normal", "p1"), ("b.png", "CNV", "p2"), ("sub/c.png", "drusen", "p3"), ("d.png", "cnv ", "p2")]
    for seed, (name, _, _) in enumerate(rows):
        write_image(tmp_path / name, seed)
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def edit_own(root, change):
    path = root / "scans.csv"
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


# --- what every reader promises ---


@pytest.fixture(params=["phantom", "ucsd", "neh", "csv"])
def any_scans(request):
    if request.param == "phantom":
        return read("phantom", None)
    fixture = {"ucsd": "ucsd", "neh": "neh", "csv": "own"}[request.param]
    return read(request.param, request.getfixturevalue(fixture))


def test_every_reader_returns_the_scan_table(any_scans):
    table = any_scans.table
    assert list(table.columns) == SCAN_COLUMNS
    assert table["scan_id"].is_unique and table["scan_id"].is_monotonic_increasing
    assert not table.drop(columns="slice").isna().any().any()
    assert list(any_scans.class_names) == [name for name in CLASS_NAMES if name in set(table["label"])]
    assert [any_scans.class_names[target] for target in table["target"]] == table["label"].tolist()
    dataset = any_scans.provenance["dataset"]
    for column in ("scan_id", "patient", "group"):
        assert table[column].str.startswith(f"{dataset}/").all()
    assert set(any_scans.hashes) == set(table["scan_id"])


def test_every_reader_leaves_a_provenance_record(any_scans):
    record = json.loads(json.dumps(any_scans.provenance))
    info = DATASETS[record["dataset"]]
    assert (record["title"], record["license"], record["citation"]) == (info.title, info.license, info.citation)
    assert record["found"]["scans"] == len(any_scans) == sum(record["found"]["labels"].values())
    assert record["found"]["patients"] == any_scans.table["patient"].nunique()
    if any_scans.source is not None:
        assert str(any_scans.source) not in json.dumps(record)


def test_images_come_in_the_order_of_the_table(any_scans):
    images = any_scans.images(16, crop_to_band=True, progress=False)
    assert images.shape == (len(any_scans), 16, 16) and images.dtype == np.uint8
    kept = any_scans.table
    any_scans.table = kept.iloc[::-1].reset_index(drop=True)
    np.testing.assert_array_equal(any_scans.images(16, crop_to_band=True, progress=False), images[::-1])


# --- requests that cannot be met ---


def test_every_dataset_of_the_registry_is_drawn_or_read():
    assert {*PHANTOMS, *READERS} == set(DATASETS)


@pytest.mark.parametrize(
    ("dataset", "root", "message"),
    [
        ("noor", None, "unknown dataset 'noor'; valid datasets: phantom, neh, ucsd"),
        ("octmnist", "", "octmnist needs data_root; expected there: octmnist.npz"),
        ("neh", None, "neh needs data_root; expected there: data_information.csv"),
        ("ucsd", "", "ucsd needs data_root"),
        ("ucsd", "no/such/place", "no/such/place: no such file or folder"),
        ("csv", "no/such.csv", "no/such.csv: no such file or folder"),
        ("phantom", "somewhere", "data_root must be empty, not somewhere"),
    ],
)
def test_a_wrong_request_names_the_valid_ones(dataset, root, message):
    with pytest.raises(ScanError, match=message):
        read(dataset, root)


# --- phantoms ---


def test_phantoms_are_those_of_the_profile_and_seed():
    scans = read("phantom", None, worst_case=False)
    assert len(scans) == 3 * SMOKE.phantom_patients * SMOKE.phantom_slices
    assert scans.class_names == ("normal", "drusen", "cnv")
    images = scans.images(SMOKE.resize_size, crop_to_band=True)
    again = read("phantom", None, worst_case=False).images(SMOKE.resize_size, crop_to_band=True)
    np.testing.assert_array_equal(images, again)
    other = read_scans("phantom", None, profile=SMOKE, seed=1).images(SMOKE.resize_size, crop_to_band=True)
    assert (other[0] != images[0]).any()


def test_the_worst_case_filter_keeps_the_scans_that_show_the_patients_class():
    every, worst = read("phantom", None, worst_case=False), read("phantom", None)
    shown = every.table["patient_class"] == every.table["label"]
    assert 0 < shown.sum() < len(every)
    assert worst.table["scan_id"].tolist() == every.table.loc[shown, "scan_id"].tolist()
    assert sum(worst.provenance["refused"].values()) == (~shown).sum()
    size = SMOKE.resize_size
    np.testing.assert_array_equal(worst.images(size, True), every.images(size, True)[shown.to_numpy()])


# --- UCSD ---


def test_a_ucsd_number_is_one_patient_across_classes_and_parts(ucsd):
    flat = read("ucsd", ucsd).table
    assert flat["patient"].nunique() == 3
    assert set(flat.loc[flat["patient"] == "ucsd/7", "label"]) == {"normal", "cnv"}
    for part, classes in (("train", ["NORMAL"]), ("test", ["CNV"])):
        (ucsd / part).mkdir()
        for name in classes:
            (ucsd / name).rename(ucsd / part / name)
    nested = read("ucsd", ucsd).table
    assert sorted(nested["patient"]) == sorted(flat["patient"])
    assert nested["scan_id"].str.match(r"ucsd/(train|test)/").all()


def test_the_order_of_a_folder_changes_nothing(ucsd, monkeypatch):
    straight = read("ucsd", ucsd)
    listing = Path.iterdir

    def shuffled(self):
        entries = list(listing(self))
        random.Random(1).shuffle(entries)
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", shuffled)
    again = read("ucsd", ucsd)
    pd.testing.assert_frame_equal(again.table, straight.table)
    assert again.provenance == straight.provenance


def test_ucsd_files_that_break_the_pattern_are_refused_and_counted(ucsd):
    write_image(ucsd / "CNV" / "scan 12.jpeg", 50)
    write_image(ucsd / "CNV" / "DRUSEN-5-1.jpeg", 51)
    (ucsd / "CNV" / ".DS_Store").write_text("no scan")
    scans = read("ucsd", ucsd)
    assert len(scans) == 5
    assert scans.provenance["refused_examples"] == {
        "file name is not CLASS-patient-index.jpeg": ["CNV/scan 12.jpeg"],
        "file name and folder name different classes": ["CNV/DRUSEN-5-1.jpeg"],
    }


def test_an_unknown_class_folder_is_an_error(ucsd):
    write_image(ucsd / "AMD" / "AMD-1-1.jpeg", 50)
    with pytest.raises(ScanError, match="unknown label 'AMD'; valid labels for ucsd: normal, drusen, cnv, dme"):
        read("ucsd", ucsd)


def test_an_empty_class_folder_is_an_error(ucsd):
    (ucsd / "DME").mkdir()
    with pytest.raises(ScanError, match="no scans in the folders of class dme"):
        read("ucsd", ucsd)


def test_a_single_class_is_an_error(ucsd):
    shutil.rmtree(ucsd / "CNV")
    with pytest.raises(ScanError, match="two classes are needed, found normal"):
        read("ucsd", ucsd)


def test_another_layout_is_an_error_that_tells_the_right_one(ucsd):
    with pytest.raises(ScanError, match="expected: {CNV,DME,DRUSEN,NORMAL}/CLASS(.|\n)*deeper: data_root .*data/OCT\n"):
        read("ucsd", ucsd.parent)  # one level too high
    write_image(ucsd / "train" / "CNV" / "CNV-9-1.jpeg", 50)
    with pytest.raises(ScanError, match="class folders both beside and in train(.|\n)*found: 3 folders"):
        read("ucsd", ucsd)


def test_a_truncated_image_never_becomes_a_picture(ucsd):
    path = ucsd / "CNV" / "CNV-7-9.jpeg"
    path.write_bytes(path.read_bytes()[:400])
    scans = read("ucsd", ucsd)
    for crop in (True, False):
        with pytest.raises(ScanError, match="CNV-7-9.jpeg: cannot be read as an image"):
            scans.images(16, crop, progress=False)


def test_an_image_without_a_retina_is_an_error_that_names_it(ucsd):
    Image.new("L", (64, 48)).save(ucsd / "CNV" / "CNV-7-9.jpeg")
    with pytest.raises(ScanError, match="CNV-7-9.jpeg: the image is flat"):
        read("ucsd", ucsd).images(16, True, progress=False)


def test_a_duplicate_image_joins_two_patients_into_one_group(ucsd):
    shutil.copy(ucsd / "CNV" / "CNV-3-1.jpeg", ucsd / "NORMAL" / "NORMAL-1-3.jpeg")
    scans = read("ucsd", ucsd)
    groups = scans.table.groupby("patient")["group"].unique()
    assert groups["ucsd/1"].tolist() == groups["ucsd/3"].tolist() == ["ucsd/1"]
    assert groups["ucsd/7"].tolist() == ["ucsd/7"]
    assert any("2 scans are byte-identical" in note and "1 sets carry contradictory" in note
               for note in scans.provenance["notes"])


@real_scans
def test_the_seventeen_real_scans():
    scans = read("ucsd", SAMPLES)
    assert len(scans) == 17 and scans.class_names == CLASS_NAMES
    assert scans.provenance["found"]["labels"] == {"normal": 4, "drusen": 4, "cnv": 5, "dme": 4}
    assert scans.table["patient"].nunique() == scans.table["group"].nunique() == 12
    assert (scans.table["patient"] == "ucsd/137351").sum() == 3
    for crop in (True, False):
        images = scans.images(35, crop, progress=False)
        assert images.shape == (17, 35, 35) and (images.std(axis=(1, 2)) > 5).all()
    for crop in (True, False):  # the borders are gone from whole frames too
        assert (scans.images(35, crop, progress=False) > 245).mean() < 0.002


# --- NEH ---


def test_neh_patients_are_keyed_by_class_and_number(neh):
    scans = read("neh", neh, worst_case=False)
    assert len(scans) == 18 and scans.table["patient"].nunique() == 9  # not 3, as the bare number has it
    row = scans.table.set_index("scan_id").loc["neh/NORMAL/2/001_Normal.jpg"]
    assert (row["patient"], row["patient_class"], row["label"], row["slice"]) == ("neh/NORMAL/2", "normal", "normal", 1)
    assert row["eye"] in ("OD", "OS")
    filtered = read("neh", neh).table
    assert (filtered["patient_class"] == filtered["label"]).all()


def test_neh_row_order_changes_nothing(neh):
    straight = read("neh", neh)
    edit_neh(neh, lambda rows: rows.sample(frac=1, random_state=3))
    again = read("neh", neh)
    pd.testing.assert_frame_equal(again.table, straight.table)
    assert again.provenance == straight.provenance


def test_neh_exact_duplicate_rows_are_dropped_and_counted(neh):
    edit_neh(neh, lambda rows: pd.concat([rows, rows.iloc[[0, 5]]]))
    scans = read("neh", neh, worst_case=False)
    assert len(scans) == 18
    assert scans.provenance["refused"] == {"exact duplicate row": 2}


def test_neh_rows_that_contradict_each_other_are_an_error(neh):
    edit_neh(neh, lambda rows: pd.concat([rows, rows.iloc[[0]].assign(Label="NORMAL", Eye="OX")]))
    with pytest.raises(ScanError, match="lines 2 and 20: .* listed twice, with different entries"):
        read("neh", neh)


def test_neh_letter_case_finds_the_file_or_names_the_row_that_has_it(neh):
    def change(rows):
        rows.loc[0, "Directory"] = rows.loc[0, "Directory"].upper()  # no other row has this file
        odd = rows.iloc[[4]].assign(Directory=rows.loc[4, "Directory"].lower())  # row 4 has it
        return pd.concat([rows, odd])

    before = read("neh", neh, worst_case=False).table
    edit_neh(neh, change)
    scans = read("neh", neh, worst_case=False)
    pd.testing.assert_frame_equal(scans.table, before)
    assert scans.provenance["refused"] == {"another row's file in another letter case": 1}
    assert "1 paths were found under another letter case" in scans.provenance["notes"]


def test_neh_missing_files_are_refused_and_counted_unless_all_are(neh):
    first = pd.read_csv(neh / "data_information.csv", dtype=str)["Directory"][0]
    neh_file(neh, first).unlink()
    scans = read("neh", neh, worst_case=False)
    assert len(scans) == 17 and scans.provenance["refused_examples"] == {"no such file": [first]}
    shutil.rmtree(neh / "NEH_UT_2021RetinalOCTDataset")
    with pytest.raises(ScanError, match="None of the 18 images that data_information.csv lists is there"):
        read("neh", neh)


@pytest.mark.parametrize("spelling", ["NORMAL", "NOrmal", "normal", " Normal "])
def test_neh_labels_are_read_in_every_spelling(neh, spelling):
    before = read("neh", neh, worst_case=False).table
    edit_neh(neh, lambda rows: rows.assign(Label=rows["Label"].replace("NORMAL", spelling)))
    pd.testing.assert_frame_equal(read("neh", neh, worst_case=False).table, before)


@pytest.mark.parametrize("label", ["DME", "NORMEL", "0"])
def test_an_unknown_neh_label_is_an_error_that_names_its_line(neh, label):
    def change(rows):
        rows.loc[7, "Label"] = label
        return rows

    edit_neh(neh, change)
    with pytest.raises(ScanError, match=f"line 9, Label: unknown label '{label}'; valid labels for neh: normal"):
        read("neh", neh)


def test_wrong_neh_columns_and_entries_are_errors(neh, neh_source):
    edit_neh(neh, lambda rows: rows.rename(columns={"Patient ID": "PatientID"}))
    with pytest.raises(ScanError, match="wrong columns, Patient ID not found; required: .*; found: PatientID, Class"):
        read("neh", neh)
    shutil.copy(neh_source / "data_information.csv", neh)
    edit_neh(neh, lambda rows: rows.assign(**{"B-scan": "first"}))
    with pytest.raises(ScanError, match="line 2: B-scan 'first' is not a whole number"):
        read("neh", neh)
    (neh / "data_information.csv").write_text("")
    with pytest.raises(ScanError, match="cannot be read as a CSV file"):
        read("neh", neh)
    (neh / "data_information.csv").unlink()
    with pytest.raises(ScanError, match="There is no data_information.csv"):
        read("neh", neh)


def test_neh_patients_that_share_an_image_are_linked_even_by_a_filtered_one(neh):
    """CNV/1 and DRUSEN/2 share an image; it shows drusen, so the filter drops the copy that lies under CNV."""
    source = neh_file(neh, "DRUSEN/2/009_Drusen.jpg")
    write_image(source, 77)
    shutil.copy(source, neh_file(neh, "CNV/1/009_Drusen.jpg"))
    new = pd.DataFrame({
        "Patient ID": ["2", "1"], "Class": ["DRUSEN", "CNV"], "Eye": "OD", "B-scan": "9", "Label": "DRUSEN",
        "Directory": ["DRUSEN/2/009_Drusen.jpg", "CNV/1/009_Drusen.jpg"],
    })  # fmt: skip
    edit_neh(neh, lambda rows: pd.concat([rows, new]))
    table = read("neh", neh).table
    assert "neh/CNV/1/009_Drusen.jpg" not in set(table["scan_id"])
    linked = table["patient"].isin(["neh/CNV/1", "neh/DRUSEN/2"])
    assert set(table.loc[linked, "group"]) == {"neh/CNV/1"}
    assert (table.loc[~linked, "group"] == table.loc[~linked, "patient"]).all()


# --- bring your own ---


def test_own_scans_need_only_path_label_patient(own):
    scans = read("csv", own)
    assert scans.table["label"].tolist() == ["normal", "cnv", "cnv", "drusen"]
    assert scans.table["path"].tolist() == ["a.png", "b.png", "d.png", "sub/c.png"]
    assert scans.table["patient"].tolist() == ["csv/p1", "csv/p2", "csv/p2", "csv/p3"]
    pd.testing.assert_frame_equal(read("csv", own / "scans.csv").table, scans.table)


def test_own_optional_columns_are_used_and_others_kept(own):
    edit_own(own, lambda rows: rows.assign(eye="od", slice="4", patient_class=["normal", "cnv", "cnv", "cnv"], age="9"))
    scans = read("csv", own)
    assert set(scans.table["eye"]) == {"OD"} and set(scans.table["slice"]) == {4}
    assert len(scans) == 3 and scans.class_names == ("normal", "cnv")  # the drusen scan of a cnv patient is filtered
    assert list(scans.table.columns) == [*SCAN_COLUMNS, "age"] and set(scans.table["age"]) == {"9"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.rename(columns={"label": "Label"}), "wrong columns, label not found; .*found: path, Label"),
        (lambda rows: rows.assign(label="CNW"), "line 2, label: unknown label 'CNW'; valid labels for csv: normal"),
        (lambda rows: rows.assign(patient=["p1", "", "p3", "p2"]), "line 3: patient is empty"),
        (lambda rows: rows.assign(path=["a.png", "b.png", "x.png", "y.png"]), r"line 4: no such file x.png \(2 miss"),
        (lambda rows: rows.assign(path=["a.png", "b.png", "./a.png", "d.png"]), "lines 2 and 4: a.png is listed twice"),
        (lambda rows: rows.assign(slice="2.5"), "line 2: slice '2.5' is not a whole number"),
        (lambda rows: rows.iloc[:0], "scans.csv: no rows"),
    ],
)
def test_faults_in_own_tables_are_errors_that_name_the_line(own, change, message):
    edit_own(own, change)
    with pytest.raises(ScanError, match=message):
        read("csv", own)


def test_own_duplicate_rows_blank_lines_and_order_change_nothing(own):
    before = read("csv", own)
    text = (own / "scans.csv").read_text().splitlines()
    lines = [text[0], *text[:0:-1], "", text[2]]
    (own / "scans.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")  # as spreadsheets save
    scans = read("csv", own)
    pd.testing.assert_frame_equal(scans.table, before.table)
    assert scans.provenance["refused"] == {"exact duplicate row": 1}


def test_own_absolute_paths_work(own, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("table")
    rows = pd.read_csv(own / "scans.csv", dtype=str)
    rows["path"] = [os.fspath(own / path) for path in rows["path"]]
    rows.to_csv(elsewhere / "mine.csv", index=False)
    scans = read("csv", elsewhere / "mine.csv")
    np.testing.assert_array_equal(scans.images(16, True, progress=False), read("csv", own).images(16, True, False))


# --- linking ---


def naive_groups(patients, images):
    """Merge sets of patients until none share an image: the definition, slowly."""
    rows = list(zip(patients, images, strict=True))
    sets = [({patient}, {image for owner, image in rows if owner == patient}) for patient in set(patients)]
    merged = True
    while merged:
        merged = False
        for a in range(len(sets)):
            for b in range(a + 1, len(sets)):
                if sets[a][1] & sets[b][1]:
                    sets[a] = (sets[a][0] | sets[b][0], sets[a][1] | sets[b][1])
                    del sets[b]
                    merged = True
                    break
            if merged:
                break
    return {patient: min(members) for members, _ in sets for patient in members}


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
    hashes = {"a": "1", "b": "1", "c": "2", "d": "2"}
    assert link_patients(table, hashes).tolist() == ["c", "c", "b", "b"]
    assert link_patients(table, dict(zip("abcd", "1234", strict=True))).tolist() == ["d", "c", "b", "p"]
