"""What is given up when memory gets short, and in which order; and what a growing process is told from a busy one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bottega.runtime.errors import MemoryPressureError
from bottega.runtime.memory import Creep, Load, is_out_of_memory, load
from bottega.teacher.pressure import PATIENCE_S, Pressure


def filled(shares: list[float]) -> Iterator[Load]:
    for share in shares:
        yield Load(share, 0.0)


def under(shares: list[float], **options: object) -> tuple[Pressure, list[float]]:
    """Pressure that reads these shares one by one, and the seconds that it slept."""
    readings, slept = filled(shares), []
    return Pressure(0.85, 8, measure=lambda: next(readings), sleep=slept.append, **options), slept


def test_loading_ahead_goes_first_then_the_batch_then_time_then_the_run() -> None:
    pressure, slept = under([0.9] * 1000)
    found = []
    for _ in range(4):
        pressure.relieve()
        found.append((pressure.ahead, pressure.batch))
    assert found == [(False, 8), (False, 4), (False, 2), (False, 1)]
    assert slept == []
    with pytest.raises(MemoryPressureError, match=r"90% of RAM is, for 60 s.*memory_limit"):
        pressure.relieve()
    assert sum(slept) == pytest.approx(PATIENCE_S)


def test_what_a_collection_gives_back_costs_nothing() -> None:
    pressure, _ = under([0.9, 0.5])
    pressure.relieve()
    assert (pressure.ahead, pressure.batch) == (True, 8)


def test_waiting_ends_when_others_give_memory_back() -> None:
    pressure, slept = under([0.9, 0.9] * 4 + [0.9, 0.9, 0.9, 0.8])
    for _ in range(5):
        pressure.relieve()
    assert len(slept) == 2


def test_out_of_memory_halves_the_batch_and_with_one_picture_says_what_helps() -> None:
    pressure, _ = under([])
    for expected in (4, 2, 1):
        pressure.out_of_memory(MemoryError())
        assert pressure.batch == expected
    with pytest.raises(MemoryPressureError, match="low_vram"):
        pressure.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_an_automatic_batch_doubles_while_the_next_one_fits() -> None:
    pressure, _ = under([0.30, 0.40, 0.50, 0.70, 0.70], grows=True)  # 0.1 a picture more or less, then no more room
    found = []
    for _ in range(5):
        found.append(pressure.batch)
        pressure.relieve()
    assert found == [1, 1, 2, 4, 4]
    pressure.out_of_memory(MemoryError())
    assert pressure.batch == 2


def test_memory_that_rises_steadily_is_told_from_memory_that_is_used() -> None:
    leaking, working, filling = (Creep(block=4, blocks=2, least_mb=100) for _ in range(3))
    told = [leaking.add(1000 + 0.5 * i) for i in range(400)]
    # from the end of the fourth block (sample 16) on it rises 100 MB in 200 samples
    assert next(i for i, rise in enumerate(told) if rise) == pytest.approx(16 + 200 + 4, abs=6)
    assert all(working.add(1000 + 300 * (i % 7)) is None for i in range(400))
    assert all(filling.add(1000 + min(i, 8) * 200) is None for i in range(400))


def test_out_of_memory_is_known_in_all_its_forms_and_nothing_else_is_taken_for_it() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(OSError("no space left on device"))


def test_the_load_of_this_machine_is_a_share() -> None:
    now = load()
    assert 0 < now.ram < 1
    assert 0 <= now.vram < 1


def test_an_automatic_batch_may_fill_the_memory_up_to_its_limit_exactly() -> None:
    readings = filled([0.25, 0.5, 0.75])
    pressure = Pressure(0.75, 8, measure=lambda: next(readings), sleep=lambda seconds: None, grows=True)
    found = []
    for _ in range(3):
        pressure.relieve()
        found.append(pressure.batch)
    assert found == [1, 2, 2]  # 0.5 and 0.25 more are the limit; 0.75 and 0.5 more are not within it
