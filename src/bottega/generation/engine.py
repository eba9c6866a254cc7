"""One engine for a model: requests in, pictures out.

    engine = open_engine(load_modules("bottega:miniature/weights/sdxl"))
    answer = engine.generate(GenerationRequest(prompt="a red circle", seed=3))

One lock, `Engine.lock`, serialises requests: LoRAs change the modules that all requests share. Text-to-image and
image-to-image are two pipelines around the same modules, so a LoRA that is loaded for one is loaded for both. Every
request gets a scheduler of its own, every picture a generator of its own, so a picture depends on its seed and not on
how many were drawn with it.

Dimensions: B pictures of a batch, C latent channels, h w latent sides, H W picture sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from bottega.generation.checks import NumericTrail, explain_black
from bottega.generation.drawing import NOBODY, Drawing, Drawn, DrawProgress, Observer, Pixels, Step
from bottega.generation.guardrails import advise, resolve, used_loras
from bottega.generation.lora.manager import LoRAManager, free_memory
from bottega.generation.modules import Modules
from bottega.generation.prediction import MeasuredPrediction, Network, measure_prediction_type
from bottega.generation.profiles import choose_profile
from bottega.generation.prompts import PixArtConditions, TextConditions, encode_pixart, encode_sdxl
from bottega.generation.records import (
    Correction,
    GenerationRequest,
    LoRASpec,
    PictureSettings,
    PredictionType,
    Result,
)
from bottega.generation.samplers import SAMPLERS, can_draw, make_scheduler
from bottega.models.decoding import decode
from bottega.models.rehearsal.marker import RANDOM_WEIGHTS
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import sha256_file
from bottega.runtime.findings import Finding

BATCH = 4
"""Pictures that go through the network together on a GPU. On a CPU it is one: a batch gains no speed there, and a
picture drawn alone is the same bit for bit."""

ZERO_SNR_RESCALE = 0.7
"""Guidance rescale of a model with zero terminal SNR where neither request nor profile say one (arXiv 2305.08891)."""


@dataclass
class _Work:
    """One request on its way."""

    settings: PictureSettings
    image: Pixels | None
    drawing: Drawing


Conditions = TypeVar("Conditions", bound=TextConditions | PixArtConditions)


class Engine(ABC, Generic[Conditions]):
    """Draws with one model; a subclass knows its family's pipelines.

    Args:
        modules: of the model; the engine owns them from now on.
        profile: name of the guardrails' profile; None: chosen by the checkpoint.
        batch: pictures that go through the network together; None: 1 on a CPU, else `BATCH`.
        offload: keep each network on the GPU only while it computes, for small memory. The LoRAs go with them.
    """

    def __init__(
        self, modules: Modules, *, profile: str | None = None, batch: int | None = None, offload: bool = False
    ) -> None:
        self.modules = modules
        self.batch = batch or (1 if modules.device.type == "cpu" else BATCH)
        self.loras = LoRAManager(modules.adapted)
        self.lock = self.loras.lock
        self.measured = self._measure()
        self.profile, self.why_profile = choose_profile(
            modules.identity, profile, prediction_type=self.measured.prediction_type
        )
        self._hooks = _offload(modules) if offload else []

    # --- a request ------------------------------------------------------------------------------------------------

    def generate(self, request: GenerationRequest, watch: Observer = NOBODY) -> Drawn:
        """Draw what a request asks for, within the guardrails of the model's profile.

        Args:
            request: fields that are None are the profile's choice.
            watch: progress, pictures one by one, and cancelling.

        Returns:
            The pictures with the settings that were used, and every change to what was asked.

        Raises:
            RequestError: the request cannot be drawn, or the guardrails are strict and would change it.
            PictureError: the picture to start from cannot be read.
            Interrupted: it was cancelled.
            MemoryPressureError: memory was short for even one picture; the engine can be used again.
            NonFiniteError: NaN or infinity where no picture can be made of it.
        """
        image = None if request.image is None else _read_image(request)
        size = None if image is None else (image.width, image.height)
        predicted = self.measured.prediction_type
        resolved, corrections = resolve(request, self.profile, prediction_type=predicted, image_size=size)
        fitting, sampler_corrections = self._with_fitting_sampler(request, resolved)
        settings = self._with_rescale(request, fitting)
        pixels = None
        if image is not None:
            pixels = np.array(image.convert("RGB").resize((settings.width, settings.height), _LANCZOS), np.uint8)
        about = Result(
            settings=settings,
            pictures=(),
            corrections=(*corrections, *sampler_corrections),
            findings=(*self._random(), *self._mislabelled(request)),
            notes=tuple(advise(settings, self.profile)),
            model=self.modules.name,
            model_sha256=self.modules.sha256,
            image_sha256="" if request.image is None else sha256_file(request.image),
        )
        return self._draw(self._work(about, pixels, watch), used_loras(request, self.profile))

    def draw(
        self,
        settings: PictureSettings,
        loras: Sequence[LoRASpec] = (),
        image: Pixels | None = None,
        watch: Observer = NOBODY,
    ) -> Drawn:
        """Draw with settings in which nothing is open, past the guardrails; errors as of `generate`.

        Args:
            settings: all values.
            loras: at work in the picture; others are taken out.
            image: the picture to start from, uint8 [H, W, 3] in the settings' size; None: text to image.
            watch: progress, pictures one by one, and cancelling.
        """
        about = Result(settings=settings, pictures=(), findings=self._random(), model=self.modules.name)
        return self._draw(self._work(about, image, watch), loras)

    def _work(self, about: Result, image: Pixels | None, watch: Observer) -> _Work:
        drawing = Drawing(about, watch, network_in=self.modules.dtype, decoded_in=self.modules.vae.dtype)
        return _Work(about.settings, image, drawing)

    def _draw(self, work: _Work, loras: Sequence[LoRASpec]) -> Drawn:
        self._require_drawable(work.settings, from_picture=work.image is not None)
        with self.lock:
            work.drawing.about = replace(work.drawing.about, loras=self.loras.apply(loras))
            try:
                return self._draw_all(work)
            finally:
                for hook in self._hooks:
                    hook.offload()

    def _draw_all(self, work: _Work) -> Drawn:
        # 1. Encode the prompt once for all pictures.
        with work.drawing.timed("encode"):
            conditions = work.drawing.fit(lambda: self._encode(work.settings), self.loras.forget)
            if not conditions.finite():
                raise NonFiniteError(str(explain_black(NumericTrail(loras_finite=True, text_finite=False))))

        # 2. Denoise batch by batch, decode picture by picture: memory does not grow with the number of pictures.
        return work.drawing.run(
            lambda first, size: self._denoise(work, conditions, first, size),
            lambda latent: [decode(self.modules.vae, latent)],
            batch=self.batch,
            decoded_together=1,
            free=self.loras.forget,
        )

    def _denoise(self, work: _Work, conditions: Conditions, first: int, size: int) -> torch.Tensor:
        settings = work.settings
        scheduler = make_scheduler(
            settings.sampler,
            self.modules.scheduler_config,
            settings.prediction_type,
            zero_terminal_snr=self.zero_terminal_snr(settings.prediction_type),
        )
        # On the CPU: a GPU's generator gives other numbers, so a picture would depend on the device.
        generators = [torch.Generator("cpu").manual_seed(settings.seed + k) for k in range(first, first + size)]
        return self._run_pipeline(work, conditions, scheduler, generators, first)

    # --- what the model is ----------------------------------------------------------------------------------------

    def zero_terminal_snr(self, prediction_type: PredictionType) -> bool:
        """Whether the model's schedule ends without any signal, as its configuration or its file says."""
        if prediction_type != "v_prediction":
            return False  # ε cannot be predicted from a level without signal, and flow has its own schedule
        configured = bool(self.modules.scheduler_config.get("rescale_betas_zero_snr"))
        return configured or bool(self.modules.identity.zero_terminal_snr)

    def _random(self) -> tuple[Finding, ...]:
        """What marks the pictures of a rehearsal, so that none of them is ever taken for a result."""
        return (RANDOM_WEIGHTS,) if self.modules.has_random_weights else ()

    def _mislabelled(self, request: GenerationRequest) -> tuple[Finding, ...]:
        stated = self.modules.identity.prediction
        measured = self.measured
        if stated is None or stated.type == measured.prediction_type:
            return ()
        used = measured.prediction_type if request.prediction_type == "auto" else request.prediction_type
        evidence = (
            f"{stated.where} says {stated.type}, but on pure noise the network's output correlates by "
            f"{measured.correlation:.2f} with its input, as of {measured.prediction_type}; drawn as {used}"
        )
        return (Finding("prediction type mislabelled", evidence, "correct the label, or give --prediction-type"),)

    def _with_fitting_sampler(
        self, request: GenerationRequest, settings: PictureSettings
    ) -> tuple[PictureSettings, tuple[Correction, ...]]:
        """Another sampler where the one chosen cannot draw with this kind of model; only where guardrails correct."""
        zero_snr = self.zero_terminal_snr(settings.prediction_type)
        fits = can_draw(settings.sampler, settings.prediction_type, zero_terminal_snr=zero_snr)
        if fits or request.guardrails != "correct" or settings.sampler not in SAMPLERS:
            return settings, ()
        kind = "zero terminal SNR" if zero_snr else f"prediction type {settings.prediction_type}"
        reason = f"{settings.sampler} cannot draw with {kind}"
        correction = Correction("sampler", request.sampler, "euler", reason)
        return replace(settings, sampler="euler"), (correction,)

    def _with_rescale(self, request: GenerationRequest, settings: PictureSettings) -> PictureSettings:
        """Rescaled guidance for a model with zero terminal SNR, whose pictures guidance would over-expose."""
        left_open = request.guidance_rescale is None and settings.guidance_rescale == 0
        if left_open and self.zero_terminal_snr(settings.prediction_type):
            return replace(settings, guidance_rescale=ZERO_SNR_RESCALE)
        return settings

    def _measure(self) -> MeasuredPrediction:
        """What the network predicts, by one pass with an empty prompt."""
        config = self.modules.network.config
        last = int(self.modules.scheduler_config["num_train_timesteps"]) - 1
        shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
        return measure_prediction_type(
            self._unconditional(), shape, timestep=last, dtype=self.modules.dtype, device=self.modules.device
        )

    def _require_drawable(self, settings: PictureSettings, *, from_picture: bool) -> None:
        """Refuse in words what the family's pipeline would fail at, or leave out in silence."""
        if not from_picture:
            return
        strength = settings.strength or 0.0
        if int(settings.steps * strength) < 1:  # as diffusers counts; it would go on with no step, and no picture
            raise RequestError(
                f"image to image draws at least one step again, received strength {strength:g} of {settings.steps} "
                "steps; raise one of them"
            )

    # --- what a family knows --------------------------------------------------------------------------------------

    @abstractmethod
    def _encode(self, settings: PictureSettings) -> Conditions:
        """What conditions the network, for one picture."""

    @abstractmethod
    def _run_pipeline(
        self, work: _Work, conditions: Conditions, scheduler: Any, generators: list[torch.Generator], first: int
    ) -> torch.Tensor:
        """Latents [B, C, h, w] of the pictures from `first` on, one for each generator."""

    @abstractmethod
    def _unconditional(self) -> Network:
        """The network with empty conditions."""


