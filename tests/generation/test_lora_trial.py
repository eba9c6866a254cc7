"""Trying a LoRA: its change grows with its weight, and what is left of it is found by the proof that must find it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bottega.cli.main import main
from bottega.generation.engine import SDXLEngine
from bottega.generation.lora_trial import try_lora
from bottega.generation.modules import load_modules
from bottega.generation.records import GenerationRequest
from bottega.runtime.errors import RequestError

MODEL = "bottega:miniature/weights/sdxl"
REQUEST = GenerationRequest(prompt="a red circle", seed=3, steps=5, width=96, height=96)


def test_the_change_grows_with_the_weight_and_nothing_is_left(engine: SDXLEngine, lora_files: list[Path]) -> None:
    trial = try_lora(engine, lora_files[0], REQUEST)
    assert trial.passed
    none, half, whole = trial.changes
    assert (none.weight, none.mean, none.most, none.pixels) == (0.0, 0.0, 0, 0.0)
    assert 0 < half.mean < whole.mean
    assert whole.pixels > 0.5
    assert trial.remains.layers == {"unet": 0, "text_encoder": 0, "text_encoder_2": 0}
    assert len(trial.pictures) == 5
    assert np.array_equal(trial.pictures[0], trial.pictures[-1])
    assert not trial.changes_nothing


def test_a_lora_that_was_never_trained_is_told(engine: SDXLEngine, lora_files: list[Path], tmp_path: Path) -> None:
    content = load_file(lora_files[3])
    silent = {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in content.items()}
    save_file(silent, tmp_path / "silent.safetensors")
    trial = try_lora(engine, tmp_path / "silent.safetensors", REQUEST)
    assert trial.passed
    assert trial.changes_nothing


def test_a_changed_base_weight_is_found(lora_files: list[Path]) -> None:
    engine = SDXLEngine(load_modules(MODEL, device="cpu"))
    done = []

    def corrupt_once(network: torch.nn.Module, _: object) -> None:
        """As soon as a LoRA is in the network."""
        if engine.loras.loaded and not done:
            done.append(True)
            with torch.no_grad():
                network.get_parameter("conv_out.bias")[0] += 1

    engine.modules.network.register_forward_pre_hook(corrupt_once)
    trial = try_lora(engine, lora_files[3], REQUEST)
    assert not trial.passed
    assert trial.remains.checksums_kept == {"unet": False, "text_encoder": True, "text_encoder_2": True}
    assert "load the model again" in trial.remains.refused
    assert not trial.remains.same_picture


def test_a_file_for_another_model_is_refused(engine: SDXLEngine, lora_files: list[Path], tmp_path: Path) -> None:
    content = {
        key: torch.zeros(value.shape[0] + 1, *value.shape[1:]) for key, value in load_file(lora_files[3]).items()
    }
    save_file(content, tmp_path / "other.safetensors")
    with pytest.raises(RequestError):
        try_lora(engine, tmp_path / "other.safetensors", REQUEST)


def test_the_command_tells_it_and_draws_a_sheet(
    lora_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    line = ["lora", "test", str(lora_files[3]), "--model", MODEL, "--steps", "5", "--device", "cpu"]
    assert main([*line, "--output", str(sheet)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "random3: 100.0% of its keys match, in unet"
    assert "  picture       the same, bit for bit" in out
    assert out[-1] == "passed"
    with Image.open(sheet) as picture:
        assert picture.width > 5 * 128
    assert main([*line, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [change["weight"] for change in record["changes"]] == [0.0, 0.5, 1.0]
    assert record["nothing_is_left"]


def test_a_torn_file_is_refused_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\0" * 20)
    assert main(["lora", "test", str(torn), "--model", "nobody/has-this"]) == 1
    assert "torn.safetensors" in capsys.readouterr().err
