"""The real teacher: `StableDiffusionXLImg2ImgPipeline` with an IP-Adapter, in three stages: encode, denoise, finish.

Dimensions: B items, 4 latent channels, h x w latent cells, H x W pixels, D width of a picture embedding.

`encode` computes each style's embedding, each prompt's and each content's latent once and keeps them on the CPU; the
encoders are at work only there, and leave the GPU after it where memory is short. `denoise` runs the U-Net alone.
`finish` decodes; another thread calls it while the next items are denoised, on the GPU in a stream of its own.

What a picture depends on: its content, style, prompt, settings and its own noise, drawn on the CPU from
`Item.noise_seed`. The content's latent is the posterior's mode, not a draw from it, so that it is encoded once for
all seeds and retries and the generator serves the noise alone. Each picture is encoded and decoded alone; encoded in
fp32 always, as diffusers does it for SDXL (`bottega.models.encoding`). Decoding happens here and not in the pipeline,
whose clamp would turn an infinite value into a white one: a picture with a latent or a value that is not finite is
decoded again in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import torch
from cachetools import LRUCache
from PIL import Image

from bottega.models.decoding import decode
from bottega.models.encoding import encode
from bottega.runtime import memory
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.teacher import protocol as ddim
from bottega.teacher.config import Protocol
from bottega.teacher.items import Facts, Item, Made, Settings
from bottega.visual.pictures import FloatPicture, Picture, to_signed, to_uint8

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig

_CAPACITY = 256  # of each cache; a style embedding takes kilobytes, a latent at 512 px 64 KB, a caption's states 0.6 MB
_ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder")
_ROOM = 0.5  # share of the GPU's memory in use, above which the encoders leave the GPU between windows


@dataclass(frozen=True, eq=False)
class Latent:
    """A denoised latent [1, 4, h, w] on its device, the moment from which another stream may read it, and which of its
    inputs were not finite.
    """

    values: torch.Tensor
    ready: Any = None
    faults: Facts = field(default_factory=Facts)


class _Conditioning(TypedDict):
    """The pipeline's inputs from prompts and styles; the negative ones are there with guidance only."""

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    ip_adapter_image_embeds: list[torch.Tensor]
    negative_prompt_embeds: NotRequired[torch.Tensor]
    negative_pooled_prompt_embeds: NotRequired[torch.Tensor]


