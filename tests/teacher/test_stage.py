"""The stages and their commands end to end: with real classes at tiny size, and through the front door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from bottega.cli.main import main
from bottega.models.config import ModelsConfig
from bottega.models.workers import OpenPool, Workers, open_pool
from bottega.quality.config import QualityConfig, Thresholds
from bottega.quality.stage import load_thresholds
from bottega.quality.stage import run as calibrate
from bottega.runtime.errors import NonFiniteError
from bottega.runtime.files import read_json, sha256_file, write_json, write_png
from bottega.teacher.config import TeacherConfig
from bottega.teacher.ledger import Ledger
from bottega.teacher.stage import run

from .conftest import LIMITS, SIZE, DataSet, draw


def test_real_classes_make_the_same_bytes_in_one_go_and_in_two(
    data: DataSet, tiny_models: Path, tmp_path: Path
) -> None:
    models = ModelsConfig(
        sdxl=str(tiny_models / "sdxl"),
        ip_adapter=str(tiny_models / "ip_adapter"),
        clip=str(tiny_models / "clip"),
        device="cpu",
        dtype="float32",
    )
    config = TeacherConfig(steps=5, size=128, batch_size=2, max_retries=1, seeds=(0,), sheet_after=2)
    where = {"pairs": [data.pairs], "data_root": data.root, "models": models, "thresholds": data.thresholds}
    summary = run(config, tmp_path / "whole", **where, limit=4)
    run(config, tmp_path / "parts", **where, limit=2)
    assert run(config, tmp_path / "parts", **where, limit=4)["grades"] == summary["grades"]
    names = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").glob("*/*seed0.png"))
    assert len(names) == 4
    assert [sha256_file(tmp_path / "whole" / n) for n in names] == [sha256_file(tmp_path / "parts" / n) for n in names]
    with Ledger(tmp_path / "whole/ledger.sqlite") as ledger:
        first = next(ledger.current())
    assert first.parameters["unet_calls"] == 2
    assert "style_gain" in first.scores
    assert summary["departures"] == {
        "steps": {"protocol": 25, "here": 5},
        "size": {"protocol": 512, "here": 128},
    }


def test_a_run_in_which_every_target_failed_ends_with_exit_1_and_names_the_encoder(
    data: DataSet, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_models / "sdxl", tmp_path / "sdxl")
    spoil(next((tmp_path / "sdxl" / "vae").glob("*.safetensors")), "encoder.")
    words = ["teach", "--pairs", str(data.pairs), "--data-root", str(data.root), "--output-dir", str(tmp_path / "t")]
    words += ["--thresholds", str(data.thresholds), "--limit", "1", "--seeds", "0"]
    for name, value in {
        "models.sdxl": tmp_path / "sdxl",
        "models.ip_adapter": tiny_models / "ip_adapter",
        "models.device": "cpu",
        "teacher.steps": 5,
        "teacher.size": 128,
    }.items():
        words += ["--set", f"{name}={value}"]
    for _ in ("made", "found in the ledger"):
        assert main(words) == 1
        told = capsys.readouterr().err
        assert "not one of 1 targets came out" in told and "--retry-failed" in told
        assert "the autoencoder's encoder gave values for the content that are not finite" in told
    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        rows = list(ledger.current())
    assert [row.status for row in rows] == ["failed"], "no retry mends an encoder"
    assert (tmp_path / "t/metadata.jsonl").is_file()

    spoilt = tmp_path / "sdxl" / "vae"
    shutil.rmtree(spoilt)
    shutil.copytree(tiny_models / "sdxl" / "vae", spoilt)
    assert main([*words, "--retry-failed"]) == 2, "other weights are another run"
    assert main([*words[:6], str(tmp_path / "fresh"), *words[7:]]) == 0


def spoil(file: Path, prefix: str) -> None:
    """NaN in the first tensor of a part."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = min(name for name in tensors if name.startswith(prefix))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})


def test_pairs_without_one_readable_picture_are_no_success(
    teach: Callable[..., dict], data: DataSet, tmp_path: Path
) -> None:
    for row in data.rows:
        (data.root / row["content_path"]).write_bytes(b"no picture")
    with pytest.raises(NonFiniteError, match=r"6 targets with unreadable inputs"):
        teach(seeds=[0])
    write_png(data.root / data.rows[0]["content_path"], np.full((SIZE, SIZE, 3), 99, np.uint8))
    assert teach(seeds=[0])["made"] >= 1


