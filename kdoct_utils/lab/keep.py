"""One way to keep a result: with the recipe that made it, taken by no other recipe, else made again.

A recipe holds what a result follows from: inputs (as hashes), parameters and the code, see `fingerprint`.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from inspect import getsource
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pandas as pd
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from kdoct_utils.learn.models import METADATA, weights_metadata
from kdoct_utils.learn.trainer import TrainingResult
from kdoct_utils.runs import RunFolder, atomic_path, link_or_copy, plain

VERSIONS = ("torch", "timm")


def keep(
    path: str | Path,
    recipe: Mapping[str, object],
    make: Callable[[], object],
    *,
    code: Sequence[object] = (),
    shared: Path | None = None,
    beside: Sequence[Path] = (),
) -> object:
    """What ``path`` holds if this recipe made it; else what ``make()`` returns now, kept there for the next time.

    path: its suffix says what is kept. ``.safetensors``: a dict of tensors, as it is or in a pair with a dict of
    further metadata; what comes back are the tensors. ``.csv``: a table. ``.json``: a dict.
    recipe: all that the result follows from, in JSON's types. code: functions, classes and modules that make it.
    shared: a folder in which several runs keep what they have in common; the first makes it while the others wait.
    beside: files that ``make`` writes itself, such as a training's history: they are shared, or missed, with the rest.

    A new result comes back as it will be read. What is made again says why, in one line. Safe for several processes.
    """
    path, recipe = Path(path), full_recipe(recipe, code)
    if why_again(path, recipe, beside) is None:  # without a lock: a folder that is only read may be write-protected
        return _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        reason = why_again(path, recipe, beside)  # another process may have made it meanwhile
        if reason:
            tqdm.write(f"{path.name} is made again: {reason}")
        if reason is not None and shared is None:
            _write(path, recipe, make())
        elif reason is not None:
            _share(path, recipe, make, shared, beside)
    return _read(path)


def _share(path: Path, recipe: dict, make: Callable, shared: Path, beside: Sequence[Path]) -> None:
    place = shared / f"{path.stem}_{short_hash(recipe)}{path.suffix}"
    others = [place.with_name(f"{place.stem}_{file.name}") for file in beside]

    def make_and_share() -> object:
        value = make()
        for file, other in zip(beside, others, strict=True):
            link_or_copy(file, other)
        return value

    keep(place, recipe, make_and_share, beside=others)
    for file, other in zip(beside, others, strict=True):
        link_or_copy(other, file)
    link_or_copy(place, path)


def keep_network(
    run: RunFolder, model: nn.Module, path: Path, recipe: dict, train: Callable[[Path], TrainingResult]
) -> bool:
    """Fill ``model`` from ``path`` if this full recipe made it; else train it and keep it there. Ready to answer.

    train: is given the path of a checkpoint, leaves the trained weights in ``model``. The history lies beside the
    weights, named like them. Returns whether they were there. Runs of a sweep share what has the same recipe.
    """
    made, history = [], run.history_file(path.stem)
    # Its name carries the recipe: only the same training takes up what a killed one left.
    checkpoint = (run.shared or path.parent) / f"{path.stem}_{short_hash(recipe)}_checkpoint.safetensors"

    def make() -> tuple[dict, dict]:
        result = train(checkpoint)
        with atomic_path(history) as temporary:
            result.history.to_csv(temporary, index=False)
        made.append(path)
        return model.state_dict(), {"chosen": result.chosen}

    model.load_state_dict(keep(path, recipe, make, shared=run.shared, beside=[history]))
    checkpoint.unlink(missing_ok=True)
    if torch.accelerator.is_available():  # where training would have put it
        model.to(torch.accelerator.current_accelerator())
    model.eval()
    return not made


# --- recipes ---------------------------------------------------------------------------------------------------------


def full_recipe(recipe: Mapping[str, object], code: Sequence[object] = ()) -> dict:
    """The recipe as it is kept: in JSON's types, with the fingerprint of its code."""
    return plain(dict(recipe) | ({"code": fingerprint(*code)} if code else {}))


