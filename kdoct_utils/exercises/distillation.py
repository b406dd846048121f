"""Checks of the exercises of notebook 05: asking a teacher, one step, kept answers, one list of patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.exercises.witness import Witness
from kdoct_utils.learn.losses import distillation_loss, distillation_terms

__all__ = [
    "ALPHA", "TEMPERATURE", "check_ask_teacher", "check_kept_answer", "check_roles", "check_step",
    "small_network",
]  # fmt: skip

TEMPERATURE, ALPHA = 4.0, 0.7
CLASSES, SIDE = 3, 6


def small_network(seed: int, dropout: float = 0.5) -> nn.Module:
    """A network with all that goes wrong in a teacher: dropout and BatchNorm. In training mode, as torch makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout)
        return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def _scans(seed: int, many: int = 8) -> Tensor:
    return torch.randn(many, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


# --- 1. ask the teacher ----------------------------------------------------------------------------------------------


def _ask(teacher: nn.Module, view: Tensor) -> Tensor:
    teacher.eval()
    with torch.no_grad():
        return teacher(view)


def _asked(answer: Callable) -> list:
    """Two answers to one view, whether they carry a gradient, whether the teacher's statistics moved."""
    teacher, view = small_network(1), _scans(2)
    before = teacher[2].running_mean.clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = answer(teacher, view), answer(teacher, view)
    if not isinstance(first, Tensor):
        return [first]
    return [first, second, first.requires_grad, not torch.equal(before, teacher[2].running_mean)]


def _in_training(teacher: nn.Module, view: Tensor) -> Tensor:
    with torch.no_grad():
        return teacher(view)


def _dropout_off(teacher: nn.Module, view: Tensor) -> Tensor:
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        return teacher(view)


def _eval_too_late(teacher: nn.Module, view: Tensor) -> Tensor:
    with torch.no_grad():
        logits = teacher(view)
    teacher.eval()
    return logits


check_ask_teacher = Check(
    "check_ask_teacher",
    right=_ask,
    observe=_asked,
    mistakes=(
        Mistake("training mode", _in_training,
                "Two answers to the same view differ, and asking moved the teacher's BatchNorm statistics. In which "
                "mode is a network that torch has just made?"),
        Mistake("training mode, with gradients", lambda teacher, view: teacher(view),
                "The teacher answers as if it were being trained: with dropout, with moving statistics, with a "
                "gradient. Two different things have to be switched off."),
        Mistake("dropout off, BatchNorm on", _dropout_off,
                "Dropout is off. But the answer to a scan still hangs on the other scans of its batch, and the running "
                "statistics move. Which other layer has two modes?"),
        Mistake("gradient kept", lambda teacher, view: teacher.eval()(view),
                "The numbers are right, but they carry a gradient: the whole teacher stays in memory, and an "
                "optimizer could move it. What switches the recording off?"),
        Mistake("eval too late", _eval_too_late,
                "Your first answer was given in training mode, the second was not. Look at the order of your lines."),
        Mistake("probabilities", lambda teacher, view: _ask(teacher, view).softmax(dim=1),
                "These rows add up to 1. The loss divides by T before its softmax, so it wants the logits."),
    ),
    passed="The same answer twice, no gradient, and the teacher is as it was.",
    otherwise="Expected {wanted}, got {got}. Compared are two answers to one view, whether they carry a gradient, and "
    "whether the teacher changed.",
)  # fmt: skip


# --- 2. one step -----------------------------------------------------------------------------------------------------


def _step(student, teacher, optimizer, scans, target, augment) -> None:
    view = augment(scans)
    teacher.eval()
    with torch.no_grad():
        told = teacher(view)
    loss = distillation_loss(student(view), told, target, TEMPERATURE, ALPHA)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _variant(
    teacher_sees: str = "view", student_sees: str = "view", alpha: float = ALPHA, ready: Callable | None = None,
    recorded: bool = False, loss_of: Callable = distillation_loss,
    order: tuple[str, ...] = ("zero", "backward", "step"),
) -> Callable:  # fmt: skip
    """The step of a student who goes wrong in one place."""

    def step(student, teacher, optimizer, scans, target, augment):
        views = {"stored": scans, "view": augment(scans), "another": augment(scans)}
        teacher.eval()
        if ready:
            ready(student, teacher)
        with torch.set_grad_enabled(recorded):
            told = teacher(views[teacher_sees])
        said = student(views[student_sees])
        loss = loss_of(said, told, target, TEMPERATURE, alpha)
        calls = {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}
        for name in order:
            calls[name]()

    return step


def _labels_only(student, teacher, optimizer, scans, target, augment) -> None:
    loss = functional.cross_entropy(student(augment(scans)), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _swapped(said: Tensor, told: Tensor, *rest: object) -> Tensor:
    return distillation_loss(told, said, *rest)


def _without_t_squared(said: Tensor, told: Tensor, target: Tensor, temperature: float, alpha: float) -> Tensor:
    soft, hard = distillation_terms(said, told, target, temperature)
    return alpha * soft / temperature**2 + (1 - alpha) * hard


def _student_in_no_grad(student, teacher, optimizer, scans, target, augment) -> None:
    view = augment(scans)
    teacher.eval()
    with torch.no_grad():
        told, said = teacher(view), student(view)
    distillation_loss(said, told, target, TEMPERATURE, ALPHA).backward()


def _student_after(answer: Callable) -> list:
    """What the student says after three steps, and whether the teacher kept its weights; or what went wrong before."""
    student, teacher = small_network(3, dropout=0.0), small_network(4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    before = [value.clone() for value in teacher.state_dict().values()]
    scans, target = _scans(5), torch.arange(8) % CLASSES
    noise = torch.Generator().manual_seed(6)

    def augment(images: Tensor) -> Tensor:
        return images + torch.randn(images.shape, generator=noise)

    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout, so that the same answer gives the same numbers
        for _ in range(3):
            teacher.train()  # as it was left
            witness, error = Witness(student, teacher, optimizer), None
            try:
                done = answer(student, teacher, optimizer, scans.clone(), target, augment)
            except RuntimeError as stopped:
                error = stopped
            finally:
                witness.leave()
            if error is None and done is Ellipsis:
                return [done]
            if wrong := witness.wrong(scans):
                return [wrong]
            if error is not None:
                if "does not require grad" in str(error):
                    return ["a loss without a gradient"]
                raise error
            if witness.events != ["gradient", "update"]:
                return ["in this order", *witness.events]
    moved = any(not torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True))
    return [student.eval()(scans), moved]


check_step = Check(
    "check_step",
    right=_step,
    observe=_student_after,
    mistakes=(
        Mistake("nothing happens", lambda *everything: None,
                "Neither network was asked anything. What does a step begin with?"),
        Mistake("cross-entropy only", _labels_only,
                "The teacher was never asked. Your student learns from the labels alone."),
        Mistake("student never asked", lambda student, teacher, optimizer, scans, target, augment:
                teacher.eval()(augment(scans)),
                "Only the teacher was asked. What does its answer have to be compared with?"),
        Mistake("no augmentation", _variant(teacher_sees="stored", student_sees="stored"),
                "Both networks see the stored scans. In every step the student should meet a new view of them."),
        Mistake("teacher sees the stored scans", _variant(teacher_sees="stored"),
                "Your teacher answers to the stored scan, the student sees a view of it. That is a kept answer, not "
                "real-time distillation."),
        Mistake("student sees the stored scans", _variant(student_sees="stored"),
                "Your student sees the stored scan, the teacher a view of it. The answer does not fit what is seen."),
        Mistake("two views", _variant(teacher_sees="another"),
                "Teacher and student see different views. Count how often you call `augment` in a step."),
        Mistake("teacher not in eval", _variant(ready=lambda student, teacher: teacher.train()),
                "The teacher answers in training mode, with dropout. It comes as it was left, and it was left in "
                "training mode. Exercise 1 looked after that."),
        Mistake("student in eval", _variant(ready=lambda student, teacher: student.eval()),
                "The student is in evaluation mode: without dropout, and its BatchNorm learns nothing. Which of the "
                "two networks is being trained?"),
        Mistake("student without a gradient", _student_in_no_grad,
                "The student's answer carries no gradient, so nothing can be learned from it. What stands inside the "
                "block that switches recording off?"),
        Mistake("teacher with a gradient", _variant(recorded=True),
                "The teacher answers without a gradient, and here its pass is recorded. The numbers would be right, "
                "but every step keeps the whole teacher in memory. To cut the answer off afterwards is too late."),
        Mistake("arguments swapped", _variant(loss_of=_swapped),
                "Your loss carries no gradient, though the student's answer does. The loss cuts off its second "
                "argument, the teacher's logits. In which order did you hand the two over?"),
        Mistake("step forgotten", _variant(order=("zero", "backward")),
                "The gradients are there, and the weights stay. Who uses the gradients?"),
        Mistake("backward forgotten", _variant(order=("zero", "step")),
                "The optimizer was called, but no gradient was ever computed."),
        Mistake("step before backward", _variant(order=("zero", "step", "backward")),
                "The optimizer steps before it knows this batch's gradient. Look at the order of the last lines."),
        Mistake("zero_grad after backward", _variant(order=("backward", "zero", "step")),
                "The new gradients are thrown away before the optimizer can use them. Which gradients should go?"),
        Mistake("zero_grad forgotten", _variant(order=("backward", "step")),
                "The first step is right, the later ones are not. What is still in `.grad` from the step before?"),
        Mistake("alpha swapped", _variant(alpha=1 - ALPHA),
                "Your student listens more to the labels than to the teacher. Which of the two terms does α weigh?"),
        Mistake("teacher asked, not heard", _variant(alpha=0.0),
                "The teacher was asked, but its answer has no part in your loss."),
        Mistake("labels not heard", _variant(alpha=1.0),
                "Only the teacher's part is in your loss. The labels have a share of it too."),
        Mistake("no T squared", _variant(loss_of=_without_t_squared),
                "The soft labels pull too weakly: softening divides their gradient by T, twice. What makes up for it?"),
    ),
    passed="Three steps end where the package's steps end.",
    otherwise="Views, modes and the order of the calls are right. But after three steps you have {got} where {wanted} "
    "was expected. Compare your loss with the one of the text.",
)  # fmt: skip


# --- 3. kept answers -------------------------------------------------------------------------------------------------


def _kept_answer(kept: Tensor, numbers: Tensor, asked: Tensor, epoch: int) -> Tensor:
    columns = (asked[:, None] == numbers).int().argmax(dim=1)
    return kept[epoch % len(kept), columns]


_KEPT = torch.randn(4, 5, CLASSES, generator=torch.Generator().manual_seed(7))
_NUMBERS = torch.tensor([1, 3, 0, 4, 2])

check_kept_answer = Check(
    "check_kept_answer",
    right=_kept_answer,
    observe=applied_to(*((_KEPT, _NUMBERS, torch.tensor(asked), epoch)
                         for asked, epoch in (([3, 0], 0), ([2, 4, 1], 1), ([0, 3], 3), ([1, 2], 6)))),
    mistakes=(
        Mistake("keyed without the view", lambda kept, numbers, asked, epoch: _kept_answer(kept, numbers, asked, 0),
                "In epoch 0 you are right. Later the student sees another view, and you still give the answer to the "
                "first. What does the key of an answer lack?"),
        Mistake("mean of the views",
                lambda kept, numbers, asked, epoch: _kept_answer(kept.mean(0)[None], numbers, asked, 0),
                "You give the mean over the views in every epoch. It fits none of them. Which of the kept views does "
                "the student see now?"),
        Mistake("number as column", lambda kept, numbers, asked, epoch: kept[epoch % len(kept), asked],
                "You took the scan's number for its column. `numbers` says which scan each column holds, and they are "
                "not in order."),
        Mistake("batch position as column", lambda kept, numbers, asked, epoch: kept[epoch % len(kept), : len(asked)],
                "You give the first answers, whatever is asked. `asked` says which scans the batch holds."),
        Mistake("last view for ever", lambda kept, numbers, asked, epoch: _kept_answer(
                    kept, numbers, asked, min(epoch, len(kept) - 1)),
                "Right while the views last. After the last one they are shown again from the first on."),
        Mistake("no more views", lambda kept, numbers, asked, epoch: _kept_answer(kept, numbers, asked, epoch)
                if epoch < len(kept) else torch.zeros(len(asked), CLASSES),
                "In epoch 6 you have no answer. Four views were kept, and they are shown over and over."),
    ),
    passed="Every scan gets the answer to the view that the student sees.",
    otherwise="Got {got}, expected {wanted}. An answer belongs to a scan and to a view: which row and column is it?",
)  # fmt: skip


# --- 4. one list of patients -----------------------------------------------------------------------------------------


def _roles(patients: list[str], seed: int) -> dict[str, str]:
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names))
    test, validation = round(0.2 * len(names)), round(0.36 * len(names))
    return {names[k]: "test" if i < test else "validation" if i < validation else "train" for i, k in enumerate(order)}


