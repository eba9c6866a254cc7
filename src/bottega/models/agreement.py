"""Does a model mean what the work will do with it? Read from configurations and headers, before any work. No torch.

A folder can be whole and still be another model than its layout says: EDM and flow in SDXL's folders, whose noise
levels the teacher's DDIM does not have; a configuration for other weights; a text encoder of another width. Every
library loads these, and what comes out is noise, or an error after hours.

*Faults* make a model unusable here. *Cautions* are printed, and the work may begin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.diffusion.schedule import CHECKPOINT_PREDICTION_TYPES, from_scheduler_config
from bottega.models import checkpoint_keys as keys
from bottega.models.identify import prediction_hint
from bottega.models.weights import TensorInfo, find_weights, read_config, read_header, read_headers
from bottega.runtime.errors import BottegaError, RequestError

Config = Mapping[str, Any]
Tensors = Mapping[str, TensorInfo]

_SDXL_BETAS: Mapping[str, object] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "trained_betas": None,
}
"""The noise levels that the teacher samples with, whatever a folder says; `teacher.protocol` pins them."""

_FLOW = ("flow", "flow_prediction", "flow_matching", "velocity", "rectified_flow")
_DISTILLED = ("LCMScheduler", "TCDScheduler")
_CLIP_PREFIX = "text_model."
_BLOCK = re.compile(r"(?:text_model\.)?(?:transformer_blocks|encoder\.block|encoder\.layers|down_blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Agreement:
    """What a model's parts say against each other and against the work."""

    faults: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """One network of a pipeline: its folder, its configuration and the shapes of its weights."""

    folder: Path
    config: Config
    tensors: Tensors

    def number(self, field: str) -> int | None:
        """A whole number of the configuration; None where it says none, so that a default of the library holds."""
        value = self.config.get(field)
        return value if type(value) is int else None


@dataclass(frozen=True)
class _Claim:
    """A field of a configuration, and the axis of the tensor that must be as long."""

    field: str
    tensor: str
    axis: int


_CLAIMS: Mapping[str, tuple[_Claim, ...]] = {
    "unet": (
        _Claim("in_channels", "conv_in.weight", 1),
        _Claim("out_channels", "conv_out.weight", 0),
        _Claim("projection_class_embeddings_input_dim", "add_embedding.linear_1.weight", 1),
    ),
    "transformer": (
        _Claim("in_channels", "pos_embed.proj.weight", 1),
        _Claim("patch_size", "pos_embed.proj.weight", 2),
        _Claim("caption_channels", "caption_projection.linear_1.weight", 1),
        _Claim("cross_attention_dim", "transformer_blocks.0.attn2.to_k.weight", 1),
    ),
    "text_encoder": (
        _Claim("d_model", "shared.weight", 1),
        _Claim("hidden_size", "embeddings.token_embedding.weight", 1),
        _Claim("max_position_embeddings", "embeddings.position_embedding.weight", 0),
    ),
    "text_encoder_2": (
        _Claim("hidden_size", "embeddings.token_embedding.weight", 1),
        _Claim("projection_dim", "text_projection.weight", 0),
    ),
    "vae": (
        _Claim("latent_channels", "decoder.conv_in.weight", 1),
        _Claim("latent_channels", "decoder.layers.0.weight", 1),
    ),
}

_REPEATED: Mapping[str, tuple[str, ...]] = {
    "unet": ("down_block_types",),
    "transformer": ("num_layers",),
    "text_encoder": ("num_layers", "num_hidden_layers"),
    "text_encoder_2": ("num_hidden_layers",),
}
"""The field that counts a part's like blocks: a number, or a list with an entry for each."""

_SIZE_EMBEDDERS = ("adaln_single.emb.resolution_embedder.", "adaln_single.emb.aspect_ratio_embedder.")
_SIDE_WITH_EMBEDDERS = 128  # diffusers gives PixArt-α these embedders where `sample_size` is this and nothing else said


def sdxl_agreement(folder: Path, vae: Path | None = None) -> Agreement:
    """What is wrong with a folder as the teacher, though every file of it is whole.

    Args:
        folder: in the layout of StableDiffusionXLPipeline.
        vae: the folder of another autoencoder, which is used in place of the folder's own.
    """
    parts = _read_parts(folder, ("unet", "text_encoder", "text_encoder_2"))
    parts["vae"] = _read_part(vae or folder / "vae")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    faults = _family_faults(parts["unet"], folder)
    if not faults:
        faults = [*_claim_faults(parts), *_sdxl_widths(parts)]
    faults += teacher_scheduler_faults(folder, scheduler)
    return Agreement(tuple(faults), tuple(_teacher_cautions(folder, scheduler)))


