"""What a network is trained for: the loss of every image, from logits, labels and perhaps a teacher."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdoct_utils.losses import distillation_loss, focal_loss


class Objective:
    """Loss of every image of a batch. Subclasses define ``__call__`` and, where it differs, ``validation_losses``.

    views: None where every epoch may see new views of the scans; else the number of views that repeat.
    """

    views: int | None = None

    def __call__(
        self, model: nn.Module, images: Tensor, target: Tensor, indices: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        """images (batch, channels, S, S); target, indices (batch,). Losses (batch,) and logits (batch, classes)."""
        logits = model(images).float()
        return self.validation_losses(logits, target), logits

    def validation_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses (batch,) on scans held out; distillation is judged by its labels alone, without a teacher."""
        return F.cross_entropy(logits, target, reduction="none")

    def check(self, indices: Tensor) -> None:
        """Raise ValueError where the objective cannot serve the scans ``indices`` (n,)."""

    def to(self, device: torch.device) -> Objective:
        """Move what the objective holds; returns itself."""
        return self

    def describe(self) -> dict:
        """Names and numbers that tell this objective from another, for checkpoints."""
        return {"objective": type(self).__name__}


class CrossEntropyObjective(Objective):
    """Cross-entropy with the labels, softened by ``label_smoothing`` in training (not in validation)."""

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def __call__(self, model, images, target, indices, view):
        logits = model(images).float()
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing), logits

    def describe(self) -> dict:
        return super().describe() | {"label_smoothing": self.label_smoothing}


class FocalObjective(Objective):
    """Focal loss with class weights (classes,): the teacher's objective. Lin et al. 2017."""

    def __init__(self, gamma: float = 2.0, class_weights: Tensor | None = None):
        self.gamma = gamma
        self.class_weights = class_weights

    def validation_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(logits, target, gamma=self.gamma, class_weights=self.class_weights, reduction="none")

    def to(self, device: torch.device) -> Objective:
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(device)
        return self

    def describe(self) -> dict:
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return super().describe() | {"gamma": self.gamma, "class_weights": weights}


class DistillationObjective(Objective):
    """Real-time distillation: the frozen teacher sees the very view that the student sees. Hinton et al. 2015.

    The teacher is frozen and put in eval mode here; each call checks that it still is, and raises RuntimeError if not.
    """

    def __init__(self, teacher: nn.Module, temperature: float = 4.0, alpha: float = 0.7):
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = temperature
        self.alpha = alpha

    def __call__(self, model, images, target, indices, view):
        with torch.no_grad():
            teacher_logits = self._checked_teacher()(images).float()  # (batch, classes)
        logits = model(images).float()
        losses = distillation_loss(
            logits, teacher_logits, target, temperature=self.temperature, alpha=self.alpha, reduction="none"
        )
        return losses, logits

    def _checked_teacher(self) -> nn.Module:
        if any(module.training for module in self.teacher.modules()):
            raise RuntimeError("the teacher is in training mode: its dropout and statistics would move; call eval()")
        if any(parameter.requires_grad for parameter in self.teacher.parameters()):
            raise RuntimeError("the teacher is not frozen: call requires_grad_(False)")
        return self.teacher

    def to(self, device: torch.device) -> Objective:
        self.teacher.to(device)
        return self

    def describe(self) -> dict:
        return super().describe() | {"temperature": self.temperature, "alpha": self.alpha}


class CachedDistillationObjective(Objective):
    """Distillation from logits computed beforehand, (views, n, classes).

    indices: (n,) which scan each column is; None means 0 to n - 1.
    replay: True shows the student the very views that the teacher saw, over and over; False shows it new ones, with
    the teacher's answer to another view of the same scan.
    """

    def __init__(
        self,
        teacher_logits: np.ndarray | Tensor,
        temperature: float = 4.0,
        alpha: float = 0.7,
        indices: np.ndarray | None = None,
        replay: bool = True,
    ):
        self.teacher_logits = torch.as_tensor(teacher_logits, dtype=torch.float32)
        if self.teacher_logits.ndim != 3:
            shape = tuple(self.teacher_logits.shape)
            raise ValueError(f"teacher logits of shape {shape}; expected (views, scans, classes)")
        n_scans = self.teacher_logits.shape[1]
        indices = torch.arange(n_scans) if indices is None else torch.as_tensor(np.asarray(indices), dtype=torch.long)
        if len(indices) != n_scans:
            raise ValueError(f"{len(indices)} indices for the cached logits of {n_scans} scans")
        self.column = torch.full((int(indices.max()) + 1,), -1)
        self.column[indices] = torch.arange(n_scans)
        self.temperature = temperature
        self.alpha = alpha
        self.views = len(self.teacher_logits) if replay else None

    def __call__(self, model, images, target, indices, view):
        teacher_logits = self.teacher_logits[view % len(self.teacher_logits), self.column[indices]]
        logits = model(images).float()
        losses = distillation_loss(
            logits, teacher_logits, target, temperature=self.temperature, alpha=self.alpha, reduction="none"
        )
        return losses, logits

    def check(self, indices: Tensor) -> None:
        cached = torch.isin(indices, (self.column.cpu() >= 0).nonzero().flatten())
        if not cached.all():
            missing = int((~cached).sum())
            raise ValueError(f"no cached teacher logits for {missing} of the {len(indices)} training scans")

    def to(self, device: torch.device) -> Objective:
        self.teacher_logits = self.teacher_logits.to(device)
        self.column = self.column.to(device)
        return self

    def describe(self) -> dict:
        return super().describe() | {
            "temperature": self.temperature, "alpha": self.alpha, "views": len(self.teacher_logits),
            "replay": self.views is not None,
        }  # fmt: skip
