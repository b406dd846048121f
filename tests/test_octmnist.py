"""OCTMNIST: label order, MD5, parts without patients, damaged files, and memory that stays flat."""

import hashlib

import numpy as np
import on_disk
import pytest

from kdoct_utils.data.band import find_band
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.splits import SplitError, make_splits, official_splits
from kdoct_utils.datasets import DATASETS

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


def write(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def publish(monkeypatch, path):
    """Let the registry take this file for the published one."""
    monkeypatch.setitem(DATASETS["octmnist"].md5, "octmnist.npz", hashlib.md5(path.read_bytes()).hexdigest())


def read(root, verify=False):
    return on_disk.read("octmnist", root, verify=verify, split="official")


# --- what is read ---


def test_pictures_labels_and_parts_are_those_of_the_file(tmp_path):
    arrays = octmnist_arrays()
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


# --- faults ---


def label_at(value):
    return np.insert(np.zeros((7, 1), np.int64), 5, value, axis=0)


def test_faults_in_the_arrays_are_errors_that_name_them(tmp_path):
    for name, value, message in (
        ("test_labels", None, "no array test_labels; arrays found: test_images, train_images, train_labels, val_im"),
        ("val_images", np.zeros((8, 28, 30), np.uint8), r"val_images: uint8 of shape \(8, 28, 30\); exp"),
        ("val_images", np.zeros((8, 28, 28), np.float32), "float32 of shape .* expected uint8"),
        ("val_images", np.array([{}], object), "val_images: cannot be read as an array .*Python objects"),
        ("val_labels", np.array([{}] * 8, object), "val_labels: cannot be read as an array .*objects"),
        ("val_labels", np.zeros((8, 1)), r"val_labels: float64 of shape \(8, 1\); expected whole numbers"),
        ("val_labels", np.zeros((8, 2), np.uint8), r"uint8 of shape \(8, 2\); expected whole numbers"),
        ("val_labels", np.zeros((7, 1), np.uint8), r"shape \(7, 1\); expected whole numbers, one for each of 8"),
        ("val_labels", label_at(4), "label 4 of picture 5; valid: 0 cnv, 1 dme, 2 drusen, 3 normal"),
        ("val_labels", label_at(-1), "label -1 of picture 5"),
    ):
        arrays = octmnist_arrays() | {name: value}
        if value is None:
            del arrays[name]
        path = write(tmp_path / "octmnist.npz", arrays)
        with pytest.raises(ScanError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_damaged_files_are_refused_with_and_without_verifying(tmp_path, monkeypatch):
    path = write(tmp_path / "octmnist.npz", octmnist_arrays())
    publish(monkeypatch, path)
    content = path.read_bytes()
    flipped = content[:2000] + bytes([content[2000] ^ 0xFF]) + content[2001:]  # in the pixels of the first array
    for damaged in (content[: len(content) // 2], flipped, b"", b"\x93NUMPY" + content[6:300]):
        path.write_bytes(damaged)
        with pytest.raises(ScanError, match="octmnist.npz: its MD5 is"):
            read(path, verify=True)
        with pytest.raises(ScanError, match="octmnist.npz.*(cannot be|CRC)"):
            read(path)


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


# --- 28 pixels ---


def test_a_picture_of_28_pixels_is_cropped_to_17_rows_that_hold_the_retina():
    """300 of 496 rows are 17 of 28; the width, less than 512 of 496, stays whole."""
    for top in (0, 4, 11, 18, 23):
        image = np.random.default_rng(top).integers(0, 40, (28, 28), dtype=np.uint8)
        image[top : top + 5] = 140
        top_row, bottom, left, right = find_band(image)
        assert (bottom - top_row, left, right) == (17, 0, 28) and (image[top_row:bottom] == 140).sum() == 5 * 28
