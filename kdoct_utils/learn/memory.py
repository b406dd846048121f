"""Memory of this process on the host."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from pathlib import Path

import psutil

# mallopt's names for them in glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library keep what torch frees, for the next step to use again; for the rest of this process.

    A training step frees its activations and the next one asks for the same again. As a rule blocks of many kilobytes
    go back to the system at once, which must hand out zeroed pages anew each time: at 96 px that was a tenth of a
    step. The peak stays what it was, but memory is not given back below it.
    Returns whether it was done: by glibc (most Linux); other systems have their own ways and are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # some versions refuse a block size above 32 MB
    larger = any(library.mallopt(M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25))
    return larger and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss would count the process that started this one too
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS
