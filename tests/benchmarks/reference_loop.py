"""Distillation with the loop settings of KD-OCT's public code, written anew to be measured beside the package.

Its settings: timm's networks as they come; every file is opened in every epoch, and every image goes alone through
PIL and torchvision, in the workers of a data loader; the teacher answers in float32, outside autocast; the loss is
read off the device in every batch. Source: the authors' public code.
"""

import io
import time

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdoct_utils.learn.augment import IMAGENET_MEAN, IMAGENET_STD
from kdoct_utils.learn.losses import distillation_loss
from kdoct_utils.learn.models import parameter_groups
from kdoct_utils.learn.pipelines import STUDENT
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.profiles import CLASS_NAMES


def pil_pipeline(profile):
    """The paper's augmentation of the student as torchvision steps on one PIL image."""
    config, mean, std = STUDENT, IMAGENET_MEAN[: profile.channels], IMAGENET_STD[: profile.channels]
    return transforms.Compose(
        [
            transforms.Resize((profile.resize_size, profile.resize_size)),
            transforms.RandomCrop(profile.image_size),
            transforms.RandAugment(config.randaugment_operations, config.randaugment_magnitude),
            transforms.RandomRotation(config.rotation),
            transforms.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
            transforms.RandomHorizontalFlip(config.horizontal_flip),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            transforms.RandomErasing(config.erasing, config.erasing_area, config.erasing_ratio),
        ]
    )


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

    def __init__(self, images, target, profile):
        self.images, self.target = images, target
        self.mode = "RGB" if profile.channels == 3 else "L"
        self.pipeline = pil_pipeline(profile)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
        return self.pipeline(image.convert(self.mode)), int(self.target[index])


def train_reference(profile, images, target, *, device, precision, workers):
    """Images a second of one pass, the first tenth of the batches left out, and the losses that were read.

    images (n, R, R) uint8, or n paths, and target (n,). precision: of the student, "no", "bf16" or "fp16".
    """
    training = profile.student_training
    model = timm_network(profile.student, 3, profile.channels).to(device).train()
    teacher = timm_network(profile.teacher, 3, profile.channels).to(device).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, training))
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    half = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    loader = DataLoader(
        PilScans(images, target, profile), batch_size=training.batch_size, shuffle=True, num_workers=workers,
        pin_memory=device == "cuda",
    )  # fmt: skip
    marks, losses = [], []
    for number, (batch, label) in enumerate(loader, start=1):
        batch, label = batch.to(device), label.to(device)
        with torch.no_grad():
            answer = teacher(batch)  # in float32
        with torch.autocast(device, dtype=half, enabled=half is not None):
            logits = model(batch)
        loss = distillation_loss(logits.float(), answer, label, temperature=profile.temperature, alpha=profile.alpha)
        scaler.scale(loss / training.accumulation).backward()
        if number % training.accumulation == 0:  # an incomplete last group is dropped
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        losses.append(loss.item())  # the device must come to its end here, in every batch
        marks.append(time.perf_counter())
    warm = max(1, len(marks) // 10)
    return training.batch_size * (len(marks) - warm) / (marks[-1] - marks[warm - 1]), np.array(losses)
