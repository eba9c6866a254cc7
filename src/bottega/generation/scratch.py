"""Pictures with a model that `bottega train ldm` made: an engine with the interface of `engine.Engine`, and PNG files.

    engine = load_engine(EngineOptions(model="runs/coloured_circles"))
    answer = engine.generate(GenerationRequest(prompt="orange circle with teal background", seed=3))

The profile `ldm` is made to fit the run: its own recipe says the size, the steps, the guidance and the sampler that it
was judged with. How it is drawn stands in `bottega.ldm.drawing`; a picture's noise comes of its seed alone.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bottega.diffusion.sampling import StepStatistics
from bottega.generation.drawing import NOBODY, Drawing, Drawn, Observer, Pixels, Step
from bottega.generation.file_names import file_stem, six_digits
from bottega.generation.guardrails import advise, resolve
from bottega.generation.lora.manager import free_memory
from bottega.generation.metadata import infotext
from bottega.generation.metadata.ours import CHUNK, PARAMETERS
from bottega.generation.profiles import Profile, choose_profile
from bottega.generation.records import GenerationRequest, PictureSettings, PredictionType, Result
from bottega.ldm.checkpoint import Trained, open_trained
from bottega.ldm.checks import UNGUIDED, check_request, overridden
from bottega.ldm.config import LDMSamplingConfig
from bottega.ldm.drawing import BATCH, draw_latents
from bottega.models.decoding import Decoded
from bottega.models.identify import identify
from bottega.runtime.errors import RequestError
from bottega.runtime.files import require_folder, sha256_file, sha256_json, write_png
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress

LOGGER = logging.getLogger(__name__)

SAMPLERS = {"ddim": "ddim", "ddpm": "ddpm", "dpmpp_2m": "dpmsolver++"}
"""Samplers by the engine's names, and by those of a recipe."""

_NAMES = {scheduler: name for name, scheduler in SAMPLERS.items()}
_PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow",
}
_RELIEF = "end what else holds memory there, or draw on the CPU (--device cpu)"


