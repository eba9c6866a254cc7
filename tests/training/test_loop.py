"""The loop on a problem small enough to know everything about: a least-squares line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bottega.runtime.errors import (
    FingerprintError,
    Interrupted,
    MissingError,
    NonFiniteError,
    RequestError,
    StorageError,
)
from bottega.runtime.files import read_jsonl
from bottega.runtime.seeds import torch_generator
from bottega.training import checkpoint as checkpoints
from bottega.training import loop
from bottega.training.config import LoopConfig
from bottega.training.guards import clip_gradients
from bottega.training.job import TrainingJob
from bottega.training.loop import learning_rate
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload


class Line(Workload):
    """y = 2 x + 1, eight samples a step in two parts."""

    def __init__(self, poison: int | None = None, where: str = "loss", kill_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(1, 1)
        self.fingerprint = {"problem": {"slope": 2}}
        self.poison, self.where, self.kill_at = poison, where, kill_at

    def parameter_groups(self) -> list[dict[str, Any]]:
        weight, bias = self.module.parameters()
        return [
            {"params": [weight], "weight_decay": 0.0, "lr_multiplier": 1.0},
            {"params": [bias], "weight_decay": 0.0, "lr_multiplier": 2.0},
        ]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 1, generator=torch_generator("line", step))
        for k in (0, 4)[share]:
            losses = (self.module(x[k : k + 4]) - (2 * x[k : k + 4] + 1)).square().mean(dim=1)
            if step == self.poison and k == 4:
                bad = torch.tensor([1.0, float("nan"), 1.0, 1.0]) if self.where == "loss" else torch.ones(4)
                losses = losses * bad
                if self.where == "gradient":
                    losses = losses + 0 * self.module.weight.abs().sqrt().sum() * (self.module.weight * 0).sum().sqrt()
            yield Microbatch(
                losses.sum() / 8,
                losses,
                [f"id{k + i}" for i in range(4)],
                [10 * (k + i) for i in range(4)],
                ["main"] * 4,
            )

    def validate(self) -> dict[str, Any]:
        return {"val_gain": 1 - float((self.module.weight - 2).detach().abs())}


def train(work: Workload, config: LoopConfig, directory: Path, **options: Any) -> dict[str, Any]:
    """Train with the workload's own validation, where it has one."""
    return loop.train(work, config, directory, validate=getattr(work, "validate", None), **options)


def job(work: Line, config: LoopConfig) -> TrainingJob[Line]:
    return TrainingJob(work, config, work.validate)


CONFIG = LoopConfig(
    steps=60, learning_rate=0.1, warmup_steps=5, checkpoint_every=20, log_every=10, validate_every=30, weight_decay=0.0
)


