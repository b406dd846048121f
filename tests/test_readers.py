"""The readers of NEH and UCSD, against miniatures with every quirk and the real name lists."""

import hashlib
import io
import re
import shutil
from pathlib import Path

import on_disk
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import edit, read, write_images

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.readers.ucsd import read_ucsd
from kdoct_utils.data.scans import SCAN_COLUMNS
from kdoct_utils.datasets import DATASETS, DataOptions
from kdoct_utils.phantom.miniature import write_ucsd_folder
from kdoct_utils.profiles import CLASS_NAMES

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
FACTS, SAMPLES = SHARED / "facts", SHARED / "oct_samples" / "ucsd"
real_names = pytest.mark.skipif(not FACTS.is_dir(), reason="no real name lists at ../shared/facts")
TABLE = "data_information.csv"
IMAGES = "NEH_UT_2021RetinalOCTDataset"


@pytest.fixture(scope="module")
def ucsd(tmp_path_factory):
    """A miniature UCSD with train, val and test, and what was planted in it. Read only."""
    folder = tmp_path_factory.mktemp("ucsd") / "OCT2017"
    return folder, write_ucsd_folder(folder, 0, parts=("train", "val", "test"))


@pytest.fixture
def neh(quirky, tmp_path):
    """A copy of the miniature NEH, to be changed."""
    return Path(shutil.copytree(quirky[0], tmp_path / "neh"))


@pytest.fixture
def flat(tmp_path):
    """UCSD's class folders: two classes, patient 7 in both."""
    names = ["NORMAL/NORMAL-1-2", "NORMAL/NORMAL-1-1", "NORMAL/NORMAL-7-1", "CNV/CNV-7-9", "CNV/CNV-3-1"]
    write_images(tmp_path / "data" / "OCT", [f"{name}.jpeg" for name in names])
    return tmp_path / "data" / "OCT"


# --- NEH: every quirk -------------------------------------------------------------------------------------------------


def recount(folder):
    """The published counts of an NEH folder, from its table and files, without the reader."""
    rows = pd.read_csv(folder / TABLE, dtype=str)
    files = sorted(path for path in (folder / IMAGES).rglob("*") if path.is_file())
    names = [path.relative_to(folder / IMAGES).as_posix() for path in files]
    case = ["/".join(name.split("/")[:2]) for name in names]
    pairs = [(name.split("/")[0], re.search(r"_(\w+)\.", name)[1].upper()) for name in names]
    eye_folders = {"/".join(name.split("/")[:3]) for name in names if name.count("/") == 3}
    flat = {of for of, name in zip(case, names, strict=True) if name.count("/") == 2}
    owners = pd.Series(case).groupby([hashlib.md5(path.read_bytes()).hexdigest() for path in files]).unique()
    shared = {tuple(sorted(of)) for of in owners if len(of) > 1}  # the miniature's pairs are disjoint
    passed = rows[rows["Class"] == rows["Label"]]
    distinct = rows.drop_duplicates()
    counts = {
        "rows": len(rows),
        "exact duplicate rows": len(rows) - len(distinct),
        "paths without a file": int((~distinct["Directory"].isin(names)).sum()),
        "scans": len(names),
        "patients": len(set(case)),
        "eyes": len(eye_folders) + len(flat),
        "groups": len(set(case)) - len(shared),
        "linked pairs": len(shared),
        "patients with contradictory labels": 2 * sum(a.split("/")[0] != b.split("/")[0] for a, b in shared),
        "worst-case rows": len(passed),
        "worst-case scans": sum(a == b for a, b in pairs),
    }
    for name in ("NORMAL", "DRUSEN", "CNV"):
        counts[f"worst-case rows, {name.lower()}"] = int((passed["Class"] == name).sum())
        for other in ("NORMAL", "DRUSEN", "CNV"):
            counts[f"{name} folder, {other.lower()} label"] = pairs.count((name, other))
    return counts


