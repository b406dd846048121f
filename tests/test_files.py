"""Where files lie: folders, zip archives, and archives within either; whatever is damaged is an error that names it."""

import random
import zipfile
from concurrent.futures import ThreadPoolExecutor

import on_disk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdoct_utils.data.files import Source, open_source
from kdoct_utils.data.images import ScanError

ENTRIES = {"train/CNV/CNV-1-1.jpeg": b"first" * 50, "train/NORMAL/NORMAL-2-1.jpeg": b"second" * 50}
GOOD = on_disk.zip_bytes(ENTRIES)


@pytest.fixture(scope="module")
def forms(quirky, tmp_path_factory):
    """The miniature NEH however it may be packed, and its files."""
    return on_disk.forms(quirky[0], tmp_path_factory.mktemp("forms")), on_disk.files_under(quirky[0])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(path):
    """All that can be opened at a place."""
    return open_source(path, lambda names: False)


def contents(source):
    return {name: source.read(name) for name in source.files()}


# --- folders ---


def test_folders_linked_in_a_circle_are_listed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "._2.jpg").write_bytes(b"x")
    source = Source.of_folder(tmp_path)
    assert list(source.files()) == ["a/b/1.jpg", "gone.jpg"]
    with pytest.raises(ScanError, match="gone.jpg: cannot be read .No such file"):
        source.read("gone.jpg")
    with pytest.raises(ScanError, match="2.jpg: cannot be read .no such file"):
        source.read("2.jpg")


# --- archives ---


def test_many_threads_read_one_archive(forms):
    places, expected = forms
    for form in ("zip in zip, stored", "zip in zip, deflated", "folder with one zip"):
        source = opened(places[form])
        names = [name for name in source.files() if not name.endswith(".zip")] * 8
        random.Random(1).shuffle(names)
        with ThreadPoolExecutor(8) as threads:
            for name, content in zip(names, threads.map(source.read, names), strict=True):
                assert content == expected[name.removeprefix(on_disk.TITLE + "/")]


def test_stamps_of_an_archive_follow_the_content(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / f"{name}.zip").write_bytes(on_disk.zip_bytes({"x\\1.jpg": content, "x/": b"", "__MACOSX/1": b""}))
    stamps = [opened(tmp_path / f"{name}.zip").files() for name in "abc"]
    assert list(stamps[0]) == ["x/1.jpg"] and stamps[0] == stamps[1] != stamps[2]


def test_a_zip_within_a_zip_is_unpacked_once_and_made_anew_where_it_is_damaged(forms, cache):
    place = forms[0]["zip in zip, deflated"]
    good = contents(opened(place))
    (unpacked,) = (cache / "archives").iterdir()
    content, status = unpacked.read_bytes(), unpacked.stat()
    opened(place)
    assert unpacked.stat().st_mtime_ns == status.st_mtime_ns and unpacked.stat().st_ino == status.st_ino
    unpacked.write_bytes(content[:-100])
    assert contents(opened(place)) == good and unpacked.read_bytes() == content


def test_a_zip_that_holds_itself_comes_to_an_end(tmp_path):
    content = GOOD
    for _ in range(6):
        content = on_disk.zip_bytes({"in.zip": content})
    (tmp_path / "deep.zip").write_bytes(content)
    assert list(opened(tmp_path / "deep.zip").files()) == ["in.zip"]


# --- damaged archives ---


def in_zip(content):
    return on_disk.zip_bytes({"in.zip": content})


def test_damaged_archives_are_errors_that_name_file_and_entry(tmp_path):
    changed = GOOD.replace(b"firstfirst", b"fIrstfirst", 1)
    for content, message in (
        (b"", "data.zip: cannot be read as a zip archive"),
        (b"no archive at all" * 9, "data.zip: cannot be read as a zip archive .*download cut short"),
        (GOOD[: len(GOOD) // 2], "data.zip: cannot be read as a zip archive .*download cut short"),
        (changed, "data.zip > train/CNV/CNV-1-1.jpeg: cannot be read .Bad CRC-32"),
        (in_zip(GOOD[:-30]), "data.zip > in.zip: cannot be read as a zip archive"),
        (in_zip(changed), "data.zip > in.zip > train/CNV/CNV-1-1.jpeg: .*Bad CRC-32"),
    ):
        (tmp_path / "data.zip").write_bytes(content)
        with pytest.raises(ScanError, match=message):
            contents(opened(tmp_path / "data.zip"))


def test_a_damaged_deflated_zip_within_a_zip_is_an_error_and_leaves_no_file(tmp_path, cache):
    packed = bytearray(on_disk.zip_bytes({"in.zip": GOOD}, zipfile.ZIP_DEFLATED))
    packed[60:64] = b"\xff\xff\xff\xff"
    (tmp_path / "data.zip").write_bytes(packed)
    with pytest.raises(ScanError, match="data.zip > in.zip: cannot be unpacked to .*archives"):
        opened(tmp_path / "data.zip")
    assert list((cache / "archives").iterdir()) == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_any_byte_of_an_archive_may_be_wrong(tmp_path_factory, position, value, cut):
    path = tmp_path_factory.getbasetemp() / "flipped.zip"
    path.write_bytes(GOOD[:position] + (b"" if cut else bytes([value]) + GOOD[position + 1 :]))
    try:
        read = contents(opened(path))
    except ScanError as error:
        assert str(error).startswith(str(path))
    else:
        assert set(read.values()) <= set(ENTRIES.values())


def test_what_is_neither_folder_nor_archive_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(ScanError, match="notes.txt is neither a folder nor a zip archive"):
        opened(tmp_path / "notes.txt")
