"""Where a network looks, held against where the lesion is: Grad-CAM maps and two scores of them.

A map is a picture's share of the evidence for one class, 0..1 at every pixel. Phantoms know where their lesion is, so
a map can be scored instead of admired. Sources: Selvaraju et al. 2017 (Grad-CAM, by the `grad-cam` package), Zhang et
al. 2016 (the pointing game), Adebayo et al. 2018 (networks that learned nothing as the sanity check).
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.pipelines import EVALUATION
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_band
from kdoct_utils.phantom.truth import without_lesions

FIRST_PATIENT = 7000  # cohorts number their patients from 0: these are strangers to every network of the course
FEWEST_CELLS = 8  # of a map's side: a coarser cell is larger than a lesion


class LesionScans(NamedTuple):
    """Phantom scans that show a lesion, with the truth. One row per scan."""

    images: np.ndarray  # uint8 (n, S, S)
    healthy: np.ndarray  # the same, of the same eyes without any lesion
    masks: np.ndarray  # bool (n, S, S), the lesion
    labels: np.ndarray  # (n,) class names
    patients: np.ndarray  # (n,) keys


def lesion_scans(classes: Sequence[str], patients_per_class: int, slices: int, size: int, seed: int) -> LesionScans:
    """New phantom patients of these classes, numbered from FIRST_PATIENT.

    Scans that show no lesion, or that of a class not asked for, are left out. Raises ValueError where no scan is left.
    """
    rows = []  # a patient: in the order of LesionScans
    sick = [name for name in classes if name != "normal"]
    for name, number in product(classes, range(FIRST_PATIENT, FIRST_PATIENT + patients_per_class)):
        patient = draw_patient(name, [seed, number])
        seen, healthy = (render_band(one, slices, size) for one in (patient, without_lesions(patient)))
        masks, labels = seen.lesions > 0, np.array(seen.labels)
        shown = np.isin(labels, sick) & masks.any(axis=(1, 2))
        keys = np.full(shown.sum(), f"{name}/{number}")
        rows.append((seen.images[shown], healthy.images[shown], masks[shown], labels[shown], keys))
    if not any(len(row[0]) for row in rows):
        raise ValueError(f"no lesion is seen in {patients_per_class} patients of {', '.join(classes) or 'no class'}")
    return LesionScans(*map(np.concatenate, zip(*rows, strict=True)))


# --- maps ------------------------------------------------------------------------------------------------------------


def _evidence(number: int, contrast: bool, logits: Tensor) -> Tensor:
    """What the gradient is taken of: a class's logit, or (contrast) that minus the mean of the others."""
    own = logits[number]
    return own - (logits.sum() - own) / (len(logits) - 1) if contrast else own


def looked_at(model: nn.Module, image_size: int, cells: int = FEWEST_CELLS) -> tuple[nn.Module, int]:
    """A timm network's deepest layer whose map has at least ``cells`` x ``cells`` cells, and a cell's side in pixels.

    Deep layers know classes and have few cells. Raises ValueError where none has so many.
    """
    found = [(one["reduction"], one["module"]) for one in model.feature_info]
    layers = [(stride, name) for stride, name in found if image_size // stride >= cells]
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} has {cells} x {cells} cells at {image_size} px")
    stride, name = max(layers)
    return model.get_submodule(name), stride


def grad_cam(
    model: nn.Module, images: np.ndarray, classes: np.ndarray, image_size: int, channels: int,
    *, contrast: bool = False, cells: int = FEWEST_CELLS, batch_size: int = 64,
) -> np.ndarray:  # fmt: skip
    """Grad-CAM maps (n, image_size, image_size), float32, 0..1, largest 1; all 0 where nothing speaks for the class.

    images: uint8 (n, R, R), shown without augmentation. classes: (n,) the class whose evidence is asked for.
    contrast: ask for the class's logit minus the mean of the others, since a softmax knows differences only.
    The network is as it was afterwards: its mode, what is frozen, and its gradients.
    """
    layer, _ = looked_at(model, image_size, cells)
    device, was_training = next(model.parameters()).device, model.training
    before = [(one, one.requires_grad, one.grad) for one in model.parameters()]
    cam = GradCAM(model.requires_grad_(False), [layer])  # frozen: the gradient is wanted at the layer only
    maps = []
    try:  # not `with cam`, which would hide an IndexError
        for start in range(0, len(images), batch_size):
            some = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            inputs = augment(some, torch.arange(len(some)), EVALUATION, 0, 0, image_size, channels).requires_grad_()
            asked = [partial(_evidence, int(k), contrast) for k in classes[start : start + batch_size]]
            maps.append(cam(inputs, asked))
    finally:
        cam.activations_and_grads.release()
        for parameter, needed, gradient in before:
            parameter.requires_grad_(needed).grad = gradient
        model.train(was_training)
    return np.concatenate(maps)


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose weights are the same numbers in another order within each tensor: all that was learned is lost."""
    copy, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            mixed = parameter.flatten()[torch.randperm(parameter.numel(), generator=generator).to(parameter.device)]
            parameter.copy_(mixed.view(parameter.shape))
    return copy


# --- scores ----------------------------------------------------------------------------------------------------------


def pointing_game(maps: np.ndarray, masks: np.ndarray, tolerance: float) -> np.ndarray:
    """(n,) 1 where a map's largest pixel lies on the mask, or at most ``tolerance`` pixels off it; else 0.

    maps, masks: (n, H, W). Where several pixels are largest, the share of them that hits: a map that is the same
    everywhere scores chance. A map of zeros points nowhere and scores 0.
    """
    near = np.stack([distance_transform_edt(~mask) <= tolerance for mask in masks])
    largest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (largest & near).sum(axis=(1, 2)) / largest.sum(axis=(1, 2)) * maps.any(axis=(1, 2))


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(n,) share of a map's sum that lies on the mask; 0 for a map of zeros. maps, masks: (n, H, W)."""
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    return (maps * masks).sum(axis=(1, 2), dtype=np.float64) / np.where(total > 0, total, 1)


def middle(masks: np.ndarray) -> np.ndarray:
    """Maps (n, H, W) of one who never looks: the middle of every picture, whatever is in it."""
    maps = np.zeros(masks.shape, np.float32)
    rows, columns = (slice((side - 1) // 2, side // 2 + 1) for side in masks.shape[1:])
    maps[:, rows, columns] = 1
    return maps
