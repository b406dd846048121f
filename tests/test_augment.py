"""Augmentations against torchvision; draws that depend on nothing but (seed, view, index)."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


def scans(batch=8, side=69):
    """Smooth random images, uint8 (batch, side, side), no two alike and none symmetric."""
    coarse = torch.rand(batch, 1, 7, 7, generator=torch.Generator().manual_seed(0))
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


def test_evaluation_is_a_plain_resize(way):
    for side, size in ((69, 64), (416, 384), (64, 64)):
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


def torchvision_affine(image, angle=0.0, translate=(0, 0), scale=1.0, shear=(0.0, 0.0)):
    """shear: tangents."""
    shear = [math.degrees(math.atan(tangent)) for tangent in shear]
    bilinear = v2.InterpolationMode.BILINEAR
    return reference.affine(image, angle, list(translate), scale, shear, interpolation=bilinear, fill=0.0)


def test_composed_geometry_is_the_steps_one_after_another():
    """One resampling against five of torchvision, with the parameters read off single-step draws."""
    config = replace(TEACHER, crop=1.0, randaugment_magnitude=12)
    # A smooth blob off the center, so small that no step moves it out of view.
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    image = (torch.exp(-(((x - 54) / 9) ** 2 + ((y - 42) / 6) ** 2)) * 250).round().to(torch.uint8)[None]
    first, second = draw(config, np.arange(400), 2, 0).operations[:, :2].T
    moves = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]  # two different ones: their order shows
    neutral = {"rotation": 0, "shear": 0, "scale": (1.0, 1.0), "horizontal_flip": 0, "vertical_flip": 0}
    for index in np.flatnonzero(np.isin(first, moves) & np.isin(second, moves) & (first != second))[:6]:
        parameters, expected = draw(config, [index], 2, 0), image.float()
        for name, value in zip(parameters.operations[0, :2], parameters.values[0, :2], strict=True):
            changes = {"shear_x": {"shear": (value, 0.0)}, "shear_y": {"shear": (0.0, value)},
                       "translate_x": {"translate": (value * 96, 0)}, "translate_y": {"translate": (0, value * 96)},
                       "rotate": {"angle": value}}  # fmt: skip
            expected = torchvision_affine(expected, **changes.get(name, {}))
        one = {step: draw(replace(config, randaugment_operations=0, **neutral | {step: getattr(config, step)}), [index],
                          2, 0).matrix[0] for step in neutral}  # fmt: skip
        turned = math.degrees(math.atan2(one["rotation"][0, 1], one["rotation"][0, 0]))
        expected = torchvision_affine(expected, angle=turned)
        expected = torchvision_affine(expected, scale=1 / one["scale"][0, 0], shear=(one["shear"][0, 1], 0.0))
        flips = [k for k, step in ((-1, "horizontal_flip"), (-2, "vertical_flip")) if np.linalg.det(one[step]) < 0]
        expected = expected.flip(flips)
        output = grey(apply(image, still(1, matrix=parameters.matrix), 96, 1))
        assert expected.max() > 150 and (output - image).abs().max() > 20  # in view, and moved
        assert (output - expected).abs().max() < 12  # bilinear losses of five resamplings against one
        assert (output - expected).abs().mean() < 0.3


def test_randaugment_translation_really_moves():
    """The reference code hands torchvision M/100 as pixels: 0.09 of one. Here 9/30 * 150/331 of the side."""
    share, parameters = round(9 / 30 * 150 / 331, 6), draw(TEACHER, np.arange(400), 0, 0)
    for name in ("translate_x", "translate_y"):
        moved = parameters.values[parameters.operations == name]
        assert set(np.round(moved, 6)) == {share, -share}


def test_randaugment_keeps_to_its_space_and_a_single_step_draws_the_numbers_of_the_whole_pipeline():
    config = replace(TEACHER, randaugment_space=("rotate", "contrast"))
    for one in (config, only(config, "randaugment")):
        assert set(draw(one, np.arange(200), 0, 0).operations[:, :2].flat) == {"rotate", "contrast"}
    whole, single = (draw(config, np.arange(50), 3, 1) for config in (TEACHER, only(TEACHER, "erasing")))
    erased = whole.erasing[:, 0] > 0
    np.testing.assert_array_equal(whole.erasing[erased], single.erasing[erased])
    assert erased.any() and (single.erasing[:, 0] > 0).all()


def test_outside_is_black():
    turned = grey(apply(torch.full((1, 64, 64), 200, dtype=torch.uint8),
                        still(1, matrix=TEST_TIME_VIEWS["rotation"][None]), 64, 1))  # fmt: skip
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
def through_table(image, *names_and_values):
    parameters = operations(1, *names_and_values)
    return intensity_tables(image, parameters.operations, parameters.values)[0][image.long()]


def test_table_steps_are_torchvisions():
    image = (scans(1).float() * 0.6 + 30).to(torch.uint8)  # a part of the range, so that stretching it shows
    for name, value, oracle, tolerance in POINTWISE_ORACLES:
        expected = oracle(image).float()
        assert (expected - image).abs().max() > (0 if name == "posterize" else 5)
        assert (through_table(image, (name, value)) - expected).abs().max() <= tolerance + 1e-3, name
    # One after another: a mean that rounds the other way may move a level by one before the coarse steps.
    expected = reference.equalize(reference.adjust_contrast(reference.solarize(image, 120.0), 0.8))
    output = through_table(image, ("solarize", 120.0), ("contrast", 0.8), ("equalize", 0.0), ("posterize", 4.0))
    assert ((output - reference.posterize(expected, 4)).abs() > 1e-3).float().mean() < 0.01


def test_flat_images_survive_every_table_step():
    image = torch.full((1, 20, 20), 77, dtype=torch.uint8)
    for name, value in (("autocontrast", 0), ("equalize", 0), ("contrast", 0.5)):
        torch.testing.assert_close(through_table(image, (name, value)), image.float(), atol=1.01, rtol=0)


def test_sharpness_is_torchvisions(way):
    images = scans(2, 64)
    for factor in (0.73, 1.27):
        output = grey(apply(images, operations(2, ("sharpness", factor)), 64, 1))
        expected = 255 * reference.adjust_sharpness(images[:, None].float() / 255, factor)[:, 0]
        torch.testing.assert_close(output, expected, atol=levels_off(way, 2), rtol=0)


def test_blur_is_torchvisions_with_each_images_own_sigma(way):
    images, sigma = scans(3, 64), np.array([0.5, 0.0, 2.0])
    output = grey(apply(images, still(3, blur_sigma=sigma), 64, 1))
    for image, got, value in zip(images.float(), output, sigma, strict=True):
        expected = reference.gaussian_blur(image[None], [3, 3], [value, value])[0] if value else image
        torch.testing.assert_close(got, expected, atol=levels_off(way, 2), rtol=0)


def test_erased_areas_are_rectangles_of_the_stated_size():
    images = torch.full((64, 64, 64), 200, dtype=torch.uint8)
    for config in (TEACHER, STUDENT):
        erased = grey(augment(images, np.arange(64), only(config, "erasing"), 0, 0, 64, 1)) < 100  # (64, S, S)
        area = erased.float().mean(dim=(1, 2))
        low, high = config.erasing_area
        rounding = 0.5 * math.sqrt(high * 3.3) / 64  # half a column of the tallest
        assert area.min() >= low - rounding and area.max() <= high + rounding
        assert area.max() - area.min() > 0.6 * (high - low)
        rows, columns = erased.any(2), erased.any(1)
        assert torch.equal(erased, rows[:, :, None] & columns[:, None])
        assert len({tuple(row) for row in rows.int().tolist()}) > 20  # not always in the same place


# ---- shapes, normalization, views, description


def test_normalization_is_imagenets_and_grey_uses_its_means():
    images = scans(2, 64)
    three = (images.float() / 255)[:, None].expand(-1, 3, -1, -1)
    expected = reference.normalize(three, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(augment(images, [0, 1], EVALUATION, 0, 0, 64, 3), expected, atol=1e-4, rtol=0)
    one = augment(images, [0, 1], EVALUATION, 0, 0, 64, 1)
    assert one.shape == (2, 1, 64, 64) and one.dtype == torch.float32
    torch.testing.assert_close(one[:, 0], (images.float() / 255 - 0.449) / 0.226, atol=1e-4, rtol=0)


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
    teacher = dict(describe(TEACHER))
    assert " ".join(teacher) == ("resize crop randaugment rotation shear scale jitter horizontal_flip vertical_flip "
                                 "blur posterize erasing normalize")  # fmt: skip
    assert "0.85 to 1.15" in teacher["scale"] and "N = 2, M = 9" in teacher["randaugment"]
    assert " ".join(steps(STUDENT)) == "crop randaugment rotation jitter horizontal_flip erasing"


def test_bytes_and_floats_are_two_ways_to_the_same_view():
    images = scans(24)
    for config, channels in ((STUDENT, 1), (TEACHER, 3), (EVALUATION, 1)):
        parameters = draw(config, np.arange(24), 0, 1)
        in_bytes, in_floats = (way(images, parameters, 64, channels) for way in (module.in_bytes, module.in_floats))
        assert in_bytes.shape == in_floats.shape and in_bytes.dtype == in_floats.dtype
        off = (in_bytes - in_floats).abs() * min(module.IMAGENET_STD) * 255  # grey levels
        assert off.max() < 3 and off.mean() < 0.3


def test_errors_name_what_is_wrong():
    for message, call, *arguments in (
        ("uint8.*float32", augment, scans(2).float(), [0, 1], TEACHER, 0, 0, 64, 1),
        (r"blur must be.*1\.5", partial(AugmentConfig, blur=1.5), "bad"),
        ("magnitude.*31", partial(AugmentConfig, randaugment_magnitude=31), "bad"),
    ):
        with pytest.raises(ValueError, match=message):
            call(*arguments)