def short_hash(recipe: Mapping[str, object]) -> str:
    """Sixteen characters that stand for a recipe in the name of a file."""
    return hashlib.sha256(json.dumps(plain(dict(recipe)), sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def recipe_of(path: str | Path) -> dict | None:
    """The recipe that a file was made by; None where there is no such file, {} where the file has none.

    Raises OSError or ValueError for a file that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return None
    if path.suffix == ".safetensors":
        return json.loads(weights_metadata(path).get("recipe", "{}"))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as file:
            line = file.readline()
        return json.loads(line[1:]) if line.startswith("#") else {}
    return json.loads(path.read_text(encoding="utf-8")).get("recipe", {})


def why_again(path: str | Path, recipe: Mapping[str, object], beside: Sequence[Path] = ()) -> str | None:
    """None where ``path`` holds a result of this recipe; "" where nothing is there; else what differs, for a reader."""
    try:
        found = recipe_of(path)
    except (OSError, ValueError, SafetensorError):
        return "the file cannot be read"
    if found is None:
        return ""
    if found == recipe:
        missing = [file.name for file in beside if not file.exists()]
        return f"{missing[0]} is missing" if missing else None
    return _differences(found, recipe)


def _differences(found: Mapping, wanted: Mapping) -> str:
    """Such as "code changed: learn.losses", "temperature 4.0 -> 2.0" or "teacher"."""
    old, new = found.get("code", {}), wanted.get("code", {})
    if new and not old:
        return "it does not say by which code it was made"
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    parts = [f"code changed: {', '.join(changed)}"] if changed else []
    for name, before, after in _changes(found, wanted):
        brief = all(value is not None and len(str(value)) <= 24 for value in (before, after))
        parts.append(f"{name} {before} -> {after}" if brief else name)
    return "; ".join(parts)


def _changes(found: Mapping, wanted: Mapping, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    for name in sorted(found.keys() | wanted.keys()):
        old, new = found.get(name), wanted.get(name)
        if old == new or (not prefix and name == "code"):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", old, new


# --- the code --------------------------------------------------------------------------------------------------------


def fingerprint(*objects: object) -> dict[str, str]:
    """What the code behind functions, classes and modules says: name of a module -> hash, and versions of VERSIONS.

    A function or class stands for itself and for all that it uses of the package's rooms (`kdoct_utils.learn`, ...);
    what lies below the rooms, such as hyper-parameters, enters a recipe as values. A module stands for everything in
    it. Comments, docstrings and type hints do not count. A function of a notebook counts as it stands.
    """
    used: dict[str, dict[str, str]] = {}
    waiting = [_place(one) for one in objects]
    while waiting:
        module, name = waiting.pop()
        definitions, imports = _read_module(module)
        if name is None:
            waiting += [(module, each) for each in definitions]
        elif name in imports:
            waiting.append(imports[name])
        elif name in definitions and name not in used.setdefault(module, {}):
            used[module][name], words = definitions[name]
            waiting += [(module, word) for word in words]
    hashes = {module.partition(".")[2]: short_hash(parts) for module, parts in used.items() if parts}
    for one in objects:
        if not _read_module(_place(one)[0])[0]:
            hashes[one.__qualname__] = _text_hash(_bare(ast.parse(dedent(getsource(one)))))
    return dict(sorted(hashes.items())) | {name: version(name) for name in VERSIONS}


def _place(one: object) -> tuple[str, str | None]:
    return (one.__name__, None) if isinstance(one, ModuleType) else (one.__module__, one.__qualname__.split(".")[0])


@cache
def _read_module(name: str) -> tuple[dict[str, tuple[str, set[str]]], dict[str, tuple[str, str | None]]]:
    """What a room's module defines, name -> (hash, names used in it), and what it imports of its own package.

    Read once a process, as Python reads a module. Both are empty for a module that lies in no room.
    """
    definitions, imports = {}, {}
    spec = find_spec(name) if name.count(".") >= 2 else None
    if spec is None:
        return definitions, imports
    tree = _bare(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == name.split(".")[0]:
            room = find_spec(node.module).submodule_search_locations
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                is_module = room and find_spec(inner)
                imports[each.asname or each.name] = (inner, None) if is_module else (node.module, each.name)
    for node in tree.body:
        words = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        definitions |= {defined: (_text_hash(node), words - {defined}) for defined in _names(node)}
    return definitions, imports


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [inner.id for target in targets if target is not None for inner in ast.walk(target)
            if isinstance(inner, ast.Name)]  # fmt: skip


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings and type hints."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = body[1:]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return tree


def _text_hash(tree: ast.AST) -> str:
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


# --- files -----------------------------------------------------------------------------------------------------------


def _write(path: Path, recipe: dict, value: object) -> None:
    line = json.dumps(recipe, sort_keys=True)
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            tensors, about = value if isinstance(value, tuple) else (value, {})
            # Channels last would be another order of the same numbers, and several keys would come in any order: the
            # same weights shall give the same bytes, for a file's hash stands for them.
            tensors = {name: torch.as_tensor(one).detach().cpu().contiguous() for name, one in tensors.items()}
            save_file(tensors, temporary, {METADATA: json.dumps(about | {"recipe": line}, sort_keys=True)})
        elif path.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(f"# {line}\n")
                value.to_csv(file, index=False)
        elif path.suffix == ".json":
            text = json.dumps({"recipe": recipe} | plain(value), indent=2, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        else:
            raise ValueError(f"cannot keep {path.name}; valid suffixes: .safetensors, .csv, .json")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".csv":
        return pd.read_csv(path, skiprows=1)
    return json.loads(path.read_text(encoding="utf-8"))
