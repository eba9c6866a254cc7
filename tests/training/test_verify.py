"""A resumed run is compared with an uninterrupted one: what is equal passes, what a checkpoint lacks is found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bottega.runtime.errors import Interrupted, RequestError, WorkError
from bottega.training import checkpoint as checkpoints
from bottega.training.verify import GPU_TOLERANCE, Comparison, relative_difference, verify_resume
from bottega.training.workload import ALL_MICROBATCHES, Microbatch

from .test_loop import CONFIG, Line, job, train


class Counting(Line):
    """Its steps depend on how many it has computed, which no checkpoint knows."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        self.count += 1
        for part in super().microbatches(step, share):
            yield replace(part, loss=part.loss * (1 + 1e-6 * self.count))


class Drawing(Line):
    """Its steps depend on torch's own generator, which no checkpoint knows."""

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        for part in super().microbatches(step, share):
            yield replace(part, loss=part.loss * torch.rand(()))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("steps", [2, 7])
def test_a_sound_workload_is_equal_to_the_bit_and_its_run_is_not_touched(
    tmp_path: Path, schedule: str, steps: int
) -> None:
    config = CONFIG.model_copy(update={"schedule": schedule})
    train(Line(), config, tmp_path / "run", until=30)
    before = snapshot(tmp_path)
    (tmp_path / ".run.verify" / "whole").mkdir(parents=True)  # a killed process left it
    (tmp_path / ".run.verify" / "whole" / "metrics.jsonl").write_text("torn")
    compared = verify_resume(lambda: job(Line(), config), tmp_path / "run", steps)
    compared.require()
    assert str(compared).startswith("equal to the bit: all 8 tensors")  # 2 parameters, 3 of AdamW for each
    assert (compared.steps, compared.stopped, compared.device) == (steps, steps // 2, "cpu")
    assert snapshot(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("fresh", [Counting, Drawing])
def test_what_a_step_depends_on_and_no_checkpoint_holds_is_an_error_that_names_a_tensor(
    tmp_path: Path, fresh: Callable[[], Line]
) -> None:
    compared = verify_resume(lambda: job(fresh(), CONFIG), tmp_path / "run")
    assert compared.unequal > 0 and compared.difference > 0
    with pytest.raises(WorkError, match=r"must equal.*largest relative difference .*, in (exp_avg|exp_avg_sq|)\w*:"):
        compared.require()
    assert not list(tmp_path.iterdir())


def test_the_difference_that_is_told_is_the_largest_of_all_tensors(tmp_path: Path) -> None:
    compared = verify_resume(lambda: job(Counting(), CONFIG), tmp_path / "run", 6)
    short = CONFIG.model_copy(update={"steps": 6, "checkpoint_every": 6, "validate_every": 6})
    train(Counting(), short, tmp_path / "whole")
    train(Counting(), short, tmp_path / "cut", until=3)
    train(Counting(), short, tmp_path / "cut")
    tensors = []
    for name in ("whole", "cut"):
        found = checkpoints.latest(tmp_path / name / "checkpoints")
        assert found is not None
        tensors.append(checkpoints.read_tensors(found))
    differences = {name: relative_difference(tensors[0][name], tensors[1][name]) or 0.0 for name in tensors[0]}
    assert len(set(differences.values())) > 2
    assert compared.difference == differences[compared.worst] == max(differences.values())


def test_somebody_who_stops_the_comparison_gets_it_stopped_and_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        verify_resume(lambda: job(Line(kill_at=1), CONFIG), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_of_one_step_has_no_middle(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="2 steps or more, 1 was asked for"):
        verify_resume(lambda: job(Line(), CONFIG), tmp_path / "run", 1)


def test_the_relative_difference_is_that_of_the_largest_entry() -> None:
    one, other = torch.tensor([1.0, -4.0, 0.0]), torch.tensor([1.0, -4.0, 0.002])
    assert relative_difference(one, one.clone()) is None
    assert relative_difference(one, other) == pytest.approx(0.0005)
    assert relative_difference(torch.tensor(0.0), torch.tensor(-0.0)) == 0.0
    assert relative_difference(torch.tensor(math.nan), torch.tensor(math.nan)) is None
    for stranger in (None, one[:2], one.double(), torch.tensor([1.0, -4.0, math.nan])):
        assert relative_difference(one, stranger) == math.inf


def test_on_a_gpu_a_difference_passes_up_to_the_stated_tolerance_and_on_the_cpu_none_does() -> None:
    compared = Comparison(6, 3, 8, 1, "exp_avg:weight", GPU_TOLERANCE, "cuda")
    compared.require()
    for fault in ({"difference": 1.01 * GPU_TOLERANCE}, {"difference": math.inf}, {"difference": 0.0, "device": "cpu"}):
        with pytest.raises(WorkError, match="exp_avg:weight"):
            replace(compared, **fault).require()  # type: ignore[arg-type]
