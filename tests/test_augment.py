"""Augmentations against torchvision and Pillow; draws that depend on nothing but (seed, view, index)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from kdoct_utils.learn import augment as module
from kdoct_utils.learn.augment import TEST_TIME_VIEWS, apply, augment, intensity_tables
from kdoct_utils.learn.pipelines import (
    EVALUATION,
    RANDAUGMENT_SPACE,
    STUDENT,
    TEACHER,
    AugmentConfig,
    Draw,
    describe,
    draw,
    only,
    steps,
)

GREY_MEAN, GREY_STD = 0.449, 0.226


@pytest.fixture(autouse=True, params=["bytes", "floats"])
def way(request, monkeypatch):
    """Every test meets the way of a CPU and, on the CPU as well, that of a GPU."""
    monkeypatch.setattr(module, "BYTES_FROM", 0 if request.param == "bytes" else np.inf)
    return request.param


def levels_off(way, moves=1):
    """How far a grey level may be off: bytes are rounded after every move."""
    return 0.01 + 0.5 * moves * (way == "bytes")


def scans(batch=8, side=69, seed=0):
    """Smooth random images, uint8 (batch, side, side), no two alike and none symmetric."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    return (smooth[:, 0] * 255).clamp(0, 255).round().to(torch.uint8)


def grey(output):
    """Undo the normalization of one channel, to 0..255: (batch, S, S)."""
    return 255 * (output[:, 0] * GREY_STD + GREY_MEAN)


def still(batch: int, **changes) -> Draw:
    return replace(draw(EVALUATION, np.arange(batch), 0, 0), **changes)


def operations(batch: int, *names_and_values) -> Draw:
    """A draw with the given steps, the same for every image."""
    return still(
        batch,
        operations=np.array([[name for name, _ in names_and_values]] * batch),
        values=np.array([[value for _, value in names_and_values]] * batch, dtype=float),
    )


# ---- draws


@given(
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True),
    seed=st.integers(0, 2**40), view=st.integers(0, 200), shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_draw_depends_on_seed_view_and_index_only(indices, seed, view, shuffle):
    order = list(range(len(indices)))
    shuffle.shuffle(order)
    whole = draw(TEACHER, indices, seed, view)
    mixed = draw(TEACHER, torch.tensor([indices[k] for k in order]), seed, view)
    single = draw(TEACHER, indices[:1], seed, view)
    for name in ("offset", "matrix", "operations", "values", "blur_sigma", "erasing"):
        np.testing.assert_array_equal(getattr(whole, name)[order], getattr(mixed, name))
        np.testing.assert_array_equal(getattr(whole, name)[:1], getattr(single, name))


