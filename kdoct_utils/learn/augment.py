"""The paper's augmentations for whole batches of grey B-scans: draw the parameters, then apply them.

`draw` gives every image its own parameters from (seed, view, index of the scan) alone, so that a view can be made
again whatever batch the scan is in: a teacher's cached logits and a student's images then belong together.
`apply` does the work on the device of the images, in bytes on a CPU (`pixels`) and in floats on a GPU, in four moves:

1. all pointwise intensity steps, in the paper's order, as one table of 256 entries per image;
2. all geometry (crop, RandAugment, rotation, shear, scale, flips) as one affine resampling, black outside;
3. sharpness and blur; 4. erasing and normalization.

Three things differ from doing the steps one by one: intensity steps see the statistics of the scan before geometry,
pixels that one step moves out of view can return with the next, and posterizing comes before blur.
RandAugment's magnitudes follow torchvision: M of 30.
Scans are grey and stay grey: saturation and hue (and RandAugment's "color") are listed and drawn, without effect.
Sources: KD-OCT, arXiv 2512.09069; RandAugment, arXiv 1909.13719; random erasing, arXiv 1708.04896.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdoct_utils.learn.lookup import change_intensity
from kdoct_utils.learn.pipelines import (
    EVALUATION,
    RANDAUGMENT_SPACE,
    STUDENT,
    TEACHER,
    AugmentConfig,
    describe,
    only,
    steps,
)
from kdoct_utils.learn.pixels import apply_in_bytes

__all__ = [
    "BYTES_FROM", "EVALUATION", "IMAGENET_MEAN", "IMAGENET_STD", "RANDAUGMENT_SPACE", "STUDENT", "TEACHER",
    "TEST_TIME_VIEWS", "AugmentConfig", "Draw", "apply", "augment", "describe", "draw", "in_bytes",
    "in_floats", "normalize", "only", "steps", "test_time_views",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Draw:
    """What happens to each image of a batch; made by `draw`, used by `apply`. NumPy arrays, one row an image.

    Free of image sizes: geometry is in units of half a side, x to the right and y down, origin at the center.
    """

    window: float  # side of the crop, fraction of the stored side
    offset: np.ndarray  # (batch, 2): where the crop lies, x and y, 0..1 of the room there is
    matrix: np.ndarray  # (batch, 3, 3): from a place in the output to the place in the crop it is read from
    operations: np.ndarray  # (batch, slots): names from RANDAUGMENT_SPACE in the order they happen
    values: np.ndarray  # (batch, slots): in the units of RANDAUGMENT_SPACE
    blur_sigma: np.ndarray  # (batch,): pixels, 0 for none
    erasing: np.ndarray  # (batch, 4): area (0 for none), height / width, place x and y (0..1 of the room)

    def __len__(self) -> int:
        return len(self.offset)


def draw(config: AugmentConfig, indices: Tensor | np.ndarray | Sequence[int], seed: int, view: int) -> Draw:
    """Parameters for a batch. Those of an image depend on (config, seed, view, its index) and on nothing else.

    indices: (batch,) integers that name the scans in the whole dataset. view: for example the epoch.
    Raises ValueError for indices that are not a row of integers.
    """
    indices = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers (batch,), got {indices.dtype} of shape {indices.shape}")
    slots = range(config.randaugment_operations)
    names = (*_DRAWN, *(f"{kind}_{slot}" for slot in slots for kind in ("operation", "sign")))
    uniform = dict(zip(names, _uniforms(indices, seed, view, len(names)).T, strict=True))  # each (batch,)
    randaugment = [_draw_randaugment(config, uniform[f"operation_{k}"], uniform[f"sign_{k}"]) for k in slots]
    pointwise = randaugment + _draw_intensity(config, uniform)
    area, ratio = config.erasing_area, np.log(config.erasing_ratio)
    return Draw(
        window=config.crop,
        offset=np.stack([uniform["crop_x"], uniform["crop_y"]], axis=1),
        matrix=_compose_geometry(config, uniform, randaugment),
        operations=np.stack([operation for operation, _ in pointwise], axis=1),
        values=np.stack([value for _, value in pointwise], axis=1),
        blur_sigma=np.where(uniform["blur"] < config.blur, _between(uniform["blur_sigma"], config.blur_sigma), 0.0),
        erasing=np.stack(
            [
                np.where(uniform["erasing"] < config.erasing, _between(uniform["erasing_area"], area), 0.0),
                np.exp(_between(uniform["erasing_ratio"], ratio)),
                uniform["erasing_x"],
                uniform["erasing_y"],
            ],
            axis=1,
        ),
    )


def apply(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """Images as the networks see them, on the device of the images.

    images: (batch, R, R) uint8, stored at 416/384 of image_size (`Profile.resize_size`); bilinear sampling, so that
    a much larger R would alias. channels: 1 for grey, 3 for grey repeated.
    Returns (batch, channels, image_size, image_size) float32, normalized by ImageNet's mean and standard deviation
    (by the means of these over the colors where channels is 1).
    Raises ValueError for other images, another number of draws, or other channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be uint8 (batch, R, R), got {images.dtype} of shape {tuple(images.shape)}")
    if len(parameters) != len(images):
        raise ValueError(f"{len(images)} images but draws for {len(parameters)}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    way = in_bytes if images.device.type == "cpu" and image_size >= BYTES_FROM else in_floats
    return way(images, parameters, image_size, channels)


def in_floats(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """`apply` for a whole batch at once on its own device: what a GPU likes."""
    batch = change_intensity(images, parameters.operations, parameters.values)[:, None]  # (batch, 1, R, R), 0..1
    batch = _resample(batch, parameters, image_size)  # (batch, 1, S, S)
    _sharpen(batch, parameters)
    _blur(batch, parameters)
    _erase(batch, parameters)
    return normalize(batch, channels)


def in_bytes(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """`apply` image by image in 8 bits: what a CPU likes. Within half a grey level a move of `in_floats`."""
    side = images.shape[-1]
    to_image = _affine(1, xx=side / 2, x=(side - 1) / 2, yy=side / 2, y=(side - 1) / 2)  # units of half a side: pixels
    to_result = _affine(1, xx=2 / image_size, x=1 / image_size - 1, yy=2 / image_size, y=1 / image_size - 1)
    matrix = to_image @ _reading_places(parameters, side) @ to_result
    levels = torch.arange(256.0).view(1, 1, 256, 1) / 255
    table = normalize(levels, channels)[0, :, :, 0].T.contiguous().numpy()  # (256, channels)
    return apply_in_bytes(
        images.numpy(), matrix[:, :2], parameters.operations, parameters.values, parameters.blur_sigma,
        _erased(parameters, image_size), table, image_size,
    )  # fmt: skip


BYTES_FROM = 96  # pixels: a batch of smaller pictures fits the processor's cache as floats, and gains little


def normalize(images: Tensor, channels: int) -> Tensor:
    """Grey images (batch, 1, S, S) in 0..1 to (batch, channels, S, S) by ImageNet's mean and standard deviation.

    channels: 1 takes the means of these over the colors; 3 repeats the grey image.
    """
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=images.device)  # (3,) each
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def augment(
    images: Tensor,
    indices: Tensor | np.ndarray | Sequence[int],
    config: AugmentConfig,
    seed: int,
    view: int,
    image_size: int,
    channels: int,
) -> Tensor:
    """`draw`, then `apply`: (batch, R, R) uint8 to (batch, channels, image_size, image_size) float32."""
    return apply(images, draw(config, indices, seed, view), image_size, channels)


def _affine(batch: int, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> np.ndarray:
    """(batch, 3, 3) from entries that are numbers or (batch,)."""
    matrix = np.zeros((batch, 3, 3))
    for (row, column), entry in {(0, 0): xx, (0, 1): xy, (0, 2): x, (1, 0): yx, (1, 1): yy, (1, 2): y}.items():
        matrix[:, row, column] = entry
    matrix[:, 2, 2] = 1
    return matrix


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Inverse of a clockwise rotation; (batch,) to (batch, 3, 3)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _affine(len(degrees), xx=cos, xy=sin, yx=-sin, yy=cos)


# The paper's test-time views as matrices (3, 3) like those of a Draw. The rotation is the 5° of the public code,
# where the text says 15°; the center crop is what is left of an image enlarged 1.1 times.
TEST_TIME_VIEWS = {
    "original": np.eye(3),
    "horizontal flip": np.diag([-1.0, 1.0, 1.0]),
    "vertical flip": np.diag([1.0, -1.0, 1.0]),
    "center crop": np.diag([1 / 1.1, 1 / 1.1, 1.0]),
    "rotation": _rotation(np.array([5.0]))[0],
}


def test_time_views(images: Tensor, image_size: int, channels: int) -> Tensor:
    """The views of TEST_TIME_VIEWS in their order: (5, batch, channels, image_size, image_size), as `apply`."""
    still = draw(EVALUATION, np.arange(len(images)), 0, 0)
    views = (np.broadcast_to(matrix, (len(images), 3, 3)) for matrix in TEST_TIME_VIEWS.values())
    return torch.stack([apply(images, replace(still, matrix=matrix), image_size, channels) for matrix in views])


test_time_views.__test__ = False  # pytest would take it for a test


# ---- drawing

# Every random number has its own place in the counter: new ones go to the end, so that old draws stay.
_DRAWN = (
    "crop_x", "crop_y", "rotation", "shear", "scale", "brightness", "contrast", "jitter_order", "horizontal_flip",
    "vertical_flip", "blur", "blur_sigma", "posterize", "erasing", "erasing_area", "erasing_ratio", "erasing_x",
    "erasing_y",
)


def _uniforms(indices: np.ndarray, seed: int, view: int, count: int) -> np.ndarray:
    """(batch, count) numbers in 0..1 from a hash of (seed, view, index, column): no state, no order."""
    state = np.zeros((1, 1), dtype=np.uint64)
    for word in (np.array([[seed % 2**64]], np.uint64), np.array([[view % 2**64]], np.uint64),
                 indices[:, None].astype(np.uint64), np.arange(count, dtype=np.uint64)[None]):
        state = _mix(state ^ word)
    return (state >> np.uint64(32)) * 2.0**-32


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64: one step of its counter and its finalizer (Steele et al., OOPSLA 2014), on uint64 arrays."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _between(uniform: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def _symmetric(uniform: np.ndarray, limit: float) -> np.ndarray:
    return _between(uniform, (-limit, limit))


def _draw_randaugment(config: AugmentConfig, which: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One of the N operations: names and values, (batch,) each."""
    names = config.randaugment_space
    chosen = (which * len(names)).astype(int)
    neutral, change, signed = np.array([RANDAUGMENT_SPACE[name] for name in names])[chosen].T
    direction = np.where((signed > 0) & (sign < 0.5), -1.0, 1.0)
    return np.array(names)[chosen], neutral + direction * change * config.randaugment_magnitude / 30


def _draw_intensity(config: AugmentConfig, uniform: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Jitter, in an order drawn per image as torchvision's, then posterizing: (names, values) per slot."""
    jitter = [
        (name if limit else "identity", 1 + _symmetric(uniform[name], limit))
        for name, limit in (("brightness", config.brightness), ("contrast", config.contrast))
    ]
    (name_a, value_a), (name_b, value_b) = jitter
    a_first = uniform["jitter_order"] < 0.5
    posterized = uniform["posterize"] < config.posterize
    return [
        (np.where(a_first, name_a, name_b), np.where(a_first, value_a, value_b)),
        (np.where(a_first, name_b, name_a), np.where(a_first, value_b, value_a)),
        (np.where(posterized, "posterize", "identity"), np.full(len(posterized), float(config.posterize_bits))),
    ]


def _compose_geometry(config: AugmentConfig, uniform: dict, randaugment: list) -> np.ndarray:
    """(batch, 3, 3): the product of the inverses, first step leftmost, as an output place is traced back."""
    batch = len(uniform["rotation"])
    matrix = _affine(batch)
    for operation, value in randaugment:
        rotate, shear_x, shear_y, translate_x, translate_y = (
            np.where(operation == name, value, 0.0)
            for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
        )
        inverse = _rotation(rotate)  # the identity for all others, whose entries can then be added
        inverse[:, 0, 1] += shear_x
        inverse[:, 1, 0] += shear_y
        inverse[:, :2, 2] -= 2 * np.stack([translate_x, translate_y], axis=1)  # a side is 2 units long
        matrix = matrix @ inverse
    matrix = matrix @ _rotation(_symmetric(uniform["rotation"], config.rotation))
    scale = _between(uniform["scale"], config.scale)
    slant = np.tan(np.radians(_symmetric(uniform["shear"], config.shear)))
    matrix = matrix @ _affine(batch, xx=1 / scale, xy=slant / scale, yy=1 / scale)
    flip_x = np.where(uniform["horizontal_flip"] < config.horizontal_flip, -1.0, 1.0)
    flip_y = np.where(uniform["vertical_flip"] < config.vertical_flip, -1.0, 1.0)
    return matrix @ _affine(batch, xx=flip_x, yy=flip_y)


# ---- applying


def _rows(mask: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(np.flatnonzero(mask), device=device)


def _column(values: np.ndarray, device: torch.device) -> Tensor:
    """(batch,) to (batch, 1) float32."""
    return torch.as_tensor(values, dtype=torch.float32, device=device)[:, None]


def _reading_places(parameters: Draw, side: int) -> np.ndarray:
    """(batch, 3, 3): from a place in the result to the place in the stored image it is read from, units of half a
    side, for stored images of ``side`` pixels. Crops start at whole pixels."""
    window = round(parameters.window * side)
    room = side - window
    start = np.floor(parameters.offset * (room + 1))  # (batch, 2)
    center = (2 * start + window) / side - 1
    crop = _affine(len(parameters), window / side, 0, center[:, 0], 0, window / side, center[:, 1])
    return crop @ parameters.matrix


def _erased(parameters: Draw, side: int) -> np.ndarray:
    """(batch, 4): top, bottom, left and right of the black rectangle in whole pixels; all 0 for none."""
    area, ratio, x, y = parameters.erasing.T  # (batch,)
    height = np.clip(np.round(np.sqrt(area * ratio) * side), 1, side)
    width = np.clip(np.round(area * side**2 / height), 1, side)
    top, left = np.floor(y * (side - height + 1)), np.floor(x * (side - width + 1))
    edges = np.stack([top, top + height, left, left + width], axis=1)
    return np.where(area[:, None] > 0, edges, 0).astype(int)


def _resample(batch: Tensor, parameters: Draw, image_size: int) -> Tensor:
    """(batch, 1, R, R) to (batch, 1, S, S): crop and affine as one bilinear sampling, black outside."""
    places = _reading_places(parameters, batch.shape[-1])
    theta = torch.as_tensor(places[:, :2], dtype=torch.float32, device=batch.device)
    place = (2 * torch.arange(image_size, device=batch.device) + 1) / image_size - 1  # (S,) pixel centers, -1..1
    along_x = theta[:, :, 0, None, None] * place  # (batch, 2, 1, S); affine_grid does the same, several times slower
    along_y = (theta[:, :, 1, None] * place + theta[:, :, 2, None])[..., None]  # (batch, 2, S, 1)
    grid = (along_x + along_y).permute(0, 2, 3, 1)  # (batch, S, S, 2)
    return functional.grid_sample(batch, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sharpen(batch: Tensor, parameters: Draw) -> None:
    """In place: blend with (factor < 1) or away from (> 1) a smoothed image; the outermost pixels stay."""
    kernel = torch.ones(1, 1, 3, 3, device=batch.device)
    kernel[0, 0, 1, 1] = 5
    for slot in range(parameters.operations.shape[1]):
        chosen = parameters.operations[:, slot] == "sharpness"
        if chosen.any():
            rows = _rows(chosen, batch.device)
            factor = _column(parameters.values[:, slot], batch.device)[rows, :, None, None]
            image = batch[rows]
            smooth = functional.conv2d(image, kernel / 13)
            inner = image[:, :, 1:-1, 1:-1]
            image[:, :, 1:-1, 1:-1] = (smooth + factor * (inner - smooth)).clamp(0, 1)
            batch[rows] = image


def _blur(batch: Tensor, parameters: Draw) -> None:
    """In place: a 3 x 3 Gaussian with each image's own sigma, edges reflected."""
    chosen = parameters.blur_sigma > 0
    if not chosen.any():
        return
    rows = _rows(chosen, batch.device)
    sigma = _column(parameters.blur_sigma, batch.device)[rows, :, None, None]
    tail = torch.exp(-0.5 / sigma**2)
    center, side = 1 / (1 + 2 * tail), tail / (1 + 2 * tail)
    image = functional.pad(batch[rows], (1, 1, 1, 1), mode="reflect")
    image = center * image[:, :, 1:-1] + side * (image[:, :, :-2] + image[:, :, 2:])
    batch[rows] = center * image[..., 1:-1] + side * (image[..., :-2] + image[..., 2:])


def _erase(batch: Tensor, parameters: Draw) -> None:
    """In place: one black rectangle in each image drawn for it, its sides rounded to whole pixels."""
    chosen = parameters.erasing[:, 0] > 0
    if not chosen.any():
        return
    side = batch.shape[-1]
    edges = torch.as_tensor(_erased(parameters, side)[chosen].T, device=batch.device)[:, :, None]  # (4, chosen, 1)
    pixel = torch.arange(side, device=batch.device)
    in_rows, in_columns = (pixel >= edges[::2]) & (pixel < edges[1::2])  # (chosen, side) each
    rows = _rows(chosen, batch.device)
    batch[rows] = batch[rows].masked_fill((in_rows[:, :, None] & in_columns[:, None])[:, None], 0.0)
