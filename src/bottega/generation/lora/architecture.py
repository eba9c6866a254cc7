"""The weights that a LoRA can change in a model: which modules there are, and their shapes. Needs no torch.

Trainers write a module's name in several ways. `Architecture.find` knows all of them by one trick: every name is made
flat (dots become underscores), as kohya's trainer does, and looked up among the flat names of the model at hand. For a
U-Net the names of the original Stable Diffusion code (`input_blocks`, `middle_block`, `output_blocks`) are counted out
from the model's own blocks, so that they fit whatever its depth.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bottega.models.weights import find_weights, read_headers
from bottega.runtime.errors import MissingError

Shape = tuple[int, ...]
Family = Literal["sdxl", "sd1", "sd2", "pixart", "flux", "unknown"]

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
PAINTERS = ("unet", "transformer")  # a model has one of them

CROSS_WIDTHS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that a U-Net's cross-attention reads: CLIP ViT-L; OpenCLIP ViT-H; ViT-L and bigG side by side."""

_TABLES = {"token_embedding", "position_embedding", "shared", "embed_tokens", "relative_attention_bias"}
_RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "norm1": "in_layers.0", "norm2": "out_layers.0",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def flat(name: str) -> str:
    """A module's name as kohya writes it; a CLIP text encoder's without `text_model`, which transformers 5 dropped."""
    return name.replace(".", "_").removeprefix("text_model_")


