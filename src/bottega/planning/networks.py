"""The networks of a recipe by their configurations: those on this machine, else those that are published.

A network is built on torch's device `meta`, so that its parameters take no memory. Where a model's folder is here, its
`config.json` counts; of a model that is not, the configuration of the published repository.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.models import ip_adapter
from bottega.models.layout import locate
from bottega.models.libraries import prepare
from bottega.models.names import hub_name
from bottega.models.rehearsal import configurations
from bottega.models.weights import read_config, read_header
from bottega.runtime.errors import BottegaError, MissingError, RequestError

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

Configuration = Mapping[str, object]
IMAGE_TOKENS = 4
"""Tokens that a plain IP-Adapter makes of a picture."""


@dataclass(frozen=True)
class Place:
    """Where one network's configuration is: `part` is its folder within the model's, empty for the model itself."""

    role: str
    part: str
    kind: str
    published: Callable[[], Configuration]


_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_PLACES: Mapping[str, Place] = {
    "unet": Place("sdxl", "unet", "UNet2DConditionModel", lambda: configurations.sdxl_unet("full")),
    "text_encoder": Place("sdxl", "text_encoder", "CLIPTextModel", lambda: configurations.sdxl_text("full")),
    "text_encoder_2": Place(
        "sdxl", "text_encoder_2", "CLIPTextModelWithProjection", lambda: configurations.sdxl_second_text("full")
    ),
    "sdxl_vae": Place("sdxl", "vae", "AutoencoderKL", lambda: configurations.sdxl_vae("full")),
    "image_encoder": Place("ip_adapter", "", "CLIPVisionModelWithProjection", lambda: configurations.vit_bigg("full")),
    "transformer": Place(
        "pixart", "transformer", "PixArtTransformer2DModel", lambda: configurations.pixart_transformer("full")
    ),
    "t5": Place("pixart", "text_encoder", "T5EncoderModel", lambda: configurations.t5_encoder("full")),
    "pixart_vae": Place("pixart", "vae", "AutoencoderKL", lambda: configurations.pixart_vae("full")),
    "clip": Place("clip", "", "CLIPModel", lambda: configurations.clip("full")),
    "structure_encoder": Place("structure_encoder", "", "ViTModel", lambda: configurations.dino("full")),
}
_REPOSITORIES = {
    "sdxl": _SDXL,
    "ip_adapter": "h94/IP-Adapter",
    "pixart": "PixArt-alpha/PixArt-XL-2-512x512",
    "clip": "openai/clip-vit-large-patch14",
    "structure_encoder": "facebook/dino-vitb8",
}
"""The repositories whose configurations are known without their files."""


class PlannedNetworks:
    """The networks that a recipe's models consist of.

    Args:
        models: the recipe's section.
    """

    def __init__(self, models: ModelsConfig) -> None:
        self.models = models
        self._configs: dict[str, Configuration] = {}
        self._built: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def names(self, role: str) -> bool:
        """Whether the recipe names a model for this role."""
        return getattr(self.models, role) is not None

    def config(self, name: str) -> Configuration:
        """The configuration of a network.

        Raises:
            MissingError: its model is neither on this machine nor one that is known.
        """
        if name not in self._configs:
            self._configs[name] = self._read(name)
        return self._configs[name]

    def module(self, name: str, dtype: str = "bfloat16") -> Any:
        """The network on the device `meta`, frozen."""
        import torch

        if name not in self._built:
            self._built[name] = _build(_PLACES[name].kind, self.config(name))
        # torch's own `to`: diffusers' warns at each cast that layers may be meant to stay in float32.
        return torch.nn.Module.to(self._built[name], getattr(torch, dtype)).requires_grad_(False)

    def count(self, name: str) -> int:
        """How many parameters a network has."""
        if name not in self._counts:
            module = self.module(name)
            self._counts[name] = sum(parameter.numel() for parameter in module.parameters())
        return self._counts[name]

    def counts(self) -> dict[str, int]:
        """Parameters of every network that was looked at, by name, and of the IP-Adapter."""
        return {**self._counts, "ip_adapter": self.ip_adapter_count}

    def bytes(self, name: str, dtype: str) -> int:
        """Bytes of a network's weights as they are held in this dtype."""
        size = WIDTH[dtype] * self.count(name)
        if name == "t5" and dtype == "float16":
            # transformers keeps T5's last projection of each block in float32, where float16 overflows.
            size += 2 * self._kept_in_float32
        return size

    @cached_property
    def _kept_in_float32(self) -> int:
        config = self.config("t5")
        return whole(config, "num_layers") * whole(config, "d_ff") * whole(config, "d_model")

    @cached_property
    def ip_adapter_count(self) -> int:
        """Parameters of the IP-Adapter: of its file, else as the U-Net's attention layers ask for."""
        try:
            file = ip_adapter.adapter_file(locate(self.models, "ip_adapter"))
            return sum(math.prod(tensor.shape) for tensor in read_header(file).tensors.values())
        except MissingError:
            pass
        total = 0
        cross = 0
        for name, parameter in self.module("unet").named_parameters():
            if name.endswith("attn2.to_k.weight"):
                total += 2 * parameter.numel()
                cross = parameter.shape[1]
        width = whole(self.config("image_encoder"), "projection_dim")
        return total + IMAGE_TOKENS * cross * (width + 1) + 2 * cross

    def _read(self, name: str) -> Configuration:
        place = _PLACES[name]
        try:
            folder = self._folder(place)
        except MissingError as absent:
            return self._published(name, absent)
        return read_config(folder / "config.json")

    def _folder(self, place: Place) -> Path:
        if place.role == "ip_adapter":
            return ip_adapter.encoder_folder(ip_adapter.adapter_file(locate(self.models, "ip_adapter")))
        if place.part == "vae" and place.role == "sdxl" and self.models.sdxl_vae is not None:
            return locate(self.models, "sdxl_vae")
        return locate(self.models, place.role) / place.part

    def _published(self, name: str, absent: MissingError) -> Configuration:
        place = _PLACES[name]
        named = getattr(self.models, place.role)
        known = None if named is None else hub_name(named)
        if known is None or known.repository != _REPOSITORIES[place.role]:
            raise absent
        if place.role == "ip_adapter" and "vit-h" in named:
            return configurations.vit_h("full")
        return place.published()


WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


def _build(kind: str, config: Configuration) -> Any:
    import torch

    prepare()
    try:
        with torch.device("meta"):
            module = _of_class(kind, dict(config))
    except (BottegaError, MemoryError):
        raise
    except Exception as error:
        raise RequestError(f"config.json must describe a {kind}, received one that makes none: {error}") from error
    return module.to("meta").eval()


def _of_class(kind: str, config: dict[str, object]) -> Any:
    import diffusers
    import transformers

    if kind == "AutoencoderKL":
        kind = str(config.get("_class_name", kind))
    if hasattr(diffusers, kind):
        chosen = getattr(diffusers, kind)
        known = inspect.signature(chosen.__init__).parameters
        return chosen.from_config({key: value for key, value in config.items() if key in known})
    chosen = getattr(transformers, kind)
    options = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    return chosen(chosen.config_class.from_dict(config), **options)


def whole(config: Configuration, name: str) -> int:
    """A whole number of a configuration.

    Raises:
        RequestError: it is absent or another kind of value.
    """
    value = config.get(name)
    if not isinstance(value, int):
        raise RequestError(f"config.json: {name} must be a whole number, received {value!r}; take the published file")
    return value
