"""Files as peft and diffusers themselves save them give the change that they compute themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import _pack_dict_with_prefix

from bottega.generation.lora import Architecture, LoRAWeights, read_lora

UNET = Path(__file__).parents[3] / "src/bottega/miniature/weights/sdxl/unet"
LAYERS = r".*(attn1\.to_[qk]|attn2\.to_v|resnets\.0\.conv1)"


def _randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Adapter parameters as after a training: none of them zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in ("lora_A", "lora_B", "hada_", "lokr_")):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def _check(weights: LoRAWeights, model: torch.nn.Module, name: str) -> None:
    layers = {key.removeprefix("base_model.model."): layer for key, layer in model.named_modules()}
    wrapped = {key: layer for key, layer in layers.items() if hasattr(layer, "base_layer")}
    assert set(weights.components) == {"unet"}
    assert set(weights.components["unet"]) == set(wrapped)
    for key, layer in wrapped.items():
        expected: Any = layer.get_delta_weight(name).detach()  # type: ignore[operator]
        difference = (weights.delta(key, "unet") - expected).norm() / expected.norm()
        assert float(difference) <= 1e-6, key


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "LoraConfig", "lora_alpha": 12},
        {"kind": "LoraConfig", "lora_alpha": 12, "use_rslora": True},
        {"kind": "LoraConfig", "rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"attn1.to_q": 16}},
        {"kind": "LoHaConfig", "alpha": 2},
        {"kind": "LoHaConfig", "alpha": 2, "use_effective_conv2d": True},
        {"kind": "LoKrConfig", "alpha": 2},
        {"kind": "LoKrConfig", "alpha": 2, "decompose_both": True, "decompose_factor": 16},
        {"kind": "LoKrConfig", "alpha": 2, "use_effective_conv2d": True, "decompose_factor": 2},
        {"kind": "LoKrConfig", "alpha": 2, "r": 64},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_what_peft_saves_is_read_as_peft_computes_it(options: dict[str, Any], tmp_path: Path) -> None:
    import peft

    unet = UNet2DConditionModel.from_pretrained(UNET)
    architecture = Architecture.of(unet=unet)
    given = {"r": 4, "target_modules": LAYERS, **options}
    config = getattr(peft, given.pop("kind"))(**given)
    model = _randomised(peft.get_peft_model(unet, config))
    model.save_pretrained(tmp_path)
    _check(read_lora(tmp_path / "adapter_model.safetensors", architecture), model, "default")


def test_magnitudes_that_peft_saves_are_read(tmp_path: Path) -> None:
    import peft

    unet = UNet2DConditionModel.from_pretrained(UNET)
    architecture = Architecture.of(unet=unet)
    model = peft.get_peft_model(unet, peft.LoraConfig(r=4, target_modules=LAYERS, use_dora=True))
    model.save_pretrained(tmp_path)
    weights = read_lora(tmp_path / "adapter_model.safetensors", architecture)
    for name, factors in weights.components["unet"].items():
        weight = model.base_model.model.get_submodule(name).base_layer.weight
        assert factors.magnitude is not None
        # Untrained magnitudes are the lengths of the base's own rows.
        assert float((factors.magnitude - weight.flatten(1).norm(dim=1)).abs().max()) <= 1e-5


def test_the_scale_that_diffusers_saves_in_the_header_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(UNET)
    architecture = Architecture.of(unet=unet)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=12, target_modules=LAYERS, alpha_pattern={"attn1.to_q": 2}))
    _randomised(unet)
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    assert _pack_dict_with_prefix({"r": 4}, "unet") == {"unet.r": 4}
    file = next(tmp_path.glob("*.safetensors"))
    _check(read_lora(file, architecture), unet, "default")
