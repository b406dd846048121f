"""Trained networks, and what they answer, kept with the recipe that made them: taken by no other, else made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn

from kdoct_utils.learn.models import load_weights, save_weights, weights_metadata
from kdoct_utils.learn.trainer import TrainingResult
from kdoct_utils.runs import RunFolder, atomic_path, link_or_copy, plain


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def recipe_of(path: Path) -> str | None:
    """The recipe that a safetensors file was made by; None where there is no such file."""
    if not path.exists():
        return None
    return weights_metadata(path).get("recipe")


def short_hash(recipe: dict) -> str:
    """Sixteen characters that stand for a recipe in the name of a file."""
    return hashlib.sha256(json.dumps(plain(recipe), sort_keys=True).encode()).hexdigest()[:16]


def take_or_train(
    run: RunFolder, model: nn.Module, path: Path, recipe: dict, train: Callable[[Path], TrainingResult], name: str
) -> bool:
    """Fill ``model`` from ``path`` if it was made by this recipe; else train it and keep it there, ready to answer.

    recipe: all that the weights follow from, in JSON's types. train: is given the path of a checkpoint, leaves the
    trained weights in ``model``. name: of the training's history and checkpoint. Returns whether it was there.
    In a sweep the runs that need the same network share it: the first trains it while the others wait.
    """
    wanted, there = json.dumps(recipe, sort_keys=True), True
    if recipe_of(path) == wanted:
        _load(model, path)
    elif run.shared is None:
        there = False
        _train_into(path, run.history_file(name), model, wanted, train, name)
    else:
        same = {"profile": asdict(run.profile), "dataset": run.dataset, "recipe": wanted}
        kept = run.shared / f"{name}_{short_hash(same)}.safetensors"
        with FileLock(kept.with_suffix(".lock")):
            if recipe_of(kept) == wanted:
                _load(model, kept)
            else:
                there = False
                _train_into(kept, kept.with_suffix(".csv"), model, wanted, train, name)
        link_or_copy(kept.with_suffix(".csv"), run.history_file(name))
        link_or_copy(kept, path)
    model.eval()
    return there


def take_or_answer(path: Path, recipe: dict, answer: Callable[[], np.ndarray]) -> np.ndarray:
    """The logits in ``path`` if they were made by this recipe; else what ``answer()`` returns now, kept there.

    recipe: all that the logits follow from, in JSON's types. Processes that want the same file make it once.
    """
    wanted = json.dumps(plain(recipe), sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.stem}.lock")):
        if recipe_of(path) != wanted:
            logits = torch.from_numpy(np.ascontiguousarray(answer()))
            with atomic_path(path) as temporary:
                save_file({"logits": logits}, temporary, metadata={"recipe": wanted})
    return load_file(path)["logits"].numpy()


def _load(model: nn.Module, path: Path) -> None:
    load_weights(model, path)
    if torch.accelerator.is_available():  # where training would have put it
        model.to(torch.accelerator.current_accelerator())


def _train_into(
    path: Path, history: Path, model: nn.Module, wanted: str, train: Callable[[Path], TrainingResult], name: str
) -> None:
    """Train, then write history and weights, the weights last: where they are, all is.

    The checkpoint of a killed training carries the recipe in its name: only the same training takes it up.
    """
    checkpoint = path.parent / f"{name}_{hashlib.sha256(wanted.encode()).hexdigest()[:8]}_checkpoint.safetensors"
    result = train(checkpoint)
    with atomic_path(history) as temporary:
        result.history.to_csv(temporary, index=False)
    save_weights(model, path, {"recipe": wanted, "chosen": result.chosen})
    checkpoint.unlink(missing_ok=True)
