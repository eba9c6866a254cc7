"""The shell scripts hand on what their users write, as the command line takes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def handed_on(script: str, tmp_path: Path, *words: str) -> list[str]:
    """The words that bottega receives; RuntimeError with the script's own message where it refuses."""
    shown = tmp_path / "bottega"
    shown.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    shown.chmod(0o755)
    done = subprocess.run(
        ["sh", str(SCRIPTS / script), *words],
        env={**os.environ, "BOTTEGA": str(shown)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()


def test_the_words_of_trainers_become_overrides_in_their_order_and_all_else_stays(tmp_path: Path) -> None:
    given = ["--config", "a recipe.yaml", "--num_epochs", "300", "--learning-rate=5e-4", "--set", "unet.blocks=2",
             "--num_samples=10000", "--dry-run", "--batch_size", "48"]  # fmt: skip
    assert handed_on("run_train.sh", tmp_path, *given) == [
        "train", "ldm", "--config", "a recipe.yaml", "--set", "training.num_epochs=300", "--set",
        "training.learning_rate=5e-4", "--set", "unet.blocks=2", "--set", "data.num_samples=10000", "--dry-run",
        "--set", "training.batch_size=48",
    ]  # fmt: skip


def test_a_feature_cache_means_a_style_adapter(tmp_path: Path) -> None:
    given = ["--features-dir", "f", "--output-dir", "o"]
    assert handed_on("run_train.sh", tmp_path, *given) == ["train", "style", *given]


def test_a_word_without_its_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="--num_epochs needs a value"):
        handed_on("run_train.sh", tmp_path, "--config", "r.yaml", "--num_epochs")
    with pytest.raises(RuntimeError, match="--num_epochs needs a value"):
        handed_on("run_train.sh", tmp_path, "--num_epochs", "--learning_rate", "3", "--config", "r.yaml")


@pytest.mark.parametrize(
    ("given", "verb"),
    [
        (["--checkpoint", "runs/x", "--prompt", "a red circle", "--num_inference_steps", "100"], "generate"),
        (["--adapter", "a.safetensors", "--style", "s.png", "--output", "o.png"], "stylize"),
    ],
)
def test_what_draws_is_told_by_its_flags(given: list[str], verb: str, tmp_path: Path) -> None:
    assert handed_on("run_inference.sh", tmp_path, *given) == [verb, *given]
