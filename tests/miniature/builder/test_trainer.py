"""A long training has no end known beforehand: it resumes to the bit, and finishing it leaves it as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bottega.miniature.builder.trainer import Trainer, finish
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import read_jsonl

from . import line
from .line import PLAN, Line

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def test_a_stopped_training_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = Trainer(Line(), tmp_path / "whole", replace(PLAN, end=11))
    whole.train()
    for end in (3, 7, 11):
        parts = Trainer(Line(), tmp_path / "parts", replace(PLAN, end=end))
        parts.train()
    assert parts.samples == whole.samples == 11 * 16
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, parts.parameters[name])
        assert torch.equal(whole.average[name], parts.average[name])


def test_finishing_branches_off_and_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    Trainer(Line(), tmp_path, replace(PLAN, end=6)).train()
    before = (tmp_path / "line.safetensors").read_bytes()
    branch = finish(Line(), tmp_path, PLAN, 5)
    assert branch.step == 11
    assert (tmp_path / "line.safetensors").read_bytes() == before
    again = finish(Line(), tmp_path, PLAN, 5)
    assert again.step == 11  # the branch is done: nothing is added to it


def test_nothing_to_finish_is_told_from_a_training(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="train first"):
        finish(Line(), tmp_path, PLAN, 5)


def test_the_rate_stays_until_the_decay_and_ends_at_zero() -> None:
    plan = replace(PLAN, end=100, decay=20)
    assert plan.rate(0) == pytest.approx(0.025)
    assert plan.rate(1) == plan.rate(79) == plan.rate(80) == pytest.approx(0.05)
    assert plan.rate(85) == pytest.approx(0.025)
    assert 0 < plan.rate(99) < 0.002
    assert replace(PLAN, end=None).rate(10**6) == 0.05


def test_measurements_read_the_average_and_do_not_disturb_the_training(tmp_path: Path) -> None:
    trainer = Trainer(Line(), tmp_path, replace(PLAN, end=4))
    trainer.train()
    (measured,) = [row for row in read_jsonl(tmp_path / "line.jsonl") if "gates" in row]
    assert measured["gates"]["weight"] == pytest.approx(float(trainer.average["layer.weight"].sum()), rel=1e-3)
    assert not torch.equal(trainer.average["layer.weight"], trainer.parameters["layer.weight"])


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    task = Line(spoilt=2)
    with pytest.raises(NonFiniteError, match="step 2"):
        Trainer(task, tmp_path, PLAN).train()
    assert bool(torch.isfinite(task.layer.weight).all())
    assert Trainer(Line(), tmp_path, PLAN).step == 2


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    Trainer(Line(), tmp_path, replace(PLAN, end=1)).train()
    other = Line()
    other.modules = {"other": other.layer}
    with pytest.raises(RequestError, match=r"other\.weight is missing"):
        Trainer(other, tmp_path, PLAN)


def test_two_processes_take_the_steps_of_one_and_a_signal_ends_both_after_the_same(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    command = [sys.executable, *LAUNCH, line.__file__, str(two)]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while launcher.poll() is None and time.monotonic() < deadline and not (two / "line.jsonl").exists():
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=60)[1]
    assert (two / "line.jsonl").exists(), said

    shared = Trainer(Line(), two, PLAN)
    alone = Trainer(Line(), one, replace(PLAN, end=shared.step))
    alone.train()
    assert shared.step > 3
    assert shared.samples == alone.samples
    for name, parameter in alone.parameters.items():
        assert torch.allclose(parameter, shared.parameters[name], atol=1e-5)
        assert torch.allclose(alone.average[name], shared.average[name], atol=1e-5)
    # At the last step one process has a row that two have not, for it knew its end.
    rows, shared_rows = (
        [row for row in read_jsonl(folder / "line.jsonl") if row["step"] < shared.step] for folder in (one, two)
    )
    assert [row["step"] for row in rows] == [row["step"] for row in shared_rows]
    for row, shared_row in zip(rows, shared_rows, strict=True):
        assert row.get("gates") == pytest.approx(shared_row.get("gates"), abs=1e-4)
        for loss in ("loss_part0", "loss_part1"):
            assert row.get(loss) == pytest.approx(shared_row.get(loss), abs=1e-4)
