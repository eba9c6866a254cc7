"""SDXL from one `.safetensors` file in the key layout of the original code.

Each part is built from its configuration without memory, then asked for its tensors: every name that the part has is
looked up under the original code's name, so that a tensor can only come from the part's own prefix. diffusers'
`from_single_file` tells the two text encoders apart by their widths, which are the same in a small model.

`save_single_file` writes such a file, by the same table of names; `convert_single_file` makes a folder in diffusers'
layout of one.

The file is mapped, and each tensor is copied straight to its device in its dtype: a checkpoint of 7 GB is in memory
once. Nothing is copied before every part is known to be whole.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bottega.generation.lora.architecture import Architecture, original_names
from bottega.models.checkpoint_keys import kind_of_foreign, split_original
from bottega.models.identify import CheckpointIdentity, identify
from bottega.models.loading import load_scheduler, load_tokenizer, load_vae, refuse_fp32_tensors
from bottega.models.weights import TensorInfo, read_config, read_header
from bottega.runtime.errors import RequestError
from bottega.runtime.files import atomic_path, write_json

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "text_encoder": ("conditioner.embedders.0.transformer.",),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
    "vae": ("first_stage_model.", "vae."),
}
"""Where each part lies in the file; the first prefix that occurs counts."""

_CLASSES: Mapping[str, str] = {
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}

_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
"""By the configuration's word. The original code has no name for a tiny one's tensors: they keep diffusers' names."""

_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")

_UNUSED = re.compile(
    r".*position_ids|logit_scale|attn_mask|loss\..*|model_ema\..*|v_pred|ztsnr|edm_(mean|std)|edm_vpred\.\w+"
)
"""Tensors under a part's prefix that the original code saves beside the weights and that no picture depends on."""

_OPEN_CLIP: Mapping[str, str] = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER: Mapping[str, str] = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")