def test_every_published_count_of_neh_is_counted_and_the_differences_are_said(quirky):
    folder, planted = quirky
    assert all(planted.values()), f"not planted: {[name for name, items in planted.items() if not items]}"
    scans = read("neh", folder, worst_case=False)
    found = scans.measured(progress=False)
    assert found["scale_bar"].all() and found["color"].all() and set(found["format"]) == {"jpeg", "tiff"}
    assert set(found.index[found["canvas"]]) == {f"neh/{name}" for name in planted["canvas"]}
    record = scans.provenance
    assert record["counted"] == recount(folder)
    assert record["published"] == DATASETS["neh"].published_counts and set(record["published"]) == set(recount(folder))
    assert "groups: 9 found, 437 published" in record["differences"]
    assert "rows: 35 found, 16,822 published" in record["differences"]
    assert len(record["differences"]) == sum(n != record["published"][what] for what, n in recount(folder).items())


def test_every_refused_row_of_neh_is_counted_and_named(quirky):
    folder, planted = quirky
    every, filtered = read("neh", folder, worst_case=False), read("neh", folder)
    refused = dict(every.provenance["refused_examples"])
    assert refused.pop("no such file") == planted["no file"]
    assert refused.pop("another row's file in another letter case") == planted["other row's file"]
    lines = (folder / TABLE).read_text().splitlines()
    duplicates = [int(name.removeprefix("line ")) for name in refused.pop("exact duplicate row")]
    assert [lines[line - 1] in lines[: line - 1] for line in duplicates] == [True] * len(planted["duplicate rows"])
    assert not refused
    off_class = planted["not the class"]
    reason = "label is not the patient's class (worst-case filter)"
    assert filtered.provenance["refused"][reason] == len(off_class)
    assert set(every.table["scan_id"]) - set(filtered.table["scan_id"]) == {"neh/" + name for name in off_class}
    # A path in another letter case takes the name of its file.
    spelled = planted["other letter case"][0]
    real = spelled.replace(".JPG", ".jpg")
    assert f"neh/{spelled}" not in set(every.table["scan_id"]) and f"neh/{real}" in set(every.table["scan_id"])
    assert every.source.read(f"{IMAGES}/{real}")


def test_twin_cases_are_one_group_and_contradictory_patients_are_named(quirky):
    folder, planted = quirky
    scans = read("neh", folder)
    group = scans.table.groupby("patient")["group"].unique().map(list)
    for case, twin in planted["twins"]:
        assert group[f"neh/{case}"] == group[f"neh/{twin}"] == [min(f"neh/{case}", f"neh/{twin}")]
    linked = {f"neh/{case}" for pair in planted["twins"] for case in pair}
    assert all(groups == [patient] for patient, groups in group.items() if patient not in linked)
    note = "patients share images, so they are one group: neh/CNV/2 (cnv) = neh/CNV/4 (cnv); "
    assert note + "neh/DRUSEN/3 (drusen) = neh/NORMAL/3 (normal)" in scans.provenance["notes"]


def test_neh_patients_that_share_an_image_are_linked_even_by_a_filtered_one(neh):
    """CNV/1 and DRUSEN/2 share an image; it shows drusen, so the filter drops the copy that lies under CNV."""
    names = ["DRUSEN/2/009_Drusen.jpg", "CNV/1/009_Drusen.jpg"]
    write_images(neh / IMAGES, names[:1])
    shutil.copy(neh / IMAGES / names[0], neh / IMAGES / names[1])
    new = pd.DataFrame({"Patient ID": ["2", "1"], "Class": ["DRUSEN", "CNV"], "Eye": "OD", "B-scan": "9",
                        "Label": "DRUSEN", "Directory": names})  # fmt: skip
    edit(neh / TABLE, lambda rows: pd.concat([rows, new]))
    table = read("neh", neh).table
    assert "neh/CNV/1/009_Drusen.jpg" not in set(table["scan_id"])
    assert set(table.loc[table["patient"].isin(["neh/CNV/1", "neh/DRUSEN/2"]), "group"]) == {"neh/CNV/1"}


