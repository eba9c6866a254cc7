"""`bottega doctor generation` on the miniatures: what is right passes, and each fault that is put in is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bottega.cli.main import main
from bottega.doctor.answer import Answer
from bottega.doctor.generation import (
    GenerationCheck,
    _check_prediction,
    _CheckLog,
    bad_request,
    examine_generation,
    write_random_lora,
)
from bottega.generation.engine import SDXLEngine
from bottega.generation.files import EngineOptions
from bottega.generation.guardrails import resolve
from bottega.generation.lora.architecture import Architecture
from bottega.generation.lora.layers import AdaptedModel
from bottega.generation.modules import load_modules
from bottega.generation.profiles import FOLDER, load_profile
from bottega.models.names import resolve as find_model
from bottega.runtime.errors import RequestError

MODEL = "bottega:miniature/weights/sdxl"
ALWAYS = [
    "prediction type", "guardrails off", "guardrails strict", "guardrails correct", "same seed, same picture",
    "picture", "LoRAs at once", "torn LoRA", "LoRA with a NaN", "load that breaks off", "nothing is left",
]  # fmt: skip


def examine(model: str = MODEL, *loras: Path, **options: Any) -> Answer:
    return examine_generation(GenerationCheck(EngineOptions(model=model, device="cpu"), loras, **options))


def names(answer: Answer) -> list[str]:
    return [finding.name for finding in answer.findings]


def passed(answer: Answer, name: str) -> bool:
    return str(answer.facts[name]).startswith("passed: ")


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return Architecture.of_folder(find_model(MODEL))


def test_a_whole_model_passes_everything_and_a_sheet_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "generation", "--model", MODEL, "--device", "cpu", "--output", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["findings"] == []
    for name in (*ALWAYS, "LoRA random1", "LoRA random2", "swap to random1"):
        assert record["facts"][name].startswith("passed: "), name
        assert f"{name}: passed: " in err
    assert record["facts"]["checks passed"] == 14
    with Image.open(tmp_path / "generation.png") as sheet:
        assert sheet.width > 6 * 192


def test_pixart_passes_too() -> None:
    answer = examine("bottega:miniature/weights/pixart")
    assert names(answer) == []
    assert all(passed(answer, name) for name in ALWAYS)


def test_loras_of_ones_own_are_tried_and_one_that_does_not_fit_is_a_fault(
    tmp_path: Path, architecture: Architecture
) -> None:
    mine, silent, other = (tmp_path / f"{name}.safetensors" for name in ("mine", "silent", "other"))
    write_random_lora(mine, Architecture({"unet": architecture.components["unet"]}), 5)
    content = load_file(mine)
    save_file({key: value * 0 if "lora_B" in key else value for key, value in content.items()}, silent)
    save_file({key: torch.zeros(value.shape[0] + 1, *value.shape[1:]) for key, value in content.items()}, other)
    answer = examine(MODEL, mine, silent, other)
    assert sorted(names(answer)) == ["LoRA refused", "LoRA silent failed"]
    assert answer.exit_code == 1
    assert passed(answer, "LoRA mine")
    assert passed(answer, "load that breaks off")  # also of a LoRA for the U-Net alone
    assert passed(answer, "nothing is left")


def test_a_manager_that_leaves_layers_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own fault: its wrappers stay when an adapter is deleted."""
    own = AdaptedModel.sweep
    monkeypatch.setattr(AdaptedModel, "sweep", lambda self: None if self.layers() else own(self))
    answer = examine()
    assert answer.exit_code == 1
    assert any("LoRAs" in name for name in names(answer))
    assert any("LoRAs" in item.what for item in answer.not_judged)
    assert passed(answer, "same seed, same picture")


def test_pictures_that_are_not_the_same_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that is shared between requests, in place of one for each picture."""
    shared = torch.Generator().manual_seed(0)
    own = SDXLEngine._run_pipeline

    def with_shared(self: SDXLEngine, work: Any, conditions: Any, scheduler: Any, _: Any, first: int) -> Any:
        return own(self, work, conditions, scheduler, [shared], first)

    monkeypatch.setattr(SDXLEngine, "_run_pipeline", with_shared)
    answer = examine()
    assert {"same seed, same picture failed", "swap to random1 failed", "nothing is left failed"} <= set(names(answer))


def test_a_wrong_label_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    source = find_model(MODEL)
    folder.mkdir()
    for part in source.iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    config = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "prediction_type": "v_prediction"})
    )
    log = _CheckLog(lambda _: None)
    _check_prediction(SDXLEngine(load_modules(str(folder), device="cpu")), log)
    assert [(finding.name, finding.is_fault) for finding in log.findings] == [("prediction type mislabelled", False)]
    assert "says v_prediction" in log.findings[0].evidence


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "ldm"))
def test_the_bad_request_is_corrected_by_every_profile(name: str) -> None:
    profile = load_profile(name)
    bad = bad_request(profile, 0)
    corrected = bad.model_copy(update={"guardrails": "correct"})
    fields = {change.field for change in resolve(corrected, profile, prediction_type="epsilon")[1]}
    assert {"width", "height", "steps", "guidance_scale"} <= fields


def test_what_does_not_exist_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="no such file"):
        examine(MODEL, tmp_path / "none.safetensors")
    assert main(["doctor", "generation", "--model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_the_module_is_imported_without_torch() -> None:
    imports = "import sys, bottega.doctor.generation, bottega.doctor.lora, bottega.cli.doctor"
    code = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
