"""The gates with their intervals: figures of known pictures, and the whole measurement on random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bottega.cli.main import main
from bottega.miniature.builder.final_gates import measure_sdxl, verdict, write_gates
from bottega.miniature.builder.gates import style_gaps
from bottega.miniature.builder.measured import GateFigure, mean, share


def test_wilson_s_interval_of_a_share() -> None:
    found = share([True] * 45 + [False] * 5)
    assert (found.value, found.pictures) == (0.9, 50)
    assert found.low == pytest.approx(0.7864, abs=1e-4)  # as statsmodels' proportion_confint gives it
    assert found.high == pytest.approx(0.9565, abs=1e-4)
    assert share([True] * 50).low < 0.95


def test_intervals_of_means_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        objects = rng.integers(1, 4, 120)
        shared = rng.normal(0, 1, 120)  # objects of one picture are alike
        sums = objects * (2 + shared) + rng.normal(0, 0.3, 120)
        found = mean(sums, objects)
        covered += found.low <= 2 <= found.high
    assert 0.90 < covered / 300 < 0.98


def test_the_style_gap_is_own_less_swapped() -> None:
    kinds = np.tile(np.arange(8), 4)
    assert style_gaps(kinds, kinds).mean() == 1
    assert style_gaps(np.zeros(32, np.int64), kinds).mean() == pytest.approx(1 / 8 - 1 / 8)
    rng = np.random.default_rng(1)
    assert abs(style_gaps(rng.integers(0, 8, 32_000), np.tile(np.arange(8), 4_000)).mean()) < 0.01


def test_bars_are_reached_from_the_right_side() -> None:
    assert verdict("words_shape", 0.81) == "bar 0.8: reached"
    assert verdict("words_shape", 0.79) == "bar 0.8: missed"
    assert verdict("teacher_distance", 2.4) == "bar 2.5: reached"
    assert verdict("teacher_distance", 2.6) == "bar 2.5: missed"
    assert verdict("words_ground", 1.0) is None


def test_figures_of_variants_leave_those_of_sdxl_and_new_ones_of_sdxl_drop_its_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "gates.json"
    figure = GateFigure(0.5, 0.4, 0.6, 10)
    write_gates(path, {"words_shape": figure, "teacher_distance": figure})
    write_gates(path, {"ink_outline_contents_at_1": figure})
    assert set(json.loads(path.read_text())["gates"]) == {
        "words_shape",
        "teacher_distance",
        "ink_outline_contents_at_1",
    }
    write_gates(path, {"words_shape": figure})
    report = json.loads(path.read_text())
    assert set(report["gates"]) == set(report["intervals"]) == {"words_shape", "ink_outline_contents_at_1"}


def test_random_weights_are_measured_and_miss_every_bar(tiny_models: Path, tmp_path: Path) -> None:
    measured = measure_sdxl(tiny_models, 8)
    assert {"teacher_style_gap", "teacher_at_protocol_distance", "words_style"} <= set(measured)
    for figure in measured.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.pictures == 8
    missed = [name for name, figure in measured.items() if "missed" in str(verdict(name, figure.value))]
    assert len(missed) == 9
    path = tmp_path / "gates.json"
    before = {"gates": {"clip_probe": 1.0, "teacher_iou": 0.6}, "seconds": {"clip": 3.0, "teacher": 9.0}}
    path.write_text(json.dumps({**before, "parameters": {"clip": 5, "unet": 7, "all": 12}}))
    shutil.copytree(tiny_models / "sdxl" / "unet", tmp_path / "sdxl" / "unet")
    write_gates(path, {"words_shape": GateFigure(0.5, 0.4, 0.6, 300)})
    written = json.loads(path.read_text())
    assert written["gates"] == {"clip_probe": 1.0, "words_shape": 0.5}
    assert written["intervals"] == {"words_shape": {"low": 0.4, "high": 0.6, "pictures": 300}}
    # What is known of the U-Net before goes: it was another one's.
    assert written["seconds"] == {"clip": 3.0}
    weights = load_file(tmp_path / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    count = sum(tensor.size for tensor in weights.values())
    assert written["parameters"] == {"clip": 5, "unet": count, "all": 5 + count}


def test_the_command_prints_figures_and_bars(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["miniature", "gates", "--weights", str(tiny_models), "--pictures", "8"]) == 0
    printed = capsys.readouterr().out
    assert "bar 0.85: missed" in printed
    assert "n 8" in printed
