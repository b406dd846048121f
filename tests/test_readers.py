"""The readers of NEH, UCSD and of one's own scans, against miniatures with every quirk and the real name lists."""

import hashlib
import io
import os
import re
import shutil
from pathlib import Path

import mini_neh
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdoct_utils.data.files import File, Source
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers import READERS
from kdoct_utils.data.readers.common import parse_table, places, unexpected_layout
from kdoct_utils.data.scans import SCAN_COLUMNS, link_patients, linked_pairs, read_scans
from kdoct_utils.data.splits import audit_leakage, make_splits
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.phantom.miniature import write_quirky_neh, write_ucsd_folder
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

ROOT = Path(__file__).resolve().parents[1]
FACTS = ROOT / ".." / "shared" / "facts"
real_names = pytest.mark.skipif(not FACTS.is_dir(), reason="no real name lists at ../shared/facts")
TABLE = "data_information.csv"
IMAGES = "NEH_UT_2021RetinalOCTDataset"


def read(dataset, root, **options):
    return read_scans(dataset, root, profile=PROFILES["smoke"], seed=0, options=DataOptions(**options), progress=False)


@pytest.fixture(scope="module")
def quirky(tmp_path_factory):
    """The miniature NEH and what was planted in it. Read only."""
    folder = tmp_path_factory.mktemp("quirky")
    return folder, write_quirky_neh(folder, 0)


