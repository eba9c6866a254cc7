"""How much memory this process uses, and giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

_MB = 1024 * 1024


def rss_mb() -> float:
    """Resident memory of this process now, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / _MB


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MiB.

    On Linux from VmHWM: `getrusage` would count the parent's memory at the moment of the fork too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MB if sys.platform == "darwin" else 1024)


def vram_mb() -> float:
    """GPU memory that torch has reserved in this process, in MiB; 0 without torch or without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.memory_reserved()) / _MB


def peak_vram_mb() -> float:
    """The most GPU memory that torch has reserved in this process so far, in MiB; 0 without torch or without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.max_memory_reserved()) / _MB


def keep_heap() -> None:
    """Let this process keep the memory it frees, for steps that allocate the same large tensors again and again.

    glibc hands every large block back to the system and has it zeroed again at the next step: half of the time of a
    training step on the CPU (docs/log.md, 2026-11-21). Memory then stays at its peak until the process ends.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block by mmap
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, in bytes
        except (OSError, AttributeError):
            return  # another C library than glibc


def trim() -> None:
    """Collect garbage and hand freed memory back to the system, on the GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library than glibc: there is nothing to trim
