"""Decoding whatever lies on disk; what is not the eye leaves the frame, and what is stays; the measures."""

import hashlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from kdoct_utils.data.frames import (
    PICTURE_VERSION,
    clean_frame,
    crop_to_band,
    fill_borders,
    find_canvas,
    find_scale_bar,
    make_picture,
    make_thumbnail,
    measures,
)
from kdoct_utils.data.images import ScanError, StoredImage, decode_image, read_image, resize
from kdoct_utils.phantom.render import draw_patient, render_frames

REAL = sorted((Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd").rglob("*.jpeg"))
real_scans = pytest.mark.skipif(not REAL, reason="no real B-scans at ../shared/oct_samples/ucsd")
BAR_COLORS = [(0, 200, 255), (255, 255, 0), (0, 255, 0), (255, 0, 0), (60, 90, 255)]


def encoded(image, format, **options):
    """The content of a file that holds the image, an array or Pillow's."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(pixels, quality=90, subsampling=2):
    """What JPEG makes of an array."""
    return decode_image(encoded(pixels, "JPEG", quality=quality, subsampling=subsampling), "here").pixels


def grain(seed=0, height=96, width=128):
    """A small frame with a bright slab."""
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width), dtype=np.uint8)
    pixels[height // 3 : height // 2] += 120
    return pixels


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
    frame = next(
        image
        for k in range(40)
        if (patient := draw_patient("drusen", [9, k])).registered
        for image in render_frames(patient, 3).images
        if 6 < (image[:, 40] == 255)[-30:].sum() and (image[-1, -40:] < 255).all()
    )
    return frame


# --- decoding ---


@pytest.mark.parametrize(("format", "name"), [("JPEG", "jpeg"), ("PNG", "png"), ("TIFF", "tiff"), ("BMP", "bmp")])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_format_and_color_are_told_by_the_content(format, name, mode):
    stored = decode_image(encoded(Image.fromarray(grain()).convert(mode), format), "a.misnamed")
    assert stored.format == name
    assert stored.pixels.dtype == np.uint8 and stored.pixels.ndim == (3 if mode == "RGB" else 2)


def test_palettes_and_opaque_alpha_are_read_as_they_look():
    grey = Image.fromarray(grain())
    for mode in ("P", "LA"):
        np.testing.assert_array_equal(decode_image(encoded(grey.convert(mode), "PNG"), "x").pixels, grain())
    colored = Image.fromarray(with_bar(grain(), top=40)).quantize(64)
    np.testing.assert_array_equal(decode_image(encoded(colored, "PNG"), "x").pixels, np.asarray(colored.convert("RGB")))
    opaque = decode_image(encoded(grey.convert("RGBA"), "PNG"), "x")
    np.testing.assert_array_equal(opaque.pixels, np.repeat(grain()[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_an_error(mode):
    image = Image.fromarray(grain()).convert(mode)
    if mode == "P":
        content = encoded(image, "PNG", transparency=7)
    else:
        image.putalpha(Image.fromarray(np.where(grain() > 50, 255, 128).astype(np.uint8)))
        content = encoded(image, "PNG")
    with pytest.raises(ScanError, match="x.png: it is partly transparent"):
        decode_image(content, "x.png")


@pytest.mark.parametrize("format", ["TIFF", "PNG"])
def test_sixteen_bits_are_scaled_and_fewer_are_refused(format):
    deep = grain().astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(encoded(deep, format), "x").pixels, grain())
    with pytest.raises(ScanError, match="x: its 16 bits reach no more than .* of 65535"):
        decode_image(encoded(deep >> 4, format), "x")


def test_a_negative_is_turned_in_eight_and_in_sixteen_bits():
    for pixels in (grain(), grain().astype(np.uint16) * 257):
        content = encoded(pixels, "TIFF")
        black_is_zero = struct.pack("<HHII", 262, 3, 1, 1)
        assert content.count(black_is_zero) == 1
        content = content.replace(black_is_zero, struct.pack("<HHII", 262, 3, 1, 0))
        np.testing.assert_array_equal(decode_image(content, "x").pixels, 255 - grain())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(grain().astype(np.int32)), "stored as Pillow's 'I'"),
        (Image.fromarray(grain().astype(np.float32)), "stored as Pillow's 'F'"),
        (Image.fromarray(grain()).convert("CMYK"), "stored as Pillow's 'CMYK'"),
        (Image.new("L", (1, 1), 255), "1 x 1 pixels are too few"),
        (Image.new("1", (5000, 5000)), "5000 x 5000 pixels are too many"),
    ],
)
def test_what_cannot_be_a_scan_is_refused(image, message):
    with pytest.raises(ScanError, match=f"x.tif: .*{message}"):
        decode_image(encoded(image, "TIFF"), "x.tif")


def test_a_picture_that_fills_the_memory_is_refused_unread():
    """A few bytes that say they are 60,000 x 60,000 pixels."""
    content = encoded(Image.new("L", (64, 64)), "BMP")
    with pytest.raises(ScanError, match="x.bmp: "):
        decode_image(content[:18] + struct.pack("<ii", 60000, 60000) + content[26:], "x.bmp")


def test_several_pictures_in_a_file_are_refused():
    pages = [Image.fromarray(grain(seed)) for seed in range(3)]
    with pytest.raises(ScanError, match="x.tif: it holds 3 pictures"):
        decode_image(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "x.tif")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_an_image_is_turned_upright_as_its_tag_says(format):
    tag = Image.Exif()
    tag[274] = 6  # viewers turn it clockwise
    content = encoded(grain(), format, exif=tag)
    turned = decode_image(content, "x").pixels
    assert turned.shape == (128, 96)
    assert abs(turned.astype(int) - np.rot90(grain(), -1)).mean() < 12  # JPEG changes noise a little


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"no image at all", b"GIF89a" + b"\0" * 900, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff\xe0"],
    ids=["empty", "zeros", "text", "gif", "postscript", "start of a jpeg"],
)
def test_what_is_no_image_is_an_error_that_names_it(content):
    with pytest.raises(ScanError, match="scan.jpeg: cannot be read as an image"):
        decode_image(content, "scan.jpeg")


def test_pillow_told_to_pass_damage_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ScanError, match="x: not read, since PIL.ImageFile.LOAD_TRUNCATED_IMAGES"):
        decode_image(encoded(grain(), "PNG"), "x")


WHOLE = {
    "jpeg": encoded(grain(), "JPEG"),
    "progressive": encoded(grain(), "JPEG", progressive=True),
    "png": encoded(grain(), "PNG"),
    "tiff": encoded(grain(), "TIFF"),
    "lzw": encoded(grain(), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(grain(), "BMP"),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
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


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_lost_end_filled_with_zeros_is_found(kind, share):
    """As a copy leaves it that was broken off; decoders make half a picture of it without a word."""
    kept = int(len(WHOLE[kind]) * share)
    with pytest.raises(ScanError, match="x: cannot be read as an image"):
        decode_image(WHOLE[kind][:kept] + bytes(len(WHOLE[kind]) - kept), "x")


# --- scale bar ---


@pytest.mark.parametrize("quality", [60, 75, 90, 95, None])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_nothing_is_left_of_a_scale_bar(frames, quality, subsampling):
    """Around its box the frame is as if it had never had one; within it there is what lies around."""
    for frame, color in zip(frames, BAR_COLORS, strict=False):
        plain, barred = np.repeat(frame[:, :, None], 3, axis=2), with_bar(frame, color)
        if quality:
            plain, barred = (jpeg(pixels, quality, subsampling) for pixels in (plain, barred))
        top, bottom, left, right = find_scale_bar(barred)
        assert top <= 463 - 7 and 484 + 4 <= bottom and left <= 13 - 5 and 64 <= right
        assert bottom - top <= 70 and right - left <= 100
        cleaned = clean_frame(barred).grey
        filled = np.zeros(frame.shape, bool)
        filled[top - 8 :, : right + 8] = True
        assert abs(cleaned.astype(int) - plain[:, :, 0])[~filled].max() <= 6  # JPEG's last trace of the color
        # Where the bar was there is the neighborhood's noise and level, and no edge.
        inside, beside = cleaned[top:bottom, left:right], cleaned[top:bottom, right + 10 : right + 100]
        assert abs(inside.mean() - beside.mean()) < 10 and inside.max() < 110
        steps = abs(np.diff(cleaned[top - 30 :, : right + 30].astype(int), axis=0))
        assert abs(np.diff(inside.astype(int), axis=0)).mean() < 1.25 * steps.mean()


def test_what_a_bar_looked_like_leaves_no_trace(frames):
    cleaned = [clean_frame(with_bar(frames[0], color)).grey for color in BAR_COLORS]
    assert all((other == cleaned[0]).all() for other in cleaned)


def test_a_frame_without_a_bar_has_none(frames):
    for frame in frames:
        assert find_scale_bar(frame) is None
        grey = np.repeat(frame[:, :, None], 3, axis=2)
        for pixels in (grey, jpeg(grey, 60)):
            assert find_scale_bar(pixels) is None
            np.testing.assert_array_equal(clean_frame(pixels).grey, pixels[:, :, 0])


def test_a_frame_in_false_colors_is_read_by_its_luminance(frames):
    colors = np.stack([frames[0], frames[0] // 2, 255 - frames[0]], axis=2)
    assert find_scale_bar(colors) is None
    np.testing.assert_array_equal(clean_frame(colors).grey, np.asarray(Image.fromarray(colors).convert("L")))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(top=st.integers(0, 475), left=st.integers(0, 717), color=st.sampled_from(BAR_COLORS))
def test_a_bar_is_found_wherever_it_is(top, left, color):
    frame = np.random.default_rng(top).integers(0, 40, (496, 768), dtype=np.uint8)
    found = find_scale_bar(jpeg(with_bar(frame, color, top, left)))
    assert found[0] <= top and top + 21 <= found[1] and found[2] <= left and left + 51 <= found[3]
    assert clean_frame(with_bar(frame, color, top, left)).grey.max() < 40


def test_a_bar_across_a_white_border_leaves_neither(wedge):
    cleaned = clean_frame(jpeg(with_bar(wedge)))
    plain = clean_frame(wedge)
    assert plain.border > 0.005 and cleaned.scale_bar
    assert abs(cleaned.border - plain.border) < 0.3 * plain.border + 0.002
    assert (cleaned.grey[440:, :120] > 120).mean() == 0


# --- canvas ---


def test_ordinary_frames_lie_on_no_canvas(frames, wedge):
    for frame in [*frames, wedge, np.zeros((496, 768), np.uint8), grain()]:
        assert find_canvas(frame) is None


@real_scans
def test_no_real_scan_lies_on_a_canvas_or_has_a_bar():
    assert len(REAL) == 17
    for path in REAL:
        cleaned = clean_frame(decode_image(path.read_bytes(), path.name).pixels)
        assert not cleaned.canvas and not cleaned.scale_bar


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


def test_black_above_a_retina_is_no_canvas(frames):
    """A scanner that clips its noise leaves black rows, but a retina that runs from side to side."""
    frame = frames[0].copy()
    frame[:150], frame[400:] = 0, 0
    assert find_canvas(frame) is None


@pytest.mark.parametrize("place", ["within the picture", "on the canvas"])
def test_a_bar_and_a_canvas_leave_the_picture_alone(frames, place):
    picture = shrunk(frames[2], 0.5)
    if place == "on the canvas":
        pixels = with_bar(on_canvas(picture, 124, 192))
    else:
        pixels = on_canvas(with_bar(picture, top=215), 124, 192)
    cleaned = clean_frame(jpeg(pixels))
    assert cleaned.canvas and cleaned.scale_bar and cleaned.border == 0
    assert abs(np.array(cleaned.grey.shape) - picture.shape).max() <= 1
    if place == "on the canvas":
        assert abs(cleaned.grey[:248, :384].astype(int) - picture).mean() < 4


# --- whole frames ---


@real_scans
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_scans_become_the_same_pictures_as_ever(path):
    """The band as crop_to_band alone cuts it; the whole frame with its borders filled and nothing else changed."""
    grey = read_image(path)
    cleaned = clean_frame(decode_image(path.read_bytes(), path.name).pixels)
    np.testing.assert_array_equal(make_picture(cleaned, 64, True), resize(crop_to_band(grey), 64))
    np.testing.assert_array_equal(cleaned.grey, fill_borders(grey))
    np.testing.assert_array_equal(clean_frame(cleaned.grey).grey, cleaned.grey)
    assert 0 < cleaned.brightness < 80 and (cleaned.border > 0) == (cleaned.grey != grey).any()


def test_a_clean_frame_stays_as_it_is(frames):
    for frame in frames:
        cleaned = clean_frame(frame)
        np.testing.assert_array_equal(cleaned.grey, frame)
        assert (cleaned.border, cleaned.scale_bar, cleaned.canvas) == (0, False, False)
        assert cleaned.brightness == pytest.approx(frame.mean())


@pytest.mark.parametrize("level", [0, 3, 100, 252, 255])
def test_a_flat_frame_is_an_error(level):
    with pytest.raises(ScanError, match="flat|white"):
        clean_frame(np.full((496, 768), level, np.uint8))
    with pytest.raises(ScanError, match="flat|white"):  # with nothing on it but a bar
        clean_frame(with_bar(np.full((496, 768), level, np.uint8)))


def test_brightness_leaves_out_border_bar_and_canvas(frames):
    frame = frames[1]
    bordered = frame.copy()
    bordered[:60] = 255
    expected = frame[64:].mean()
    found = clean_frame(bordered)
    assert found.brightness == pytest.approx(expected, abs=0.2)
    assert found.border == pytest.approx(64 / 496, abs=0.003)
    assert clean_frame(with_bar(frame)).brightness == pytest.approx(frame.mean(), abs=0.5)
    small = shrunk(frame, 0.5)
    assert clean_frame(on_canvas(small, 30, 40)).brightness == pytest.approx(small.mean(), abs=0.01)


def test_measures_say_how_an_image_is_stored(frames):
    stored = StoredImage(jpeg(with_bar(on_canvas(shrunk(frames[0], 0.5), 9, 200))), "jpeg")
    found = measures(stored, clean_frame(stored.pixels))
    expected = {"format": "jpeg", "color": True, "width": 768, "height": 496, "border": 0.0, "scale_bar": True}
    assert {name: found[name] for name in expected} == expected and found["canvas"]


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
        cleaned = clean_frame(pixels)
        for made in (make_picture(cleaned, 64, True), make_picture(cleaned, 96, False), make_thumbnail(cleaned)):
            state.update(made.tobytes())
        facts = measures(StoredImage(pixels, "jpeg"), cleaned)
        rounded = [round(value, 6) if isinstance(value, float) else value for value in facts.values()]
        state.update(repr(rounded).encode())
    assert (PICTURE_VERSION, state.hexdigest()[:16]) == (1, "7694ce743b2a7b90")
