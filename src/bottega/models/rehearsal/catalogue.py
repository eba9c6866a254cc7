"""Which files each published model consists of, and what is in them.

A network's tensors are those that its class has by its configuration, built without memory, under the names of the
published file. Their number is held against the published one, so that a library's next version cannot make another
network of the same configuration in silence.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.models.ip_adapter import PLAIN_TOKENS, Shape, cross_attention_layers
from bottega.models.libraries import prepare
from bottega.models.rehearsal import configurations, tokenizers
from bottega.models.rehearsal.configurations import Configuration, Scale
from bottega.models.rehearsal.writing import SmallFile, WeightFile, count_numbers, tensor_bytes
from bottega.models.weights import TensorInfo
from bottega.runtime.errors import WorkError

Tensors = dict[str, TensorInfo]
Contents = list[WeightFile | SmallFile]


@dataclass(frozen=True)
class PublishedNetwork:
    """One network in a repository.

    folder: in the repository. file: its weights; of several files, the name without their numbers. kind: its class,
    in diffusers or transformers. dtype: of the published file. parameters: as published at full scale. published: from
    the class's name of a tensor to the file's. more: what the file holds beside the parameters. shard_bytes: the most
    that a file holds at full scale; None: all in one.
    """

    folder: str
    file: str
    kind: str
    config: Configuration
    dtype: str
    parameters: int
    published: Callable[[str], str] = str
    more: Tensors = field(default_factory=dict)
    shard_bytes: int | None = None


T5_SHARD_BYTES = 10_000_000_000
"""transformers' default when the repository was written: files of 9.99 and 9.06 GB."""


def sdxl_networks(scale: Scale) -> list[PublishedNetwork]:
    """The networks of SDXL base 1.0, in fp16, whose files `bottega models fetch` takes.

    Parameters: of the U-Net as counted by training scripts (diffusers' DreamBooth logs, `unet params`), of the text
    encoders and the autoencoder by the published sizes of the fp16 files, 246 144 152, 1 389 382 176 and 167 335 342
    bytes, which are twice the numbers and a header.
    """
    return [
        PublishedNetwork(
            "unet", "diffusion_pytorch_model.fp16", "UNet2DConditionModel", configurations.sdxl_unet(scale), "F16",
            2_567_463_684,
        ),
        PublishedNetwork(
            "text_encoder", "model.fp16", "CLIPTextModel", configurations.sdxl_text(scale), "F16",
            123_060_480, _with_text_model,
        ),
        PublishedNetwork(
            "text_encoder_2", "model.fp16", "CLIPTextModelWithProjection", configurations.sdxl_second_text(scale),
            "F16", 694_659_840, _with_text_model,
        ),
        PublishedNetwork(
            "vae", "diffusion_pytorch_model.fp16", "AutoencoderKL", configurations.sdxl_vae(scale), "F16", 83_653_863,
        ),
    ]  # fmt: skip


def _pixart_networks(scale: Scale) -> list[PublishedNetwork]:
    """The networks of PixArt-XL-2-512x512, all in float32.

    Parameters: the transformer's 0.61 billion of the paper (arXiv 2310.00426); exactly, those of diffusers' class
    without the embedders of size that the 1024 model has. T5's as counted for LTX-Video and Stable Diffusion 3, which
    use the same encoder. The autoencoder has SDXL's architecture.
    """
    transformer = configurations.pixart_transformer(scale)
    # The text of a dropped caption: diffusers 0.22 saved it with the weights.
    dropped = {"caption_projection.y_embedding": TensorInfo("F32", (120, _number(transformer, "caption_channels")))}
    return [
        PublishedNetwork(
            "transformer", "diffusion_pytorch_model", "PixArtTransformer2DModel", transformer, "F32",
            610_856_096, str, dropped,
        ),
        PublishedNetwork(
            "text_encoder", "model", "T5EncoderModel", configurations.t5_encoder(scale), "F32",
            4_762_310_656, shard_bytes=T5_SHARD_BYTES,
        ),
        PublishedNetwork(
            "vae", "diffusion_pytorch_model", "AutoencoderKL", configurations.pixart_vae(scale), "F32",
            83_653_863, _old_attention,
        ),
    ]  # fmt: skip


_POSITIONS = {"vision_model.embeddings.position_ids": TensorInfo("I64", (1, 257))}
"""A buffer that transformers wrote until 4.31; SDXL's files came without it."""


def _vit_h(scale: Scale) -> PublishedNetwork:
    """Parameters: the published file has 2 528 373 448 bytes, four times their number and a header."""
    return PublishedNetwork(
        "models/image_encoder", "model", "CLIPVisionModelWithProjection", configurations.vit_h(scale), "F32",
        632_076_800, str, _POSITIONS,
    )  # fmt: skip


