"""A gradient through float16 neither vanishes nor stops the run; where float16 would do, the scale changes no bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bottega.runtime.errors import Interrupted, NonFiniteError
from bottega.runtime.files import read_json, read_jsonl
from bottega.runtime.seeds import torch_generator
from bottega.training import scaling
from bottega.training.replay import read_facts
from bottega.training.scaling import START, LossScale
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload

from .test_loop import CONFIG, Line, result, train


class Scaled(Line):
    """The line, as if its gradients passed through float16."""

    loss_scaling = True


class Half(Workload):
    """A trained float32 map before a frozen float16 one; `size` is about that of the gradient in between.

    At a scale S the gradient in float16 is S · size: above 65504 it overflows, below 3e-8 it is zero.
    """

    loss_scaling = True

    def __init__(self, size: float, *, scaled: bool = True) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Linear(4, 4, bias=False)
            self.frozen = nn.Linear(4, 1, bias=False).half().requires_grad_(False)
        self.fingerprint: dict[str, Any] = {}
        self.size = size
        self.loss_scaling = scaled
        self.seen: list[int] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "weight_decay": 0.0, "lr_multiplier": 1.0}]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        self.seen.append(step)
        x = torch.randn(4, 4, generator=torch_generator("half", step))
        out = self.frozen(self.module(x).half()).float().squeeze(1)
        yield Microbatch(self.size * out.sum(), out.abs(), list("abcd"), [0, 1, 2, 3], ["main"] * 4)


def overflowing_below(limit: float) -> type[Line]:
    """A line whose gradient of the loss, times the scale, is infinite above `limit`, as in float16."""

    class Overflowing(Scaled):
        def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
            for part in super().microbatches(step, share):
                part.loss.register_hook(lambda g: torch.where(g > limit, math.inf, g))
                yield part

    return Overflowing


def test_where_nothing_overflows_a_scale_changes_no_bit(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path / "plain")
    train(Scaled(), CONFIG, tmp_path / "scaled")
    assert result(tmp_path / "plain") == result(tmp_path / "scaled")
    norms = [[row["grad_norm"] for row in read_jsonl(tmp_path / d / "metrics.jsonl")] for d in ("plain", "scaled")]
    assert norms[0] == norms[1]
    rows = list(read_jsonl(tmp_path / "scaled" / "metrics.jsonl"))
    assert {row["loss_scale"] for row in rows} == {START}
    assert "loss_scale" not in next(read_jsonl(tmp_path / "plain" / "metrics.jsonl"))


def test_an_overflow_computes_the_same_step_again_so_that_none_is_lost(tmp_path: Path) -> None:
    work = overflowing_below(2.0**13)()
    train(work, CONFIG, tmp_path / "over")
    train(Line(), CONFIG, tmp_path / "plain")
    assert result(tmp_path / "over") == result(tmp_path / "plain")
    rows = list(read_jsonl(tmp_path / "over" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 61)) and {row["loss_scale"] for row in rows} == {2.0**13}
    lines = (tmp_path / "over" / "train.log").read_text().splitlines()
    told = [line for line in lines if "overflowed" in line]
    assert len(told) == 1 and told[0].startswith("step 1: the gradient overflowed with a loss scale of 65536; the same")
    assert "computed again with 8192" in told[0]


def test_a_gradient_that_overflows_float16_itself_is_computed_again(tmp_path: Path) -> None:
    work = Half(size=40.0)
    train(work, CONFIG, tmp_path, until=2)
    assert work.seen[0] == work.seen[1] == 0 and sorted(set(work.seen)) == [0, 1]
    last = list(read_jsonl(tmp_path / "metrics.jsonl"))[-1]
    assert 256 <= last["loss_scale"] < START and math.isfinite(last["grad_norm"])


def test_gradients_that_vanish_in_float16_survive_with_a_scale(tmp_path: Path) -> None:
    norms = {}
    for scaled in (True, False):
        train(Half(size=2e-8, scaled=scaled), CONFIG, tmp_path / str(scaled), until=1)
        norms[scaled] = next(read_jsonl(tmp_path / str(scaled) / "metrics.jsonl"))["grad_norm"]
    work = Half(size=2e-8)
    work.frozen.float()
    x = torch.randn(4, 4, generator=torch_generator("half", 0))
    (2e-8 * work.frozen(work.module(x)).sum()).backward()
    assert work.module.weight.grad is not None
    assert norms[False] == 0.0
    assert norms[True] == pytest.approx(float(work.module.weight.grad.norm()), rel=1e-2)


@pytest.mark.parametrize("stop", [3, 18, 44])
def test_a_resumed_run_has_the_scale_and_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "GROW_AFTER", 7)
    kind = overflowing_below(2.0**13)
    train(kind(), CONFIG, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(kind(kill_at=stop), CONFIG, tmp_path / "cut")
    train(kind(), CONFIG, tmp_path / "cut")
    assert result(tmp_path / "whole") == result(tmp_path / "cut")
    scales = [[r["loss_scale"] for r in read_jsonl(tmp_path / d / "metrics.jsonl")] for d in ("whole", "cut")]
    assert scales[0] == scales[1]
    states = [read_json(tmp_path / d / "checkpoints" / "step_00000060" / "state.json") for d in ("whole", "cut")]
    assert states[0]["loss_scale"] == states[1]["loss_scale"]
    assert set(scales[0]) == {2.0**13} and states[0]["loss_scale"]["good_steps"] > 0


def test_the_scale_doubles_after_good_steps_in_a_row_and_never_falls_below_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling, "GROW_AFTER", 3)
    scale = LossScale(4.0)
    assert [scale.update() or scale.value for _ in range(4)] == [4.0, 4.0, 8.0, 8.0]
    assert scale.halve() and scale.state() == {"value": 4.0, "good_steps": 0}
    assert "loss scale of 8;" in (scale.update() or "") and scale.update() is None
    assert [scale.halve() for _ in range(3)] == [True, True, False] and scale.value == 1.0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_at_any_scale_stops_the_run_as_without_one(tmp_path: Path, where: str) -> None:
    told = {}
    for kind in (Line, Scaled):
        work = kind(poison=25, where=where)
        with pytest.raises(NonFiniteError, match="step 26") as caught:
            train(work, CONFIG, tmp_path / kind.__name__)
        assert all(p.isfinite().all() for p in work.module.parameters())
        facts = read_facts(tmp_path / kind.__name__ / "replay" / "step_00000026.safetensors")
        told[kind] = (str(caught.value), facts["first_module"], facts["suspects"])
    assert told[Line] == told[Scaled]


def test_a_checkpoint_that_is_older_than_the_scale_is_gone_on_from(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path / "a", until=20)
    assert train(Scaled(), CONFIG, tmp_path / "a")["resumed_from"] == 20
    train(Line(), CONFIG, tmp_path / "whole")
    assert result(tmp_path / "a") == result(tmp_path / "whole")
