"""Augmentation on a CPU: each image alone, in 8 bits, by OpenCV; the numbers a network sees come from one last table.

`augment.apply` does the same for whole batches of floats where the images are on a GPU. On a CPU memory is the slow
part: an image of bytes is a quarter of one of floats and a twelfth of one in three colors. At 384 px this takes a
seventh of the time (`make bench`). Results are whole grey levels after each move, as in Pillow and torchvision.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from kdoct_utils.learn.lookup import intensity_tables

SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's SMOOTH, what sharpness blends with


def apply_in_bytes(
    images: np.ndarray,
    matrix: np.ndarray,
    operations: np.ndarray,
    values: np.ndarray,
    blur_sigma: np.ndarray,
    erased: np.ndarray,
    table: np.ndarray,
    image_size: int,
) -> Tensor:
    """One augmented view of each image, as the network sees it.

    images: (batch, R, R) uint8. matrix: (batch, 2, 3), from a pixel (x, y) of the result to the place in the image it
    is read from. operations, values: (batch, slots), see RANDAUGMENT_SPACE. blur_sigma: (batch,) pixels, 0 for none.
    erased: (batch, 4) top, bottom, left, right in pixels of the result. table: (256, channels) float32, what the
    network gets for each grey level.
    Returns (batch, channels, image_size, image_size) float32, in memory with channels last.
    """
    acting, levels = intensity_tables(lambda rows: _histograms(images[rows]), operations, values)
    levels = dict(zip(acting.tolist(), levels.byte().numpy(), strict=True))
    sharpness = np.where(operations == "sharpness", values, np.nan)  # (batch, slots)
    channels = table.shape[1]
    # numpy asks for large pages here, torch does not: at 384 px that saves two thirds of a millisecond an image
    result = np.empty((len(images), image_size, image_size, channels), np.float32)
    for i, image in enumerate(images):
        if i in levels:
            image = cv2.LUT(image, levels[i])
        image = cv2.warpAffine(
            image, matrix[i], (image_size, image_size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=0,
        )  # fmt: skip
        for factor in sharpness[i][np.isfinite(sharpness[i])]:
            image = _sharpened(image, float(factor))
        if blur_sigma[i] > 0:
            image = cv2.GaussianBlur(image, (3, 3), float(blur_sigma[i]), borderType=cv2.BORDER_REFLECT_101)
        top, bottom, left, right = erased[i]
        image[top:bottom, left:right] = 0
        if channels > 1:
            cv2.LUT(cv2.merge([image] * channels), table[None], dst=result[i])
        else:
            cv2.LUT(image, table[:, 0], dst=result[i, :, :, 0])
    return torch.from_numpy(result).permute(0, 3, 1, 2)


def _histograms(images: np.ndarray) -> Tensor:
    """(batch, 256) float32: pixels of each grey level."""
    counts = [cv2.calcHist([image], [0], None, [256], [0, 256]).ravel() for image in images]
    return torch.from_numpy(np.stack(counts))


def _sharpened(image: np.ndarray, factor: float) -> np.ndarray:
    """Blended with (factor < 1) or away from (> 1) a smoothed image; the outermost pixels stay."""
    blended = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, SMOOTHING), 1 - factor, 0)
    image[1:-1, 1:-1] = blended[1:-1, 1:-1]
    return image
