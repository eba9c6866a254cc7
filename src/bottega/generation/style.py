"""Pictures in the style of another: PixArt with a StyleAdapter, as an engine.

    engine = StyleEngine(Path("adapter.safetensors"))
    answer = engine.generate(StylizeRequest(content=Path("photo.jpg"), style=Path("painting.jpg")))

As with `engine.Engine`, one lock serialises requests, for the adapter is attached to the transformer that all of them
share; it is detached again however a batch ends. The noise schedule has no state, and every picture's noise comes of
its own seed, so that a picture does not depend on how many are drawn with it. What the drawing itself is stands in
`bottega.student`; here is what a person needs around it.

Dimensions: B pictures of a batch, C latent channels, h w latent sides, S pixels a side, D CLIP's width.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from cachetools import LRUCache

from bottega.data.pictures import load_square
from bottega.generation.drawing import NOBODY, Drawing, Drawn, Observer, Step
from bottega.generation.lora.manager import free_memory
from bottega.generation.records import Correction, PictureSettings, PredictionType, Result, StyleUse, StylizeRequest
from bottega.models.config import ModelsConfig
from bottega.models.decoding import Decoded, decode_batch
from bottega.models.loading import choose_device, choose_dtype, load_pixart_parts, locate
from bottega.models.rehearsal.marker import RANDOM_WEIGHTS, rehearsed_roles
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_file, sha256_json
from bottega.student import inference
from bottega.student.backbone import read_schedule
from bottega.student.config import SamplingConfig
from bottega.student.encode import TextEncoder, load_clip, sizes
from bottega.student.export import check_weights, load_adapter, sampling_of
from bottega.student.inference import PixArtParts, StylizeInputs, draw_latents, load_parts, start_timestep
from bottega.visual.pictures import to_uint8

if TYPE_CHECKING:
    from bottega.models.encoders import ClipEncoder
    from bottega.student.adapter import StyleAdapter
    from bottega.student.records import AdapterHeader
    from bottega.student.sampler import AfterStep

LOGGER = logging.getLogger(__name__)

BATCH = 4
"""Pictures that go through the network together on a GPU; on a CPU it is one."""

PROFILE = "style_adapter"
"""In place of a profile's name in the settings: the adapter itself says what it is drawn with."""

_DECODED_ON_CPU = 4
"""Pictures that are decoded together on a CPU, whose caches they fit into: 16 at a time took a quarter longer."""

_RELIEF = "end what else holds memory there, or draw on the CPU (--device cpu)"
_PROMPTS = 64  # whose text states are kept: a caption's are 1 MB at most

Origin = Literal["picture", "noise", "drawn by the base"]


@dataclass(frozen=True)
class _Text:
    """T5 states of a prompt and of the empty one, [m, P], and what of the prompt was read."""

    states: torch.Tensor
    null: torch.Tensor
    read: str


