"""One tiny model, trained once: six steps on 24 circles; and one without text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from bottega.ldm.stage import run

from .tiny import textless, tiny

# The same examples in every run, and no time limit on one: a busy machine is no bug.
settings.register_profile("bottega-ldm", deadline=None, derandomize=True)
settings.load_profile("bottega-ldm")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the tiny recipe, trained to its end; not to be written into."""
    directory = tmp_path_factory.mktemp("ldm") / "tiny"
    run(tiny(), directory)
    return directory


@pytest.fixture(scope="session")
def trained_textless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a red circle, without text; not to be written into."""
    directory = tmp_path_factory.mktemp("ldm") / "textless"
    run(textless(), directory)
    return directory
