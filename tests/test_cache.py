"""The cache: found again by content, never trusted, whole or not there, and made in one pass."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdoct_utils.data import cache
from kdoct_utils.data.frames import THUMBNAIL, clean_frame, make_picture, make_thumbnail
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.scans import read_scans
from kdoct_utils.data.sources import FolderSource
from kdoct_utils.profiles import PROFILES

SMOKE = PROFILES["smoke"]


class CountingSource(FolderSource):
    """A folder that counts how often each file is read and decoded."""

    def __init__(self, root):
        super().__init__(root)
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
    """40 small frames, every fifth in color and as PNG; more than two batches."""
    place = tmp_path / "scans"
    place.mkdir()
    for k in range(40):
        pixels = np.random.default_rng(k).integers(0, 60, (48, 64), dtype=np.uint8)
        pixels[20:28] += 120
        image = Image.fromarray(pixels)
        image.convert("RGB").save(place / f"{k:02d}.png") if k % 5 == 0 else image.save(place / f"{k:02d}.jpeg")
    return place


def contents(source):
    names = list(source.files())
    hashes = cache.file_hashes(source, names, progress=False)
    return names, [hashes[name] for name in names]


def pictures(source, size=16, crop=False):
    return cache.pictures(source, *contents(source), size, crop, progress=False)


def files(root, pattern):
    return sorted(path for path in root.rglob(pattern) if path.is_file())


# --- hashes ---


def test_hashes_are_those_of_the_content(folder):
    hashes = cache.file_hashes(FolderSource(folder), ["03.jpeg", "00.png", "03.jpeg"], progress=False)
    assert hashes == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("03.jpeg", "00.png")}


def test_only_new_and_changed_files_are_hashed(folder):
    first = CountingSource(folder)
    before = dict(zip(*contents(first), strict=True))
    assert sorted(first.reads) == list(before)
    unchanged = CountingSource(folder)
    assert dict(zip(*contents(unchanged), strict=True)) == before and unchanged.reads == []

    (folder / "07.jpeg").write_bytes((folder / "08.jpeg").read_bytes())
    status = os.stat(folder / "09.jpeg")
    os.utime(folder / "09.jpeg", ns=(status.st_atime_ns, status.st_mtime_ns + 5))  # touched, the same content
    shutil.copy(folder / "11.jpeg", folder / "99.jpeg")
    (folder / "01.jpeg").unlink()
    source = CountingSource(folder)
    after = dict(zip(*contents(source), strict=True))
    assert sorted(source.reads) == ["07.jpeg", "09.jpeg", "99.jpeg"]
    assert after["07.jpeg"] == before["08.jpeg"] and after["99.jpeg"] == before["11.jpeg"]
    assert after["09.jpeg"] == before["09.jpeg"] and "01.jpeg" not in after


def test_hashes_are_kept_for_each_folder_apart(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))  # the same names and stamps
    (other / "00.png").write_bytes((folder / "05.png").read_bytes())
    os.utime(other / "00.png", ns=(os.stat(folder / "00.png").st_mtime_ns,) * 2)
    here, there = (dict(zip(*contents(FolderSource(place)), strict=True)) for place in (folder, other))
    assert {name for name in here if here[name] != there[name]} == {"00.png"}


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "text", "older"])
def test_a_damaged_file_of_hashes_is_made_again(folder, root, damage):
    before = contents(CountingSource(folder))
    (path,) = files(root, "hashes/*")
    whole = path.read_bytes()
    old = json.dumps({**json.loads(whole[9:]), "version": 0}).encode()
    path.write_bytes({
        "cut": whole[:-20], "changed": whole.replace(before[1][3].encode(), before[1][4].encode()), "empty": b"",
        "text": b"no hashes", "older": f"{zlib.crc32(old):08x}\n".encode() + old,
    }[damage])  # fmt: skip
    source = CountingSource(folder)
    assert contents(source) == before and len(source.reads) == 40
    assert path.read_bytes() == whole


def test_a_hashing_that_is_stopped_keeps_what_it_has(folder, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    (folder / "39.jpeg").unlink()
    (folder / "39.jpeg").symlink_to(folder / "lost")
    with pytest.raises(ScanError, match="39.jpeg: cannot be read"):
        contents(CountingSource(folder))
    (folder / "39.jpeg").unlink()
    source = CountingSource(folder)
    contents(source)
    assert 0 < len(source.reads) < 39  # all but the batches of the fault


def test_a_file_that_cannot_be_read_is_an_error(folder):
    with pytest.raises(ScanError, match="nowhere.png: cannot be read"):
        cache.file_hashes(FolderSource(folder), ["00.png", "nowhere.png"], progress=False)


# --- pictures ---


@pytest.mark.parametrize("crop", [True, False])
def test_pictures_are_those_of_the_pipeline(folder, crop):
    source = FolderSource(folder)
    made = pictures(source, 24, crop)
    assert isinstance(made, np.memmap) and made.shape == (40, 24, 24) and not made.flags.writeable
    for picture, name in zip(made, source.files(), strict=True):
        np.testing.assert_array_equal(picture, make_picture(clean_frame(source.pixels(name)), 24, crop))


def test_pictures_are_found_again_wherever_the_files_lie(folder, tmp_path):
    source = FolderSource(folder)
    made = pictures(source)
    names, hashes = contents(source)
    moved = CountingSource(folder.rename(tmp_path / "moved"))
    again = cache.pictures(moved, names, hashes, 16, False, progress=False)
    np.testing.assert_array_equal(again, made)
    assert moved.reads == []
    np.testing.assert_array_equal(cache.open_pictures(cache.picture_key(hashes, 16, False)), made)


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


def change_record(root, **changes):
    (path,) = files(root, "pictures/*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path, at, stamp=None):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))
    if stamp is not None:
        os.utime(path, ns=(stamp, stamp))


DAMAGE = {
    "a pixel": lambda root, data: flip(data, -1),
    "the header": lambda root, data: flip(data, 30),
    "cut": lambda root, data: data.write_bytes(data.read_bytes()[:-7]),
    "cut, the old stamp": lambda root, data: (
        stamp := data.stat().st_mtime_ns, data.write_bytes(data.read_bytes()[:-7]), os.utime(data, ns=(stamp, stamp))
    ),
    "longer": lambda root, data: data.write_bytes(data.read_bytes() + b"more"),
    "empty": lambda root, data: data.write_bytes(b""),
    "gone": lambda root, data: data.unlink(),
    "no record": lambda root, data: data.with_suffix(".json").unlink(),
    "half a record": lambda root, data: data.with_suffix(".json").write_text('{"key": "'),
    "a record of something else": lambda root, data: data.with_suffix(".json").write_text("[1, 2]"),
    "another key": lambda root, data: change_record(root, key="f" * 32),
    "another shape": lambda root, data: change_record(root, shape=[40, 8, 32]),
    "other numbers": lambda root, data: np.save(data, np.load(data).astype(np.int8)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_pictures_that_do_not_match_are_made_again(folder, root, damage):
    source = CountingSource(folder)
    made = np.array(pictures(source))
    (data,) = files(root, "pictures/*.npy")
    DAMAGE[damage](root, data)
    names, hashes = contents(source)
    assert cache.open_pictures(cache.picture_key(hashes, 16, False)) is None
    source.decodes.clear()
    np.testing.assert_array_equal(pictures(source), made)
    assert len(source.decodes) == 40
    assert cache.open_pictures(cache.picture_key(hashes, 16, False)) is not None


def test_a_copied_cache_is_verified_once(folder, root, tmp_path, monkeypatch):
    made = np.array(pictures(FolderSource(folder)))
    names, hashes = contents(FolderSource(folder))
    key = cache.picture_key(hashes, 16, False)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "copy"))
    verified = []
    monkeypatch.setattr(cache, "READ_BYTES", 1000)
    checked = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda *args: verified.append(1) or checked(*args))
    np.testing.assert_array_equal(cache.open_pictures(key), made)
    assert verified
    verified.clear()
    assert cache.open_pictures(key) is not None and not verified


# --- one pass ---


def test_one_decoding_makes_pictures_measures_and_thumbnails(folder):
    source = CountingSource(folder)
    names, hashes = contents(source)
    source.reads.clear()
    cache.pictures(source, names, hashes, 16, False, progress=False)
    found = cache.measured(source, names, hashes, progress=False)
    assert sorted(source.reads) == sorted(source.decodes) == sorted(names)
    assert found.thumbnails.shape == (40, THUMBNAIL, THUMBNAIL) and found.thumbnails.dtype == np.uint8
    for k, name in enumerate(names):
        np.testing.assert_array_equal(found.thumbnails[k], make_thumbnail(clean_frame(source.pixels(name))))
    assert found.table["format"].tolist() == ["png" if k % 5 == 0 else "jpeg" for k in range(40)]
    assert found.table["color"].tolist() == [k % 5 == 0 for k in range(40)]
    assert set(found.table["width"]) == {64} and set(found.table["height"]) == {48}


@pytest.mark.parametrize("first", ["measures", "pictures"])
def test_measures_do_not_depend_on_what_was_asked_first(folder, first):
    source = FolderSource(folder)
    names, hashes = contents(source)
    if first == "pictures":
        cache.pictures(source, names, hashes, 16, True, progress=False)
    found = cache.measured(source, names, hashes, progress=False)
    again = cache.measured(source, names, hashes, progress=False)
    pd.testing.assert_frame_equal(found.table, again.table)
    expected = [clean_frame(source.pixels(name)).brightness for name in names]
    np.testing.assert_array_equal(again.table["brightness"], expected)
    assert {str(column): str(kind) for column, kind in again.table.dtypes.items() if column != "format"} == {
        "color": "bool", "width": "int64", "height": "int64", "border": "float64", "scale_bar": "bool",
        "canvas": "bool", "brightness": "float64",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_measures_are_made_again(folder, root, damage):
    source = CountingSource(folder)
    names, hashes = contents(source)
    before = cache.measured(source, names, hashes, progress=False)
    (path,) = files(root, "measures/*.checked")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "flipped":
        flip(path, -2000)
    else:
        path.unlink()
    source.decodes.clear()
    after = cache.measured(source, names, hashes, progress=False)
    assert len(source.decodes) == 40
    pd.testing.assert_frame_equal(after.table, before.table)
    np.testing.assert_array_equal(after.thumbnails, before.thumbnails)


def test_phantoms_are_measured_as_drawn():
    scans = read_scans("phantom", None, profile=SMOKE, seed=0)
    found, drawn = scans.measured(), scans.images(SMOKE.resize_size, True)
    assert found.index.tolist() == scans.table["scan_id"].tolist()
    assert set(found["format"]) == {"phantom"} and set(found["width"]) == set(found["height"]) == {SMOKE.resize_size}
    assert not found[["color", "scale_bar", "canvas"]].to_numpy().any() and not found["border"].any()
    np.testing.assert_allclose(found["brightness"], drawn.mean(axis=(1, 2)))
    assert scans.thumbnails().shape == (len(scans), THUMBNAIL, THUMBNAIL)


# --- faults ---


@pytest.mark.parametrize("ask", ["pictures", "measured"])
def test_damaged_images_are_named_together_and_leave_nothing(folder, root, ask):
    for name in ("06.jpeg", "21.jpeg", "22.jpeg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    Image.new("L", (64, 48)).save(folder / "38.jpeg")
    source = FolderSource(folder)
    with pytest.raises(ScanError, match="06.jpeg: cannot be read as an image") as raised:
        if ask == "pictures":
            pictures(source)
        else:
            cache.measured(source, *contents(source), progress=False)
    assert "4 images cannot be used in all; the others: " in str(raised.value)
    for name in ("21.jpeg", "22.jpeg", "38.jpeg"):
        assert name in str(raised.value).splitlines()[1]
    assert not [path for path in files(root, "*") if path.parent.name != "hashes" and path.suffix != ".lock"]


def test_a_file_that_changed_since_it_was_hashed_is_an_error(folder):
    source = FolderSource(folder)
    names, hashes = contents(source)
    (folder / "03.jpeg").write_bytes((folder / "04.jpeg").read_bytes())
    with pytest.raises(ScanError, match="03.jpeg: has changed since its dataset was read; read it again"):
        cache.pictures(source, names, hashes, 16, False, progress=False)


def test_a_disk_without_room_is_told_before_anything_is_decoded(folder, root, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40 * 16 * 16 - 1))
    source = CountingSource(folder)
    names, hashes = contents(source)
    with pytest.raises(ScanError, match="the pictures need 0.0 GB in .*KDOCT_CACHE"):
        cache.pictures(source, names, hashes, 16, False, progress=False)
    assert source.decodes == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40 * 16 * 16))
    cache.pictures(source, names, hashes, 16, False, progress=False)


def test_a_disk_that_fills_up_leaves_no_half_file(folder, root):
    """Files may not grow past 5,000 bytes here, which fails in the middle of writing, as a full disk does."""
    resource = pytest.importorskip("resource")
    source = FolderSource(folder)
    names, hashes = contents(source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(ScanError, match="the pictures cannot be kept in .*File too large.*KDOCT_CACHE"):
            cache.pictures(source, names, hashes, 16, False, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in files(root, "*") if path.parent.name != "hashes" and path.suffix != ".lock"]
    assert cache.pictures(source, names, hashes, 16, False, progress=False).shape == (40, 16, 16)


def test_a_cache_that_cannot_be_written_says_where_and_what_to_do(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ScanError, match="the hashes cannot be kept in .*file .*KDOCT_CACHE"):
        contents(FolderSource(folder))


def test_what_a_killed_process_left_is_swept_away(folder, root):
    source = FolderSource(folder)
    names, hashes = contents(source)
    left = root / "pictures" / f".{cache.picture_key(hashes, 16, False)}-123-abc.npy"
    other = root / "pictures" / ".another-123-abc.npy"
    left.parent.mkdir()
    for path in (left, other):
        path.write_bytes(b"half")
    cache.pictures(source, names, hashes, 16, False, progress=False)
    assert not left.exists() and other.exists()


def test_two_processes_make_the_pictures_once(folder, root, tmp_path):
    """Both are there before either may begin; one decodes, the other takes what it made."""
    code = """
import sys, time
from pathlib import Path
from kdoct_utils.data import cache
from kdoct_utils.data.sources import FolderSource
folder, log, start = map(Path, sys.argv[1:4])
class Source(FolderSource):
    def decode(self, name, content):
        with log.open("a") as file:
            file.write(name + "\\n")
        return super().decode(name, content)
source = Source(folder)
names = list(source.files())
known = cache.file_hashes(source, names, progress=False)
(start / sys.argv[4]).touch()
while len(list(start.iterdir())) < 2:
    time.sleep(0.005)
print(int(cache.pictures(source, names, [known[name] for name in names], 16, False, progress=False).sum()))
"""
    start = tmp_path / "start"
    start.mkdir()
    log = tmp_path / "log"
    both = [
        subprocess.Popen([sys.executable, "-c", code, folder, log, start, str(k)], stdout=subprocess.PIPE, text=True)
        for k in range(2)
    ]
    sums = [process.communicate(timeout=60)[0] for process in both]
    assert sums[0] == sums[1] == f"{int(pictures(FolderSource(folder)).sum())}\n"
    assert len(log.read_text().splitlines()) == 40
