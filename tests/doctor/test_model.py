"""`bottega doctor model`: verdicts on whole, torn, mislabelled and foreign checkpoints; exit codes; JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bottega
from bottega.cli.main import main
from bottega.doctor.answer import Answer
from bottega.doctor.model import examine_model
from bottega.runtime.errors import RequestError

WEIGHTS = Path(bottega.__file__).parent / "miniature" / "weights"

FULL_SIZE = {
    "model.diffusion_model.input_blocks.0.0": (320, 4, 3, 3),
    "model.diffusion_model.time_embed.0": (1280, 320),
    "model.diffusion_model.time_embed.2": (8, 8),
    "model.diffusion_model.label_emb.0.0": (16, 2816),
    "model.diffusion_model.middle_block.0.in_layers.0": (8,),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k": (8, 2048),
    "model.diffusion_model.out.0": (8,),
    "model.diffusion_model.out.2": (4, 8, 3, 3),
    "first_stage_model.decoder.conv_in": (8, 4, 3, 3),
    "first_stage_model.decoder.conv_out": (3, 8, 3, 3),
    "first_stage_model.decoder.norm_out": (8,),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm": (8,),
    "conditioner.embedders.1.model.ln_final": (8,),
}
"""A layer of each kind of SDXL in the original layout, at the widths that tell it."""


def write(path: Path, metadata: dict[str, str] | None = None, gone: str = " ", **more: Any) -> Path:
    tensors: dict[str, Any] = {}
    for name, shape in FULL_SIZE.items():
        tensors[f"{name}.weight"] = np.zeros(shape, np.float16)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float16)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(gone)}
    save_file({**kept, **more}, path, metadata=metadata)
    return path


def findings(answer: Answer) -> list[str]:
    return [finding.name for finding in answer.findings]


def test_a_whole_checkpoint_has_no_fault_and_its_facts_are_told(tmp_path: Path) -> None:
    answer = examine_model(str(write(tmp_path / "myAnime.safetensors", {"modelspec.prediction_type": "epsilon"})))
    assert (answer.exit_code, findings(answer)) == (0, [])
    assert answer.facts["family"] == "sdxl"
    assert answer.facts["precision"] == ["F16"]
    assert answer.facts["prediction type"] == "epsilon, by the metadata `modelspec.prediction_type`"
    assert str(answer.facts["profile"]).startswith("anime, ")
    assert answer.facts["steps"] == "25, allowed 20 to 40, best 20 to 35 (official)"
    assert {item.what for item in answer.not_judged} >= {
        "what the network predicts",
        "whether its autoencoder overflows in float16",
    }


MARKER = np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("name", "more", "metadata", "expected", "code"),
    [
        ("x", {"v_pred": MARKER, "ztsnr": MARKER}, {}, [], 0),
        ("x", {}, {}, ["prediction type not stated"], 0),
        ("noob-vpred", {}, {}, ["prediction type by name alone"], 0),
        ("x", {"v_pred": MARKER}, {"modelspec.prediction_type": "epsilon"}, ["contradicting prediction types"], 1),
        ("x-vpred", {}, {"modelspec.prediction_type": "epsilon"}, ["name against content"], 0),
        (
            "x",
            {"v_pred": MARKER, "model_ema.a": np.zeros(3), "state.exp_avg": np.zeros(1)},
            {},
            ["foreign tensors"],
            0,
        ),
    ],
)
def test_what_is_said_of_the_prediction_type_and_what_is_foreign(
    tmp_path: Path, name: str, more: dict[str, Any], metadata: dict[str, str], expected: list[str], code: int
) -> None:
    answer = examine_model(str(write(tmp_path / f"{name}.safetensors", metadata or None, **more)))
    assert (findings(answer), answer.exit_code) == (expected, code)
    assert all(finding.evidence for finding in answer.findings)


@pytest.mark.parametrize(
    ("gone", "expected", "word"),
    [
        ("first_stage_model", "missing parts", "with VAE"),
        ("conditioner", "missing parts", "whole checkpoint"),
        ("model.diffusion_model.out.2.bias", "missing tensors", "again"),
    ],
)
def test_what_lacks_is_a_fault_with_its_cure(tmp_path: Path, gone: str, expected: str, word: str) -> None:
    file = write(tmp_path / "x.safetensors", {"modelspec.prediction_type": "v"}, gone)
    answer = examine_model(str(file))
    assert (findings(answer), answer.exit_code) == ([expected], 1)
    assert word in answer.findings[0].cure


def test_a_torn_file_is_a_fault_and_not_a_traceback(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    answer = examine_model(str(file))
    assert (findings(answer), answer.exit_code) == (["damaged file"], 1)
    assert answer.not_judged


@pytest.mark.parametrize(
    ("tensors", "expected", "code"),
    [
        ({"what.weight": np.zeros(3)}, ["unknown network"], 1),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": np.zeros(3)}, ["not drawn with"], 0),
        ({"decoder.conv_in.weight": np.zeros(3), "decoder.conv_out.weight": np.zeros(3)}, ["missing tensors"], 1),
        ({"lora_unet_a.lora_up.weight": np.zeros(3), "lora_unet_a.lora_down.weight": np.zeros(3)}, [], 0),
    ],
)
def test_other_networks_are_named_and_get_no_profile(
    tmp_path: Path, tensors: dict[str, Any], expected: list[str], code: int
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    answer = examine_model(str(tmp_path / "x.safetensors"))
    assert (findings(answer), answer.exit_code) == (expected, code)
    assert str(answer.facts["profile"]).startswith("none: ")


def test_the_miniature_is_whole_and_a_mislabelled_copy_is_only_reported(tmp_path: Path) -> None:
    whole = examine_model("bottega:miniature/weights/sdxl")
    assert (whole.exit_code, findings(whole)) == (0, [])
    assert str(whole.facts["profile"]).startswith("miniature_sdxl")
    part = examine_model("bottega:miniature/weights/sdxl/unet")
    assert findings(part) == ["one part alone", "prediction type not stated"]
    assert part.exit_code == 0


def test_a_tensor_lost_in_a_folder_is_found(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS / "sdxl", tmp_path / "sdxl")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("mid_block.resnets.1.conv2.weight")
    save_file(tensors, file)
    answer = examine_model(str(folder))
    assert findings(answer) == ["missing tensors"]
    assert "mid_block.resnets.1.conv2.weight" in answer.findings[0].evidence


def test_the_limits_of_another_profile_can_be_shown(tmp_path: Path) -> None:
    file = str(write(tmp_path / "x.safetensors"))
    assert str(examine_model(file, profile="pony").facts["profile"]).startswith("pony")
    with pytest.raises(RequestError, match="is for pixart"):
        examine_model(file, profile="pixart_512")


def test_the_command_prints_text_or_json_and_gives_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = str(write(tmp_path / "a.safetensors", {"modelspec.prediction_type": "v"}))
    torn = str(write(tmp_path / "b.safetensors", gone="first_stage_model"))
    assert main(["doctor", "model", whole]) == 0
    assert "verdict: no fault found" in capsys.readouterr().out
    assert main(["doctor", "model", torn, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["exit_code"], record["facts"]["family"]) == (1, "sdxl")
    (tmp_path / "c.ckpt").write_bytes(b"PK\x03\x04")
    assert main(["doctor", "model", str(tmp_path / "c.ckpt")]) == 2
    assert main(["doctor", "model", str(tmp_path / "absent")]) == 2


def test_torch_is_not_needed() -> None:
    words = (
        "import sys; from bottega.doctor.model import examine_model; "
        "examine_model('bottega:miniature/weights/sdxl'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
