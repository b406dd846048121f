"""Where files lie: folders, zip archives, and archives within either; whatever is damaged is an error that names it."""

import on_disk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdoct_utils.data.files import Source, open_source
from kdoct_utils.data.images import ScanError

ENTRIES = {"train/CNV/CNV-1-1.jpeg": b"first" * 50, "train/NORMAL/NORMAL-2-1.jpeg": b"second" * 50}
GOOD = on_disk.zip_bytes(ENTRIES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(path, content):
    """All that can be opened in an archive, by name."""
    path.write_bytes(content)
    source = open_source(path, lambda names: False)
    return {name: source.read(name) for name in source.files() if not name.endswith(".zip")}


def test_folders_linked_in_a_circle_are_listed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "._2.jpg").write_bytes(b"x")
    source = Source.of_folder(tmp_path)
    assert list(source.files()) == ["a/b/1.jpg", "gone.jpg"]
    for name in ("gone.jpg", "2.jpg"):
        with pytest.raises(ScanError, match=f"{name}: cannot be read .No such file"):
            source.read(name)


def test_an_archive_is_unpacked_once_and_again_where_it_changed(tmp_path, cache):
    place, nested = tmp_path / "data.zip", on_disk.zip_bytes({"in.zip": GOOD})
    assert opened(place, nested) == ENTRIES
    first = sorted((cache / "archives").iterdir())
    source = open_source(place, lambda names: False)
    assert sorted((cache / "archives").iterdir()) == first and len(source.files()) == 4
    assert opened(place, on_disk.zip_bytes({"x/1.jpg": b"new", "__MACOSX/1": b""})) == {"x/1.jpg": b"new"}
    for _ in range(6):  # archives in archives come to an end
        nested = on_disk.zip_bytes({"in.zip": nested})
    assert opened(place, nested) == {}


def test_what_a_killed_process_left_is_no_archive(tmp_path, cache):
    opened(tmp_path / "data.zip", GOOD)
    (folder,) = (path for path in (cache / "archives").iterdir() if path.is_dir())
    half = folder.rename(folder.with_name(f".{folder.name}"))
    (half / "train" / "CNV" / "CNV-1-1.jpeg").write_bytes(b"half")
    source = open_source(tmp_path / "data.zip", lambda names: False)
    assert source.read("train/CNV/CNV-1-1.jpeg") == b"first" * 50 and not half.exists()


def test_damaged_archives_are_errors_that_name_the_file_and_leave_nothing(tmp_path, cache):
    changed = GOOD.replace(b"firstfirst", b"fIrstfirst", 1)
    for content, message in (
        (b"", "data.zip: cannot be unpacked"),
        (GOOD[: len(GOOD) // 2], "data.zip: cannot be unpacked .*download cut short"),
        (changed, "data.zip: cannot be unpacked .*Bad CRC-32"),
        (on_disk.zip_bytes({"in.zip": changed}), "in.zip: cannot be unpacked .*Bad CRC-32"),
    ):
        with pytest.raises(ScanError, match=message):
            opened(tmp_path / "data.zip", content)
        assert not list(cache.rglob("*.jpeg"))
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(ScanError, match="notes.txt is neither a folder nor a zip archive"):
        open_source(tmp_path / "notes.txt", lambda names: False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_any_byte_of_an_archive_may_be_wrong(tmp_path_factory, position, value, cut):
    path = tmp_path_factory.getbasetemp() / "flipped.zip"
    try:
        read = opened(path, GOOD[:position] + (b"" if cut else bytes([value]) + GOOD[position + 1 :]))
    except ScanError as error:
        assert str(error).startswith(str(path))
    else:
        assert set(read.values()) <= set(ENTRIES.values())
