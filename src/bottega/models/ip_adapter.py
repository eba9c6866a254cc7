"""Do an IP-Adapter, an image encoder and a U-Net belong together? Read from headers and configurations alone.

An adapter holds `image_proj.*`, which turns what the image encoder says into a few tokens, and `ip_adapter.{1,3,5,…}`,
the keys and values of each cross-attention layer of the U-Net. What it reads of the encoder depends on its layout:

| layout | recognised by        | reads                           | width that must agree  |
|--------|----------------------|---------------------------------|------------------------|
| plain  | `proj.weight`        | the projected picture embedding | `projection_dim`       |
| plus   | `latents`            | the last but one hidden states  | `hidden_size`          |
| full   | `proj.3.weight`      | the last but one hidden states  | `hidden_size`          |

The widths of two encoders overlap (1280 is what OpenCLIP ViT-bigG projects to, and how wide ViT-H is inside), so no
width proves anything without the layout. Source: tencent-ailab/IP-Adapter and the loader of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bottega.models.weights import TensorInfo, find_weights, pickled_cure, read_config, read_header, read_headers
from bottega.runtime.errors import MissingError, RequestError

WEIGHT_NAMES = ("ip_adapter.safetensors", "ip-adapter_sdxl.safetensors")  # what is taken where a folder holds several
PLAIN_TOKENS = 4  # fixed in the architecture: the file doesn't say how it divides its rows into tokens
_KEY_MATRIX = re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")
Shape = tuple[int, ...]
AdapterLayout = Literal["plain", "plus", "full"]
_TYPICAL: dict[AdapterLayout, set[str]] = {
    "plain": {"proj.weight", "norm.weight"},
    "plus": {"latents", "proj_in.weight"},
    "full": {"proj.3.weight", "proj.0.weight"},
}
"""Tensors of `image_proj` by which a layout is recognised, tried in this order."""


@dataclass(frozen=True)
class IPAdapter:
    """An adapter file by its header.

    Attributes:
        width: what it expects of the image encoder; of which of its outputs, follows from the layout.
        tokens: how many it makes; None for as many as the encoder has patches, and one.
        layers: shape [hidden, cross_attention_dim] of each layer's key matrix, in order.
    """

    path: Path
    layout: AdapterLayout
    width: int
    cross_attention_dim: int
    tokens: int | None
    layers: tuple[Shape, ...]


def adapter_file(place: Path) -> Path:
    """The adapter's file: `place` itself, or the one in that folder.

    Raises:
        MissingError: there is none.
        RequestError: there are several and none has a known name, or it is not safetensors.
    """
    if place.is_dir():
        return _adapter_in(place)
    if place.suffix != ".safetensors":
        raise RequestError(f"{place}: an IP-Adapter is read from safetensors only; {pickled_cure(place)}")
    return place


def _adapter_in(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("ip[-_]adapter*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise RequestError(f"{folder}: holds {len(found)} IP-Adapters; name one of {names}")
    pickled = sorted(path.name for path in folder.glob("ip*adapter*") if path.suffix in (".bin", ".pt", ".ckpt"))
    if pickled:
        raise RequestError(
            f"{folder}: IP-Adapters are read from safetensors only, received {pickled[0]}; "
            f"{pickled_cure(folder / pickled[0])}"
        )
    raise MissingError(f"{folder}: holds no IP-Adapter ({' or '.join(WEIGHT_NAMES)}); fetch it")


def encoder_folder(adapter: Path) -> Path:
    """The image encoder that belongs to an adapter file: the first that fits, else the first, which `check` refuses.

    Looked for as `image_encoder/` beside the file and, since h94/IP-Adapter keeps the ViT-H of its SDXL adapters there,
    as `models/image_encoder/` one folder up.

    Raises:
        MissingError: there is neither.
    """
    candidates = [adapter.parent / "image_encoder", adapter.parent.parent / "models" / "image_encoder"]
    there = [folder for folder in candidates if (folder / "config.json").exists()]
    if not there:
        raise MissingError(
            f"{adapter}: no image_encoder/ with a config.json beside it; fetch the encoder with the adapter"
        )
    described = describe(adapter)
    # h94/IP-Adapter holds two encoders, and the nearer one need not be this adapter's.
    for folder in there:
        if not _encoder_faults(described, folder):
            return folder
    return there[0]


def describe(path: Path) -> IPAdapter:
    """Layout and widths of an adapter file, from its header.

    Raises:
        RequestError: it is no IP-Adapter, or its layout is not supported.
    """
    tensors = read_header(path).tensors
    prefix = "image_proj."
    projection = {name.removeprefix(prefix): info for name, info in tensors.items() if name.startswith(prefix)}
    layers = _adapter_layers(tensors)
    if not projection or not layers:
        raise RequestError(
            f"{path}: not an IP-Adapter: its header has no `image_proj.*` and "
            "`ip_adapter.*.to_k_ip.weight` keys; name the adapter's file"
        )
    layout = _layout(path, projection)
    cross = layers[0][1]
    if layout == "plain":
        rows, width = projection["proj.weight"].shape
        if rows != PLAIN_TOKENS * cross:
            raise RequestError(
                f"{path}: a plain IP-Adapter makes {PLAIN_TOKENS} tokens of {cross}, its projection has "
                f"{rows} rows; name another adapter"
            )
        return IPAdapter(path, "plain", width, cross, PLAIN_TOKENS, layers)
    if layout == "plus":
        tokens = projection["latents"].shape[1]
        return IPAdapter(path, "plus", projection["proj_in.weight"].shape[1], cross, tokens, layers)
    return IPAdapter(path, "full", projection["proj.0.weight"].shape[1], cross, None, layers)


def _layout(path: Path, projection: Mapping[str, TensorInfo]) -> AdapterLayout:
    """The layout whose two typical tensors the projection has; one is not enough, FaceID has `proj.0.weight` too."""
    for layout, typical in _TYPICAL.items():
        if typical <= projection.keys():
            return layout
    raise RequestError(
        f"{path}: an IP-Adapter of the plain, plus or full layout is needed, received keys such as "
        f"image_proj.{min(projection)}; FaceID adapters are not supported"
    )


def _adapter_layers(tensors: Mapping[str, TensorInfo]) -> tuple[Shape, ...]:
    """Shapes of the key matrices in the order of their numbers; sorted as text, layer 11 would come before layer 3."""
    by_number = {}
    for name, info in tensors.items():
        match = _KEY_MATRIX.fullmatch(name)
        if match is not None:
            by_number[int(match[1])] = info.shape
    return tuple(by_number[number] for number in sorted(by_number))


def check(adapter: Path, encoder: Path, unet: Path) -> IPAdapter:
    """Refuse an adapter file, an image encoder's folder and a U-Net's folder that don't belong together.

    Reads headers and configurations only.

    Raises:
        RequestError: they don't belong together; lists all that disagrees.
        StorageError, MissingError: a file is incomplete or absent.
    """
    described = describe(adapter)
    faults = _encoder_faults(described, encoder) + _unet_faults(described, unet)
    if faults:
        raise RequestError(
            f"{adapter.name} and its models don't belong together: {'; '.join(faults)}; name an adapter "
            "made for this encoder and this U-Net"
        )
    return described


def _encoder_faults(adapter: IPAdapter, folder: Path) -> list[str]:
    config = read_config(folder / "config.json")
    hidden, projected = config.get("hidden_size"), config.get("projection_dim")
    tensors = read_headers(find_weights(folder).files)
    projection = tensors.get("visual_projection.weight")
    if projection is None:
        return [f"{folder} holds no visual_projection.weight, so it is not a CLIP image encoder with projection"]
    if projection.shape != (projected, hidden):
        return [
            f"{folder}: config.json says projection_dim {projected} and hidden_size {hidden}, its weights "
            f"{list(projection.shape)}"
        ]
    field, has = ("projection_dim", projected) if adapter.layout == "plain" else ("hidden_size", hidden)
    if has != adapter.width:
        return [
            f"the adapter ({adapter.layout} layout) needs an image encoder of {field} {adapter.width}, "
            f"{folder} has {has}"
        ]
    return []


def _unet_faults(adapter: IPAdapter, folder: Path) -> list[str]:
    cross = read_config(folder / "config.json").get("cross_attention_dim")
    if cross != adapter.cross_attention_dim:
        return [
            f"the adapter was made for a U-Net of cross_attention_dim {adapter.cross_attention_dim}, "
            f"{folder} has {cross}"
        ]
    layers = cross_attention_layers(read_headers(find_weights(folder).files))
    if layers != adapter.layers:
        what = _first_difference(adapter.layers, layers)
        return [
            f"the adapter has {len(adapter.layers)} layers, the U-Net {len(layers)} cross-attention layers ({what})"
        ]
    return []


def _first_difference(adapter: tuple[Shape, ...], unet: tuple[Shape, ...]) -> str:
    for number, (mine, theirs) in enumerate(zip(adapter, unet, strict=False)):
        if mine != theirs:
            return f"layer {number}: {list(mine)} against {list(theirs)}"
    return "all shapes agree until one ends"


def cross_attention_layers(tensors: Mapping[str, TensorInfo]) -> tuple[Shape, ...]:
    """Shapes of the U-Net's cross-attention key matrices in the order in which an IP-Adapter numbers them:
    down blocks, up blocks, middle."""
    names = [name for name in tensors if name.endswith("attn2.to_k.weight")]
    return tuple(tensors[name].shape for name in sorted(names, key=_place_in_unet))


def _place_in_unet(name: str) -> tuple[int, list[int]]:
    """Sorts `down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight` by its block, then by its numbers."""
    block = ("down", "up_b", "mid_").index(name[:4])
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return block, numbers
