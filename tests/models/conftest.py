"""The full recipe's models at small size, in the published layouts, files and tensors under their published names."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = ["a", "b", "red", "blue", "circle", "square", "in", "the", "style", "of"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CROSS = 64  # SDXL: 2048; the widths of the two text encoders together
PROJECTION, HIDDEN = 24, 32  # ViT-bigG: 1280 and 1664


def write_clip_tokenizer(folder: Path) -> int:
    """vocab.json + merges.txt, as OpenAI's CLIP and SDXL publish it; returns the size of the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({c for w in WORDS for c in w})
    vocabulary = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[str] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge, joined = f"{pieces[0]} {pieces[1]}", pieces[0] + pieces[1]
            merges += [merge] if merge not in merges else []
            vocabulary += [joined] if joined not in vocabulary else []
            pieces = [joined, *pieces[2:]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **special})
    )
    return len(vocabulary)


def write_t5_tokenizer(folder: Path) -> None:
    """spiece.model, as T5 and PixArt publish it: a SentencePiece unigram model, here written field by field."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
    pieces += [(f"▁{word}", -float(i + 1), 1) for i, word in enumerate(WORDS)]
    content = b"".join(
        _field(1, _field(1, p.encode()) + b"\x15" + struct.pack("<f", s) + b"\x18" + _varint(t)) for p, s, t in pieces
    )
    content += _field(2, b"\x18\x01" + _number(40, 2) + _number(41, -1) + _number(42, 1) + _number(43, 0))
    content += _field(3, _field(1, b"identity") + b"\x18\x01\x20\x01\x28\x01")
    (folder / "spiece.model").write_bytes(content)
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "extra_ids": 100, "model_max_length": 120}))


def rename(file: Path, new_name: Callable[[str], str], **more: Any) -> None:
    """Give the tensors of a file the names under which they were published; `more` are tensors to add."""
    from safetensors.torch import load_file, save_file

    tensors = {new_name(name): tensor for name, tensor in load_file(file).items()}
    save_file(
        {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}},
        file,
        metadata={"format": "pt"},
    )


def old_attention(name: str) -> str:
    """Names of an autoencoder's attention before diffusers 0.13, which sd-vae-ft-ema and so PixArt's vae/ carry."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def _varint(value: int) -> bytes:
    value %= 1 << 64
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def write_sdxl(folder: Path) -> Path:
    """StableDiffusionXLPipeline: 3 levels and 2 text encoders as SDXL, and an AutoencoderKL that asks for float32."""
    import torch
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    size = write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2")
    text = {
        "vocab_size": size,
        "hidden_size": CROSS // 2,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    text |= {
        "max_position_embeddings": 16,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
    positions = torch.arange(16)[None]  # a buffer that transformers wrote until 4.31 and now drops
    published = {"text_model__embeddings__position_ids": positions}
    rename(
        folder / "text_encoder" / "model.safetensors",
        lambda n: f"text_model.{n.removeprefix('text_model.')}",
        **published,
    )
    CLIPTextModelWithProjection(CLIPTextConfig(**text, projection_dim=CROSS // 2)).save_pretrained(
        folder / "text_encoder_2"
    )
    UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 6),
        cross_attention_dim=CROSS,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=CROSS // 2 + 6 * 8,
    ).save_pretrained(folder / "unet")
    write_vae(folder / "vae", force_upcast=True)
    euler = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    EulerDiscreteScheduler(**euler, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "EulerDiscreteScheduler"}
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index | {k: ["diffusers", v] for k, v in parts.items()}))
    return folder