_VAE_RENAMES: tuple[tuple[str, str], ...] = (
    (r"conv_norm_out", "norm_out"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
    (r"attn_1\.group_norm\.", "attn_1.norm."),
)
"""From diffusers' names to the original ones, in this order; levels of the way up are turned around before."""


@dataclass(frozen=True)
class SingleFile:
    """What came out of a file.

    parts: by diffusers' names. left_aside: tensors that belong to no part, by kind.
    """

    parts: dict[str, Any]
    left_aside: dict[str, int]


@dataclass(frozen=True)
class _Source:
    """Where one tensor of a part lies in the file.

    third: 0, 1 or 2 where the file has query, key and value in one matrix. transposed: where it is the other way round.
    """

    key: str
    third: int | None = None
    transposed: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the tensor has in the part, of a stored one of this shape."""
        if self.third is not None:
            return (stored[0] // 3, *stored[1:]) if stored and stored[0] % 3 == 0 else ()
        return stored[::-1] if self.transposed else stored

    def values(self, stored: torch.Tensor) -> torch.Tensor:
        """The tensor, as a view."""
        if self.third is not None:
            return stored.chunk(3)[self.third]
        return stored.T if self.transposed else stored


@dataclass(frozen=True)
class _PartPlan:
    """A part without memory, and where each of its tensors lies."""

    name: str
    module: torch.nn.Module
    sources: Mapping[str, _Source]


def load_single_file(
    path: Path, configs: Path, dtype: torch.dtype, device: torch.device, vae: Path | None = None
) -> SingleFile:
    """Load SDXL from one file.

    Args:
        path: the checkpoint.
        configs: folder in diffusers' layout with the configurations, tokenizers and scheduler; it needs no weights.
        dtype: of all networks.
        device: of all networks.
        vae: folder of another autoencoder; None: the file's own.

    Raises:
        RequestError: a part is absent, lacks tensors, or has others than its configuration says.
        MissingError: the folder lacks a configuration.
        StorageError: the file is incomplete.
    """
    tensors = read_header(path).tensors  # an incomplete file, or a pickle, is refused before anything opens it
    names = ["unet", "text_encoder", "text_encoder_2"]
    if vae is None:
        names.append("vae")
    prefixes = {name: _prefix(path, name, tensors) for name in names}
    denoiser = {key: info for key, info in tensors.items() if key.startswith(prefixes["unet"])}
    refuse_fp32_tensors(path, denoiser, dtype)

    # 1. Plan: every part must find all its tensors, before one is copied.
    plans = [_plan(path, name, configs / name, prefixes[name], tensors) for name in names]
    left_aside = _left_aside(path, plans, prefixes, tensors)

    # 2. Copy, part by part.
    parts: dict[str, Any] = {plan.name: _fill(path, plan, dtype, device) for plan in plans}
    if vae is not None:
        parts["vae"] = load_vae(vae, dtype)
    parts["tokenizer"] = load_tokenizer(configs / "tokenizer")
    parts["tokenizer_2"] = load_tokenizer(configs / "tokenizer_2")
    parts["scheduler"] = load_scheduler(configs / "scheduler")
    return SingleFile(parts, left_aside)


def read_architecture(path: Path, configs: Path) -> Architecture:
    """The modules that LoRAs may change in a checkpoint; arguments and errors as of `load_single_file`."""
    tensors = read_header(path).tensors
    modules = {}
    for name in ("unet", "text_encoder", "text_encoder_2"):
        plan = _plan(path, name, configs / name, _prefix(path, name, tensors), tensors)
        modules[name] = plan.module
    return Architecture.of(**modules)


def _prefix(path: Path, name: str, tensors: Iterable[str]) -> str:
    for prefix in _PREFIXES[name]:
        if any(key.startswith(prefix) for key in tensors):
            return prefix
    if name == "vae":
        raise RequestError(
            f"{path}: a picture needs an autoencoder, the checkpoint has none (no tensor under first_stage_model); "
            "name the folder of one with --vae"
        )
    raise RequestError(
        f"{path}: a checkpoint of SDXL must hold {name}, received none of its tensors ({_PREFIXES[name][0]}…); name "
        "a whole one"
    )


# --- which tensor lies where ----------------------------------------------------------------------------------------


def _plan(path: Path, name: str, folder: Path, prefix: str, tensors: Mapping[str, TensorInfo]) -> _PartPlan:
    module = _empty(name, folder)
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    sources = _sources_in_file(name, prefix, wanted, tensors)
    absent = [source.key for source in sources.values() if source.key not in tensors]
    if absent:
        raise RequestError(
            f"{path}: the checkpoint lacks {len(absent)} of {len(sources)} tensors of {name}, first {absent[0]}; "
            f"name a whole checkpoint of the architecture in {folder}"
        )
    for key, source in sources.items():
        _require_fitting(path, folder, source, tensors[source.key], wanted[key])
    return _PartPlan(name, module, sources)


def _sources_in_file(
    name: str, prefix: str, wanted: Iterable[str], tensors: Mapping[str, TensorInfo]
) -> dict[str, _Source]:
    """Where each tensor of a part lies, with the part's prefix."""
    sources = {}
    for key, source in _SOURCES[name](wanted).items():
        # Some trainers save the projection as a layer's weight, which is not transposed.
        if source.transposed and f"{prefix}{source.key}.weight" in tensors:
            source = _Source(f"{source.key}.weight")
        sources[key] = _Source(prefix + source.key, source.third, source.transposed)
    return sources


def _require_fitting(path: Path, folder: Path, source: _Source, stored: TensorInfo, wanted: tuple[int, ...]) -> None:
    """Refuse a tensor of a format that is not read, or of another shape than the configuration says."""
    if stored.dtype not in _FLOATS:
        raise RequestError(
            f"{path}: weights are read as one of {', '.join(_FLOATS)}, received {stored.dtype} for {source.key}; "
            "name a checkpoint that is not quantised"
        )
    if not _fits(source.shape(stored.shape), wanted):
        raise RequestError(
            f"{path}: {source.key} must make {list(wanted)} by {folder}/config.json, received "
            f"{list(stored.shape)}; name a checkpoint of this architecture, or its configuration's folder"
        )


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Also a 1 × 1 convolution for a matrix: so the original code writes the autoencoder's attention."""
    return stored == wanted or (len(wanted) == 2 and stored == (*wanted, 1, 1))


def _empty(name: str, folder: Path) -> torch.nn.Module:
    """A part without memory for its weights; its few buffers, which no file holds, are real."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    config = dict(read_config(folder / "config.json"))
    kind = _CLASSES.get(name) or str(config.get("_class_name"))
    if name == "vae" and kind not in _AUTOENCODERS:
        raise RequestError(
            f"{folder}: an autoencoder inside a checkpoint is one of {', '.join(_AUTOENCODERS)}, the configuration is "
            f"of {kind}; name another folder of configurations, or an autoencoder with --vae"
        )
    with init_empty_weights(include_buffers=False):
        if name in ("unet", "vae"):
            module = getattr(diffusers, kind).from_config(config)
        else:
            module = getattr(transformers, kind)(transformers.CLIPTextConfig.from_dict(config))
    assert isinstance(module, torch.nn.Module)
    return module


def _unet_sources(wanted: Iterable[str]) -> dict[str, _Source]:
    keys = list(wanted)
    layers = original_names(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    found = {}
    for key in keys:
        layer, _, end = key.rpartition(".")
        found[key] = _Source(f"{layers.get(layer, layer)}.{end}")
    return found


def _clip_sources(wanted: Iterable[str]) -> dict[str, _Source]:
    # transformers 5 dropped `text_model.` from its names; the file has it.
    return {key: _Source(f"text_model.{key.removeprefix('text_model.')}") for key in wanted}


def _open_clip_sources(wanted: Iterable[str]) -> dict[str, _Source]:
    return {key: _open_clip_source(key.removeprefix("text_model.")) for key in wanted}


def _open_clip_source(key: str) -> _Source:
    if key == "text_projection.weight":
        return _Source("text_projection", transposed=True)
    match = _CLIP_LAYER.fullmatch(key)
    if match is None:
        return _Source(_OPEN_CLIP.get(key, key))
    number, layer, end = match.groups()
    block = f"transformer.resblocks.{number}"
    for third, letter in enumerate("qkv"):
        if layer == f"self_attn.{letter}_proj":
            return _Source(f"{block}.attn.in_proj_{end}", third=third)
    return _Source(f"{block}.{_OPEN_CLIP_LAYER.get(layer, layer)}.{end}")


def _vae_sources(wanted: Iterable[str]) -> dict[str, _Source]:
    keys = list(wanted)
    if any(key.startswith("decoder.layers.") for key in keys):
        return {key: _Source(key) for key in keys}  # an AutoencoderTiny
    last = 0  # the number of the topmost level
    for key in keys:
        match = re.match(r"decoder\.up_blocks\.(\d+)\.", key)
        if match is not None:
            last = max(last, int(match[1]))

    def from_the_other_end(match: re.Match[str]) -> str:
        return f"up_blocks.{last - int(match[1])}"

    found = {}
    for key in keys:
        name = re.sub(r"up_blocks\.(\d+)", from_the_other_end, key)
        for pattern, replacement in _VAE_RENAMES:
            name = re.sub(pattern, replacement, name)
        found[key] = _Source(name)
    return found


_SOURCES: Mapping[str, Callable[[Iterable[str]], dict[str, _Source]]] = {
    "unet": _unet_sources,
    "text_encoder": _clip_sources,
    "text_encoder_2": _open_clip_sources,
    "vae": _vae_sources,
}


def _left_aside(
    path: Path, plans: Iterable[_PartPlan], prefixes: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> dict[str, int]:
    """Tensors that no part takes, by kind. Those that make a part another network are refused."""
    taken = set()
    for plan in plans:
        taken |= {source.key for source in plan.sources.values()}
    foreign = split_original(tensors).foreign
    counts: Counter[str] = Counter()
    for key in sorted(tensors.keys() - taken):
        part = next((name for name, prefix in prefixes.items() if key.startswith(prefix)), None)
        if part is None:
            counts[_kind_outside(key, prefixes, foreign)] += 1
        elif _needs_place(key, prefixes[part]):
            raise _too_many(path, part, prefixes[part], taken, tensors)
        else:
            kind = kind_of_foreign(key)
            counts["not used" if kind == "unknown" else kind] += 1
    return dict(sorted(counts.items()))


def _kind_outside(key: str, prefixes: Mapping[str, str], foreign: Mapping[str, str]) -> str:
    """The kind of a tensor that lies under no prefix of the parts that are loaded."""
    if "vae" not in prefixes and key.startswith(_PREFIXES["vae"]):
        return "autoencoder, replaced"
    return foreign.get(key, "not used")  # a marker of its training, a buffer of its noise schedule


def _needs_place(key: str, prefix: str) -> bool:
    """Whether a tensor under a part's prefix belongs to the network, so that the part must have a place for it."""
    return kind_of_foreign(key) == "unknown" and _UNUSED.fullmatch(key.removeprefix(prefix)) is None


def _too_many(path: Path, part: str, prefix: str, taken: set[str], tensors: Mapping[str, TensorInfo]) -> RequestError:
    """A deeper network, of which only the first blocks would be loaded; or a quantised one with its scales."""
    more = [key for key in sorted(tensors.keys() - taken) if key.startswith(prefix) and _needs_place(key, prefix)]
    return RequestError(
        f"{path}: {part} by its configuration has no place for {len(more)} tensors of the checkpoint, first {more[0]}; "
        "it is of another depth or kind: name the folder of its configuration"
    )


# --- the tensors ----------------------------------------------------------------------------------------------------


def _fill(path: Path, plan: _PartPlan, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The part with its tensors, which are copies: a view of the mapped file would change with the file."""
    from safetensors import safe_open

    wanted = {key: value.shape for key, value in plan.module.state_dict().items()}
    state = {}
    with safe_open(path, framework="pt", device="cpu") as file:
        for key, source in plan.sources.items():
            values = source.values(file.get_tensor(source.key)).reshape(wanted[key])
            placed = values.to(device=device, dtype=dtype, copy=True)
            # A transposed copy keeps its strides, and a matrix product could round differently with them.
            state[key] = placed.contiguous()
    plan.module.load_state_dict(state, strict=True, assign=True)
    # For the buffers, which are whole numbers. With a dtype, diffusers would warn of modules that are not there.
    return plan.module.to(device).eval()


# --- writing --------------------------------------------------------------------------------------------------------


def save_single_file(
    path: Path,
    parts: Mapping[str, torch.nn.Module],
    *,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
    markers: Iterable[str] = (),
) -> None:
    """Write SDXL as one file in the original key layout; it appears whole or not at all.

    Args:
        path: the new file.
        parts: unet, text_encoder, text_encoder_2 and, where it is to be in the file, vae, as diffusers loads them.
        dtype: of the tensors in the file.
        metadata: of the file's header, such as `modelspec.title`.
        markers: empty tensors that say how the network was trained: `v_pred`, `ztsnr` (`checkpoint_keys.MARKERS`).
    """
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {marker: torch.tensor([]) for marker in markers}
    for name, module in parts.items():
        state |= _original_state(name, module.state_dict(), dtype)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt", **(metadata or {})})


def original_shapes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors that `save_single_file` writes for a part: their names in the file, with the part's prefix.

    Args:
        name: unet, text_encoder, text_encoder_2 or vae.
        shapes: of the part's own tensors, by diffusers' names.
    """
    prefix = _PREFIXES[name][0]
    found: dict[str, tuple[int, ...]] = {}
    for key, source in _SOURCES[name](shapes).items():
        shape = shapes[key]
        if source.third is not None:
            shape = (3 * shape[0], *shape[1:])
        elif source.transposed:
            shape = shape[::-1]
        elif _is_convolution(name, source, len(shape)):
            shape = (*shape, 1, 1)
        found[prefix + source.key] = shape
    return found


def _is_convolution(name: str, source: _Source, dimensions: int) -> bool:
    """Whether a matrix is a 1 × 1 convolution in the original code: so its autoencoder writes attention."""
    return name == "vae" and ".attn_1." in source.key and dimensions == 2


def _original_state(name: str, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A part's tensors under the names of the original code."""
    prefix = _PREFIXES[name][0]
    state: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for key, source in _SOURCES[name](tensors).items():
        value = tensors[key].detach().to("cpu", dtype)
        if source.third is not None:
            thirds.setdefault(prefix + source.key, {})[source.third] = value
            continue
        if source.transposed:
            value = value.T
        if _is_convolution(name, source, value.ndim):
            value = value[:, :, None, None]
        state[prefix + source.key] = value.clone().contiguous()
    for key, parts in thirds.items():
        state[key] = torch.cat([parts[third] for third in range(3)])
    return state


# --- a folder of it ---------------------------------------------------------------------------------------------------

_TOKENIZERS = ("tokenizer", "tokenizer_2")
_INDEX: Mapping[str, tuple[str, str]] = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}


def convert_single_file(path: Path, folder: Path, configs: Path) -> torch.dtype:
    """Make a folder in diffusers' layout of one file; it appears whole or not at all.

    The scheduler is that of `configs`, with the prediction type and zero terminal SNR that the file's markers and
    metadata state.

    Args:
        path: the checkpoint.
        folder: the new folder; it must not exist.
        configs: folder with the configurations, tokenizers and scheduler; it needs no weights.

    Returns:
        The type of the numbers in the new files: bfloat16 where the file's are, else float16.

    Raises:
        RequestError: the folder exists, or the file is of a diffusion process that the scheduler cannot state; and as
            of `load_single_file`.
    """
    if folder.exists():
        raise RequestError(f"{folder}: exists already; name a new folder")
    identity = identify(path)
    scheduler = _scheduler_of(identity, configs)
    dtype = torch.bfloat16 if identity.dtypes[:1] == ("BF16",) else torch.float16
    loaded = load_single_file(path, configs, dtype, torch.device("cpu"))
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "model"
        for name in ("unet", "text_encoder", "text_encoder_2", "vae"):
            loaded.parts[name].save_pretrained(made / name)
        for name in _TOKENIZERS:
            shutil.copytree(configs / name, made / name)
        write_json(made / "scheduler" / "scheduler_config.json", scheduler)
        write_json(made / "model_index.json", _index_of(loaded.parts, scheduler))
        os.replace(made, folder)
    return dtype


def _scheduler_of(identity: CheckpointIdentity, configs: Path) -> dict[str, object]:
    """The scheduler's configuration, with what the checkpoint states of its own training."""
    if identity.variant == "edm":
        raise RequestError(
            f"{identity.path}: a checkpoint of EDM, by its marker tensors; its scheduler has other noise levels than "
            "SDXL's, which the file does not state; take the model's folder in diffusers' layout"
        )
    config: dict[str, object] = dict(read_config(configs / "scheduler" / "scheduler_config.json"))
    said = identity.prediction
    if said is not None and not said.weak:
        if said.type == "flow":
            raise RequestError(
                f"{identity.path}: a checkpoint of rectified flow, by {said.where}; it needs a scheduler of its own; "
                "take the model's folder in diffusers' layout"
            )
        config["prediction_type"] = said.type
    if identity.zero_terminal_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _index_of(parts: Mapping[str, Any], scheduler: Mapping[str, object]) -> dict[str, object]:
    index: dict[str, object] = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    for name, (library, kind) in _INDEX.items():
        index[name] = [library, kind]
    index["vae"] = ["diffusers", type(parts["vae"]).__name__]
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    return index