class ScratchEngine:
    """Draws with one trained model; requests are drawn one after the other, under one lock.

    Args:
        trained: the model with all that drawing needs; the engine owns it from now on.
        name: of the model as the user gave it; empty: the checkpoint's folder.
        profile: name of the guardrails' profile; None: `ldm`. Either is made to fit the run.
        batch: pictures that go through the network together in `generate`; None: 1 on a CPU, else `BATCH`.
    """

    def __init__(
        self, trained: Trained, *, name: str = "", profile: str | None = None, batch: int | None = None
    ) -> None:
        self.trained = trained
        self.name = name or str(trained.folder)
        self.lock = threading.RLock()
        device = next(trained.model.parameters()).device
        self.batch = batch or (1 if device.type == "cpu" else BATCH)
        self.prediction_type = _PREDICTION_TYPES[trained.recipe.diffusion.prediction_type]
        chosen, self.why_profile = choose_profile(identify(trained.folder), profile)
        self.profile = _fitted(chosen, trained)

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's weights."""
        files = sorted(self.trained.folder.glob("*.safetensors"))
        return sha256_json({file.name: sha256_file(file) for file in files})

    def generate(self, request: GenerationRequest, watch: Observer = NOBODY) -> Drawn:
        """Draw what a request asks for, within the guardrails of the model's profile.

        Args:
            request: fields that are None are the choice of the recipe.
            watch: progress, pictures one by one, and cancelling.

        Returns:
            The pictures with the settings that were used, and every change to what was asked.

        Raises:
            RequestError: the request cannot be drawn, or the guardrails are strict and would change it.
            Interrupted: it was cancelled.
            MemoryPressureError: memory was short for even one picture; the engine can be used again.
            NonFiniteError: NaN or infinity where no picture can be made of it.
        """
        self._require_own(request)
        settings, corrections = resolve(request, self.profile, prediction_type=self.prediction_type)
        recipe = self.trained.recipe
        config = overridden(
            recipe.sampling,
            {
                "steps": settings.steps,
                "guidance_scale": settings.guidance_scale,
                # None for the recipe's own, to which its eta belongs.
                "scheduler": _changed(self._scheduler(settings.sampler), str(recipe.sampling.scheduler)),
            },
        )
        about = Result(
            settings=settings,
            pictures=(),
            corrections=tuple(corrections),
            notes=(*advise(settings, self.profile), *((UNGUIDED,) if settings.guidance_scale == 0 else ())),
            model=self.name,
            model_sha256=self.sha256,
        )
        drawing = Drawing(about, watch, exact=True, relief=_RELIEF)
        return self._draw(drawing, [request.prompt] * request.count, config, self.batch)

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: LDMSamplingConfig,
        watch: Observer = NOBODY,
        on_step: Callable[[StepStatistics], None] | None = None,
    ) -> Drawn:
        """Draw N prompts in one batch, past the guardrails.

        Args:
            prompts: N texts.
            seeds: one for each prompt.
            config: how to sample, with nothing left open.
            watch: progress, pictures one by one, and cancelling.
            on_step: called with the statistics of the latents at every step.

        Raises:
            RequestError: the model cannot draw this, or was not trained for it.
            MemoryPressureError, NonFiniteError, Interrupted: as of `generate`.
        """
        settings = replace(self.settings(prompts[0], config), seed=seeds[0], count=len(seeds))
        about = Result(settings=settings, pictures=(), model=self.name)
        drawing = Drawing(about, watch, seeds=seeds, exact=True, relief=_RELIEF)
        return self._draw(drawing, prompts, config, len(prompts), on_step)

    def settings(self, prompt: str, config: LDMSamplingConfig) -> PictureSettings:
        """The values that a picture of this configuration is made with, for seed 0."""
        side = self.trained.recipe.data.size
        return PictureSettings(
            prompt=prompt,
            negative_prompt="",
            width=side,
            height=side,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            guidance_rescale=0.0,
            sampler=_NAMES[str(config.scheduler)],
            seed=0,
            count=1,
            clip_skip=1,
            strength=None,
            prediction_type=self.prediction_type,
            profile=self.profile.name,
        )

    def _draw(
        self,
        drawing: Drawing,
        prompts: Sequence[str],
        config: LDMSamplingConfig,
        batch: int,
        on_step: Callable[[StepStatistics], None] | None = None,
    ) -> Drawn:
        trained = self.trained
        plan = check_request(trained, config, prompts)
        schedule = trained.recipe.diffusion.noise_schedule
        total = len(plan.timesteps(schedule))

        def denoise(first: int, size: int) -> torch.Tensor:
            def stepped(seen: StepStatistics) -> None:
                # What is not finite has ended the drawing before this is called.
                drawing.stepped(first, size, Step(seen.step - 1, total, float(seen.timestep)))
                if on_step is not None:
                    on_step(seen)

            part = slice(first, first + size)
            return draw_latents(
                trained.model,
                schedule,
                plan,
                trained.shape,
                prompts[part],
                drawing.seeds[part],
                config.guidance_scale,
                stepped,
            )

        with self.lock:
            return drawing.run(denoise, self._decode, batch=batch, free=free_memory)

    def _decode(self, latents: torch.Tensor) -> list[Decoded]:
        """The autoencoder is in float32, or none at all: there is nothing to try again."""
        pictures = self.trained.autoencoder.decode(latents)
        return [
            Decoded(picture, float(latent.isfinite().float().mean()), "float32", again=False)
            for latent, picture in zip(latents, pictures, strict=True)
        ]

    def _scheduler(self, sampler: str) -> str:
        if sampler not in SAMPLERS:  # with the guardrails off
            raise RequestError(
                f"a model trained from scratch is drawn with {', '.join(SAMPLERS)}, received {sampler!r}; name one"
            )
        return SAMPLERS[sampler]

    def _require_own(self, request: GenerationRequest) -> None:
        """Refuse what a model from scratch has no use for, and would leave out in silence."""
        unknown = {
            "a negative prompt": bool(request.negative_prompt),
            "a picture to start from": request.image is not None,
            "another prediction type than its own": request.prediction_type not in ("auto", self.prediction_type),
        }
        for what, given in unknown.items():
            if given:
                raise RequestError(f"a model trained from scratch takes no such thing, received {what}; leave it out")


def _changed(value: str, standard: str) -> str | None:
    return None if value == standard else value


def _fitted(profile: Profile, trained: Trained) -> Profile:
    """A profile with what the run's own recipe says."""
    recipe = trained.recipe
    sampling, side = recipe.sampling, recipe.data.size
    guided = recipe.text.kind != "none" and recipe.text.dropout > 0
    own: dict[str, object] = {"mark": "official", "source": "the run's own recipe", "recommended": None}
    timesteps = recipe.diffusion.noise_schedule.timesteps
    scale = {"default": sampling.guidance_scale} if guided else {"default": 1.0, "allowed": (1.0, 1.0)}
    sizes = {"default": (side, side), "least": side, "most": side}
    steps = {"default": sampling.steps, "allowed": (1.0, float(timesteps))}
    sampler = {"default": _NAMES[str(sampling.scheduler)], "allowed": tuple(SAMPLERS)}
    return profile.model_copy(
        update={
            "pixels": profile.pixels.model_copy(update=own | sizes),
            "steps": profile.steps.model_copy(update=own | steps),
            "guidance_scale": profile.guidance_scale.model_copy(update=own | scale),
            "guidance_rescale": profile.guidance_rescale.model_copy(update=own | {"allowed": (0.0, 0.0)}),
            "sampler": profile.sampler.model_copy(
                update={"mark": "official", "source": "bottega.diffusion.sampling"} | sampler
            ),
        }
    )


# --- PNG files ------------------------------------------------------------------------------------------------------


