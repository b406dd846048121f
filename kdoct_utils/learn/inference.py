"""Scans in memory, and what a trained network says of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdoct_utils.learn.augment import augment, test_time_views
from kdoct_utils.learn.pipelines import EVALUATION, AugmentConfig

BATCH = 64  # images at once, without gradients: on a CPU larger batches are slower, for they outgrow its cache


class ScanImages:
    """Scans with their targets, handed out as whole batches.

    images: uint8 (n, R, R), a memory map or not; target (n,) class numbers; indices (n,) numbers that identify each
    scan through the whole course, so that its augmentation and cached logits are its own whatever the subset.
    rows: (n,) where the scans are in ``images``, when that holds more than these; None means all, in order.
    """

    def __init__(
        self, images: np.ndarray, target: np.ndarray, indices: np.ndarray | None = None, rows: np.ndarray | None = None
    ):
        self.images = images
        self.target = torch.as_tensor(np.asarray(target), dtype=torch.long)
        self.rows = np.arange(len(images)) if rows is None else np.asarray(rows)
        chosen = self.rows if indices is None else np.asarray(indices)
        self.indices = torch.as_tensor(chosen, dtype=torch.long)
        n = len(self.rows)
        if not n == len(self.target) == len(self.indices):
            raise ValueError(f"{n} images, {len(self.target)} targets and {len(self.indices)} indices; they must agree")
        if images.dtype != np.uint8 or images.ndim != 3:
            raise ValueError(f"images are {images.dtype} of shape {images.shape}; expected uint8 (n, R, R)")

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, positions: np.ndarray) -> ScanImages:
        """The scans at these positions; the images are shared, not copied."""
        positions = np.ascontiguousarray(positions)
        return ScanImages(self.images, self.target[positions], self.indices[positions], self.rows[positions])

    def take(self, positions: np.ndarray | list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The scans at these positions as one batch: images uint8 (batch, R, R), target (batch,), indices (batch,)."""
        positions = np.ascontiguousarray(positions)
        images = torch.from_numpy(np.ascontiguousarray(self.images[self.rows[positions]]))
        return images, self.target[positions], self.indices[positions]


def predict_logits(
    model: nn.Module, images: np.ndarray | ScanImages, image_size: int, channels: int, batch_size: int = BATCH,
    views: bool = False,
) -> np.ndarray:  # fmt: skip
    """Logits (n, classes), float32, of uint8 images (n, R, R) without augmentation, in eval mode.

    views: average the logits of the five test-time views instead. The mode of ``model`` is put back afterwards.
    Raises ValueError where there is no image.
    """
    data = images if isinstance(images, ScanImages) else ScanImages(images, np.zeros(len(images)))
    if len(data) == 0:
        raise ValueError("no image to predict")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = []
    with torch.inference_mode():
        for positions in _in_turn(len(data), batch_size):
            batch, _, indices = data.take(positions)
            batch = batch.to(device)
            if views:
                stack = test_time_views(batch, image_size, channels)  # (5, batch, channels, S, S)
                logits.append(torch.stack([model(view).float() for view in stack]).mean(dim=0))
            else:
                logits.append(model(augment(batch, indices, EVALUATION, 0, 0, image_size, channels)).float())
    model.train(was_training)
    return torch.cat(logits).cpu().numpy()


def cache_teacher_logits(
    teacher: nn.Module, data: ScanImages, augmentation: AugmentConfig, seed: int, views: int, image_size: int,
    channels: int, batch_size: int = BATCH, progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """Logits (views, n, classes), float32, of a teacher in eval mode for the first ``views`` augmented views.

    The seed is that of the training that will use them: the student then sees the same views. Column i belongs to
    scan ``data.indices[i]``.
    """
    device = next(teacher.parameters()).device
    teacher.eval()
    logits = []
    with torch.inference_mode(), tqdm(total=views * len(data), desc="teacher logits", disable=not progress) as bar:
        for view, positions in product(range(views), _in_turn(len(data), batch_size)):
            images, _, indices = data.take(positions)
            inputs = augment(images.to(device), indices, augmentation, seed, view, image_size, channels)
            logits.append(teacher(inputs).float().cpu())
            bar.update(len(positions))
    return torch.cat(logits).view(views, len(data), -1).numpy()


def _in_turn(n: int, batch_size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
