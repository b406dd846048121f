"""Phantoms beside the real UCSD samples: are they of one kind in brightness, grain and band?"""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kdoct_utils.data.band import to_picture
from kdoct_utils.data.images import read_image
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_band, render_frames
from kdoct_utils.profiles import CLASS_NAMES

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "oct_samples" / "ucsd"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real UCSD samples are not beside the repository")
SIZE = 64


@pytest.fixture(scope="module")
def real():
    """(n, SIZE, SIZE) bands of the real normal and drusen scans."""
    files = sorted([*SAMPLES.glob("NORMAL/*.jpeg"), *SAMPLES.glob("DRUSEN/*.jpeg")])
    return np.stack([to_picture(read_image(path), SIZE) for path in files]).astype(float)


@pytest.fixture(scope="module")
def phantoms():
    patients = [draw_patient(name, [31, k]) for name in ("normal", "drusen") for k in range(12)]
    return np.stack([render_band(patient, 1, SIZE).images[0] for patient in patients]).astype(float)


def test_the_retina_fills_the_same_share_of_the_band(real, phantoms):
    share = [(bands > 60).mean() for bands in (real, phantoms)]
    assert 0.5 < share[0] / share[1] < 2


def test_the_brightest_row_lies_in_the_lower_half_of_the_retina(real, phantoms):
    """The outer bands (EZ and RPE) outshine the nerve fiber layer, in both."""
    for bands in (real, phantoms):
        deep = []
        for band in bands:
            for column in band.T:
                lit = np.flatnonzero(column > 60)
                if len(lit) > 5:
                    deep.append((column.argmax() - lit[0]) / (lit[-1] - lit[0]))
        assert np.median(deep) > 0.45


def test_the_same_band_is_cut_from_a_frame_as_is_rendered_directly():
    likeness = []
    for k in range(12):
        patient = draw_patient(("normal", "drusen", "cnv")[k % 3], [5, k])
        frame = render_frames(patient, 1).images[0]
        cut = to_picture(frame, SIZE).astype(float)
        direct = render_band(patient, 1, SIZE).images[0].astype(float)
        shifted = [np.roll(cut, shift, 0).ravel() for shift in range(-9, 10)]
        likeness.append(max(np.corrcoef(rolled, direct.ravel())[0, 1] for rolled in shifted))
    assert np.median(likeness) > 0.9


def grain(frame):
    """Correlation of neighboring pixels of the dark vitreous, along and across, and their mean level."""
    smooth = gaussian_filter(frame.astype(float), 4)
    fine, dark = frame - smooth, smooth < 25
    pairs = [(fine[:, 1:], fine[:, :-1], dark[:, 1:] & dark[:, :-1]), (fine[1:], fine[:-1], dark[1:] & dark[:-1])]
    return [(a[both] * b[both]).mean() / fine[dark].var() for a, b, both in pairs] + [frame[dark].mean()]


def test_native_grain_is_alike():
    real = np.median([grain(read_image(path)) for path in sorted(SAMPLES.glob("*/*.jpeg"))], axis=0)
    frames = [render_frames(draw_patient(CLASS_NAMES[k % 4], [31, k]), 1).images[0] for k in range(8)]
    phantom = np.median([grain(frame) for frame in frames], axis=0)
    assert np.abs(real - phantom)[:2].max() < 0.2
    assert abs(real[2] - phantom[2]) < 5  # display levels


DEPTHS = (-8, -4, 0, 20, 40, 80, 120, 160, 200)  # native pixels below the brightest row


def depth_profile(frame):
    """Mean gray level at each of DEPTHS below every column's brightest row of the smoothed frame."""
    frame = np.where(frame == 255, 0, frame).astype(float)  # white canvas of registered frames
    brightest = gaussian_filter(frame, (2, 6)).argmax(axis=0)  # (width,)
    rows, columns = brightest + np.array(DEPTHS)[:, None], np.arange(frame.shape[1])
    inside = (rows >= 0) & (rows < len(frame))
    levels = np.where(inside, frame[np.clip(rows, 0, len(frame) - 1), columns], np.nan)
    return np.nanmean(levels, axis=1)  # (depths,)


def roughness(frame):
    """Median over the inner retina of the local standard deviation over the local mean: the speckle."""
    frame = frame.astype(float)
    mean, square = (gaussian_filter(one, 2) for one in (frame, frame**2))
    brightest = gaussian_filter(frame, (2, 6)).argmax(axis=0)
    rows = np.arange(len(frame))[:, None]
    inner = (mean > 45) & (mean < 140) & (rows < brightest - 25) & (rows > brightest - 90)
    rough = np.sqrt(np.maximum(square - mean**2, 0))[inner] / mean[inner]
    return np.median(rough) if rough.size else np.nan


def test_levels_by_depth_and_grain_of_the_retina_lie_in_the_real_range():
    real = [read_image(path) for path in sorted(SAMPLES.glob("*/*.jpeg"))]
    drawn = [render_frames(draw_patient(CLASS_NAMES[k % 3], [32, k]), 1).images[0] for k in range(24)]
    for measure in (depth_profile, roughness):
        low, high = np.nanpercentile([measure(frame) for frame in real], [10, 90], axis=0)
        median = np.nanmedian([measure(frame) for frame in drawn], axis=0)
        assert ((low <= median) & (median <= high)).all(), (measure.__name__, low, median, high)
