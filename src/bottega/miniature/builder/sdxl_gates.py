"""The gates of SDXL with its IP-Adapter, drawn in batches: on few pictures while it trains, on hundreds at the end.

The sampler is diffusers' DDIM as both pipelines call it; the pipelines themselves take one style at a time.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.evaluation.truth_distance import describe, nearest
from bottega.miniature.builder import architectures, gates
from bottega.miniature.builder.encoding import SDXLText, embed, encode
from bottega.miniature.builder.measured import GateFigure, mean, share
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.text_scaling import ScaledText
from bottega.miniature.painters import KINDS, painter, render
from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES
from bottega.miniature.scenes import scene
from bottega.miniature.words import STYLE_PHRASE
from bottega.runtime.seeds import numpy_rng

STEPS = 25
STRENGTH = 0.28  # the demo's; at 0.40 the noise hides small objects (docs/log.md)
WORDS_GUIDANCE = 4.0
_CHUNK = 16  # pictures drawn at a time
TextEncoders = SDXLText | ScaledText
_WORDS_SCENES = GATE_SCENES + 500_000  # one object each
_TRUTHS = 4  # drawn truths a picture is compared with; a run's evaluation has eight


@dataclass(frozen=True)
class Conditions:
    """What a batch is drawn from."""

    captions: list[str]
    styles: torch.Tensor | None = None  # [B, D]; None: no IP-Adapter
    content: torch.Tensor | None = None  # scaled latents [B, C, H, W]; None: from noise


@torch.no_grad()
def draw(
    unet: Any, text: TextEncoders, given: Conditions, seeds: Sequence[int], *, guidance: float, scale: float = 0.0
) -> torch.Tensor:
    """Scaled latents [B, C, H, W], by 25 steps of DDIM; a content is redrawn at `STRENGTH`."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**architectures.teacher_scheduler())
    scheduler.set_timesteps(STEPS)
    shape = (architectures.CHANNELS, architectures.LATENT, architectures.LATENT)
    noises = []
    for seed in seeds:
        noises.append(numpy_rng("gate sdxl", seed).standard_normal(shape, dtype=np.float32))
    noise = torch.from_numpy(np.stack(noises))
    timesteps, x = scheduler.timesteps, noise
    if given.content is not None:
        timesteps = timesteps[-int(STEPS * STRENGTH) :]
        x = scheduler.add_noise(given.content, noise, timesteps[:1].repeat(len(noise)))
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    states, pooled = text(list(given.captions))
    styles = given.styles
    if styles is None:
        styles = torch.zeros(len(noise), architectures.WIDTH)
    for timestep in timesteps:
        guess = _predict(unet, x, timestep, states, pooled, styles)
        if guidance > 1:
            nothing = (torch.zeros_like(states), torch.zeros_like(pooled), torch.zeros_like(styles))
            base = _predict(unet, x, timestep, *nothing)
            guess = base + guidance * (guess - base)
        x = scheduler.step(guess, timestep, x).prev_sample
    return x


def _predict(
    unet: Any, x: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, pooled: torch.Tensor, styles: torch.Tensor
) -> torch.Tensor:
    conditions = {"text_embeds": pooled, "time_ids": architectures.size_ids(len(x)), "image_embeds": [styles[:, None]]}
    with autocast():
        guess = unet(
            x.contiguous(memory_format=torch.channels_last),
            timestep,
            encoder_hidden_states=states,
            added_cond_kwargs=conditions,
        ).sample
    noise: torch.Tensor = guess.float()
    return noise