def test_images_do_not_depend_on_their_batch_and_do_on_seed_and_view():
    images, indices = scans(8), np.arange(100, 108)
    whole = augment(images, indices, TEACHER, 5, 3, 64, 1)
    some = [5, 4, 3]
    torch.testing.assert_close(augment(images[some], indices[some], TEACHER, 5, 3, 64, 1), whole[some])
    for seed, view in ((6, 3), (5, 4)):
        other = augment(images, indices, TEACHER, seed, view, 64, 1)
        assert ((whole - other).abs().amax(dim=(1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("config", [TEACHER, STUDENT])
def test_each_image_of_a_batch_gets_its_own_draw(config):
    same = scans(1).expand(16, -1, -1)
    output = augment(same, np.arange(16), config, 0, 0, 64, 1)
    differences = (output[:, None] - output[None]).abs().amax(dim=(2, 3, 4))  # (16, 16)
    assert (differences[~torch.eye(16, dtype=torch.bool)] > 0.05).all()


def test_random_numbers_are_uniform_and_uncorrelated():
    """Over neighboring indices, views and seeds, which is how they are used."""
    config = replace(TEACHER, randaugment_operations=0)
    by_index = draw(config, np.arange(20000), 0, 0).offset[:, 0]
    by_view = np.array([draw(config, [7], 0, view).offset[0, 0] for view in range(1000)])
    by_seed = np.array([draw(config, [7], seed, 0).offset[0, 0] for seed in range(1000)])
    for sample in (by_index, by_view, by_seed):
        assert stats.kstest(sample, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < 4 / math.sqrt(len(sample))
    x, y = draw(config, np.arange(20000), 0, 0).offset.T
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.03


def test_draws_keep_to_the_papers_numbers():
    n = 20000
    teacher, student = draw(TEACHER, np.arange(n), 1, 0), draw(STUDENT, np.arange(n), 1, 0)
    for parameters, config in ((teacher, TEACHER), (student, STUDENT)):
        erased = parameters.erasing[:, 0] > 0
        assert erased.mean() == pytest.approx(config.erasing, abs=0.015)
        low, high = config.erasing_area
        assert parameters.erasing[erased, 0].min() == pytest.approx(low, abs=1e-3)
        assert parameters.erasing[erased, 0].max() == pytest.approx(high, abs=1e-3)
        factors = parameters.values[:, 2:4]
        assert np.abs(factors - 1).max() == pytest.approx(config.brightness, abs=1e-3)
        assert set(np.unique(parameters.operations[:, :2])) == set(RANDAUGMENT_SPACE)
    assert (teacher.blur_sigma > 0).mean() == pytest.approx(0.2, abs=0.015)
    assert (teacher.operations[:, -1] == "posterize").mean() == pytest.approx(0.2, abs=0.015)
    assert (student.blur_sigma == 0).all() and (student.operations[:, -1] == "identity").all()
    determinant = np.linalg.det(teacher.matrix)
    assert (determinant < 0).mean() == pytest.approx(0.5 * 0.7 + 0.5 * 0.3, abs=0.015)  # one flip, not both
    scale = 1 / np.sqrt(np.abs(np.linalg.det(draw(only(TEACHER, "scale"), np.arange(n), 1, 0).matrix)))
    assert (scale.min(), scale.max()) == pytest.approx((0.85, 1.15), abs=1e-3)
    for config in (TEACHER, STUDENT):
        matrix = draw(only(config, "rotation"), np.arange(n), 1, 0).matrix
        angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
        assert (angle.min(), angle.max()) == pytest.approx((-config.rotation, config.rotation), abs=0.05)


# ---- geometry


@pytest.mark.parametrize("side,size", [(69, 64), (35, 32), (416, 384), (64, 64)])
def test_evaluation_is_a_plain_resize(side, size, way):
    images = scans(3, side)
    expected = torch.nn.functional.interpolate(
        images[:, None].float(), (size, size), mode="bilinear", align_corners=False, antialias=False
    )[:, 0]
    output = augment(images, np.arange(3), EVALUATION, 0, 0, size, 1)
    torch.testing.assert_close(grey(output), expected, atol=levels_off(way), rtol=0)


def test_crop_alone_takes_whole_pixels_out_of_the_stored_image():
    images = scans(32)
    output = grey(augment(images, np.arange(32), only(TEACHER, "crop"), 0, 0, 64, 1))
    windows = images.unfold(1, 64, 1).unfold(2, 64, 1).float()  # (32, 6, 6, 64, 64)
    distance = (windows - output[:, None, None]).abs().amax(dim=(3, 4)).flatten(1)
    assert (distance.amin(dim=1) < 0.01).all()
    assert len(distance.argmin(dim=1).unique()) > 10  # of 36 places


@pytest.mark.parametrize("step,dimension", [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_flips_are_exact(step, dimension):
    images = scans(4, 64)
    output = grey(augment(images, np.arange(4), only(TEACHER, step), 0, 0, 64, 1))
    torch.testing.assert_close(output, images.flip(dimension).float(), atol=2e-3, rtol=0)
    assert torch.equal(output.round(), images.flip(dimension).float())


def disk(side=96):
    """A smooth blob off the center, so small that no step moves it out of view."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    blob = torch.exp(-(((x - 54) / 9) ** 2 + ((y - 42) / 6) ** 2)) * 250
    return blob.round().to(torch.uint8)[None]


def torchvision_affine(image, angle=0.0, translate=(0, 0), scale=1.0, shear=(0.0, 0.0)):
    return reference.affine(
        image, angle=angle, translate=list(translate), scale=scale, shear=list(shear),
        interpolation=v2.InterpolationMode.BILINEAR, fill=0.0,
    )


def degrees(tangent):
    return math.degrees(math.atan(tangent))


def two_moves(config, seed, count=12):
    """Scans whose two RandAugment operations are different and both geometric, so that their order shows."""
    first, second = draw(config, np.arange(400), seed, 0).operations[:, :2].T
    moves = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
    return np.flatnonzero(np.isin(first, moves) & np.isin(second, moves) & (first != second))[:count]


@pytest.mark.parametrize("index", two_moves(TEACHER, seed=2, count=6))
def test_composed_geometry_is_the_steps_one_after_another(index):
    """One resampling against five of torchvision, with the parameters read off single-step draws."""
    config = replace(TEACHER, crop=1.0, randaugment_magnitude=12)
    image, parameters = disk(), draw(config, [index], 2, 0)
    expected = image.float()
    for name, value in zip(parameters.operations[0, :2], parameters.values[0, :2], strict=True):
        changes = {
            "shear_x": {"shear": (degrees(value), 0.0)},
            "shear_y": {"shear": (0.0, degrees(value))},
            "translate_x": {"translate": (value * 96, 0)},
            "translate_y": {"translate": (0, value * 96)},
            "rotate": {"angle": value},
        }
        expected = torchvision_affine(expected, **changes.get(name, {}))
    single = {step: draw(replace(config, randaugment_operations=0, **off), [index], 2, 0).matrix[0]
              for step, off in single_steps(config).items()}
    rotation, shear = single["rotation"], single["shear"]
    expected = torchvision_affine(expected, angle=math.degrees(math.atan2(rotation[0, 1], rotation[0, 0])))
    expected = torchvision_affine(expected, scale=1 / single["scale"][0, 0], shear=(degrees(shear[0, 1]), 0.0))
    flips = [k for k, step in ((-1, "horizontal_flip"), (-2, "vertical_flip")) if np.linalg.det(single[step]) < 0]
    expected = expected.flip(flips)
    geometry = still(1, matrix=parameters.matrix)
    output = grey(apply(image, geometry, 96, 1))
    assert expected.max() > 150 and (output - image).abs().max() > 20  # in view, and moved
    assert (output - expected).abs().max() < 12  # bilinear losses of five resamplings against one
    assert (output - expected).abs().mean() < 0.3


def single_steps(config):
    """Overrides that leave one geometric step on, its probability as it is."""
    neutral = {"rotation": 0, "shear": 0, "scale": (1.0, 1.0), "horizontal_flip": 0, "vertical_flip": 0}
    return {step: {**neutral, step: getattr(config, step)} for step in neutral}


@pytest.mark.parametrize("size", [32, 96])
def test_randaugment_translation_really_moves(size):
    """The reference code hands torchvision M/100 as pixels: 0.09 of one. Here 9/30 * 150/331 of the side."""
    share = 9 / 30 * 150 / 331
    parameters = draw(TEACHER, np.arange(400), 0, 0)
    for axis, name in enumerate(("translate_x", "translate_y")):
        moved = parameters.values[parameters.operations == name]
        assert set(np.round(moved, 6)) == {round(share, 6), round(-share, 6)}
        alone = (parameters.operations[:, :2] == [name, "identity"]).all(axis=1)
        assert alone.any()
        config = replace(only(TEACHER, "randaugment"), crop=1.0)
        matrix = draw(config, np.flatnonzero(alone), 0, 0).matrix
        images = torch.zeros(len(matrix), size, size, dtype=torch.uint8)
        images[:, size // 2 - 2 : size // 2 + 2, size // 2 - 2 : size // 2 + 2] = 200
        output = grey(apply(images, still(len(matrix), matrix=matrix), size, 1)).clamp_min(0)
        profile = output.sum(dim=1 + axis)  # (batch, S): along x for translate_x
        place = (profile * torch.arange(size)).sum(1) / profile.sum(1) - (size - 1) / 2
        torch.testing.assert_close(place.abs(), torch.full_like(place, share * size), atol=0.05 * size, rtol=0)
        assert (place.abs() > 1).all()


def test_randaugment_keeps_to_its_space_and_a_single_step_draws_the_numbers_of_the_whole_pipeline():
    config = replace(TEACHER, randaugment_space=("rotate", "contrast"))
    for one in (config, only(config, "randaugment")):
        assert set(draw(one, np.arange(200), 0, 0).operations[:, :2].flat) == {"rotate", "contrast"}
    whole, single = (draw(config, np.arange(50), 3, 1) for config in (TEACHER, only(TEACHER, "erasing")))
    erased = whole.erasing[:, 0] > 0
    np.testing.assert_array_equal(whole.erasing[erased], single.erasing[erased])
    assert erased.any() and (single.erasing[:, 0] > 0).all()


def test_outside_is_black():
    output = grey(augment(torch.full((1, 64, 64), 200, dtype=torch.uint8), [0], EVALUATION, 0, 0, 64, 1))
    assert output.min() > 199
    turned = grey(apply(torch.full((1, 64, 64), 200, dtype=torch.uint8),
                        still(1, matrix=TEST_TIME_VIEWS["rotation"][None]), 64, 1))
    assert abs(turned[0, 0, 0].item()) < 0.1 and turned[0, 32, 32].item() == pytest.approx(200, abs=0.1)


# ---- intensity


POINTWISE_ORACLES = [
    ("posterize", 4.0, lambda image: reference.posterize(image, 4), 0),
    ("posterize", 6.8, lambda image: reference.posterize(image, 7), 0),
    ("solarize", 178.5, lambda image: reference.solarize(image, 178.5), 0),
    ("autocontrast", 0.0, reference.autocontrast, 1),
    ("equalize", 0.0, reference.equalize, 0),
    ("brightness", 1.27, lambda image: reference.adjust_brightness(image, 1.27), 1),
    ("brightness", 0.7, lambda image: reference.adjust_brightness(image, 0.7), 1),
    ("contrast", 1.27, lambda image: reference.adjust_contrast(image, 1.27), 1),
    ("contrast", 0.7, lambda image: reference.adjust_contrast(image, 0.7), 1),
]
PILLOW_ORACLES = [
    ("posterize", 4.0, lambda image: ImageOps.posterize(image, 4), 0),
    ("solarize", 128.0, lambda image: ImageOps.solarize(image, 128), 0),
    ("autocontrast", 0.0, ImageOps.autocontrast, 1),
    ("equalize", 0.0, ImageOps.equalize, 0),
]


def dim_scan(seed=1):
    """An image that uses a part of the range, so that stretching it shows."""
    return (scans(1, 69, seed).float() * 0.6 + 30).to(torch.uint8)


def through_table(image, *names_and_values):
    parameters = operations(1, *names_and_values)
    return intensity_tables(image, parameters.operations, parameters.values)[0][image.long()]


def test_table_steps_are_torchvisions_and_pillows():
    image = dim_scan()
    for name, value, oracle, tolerance in POINTWISE_ORACLES:
        expected = oracle(image).float()
        assert (expected - image).abs().max() > (0 if name == "posterize" else 5)
        assert (through_table(image, (name, value)) - expected).abs().max() <= tolerance + 1e-3, name
    for name, value, oracle, tolerance in PILLOW_ORACLES:
        expected = torch.from_numpy(np.asarray(oracle(Image.fromarray(image[0].numpy()))).astype(np.float32))
        assert (through_table(image, (name, value))[0] - expected).abs().max() <= tolerance + 1e-3, name


def test_a_row_of_table_steps_is_the_steps_one_after_another():
    image = dim_scan()
    expected = reference.posterize(
        reference.equalize(reference.adjust_contrast(reference.solarize(image, 120.0), 0.8)), 4
    )
    output = through_table(image, ("solarize", 120.0), ("contrast", 0.8), ("equalize", 0.0), ("posterize", 4.0))
    # A mean that rounds the other way may move a level by one before the coarse steps.
    assert ((output - expected).abs() > 1e-3).float().mean() < 0.01


def test_flat_images_survive_every_table_step():
    for level in (0, 77, 255):
        image = torch.full((1, 20, 20), level, dtype=torch.uint8)
        for name, value in (("autocontrast", 0), ("equalize", 0), ("contrast", 0.5)):
            torch.testing.assert_close(through_table(image, (name, value)), image.float(), atol=1.01, rtol=0)


@pytest.mark.parametrize("factor", [0.73, 1.27])
def test_sharpness_is_torchvisions(factor, way):
    images = scans(2, 64)
    output = grey(apply(images, operations(2, ("sharpness", factor)), 64, 1))
    expected = 255 * reference.adjust_sharpness(images[:, None].float() / 255, factor)[:, 0]
    torch.testing.assert_close(output, expected, atol=levels_off(way, 2), rtol=0)


def test_blur_is_torchvisions_with_each_images_own_sigma(way):
    images, sigma = scans(3, 64), np.array([0.5, 0.0, 2.0])
    output = grey(apply(images, still(3, blur_sigma=sigma), 64, 1))
    for image, got, value in zip(images.float(), output, sigma, strict=True):
        expected = reference.gaussian_blur(image[None], [3, 3], [value, value])[0] if value else image
        torch.testing.assert_close(got, expected, atol=levels_off(way, 2), rtol=0)


@pytest.mark.parametrize(("config", "size"), [(TEACHER, 64), (STUDENT, 96)])
def test_erased_areas_are_rectangles_of_the_stated_size(config, size):
    images = torch.full((64, size, size), 200, dtype=torch.uint8)
    erased = grey(augment(images, np.arange(64), only(config, "erasing"), 0, 0, size, 1)) < 100  # (64, S, S)
    area = erased.float().mean(dim=(1, 2))
    low, high = config.erasing_area
    rounding = 0.5 * math.sqrt(high * 3.3) / size  # half a column of the tallest
    assert area.min() >= low - rounding and area.max() <= high + rounding
    assert area.max() - area.min() > 0.6 * (high - low)
    rows, columns = erased.any(2), erased.any(1)
    assert torch.equal(erased, rows[:, :, None] & columns[:, None])
    assert len({tuple(row) for row in rows.int().tolist()}) > 20  # not always in the same place


def test_saturation_hue_and_color_do_nothing_to_grey():
    images = scans(8)
    colorless = replace(TEACHER, saturation=0, hue=0)
    torch.testing.assert_close(
        augment(images, np.arange(8), TEACHER, 0, 0, 64, 1), augment(images, np.arange(8), colorless, 0, 0, 64, 1)
    )
    assert torch.equal(through_table(images[:1], ("color", 0.1)), images[:1].float())


# ---- shapes, normalization, views, description


def test_shapes_and_range():
    for config, channels in itertools.product((TEACHER, STUDENT, EVALUATION), (1, 3)):
        output = augment(scans(5), torch.arange(5), config, 0, 0, 64, channels)
        assert output.shape == (5, channels, 64, 64) and output.dtype == torch.float32
        assert torch.isfinite(output).all()
        if channels == 1:
            assert grey(output).min() > -0.01 and grey(output).max() < 255.01


def test_normalization_is_imagenets_and_grey_uses_its_means():
    images = scans(2, 64)
    expected = reference.normalize(
        (images.float() / 255)[:, None].expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(augment(images, [0, 1], EVALUATION, 0, 0, 64, 3), expected, atol=1e-4, rtol=0)
    one = augment(images, [0, 1], EVALUATION, 0, 0, 64, 1)[:, 0]
    torch.testing.assert_close(one, (images.float() / 255 - 0.449) / 0.226, atol=1e-4, rtol=0)


def test_three_channels_are_the_same_grey_image():
    output = augment(scans(4), np.arange(4), TEACHER, 0, 0, 64, 3)
    back = output * torch.tensor(module.IMAGENET_STD).view(3, 1, 1) + torch.tensor(module.IMAGENET_MEAN).view(3, 1, 1)
    torch.testing.assert_close(back[:, 0], back[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(255 * back[:, 2], grey(augment(scans(4), np.arange(4), TEACHER, 0, 0, 64, 1)),
                               atol=1e-2, rtol=0)


def test_test_time_views_are_the_papers_five(way):
    images = scans(3, 64)
    views = module.test_time_views(images, 64, 1)
    assert views.shape == (5, 3, 1, 64, 64)
    assert list(TEST_TIME_VIEWS) == ["original", "horizontal flip", "vertical flip", "center crop", "rotation"]
    plain = augment(images, np.arange(3), EVALUATION, 0, 0, 64, 1)
    torch.testing.assert_close(views[0], plain)
    torch.testing.assert_close(views[1], plain.flip(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(views[2], plain.flip(2), atol=1e-4, rtol=0)
    enlarged = torchvision_affine(images.float()[:, None], scale=1.1)[:, 0]
    torch.testing.assert_close(grey(views[3]), enlarged, atol=0.1 + levels_off(way), rtol=0)
    turned = torchvision_affine(images.float()[:, None], angle=5.0)[:, 0]
    torch.testing.assert_close(grey(views[4])[:, 8:-8, 8:-8], turned[:, 8:-8, 8:-8], atol=0.1 + levels_off(way), rtol=0)


def test_describe_lists_the_papers_steps_in_order():
    teacher = describe(TEACHER)
    assert [step for step, _ in teacher] == [
        "resize", "crop", "randaugment", "rotation", "shear", "scale", "jitter", "horizontal_flip", "vertical_flip",
        "blur", "posterize", "erasing", "normalize",
    ]
    assert dict(teacher)["erasing"].startswith("p = 0.25, 2% to 15%")
    assert "N = 2, M = 9" in dict(teacher)["randaugment"] and "0.85 to 1.15" in dict(teacher)["scale"]
    assert [step for step, _ in describe(STUDENT)] == [
        "resize", "crop", "randaugment", "rotation", "jitter", "horizontal_flip", "erasing", "normalize",
    ]
    assert [step for step, _ in describe(EVALUATION)] == ["resize", "normalize"]


def test_only_shows_its_step_on_every_image():
    images = scans(16)
    plain = augment(images, np.arange(16), EVALUATION, 0, 0, 64, 1)
    for step in steps(TEACHER):
        shown = augment(images, np.arange(16), only(TEACHER, step), 0, 0, 64, 1)
        changed = (shown - plain).abs().amax(dim=(1, 2, 3)) > 1e-3
        assert changed.float().mean() > (0.7 if step == "randaugment" else 0.85), step
        assert steps(only(TEACHER, step)) == (step,)


def test_bytes_and_floats_are_two_ways_to_the_same_view():
    images = scans(24)
    for config, channels in ((STUDENT, 1), (TEACHER, 3), (EVALUATION, 1)):
        parameters = draw(config, np.arange(24), 0, 1)
        in_bytes, in_floats = (way(images, parameters, 64, channels) for way in (module.in_bytes, module.in_floats))
        assert in_bytes.shape == in_floats.shape and in_bytes.dtype == in_floats.dtype
        off = (in_bytes - in_floats).abs() * min(module.IMAGENET_STD) * 255  # grey levels
        assert off.max() < 3 and off.mean() < 0.3


def test_errors_name_what_is_wrong():
    images = scans(2)
    with pytest.raises(ValueError, match=r"no step 'shear' in 'student'.*crop, randaugment, rotation, jitter"):
        only(STUDENT, "shear")
    with pytest.raises(ValueError, match="indices.*float"):
        draw(TEACHER, np.array([0.5]), 0, 0)
    with pytest.raises(ValueError, match="uint8.*float32"):
        augment(images.float(), [0, 1], TEACHER, 0, 0, 64, 1)
    with pytest.raises(ValueError, match="2 images.*3"):
        augment(images, [0, 1, 2], TEACHER, 0, 0, 64, 1)
    with pytest.raises(ValueError, match="channels.*4"):
        augment(images, [0, 1], TEACHER, 0, 0, 64, 4)
    with pytest.raises(ValueError, match=r"blur must be.*1\.5"):
        AugmentConfig("bad", blur=1.5)
    with pytest.raises(ValueError, match=r"\['mixup'\].*shear_x"):
        AugmentConfig("bad", randaugment_space=("rotate", "mixup"))
    with pytest.raises(ValueError, match="magnitude.*31"):
        AugmentConfig("bad", randaugment_magnitude=31)
