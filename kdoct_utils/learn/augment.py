"""The paper's augmentations for whole batches of grey B-scans, from parameters that `pipelines.draw` has drawn.

`apply` does the work on the device of the images in four moves:

1. all pointwise intensity steps, in the paper's order, as one table of 256 entries per image;
2. all geometry (crop, RandAugment, rotation, shear, scale, flips) as one affine resampling, black outside;
3. sharpness and blur; 4. erasing and normalization.

Three things differ from doing the steps one by one: intensity steps see the statistics of the scan before geometry,
pixels that one step moves out of view can return with the next, and posterizing comes before blur.
Sources: KD-OCT, arXiv 2512.09069; RandAugment, arXiv 1909.13719; random erasing, arXiv 1708.04896.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdoct_utils.learn.pipelines import EVALUATION, AugmentConfig, Draw, affine, draw, rotation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BYTES_FROM = 96  # pixels: a batch of smaller pictures fits the processor's cache as floats, and gains little
SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's SMOOTH, what sharpness blends with


def apply(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """Images as the networks see them, on the device of the images.

    images: (batch, R, R) uint8, stored at 416/384 of image_size (`Profile.resize_size`); bilinear sampling, so that
    a much larger R would alias. channels: 1 for grey, 3 for grey repeated.
    Returns (batch, channels, image_size, image_size) float32, as `normalize` gives them.
    Raises ValueError for other images.
    """
    if images.dtype != torch.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be uint8 (batch, R, R), got {images.dtype} of shape {tuple(images.shape)}")
    way = in_bytes if images.device.type == "cpu" and image_size >= BYTES_FROM else in_floats
    return way(images, parameters, image_size, channels)


def in_floats(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """`apply` for a whole batch at once on its own device: what a GPU likes."""
    tables = intensity_tables(images, parameters.operations, parameters.values) / 255
    batch = tables.gather(1, images.flatten(1).long()).view_as(images)[:, None]  # (batch, 1, R, R), 0..1
    batch = _resample(batch, parameters, image_size)  # (batch, 1, S, S)
    _sharpen(batch, parameters)
    batch = _blur(batch, parameters)
    edges = torch.as_tensor(_erased(parameters, image_size).T, device=batch.device)[:, :, None]  # (4, batch, 1)
    pixel = torch.arange(image_size, device=batch.device)
    in_rows, in_columns = (pixel >= edges[::2]) & (pixel < edges[1::2])  # (batch, S) each
    return normalize(batch.masked_fill((in_rows[:, :, None] & in_columns[:, None])[:, None], 0.0), channels)


def in_bytes(images: Tensor, parameters: Draw, image_size: int, channels: int) -> Tensor:
    """`apply` image by image in 8 bits, by OpenCV: at 384 px on a CPU a seventh of the time (`make bench`).

    Within half a grey level a move of `in_floats`. The numbers that a network sees come from one last table.
    """
    side = images.shape[-1]
    to_image = affine(1, xx=side / 2, x=(side - 1) / 2, yy=side / 2, y=(side - 1) / 2)  # units of half a side: pixels
    to_result = affine(1, xx=2 / image_size, x=1 / image_size - 1, yy=2 / image_size, y=1 / image_size - 1)
    matrix = (to_image @ _reading_places(parameters, side) @ to_result)[:, :2]  # from a pixel to where it is read
    levels = intensity_tables(images, parameters.operations, parameters.values).byte().numpy()  # (batch, 256)
    seen = normalize(torch.arange(256.0).view(1, 1, 256, 1) / 255, channels)[0, :, :, 0]  # (channels, 256)
    seen = seen.T.contiguous().numpy()
    erased = _erased(parameters, image_size)
    # numpy asks for large pages here, torch does not: at 384 px that saves two thirds of a millisecond an image
    result = np.empty((len(images), image_size, image_size, channels), np.float32)
    for i, image in enumerate(images.numpy()):
        image = cv2.LUT(image, levels[i])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # black outside
        image = cv2.warpAffine(image, matrix[i], (image_size, image_size), flags=flags)
        for factor in parameters.values[i][parameters.operations[i] == "sharpness"]:
            blended = cv2.addWeighted(image, float(factor), cv2.filter2D(image, -1, SMOOTHING), 1 - float(factor), 0)
            image[1:-1, 1:-1] = blended[1:-1, 1:-1]  # the outermost pixels stay
        if parameters.blur_sigma[i] > 0:
            image = cv2.GaussianBlur(image, (3, 3), float(parameters.blur_sigma[i]), borderType=cv2.BORDER_REFLECT_101)
        top, bottom, left, right = erased[i]
        image[top:bottom, left:right] = 0
        if channels == 1:
            cv2.LUT(image, seen[:, 0], dst=result[i, :, :, 0])
        else:
            cv2.LUT(cv2.merge([image] * channels), seen[None], dst=result[i])
    return torch.from_numpy(result).permute(0, 3, 1, 2)


def normalize(images: Tensor, channels: int) -> Tensor:
    """Grey images (batch, 1, S, S) in 0..1 to (batch, channels, S, S) by ImageNet's mean and standard deviation.

    channels: 1 takes the means of these over the colors; 3 repeats the grey image.
    """
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=images.device)  # (3,) each
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def augment(
    images: Tensor, indices: Tensor | np.ndarray | Sequence[int], config: AugmentConfig, seed: int, view: int,
    image_size: int, channels: int,
) -> Tensor:  # fmt: skip
    """`draw`, then `apply`: (batch, R, R) uint8 to (batch, channels, image_size, image_size) float32."""
    return apply(images, draw(config, indices, seed, view), image_size, channels)


# The paper's test-time views as matrices (3, 3) like those of a Draw. The rotation is the 5° of the public code,
# where the text says 15°; the center crop is what is left of an image enlarged 1.1 times.
TEST_TIME_VIEWS = {
    "original": np.eye(3),
    "horizontal flip": np.diag([-1.0, 1.0, 1.0]),
    "vertical flip": np.diag([1.0, -1.0, 1.0]),
    "center crop": np.diag([1 / 1.1, 1 / 1.1, 1.0]),
    "rotation": rotation(np.array([5.0]))[0],
}


def test_time_views(images: Tensor, image_size: int, channels: int) -> Tensor:
    """The views of TEST_TIME_VIEWS in their order: (5, batch, channels, image_size, image_size), as `apply`."""
    still = draw(EVALUATION, np.arange(len(images)), 0, 0)
    views = (np.broadcast_to(matrix, (len(images), 3, 3)) for matrix in TEST_TIME_VIEWS.values())
    return torch.stack([apply(images, replace(still, matrix=matrix), image_size, channels) for matrix in views])


test_time_views.__test__ = False  # pytest would take it for a test


# --- moves -----------------------------------------------------------------------------------------------------------


def _reading_places(parameters: Draw, side: int) -> np.ndarray:
    """(batch, 3, 3): from a place in the result to where it is read, in units of half a side; crops of whole pixels."""
    window = round(parameters.window * side)
    room = side - window
    start = np.floor(parameters.offset * (room + 1))  # (batch, 2)
    center = (2 * start + window) / side - 1
    crop = affine(len(parameters), window / side, 0, center[:, 0], 0, window / side, center[:, 1])
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
    for names, values in zip(parameters.operations.T, parameters.values.T, strict=True):
        rows = np.flatnonzero(names == "sharpness")
        if len(rows):
            inner = batch[rows, :, 1:-1, 1:-1]
            smooth = functional.conv2d(batch[rows], torch.as_tensor(SMOOTHING, device=batch.device)[None, None])
            factor = torch.as_tensor(values[rows], dtype=torch.float32, device=batch.device).view(-1, 1, 1, 1)
            batch[rows, :, 1:-1, 1:-1] = (smooth + factor * (inner - smooth)).clamp(0, 1)


def _blur(batch: Tensor, parameters: Draw) -> Tensor:
    """A 3 x 3 Gaussian with each image's own sigma, edges reflected; a sigma of 0 leaves an image as it is."""
    if not parameters.blur_sigma.any():
        return batch
    sigma = torch.as_tensor(parameters.blur_sigma, dtype=torch.float32, device=batch.device).view(-1, 1, 1, 1)
    tail = torch.exp(-0.5 / sigma**2)
    center, side = 1 / (1 + 2 * tail), tail / (1 + 2 * tail)
    image = functional.pad(batch, (1, 1, 1, 1), mode="reflect")
    image = center * image[:, :, 1:-1] + side * (image[:, :, :-2] + image[:, :, 2:])
    return center * image[..., 1:-1] + side * (image[..., :-2] + image[..., 2:])