@dataclass(frozen=True)
class Architecture:
    """Component -> module -> shape of its weight, [out, in] or [out, in, height, width], [features] for a norm."""

    components: Mapping[str, Mapping[str, Shape]]

    @classmethod
    def of(
        cls, *, unet: Any = None, transformer: Any = None, text_encoder: Any = None, text_encoder_2: Any = None
    ) -> Architecture:
        """The architecture of live modules. Layers that peft has wrapped count as what they wrap."""
        modules = {
            "unet": unet, "transformer": transformer, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2,
        }  # fmt: skip
        return cls({name: _live_shapes(module) for name, module in modules.items() if module is not None})

    @classmethod
    def of_folder(cls, folder: Path) -> Architecture:
        """The architecture of a diffusers folder, from the headers of its weights.

        Raises:
            MissingError: it has neither `unet` nor `transformer`, or lacks weights.
            StorageError: a weight file is incomplete.
            RequestError: there are only pickled weights.
        """
        if not any((folder / name).is_dir() for name in PAINTERS):
            raise MissingError(
                f"{folder}: a model is a diffusers folder with a sub-folder unet or transformer; received one without; "
                "name the model's folder"
            )
        found = {}
        for name in COMPONENTS:
            if (folder / name).is_dir():
                tensors = read_headers(find_weights(folder / name).files)
                found[name] = _weight_shapes((key, tensor.shape) for key, tensor in tensors.items())
        return cls(found)

    @cached_property
    def painter(self) -> str:
        """`unet` or `transformer`, whichever the model has."""
        return "transformer" if "transformer" in self.components else "unet"

    @cached_property
    def family(self) -> Family:
        """The family by structure; widths alone would not know a model made small."""
        if "unet" in self.components:
            return _family_of_unet(self.components["unet"])
        return _family_of_transformer(self.components.get("transformer", {}))

    @cached_property
    def digest(self) -> str:
        """A hash of all names and shapes: two models with the same take the same LoRAs."""
        content = {}
        for component, shapes in self.components.items():
            content[component] = {name: list(shape) for name, shape in shapes.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def find(self, component: str, flat_name: str) -> str | None:
        """The module's own name for a flat one, or None."""
        return self._names.get(component, {}).get(flat_name)

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        found = {}
        for component, shapes in self.components.items():
            names = {flat(name): name for name in shapes}
            if component == "unet":
                for name, original in original_names(shapes).items():
                    names.setdefault(flat(original), name)
            found[component] = names
        return found


def _family_of_unet(shapes: Mapping[str, Shape]) -> Family:
    if "add_embedding.linear_1" in shapes:
        return "sdxl"
    widths = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k")}
    if len(widths) != 1:
        return "unknown"
    return CROSS_WIDTHS.get(widths.pop(), "unknown")


def _family_of_transformer(names: Collection[str]) -> Family:
    if "caption_projection.linear_1" in names and any(name.startswith("adaln_single.") for name in names):
        return "pixart"
    if any(name.startswith("single_transformer_blocks.") for name in names):
        return "flux"
    return "unknown"


def _live_shapes(module: Any) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        if ".lora_" in name or weight is None or not hasattr(weight, "shape") or hasattr(part, "base_layer"):
            continue
        found[name.removesuffix(".base_layer")] = tuple(weight.shape)
    return _without_tables(found)


def _weight_shapes(tensors: Iterable[tuple[str, Shape]]) -> dict[str, Shape]:
    return _without_tables({key.removesuffix(".weight"): shape for key, shape in tensors if key.endswith(".weight")})


def _without_tables(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Without tables of embeddings: a matrix too, but looked up, not multiplied, and no trainer's LoRA changes them."""
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in _TABLES}


def original_names(modules: Iterable[str]) -> dict[str, str]:
    """Module of a diffusers U-Net -> its name in the original Stable Diffusion code.

    There, `input_blocks` counts conv_in, then each ResNet (with the attention that follows it) and each downsampler;
    `output_blocks` counts the ResNets of the way up, with the upsampler as the last part of its ResNet's block.
    """
    names = tuple(modules)
    down = _positions(names, "down_blocks", samplers_count=True)
    up = _positions(names, "up_blocks", samplers_count=False)
    found = {}
    for name in names:
        original = _OUTSIDE_BLOCKS.get(name) or _original_middle(name) or _original_block(name, names, down, up)
        if original is not None:
            found[name] = original
    return found


def _positions(names: tuple[str, ...], side: str, *, samplers_count: bool) -> dict[tuple[int, int], int]:
    """(block, ResNet) -> its number in `input_blocks` or `output_blocks`; a downsampler is ResNet -1 of its block."""
    resnets, downsampled = _contents_of_blocks(names, side)
    found = {}
    position = 1 if samplers_count else 0  # input_blocks.0 is conv_in
    for block in sorted(resnets):
        for number in range(resnets[block]):
            found[block, number] = position
            position += 1
        if samplers_count and block in downsampled:
            found[block, -1] = position
            position += 1
    return found


def _contents_of_blocks(names: tuple[str, ...], side: str) -> tuple[dict[int, int], set[int]]:
    """How many ResNets each block of a side has, and which blocks have a downsampler."""
    resnets: dict[int, int] = {}
    downsampled = set()
    for name in names:
        match = _BLOCK.fullmatch(name)
        if match is None or match[1] != side:
            continue
        block, kind, number = int(match[2]), match[3], int(match[4])
        if kind == "resnets":
            resnets[block] = max(resnets.get(block, 0), number + 1)
        elif kind == "downsamplers":
            downsampled.add(block)
    return resnets, downsampled


def _original_middle(name: str) -> str | None:
    match = _MIDDLE.fullmatch(name)
    if match is None:
        return None
    kind, number, rest = match[1], int(match[2]), match[3]
    if kind == "resnets":
        return f"middle_block.{2 * number}.{_RESNET.get(rest, rest)}"
    return f"middle_block.{2 * number + 1}.{rest}"


def _original_block(
    name: str, names: tuple[str, ...], down: Mapping[tuple[int, int], int], up: Mapping[tuple[int, int], int]
) -> str | None:
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    side, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    prefix, positions = ("input_blocks", down) if side == "down_blocks" else ("output_blocks", up)
    if kind == "upsamplers":
        return _original_upsampler(block, names, prefix, positions)
    if kind == "downsamplers":
        number = -1
    position = positions.get((block, number))
    if position is None:
        return None
    if kind == "downsamplers":
        return f"{prefix}.{position}.0.op"
    if kind == "resnets":
        return f"{prefix}.{position}.0.{_RESNET.get(rest, rest)}"
    return f"{prefix}.{position}.1.{rest}"


def _original_upsampler(
    block: int, names: tuple[str, ...], prefix: str, positions: Mapping[tuple[int, int], int]
) -> str | None:
    """The upsampler of a block: the last part of its last ResNet's block, behind the attention where there is one."""
    last = max((resnet for of, resnet in positions if of == block), default=None)
    if last is None:
        return None
    attention = f"up_blocks.{block}.attentions.{last}."
    part = 2 if any(name.startswith(attention) for name in names) else 1
    return f"{prefix}.{positions[block, last]}.{part}.conv"
