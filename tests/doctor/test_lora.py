"""`bottega doctor lora`: every kind of fault gets its name, and what could not be judged is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bottega.cli.main import main
from bottega.doctor.answer import Answer
from bottega.doctor.lora import examine_lora
from bottega.generation.lora.architecture import Architecture
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError

MODEL = "bottega:miniature/weights/sdxl"


def tensors(rank: int = 4, width: int = 0) -> dict[str, torch.Tensor]:
    """A random LoRA of all attention in the miniature's U-Net; `width` makes it one for a wider model."""
    shapes = Architecture.of_folder(resolve(MODEL)).components["unet"]
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        if ".attn" in name:
            found[f"unet.{name}.lora_A.weight"] = torch.randn(rank, shape[1] + width, generator=generator)
            found[f"unet.{name}.lora_B.weight"] = torch.randn(shape[0] + width, rank, generator=generator)
    return found


def write(path: Path, content: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file(
        content, path, metadata={"format": "pt", **{key.replace("__", "."): text for key, text in metadata.items()}}
    )
    return path


def names(answer: Answer) -> list[str]:
    return [finding.name for finding in answer.findings]


def not_judged(answer: Answer) -> list[str]:
    return [item.what for item in answer.not_judged]


def test_a_whole_file_that_fits_has_no_fault(tmp_path: Path) -> None:
    file = write(tmp_path / "ink.safetensors", tensors(), modelspec__trigger_phrase="ink wash")
    answer = examine_lora(file, MODEL)
    assert (answer.exit_code, names(answer)) == (0, [])
    assert answer.facts["share that matches"] == 1.0
    assert answer.facts["trigger words"] == ["ink wash"]
    assert answer.facts["ranks"] == "4"
    assert answer.facts["layout"] == "diffusers"
    assert answer.facts["made for"] == "sdxl"
    assert not_judged(answer) == ["what its pictures look like"]


def test_without_a_model_nothing_is_said_about_fitting(tmp_path: Path) -> None:
    answer = examine_lora(write(tmp_path / "ink.safetensors", tensors()))
    assert answer.exit_code == 0
    assert answer.facts["share that matches"] is None
    assert not_judged(answer) == ["whether it fits a model", "which words call it", "what its pictures look like"]


def test_numbers_that_are_not_finite_come_first(tmp_path: Path) -> None:
    broken = tensors()
    key = next(iter(broken))
    broken[key][0, 0] = torch.nan
    answer = examine_lora(write(tmp_path / "ink.safetensors", broken), MODEL)
    assert (answer.exit_code, names(answer)) == (1, ["not finite"])
    assert answer.facts["tensors not finite"] == [key]
    assert "earlier epoch" in answer.findings[0].cure


def test_another_width_does_not_fit(tmp_path: Path) -> None:
    answer = examine_lora(write(tmp_path / "ink.safetensors", tensors(width=16)), MODEL)
    assert (answer.exit_code, names(answer)) == (1, ["does not fit the model"])
    assert answer.facts["share that matches"] == 0.0


def test_a_few_keys_without_a_place_are_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path / "ink.safetensors", {**tensors(), "emb_params": torch.ones(2)})
    answer = examine_lora(file, MODEL)
    assert (answer.exit_code, names(answer)) == (0, ["keys without a place"])
    assert "emb_params" in answer.findings[0].evidence


def test_a_file_without_a_lora_says_so(tmp_path: Path) -> None:
    answer = examine_lora(write(tmp_path / "x.safetensors", {"weight": torch.ones(2)}), MODEL)
    assert (answer.exit_code, names(answer)) == (1, ["no LoRA"])


def test_torn_files_and_pickles_are_faults_of_the_file(tmp_path: Path) -> None:
    torn = write(tmp_path / "torn.safetensors", tensors())
    torn.write_bytes(torn.read_bytes()[:-10])
    assert names(examine_lora(torn)) == ["damaged file"]
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps({"lora": 1}))
    answer = examine_lora(pickled)
    assert (answer.exit_code, names(answer)) == (1, ["not a LoRA file to use"])
    assert not_judged(answer) == ["everything else"]


def test_a_missing_file_or_model_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        examine_lora(tmp_path / "none.safetensors")
    with pytest.raises(MissingError):
        examine_lora(write(tmp_path / "ink.safetensors", tensors()), str(tmp_path / "none"))


def test_the_command_prints_it_and_returns_0_1_or_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "ink.safetensors", tensors())
    assert main(["doctor", "lora", str(file), "--model", MODEL]) == 0
    assert "share that matches" in capsys.readouterr().out
    assert main(["doctor", "lora", str(file), "--model", "bottega:miniature/weights/pixart", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["findings"][0]["name"] == "does not fit the model"
    assert record["exit_code"] == 1
    assert main(["doctor", "lora", str(tmp_path / "none.safetensors")]) == 2
