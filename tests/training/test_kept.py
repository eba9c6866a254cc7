"""Which weights a training keeps for a comparison, and that keeping them changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bottega.runtime.errors import DamagedError, Interrupted
from bottega.runtime.files import read_jsonl
from bottega.training import checkpoint as checkpoints
from bottega.training import loop
from bottega.training.config import LoopConfig
from bottega.training.kept import FOLDER, read_kept, require_kept

from .test_loop import CONFIG, Line

KEEPING = CONFIG.model_copy(update={"steps": 80, "checkpoint_every": 10, "keep_best": 3})


class Scored(Line):
    """A line whose validation is the best where its slope is 1, which it passes on its way to 2."""

    def validate(self) -> dict[str, Any]:
        return {"val_loss": abs(float(self.module.weight.detach()) - 1.0)}


def train(work: Line, config: LoopConfig, directory: Path, **options: Any) -> None:
    loop.train(work, config, directory, validate=work.validate, **options)


def test_the_best_by_the_validation_loss_stay_whenever_they_came(tmp_path: Path) -> None:
    work = Scored()
    train(work, KEEPING, tmp_path)
    rows = {row["step"]: row for row in read_jsonl(tmp_path / "metrics.jsonl") if "val_loss" in row}
    at_checkpoints = {step: row["val_loss"] for step, row in rows.items() if step % 10 == 0}
    assert sorted(at_checkpoints) == [10, 20, 30, 40, 50, 60, 70, 80], "a checkpoint without a validation"
    best = sorted(sorted(at_checkpoints, key=lambda step: (at_checkpoints[step], step))[:3])
    records = read_kept(tmp_path)
    assert [record["step"] for record in records] == best != [60, 70, 80]
    assert [record["val_loss"] for record in records] == [at_checkpoints[step] for step in best]
    there = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert there == sorted(["kept.json", *(record["file"] for record in records)])


def test_keeping_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    for name, config in (("with", KEEPING), ("without", KEEPING.model_copy(update={"keep_best": 0}))):
        train(Scored(), config, tmp_path / name)
    last = "checkpoints/step_00000080/model.safetensors"
    one, other = (load_file(tmp_path / name / last) for name in ("with", "without"))
    assert all((one[name] == other[name]).all() for name in one)
    assert not (tmp_path / "without" / FOLDER).exists()


def test_a_stopped_and_resumed_run_keeps_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    train(Scored(), KEEPING, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(Scored(kill_at=34), KEEPING, tmp_path / "stopped")
    train(Scored(), KEEPING, tmp_path / "stopped")
    assert read_kept(tmp_path / "whole") == read_kept(tmp_path / "stopped")


def test_what_is_kept_is_what_would_have_been_exported_averages_included(tmp_path: Path) -> None:
    config = KEEPING.model_copy(update={"steps": 20, "keep_best": 9, "ema_decay": 0.9})
    work = Scored()
    train(work, config, tmp_path)
    kept = load_file(require_kept(tmp_path, read_kept(tmp_path)[-1]))
    assert all((kept[name] == tensor).all() for name, tensor in work.module.state_dict().items())
    last = load_file(tmp_path / "checkpoints/step_00000020/model.safetensors")
    assert any((kept[name] != last[name]).any() for name in kept), "the raw weights are not the averages"


def test_a_run_that_goes_another_way_forgets_what_was_kept_of_the_old_one(tmp_path: Path) -> None:
    config = KEEPING.model_copy(update={"keep_best": 9, "keep_last": 9})
    train(Scored(), config, tmp_path)
    for folder in checkpoints.folders(tmp_path / "checkpoints")[4:]:
        (folder / "state.json").unlink()
    other = config.model_copy(update={"checkpoint_every": 20, "learning_rate": 0.05})
    train(Scored(), other, tmp_path)
    assert [record["step"] for record in read_kept(tmp_path)] == [10, 20, 30, 40, 60, 80]


def test_without_a_validation_the_newest_stay(tmp_path: Path) -> None:
    loop.train(Scored(), KEEPING, tmp_path)
    assert [record["step"] for record in read_kept(tmp_path)] == [60, 70, 80]


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    train(Scored(), KEEPING, tmp_path)
    record = read_kept(tmp_path)[0]
    path = require_kept(tmp_path, record)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedError, match=record["file"]):
        require_kept(tmp_path, record)