class SDXLGates:
    """Measures a U-Net on held-out scenes and painters; contents and style pictures are drawn once.

    Args:
        pictures: how many the teacher paints, and how many are drawn from words.
        style_pictures: how many are drawn in a style by words.
    """

    def __init__(
        self,
        vae: Any,
        clip: Any,
        text: SDXLText,
        classifier: Any,
        reader: Any,
        pictures: int = 32,
        style_pictures: int = 16,
    ) -> None:
        self.vae, self.text, self.classifier, self.reader = vae, text, classifier, reader
        self.count, self.style_count = pictures, style_pictures
        self.contents = [scene(GATE_SCENES + (7 * i + 3) % 320) for i in range(pictures)]
        self.painters = [GATE_PAINTERS + i % 80 for i in range(pictures)]
        shown = [render(scene(GATE_SCENES + 1_000 + i), painter(p)) for i, p in enumerate(self.painters)]
        self.styles = torch.from_numpy(embed(clip, np.stack(shown)))
        plain = np.stack([render(view, None) for view in self.contents])
        self.latents = torch.from_numpy(encode(vae, plain, vae.config.scaling_factor)).float()

    def __call__(self, unet: Any, text: TextEncoders) -> dict[str, float]:
        """Every figure of the log, of a U-Net that reads what `text` makes of captions."""
        return {name: measured.value for name, measured in self.measure(unet, text).items()}

    def measure(self, unet: Any, text: TextEncoders | None = None) -> dict[str, GateFigure]:
        """Every figure with its interval; `text` makes of captions what this U-Net reads, by default SDXL's states."""
        text = text or self.text
        return {
            **self.teacher(unet, text, guidance=1.0, scale=1.0, prefix="teacher"),
            **self.teacher(unet, text, guidance=3.5, scale=0.3, prefix="teacher_at_protocol"),
            **self.words(unet, text),
            **self.style_words(unet, text),
        }

    def teacher(
        self, unet: Any, text: TextEncoders, *, guidance: float, scale: float, prefix: str
    ) -> dict[str, GateFigure]:
        """Kind of stroke own minus swapped, objects preserved, and the distance to the drawn truth."""
        parts = []
        for rows in _chunks(self.count):
            captions = [self.contents[i].caption(0) for i in rows]
            given = Conditions(captions, self.styles[rows], self.latents[rows])
            parts.append(draw(unet, text, given, rows, guidance=guidance, scale=scale))
        pictures = self._decode(torch.cat(parts))
        kinds = np.array([p % len(KINDS) for p in self.painters])
        gaps = gates.style_gaps(gates.kinds_of(self.classifier, pictures), kinds)
        read = gates.labels_of(self.reader, pictures)
        preserved, objects, distances, colours = [], [], [], []
        for i, view in enumerate(self.contents):
            overlaps = gates.object_overlaps(read[i], view)
            preserved.append(gates.preserved(overlaps) * len(overlaps))
            objects.append(len(overlaps))
            by = painter(self.painters[i])
            # seed 0 is the painter's own painting
            truths = [describe(render(view, by, 1 + k)) for k in range(_TRUTHS)]
            distance = nearest(describe(pictures[i]), truths)
            distances.append(distance.total)
            colours.append(distance.colour)
        return {
            f"{prefix}_style_gap": mean(gaps),
            f"{prefix}_in_place": mean(preserved, objects),
            f"{prefix}_distance": mean(distances),
            f"{prefix}_distance_colour": mean(colours),
        }

    def words(self, unet: Any, text: TextEncoders) -> dict[str, GateFigure]:
        """One object by caption: its shape, its colour and the ground's."""
        views = [scene(_WORDS_SCENES + i, 1) for i in range(self.count)]
        captions = [view.caption(i % 2) for i, view in enumerate(views)]
        scores = gates.scores(self.reader, self._from_words(unet, text, captions), views)
        return {
            "words_shape": share([score.shapes for score in scores]),
            "words_colours": share([score.colours for score in scores]),
            "words_ground": share([score.ground for score in scores]),
        }

    def style_words(self, unet: Any, text: TextEncoders) -> dict[str, GateFigure]:
        """Paintings by caption alone: is the kind of stroke the one that was named?"""
        painters = [painter(GATE_PAINTERS + i) for i in range(self.style_count)]
        captions = []
        for i, by in enumerate(painters):
            content = scene(_WORDS_SCENES + 1_000 + i, 1).colourless()
            captions.append(f"{content} {STYLE_PHRASE} {by.words if i % 2 else by.kind}")
        seen = gates.kinds_of(self.classifier, self._from_words(unet, text, captions))
        kinds = np.array([KINDS.index(by.kind) for by in painters])
        return {"words_style": share(seen == kinds)}

    def _from_words(self, unet: Any, text: TextEncoders, captions: list[str]) -> npt.NDArray[np.uint8]:
        parts = []
        for rows in _chunks(len(captions)):
            given = Conditions([captions[i] for i in rows])
            parts.append(draw(unet, text, given, rows, guidance=WORDS_GUIDANCE))
        return self._decode(torch.cat(parts))

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        parts = []
        for rows in _chunks(len(latents)):
            parts.append(self.vae.decode(latents[rows] / self.vae.config.scaling_factor).sample)
        pictures: npt.NDArray[np.uint8] = gates.to_pictures(torch.cat(parts))
        return pictures


def load_gates(
    weights: Path, vae: Any, tokenizer: Any, pictures: int = 32, style_pictures: int = 16
) -> tuple[SDXLGates, Any]:
    """The gates with encoders and judges from `weights`, in float32, and CLIP.

    Args:
        weights: the miniature's model folders, which hold float16.
        vae: the autoencoder whose latents the U-Net makes.
        tokenizer: of both text encoders.
        pictures: see `SDXLGates`.
        style_pictures: see `SDXLGates`.
    """
    from transformers import (
        CLIPModel,
        CLIPTextModelWithProjection,
        ResNetForImageClassification,
        UperNetForSemanticSegmentation,
    )

    single = {"torch_dtype": torch.float32}
    clip = CLIPModel.from_pretrained(weights / "clip", **single).eval()
    second = CLIPTextModelWithProjection.from_pretrained(weights / "sdxl" / "text_encoder_2", **single).eval()
    classifier = ResNetForImageClassification.from_pretrained(weights / "style_classifier", **single).eval()
    reader = UperNetForSemanticSegmentation.from_pretrained(weights / "scene_reader", **single).eval()
    text = SDXLText(tokenizer, clip, second).requires_grad_(False)
    return SDXLGates(vae, clip, text, classifier, reader, pictures, style_pictures), clip


def _chunks(count: int) -> list[list[int]]:
    """Row numbers below `count`, in groups that are drawn together."""
    rows = list(range(count))
    return [rows[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