@dataclass(frozen=True)
class _StylePlan:
    """A request with nothing left open."""

    settings: PictureSettings
    sampling: SamplingConfig
    start: int
    """The first timestep."""
    origin: Origin
    corrections: tuple[Correction, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Beginning:
    """What the drawing of a batch begins from: latents [B, C, h, w] and the content's embedding [B, D]."""

    latents: torch.Tensor
    clip: torch.Tensor


@dataclass
class _Sources:
    """The pictures of a request as CLIP sees them, and the content as one batch of 1; None: there is no picture."""

    style: torch.Tensor
    caption: torch.Tensor
    content: _Beginning | None = field(default=None)


class StyleEngine:
    """Draws with PixArt and one StyleAdapter.

    Models are loaded when they are first needed, so that T5, which is read and freed for each new prompt, and the
    transformer need not be in memory together.

    Args:
        adapter: the adapter's file.
        models: where PixArt and CLIP are, if not where the adapter's header says; a model with other weights than the
            adapter was trained with is refused.
        with_adapter: False: the frozen base draws, from the same noise at the same strength; the control of every
            comparison.
        batch: pictures that go through the network together; None: 1 on a CPU, else `BATCH`.
        judged: look at each picture; see `Drawing`.

    Raises:
        MissingError: the adapter or a model is absent.
        RequestError: they do not belong together.
    """

    def __init__(
        self,
        adapter: Path,
        models: ModelsConfig | None = None,
        *,
        with_adapter: bool = True,
        batch: int | None = None,
        judged: bool = True,
    ) -> None:
        self.file = adapter
        self.trained, self.header = load_adapter(adapter)
        self.models = _models(models or ModelsConfig(), self.header)
        self.pixart, self.clip_folder = locate(self.models, "pixart"), locate(self.models, "clip")
        # With other weights than its own an adapter still draws, and nothing shows that the pictures are worthless.
        check_weights(self.header, self.pixart, self.clip_folder, adapter.name)
        self.size = sizes(self.pixart)["pixels"]
        self.schedule = read_schedule(load_pixart_parts(self.pixart, ("scheduler",))["scheduler"])
        self.batch = batch or (1 if choose_device(self.models.device).type == "cpu" else BATCH)
        self.dtype = choose_dtype(self.models.dtype, self.models.device)
        self.lock = threading.RLock()
        self._with_adapter, self._judged = with_adapter, judged
        self._texts: LRUCache[str, _Text] = LRUCache(_PROMPTS)

    @property
    def adapter(self) -> StyleAdapter | None:
        """The adapter that draws; None: the base draws."""
        return self.trained if self._with_adapter else None

    @cached_property
    def parts(self) -> PixArtParts:
        """The frozen models."""
        return load_parts(self.pixart, dtype=self.models.dtype, device=self.models.device)

    @cached_property
    def clip(self) -> ClipEncoder:
        """CLIP in float32."""
        encoder: ClipEncoder = load_clip(self.clip_folder, self.models.device)
        return encoder

    def text_encoder(self) -> TextEncoder:
        """T5 as the adapter was trained with it, in memory for as long as the caller holds it."""
        return TextEncoder(self.pixart, self.header["text_tokens"], self.models.dtype, self.models.device)

    # --- a request ------------------------------------------------------------------------------------------------

    def generate(self, request: StylizeRequest, watch: Observer = NOBODY) -> Drawn:
        """Draw a content, or what the prompt says, in the style of a picture.

        Without a content the prompt alone says what to draw. An adapter of the mode `sdedit` then begins with noise, in
        as many steps and with the guidance that the base draws with. One of another mode was trained to paint over a
        content, so the frozen base draws that first, by the prompt (`draw_content`).

        Args:
            request: fields that are None are the adapter's choice.
            watch: progress, pictures one by one, and cancelling.

        Returns:
            The pictures with the settings that were used, and every change to what was asked.

        Raises:
            RequestError: neither content nor prompt, or settings that the adapter was not trained for.
            PictureError: a picture cannot be read.
            Interrupted: it was cancelled.
            MemoryPressureError: memory was short for even one picture; the engine can be used again.
            NonFiniteError: NaN or infinity where no picture can be made of it.
        """
        plan = self._plan(request)
        style = load_square(request.style, self.size)[None]  # [1, S, S, 3]
        content = None if request.content is None else load_square(request.content, self.size)[None]
        drawing = Drawing(
            self._about(request, plan),
            watch,
            network_in=self.dtype,
            judged=self._judged,
            relief=_RELIEF,
        )
        with self.lock:
            # 1. What conditions the drawing; T5 is freed before the transformer is loaded.
            with drawing.timed("encode"):
                text = drawing.fit(lambda: self._text(request.prompt), free_memory)
                if text.read != request.prompt:
                    drawing.about = replace(
                        drawing.about, corrections=(*plan.corrections, self._shortened(request.prompt, text))
                    )
                sources = drawing.fit(lambda: self._sources(style, content, request.style_caption), free_memory)

            # 2. The pictures.
            def denoise(first: int, size: int) -> torch.Tensor:
                return self._denoise(drawing, plan, text, sources, slice(first, first + size))

            return drawing.run(denoise, self._decode, batch=self.batch, free=free_memory)

    def draw(self, inputs: StylizeInputs, seeds: Sequence[int], watch: Observer = NOBODY) -> Drawn:
        """Draw N pictures in one batch from what is encoded already, as the adapter's header says to draw.

        Args:
            inputs: of the N pictures.
            seeds: one a picture.
            watch: progress, pictures one by one, and cancelling.

        Raises:
            MemoryPressureError, NonFiniteError, Interrupted: as of `generate`.
        """
        sampling = sampling_of(self.header, str(self.file))
        start = start_timestep(self.schedule, self.trained, None)
        settings = replace(self._settings("", sampling, start), seed=seeds[0], count=len(seeds))
        about = Result(settings=settings, pictures=(), model=str(self.models.pixart))
        with self.lock:
            drawing = Drawing(about, watch, seeds=seeds, network_in=self.dtype, judged=self._judged, relief=_RELIEF)

            def denoise(first: int, size: int) -> torch.Tensor:
                batch = slice(first, first + size)
                return self._latents(inputs.part(batch), seeds[batch], start, sampling, _watched(drawing, first))

            on_cpu = choose_device(self.models.device).type == "cpu"
            together = _DECODED_ON_CPU if on_cpu else len(seeds)
            return drawing.run(denoise, self._decode, batch=len(seeds), decoded_together=together, free=free_memory)

    def _denoise(
        self, drawing: Drawing, plan: _StylePlan, text: _Text, sources: _Sources, batch: slice
    ) -> torch.Tensor:
        seeds = drawing.seeds[batch]
        size = len(seeds)
        before = min(inference.CONTENT_STEPS, self.schedule.timesteps) if plan.origin == "drawn by the base" else 0
        if plan.origin == "drawn by the base":
            watched = _watched(drawing, batch.start, after=plan.settings.steps)
            beginning = self._imagined(text, seeds, watched)
        elif sources.content is not None:
            beginning = _Beginning(_repeated(sources.content.latents, size), _repeated(sources.content.clip, size))
        else:
            beginning = _Beginning(self.parts.blank_latents(size), torch.zeros(size, self.clip.width))
        inputs = StylizeInputs(
            beginning.latents,
            _repeated(sources.style, size),
            beginning.clip,
            [text.states] * size,
            text.null,
            _repeated(sources.caption, size),
        )
        return self._latents(inputs, seeds, plan.start, plan.sampling, _watched(drawing, batch.start, before=before))

    def _latents(
        self, inputs: StylizeInputs, seeds: Sequence[int], start: int, sampling: SamplingConfig, after_step: AfterStep
    ) -> torch.Tensor:
        return draw_latents(self.parts, self.adapter, inputs, seeds, start, sampling, after_step)

    @torch.no_grad()
    def _imagined(self, text: _Text, seeds: Sequence[int], after_step: AfterStep) -> _Beginning:
        """The contents that the frozen base draws by the prompt alone."""
        drawn = inference.draw_content(self.parts, [text.states] * len(seeds), text.null, seeds, after_step)
        return self._beginning(to_uint8(drawn))

    def _decode(self, latents: torch.Tensor) -> list[Decoded]:
        """The autoencoder is in float32 from the start, so that there is nothing to try again."""
        vae = self.parts.vae
        return decode_batch(vae.vae, latents.to(vae.device))

    # --- what conditions ------------------------------------------------------------------------------------------

    def _text(self, prompt: str) -> _Text:
        if prompt not in self._texts:
            encoder = self.text_encoder()
            states, null = encoder.encode([prompt, ""])
            self._texts[prompt] = _Text(states, null, encoder.read(prompt))
        return self._texts[prompt]

    def _sources(self, style: npt.NDArray[np.uint8], content: npt.NDArray[np.uint8] | None, caption: str) -> _Sources:
        features = self.clip.patches(style) if self.trained.reads_patches else self.clip.image(style)
        shown = torch.from_numpy(self.clip.text([caption])) if caption else torch.zeros(1, self.clip.width)
        beginning = None if content is None else self._beginning(content)
        return _Sources(torch.from_numpy(features), shown, beginning)

    def _beginning(self, pictures: npt.NDArray[np.uint8]) -> _Beginning:
        return _Beginning(self.parts.vae.encode(pictures), torch.from_numpy(self.clip.image(pictures)))

    # --- what is used, and what differs from what was asked ---------------------------------------------------------

    def _plan(self, request: StylizeRequest) -> _StylePlan:
        origin = self._origin(request)
        steps, text_guidance, strength = request.steps, request.text_guidance, request.strength
        if origin == "noise":
            steps = inference.CONTENT_STEPS if steps is None else steps
            text_guidance = inference.CONTENT_GUIDANCE if text_guidance is None else text_guidance
            strength = _full_strength(strength)
        sampling = sampling_of(
            self.header,
            "stylize",
            steps=steps,
            style_scale=request.style_scale,
            text_guidance=text_guidance,
            style_guidance=request.style_guidance,
        )
        start = start_timestep(self.schedule, self.trained, strength)
        settings = replace(
            self._settings(request.prompt, sampling, start),
            seed=request.seed,
            count=request.count,
            strength=None if origin == "noise" else self.schedule.strength(start),
        )
        corrections: list[Correction] = []
        if strength is not None and origin != "noise" and strength != settings.strength:
            reason = f"the model has {self.schedule.timesteps} timesteps, and one of them is the first"
            corrections.append(Correction("strength", strength, settings.strength, reason))
        if sampling.steps != settings.steps:
            reason = f"there are no more timesteps at strength {self.schedule.strength(start):g}"
            corrections.append(Correction("steps", sampling.steps, settings.steps, reason))
        return _StylePlan(settings, sampling, start, origin, tuple(corrections), tuple(self._notes(request)))

    def _origin(self, request: StylizeRequest) -> Origin:
        if request.content is not None:
            return "picture"
        if not request.prompt.strip():
            raise RequestError(
                "something must say what to draw, received neither a content nor a prompt; give one of them"
            )
        return "noise" if self.trained.config.content_mode == "sdedit" else "drawn by the base"

    def _settings(self, prompt: str, sampling: SamplingConfig, start: int) -> PictureSettings:
        return PictureSettings(
            prompt=prompt,
            negative_prompt="",
            width=self.size,
            height=self.size,
            steps=len(self.schedule.sampling_timesteps(start, sampling.steps)),
            guidance_scale=sampling.text_guidance,
            guidance_rescale=0.0,
            sampler="ddim",
            seed=0,
            count=1,
            clip_skip=1,
            strength=self.schedule.strength(start),
            prediction_type=_PREDICTION_TYPES[self.schedule.prediction_type],
            profile=PROFILE,
        )

    def _notes(self, request: StylizeRequest) -> list[str]:
        notes: list[str] = []
        for name, path in (("content", request.content), ("style", request.style)):
            width, height = (0, 0) if path is None else _sides(path)
            if width != height:
                notes.append(f"{name}: of {width} x {height} pixels the square in the middle is used")
        takes_out = self.trained.config.scene_removal != "none"
        if request.style_caption and not takes_out:
            notes.append("this adapter takes nothing out of the style, so the style's caption changes nothing")
        if takes_out and not request.style_caption:
            LOGGER.warning("the adapter takes what a style picture shows out of its style; say it with --style-caption")
        return notes

    def _shortened(self, prompt: str, text: _Text) -> Correction:
        reason = f"the adapter was trained with the first {self.header['text_tokens']} tokens of a prompt"
        return Correction("prompt", prompt, text.read, reason)

    def _about(self, request: StylizeRequest, plan: _StylePlan) -> Result:
        use = StyleUse(
            adapter=self.file.stem,
            adapter_sha256=sha256_file(self.file),
            style_sha256=sha256_file(request.style),
            style_caption=request.style_caption,
            style_scale=plan.sampling.style_scale,
            style_guidance=plan.sampling.style_guidance,
            content=plan.origin,
        )
        return Result(
            settings=plan.settings,
            pictures=(),
            corrections=plan.corrections,
            notes=plan.notes,
            model=str(self.models.pixart),
            model_sha256=sha256_json(self.header["model_hashes"]),
            image_sha256="" if request.content is None else sha256_file(request.content),
            findings=(RANDOM_WEIGHTS,) if self._is_rehearsal() else (),
            style=use,
        )

    def _is_rehearsal(self) -> bool:
        """Whether any of the weights are random: of the models, or of those that the adapter was trained on."""
        return bool(self.header.get("random_weights") or rehearsed_roles(self.models, ("pixart", "clip")))


# --- helpers --------------------------------------------------------------------------------------------------------

_PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow",
}