def _dealt(names: list, seed: int | None) -> dict:
    order = np.random.default_rng(seed).permutation(len(names))
    slots = np.array(["test"] * 5 + ["validation"] * 4 + ["train"] * 16)
    return {names[k]: str(slots[i % 25]) for i, k in enumerate(order)}


_PATIENTS = [f"{name}/{number}" for name in ("NORMAL", "CNV", "DRUSEN") for number in range(1, 34)]  # not sorted
_SCANS = [patient for patient in _PATIENTS for _ in range(3)]  # one entry a scan


def _drawn_one_by_one(patients: list[str], seed: int) -> dict[str, str]:
    random = np.random.default_rng(seed)
    return {name: str(random.choice(["train", "validation", "test"], p=[0.64, 0.16, 0.20]))
            for name in sorted(set(patients))}  # fmt: skip


def _shared_out(patients: list[str], seed: int, test: float, to: float) -> dict[str, str]:
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names)) / len(names)
    return {name: "test" if k < test else "validation" if k < to else "train"
            for name, k in zip(names, order, strict=True)}  # fmt: skip


def _what_roles_do(answer: Callable) -> object:
    """Not the roles themselves, of which many are right, but which of the conditions on them do not hold."""
    first = answer(list(_SCANS), 1)
    if first is None or first is Ellipsis:
        return first
    if not isinstance(first, dict):
        return ["a dictionary of patients and roles"]
    turned, again, once = answer(_SCANS[::-1], 1), answer(list(_SCANS), 1), answer(list(_PATIENTS), 1)
    others = [answer(list(_SCANS), seed) for seed in (2, 3, 4)]
    many = [
        [list(roles.values()).count(role) for role in ("train", "validation", "test")] for roles in [first, *others]
    ]
    shares = np.array(many[0]) / max(len(first), 1)
    stages = (
        {
            "each patient once": sorted(map(str, first)) == sorted(_PATIENTS),
            "no role but train, validation and test": sum(many[0]) == len(first),
            "the same roles when called again": first == again,
            "the same roles in another order of the scans": first == turned,
            "the same roles with one scan of each patient": first == once,
            "other roles with another seed": first != others[0],
        },
        {"as many patients in each role with every seed": all(counts == many[0] for counts in many)},
        {
            "64% train": abs(shares[0] - 0.64) < 0.03,
            "16% validation": abs(shares[1] - 0.16) < 0.03,
            "20% test": abs(shares[2] - 0.20) < 0.03,
        },
    )
    for conditions in stages:
        if failed := [name for name, holds in conditions.items() if not holds]:
            return failed
    return []


