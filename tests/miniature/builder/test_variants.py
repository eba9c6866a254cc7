"""The recipes of the variants at a few steps: what they leave fits the base, loads anywhere, and merges exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bottega.cli.main import main
from bottega.generation.engine import SDXLEngine
from bottega.generation.lora import inspect_lora
from bottega.generation.modules import load_modules
from bottega.generation.records import GenerationRequest, LoRASpec
from bottega.miniature.builder import variant_files, variants
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError, RequestError

WEIGHTS = Path(str(resolve("bottega:miniature/weights/sdxl"))).parent
FILES = {
    "outline": ("loras/ink_outline.safetensors", "loras/ink_outline.kohya.safetensors"),
    "sepia": ("loras/sepia_tone.safetensors", "loras/sepia_tone.kohya.safetensors"),
    "ink": ("checkpoints/ink.safetensors",),
    "v": ("checkpoints/v.safetensors",),
}
BYTES = {"outline": 1_000_000, "sepia": 1_000_000, "ink": 2_000_000, "v": 4_000_000}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants of the shipped weights, two steps each."""
    folder = tmp_path_factory.mktemp("variants")
    command = ["miniature", "train-variants", "--state", str(folder / "state"), "--output", str(folder), "--quick"]
    assert main(command) == 0
    return folder


def test_every_variant_leaves_its_files_within_their_budget(made: Path) -> None:
    for name, files in FILES.items():
        for file in files:
            assert 100_000 < (made / file).stat().st_size <= BYTES[name], file


def test_a_second_call_resumes_and_writes_the_same(made: Path, tmp_path: Path) -> None:
    state = ["--state", str(made / "state"), "--quick"]
    assert main(["miniature", "train-variants", "sepia", *state, "--output", str(tmp_path)]) == 0
    for file in FILES["sepia"]:
        again, first = load_file(tmp_path / file), load_file(made / file)
        assert again.keys() == first.keys()
        assert all(torch.equal(again[key], first[key]) for key in first)


@pytest.mark.parametrize("file", [*FILES["outline"], *FILES["sepia"]])
def test_the_loras_fit_in_both_layouts_and_say_what_they_are(made: Path, file: str) -> None:
    from bottega.generation.lora.named import architecture_of

    report = inspect_lora(made / file, architecture_of(str(WEIGHTS / "sdxl")))
    assert report.problem is None
    assert report.matched_keys == report.keys
    assert report.layout == ("kohya" if "kohya" in file else "diffusers")
    trigger = "ink outline" if "ink" in file else "sepia tone"
    assert report.metadata.trigger_words == (trigger,)
    assert report.metadata.top_tags[0] == (trigger, 8)
    other = dict(report.metadata.other)
    assert other["ss_network_dim"] == str(variants.PLANS["outline"].rank)
    assert other["ss_network_alpha"] == f"{variants.PLANS['outline'].rank}.0"


def test_both_layouts_draw_the_same_picture_and_another_than_the_base(made: Path) -> None:
    engine = SDXLEngine(load_modules(str(WEIGHTS / "sdxl"), device="cpu"))

    def picture(*names: str) -> np.ndarray:
        loras = tuple(LoRASpec(path=made / name) for name in names)
        request = GenerationRequest(prompt="a red circle", steps=5, seed=1, loras=loras)
        return engine.generate(request).pixels[0].astype(int)

    in_diffusers, in_kohya = (picture(name) for name in FILES["outline"])
    assert np.abs(in_diffusers - in_kohya).max() <= 1
    assert np.abs(in_diffusers - picture()).max() > 0


def test_diffusers_itself_loads_both_layouts(made: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    for file in FILES["outline"]:
        pipeline = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "sdxl", dtype=torch.float32)
        pipeline.load_lora_weights(made / file)
        parts = pipeline.get_list_adapters()
        assert set(parts) == {"unet", "text_encoder", "text_encoder_2"}, file


@pytest.mark.parametrize("name", ["ink", "v"])
def test_a_checkpoint_is_the_base_and_the_difference(made: Path, tmp_path: Path, name: str) -> None:
    """Merged by hand with peft's formula, B A added to the weight, against what the file loads as."""
    file = tmp_path / "model.safetensors"
    assert main(["miniature", "checkpoint", name, "--output", str(file), "--variants", str(made)]) == 0
    loaded = load_modules(str(file), configs=str(WEIGHTS / "sdxl"), device="cpu")
    base = load_modules(str(WEIGHTS / "sdxl"), device="cpu")
    tensors = load_file(made / FILES[name][0])
    changed = 0
    for network in variants.NETWORKS:
        before = dict(base.parts[network].named_parameters())
        for key, value in loaded.parts[network].named_parameters():
            expected = before[key] + _change(tensors, network, key, value.shape)
            assert (value - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-6, key
            changed += int(not torch.equal(value, before[key]))
    assert changed > 50


def _change(tensors: Mapping[str, torch.Tensor], network: str, key: str, shape: torch.Size) -> torch.Tensor:
    change = torch.zeros(shape)
    stem = f"{network}.{key.removesuffix('.weight')}"
    if key.endswith(".weight") and f"{stem}.lora_B.weight" in tensors:
        up, down = tensors[f"{stem}.lora_B.weight"].float(), tensors[f"{stem}.lora_A.weight"].float()
        change += torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).view(shape)
    if f"{network}.{key}.diff" in tensors:
        change += tensors[f"{network}.{key}.diff"].float()
    return change


