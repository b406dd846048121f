"""What a network is trained for: the loss of every image, from logits, labels and perhaps a teacher."""

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdoct_utils.learn.losses import decoupled_loss, distillation_loss, focal_loss, relation_loss


class Objective(nn.Module):
    """Loss of every image of a batch. Subclasses define ``forward`` and, where it differs, ``validation_losses``.

    views: None where every epoch may see new views of the scans; else the number of views that repeat.
    """

    views: int | None = None

    def forward(
        self, model: nn.Module, images: Tensor, target: Tensor, indices: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        """images (batch, channels, S, S); target, indices (batch,). Losses (batch,) and logits (batch, classes)."""
        logits = model(images).float()
        return self.validation_losses(logits, target), logits

    def validation_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses (batch,) on scans held out; distillation is judged by its labels alone, without a teacher."""
        return F.cross_entropy(logits, target, reduction="none")

    def use_fast_teacher(self, compiled: bool) -> None:
        """Where there is a live teacher: from now on ask a quicker copy of it."""

    def check(self, indices: Tensor) -> None:
        """Raise ValueError where the objective cannot serve the scans ``indices`` (n,)."""

    def describe(self) -> dict:
        """Its name, numbers and class weights, which tell this objective from another: for checkpoints."""
        mine = {name: value for name, value in vars(self).items() if name != "training"}  # torch's flag of the mode
        numbers = {name: value for name, value in mine.items() if isinstance(value, (int, float))}
        weights = {name: value.tolist() for name, value in self.named_buffers(recurse=False)}
        return {"objective": type(self).__name__} | numbers | mine.get("weights", {}) | weights


class CrossEntropyObjective(Objective):
    """Cross-entropy with the labels: softened by ``label_smoothing`` and weighted by class in training only.

    class_weights: (classes,), None for none.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(self, model, images, target, indices, view):
        logits = model(images).float()
        options = {"label_smoothing": self.label_smoothing, "weight": self.class_weights}
        return F.cross_entropy(logits, target, reduction="none", **options), logits


class FocalObjective(Objective):
    """Focal loss with class weights (classes,): the teacher's objective. Lin et al. 2017."""

    def __init__(self, gamma: float, class_weights: Tensor | None = None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("class_weights", class_weights)

    def validation_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(logits, target, gamma=self.gamma, class_weights=self.class_weights, reduction="none")


class CachedLogits(nn.Module):
    """A teacher's logits that were computed beforehand, (views, n, classes), in the place of a live teacher.

    indices: (n,) which scan each column is; None means 0 to n - 1.
    replay: True shows the student the very views that the teacher saw, over and over; False shows it new ones, with
    the teacher's logits for another view of the same scan.
    """

    def __init__(self, logits: np.ndarray | Tensor, indices: np.ndarray | None = None, replay: bool = True):
        super().__init__()
        logits = torch.as_tensor(logits, dtype=torch.float32)
        if logits.ndim != 3:
            raise ValueError(f"teacher logits of shape {tuple(logits.shape)}; expected (views, scans, classes)")
        indices = torch.arange(logits.shape[1]) if indices is None else torch.as_tensor(indices, dtype=torch.long)
        if len(indices) != logits.shape[1]:
            raise ValueError(f"{len(indices)} indices for the cached logits of {logits.shape[1]} scans")
        column = torch.full((int(indices.max()) + 1,), -1)
        column[indices] = torch.arange(len(indices))
        self.register_buffer("logits", logits)
        self.register_buffer("column", column)  # of each scan, -1 for none
        self.replay = replay

    def forward(self, indices: Tensor, view: int) -> Tensor:
        """Logits (batch, classes) for the scans ``indices`` (batch,) in that view."""
        return self.logits[view % len(self.logits), self.column[indices]]

    def check(self, indices: Tensor) -> None:
        """Raise ValueError where a scan of ``indices`` (n,) has no logits."""
        missing = int(torch.isin(indices, (self.column.cpu() >= 0).nonzero(), invert=True).sum())
        if missing:
            raise ValueError(f"no cached teacher logits for {missing} of the {len(indices)} training scans")


class DistillationObjective(Objective):
    """Real-time distillation: the frozen teacher sees the very view that the student sees. Hinton et al. 2015.

    teacher: a network, or CachedLogits in its place.
    A network is frozen and put in eval mode here; each call checks that it still is, and raises RuntimeError if not.
    weights: what else the loss takes. Subclasses have another loss.
    """

    loss = staticmethod(distillation_loss)

    def __init__(self, teacher: nn.Module, temperature: float, alpha: float, **weights: float):
        super().__init__()
        self.cached = isinstance(teacher, CachedLogits)
        if not self.cached:
            teacher.eval().requires_grad_(False)
        elif teacher.replay:
            self.views = len(teacher.logits)
        self.teacher = teacher
        self.fast_teacher: nn.Module | None = None
        self.temperature, self.alpha, self.weights = temperature, alpha, weights

    def use_fast_teacher(self, compiled: bool) -> None:
        """From now on ask a copy of a live teacher with weights in bfloat16, compiled or not.

        A frozen teacher is never updated and needs no exact weights: its logits lose digits, and nothing else.
        """
        if not self.cached:
            self.fast_teacher = deepcopy(self.teacher).bfloat16()
            if compiled:
                self.fast_teacher.compile(dynamic=False)

    def forward(self, model, images, target, indices, view):
        teacher_logits = self.teacher(indices, view) if self.cached else self._ask_teacher(images)  # (batch, classes)
        logits = model(images).float()
        numbers = {"temperature": self.temperature, "alpha": self.alpha} | self.weights
        return self.loss(logits, teacher_logits, target, **numbers, reduction="none"), logits

    def _ask_teacher(self, images: Tensor) -> Tensor:
        """Logits (batch, classes), float32, without a gradient."""
        if any(module.training for module in self.teacher.modules()):
            raise RuntimeError("the teacher is in training mode: its dropout and statistics would move; call eval()")
        if any(parameter.requires_grad for parameter in self.teacher.parameters()):
            raise RuntimeError("the teacher is not frozen: call requires_grad_(False)")
        with torch.no_grad():
            if self.fast_teacher is not None:
                return self.fast_teacher(images.bfloat16()).float()
            return self.teacher(images).float()

    def check(self, indices: Tensor) -> None:
        if self.cached:
            self.teacher.check(indices)


class DKDObjective(DistillationObjective):
    """Decoupled distillation: the true class and the others are compared apart. Zhao et al. 2022.

    weights: beta of the other classes, see `losses.decoupled_loss`.
    """

    loss = staticmethod(decoupled_loss)


class OneSidedObjective(DistillationObjective):
    """A known error, to be measured: the teacher is softened by the temperature and the student is not."""

    @staticmethod
    def loss(student_logits, teacher_logits, target, temperature, alpha, reduction):
        softened = teacher_logits / temperature
        return distillation_loss(student_logits, softened, target, 1.0, alpha, reduction)


class DISTObjective(DistillationObjective):
    """DIST: soft labels that rise and fall with the teacher's, within a scan and over a batch. Huang et al. 2022.

    A step of several batches (or processes) averages over the relations inside each of them; scans of different
    batches are never compared. weights: beta of the relations over classes and gamma of those over scans, see
    `losses.relation_loss`.
    """

    loss = staticmethod(relation_loss)


class ConsistentMixupObjective(DistillationObjective):
    """The "patient and consistent" recipe: teacher and student see the same blend of two scans, and no label counts.

    Each scan of a batch is blended with its neighbor, with one share for the batch, drawn evenly from 0..1 as in the
    paper. The share follows from (seed, view, first scan of the batch) alone. The loss is T^2 KL. Patience, the
    other half of the recipe, is a matter of epochs. Beyer et al. 2022, arXiv 2106.05237.
    """

    def __init__(self, teacher: nn.Module, temperature: float, seed: int = 0):
        if isinstance(teacher, CachedLogits):
            raise ValueError("cached logits do not fit a blend of two scans: mixup needs a live teacher")
        super().__init__(teacher, temperature, alpha=1.0)
        self.seed = seed

    def forward(self, model, images, target, indices, view):
        return super().forward(model, self.blend(images, indices, view), target, indices, view)

    def blend(self, images: Tensor, indices: Tensor, view: int) -> Tensor:
        """What both networks see: (batch, channels, S, S), as ``images``."""
        share = float(np.random.default_rng((self.seed, view, int(indices[0]))).uniform())
        return torch.lerp(images, images.roll(1, dims=0), share)
