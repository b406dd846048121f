"""Checks of notebook 03's exercises: weight decay, GRN, learning rates, averaged weights, accumulated gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from kdoct_utils.exercises.checking import Check
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.schedules import learning_rate_factor
from kdoct_utils.profiles import PROFILES


def _decided(answer: Callable[[str, Tensor], bool]) -> dict[str, str] | None:
    """What an answer says of every parameter of a small ConvNeXt V2, by name."""
    model = build_model(PROFILES["smoke"].teacher, 3, 1)
    said = {name: answer(name, parameter) for name, parameter in model.named_parameters()}
    if None in said.values():
        return None
    return {name: "decays" if decays else "does not decay" for name, decays in said.items()}


check_decays = Check(
    lambda name, parameter: parameter.ndim > 1,
    (lambda name, parameter: True,
     "Now everything decays, the gains of the norms too. Which parameters should be left alone?"),
    (lambda name, parameter: "bias" not in name and "norm" not in name,
     "Names mislead: grn.weight is a gain, stem.1.weight too. What do all gains and biases have in common?"),
    observe=_decided,
    passed="Matrices and kernels decay; gains and biases do not.",
    otherwise="Look at {where}: for you it {got}. What is it, the weight of a layer, a gain or a bias?",
)  # fmt: skip


def _timm_grn(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    layer = GlobalResponseNorm(len(gain), channels_last=False)
    return torch.func.functional_call(layer, {"weight": gain, "bias": offset}, x)


def _grn(places: tuple[int, int], maps: int) -> Callable:
    """GRN with lengths over these axes, their mean over that one, and the gain along the last axis."""

    def answer(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        length = x.norm(dim=places, keepdim=True)
        return x + gain * length / (length.mean(dim=maps, keepdim=True) + 1e-6) * x + offset

    return answer


_numbers = torch.Generator().manual_seed(3)
_maps = torch.randn(2, 5, 4, 5, generator=_numbers)  # as many maps as columns: a mix-up of axes runs, and is seen
_gain, _offset = torch.randn(2, 5, generator=_numbers)

check_grn = Check(
    _timm_grn,
    (_grn((1, 2), 3),
     "Right for (batch, height, width, maps). Here the maps stand on axis 1. Which axes are places?"),
    (_grn((2, 3), 1),
     "Lengths and shares are right. But a gain (maps,) is stretched along the last axis: which one is that?"),
    cases=[(_maps, _gain, _offset), (10 * _maps, _gain, _offset)],
    passed="Equal to timm's, with the maps on axis 1.",
    otherwise="The first numbers are {got}, not timm's. Check length, share, gain and offset one by one.",
)  # fmt: skip


def _right_factor(epoch: int, step: int, steps: int, epochs: int, warmup_epochs: int) -> float:
    return learning_rate_factor(epoch * steps + step, epochs * steps, warmup_epochs * steps, 0.0)


def _from_zero(epoch: int, step: int, steps: int, epochs: int, warmup_epochs: int) -> float:
    now, warm = epoch * steps + step, warmup_epochs * steps
    return now / warm if now < warm else _right_factor(epoch, step, steps, epochs, warmup_epochs)


check_factor = Check(
    _right_factor,
    (_from_zero,
     "Your first step has a learning rate of zero: a batch is spent and nothing is learned."),
    (lambda epoch, step, steps, epochs, warmup: _right_factor(epoch, 0, 1, epochs, warmup),
     "Your rate stands still for an epoch and then jumps. Count steps, not epochs, throughout."),
    cases=[(epoch, step, steps, epochs, warmup)  # two short trainings; the second has no warm-up
           for epochs, steps, warmup in ((6, 5, 2), (4, 3, 0)) for epoch in range(epochs) for step in range(steps)],
    passed="Up in equal steps, and down along half a cosine. Equal to the package's schedule.",
    otherwise="At the first step that differs you have {got}. Take 4 steps, of which 2 warm up, by hand.",
)  # fmt: skip

_Weights = dict[str, Tensor]


def _averaged(answer: Callable[[list[_Weights]], _Weights]) -> object:
    numbers = torch.Generator().manual_seed(7)
    given = [{"conv.weight": torch.randn(2, 3, generator=numbers), "bn.weight": torch.rand(2, generator=numbers),
              "bn.num_batches_tracked": torch.tensor(count)} for count in (40, 80, 125, 160)]  # fmt: skip
    mean = answer(given)
    return mean and {"mean": mean, "snapshots afterwards": given}


def _mean_of(snapshots: list[_Weights]) -> _Weights:
    """Mean of state_dicts, counters from the last."""
    return {name: torch.stack([snapshot[name] for snapshot in snapshots]).mean(dim=0)
            if value.is_floating_point() else value for name, value in snapshots[-1].items()}  # fmt: skip


def _moving_average(snapshots: list[_Weights]) -> _Weights:
    mean = snapshots[0]
    for snapshot in snapshots[1:]:
        mean = _mean_of([mean, snapshot])
    return mean


def _written_over(snapshots: list[_Weights]) -> _Weights:
    for name, value in _mean_of(snapshots).items():
        snapshots[0][name].copy_(value)
    return snapshots[0]


check_mean_of = Check(
    _mean_of,
    (_moving_average,
     "A moving average: the newest snapshot counts half. All should count the same: how far to move?"),
    (_written_over,
     "The mean is right, but the first snapshot has changed: you added to it in place. Copy first."),
    observe=_averaged,
    passed="Every snapshot counts the same, counters stay counters, and no snapshot was changed.",
    otherwise="The first part that differs is {where}: {got}. Try it with two snapshots, one of zeros and one of ones.",
)  # fmt: skip


def _tested(answer: Callable[[nn.Module, list[Tensor]], nn.Module]) -> object:
    """What BatchNorm holds of a network in train mode whose statistics belonged to other weights, and the mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        model[1].running_mean.fill_(2.0)
        model[1].running_var.fill_(9.0)
        ready = answer(model.train(), [5 * torch.rand(8, 1, 6, 6) - number for number in range(4)])
    if ready is None:
        return None
    return {"mean": ready[1].running_mean, "variance": ready[1].running_var, "in train mode": ready.training}


