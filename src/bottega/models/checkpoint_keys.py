"""Names of tensors: which part of a checkpoint each belongs to, what a part lacks, and what does not belong there.

A checkpoint in the original key layout holds the whole pipeline in one file and tells its parts apart by prefixes.
Diffusers' layout has a file for each part, without prefixes. Nothing here opens a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bottega.models.weights import TensorInfo

Tensors = Mapping[str, TensorInfo]

_PREFIXES = (
    ("model.diffusion_model.", "denoiser"),
    ("first_stage_model.", "vae"),
    ("vae.", "vae"),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("conditioner.embedders.1.model.", "text_encoder_2"),
    ("conditioner.embedders.0.model.", "text_encoder_2"),  # the refiner has the second encoder alone
    ("cond_stage_model.", "text_encoder"),
    ("text_encoders.clip_l.", "text_encoder"),
    ("text_encoders.clip_g.", "text_encoder_2"),
    ("text_encoders.t5xxl.", "text_encoder_3"),
)
"""Of the original layout; the first that fits counts."""

MARKERS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
"""Tensors without a use in the network that say how it was trained, as ComfyUI reads and NoobAI writes them."""

_SCHEDULE = re.compile(
    r"betas|(sqrt_)?(one_minus_)?alphas_cumprod(_prev)?|log_one_minus_alphas_cumprod|sqrt_recipm?1?_alphas_cumprod"
    r"|sqrt_one_minus_alphas_cumprod|posterior_\w+|logvar|scale_factor|lvlb_weights|denoiser\.(log_)?sigmas"
    r"|cond_stage_model\.logit_scale"
)
"""Buffers that trainers save with the weights; nothing reads them, and nothing is wrong with them."""

_FOREIGN = (
    (re.compile(r"model_ema\."), "EMA copy"),
    (re.compile(r"optimizer|.*\.(exp_avg|exp_avg_sq|max_exp_avg_sq)$"), "optimizer state"),
    (re.compile(r".*(lora_|\.lora|hada_w|lokr_w|oft_blocks|oft_diag)"), "LoRA"),
    (re.compile(r"control_model\.|controlnet"), "ControlNet"),
)
_LORA = re.compile(
    r"lora_(up|down|A|B|mid|magnitude_vector|unet|te)|\.lora\.|lora_linear_layer|hada_w\d|lokr_w\d|oft_(blocks|diag|R)"
    r"|dora_scale"
)


class Split(NamedTuple):
    """A checkpoint's tensors by part, under the names that each part's own network gives them.

    parts: `denoiser`, `vae`, `text_encoder` and so on. markers: of `MARKERS`. foreign: name -> kind.
    """

    parts: dict[str, dict[str, TensorInfo]]
    markers: tuple[str, ...]
    foreign: dict[str, str]


def split_original(tensors: Tensors) -> Split:
    """Tell the parts of a single file in the original layout apart."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    markers = []
    foreign: dict[str, str] = {}
    for name, info in tensors.items():
        prefix, part = _part_of(name)
        if name.removeprefix("model.diffusion_model.") in MARKERS:
            markers.append(name.removeprefix("model.diffusion_model."))
        elif part:
            parts.setdefault(part, {})[name.removeprefix(prefix)] = info
        elif not _SCHEDULE.fullmatch(name):
            foreign[name] = kind_of_foreign(name)
    return Split(parts, tuple(markers), foreign)


def _part_of(name: str) -> tuple[str, str]:
    for prefix, part in _PREFIXES:
        if name.startswith(prefix):
            return prefix, part
    return "", ""


def is_original(tensors: Tensors) -> bool:
    """Whether the names are those of the original layout, with a prefix for each part."""
    return any(_part_of(name)[1] for name in tensors)


def kind_of_foreign(name: str) -> str:
    """What a tensor that belongs to no part may be."""
    for pattern, kind in _FOREIGN:
        if pattern.match(name):
            return kind
    return "unknown"


def is_lora(tensors: Tensors) -> bool:
    """Whether at least half of the tensors are those of a LoRA or one of its relatives."""
    count = sum(1 for name in tensors if _LORA.search(name))
    alphas = sum(1 for name in tensors if name.endswith(".alpha"))
    return count > 0 and 2 * (count + alphas) >= len(tensors)


