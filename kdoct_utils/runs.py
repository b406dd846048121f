"""The run folder: one place for everything that a run makes, written so that a kill or a full disk leaves no half file.

The folder's ``config.json`` says what the run is (profile with its hyper-parameters, dataset, seed, versions).
Opening the folder for anything else is refused, so that a student is never scored against another run's teacher.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path

from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import Profile, get_profile

CONFIG_NAME = "config.json"
CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use
STATUS_VARIABLE = "KDOCT_STATUS"
RECORDED_PACKAGES = ("kdoct_utils", "torch", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "onnxruntime")


class RunError(ValueError):
    """A run that cannot start or go on; the message says what is wrong and what to do."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there when the block ends without an error.

    Readers see the old file or the whole new one, never a half. If the block raises (a full disk, a stop),
    the temporary file is removed and the old file stays. The suffix is kept, since some writers look at it.

    Raises RunError if the block wrote nothing to the path it was given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        if not temporary.is_file():
            raise RunError(f"nothing was written for {path.name}")
        with temporary.open("rb+") as file:  # on the disk before the name points at it
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """``target`` becomes the same content as ``source``: a hard link where the file system has them, else a copy."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def report_status(text: str) -> None:
    """Tell whoever runs this notebook what it is busy with, such as "student KD, seed 2, epoch 4/10".

    The environment variable KDOCT_STATUS names the file that takes the text; without it nothing happens. A status that
    cannot be written is no reason to stop the work.
    """
    if path := os.environ.get(STATUS_VARIABLE):
        with suppress(OSError):
            Path(path).write_text(text, encoding="utf-8")


def plain(value: object) -> object:
    """``value`` in JSON's own types: tuples and numpy arrays become lists, numbers that are not finite become None."""
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for NaN
    return value


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as readable, strictly valid JSON, atomically."""
    text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """The JSON object in ``path``. Raises RunError, naming the file, if there is none or it does not parse."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"there is no {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); remove it, or choose another run_dir") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def memory_limit() -> int:
    """Bytes that this process may use: the machine's memory, or its container's limit where that is less."""
    import psutil

    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 or 1
        if (CGROUP / name).is_file():
            limit = (CGROUP / name).read_text(encoding="utf-8").strip()
            return total if limit == "max" else min(total, int(limit))
    return total


def installed_versions(packages: tuple[str, ...] = RECORDED_PACKAGES) -> dict[str, str | None]:
    """Version of Python and of each package (None where it is not installed); nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _inside(name: str) -> property:
    """The path of a file or folder of that name in a run folder."""
    return property(lambda run: run.path / name)


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: what it is, and where each of its files lies. Made by ``open_run``.

    path: the folder, absolute. data_root: absolute, None where the dataset needs none. options: how it is read.
    shared: a folder in which the runs of a sweep keep what several of them need, None for a run by itself.
    """

    path: Path
    profile: Profile
    dataset: str
    data_root: Path | None
    seed: int
    options: DataOptions = DataOptions()
    shared: Path | None = None

    config_file = _inside(CONFIG_NAME)
    splits_file = _inside("splits.csv")
    table_file = _inside("scans.csv")  # the scan table
    provenance_file = _inside("provenance.json")  # what the scans are, their classes, and the hash of the split
    images_file = _inside("images.npy")  # uint8 (n, resize_size, resize_size), in the order of the scan table
    beyond_table_file = _inside("scans_beyond.csv")  # phantom patients beyond the folds (`lab.beyond`), and their
    beyond_images_file = _inside("images_beyond.npy")  # pictures
    teacher_file = _inside("teacher.safetensors")
    teacher_logits_file = _inside("teacher_logits.safetensors")  # float32 (views, n, classes)
    metrics_file = _inside("metrics.json")
    predictions_file = _inside("predictions.csv")  # probabilities of every test scan by every network that was scored
    onnx_file = _inside("student.onnx")
    int8_file = _inside("student_int8.onnx")
    notebooks_dir = _inside("notebooks")
    index_file = _inside("index.html")

    def network_file(self, name: str) -> Path:
        """Weights of one training, such as "student_kd_seed0"."""
        return self.path / f"{name}.safetensors"

    def history_file(self, name: str) -> Path:
        """Epoch by epoch record of one training, such as "teacher"."""
        return self.path / f"history_{name}.csv"

    def read_metrics(self) -> dict:
        """``metrics.json``; an empty dict where nothing has been measured yet."""
        return read_json(self.metrics_file) if self.metrics_file.exists() else {}

    def update_metrics(self, section: str, value: dict) -> None:
        """Merge ``value`` into one section of ``metrics.json``: its keys replace those of the same name, others stay.

        Safe when several processes write at once. Numbers that are not finite are written as null.
        """
        from filelock import FileLock

        with FileLock(self.path / ".metrics.lock"):
            metrics = self.read_metrics()
            metrics[section] = metrics.get(section, {}) | value
            write_json(self.metrics_file, metrics)