@pytest.fixture(scope="module")
def forms(quirky, tmp_path_factory):
    return mini_neh.forms(quirky[0], tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def ucsd(tmp_path_factory):
    """A miniature UCSD with train, val and test, and what was planted in it. Read only."""
    folder = tmp_path_factory.mktemp("ucsd") / "OCT2017"
    return folder, write_ucsd_folder(folder, 0, parts=("train", "val", "test"))


# --- NEH: every quirk -------------------------------------------------------------------------------------------------


def test_the_miniature_has_what_the_published_set_has(quirky):
    folder, planted = quirky
    table = pd.read_csv(folder / TABLE, dtype=str)
    assert list(table.columns) == ["Patient ID", "Class", "Eye", "B-scan", "Label", "Directory"]
    assert all(planted.values()), f"not planted: {[name for name, items in planted.items() if not items]}"
    spellings = set(table["Directory"].str.extract(r"_([A-Za-z]+)\.")[0])
    assert spellings >= {"Normal", "NOrmal", "normal", "Drusen", "DRusen", "drusen", "CNV"}
    files = [path for path in (folder / IMAGES).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".jpg", ".tif"}
    for path in files:
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (496, 768, 3)
        rows, columns = np.nonzero(np.ptp(pixels, axis=2) > 100)  # colored: the scale bar
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (463, 483, 13, 63)
        black = bool(pixels[:100].max() < 10 and pixels[:, 700:].max() < 10)
        assert black == (path.relative_to(folder / IMAGES).as_posix() in planted["canvas"])


def recount(folder):
    """The published counts of an NEH folder, from its table and files, without the reader."""
    rows = pd.read_csv(folder / TABLE, dtype=str)
    files = sorted(path for path in (folder / IMAGES).rglob("*") if path.is_file())
    names = [path.relative_to(folder / IMAGES).as_posix() for path in files]
    case = ["/".join(name.split("/")[:2]) for name in names]
    label = [re.search(r"_(\w+)\.", name)[1].upper() for name in names]
    eye_folders = {"/".join(name.split("/")[:3]) for name in names if name.count("/") == 3}
    flat = {of for of, name in zip(case, names, strict=True) if name.count("/") == 2}
    content = [hashlib.md5(path.read_bytes()).hexdigest() for path in files]
    shared = {
        tuple(sorted({a, b}))
        for a, x in zip(case, content, strict=True)
        for b, y in zip(case, content, strict=True)
        if x == y and a != b
    }
    passed = rows[rows["Class"] == rows["Label"]]
    folders = [name.split("/")[0] for name in names]
    distinct = rows.drop_duplicates()
    counts = {
        "rows": len(rows),
        "exact duplicate rows": len(rows) - len(distinct),
        "paths without a file": int((~distinct["Directory"].isin(names)).sum()),
        "scans": len(names),
        "patients": len(set(case)),
        "eyes": len(eye_folders) + len(flat),
        "groups": len(set(case)) - len(shared),  # the miniature's pairs are disjoint
        "linked pairs": len(shared),
        "patients with contradictory labels": 2 * sum(a.split("/")[0] != b.split("/")[0] for a, b in shared),
        "worst-case rows": len(passed),
        "worst-case scans": sum(a == b for a, b in zip(folders, label, strict=True)),
    }
    for name in ("NORMAL", "DRUSEN", "CNV"):
        counts[f"worst-case rows, {name.lower()}"] = int((passed["Class"] == name).sum())
        for other in ("NORMAL", "DRUSEN", "CNV"):
            pairs = list(zip(folders, label, strict=True))
            counts[f"{name} folder, {other.lower()} label"] = pairs.count((name, other))
    return counts


def test_every_published_count_of_neh_is_counted_and_the_differences_are_said(quirky):
    folder, _ = quirky
    scans = read("neh", folder)
    record = scans.provenance
    assert record["counted"] == recount(folder)
    assert record["published"] == DATASETS["neh"].published_counts and set(record["published"]) == set(recount(folder))
    assert "groups: 9 found, 437 published" in record["differences"]
    assert "rows: 35 found, 16,822 published" in record["differences"]
    assert "NORMAL folder, cnv label: 0 found, 0 published" not in record["differences"]
    assert len(record["differences"]) == sum(n != record["published"][what] for what, n in recount(folder).items())


def test_nothing_is_said_of_counts_that_are_as_published(quirky, monkeypatch):
    counts = recount(quirky[0])
    monkeypatch.setattr("kdoct_utils.data.scans.DATASETS", DATASETS | {
        "neh": type(DATASETS["neh"])(**{**vars(DATASETS["neh"]), "published_counts": counts})
    })  # fmt: skip
    scans = read("neh", quirky[0])
    assert scans.provenance["differences"] == []


def test_every_refused_row_of_neh_is_counted_and_named(quirky):
    folder, planted = quirky
    refused = read("neh", folder, worst_case=False).provenance["refused_examples"]
    assert refused.pop("no such file") == planted["no file"]
    assert refused.pop("another row's file in another letter case") == planted["other row's file"]
    lines = (folder / TABLE).read_text().splitlines()
    duplicates = [int(name.removeprefix("line ")) for name in refused.pop("exact duplicate row")]
    assert [lines[line - 1] in lines[: line - 1] for line in duplicates] == [True] * len(planted["duplicate rows"])
    assert not refused
    filtered = read("neh", folder)
    assert filtered.provenance["refused"]["label is not the patient's class (worst-case filter)"] == len(
        planted["not the class"]
    )
    dropped = set(read("neh", folder, worst_case=False).table["scan_id"]) - set(filtered.table["scan_id"])
    assert dropped == {"neh/" + name for name in planted["not the class"]}


def test_a_path_in_another_letter_case_takes_the_name_of_its_file(quirky):
    folder, planted = quirky
    scans = read("neh", folder, worst_case=False)
    spelled = planted["other letter case"][0]
    assert f"neh/{spelled}" not in set(scans.table["scan_id"])
    real = "neh/" + spelled.replace(".JPG", ".jpg")
    assert real in set(scans.table["scan_id"]) and scans.source.read(f"{IMAGES}/{real.removeprefix('neh/')}")


def test_twin_cases_are_one_group_and_contradictory_patients_are_named(quirky):
    folder, planted = quirky
    scans = read("neh", folder)
    group = scans.table.groupby("patient")["group"].unique().map(list)
    for case, twin in planted["twins"]:
        assert group[f"neh/{case}"] == group[f"neh/{twin}"] == [min(f"neh/{case}", f"neh/{twin}")]
    linked = {f"neh/{case}" for pair in planted["twins"] for case in pair}
    assert all(groups == [patient] for patient, groups in group.items() if patient not in linked)
    notes = [note for note in scans.provenance["notes"] if "contradict each other" in note]
    assert notes == [
        "patients share images and contradict each other in their class: "
        "neh/DRUSEN/3 (drusen) = neh/NORMAL/3 (normal), images shared: 3"
    ]
    assert "neh/CNV/2 (cnv) = neh/CNV/4 (cnv)" in str(scans.provenance)


def test_neh_notes_count_what_rows_and_files_disagree_on(quirky, tmp_path):
    folder = Path(shutil.copytree(quirky[0], tmp_path / "neh"))
    assert not [note for note in read("neh", folder).provenance["notes"] if "the row counts" in note]
    rows = pd.read_csv(folder / TABLE, dtype=str)
    first = rows.index[rows["Directory"] == "NORMAL/1/001_NOrmal.jpg"][0]
    rows.loc[first, ["Label", "Patient ID"]] = ["DRUSEN", "8"]
    rows.to_csv(folder / TABLE, index=False)
    shutil.copy(folder / IMAGES / "CNV/1/000_CNV.jpg", folder / IMAGES / "CNV/1/700_CNV.jpg")
    record = read("neh", folder).provenance
    assert "1 file names carry another label than their row, such as NORMAL/1/001_NOrmal.jpg; the row counts" in (
        record["notes"]
    )
    assert any(note.startswith("1 files lie under another class or patient than") for note in record["notes"])
    assert record["refused_examples"]["image without a row in the table"] == ["CNV/1/700_CNV.jpg"]


# --- NEH: zipped or not -----------------------------------------------------------------------------------------------

FORMS = [
    "two folders around", "wrapped once more", "images still zipped", "one zip", "folder with one zip",
    "zip in zip, stored", "folder with zip in zip", "two folders around a zip", "zip in zip, deflated",
]  # fmt: skip


def test_the_forms_are_those(forms):
    assert list(forms) == ["extracted", *FORMS]


@pytest.mark.parametrize("form", FORMS)
def test_neh_is_read_alike_however_it_is_packed(forms, form):
    plain, packed = read("neh", forms["extracted"], worst_case=False), read("neh", forms[form], worst_case=False)
    pd.testing.assert_frame_equal(packed.table.drop(columns="path"), plain.table.drop(columns="path"))
    assert packed.hashes == plain.hashes
    assert packed.provenance == plain.provenance
    position = len(plain) // 2
    a, b = (scans.source.pixels(scans.table["path"][position]) for scans in (plain, packed))
    np.testing.assert_array_equal(a, b)


def test_an_archive_beside_what_was_unpacked_of_it_is_left_alone(quirky, tmp_path):
    folder = Path(shutil.copytree(quirky[0], tmp_path / "neh"))
    (folder / mini_neh.INNER).write_bytes(b"what is left of a download")
    assert len(read("neh", folder, worst_case=False)) == 31
    shutil.rmtree(folder / IMAGES)
    with pytest.raises(ScanError, match=f"{mini_neh.INNER}: cannot be read as a zip archive"):
        read("neh", folder)


def test_of_several_copies_of_the_images_the_one_with_most_of_them_counts(quirky, tmp_path):
    folder = Path(shutil.copytree(quirky[0], tmp_path / "neh"))
    shutil.copytree(folder / IMAGES / "CNV", folder / "CNV")
    scans = read("neh", folder, worst_case=False)
    assert len(scans) == 31 and scans.table["path"].str.startswith(f"{IMAGES}/").all()


# --- layouts that are not the expected one ----------------------------------------------------------------------------


def test_another_layout_says_what_is_expected_what_is_there_and_where_to_get_it(tmp_path):
    for k in range(6):
        (tmp_path / f"eyes{k}").mkdir()
        (tmp_path / f"eyes{k}" / f"scan{k}.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    for dataset in ("neh", "ucsd"):
        info = DATASETS[dataset]
        with pytest.raises(ScanError) as error:
            read(dataset, tmp_path)
        text = str(error.value)
        assert f"{tmp_path} is not laid out as {dataset} is" in text and f"expected: {info.layout}" in text
        assert "found: 6 folders (eyes0, eyes1, eyes2, eyes3, ...), 1 file (notes.txt); images: 6 .png" in text
        assert all(fact in text for fact in (info.title, info.url, info.license, info.citation))
        assert "looks like" not in text and "deeper" not in text


def test_an_empty_folder_says_so(tmp_path):
    for dataset in ("neh", "ucsd", "csv"):
        with pytest.raises(ScanError, match=r"is not laid out as(.|\n)*found: no files"):
            read(dataset, tmp_path)


def test_another_known_dataset_is_recognized_with_its_data_root(ucsd, quirky, tmp_path):
    around = ucsd[0].parent
    with pytest.raises(ScanError, match=f"it looks like ucsd: dataset ucsd, data_root {ucsd[0]}\n"):
        read("neh", around)
    with pytest.raises(ScanError, match=f"ucsd seems to lie deeper: data_root {ucsd[0]}\n"):
        read("ucsd", around)
    with pytest.raises(ScanError, match=f"it looks like neh: dataset neh, data_root {quirky[0]}\n"):
        read("ucsd", quirky[0])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, dataset in (("OCTDL_labels.csv", "octdl"), ("octmnist_64.npz", "octmnist"), ("scans.csv", "csv")):
        (tmp_path / "deep" / "er" / name).write_text("x")
        with pytest.raises(ScanError, match=f"it looks like {dataset}: dataset {dataset}, data_root .*/deep/er\n"):
            read("ucsd", tmp_path)
        (tmp_path / "deep" / "er" / name).unlink()


def test_a_folder_without_scans_csv_names_the_table_that_may_be_meant(tmp_path):
    (tmp_path / "mine.csv").write_text("path,label,patient\n")
    with pytest.raises(ScanError, match="There is no scans.csv. A table of another name .* such as .*/mine.csv"):
        read("csv", tmp_path)


def test_places_are_found_at_any_depth_shallowest_first():
    names = ["x/y/test/CNV/CNV-1-1.jpeg", "x/NORMAL/NORMAL-12-3.JPEG", "x/NORMAL/image.jpeg", "a/DME-1-1.jpeg"]
    assert places("ucsd", names) == ["x/", "x/y/"]
    assert places("neh", names) == []
    assert "1 folder (x)" in str(unexpected_layout("neh", Path("root"), names[:2]))


def test_neh_tables_that_cannot_be_told_apart_are_an_error(quirky, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(quirky[0], tmp_path / name)
    with pytest.raises(ScanError, match="holds 2 tables, one/data_information.csv, two/data_information.csv"):
        read("neh", tmp_path)
    (tmp_path / "two" / TABLE).rename(tmp_path / TABLE)  # now it is the nearest, and counts
    scans = read("neh", tmp_path)
    assert scans.provenance["counted"] == recount(quirky[0]) and scans.table["path"].str.startswith("one/").all()


# --- UCSD -------------------------------------------------------------------------------------------------------------


def archive_of_names(path, names):
    """An archive of empty files of these names: what a reader needs that looks at names only."""
    path.write_bytes(mini_neh.zip_bytes(dict.fromkeys(names, b"")))
    return path


def found_in(path, names):
    return READERS["ucsd"](archive_of_names(path, names), DataOptions())


@pytest.fixture(scope="module")
def real_lists():
    return [(FACTS / f"ucsd_v3_{name}_names.txt").read_text().split() for name in ("test", "train_normal")]


@real_names
def test_the_real_names_of_version_3(real_lists, tmp_path):
    test, normal = real_lists
    table = found_in(tmp_path / "v3.zip", [*normal, *test]).table
    assert len(table) == 11425 and set(table["part"]) == {"train", "test"}
    held_out, training = table[table["part"] == "test"], table[table["part"] == "train"]
    assert held_out["label"].value_counts().to_dict() == dict.fromkeys(CLASS_NAMES, 250)
    assert held_out["patient"].nunique() == 635
    assert len(training) == 10425 and set(training["label"]) == {"normal"} and training["patient"].nunique() == 687
    # The same from the names alone.
    numbers = [pd.Series(names).str.extract(r"-(\d+)-\d+\.jpeg$")[0] for names in (test, normal)]
    shared = set(numbers[0]) & set(numbers[1])
    assert set(held_out["patient"]) & set(training["patient"]) == {f"ucsd/{number}" for number in shared}
    assert sorted(table["slice"]) == sorted(int(name.split("-")[2].split(".")[0]) for name in [*test, *normal])


@real_names
def test_a_real_test_part_read_alone_is_split_from_nothing(real_lists, tmp_path):
    found = found_in(tmp_path / "test.zip", real_lists[0])
    assert set(found.table["part"]) == {"test"}
    assert any("the version cannot be told from 1,000 images" in note for note in found.notes)


@pytest.mark.parametrize(
    ("training", "version"), [(108309, "3"), (107500, "3"), (83484, "2"), (83900, "2"), (90000, None), (30, None)]
)
def test_the_version_is_told_by_the_number_of_images(training, version, monkeypatch, tmp_path):
    names = [f"train/CNV/CNV-{k % 4000}-{k}.jpeg" for k in range(training)]
    names += [f"test/{name}/{name}-{4000 + k % 9}-{k}.jpeg" for name in ("CNV", "DRUSEN") for k in range(500)]
    source = Source(tmp_path, {name: File(name, "1-1") for name in names})
    monkeypatch.setattr("kdoct_utils.data.readers.ucsd.open_source", lambda root, complete: source)
    found = READERS["ucsd"](Path("anywhere"), DataOptions())
    if version is None:
        assert found.counts == {} and any("the version cannot be told" in note for note in found.notes)
    else:
        assert f"version {version}, told from the number of images" in found.notes
        assert found.counts[f"test scans (version {version})"] == 1000
        assert found.counts[f"training scans (version {version})"] == training
        assert found.counts[f"patients in train and test (version {version})"] == 0
        assert found.counts[f"patients (version {version})"] == 4009


def test_the_publishers_parts_are_a_further_column(ucsd):
    scans = read("ucsd", ucsd[0])
    assert list(scans.table.columns) == [*SCAN_COLUMNS, "part"]
    folder = scans.table["path"].str.split("/").str[0]
    assert (folder.replace("val", "validation") == scans.table["part"]).all()
    assert set(scans.table["part"]) == {"train", "validation", "test"}


def test_ucsd_tells_what_train_and_test_share(ucsd):
    folder, planted = ucsd
    scans = read("ucsd", folder)
    notes = scans.provenance["notes"]
    held_out = scans.table["part"] == "test"
    shared = set(scans.table.loc[held_out, "patient"]) & set(scans.table.loc[~held_out, "patient"])
    assert shared == {f"ucsd/{number}" for number in planted["train and test"]} and len(shared) == 1
    assert "1 of 4 patients of the test part (25.0%) are in train or validation too" in notes
    assert "1 of 9 images of the test part (11.1%) are in train or validation too" in notes
    for train, test in planted["identical across parts"]:
        assert scans.hashes[f"ucsd/{train}"] == scans.hashes[f"ucsd/{test}"]
    assert "1 sets carry contradictory labels" in str(scans.provenance)
    (a, b), = planted["contradictory"]
    patients = sorted(f"ucsd/{name.split('-')[1]}" for name in (a, b))
    assert any(note.startswith("patients share images and contradict") and all(p in note for p in patients)
               for note in notes)
    for number in planted["several classes"]:
        assert scans.table.loc[scans.table["patient"] == f"ucsd/{number}", "label"].nunique() > 1
    sizes = {scans.source.pixels(path).shape for path in scans.table["path"]}
    assert sizes == {(496, 768), (496, 512), (512, 512)}


def test_ucsd_is_read_alike_from_an_archive(ucsd, tmp_path):
    files = mini_neh.files_under(ucsd[0])
    wrapped = {f"CellData/OCT/{name}": content for name, content in files.items()}
    wrapped |= {"CellData/chest_xray/NORMAL/x.png": b"x", f"__MACOSX/._{next(iter(files))}": b"x"}
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ucsd.zip").write_bytes(mini_neh.zip_bytes(wrapped))
    plain = read("ucsd", ucsd[0])
    for root in (tmp_path / "here" / "ucsd.zip", tmp_path / "here"):
        packed = read("ucsd", root)
        pd.testing.assert_frame_equal(packed.table.drop(columns="path"), plain.table.drop(columns="path"))
        assert packed.hashes == plain.hashes
        assert "read from CellData/OCT in it" in packed.provenance["notes"]
        assert "1 images outside the class folders are not read" in str(packed.provenance)
    twice = wrapped | {f"copy/{name}": content for name, content in files.items()}
    (tmp_path / "twice.zip").write_bytes(mini_neh.zip_bytes(twice))
    with pytest.raises(ScanError, match="twice.zip holds it 2 times, in copy/, CellData/OCT/"):
        read("ucsd", tmp_path / "twice.zip")


LETTERS = st.sampled_from(["CNV", "cnv", "Cnv", "DME", "DRUSEN", "NORMAL", "AMD", "", "C N V", "CNV-"])
NUMBERS = st.sampled_from(["1", "007", "1234567", "", "-3", "x", "1.5", "٣٣x"])
ENDS = st.sampled_from([".jpeg", ".jpg", ".JPEG", ".png", "", ".jpeg.bak", ".jpeg "])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(LETTERS, NUMBERS, NUMBERS, ENDS), max_size=12, unique=True), st.randoms(use_true_random=False)
)
def test_ucsd_names_are_read_or_refused_and_counted(tmp_path_factory, parts, order):
    names = [f"CNV/{letters}-{patient}-{index}{end}" for letters, patient, index, end in parts]
    names = list(dict.fromkeys(["CNV/CNV-5-5.jpeg", "DRUSEN/DRUSEN-5-6.jpeg", *names]))
    order.shuffle(names)
    found = found_in(tmp_path_factory.getbasetemp() / "names.zip", names)
    valid = set()  # by splitting, not by a pattern
    for name in names:
        pieces = name.split("/")[1].split("-")
        stem, dot, suffix = pieces[-1].partition(".")
        digits = len(pieces) == 3 and all(part.isascii() and part.isdigit() for part in (pieces[1], stem))
        if digits and suffix.lower() in ("jpeg", "jpg") and pieces[0].upper() == name.split("/")[0]:
            valid.add(name)
    assert set(found.table["path"]) == valid
    refused = [name for group in found.refused.values() for name in group]
    assert sorted([*valid, *refused]) == sorted(names)
    assert (found.table["patient"] == "ucsd/" + found.table["path"].str.split("-").str[1]).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["CNV", "DME", "NORMAL"]), st.integers(1, 12), st.integers(0, 15)),
                min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_no_patient_lies_in_two_groups_or_two_roles(tmp_path_factory, scans, order):
    """Names and contents at random: some patients share images, in chains too."""
    base = [("CNV", 20 + k, 90 + k) for k in range(3)] + [("DRUSEN", 30 + k, 95 + k) for k in range(3)]
    files = {
        f"train/{label}/{label}-{patient}-{k}.jpeg": f"content {content}".encode()
        for k, (label, patient, content) in enumerate([*base, *scans])
    }
    names = list(files)
    order.shuffle(names)
    path = tmp_path_factory.getbasetemp() / "groups.zip"
    path.write_bytes(mini_neh.zip_bytes({name: files[name] for name in names}))
    read_in = read("ucsd", path)
    table = read_in.table
    assert (table.groupby("patient")["group"].nunique() == 1).all()
    assert (table.groupby(table["scan_id"].map(read_in.hashes))["group"].nunique() == 1).all()
    frame = make_splits(table, seed=0, allow_tiny=True)
    for fold in range(frame.attrs["folds"]):
        assert audit_leakage(table, frame, fold, read_in.hashes).empty


