"""Small checkpoints in the key layout of the original code, made of diffusers' own small models.

The names are written here by hand, from the layout's side; that they are right is proved by diffusers, whose
`from_single_file` loads the result and draws the same picture (`test_identify.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

WIDTH = 32  # of the first text encoder
SECOND = 40  # of the second: diffusers tells the two apart by their widths alone
LAYERS = 11  # of the second one: diffusers tells SDXL by the name of its layer 9

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip


def write_sdxl(folder: Path, *, in_channels: int = 4, refiner: bool = False) -> Path:
    """A pipeline of SDXL's classes in diffusers' layout: 3 levels, 1 block each."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from .conftest import write_clip_tokenizer

    torch.manual_seed(0)
    size = write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2")
    text: dict[str, Any] = {
        "vocab_size": size, "hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4,
        "max_position_embeddings": 16, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1,
    }  # fmt: skip
    first = CLIPTextModel(CLIPTextConfig(**text, num_hidden_layers=3))
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(**{**text, "hidden_size": SECOND}, num_hidden_layers=LAYERS, projection_dim=SECOND)
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=SECOND if refiner else WIDTH + SECOND,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=SECOND + (5 if refiner else 6) * 8,
    )
    vae = write_vae()
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if refiner:
        pipeline: Any = StableDiffusionXLImg2ImgPipeline(
            vae, None, second, None, words, unet, scheduler, requires_aesthetics_score=True, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionXLPipeline(vae, first, second, words, words, unet, scheduler, add_watermarker=False)
    assert isinstance(vae, AutoencoderKL)
    pipeline.save_pretrained(folder)
    return folder


def write_vae() -> Any:
    """A small AutoencoderKL of four levels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.13025,
    )


def write_sd(folder: Path, *, second: bool = False, in_channels: int = 4) -> Path:
    """U-Net and autoencoder of Stable Diffusion 1 (or 2, whose projections are linear), as folders."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=(2, 4, 4) if second else 2,
        cross_attention_dim=WIDTH,
        use_linear_projection=second,
    ).save_pretrained(folder / "unet")
    write_vae().save_pretrained(folder / "vae")
    text = {"vocab_size": 40, "hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4}
    CLIPTextModel(CLIPTextConfig(**text, num_hidden_layers=2, max_position_embeddings=16)).save_pretrained(
        folder / "text_encoder"
    )
    return folder


def original(folder: Path, family: str = "sdxl") -> dict[str, Any]:
    """All tensors of a pipeline's folder in one state, under the original names.

    Args:
        folder: a pipeline in diffusers' layout.
        family: sdxl, sdxl_refiner, sd1 or sd2: how the text encoders are called.
    """
    from safetensors.torch import load_file

    def part(name: str, stem: str = "model") -> dict[str, Any]:
        file = folder / name / f"{stem}.safetensors"
        return load_file(file) if file.exists() else {}

    state = {}
    for name, tensor in part("unet", "diffusion_pytorch_model").items():
        state["model.diffusion_model." + unet_name(name)] = tensor
    for name, tensor in part("vae", "diffusion_pytorch_model").items():
        new = vae_name(name)
        # The original attention is a 1 × 1 convolution.
        is_matrix = ".attn_1." in new and new.endswith("weight") and tensor.ndim == 2
        state["first_stage_model." + new] = tensor[:, :, None, None].contiguous() if is_matrix else tensor
    clip = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
    if family in ("sdxl", "sd1"):
        for name, tensor in part("text_encoder").items():
            state[f"{clip}text_model.{name.removeprefix('text_model.')}"] = tensor
    open_clip = {"sdxl": "conditioner.embedders.1.model.", "sdxl_refiner": "conditioner.embedders.0.model."}
    if family in open_clip:
        state |= open_clip_state(part("text_encoder_2"), open_clip[family])
    if family == "sd2":
        state |= open_clip_state(part("text_encoder"), "cond_stage_model.model.")
    return state


def unet_name(name: str) -> str:
    """Original name of a tensor of a U-Net with three levels and one block in each."""
    layer, _, end = name.rpartition(".")
    if layer in _UNET_ENDS:
        return f"{_UNET_ENDS[layer]}.{end}"
    match = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    if match is None:
        match = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name)
        assert match is not None, name
        kind, number, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_inside(rest)}"
    way, level, kind, number, rest = match.groups()
    if way == "down":
        # Of each level two blocks: the residual one, and the one that halves; the first block of all is conv_in.
        if kind == "downsamplers":
            return f"input_blocks.{2 * int(level) + 2}.0.op.{rest.removeprefix('conv.')}"
        block = 2 * int(level) + 1 + int(number)
        return f"input_blocks.{block}.{int(kind == 'attentions')}.{_inside(rest)}"
    if kind == "upsamplers":
        # The doubling follows the attention in the level's last block, or the residual block where there is none.
        return f"output_blocks.{2 * int(level) + 1}.{_UP_PLACE}.{rest}"
    block = 2 * int(level) + int(number)
    return f"output_blocks.{block}.{int(kind == 'attentions')}.{_inside(rest)}"


_UP_PLACE = 2
"""Where SDXL's doublings stand: its two levels that double have attention."""


def _inside(rest: str) -> str:
    first, dot, more = rest.partition(".")
    return f"{_RESNET.get(first, first)}{dot}{more}"


def vae_name(name: str) -> str:
    """Original name of a tensor of an autoencoder with four levels."""
    name = name.replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"), ("group_norm", "norm")):
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    return name


def open_clip_state(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A text encoder as OpenCLIP names it: query, key and value in one matrix, the projection transposed."""
    import torch

    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    state = {
        f"{prefix}token_embedding.weight": plain.pop("embeddings.token_embedding.weight"),
        f"{prefix}positional_embedding": plain.pop("embeddings.position_embedding.weight"),
        f"{prefix}ln_final.weight": plain.pop("final_layer_norm.weight"),
        f"{prefix}ln_final.bias": plain.pop("final_layer_norm.bias"),
        f"{prefix}logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in plain:
        state[f"{prefix}text_projection"] = plain.pop("text_projection.weight").T.contiguous()
    layers = {name.split(".")[2] for name in plain}
    for layer in sorted(layers):
        own, block = f"encoder.layers.{layer}.", f"{prefix}transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            heads = [plain.pop(f"{own}self_attn.{name}_proj.{end}") for name in "qkv"]
            state[f"{block}attn.in_proj_{end}"] = torch.cat(heads)
            for new, old in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):  # fmt: skip
                state[f"{block}{old}.{end}"] = plain.pop(f"{own}{new}.{end}")
    assert not plain, plain.keys()
    return state