def pixart_agreement(folder: Path) -> Agreement:
    """What is wrong with a folder as the student's base, though every file of it is whole; as of `sdxl_agreement`."""
    parts = _read_parts(folder, ("transformer", "text_encoder", "vae"))
    faults = [*_claim_faults(parts), *_embedder_faults(parts["transformer"]), *_pixart_widths(parts)]
    faults += _base_scheduler_faults(folder)
    return Agreement(tuple(faults))


def size_cautions(folder: Path, pixels: int) -> list[str]:
    """A base that draws larger pictures than the targets it learns from: the model for 1024 in place of that for 512.

    Args:
        folder: in the layout of PixArtAlphaPipeline, whose files are known to be whole.
        pixels: of a target's side.
    """
    transformer, vae = read_config(folder / "transformer" / "config.json"), read_config(folder / "vae" / "config.json")
    blocks = vae.get("block_out_channels") or vae.get("decoder_block_out_channels")
    cells = transformer.get("sample_size")
    if not isinstance(blocks, list) or type(cells) is not int:
        return []
    side = cells * 2 ** (len(blocks) - 1)
    if side <= pixels:
        return []
    return [
        f"{folder}: draws pictures of {side} px by transformer/config.json, and targets are {pixels} px "
        f"(teacher.size): they would be enlarged, and each step costs {(side / pixels) ** 2:.0f} times as much; name "
        f"the model for {pixels} px, such as PixArt-alpha/PixArt-XL-2-512x512 for 512, or set teacher.size={side}"
    ]


def precision_cautions(role: str, files: Iterable[Path]) -> list[str]:
    """Weights in float32 where those in float16 are meant: twice the download, the disk and the time to read.

    Args:
        role: as in the section `models`.
        files: of weights, known to be whole.
    """
    found = []
    for file in files:
        header = read_header(file)
        wide = sum(math.prod(tensor.shape) for tensor in header.tensors.values() if tensor.dtype == "F32")
        is_named_16 = any(f".{variant}." in file.name or f".{variant}-" in file.name for variant in ("fp16", "bf16"))
        if is_named_16 and wide > _FEW_WIDE:
            found.append(
                f"{file}: named as weights of 16 bits, and {wide / 1e6:.0f} million of its numbers are float32; they "
                "are rounded when they are loaded; fetch the file again, or rename it"
            )
        elif role == "sdxl" and wide > _LARGE:
            found.append(
                f"{file}: {wide * 4 / 1e9:.1f} GB of float32 weights, which run in 16 bits: twice the disk and the "
                "time to load for the same pictures; put the .fp16. files there in their place: bottega models fetch "
                "stabilityai/stable-diffusion-xl-base-1.0"
            )
    return found


_FEW_WIDE = 1_000_000
"""Numbers in float32 that a file of 16 bits may hold: norms are kept wide by some."""

_LARGE = 500_000_000
"""Numbers of a network of full size: SDXL's U-Net and second text encoder; the autoencoder is often kept wide."""


def require_teacher(folder: Path) -> list[str]:
    """Refuse an SDXL that the teacher would sample wrongly; returns the cautions.

    Raises:
        RequestError: its noise levels or its prediction are not those that the teacher samples.
    """
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    faults = teacher_scheduler_faults(folder, scheduler)
    if faults:
        raise RequestError(faults[0])
    return _teacher_cautions(folder, scheduler)


# --- noise levels and prediction ------------------------------------------------------------------------------------


def teacher_scheduler_faults(folder: Path, scheduler: Config) -> list[str]:
    """Why a model of this scheduler cannot be the teacher; nothing where it can."""
    foreign = foreign_process(scheduler)
    if foreign is None:
        return []
    return [
        f"{folder}: a model of {foreign}, by scheduler/scheduler_config.json; the teacher samples ε, v or x_0 at the "
        "noise levels of SDXL base, and would draw noise with it; name another SDXL, or draw with this one alone, by "
        "`bottega generate --model`"
    ]


