"""A profile at its true size, on this machine and on a named graphics card.

Counted: parameters, arithmetic, memory. Measured: true optimizer steps of teacher and student. Estimated from both:
whether the profile fits a card, and how long the five folds would take. Torch is imported where it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import psutil

from kdoct_utils.course.check import GB, Check, gpu_memory, memory_limit, needs_gpu
from kdoct_utils.course.costs import (
    CALL_SECONDS,
    GPU,
    GPUS,
    NEH_SCANS,
    PUBLISHED_PARAMETERS,
    UTILIZATION,
    NetworkCost,
    days_at,
    get_gpu,
    gpu_days,
    gpu_memory_needed,
    memory_parts,
    profile_costs,
    training_of,
)
from kdoct_utils.profiles import Profile, get_profile

if TYPE_CHECKING:
    from kdoct_utils.course.stretch import Stretch

PROCESS_BYTES = 0.8e9  # Python with torch, before any network
STEPS_ON_CPU, STEPS_ON_GPU = 1, 20  # a step of the paper's teacher is minutes on a CPU; a GPU has to warm up first


@dataclass(frozen=True)
class Measured(Check):
    """A check with its numbers, for a program."""

    numbers: dict = field(default_factory=dict)


def scale_checks(
    profile: str | Profile,
    steps: int | None = None,
    gpu: str | None = None,
    run: Callable[..., Stretch] | None = None,
) -> Iterator[Check]:
    """What a profile takes, line by line as it becomes known; nothing for a small profile unless ``steps`` are given.

    steps: optimizer steps to take with each network; 0 for none; None: one on a CPU, twenty on a GPU, and none with a
    profile that needs no GPU. gpu: a name in costs.GPUS; None lists them all. run: takes the steps; None:
    stretch.run_apart. Raises ValueError for an unknown profile or GPU, or negative steps.
    """
    profile = get_profile(profile) if isinstance(profile, str) else profile
    cards = [get_gpu(gpu)] if gpu else list(GPUS.values())
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    if not steps and not needs_gpu(profile) and not gpu:
        return
    costs = profile_costs(profile)
    yield from (check_parameters(role, costs[role]) for role in costs)
    if steps is None:
        steps = 0 if not needs_gpu(profile) else STEPS_ON_CPU if gpu_memory() is None else STEPS_ON_GPU
    measured: dict[str, Stretch] = {}
    if steps:
        for role in costs:
            check = check_steps(profile, role, costs, steps, run)
            yield check
            if check.ok:
                measured[role] = check.numbers["stretch"]
        if len(measured) == len(costs):
            yield check_days_here(profile, measured)
    for card in cards:
        yield check_card(profile, costs, card, measured, asked=gpu is not None)
    yield assumptions(bool(measured))


def check_parameters(role: str, cost: NetworkCost) -> Check:
    """The network has as many parameters as published, to the printed digits; just their number where none are."""
    found = cost.parameters / 1e6
    numbers = {"architecture": cost.architecture, "parameters": cost.parameters}
    if cost.architecture not in PUBLISHED_PARAMETERS:
        return Measured(role, True, f"{cost.architecture}, {found:.2f} M parameters with 3 classes", "", numbers)
    published, digits = PUBLISHED_PARAMETERS[cost.architecture]
    same = round(found, digits) == published
    told = f"{cost.architecture}, {found:.{digits}f} M parameters with 3 classes, "
    told += "as published" if same else f"where {published} M are published"
    return Measured(role, same, told, "This is another network: install timm as environment.yml asks", numbers)


def check_steps(
    profile: Profile, role: str, costs: dict[str, NetworkCost], steps: int, run: Callable[..., Stretch] | None = None
) -> Check:
    """Take true optimizer steps of one network, with as many images a forward pass as the memory holds."""
    from kdoct_utils.course.stretch import StretchError, run_apart

    training, name = training_of(profile, role), f"{role} steps"
    free = free_memory()
    batch = largest_batch(profile, role, costs, free)
    if batch is None:
        needed = memory_needed_here(profile, role, costs, 1)
        return Measured(
            name, False, f"{free / GB:.1f} GB free, one image at a time needs {needed / GB:.1f} GB",
            f"Free {(needed - free) / GB:.1f} GB, use a machine with more memory, or pass --no-step",
        )  # fmt: skip
    accumulation = training.accumulation * training.batch_size // batch
    print(f"training the {role} for {steps} optimizer step(s): minutes on a CPU", file=sys.stderr, flush=True)
    try:
        stretch = (run or run_apart)(profile, role, steps, batch, accumulation)
    except StretchError as error:
        return Measured(name, False, f"{error}", "Free some memory, or pass --no-step")
    return Measured(name, True, told_stretch(profile, stretch), "", {"stretch": stretch})


def told_stretch(profile: Profile, stretch: Stretch) -> str:
    """One line on a stretch."""
    training = training_of(profile, stretch.role)
    kind = "focal loss" if stretch.role == "teacher" else "distillation from the live teacher"
    fewer = "" if stretch.batch_size == training.batch_size else f", the profile's batch of {training.batch_size}"
    fewer += " does not fit the free memory" if fewer else ""
    where = "this CPU" if stretch.device == "cpu" else stretch.device
    return (
        f"{stretch.steps} of {stretch.accumulation} x {stretch.batch_size} scans at {profile.image_size} px ({kind}; "
        f"{stretch.precision} on {where}; random start weights, no model hub asked{fewer}): {stretch.seconds:.3g} s a "
        f"step, {stretch.images_per_second:.3g} images/s, peak {stretch.peak_bytes / GB:.1f} GB, of which "
        f"{stretch.activation_bytes / GB:.2f} GB activations"
    )


def free_memory() -> int:
    """Bytes that training may take now: of the GPU, or of this machine where there is none."""
    gpu = gpu_memory()
    return gpu[1] if gpu else min(psutil.virtual_memory().available, memory_limit())


def memory_needed_here(profile: Profile, role: str, costs: dict[str, NetworkCost], batch_size: int) -> float:
    """Bytes for training steps with that batch: more than they will take, as all activations count as float32."""
    parts = memory_parts(profile, role, costs, batch_size)
    return gpu_memory_needed(parts) if gpu_memory() else PROCESS_BYTES + sum(parts.values())


def largest_batch(profile: Profile, role: str, costs: dict[str, NetworkCost], free: float) -> int | None:
    """The profile's batch, or its half, quarter, ... that fits; None where a single image does not."""
    batch = training_of(profile, role).batch_size
    while memory_needed_here(profile, role, costs, batch) > free:
        if batch % 2:
            return None
        batch //= 2
    return batch