def test_wrong_neh_tables_and_folders_are_errors(neh):
    table, inner = neh / TABLE, neh / on_disk.INNER
    rows = pd.read_csv(table, dtype=str)
    for changed, message in (
        (rows.rename(columns={"Patient ID": "PatientID"}),
         "wrong columns, Patient ID not found; required: .*; found: PatientID, Class"),
        (rows.assign(**{"B-scan": "first"}), "line 2: B-scan 'first' is not a whole number"),
        (rows.assign(Label=rows["Label"].where(rows.index != 7, "DME")), "line 9, Label: unknown label 'DME'"),
        (pd.concat([rows, rows.iloc[[0]].assign(Eye="OX")]), "lines 2 and .* listed twice, with different entries"),
        (pd.DataFrame(), "wrong columns"),
    ):  # fmt: skip
        changed.to_csv(table, index=False)
        with pytest.raises(ScanError, match=message):
            read("neh", neh)
    rows.to_csv(table, index=False)
    inner.write_bytes(b"what is left of a download")  # an archive beside the images is left alone
    assert len(read("neh", neh, worst_case=False)) == 31
    shutil.rmtree(neh / IMAGES)
    with pytest.raises(ScanError, match=f"{inner.name}: cannot be unpacked"):
        read("neh", neh)
    inner.unlink()
    with pytest.raises(ScanError, match="None of the 32 images that data_information.csv lists is there"):
        read("neh", neh)
    table.unlink()
    (neh / "notes.txt").write_text("x")
    with pytest.raises(ScanError, match="There is no data_information.csv"):
        read("neh", neh)


def test_neh_is_read_alike_however_it_is_packed(quirky, tmp_path):
    plain, *others = (read("neh", of, worst_case=False) for of in on_disk.forms(quirky[0], tmp_path).values())
    assert len(others) == 4
    for packed in others:
        pd.testing.assert_frame_equal(packed.table.drop(columns="path"), plain.table.drop(columns="path"))
        assert packed.hashes == plain.hashes and packed.provenance == plain.provenance
        path, plain_path = packed.table["path"][15], plain.table["path"][15]
        assert (packed.source.pixels(path) == plain.source.pixels(plain_path)).all()


@pytest.fixture(scope="module")
def neh_entries(quirky, tmp_path_factory):
    """The miniature's files, every image a few bytes of its own (twins alike), its table, and what is read of them."""
    files = on_disk.files_under(quirky[0])
    table = pd.read_csv(io.BytesIO(files.pop(TABLE)), dtype=str)
    images = {name: hashlib.md5(content).digest() for name, content in files.items()}
    return images, table, read_entries(tmp_path_factory.mktemp("entries") / "before.zip", images, table)


def read_entries(path, images, table):
    path.write_bytes(on_disk.zip_bytes({**images, TABLE: table.to_csv(index=False).encode()}))
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
    for what in ("counted", "refused", "notes"):
        assert after.provenance[what] == before.provenance[what]


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


# --- layouts that are not the expected one ----------------------------------------------------------------------------


def test_another_layout_says_what_is_expected_what_is_there_and_where_to_get_it(tmp_path):
    (tmp_path / "empty").mkdir()
    for k in range(6):
        (tmp_path / "other" / f"eyes{k}").mkdir(parents=True)
        (tmp_path / "other" / f"eyes{k}" / f"scan{k}.png").write_bytes(b"x")
    (tmp_path / "other" / "mine.csv").write_bytes(b"x")
    for dataset in ("neh", "ucsd", "octmnist", "octdl", "csv"):
        info = DATASETS[dataset]
        with pytest.raises(ScanError, match=r"is not laid out as(.|\n)*found: 0 files"):
            read(dataset, tmp_path / "empty")
        with pytest.raises(ScanError) as error:
            read(dataset, tmp_path / "other")
        text = str(error.value)
        assert f"other is not laid out as {dataset} is" in text and f"expected: {info.layout}" in text
        assert "found: " in text and "mine.csv" in text
        assert dataset == "csv" or all(fact in text for fact in (info.title, info.url, info.license, info.citation))
    assert "a table of another name is itself the data_root" in text


