"""A recipe so small that its first stages take a second, run as people run it: as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
name: tiny
world: {contents: 24, contents_val: 4, painters: 16, paintings: 2, fill50k: 4, workers: 1}
data:
  coco: {limits: {workers: 1}}
  wikiart: {offline: true, limits: {workers: 1}}
  fill50k: {limits: {workers: 1}}
pairs: {train: 6, val: 2, crossed: [2, 2], seeds: [0]}
truth: {seeds: 2, calibration_pairs: 6, workers: 1}
quality: {size: 128, sample: 8}
teacher: {source: oracle, size: 128, seeds: [0], batch_size: 4}
features: {batch_size: 4, fill50k: 4}
student:
  batch_size: 4
  accumulation: 1
  loop: {steps: 4, warmup_steps: 1, checkpoint_every: 2, log_every: 2, validate_every: 2}
  sampling: {steps: 2}
  validation: {pictures: 2, timesteps: 2}
evaluation: {rows: [student, base, content, truth], batch_size: 4, draws: 200, truths: 2, examples: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The tiny recipe, in a folder of its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def bottega(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `bottega …` in the test's folder and return what came of it."""

    def run(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bottega", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `bottega …` without waiting, in a session of its own."""

    def run(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bottega", *words]
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return run
