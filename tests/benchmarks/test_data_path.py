"""From a file to what the network sees at 384 px: the public code's way and ours, `make bench`."""

import io

import numpy as np
import pytest
import torch
from measuring import seconds
from PIL import Image
from reference_loop import jpeg_frames, pil_pipeline

from kdoct_utils.data.band import to_picture
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.pipelines import STUDENT
from kdoct_utils.profiles import get_profile

BATCH = 16
pytestmark = pytest.mark.usefixtures("one_thread")


def per_image(work, repeats=9):
    """Milliseconds an image: the median of calls that do a batch."""
    return 1000 * float(np.median(seconds(work, repeats))) / BATCH


def test_data_path(measured):
    files = jpeg_frames(patients=4, slices=4)
    profile = get_profile("paper")
    pipeline, side = pil_pipeline(profile), profile.resize_size

    def reference(_):
        return torch.stack([pipeline(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])

    def augmented(pictures, view):
        return augment(torch.from_numpy(pictures), np.arange(BATCH), STUDENT, 0, view, profile.image_size, 3)

    def stored(file):
        frame = np.asarray(Image.open(io.BytesIO(file)).convert("L"))
        return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR))

    kept = np.stack([stored(file) for file in files])
    theirs, ours = per_image(reference), per_image(lambda view: augmented(kept, view))
    once = per_image(lambda _: [to_picture(np.asarray(Image.open(io.BytesIO(file)).convert("L")), side,
                                           profile.crop_to_band) for file in files], 3)  # fmt: skip
    epochs = profile.student_training.epochs
    measured(
        "data path at 384 px, from the cache, against the public code's",
        f"{ours / theirs:.2f} ({ours:.2f} against {theirs:.2f} ms a scan)",
        "at most 0.15",
    )
    measured(
        "the same from JPEG files, the first epoch, which fills the cache",
        f"{(once + ours) / theirs:.2f} ({once:.1f} ms a scan more: decoded, cleaned, resized)",
        "at most 0.3",
    )
    measured(
        f"the same from JPEG files, mean of {epochs} epochs", f"{(once / epochs + ours) / theirs:.2f}", "at most 0.3"
    )
    assert ours < theirs
