"""The corpus of `benchmarks/common/lora_files.py`, written once, and the benchmark that judges it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bottega.generation.lora import Architecture

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "src/bottega/miniature/weights"


@pytest.fixture(scope="session")
def corpus_module() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import lora_corpus

    yield lora_corpus
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="session")
def cases(corpus_module: ModuleType, folder: Path) -> dict[str, Any]:
    """Name -> case."""
    return {case.name: case for case in corpus_module.build(folder, MODELS)}


@pytest.fixture(scope="session")
def sdxl() -> Architecture:
    return Architecture.of_folder(MODELS / "sdxl")