def _vit_bigg(scale: Scale) -> PublishedNetwork:
    """Parameters: the published file has 3 689 912 664 bytes, twice their number and a header."""
    return PublishedNetwork(
        "sdxl_models/image_encoder", "model", "CLIPVisionModelWithProjection", configurations.vit_bigg(scale), "F16",
        1_844_907_264, str, _POSITIONS,
    )  # fmt: skip


def _clip(scale: Scale) -> PublishedNetwork:
    """Parameters: as listed for OpenAI's ViT-L/14 by MTEB and KerasHub."""
    positions = {"text_model.embeddings.position_ids": TensorInfo("I64", (1, 77)), **_POSITIONS}
    return PublishedNetwork("", "model", "CLIPModel", configurations.clip(scale), "F32", 427_616_513, str, positions)


def _dino(scale: Scale) -> PublishedNetwork:
    """Parameters: 85.8 million, as DINO's repository lists its ViT-B/8; published without a pooling layer."""
    return PublishedNetwork("", "model", "ViTModel", configurations.dino(scale), "F32", 85_807_872, _old_vit)


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensors_of(network: PublishedNetwork, scale: Scale) -> Tensors:
    """The tensors of a network's published file.

    Raises:
        WorkError: at full scale, the class has another number of parameters than is published.
    """
    found: Tensors = {}
    for name, shape in _shapes(network).items():
        found[network.published(name)] = TensorInfo(network.dtype, shape)
    count = count_numbers(found)
    if scale == "full" and count != network.parameters:
        raise WorkError(
            f"{network.kind} must have {network.parameters} parameters by its published configuration, received "
            f"{count} from the installed libraries; use versions of diffusers and transformers that are tested"
        )
    return found | network.more


def _shapes(network: PublishedNetwork) -> dict[str, Shape]:
    """Name -> shape of each parameter, in the class's order; nothing is allocated."""
    import torch

    prepare()
    with torch.device("meta"):
        model = _empty(network)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def _empty(network: PublishedNetwork) -> Any:
    import diffusers
    import transformers

    config = dict(network.config)
    if hasattr(diffusers, network.kind):
        kind = getattr(diffusers, network.kind)
        # PixArt's configuration has fields of the class that it was written for, each worth a warning.
        known = inspect.signature(kind.__init__).parameters
        return kind.from_config({key: value for key, value in config.items() if key in known})
    kind = getattr(transformers, network.kind)
    options = {"add_pooling_layer": False} if network.kind == "ViTModel" else {}
    return kind(kind.config_class.from_dict(config), **options)


def _number(config: Configuration, name: str) -> int:
    value = config[name]
    assert isinstance(value, int)
    return value


def adapter_tensors(unet: Tensors, encoder: Configuration) -> Tensors:
    """An IP-Adapter of the plain layout, in fp16.

    Args:
        unet: the tensors of the U-Net that it is for.
        encoder: of the image encoder whose embedding it reads.
    """
    layers = cross_attention_layers(unet)
    cross = layers[0][1]
    found = {
        "image_proj.proj.weight": TensorInfo("F16", (PLAIN_TOKENS * cross, _number(encoder, "projection_dim"))),
        "image_proj.proj.bias": TensorInfo("F16", (PLAIN_TOKENS * cross,)),
        "image_proj.norm.weight": TensorInfo("F16", (cross,)),
        "image_proj.norm.bias": TensorInfo("F16", (cross,)),
    }
    for place, shape in enumerate(layers):
        for letter in "kv":
            found[f"ip_adapter.{2 * place + 1}.to_{letter}_ip.weight"] = TensorInfo("F16", shape)
    return found


def _with_text_model(name: str) -> str:
    """transformers 5 dropped this prefix of CLIP's text model."""
    plain = name.removeprefix("text_model.")
    return plain if plain.startswith("text_projection") else f"text_model.{plain}"


_OLD_ATTENTION = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))


def _old_attention(name: str) -> str:
    """The names of an autoencoder's attention before diffusers 0.13, which sd-vae-ft-ema has."""
    for new, old in _OLD_ATTENTION:
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


_OLD_VIT = (
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
    (r"^layers\.", "encoder.layer."),
)


def _old_vit(name: str) -> str:
    """The names that a ViT had before transformers 5."""
    for new, old in _OLD_VIT:
        name = re.sub(new, old, name)
    return name


def shards(tensors: Mapping[str, TensorInfo], most: int) -> list[Tensors]:
    """Tensors in their order, in parts of `most` bytes at most, as transformers divides them."""
    found: list[Tensors] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if found[-1] and size + tensor_bytes(tensor) > most:
            found.append({})
            size = 0
        found[-1][name] = tensor
        size += tensor_bytes(tensor)
    return found


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelPlan:
    """A model by the name that `--only` takes.

    repository: on the Hub. contents: its files, by their paths in the repository.
    """

    name: str
    repository: str
    contents: Contents


