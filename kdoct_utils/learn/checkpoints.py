"""One safetensors file that holds all a training run needs to go on after a kill: no pickle, whole or not at all."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from kdoct_utils.runs import atomic_path

if TYPE_CHECKING:
    from kdoct_utils.learn.trainer import Trainer


class TrainingError(RuntimeError):
    """A training run that cannot go on."""


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged or belongs to another run."""


@dataclass
class Progress:
    """Where a run stands after its last finished epoch; all of it is in the checkpoint."""

    swa_from: int  # first epoch of weight averaging; never reached where there is none
    last_epoch: int  # one past the last
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    best: dict | None = None  # score of the best epoch
    stale: int = 0  # epochs since then


def save_checkpoint(trainer: Trainer) -> None:
    """Write the trainer's checkpoint, where it has one: the main process does, the others wait for it."""
    if trainer.checkpoint is not None and trainer.accelerator.is_main_process:
        moments = trainer.optimizer.state_dict()["state"]  # parameter number -> name -> tensor
        parts = {
            "model": trainer.model.state_dict(),
            "best": trainer.best_weights,
            "optimizer": {f"{k}.{name}": value for k, values in moments.items() for name, value in values.items()},
            "average": {} if trainer.average is None else trainer.average.state_dict(),
        }
        named = ((f"{part}/{name}", value) for part, values in parts.items() for name, value in values.items())
        tensors = {name: value.detach().cpu().contiguous() for name, value in named}
        scaler = trainer.accelerator.scaler  # of fp16
        state = asdict(trainer.state) | {"scaler": None if scaler is None else scaler.state_dict()}
        with atomic_path(trainer.checkpoint) as temporary:
            save_file(tensors, temporary, {"state": json.dumps(state), "identity": json.dumps(_identity(trainer))})
    trainer.accelerator.wait_for_everyone()


def resume(trainer: Trainer) -> None:
    """Put the trainer where its checkpoint left off, if there is one.

    Raises CheckpointError for a damaged checkpoint and, naming what differs, for that of another run.
    """
    if trainer.checkpoint is None or not Path(trainer.checkpoint).exists():
        return
    name, parts = Path(trainer.checkpoint).name, {"optimizer": {}}
    try:
        with safe_open(trainer.checkpoint, framework="pt") as file:
            about = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                part, tensor = key.split("/", 1)
                parts.setdefault(part, {})[tensor] = file.get_tensor(key)
    except SafetensorError as error:
        raise CheckpointError(f"{name} is damaged ({error}); delete it to train from the start") from error
    saved, now = json.loads(about.get("identity", "{}")), _identity(trainer)
    differing = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if differing:
        raise CheckpointError(
            f"{name} belongs to another training run: {', '.join(differing)} differ(s). "
            "Delete it, or choose another run_dir"
        )
    state = json.loads(about["state"])
    scaler = state.pop("scaler")
    if scaler is not None:
        trainer.accelerator.scaler.load_state_dict(scaler)
    trainer.state = Progress(**state)
    trainer.model.load_state_dict(parts["model"])
    trainer.best_weights = parts["best"]
    _restore_optimizer(trainer.optimizer, parts["optimizer"])
    if "average" in parts:
        trainer.average = AveragedModel(trainer.model)
        trainer.average.load_state_dict(parts["average"])


def _identity(trainer: Trainer) -> dict:
    """What must not change between a kill and going on, in JSON's types."""
    sets = (trainer.train_set, trainer.validation_set)
    scans = np.concatenate([part.numpy() for data in sets for part in (data.indices, data.target)])
    identity = {
        "training": asdict(trainer.config),
        "augmentation": asdict(trainer.augmentation),
        "objective": trainer.objective.describe(),
        "network": {name: list(value.shape) for name, value in trainer.model.state_dict().items()},
        "input": [trainer.channels, trainer.image_size],
        "seed": trainer.seed,
        "scans": zlib.crc32(scans.tobytes()),
        "processes": trainer.processes,
    }
    return json.loads(json.dumps(identity))


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Moments get the memory layout of their parameters, as the fused optimizers expect."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        if value.ndim:
            value = torch.empty_like(parameters[int(number)]).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
