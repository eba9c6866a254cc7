"""How much time and memory the child processes of a piece of work took, measured from outside.

A stage's own figure misses its helpers: an evaluation starts processes that draw. So a thread looks at every process
below this one, ten times a second. A process's largest resident memory is kept by the kernel (`VmHWM`), so what a look
misses is only the last tenth of a second before a process ends.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_EVERY_S = 0.1
_MB = 1024 * 1024


@dataclass(frozen=True)
class Usage:
    """What the processes of a piece of work took.

    Attributes:
        seconds: from its start to its end.
        peak_rss_mb: the largest resident memory, in MiB: of all processes at one moment, or of one of them if that was
            more. Files that are mapped count, as the kernel counts them.
        peak_own_mb: the same without mapped files, which the kernel may give up: what the machine must have free.
        peak_vram_mb: the largest GPU memory in use beyond what was in use before, in MiB; None where there is no GPU.
    """

    seconds: float
    peak_rss_mb: float
    peak_own_mb: float
    peak_vram_mb: float | None


class UsageWatch:
    """Measures the processes below this one while its block runs; afterwards `usage` holds the figures.

    A parent that has itself loaded much is not counted: only what it started.
    """

    def __init__(self) -> None:
        self.usage = Usage(0.0, 0.0, 0.0, None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="usage watch")
        self._start = 0.0
        self._rss = 0.0
        self._own = 0.0
        self._gpu = _Gpu()

    def __enter__(self) -> UsageWatch:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.usage = Usage(time.monotonic() - self._start, self._rss, self._own, self._gpu.peak_mb)

    def _look(self) -> None:
        import psutil

        parent = psutil.Process()
        while not self._stop.wait(_EVERY_S):
            found = [_memory_of(child.pid) for child in parent.children(recursive=True)]
            together = sum(memory.rss for memory in found)
            largest = max((memory.peak for memory in found), default=0.0)
            self._rss = max(self._rss, together, largest)
            self._own = max(self._own, sum(memory.own for memory in found))
            self._gpu.look()


@dataclass(frozen=True)
class _ProcessMemory:
    """In MiB. rss: resident now. peak: the largest so far. own: resident now without mapped files."""

    rss: float = 0.0
    peak: float = 0.0
    own: float = 0.0


def _memory_of(pid: int) -> _ProcessMemory:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _memory_without_proc(pid)
    in_kib: dict[str, int] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            in_kib[name] = int(value.removesuffix(" kB"))
    own = in_kib.get("RssAnon", 0) + in_kib.get("RssShmem", 0)
    return _ProcessMemory(in_kib.get("VmRSS", 0) / 1024, in_kib.get("VmHWM", 0) / 1024, own / 1024)


def _memory_without_proc(pid: int) -> _ProcessMemory:
    """Of a process that has ended, or on a system without /proc."""
    import psutil

    try:
        rss = psutil.Process(pid).memory_info().rss / _MB
    except psutil.Error:
        return _ProcessMemory()
    return _ProcessMemory(rss, rss, rss)


class _Gpu:
    """Memory in use on the first GPU beyond what was in use before: CUDA's context and libraries count."""

    def __init__(self) -> None:
        self.peak_mb: float | None = None
        self._device = _first_gpu()
        self._before = self._used()
        if self._device is not None:
            self.peak_mb = 0.0

    def look(self) -> None:
        """Compare what is in use now."""
        if self.peak_mb is not None:
            self.peak_mb = max(self.peak_mb, self._used() - self._before)

    def _used(self) -> float:
        if self._device is None:
            return 0.0
        import pynvml

        return float(pynvml.nvmlDeviceGetMemoryInfo(self._device).used) / _MB


def count_gpus() -> int:
    """How many NVIDIA GPUs this machine has; asked without torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0  # no driver


def _first_gpu() -> object | None:
    import pynvml

    if count_gpus() == 0:
        return None
    device: object = pynvml.nvmlDeviceGetHandleByIndex(0)
    return device