# --- pointwise intensity steps ---------------------------------------------------------------------------------------
#
# A step that turns every grey level into another is a table of 256 entries, and steps in a row are one table too.
# Even what depends on the whole image (contrast, autocontrast, equalize) only needs its histogram, which the table
# carries along; so no step touches pixels. Results are whole numbers at each step, as torchvision's on uint8.


def intensity_tables(images: Tensor, operations: np.ndarray, values: np.ndarray) -> Tensor:
    """What becomes of each grey level of each image: (batch, 256) float32 of whole numbers 0..255.

    images: (batch, height, width) uint8. operations, values: as in `Draw`; steps not in POINTWISE are passed over.
    """
    table = torch.arange(256.0, device=images.device).repeat(len(images), 1)
    if not np.isin(operations, list(POINTWISE)).any():
        return table
    histogram = _histograms(images)
    for names, numbers in zip(operations.T, values.T, strict=True):
        value = torch.as_tensor(numbers[:, None], dtype=torch.float32, device=images.device)  # (batch, 1)
        for name in POINTWISE.keys() & set(names):
            chosen = torch.as_tensor(names[:, None] == name, device=images.device)
            table = torch.where(chosen, POINTWISE[name](table, value, histogram), table)
    return table


def _histograms(images: Tensor) -> Tensor:
    """(batch, height, width) uint8 to (batch, 256) float32: pixels of each grey level."""
    levels = images.flatten(1)
    if images.device.type == "cpu":
        return torch.stack([torch.bincount(image, minlength=256) for image in levels]).float()
    ones = torch.ones((), device=images.device).expand(levels.shape)  # on a GPU bincount would wait for its result
    return torch.zeros(len(images), 256, device=images.device).scatter_add_(1, levels.long(), ones)


