"""What version 0.0 wrote opens under this one, and its runs continue to where that version brought them.

`runs_0_0` was written by the version of 2026-11-22: `miniature_quick` is what a finished run of the recipe says of
itself, without its pictures; `ldm` a small training that was stopped at epoch 3 of 6, and `ldm_finished.jsonl` the rows
that the same version wrote when it continued; the adapters have two blocks of width 8.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from bottega.cli.main import main
from bottega.runtime.files import read_jsonl

OLD = Path(__file__).parent / "runs_0_0"
MODELS = ("sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    shutil.copytree(OLD / "miniature_quick", tmp_path / "run")
    return tmp_path / "run"


def plan(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str], str]:
    """Exit code of a dry run, the state of each stage, and the message.

    The models are called absent, for those of today's miniature may be others; such models are not compared.
    """
    absent = [word for model in MODELS for word in ("--set", f"models.{model}=absent")]
    code = main(["run", str(run), "--dry-run", "--json", *absent, *words])
    said = capsys.readouterr()
    return code, json.loads(said.out)["stages"] if code == 0 else {}, said.err


def test_every_stage_of_a_finished_run_is_done(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, states, message = plan(quick, capsys)
    assert code == 0, message
    assert len(states) == 9
    assert set(states.values()) == {"done"}


def test_a_free_setting_continues_the_stages_that_depend_on_it(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, states, _ = plan(quick, capsys, "--set", "student.loop.steps=20")
    changed = {name for name, state in states.items() if state == "to be continued"}
    assert changed == {"student", "evaluation"}


def test_a_bound_setting_is_refused_by_its_name(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, message = plan(quick, capsys, "--set", "teacher.strength=0.9")
    assert code == 2
    assert "teacher.strength" in message


def test_a_ledger_is_graded_again_to_the_same_grades(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher-dir", str(quick / "teacher"), "--thresholds", str(quick / "quality" / "thresholds.json")]
    assert main(["qc", "grade", *words]) == 0
    assert "{'A': 6, 'B': 4} -> {'A': 6, 'B': 4}" in capsys.readouterr().out


def test_a_log_gets_the_verdict_that_it_had(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "diagnose", str(quick)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("not learning: on the fixed grid the loss is 2.3% below the frozen base's")
    assert "\ncontent copied: " in said


@pytest.mark.parametrize("mode", ["sdedit", "paired", "latent"])
def test_an_adapter_has_the_state_that_was_saved(mode: str) -> None:
    from safetensors.torch import load_file

    from bottega.student.export import load_adapter

    path = OLD / f"adapter_{mode}.safetensors"
    adapter, header = load_adapter(path)
    saved = load_file(path)
    state = adapter.state_dict()
    assert state.keys() == saved.keys()
    assert all((state[name] == tensor).all() for name, tensor in saved.items())
    assert adapter.config.content_mode == mode
    assert header["sampling"] == {"steps": 4}


def test_a_training_from_scratch_continues_step_by_step_as_the_version_that_began_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "ldm"
    shutil.copytree(OLD / "ldm", run)
    assert main(["train", "ldm", "--config", str(OLD / "tiny.yaml"), "--output-dir", str(run)]) == 0
    capsys.readouterr()
    expected = list(read_jsonl(OLD / "ldm_finished.jsonl"))
    rows = list(read_jsonl(run / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, old in zip(rows, expected, strict=True):
        for name, value in old.items():  # other processors round otherwise
            assert math.isclose(row[name], value, rel_tol=2e-4), (row["step"], name)
    assert (run / "checkpoints" / "epoch-6").is_dir()


def test_a_training_of_other_settings_is_refused_by_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "ldm"
    shutil.copytree(OLD / "ldm", run)
    words = ["--config", str(OLD / "tiny.yaml"), "--output-dir", str(run), "--set", "unet.channels=[8, 16]"]
    assert main(["train", "ldm", *words]) == 2
    assert "unet.channels" in capsys.readouterr().err
