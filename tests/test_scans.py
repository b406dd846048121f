"""The scan table of every dataset: what is found, what is refused, who belongs together; order changes nothing."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_neh import write_neh_folder
from PIL import Image

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers import READERS
from kdoct_utils.data.scans import SCAN_COLUMNS, link_patients, read_scans
from kdoct_utils.datasets import DATASETS, PHANTOMS, DataOptions
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


def edit(table, change):
    """Rewrite a CSV file through ``change`` (DataFrame of strings -> DataFrame)."""
    change(pd.read_csv(table, dtype=str)).to_csv(table, index=False)


@pytest.fixture
def ucsd(tmp_path):
    """Two classes, patient 7 in both."""
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


def neh_file(root, directory):
    return root / "NEH_UT_2021RetinalOCTDataset" / directory


@pytest.fixture
def own(tmp_path):
    rows = [("a.png", "Normal", "p1"), ("b.png", "CNV", "p2"), ("sub/c.png", "drusen", "p3"), ("d.png", "cnv ", "p2")]
    for seed, (name, _, _) in enumerate(rows):
        write_image(tmp_path / name, seed)
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


# --- what every reader promises ---


@pytest.mark.parametrize("dataset", ["phantom", "ucsd", "neh", "csv"])
def test_every_reader_returns_the_scan_table_and_a_record(dataset, request):
    fixture = {"ucsd": "ucsd", "neh": "neh", "csv": "own"}.get(dataset)
    scans = read(dataset, request.getfixturevalue(fixture) if fixture else None)
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
    assert {*PHANTOMS, *READERS} == set(DATASETS)  # every dataset of the registry is drawn or read
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


# --- phantoms ---


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


# --- UCSD ---


def test_a_ucsd_number_is_one_patient_across_classes_and_parts(ucsd):
    flat = read("ucsd", ucsd).table
    assert flat["patient"].nunique() == 3
    assert set(flat.loc[flat["patient"] == "ucsd/7", "label"]) == {"normal", "cnv"}
    for part, name in (("train", "NORMAL"), ("test", "CNV")):
        (ucsd / part).mkdir()
        (ucsd / name).rename(ucsd / part / name)
    nested = read("ucsd", ucsd).table
    assert sorted(nested["patient"]) == sorted(flat["patient"])
    assert nested["scan_id"].str.match(r"ucsd/(train|test)/").all()


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


def test_folders_that_are_not_as_they_must_be_are_errors(ucsd):
    with pytest.raises(ScanError, match="expected: {CNV,DME,DRUSEN,NORMAL}/CLASS(.|\n)*deeper: data_root .*data/OCT\n"):
        read("ucsd", ucsd.parent)  # one level too high
    (ucsd / "DME").mkdir()
    with pytest.raises(ScanError, match="no scans in the folders of class dme"):
        read("ucsd", ucsd)
    (ucsd / "DME").rmdir()
    write_image(ucsd / "AMD" / "AMD-1-1.jpeg", 50)
    with pytest.raises(ScanError, match="unknown label 'AMD'; valid labels for ucsd: normal, drusen, cnv, dme"):
        read("ucsd", ucsd)
    shutil.rmtree(ucsd / "AMD")
    write_image(ucsd / "train" / "CNV" / "CNV-9-1.jpeg", 50)
    with pytest.raises(ScanError, match="class folders both beside and in train(.|\n)*found: 3 folders"):
        read("ucsd", ucsd)
    shutil.rmtree(ucsd / "train")
    shutil.rmtree(ucsd / "CNV")
    with pytest.raises(ScanError, match="two classes are needed, found normal"):
        read("ucsd", ucsd)


def test_an_image_that_is_none_never_becomes_a_picture(ucsd):
    path = ucsd / "CNV" / "CNV-7-9.jpeg"
    path.write_bytes(path.read_bytes()[:400])
    scans = read("ucsd", ucsd)
    for crop in (True, False):
        with pytest.raises(ScanError, match="CNV-7-9.jpeg: cannot be read as an image"):
            scans.images(16, crop, progress=False)
    Image.new("L", (64, 48)).save(path)
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
        assert (images > 245).mean() < 0.002  # the borders are gone, from whole frames too


# --- NEH ---


def test_neh_patients_are_keyed_by_class_and_number(neh):
    scans = read("neh", neh, worst_case=False)
    assert len(scans) == 18 and scans.table["patient"].nunique() == 9  # not 3, as the bare number has it
    row = scans.table.set_index("scan_id").loc["neh/NORMAL/2/001_Normal.jpg"]
    assert (row["patient"], row["patient_class"], row["label"], row["slice"]) == ("neh/NORMAL/2", "normal", "normal", 1)
    assert row["eye"] in ("OD", "OS")
    filtered = read("neh", neh).table
    assert (filtered["patient_class"] == filtered["label"]).all()


def test_neh_rows_that_occur_twice_are_dropped_and_counted_or_an_error(neh):
    table, before = neh / "data_information.csv", read("neh", neh, worst_case=False).table
    content = table.read_bytes()
    edit(table, lambda rows: pd.concat([rows, rows.iloc[[0, 5]]]))
    scans = read("neh", neh, worst_case=False)
    pd.testing.assert_frame_equal(scans.table, before)
    assert scans.provenance["refused"] == {"exact duplicate row": 2}

    def other_case(rows):
        rows.loc[0, "Directory"] = rows.loc[0, "Directory"].upper()  # no other row has this file
        return pd.concat([rows, rows.iloc[[4]].assign(Directory=rows.loc[4, "Directory"].lower())])  # row 4 has it

    table.write_bytes(content)
    edit(table, other_case)
    scans = read("neh", neh, worst_case=False)
    pd.testing.assert_frame_equal(scans.table, before)
    assert scans.provenance["refused"] == {"another row's file in another letter case": 1}
    assert "1 paths were found under another letter case" in scans.provenance["notes"]
    table.write_bytes(content)
    edit(table, lambda rows: pd.concat([rows, rows.iloc[[0]].assign(Label="NORMAL", Eye="OX")]))
    with pytest.raises(ScanError, match="lines 2 and 20: .* listed twice, with different entries"):
        read("neh", neh)


def test_neh_missing_files_are_refused_and_counted_unless_all_are(neh):
    first = pd.read_csv(neh / "data_information.csv", dtype=str)["Directory"][0]
    neh_file(neh, first).unlink()
    scans = read("neh", neh, worst_case=False)
    assert len(scans) == 17 and scans.provenance["refused_examples"] == {"no such file": [first]}
    shutil.rmtree(neh / "NEH_UT_2021RetinalOCTDataset")
    with pytest.raises(ScanError, match="None of the 18 images that data_information.csv lists is there"):
        read("neh", neh)


def test_wrong_neh_tables_are_errors(neh):
    table = neh / "data_information.csv"
    rows = pd.read_csv(table, dtype=str)
    for changed, message in (
        (rows.rename(columns={"Patient ID": "PatientID"}),
         "wrong columns, Patient ID not found; required: .*; found: PatientID, Class"),
        (rows.assign(**{"B-scan": "first"}), "line 2: B-scan 'first' is not a whole number"),
        (rows.assign(Label=rows["Label"].where(rows.index != 7, "DME")), "line 9, Label: unknown label 'DME'"),
        (pd.DataFrame(), "cannot be read as a CSV file"),
    ):  # fmt: skip
        changed.to_csv(table, index=False)
        with pytest.raises(ScanError, match=message):
            read("neh", neh)
    table.unlink()
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
    edit(neh / "data_information.csv", lambda rows: pd.concat([rows, new]))
    table = read("neh", neh).table
    assert "neh/CNV/1/009_Drusen.jpg" not in set(table["scan_id"])
    linked = table["patient"].isin(["neh/CNV/1", "neh/DRUSEN/2"])
    assert set(table.loc[linked, "group"]) == {"neh/CNV/1"}
    assert (table.loc[~linked, "group"] == table.loc[~linked, "patient"]).all()


# --- bring your own ---


def test_own_scans_need_only_path_label_patient(own, tmp_path_factory):
    scans = read("csv", own)
    assert scans.table["label"].tolist() == ["normal", "cnv", "cnv", "drusen"]
    assert scans.table["path"].tolist() == ["a.png", "b.png", "d.png", "sub/c.png"]
    assert scans.table["patient"].tolist() == ["csv/p1", "csv/p2", "csv/p2", "csv/p3"]
    pd.testing.assert_frame_equal(read("csv", own / "scans.csv").table, scans.table)
    elsewhere = tmp_path_factory.mktemp("table") / "mine.csv"  # absolute paths work too
    rows = pd.read_csv(own / "scans.csv", dtype=str)
    rows.assign(path=[os.fspath(own / path) for path in rows["path"]]).to_csv(elsewhere, index=False)
    images = read("csv", elsewhere).images(16, True, progress=False)
    np.testing.assert_array_equal(images, scans.images(16, True, progress=False))
    # Optional columns are used, and others kept.
    more = {"eye": "od", "slice": "4", "patient_class": ["normal", "cnv", "cnv", "cnv"], "age": "9"}
    edit(own / "scans.csv", lambda rows: rows.assign(**more))
    scans = read("csv", own)
    assert set(scans.table["eye"]) == {"OD"} and set(scans.table["slice"]) == {4}
    assert len(scans) == 3 and scans.class_names == ("normal", "cnv")  # the drusen scan of a cnv patient is filtered
    assert list(scans.table.columns) == [*SCAN_COLUMNS, "age"] and set(scans.table["age"]) == {"9"}


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
    ):
        changed.to_csv(own / "scans.csv", index=False)
        with pytest.raises(ScanError, match=message):
            read("csv", own)


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
