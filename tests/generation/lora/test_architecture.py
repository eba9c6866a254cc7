"""Names in every layout find the module that the libraries themselves put there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.numpy import save_file

from bottega.generation.lora import Architecture
from bottega.generation.lora.architecture import flat, original_names
from bottega.runtime.errors import MissingError

MODELS = Path(__file__).parents[3] / "src/bottega/miniature/weights"
SIZES: dict[str, Any] = {"cross_attention_dim": 16, "norm_num_groups": 4, "attention_head_dim": 4, "sample_size": 8}


def unet(layers: int, depths: list[int]) -> UNet2DConditionModel:
    """A small U-Net with SDXL's block types and its two time embeddings."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=layers,
        transformer_layers_per_block=depths,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=56,
        **SIZES,
    )


@pytest.mark.parametrize(("layers", "depths"), [(1, [1, 1, 1]), (2, [1, 2, 10])])
def test_original_names_lead_where_diffusers_own_conversion_leads(
    layers: int, depths: list[int], tmp_path: Path
) -> None:
    model = unet(layers, depths)
    architecture = Architecture.of(unet=model)
    tensors, expected = {}, {}
    # diffusers' conversion mistakes these four for others or has no word for them.
    skipped = re.compile(r"norm|conv_shortcut|samplers|time_embedding|add_embedding|conv_(in|out)$")
    for number, (module, name) in enumerate(original_names(architecture.components["unet"]).items()):
        if skipped.search(module):
            continue
        stem = f"lora_unet_{name.replace('.', '_')}"
        shape = architecture.components["unet"][module]
        # The number marks the module: what diffusers calls it is read from the tensor that comes out.
        tensors[f"{stem}.lora_down.weight"] = np.full((1, *shape[1:]), number, np.float32)
        tensors[f"{stem}.lora_up.weight"] = np.full((shape[0], 1, *[1] * (len(shape) - 2)), number, np.float32)
        expected[number] = module
        assert architecture.find("unet", flat(name)) == module
    save_file(tensors, tmp_path / "lora.safetensors")
    state, _ = StableDiffusionXLPipeline.lora_state_dict(tmp_path / "lora.safetensors", unet_config=model.config)
    found = {}
    for key, tensor in state.items():
        module = re.sub(r"^unet\.|\.processor|(\.lora|_lora)\.(down|up)\.weight$", "", key)
        found[int(tensor.flatten()[0])] = re.sub(r"\.to_out$", ".to_out.0", module)
    assert len(expected) > 30
    assert found == expected


def test_a_folder_and_its_live_modules_are_one_architecture() -> None:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    folder = MODELS / "sdxl"
    live = Architecture.of(
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )
    assert live.components == Architecture.of_folder(folder).components
    assert live.family == "sdxl"
    assert Architecture.of_folder(MODELS / "pixart").family == "pixart"


def test_layers_that_peft_has_wrapped_count_as_what_they_wrap() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = unet(1, [1, 1, 1])
    before = Architecture.of(unet=model)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "conv1"]), model, "a0")
    after = Architecture.of(unet=model)
    assert after.components == before.components
    assert after.digest == before.digest


def test_a_folder_without_a_painter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(MissingError, match="sub-folder unet or transformer"):
        Architecture.of_folder(tmp_path)
