"""What a step learns: the mean squared error of the prediction at stratified timesteps, computed in float32.

Legend: W samples of a batch, B of a microbatch; C × h × w latents; T timesteps, in 10 bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from bottega.diffusion.ideal import loss_floor
from bottega.diffusion.process import add_noise, prediction_target
from bottega.ldm.batch_sampler import EpochSampler, StepSampler
from bottega.ldm.config import LDMRecipe
from bottega.ldm.data import CaptionedPicture
from bottega.ldm.latents import Latents
from bottega.ldm.model import LatentDiffusion
from bottega.runtime.seeds import numpy_rng, torch_generator
from bottega.training.log import Row
from bottega.training.sampling import stratified_timesteps
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, ParameterGroup, Workload

BINS = 10
"""Of the timesteps, in which losses are compared with the least that is possible."""

_MAX_FLOOR_NUMBERS = 30_000_000
"""Numbers in the training latents up to which the floor of the loss is computed: as float64 they take 240 MB."""


class LatentWorkload(Workload):
    """Trains `model` on latents with their captions.

    Args:
        recipe: batch, diffusion, validation.
        model: what is trained.
        latents: of the samples, in their order.
        samples: to train on.
        held_out: for validation only.
        sampler: which samples are in which step.
        device: where the model is.

    Attributes:
        floor: what `least_loss` returned, for the log; None where it is not known.
    """

    def __init__(
        self,
        recipe: LDMRecipe,
        model: LatentDiffusion,
        latents: Latents,
        samples: Sequence[CaptionedPicture],
        held_out: Sequence[CaptionedPicture],
        sampler: EpochSampler | StepSampler,
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self.module = model
        self.model = model
        self.latents = latents
        self.samples = samples
        self.held_out = held_out
        self.sampler = sampler
        self.device = device
        self.schedule = recipe.diffusion.noise_schedule
        self.fingerprint = {}
        self.floor: list[float] | None = None

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weight decay on matrices and kernels only: norms, biases and embeddings have none."""
        decayed: list[torch.nn.Parameter] = []
        undecayed: list[torch.nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            is_embedding = name.startswith(("words.embed", "words.place"))
            if parameter.ndim >= 2 and not is_embedding:
                decayed.append(parameter)
            else:
                undecayed.append(parameter)
        return [
            {"params": decayed, "weight_decay": self.recipe.training.weight_decay, "lr_multiplier": 1.0},
            {"params": undecayed, "weight_decay": 0.0, "lr_multiplier": 1.0},
        ]

    def checkpoint_name(self, step: int) -> str:
        """By epochs, where they count."""
        return self.sampler.name(step)

    def due(self, step: int, every: int) -> bool:
        """At the ends of epochs, where they count, also after the number of samples was changed."""
        if isinstance(self.sampler, EpochSampler):
            return self.sampler.ends(step, self.recipe.training.save_every_epochs)
        return super().due(step, every)

    def metrics(self, step: int) -> Row:
        """Epoch (from 1), prediction type, and the number of samples."""
        return {
            "epoch": self.sampler.at(step).epoch + 1,
            "prediction_type": self.schedule.prediction_type,
            "num_samples": len(self.samples),
        }

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        """The batch of `step` in `training.parts` microbatches; see `Workload.microbatches`."""
        seed = self.recipe.seed
        batch = self.recipe.training.batch_size
        # What the whole batch draws is a function of (seed, step); a process then computes its share of it.
        rng = numpy_rng("ldm step", seed, step)
        indices = self.sampler.indices(seed, step)  # [W]
        timesteps = torch.from_numpy(stratified_timesteps(rng, batch, 0, self.schedule.timesteps - 1))  # [W]
        dropped = rng.random(batch) < self.recipe.text.dropout  # [W]
        shape = self.latents.training.shape[1:]
        noise = torch.randn(batch, *shape, generator=torch_generator("ldm noise", seed, step))  # [W, C, h, w]
        epoch = self.sampler.at(step).epoch

        size = batch // self.recipe.training.parts
        for first in range(0, batch, size)[share]:
            part = slice(first, first + size)
            samples = [self.samples[index] for index in indices[part]]
            # By epoch and not by chance: a picture's captions are each used equally often.
            captions = []
            for sample, drop in zip(samples, dropped[part], strict=True):
                caption = sample.captions[epoch % len(sample.captions)]
                captions.append("" if drop else caption)
            clean = self.latents.training[torch.from_numpy(indices[part])]  # [B, C, h, w]
            losses = self.losses(clean, noise[part], timesteps[part], captions)  # [B]
            weights = self._weights(timesteps[part]).to(losses)  # [B]
            yield Microbatch(
                loss=(losses * weights).sum() / batch,
                sample_losses=losses,
                sample_ids=[sample.name for sample in samples],
                timesteps=timesteps[part].tolist(),
                tasks=["mse"] * len(samples),
            )

    def losses(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: Sequence[str]
    ) -> torch.Tensor:
        """Mean squared error of each sample's prediction.

        Args:
            clean: latents [B, C, h, w].
            noise: of the same shape.
            timesteps: int64 [B].
            captions: B texts.

        Returns:
            float32 [B] on the device.
        """
        clean = clean.to(self.device)
        noise = noise.to(self.device)
        timesteps = timesteps.to(self.device)
        alpha, sigma = self.schedule.coefficients(timesteps, clean)  # [B, 1, 1, 1]
        noised = add_noise(clean, noise, alpha, sigma)  # [B, C, h, w]
        target = prediction_target(self.schedule.prediction_type, clean, noise, alpha, sigma)
        low_precision = self.recipe.training.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low_precision):
            predicted = self.model(noised, timesteps, self.model.condition(captions))  # [B, C, h, w]
        losses: torch.Tensor = (predicted.float() - target).square().flatten(1).mean(1)
        return losses

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Weight of each timestep in the loss, float32 [B]; the mean over all timesteps is 1."""
        # At little noise an error of x̂₀ is small whatever is drawn, so the plain mean hardly sees edges. Bounded at
        # σ 0.5, the weights took circles of IoU ≥ 0.9 from 71 to 96 % (docs/log.md, tenth session).
        least_sigma = self.recipe.diffusion.clean_weight
        if not least_sigma:
            return torch.ones(len(timesteps))  # [B]
        table = np.maximum(self.schedule.sigma, least_sigma) ** -2.0  # [T]
        return torch.from_numpy(table / table.mean()).float()[timesteps]  # [B]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses on a fixed grid.

        Returns:
            `train_bin_0` … by timestep bin on training pictures, `val_bin_0` … on held-out ones where there are any,
            `train_loss` and `val_loss`, their means; `floor_bin_0` …, the least that is possible on the training set,
            where it is known.
        """
        # Bins, because the loss varies with the timestep far more than with progress: one mean would hide a blur.
        self.model.eval()
        found: dict[str, float] = {}
        sets = (
            ("train", self.latents.training, self.samples),
            ("val", self.latents.held_out, self.held_out),
        )
        for name, latents, samples in sets:
            if not len(latents):
                continue
            bins = self._grid_losses(latents, samples)
            for index, value in enumerate(bins):
                found[f"{name}_bin_{index}"] = value
            found[f"{name}_loss"] = math.fsum(bins) / BINS
        if self.floor is not None:
            for index, value in enumerate(self.floor):
                found[f"floor_bin_{index}"] = value
        self.model.train()
        return found

    def _grid_losses(self, latents: torch.Tensor, samples: Sequence[CaptionedPicture]) -> list[float]:
        """Mean loss by timestep bin over the first pictures, at the timesteps and with the noise of `loss_floor`."""
        pictures = self.recipe.validation.pictures
        timesteps = self.schedule.timesteps
        chosen = [index % len(latents) for index in range(pictures)]
        clean = latents[chosen]  # [pictures, C, h, w]
        captions = [samples[index].captions[0] for index in chosen]
        noise = grid_noise(pictures, latents)  # [pictures, C, h, w]
        edges = [-(-index * timesteps // BINS) for index in range(BINS + 1)]  # rounded up
        means = []
        for first, end in pairwise(edges):
            within = first + torch.arange(pictures) * (end - first) // pictures  # [pictures]
            losses = self.losses(clean, noise, within.clamp(max=timesteps - 1), captions)
            means.append(float(losses.mean()))
        return means

    def least_loss(self) -> list[float] | None:
        """The least possible loss on the training latents by timestep bin, on the validation's own grid.

        Of a network that reads the first caption of each, where it reads text. None where there are too many latents,
        or fewer timesteps than bins.
        """
        latents = self.latents.training
        if latents.numel() > _MAX_FLOOR_NUMBERS or self.schedule.timesteps < BINS:
            return None
        if len(latents) == 1:
            return [0.0] * BINS
        # By caption: a network that reads the colours need only separate pictures that share them. Without this, the
        # training loss lay below its own floor, 0.019 against 0.055 (docs/log.md, tenth session).
        captions = None
        if self.recipe.text.kind != "none":
            first_captions = [sample.captions[0] for sample in self.samples]
            numbers = {caption: number for number, caption in enumerate(dict.fromkeys(first_captions))}
            captions = torch.tensor([numbers[caption] for caption in first_captions])  # [N]
        noise = grid_noise(self.recipe.validation.pictures, latents)
        floor = loss_floor(self.schedule, latents, noise, bins=BINS, captions=captions)
        return [float(value) for value in floor]


def grid_noise(pictures: int, latents: torch.Tensor) -> torch.Tensor:
    """The noise of every bin of the validation's grid, [pictures, C, h, w]: it never changes."""
    return torch.randn(pictures, *latents.shape[1:], generator=torch_generator("ldm validation"))
