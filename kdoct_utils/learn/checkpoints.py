"""One safetensors file that holds all a training run needs to go on after a kill: no pickle, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdoct_utils.runs import atomic_path


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged or belongs to another run."""


def save_checkpoint(path: str | Path, parts: Mapping[str, Mapping[str, Tensor]], state: dict, identity: dict) -> None:
    """Write named parts (each a flat dict of tensors), the JSON-able ``state`` and the run's ``identity``."""
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part, values in parts.items()
        for name, value in values.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps(state), "identity": json.dumps(identity)})


def load_checkpoint(path: str | Path, identity: dict) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """The parts and the state. Raises CheckpointError, naming what differs, for a checkpoint of another run."""
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except SafetensorError as error:
        raise CheckpointError(f"{Path(path).name} is damaged ({error}); delete it to train from the start") from error
    saved = json.loads(metadata.get("identity", "{}"))
    now = json.loads(json.dumps(identity))  # tuples become lists, as in the file
    differing = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if differing:
        raise CheckpointError(
            f"{Path(path).name} belongs to another training run: {', '.join(differing)} differ(s). "
            "Delete it, or choose another run_dir"
        )
    return parts, json.loads(metadata["state"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of an optimizer as a flat dict: "<parameter number>.<name>"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse. Moments get the memory layout of their parameters, as the fused optimizers expect."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        if value.ndim:
            value = torch.empty_like(parameters[int(number)]).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
