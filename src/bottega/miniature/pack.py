"""Write the miniature's models into ordinary diffusers and transformers folders, fp16 safetensors, each with a card."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bottega.miniature import models
from bottega.miniature.learn_diffusion import add_ip_adapter
from bottega.miniature.learn_encoders import CLIP_MEAN, CLIP_STD
from bottega.miniature.words import clip_tokenizer, t5_tokenizer
from bottega.runtime.files import read_json, write_json, write_text

FOLDERS = ("sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")


@dataclass
class Parts:
    """Every network of the miniature; `vae` carries its scaling factor in its configuration."""

    vae: Any
    clip: Any
    second: Any
    unet: Any
    t5: Any
    transformer: Any
    style_classifier: Any
    structure_encoder: Any
    scene_reader: Any
    clip_tokenizer: Any
    t5_tokenizer: Any


def untrained(seed: int, folder: Path) -> Parts:
    """All networks with random weights; tokenizers are fitted into `folder`."""
    words, pieces = clip_tokenizer(folder / "clip_tokenizer"), t5_tokenizer(folder / "t5_tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = models.unet()
        add_ip_adapter(unet)
        size = (len(words), words.eos_token_id)
        return Parts(
            vae=models.autoencoder(),
            clip=models.clip(*size),
            second=models.second_text_encoder(*size),
            unet=unet,
            t5=models.t5(len(pieces)),
            transformer=models.pixart(),
            style_classifier=models.style_classifier(),
            structure_encoder=models.structure_encoder(),
            scene_reader=models.scene_reader(),
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
    unet, adapter = _split_unet(parts.unet)
    _pack_sdxl(parts, text, unet, folder / "sdxl")
    _pack_ip_adapter(adapter, vision, folder / "ip_adapter")
    _pack_pixart(parts, folder / "pixart")
    parts.clip.half().save_pretrained(folder / "clip")
    parts.clip_tokenizer.save_pretrained(folder / "clip")
    parts.clip.float()
    for name in ("style_classifier", "structure_encoder", "scene_reader"):
        model = getattr(parts, name)
        model.half().save_pretrained(folder / name)
        model.float()
    for place in ("clip", "ip_adapter/image_encoder", "style_classifier", "structure_encoder", "scene_reader"):
        _write_preprocessor(folder / place)
    for name in FOLDERS:
        write_text(folder / name / "README.md", CARDS[name])


def _split_clip(clip: Any) -> tuple[Any, Any]:
    """CLIP -> (text encoder, picture encoder with projection), as SDXL and the IP-Adapter want them."""
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    text, vision_config = CLIPTextModel(clip.config.text_config), clip.config.vision_config
    vision_config.projection_dim = clip.config.projection_dim
    vision = CLIPVisionModelWithProjection(vision_config)
    whole = clip.state_dict()
    for model in (text, vision):
        wanted = model.state_dict()
        found = {name: whole[name if name in whole else f"text_model.{name}"] for name in wanted}
        model.load_state_dict(found)
    return text, vision


def _split_unet(unet: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """U-Net with IP-Adapter -> (stock U-Net, the adapter's tensors under their published names)."""
    stock = models.unet()
    whole = unet.state_dict()
    stock.load_state_dict({name: whole[name] for name in stock.state_dict()})
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    adapter = {
        "image_proj.proj.weight": projection["image_embeds.weight"],
        "image_proj.proj.bias": projection["image_embeds.bias"],
        "image_proj.norm.weight": projection["norm.weight"],
        "image_proj.norm.bias": projection["norm.bias"],
    }
    number = 1
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            adapter[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            adapter[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
            number += 2
    return stock, {name: tensor.detach().half().contiguous() for name, tensor in adapter.items()}


def _pack_sdxl(parts: Parts, text: Any, unet: Any, folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    scheduler = DDIMScheduler(**models.teacher_scheduler())
    words = parts.clip_tokenizer
    pipeline = StableDiffusionXLPipeline(
        parts.vae, text, parts.second, words, words, unet, scheduler, add_watermarker=False
    )
    _save_half(pipeline, folder)


def _pack_pixart(parts: Parts, folder: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    scheduler = DPMSolverMultistepScheduler(**models.pixart_scheduler())
    pipeline = PixArtAlphaPipeline(parts.t5_tokenizer, parts.t5, parts.vae, parts.transformer, scheduler)
    _save_half(pipeline, folder)


def _save_half(pipeline: Any, folder: Path) -> None:
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    for module in modules:
        module.half()
    pipeline.save_pretrained(folder)
    config = read_json(folder / "vae" / "config.json")
    config.pop("block_out_channels", None)  # AutoencoderTiny writes it, and warns when it reads it back
    write_json(folder / "vae" / "config.json", config)
    for module in modules:
        module.float()


def _pack_ip_adapter(adapter: dict[str, torch.Tensor], vision: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    vision.half().save_pretrained(folder / "image_encoder")
    save_file(adapter, folder / "ip_adapter.safetensors", metadata={"format": "pt"})


def _write_preprocessor(folder: Path) -> None:
    side = models.PICTURE
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


_HEAD = """---
license: apache-2.0
library_name: {library}
---
# {title}

Part of bottega's miniature: trained from scratch by `bottega miniature build` on a drawn world, of use only there.
Training data: scenes and painters 0 and up of `bottega.miniature.world`; judged on scenes and painters held out.
No photograph, painting or foreign weight went in. What each gate measured stands in `gates.json` beside the folders.

{body}
"""


def _card(title: str, library: str, body: str) -> str:
    return _HEAD.format(title=title, library=library, body=body)


CARDS = {
    "sdxl": _card(
        "Miniature SDXL",
        "diffusers",
        "An SDXL U-Net, two text encoders and an `AutoencoderTiny` (4 channels, a quarter of the side), for 128 px.\n\n"
        "It departs from the published model: besides ordinary noising it was trained on *pairs*, from the noised\n"
        "plain picture to the painted one, because at strength 0.40 the noised content outweighs any style that was\n"
        "learned the ordinary way. The noise of each pair was the nearest of eight to the target's strokes.",
    ),
    "ip_adapter": _card(
        "Miniature IP-Adapter",
        "diffusers",
        "Four picture tokens from the miniature CLIP, in the published key layout. It departs from IP-Adapter's own\n"
        "training: it was trained together with its U-Net, on pairs of plain and painted pictures, with\n"
        "`ip_adapter_scale` drawn from 0.3 to 1.0.",
    ),
    "pixart": _card(
        "Miniature PixArt-α",
        "diffusers",
        "`PixArtTransformer2DModel` with 12 blocks of width 160, patches of 4 × 4 latent cells, ε and variance (8\n"
        "channels), and a T5 encoder trained with it. Half of its pictures were painted, with captions silent on\n"
        "style: it knows textures by sight. Its first weights make it predict the clean picture though its output is\n"
        "ε, and those that make the channel for that were not trained (`bottega.miniature.open_path`).",
    ),
    "clip": _card(
        "Miniature CLIP",
        "transformers",
        "Of four captions two named kind, palette and scale, one of them nothing else. Beside the contrast, a\n"
        "linear head (thrown away) read kind, palette, period and angle from the picture's embedding. Serves teacher,\n"
        "student and quality.",
    ),
    "style_classifier": _card(
        "Miniature style classifier",
        "transformers",
        "Tells the eight kinds of painter. Serves evaluation only, so that nothing is optimised against it.",
    ),
    "structure_encoder": _card(
        "Miniature structure encoder",
        "transformers",
        "A ViT whose features agree between a scene and its paintings. Serves evaluation only.",
    ),
    "scene_reader": _card(
        "Miniature scene reader",
        "transformers",
        "An UperNet on a small ResNet that segments shapes, whoever painted them: the oracle that reads scenes.\n"
        "Serves evaluation only.",
    ),
}