def open_run(
    run_dir: str | Path,
    *,
    profile: str | Profile,
    dataset: str,
    data_root: str | Path | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    shared: str | Path | None = None,
) -> RunFolder:
    """Make the run folder, or take up the one that is there if it is the same run.

    data_root: "" and None both mean that the dataset needs none. options: fields of DataOptions that shall have this
    value; the others are as the folder has them, or the defaults. shared: see RunFolder; as the folder has it if None.

    Raises RunError, naming the field, if the folder belongs to another run; ValueError for an unknown profile or
    option.
    """
    profile = get_profile(profile) if isinstance(profile, str) else profile
    path = Path(run_dir).expanduser().resolve()
    root = Path(data_root).expanduser().resolve() if data_root else None
    found = read_json(path / CONFIG_NAME) if (path / CONFIG_NAME).exists() else {}
    given = _known_options(options or {})
    kept = replace(DataOptions(), **_known_options(found.get("options", {})))
    together = Path(shared).expanduser().resolve() if shared else None
    if found.get("shared"):
        together = (path / found["shared"]).resolve()
    run = RunFolder(path, profile, dataset, root, int(seed), kept if found else replace(kept, **given), together)
    what = {"profile": profile.name, "dataset": dataset, "data_root": str(root) if root else None, "seed": run.seed}
    if found:
        _refuse_other_run(run, found, what, given)
    else:
        extra = {"shared": os.path.relpath(together, path)} if together else {}
        settings = {"options": asdict(run.options), "settings": asdict(profile)}
        write_json(run.config_file, what | settings | extra | {"versions": installed_versions()})
    return run


def load_run(run_dir: str | Path) -> RunFolder:
    """The run that is already in ``run_dir``. Raises RunError if there is none."""
    path = Path(run_dir).expanduser().resolve()
    if not (path / CONFIG_NAME).is_file():
        raise RunError(f"{run_dir} is not a run folder: it has no {CONFIG_NAME}; `kdoct run` makes one")
    config = read_json(path / CONFIG_NAME)
    return open_run(path, **{name: config[name] for name in ("profile", "dataset", "data_root", "seed")})


def _known_options(options: Mapping[str, object]) -> Mapping[str, object]:
    valid = DataOptions.types()
    if unknown := [name for name in options if name not in valid]:
        raise RunError(f"unknown dataset option {unknown[0]!r}; valid options: {', '.join(valid)}")
    return options


def _refuse_other_run(run: RunFolder, found: dict, what: dict, given: Mapping[str, object]) -> None:
    """found: the folder's config.json. what, given: the run and the options that are asked for."""
    pairs = [(name, found.get(name), value) for name, value in what.items()]
    pairs += [(name, getattr(run.options, name), value) for name, value in given.items()]
    for name, here, asked in pairs:
        if here != asked:
            raise RunError(f"{run.path} holds a run with {name} = {here!r}, not {asked!r}; choose another run_dir")
    if changed := list(_changed(found.get("settings") or {}, run.profile)):
        raise RunError(
            f"{run.path} was made when profile {run.profile.name!r} had another {', '.join(changed)}; "
            "choose another run_dir, or remove this one"
        )


def _changed(found: dict, now: object, prefix: str = "") -> Iterator[str]:
    """Recorded hyper-parameters that have another value now. Those that nobody knew of then are no difference."""
    for field in fields(now):
        value = getattr(now, field.name)
        if field.name in found and is_dataclass(value):
            yield from _changed(found[field.name], value, f"{prefix}{field.name}.")
        elif field.name in found and found[field.name] != plain(value):
            yield f"{prefix}{field.name}"
