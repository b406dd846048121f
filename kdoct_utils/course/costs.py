"""What a profile costs: parameters, arithmetic and memory counted from its networks, and days on a graphics card.

The networks are built on torch's meta device, which has shapes and no numbers: counting takes seconds and no memory.
Days are an estimate: the counted arithmetic over a stated share of the card's published speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdoct_utils.datasets import DATASETS
from kdoct_utils.profiles import ModelConfig, Profile, TrainingConfig

NEH_SCANS = DATASETS["neh"].published_counts["worst-case rows"]  # 12,649 B-scans: those that the paper tests on
FOLDS = 5
TRAIN_SHARE, VALIDATION_SHARE = 0.64, 0.16  # of the scans in each fold
# With a head of three classes, as published: millions and the digits that are printed. KD-OCT, arXiv 2512.09069.
PUBLISHED_PARAMETERS = {"convnextv2_large": (196.42, 2), "efficientnet_b2": (7.705, 3)}
# Share of a card's half-precision peak that training reaches, (low, high), by the family of the network. High: from
# timm's published training speeds on an RTX 3090 (71 TFLOPS) with large batches, ConvNeXt-L at 384 px 63.85 images/s
# (.54) and EfficientNet-B2 at 256 px 978.7 images/s (.07). Low: an assumption, for small batches and for cards whose
# arithmetic outruns their memory.
# Source: huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv.
UTILIZATION = {"convnextv2": (0.2, 0.54), "efficientnet": (0.03, 0.07)}
CALL_SECONDS = (10e-6, 5e-6)  # assumed: what one operation costs the CPU that starts it, (slow, fast)
MEMORY_MARGIN = (1.0e9, 1.15)  # assumed: CUDA's own bytes, and a factor for workspaces and fragmentation


@dataclass(frozen=True)
class GPU:
    """A graphics card. tflops: dense half precision with 32-bit sums, 10^12 operations a second; memory in GB."""

    name: str
    tflops: float
    memory_gb: float
    bf16: bool = True


# NVIDIA's data sheets (T4, V100, L4, L40S, A100, H100, H200) and architecture white papers (GA102 for the RTX 3090,
# Ada for the RTX 4090); where a sheet gives the sparse speed, half of it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("T4", 65, 16, bf16=False),
        GPU("V100", 125, 32, bf16=False),
        GPU("RTX3090", 71, 24),
        GPU("RTX4090", 165, 24),
        GPU("L4", 121, 24),
        GPU("L40S", 362, 48),
        GPU("A100-40", 312, 40),
        GPU("A100-80", 312, 80),
        GPU("H100", 989, 80),
        GPU("H200", 989, 141),
    )
}


def get_gpu(name: str) -> GPU:
    """The card of that name, in capitals or not. Raises ValueError, with the valid names, for any other."""
    for known, gpu in GPUS.items():
        if known.lower() == name.lower():
            return gpu
    raise ValueError(f"unknown GPU {name!r}; valid GPUs: {', '.join(GPUS)}")


@dataclass(frozen=True)
class NetworkCost:
    """Counted from one network. FLOPs are of one image (a multiplication and an addition are two), calls are the
    operations that a batch of any size starts one by one; activations are the bytes that the forward pass of one
    image keeps for the backward pass, all in float32. training: forward and backward."""

    architecture: str
    parameters: int
    forward_flops: float
    training_flops: float
    forward_calls: int
    training_calls: int
    activation_bytes: float

    def seconds(self, gpu: GPU, batch_size: int, training: bool, bound: int) -> float:
        """Of an image on that card, in batches: its arithmetic, or starting its operations if that takes longer.

        bound: 0 for the slow end of the assumptions, 1 for the fast end.
        """
        flops = self.training_flops if training else self.forward_flops
        calls = self.training_calls if training else self.forward_calls
        share = UTILIZATION[self.architecture.split("_")[0]][bound]
        return max(flops / (share * gpu.tflops * 1e12), calls * CALL_SECONDS[bound] / batch_size)


def profile_costs(profile: Profile) -> dict[str, NetworkCost]:
    """Costs of "teacher" and "student" of a profile, each with a head of three classes."""
    networks = {"teacher": profile.teacher, "student": profile.student}
    return {role: count_network(config, profile.channels, profile.image_size) for role, config in networks.items()}


def training_of(profile: Profile, role: str) -> TrainingConfig:
    """How the network in that role is trained."""
    return profile.teacher_training if role == "teacher" else profile.student_training


def count_network(config: ModelConfig, channels: int, image_size: int, classes: int = 3) -> NetworkCost:
    """Count one network in training mode, without its numbers. Imports torch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kdoct_utils.learn.models import build_model, count_parameters

    batch = 2  # BatchNorm wants more than one number a channel
    with torch.device("meta"):
        model = build_model(config, classes, channels).train()
        images = torch.empty(batch, channels, image_size, image_size)
    held, calls = SavedBytes(model), _call_counter()
    backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=backward) as flops, calls:
        with held:
            logits = model(images)
        forward = flops.get_total_flops(), calls.count
        logits.sum().backward()
    return NetworkCost(
        architecture=config.architecture,
        parameters=count_parameters(model),
        forward_flops=forward[0] / batch,
        training_flops=flops.get_total_flops() / batch,
        forward_calls=forward[1],
        training_calls=calls.count,
        activation_bytes=held.total() / batch,
    )


