"""How long datasets take to read, first and again: `make bench`. Ratios are taken within one run."""

import numpy as np
from measuring import seconds
from PIL import Image

from kdoct_utils.data import cache
from kdoct_utils.data.files import Source
from kdoct_utils.data.scans import read_scans
from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import PROFILES

# UCSD version 3 in numbers: 108,309 files, 250 of each class in the test part.
TRAIN = {"CNV": 37205, "DME": 11348, "DRUSEN": 8616, "NORMAL": 50140}


def test_a_table_of_108_000_files(tmp_path):
    """Files of a few bytes, all different, named as UCSD's are."""
    number = 0
    for part, classes, first in (("train", TRAIN, 1000), ("test", dict.fromkeys(TRAIN, 250), 900000)):
        for name, count in classes.items():
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                with open(f"{folder}/{name}-{first + k // 27}-{k % 27 + 1}.jpeg", "wb") as file:
                    file.write(b"%d" % number)
                number += 1

    def read(_):
        read_scans("ucsd", tmp_path, profile=PROFILES["smoke"], seed=0, options=DataOptions(), progress=False)

    first, *again = seconds(read, 4, warm=0)
    print(f"\n{number:,} files: {first:.1f} s the first time, {min(again):.1f} s again, with groups and hashes")
    assert number == 108309 and first < 30 and min(again) < 3


def test_pictures_from_the_cache(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for k in range(240):
        Image.fromarray(random.integers(0, 90, (496, 512), dtype=np.uint8)).save(tmp_path / f"{k:03d}.jpeg")
    frames = Source.of_folder(tmp_path)
    names = list(frames.files())
    known = cache.file_hashes(frames, names, progress=False)
    hashes = [known[name] for name in names]
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / "cache"))
    made, opened = seconds(lambda _: np.array(cache.pictures(frames, names, hashes, 64, True, False)), 2, warm=0)
    print(f"\n{1000 * made / len(names):.1f} ms a frame made, {1000 * opened / len(names):.3f} ms from the cache")
    assert opened < made / 20