def _refreshed(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    update_bn(batches, model)
    return model


check_ready_to_test = Check(
    lambda model, batches: _refreshed(model, batches).eval(),
    (lambda model, batches: model.eval(),
     "The statistics are still the old ones. BatchNorm gathers them only in train mode."),
    (_refreshed, "The statistics are right. But at the test each batch's own would be used: in which mode is it?"),
    observe=_tested,
    passed="The statistics are those of the averaged weights, and the network is in eval mode.",
    otherwise="BatchNorm's statistics or the mode differ. {where}: {got}.",
)  # fmt: skip


def _trained(answer: Callable) -> list[Tensor] | None:
    """Weights after one epoch: 8 batches in groups of 3. The last group has two batches, the last batch two scans."""
    numbers = torch.Generator().manual_seed(5)
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 6, generator=numbers))
        model.bias.zero_()
    batches = [(torch.randn(n, 6, generator=numbers), torch.randint(3, (n,), generator=numbers))
               for n in (4, 4, 4, 4, 4, 4, 4, 2)]  # fmt: skip
    before = model.weight.detach().clone()
    answer(model, torch.optim.SGD(model.parameters(), lr=0.5), batches, 3)
    return None if torch.equal(before, model.weight) else [model.weight, model.bias]


def _epoch(share: Callable[[Tensor, list], Tensor], drop_last: bool = False) -> Callable:
    """An epoch of training. share: what a batch's losses (scans,) give, and the batches of its group."""

    def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list, accumulation: int) -> None:
        for start in range(0, len(batches), accumulation):
            group = batches[start : start + accumulation]
            for images, target in group:
                share(cross_entropy(model(images), target, reduction="none"), group).backward()
            if len(group) == accumulation or not drop_last:
                optimizer.step()
                optimizer.zero_grad()

    return train_one_epoch


def _of_the_scans(losses: Tensor, group: list) -> Tensor:
    return losses.sum() / sum(len(target) for _, target in group)


check_accumulation = Check(
    _epoch(_of_the_scans),
    (_epoch(lambda losses, group: losses.mean()),
     "Your steps are too long: backward() adds, so three batches give three times the gradient of one."),
    (_epoch(_of_the_scans, drop_last=True),
     "The last batches never reach the weights: their group is not full. The public code does the same."),
    (_epoch(lambda losses, group: losses.mean() / len(group)),
     "You average over batches. In the last group one batch is smaller, and each of its scans counts too much."),
    observe=_trained,
    passed="Every scan counts once, in every step: the same weights as with batches three times as large.",
    otherwise="After one epoch the weights differ: {got}. Try it by hand with a single group.",
)  # fmt: skip
