"""The pilot: a run a cell, one teacher for all, numbers and a sheet, and warnings before the long run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.cli.main import main
from bottega.models.config import ModelsConfig
from bottega.runtime.files import read_json
from bottega.teacher import pilot as module
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item, Made
from bottega.teacher.pilot import PilotCell, grid, pilot, proposed, warnings

from .conftest import SIZE, DataSet

CELL = PilotCell(0.4, 0.3, 10, 200, 0.9, 0.5, 0.05, 0.6, 0.0, 1.0)


def test_the_grid_lies_around_the_protocol_and_makes_no_cell_twice() -> None:
    cells = [(one.strength, one.ip_adapter_scale) for one in grid(TeacherConfig())]
    assert cells == [(s, i) for s in (0.32, 0.4, 0.48) for i in (0.25, 0.3, 0.35)]
    assert all(one.seeds == (0,) and not one.quality_filter for one in grid(TeacherConfig()))
    few = grid(TeacherConfig(steps=5))  # 0.32 is one step of five, 0.4 and 0.48 are two
    assert [(one.strength, one.ip_adapter_scale) for one in few][::3] == [(0.32, 0.25), (0.4, 0.25)]
    assert all(one.strength <= 1 for one in grid(TeacherConfig(strength=0.95)))


class Blending:
    """A teacher whose strength shows: it blends content and style, and a weak one hardly changes anything."""

    def __init__(self) -> None:
        self.made = 0

    def encode(self, items: list[Item]) -> None:
        pass

    def denoise(self, items: list[Item], batch: int) -> list[None]:
        return [None] * len(items)

    def finish(self, items: list[Item], latents: list[None]) -> list[Made]:
        self.made += len(items)
        shares = [0.0 if item.settings.strength < 0.4 else 0.3 for item in items]
        return [
            Made(((1 - share) * item.content + share * item.style).astype(np.float32) / 255)
            for item, share in zip(items, shares, strict=True)
        ]

    def round_trip(self, item: Item) -> None:
        return None

    def parameters(self, settings: object) -> dict:
        return {}


def test_a_pilot_shows_what_each_cell_keeps_and_where_copies_come_out(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Blending()
    monkeypatch.setattr("bottega.teacher.models.TeacherModels.teacher", teacher)
    config = TeacherConfig(size=SIZE)
    where = {
        "pairs": [data.pairs],
        "data_root": data.root,
        "models": ModelsConfig(),
        "thresholds": data.thresholds,
        "count": 4,
    }
    monkeypatch.setattr("bottega.teacher.models.TeacherModels.hashes", lambda self, ledger: {})
    told = pilot(config, tmp_path / "pilot", **where)
    assert teacher.made == 9 * 4
    assert [cell.targets for cell in told.cells] == [4] * 9
    assert [cell.unchanged for cell in told.cells] == [1.0] * 3 + [0.0] * 6
    assert sum("untouched copies" in words for words in told.warnings) == 3
    assert read_json(tmp_path / "pilot/pilot.json") == asdict(told)
    with Image.open(tmp_path / "pilot/contact_sheet.png") as sheet:
        assert sheet.width > 11 * 112
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50
    assert pilot(config, tmp_path / "pilot", **where) == told
    assert teacher.made == 9 * 4  # what is done is not made again
    assert "0.48" in module.table(told)


def test_it_proposes_what_comes_nearest_to_the_styles_among_cells_that_keep_enough() -> None:
    keen = PilotCell(0.48, 0.35, 12, 200, 0.5, 0.1, 0.20, 0.3, 0.0, 1.0)
    better = PilotCell(0.48, 0.30, 12, 200, 0.8, 0.3, 0.08, 0.4, 0.0, 1.0)
    assert proposed([CELL, keen, better]) == better
    assert warnings([CELL, keen, better]) == []
    assert proposed([keen]) is None
    assert "no cell keeps 70%" in warnings([keen])[0]


def test_pilot_and_dry_run_through_the_front_door(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["teach", "--oracle", "--pairs", str(data.pairs), "--data-root", str(data.root)]
    words += ["--output-dir", str(tmp_path / "out"), "--thresholds", str(data.thresholds)]
    words += ["--set", f"teacher.size={SIZE}", "--set", "models.device=cpu", "--seeds", "0,1"]
    assert main([*words, "--dry-run", "--limit", "5", "--set", "teacher.sampler=euler"]) == 0
    plan = capsys.readouterr().out
    assert "10 targets (2 seeds), 0 in the ledger" in plan
    assert "drawn truths of 64 px replace the teacher's pictures; no protocol is run" in plan
    painted = [word for word in words if word != "--oracle"]
    assert main([*painted, "--dry-run", "--set", "teacher.sampler=euler"]) == 0
    assert "more bad pictures than DDIM" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main([*words, "--pilot", "3"]) == 0
    assert "strength     ip" in capsys.readouterr().out
    assert (tmp_path / "out/pilot/contact_sheet.png").is_file()
    assert not (tmp_path / "out/ledger.sqlite").exists()
    assert main([*words, "--low-vram", "--batch-size", "auto", "--keep-tries", "best", "--no-quality-filter"]) == 0
    printed = capsys.readouterr()
    assert "`meta`" in printed.err
    assert "12 targets" in printed.out
    assert main([*words, "--batch-size", "0"]) == 2
    assert "1 to 256, received 0" in capsys.readouterr().err
