"""Training with the loop settings of KD-OCT's public code, written anew to be measured beside the package.

Its settings: timm's networks as they come; every file is opened in every epoch, and every image goes alone through
PIL and torchvision, in the workers of a data loader; the teacher answers in float32, outside autocast; the loss is
read off the device in every batch. Source: the authors' public code.
"""

from __future__ import annotations

import io
import time

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdoct_utils.learn.augment import IMAGENET_MEAN, IMAGENET_STD
from kdoct_utils.learn.losses import distillation_loss, focal_loss
from kdoct_utils.learn.models import parameter_groups
from kdoct_utils.learn.pipelines import STUDENT, TEACHER
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.profiles import CLASS_NAMES


def pil_pipeline(profile, role):
    """The paper's augmentation as torchvision steps on one PIL image."""
    config, size = (TEACHER if role == "teacher" else STUDENT), profile.image_size
    steps = [
        transforms.Resize((profile.resize_size, profile.resize_size)),
        transforms.RandomCrop(size),
        transforms.RandAugment(config.randaugment_operations, config.randaugment_magnitude),
        transforms.RandomRotation(config.rotation),
    ]
    if config.shear:
        steps.append(transforms.RandomAffine(0, shear=config.shear, scale=config.scale))
    steps += [
        transforms.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
        transforms.RandomHorizontalFlip(config.horizontal_flip),
        transforms.RandomVerticalFlip(config.vertical_flip),
    ]
    if config.blur:
        steps.append(transforms.RandomApply([transforms.GaussianBlur(3, config.blur_sigma)], config.blur))
    if config.posterize:
        steps.append(transforms.RandomPosterize(config.posterize_bits, config.posterize))
    steps += [
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN[: profile.channels], IMAGENET_STD[: profile.channels]),
        transforms.RandomErasing(config.erasing, config.erasing_area, config.erasing_ratio),
    ]
    return transforms.Compose(steps)


def timm_network(config, classes, channels):
    """timm's own, in the memory format it comes in."""
    options = {"drop_rate": config.dropout, "drop_path_rate": config.drop_path or 0.0, **config.options}
    return timm.create_model(config.architecture, num_classes=classes, in_chans=channels, **options)


def jpeg_frames(patients, slices):
    """Phantom frames of a scanner's size as JPEG files: a list of bytes."""
    files = []
    for k in range(patients):
        for frame in render_frames(draw_patient(CLASS_NAMES[k % len(CLASS_NAMES)], [4, k]), slices).images:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, format="jpeg", quality=90)
            files.append(buffer.getvalue())
    return files


class PilScans(Dataset):
    """Stored images (n, R, R) uint8, or paths of image files, each opened and augmented alone."""

    def __init__(self, images, target, profile, role):
        self.images, self.target = images, target
        self.mode = "RGB" if profile.channels == 3 else "L"
        self.pipeline = pil_pipeline(profile, role)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
        return self.pipeline(image.convert(self.mode)), int(self.target[index])


def train_reference(profile, role, images, target, *, device, precision, workers=4, classes=3):
    """Images a second of one pass, the first tenth of the batches left out, and the losses that were read.

    images (n, R, R) uint8, or n paths, and target (n,): one pass over them. precision: "no", "bf16" or "fp16", for the
    student and for a teacher in training.
    """
    training = getattr(profile, f"{role}_training")
    model = timm_network(profile.teacher if role == "teacher" else profile.student, classes, profile.channels)
    model = model.to(device).train()
    teacher = None
    if role == "student":
        teacher = timm_network(profile.teacher, classes, profile.channels).to(device).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, training))
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    half = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    loader = DataLoader(
        PilScans(images, target, profile, role), batch_size=training.batch_size, shuffle=True, num_workers=workers,
        pin_memory=device == "cuda",
    )  # fmt: skip
    marks, losses = [], []
    for number, (batch, label) in enumerate(loader, start=1):
        batch, label = batch.to(device), label.to(device)
        answer = None
        if teacher is not None:
            with torch.no_grad():
                answer = teacher(batch)  # in float32
        with torch.autocast(device, dtype=half, enabled=half is not None):
            logits = model(batch)
        logits = logits.float()
        if answer is None:
            loss = focal_loss(logits, label, gamma=profile.gamma)
        else:
            settings = {"temperature": profile.temperature, "alpha": profile.alpha}
            loss = distillation_loss(logits, answer, label, **settings)
        scaler.scale(loss / training.accumulation).backward()
        if number % training.accumulation == 0:  # an incomplete last group is dropped
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        losses.append(loss.item())  # the device must come to its end here, in every batch
        marks.append((time.perf_counter(), len(label)))
    assert torch.isfinite(functional.softmax(logits, dim=1)).all()
    warm = max(1, len(marks) // 10)
    seconds = marks[-1][0] - marks[warm - 1][0]
    seen = sum(count for _, count in marks[warm:])
    return (seen / seconds if seen else float("nan")), np.array(losses)
