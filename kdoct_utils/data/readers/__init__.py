"""One reader for each dataset's layout on disk; ``scans.read_scans`` makes the scan table from what they find.

A reader lists every scan with its own label and the patient's class, and says what it refused and why. It guesses
nothing: a label that it does not know is an error, never a class.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdoct_utils.data.readers.common import Found
from kdoct_utils.data.readers.neh import read_neh
from kdoct_utils.data.readers.octdl import read_octdl
from kdoct_utils.data.readers.octmnist import read_octmnist
from kdoct_utils.data.readers.own import read_own
from kdoct_utils.data.readers.ucsd import read_ucsd
from kdoct_utils.datasets import DataOptions

READERS: dict[str, Callable[[Path, DataOptions], Found]] = {
    "neh": read_neh,
    "ucsd": read_ucsd,
    "octmnist": read_octmnist,
    "octdl": read_octdl,
    "csv": read_own,
}
