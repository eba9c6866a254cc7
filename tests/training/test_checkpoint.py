"""Checkpoints with names of the workload's own: their numbers order them, and what it wants back comes back."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from bottega.runtime.errors import StorageError
from bottega.training import checkpoint as checkpoints

from .test_loop import CONFIG, Line, train


def state() -> checkpoints.State:
    module = nn.Linear(1, 1)
    return checkpoints.State(module, torch.optim.AdamW(module.parameters()))


def save(directory: Path, step: int, name: str, keep: int = 100) -> Path:
    return checkpoints.save(directory, step, state(), {"a": 1}, keep, name=name, remembered={"words": ["圆", "b"]})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_is_the_one_with_the_highest_numbers_and_not_the_last_in_the_alphabet(tmp_path: Path) -> None:
    for step, name in enumerate(("epoch-9", "epoch-9-step-3", "epoch-9-step-20", "epoch-10"), start=1):
        save(tmp_path, step, name)
        found = checkpoints.latest(tmp_path)
        assert found is not None and (found.folder.name, found.step) == (name, step)


def test_what_is_remembered_comes_back_and_nothing_is_an_empty_mapping(tmp_path: Path) -> None:
    save(tmp_path, 1, "epoch-1")
    checkpoints.save(tmp_path, 2, state(), {}, keep=2)
    told, silent = (checkpoints.read(tmp_path / name) for name in ("epoch-1", "step_00000002"))
    assert told is not None and told.remembered == {"words": ["圆", "b"]} and told.fingerprint == {"a": 1}
    assert silent is not None and silent.remembered == {}


def test_the_last_ones_are_kept_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step, name in enumerate(("epoch-8", "epoch-9", "epoch-9-step-3", "epoch-10"), start=1):
        save(tmp_path, step, name, keep=2)
    assert names(tmp_path) == ["epoch-10", "epoch-9-step-3"]


def test_one_that_a_stop_made_takes_no_place_from_those_that_were_due_and_goes_with_the_next(tmp_path: Path) -> None:
    for step, name in enumerate(("epoch-1", "epoch-2", "epoch-2-step-3", "epoch-2-step-5"), start=1):
        checkpoints.save(tmp_path, step, state(), {}, keep=2, name=name, due="step" not in name)
    assert names(tmp_path) == ["epoch-1", "epoch-2", "epoch-2-step-5"]
    checkpoints.save(tmp_path, 5, state(), {}, keep=2, name="epoch-3")
    assert names(tmp_path) == ["epoch-2", "epoch-3"]


def test_what_lies_after_the_one_that_is_written_is_torn_and_goes(tmp_path: Path) -> None:
    save(tmp_path, 9, "epoch-3")
    (tmp_path / "epoch-3" / "state.json").unlink()
    (tmp_path / "readme").mkdir()
    save(tmp_path, 4, "epoch-1-step-1")
    assert names(tmp_path) == ["epoch-1-step-1", "readme"]


def test_a_torn_one_is_passed_over_by_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1, "epoch-2")
    torn = save(tmp_path, 2, "epoch-10") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest(tmp_path)
    assert found is not None and found.folder.name == "epoch-2"
    assert caplog.messages == ["the checkpoint epoch-10 is incomplete or damaged; the one before it is used"]
    caplog.clear()
    (tmp_path / "epoch-2" / "state.json").unlink()
    assert checkpoints.latest(tmp_path) is None
    assert caplog.messages[-1] == "the checkpoint epoch-2 is incomplete or damaged; there is none before it"
    assert checkpoints.read(tmp_path / "epoch-10") is None and checkpoints.read(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("old", "new"),
    [('"step": 8', '"step": 5'), ('"absmax": 0.25', '"absmax": 0.75'), ('"rate": 1', '"rate": 2'), ('"due"', '"duo"')],
)
def test_one_whose_state_was_altered_is_passed_over_as_damaged(
    tmp_path: Path, old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 4, "step_4")
    newest = checkpoints.save(
        tmp_path, 8, state(), {"rate": 1}, 9, name="step_8", remembered={"absmax": 0.25}, due=False
    )
    text = (newest / "state.json").read_text()
    assert old in text
    (newest / "state.json").write_text(text.replace(old, new))
    assert checkpoints.read(newest) is None
    found = checkpoints.latest(tmp_path)
    assert found is not None and found.step == 4
    assert "step_8 is incomplete or damaged" in caplog.text


def test_one_of_an_earlier_version_which_states_no_hash_of_itself_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 4, "step_4")
    content = json.loads((folder / "state.json").read_text())
    del content["check"]
    (folder / "state.json").write_text(json.dumps(content))
    found = checkpoints.read(folder)
    assert found is not None and found.step == 4


def test_a_place_that_takes_no_checkpoint_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(StorageError, match=r"cannot write .*checkpoints: a part of this path is a file"):
        train(Line(), CONFIG, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_writing_the_same_name_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, "epoch-1")
    first = (tmp_path / "epoch-1" / "model.safetensors").read_bytes()
    save(tmp_path, 1, "epoch-1")
    assert names(tmp_path) == ["epoch-1"] and (tmp_path / "epoch-1" / "model.safetensors").read_bytes() != first


class Named(Line):
    """Counts epochs of seven steps, and remembers how it was begun."""

    remembered = {"begun": "here"}  # noqa: RUF012

    def checkpoint_name(self, step: int) -> str:
        epoch, more = divmod(step, 7)
        return f"epoch-{epoch}-step-{more}" if more else f"epoch-{epoch}"


def test_the_loop_resumes_by_names_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 5, "keep_last": 3})
    whole, cut = Named(), Named()
    train(whole, config, tmp_path / "whole")
    assert names(tmp_path / "whole" / "checkpoints") == ["epoch-7-step-1", "epoch-7-step-6", "epoch-8-step-4"]
    train(Named(), config, tmp_path / "cut", until=35)  # epoch-5; after it epoch-5-step-5 and, further on, epoch-10
    assert train(cut, config, tmp_path / "cut")["resumed_from"] == 35
    assert names(tmp_path / "cut" / "checkpoints") == names(tmp_path / "whole" / "checkpoints")
    assert torch.equal(whole.module.weight, cut.module.weight) and torch.equal(whole.module.bias, cut.module.bias)
    newest = checkpoints.latest(tmp_path / "cut" / "checkpoints")
    assert newest is not None and newest.remembered == {"begun": "here"} and newest.step == 60