def _network_files(network: PublishedNetwork, tensors: Tensors, header: Mapping[str, str]) -> Contents:
    """Configuration and weights of a network."""
    place = f"{network.folder}/" if network.folder else ""
    found: Contents = [SmallFile(f"{place}config.json", as_json(network.config))]
    if network.shard_bytes is None:
        return [*found, WeightFile(f"{place}{network.file}.safetensors", tensors, header)]
    total = sum(map(tensor_bytes, tensors.values()))
    # At reduced width too there are as many files: the same share of all bytes goes into the first.
    full = 4 * network.parameters
    parts = shards(tensors, math.ceil(total * network.shard_bytes / full))
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"{network.file}-{number:05d}-of-{len(parts):05d}.safetensors"
        weight_map |= dict.fromkeys(part, name)
        found.append(WeightFile(f"{place}{name}", part, header))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return [*found, SmallFile(f"{place}{network.file}.safetensors.index.json", as_json(index))]


def _small(folder: str, files: Mapping[str, bytes]) -> Contents:
    return [SmallFile(f"{folder}/{name}" if folder else name, content) for name, content in files.items()]


def as_json(value: object) -> bytes:
    """A small file's content."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


Header = Mapping[str, str]


def _sdxl_plan(scale: Scale, header: Header) -> ModelPlan:
    contents: Contents = [SmallFile("model_index.json", as_json(configurations.SDXL_INDEX))]
    for network in sdxl_networks(scale):
        contents += _network_files(network, tensors_of(network, scale), header)
    contents += _small("tokenizer", tokenizers.clip_files())
    contents += _small("tokenizer_2", tokenizers.clip_files("!"))
    contents.append(SmallFile("scheduler/scheduler_config.json", as_json(configurations.SDXL_SCHEDULER)))
    return ModelPlan("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", contents)


def _adapter_plan(name: str, encoder: PublishedNetwork, scale: Scale, header: Header) -> ModelPlan:
    unet = tensors_of(sdxl_networks(scale)[0], scale)
    file = "ip-adapter_sdxl" if name == "ip_adapter" else "ip-adapter_sdxl_vit-h"
    adapter = WeightFile(f"sdxl_models/{file}.safetensors", adapter_tensors(unet, encoder.config), header)
    return ModelPlan(name, "h94/IP-Adapter", [adapter, *_network_files(encoder, tensors_of(encoder, scale), header)])


def _ip_adapter_plan(scale: Scale, header: Header) -> ModelPlan:
    return _adapter_plan("ip_adapter", _vit_bigg(scale), scale, header)


def _ip_adapter_vit_h_plan(scale: Scale, header: Header) -> ModelPlan:
    return _adapter_plan("ip_adapter_vit_h", _vit_h(scale), scale, header)


def _pixart_plan(scale: Scale, header: Header) -> ModelPlan:
    contents: Contents = [SmallFile("model_index.json", as_json(configurations.PIXART_INDEX))]
    for network in _pixart_networks(scale):
        contents += _network_files(network, tensors_of(network, scale), header)
    contents += _small("tokenizer", tokenizers.t5_files())
    contents.append(SmallFile("scheduler/scheduler_config.json", as_json(configurations.PIXART_SCHEDULER)))
    return ModelPlan("pixart", "PixArt-alpha/PixArt-XL-2-512x512", contents)


def _clip_plan(scale: Scale, header: Header) -> ModelPlan:
    network = _clip(scale)
    contents = _network_files(network, tensors_of(network, scale), header)
    contents += _small("", tokenizers.clip_files())
    contents.append(SmallFile("preprocessor_config.json", as_json(configurations.CLIP_PREPROCESSING)))
    return ModelPlan("clip", "openai/clip-vit-large-patch14", contents)


def _dino_plan(scale: Scale, header: Header) -> ModelPlan:
    network = _dino(scale)
    contents = _network_files(network, tensors_of(network, scale), header)
    contents.append(SmallFile("preprocessor_config.json", as_json(configurations.DINO_PREPROCESSING)))
    return ModelPlan("structure_encoder", "facebook/dino-vitb8", contents)


PLANS: Mapping[str, Callable[[Scale, Header], ModelPlan]] = {
    "sdxl": _sdxl_plan,
    "ip_adapter": _ip_adapter_plan,
    "ip_adapter_vit_h": _ip_adapter_vit_h_plan,
    "pixart": _pixart_plan,
    "clip": _clip_plan,
    "structure_encoder": _dino_plan,
}
"""Name -> what makes its plan. Those of one repository can be made together or one after the other."""
