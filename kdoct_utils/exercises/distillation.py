"""Checks of the exercises of notebook 05: a teacher asked, one step, cached logits, permuted answers, a lesion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from kdoct_utils.exercises.checking import Check
from kdoct_utils.learn.attention import pointing_game
from kdoct_utils.learn.losses import distillation_loss

TEMPERATURE, ALPHA = 4.0, 0.7
CLASSES, SIDE = 3, 6


def small_network(seed: int, dropout: float = 0.5) -> nn.Module:
    """A network with all that goes wrong in a teacher: dropout and BatchNorm. In training mode, as torch makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout)
        return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def _scans(seed: int) -> Tensor:
    return torch.randn(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _two_answers(answer: Callable) -> list | None:
    """Two answers to one view, whether they carry a gradient, whether the teacher's statistics moved."""
    teacher, view = small_network(1), _scans(2)
    before = teacher[2].running_mean.clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = answer(teacher, view), answer(teacher, view)
    if first is None:
        return None
    return [first, second, first.requires_grad, not torch.equal(before, teacher[2].running_mean)]


_without_gradient = torch.no_grad()

check_ask_teacher = Check(
    _without_gradient(lambda teacher, view: teacher.eval()(view)),
    (_without_gradient(lambda teacher, view: teacher(view)),
     "Two answers to one view differ, and BatchNorm's statistics moved. In which mode is a new network?"),
    (lambda teacher, view: teacher.eval()(view),
     "Right numbers, but they carry a gradient: the whole teacher stays in memory. What stops recording?"),
    (_without_gradient(lambda teacher, view: teacher.eval()(view).softmax(dim=1)),
     "These rows add up to 1. The loss divides by T before its softmax, so it wants the logits."),
    observe=_two_answers,
    passed="The same answer twice, no gradient, and the teacher is as it was.",
    otherwise="You have {got}. Compared: two answers to one view, their gradient, the teacher's statistics.",
)  # fmt: skip


def _step(
    teacher_sees: Callable = lambda view, scans, augment: view, ready: Callable = nn.Module.eval,
    recorded: bool = False, calls: tuple[str, ...] = ("zero_grad", "backward", "step"),
) -> Callable:  # fmt: skip
    """One step of real-time distillation, or that of a student who goes wrong in one place."""

    def step(student, teacher, optimizer, scans, target, augment):
        view = augment(scans)
        ready(teacher)
        with torch.set_grad_enabled(recorded):
            told = teacher(teacher_sees(view, scans, augment))
        loss = distillation_loss(student(view), told, target, TEMPERATURE, ALPHA)
        for call in calls:
            getattr(loss if call == "backward" else optimizer, call)()

    return step


def _three_steps(answer: Callable) -> list:
    """What the student says after three steps, and whether the teacher's answers carried a gradient."""
    student, teacher, scans, recorded = small_network(3, dropout=0.0), small_network(4), _scans(5), []
    optimizer, noise = torch.optim.SGD(student.parameters(), lr=0.5), torch.Generator().manual_seed(6)
    teacher.register_forward_hook(lambda module, inputs, logits: recorded.append(logits.requires_grad))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout, so that the same answer gives the same numbers
        for _ in range(3):
            answer(student, teacher.train(), optimizer, scans.clone(), torch.arange(8) % CLASSES,
                   lambda images: images + torch.randn(images.shape, generator=noise))  # fmt: skip
    return [student.eval()(scans), any(recorded)]


check_step = Check(
    _step(),
    (_step(teacher_sees=lambda view, scans, augment: scans),
     "Your teacher answers to the stored scan, the student sees a view: a kept answer, not real time."),
    (_step(teacher_sees=lambda view, scans, augment: augment(scans)),
     "Teacher and student see different views. Count how often you call `augment` in a step."),
    (_step(ready=nn.Module.train),
     "The teacher answers in training mode, as it was left. Exercise 1 looked after that."),
    (_step(recorded=True),
     "The teacher's pass is recorded: every step keeps it in memory. To cut it off afterwards is too late."),
    (_step(calls=("zero_grad", "backward")), "The gradients are there, and the weights stay. Who uses the gradients?"),
    (_step(calls=("backward", "step")),
     "The first step is right, the later ones are not. What is still in `.grad` from the step before?"),
    observe=_three_steps,
    passed="Three steps end where the package's steps end.",
    otherwise="After three steps the student says {got}. Compare mode, view, gradient and calls, one by one.",
)  # fmt: skip


def _kept_answer(kept: Tensor, numbers: Tensor, asked: Tensor, epoch: int) -> Tensor:
    return kept[epoch % len(kept), (asked[:, None] == numbers).int().argmax(dim=1)]


_KEPT = torch.randn(4, 5, CLASSES, generator=torch.Generator().manual_seed(7)), torch.tensor([1, 3, 0, 4, 2])

check_kept_answer = Check(
    _kept_answer,
    (lambda kept, numbers, asked, epoch: _kept_answer(kept, numbers, asked, 0),
     "Right in epoch 0 alone. Later the student sees another view: what does the answer's key lack?"),
    (lambda kept, numbers, asked, epoch: kept[epoch % len(kept), asked],
     "You took the scan's number for its column. `numbers` says which scan each column holds."),
    cases=[(*_KEPT, torch.tensor(asked), epoch)
           for asked, epoch in (([3, 0], 0), ([2, 4, 1], 1), ([0, 3], 3), ([1, 2], 6))],
    passed="Every scan gets the answer to the view that the student sees.",
    otherwise="You have {got}. An answer belongs to a scan and to a view: which row and column is it?",
)  # fmt: skip

_ANSWERS = torch.arange(3 * 24 * CLASSES, dtype=torch.float32).reshape(3, 24, CLASSES)  # each number stands there once
_LABELS = torch.tensor([2, 0, 1, 0, 2, 1, 1, 0, 2, 2, 0, 1] * 2)


def _shuffled(answers: Tensor, labels: Tensor, generator: torch.Generator, apart: bool = True) -> Tensor:
    """Each scan gets the answers to a scan of its label, drawn without replacement; apart=False: of any label."""
    order = torch.arange(len(labels))
    for label in labels.unique() if apart else [None]:
        places = (labels == label).nonzero()[:, 0] if apart else order.clone()
        order[places] = places[torch.randperm(len(places), generator=generator)]
    return answers[:, order]


def _what_is_lost(answer: Callable) -> str | None:
    """Of the conditions on permuted answers, which many permutations meet, the first that does not hold; "" where all
    do."""
    given = _ANSWERS.clone()
    found = [answer(given, _LABELS, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0)]
    if found[0] is None:
        return None
    first, second, again = found
    if not isinstance(first, Tensor) or first.shape != _ANSWERS.shape:
        return f"answers of shape {tuple(_ANSWERS.shape)} come back in that shape"
    whose = [[(_ANSWERS[v] == row).all(dim=1).nonzero().flatten().tolist() for row in first[v]] for v in range(3)]
    real = all(len(one) == 1 for of_view in whose for one in of_view)
    column = torch.tensor([one[0] for one in whose[0]]) if real else None
    conditions = {
        "the answers that you were given stay as they were": lambda: torch.equal(given, _ANSWERS),
        "every answer is the teacher's to some scan, in the same view": lambda: real,
        "a scan gets the answer to a scan of its own label": lambda: torch.equal(_LABELS[column], _LABELS),
        "every answer is used once": lambda: len(column.unique()) == len(column),
        "one scan's answers to all views go to one scan": lambda: all(one == whose[0] for one in whose),
        "hardly any scan keeps its own answer": lambda: (column == torch.arange(24)).sum() <= 8,
        "the generator decides": lambda: torch.equal(first, again) and not torch.equal(first, second),
    }
    return next((name for name, holds in conditions.items() if not holds()), "")


def _by_view(answers: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([_shuffled(one[None], labels, generator) for one in answers])


def _class_means(answers: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.stack([answers[:, labels == label].mean(dim=1) for label in labels], dim=1)


check_permuted = Check(
    _shuffled,
    (lambda answers, labels, generator: _shuffled(answers, labels, generator, apart=False),
     "A drusen scan may get the answer to a healthy one. Then the answers are wrong, and not only about another scan."),
    (_by_view, "Each view has an order of its own. Over the epochs a scan would hear many scans, and so their mean."),
    (_class_means, "A mean is no answer that the teacher gave: how much its answers differ is lost as well."),
    (lambda answers, labels, generator: answers.clone(), "Nothing has moved. What should a scan no longer learn?"),
    observe=_what_is_lost,
    passed="The class stays, how sure the teacher is stays, the scan is gone.",
    otherwise="This does not hold: {got}.",
)  # fmt: skip


def _hand_made() -> tuple[np.ndarray, np.ndarray]:
    """Largest pixels on the lesion, 1, 2 and 3 pixels off, where row and column are swapped, and off in both ways."""
    maps, masks = np.full((6, 12, 12), 0.1), np.zeros((6, 12, 12), bool)
    masks[:, 3:5, 8:11] = True
    for map_, (row, column) in zip(maps, ((3, 8), (5, 9), (4, 6), (7, 10), (9, 3), (5, 11)), strict=True):
        map_[row, column] = 1.0
    maps[4, 3:5, 8:11] = 0.9  # much of the map lies on the lesion, its largest pixel does not
    return maps, masks


def _pointing_by(distance: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """The pointing game with this distance (H, W) of every pixel to a mask."""
    return lambda maps, masks, tolerance: np.array(
        [distance(mask).flat[one.argmax()] <= tolerance for one, mask in zip(maps, masks, strict=True)])


check_points = Check(
    pointing_game,
    (_pointing_by(lambda mask: np.where(mask, 0, np.inf)),
     "Right at tolerance 0. A pixel next to the lesion should count once the tolerance allows it."),
    (_pointing_by(lambda mask: distance_transform_edt(~mask).T),
     "A map whose largest pixel mirrors the lesion counts as a hit. Which of the two numbers is the row?"),
    cases=[(*_hand_made(), tolerance) for tolerance in (0.0, 1.0, 1.5, 2.0)],
    passed="Hits, near misses and misses are told apart.",
    otherwise="You have {got}. Draw a 12 × 12 grid and measure from its largest pixel to the lesion.",
)  # fmt: skip
