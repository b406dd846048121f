"""OCTMNIST: label order, MD5, parts without patients, damaged files, and memory that stays flat."""

import hashlib
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import on_disk
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdoct_utils.data.frames import crop_to_band, find_band
from kdoct_utils.data.images import ScanError, read_image
from kdoct_utils.data.splits import SplitError, make_splits, official_splits
from kdoct_utils.datasets import DATASETS

SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
PARTS = {"train": 24, "val": 8, "test": 12}
PUBLISHED_ORDER = {0: "cnv", 1: "dme", 2: "drusen", 3: "normal"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def octmnist_arrays(side=28):
    """Arrays as published, but few: a bright slab on noise, labels 0 to 3 in turn."""
    arrays = {}
    for at, (part, count) in enumerate(PARTS.items()):
        arrays[f"{part}_images"] = np.stack([on_disk.slab(100 * at + k, side, side) for k in range(count)])
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 4)[:, None]
    return arrays


def write(path, arrays, save=np.savez_compressed):
    save(path, **arrays)
    return path


def publish(monkeypatch, path):
    """Let the registry take this file for the published one."""
    monkeypatch.setitem(DATASETS["octmnist"].md5, "octmnist.npz", hashlib.md5(path.read_bytes()).hexdigest())


def read(root, verify=False):
    return on_disk.read("octmnist", root, verify=verify, split="official")


# --- what is read ---


@pytest.mark.parametrize("side", [28, 64])
def test_pictures_labels_and_parts_are_those_of_the_file(tmp_path, side):
    arrays = octmnist_arrays(side)
    path = write(tmp_path / "octmnist.npz", arrays)
    scans = read(path)
    table = scans.table
    assert len(table) == sum(PARTS.values()) and table["scan_id"].is_monotonic_increasing
    assert (table["patient"] == "").all() and (table["patient_class"] == table["label"]).all()
    assert table["part"].value_counts().to_dict() == {"train": 24, "validation": 8, "test": 12}
    for row in table.itertuples():
        part, number = row.path.split("/")
        assert row.scan_id == f"octmnist/{part}/{int(number):06d}"
        assert row.part == {"train": "train", "val": "validation", "test": "test"}[part]
        assert row.label == PUBLISHED_ORDER[int(arrays[f"{part}_labels"][int(number), 0])]
        pixels = arrays[f"{part}_images"][int(number)]
        np.testing.assert_array_equal(scans.source.pixels(row.path), pixels)
        assert scans.source.read(row.path) == pixels.tobytes()
        assert scans.hashes[row.scan_id] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert scans.provenance["found"]["patients"] == 0
    files = scans.source.files()
    assert set(files) == set(scans.table["path"]) and list(files) == sorted(files)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(order=st.permutations(sorted(octmnist_arrays())), save=st.sampled_from([np.savez, np.savez_compressed]),
       flat=st.booleans(), column_major=st.booleans(), kind=st.sampled_from(["u1", "<i8", ">i4"]))
def test_order_of_arrays_and_their_storage_change_nothing(tmp_path_factory, order, save, flat, column_major, kind):
    arrays = octmnist_arrays()
    straight = read(write(tmp_path_factory.mktemp("a") / "octmnist.npz", arrays))
    for part in PARTS:
        labels = arrays[f"{part}_labels"].astype(kind)
        arrays[f"{part}_labels"] = labels[:, 0] if flat else labels
        if column_major:
            arrays[f"{part}_images"] = np.asfortranarray(arrays[f"{part}_images"])
    again = read(write(tmp_path_factory.mktemp("b") / "octmnist.npz", {name: arrays[name] for name in order}, save))
    pd.testing.assert_frame_equal(again.table, straight.table)
    assert again.hashes == straight.hashes


