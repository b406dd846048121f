"""Teacher and student networks, built by timm from a profile.

Three EfficientNets small enough for a laptop are registered with timm beside the published ones, so that every
profile pairs a ConvNeXtV2 teacher with an EfficientNet student.

Sources: Woo et al. 2023 (ConvNeXt V2), Tan and Le 2019 (EfficientNet), Liu 2020 (EfficientNet-Lite), Wightman (timm).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.layers.grn import GlobalResponseNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, decode_arch_def
from torch import Tensor, nn

from kdoct_utils.profiles import START_WEIGHTS, ModelConfig, TrainingConfig
from kdoct_utils.runs import atomic_path

METADATA = "kdoct"  # the one key under which save_weights writes what it is told of the weights
PHANTOM_WEIGHTS = "phantom_teacher.safetensors"  # in kdoct_utils/learn/weights, made by tools.pretrain


class ModelError(ValueError):
    """A network that cannot be built, or weights that do not fit it."""


# --- three small EfficientNets ---------------------------------------------------------------------------------------

_BLOCKS = {  # timm's strings: name -> blocks, channels of the stem, features before the head
    "efficientnet_course_small": (["ds_r1_k3_s2_e1_c24_se0.25", "ir_r2_k3_s2_e4_c40_se0.25",
                                   "ir_r2_k5_s2_e4_c64_se0.25"], 16, 128),
    "efficientnet_course_lite": (["ds_r1_k3_s2_e1_c32", "ir_r2_k3_s2_e4_c56", "ir_r2_k5_s2_e4_c80"], 24, 160),
    "efficientnet_course_tiny": (["ds_r1_k3_s2_e1_c8_se0.25", "ir_r1_k3_s2_e3_c16_se0.25"], 8, 32),
}  # fmt: skip
_SMALL_CFG = {
    "url": "", "num_classes": 3, "input_size": (3, 64, 64), "pool_size": None, "crop_pct": 1.0,
    "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    "first_conv": "conv_stem", "classifier": "classifier",
}  # fmt: skip
default_cfgs = generate_default_cfgs({f"{name}.untrained": _SMALL_CFG for name in _BLOCKS})  # timm looks for this name


def _small_efficientnet(name: str, pretrained: bool, options: dict) -> EfficientNet:
    blocks, stem, features = _BLOCKS[name]
    options = {"stem_size": stem, "num_features": features, "fix_stem": True, "act_layer": nn.SiLU} | options
    arch = decode_arch_def([[block] for block in blocks])
    return build_model_with_cfg(EfficientNet, name, pretrained, block_args=arch, **options)


@register_model
def efficientnet_course_small(pretrained: bool = False, **kwargs) -> EfficientNet:
    """About 0.1 M parameters for 64-96 px: five blocks of EfficientNet's kind, strides 2 to 32 as in B0."""
    return _small_efficientnet("efficientnet_course_small", pretrained, kwargs)


@register_model
def efficientnet_course_lite(pretrained: bool = False, **kwargs) -> EfficientNet:
    """The small one made for integers, as EfficientNet-Lite is: ReLU6, no squeeze-and-excitation; 0.15 M parameters."""
    return _small_efficientnet("efficientnet_course_lite", pretrained, {"act_layer": nn.ReLU6} | kwargs)


@register_model
def efficientnet_course_tiny(pretrained: bool = False, **kwargs) -> EfficientNet:
    """A few thousand parameters for 32 px: for tests of the plumbing."""
    return _small_efficientnet("efficientnet_course_tiny", pretrained, kwargs)


# --- building --------------------------------------------------------------------------------------------------------


def build_model(
    config: ModelConfig, n_classes: int, channels: int, start_weights: str = "none", seed: int = 0
) -> nn.Module:
    """The network of ``config`` with a fresh head: images (batch, channels, S, S) to logits (batch, n_classes).

    start_weights: "none", "imagenet" (timm's, named by ``config.pretrained_tag``) or "phantom" (shipped with the
    package, for the backbone). Whatever is asked for is loaded or refused; nothing stands in for it.
    seed: fixes the fresh weights; torch's global generator is left as it was.

    Raises ModelError for an unknown architecture or start weights, and for weights that are absent or do not fit.
    """
    if start_weights not in START_WEIGHTS:
        raise ModelError(f"unknown start weights {start_weights!r}; valid: {', '.join(START_WEIGHTS)}")
    if not timm.is_model(config.architecture):
        families = ("convnextv2*", "efficientnet_course*", "efficientnet_b?")
        valid = [name for family in families for name in timm.list_models(family)]
        raise ModelError(f"unknown architecture {config.architecture!r}; of the course's families: {', '.join(valid)}")
    options = dict(config.options) | {"drop_rate": config.dropout, "num_classes": n_classes, "in_chans": channels}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        if start_weights == "imagenet":
            model = _create_from_imagenet(config, options)
        else:
            model = timm.create_model(config.architecture, **options)
    if start_weights == "phantom":
        with as_file(files("kdoct_utils.learn") / "weights" / PHANTOM_WEIGHTS) as path:
            load_backbone(model, path)
    # Depthwise convolutions train about twice as fast on CPUs with the channels last, and no slower elsewhere.
    return use_quick_norms(model).to(memory_format=torch.channels_last)