def write_vae(folder: Path, force_upcast: bool, kind: str = "AutoencoderKL") -> Path:
    import diffusers
    import torch

    torch.manual_seed(1)
    if kind == "AutoencoderTiny":
        channels = {"encoder_block_out_channels": (16, 16, 16, 16), "decoder_block_out_channels": (16, 16, 16, 16)}
        model = diffusers.AutoencoderTiny(
            **channels, num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1), force_upcast=force_upcast
        )
    else:
        down = ["DownEncoderBlock2D"] * 4
        model = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 16, 16), down_block_types=down, up_block_types=["UpDecoderBlock2D"] * 4,
            norm_num_groups=4, layers_per_block=1, latent_channels=4, scaling_factor=0.13025, force_upcast=force_upcast,
        )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def write_image_encoder(folder: Path, hidden: int = HIDDEN, projection: int = PROJECTION) -> Path:
    """CLIPVisionModelWithProjection without preprocessor_config.json, as h94/IP-Adapter publishes it."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(2)
    size = {"hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(**size, projection_dim=projection, image_size=32, patch_size=8)
    ).save_pretrained(folder)
    return folder


def write_ip_adapter(file: Path, sdxl: Path, width: int = PROJECTION, layout: str = "plain") -> Path:
    """An adapter's file under its published key names: `image_proj.*` and `ip_adapter.{1,3,5,…}.to_{k,v}_ip.weight`."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    torch.manual_seed(3)
    tensors = {"image_proj.norm.weight": torch.ones(CROSS), "image_proj.norm.bias": torch.zeros(CROSS)}
    if layout == "plain":
        tensors |= {
            "image_proj.proj.weight": torch.randn(4 * CROSS, width) * 0.1,
            "image_proj.proj.bias": torch.zeros(4 * CROSS),
        }
    else:
        tensors = {f"image_proj.norm_out.{n}": torch.ones(CROSS) for n in ("weight", "bias")}
        tensors |= {
            "image_proj.latents": torch.randn(1, 16, 64),
            "image_proj.proj_in.weight": torch.randn(64, width),
            "image_proj.proj_out.weight": torch.randn(CROSS, 64),
        }
    unet = UNet2DConditionModel.from_pretrained(sdxl / "unet")
    modules = dict(unet.named_modules())
    for number, name in enumerate(unet.attn_processors):  # the library's own order is the published numbering
        if "attn2" in name:
            shape = modules[name.removesuffix(".processor")].to_k.weight.shape
            tensors |= {f"ip_adapter.{number}.to_{x}_ip.weight": torch.randn(shape) * 0.1 for x in "kv"}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def write_pixart(folder: Path) -> Path:
    """PixArtAlphaPipeline with the fields of PixArt-XL-2-512x512's configuration, its text encoder in two shards."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(4)
    PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, norm_num_groups=32,
        cross_attention_dim=32, sample_size=64, patch_size=2, caption_channels=48, attention_bias=True,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    # The published configuration was written by diffusers 0.22, whose class served several models.
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config = {k: v for k, v in config.items() if k not in ("interpolation_scale", "use_additional_conditions")}
    old = {"_class_name": "Transformer2DModel", "_diffusers_version": "0.22.0.dev0", "double_self_attention": False}
    old |= {"num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}
    (folder / "transformer" / "config.json").write_text(json.dumps(config | old))
    # The text of a dropped caption, which that version saved with the weights and diffusers has no place for any more.
    dropped = {"caption_projection__y_embedding": torch.randn(120, 48)}
    rename(folder / "transformer" / "diffusion_pytorch_model.safetensors", str, **dropped)
    size = {"d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 128}
    encoder = T5EncoderModel(
        T5Config(**size, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    )
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="60KB")
    assert (folder / "text_encoder" / "model.safetensors.index.json").exists()
    write_t5_tokenizer(folder / "tokenizer")
    rename(write_vae(folder / "vae", force_upcast=False) / "diffusion_pytorch_model.safetensors", old_attention)
    DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear").save_pretrained(
        folder / "scheduler"
    )
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline"}))
    return folder


def write_clip(folder: Path) -> Path:
    """CLIPModel with the preprocessor_config.json that OpenAI's repository holds (numbers for sizes, no type names)."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(5)
    size = write_clip_tokenizer(folder)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    text = {**narrow, **ids, "vocab_size": size, "max_position_embeddings": 16}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config={**narrow, "image_size": 56, "patch_size": 14}, projection_dim=24)
    ).save_pretrained(folder)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    old = {"crop_size": 56, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 56}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**old, "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": mean, "image_std": std})
    )
    return folder


def write_dino(folder: Path) -> Path:
    """ViTModel without a pooling layer and with the old preprocessor_config.json, as facebook/dino-vitb8."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(6)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    ViTModel(ViTConfig(**size, image_size=56, patch_size=14), add_pooling_layer=False).save_pretrained(folder)
    old = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "resample": 2,
        "size": 56,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**old, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})
    )
    return folder


def write_segformer(folder: Path) -> Path:
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(7)
    size = {
        "hidden_sizes": [8, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
        "decoder_hidden_size": 16,
    }
    labels = {0: "background", 1: "circle", 2: "square"}
    SegformerForSemanticSegmentation(
        SegformerConfig(**size, id2label=labels, label2id={v: k for k, v in labels.items()})
    ).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def write_classifier(folder: Path) -> Path:
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(8)
    labels = {0: "cubism", 1: "realism", 2: "pointillism"}
    size = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(
        ResNetConfig(**size, id2label=labels, label2id={v: k for k, v in labels.items()})
    ).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.875).save_pretrained(folder)
    return folder


def into_cache(cache: Path, repository: str, source: Path, inside: str = "", ending: str = "\n") -> Path:
    """Lay a folder out as the Hub's cache does, files as relative links into blobs/; returns the snapshot."""
    entry = cache / ("models--" + repository.replace("/", "--"))
    snapshot = entry / "snapshots" / COMMIT
    (entry / "blobs").mkdir(parents=True, exist_ok=True)
    (entry / "refs").mkdir(exist_ok=True)
    (entry / "refs" / "main").write_text(COMMIT + ending)
    for file in (p for p in source.rglob("*") if p.is_file()):
        blob = entry / "blobs" / str(abs(hash(str(file))))
        shutil.copy(file, blob)
        link = snapshot / inside / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(entry).parts) - 1)) / "blobs" / blob.name)
    return snapshot


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sdxl": write_sdxl, "pixart": write_pixart, "clip": write_clip, "structure_encoder": write_dino,
    "scene_reader": write_segformer, "style_classifier": write_classifier,
}  # fmt: skip


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders, once a session. Tests that change files copy what they need."""
    root = tmp_path_factory.mktemp("published")
    for name, make in MAKERS.items():
        make(root / name)
    write_image_encoder(root / "ip_adapter" / "image_encoder")
    write_ip_adapter(root / "ip_adapter" / "ip-adapter_sdxl.safetensors", root / "sdxl")
    return root


@pytest.fixture(scope="session")
def lay_out() -> Callable[..., Path]:
    return into_cache


@pytest.fixture(scope="session")
def make() -> dict[str, Callable[..., Path]]:
    """Makers of single folders with other sizes."""
    return {"ip_adapter": write_ip_adapter, "image_encoder": write_image_encoder, "vae": write_vae}


@pytest.fixture
def pictures() -> np.ndarray:
    """Five smooth pictures of 96 × 80 pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 6, 5, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)
