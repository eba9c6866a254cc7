"""The long training of PixArt-α with its T5: plain and painted pictures from captions alone.

It departs from the short training (`learn_pixart`) in what a token holds: latents of an autoencoder of its own have
16 × 16 cells, so a token of 2 × 2 cells holds 16 numbers, and noise passes through the transformer's width without the
first weights of `open_path`. A curriculum shows single plain objects first, then several, paintings last.

Errors of ε count as errors of x̂0 (as in `sdxl_task`); timesteps are mostly drawn where captions decide.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures, gates
from bottega.miniature.builder.features import SHARDS, Features
from bottega.miniature.builder.learn_pixart import CellReader, Example, variational_bound
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.trainer import MicrobatchLosses
from bottega.miniature.ranges import GATE_SCENES
from bottega.miniature.scenes import SHAPES, scene
from bottega.runtime.seeds import numpy_rng

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

BATCH = 32
SEVERAL_FROM, PAINTED_FROM = 6_000, 12_000  # steps: several objects, paintings
PAINTED_SHARE = 0.4
SHARD_STEPS = 100
FIRST_SHARDS = 3
DROP_TEXT = 0.10  # for guidance
HIGH_NOISE_RATIO = 100.0  # most that (σ/α)² counts: 25 000 at the last timestep
READING_WEIGHT = 0.2


class PixArtTask:
    """Transformer, T5 and a head that reads the classes of cells, with the features that they learn from.

    Args:
        features: latents of PixArt's own autoencoder.
        tokenizer: of T5.
        pictures: how many are drawn for a measurement; 0: none.
        reader: scene reader, for measurements.
    """

    name = "pixart"

    def __init__(self, features: Features, tokenizer: Any, reader: Any = None, pictures: int = 32) -> None:
        torch.manual_seed(6)
        self.features, self.tokenizer, self.reader, self.pictures = features, tokenizer, reader, pictures
        self.t5 = architectures.t5(len(tokenizer))
        self.transformer = architectures.small_token_pixart()
        classes = 1 + len(SHAPES)
        self.head = CellReader(self.transformer, classes, torch.zeros(self.transformer.inner_dim))
        self.modules: Mapping[str, torch.nn.Module] = {
            "t5": self.t5,
            "transformer": self.transformer,
            "head": self.head.linear,
        }
        schedule = from_scheduler_config(architectures.pixart_scheduler())
        self.alpha_bar = torch.from_numpy(schedule.alpha_bar)  # float64 [T]
        self.alpha, self.sigma = self.alpha_bar.sqrt().float(), (1 - self.alpha_bar).sqrt().float()

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        """One part."""
        return [lambda: self._losses(step)]

    def _losses(self, step: int) -> MicrobatchLosses:
        """Captions to pictures."""
        self.features.require(min(SHARDS, FIRST_SHARDS + step // SHARD_STEPS))
        rng = numpy_rng("miniature pixart, long", step)
        examples = [self._example(rng, step) for _ in range(BATCH)]
        target = torch.from_numpy(np.stack([example.latents for example in examples])).float()  # [B, C, H, W]
        labels = torch.from_numpy(np.stack([example.labels for example in examples]))
        captions = ["" if rng.random() < DROP_TEXT else example.caption for example in examples]
        timestep = torch.from_numpy(_timesteps(rng, BATCH))
        noise = torch.from_numpy(rng.standard_normal(target.shape, dtype=np.float32))
        alpha, sigma = self.alpha[timestep], self.sigma[timestep]  # [B]
        x = alpha.view(-1, 1, 1, 1) * target + sigma.view(-1, 1, 1, 1) * noise
        with autocast():
            output = self._predict(x, timestep, captions)
            reading = self.head.loss(labels)
        guess, variance = output.float().chunk(2, dim=1)
        weight = (sigma / alpha).square().clamp(max=HIGH_NOISE_RATIO) / sigma.clamp(min=0.5).square()
        error = (guess - noise).square().mean((1, 2, 3))  # [B]
        losses = {
            "mse": (weight.clamp(min=0.05) * error).mean(),
            "bound": 1e-3 * variational_bound(guess.detach(), variance, noise, timestep, self.alpha_bar),
            "reading": READING_WEIGHT * reading.float(),
        }
        return MicrobatchLosses(losses, BATCH)

    def measure(self) -> Mapping[str, float]:
        """One object by caption, drawn with diffusers' pipeline: its shape, its colour and the ground's."""
        if self.reader is None or self.pictures == 0:
            return {}
        views = [scene(GATE_SCENES + 500_000 + i, 1) for i in range(self.pictures)]
        pictures = gates.draw_captions(self._pipeline(), views, 1, guidance=4.5, steps=20)
        self.head.states.clear()  # the hook kept those of the drawing
        score = gates.mean_score(self.reader, pictures, views)
        return {"pixart_shape": score.shapes, "pixart_colours": score.colours, "pixart_ground": score.ground}

    def _pipeline(self) -> Any:
        from diffusers import DDIMScheduler, PixArtAlphaPipeline

        config = {**architectures.pixart_scheduler(), "clip_sample": False, "timestep_spacing": "trailing"}
        for name in ("algorithm_type", "solver_order"):  # of the solver that the folder names
            config.pop(name)
        vae: AutoencoderTiny = self.features.vae
        pipeline = PixArtAlphaPipeline(self.tokenizer, self.t5, vae, self.transformer, DDIMScheduler(**config))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _example(self, rng: np.random.Generator, step: int) -> Example:
        """A picture and a caption of it; what is shown follows the curriculum."""
        row = int(rng.integers(len(self.features)))
        while step < SEVERAL_FROM and len(scene(row).objects) > 1:
            row = int(rng.integers(len(self.features)))
        view = scene(row)
        shard, place = self.features.place(row)
        labels = self.features.labels[shard][place].astype(np.int64)
        if step >= PAINTED_FROM and rng.random() < PAINTED_SHARE:
            caption = view.caption(int(rng.integers(5))) if rng.random() < 0.35 else view.colourless()
            return Example(self.features.painted[shard][place], caption, labels)
        return Example(self.features.plain[shard][place], view.caption(int(rng.integers(5))), labels)

    def _predict(self, x: torch.Tensor, timestep: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """ε̂ and the variance's share, [B, 2 C, H, W]."""
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


def _timesteps(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """Four fifths logit-normal, where captions decide; one fifth uniform, so that no timestep is left out."""
    normal = 1 / (1 + np.exp(-(0.4 + rng.standard_normal(count))))
    uniform = rng.random(count)
    shares = np.where(rng.random(count) < 0.8, normal, uniform)
    timesteps: npt.NDArray[np.int64] = np.floor(shares * 1000).astype(np.int64)
    return timesteps
