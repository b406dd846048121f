"""Pre-train a backbone on phantoms: the part that ImageNet plays in the paper. `tools.pretrain` made the one shipped.

The task is to name the layer or lesion at every pixel, labels that a phantom gives for free. No label
of a whole scan is used, and no phantom of the course is among them: pre-training draws from seeds of its own.
Only the backbone is kept; ``models.build_model(..., start_weights="phantom")`` loads it.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdoct_utils.learn.augment import normalize
from kdoct_utils.phantom.anatomy import LAYER_NAMES, LESION_NAMES, draw_patient
from kdoct_utils.phantom.render import render_band
from kdoct_utils.profiles import CLASS_NAMES

SEED_SPACE = 20251209  # first number of every pre-training patient's seed: the course uses [seed, number]
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
SLICES = 10
WIDTH = 64  # channels of the segmentation neck
TISSUES = (*LAYER_NAMES, *LESION_NAMES[1:])  # what a pixel can be


class LayerSegmenter(nn.Module):
    """A backbone with a small neck that names the tissue at every pixel.

    Features of all stages (four in ConvNeXtV2) are brought to the first one's grid, summed, mixed by
    one convolution and unfolded to full size. In training, every other batch on average hides the shallow
    half of the stages, or else the deep ones, which classification reads, would have nothing to learn.
    Images (batch, channels, S, S) to logits (batch, tissues, S, S).
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        widths = [stage["num_chs"] for stage in backbone.feature_info]
        self.project = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.mix = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.fold = backbone.feature_info[0]["reduction"]  # pixels of the image at each place, each way
        self.predict = nn.Conv2d(WIDTH, self.fold**2 * len(TISSUES), 1)

    def forward(self, images: Tensor) -> Tensor:
        _, stages = self.backbone.forward_intermediates(images, indices=len(self.project))
        side = stages[0].shape[-1]
        first = len(stages) // 2 if self.training and torch.rand(()) < 0.5 else 0
        total = sum(
            F.interpolate(project(stage), size=(side, side), mode="bilinear")
            for project, stage in list(zip(self.project, stages, strict=True))[first:]
        )
        return F.pixel_shuffle(self.predict(F.gelu(self.mix(F.gelu(total)))), self.fold)


def segmentation_batches(
    patients: int, epoch: int, size: int, channels: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh phantoms for one epoch: images (batch, channels, S, S), normalized, and tissues (batch, S, S)."""
    bands = [
        render_band(draw_patient(CLASS_NAMES[k % len(CLASS_NAMES)], [SEED_SPACE, seed, epoch, k]), SLICES, size)
        for k in range(patients)
    ]
    images, layers, lesions = (np.concatenate([getattr(band, name) for band in bands])
                               for name in ("images", "layers", "lesions"))  # fmt: skip
    tissues = np.where(lesions > 0, len(LAYER_NAMES) - 1 + lesions, layers)
    random = np.random.default_rng([SEED_SPACE, seed, epoch])
    order = random.permutation(len(images))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        batch, target = torch.from_numpy(images[chosen]).float() / 255, torch.from_numpy(tissues[chosen]).long()
        if random.random() < 0.5:  # left and right eyes alike
            batch, target = batch.flip(-1), target.flip(-1)
        gain = torch.from_numpy(random.uniform(0.7, 1.3, (len(chosen), 1, 1)).astype(np.float32))
        yield normalize((batch * gain).clamp(0, 1)[:, None], channels), target


def tissue_weights(size: int, seed: int) -> Tensor:
    """One weight a tissue, (tissues,), mean 1: thin layers and lesions would drown among vitreous and choroid."""
    seen = torch.cat([tissues.flatten() for _, tissues in segmentation_batches(40, 0, size, 1, seed)])
    share = torch.bincount(seen, minlength=len(TISSUES)) / len(seen)
    weights = share.clamp(min=1e-3) ** -0.5
    return weights / weights.mean()


def pretrain_backbone(
    backbone: nn.Module, size: int, channels: int, *, patients: int, epochs: int, seed: int = 0, progress: bool = True
) -> float:
    """Teach a timm backbone to name tissues, in place; its head stays as it was.

    size, channels: of the images. patients: drawn anew each epoch, SLICES B-scans each. Seeds torch's global random
    generator. Returns the share of pixels of unseen phantoms whose tissue is named rightly.
    """
    torch.manual_seed(seed)
    model = LayerSegmenter(backbone).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = epochs * -(-patients * SLICES // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    weights = tissue_weights(size, seed)
    with tqdm(total=steps, unit="step", desc="pre-training", disable=not progress) as bar:
        for epoch in range(epochs):
            model.train()
            for images, tissues in segmentation_batches(patients, epoch, size, channels, seed):
                logits = model(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, tissues, weight=weights)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return pixel_accuracy(model, size, channels, seed, epochs)


def pixel_accuracy(model: LayerSegmenter, size: int, channels: int, seed: int, unseen_epoch: int) -> float:
    """Share of pixels whose tissue is named correctly, on 40 phantoms of an epoch that was not trained on."""
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, tissues in segmentation_batches(40, unseen_epoch, size, channels, seed):
            right += (model(images).argmax(1) == tissues).sum().item()
            total += tissues.numel()
    return right / total
