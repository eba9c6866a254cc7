"""The long training of PixArt-α with its T5: plain and painted pictures from captions alone.

It predicts v = α ε − σ x0 (arXiv 2202.00512). PixArt-α itself predicts ε, which a token of 4 × 4 latent cells must then
hold whole: 64 numbers of noise that pass through the transformer's width without losing a few per cent, which at high
noise are the whole signal. v is −x0 there, and pictures lie on few dimensions (arXiv 2511.13720).

Most samples are taken at half of the side, 16 tokens instead of 64 and a quarter of the cost: there a network learns
what words mean. The autoencoder's latents of half the side are the picture of half the side, so these are averages of
2 × 2 cells. Half of a batch are `siblings`, which differ in their shape alone. Paintings come with the full side.

Errors count as errors of x̂0; timesteps are mostly drawn where captions decide.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures, gates, pixart_gates
from bottega.miniature.builder.attention import MaskedAttention
from bottega.miniature.builder.encoding import encode
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.noise_levels import column, normal
from bottega.miniature.builder.pixart_losses import IGNORED, CellReader, variational_bound
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.sdxl_task import painted_caption
from bottega.miniature.builder.siblings import (
    SIBLING_SCENES,
    Siblings,
    cell_weights,
    different,
    draw_siblings,
    sibling_weights,
)
from bottega.miniature.builder.trainer import MicrobatchLosses, TrainingPlan
from bottega.miniature.fill50k import fill50k_example
from bottega.miniature.painters import painter
from bottega.miniature.ranges import GATE_SCENES
from bottega.miniature.scenes import SHAPES, Scene, scene
from bottega.runtime.seeds import numpy_rng

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

FULL_FROM = 3_200  # step from which pictures have their full side
SMALL_BATCH, FULL_BATCH = 96, 48  # samples of each of a step's two parts
SIBLING_SHARE = 0.5  # of a part
PAINTED_SHARE = 0.6  # of the samples at full side that are no siblings
SHARD_STEPS = 100
FIRST_SHARDS = 3
CIRCLE_SHARE = 0.1  # of the samples at full side that are no siblings: Fill50K's, which the student is shown
CIRCLES = 1_500
DROP_TEXT = 0.10  # for guidance
# Share of timesteps that are uniform: where there is little noise strokes are drawn, and the student works there.
UNIFORM, UNIFORM_AT_FULL = 0.2, 0.6
READING_WEIGHT = 0.2
NUM_MEASURED = 16  # siblings' scenes that a measurement looks at


PIXART_PLAN = TrainingPlan(learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.0)


@dataclass
class _Batch:
    """Samples of one part."""

    target: torch.Tensor  # [B, C, H, W]
    captions: list[str]
    labels: torch.Tensor  # int64 [B, H, W]
    cells: torch.Tensor  # what an error in a cell counts, mean 1, [B, 1, H, W]
    timestep: npt.NDArray[np.int64]  # [B]
    noise: torch.Tensor  # [B, C, H, W]


class PixArtTask:
    """Transformer, T5 and a head that reads the classes of cells, with the features that they learn from.

    Args:
        features: latents of scenes and paintings.
        tokenizer: of T5.
        reader: scene reader, for measurements.
        pictures: how many are drawn for a measurement; 0: none.
        siblings: how many scenes are drawn in all shapes.
        circles: how many pictures of Fill50K are shown.
        full_from: step from which pictures have their full side.
    """

    name = "pixart"

    def __init__(
        self,
        features: Features,
        tokenizer: Any,
        reader: Any = None,
        pictures: int = 48,
        siblings: int = SIBLING_SCENES,
        circles: int = CIRCLES,
        full_from: int = FULL_FROM,
    ) -> None:
        torch.manual_seed(6)
        self.features, self.tokenizer, self.reader, self.pictures = features, tokenizer, reader, pictures
        self.full_from = full_from
        self.siblings = draw_siblings(features.folder, features.vae, 0, siblings)
        filled = [fill50k_example(index) for index in range(circles)]
        self.circle_prompts = [prompt for _, _, prompt in filled]
        targets = np.stack([target for _, target, _ in filled])
        self.circles = encode(features.vae, targets, features.vae.config.scaling_factor)
        self.no_labels = np.full(self.circles.shape[2:], IGNORED, np.int64)
        self.t5 = architectures.t5(len(tokenizer))
        self.transformer = architectures.pixart()
        self.transformer.set_attn_processor(MaskedAttention())
        classes = 1 + len(SHAPES)
        self.head = CellReader(self.transformer, classes)
        self.modules: Mapping[str, torch.nn.Module] = {
            "t5": self.t5,
            "transformer": self.transformer,
            "head": self.head.linear,
        }
        schedule = from_scheduler_config(architectures.pixart_scheduler())
        self.alpha_bar = torch.from_numpy(schedule.alpha_bar)  # float64 [T]
        self.alpha, self.sigma = schedule.alpha, schedule.sigma

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        """Two parts alike, which two processes can share."""
        self.features.require(FIRST_SHARDS + step // SHARD_STEPS)
        return [lambda: self._losses(step, 0), lambda: self._losses(step, 1)]

    def measure(self) -> Mapping[str, float]:
        """What the word for a shape changes, and what is drawn by caption with diffusers' pipeline."""
        figures: dict[str, float] = {}
        for side in (architectures.PICTURE // 2, architectures.PICTURE):
            figures.update(self._effect_of_shape(side))
            if self.reader is not None and self.pictures > 0:
                figures.update(self._drawn(side))
        return figures

    # --- batches --------------------------------------------------------------------------------------------------

    def _losses(self, step: int, part: int) -> MicrobatchLosses:
        rng = numpy_rng("miniature pixart, long", step, part)
        full = step >= self.full_from
        count = FULL_BATCH if full else SMALL_BATCH
        groups = round(SIBLING_SHARE * count / len(SHAPES))
        of_siblings = self._siblings_batch(rng, groups, full)
        others = self._scenes_batch(rng, count - len(of_siblings.captions), full)
        batch = _joined(of_siblings, others)
        if not full:
            batch = _halved(batch)
        errors, bound, reading = self._errors(batch)
        split = len(of_siblings.captions)
        losses = {  # each part of a step counts half
            "siblings": errors[:split].sum() / count / 2,
            "scenes": errors[split:].sum() / count / 2,
            "bound": 1e-3 * bound / 2,
            "reading": READING_WEIGHT * reading / 2,
        }
        return MicrobatchLosses(losses, count)

    def _siblings_batch(self, rng: np.random.Generator, groups: int, full: bool) -> _Batch:
        """Groups of siblings, each with one noise, one timestep and one wording."""
        shown = np.arange(len(self.siblings.large)) if full else self.siblings.of_large
        places = rng.choice(shown, groups)
        captions = []
        for place in places:
            wording = int(rng.integers(5))
            dropped = rng.random() < DROP_TEXT
            for shape in range(len(SHAPES)):
                captions.append("" if dropped else self.siblings.caption(int(place), shape, wording))
        latents = torch.from_numpy(self.siblings.latents[places]).float()  # [G, S, C, H, W]
        labels = torch.from_numpy(self.siblings.labels[places]).long()  # [G, S, H, W]
        noise = normal(rng, (groups, 1, *latents.shape[2:])).expand_as(latents)
        return _Batch(
            target=latents.flatten(0, 1),
            captions=captions,
            labels=labels.flatten(0, 1),
            cells=sibling_weights(labels).flatten(0, 1),
            timestep=np.repeat(_timesteps(rng, groups, UNIFORM), len(SHAPES)),
            noise=noise.flatten(0, 1),
        )

    def _scenes_batch(self, rng: np.random.Generator, count: int, full: bool) -> _Batch:
        """Scenes of one to three objects, and, at full side, paintings."""
        targets, captions, labels = [], [], []
        for _ in range(count):
            if full and rng.random() < CIRCLE_SHARE:
                circle = int(rng.integers(len(self.circles)))
                captions.append("" if rng.random() < DROP_TEXT else self.circle_prompts[circle])
                targets.append(self.circles[circle])
                labels.append(self.no_labels)
                continue
            row = int(rng.integers(len(self.features)))
            shard, place = self.features.place(row)
            view = scene(row)
            painted = full and rng.random() < PAINTED_SHARE
            if painted:
                caption = painted_caption(view, painter(self.features.painter_index(row)), rng)
            else:
                caption = view.caption(int(rng.integers(5)))
            captions.append("" if rng.random() < DROP_TEXT else caption)
            targets.append((self.features.painted if painted else self.features.plain)[shard][place])
            labels.append(self.features.labels[shard][place].astype(np.int64))
        target = torch.from_numpy(np.stack(targets)).float()
        classes = torch.from_numpy(np.stack(labels))
        noise = normal(rng, target.shape)
        timestep = _timesteps(rng, count, UNIFORM_AT_FULL if full else UNIFORM)
        return _Batch(target, captions, classes, cell_weights(classes), timestep, noise)

    # --- losses ---------------------------------------------------------------------------------------------------

    def _errors(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weighted error of each sample [B], the variance's bound and the reading's cross entropy."""
        alpha, sigma = column(self.alpha[batch.timestep]), column(self.sigma[batch.timestep])
        x = alpha * batch.target + sigma * batch.noise
        timestep = torch.from_numpy(batch.timestep)
        with autocast():
            output = self._predict(x, timestep, batch.captions)
            reading = self.head.loss(batch.labels)
        guess, variance = output.float().chunk(2, dim=1)
        wanted = alpha * batch.noise - sigma * batch.target
        error = (batch.cells * (guess - wanted).square()).mean((1, 2, 3))  # [B]
        # An error of v moves x̂0 by σ; by 1/max(σ, 0.5)², as in `sdxl_task`.
        weight = (sigma / sigma.clamp(min=0.5)).square().clamp(min=0.1).flatten()
        noise = sigma * x + alpha * guess
        bound = variational_bound(noise.detach(), variance, batch.noise, timestep, self.alpha_bar)
        return weight * error, bound, reading.float()

    def _predict(self, x: torch.Tensor, timestep: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """v̂ and the variance's share, [B, 2 C, H, W]."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=120, return_tensors="pt")
        encoded = self.t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        output: torch.Tensor = self.transformer(
            x,
            encoder_hidden_states=encoded.last_hidden_state,  # [B, L, D]
            encoder_attention_mask=tokens.attention_mask,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return output

    # --- measurements ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _effect_of_shape(self, side: int) -> Mapping[str, float]:
        """By how much a wrong word for the shape raises the error of x̂0 in the cells where siblings differ.

        A share of the error with the right word: 0 where the network does not know the word.
        """
        siblings = self._held_out()
        latents = torch.from_numpy(siblings.latents).float()
        labels = torch.from_numpy(siblings.labels).long()
        count = latents.shape[0] * latents.shape[1]
        rng = numpy_rng("miniature pixart, effect", side)
        noise = normal(rng, (len(latents), 1, *latents.shape[2:])).expand_as(latents)
        cells = different(labels).expand(-1, len(SHAPES), -1, -1)[:, :, None].float()  # [G, S, 1, H, W]
        batch = _Batch(
            latents.flatten(0, 1), [], labels.flatten(0, 1), cells.flatten(0, 1), np.zeros(count, np.int64),
            noise.flatten(0, 1),
        )  # fmt: skip
        if side < architectures.PICTURE:
            batch = _halved(batch)
        figures = {}
        for timestep in (500, 700):
            errors = []
            for turn in (0, 1, 2):
                captions = []
                for place in range(len(latents)):
                    for shape in range(len(SHAPES)):
                        captions.append(siblings.caption(place, (shape + turn) % len(SHAPES), 1))
                errors.append(self._error_at(batch, timestep, captions))
            right, *wrong = errors
            figures[f"pixart_word_{side}_at_{timestep}"] = sum(wrong) / len(wrong) / right - 1
        return figures

    def _error_at(self, batch: _Batch, timestep: int, captions: list[str]) -> float:
        """Mean squared error of x̂0 in the cells of a batch."""
        times = np.full(len(captions), timestep)
        alpha, sigma = column(self.alpha[times]), column(self.sigma[times])
        x = alpha * batch.target + sigma * batch.noise
        guess = self._predict(x, torch.from_numpy(times), captions).chunk(2, dim=1)[0]
        self.head.states.clear()
        error = batch.cells * (alpha * x - sigma * guess - batch.target).square()
        return float(error.mean() / batch.cells.mean())

    def _held_out(self) -> Siblings:
        return draw_siblings(self.features.folder, self.features.vae, GATE_SCENES + 400_000, NUM_MEASURED)

    def _drawn(self, side: int) -> Mapping[str, float]:
        """One object by caption: its shape, its colour and the ground's."""
        views: list[Scene] = []
        index = GATE_SCENES + 600_000
        while len(views) < self.pictures:
            view = scene(index, 1)
            if view.objects[0].size == "large" or side == architectures.PICTURE:
                views.append(view)
            index += 1
        pictures = pixart_gates.draw(self.pipeline(), [view.caption(1) for view in views], side=side)
        self.head.states.clear()  # the hook kept those of the drawing
        if side < architectures.PICTURE:
            size = (architectures.PICTURE, architectures.PICTURE)
            pictures = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in pictures])
        score = gates.mean_score(self.reader, pictures, views)
        return {
            f"pixart_shape_{side}": score.shapes,
            f"pixart_colours_{side}": score.colours,
            f"pixart_ground_{side}": score.ground,
        }

    def pipeline(self) -> Any:
        """diffusers' own, on the modules in training."""
        from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

        scheduler = pixart_gates.ddim(DPMSolverMultistepScheduler(**architectures.pixart_scheduler()))
        vae: AutoencoderTiny = self.features.vae
        pipeline = PixArtAlphaPipeline(self.tokenizer, self.t5, vae, self.transformer, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _joined(first: _Batch, second: _Batch) -> _Batch:
    """Samples of both, in this order."""
    return _Batch(
        target=torch.cat([first.target, second.target]),
        captions=first.captions + second.captions,
        labels=torch.cat([first.labels, second.labels]),
        cells=torch.cat([first.cells, second.cells]),
        timestep=np.concatenate([first.timestep, second.timestep]),
        noise=torch.cat([first.noise, second.noise]),
    )


def _halved(batch: _Batch) -> _Batch:
    """The samples at half of the side; noise of the full size is left out, not averaged, so it keeps its deviation."""
    return _Batch(
        target=F.avg_pool2d(batch.target, 2),
        captions=batch.captions,
        labels=batch.labels[:, 1::2, 1::2],
        cells=F.avg_pool2d(batch.cells, 2),
        timestep=batch.timestep,
        noise=batch.noise[:, :, ::2, ::2].contiguous(),
    )


def _timesteps(rng: np.random.Generator, count: int, uniform: float) -> npt.NDArray[np.int64]:
    """A share of uniform ones, so that no timestep is left out; the others logit-normal, where captions decide."""
    late = 1 / (1 + np.exp(-(0.3 + rng.standard_normal(count))))
    shares = np.where(rng.random(count) < uniform, rng.random(count), late)
    timesteps: npt.NDArray[np.int64] = np.floor(shares * 1000).astype(np.int64)
    return timesteps
