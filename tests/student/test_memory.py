"""Activations that are computed again: the same bits, less memory, chosen only where it is needed, and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bottega.models.config import ModelsConfig
from bottega.runtime.errors import MemoryPressureError
from bottega.student import memory
from bottega.student.memory import choose_checkpointing, saved_bytes
from bottega.student.objective import StyleWorkload
from bottega.student.stage import prepare

from .test_objective import config


@pytest.fixture(scope="module", params=["paired", "latent"])
def work(request: pytest.FixtureRequest, features: Path, models: ModelsConfig) -> StyleWorkload:
    return prepare(config(adapter={"content_mode": request.param, "layers": 2}), features, models)[0].work


def gradients(work: StyleWorkload, checkpointed: bool) -> list[torch.Tensor]:
    work.checkpointed = checkpointed
    work.adapter.zero_grad()
    work.microbatch(work.draw(0), slice(0, 8)).loss.backward()
    return [p.grad.clone() for p in work.adapter.parameters() if p.grad is not None]


def test_a_block_that_is_run_again_gives_the_same_gradients_to_the_bit(work: StyleWorkload) -> None:
    plain, again = gradients(work, False), gradients(work, True)
    assert len(plain) == len(again) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert any(bool(g.abs().max() > 0) for g in plain)


def test_checkpointing_keeps_less_and_is_not_chosen_while_there_is_room(work: StyleWorkload) -> None:
    found = choose_checkpointing(work, "auto")
    assert not found.chosen and not work.checkpointed
    assert found.plain is not None and found.checkpointed < 0.5 * found.plain
    assert "off (auto)" in str(found)


def test_it_is_chosen_where_activations_would_fill_the_memory(
    work: StyleWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = choose_checkpointing(work, "off").plain or 0
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(1.9 * needed))
    assert choose_checkpointing(work, "auto").chosen and work.checkpointed
    assert choose_checkpointing(work, "off").chosen is False
    assert choose_checkpointing(work, "on").summary()["gradient_checkpointing"] == "on"


def test_what_fits_only_when_run_again_is_run_again_and_what_never_fits_is_refused(
    work: StyleWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    microbatch = work.microbatch

    def too_large(*arguments: Any) -> Any:
        if not work.checkpointed or work.config.batch_size in refused:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return microbatch(*arguments)

    refused: list[int] = []
    monkeypatch.setattr(work, "microbatch", too_large)
    found = choose_checkpointing(work, "auto")
    assert found.chosen and found.plain is None and "more than there is" in str(found)
    with pytest.raises(MemoryPressureError, match="gradient_checkpointing: auto"):
        choose_checkpointing(work, "off")
    refused.append(work.config.batch_size)
    with pytest.raises(MemoryPressureError, match=r"8 samples must fit.*lower student\.batch_size"):
        choose_checkpointing(work, "auto")


def test_what_has_no_gradient_is_not_measured() -> None:
    layer: Any = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="gradient"):
        saved_bytes(lambda: layer(torch.zeros(1, 2)).detach().sum(), [layer])
