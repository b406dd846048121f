"""Checks of notebook 03's exercises: weight decay, GRN, learning rates, averaged weights, accumulated gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.schedules import learning_rate_factor
from kdoct_utils.profiles import PROFILES

__all__ = ["check_accumulation", "check_decays", "check_factor", "check_grn", "check_mean_of", "check_ready_to_test"]

# --- weight decay ----------------------------------------------------------------------------------------------------


def _decided(answer: Callable[[str, Tensor], bool]) -> list:
    """What an answer says of every parameter of a small ConvNeXt V2, by name."""
    model = build_model(PROFILES["smoke"].teacher, 3, 1)
    said = [(name, answer(name, parameter)) for name, parameter in model.named_parameters()]
    if all(value is None or value is Ellipsis for _, value in said):
        return [value for _, value in said]
    return [f"{name}: {'decays' if value else 'no decay'}" for name, value in said]


check_decays = Check(
    "check_decays",
    right=lambda name, parameter: parameter.ndim > 1,
    observe=_decided,
    mistakes=(
        Mistake("everything decays", lambda name, parameter: True,
                "Now everything decays, the gains of the norms too. Which parameters should be left alone?"),
        Mistake("only biases are spared", lambda name, parameter: "bias" not in name,
                "The biases are spared. But a norm has a gain as well, and its name ends in weight."),
        Mistake("told by the name", lambda name, parameter: "bias" not in name and "norm" not in name,
                "Names mislead: grn.weight is a gain, and so is stem.1.weight, the gain of a LayerNorm without a name "
                "of its own. What do all gains and biases have in common, whatever they are called?"),
        Mistake("the other way round", lambda name, parameter: parameter.ndim <= 1,
                "The right property, the wrong way round: now the vectors decay and the matrices do not."),
    ),
    passed="Matrices and kernels decay; gains and biases do not.",
    otherwise="Look at one of them: you say {got}; the recipe says {wanted}.",
)  # fmt: skip

# --- global response normalization -----------------------------------------------------------------------------------

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def _timm_grn(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    layer = GlobalResponseNorm(len(gain), channels_last=False).requires_grad_(False)
    layer.weight.copy_(gain)
    layer.bias.copy_(offset)
    return layer(x)


def _grn(length: Callable[[Tensor], Tensor], mean: Callable[[Tensor], Tensor], keep: float = 1.0) -> Layer:
    """GRN over maps on axis 1 with these lengths and means. keep: of what was put in."""

    def apply(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        lengths = length(x)
        share = lengths / (mean(lengths) + 1e-6)
        return keep * x + gain.view(1, -1, 1, 1) * share * x + offset.view(1, -1, 1, 1)

    return apply


def _over_places(x: Tensor) -> Tensor:
    return x.norm(dim=(2, 3), keepdim=True)


def _over_maps(lengths: Tensor) -> Tensor:
    return lengths.mean(dim=1, keepdim=True)


def _channels_last_grn(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    lengths = x.norm(dim=(1, 2), keepdim=True)
    return x + gain * (lengths / (lengths.mean(dim=-1, keepdim=True) + 1e-6) * x) + offset


def _gain_along_the_width(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    lengths = _over_places(x)
    return x + gain * (lengths / (_over_maps(lengths) + 1e-6)) * x + offset


_numbers = torch.Generator().manual_seed(3)
_maps = torch.randn(2, 5, 4, 5, generator=_numbers)  # as many maps as columns: a mix-up of axes runs, and is seen
_gain, _offset = torch.randn(2, 5, generator=_numbers)

check_grn = Check(
    "check_grn",
    right=_timm_grn,
    observe=applied_to((_maps, _gain, _offset), (10 * _maps, _gain, _offset)),
    mistakes=(
        Mistake("the notebook's axes", _channels_last_grn,
                "Right for (batch, height, width, maps). Here the maps stand on axis 1. Which axes are places?"),
        Mistake("gain along the width", _gain_along_the_width,
                "Lengths and shares are right. But a gain of shape (maps,) is stretched along the last axis, and the "
                "last axis is the width. Give gain and offset a shape that puts them on axis 1."),
        Mistake("without the input", _grn(_over_places, _over_maps, keep=0.0),
                "Something is lost: with gain and offset at zero GRN must pass its input on."),
        Mistake("mean over the batch", _grn(_over_places, torch.Tensor.mean),
                "Your mean mixes the scans of the batch, so a scan's answer would depend on its neighbors. Average "
                "over the maps of each scan."),
        Mistake("length over the maps", _grn(lambda x: x.norm(dim=1, keepdim=True), lambda x: x.mean((2, 3), True)),
                "You took a length at each place, over the maps. GRN wants one for each map, over all places."),
    ),
    passed="Equal to timm's, with the maps on axis 1.",
    otherwise="The first numbers differ: {got} in place of {wanted}. Check length, share, gain and offset one by one.",
)  # fmt: skip

# --- learning rate ---------------------------------------------------------------------------------------------------

Factor = Callable[[int, int, int, int, int], float]


def _whole_schedules(answer: Factor) -> list:
    """The factor at every step of two short trainings; the second has no warm-up."""
    trainings = ((6, 5, 2), (4, 3, 0))  # epochs, steps an epoch, epochs of warm-up
    return [answer(epoch, step, steps, epochs, warmup)
            for epochs, steps, warmup in trainings for epoch in range(epochs) for step in range(steps)]  # fmt: skip


def _right_factor(epoch: int, step: int, steps: int, epochs: int, warmup_epochs: int) -> float:
    return learning_rate_factor(epoch * steps + step, epochs * steps, warmup_epochs * steps, 0.0)


def _cosine(now: float, start: float, end: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (now - start) / (end - start)))


def _counting(warm_up: Callable[[int, int], float], cosine_from_zero: bool = False) -> Factor:
    """A schedule by steps with this warm-up."""

    def factor(epoch: int, step: int, steps: int, epochs: int, warmup_epochs: int) -> float:
        now, total, warm = epoch * steps + step, epochs * steps, warmup_epochs * steps
        return warm_up(now, warm) if now < warm else _cosine(now, 0 if cosine_from_zero else warm, total)

    return factor


check_factor = Check(
    "check_factor",
    right=_right_factor,
    observe=_whole_schedules,
    mistakes=(
        Mistake("starts at zero", _counting(lambda now, warm: now / warm),
                "Your first step has a learning rate of zero: a batch is spent and nothing is learned."),
        Mistake("peak one step early", _counting(lambda now, warm: (now + 1) / warm),
                "Your last warm-up step already has the full rate. The first step after the warm-up should be the "
                "first to have it."),
        Mistake("no warm-up", lambda e, s, steps, epochs, warm: _cosine(e * steps + s, 0, epochs * steps),
                "A clean cosine, but it starts at its peak: the warm-up is missing."),
        Mistake("cosine from the first step", _counting(lambda now, warm: (now + 1) / (warm + 1), True),
                "There is a jump where the warm-up ends. The cosine has been running since step 0; it should start "
                "when the warm-up is over."),
        Mistake("a staircase", lambda e, s, steps, epochs, warm: _right_factor(e, 0, 1, epochs, warm),
                "Your rate stands still for an epoch and then jumps. Count steps, not epochs, throughout."),
    ),
    passed="Up in equal steps, and down along half a cosine. Equal to the package's schedule.",
    otherwise="At the first step that differs you have {got}, and the schedule has {wanted}.",
)  # fmt: skip

# --- averaged weights ------------------------------------------------------------------------------------------------

Weights = dict[str, Tensor]


def _snapshots() -> list[Weights]:
    numbers = torch.Generator().manual_seed(7)
    return [{"conv.weight": torch.randn(2, 3, generator=numbers), "bn.weight": torch.rand(2, generator=numbers),
             "bn.num_batches_tracked": torch.tensor(count)} for count in (40, 80, 125, 160)]  # fmt: skip


def _averaged(answer: Callable[[list[Weights]], Weights]) -> object:
    given = _snapshots()
    mean = answer(given)
    return mean if mean is None or mean is Ellipsis else {"mean": mean, "snapshots afterwards": given}


def _running(weight: Callable[[int], float], copied: bool = True, counters: bool = False) -> Callable:
    """A running average that moves by weight(number of the snapshot, from 1) towards each snapshot."""

    def mean_of(snapshots: list[Weights]) -> Weights:
        mean = {name: value.clone() if copied else value for name, value in snapshots[0].items()}
        for number, snapshot in enumerate(snapshots[1:], start=2):
            for name, value in snapshot.items():
                if value.is_floating_point() or counters:
                    step = (value - mean[name]) * weight(number)
                    mean[name] = mean[name] + step if copied else mean[name].add_(step)
                else:
                    mean[name] = value
        return mean

    return mean_of


check_mean_of = Check(
    "check_mean_of",
    right=_running(lambda number: 1 / number),
    observe=_averaged,
    mistakes=(
        Mistake("moving average", _running(lambda number: 0.5),
                "This is a moving average: the newest snapshot counts half, whatever came before. All should count "
                "the same, so the step must shrink as more snapshots come."),
        Mistake("counted from one too few", _running(lambda number: 1 / (number - 1)),
                "The first snapshot has vanished from your mean. Which number has the second snapshot, and how large "
                "is its share?"),
        Mistake("counted from one too many", _running(lambda number: 1 / (number + 1)),
                "The first snapshot counts too much. Which number has the second one, and what is its share?"),
        Mistake("written over", _running(lambda number: 1 / number, copied=False),
                "The mean is right, but the first snapshot has changed: you added to it in place. Copy first."),
        Mistake("counters averaged", _running(lambda number: 1 / number, counters=True),
                "The weights are right. But num_batches_tracked counts batches; a count is not a weight, and it must "
                "stay a whole number. Take the last snapshot's."),
    ),
    passed="Every snapshot counts the same, counters stay counters, and no snapshot was changed.",
    otherwise="The first part that differs is {got}; it should be {wanted}.",
)  # fmt: skip


def _stale_network() -> tuple[nn.Module, list[Tensor]]:
    """A network in train mode whose BatchNorm statistics belong to other weights, and batches to gather them on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        model[1].running_mean.fill_(2.0)
        model[1].running_var.fill_(9.0)
        return model.train(), [5 * torch.rand(8, 1, 6, 6) - number for number in range(4)]