def generate(
    checkpoint: Path,
    prompts: Sequence[str],
    output_dir: Path,
    *,
    seed: int = 0,
    num_images: int = 1,
    device: str = "auto",
    watch: Callable[[StepStatistics], None] | None = None,
    **sampling: Any,
) -> list[dict[str, object]]:
    """Draw each prompt `num_images` times and write a PNG each.

    A picture depends on its prompt and seed; on the others drawn with it to less than 1e-5. Each file says how it was
    made, as JSON under the keyword `bottega` and as the `parameters` text that other tools read. A file of the same
    name that was made otherwise is left alone: the new one's name then says which checkpoint drew it.

    Args:
        checkpoint: a checkpoint's folder, or a run directory, whose newest is taken.
        prompts: what to draw.
        output_dir: of the files.
        seed: of the first picture of each prompt; the next ones have seed + 1, seed + 2, …
        num_images: pictures of each prompt.
        device: see `choose_device`.
        watch: called with the statistics of the latents at every step.
        **sampling: values of `LDMSamplingConfig` in place of the recipe's; None leaves the recipe's.

    Returns:
        A row a picture: {file, sha256, prompt, seed, …}.

    Raises:
        RequestError: the settings do not work with this model.
        NonFiniteError: latents or pictures are not finite; nothing broken is written.
    """
    began = time.monotonic()
    require_folder(output_dir)
    trained = open_trained(checkpoint, device)
    recipe = trained.recipe
    config = overridden(recipe.sampling, sampling)
    check_request(trained, config, prompts)
    if config.guidance_scale == 0:
        LOGGER.warning(UNGUIDED)
    engine = ScratchEngine(trained)

    # Settings that differ are part of the file name: trying a sampler does not overwrite what another one drew.
    suffix = _changed_settings(config, recipe.sampling)
    requests = list(product(prompts, range(seed, seed + num_images)))
    rows: list[dict[str, object]] = []
    with Progress(len(requests), "pictures", "pictures") as progress, Interruption() as stop:

        def on_step(statistics: StepStatistics) -> None:
            progress.update(0, step=statistics.step)  # pictures are drawn together, so only the steps show progress
            if watch is not None:
                watch(statistics)

        for first in range(0, len(requests), BATCH):
            batch = requests[first : first + BATCH]
            texts, seeds = zip(*batch, strict=True)
            drawn = engine.draw(texts, seeds, config, on_step=on_step)
            for (prompt, _), picture, pixels in zip(batch, drawn.result.pictures, drawn.pixels, strict=True):
                facts = _facts(trained, config, prompt, picture.seed)
                stem = f"{file_stem(prompt or recipe.name)}_seed{picture.seed}{suffix}"
                about = replace(
                    drawn.result,
                    settings=engine.settings(prompt, config),
                    model=f"{recipe.name} {trained.folder.name}",
                )
                rows.append(_write(output_dir, stem, pixels, facts, infotext(about, picture)))
                progress.update()
            stop.check()
    # The mean, for pictures are drawn together: none has a time of its own.
    seconds = (time.monotonic() - began) / len(rows)
    return [row | {"seconds": seconds} for row in rows]


def _changed_settings(config: LDMSamplingConfig, standard: LDMSamplingConfig) -> str:
    """What differs from the recipe, for the file name: `_steps20_eta0.5`."""
    parts = []
    for name, value in config:
        if value != getattr(standard, name):
            parts.append(f"_{name}{value}")
    return "".join(parts)


def _facts(trained: Trained, config: LDMSamplingConfig, prompt: str, seed: int) -> dict[str, object]:
    """How a picture was made, as JSON."""
    return {
        "prompt": prompt,
        "seed": seed,
        "model": trained.recipe.name,
        "checkpoint": trained.folder.name,
        "averaged": trained.averaged,
        **config.model_dump(mode="json"),
    }


def _write(folder: Path, stem: str, pixels: Pixels, facts: Mapping[str, object], parameters: str) -> dict[str, object]:
    """Write a picture with its facts."""
    metadata = json.dumps(facts, ensure_ascii=False)
    file = _free_path(folder, stem, facts, metadata)
    sha256 = write_png(file, pixels, {CHUNK: metadata, PARAMETERS: parameters})
    return {"file": str(file), "sha256": sha256, **facts}


def _free_path(folder: Path, stem: str, facts: Mapping[str, object], metadata: str) -> Path:
    """Where a picture goes: its plain name, unless another picture has it (of another checkpoint, or of a prompt that
    differs in punctuation alone)."""
    plain = folder / f"{stem}.png"
    by_checkpoint = folder / f"{stem}_{facts['model']}_{facts['checkpoint']}.png"
    by_metadata = folder / f"{stem}_{six_digits(metadata)}.png"
    for path in (plain, by_checkpoint):
        if not path.exists() or _read_metadata(path) == metadata:
            return path
    return by_metadata


def _read_metadata(file: Path) -> str | None:
    """The metadata of a picture; None where it was not drawn here."""
    from PIL import Image

    from bottega.runtime.paths import open_file

    try:
        with open_file(file) as stream, Image.open(stream, formats=("PNG",)) as picture:
            metadata: str | None = picture.info.get(CHUNK)
            return metadata
    except OSError:  # no picture at all
        return None
