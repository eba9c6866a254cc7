"""What tests of several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compare the outcomes of runs to the bit: the number of threads must not follow what else the machine does.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All model folders of the miniature with random weights: real classes, real files, nothing learned.

    Its PixArt predicts ε, as the published one; the miniature's own predicts v.
    """
    from bottega.miniature.builder.pack import write_untrained

    folder = write_untrained(tmp_path_factory.mktemp("tiny_models"))
    scheduler = folder / "pixart" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"v_prediction"', '"epsilon"'))
    return folder