@dataclass(frozen=True)
class Denoiser:
    """The network that removes noise, by its tensors.

    Attributes:
        family: as `identify.Family`.
        variant: what differs from the family's plain model: inpaint, instruct-pix2pix, sigma; "" for nothing.
        layout: original or diffusers.
        width: channels of the first level, or of a transformer's tokens.
        depth: transformer blocks.
        context: width of the text states that it reads.
        in_channels: of its input; None where the tensors do not tell.
        levels: of resolution, 1 for a transformer.
        native_tokens: tokens of a picture that its stored position embedding has room for.
        why: what in the file says so.
    """

    family: str
    variant: str
    layout: str
    width: int
    depth: int
    context: int | None
    in_channels: int | None
    levels: int
    why: str
    native_tokens: int | None = None


def describe_denoiser(tensors: Tensors, encoders: Iterable[str] = ()) -> Denoiser | None:
    """What a denoiser is; None where the tensors are no network known here.

    Args:
        tensors: of this part alone.
        encoders: text encoders that the same checkpoint has: the refiner has the second without the first.
    """
    if "input_blocks.0.0.weight" in tensors and "time_embed.0.weight" in tensors:
        return _unet(tensors, "original", set(encoders))
    if {"conv_in.weight", "time_embedding.linear_1.weight"} <= tensors.keys():
        return _unet(tensors, "diffusers", set(encoders))
    return _transformer(tensors)


def _unet(tensors: Tensors, layout: str, encoders: set[str]) -> Denoiser | None:
    first, label = "conv_in.weight", "add_embedding.linear_1.weight"
    if layout == "original":
        first, label = "input_blocks.0.0.weight", "label_emb.0.0.weight"
    shape = tensors[first].shape
    if len(shape) != 4 or "encoder_hid_proj.weight" in tensors:  # the latter: Kolors, whose text is ChatGLM's
        return None
    context = _shape_at(tensors, ".attn2.to_k.weight", 1)
    family, why = _unet_family(tensors, label, context, encoders)
    variant = {8: "instruct-pix2pix", 9: "inpaint"}.get(shape[1], "")
    if family == "sdxl" and variant == "inpaint":
        family, why = "sdxl_inpaint", f"{why}; its first layer takes 9 channels"
    levels = _unet_levels(tensors, layout)
    return Denoiser(family, variant, layout, shape[0], _blocks(tensors), context, shape[1], levels, why)


def _unet_levels(tensors: Tensors, layout: str) -> int:
    """Levels of resolution of a U-Net: in the original layout one more than its downsamplers."""
    if layout == "original":
        return 1 + sum(1 for name in tensors if _ORIGINAL_DOWNSAMPLER.match(name))
    levels = set()
    for name in tensors:
        match = _DOWN_BLOCK.match(name)
        if match is not None:
            levels.add(match[1])
    return len(levels)


_DOWN_BLOCK = re.compile(r"down_blocks\.(\d+)\.")
_ORIGINAL_DOWNSAMPLER = re.compile(r"input_blocks\.\d+\.0\.op\.weight")


def _unet_family(tensors: Tensors, label: str, context: int | None, encoders: set[str]) -> tuple[str, str]:
    """Family of a U-Net, and what says so."""
    if context is None:
        return "unknown", "a U-Net that reads no text"
    if label in tensors:
        inputs = _side(tensors[label], -1)
        # 2560 = 1280 + 5 · 256: the refiner receives an aesthetic score in place of a size and a crop.
        if encoders == {"text_encoder_2"} or (inputs == 2560 and context == 1280):
            return "sdxl_refiner", f"a U-Net with size embedding ({label}) and the second text encoder alone"
        return "sdxl", f"a U-Net with size embedding ({label}), text states {context} wide"
    dimensions = _dimensions_at(tensors, "proj_in.weight")
    if dimensions == 2:
        return "sd2", f"a U-Net without size embedding, linear projections, text states {context} wide"
    return "sd1", f"a U-Net without size embedding, 1 × 1 convolutions as projections, text states {context} wide"


