"""How much memory is used, by this process and on the machine, and giving freed memory back to the system.

Nothing here imports torch: where this process has not loaded it, there is no GPU memory to speak of. So the functions
look for it in `sys.modules`.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

_MB = 1024 * 1024


class Load(NamedTuple):
    """Shares in use, 0..1, by all processes: of the memory that this process may use, and of the GPU's."""

    ram: float
    vram: float

    def __str__(self) -> str:
        return f"{self.ram:.0%} of RAM" + (f" and {self.vram:.0%} of GPU memory" if self.vram else "")


def load() -> Load:
    """How full the machine's memory (or this control group's, where that has a limit) and the GPU's memory are now."""
    import psutil

    machine = psutil.virtual_memory()
    ram = max(1 - machine.available / machine.total, _control_group_load())
    cuda = _cuda()
    if cuda is None:
        return Load(ram, 0.0)
    free, total = cuda.mem_get_info()
    # What torch holds and does not use is free for its next tensor: counted as used, a trimmed cache would look full.
    idle = cuda.memory_reserved() - cuda.memory_allocated()
    return Load(ram, 1 - (free + idle) / total)


def _control_group_load(group: Path = Path("/sys/fs/cgroup")) -> float:
    """The share of a container's limit that is in use; 0 where there is none."""
    # The machine may have room while the container has not: the kernel then kills the process without a message.
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        kept = dict(line.split() for line in lines)
        if limit == "max":
            return 0.0
        # Cached files count as used, but the kernel gives them back before it kills anybody.
        cached = int(kept.get("inactive_file", 0)) + int(kept.get("active_file", 0))
        return (used - cached) / int(limit)
    except (OSError, ValueError):
        return 0.0  # no control groups, or of the first version: the machine's own numbers stand


def _cuda() -> Any:
    """torch.cuda where this process has loaded torch and there is a GPU, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda


class Creep:
    """Tells memory that rises over hours from memory that is used: a leak of this process or of a library.

    Every `block` samples make a median, which one large batch does not move. The first `blocks` medians are left out,
    for caches still fill. Memory creeps when the lowest of the last `blocks` medians lies `least_mb` above the highest
    of the `blocks` after the first.
    """

    def __init__(self, block: int = 64, blocks: int = 4, least_mb: float = 1024) -> None:
        self._block = block
        self._blocks = blocks
        self._least_mb = least_mb
        self._samples: list[float] = []
        self._first: list[float] = []
        self._last: list[float] = []

    def add(self, rss: float) -> float | None:
        """Enter a sample in MiB; the rise in MiB where it creeps, else None."""
        self._samples.append(rss)
        if len(self._samples) < self._block:
            return None
        middle = median(self._samples)
        self._samples = []
        if len(self._first) < 2 * self._blocks:
            self._first.append(middle)
            return None
        self._last = [*self._last[1 - self._blocks :], middle]
        if len(self._last) < self._blocks:
            return None
        # The lowest against the highest: where one quiet block contradicts the rise, it is no leak.
        rise = min(self._last) - max(self._first[self._blocks :])
        return rise if rise >= self._least_mb else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on the GPU (torch's own class) or on the CPU."""
    # By the class's name, for torch may not be loaded.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    # On the CPU torch raises a plain RuntimeError, known by its text: "DefaultCPUAllocator: can't allocate memory" or
    # "not enough memory: you tried to allocate".
    text = str(error).lower()
    return "can't allocate memory" in text or "not enough memory" in text


def rss_mb() -> float:
    """Resident memory of this process now, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / _MB


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MiB."""
    # On Linux from VmHWM: `getrusage` starts from the parent's memory at the moment of the fork, so that a small stage
    # started by a large process would be reported as large.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    units_per_mb = _MB if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return peak / units_per_mb


def vram_mb() -> float:
    """GPU memory that torch has reserved in this process, in MiB; 0 without torch or without a GPU."""
    cuda = _cuda()
    return 0.0 if cuda is None else float(cuda.memory_reserved()) / _MB


def peak_vram_mb() -> float:
    """The most GPU memory that torch has reserved in this process so far, in MiB; 0 without torch or without a GPU."""
    cuda = _cuda()
    return 0.0 if cuda is None else float(cuda.max_memory_reserved()) / _MB


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
    # First the garbage: tensors that only a reference cycle holds are not free for the GPU's cache before it.
    gc.collect()
    cuda = _cuda()
    if cuda is not None:
        cuda.empty_cache()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library than glibc: there is nothing to trim