def test_memory_stays_flat(tmp_path):
    arrays = octmnist_arrays()
    arrays["train_images"] = np.zeros((24, 1024, 1024), np.uint8)  # 24 MB; of the 224 px file 5 GB
    arrays["train_images"][:, 0, 0] = range(24)
    size = arrays["train_images"].nbytes
    for part in ("val", "test"):
        arrays[f"{part}_images"] = np.zeros((PARTS[part], 1024, 1024), np.uint8)
    path = write(tmp_path / "octmnist.npz", arrays)
    del arrays
    tracemalloc.start()
    try:
        scans = read(path)
        assert [scans.source.pixels(f"train/{number}")[0, 0] for number in range(24)] == list(range(24))
        assert tracemalloc.get_traced_memory()[1] < size / 2
    finally:
        tracemalloc.stop()


# --- MD5 and the cache ---


def test_another_md5_is_refused_and_told_how_to_go_on(tmp_path, monkeypatch):
    path = write(tmp_path / "octmnist_224.npz", octmnist_arrays())
    found, published = hashlib.md5(path.read_bytes()).hexdigest(), DATASETS["octmnist"].md5[path.name]
    with pytest.raises(ScanError) as caught:
        read(tmp_path, verify=True)
    for word in (found, published, str(path), "verify=False", "--no-verify", "Zenodo"):
        assert word in str(caught.value)
    note = f"{path.name} is not the published file: its MD5 is {found}, published: {published}"
    assert note in read(tmp_path).provenance["notes"]
    publish(monkeypatch, path)
    renamed = path.rename(tmp_path / "mine.npz")  # the sum counts, not the name
    assert not any("MD5" in note for note in read(renamed, verify=True).provenance["notes"])


# --- which file ---


def test_several_sizes_in_a_folder_are_an_error_that_lists_them(tmp_path):
    for side, name in ((28, "octmnist.npz"), (64, "octmnist_64.npz")):
        write(tmp_path / name, octmnist_arrays(side))
    with pytest.raises(ScanError, match="holds octmnist.npz, octmnist_64.npz; name the one to read, .*/octmnist.npz"):
        read(tmp_path)
    assert read(tmp_path / "octmnist_64.npz").source.pixels("train/0").shape == (64, 64)


# --- faults ---


def label_at(value, kind=np.int64):
    return np.insert(np.zeros((7, 1), kind), 5, value, axis=0)