def test_limits_are_calibrated_on_truths_and_stay_when_the_list_grows(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", count=16)
    config = QualityConfig(size=SIZE, sample=40)
    summary = calibrate(config, tmp_path / "q", pairs=[data.pairs], data_root=data.root, models=ModelsConfig())
    assert (summary["source"], summary["truths"]) == ("calibrated", 16)
    assert summary["grades"]["good"]["C"] == 0
    assert summary["grades"]["untouched"]["C"] == 1
    before = (tmp_path / "q/thresholds.json").read_bytes()
    data.rewrite(data.rows[:12])
    assert calibrate(config, tmp_path / "q", pairs=data.pairs, data_root=data.root, models=ModelsConfig()) == summary
    assert (tmp_path / "q/thresholds.json").read_bytes() == before


def test_several_processes_find_the_limits_that_one_finds(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw(tmp_path / "data", count=9)
    models = ModelsConfig(clip=str(tiny_models / "clip"), device="cpu")
    config = QualityConfig(size=SIZE, sample=40)
    monkeypatch.setattr("bottega.quality.stage._BATCH", 4)  # chunks of 4, 4 and 1, each with the first of the next
    monkeypatch.setattr("bottega.quality.stage._EVIDENCE", 5)
    alone = calibrate(config, tmp_path / "alone", pairs=data.pairs, data_root=data.root, models=models)
    begun: list[Workers] = []

    def opened(workers: Workers) -> AbstractContextManager[OpenPool]:
        begun.append(workers)
        return open_pool(workers)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("bottega.models.workers._PICTURES_EACH", 1)
    monkeypatch.setattr("bottega.quality.stage.open_pool", opened)
    shared = calibrate(config, tmp_path / "shared", pairs=data.pairs, data_root=data.root, models=models)
    assert [(one.count, one.threads) for one in begun] == [(2, 1)]
    assert shared == alone
    for name in ("thresholds.json", "calibration.json"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    # Of the last all kinds are not made: those that set the limits.
    counts = read_json(tmp_path / "alone/calibration.json")["table"]["counts"]
    assert counts == dict.fromkeys(counts, 8) | {"good": 9, "untouched": 18, "reencoded": 9}
    assert "calibrating on drawn truths: 83/83 pictures" in capsys.readouterr().err


def test_without_truths_the_configured_limits_are_used_and_said_to_be_defaults(data: DataSet, tmp_path: Path) -> None:
    config = QualityConfig(size=SIZE, thresholds=LIMITS)
    summary = calibrate(config, tmp_path / "q", pairs=data.pairs, data_root=data.root, models=ModelsConfig())
    assert summary["source"] == "default"
    assert load_thresholds(tmp_path / "q/thresholds.json") == LIMITS


def test_teach_grade_and_sheet_through_the_front_door(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["teach", "--oracle", "--pairs", str(data.pairs), "--data-root", str(data.root), "--output-dir", str(out)]
    words += ["--set", f"teacher.size={SIZE}", "--set", "models.device=cpu", "--seeds", "0", "--limit", "3"]
    assert main([*words, "--thresholds", str(data.thresholds)]) == 0
    assert "3 targets accepted" in capsys.readouterr().out
    assert main([*words, "--thresholds", str(data.thresholds), "--set", "teacher.strength=0.5"]) == 2
    assert "teacher.strength was 0.4, now 0.5" in capsys.readouterr().err
    strict = tmp_path / "strict.json"
    write_json(strict, Thresholds(edge_64_c=0.99, edge_64_a=0.999, hf_ratio_max=20).model_dump())
    assert main(["qc", "grade", "--teacher-dir", str(out), "--thresholds", str(strict), "--write"]) == 0
    assert "->C" in capsys.readouterr().out
    assert main([*words, "--thresholds", str(strict)]) == 0
    sheet = [
        "qc",
        "sheet",
        "--teacher-dir",
        str(out),
        "--data-root",
        str(data.root),
        "--output",
        str(tmp_path / "c.png"),
    ]
    assert main([*sheet, "--grade", "C", "--reason", "edge_64"]) == 0
    assert "targets" in capsys.readouterr().out
    assert main(["qc", "sheet", "--teacher-dir", str(tmp_path), "--data-root", ".", "--output", "x.png"]) == 2


def test_calibrate_through_the_front_door_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw(tmp_path / "data", count=9)
    words = ["qc", "calibrate", "--pairs", str(data.pairs), "--data-root", str(data.root)]
    assert main([*words, "--output-dir", str(tmp_path / "q"), "--set", f"quality.size={SIZE}"]) == 0
    printed = capsys.readouterr().out
    assert "untouched" in printed
    assert "calibrated, from 9 drawn truths" in printed
    assert json.loads((tmp_path / "q/thresholds.json").read_text())["change_min"] > 0