# --- UCSD -------------------------------------------------------------------------------------------------------------


def found_in(path, names):
    """What is found in an archive of empty files: the reader looks at names only."""
    path.write_bytes(on_disk.zip_bytes(dict.fromkeys(names, b"")))
    return read_ucsd(path, DataOptions())


@real_names
def test_the_real_names_of_version_3(tmp_path):
    test, normal = ((FACTS / f"ucsd_v3_{name}_names.txt").read_text().split() for name in ("test", "train_normal"))
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


def test_ucsd_tells_what_its_parts_share(ucsd):
    folder, planted = ucsd
    scans = read("ucsd", folder)
    table, notes = scans.table, scans.provenance["notes"]
    assert list(table.columns) == [*SCAN_COLUMNS, "part"]
    assert (table["path"].str.split("/").str[0].replace("val", "validation") == table["part"]).all()
    assert set(table["part"]) == {"train", "validation", "test"}
    held_out = table["part"] == "test"
    shared = set(table.loc[held_out, "patient"]) & set(table.loc[~held_out, "patient"])
    assert shared == {f"ucsd/{number}" for number in planted["train and test"]} and len(shared) == 1
    for train, test in planted["identical across parts"]:
        assert scans.hashes[f"ucsd/{train}"] == scans.hashes[f"ucsd/{test}"]
    assert "1 sets carry contradictory labels" in str(scans.provenance)
    (a, b), = planted["contradictory"]
    patients = sorted(f"ucsd/{name.split('-')[1]}" for name in (a, b))
    assert any(note.startswith("patients share images") and all(name in note for name in patients) for note in notes)
    for number in planted["several classes"]:
        assert table.loc[table["patient"] == f"ucsd/{number}", "label"].nunique() > 1
    assert {scans.source.pixels(path).shape for path in table["path"]} == {(496, 768), (496, 512), (512, 512)}


def test_ucsd_is_read_alike_from_an_archive(ucsd, tmp_path):
    files = on_disk.files_under(ucsd[0])
    wrapped = {f"CellData/OCT/{name}": content for name, content in files.items()}
    wrapped |= {"CellData/chest_xray/NORMAL/x.png": b"x", f"__MACOSX/._{next(iter(files))}": b"x"}
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ucsd.zip").write_bytes(on_disk.zip_bytes(wrapped))
    plain = read("ucsd", ucsd[0])
    for root in (tmp_path / "here" / "ucsd.zip", tmp_path / "here"):
        packed = read("ucsd", root)
        pd.testing.assert_frame_equal(packed.table.drop(columns="path"), plain.table.drop(columns="path"))
        assert packed.hashes == plain.hashes
        assert "1 images outside the class folders are not read" in str(packed.provenance)


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
        stem, _, suffix = pieces[-1].partition(".")
        digits = len(pieces) == 3 and all(part.isascii() and part.isdigit() for part in (pieces[1], stem))
        if digits and suffix.lower() in ("jpeg", "jpg") and pieces[0].upper() == name.split("/")[0]:
            valid.add(name)
    assert set(found.table["path"]) == valid
    refused = [name for group in found.refused.values() for name in group]
    assert sorted([*valid, *refused]) == sorted(names)
    assert (found.table["patient"] == "ucsd/" + found.table["path"].str.split("-").str[1]).all()


def test_folders_that_are_not_as_they_must_be_are_errors(flat):
    assert len(read("ucsd", flat.parent)) == 5  # one level too high
    for added, message in (
        ("AMD/AMD-1-1.jpeg", "unknown label 'AMD'; valid labels for ucsd: normal, drusen, cnv, dme"),
    ):
        (flat / added).parent.mkdir(parents=True)
        (flat / added).write_bytes(b"x")
        with pytest.raises(ScanError, match=message):
            read("ucsd", flat)
        shutil.rmtree(flat / added.split("/")[0])
    shutil.rmtree(flat / "CNV")
    with pytest.raises(ScanError, match="two classes are needed, found normal"):
        read("ucsd", flat)
