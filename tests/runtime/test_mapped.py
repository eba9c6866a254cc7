"""Pages of a mapped file are given back while a block runs, and read again unchanged."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

import pytest

from bottega.runtime.mapped import giving_back

_BYTES = 32 * 1024 * 1024


def _mapped_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssFile in /proc/self/status")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_pages_that_were_read_are_not_resident_any_more(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    content = bytes(range(256)) * (_BYTES // 256)
    file.write_bytes(content)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = _mapped_mb()
        assert mapped[:] == content
        assert _mapped_mb() - before > 0.9 * _BYTES / 1024**2
        with giving_back([file]):
            deadline = time.monotonic() + 30
            while _mapped_mb() - before > 1 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert _mapped_mb() - before <= 1
        assert mapped[:] == content


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_other_files_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(b"\1" * _BYTES)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = _mapped_mb()
        assert mapped[::4096].count(1) == _BYTES // 4096
        with giving_back([tmp_path / "weights.safetensors"]):
            time.sleep(0.3)
        assert _mapped_mb() - before > 0.9 * _BYTES / 1024**2