class SDXLEngine(Engine[TextConditions]):
    """SDXL and its descendants: text to image and image to image."""

    def __init__(self, modules: Modules, **options: Any) -> None:
        from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

        parts = {**modules.parts, "add_watermarker": False}
        self.txt2img = StableDiffusionXLPipeline(**parts)
        self.img2img = StableDiffusionXLImg2ImgPipeline(**parts)
        for pipeline in (self.txt2img, self.img2img):
            pipeline.set_progress_bar_config(disable=True)
        super().__init__(modules, **options)

    def _encode(self, settings: PictureSettings) -> TextConditions:
        return encode_sdxl(
            self.txt2img,
            settings.prompt,
            settings.negative_prompt,
            settings.clip_skip,
            guided=settings.guidance_scale > 1,
            device=self.modules.device,
        )

    def _run_pipeline(
        self, work: _Work, conditions: TextConditions, scheduler: Any, generators: list[torch.Generator], first: int
    ) -> torch.Tensor:
        settings, size = work.settings, len(generators)
        inputs: dict[str, Any] = {"width": settings.width, "height": settings.height}
        pipeline = self.txt2img
        if work.image is not None:
            pipeline = self.img2img
            inputs = {"image": _image_input(work.image, size), "strength": settings.strength}

        def after_step(_: Any, index: int, timestep: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            step = Step(index, pipeline.num_timesteps, float(timestep))
            work.drawing.after_step(first, step, values["latents"])
            return values

        pipeline.scheduler = scheduler
        latents: torch.Tensor = pipeline(
            **conditions.repeated(size),
            **inputs,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            guidance_rescale=settings.guidance_rescale,
            generator=generators,
            output_type="latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents"],
        ).images
        return latents

    def _unconditional(self) -> Network:
        unet, device, dtype = self.modules.network, self.modules.device, self.modules.dtype
        pixels = int(unet.config.sample_size) * self.modules.latent_scale
        pooled_width = int(self.modules.parts["text_encoder_2"].config.projection_dim)
        states_width = int(unet.config.cross_attention_dim)
        size_ids = torch.tensor([pixels, pixels, 0, 0, pixels, pixels], device=device, dtype=dtype)

        def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            added = {
                "text_embeds": torch.zeros(len(x), pooled_width, device=device, dtype=dtype),
                "time_ids": size_ids.repeat(len(x), 1),
            }
            states = torch.zeros(len(x), _TOKENS, states_width, device=device, dtype=dtype)
            predicted: torch.Tensor = unet(x, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample
            return predicted

        return network


class PixArtEngine(Engine[PixArtConditions]):
    """PixArt-α: text to image."""

    def __init__(self, modules: Modules, **options: Any) -> None:
        from diffusers import PixArtAlphaPipeline

        self.txt2img = PixArtAlphaPipeline(**modules.parts)
        self.txt2img.set_progress_bar_config(disable=True)
        super().__init__(modules, **options)

    def _require_drawable(self, settings: PictureSettings, *, from_picture: bool) -> None:
        if from_picture:
            raise RequestError(
                "image to image needs an SDXL model, received PixArt; leave --image out, or use `bottega stylize`"
            )
        if settings.guidance_rescale:
            raise RequestError(
                f"PixArt's pipeline has no rescaled guidance, received guidance_rescale {settings.guidance_rescale:g}; "
                "leave it at 0"
            )

    def _encode(self, settings: PictureSettings) -> PixArtConditions:
        return encode_pixart(
            self.txt2img,
            settings.prompt,
            settings.negative_prompt,
            guided=settings.guidance_scale > 1,
            device=self.modules.device,
        )

    def _run_pipeline(
        self, work: _Work, conditions: PixArtConditions, scheduler: Any, generators: list[torch.Generator], first: int
    ) -> torch.Tensor:
        settings = work.settings

        def after_step(index: int, timestep: Any, latents: torch.Tensor) -> None:
            step = Step(index, len(scheduler.timesteps), float(timestep))
            work.drawing.after_step(first, step, latents)

        self.txt2img.scheduler = scheduler
        latents: torch.Tensor = self.txt2img(
            **conditions.repeated(len(generators)),
            negative_prompt=None,
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=generators,
            output_type="latent",
            use_resolution_binning=False,  # the guardrails chose the sides, and would not be asked again
            callback=after_step,
        ).images
        return latents

    def _unconditional(self) -> Network:
        transformer, device, dtype = self.modules.network, self.modules.device, self.modules.dtype
        width = int(transformer.config.caption_channels)

        def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = transformer(
                x,
                encoder_hidden_states=torch.zeros(len(x), 1, width, device=device, dtype=dtype),
                timestep=timesteps,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
            return output[:, : x.shape[1]]  # the second half is the variance

        return network


def open_engine(
    modules: Modules, *, profile: str | None = None, batch: int | None = None, offload: bool = False
) -> SDXLEngine | PixArtEngine:
    """The engine for a model's family; arguments as of `Engine`."""
    kind = SDXLEngine if modules.family == "sdxl" else PixArtEngine
    return kind(modules, profile=profile, batch=batch, offload=offload)


# --- helpers --------------------------------------------------------------------------------------------------------

_TOKENS = 77
_LANCZOS = 1  # PIL.Image.Resampling.LANCZOS, without importing PIL for it


def _offload(modules: Modules) -> list[Any]:
    """accelerate's hooks, which bring each network to the device when it is called and the one before it back."""
    from accelerate import cpu_offload_with_hook

    order = ("text_encoder", "text_encoder_2", "unet", "transformer", "vae")
    hooks: list[Any] = []
    previous = None
    for name in order:
        if name in modules.parts:
            module = modules.parts[name].to("cpu")
            _, previous = cpu_offload_with_hook(module, modules.device, prev_module_hook=previous)
            hooks.append(previous)
    free_memory()
    return hooks


def _read_image(request: GenerationRequest) -> Any:
    from bottega.data.pictures import open_picture

    assert request.image is not None
    return open_picture(request.image)


def _image_input(image: Pixels, size: int) -> torch.Tensor:
    """uint8 [H, W, 3] -> [B, 3, H, W] in 0..1, which the pipeline maps to -1..1."""
    one = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return one[None].repeat(size, 1, 1, 1)


__all__ = ["DrawProgress", "Drawn", "Engine", "Observer", "PixArtEngine", "Pixels", "SDXLEngine", "open_engine"]