def _transformer(tensors: Tensors) -> Denoiser | None:
    """PixArt, FLUX and SD3, in either layout."""
    keys = tensors.keys()
    if {"adaln_single.linear.weight", "caption_projection.linear_1.weight", "pos_embed.proj.weight"} <= keys:
        return _pixart(tensors, "diffusers", "pos_embed.proj.weight", "caption_projection.linear_1.weight")
    if {"t_block.1.weight", "y_embedder.y_proj.fc1.weight", "x_embedder.proj.weight"} <= keys:
        return _pixart(tensors, "original", "x_embedder.proj.weight", "y_embedder.y_proj.fc1.weight")
    if "joint_blocks.0.context_block.adaLN_modulation.1.bias" in keys:
        return _other(tensors, "sd3", "original", "x_embedder.proj.weight", "joint_blocks")
    if {"transformer_blocks.0.norm1_context.linear.weight", "pos_embed.proj.weight"} <= keys:
        return _other(tensors, "sd3", "diffusers", "pos_embed.proj.weight", "transformer_blocks")
    if "double_blocks.0.img_attn.norm.key_norm.scale" in keys and not _has(tensors, "distilled_guidance_layer."):
        return _other(tensors, "flux", "original", "img_in.weight", "double_blocks")
    if {"single_transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"} <= keys:
        return _other(tensors, "flux", "diffusers", "x_embedder.weight", "transformer_blocks")
    return None


def _pixart(tensors: Tensors, layout: str, patches: str, captions: str) -> Denoiser | None:
    shape = tensors[patches].shape
    if len(shape) != 4:
        return None
    # α keeps 120 tokens of T5, Σ 300; in diffusers' layout the weights do not tell them apart.
    null_text = tensors.get("y_embedder.y_embedding")
    variant = "sigma" if null_text is not None and _side(null_text, 0) == 300 else ""
    return Denoiser(
        family="pixart",
        variant=variant,
        layout=layout,
        width=shape[0],
        depth=_blocks(tensors),
        context=_side(tensors[captions], -1),
        in_channels=shape[1],
        levels=1,
        why=f"a transformer with one modulation for all blocks, and a caption projection ({captions})",
        native_tokens=_pixart_tokens(tensors),
    )


def _pixart_tokens(tensors: Tensors) -> int | None:
    """Tokens of a picture that PixArt was made for; None where nothing says it."""
    stored = tensors.get("pos_embed") or tensors.get("pos_embed.pos_embed")
    if stored is not None and len(stored.shape) == 3:
        return stored.shape[1]
    # Of α, only the model for 1024 pixels is given the size of its pictures.
    if "csize_embedder.mlp.0.weight" in tensors or _has(tensors, "adaln_single.emb.resolution_"):
        return 64 * 64
    return None


def _other(tensors: Tensors, family: str, layout: str, first: str, blocks: str) -> Denoiser:
    width = 0
    if first in tensors:
        width = _side(tensors[first], 0) or 0
    depth = len({name.split(".")[1] for name in tensors if name.startswith(f"{blocks}.")})
    return Denoiser(family, "", layout, width, depth, None, None, 1, f"the blocks `{blocks}`")


def _side(info: TensorInfo, axis: int) -> int | None:
    """Length of the first (0) or last (-1) axis; None for a single number, which a hostile file may put anywhere."""
    return info.shape[axis] if info.shape else None


def _has(tensors: Tensors, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _shape_at(tensors: Tensors, ending: str, axis: int) -> int | None:
    for name, info in tensors.items():
        if name.endswith(ending) and len(info.shape) > axis:
            return info.shape[axis]
    return None


def _dimensions_at(tensors: Tensors, ending: str) -> int | None:
    for name, info in tensors.items():
        if name.endswith(ending):
            return len(info.shape)
    return None


_BLOCK = re.compile(r"(?:.*\.)?(?:transformer_blocks|blocks)\.\d+(?=\.)")


def _blocks(tensors: Tensors) -> int:
    """Transformer blocks, each counted once."""
    found = set()
    for name in tensors:
        match = _BLOCK.match(name)
        if match is not None:
            found.add(match[0])
    return len(found)


def parameters(tensors: Tensors) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(info.shape) for info in tensors.values())


