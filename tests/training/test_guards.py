"""Memory that leaks stops a run with everything saved; memory that is used, or that the system lends, does not."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bottega.runtime.errors import MemoryPressureError
from bottega.runtime.files import read_jsonl
from bottega.runtime.memory import Creep, Load
from bottega.training import checkpoint as checkpoints
from bottega.training.guards import MemoryGuard
from bottega.training.workload import ALL_MICROBATCHES, Microbatch

from .test_loop import CONFIG, Line, result, train

LONG = CONFIG.model_copy(update={"steps": 150})


class Leaking(Line):
    """Keeps a mebibyte of every step for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[np.ndarray] = []

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        # From the system, not from the heap, where earlier tests have left pages that are resident already.
        pages = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.kept.append(np.frombuffer(pages, np.uint8))
        # A system may take back pages that lie idle: on a busy machine half of the leak did not show.
        for array in self.kept:
            array[::4096] += 1  # one byte of each page
        return super().microbatches(step, share)


class Reading(Line):
    """Reads a mebibyte of a mapped file in every step, as a large feature cache is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("wb") as stream:
            stream.truncate(LONG.steps << 20)
        self.file = np.memmap(path, dtype=np.uint8, mode="r")

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        assert self.file[step << 20 : (step + 1) << 20].sum() == 0
        return super().microbatches(step, share)


def watchful(limit: float = 1.0, **options: object) -> MemoryGuard:
    """A guard that notices 16 MB after some 40 steps."""
    return MemoryGuard(limit, 10, creep=Creep(block=4, blocks=2, least_mb=16), **options)  # type: ignore[arg-type]


def test_a_leak_ends_in_a_checkpoint_and_a_stop_that_states_its_slope_and_size(tmp_path: Path) -> None:
    with pytest.raises(MemoryPressureError, match="rose steadily") as caught:
        train(Leaking(), LONG, tmp_path, guard=watchful())
    told = re.search(
        r"holds (\d+) MB and changes by \+([\d.]+) MB per 1000 steps.* up to step (\d+)", str(caught.value)
    )
    assert told is not None
    resident, slope, step = (float(number) for number in told.groups())
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert slope == pytest.approx(1000, rel=0.2)
    assert resident == pytest.approx(rows[-1]["rss_mb"], rel=0.1)
    found = checkpoints.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == step == rows[-1]["step"] < LONG.steps
    assert str(caught.value) in (tmp_path / "train.log").read_text()
    assert train(Line(), LONG, tmp_path)["resumed_from"] == step
    train(Line(), LONG, tmp_path / "whole")
    assert result(tmp_path) == result(tmp_path / "whole")


def test_memory_that_is_only_used_or_mapped_from_a_file_is_no_leak(tmp_path: Path) -> None:
    train(Line(), LONG, tmp_path / "plain", guard=watchful())
    train(Reading(tmp_path / "file"), LONG, tmp_path / "reading", guard=watchful())
    sizes = [row["rss_mb"] for row in read_jsonl(tmp_path / "reading" / "metrics.jsonl")]
    assert sizes[-1] - sizes[0] > 3 * 16  # it did look like a leak


def test_a_full_machine_stops_the_run_at_the_next_look_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with pytest.raises(MemoryPressureError, match=r"at most 1% of RAM .* up to step 10; .*loop\.memory_limit"):
        train(Line(), CONFIG.model_copy(update={"memory_limit": 0.01}), tmp_path / "cut")
    assert train(Line(), CONFIG, tmp_path / "cut")["resumed_from"] == 10
    train(Line(), CONFIG, tmp_path / "whole")
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


def test_the_machine_is_looked_at_as_often_as_asked_and_twice_before_a_stop() -> None:
    readings = iter([0.5, 0.9, 0.5, 0.9, 0.9])
    guard = watchful(0.85, measure=lambda: Load(next(readings), 0.99))
    told = {step: guard.check(step) for step in range(1, 31)}
    assert [step for step, error in told.items() if error is not None] == [30]
    assert next(readings, None) is None  # looked at in steps 10, 20, 30 alone; a full GPU is no reason


def test_the_slope_of_a_long_run_is_that_of_its_later_half_and_costs_no_memory() -> None:
    guard = watchful()
    sizes = iter([*(1000.0 + 10 * step for step in range(5000)), *(51_000.0 + 0.25 * step for step in range(5000))])
    guard.own_mb = lambda: next(sizes)  # type: ignore[method-assign]
    assert guard.slope() is None
    for step in range(1, 10_001):
        guard.check(step)
    assert guard.slope() == pytest.approx(250, rel=0.02)
    # 256 are left of 512 at step 8192, the last power of two; from there every 32nd step is kept.
    assert len(guard._points) == 256 + (10_000 - 8192) // 32
