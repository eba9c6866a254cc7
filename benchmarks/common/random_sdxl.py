"""SDXL base, a plain IP-Adapter and the judge's CLIP at full size with random weights: they are as fast as real ones.

Every size is the published one; `tiny` takes the miniature's, so that the same code can be tried without a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TOKENS = {"vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
PICTURE = {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16}
PICTURE |= {"image_size": 224, "patch_size": 14, "projection_dim": 1280}
JUDGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
JUDGE |= {"image_size": 224, "patch_size": 14}
IP_TOKENS = 4
CROSS_ATTENTIONS = 70


def pipeline(device: str, dtype: torch.dtype, tokenizers: Path) -> Any:
    """The image-to-image pipeline with its IP-Adapter, made on `device` in `dtype`, nothing of it on the CPU.

    Args:
        tokenizers: a folder with `tokenizer` and `tokenizer_2`; any will do, for nothing was learned.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from bottega.models.loading import load_tokenizer

    first = CLIPTextConfig(**TOKENS, **TEXT, hidden_act="quick_gelu", projection_dim=768)
    second = CLIPTextConfig(**TOKENS, **TEXT_2, hidden_act="gelu", projection_dim=1280)
    with made_in(device, dtype):
        unet = UNet2DConditionModel(**UNET)
        parts = {
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(first),
            "text_encoder_2": CLIPTextModelWithProjection(second),
            "unet": unet,
            "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**PICTURE, hidden_act="gelu")),
        }
    for part in parts.values():
        part.eval().requires_grad_(False)
    made = StableDiffusionXLImg2ImgPipeline(
        **parts,
        tokenizer=load_tokenizer(tokenizers / "tokenizer"),
        tokenizer_2=load_tokenizer(tokenizers / "tokenizer_2"),
        feature_extractor=CLIPImageProcessor(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
        add_watermarker=False,
    )
    made.load_ip_adapter(adapter(unet, device, dtype), subfolder="", weight_name="")
    made.set_progress_bar_config(disable=True)
    return made.to(device)


def adapter(unet: Any, device: str, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """A plain IP-Adapter (4 tokens) in the published key layout: K and V of each cross-attention."""
    width, seen = unet.config.cross_attention_dim, PICTURE["projection_dim"]
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    with made_in(device, dtype):
        state["image_proj"]["proj.weight"] = torch.randn(IP_TOKENS * width, seen) * seen**-0.5
        state["image_proj"]["proj.bias"] = torch.zeros(IP_TOKENS * width)
        state["image_proj"]["norm.weight"], state["image_proj"]["norm.bias"] = torch.ones(width), torch.zeros(width)
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    if len(names) != CROSS_ATTENTIONS:
        raise RuntimeError(f"SDXL has {CROSS_ATTENTIONS} cross-attentions, this U-Net {len(names)}")
    for index, name in enumerate(names):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for what in ("k", "v"):
            state["ip_adapter"][f"{2 * index + 1}.to_{what}_ip.weight"] = getattr(
                attention, f"to_{what}"
            ).weight.clone()
    return state


def write_judge(folder: Path, tokenizer: Path, device: str) -> Path:
    """OpenAI's CLIP ViT-L/14 in `folder`, as the judge loads it."""
    from transformers import CLIPConfig, CLIPModel

    from bottega.models.loading import load_tokenizer

    text = {**TOKENS, **TEXT, "hidden_act": "quick_gelu"}
    vision = {**JUDGE, "hidden_act": "quick_gelu"}
    with made_in(device, torch.float16):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    model.save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    side = JUDGE["image_size"]
    config = {"image_processor_type": "CLIPImageProcessor", "resample": 3, "do_rescale": True, "do_normalize": True}
    config |= {"do_resize": True, "size": {"shortest_edge": side}, "rescale_factor": 1 / 255, "do_convert_rgb": True}
    config |= {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    config |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextmanager
def made_in(device: str, dtype: torch.dtype) -> Iterator[None]:
    """What is made meanwhile is made there and so."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