_ALWAYS: Mapping[str, tuple[str, ...]] = {
    "unet original": (
        "time_embed.0", "time_embed.2", "input_blocks.0.0", "middle_block.0.in_layers.0", "out.0", "out.2",
    ),
    "unet diffusers": (
        "time_embedding.linear_1", "time_embedding.linear_2", "conv_in", "mid_block.resnets.0.norm1", "conv_norm_out",
        "conv_out",
    ),
    "pixart original": ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "t_block.1", "final_layer.linear"),
    "pixart diffusers": (
        "pos_embed.proj", "adaln_single.emb.timestep_embedder.linear_1", "adaln_single.emb.timestep_embedder.linear_2",
        "adaln_single.linear", "caption_projection.linear_1", "caption_projection.linear_2", "proj_out",
    ),
    "vae original": ("decoder.conv_in", "decoder.conv_out", "decoder.norm_out"),
    "vae diffusers": ("decoder.conv_in", "decoder.conv_out", "decoder.conv_norm_out"),
}  # fmt: skip
"""Layers that every network of a kind has, each with a weight and a bias."""

_UNIT = re.compile(
    r"(?P<unit>(?:.*\.)?(?:transformer_blocks|resnets|layers|resblocks|blocks|block)\.\d+)\.(?P<rest>.+)"
)
"""A repeated unit and the tensor within it; greedy, so that the innermost repetition counts."""

_OPTIONAL = re.compile(r"conv_shortcut|nin_shortcut|skip_connection|relative_attention_bias|time_emb_proj")


def gaps(kind: str, tensors: Tensors) -> list[str]:
    """Tensors that a part lacks: layers that every such network has, and what all like blocks but this one have.

    Args:
        kind: what and in which layout, such as "unet original"; others have no fixed layers. "vae tiny" is not judged:
            its numbers count layers without weights, too.
        tensors: of the part alone.
    """
    if kind == "vae tiny":
        return []
    absent = []
    for layer in _ALWAYS.get(kind, ()):
        absent += [f"{layer}.{end}" for end in ("weight", "bias") if f"{layer}.{end}" not in tensors]
    return sorted({*absent, *_gaps_in_units(tensors), *_gaps_in_levels(tensors)})


def _gaps_in_units(tensors: Tensors) -> list[str]:
    """Units that a count leaves out, and tensors that a unit lacks and the others of its kind have."""
    units = _units(tensors)
    alike: dict[str, list[str]] = {}
    for unit in units:
        alike.setdefault(unit.split(".")[-2], []).append(unit)
    absent = []
    for members in alike.values():
        absent += _missing_units(members)
        absent += _lacking(members, units)
    return absent


def _units(tensors: Tensors) -> dict[str, set[str]]:
    """Repeated unit -> what is in it, as `layers.3` -> `fc1.weight` and so on."""
    units: dict[str, set[str]] = {}
    for name in tensors:
        match = _UNIT.fullmatch(name)
        if match is not None and not _OPTIONAL.search(match["rest"]):
            units.setdefault(match["unit"], set()).add(match["rest"])
    return units


def _lacking(members: list[str], units: Mapping[str, set[str]]) -> list[str]:
    """Tensors that a few of these like units lack and the rest have."""
    absent = []
    for rest in set().union(*(units[unit] for unit in members)):
        lacking = [unit for unit in members if rest not in units[unit]]
        # What many lack is a difference of design, as the first layer of T5 has; a torn copy lacks a few.
        if len(lacking) * 4 <= len(members):
            absent += [f"{unit}.{rest}" for unit in lacking]
    return absent


_LEVEL = re.compile(r"((?:input|output|down|up)_blocks)\.(\d+)\.")


def _gaps_in_levels(tensors: Tensors) -> list[str]:
    """Whole levels of a U-Net or autoencoder that the count from 0 leaves out."""
    members = {match[0].rstrip(".") for match in map(_LEVEL.match, tensors) if match is not None}
    return _missing_units(sorted(members))


def _missing_units(members: list[str]) -> list[str]:
    """Whole units that a count from 0 leaves out: `layers.0`, `layers.2` lack `layers.1`."""
    numbers: dict[str, set[int]] = {}
    for unit in members:
        stem, _, number = unit.rpartition(".")
        numbers.setdefault(stem, set()).add(int(number))
    absent = []
    for stem, there in numbers.items():
        absent += [f"{stem}.{number}.*" for number in range(max(there)) if number not in there]
    return absent