def _contrast(table: Tensor, factor: Tensor, histogram: Tensor) -> Tensor:
    mean = (histogram * table).sum(1, keepdim=True) / histogram.sum(1, keepdim=True)
    return (table * factor + mean * (1 - factor)).clamp(0, 255).floor()


def _posterize(table: Tensor, bits: Tensor, histogram: Tensor) -> Tensor:
    step = 2 ** (8 - bits.round())
    return (table / step).floor() * step


def _autocontrast(table: Tensor, value: Tensor, histogram: Tensor) -> Tensor:
    low = torch.where(histogram > 0, table, 256).amin(1, keepdim=True)
    high = torch.where(histogram > 0, table, -1).amax(1, keepdim=True)
    stretched = ((table - low) * 255 / (high - low).clamp_min(1)).clamp(0, 255).floor()
    return torch.where(high > low, stretched, table)


def _equalize(table: Tensor, value: Tensor, histogram: Tensor) -> Tensor:
    """Pillow's rule: the brightest level does not count, and steps are whole numbers of pixels."""
    counts = torch.zeros_like(histogram).scatter_add_(1, table.long(), histogram)
    cumulative = counts.cumsum(1)
    brightest = cumulative.argmax(1, keepdim=True)  # the first place where the sum is complete
    step = ((counts.sum(1, keepdim=True) - counts.gather(1, brightest)) / 255).floor()
    levels = ((cumulative - counts + (step / 2).floor()) / step.clamp_min(1)).floor().clamp(0, 255)
    return torch.where(step > 0, levels.gather(1, table.long()), table)


# Each: (table (batch, 256) of whole numbers 0..255, value (batch, 1), histogram (batch, 256)) -> table
POINTWISE = {
    "brightness": lambda table, factor, histogram: (table * factor).clamp(0, 255).floor(),
    "contrast": _contrast,
    "posterize": _posterize,
    "solarize": lambda table, threshold, histogram: torch.where(table >= threshold, 255 - table, table),
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
