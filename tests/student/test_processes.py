"""The command, started in two processes, trains the adapter that one process trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bottega.models.config import ModelsConfig
from bottega.runtime.errors import RequestError
from bottega.runtime.files import read_json, read_jsonl
from bottega.student.config import StudentConfig
from bottega.student.export import load_adapter
from bottega.student.stage import run
from bottega.training.processes import Processes

from .test_stage import SETTINGS, changed

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "bottega"]


def test_the_command_in_two_processes_has_the_losses_and_the_adapter_of_one(
    features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    settings = SETTINGS | {"batch_size": 1, "accumulation": 4, "loop": {**SETTINGS["loop"], "steps": 4}}
    config = StudentConfig.model_validate(settings)
    (tmp_path / "recipe.yaml").write_text(f"student: {config.model_dump_json()}\n")
    words = ["train", "style", "--recipe", str(tmp_path / "recipe.yaml"), "--set", "models.device=cpu"]
    words += ["--pixart", str(models.pixart), "--clip", str(models.clip)]
    words += ["--features-dir", str(features), "--output-dir", str(tmp_path / "two")]
    done = subprocess.run([sys.executable, *LAUNCH, *words], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapter.safetensors: 4 steps") == 1  # one process tells
    run(config, tmp_path / "one", features_dir=features, models=models)

    rows = [list(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("one", "two")]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4] and rows[0][3].keys() == rows[1][3].keys()
    for one, two in zip(*rows, strict=True):
        for name in ("loss", "loss_main", "grad_norm", "cosine_before"):
            assert two[name] == pytest.approx(one[name], rel=1e-5)
    assert rows[1][3]["val_gain"] == pytest.approx(rows[0][3]["val_gain"], abs=1e-5)
    one, two = (load_adapter(tmp_path / name / "adapter.safetensors")[0].state_dict() for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert read_json(tmp_path / "two" / "training.json")["steps"] == 4
    assert (tmp_path / "two" / "train.log").read_text().startswith("begun at step 0 of 4, in 2 processes\n")


def test_more_processes_than_batches_of_a_step_are_refused_before_anything_is_loaded(
    models: ModelsConfig, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"student\.accumulation = 1 for 2 processes; raise student\.accumulation"):
        run(changed(), tmp_path, features_dir=tmp_path / "none", models=models, processes=Processes(0, 2))
