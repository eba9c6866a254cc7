"""Two dumps are the same but for what a rename explains; times are never a difference, numbers always."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def behaviour(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import behaviour

    return behaviour


def recorded(behaviour: ModuleType, folder: Path, summary: dict[str, object], table: str = "") -> Path:
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "table.md").write_text(table)
    behaviour.record(run, folder / "out")
    return folder / "out"


def test_times_memory_and_dates_are_no_difference(behaviour: ModuleType, tmp_path: Path) -> None:
    before = recorded(behaviour, tmp_path / "a", {"seconds": 1.5, "peak_rss_mb": 30, "loss": 0.5}, "took 3.1 s, 80 MB")
    after = recorded(behaviour, tmp_path / "b", {"seconds": 2.5, "peak_rss_mb": 90, "loss": 0.5}, "took 17 s, 9.5 MB")
    assert behaviour.compare(before, after, []) == 0


def test_a_key_that_is_named_as_a_unit_is_no_amount(behaviour: ModuleType) -> None:
    assert behaviour.lines({"statistics": {"min": -1.0}}) == "statistics.min = -1.0\n"
    assert behaviour.without_times("statistics.min = 3 min") == "statistics.min = AMOUNT"


def test_a_number_is_a_difference(behaviour: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recorded(behaviour, tmp_path / "a", {"loss": 0.5})
    after = recorded(behaviour, tmp_path / "b", {"loss": 0.25})
    assert behaviour.compare(before, after, []) == 1
    assert "-loss = 0.5\n+loss = 0.25" in capsys.readouterr().out


def test_a_missing_file_is_a_difference(behaviour: ModuleType, tmp_path: Path) -> None:
    before = recorded(behaviour, tmp_path / "a", {})
    after = recorded(behaviour, tmp_path / "b", {})
    (after / "table.md.flat").unlink()
    assert behaviour.compare(before, after, []) == 1


def test_a_renamed_key_is_a_difference_unless_the_list_of_renames_has_it(behaviour: ModuleType, tmp_path: Path) -> None:
    before = recorded(behaviour, tmp_path / "a", {"zoo": 1, "told": {"right": 0.5}})
    after = recorded(behaviour, tmp_path / "b", {"zoo": 1, "classified": {"correctly": 0.5}})
    assert behaviour.compare(before, after, []) == 1
    listed = tmp_path / "renames"
    listed.write_text("# by the field's names\n\ntold.right -> classified.correctly\n")
    assert behaviour.compare(before, after, behaviour.read_renames(listed)) == 0
    listed.write_text("told.right = classified.correctly\n")
    with pytest.raises(SystemExit, match="old -> new"):
        behaviour.read_renames(listed)


def test_another_wording_is_listed_and_is_no_change_of_behaviour(
    behaviour: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = recorded(behaviour, tmp_path / "a", {"advice": "raise the rate to zero and try again"})
    after = recorded(behaviour, tmp_path / "b", {"advice": "raise the rate to zero and try again"})
    assert behaviour.compare(before, after, []) == 0
    assert "wording" in capsys.readouterr().out


def test_tensors_are_told_by_name_shape_and_number(behaviour: ModuleType, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"gate": torch.ones(2, 3)}, path, {"header": '{"step": 3}'})
    first = list(behaviour._tensors(path, digests=True))
    assert first[0].startswith("gate = F32 [2, 3] ")
    assert first[1].strip() == "metadata header.step = 3"
    save_file({"gate": torch.ones(2, 3) * 2}, path, {"header": '{"step": 3}'})
    assert next(behaviour._tensors(path, digests=True)) != first[0]
    assert next(behaviour._tensors(path, digests=False)) == "gate = F32 [2, 3]"
