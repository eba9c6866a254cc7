"""Memory, progress, provenance and fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bottega.runtime import memory, provenance
from bottega.runtime.files import sha256_bytes
from bottega.runtime.progress import Progress


def test_the_peak_knows_of_memory_that_was_given_back() -> None:
    block = np.ones(100_000_000, dtype=np.uint8)
    held = memory.rss_mb()
    del block
    memory.trim()
    assert memory.peak_rss_mb() >= held - 1
    assert memory.rss_mb() < held - 80


def test_without_a_terminal_progress_is_a_line_with_rate_counts_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "teacher", "pictures", done=4) as progress:
        progress.update(3, accepted=2, rejected=1)
    line = capsys.readouterr().err
    assert line.startswith("teacher: 7/10 pictures, ")
    for part in ("/s", " left", "accepted 2", "rejected 1", " MB"):
        assert part in line


def test_work_that_was_done_already_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "teacher", done=10):
        pass
    assert capsys.readouterr().err == ""


def test_provenance_names_versions_and_weights_but_no_place_on_this_machine(tmp_path: Path) -> None:
    weights = tmp_path / "sdxl" / "unet" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    facts = provenance.describe([weights])
    assert facts["weights"] == {"sdxl/unet/model.safetensors": sha256_bytes(b"weights")}
    assert facts["packages"]["numpy"] == np.__version__
    assert str(tmp_path) not in json.dumps(facts)