def _models(models: ModelsConfig, header: AdapterHeader) -> ModelsConfig:
    """The models as asked for, else as the adapter's header names them."""
    update: dict[str, object] = {}
    for role, name in header["models"].items():
        chosen = getattr(models, role) or name
        if chosen is None:
            raise RequestError(f"the adapter's header does not say where its {role} is; name it with --{role}")
        update[role] = chosen
    return models.model_copy(update=update)


def _full_strength(strength: float | None) -> float:
    """The strength of a picture that begins with noise."""
    if strength is not None and strength != 1.0:
        raise RequestError(f"strength says how much of a content is redrawn, received {strength:g} and no content")
    return 1.0


def _sides(path: Path) -> tuple[int, int]:
    """Width and height as the file's header has them."""
    from bottega.data.pictures import read_kind
    from bottega.runtime.errors import PictureError

    try:
        kind = read_kind(path)
    except PictureError:
        return 0, 0  # reading it says why
    return kind.width, kind.height


def _repeated(values: torch.Tensor, count: int) -> torch.Tensor:
    """[1, …] -> [count, …]."""
    if count == 1:  # a copy lies in memory in another order, on which the last bits of a convolution depend
        return values
    return values.repeat(count, *[1] * (values.ndim - 1))


def _watched(drawing: Drawing, first: int, *, before: int = 0, after: int = 0) -> AfterStep:
    """Reports to the drawing each step of the batch that begins with picture `first`.

    before, after: steps of other passes over the same pictures.
    """

    def after_step(index: int, total: int, timestep: int, latents: torch.Tensor) -> None:
        drawing.after_step(first, Step(before + index, before + total + after, float(timestep)), latents)

    return after_step