def foreign_process(scheduler: Config) -> str | None:
    """Another diffusion process than that of betas, in words; None for one of betas.

    Args:
        scheduler: its configuration, `_class_name` with it.
    """
    name = str(scheduler.get("_class_name", ""))
    prediction = str(scheduler.get("prediction_type", "epsilon"))
    if "FlowMatch" in name or scheduler.get("use_flow_sigmas") or prediction in _FLOW:
        return f"rectified flow ({_said(name, prediction)})"
    if name.startswith("EDM") or scheduler.get("sigma_data") is not None:
        return f"EDM ({_said(name, prediction)})"
    if scheduler.get("timestep_type") == "continuous":
        return f"continuous noise levels, as EDM's ({_said(name, prediction)})"
    if prediction not in CHECKPOINT_PREDICTION_TYPES:
        return f"an unknown prediction ({_said(name, prediction)})"
    return None


def _said(name: str, prediction: str) -> str:
    return f"{name or 'no class'}, prediction_type {prediction}"


def _teacher_cautions(folder: Path, scheduler: Config) -> list[str]:
    """What of a scheduler the teacher does not do, and a picture may show."""
    found = []
    if scheduler.get("rescale_betas_zero_snr"):
        found.append(
            f"{folder}: its scheduler says zero terminal SNR (rescale_betas_zero_snr), which the teacher's protocol "
            "drops: it samples at the noise levels of SDXL base, and this model learned others; colours and contrast "
            "may be off; look at some targets first (bottega teach --limit 20), or name another SDXL"
        )
    other = [
        f"{field} {scheduler[field]!r} ({value!r})"
        for field, value in _SDXL_BETAS.items()
        if field in scheduler and scheduler[field] != value
    ]
    if other:
        found.append(
            f"{folder}: its scheduler says {', '.join(other)}; the teacher samples with the values in brackets, and a "
            "model that learned others receives wrong noise levels; look at some targets first (bottega teach "
            "--limit 20), or name another SDXL"
        )
    if scheduler.get("_class_name") in _DISTILLED:
        found.append(
            f"{folder}: its scheduler is {scheduler['_class_name']}, that of a model distilled to a few steps without "
            "guidance; the teacher takes 25 with guidance, which burns the colours of such a model; name the model "
            "that it was distilled from"
        )
    found += _contradicted_by_name(folder, scheduler)
    return found


def _contradicted_by_name(folder: Path, scheduler: Config) -> list[str]:
    """A name that says another prediction than the scheduler, which the teacher follows."""
    said = str(scheduler.get("prediction_type", "epsilon"))
    hint = prediction_hint(folder)
    if hint is None or hint.type == said or said not in ("epsilon", "v_prediction"):
        return []
    return [
        f"{folder}: by {hint.where}, it predicts {hint.type}, its scheduler says {said}, and the teacher follows the "
        f"scheduler; measure which is right (bottega doctor model {folder})"
    ]


def _base_scheduler_faults(folder: Path) -> list[str]:
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    foreign = foreign_process(scheduler)
    if foreign is not None:
        return [
            f"{folder}: a model of {foreign}, by scheduler/scheduler_config.json; the student trains on a noise "
            "schedule of betas; name a PixArt-α, such as PixArt-alpha/PixArt-XL-2-512x512"
        ]
    try:
        from_scheduler_config(scheduler, name=f"{folder}/scheduler")
    except RequestError as error:
        return [str(error)]
    return []


# --- configuration against weights ----------------------------------------------------------------------------------


def _read_parts(folder: Path, names: tuple[str, ...]) -> dict[str, _Part]:
    return {name: _read_part(folder / name) for name in names}


def _read_part(folder: Path) -> _Part:
    tensors = read_headers(find_weights(folder).files)
    # transformers 5 dropped the prefix of CLIP's text model; published files have it.
    plain = {name.removeprefix(_CLIP_PREFIX): info for name, info in tensors.items()}
    return _Part(folder, read_config(folder / "config.json"), plain)


def _family_faults(unet: _Part, folder: Path) -> list[str]:
    """Another U-Net in SDXL's folders; one that is not recognised is left to those who know more."""
    denoiser = keys.describe_denoiser(unet.tensors, ("text_encoder", "text_encoder_2"))
    if denoiser is None or (denoiser.family == "sdxl" and not denoiser.variant):
        return []
    kind = f"{denoiser.family} {denoiser.variant}".strip()
    return [f"{folder}: its U-Net is of another kind, {kind} ({denoiser.why}); the teacher needs a plain SDXL"]