def test_ink_is_recognised_as_an_anime_checkpoint_in_the_miniatures_size(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    assert main(["miniature", "checkpoint", "ink", "--output", str(file), "--variants", str(made)]) == 0
    engine = SDXLEngine(load_modules(str(file), configs=str(WEIGHTS / "sdxl"), device="cpu"))
    assert engine.profile.name == "anime"
    assert "modelspec.title" in engine.why_profile
    assert "miniature" in engine.why_profile
    answer = engine.generate(GenerationRequest(prompt="a red circle", seed=1, steps=20)).result
    assert answer.settings.prompt.startswith("masterpiece, best quality")
    assert (answer.settings.width, answer.settings.height) == (128, 128)
    assert answer.settings.guidance_scale == 7.0
    assert answer.settings.sampler == "euler_a"


def test_diffusers_loads_the_file_too_if_it_is_given_the_second_text_encoder(made: Path, tmp_path: Path) -> None:
    """It tells the two encoders apart by their widths, which are equal here, and leaves the second without weights."""
    from diffusers import StableDiffusionXLPipeline

    file = tmp_path / "model.safetensors"
    variant_files.write_checkpoint("ink", WEIGHTS, file, made)
    ours = load_modules(str(file), configs=str(WEIGHTS / "sdxl"), device="cpu").parts
    theirs = StableDiffusionXLPipeline.from_single_file(
        str(file),
        config=str(WEIGHTS / "sdxl"),
        local_files_only=True,
        dtype=torch.float32,
        text_encoder_2=ours["text_encoder_2"],
    )
    for name in ("unet", "vae", "text_encoder"):
        loaded = getattr(theirs, name).state_dict()
        for key, value in ours[name].state_dict().items():
            assert torch.equal(loaded[key], value), f"{name}.{key}"


def test_v_is_marked_and_the_base_is_not(made: Path, tmp_path: Path) -> None:
    for name in ("base", "v"):
        file = tmp_path / f"{name}.safetensors"
        assert main(["miniature", "checkpoint", name, "--output", str(file), "--variants", str(made)]) == 0
        with safe_open(file, "pt") as opened:
            assert ({"v_pred", "ztsnr"} <= set(opened.keys())) == (name == "v")
        engine = SDXLEngine(load_modules(str(file), configs=str(WEIGHTS / "sdxl"), device="cpu"))
        stated = engine.modules.identity.prediction
        assert stated is not None
        assert stated.type == ("v_prediction" if name == "v" else "epsilon")
        assert engine.zero_terminal_snr("v_prediction") == (name == "v")


def test_a_checkpoint_of_other_weights_is_refused(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights"
    shutil.copytree(WEIGHTS / "sdxl", other / "sdxl")
    unet = load_file(other / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    unet["conv_out.bias"] += 1
    from safetensors.torch import save_file

    save_file(unet, other / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match="belongs to the weights it was trained on"):
        variant_files.write_checkpoint("ink", other, tmp_path / "model.safetensors", made)
    with pytest.raises(MissingError, match="train-variants ink"):
        variant_files.write_checkpoint("ink", WEIGHTS, tmp_path / "model.safetensors", tmp_path)


def test_a_checkpoint_does_not_replace_a_file(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(RequestError, match="name another"):
        variant_files.write_checkpoint("base", WEIGHTS, file, made)
    assert file.read_bytes() == b"mine"


def test_what_v_must_answer_is_v_where_the_teacher_knows_the_noise(tmp_path: Path) -> None:
    """With a teacher that answers the true noise, the target is α ε − σ x₀ at every level with signal."""
    task = variants.VTask(variants.load_base(WEIGHTS), tmp_path, variants.VariantPlan(rank=2, steps=1, scenes=8))
    clean = torch.from_numpy(task.plain[:4]).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    timestep = np.array([10, 300, 600, 999])
    alpha, sigma = task.new.at(timestep)

    class Oracle(torch.nn.Module):
        """Stands for an ε network that makes no mistake, which no trained one is."""

        def forward(self, x: torch.Tensor, *_: object, **__: object) -> object:
            return type("Output", (), {"sample": noise})

    task.teacher = Oracle()
    x = alpha * clean + sigma * noise
    wanted = task._wanted(x, clean, timestep, torch.zeros(4, 77, 256), torch.zeros(4, 128))
    assert float(alpha[3]) == 0
    assert (wanted - (alpha * noise - sigma * clean)).abs().max() < 2e-3


def test_the_gates_draw_with_the_engine_and_write_their_figures(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "loras", tmp_path / "loras")
    shutil.copytree(made / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "gates.json").write_text(json.dumps({"gates": {"kept": 1.0}, "seconds": {}}))
    command = ["miniature", "gate-variants", "outline", "v", "--variants", str(tmp_path), "--pictures", "2", "--write"]
    assert main([*command, "--way", "contents"]) == 0
    report = json.loads((tmp_path / "gates.json").read_text())
    figures, intervals = report["gates"], report["intervals"]
    assert figures["kept"] == 1.0
    assert report["seconds"] == {}
    for weight in ("0", "0.25", "0.5", "0.75", "1"):
        name = f"ink_outline_contents_at_{weight}"
        assert intervals[name]["low"] <= figures[name] <= intervals[name]["high"]
        assert intervals[name]["pictures"] == 2
    assert figures["checkpoint_base_predicts_v"] == 0
    assert figures["checkpoint_v_less_base_contents_shape"] == pytest.approx(
        figures["checkpoint_v_contents_shape"] - figures["checkpoint_base_contents_shape"], abs=2e-4
    )
