"""How long datasets take to read, first and again: `make bench`. Ratios are taken within one run."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from kdoct_utils.data import cache
from kdoct_utils.data.files import Source
from kdoct_utils.data.scans import read_scans
from kdoct_utils.datasets import DataOptions
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.profiles import PROFILES

# UCSD version 3 in numbers: 108,309 files, 250 of each class in the test part.
TRAIN = {"CNV": 37205, "DME": 11348, "DRUSEN": 8616, "NORMAL": 50140}
TEST = dict.fromkeys(TRAIN, 250)
PATIENTS = {"train": range(1000, 5000), "test": range(900000, 900635)}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """108,309 files of a few bytes, all different, named as UCSD's are."""
    root = tmp_path_factory.mktemp("ucsd")
    random, number = np.random.default_rng(0), 0
    for part, classes in (("train", TRAIN), ("test", TEST)):
        for name, count in classes.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            patients = np.sort(random.choice(PATIENTS[part], count))
            index = np.arange(count) - np.searchsorted(patients, patients) + 1
            for patient, k in zip(patients, index, strict=True):
                with open(f"{folder}/{name}-{patient}-{k}.jpeg", "wb") as file:
                    file.write(b"%d" % number)
                number += 1
    assert number == 108309
    return root


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """240 phantom frames as JPEG, a quarter of them in color."""
    root, images = tmp_path_factory.mktemp("frames"), []
    for k in range(24):
        images += list(render_frames(draw_patient(("normal", "drusen", "cnv", "dme")[k % 4], [4, k]), 10).images)
    for k, image in enumerate(images):
        Image.fromarray(image).convert("RGB" if k % 4 == 0 else "L").save(root / f"{k:03d}.jpeg", quality=90)
    return Source.of_folder(root)


def seconds(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def test_a_table_of_108_000_files(many):
    def read():
        return read_scans("ucsd", many, profile=PROFILES["smoke"], seed=0, options=DataOptions(), progress=False)

    first, scans = seconds(read)
    again, same = min((seconds(read) for _ in range(3)), key=lambda pair: pair[0])  # other work may slow one down
    print(f"\n{len(scans):,} files: {first:.1f} s the first time, {again:.1f} s again, with groups and hashes")
    assert same.table.equals(scans.table) and same.hashes == scans.hashes
    assert first < 30 and again < 3


def test_hashing_in_parallel(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for k in range(1000):
        (tmp_path / f"{k}.jpeg").write_bytes(random.bytes(60000))
    cost = {}
    for threads in (1, os.cpu_count()):
        monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / f"cache{threads}"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "cpu_count", lambda threads=threads: threads)
            source = Source.of_folder(tmp_path, [f"{k}.jpeg" for k in range(1000)])
            cost[threads], _ = seconds(lambda source=source: cache.file_hashes(source, source.files(), False))
    again, _ = seconds(lambda: cache.file_hashes(source, source.files(), False))
    print("\n1,000 files of 60 kB: " + ", ".join(f"{1000 * s:.0f} ms in {n} threads" for n, s in cost.items()))
    print(f"again, unchanged: {1000 * again:.0f} ms")
    assert again < cost[1]


def test_pictures_from_the_cache(frames, tmp_path, monkeypatch):
    names = list(frames.files())
    known = cache.file_hashes(frames, names, progress=False)
    hashes, made, cost = [known[name] for name in names], {}, {}
    for threads in (1, os.cpu_count()):
        monkeypatch.setenv("KDOCT_CACHE", str(tmp_path / f"cache{threads}"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "cpu_count", lambda threads=threads: threads)
            cost[threads], made[threads] = seconds(lambda: cache.pictures(frames, names, hashes, 64, True, False))
    opened, again = seconds(lambda: np.array(cache.pictures(frames, names, hashes, 64, True, False)))
    for threads, took in cost.items():
        print(f"\n{1000 * took / len(names):.1f} ms a frame decoded, cleaned, measured; threads: {threads}", end="")
    ratio = cost[os.cpu_count()] / opened
    print(f"\n{1000 * opened / len(names):.3f} ms a frame from the cache, {ratio:.0f} times faster")
    assert all((pictures == again).all() for pictures in made.values())
    assert opened < cost[os.cpu_count()] / 20