def result(directory: Path) -> dict[str, bytes]:
    """The bytes of the newest checkpoint's two weight files."""
    newest = max((directory / "checkpoints").glob("step_*"))
    return {name: (newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def test_it_learns_the_line_and_writes_its_logs(tmp_path: Path) -> None:
    work = Line()
    done = train(work, CONFIG.model_copy(update={"steps": 200}), tmp_path)
    assert work.module.weight.item() == pytest.approx(2, abs=0.02) and work.module.bias.item() == pytest.approx(
        1, abs=0.02
    )
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert {"loss", "loss_main", "learning_rate", "grad_norm", "seconds", "rss_mb"} <= rows[0].keys()
    assert sum("Loss:" in line for line in (tmp_path / "train.log").read_text().splitlines()) == 20
    assert done["validation"]["val_gain"] == rows[-1]["val_gain"]
    assert done["loss"] == rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("poison", [None, 3])
def test_the_threads_asked_for_compute_the_training_and_are_given_back_however_it_ends(
    tmp_path: Path, poison: int | None
) -> None:
    class Counted(Line):
        seen: tuple[int, ...] = ()

        def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
            self.seen += (torch.get_num_threads(),)
            yield from super().microbatches(step, share)

    before = torch.get_num_threads()
    other, work = before + 1, Counted(poison)
    try:
        train(work, CONFIG.model_copy(update={"steps": 6, "threads": other}), tmp_path)
    except NonFiniteError:
        assert poison is not None
    assert set(work.seen) == {other}
    assert torch.get_num_threads() == before


def test_a_run_begun_before_there_were_threads_goes_on_with_them(tmp_path: Path) -> None:
    old = train(Line(), CONFIG, tmp_path, until=20)
    assert old["steps"] == 20 and "threads" not in LoopConfig().settings()
    done = train(Line(), CONFIG.model_copy(update={"threads": 1}), tmp_path)
    assert done["resumed_from"] == 20


def test_tensorboard_shows_each_logged_step_once_though_some_were_run_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = CONFIG.model_copy(update={"steps": 12, "log_every": 2, "checkpoint_every": 4, "validate_every": 100})
    train(Line(), config, tmp_path, until=8)
    shutil.rmtree(tmp_path / "checkpoints/step_00000008")  # steps 5 to 8 are run again
    time.sleep(1.1)  # TensorBoard orders its files by the second
    train(Line(), config, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = board.Scalars("loss/main")
    logged = {row["step"]: row["loss_main"] for row in read_jsonl(tmp_path / "metrics.jsonl")}
    assert [point.step for point in points] == [2, 4, 6, 8, 10, 12]
    assert [point.value for point in points] == pytest.approx([logged[point.step] for point in points])
    assert "learning_rate" in board.Tags()["scalars"]


@pytest.mark.parametrize("stop", [1, 20, 33, 59])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, stop: int) -> None:
    train(Line(), CONFIG, tmp_path / "whole")
    with pytest.raises(Interrupted) as caught:
        train(Line(kill_at=stop), CONFIG, tmp_path / "cut")
    assert caught.value.exit_code == 143
    done = train(Line(), CONFIG, tmp_path / "cut")
    assert done["resumed_from"] == stop + 1
    assert result(tmp_path / "whole") == result(tmp_path / "cut")
    numbers = [
        [(r["step"], r["loss"], r["grad_norm"]) for r in read_jsonl(tmp_path / d / "metrics.jsonl")]
        for d in ("whole", "cut")
    ]
    assert numbers[0] == numbers[1]


def test_a_killed_run_drops_the_log_rows_after_its_checkpoint_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "kill.py"
    source = Path(__file__).read_text().replace("signal.SIGTERM", "signal.SIGKILL")
    script.write_text(source + f"\ntrain(Line(kill_at=47), CONFIG, Path({str(tmp_path / 'cut')!r}))\n")
    process = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_jsonl(tmp_path / "cut" / "metrics.jsonl")][-1] == 47
    assert train(Line(), CONFIG, tmp_path / "cut")["resumed_from"] == 40
    train(Line(), CONFIG, tmp_path / "whole")
    assert result(tmp_path / "whole") == result(tmp_path / "cut")
    assert [row["step"] for row in read_jsonl(tmp_path / "cut" / "metrics.jsonl")] == list(range(1, 61))


@pytest.mark.parametrize("damage", [b"\xff", b"[", b""])
def test_a_damaged_log_never_keeps_a_run_from_resuming(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    train(Line(), CONFIG, tmp_path / "whole")
    train(Line(), CONFIG, tmp_path / "damaged", until=20)
    log = tmp_path / "damaged" / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = damage + lines[1][1:] if damage else b'{"step": null}\n'
    log.write_bytes(b"".join(lines))
    done = train(Line(), CONFIG, tmp_path / "damaged")
    assert (done["resumed_from"], done["steps"]) == (20, 60)
    assert result(tmp_path / "damaged") == result(tmp_path / "whole")
    assert ("1 damaged lines are passed over, line 2" in caplog.text) == bool(damage)


@pytest.mark.parametrize("torn", ["optimizer.safetensors", "model.safetensors"])
def test_training_resumes_from_the_checkpoint_before_a_truncated_one_says_so_and_ends_in_the_same_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    train(Line(), CONFIG, tmp_path / "a")
    whole = result(tmp_path / "a")
    newest = tmp_path / "a" / "checkpoints" / "step_00000060" / torn
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train(Line(), CONFIG, tmp_path / "a")["resumed_from"] == 40
    assert "step_00000060 is incomplete or damaged; the one before it is used" in caplog.text
    assert result(tmp_path / "a") == whole


def test_a_truncated_checkpoint_never_displaces_a_whole_one_that_is_written_after_it(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path / "a")
    whole = result(tmp_path / "a")
    newest = tmp_path / "a" / "checkpoints" / "step_00000060" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(Line(), CONFIG.model_copy(update={"keep_last": 1}), tmp_path / "a", until=46)
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["step_00000046"]
    assert train(Line(), CONFIG, tmp_path / "a")["resumed_from"] == 46
    assert result(tmp_path / "a") == whole


def test_the_last_checkpoints_are_kept_and_hold_no_pickle(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step_00000040", "step_00000060"]
    names = {p.name for p in (folder / "step_00000060").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert json.loads((folder / "step_00000060" / "state.json").read_text())["step"] == 60


def test_however_often_a_run_is_stopped_the_checkpoints_that_were_due_are_kept(tmp_path: Path) -> None:
    for stop in (43, 45, 47):
        with pytest.raises(Interrupted):
            train(Line(kill_at=stop), CONFIG, tmp_path)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_00000020", "step_00000040", "step_00000048"]


def test_a_run_that_is_done_does_nothing_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    first = train(Line(), CONFIG, tmp_path)
    again = train(Line(), CONFIG, tmp_path)
    assert again["resumed_from"] == 60 and again["loss"] == first["loss"]
    assert train(Line(), CONFIG.model_copy(update={"steps": 80, "learning_rate": 0.05}), tmp_path)["resumed_from"] == 60
    with pytest.raises(RequestError, match="steps = 70 is before the checkpoint's step 80"):
        train(Line(), CONFIG.model_copy(update={"steps": 70}), tmp_path)


@pytest.mark.parametrize(("field", "value"), [("warmup_steps", 6), ("max_grad_norm", 2.0), ("betas", (0.8, 0.999))])
def test_what_may_not_change_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    train(Line(), CONFIG, tmp_path)
    with pytest.raises(FingerprintError, match=rf"loop\.{field} was .* in the checkpoint and is"):
        train(Line(), CONFIG.model_copy(update={field: value, "steps": 90}), tmp_path)
    other = Line()
    other.fingerprint = {"problem": {"slope": 3}}
    with pytest.raises(FingerprintError, match=r"problem\.slope was 2"):
        train(other, CONFIG, tmp_path)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_are_spoiled(tmp_path: Path, where: str) -> None:
    work = Line(poison=25, where=where)
    with pytest.raises(NonFiniteError, match="step 26") as caught:
        train(work, CONFIG, tmp_path)
    told = {"loss": "(id5 at t=50); first: the loss itself", "gradient": "first: weight (the norm of its gradient"}
    assert told[where] in str(caught.value) and "at t=50" in str(caught.value)
    assert str(caught.value) in (tmp_path / "train.log").read_text()
    assert all(p.isfinite().all() for p in work.module.parameters())
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")][-1] == 25
    assert train(Line(), CONFIG, tmp_path)["resumed_from"] == 20  # the mended run resumes


class Showing(Line):
    """Draws something that fails, and remembers which checkpoints lay there then."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.seen = error, []  # type: ignore[var-annotated]

    def write_samples(self, directory: Path, step: int) -> list[Path]:
        self.seen.append(sorted(folder.name for folder in (directory / "checkpoints").glob("step_*")))
        raise self.error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), StorageError("the disk is full"), MissingError("no vae")]
)
def test_pictures_that_can_not_be_drawn_stop_nothing_and_come_after_the_checkpoint(
    tmp_path: Path, error: Exception
) -> None:
    config = LoopConfig(steps=4, warmup_steps=0, checkpoint_every=2, validate_every=2)
    work = Showing(error)
    train(work, config, tmp_path / "shown", write_samples=work.write_samples)
    assert work.seen == [["step_00000002"], ["step_00000002", "step_00000004"]]
    said = (tmp_path / "shown" / "train.log").read_text()
    assert said.count(f"no pictures were drawn ({error})") == 2
    plain = Line()
    train(plain, config, tmp_path / "plain")
    assert torch.equal(plain.module.weight, work.module.weight)


def test_a_fault_in_drawing_is_not_taken_for_want_of_memory(tmp_path: Path) -> None:
    work = Showing(RuntimeError("a wrong shape"))
    with pytest.raises(RuntimeError, match="shape"):
        train(work, LoopConfig(steps=2, warmup_steps=0), tmp_path, write_samples=work.write_samples)


def test_clipping_really_clips() -> None:
    layer = nn.Linear(3, 3)
    named = list(layer.named_parameters())
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 1e6)
    before = clip_gradients(named, 1.0)
    after = torch.cat([p.grad.flatten() for _, p in named if p.grad is not None]).norm()
    assert float(before) == pytest.approx(1e6 * 12**0.5) and float(after) == pytest.approx(1.0, abs=1e-4)
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 1e-3)
    clip_gradients(named, 1.0)
    assert float(layer.weight.grad.max()) == pytest.approx(1e-3)  # type: ignore[union-attr]


def test_nothing_to_clip_is_an_error_and_not_a_norm_of_zero() -> None:
    with pytest.raises(ValueError, match="no"):
        clip_gradients(list(nn.Linear(3, 3).named_parameters()), 1.0)


def test_the_learning_rate_warms_up_in_optimizer_steps_and_ends_where_it_should() -> None:
    constant = LoopConfig(steps=100, learning_rate=1.0, warmup_steps=10)
    cosine = constant.model_copy(update={"schedule": "cosine", "final_fraction": 0.1})
    assert [learning_rate(constant, s) for s in (0, 4, 9, 10, 99)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])
    assert [learning_rate(cosine, s) for s in (9, 10, 55, 100)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_checkpoints_restore_every_moment(tmp_path: Path) -> None:
    work = Line()
    optimizer = torch.optim.AdamW(work.module.parameters(), lr=0.1, fused=True)
    for part in work.microbatches(0):
        part.loss.backward()
    optimizer.step()
    checkpoints.save(tmp_path, 1, checkpoints.State(work.module, optimizer), {}, keep=1)
    other = nn.Linear(1, 1)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    found = checkpoints.latest(tmp_path)
    assert found is not None
    checkpoints.restore(found, checkpoints.State(other, fresh))
    ours, theirs = (checkpoints.optimizer_tensors(m, o) for m, o in ((work.module, optimizer), (other, fresh)))
    assert ours.keys() == theirs.keys() and len(ours) == 6
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