def check_days_here(profile: Profile, measured: dict[str, Stretch]) -> Check:
    """How long the five folds would take at the measured speed."""
    days = {role: days_at(profile, role, stretch.images_per_second) for role, stretch in measured.items()}
    told = ", ".join(f"{role} {duration(value)}" for role, value in days.items())
    return Measured("five folds here", True, f"at most {told}, at the measured speed", "", {"days": days})


def check_card(
    profile: Profile, costs: dict[str, NetworkCost], card: GPU, measured: dict[str, Stretch], asked: bool
) -> Check:
    """Whether a card holds the profile, and how long the five folds take there. A card that nobody asked for is told
    about, whatever the answer."""
    needed = {role: card_memory(profile, role, costs, measured.get(role)) for role in costs}
    days = gpu_days(profile, costs, card)
    low, high = (max(bounds[end] for bounds in needed.values()) / GB for end in (0, 1))
    verdict = "fits" if high <= card.memory_gb else "may fit" if low <= card.memory_gb else "does not fit"
    runs = card.bf16 or "bf16" not in {training_of(profile, role).precision for role in costs}
    told = "; ".join(
        f"{role} {between(*(bound / GB for bound in needed[role]))} GB, {duration(days[role][0])} to "
        f"{duration(days[role][1])}"
        for role in costs
    )
    return Measured(
        f"on {card.name}",
        (verdict == "fits" and runs) or not asked,
        f"{card.memory_gb} GB, {card.tflops:g} TFLOPS: {verdict}{'' if runs else ', but it has no bf16'}; {told}",
        "Choose a larger or newer card (all are listed without --gpu), or a smaller profile",
        {"card": asdict(card), "verdict": verdict, "runs": runs, "memory_bytes": needed, "days": days},
    )


def card_memory(
    profile: Profile, role: str, costs: dict[str, NetworkCost], stretch: Stretch | None
) -> tuple[float, float]:
    """(least, most) bytes of a card for one training. Most: all activations in float32. Least: as measured, which on
    a CPU keeps more of them in half precision than CUDA will; equal to most where nothing was measured."""
    batch = training_of(profile, role).batch_size
    bounds = [measured_activations(profile, costs, stretch), None]
    if stretch and stretch.device != "cpu":
        bounds[1] = bounds[0]
    low, high = (gpu_memory_needed(memory_parts(profile, role, costs, batch, held)) for held in bounds)
    return low, high


def measured_activations(profile: Profile, costs: dict[str, NetworkCost], stretch: Stretch | None) -> float | None:
    """Bytes of activations at the profile's batch, from a stretch that may have had a smaller one; None where there
    is none, or where it computed in another precision than the profile asks for."""
    if stretch is None:
        return None
    training, mixed = training_of(profile, stretch.role), stretch.precision != "float32"
    if (training.precision != "no") != mixed:
        return None
    copies = 2.0 * costs[stretch.role].parameters if mixed else 0.0  # weights in half precision, whatever the batch
    return copies + (stretch.activation_bytes - copies) * training.batch_size / stretch.batch_size


def between(low: float, high: float) -> str:
    """Two numbers as a range, or as one where they print the same."""
    ends = f"{low:.1f}", f"{high:.1f}"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def duration(days: float) -> str:
    """Days in the unit that suits them."""
    if days < 2 / 24:
        return f"{1440 * days:.2g} min"
    if days < 2:
        return f"{24 * days:.1f} h"
    return f"{days:,.0f} days" if days < 1000 else f"{days / 365:,.0f} years"


def assumptions(measured: bool) -> Check:
    """What the estimates rest on."""
    shares = ", ".join(f"{family} {low:g} to {high:g}" for family, (low, high) in UTILIZATION.items())
    slow, fast = (1e6 * seconds for seconds in CALL_SECONDS)
    activations = "all in float32, which is too much"
    if measured:
        activations = "from those measured in the profile's precision to all in float32"
    return Check(
        "assumed",
        True,
        f"NEH, {NEH_SCANS:,} scans, five folds, no early stop; share of a card's dense half-precision speed: {shares}; "
        f"at least {fast:g} to {slow:g} microseconds an operation; activations {activations}; 15 % and 1 GB of margin",
    )