def _call_counter():
    """A context that counts the operations which do work: views of a tensor are not among them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += not function.is_view
            return function(*args, **kwargs or {})

    return Calls()


def _convolution_backward_flops(gradient, image, weight, *rest, out_shape=None, **_) -> int:
    """Each gradient of a convolution costs what the convolution did. All arguments but the last are shapes or plain.

    torch's own formula leaves out the groups: it counts a depthwise convolution's weight gradient as a dense one's.
    """
    from torch.utils.flop_counter import conv_flop_count

    transposed, output_mask = rest[4], rest[7]
    return sum(output_mask[:2]) * conv_flop_count(image, weight, gradient, transposed=transposed)


class SavedBytes:
    """Context in which what a model's forward pass keeps for its backward pass is added up, each storage once.

    The model's own parameters are left out; half-precision copies of them are not.
    """

    def __init__(self, model):
        self._own = {id(storage): storage for storage in (one.untyped_storage() for one in model.parameters())}
        self._kept: dict[int, object] = {}
        self._sizes: dict[int, int] = {}
        self._hooks = None

    def __enter__(self) -> SavedBytes:
        from torch.autograd.graph import saved_tensors_hooks

        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)
        self._kept.clear()

    def _note(self, tensor):
        storage = tensor.untyped_storage()  # one object for all views of it, while that object is kept
        if id(storage) not in self._own:
            self._kept[id(storage)], self._sizes[id(storage)] = storage, storage.nbytes()
        return tensor

    def total(self) -> int:
        """Bytes noted so far."""
        return sum(self._sizes.values())


def memory_parts(
    profile: Profile, role: str, costs: dict[str, NetworkCost], batch_size: int, activation_bytes: float | None = None
) -> dict[str, float]:
    """Bytes that training holds at its peak, by what they are for. All but activations follow from the parameters.

    activation_bytes: measured for that batch; None: counted, all in float32, which is more than mixed precision needs.
    """
    training, mine = training_of(profile, role), costs[role]
    parts = {
        "weights": 4.0 * mine.parameters,
        "gradients": 4.0 * mine.parameters,
        "AdamW's two averages": 8.0 * mine.parameters,
        "the best weights so far": 4.0 * mine.parameters,
    }
    if training.swa_learning_rate is not None:
        parts["averaged weights (SWA)"] = 4.0 * mine.parameters
    if role == "student":
        parts["the teacher's weights"] = 4.0 * costs["teacher"].parameters
    if activation_bytes is None:
        activation_bytes = mine.activation_bytes * batch_size
        if training.precision != "no":
            activation_bytes += 2.0 * mine.parameters  # the weights in half precision
    return parts | {"activations": float(activation_bytes)}


def gpu_memory_needed(parts: dict[str, float]) -> float:
    """Bytes of a card for these parts, with the assumed margin."""
    fixed, factor = MEMORY_MARGIN
    return fixed + factor * sum(parts.values())


def images_seen(profile: Profile, role: str, scans: int = NEH_SCANS) -> tuple[float, float]:
    """Images of the five folds that are trained on and that are validated on, if no training stops early."""
    epochs = FOLDS * training_of(profile, role).epochs
    return epochs * TRAIN_SHARE * scans, epochs * VALIDATION_SHARE * scans


def gpu_days(profile: Profile, costs: dict[str, NetworkCost], gpu: GPU, scans: int = NEH_SCANS) -> dict[str, list]:
    """[shortest, longest] days of the five folds for teacher and student on that card, under the assumptions above."""
    days: dict[str, list] = {}
    for role, mine in costs.items():
        trained, validated = images_seen(profile, role, scans)
        batch, days[role] = training_of(profile, role).batch_size, []
        for bound in (1, 0):
            an_image = mine.seconds(gpu, batch, True, bound)
            if role == "student":
                an_image += costs["teacher"].seconds(gpu, batch, False, bound)  # the live teacher
            seconds = trained * an_image + validated * mine.seconds(gpu, batch, False, bound)
            days[role].append(seconds / 86_400)
    return days


def days_at(profile: Profile, role: str, images_per_second: float, scans: int = NEH_SCANS) -> float:
    """Days of the five folds at a measured training speed; a validated image is counted as a third of a trained one."""
    trained, validated = images_seen(profile, role, scans)
    return (trained + validated / 3) / images_per_second / 86_400
