"""What happened in one training step, whatever its code looks like: so that a hint can name what went wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Witness"]


class Witness:
    """Watches one step until `leave`: who was asked what, in which mode, with a gradient or not, in which order.

    events: "gradient" and "update" as they come, the latter with a note where no gradient was known.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.asked: dict[str, list] = {"student": [], "teacher": []}
        self.events: list[str] = []
        weights = list(student.parameters())
        self._handles = [
            student.register_forward_hook(lambda *call: self._note("student", *call)),
            teacher.register_forward_hook(lambda *call: self._note("teacher", *call)),
            weights[-1].register_hook(lambda gradient: self.events.append("gradient")),
            optimizer.register_step_pre_hook(lambda *call: self._note_update(weights)),
        ]

    def _note(self, who: str, network: nn.Module, inputs: tuple, output: Tensor) -> None:
        modes = {module.training for module in network.modules()}
        self.asked[who].append((inputs[0].detach().clone(), modes, output.requires_grad))

    def _note_update(self, weights: list[Tensor]) -> None:
        known = any(weight.grad is not None and bool(weight.grad.any()) for weight in weights)
        self.events.append("update" if known else "update without a gradient")

    def leave(self) -> None:
        for handle in self._handles:
            handle.remove()

    def wrong(self, scans: Tensor) -> str:
        """The first thing that does not hold, "" where all does. It comes before any number."""
        told, said = self.asked["teacher"], self.asked["student"]
        if not told or not said:
            return "nobody was asked" if not told and not said else f"{'student' if told else 'teacher'} not asked"
        if all(torch.equal(seen, scans) for seen, *_ in told + said):
            return "no view"
        for who, asked in (("teacher", told), ("student", said)):
            if any(torch.equal(seen, scans) for seen, *_ in asked):
                return f"{who} sees the stored scans"
        if not all(torch.equal(seen, said[0][0]) for seen, *_ in told + said):
            return "different views"
        if any(True in modes for _, modes, _ in told):
            return "teacher in training mode"
        if any(False in modes for _, modes, _ in said):
            return "student in evaluation mode"
        if not any(recorded for *_, recorded in said):
            return "student without a gradient"
        return "teacher with a gradient" if any(recorded for *_, recorded in told) else ""
