"""One epoch of the quick networks over so many scans of so many pixels: python growth.py SCANS PIXELS."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdoct_utils.course.true_step import clock_steps, peak_memory, phantom_scans, step_trainer
from kdoct_utils.learn.inference import ScanImages
from kdoct_utils.profiles import get_profile

SCANS = (1000, 2000, 4000, 8000)
PIXELS = (64, 96, 128, 192, 256, 384)


def on_disk(drawn: ScanImages, scans: int, folder: Path) -> ScanImages:
    """So many scans in a memory map, as the cache keeps them."""
    rows = np.resize(np.arange(len(drawn)), scans)
    pictures = np.lib.format.open_memmap(folder / "pictures.npy", "w+", np.uint8, (scans, *drawn.images.shape[1:]))
    for start in range(0, scans, 256):
        pictures[start : start + 256] = drawn.images[rows[start : start + 256]]
    pictures.flush()
    return ScanImages(np.load(folder / "pictures.npy", mmap_mode="r"), drawn.target[rows], np.arange(scans))


def main(scans: int, pixels: int) -> dict:
    quick = get_profile("quick")
    profile = replace(quick, image_size=pixels, start_weights="none")
    batch = quick.student_training.batch_size
    with tempfile.TemporaryDirectory() as folder:
        train = on_disk(phantom_scans(profile, 10 * batch), scans, Path(folder))
        trainer = step_trainer(profile, "student", scans // batch, train=train)
        marks = clock_steps(trainer)
        trainer.fit()
        steps = np.diff(marks)
        return {"seconds": float(np.median(steps)) * len(steps), "peak_bytes": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
