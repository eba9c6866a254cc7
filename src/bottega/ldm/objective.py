"""What a step learns: the mean squared error of the prediction at stratified timesteps, computed in float32.

Legend: W samples of a batch, B of a part; C × h × w latents; T timesteps, in 10 bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bottega.diffusion.process import add_noise, prediction_target
from bottega.diffusion.schedule import NoiseSchedule
from bottega.ldm.batch_sampler import EpochSampler, StepSampler
from bottega.ldm.config import LDMRecipe
from bottega.ldm.data import Sample
from bottega.ldm.latents import Latents
from bottega.ldm.model import LatentDiffusion
from bottega.runtime.fingerprint import resumable_settings
from bottega.runtime.seeds import numpy_rng, torch_generator
from bottega.training.sampling import stratified_timesteps
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload

BINS = 10
"""Of the timesteps, in which losses are compared with the least that is possible."""


class LatentWorkload(Workload):
    """Trains `model` on latents with their captions.

    samples: the training samples, held_out: others, for validation only; in the order of `latents`.
    """

    def __init__(
        self,
        recipe: LDMRecipe,
        model: LatentDiffusion,
        latents: Latents,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        course: EpochSampler | StepSampler,
        device: torch.device,
    ) -> None:
        self.recipe, self.module, self.model = recipe, model, model
        self.latents, self.samples, self.held_out = latents, samples, held_out
        self.course, self.device = course, device
        self.path: NoiseSchedule = recipe.diffusion.path
        self.fingerprint = {}
        self.resumable = resumable_settings(recipe, "stage")
        self.floor: list[float] | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay on matrices and kernels only: norms, biases, embeddings and places have none."""
        decayed: list[torch.nn.Parameter] = []
        free: list[torch.nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            kernel = parameter.ndim >= 2 and not name.startswith(("words.embed", "words.place"))
            (decayed if kernel else free).append(parameter)
        decay = self.recipe.training.weight_decay
        return [
            {"params": decayed, "weight_decay": decay, "lr_multiplier": 1.0},
            {"params": free, "weight_decay": 0.0, "lr_multiplier": 1.0},
        ]

    def checkpoint_name(self, step: int) -> str:
        """By epochs, where they count."""
        return self.course.name(step)

    def due(self, step: int, every: int) -> bool:
        """At the ends of epochs, where they count, also after the number of samples was changed."""
        if isinstance(self.course, EpochSampler):
            return self.course.ends(step, self.recipe.training.save_every_epochs)
        return super().due(step, every)

    def metrics(self, step: int) -> dict[str, Any]:
        """Epoch (from 1) and prediction type."""
        return {
            "epoch": self.course.at(step).epoch + 1,
            "prediction_type": self.path.prediction_type,
            "num_samples": len(self.samples),
        }

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        """The batch of `step`, in `training.parts` parts; see `Workload.window`."""
        seed, batch = self.recipe.seed, self.recipe.training.batch_size
        rng = numpy_rng("ldm step", seed, step)
        indices = self.course.indices(seed, step)
        timesteps = torch.from_numpy(stratified_timesteps(rng, batch, 0, self.path.timesteps - 1))
        dropped = rng.random(batch) < self.recipe.text.dropout
        shape = self.latents.training.shape[1:]
        noise = torch.randn(batch, *shape, generator=torch_generator("ldm noise", seed, step))
        epoch = self.course.at(step).epoch
        size = batch // self.recipe.training.parts
        for first in range(0, batch, size)[share]:
            part = slice(first, first + size)
            chosen = [self.samples[index] for index in indices[part]]
            captions = [
                "" if drop else sample.captions[epoch % len(sample.captions)]
                for sample, drop in zip(chosen, dropped[part], strict=True)
            ]
            clean = self.latents.training[torch.from_numpy(indices[part])]  # [B, C, h, w]
            losses = self.losses(clean, noise[part], timesteps[part], captions)  # [B]
            yield Microbatch(
                loss=(losses * self._weights(timesteps[part]).to(losses)).sum() / batch,
                sample_losses=losses,
                sample_ids=[sample.name for sample in chosen],
                timesteps=timesteps[part].tolist(),
                tasks=["mse"] * len(chosen),
            )

    def losses(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: Sequence[str]
    ) -> torch.Tensor:
        """Mean squared error of each sample's prediction, float32 [B] on the device."""
        clean, noise, timesteps = (part.to(self.device) for part in (clean, noise, timesteps))
        alpha, sigma = self.path.coefficients(timesteps, clean)  # [B, 1, 1, 1]
        noised = add_noise(clean, noise, alpha, sigma)
        target = prediction_target(self.path.prediction_type, clean, noise, alpha, sigma)
        low = self.recipe.training.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            predicted = self.model(noised, timesteps, self.model.condition(captions))
        losses: torch.Tensor = (predicted.float() - target).square().flatten(1).mean(1)
        return losses

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Of each timestep in the loss, float32 [B]; their mean over all timesteps is 1."""
        least = self.recipe.diffusion.clean_weight
        if not least:
            return torch.ones(len(timesteps))
        table = np.maximum(self.path.sigma, least) ** -2.0
        return torch.from_numpy(table / table.mean()).float()[timesteps]

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Mean losses on a fixed grid: `train_bin_0` … by timestep bin on training pictures, `val_loss` and `val_bin_0`
        … on held-out ones where there are any; `floor_bin_0` …, the least that is possible on the training set, where
        it is known."""
        self.model.eval()
        found: dict[str, Any] = {}
        for name, latents, samples in (
            ("train", self.latents.training, self.samples),
            ("val", self.latents.held_out, self.held_out),
        ):
            if len(latents):
                bins = self._grid(latents, samples)
                found |= {f"{name}_bin_{b}": value for b, value in enumerate(bins)}
                found[f"{name}_loss"] = math.fsum(bins) / BINS
        if self.floor is not None:
            found |= {f"floor_bin_{b}": value for b, value in enumerate(self.floor)}
        self.model.train()
        return found

    def _grid(self, latents: torch.Tensor, samples: Sequence[Sample]) -> list[float]:
        """Mean loss by timestep bin over the first pictures, at the timesteps and with the noise of `loss_floor`."""
        pictures, last = self.recipe.validation.pictures, self.path.timesteps
        chosen = [i % len(latents) for i in range(pictures)]
        clean, captions = latents[chosen], [samples[i].captions[0] for i in chosen]
        noise, edges = grid_noise(pictures, latents), [-(-b * last // BINS) for b in range(BINS + 1)]
        means = []
        for first, end in pairwise(edges):
            timesteps = (first + torch.arange(pictures) * (end - first) // pictures).clamp(max=last - 1)
            means.append(float(self.losses(clean, noise, timesteps, captions).mean()))
        return means


def grid_noise(pictures: int, latents: torch.Tensor) -> torch.Tensor:
    """The noise of every bin of the validation's grid, [pictures, C, h, w]: it never changes."""
    return torch.randn(pictures, *latents.shape[1:], generator=torch_generator("ldm validation"))