def test_faults_in_the_arrays_are_errors_that_name_them(tmp_path):
    for name, value, message in (
        ("test_labels", None, "no array test_labels; arrays found: test_images, train_images, train_labels, val_im"),
        ("train_images", None, "no array train_images"),
        ("val_images", np.zeros((8, 28, 30), np.uint8), r"val_images: uint8 of shape \(8, 28, 30\); exp"),
        ("val_images", np.zeros((8, 28, 28, 3), np.uint8), r"of shape \(8, 28, 28, 3\); expected uint8"),
        ("val_images", np.zeros((8, 28, 28), np.float32), "float32 of shape .* expected uint8"),
        ("val_images", np.array([{}], object), "val_images: cannot be read as an array .*Python objects"),
        ("val_labels", np.array([{}] * 8, object), "val_labels: cannot be read as an array .*objects"),
        ("val_labels", np.zeros((8, 1)), r"val_labels: float64 of shape \(8, 1\); expected whole numbers"),
        ("val_labels", np.zeros((8, 2), np.uint8), r"uint8 of shape \(8, 2\); expected whole numbers"),
        ("val_labels", np.zeros((7, 1), np.uint8), r"shape \(7, 1\); expected whole numbers, one for each of 8"),
        ("val_labels", label_at(4), "label 4 of picture 5; valid: 0 cnv, 1 dme, 2 drusen, 3 normal"),
        ("val_labels", label_at(-1), "label -1 of picture 5"),
        ("val_labels", label_at(255, np.uint8), "label 255 of picture 5"),
    ):
        arrays = octmnist_arrays() | {name: value}
        if value is None:
            del arrays[name]
        path = write(tmp_path / "octmnist.npz", arrays)
        with pytest.raises(ScanError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_with_and_without_verifying(tmp_path, save, monkeypatch):
    path = write(tmp_path / "octmnist.npz", octmnist_arrays(), save)
    publish(monkeypatch, path)
    content = path.read_bytes()
    flipped = content[:2000] + bytes([content[2000] ^ 0xFF]) + content[2001:]  # in the pixels of the first array
    for damaged in (content[: len(content) // 2], flipped, b"", b"\x93NUMPY" + content[6:300]):
        path.write_bytes(damaged)
        with pytest.raises(ScanError, match="octmnist.npz: its MD5 is"):
            read(path, verify=True)
        with pytest.raises(ScanError, match="octmnist.npz.*(cannot be|CRC)"):
            read(path)


def test_a_member_that_is_no_array_is_an_error(tmp_path):
    arrays = octmnist_arrays()
    del arrays["val_images"]
    path = write(tmp_path / "octmnist.npz", arrays)
    for content in (b"", b"no array", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x09\x00"):
        broken = tmp_path / "broken.npz"
        broken.write_bytes(path.read_bytes())
        with zipfile.ZipFile(broken, "a") as archive:
            archive.writestr("val_images.npy", content)
        with pytest.raises(ScanError, match="val_images: cannot be read as an array"):
            read(broken)


# --- patients, groups, splits ---


def test_each_scan_is_its_own_group_unless_its_picture_occurs_again(tmp_path):
    arrays = octmnist_arrays()
    arrays["test_images"][3] = arrays["train_images"][8] = arrays["train_images"][7]
    scans = read(write(tmp_path / "octmnist.npz", arrays))
    table = scans.table.set_index("scan_id")
    copies = ["octmnist/test/000003", "octmnist/train/000007", "octmnist/train/000008"]
    assert set(table.loc[copies, "group"]) == {copies[0]}
    alone = table["group"].drop(copies)
    assert (alone == alone.index).all()
    assert any("3 scans are byte-identical" in note for note in scans.provenance["notes"])
    with pytest.raises(SplitError, match="44 of 44 scans have no patient number, .* use split='official'"):
        make_splits(scans.table, 0)
    role = official_splits(scans.table, 0).set_index("scan_id")["role"]
    expected = table["part"].mask(table.index.isin(copies[1:]), "unused")
    assert role.to_dict() == expected.to_dict()


def test_the_notes_say_what_spoils_a_result(tmp_path):
    arrays = octmnist_arrays()
    arrays["train_labels"][:] = 3
    arrays["train_labels"][:2] = 2  # 2 of 24 are drusen
    record = json.loads(json.dumps(read(write(tmp_path / "octmnist.npz", arrays)).provenance))
    notes = "\n".join(record["notes"])
    assert "a patient may lie in several of the parts" in notes and "too narrow" in notes
    assert "normal 92% and 25%, drusen 8% and 25%, cnv 0% and 25%, dme 0% and 25%" in notes
    assert "pictures of 28 x 28 px: enlarging them adds no detail" in notes


# --- 28 pixels ---


def test_a_picture_of_28_pixels_is_cropped_to_17_rows_that_hold_the_retina():
    """300 of 496 rows are 17 of 28; the width, less than 512 of 496, stays whole."""
    for top in (0, 4, 11, 18, 23):
        image = np.random.default_rng(top).integers(0, 40, (28, 28), dtype=np.uint8)
        image[top : top + 5] = 140
        band = crop_to_band(image)
        assert band.shape == (17, 28) and (band == 140).sum() == 5 * 28


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real B-scans at ../shared/oct_samples/ucsd")
def test_the_band_of_a_real_scan_shrunk_to_28_pixels_is_that_of_the_whole_frame():
    """Cut to a central square and shrunk, as OCTMNIST was made."""
    distances = []
    for path in sorted(SAMPLES.rglob("*.jpeg")):
        image = read_image(path)
        side = min(image.shape)
        left, above = (image.shape[1] - side) // 2, (image.shape[0] - side) // 2
        square = image[above : above + side, left : left + side]
        small = np.asarray(Image.fromarray(square).resize((28, 28), Image.Resampling.BICUBIC))
        middles = [sum(find_band(picture)[:2]) / 2 / len(picture) for picture in (square, small)]
        distances.append(abs(middles[0] - middles[1]))
    assert len(distances) == 17
    assert np.median(distances) < 0.04 and max(distances) < 0.15  # of the height; a row of 28 is 0.036
