"""The modules of one model, loaded once and owned in one place.

Text-to-image and image-to-image are two pipelines around the same modules: `Pipeline(**components)`. diffusers'
`from_pipe` would cast shared bfloat16 modules to float32 and double their memory (diffusers #12754, measured).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from bottega.generation.single_file import load_single_file
from bottega.models.hashes import file_hash
from bottega.models.identify import CheckpointIdentity, identify
from bottega.models.layout import weight_files
from bottega.models.libraries import prepare
from bottega.models.loading import (
    PIXART_PARTS,
    choose_device,
    choose_dtype,
    load_diffusers,
    load_pixart_parts,
    load_scheduler,
    load_tokenizer,
    load_transformers,
    load_vae,
    refuse_fp32,
)
from bottega.models.names import resolve
from bottega.models.rehearsal.marker import has_random_weights
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_json

Family = Literal["sdxl", "pixart"]

SDXL_CONFIGS = "stabilityai/stable-diffusion-xl-base-1.0"
"""Whose configuration files and tokenizers a single-file checkpoint borrows; it holds weights alone."""

_TORCH_MODULES = ("unet", "transformer", "text_encoder", "text_encoder_2", "vae")


@dataclass(eq=False)
class Modules:
    """The parts of a model by diffusers' names, and what they came from.

    family: sdxl or pixart. identity: what its headers say. name: as the user gave it. path: the folder or file. parts:
    modules, tokenizers and the scheduler. device: where the networks compute.
    """

    family: Family
    identity: CheckpointIdentity
    name: str
    path: Path
    parts: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    left_aside: Mapping[str, int] = field(default_factory=dict)
    """Tensors of a single file that belong to no part, by kind."""

    has_random_weights: bool = field(init=False)
    """Whether this is a model of a rehearsal, by the headers of its files: what it draws is noise."""

    def __post_init__(self) -> None:
        """Read the headers now: a file may be gone when the first picture is drawn."""
        files = [self.path] if self.path.is_file() else weight_files(self.path)
        self.has_random_weights = has_random_weights(files)

    @property
    def network(self) -> Any:
        """The denoiser: diffusers' UNet2DConditionModel or PixArtTransformer2DModel."""
        return self.parts["unet" if self.family == "sdxl" else "transformer"]

    @property
    def adapted(self) -> Mapping[str, torch.nn.Module]:
        """The components that LoRAs may change."""
        names = ("unet", "text_encoder", "text_encoder_2") if self.family == "sdxl" else ("transformer",)
        return {name: self.parts[name] for name in names}

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.parts["vae"]

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The configuration of the model's own scheduler, for its noise schedule."""
        config: Mapping[str, Any] = self.parts["scheduler"].config
        return config

    @property
    def latent_scale(self) -> int:
        """Pixels a latent cell."""
        blocks = getattr(self.vae.config, "block_out_channels", None) or self.vae.config.decoder_block_out_channels
        return int(2 ** (len(blocks) - 1))

    @cached_property
    def sha256(self) -> str:
        """Of the weights: of the file, or of the list of the files' hashes by name."""
        if self.path.is_file():
            return file_hash(self.path)
        return sha256_json({str(file.relative_to(self.path)): file_hash(file) for file in weight_files(self.path)})


def load_modules(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    vae: str | None = None,
    configs: str | None = None,
    cache: str | None = None,
) -> Modules:
    """Load a model for generation.

    Args:
        name: a diffusers folder, a name in the model cache, `bottega:…`, or a `.safetensors` checkpoint in the
            original key layout.
        device: auto, cpu, cuda, cuda:1 …
        dtype: auto, float32, bfloat16 or float16.
        vae: another autoencoder's folder, such as the one that is safe in float16.
        configs: for a single file: the folder whose configuration and tokenizers it takes; None: SDXL base 1.0 from
            the model cache.
        cache: the model cache, if not the one that the environment names.

    Raises:
        MissingError: it is not on this machine; the message says how to get it.
        RequestError: no model that can generate.
        StorageError: a file is incomplete.
    """
    path = resolve(name, cache=cache)
    identity = identify(path)
    family = _family_of(identity)
    target, kind = choose_device(device), choose_dtype(dtype, device)
    autoencoder = resolve(vae, cache=cache) if vae is not None else None
    prepare()
    left_aside: Mapping[str, int] = {}
    if path.is_file():
        require_sdxl_checkpoint(identity)
        folder = resolve(configs or SDXL_CONFIGS, cache=cache)
        loaded = load_single_file(path, folder, kind, target, autoencoder)
        parts, left_aside = loaded.parts, loaded.left_aside
    else:
        parts = _folder_parts(family, path, kind, autoencoder)
    for part in _TORCH_MODULES:
        if part in parts:
            parts[part].to(target).eval().requires_grad_(False)
    return Modules(family, identity, name, path, parts, target, kind, left_aside)


def _family_of(identity: CheckpointIdentity) -> Family:
    if identity.family in ("sdxl", "pixart"):
        return identity.family
    raise RequestError(
        f"{identity.path}: a model for generation is one of SDXL or PixArt, received one of the family "
        f"{identity.family} ({identity.why}); name another"
    )


def require_sdxl_checkpoint(identity: CheckpointIdentity) -> None:
    """Refuse a single file that is not a whole SDXL in the original key layout."""
    if identity.family != "sdxl" or identity.layout != "original":
        raise RequestError(
            f"{identity.path}: a single file must be a whole checkpoint of SDXL in the original key layout, received "
            f"{identity.family} in the layout `{identity.layout}`; name the model's folder"
        )


def _folder_parts(family: Family, folder: Path, dtype: torch.dtype, vae: Path | None) -> dict[str, Any]:
    if family == "pixart":
        parts = dict(load_pixart_parts(folder, PIXART_PARTS, dtype, "cpu"))
        if vae is not None:
            parts["vae"] = load_vae(vae, dtype)
        return parts
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    refuse_fp32(folder / "unet", dtype)
    return {
        "vae": load_vae(vae or folder / "vae", dtype),
        "text_encoder": load_transformers(CLIPTextModel, folder / "text_encoder", dtype),
        "text_encoder_2": load_transformers(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype),
        "tokenizer": load_tokenizer(folder / "tokenizer"),
        "tokenizer_2": load_tokenizer(folder / "tokenizer_2"),
        "unet": load_diffusers(UNet2DConditionModel, folder / "unet", dtype),
        "scheduler": load_scheduler(folder / "scheduler"),
    }
