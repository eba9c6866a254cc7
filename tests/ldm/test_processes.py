"""`bottega train ldm`, started in two processes, trains the model that one process trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bottega.ldm.recipe import load_recipe
from bottega.ldm.stage import run
from bottega.runtime.errors import RequestError
from bottega.runtime.files import read_jsonl
from bottega.training import checkpoint as checkpoints
from bottega.training.processes import Processes

RECIPE = """
name: two
data: {kind: circles, size: 32, num_samples: 16, held_out: 0.1}
autoencoder: {kind: mock, factor: 4}
text: {kind: words, width: 16, layers: 1}
unet: {channels: [8, 16], attention_levels: [1], head_width: 8}
training: {num_epochs: 2, batch_size: 8, parts: 2, device: cpu, tensorboard: false, save_every_epochs: 1}
validation: {pictures: 2, samples: 1}
"""
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "bottega"]


def test_the_command_in_two_processes_has_the_losses_and_the_model_of_one(tmp_path: Path) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(RECIPE)
    words = ["train", "ldm", "--config", str(recipe), "--output-dir", str(tmp_path / "both")]
    done = subprocess.run([sys.executable, *LAUNCH, *words], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verdict:") == 1  # one process tells
    run(load_recipe(recipe), tmp_path / "one")

    rows = [list(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("one", "both")]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4] and rows[0][1].keys() == rows[1][1].keys()
    for one, both in zip(*rows, strict=True):
        assert both["loss"] == pytest.approx(one["loss"], rel=1e-5)
    one, both = (
        checkpoints.read_tensors(checkpoints.latest(tmp_path / name / "checkpoints"))  # type: ignore[arg-type]
        for name in ("one", "both")
    )
    assert max(float((one[name] - both[name]).abs().max()) for name in one) < 1e-4
    assert (tmp_path / "both" / "samples" / "epoch-2.png").exists()


def test_more_processes_than_parts_of_a_batch_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(RECIPE)
    with pytest.raises(RequestError, match=r"training\.parts = 2 for 3 processes; raise training\.parts"):
        run(load_recipe(tmp_path / "two.yaml"), tmp_path / "run", processes=Processes(0, 3))
    assert not (tmp_path / "run").exists()
