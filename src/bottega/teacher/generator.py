"""The real teacher: `StableDiffusionXLImg2ImgPipeline` with an IP-Adapter, called on what was encoded once.

Dimensions: B items, 4 latent channels, h x w latent cells, H x W pixels, D width of a picture embedding.

What a picture depends on: its content, style, prompt, settings and its own noise, drawn on the CPU from
`Item.noise_seed`. The content's latent is the posterior's mode, not a draw from it, so that it is encoded once for
all seeds and retries and the generator serves the noise alone. Decoding happens here and not in the pipeline, whose
clamp would turn an infinite value into a white one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from bottega.runtime.errors import RequestError
from bottega.teacher import protocol as ddim
from bottega.teacher.config import Protocol
from bottega.teacher.items import FloatPicture, Item, Picture, Settings

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

_CAPACITY = (
    512  # of each cache; a style embedding takes kilobytes, a latent at 512 px 64 KB, a caption's embeddings 1 MB
)


class Bounded:
    """A cache of the values computed last: at most `capacity`, the one unused for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value under `key`, computed where it is not there."""
        if key not in self._values:
            self._values[key] = compute()
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


class Generator:
    """Makes targets by a protocol.

    Args:
        pipeline: `StableDiffusionXLImg2ImgPipeline` with one IP-Adapter loaded, on its device in its dtype; its
            scheduler is replaced by the protocol's DDIM.
        protocol: settings of items that carry none, and the size that all pictures have.

    Raises:
        RequestError: the size does not fit the autoencoder, or its latents have not 4 channels.
    """

    def __init__(self, pipeline: Any, protocol: Protocol, *, capacity: int = _CAPACITY) -> None:
        ddim.pin(pipeline)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.watermark = None  # a target is training data
        if pipeline.vae.config.latent_channels != 4:
            raise RequestError(
                "SDXL's latents have 4 channels, received an autoencoder with "
                f"{pipeline.vae.config.latent_channels}; use SDXL's own"
            )
        if protocol.size % pipeline.vae_scale_factor:
            raise RequestError(
                f"teacher.size must be a multiple of {pipeline.vae_scale_factor} for this autoencoder, received "
                f"{protocol.size}"
            )
        self.pipeline = pipeline
        self.protocol = protocol
        self._latents, self._styles, self._texts, self._trips = (Bounded(capacity) for _ in range(4))

    @torch.no_grad()
    def generate(self, items: Sequence[Item]) -> list[FloatPicture]:
        """A picture for each item, float32 [H, W, 3], clamped to 0..1 where finite; NaN and infinite values are left
        in.

        Items of one call that share their settings go through the U-Net together; a picture does not depend on that
        beyond ±1/255.
        """
        groups: dict[Any, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(self._settings(item).effective, []).append(i)
        pictures: dict[int, FloatPicture] = {}
        for members in groups.values():
            made = self._group([items[i] for i in members])
            pictures.update(zip(members, made, strict=True))
        return [pictures[i] for i in range(len(items))]

    @torch.no_grad()
    def round_trip(self, item: Item) -> Picture | None:
        """The item's content after the autoencoder alone, uint8 [H, W, 3]; None where that is not finite."""

        def compute() -> Picture | None:
            picture = self._decode(self._latent(item))[0]
            return np.rint(picture * 255).astype(np.uint8) if np.isfinite(picture).all() else None

        kept: Picture | None = self._trips.get(item.keys[0], compute)
        return kept

    def effective(self, settings: Settings) -> dict[str, Any]:
        """Schedule, precision and device of a try with these settings."""
        return {
            **ddim.schedule(settings.steps, settings.strength),
            "dtype": str(self.pipeline.unet.dtype).removeprefix("torch."),
            "device": self.pipeline.device.type,
        }

    def _settings(self, item: Item) -> Settings:
        return item.settings or Settings.of(self.protocol)

    def _group(self, items: list[Item]) -> list[FloatPicture]:
        settings = self._settings(items[0])
        self.pipeline.set_ip_adapter_scale(settings.ip_adapter_scale)
        guided = settings.guidance_scale > 1
        text, negative, pooled, negative_pooled = (
            torch.cat(rows) for rows in zip(*(self._text(item.prompt) for item in items), strict=True)
        )
        styles = torch.stack([self._style(item) for item in items], 1).flatten(
            0, 1
        )  # [2, B, 1, D] -> negative rows, then positive: [2 B, 1, D]
        with self._rows_as_given():
            latents = self.pipeline(
                image=torch.cat([self._latent(item) for item in items]),  # [B, 4, h, w]
                strength=settings.strength,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=[torch.Generator("cpu").manual_seed(item.noise_seed) for item in items],
                prompt_embeds=text,
                pooled_prompt_embeds=pooled,
                negative_prompt_embeds=negative if guided else None,
                negative_pooled_prompt_embeds=negative_pooled if guided else None,
                ip_adapter_image_embeds=[styles if guided else styles[len(items) :]],
                output_type="latent",
            ).images
        return self._decode(latents)

    @contextmanager
    def _rows_as_given(self) -> Iterator[None]:
        """Let the pipeline take picture embeddings row by row.

        As it stands it repeats what it is given once for each item of the batch, so that a batch could only have one
        style.
        """

        def as_given(
            _image: Any, embeds: list[torch.Tensor], device: Any, _repeats: int, _guided: bool
        ) -> list[torch.Tensor]:
            return [rows.to(device) for rows in embeds]

        self.pipeline.prepare_ip_adapter_image_embeds = as_given  # on the instance: hides the class's method
        try:
            yield
        finally:
            del self.pipeline.prepare_ip_adapter_image_embeds

    # --- encoded once -----------------------------------------------------------------------------------------------

    def _latent(self, item: Item) -> torch.Tensor:
        """The content's scaled latent [1, 4, h, w] in the U-Net's dtype."""
        kept: torch.Tensor = self._latents.get(item.keys[0], lambda: self._encode(item.content))
        return kept

    def _encode(self, picture: Picture) -> torch.Tensor:
        size = self.protocol.size
        if picture.shape != (size, size, 3):
            raise RequestError(
                f"a content must be a square of teacher.size = {size} px, received {picture.shape}; use load_square"
            )
        vae, dtype = self.pipeline.vae, self.pipeline.unet.dtype
        scaled = torch.from_numpy(picture.astype(np.float32) / 255)  # [H, W, 3]
        pixels = scaled.permute(2, 0, 1)[None] * 2 - 1  # [1, 3, H, W] in -1..1
        with _upcast(vae):
            encoded = vae.encode(pixels.to(self.pipeline.device, vae.dtype))
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        mean, std = self._statistics(latent)
        scaled_latent: torch.Tensor = (latent.float() - mean) * vae.config.scaling_factor / std
        return scaled_latent.to(dtype)

    def _decode(self, latents: torch.Tensor) -> list[FloatPicture]:
        """Scaled latents [B, 4, h, w] -> B pictures, float32 [H, W, 3] in 0..1, values that are not finite left in."""
        vae = self.pipeline.vae
        mean, std = self._statistics(latents)
        with _upcast(vae):
            pixels = vae.decode(
                (latents.float() * std / vae.config.scaling_factor + mean).to(vae.dtype), return_dict=False
            )[0]
        pixels = pixels.float() * 0.5 + 0.5  # [B, 3, H, W]
        pixels = torch.where(pixels.isfinite(), pixels.clamp(0, 1), pixels)
        return [picture.permute(1, 2, 0).contiguous().cpu().numpy() for picture in pixels]

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents a channel, [1, 4, 1, 1]; 0 and 1 for most SDXL autoencoders."""
        config = self.pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            mean, std = [0.0] * 4, [1.0] * 4
        return tuple(torch.tensor(v, dtype=torch.float32, device=like.device).view(1, 4, 1, 1) for v in (mean, std))  # type: ignore[return-value]

    def _style(self, item: Item) -> torch.Tensor:
        """The style picture's embeddings [2, 1, ...]: negative half, positive half."""

        def compute() -> torch.Tensor:
            rows: list[torch.Tensor] = self.pipeline.prepare_ip_adapter_image_embeds(
                [Image.fromarray(item.style)], None, self.pipeline.device, 1, True
            )
            return rows[0]

        kept: torch.Tensor = self._styles.get(item.keys[1], compute)
        return kept

    def _text(self, prompt: str) -> tuple[torch.Tensor, ...]:
        """Token states, negative token states, pooled, negative pooled; each with one row."""

        def compute() -> tuple[torch.Tensor, ...]:
            rows: tuple[torch.Tensor, ...] = self.pipeline.encode_prompt(
                prompt, device=self.pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=True
            )
            return rows

        kept: tuple[torch.Tensor, ...] = self._texts.get(prompt, compute)
        return kept


@contextmanager
def _upcast(vae: Any) -> Iterator[None]:
    """Run SDXL's autoencoder in fp32 where its weights are fp16 and its configuration says that it overflows there."""
    needed = vae.dtype == torch.float16 and vae.config.force_upcast
    if needed:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if needed:
            vae.to(torch.float16)


def load_generator(models: ModelsConfig, protocol: Protocol) -> Generator:
    """Load the teacher's models from this machine and make a generator.

    Raises:
        MissingError: weights are not there; the message says how to get them.
    """
    from bottega.models.loading import load_teacher_pipeline, locate

    autoencoder = locate(models, "sdxl_vae") if models.sdxl_vae is not None else None
    places = locate(models, "sdxl"), locate(models, "ip_adapter")
    pipeline = load_teacher_pipeline(*places, dtype=models.dtype, device=models.device, vae=autoencoder)
    return Generator(pipeline, protocol)