check_roles = Check(
    "check_roles",
    right=_roles,
    observe=_what_roles_do,
    mistakes=(
        Mistake("order of appearance", lambda patients, seed: _dealt(list(dict.fromkeys(patients)), seed),
                "Turn the table round and the same seed gives other roles: a shuffle moves positions, not patients. "
                "Two scripts that list the patients differently would not agree."),
        Mistake("seed ignored", lambda patients, seed: _dealt(sorted(set(patients)), 0),
                "Every seed gives the same roles. A list that is only sorted and cut puts one class into test. "
                "Where does `seed` go in?"),
        Mistake("no seed", lambda patients, seed: _dealt(sorted(set(patients)), None),
                "Call it twice and the roles differ. Nothing fixes your shuffle."),
        Mistake("split by scan", lambda patients, seed: _dealt(
                    [f"{name}, scan {k}" for k, name in enumerate(patients)], seed),
                "Your keys are scans. A patient's scans would land in training and in test."),
        Mistake("scans shuffled, then named", lambda patients, seed: {
                    patients[k]: role for k, role in _dealt(list(range(len(patients))), seed).items()},
                "You deal out scans, and one of a patient's scans decides. Roles then hang on their number and on "
                "their order. Make the list of patients first, each once."),
        Mistake("half and half", lambda patients, seed: {
                    name: ("train", "test")[k % 2] for k, name in enumerate(
                        np.random.default_rng(seed).permutation(sorted(set(patients))).tolist())},
                "The order does not matter any more, but the shares are wrong, and there is no validation part."),
        Mistake("each scan dealt, in sorted order", lambda patients, seed: dict(zip(
                    sorted(patients), _dealt(list(range(len(patients))), seed).values(), strict=True)),
                "The order of the scans does not matter any more. But their number does: with one scan of each patient "
                "the roles are others. In your sorted list a patient stands several times."),
        Mistake("one draw for each patient", _drawn_one_by_one,
                "You draw a role for each patient. On average the shares are right; in a single split they are off, "
                "and with another seed by another amount. Deal a shuffled list out instead."),
        Mistake("60, 20 and 20", lambda patients, seed: _shared_out(patients, seed, 0.2, 0.4),
                "You deal out 60, 20 and 20%. That is not what was asked: the fifth for validation is taken from what "
                "test leaves."),
    ),
    passed="One list, one seed, one split: teacher and student cannot disagree.",
    otherwise="This does not hold: {got}. Checked are, in turn: each patient once, the same roles when called again, "
    "in another order and with fewer scans, other roles with another seed, and shares of 64, 16 and 20%.",
)  # fmt: skip