def test_scans_of_unknown_patients_are_linked_by_their_image_only():
    table = pd.DataFrame({"scan_id": list("abcd"), "patient": ["", "", "", "p"]})
    groups = link_patients(table, dict(zip("abcd", ["1", "2", "1", "2"], strict=True)))
    assert groups.tolist() == ["a", "b", "a", "b"]


def test_linked_pairs_are_those_that_share_an_image():
    table = pd.DataFrame({
        "scan_id": list("abcdefg"), "patient": ["p", "q", "q", "r", "s", "", ""],
        "patient_class": ["cnv", "cnv", "drusen", "normal", "normal", "cnv", "drusen"],
    })  # fmt: skip
    hashes = dict(zip("abcdefg", ["1", "1", "2", "2", "3", "4", "4"], strict=True))
    pairs = linked_pairs(table, hashes)
    assert pairs[["patient", "twin", "scans", "contradictory"]].values.tolist() == [
        ["p", "q", 1, False], ["q", "r", 1, True],
    ]  # fmt: skip
    assert pairs[["patient_class", "twin_class"]].values.tolist() == [["cnv", "cnv"], ["drusen", "normal"]]


# --- NEH tables: order and spelling -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neh_entries(quirky, tmp_path_factory):
    """The miniature's files, every image a few bytes of its own (twins alike), its table, and what is read of them."""
    files = mini_neh.files_under(quirky[0])
    table = pd.read_csv(io.BytesIO(files.pop(TABLE)), dtype=str)
    images = {name: hashlib.md5(content).digest() for name, content in files.items()}
    return images, table, read_entries(tmp_path_factory.mktemp("entries") / "before.zip", images, table)