class Generator:
    """Makes targets by a protocol.

    Args:
        pipeline: `StableDiffusionXLImg2ImgPipeline` with one IP-Adapter loaded, on its device in its dtype; its
            scheduler is replaced by the protocol's. Its encoders are taken out of it while they are not at work.
        protocol: settings of items that carry none, the sampler, and the size that all pictures have.
        upcast_vae: decode in fp32 too; None: where the autoencoder's weights are fp16 and its configuration says that
            it overflows there.
        low_vram: the encoders leave the GPU whenever they are not at work. The autoencoder does not work in tiles:
            SDXL's would begin above 1024 px, and tiles make other pictures.

    Raises:
        RequestError: the size does not fit the autoencoder, or its latents have not 4 channels.
    """

    def __init__(
        self,
        pipeline: Any,
        protocol: Protocol,
        *,
        upcast_vae: bool | None = None,
        low_vram: bool = False,
        capacity: int = _CAPACITY,
    ) -> None:
        # A model folder's own scheduler may start img2img at another noise level, without any error.
        ddim.pin(pipeline, protocol.sampler)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.watermark = None  # a target is training data: the student would learn the watermark
        _check_autoencoder(pipeline, protocol.size)
        self.pipeline, self.protocol = pipeline, protocol
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        vae = pipeline.vae
        if upcast_vae or (upcast_vae is None and vae.dtype == torch.float16 and vae.config.force_upcast):
            vae.to(torch.float32)
        # Two threads share the autoencoder, which decoding may cast to fp32 for a moment. Neither of the two locks is
        # taken while the other is held.
        self._vae_lock = Lock()
        self._low_vram = low_vram
        self._encoders = {name: getattr(pipeline, name) for name in _ENCODERS}
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._latents: LRUCache[str, torch.Tensor] = LRUCache(capacity)
        self._styles: LRUCache[str, torch.Tensor] = LRUCache(capacity)
        self._texts: LRUCache[str, tuple[torch.Tensor, torch.Tensor]] = LRUCache(capacity)
        self._trips: LRUCache[str, Picture | None] = LRUCache(capacity)
        self._cache_lock = Lock()  # contents are looked up by both threads; never held while anything is computed
        self._no_text: tuple[torch.Tensor, torch.Tensor] | None = None
        self._take_out_encoders()

    def generate(self, items: Sequence[Item], batch: int | None = None) -> list[FloatPicture]:
        """A picture for each item, float32 [H, W, 3], clamped to 0..1 where finite; NaN and infinite values are left
        in.

        Items that share their settings go through the U-Net together, at most `batch` of them; a picture does not
        depend on that beyond ±1/255.
        """
        self.encode(items)
        latents = self.denoise(items, batch or len(items))
        return [made.picture for made in self.finish(items, latents)]

    @torch.no_grad()
    def encode(self, items: Sequence[Item]) -> None:
        """Compute and keep what is not known yet of the items' styles, prompts and contents, each alone."""
        with self._encoders_at_work(items):
            for item in items:
                self._style(item)
                self._text(item.prompt)
                self._latent(item)

    @torch.no_grad()
    def denoise(self, items: Sequence[Item], batch: int) -> list[Latent]:
        """Run the U-Net: a latent for each item. What `encode` did not see is encoded now."""
        self.encode(items)
        # By what the sampler makes of the settings: strengths that round to the same steps share a batch.
        groups: dict[Any, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(self._settings(item).effective, []).append(i)
        latents: dict[int, Latent] = {}
        for members in groups.values():
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                denoised = self._group([items[i] for i in part])
                latents.update(zip(part, denoised, strict=True))
        return [latents[i] for i in range(len(items))]

    @torch.no_grad()
    def finish(self, items: Sequence[Item], latents: Sequence[Latent]) -> list[Made]:
        """Decode, each latent alone; where a value is not finite, again in fp32."""
        with self._own_stream():
            return [self._finish(latent) for latent in latents]

    def _finish(self, latent: Latent) -> Made:
        # Wait for the U-Net's stream, and tell the allocator that this stream reads the latent: else its memory could
        # be given to the next chunk while it is being decoded.
        if latent.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(latent.ready)
            latent.values.record_stream(torch.cuda.current_stream(self.device))
        with self._vae_lock:
            decoded = decode(self.pipeline.vae, latent.values)
        return Made(
            decoded.pixels,
            {
                **latent.faults,
                "latents_finite": decoded.finite_latents,
                "decode_dtype": decoded.dtype,
                "decoded_again": decoded.again,
            },
        )

    @torch.no_grad()
    def round_trip(self, item: Item) -> Picture | None:
        """The item's content after the autoencoder alone, uint8 [H, W, 3]; None where that is not finite."""

        def compute() -> Picture | None:
            with self._own_stream():
                picture = self._finish(Latent(self._latent(item).to(self.device))).picture
            try:
                return to_uint8(picture)
            except NonFiniteError:
                return None

        return get_or_compute(self._trips, item.keys[0], compute, lock=self._cache_lock)

    def parameters(self, settings: Settings) -> Mapping[str, object]:
        """Settings, schedule, precision and device of a try."""
        return {
            **asdict(settings),
            **ddim.schedule(settings.steps, settings.strength, self.protocol.sampler),
            "sampler": self.protocol.sampler,
            "protocol": self.protocol.name,
            "dtype": _name(self.dtype),
            "encode_dtype": "float32",
            "device": self.device.type,
        }

    def _settings(self, item: Item) -> Settings:
        return item.settings or Settings.of(self.protocol)

    def _group(self, items: list[Item]) -> list[Latent]:
        """Denoise items that share their settings, all at once."""
        settings = self._settings(items[0])
        self.pipeline.set_ip_adapter_scale(settings.ip_adapter_scale)
        # On the CPU: a GPU's generator gives other numbers, so a target would depend on the device.
        noise = [torch.Generator("cpu").manual_seed(item.noise_seed) for item in items]
        with self._rows_as_given():
            latents = self.pipeline(
                image=self._rows([self._latent(item) for item in items]),  # [B, 4, h, w]
                strength=settings.strength,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=noise,
                **self._conditioning(items, guided=settings.guidance_scale > 1),
                output_type="latent",
            ).images
        ready = None
        if self._stream is not None:
            ready = torch.cuda.current_stream(self.device).record_event()
        return [Latent(one, ready, self._faults(item)) for one, item in zip(latents.split(1), items, strict=True)]

    def _faults(self, item: Item) -> Facts:
        """The share of finite values of each input of which not all are: the U-Net makes NaN of them, and is not the
        cause.
        """
        content = _finite_share(self._latent(item))
        style = _finite_share(self._style(item))
        text = min(_finite_share(part) for part in self._text(item.prompt))
        faults: Facts = {}
        if content < 1:
            faults["content_finite"] = content
        if style < 1:
            faults["style_finite"] = style
        if text < 1:
            faults["text_finite"] = text
        return faults

    def _conditioning(self, items: list[Item], *, guided: bool) -> _Conditioning:
        """A row an item; without guidance no negative rows."""
        texts = [self._text(item.prompt) for item in items]
        all_states, all_pooled = zip(*texts, strict=True)
        styles = torch.stack([self._style(item) for item in items], 1)  # [2, B, 1, D]
        rows = styles.flatten(0, 1)  # negative rows, then positive: [2 B, 1, D]
        if not guided:
            rows = rows[len(items) :]
        conditioning: _Conditioning = {
            "prompt_embeds": self._rows(all_states),
            "pooled_prompt_embeds": self._rows(all_pooled),
            "ip_adapter_image_embeds": [rows],
        }
        if guided:
            states, pooled = self._without_text()
            conditioning["negative_prompt_embeds"] = self._rows([states] * len(items))
            conditioning["negative_pooled_prompt_embeds"] = self._rows([pooled] * len(items))
        return conditioning

    def _rows(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(rows)).to(self.device)

    def _own_stream(self) -> AbstractContextManager[Any]:
        """The stream in which pictures are decoded; on the CPU nothing."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    @contextmanager
    def _rows_as_given(self) -> Iterator[None]:
        """Let the pipeline take picture embeddings row by row."""
        # By itself it repeats what it is given once for each item of the batch, so that a batch could only have one
        # style.

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

    @contextmanager
    def _encoders_at_work(self, items: Sequence[Item]) -> Iterator[None]:
        """The encoders back in the pipeline, on its device, unless all is known."""
        known = (
            (self._styles, [item.keys[1] for item in items]),
            (self._texts, [item.prompt for item in items]),
            (self._latents, [item.keys[0] for item in items]),
        )
        with self._cache_lock:  # `get` also marks what is asked for as used: it must still be there when it is
            all_known = all(cache.get(key) is not None for cache, keys in known for key in keys)
        if all_known:
            yield
            return
        for name, encoder in self._encoders.items():
            setattr(self.pipeline, name, encoder.to(self.device))
        try:
            yield
        finally:
            self._take_out_encoders()

    def _take_out_encoders(self) -> None:
        """Out of the pipeline, which would call the first one's device its own, and off a GPU that they fill."""
        leave = self.device.type == "cuda" and (self._low_vram or memory.load().vram > _ROOM)
        for name, encoder in self._encoders.items():
            setattr(self.pipeline, name, None)
            if leave:
                encoder.to("cpu")
        if leave:
            memory.trim()

    def _latent(self, item: Item) -> torch.Tensor:
        """The content's scaled latent [1, 4, h, w] in the U-Net's dtype, on the CPU."""
        return get_or_compute(self._latents, item.keys[0], lambda: self._encode(item.content), lock=self._cache_lock)

    def _encode(self, picture: Picture) -> torch.Tensor:
        size = self.protocol.size
        if picture.shape != (size, size, 3):
            raise RequestError(
                f"a content must be a square of teacher.size = {size} px, received {picture.shape}; use load_square"
            )
        # Contiguous: with channels last the autoencoder's convolutions round differently, in the last bit.
        pixels = to_signed(picture[None]).contiguous()  # [1, 3, H, W] in -1..1
        with self._vae_lock:  # the other thread decodes, and encoding casts the autoencoder to fp32 for a moment
            return encode(self.pipeline.vae, pixels.to(self.device)).to(self.dtype)

    def _style(self, item: Item) -> torch.Tensor:
        """The style picture's embeddings [2, 1, ...]: negative half, positive half; on the CPU."""

        def compute() -> torch.Tensor:
            rows: list[torch.Tensor] = self.pipeline.prepare_ip_adapter_image_embeds(
                [Image.fromarray(item.style)], None, self.device, 1, True
            )
            return rows[0].cpu()

        return get_or_compute(self._styles, item.keys[1], compute, lock=self._cache_lock)

    def _text(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states and pooled, each with one row; on the CPU."""

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            rows: tuple[torch.Tensor, ...] = self.pipeline.encode_prompt(
                prompt, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=self._no_text is None
            )
            states, no_states, pooled, no_pooled = rows
            if self._no_text is None:
                self._no_text = (no_states.cpu(), no_pooled.cpu())
            return states.cpu(), pooled.cpu()

        return get_or_compute(self._texts, prompt, compute, lock=self._cache_lock)

    def _without_text(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of no prompt, which guidance moves away from; known as soon as any prompt is."""
        assert self._no_text is not None  # `_text` was called before
        return self._no_text


def _check_autoencoder(pipeline: Any, size: int) -> None:
    channels = pipeline.vae.config.latent_channels
    if channels != 4:
        raise RequestError(f"SDXL's latents have 4 channels, received an autoencoder with {channels}; use SDXL's own")
    if size % pipeline.vae_scale_factor:
        raise RequestError(
            f"teacher.size must be a multiple of {pipeline.vae_scale_factor} for this autoencoder, received {size}"
        )


def _finite_share(values: torch.Tensor) -> float:
    return float(values.isfinite().float().mean())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_generator(models: ModelsConfig, config: TeacherConfig) -> Generator:
    """Load the teacher's models from this machine and make a generator.

    Raises:
        MissingError: weights are not there; the message says how to get them.
        RequestError: models that don't belong together, or fp32 asked for networks of full size.
    """
    from bottega.models.loading import load_teacher_pipeline, locate

    autoencoder = locate(models, "sdxl_vae") if models.sdxl_vae is not None else None
    places = locate(models, "sdxl"), locate(models, "ip_adapter")
    # Not in `channels_last`: it takes 10 % off a batch of 8, but costs a single picture 15 % (docs/log.md, seventh
    # session).
    pipeline = load_teacher_pipeline(*places, dtype=models.dtype, device=models.device, vae=autoencoder)
    if pipeline.device.type == "cpu":
        memory.keep_heap()  # takes 15 % off the U-Net's time (likewise)
    capacity = max(_CAPACITY, 2 * config.chunk)
    return Generator(pipeline, config, upcast_vae=config.upcast_vae, low_vram=config.low_vram, capacity=capacity)
