"""Reading one image, filling registration borders, cropping to the retina band."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdoct_utils.data.frames import BAND_HEIGHT, border_mask, crop_to_band, fill_borders, find_band
from kdoct_utils.data.images import ScanError, read_image, resize
from kdoct_utils.phantom.render import CHOROID, band_view, draw_patient, render_frames

SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
REAL = sorted(SAMPLES.rglob("*.jpeg"))
real_scans = pytest.mark.skipif(not REAL, reason="no real B-scans at ../shared/oct_samples/ucsd")

# Rows that a reader of these pictures must see whole in the band, within the columns kept: from just above the
# highest point of the inner retina to just below the lowest point of the pigment epithelium; read off by eye.
RETINA_ROWS = {
    "CNV-137351-10": (120, 295), "CNV-137351-13": (90, 310), "CNV-137351-14": (92, 310), "CNV-13823-1": (60, 230),
    "CNV-53018-1": (85, 225), "DME-15208-2": (82, 245), "DME-30521-43": (215, 440), "DME-30521-58": (5, 232),
    "DME-30521-62": (150, 345), "DRUSEN-142234-15": (170, 330), "DRUSEN-142234-8": (140, 285),
    "DRUSEN-163081-2": (205, 320), "DRUSEN-95633-1": (180, 305), "NORMAL-12494-3": (130, 285),
    "NORMAL-36734-1": (85, 290), "NORMAL-62749-3": (135, 275), "NORMAL-66515-2": (160, 325),
}  # fmt: skip


def layered(height=496, width=512, center=250, thickness=80, slope=0.0, seed=0):
    """A frame of noise with a bright tilted slab whose middle passes through row ``center``."""
    random = np.random.default_rng(seed)
    rows = np.arange(height)[:, None] - slope * (np.arange(width) - width / 2)[None]
    level = np.where(abs(rows - center) < thickness / 2, 110, 20)
    return np.clip(level + random.normal(0, 12, (height, width)), 0, 150).astype(np.uint8)


def beyond_line(shape, angle, depth):
    """Pixels beyond a straight line that cuts ``depth`` pixels off the frame in the direction of ``angle``."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    along = np.sin(angle) * rows + np.cos(angle) * columns
    return along > along.max() - depth


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_every_mode_reads_as_grey(tmp_path, mode):
    image = Image.fromarray(layered()).convert(mode)
    image.save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.uint8 and found.shape == (496, 512)
    np.testing.assert_array_equal(found, np.asarray(image.convert("L")))


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    deep = (layered().astype(np.uint16) << 8) + 200
    Image.fromarray(deep).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), layered())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    Image.fromarray(layered()).save(path)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ScanError, match=f"scan{suffix}: cannot be read"):
            read_image(path)


def test_other_unreadable_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(ScanError, match="lost.png: no such file"):
        read_image(tmp_path / "lost.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ScanError, match="text.png: cannot be read"):
        read_image(tmp_path / "text.png")
    Image.new("L", (3, 400)).save(tmp_path / "thin.png")
    with pytest.raises(ScanError, match="thin.png: 3 x 400 pixels"):
        read_image(tmp_path / "thin.png")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(angle=st.floats(0, 2 * np.pi), depth=st.floats(12, 60), seed=st.integers(0, 99))
def test_a_border_at_any_angle_is_found_and_little_else(angle, depth, seed):
    image = layered(248, 256, 125, 40, seed=seed)
    border = beyond_line(image.shape, angle, depth)
    image[border] = 255
    mask = border_mask(image)
    # Of a wedge's thin tip, at most a few pixels beside the frame's edge may stay.
    assert (border & ~mask).sum() <= 0.02 * border.sum() + 16
    assert (mask & ~border).sum() <= 8 * 512 and mask.sum() < border.sum() + 8 * 512
    filled = fill_borders(image)
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def test_bright_layers_that_touch_the_sides_are_no_border():
    image = layered(thickness=12)
    image[244:256] = 255  # a saturated pigment epithelium from side to side
    assert not border_mask(image).any()
    image[:, :2] = 255  # and now a registration strip that it runs into
    mask = border_mask(image)
    assert mask[:, :2].all() and not mask[:, 8:].any()


def test_a_filled_border_looks_like_its_neighborhood():
    clean = layered(slope=0.1)
    border = beyond_line(clean.shape, -np.pi / 2 + 0.05, 60)  # a wedge over the top
    bordered = np.where(border, np.uint8(255), clean)
    filled = fill_borders(bordered)
    assert abs(filled[border].mean() - clean[border].mean()) < 2
    assert abs(filled[border].std() - clean[border].std()) < 2
    # The step across the old edge is no larger than steps elsewhere in the noise.
    steps = abs(np.diff(filled.astype(int), axis=0))
    at_edge = np.diff(border.astype(int), axis=0) != 0
    assert steps[at_edge].mean() < 1.3 * steps[:40][~at_edge[:40]].mean()


def test_an_image_without_a_border_stays_as_it_is():
    image = layered()
    np.testing.assert_array_equal(fill_borders(image), image)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(60, 436), st.integers(50, 110), st.floats(-0.25, 0.25), st.integers(0, 9))
