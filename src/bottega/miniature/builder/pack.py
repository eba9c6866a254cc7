"""Write the miniature's models into ordinary diffusers and transformers folders, fp16 safetensors, each with a card."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bottega.miniature.builder import architectures
from bottega.miniature.builder.cards import CARDS
from bottega.miniature.builder.encoding import CLIP_MEAN, CLIP_STD
from bottega.miniature.builder.ip_adapter import add_ip_adapter, split_unet
from bottega.miniature.builder.tokenizers import clip_tokenizer, t5_tokenizer
from bottega.runtime.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, PixArtTransformer2DModel, UNet2DConditionModel
    from transformers import (
        CLIPModel,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
        T5EncoderModel,
        T5Tokenizer,
    )

FOLDERS = ("sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")
_JUDGES = ("style_classifier", "structure_encoder", "scene_reader")  # serve evaluation only
_SEES_PICTURES = ("clip", "ip_adapter/image_encoder", *_JUDGES)


@dataclass
class Parts:
    """Every network of the miniature; `vae` carries its scaling factor in its configuration."""

    vae: AutoencoderTiny
    clip: CLIPModel
    second: CLIPTextModelWithProjection
    unet: UNet2DConditionModel
    t5: T5EncoderModel
    transformer: PixArtTransformer2DModel
    style_classifier: Any
    structure_encoder: Any
    scene_reader: Any
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks by name, without the tokenizers."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.nn.Module)}


def untrained(seed: int, folder: Path) -> Parts:
    """All networks with random weights; tokenizers are fitted into `folder`."""
    words, pieces = clip_tokenizer(folder / "clip_tokenizer"), t5_tokenizer(folder / "t5_tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = architectures.unet()
        add_ip_adapter(unet)
        size = (len(words), words.eos_token_id)
        return Parts(
            vae=architectures.autoencoder(),
            clip=architectures.clip(*size),
            second=architectures.second_text_encoder(*size),
            unet=unet,
            t5=architectures.t5(len(pieces)),
            transformer=architectures.pixart(),
            style_classifier=architectures.style_classifier(),
            structure_encoder=architectures.structure_encoder(),
            scene_reader=architectures.scene_reader(),
            clip_tokenizer=words,
            t5_tokenizer=pieces,
        )


def write_untrained(folder: Path, seed: int = 0) -> Path:
    """Write every model folder with random weights: the real classes and layouts, for tests and the `--quick` build."""
    with tempfile.TemporaryDirectory() as scratch:
        pack(untrained(seed, Path(scratch)), folder)
    return folder


def pack(parts: Parts, folder: Path) -> None:
    """Write the folders named in FOLDERS into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, vision = _split_clip(parts.clip)
    unet, adapter = split_unet(parts.unet)
    _pack_sdxl(parts, text, unet, folder / "sdxl")
    _pack_ip_adapter(adapter, vision, folder / "ip_adapter")
    _pack_pixart(parts, folder / "pixart")
    _save_half(parts.clip, folder / "clip")
    parts.clip_tokenizer.save_pretrained(folder / "clip")
    for name in _JUDGES:
        _save_half(getattr(parts, name), folder / name)
    for place in _SEES_PICTURES:
        _write_preprocessor(folder / place)
    for name in FOLDERS:
        write_text(folder / name / "README.md", CARDS[name])


def write_clip(clip: CLIPModel, folder: Path) -> None:
    """Write CLIP and its picture tower, which is the IP-Adapter's, into `clip` and `ip_adapter` under `folder`."""
    _, vision = _split_clip(clip)
    vision.half().save_pretrained(folder / "ip_adapter" / "image_encoder")
    for part in (clip.config.text_config, clip.config.vision_config):
        part.dtype = "float16"  # of weights that were loaded in float32, save_pretrained corrects the whole's alone
    _save_half(clip, folder / "clip")


def write_pixart(pipeline: Any, folder: Path) -> None:
    """Write `pixart` under `folder` from diffusers' pipeline, with the solver that PixArt-α's own folder names."""
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler(**architectures.pixart_scheduler())
    _save_pipeline(pipeline, folder / "pixart")


def _save_half(model: Any, folder: Path) -> None:
    model.half().save_pretrained(folder)
    model.float()


def _split_clip(clip: CLIPModel) -> tuple[CLIPTextModel, CLIPVisionModelWithProjection]:
    """CLIP -> (text encoder, picture encoder with projection), as SDXL and the IP-Adapter want them."""
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    text, vision_config = CLIPTextModel(clip.config.text_config), clip.config.vision_config
    vision_config.projection_dim = clip.config.projection_dim
    vision = CLIPVisionModelWithProjection(vision_config)
    whole = clip.state_dict()
    for model in (text, vision):
        found = {}
        for name in model.state_dict():
            found[name] = whole[name] if name in whole else whole[f"text_model.{name}"]
        model.load_state_dict(found)
    return text, vision


def _pack_sdxl(parts: Parts, text: CLIPTextModel, unet: UNet2DConditionModel, folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    scheduler = DDIMScheduler(**architectures.teacher_scheduler())
    words = parts.clip_tokenizer
    pipeline = StableDiffusionXLPipeline(
        parts.vae, text, parts.second, words, words, unet, scheduler, add_watermarker=False
    )
    _save_pipeline(pipeline, folder)


def _pack_pixart(parts: Parts, folder: Path) -> None:
    from diffusers import DDIMScheduler, PixArtAlphaPipeline

    any_scheduler = DDIMScheduler()  # `write_pixart` puts its own into the folder
    pipeline = PixArtAlphaPipeline(parts.t5_tokenizer, parts.t5, parts.vae, parts.transformer, any_scheduler)
    write_pixart(pipeline, folder.parent)


def _save_pipeline(pipeline: Any, folder: Path) -> None:
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    for module in modules:
        module.half()
    pipeline.save_pretrained(folder)
    config = read_json(folder / "vae" / "config.json")
    config.pop("block_out_channels", None)  # AutoencoderTiny writes it, and warns when it reads it back
    config.pop("_name_or_path", None)  # of one that was loaded: a path of this machine
    write_json(folder / "vae" / "config.json", config)
    for module in modules:
        module.float()


def _pack_ip_adapter(adapter: dict[str, torch.Tensor], vision: CLIPVisionModelWithProjection, folder: Path) -> None:
    from safetensors.torch import save_file

    vision.half().save_pretrained(folder / "image_encoder")
    save_file(adapter, folder / "ip_adapter.safetensors", metadata={"format": "pt"})


def _write_preprocessor(folder: Path) -> None:
    side = architectures.PICTURE
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
            "do_convert_rgb": True,
        },
    )
