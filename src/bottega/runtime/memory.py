"""How much memory is used, by this process and on the machine, and giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

_MB = 1024 * 1024


class Load(NamedTuple):
    """Shares in use, 0..1, by whomever: of the memory that this process may use, and of the GPU's."""

    ram: float
    vram: float

    def __str__(self) -> str:
        return f"{self.ram:.0%} of RAM" + (f" and {self.vram:.0%} of GPU memory" if self.vram else "")


def load() -> Load:
    """How full the machine's memory (or this control group's, where that has a limit) and the GPU's memory are now."""
    import psutil

    machine = psutil.virtual_memory()
    ram = 1 - machine.available / machine.total
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        if limit != "max":  # cached files count as used and are given back when asked for
            cached = sum(int(kept.get(name, 0)) for name in ("inactive_file", "active_file"))
            ram = max(ram, (used - cached) / int(limit))
    except (OSError, ValueError):
        pass  # no control groups, or of the first version: the machine's own numbers stand
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return Load(ram, 0.0)
    free, total = torch.cuda.mem_get_info()
    idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch's own, free for its next tensor
    return Load(ram, 1 - (free + idle) / total)


class Creep:
    """Tells memory that rises over hours from memory that is used: a leak of this process or of a library.

    Every `block` samples make a median. The first `blocks` are left out, for caches fill; it creeps when the lowest of
    the last `blocks` lies `least_mb` above the highest of as many after the first.
    """

    def __init__(self, block: int = 64, blocks: int = 4, least_mb: float = 1024) -> None:
        self._block, self._blocks, self._least_mb = block, blocks, least_mb
        self._samples: list[float] = []
        self._first: list[float] = []
        self._last: list[float] = []

    def add(self, rss: float) -> float | None:
        """Enter a sample in MiB; the rise in MiB where it creeps, else None."""
        self._samples.append(rss)
        if len(self._samples) < self._block:
            return None
        middle, self._samples = median(self._samples), []
        if len(self._first) < 2 * self._blocks:
            self._first.append(middle)
            return None
        self._last = [*self._last[1 - self._blocks :], middle]
        rise = min(self._last) - max(self._first[self._blocks :])
        return rise if len(self._last) == self._blocks and rise >= self._least_mb else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on the GPU (torch's own class) or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


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
