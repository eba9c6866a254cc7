"""Files that are mapped into memory while their content is converted: their pages are given back as they are read.

A library that reads a file by mapping keeps all of it mapped until the end, and every page that was read counts as
this process's resident memory. T5-XXL, published in float32 and wanted in bfloat16, so takes 19 GB of mapped pages
beside the 9.5 GB that are kept. The system could take those pages back, but a limit on the process, or a machine of
24 GB with little free, meets them first.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MADV_PAGEOUT = 21
"""Of Linux's <sys/mman.h>, since 5.4: the system takes these pages now, and whoever reads them gets them again.

MADV_DONTNEED would drop them whatever they are. Between the look at the mappings and the call a file may be unmapped
and its place given to other memory, whose content would be gone: a teacher ended by SIGSEGV so.
"""

_EVERY_S = 0.1


@contextmanager
def giving_back(files: Iterable[Path]) -> Iterator[None]:
    """Within this block the pages of mapped files are given back ten times a second.

    Nothing happens elsewhere than on Linux, and with files of another user that this one may not write.
    """
    wanted = {os.path.realpath(file) for file in files}
    if sys.platform != "linux" or not wanted:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_give_back, args=(wanted, stop), daemon=True, name="mapped pages")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _give_back(wanted: set[str], stop: threading.Event) -> None:
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    while not stop.wait(_EVERY_S):
        for start, length in _mappings(wanted):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_PAGEOUT)


def _mappings(wanted: set[str]) -> list[tuple[int, int]]:
    """Start and length of every mapping of these files in this process."""
    found: list[tuple[int, int]] = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        place, _, _, _, _, *name = line.split(maxsplit=5)
        if name and name[0] in wanted:
            start, end = (int(part, 16) for part in place.split("-"))
            found.append((start, end - start))
    return found
