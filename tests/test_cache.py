"""The cache: found again by content, whole or not there, and made in one pass."""

import hashlib
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from on_disk import write_images
from PIL import Image

from kdoct_utils.data import cache
from kdoct_utils.data.band import resize, to_picture
from kdoct_utils.data.files import Source
from kdoct_utils.data.frames import clean_frame
from kdoct_utils.data.images import ScanError


class CountingSource(Source):
    """A folder that counts how often each file is read and decoded."""

    def __init__(self, root, found):
        super().__init__(root, found)
        self.reads, self.decodes = [], []

    def read(self, name):
        self.reads.append(name)
        return super().read(name)

    def decode(self, name, content):
        self.decodes.append(name)
        return super().decode(name, content)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A cache folder of its own for each test."""
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """20 small frames, every fifth in color and as PNG."""
    place = tmp_path / "scans"
    write_images(place, [f"{k:02d}.{'jpeg' if k % 5 else 'png'}" for k in range(20)])
    for path in place.glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    return place


def hashes_of(source):
    """Name -> hash of every file."""
    return cache.file_hashes(source, source.files(), progress=False)


def contents(source):
    names = hashes_of(source)
    return list(names), list(names.values())


def pictures(source, size=16, crop=False):
    return cache.pictures(source, *contents(source), size, crop, progress=False)


def files(root, pattern):
    return sorted(path for path in root.rglob(pattern) if path.is_file())


def leftovers(root):
    return [path for path in files(root, "*") if path.parent.name != "file_hashes" and path.suffix != ".lock"]


# --- hashes ---


def test_only_new_and_changed_files_are_hashed(folder, tmp_path):
    first = CountingSource.of_folder(folder)
    before = hashes_of(first)
    assert sorted(first.reads) == list(before)
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    unchanged = CountingSource.of_folder(folder)
    assert hashes_of(unchanged) == before and unchanged.reads == []

    (folder / "07.jpeg").write_bytes((folder / "08.jpeg").read_bytes())
    other = Path(shutil.copytree(folder, tmp_path / "other"))  # the same names and stamps, kept apart
    other.joinpath("00.png").write_bytes((folder / "05.png").read_bytes())
    os.utime(other / "00.png", ns=(os.stat(folder / "00.png").st_mtime_ns,) * 2)
    assert hashes_of(Source.of_folder(other))["00.png"] == before["05.png"]
    shutil.copy(folder / "11.jpeg", folder / "99.jpeg")
    (folder / "01.jpeg").unlink()
    source = CountingSource.of_folder(folder)
    after = hashes_of(source)
    assert sorted(source.reads) == ["07.jpeg", "99.jpeg"]
    assert after["07.jpeg"] == before["08.jpeg"] and after["99.jpeg"] == before["11.jpeg"]
    assert "01.jpeg" not in after


# --- pictures ---


def test_one_decoding_makes_pictures_measures_and_thumbnails(folder, tmp_path):
    source = CountingSource.of_folder(folder)
    names, hashes = contents(source)
    source.reads.clear()
    made = cache.pictures(source, names, hashes, 24, True, progress=False)
    table, thumbnails = cache.measured(source, names, hashes, progress=False)
    assert sorted(source.reads) == sorted(source.decodes) == names
    assert isinstance(made, np.memmap) and made.shape == (20, 24, 24) and not made.flags.writeable
    for k, name in enumerate(names):
        cleaned, found = clean_frame(source.pixels(name))
        np.testing.assert_array_equal(made[k], to_picture(cleaned, 24, clean=True))
        np.testing.assert_array_equal(thumbnails[k], resize(cleaned, 32, 32))
        assert table["brightness"][k] == found["brightness"]
    assert table["format"].tolist() == ["png" if k % 5 == 0 else "jpeg" for k in range(20)]
    assert table["color"].tolist() == [k % 5 == 0 for k in range(20)]
    assert set(table["width"]) == {64} and set(table["height"]) == {48}
    shutil.rmtree(tmp_path / "cache" / "measures")  # measured alone, they are the same
    pd.testing.assert_frame_equal(cache.measured(source, names, hashes, progress=False)[0], table)
    # They are found again wherever the files lie.
    moved = CountingSource.of_folder(folder.rename(tmp_path / "moved"))
    np.testing.assert_array_equal(cache.pictures(moved, names, hashes, 24, True, progress=False), made)
    assert moved.reads == []


def test_other_content_order_size_crop_or_version_has_another_key(monkeypatch):
    hashes = ["a" * 64, "b" * 64]
    keys = [
        cache.picture_key(hashes, 16, False), cache.picture_key(hashes[::-1], 16, False),
        cache.picture_key(hashes[:1], 16, False), cache.picture_key(hashes, 17, False),
        cache.picture_key(hashes, 16, True), cache.picture_key(hashes, 1, False), cache.picture_key([], 16, False),
    ]  # fmt: skip
    assert cache.picture_key(tuple(hashes), 16, False) == keys[0]
    monkeypatch.setattr(cache, "PICTURE_VERSION", cache.PICTURE_VERSION + 1)
    keys.append(cache.picture_key(hashes, 16, False))
    assert len(set(keys)) == len(keys)
    assert cache.open_pictures(keys[0]) is None


# --- faults ---


@pytest.mark.parametrize("ask", ["pictures", "measured"])
def test_damaged_images_are_named_together_and_leave_nothing(folder, root, ask):
    for name in ("06.jpeg", "11.jpeg", "12.jpeg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    Image.new("L", (64, 48)).save(folder / "18.jpeg")
    source = Source.of_folder(folder)
    with pytest.raises(ScanError, match="06.jpeg: cannot be read as an image") as raised:
        if ask == "pictures":
            pictures(source)
        else:
            cache.measured(source, *contents(source), progress=False)
    *faults, last = str(raised.value).splitlines()
    assert last == "4 images cannot be used in all" and not leftovers(root)
    assert all(name in fault for name, fault in zip(("06", "11", "12", "18"), faults, strict=True))


def test_a_file_that_changed_since_it_was_hashed_is_an_error(folder):
    source = Source.of_folder(folder)
    names, hashes = contents(source)
    (folder / "03.jpeg").write_bytes((folder / "04.jpeg").read_bytes())
    with pytest.raises(ScanError, match="03.jpeg: has changed since its dataset was read; read it again"):
        cache.pictures(source, names, hashes, 16, False, progress=False)


def test_a_disk_that_fills_up_leaves_no_half_file(folder, root):
    """Files may not grow past 5,000 bytes here, which fails in the middle of writing, as a full disk does."""
    resource = pytest.importorskip("resource")
    source = Source.of_folder(folder)
    names, hashes = contents(source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(ScanError, match="the pictures cannot be kept in .*File too large.*KDOCT_CACHE"):
            cache.pictures(source, names, hashes, 32, False, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not leftovers(root)
    assert cache.pictures(source, names, hashes, 32, False, progress=False).shape == (20, 32, 32)


def test_what_a_killed_process_left_is_swept_away(folder, root):
    source = Source.of_folder(folder)
    names, hashes = contents(source)
    left = root / "pictures" / f".{cache.picture_key(hashes, 16, False)}-123-abc.npy"
    other = root / "pictures" / ".another-123-abc.npy"
    left.parent.mkdir()
    for path in (left, other):
        path.write_bytes(b"half")
    cache.pictures(source, names, hashes, 16, False, progress=False)
    assert not left.exists() and other.exists()


def make_pictures(folder, barrier):
    """In a process of its own: begins when the other is there too."""
    source = CountingSource.of_folder(folder)
    names = contents(source)
    barrier.wait(60)
    total = int(cache.pictures(source, *names, 16, False, progress=False).sum())
    return total, len(source.decodes)


def test_two_processes_make_the_pictures_once(folder):
    """One decodes, the other takes what it made."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(2, spawn) as processes:
        barrier = manager.Barrier(2)
        both = [processes.submit(make_pictures, folder, barrier) for _ in range(2)]
        (sum_a, decoded_a), (sum_b, decoded_b) = (one.result() for one in both)
    assert sum_a == sum_b == int(pictures(Source.of_folder(folder)).sum())
    assert sorted((decoded_a, decoded_b)) == [0, 20]
