"""Can this machine run a profile? Each check says what it found and, where it fails, what to do."""

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import joblib

from kdoct_utils.profiles import Profile, get_profile
from kdoct_utils.runs import installed_versions, memory_limit

GB = 1e9
PYTHON_NEEDED = (3, 11)
DISK_PER_MEMORY = 2.0  # rule of thumb: the run folder takes less than twice the memory that a profile needs


@dataclass(frozen=True)
class Check:
    """One line of the environment check, with what to do where it fails."""

    name: str
    ok: bool
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"[{'OK' if self.ok else 'FAIL'}] {self.name}: {self.found}"
        return line if self.ok else f"{line}. {self.remedy}"


def gpu_memory() -> tuple[str, int] | None:
    """Name and bytes of the first CUDA GPU that torch sees; None without one, or without torch. Imports torch."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory


def required_packages() -> list[str]:
    """The package's requirements: from pyproject.toml beside it, or from its installed metadata. Extras left out."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        import tomllib

        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    from importlib.metadata import requires

    return [line for line in requires("kdoct_utils") or [] if "extra ==" not in line]


def check_packages(requirements: list[str] | None = None) -> Check:
    """Every required package is there and not too old; one line for all."""
    from packaging.requirements import Requirement

    wanted = {line: Requirement(line) for line in requirements or required_packages()}
    versions = installed_versions(tuple(requirement.name for requirement in wanted.values()))
    wrong = [
        line
        for line, requirement in wanted.items()
        if not (found := versions[requirement.name]) or not requirement.specifier.contains(found, prereleases=True)
    ]
    if not wrong:
        return Check("packages", True, f"{len(wanted)} found, none too old")
    found = ", ".join(f"{wanted[line].name} {versions[wanted[line].name] or 'missing'}" for line in wrong)
    return Check("packages", False, found, "Run: pip install " + " ".join(f'"{wanted[line]}"' for line in wrong))


def check_memory(profile: Profile) -> Check:
    """The larger of host and GPU memory holds the run. The GPU is looked at only where the host is too small."""
    limit, where = memory_limit(), "memory"
    gpu = gpu_memory() if limit < profile.memory_gb * GB else None
    if gpu and gpu[1] > limit:
        limit, where = gpu[1], "GPU memory"
    found = f"{limit / GB:.1f} GB of {where}, profile {profile.name} needs {profile.memory_gb:g} GB"
    remedy = "Choose a smaller profile, or a machine with more memory"
    return Check("memory", limit >= profile.memory_gb * GB, found, remedy)


def check_disk(profile: Profile, folder: str | Path = ".") -> Check:
    """folder: where the run folder will be; its nearest parent that exists is looked at."""
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, DISK_PER_MEMORY * profile.memory_gb * GB
    found = f"{free / GB:.1f} GB free, profile {profile.name} needs {needed / GB:g} GB"
    return Check("disk", free >= needed, found, "Free some space, or put the run elsewhere with --run-dir")


def check_gpu(profile: Profile) -> Check:
    """A GPU where the profile is meant for one."""
    if gpu := gpu_memory():
        return Check("GPU", True, f"{gpu[0]}, {gpu[1] / GB:.0f} GB")
    if not profile.needs_gpu:
        return Check("GPU", True, f"none, and profile {profile.name} needs none")
    remedy = "Use --profile quick, or a machine with a CUDA GPU and torch's CUDA build"
    return Check("GPU", False, f"none, profile {profile.name} is meant for one", remedy)


def run_checks(profile: str | Profile = "quick", folder: str | Path = ".") -> list[Check]:
    """All checks for a profile, in the order to fix them. Raises ValueError for an unknown profile."""
    profile = get_profile(profile) if isinstance(profile, str) else profile
    newer = f"Install Python {'.'.join(map(str, PYTHON_NEEDED))} or newer"
    cores = joblib.cpu_count()  # CPU affinity and the container's quota both count
    return [
        Check("Python", sys.version_info >= PYTHON_NEEDED, platform.python_version(), newer),
        check_packages(),
        check_memory(profile),
        check_disk(profile, folder),
        Check("cores", True, f"{cores}" + (" (the times in the course are for 2)" if cores < 2 else "")),
        check_gpu(profile),
    ]