def _claim_faults(parts: Mapping[str, _Part]) -> list[str]:
    """Numbers of configurations that the weights contradict."""
    faults = []
    for name, part in parts.items():
        for claim in _CLAIMS[name]:
            said, stored = part.number(claim.field), _length(part.tensors, claim.tensor, claim.axis)
            if said is not None and stored is not None and said != stored:
                faults.append(_contradiction(part, f"{claim.field} {said}", f"{stored} ({claim.tensor})"))
        faults += _count_faults(name, part)
    return faults


def _count_faults(name: str, part: _Part) -> list[str]:
    for field in _REPEATED.get(name, ()):
        said = part.config.get(field)
        count = len(said) if isinstance(said, list) else part.number(field)
        stored = _blocks(part.tensors)
        if count is not None and stored and count != stored:
            return [_contradiction(part, f"{count} blocks ({field})", str(stored))]
    return []


def _blocks(tensors: Tensors) -> int:
    """Blocks of the part itself, not those inside another block."""
    numbers = set()
    for name in tensors:
        match = _BLOCK.match(name)
        if match is not None:
            numbers.add(match[1])
    return len(numbers)


def _length(tensors: Tensors, name: str, axis: int) -> int | None:
    info = tensors.get(name)
    return info.shape[axis] if info is not None and len(info.shape) > axis else None


def _contradiction(part: _Part, said: str, stored: str) -> str:
    return (
        f"{part.folder}: config.json says {said}, the weights have {stored}: configuration and weights are of two "
        "models; take both from one repository"
    )


def _embedder_faults(transformer: _Part) -> list[str]:
    """Embedders of a picture's size, which the PixArt for 1024 pixels alone has: asked for and absent, or unused."""
    stated = transformer.config.get("use_additional_conditions")
    wanted = transformer.number("sample_size") == _SIDE_WITH_EMBEDDERS if stated is None else bool(stated)
    held = any(name.startswith(_SIZE_EMBEDDERS) for name in transformer.tensors)
    if wanted == held:
        return []
    said = "use_additional_conditions" if stated is not None else f"sample_size {transformer.config.get('sample_size')}"
    if held:
        return [_contradiction(transformer, f"{said}: no embedders of size", "such embedders (…resolution_embedder)")]
    return [_contradiction(transformer, f"{said}: embedders of size and aspect", "no such embedders")]


# --- part against part ----------------------------------------------------------------------------------------------


def _sdxl_widths(parts: Mapping[str, _Part]) -> list[str]:
    unet, first, second = parts["unet"], parts["text_encoder"], parts["text_encoder_2"]
    faults = _latent_faults(unet, parts["vae"])
    widths = (first.number("hidden_size"), second.number("hidden_size"))
    reads = unet.number("cross_attention_dim")
    if None not in (*widths, reads) and sum(width or 0 for width in widths) != reads:
        faults.append(
            f"{unet.folder}: reads text states {reads} wide, the text encoders give {widths[0]} + {widths[1]}; take "
            "all parts from one repository"
        )
    return faults


def _pixart_widths(parts: Mapping[str, _Part]) -> list[str]:
    transformer, text = parts["transformer"], parts["text_encoder"]
    faults = _latent_faults(transformer, parts["vae"])
    reads, gives = transformer.number("caption_channels"), text.number("d_model")
    if None not in (reads, gives) and reads != gives:
        faults.append(
            f"{transformer.folder}: reads text states {reads} wide, {text.folder} gives {gives}; take all parts from "
            "one repository"
        )
    return faults


def _latent_faults(denoiser: _Part, vae: _Part) -> list[str]:
    reads, gives = denoiser.number("in_channels"), vae.number("latent_channels")
    if reads is None or gives is None or reads == gives:
        return []
    return [
        f"{vae.folder}: gives latents of {gives} channels, {denoiser.folder} reads {reads}; name the autoencoder that "
        "the model was trained with"
    ]


def agreement_of(role: str, folder: Path, vae: Path | None = None) -> Agreement:
    """The agreement of a role's model; nothing to say of roles that are no pipeline.

    Args:
        role: as in the section `models`.
        folder: of the model, whose files are known to be whole.
        vae: see `sdxl_agreement`.
    """
    try:
        if role == "sdxl":
            return sdxl_agreement(folder, vae)
        if role == "pixart":
            return pixart_agreement(folder)
    except BottegaError as error:
        return Agreement((str(error),))
    return Agreement()