def _tested(answer: Callable[[nn.Module, list[Tensor]], nn.Module]) -> object:
    model, batches = _stale_network()
    ready = answer(model, batches)
    if ready is None or ready is Ellipsis:
        return ready
    norm = ready[1]
    return {"mean": norm.running_mean.clone(), "variance": norm.running_var.clone(), "in train mode": ready.training}


def _refreshed(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    update_bn(batches, model)
    return model


def _passed_through(model: nn.Module, batches: Iterable[Tensor], reset: bool = False) -> nn.Module:
    """Statistics by ordinary passes in train mode, BatchNorm's momentum as it is."""
    for module in model.modules():
        if reset and isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return model.eval()


check_ready_to_test = Check(
    "check_ready_to_test",
    right=lambda model, batches: _refreshed(model, batches).eval(),
    observe=_tested,
    mistakes=(
        Mistake("not gathered", lambda model, batches: model.eval(),
                "The statistics are still the old ones. BatchNorm gathers them only in train mode."),
        Mistake("left in train mode", _refreshed,
                "The statistics are right. But the network is handed back in train mode: at the test it would use "
                "each batch's own statistics."),
        Mistake("mixed with the old", _passed_through,
                "A share of the old statistics is left: at momentum 0.1 they fade slowly. Forget them first."),
        Mistake("late batches count more", lambda model, batches: _passed_through(model, batches, reset=True),
                "Forgotten first, good. But at momentum 0.1 part of the reset value is left, and late batches count "
                "more than early ones. All batches should count the same: look at what momentum=None does."),
    ),
    passed="The statistics are those of the averaged weights, and the network is in eval mode.",
    otherwise="BatchNorm's statistics or the mode differ: you have {got}, wanted is {wanted}.",
)  # fmt: skip

# --- accumulated gradients -------------------------------------------------------------------------------------------

Batches = list[tuple[Tensor, Tensor]]


def _trained(answer: Callable[[nn.Module, Optimizer, Batches, int], None]) -> object:
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
    return ... if torch.equal(before, model.weight) else [model.weight.detach().clone(), model.bias.detach().clone()]


def _epoch(share: Callable[[Tensor, list, int], Tensor], drop_last: bool = False, forget: bool = True) -> Callable:
    """An epoch of training. share: what a batch's losses (scans,) give, from its group and a full group's size."""

    def train_one_epoch(model: nn.Module, optimizer: Optimizer, batches: Batches, accumulation: int) -> None:
        for start in range(0, len(batches), accumulation):
            group = batches[start : start + accumulation]
            for images, target in group:
                losses = cross_entropy(model(images), target, reduction="none")
                share(losses, group, accumulation).backward()
            if drop_last and len(group) < accumulation:
                return
            optimizer.step()
            if forget:
                optimizer.zero_grad()

    return train_one_epoch


def _of_the_scans(losses: Tensor, group: list, accumulation: int) -> Tensor:
    return losses.sum() / sum(len(target) for _, target in group)


check_accumulation = Check(
    "check_accumulation",
    right=_epoch(_of_the_scans),
    observe=_trained,
    mistakes=(
        Mistake("loss not divided", _epoch(lambda losses, group, accumulation: losses.mean()),
                "Your steps are too long: backward() adds, so three batches give three times the gradient of one."),
        Mistake("last group dropped", _epoch(_of_the_scans, drop_last=True),
                "The first groups are right, but the last batches never reach the weights: their group is not full, "
                "and no step is made for it. The public code does the same."),
        Mistake("always divided by the full size", _epoch(lambda losses, group, full: losses.mean() / full),
                "The last group's step is too short. It has fewer batches than the others."),
        Mistake("mean over batches", _epoch(lambda losses, group, full: losses.mean() / len(group)),
                "You average over batches. In the last group one batch is smaller, and each of its scans counts too "
                "much. Average over scans."),
        Mistake("gradients kept", _epoch(_of_the_scans, forget=False),
                "Each step still holds the gradients of all steps before it. When are they set to zero?"),
    ),
    passed="Every scan counts once, in every step: the same weights as with batches three times as large.",
    otherwise="After one epoch the weights differ: {got} in place of {wanted}. Try it by hand with a single group.",
)  # fmt: skip