def _create_from_imagenet(config: ModelConfig, options: dict) -> nn.Module:
    if config.pretrained_tag is None:
        raise ModelError(f"{config.architecture} has no ImageNet weights here; valid start weights: none, phantom")
    name, known = f"{config.architecture}.{config.pretrained_tag}", timm.list_pretrained(f"{config.architecture}.*")
    if name not in known:
        raise ModelError(f"timm has no weights {name!r}; valid: {', '.join(known) or 'none'}")
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError, HfHubHTTPError) as error:  # the hub's client without a network, or a wrong shape
        raise ModelError(
            f"cannot load the ImageNet weights {name!r} ({type(error).__name__}: {error}). The first use needs "
            "huggingface.co; without it choose start_weights 'none' or 'phantom'"
        ) from error


def load_backbone(model: nn.Module, path: str | Path) -> None:
    """Everything but the head from a safetensors file. Raises ModelError, naming the tensors that do not fit."""
    head = head_name(model) + "."
    own, given = (
        {name: value for name, value in weights.items() if not name.startswith(head)}
        for weights in (model.state_dict(), _read(path))
    )
    _check_fit(own, given, path)
    model.load_state_dict(given, strict=False)  # the head is the one part that is left out


def _check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str | Path) -> None:
    reshaped = {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    faults = {"missing": own.keys() - given.keys(), "unknown": given.keys() - own.keys(), "of another shape": reshaped}
    told = "; ".join(f"{len(names)} {fault}, such as {min(names)}" for fault, names in faults.items() if names)
    if told:
        raise ModelError(f"{Path(path).name} does not fit this network: {told}")


class QuickResponseNorm(nn.Module):
    """ConvNeXtV2's global response normalization (Woo et al. 2023, section 3) in fewer passes over memory.

    It takes the place of timm's ``norm`` and shares its parameters; results are timm's but for rounding. The length of
    each map comes from its squares: torch's norm over two dimensions took a third of the teacher's time on a CPU.
    The rest is multiplied out: x + bias + weight * share * x = bias + (1 + weight * share) * x.
    """

    def __init__(self, norm: GlobalResponseNorm):
        super().__init__()
        self.weight, self.bias, self.eps, self.shape = norm.weight, norm.bias, norm.eps, norm.wb_shape
        self.spatial_dim, self.channel_dim = norm.spatial_dim, norm.channel_dim

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:  # which ends at 65,504: squares would not fit
            length = x.norm(p=2, dim=self.spatial_dim, keepdim=True)
        else:
            squares = x.square().sum(self.spatial_dim, keepdim=True)  # (batch, 1, 1, channels), or channels second
            length = (squares + torch.finfo(x.dtype).tiny).sqrt()  # the root of a plain 0 has no gradient
        share = length / (length.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return torch.addcmul(self.bias.view(self.shape), x, 1 + self.weight.view(self.shape) * share)


def use_quick_norms(model: nn.Module) -> nn.Module:
    """Put a QuickResponseNorm in the place of each of timm's. Returns the model."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, GlobalResponseNorm):
                setattr(parent, name, QuickResponseNorm(child))
    return model


# --- parameters ------------------------------------------------------------------------------------------------------


def head_name(model: nn.Module) -> str:
    """Name of the child module that classifies: "head" in ConvNeXtV2 (its norm included), "classifier" in
    EfficientNet. All else is the backbone."""
    classifier = model.get_classifier()
    for name, module in model.named_modules():
        if module is classifier:
            return name.split(".")[0]
    raise ModelError(f"{type(model).__name__} has no classifier among its modules")


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict]:
    """Parameter groups for AdamW: {backbone, head} x {decay, no decay}, the empty ones left out.

    Norms and biases, which are the vectors among the parameters, get no weight decay. Each group has ``name``,
    ``lr`` (its peak) and ``floor`` (where its cosine ends): the floor is the same fraction of the peak in each.
    """
    head = head_name(model) + "."
    rates = {"backbone": config.backbone_learning_rate or config.learning_rate, "head": config.learning_rate}
    fraction = config.minimum_learning_rate / config.learning_rate
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = "head" if name.startswith(head) else "backbone"
        members.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"name": part if decays else f"{part}, no decay", "params": members[part, decays], "lr": rates[part],
         "floor": rates[part] * fraction, "weight_decay": config.weight_decay if decays else 0.0}
        for part in rates for decays in (True, False) if (part, decays) in members
    ]  # fmt: skip


def count_parameters(model: nn.Module) -> int:
    """Number of scalar parameters; buffers such as BatchNorm statistics are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def freeze_backbone(model: nn.Module, frozen: bool) -> None:
    """Hold everything but the head still, or let it go; call it after ``model.train()``.

    A frozen backbone is put in eval mode too, or else BatchNorm statistics would go on learning.
    """
    head = head_name(model)
    for name, child in model.named_children():
        if name != head:
            child.requires_grad_(not frozen)
            if frozen:
                child.eval()


# --- weights on disk -------------------------------------------------------------------------------------------------


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write the weights as safetensors, whole or not at all. Values of ``metadata`` are stored as strings.

    The same weights and metadata give the same bytes, so that a file's hash can stand for them.
    """
    # channels last would be another order of the same numbers
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = json.dumps({key: str(value) for key, value in (metadata or {}).items()}, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA: about})  # several keys would be written in any order


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Fill ``model`` from a safetensors file and return its metadata. Raises ModelError where they do not fit."""
    weights = _read(path)
    _check_fit(model.state_dict(), weights, path)
    model.load_state_dict(weights)
    return weights_metadata(path)


def weights_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of its weights."""
    with safe_open(path, framework="pt") as file:
        found = file.metadata() or {}
    return json.loads(found[METADATA]) if METADATA in found else found  # others write their keys one by one


def _read(path: str | Path) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ModelError(f"no weights file {Path(path).name} in {Path(path).parent}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{Path(path).name} is damaged or not a safetensors file: {error}") from error


def state_copy(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers that later training does not touch."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