def read_entries(path, images, table):
    path.write_bytes(mini_neh.zip_bytes({**images, TABLE: table.to_csv(index=False).encode()}))
    return read("neh", path, worst_case=False)


def spelled(word, order):
    """A label as a tired typist writes it: letters of either case, blanks around."""
    letters = "".join(order.choice([letter.lower(), letter.upper()]) for letter in word)
    return order.choice(["", " ", "  "]) + letters + order.choice(["", " ", "\t"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(order=st.randoms(use_true_random=False))
def test_order_of_rows_columns_and_files_and_spelling_change_nothing(neh_entries, tmp_path_factory, order):
    images, table, before = neh_entries
    rows = list(table.itertuples(index=False, name=None))
    spellings = {row: [spelled(row[1], order), spelled(row[4], order)] for row in dict.fromkeys(rows)}
    changed = table.copy()
    changed[["Class", "Label"]] = [spellings[row] for row in rows]  # what was a duplicate row stays one
    columns = order.sample(list(table.columns), len(table.columns))
    changed = changed.sample(frac=1, random_state=order.randrange(10**6))[columns]
    names = order.sample(list(images), len(images))
    path = tmp_path_factory.getbasetemp() / "after.zip"
    after = read_entries(path, {name: images[name] for name in names}, changed)
    pd.testing.assert_frame_equal(after.table, before.table)
    assert after.provenance["counted"] == before.provenance["counted"]
    assert after.provenance["refused"] == before.provenance["refused"]
    assert after.provenance["notes"] == before.provenance["notes"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(label=st.text(max_size=8))
def test_any_other_label_is_an_error_that_names_its_line(neh_entries, tmp_path_factory, label):
    images, table, _ = neh_entries
    changed = table.copy()
    changed.loc[3, "Label"] = label
    try:
        read_entries(tmp_path_factory.getbasetemp() / "label.zip", images, changed)
    except ScanError as error:
        assert re.search(r"data_information.csv, lines? ", str(error)), error
    else:
        assert label.strip().lower() in DATASETS["neh"].classes


# --- bring your own ---------------------------------------------------------------------------------------------------


def write_scans(folder, names):
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 60, (48, 64), dtype=np.uint8)
        pixels[20:28] += 120
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def own(tmp_path):
    rows = [("a.png", "normal", "p1"), ("b.png", "cnv", "p2"), ("c.png", "normal", "p3"), ("d.png", "cnv", "p4")]
    write_scans(tmp_path, [row[0] for row in rows])
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def edit(root, **columns):
    path = root / "scans.csv"
    pd.read_csv(path, dtype=str).assign(**columns).to_csv(path, index=False)


def test_the_five_scans_of_the_readme(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_scans.csv").write_text(block)
    expected = [line.split(",") for line in block.splitlines()[1:]]
    assert len(expected) == 5
    write_scans(tmp_path, [path for path, _, _ in expected])
    scans = read("csv", tmp_path / "my_scans.csv")
    assert scans.table[["path", "label", "patient"]].values.tolist() == sorted(
        [path, label, f"csv/{patient}"] for path, label, patient in expected
    )
    assert scans.images(16, crop_to_band=True, progress=False).shape == (5, 16, 16)
    frame = make_splits(scans.table, seed=0, allow_tiny=True)
    roles = frame.merge(scans.table[["scan_id", "patient", "label"]], on="scan_id")
    assert (roles.groupby(["fold", "patient"])["role"].nunique() == 1).all()
    assert set(roles.loc[roles["role"] == "test", "patient"]) == set(scans.table["patient"])
    for fold in range(frame.attrs["folds"]):
        assert audit_leakage(scans.table, frame, fold, scans.hashes).empty


def test_further_columns_are_kept_under_their_own_names(own):
    edit(own, age=["61", "", "70", "55"], **{"Device name": "S1"}, part=["train", "train", "test", "test"])
    scans = read("csv", own)
    assert list(scans.table.columns) == [*SCAN_COLUMNS, "age", "Device name", "part"]
    assert scans.table["age"].tolist() == ["61", "", "70", "55"]
    assert scans.table["part"].tolist() == ["train", "train", "test", "test"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"group": "g"}, "scans.csv: column group is made by the course; rename it"),
        ({"scan_id": "1"}, "column scan_id is made by the course"),
        ({"line": "1"}, "a column may not be called line"),
        ({"part": ["train", "test", "val", "test"]}, "line 4: unknown part 'val'; valid: train, validation, test"),
        ({"part": ["train", "", "train", "test"]}, "line 3: unknown part ''"),
    ],
)
def test_columns_that_collide_are_errors(own, columns, message):
    edit(own, **columns)
    with pytest.raises(ScanError, match=message):
        read("csv", own)