def test_the_band_holds_the_retina_and_is_centered_on_it(center, thickness, slope, seed):
    top, bottom, left, right = find_band(layered(496, 512, center, thickness, slope, seed))
    assert (bottom - top, left, right) == (300, 0, 512) and 0 <= top and bottom <= 496
    assert abs(top - np.clip(center - 150, 0, 196)) <= 12


@pytest.mark.parametrize(
    ("height", "width", "columns"),
    [(496, 512, 512), (496, 768, 512), (512, 512, 512), (496, 384, 384), (496, 1024, 1024), (496, 1536, 1024)],
)
def test_the_central_six_millimeters_are_kept(height, width, columns):
    top, bottom, left, right = find_band(layered(height, width))
    assert right - left == columns and left == (width - columns) // 2
    assert bottom - top == round(height * BAND_HEIGHT)


def test_gain_and_mirroring_do_not_move_the_band():
    image = layered(center=180, slope=0.2)
    assert find_band(image // 2)[0] == pytest.approx(find_band(image)[0], abs=4)
    assert find_band(image[:, ::-1]) == find_band(image)
    top, bottom, _, _ = find_band(image)
    assert find_band(image[::-1])[0] == pytest.approx(496 - bottom, abs=1)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_flat_image_has_no_retina(level):
    with pytest.raises(ScanError, match="flat|white"):
        crop_to_band(np.full((496, 512), level, np.uint8))


def test_resizing_averages_instead_of_picking_pixels():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (300, 512), dtype=np.uint8)
    small = resize(noise, 32)
    assert small.shape == (32, 32) and small.dtype == np.uint8
    assert abs(small.mean() - noise.mean()) < 1
    assert small.std() < noise.std() / 5  # a pixel is the mean of 9 x 16 independent ones


@pytest.mark.parametrize("patient_class", ["normal", "drusen", "cnv", "dme"])
def test_whole_phantoms_are_cropped_to_the_band_that_phantoms_are_drawn_in(patient_class):
    offsets, registered = [], 0
    for seed in range(6):
        patient = draw_patient(patient_class, [5, seed])
        registered += patient.registered
        rendered = render_frames(patient, 2)
        for image, layers in zip(rendered.images, rendered.layers, strict=True):
            top, bottom, left, right = find_band(image)
            retina = (layers[:, left:right] > 0) & (layers[:, left:right] < CHOROID)
            assert retina[top:bottom].sum() >= 0.999 * retina.sum()
            assert (crop_to_band(image) >= 250).mean() < 0.02  # no border is left
            offsets.append(abs(top - band_view(patient, 64).top))
    assert np.median(offsets) < 20


@real_scans
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_scans_keep_their_retina_and_lose_their_borders(path):
    image = read_image(path)
    top, bottom, left, right = find_band(image)
    first, last = RETINA_ROWS[path.stem]
    assert top <= first and last <= bottom
    assert right - left == 512
    crop = crop_to_band(image)
    assert crop.shape == (bottom - top, right - left)
    # The outermost pixels are no brighter than a retina that reaches the side can be.
    for side in (crop[0], crop[-1], crop[:, 0], crop[:, -1]):
        assert (side >= 250).mean() < 0.05


@real_scans
def test_the_real_borders_are_found_where_they_are():
    bordered = {path.stem for path in REAL if border_mask(read_image(path)).any()}
    assert bordered == {
        "CNV-137351-10", "CNV-137351-13", "CNV-137351-14", "DME-30521-43", "DME-30521-62", "DRUSEN-142234-15",
        "DRUSEN-163081-2", "NORMAL-62749-3", "NORMAL-66515-2",
    }  # fmt: skip
    assert len(REAL) == 17
