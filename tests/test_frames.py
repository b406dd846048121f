"""Reading whatever lies on disk; what is not the eye leaves the frame, what is stays; the band holds the retina."""

import hashlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import slab
from PIL import Image

from kdoct_utils.data.band import DEEPER, fill_borders, find_band, resize, to_grey, to_picture
from kdoct_utils.data.cache import PICTURE_VERSION
from kdoct_utils.data.frames import clean_frame, find_canvas, find_scale_bar
from kdoct_utils.data.images import ScanError, decode_image, read_image
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import CHOROID, band_view, render_frames

REAL = sorted((Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd").rglob("*.jpeg"))
real_scans = pytest.mark.skipif(not REAL, reason="no real B-scans at ../shared/oct_samples/ucsd")
BAR_COLORS = [(0, 200, 255), (255, 255, 0), (0, 255, 0), (255, 0, 0), (60, 90, 255)]

# Rows that a reader of these pictures must see whole in the band, within the columns kept: from just above the
# highest point of the inner retina to just below the lowest point of the pigment epithelium; read off by eye.
RETINA_ROWS = {
    "CNV-137351-10": (120, 295), "CNV-137351-13": (90, 310), "CNV-137351-14": (92, 310), "CNV-13823-1": (60, 230),
    "CNV-53018-1": (85, 225), "DME-15208-2": (82, 245), "DME-30521-43": (215, 440), "DME-30521-58": (5, 232),
    "DME-30521-62": (150, 345), "DRUSEN-142234-15": (170, 330), "DRUSEN-142234-8": (140, 285),
    "DRUSEN-163081-2": (205, 320), "DRUSEN-95633-1": (180, 305), "NORMAL-12494-3": (130, 285),
    "NORMAL-36734-1": (85, 290), "NORMAL-62749-3": (135, 275), "NORMAL-66515-2": (160, 325),
}  # fmt: skip
BORDERED = {
    "CNV-137351-10", "CNV-137351-13", "CNV-137351-14", "DME-30521-43", "DME-30521-62", "DRUSEN-142234-15",
    "DRUSEN-163081-2", "NORMAL-62749-3", "NORMAL-66515-2",
}  # fmt: skip


def encoded(image, format, **options):
    """The content of a file that holds the image, an array or Pillow's."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(image, format, **options):
    return decode_image(encoded(image, format, **options), "x").pixels


def jpeg(pixels, quality=90, subsampling=2):
    """What JPEG makes of an array."""
    return decoded(pixels, "JPEG", quality=quality, subsampling=subsampling)


def grain(seed=0):
    return slab(seed, 96, 128)


def layered(height=496, width=512, center=250, thickness=80, slope=0.0, seed=0):
    """A frame of noise with a bright tilted slab whose middle passes through row ``center``."""
    rows = np.arange(height)[:, None] - slope * (np.arange(width) - width / 2)[None]
    level = np.where(abs(rows - center) < thickness / 2, 110, 20)
    return np.clip(level + np.random.default_rng(seed).normal(0, 12, (height, width)), 0, 150).astype(np.uint8)


def beyond_line(shape, angle, depth):
    """Pixels beyond a straight line that cuts ``depth`` pixels off the frame in the direction of ``angle``."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    along = np.sin(angle) * rows + np.cos(angle) * columns
    return along > along.max() - depth


def with_bar(frame, color=(0, 200, 255), top=463, left=13):
    """Grey stored as RGB with NEH's scale bar: an L in rows 463-483, columns 13-63."""
    pixels = np.repeat(frame[:, :, None], 3, axis=2)
    pixels[top : top + 21, left : left + 3] = pixels[top + 18 : top + 21, left : left + 51] = color
    return pixels


def on_canvas(picture, top, left, shape=(496, 768)):
    canvas = np.zeros((*shape, *picture.shape[2:]), np.uint8)
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def shrunk(frame, scale):
    height, width = frame.shape[:2]
    return np.asarray(Image.fromarray(frame).resize((round(width * scale), round(height * scale))))


@pytest.fixture(scope="module")
def frames():
    """Phantom frames without white borders, one of each class."""
    found = []
    for k in range(12):
        patient = draw_patient(("normal", "drusen", "cnv", "dme")[len(found) % 4], [5, k])
        if not patient.registered:
            found.append(render_frames(patient, 1).images[0])
        if len(found) == 4:
            return found


@pytest.fixture(scope="module")
def wedge():
    """A phantom frame whose white border lies, deepest, in the lower left corner, where NEH's bar is."""
    return next(
        image
        for k in range(40)
        if (patient := draw_patient("drusen", [9, k])).registered
        for image in render_frames(patient, 3).images
        if 6 < (image[:, 40] == 255)[-30:].sum() and (image[-1, -40:] < 255).all()
    )


# --- reading ---


def test_every_mode_reads_as_it_looks(tmp_path):
    grey = Image.fromarray(grain())
    for image in (grey.convert("P"), grey.convert("LA"), grey.convert("RGBA"), grey):
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(to_grey(read_image(tmp_path / "a.png")), grain())
    for format in ("TIFF", "PNG"):  # 16 bits keep the upper eight
        np.testing.assert_array_equal(decoded(grain().astype(np.uint16) * 257, format), grain())


def test_what_cannot_be_a_scan_is_refused():
    pages = [Image.fromarray(grain(seed)) for seed in range(3)]
    deep = grain().astype(np.uint16) * 16
    bright, clear = grain().astype(np.uint16) * 257, Image.new("LA", (64, 64), (90, 128))
    huge = encoded(Image.new("L", (64, 64)), "BMP")  # a few bytes that say they are 60,000 x 60,000 pixels
    for content, message in (
        (encoded(grain().astype(np.int32), "TIFF"), "stored as Pillow's 'I'"),
        (encoded(grain().astype(np.float32), "TIFF"), "stored as Pillow's 'F'"),
        (encoded(Image.fromarray(grain()).convert("CMYK"), "TIFF"), "stored as Pillow's 'CMYK'"),
        (encoded(Image.new("L", (3, 400)), "TIFF"), "3 x 400 pixels are too few"),
        (encoded(Image.new("1", (5000, 5000)), "TIFF"), "5000 x 5000 pixels are too many"),
        (encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "it holds 3 pictures"),
        (encoded(deep, "TIFF"), "its 16 bits reach no more than .* of 65535"),
        (encoded(deep, "PNG"), "its 16 bits reach no more than .* of 65535"),
        (encoded(bright, "TIFF", tiffinfo={262: 0}), "a negative with 16 bits"),
        (encoded(clear, "PNG"), "partly transparent"),
        (huge[:18] + struct.pack("<ii", 60000, 60000) + huge[26:], ""),
    ):
        with pytest.raises(ScanError, match=f"x.tif: .*{message}"):
            decode_image(content, "x.tif")


def test_what_is_no_image_is_an_error_that_names_it(tmp_path):
    gif, postscript = b"GIF89a" + b"\0" * 900, b"%!PS-Adobe-3.0 EPSF-3.0\n"
    for content in (b"", b"\0" * 5000, b"no image at all", gif, postscript, b"\xff\xd8\xff\xe0"):
        with pytest.raises(ScanError, match="scan.jpeg: cannot be read as an image"):
            decode_image(content, "scan.jpeg")
    with pytest.raises(ScanError, match="lost.png: cannot be read .No such file"):
        read_image(tmp_path / "lost.png")


WHOLE = {
    "jpeg": encoded(grain(), "JPEG"),
    "progressive": encoded(grain(), "JPEG", progressive=True),
    "png": encoded(grain(), "PNG"),
    "tiff": encoded(grain(), "TIFF"),
    "lzw": encoded(grain(), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(grain(), "BMP"),
}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_a_damaged_file_is_a_scan_error_or_an_image_of_the_same_size(kind, data):
    """Cut off, overwritten or followed by zeros anywhere. Nothing else may be raised."""
    content = bytearray(WHOLE[kind])
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["cut", "zeros", "bytes"]))
    if how == "cut":
        content = content[:at]
    elif how == "zeros":
        content[at:] = bytes(len(content) - at)
    else:
        content[at : at + 3] = data.draw(st.binary(min_size=3, max_size=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, on damaged tags
        try:
            pixels = decode_image(bytes(content), "x").pixels
        except ScanError as error:
            assert str(error).startswith("x: ")
            return
    assert pixels.dtype == np.uint8 and min(pixels.shape[:2]) >= 16


def test_a_lost_end_filled_with_zeros_is_found():
    """As a copy leaves it that was broken off; decoders make half a picture of it without a word."""
    for kind in ("jpeg", "progressive", "png"):
        for share in (0.3, 0.6, 0.9):
            kept = int(len(WHOLE[kind]) * share)
            with pytest.raises(ScanError, match="x: cannot be read as an image"):
                decode_image(WHOLE[kind][:kept] + bytes(len(WHOLE[kind]) - kept), "x")


# --- scale bar ---


def test_nothing_is_left_of_a_scale_bar(frames):
    """Around its box the frame is as if it had never had one; within it there is what lies around."""
    for quality, subsampling in ((60, 0), (75, 2), (90, 0), (95, 2), (None, 0)):
        for frame, color in zip(frames, BAR_COLORS, strict=False):
            plain, barred = np.repeat(frame[:, :, None], 3, axis=2), with_bar(frame, color)
            if quality:
                plain, barred = (jpeg(pixels, quality, subsampling) for pixels in (plain, barred))
            top, bottom, left, right = find_scale_bar(barred)
            assert top <= 463 - 7 and 484 + 4 <= bottom and left <= 13 - 5 and 64 <= right
            assert bottom - top <= 70 and right - left <= 100
            cleaned, _ = clean_frame(barred)
            filled = np.zeros(frame.shape, bool)
            filled[top - 8 :, : right + 8] = True
            assert abs(cleaned.astype(int) - plain[:, :, 0])[~filled].max() <= 6  # JPEG's last trace of the color
            # Where the bar was there is the neighborhood's noise and level, and no edge.
            inside, beside = cleaned[top:bottom, left:right], cleaned[top:bottom, right + 10 : right + 100]
            assert abs(inside.mean() - beside.mean()) < 10 and inside.max() < 110
            steps = abs(np.diff(cleaned[top - 30 :, : right + 30].astype(int), axis=0))
            assert abs(np.diff(inside.astype(int), axis=0)).mean() < 1.25 * steps.mean()
    cleaned = [clean_frame(with_bar(frames[0], color))[0] for color in BAR_COLORS]
    assert all((other == cleaned[0]).all() for other in cleaned)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(top=st.integers(0, 475), left=st.integers(0, 717), color=st.sampled_from(BAR_COLORS))
def test_a_bar_is_found_wherever_it_is(top, left, color):
    frame = np.random.default_rng(top).integers(0, 40, (496, 768), dtype=np.uint8)
    found = find_scale_bar(jpeg(with_bar(frame, color, top, left)))
    assert found[0] <= top and top + 21 <= found[1] and found[2] <= left and left + 51 <= found[3]
    assert clean_frame(with_bar(frame, color, top, left))[0].max() < 40


def test_a_bar_across_a_white_border_leaves_neither(wedge):
    (grey, cleaned), (_, plain) = clean_frame(jpeg(with_bar(wedge))), clean_frame(wedge)
    assert plain["border"] > 0.005 and cleaned["scale_bar"]
    assert abs(cleaned["border"] - plain["border"]) < 0.3 * plain["border"] + 0.002
    assert (grey[440:, :120] > 120).mean() == 0


# --- canvas ---


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    which=st.integers(0, 3), top=st.floats(0, 1), left=st.floats(0, 1), scale=st.sampled_from([0.3, 0.5, 0.8]),
    quality=st.sampled_from([None, 60, 75, 90]),
)  # fmt: skip
def test_a_small_picture_is_found_wherever_it_lies(frames, which, top, left, scale, quality):
    picture = shrunk(frames[which], scale)
    height, width = picture.shape
    top, left = round(top * (496 - height)), round(left * (768 - width))
    frame = on_canvas(picture, top, left)
    found = find_canvas(frame if quality is None else jpeg(frame, quality))
    off = np.array(found) - (top, top + height, left, left + width)
    assert abs(off).max() <= (0 if quality is None else 1 if quality >= 90 else 8)  # a JPEG block


def test_ordinary_frames_lie_on_no_canvas(frames, wedge):
    clipped = frames[0].copy()  # a scanner that clips its noise leaves black rows, but a retina from side to side
    clipped[:150], clipped[400:] = 0, 0
    for frame in [*frames, wedge, clipped, np.zeros((496, 768), np.uint8), grain()]:
        assert find_canvas(frame) is None


# --- borders ---


@settings(max_examples=30, deadline=None, derandomize=True)
@given(angle=st.floats(0, 2 * np.pi), depth=st.floats(12, 60), seed=st.integers(0, 99))
def test_a_border_at_any_angle_is_found_and_little_else(angle, depth, seed):
    image = layered(248, 256, 125, 40, seed=seed)
    border = beyond_line(image.shape, angle, depth)
    image[border] = 255
    filled, mask = fill_borders(image)
    # Of a wedge's thin tip, at most a few pixels beside the frame's edge may stay.
    assert (border & ~mask).sum() <= 0.02 * border.sum() + 16
    assert (mask & ~border).sum() <= 8 * 512 and mask.sum() < border.sum() + 8 * 512
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def test_bright_layers_that_touch_the_sides_are_no_border():
    image = layered(thickness=12)
    np.testing.assert_array_equal(fill_borders(image)[0], image)
    image[244:256] = 255  # a saturated pigment epithelium from side to side
    assert not fill_borders(image)[1].any()
    image[:, :2] = 255  # and now a registration strip that it runs into
    mask = fill_borders(image)[1]
    assert mask[:, :2].all() and not mask[:, 8:].any()


# --- the band ---


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(60, 436), st.integers(50, 110), st.floats(-0.25, 0.25), st.integers(0, 9))
def test_the_band_holds_the_retina_and_is_centered_on_it(center, thickness, slope, seed):
    top, bottom, left, right = find_band(layered(496, 512, center, thickness, slope, seed))
    assert (bottom - top, left, right) == (300, 0, 512) and 0 <= top and bottom <= 496
    assert abs(top - np.clip(center - 150 - DEEPER, 0, 196)) <= 12


def test_the_central_six_millimeters_are_kept():
    for height, width, columns in (
        (496, 512, 512), (496, 768, 512), (512, 512, 512), (496, 384, 384), (496, 1024, 1024), (496, 1536, 1024),
    ):  # fmt: skip
        top, bottom, left, right = find_band(layered(height, width))
        assert right - left == columns and left == (width - columns) // 2
        assert bottom - top == round(height * 300 / 496)


def test_whole_phantoms_are_cropped_to_the_band_that_phantoms_are_drawn_in():
    for patient_class in ("normal", "drusen", "cnv", "dme"):
        offsets = []
        for seed in range(4):
            patient = draw_patient(patient_class, [5, seed])
            rendered = render_frames(patient, 2)
            for image, layers in zip(rendered.images, rendered.layers, strict=True):
                filled, _ = fill_borders(image)
                top, bottom, left, right = find_band(filled)
                retina = (layers[:, left:right] > 0) & (layers[:, left:right] < CHOROID)
                assert retina[top:bottom].sum() >= 0.999 * retina.sum()
                assert (filled >= 250).mean() < 0.02  # no border is left
                offsets.append(abs(top - band_view(patient, 64).top))
        assert np.median(offsets) < 10  # of the 300 rows of a band


# --- whole frames ---


@real_scans
def test_real_scans_keep_their_retina_and_lose_their_borders_and_nothing_else():
    assert {path.stem for path in REAL} == set(RETINA_ROWS)
    for path in REAL:
        grey = read_image(path)
        cleaned, found = clean_frame(grey)
        top, bottom, left, right = find_band(cleaned)
        first, last = RETINA_ROWS[path.stem]
        assert top <= first and last <= bottom and right - left == 512
        band = cleaned[top:bottom, left:right]
        for side in (band[0], band[-1], band[:, 0], band[:, -1]):
            assert (side >= 250).mean() < 0.05  # no brighter than a retina that reaches the side can be
        for picture in (to_picture(grey, 64), to_picture(cleaned, 64, clean=True)):  # a device's, and training's
            np.testing.assert_array_equal(picture, resize(band, 64, 64))
        assert (clean_frame(cleaned)[0] != cleaned).mean() < 0.002  # a bright mirror image may look like a border
        assert not found["canvas"] and not found["scale_bar"] and 0 < found["brightness"] < 80
        assert (found["border"] > 0) == (cleaned != grey).any() == (path.stem in BORDERED)


def test_a_clean_frame_stays_as_it_is(frames):
    for frame in frames:
        cleaned, found = clean_frame(frame)
        np.testing.assert_array_equal(cleaned, frame)
        assert found == {"border": 0, "scale_bar": False, "canvas": False, "brightness": pytest.approx(frame.mean())}
        grey = np.repeat(frame[:, :, None], 3, axis=2)  # stored in color, and changed by JPEG
        for pixels in (grey, jpeg(grey, 60)):
            assert find_scale_bar(pixels) is None
            np.testing.assert_array_equal(clean_frame(pixels)[0], pixels[:, :, 0])
    false_colors = np.stack([frames[0], frames[0] // 2, 255 - frames[0]], axis=2)  # read by its luminance
    assert find_scale_bar(false_colors) is None
    luminance = np.asarray(Image.fromarray(false_colors).convert("L"))
    np.testing.assert_array_equal(clean_frame(false_colors)[0], luminance)


def test_a_flat_frame_is_an_error():
    for level in (0, 3, 100, 252, 255):
        flat = np.full((496, 768), level, np.uint8)
        for work, image in ((clean_frame, flat), (clean_frame, with_bar(flat)), (fill_borders, flat)):
            with pytest.raises(ValueError, match="flat|white"):
                work(image)


def test_a_changed_pipeline_has_a_new_version():
    """Pictures, measures and thumbnails of fixed pixels. Who changes them raises PICTURE_VERSION, and pins them here:
    otherwise caches would go on showing what the old code made.
    """
    random = np.random.default_rng(7)
    rows = np.arange(496)[:, None] - np.arange(768) // 8
    frame = random.integers(0, 30, (496, 768)) + np.where((rows > 150) & (rows < 240), 90, 0)
    frame[np.arange(496)[:, None] < 40 - np.arange(768) // 16] = 255
    frame = frame.astype(np.uint8)
    state = hashlib.sha256()
    for pixels in (frame, with_bar(frame), on_canvas(frame[::2, ::2], 100, 300)):
        cleaned, facts = clean_frame(pixels)
        for made in (to_picture(cleaned, 64), to_picture(cleaned, 96, False), resize(cleaned, 32, 32)):
            state.update(made.tobytes())
        rounded = [round(value, 6) if isinstance(value, float) else value for value in facts.values()]
        state.update(repr(rounded).encode())
    assert (PICTURE_VERSION, state.hexdigest()[:16]) == (2, "ade3d84085539b62")