def test_rows_that_differ_in_a_further_column_only_are_no_duplicates(own):
    edit(own, age=["61", "62", "70", "55"])
    text = (own / "scans.csv").read_text()
    (own / "scans.csv").write_text(text + "b.png,cnv,p2,63\n")
    with pytest.raises(ScanError, match="lines 3 and 6: b.png is listed twice, with different entries"):
        read("csv", own)
    (own / "scans.csv").write_text(text + "b.png,cnv,p2,62\n")
    assert read("csv", own).provenance["refused"] == {"exact duplicate row": 1}


def test_paths_may_lie_above_the_table_and_stamps_follow_the_files(own, tmp_path_factory):
    (own / "tables").mkdir()
    rows = pd.read_csv(own / "scans.csv", dtype=str)
    rows["path"] = ["../a.png", str(own / "b.png"), ".././c.png", "../d.png"]
    rows.to_csv(own / "tables" / "scans.csv", index=False)
    scans = read("csv", own / "tables")
    assert scans.table["path"].tolist() == sorted(["../a.png", str(own / "b.png"), "../c.png", "../d.png"])
    before = scans.source.files()
    assert list(before) == sorted(scans.table["path"])
    os.utime(own / "b.png", (1, 1))
    changed = {name for name, stamp in read("csv", own / "tables").source.files().items() if stamp != before[name]}
    assert changed == {str(own / "b.png")}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(order=st.randoms(use_true_random=False), bom=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_own_tables_may_be_ordered_and_saved_in_any_way(tmp_path_factory, order, bom, end):
    folder = tmp_path_factory.getbasetemp() / "ordered"
    rows = [["a.png", "normal", "p1", "OD", "1"], ["b.png", "cnv", "p2", "OS", "2"], ["c.png", "cnv", "p3", "", ""]]
    if not folder.exists():
        write_scans(folder, [row[0] for row in rows])
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a CSV file .it is empty"),
        (b"\n\n  \n", "cannot be read as a CSV file .it is empty"),
        (b"path,label,patient\n", "no rows"),
        (b"path,label,patient\n,,\n", "no rows"),
        (CSV.replace(b"cnv,p2", b"cnv,m\xfcller"), "line 3: cannot be read as UTF-8"),
        (CSV.decode().encode("utf-16"), "line 1: a zero byte .UTF-16 text"),
        (CSV.replace(b"c.png", b"c\0png"), "line 4: a zero byte .a damaged file"),
        (CSV.replace(b"b.png", b'"b.png'), "line (3|5): cannot be read as a CSV file|line 5: a field runs over"),
        (CSV.replace(b"b.png", b'"b.png').replace(b"d.png", b'd.png"'), "line 5: a field runs over several lines"),
        (CSV.replace(b"b.png", b'"b".png'), "line 3: cannot be read as a CSV file"),
        (CSV.replace(b"b.png", b"b" * 200_000), "line 3: cannot be read as a CSV file .field larger than field limit"),
        (CSV.replace(b"cnv,p2", b"cnv"), "line 3: 2 fields, the header has 3"),
        (CSV.replace(b"cnv,p2", b"cnv,p2,x"), "line 3: 4 fields, the header has 3"),
        (CSV.replace(b",", b";"), "wrong columns, path, label, patient not found.*semicolons; save"),
        (CSV.replace(b",", b"\t"), "wrong columns, path, label, patient not found.*separated by tabs; save"),
        (CSV.replace(b"patient", b"path"), "wrong columns, patient not found"),
        (CSV.replace(b"patient\n", b"patient,label\n").replace(b"1\n", b"1,x\n").replace(b"2\n", b"2,x\n")[:57],
         "column 'label' occurs twice"),
    ],
)
def test_damaged_tables_are_errors_that_name_file_and_line(own, content, message):
    (own / "scans.csv").write_bytes(content)
    with pytest.raises(ScanError, match=rf"scans\.csv(, |: )({message})"):
        read("csv", own)


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


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"Patient ID,Class\n1,CNV\n", b""])
def test_a_damaged_table_in_an_archive_is_named_too(quirky, tmp_path, content):
    images = {name: b"x" for name in mini_neh.files_under(quirky[0]) if name != TABLE}
    (tmp_path / "neh.zip").write_bytes(mini_neh.zip_bytes({**images, TABLE: content}))
    with pytest.raises(ScanError, match="neh.zip > data_information.csv"):
        read("neh", tmp_path / "neh.zip")
