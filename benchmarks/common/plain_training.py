"""The peers of the training's benchmarks: the scripts that people write around diffusers' PixArtTransformer2DModel.

Same as ours, and taken from the package: the StyleAdapter with its attention processors, the reader of features or the
encoders that made them (in float32, batch by batch, without gradients), the loss of a sample. They write no log and no
checkpoint and validate nothing. Their own is the step: the whole transformer is called by its own `forward` after
`enable_gradient_checkpointing()`. What the usual script does and the careful one does not:

    captions are padded to 120 tokens, in T5 and in the transformer, as diffusers' pipeline and PixArt script do;
    the noised latents are made to require grad, as scripts have done since reentrant checkpointing needed it: gradients
    then run through every block, down to the latents, and each block is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.data.pictures import load_square
from bottega.diffusion.process import effective_noise, min_snr_weight
from bottega.models.autoencoder import LatentEncoder
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.attach import Attachment
from bottega.student.backbone import read_schedule
from bottega.student.config import StudentConfig
from bottega.student.encode import TextEncoder, clean, load_clip
from bottega.student.features import null_text_key
from bottega.student.objective import shares
from bottega.student.store import FeatureStore, pad_text, read_samples

Rows = Sequence[dict[str, Any]]
LIMIT = 120  # tokens of a caption
Captions = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Batch:
    """Latents [B, C, h, w]; T5 states [B, M, P] with their mask [B, M]; CLIP embeddings [B, D]; weights [B]."""

    target: torch.Tensor
    content: torch.Tensor
    text: torch.Tensor
    mask: torch.Tensor
    style: torch.Tensor
    style_content: torch.Tensor
    weights: torch.Tensor


class CachedReader:
    """Samples from a feature cache that is held in memory."""

    def __init__(self, features: Path, config: StudentConfig, *, careful: bool) -> None:
        self.store, self.config, self.careful = FeatureStore(features), config, careful
        self.rows = read_samples(features)
        self.width = int(self.store.manifest["clip_width"])
        self.null = self.store.text_row(null_text_key(self.store.manifest))

    def read(self, rows: Rows, drop_text: Sequence[bool]) -> Batch:
        """A batch of rows of samples.jsonl; `drop_text`: whose caption is replaced by the null prompt."""
        latents = [self.store.latents([row[name] for row in rows]) for name in ("target", "content")]
        captions = [
            self.null if drop else self.store.text_row(row["text"]) for row, drop in zip(rows, drop_text, strict=True)
        ]
        styles = torch.ones(2, len(rows), self.width)
        known = [i for i, row in enumerate(rows) if row["style"] is not None]
        for which, name in enumerate(("style", "clip_content")):
            styles[which, known] = self.store.clip([rows[i][name] for i in known])
        weights = shares(list(rows), self.config.fill50k_weight)
        text, mask = pad_text(captions) if self.careful else padded(*pad_text(captions))
        return Batch(latents[0], latents[1], text, mask, styles[0], styles[1], weights)


class EncodingReader:
    """Samples from picture files: T5, the autoencoder and CLIP are held in memory and called for every batch."""

    def __init__(self, pixart: Path, clip: Path, rows: Rows, pixels: int, config: StudentConfig) -> None:
        self.rows, self.pixels, self.config = list(rows), pixels, config
        self.vae = LatentEncoder(pixart / "vae", "cpu")
        self.t5 = TextEncoder(pixart, LIMIT, "float32", "cpu")
        self.clip = load_clip(clip, "cpu")
        self.width = int(self.clip.width)

    def read(self, rows: Rows, drop_text: Sequence[bool]) -> Batch:
        """A batch of samples; `drop_text`: whose caption is empty."""
        target, content = (self._pictures(rows, name) for name in ("target", "content"))
        text, mask = self._encode(["" if drop else row["prompt"] for row, drop in zip(rows, drop_text, strict=True)])
        styles = torch.ones(2, len(rows), self.width)
        known = [i for i, row in enumerate(rows) if row["style"] is not None]
        if known:
            style = self._pictures([rows[i] for i in known], "style")
            for which, pictures in enumerate((style, content[known])):
                styles[which, known] = torch.from_numpy(self.clip.image(pictures))
        weights = shares(list(rows), self.config.fill50k_weight)
        latents = [self.vae.encode(pictures) for pictures in (target, content)]
        return Batch(latents[0], latents[1], text, mask, styles[0], styles[1], weights)

    @torch.no_grad()
    def _encode(self, captions: Sequence[str]) -> Captions:
        """T5 states [B, 120, P] and their mask [B, 120]."""
        words = [clean(caption) for caption in captions]
        tokens = self.t5.tokenizer(words, padding="max_length", max_length=LIMIT, truncation=True, return_tensors="pt")
        states = self.t5.model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states, tokens.attention_mask.float()

    def _pictures(self, rows: Rows, name: str) -> Any:
        return np.stack([load_square(Path(row[name]), self.pixels) for row in rows])  # uint8 [B, S, S, 3]


def padded(text: torch.Tensor, mask: torch.Tensor) -> Captions:
    """States [B, M, P] and mask [B, M] filled up with zeros to 120 tokens."""
    more = LIMIT - text.shape[1]
    return torch.nn.functional.pad(text, (0, 0, 0, more)), torch.nn.functional.pad(mask, (0, more))


class PlainTrainer:
    """The script: model, adapter, AdamW and the step.

    careful: the noised latents don't require grad, so that autograd leaves out the blocks before the first adapted one.
    """

    def __init__(
        self, pixart: Path, reader: CachedReader | EncodingReader, config: StudentConfig, *, careful: bool
    ) -> None:
        from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

        self.reader, self.config, self.careful = reader, config, careful
        self.transformer = PixArtTransformer2DModel.from_pretrained(
            pixart / "transformer", torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        self.transformer.requires_grad_(False)
        self.transformer.enable_gradient_checkpointing()
        self.transformer.train()
        self.schedule = read_schedule(DPMSolverMultistepScheduler.from_pretrained(pixart / "scheduler"))
        geometry = Geometry.of(self.transformer, self.schedule.timesteps, reader.width)
        self.adapter = StyleAdapter.from_transformer(self.transformer, config.adapter, geometry, seed=config.seed)
        self.attachment = Attachment(self.transformer, self.adapter)
        self.content: Any = 0.0  # what the content adds before the first adapted block, [B, L, I]
        first = self.transformer.transformer_blocks[self.adapter.first_block]
        first.register_forward_pre_hook(lambda _, inputs: (inputs[0] + self.content, *inputs[1:]))
        self.parameters = list(self.adapter.parameters())
        groups = self.adapter.parameter_groups(config.loop.weight_decay, config.gate_lr_multiplier)
        self.optimizer = torch.optim.AdamW(groups, lr=config.loop.learning_rate, betas=config.loop.betas)
        self.start = self.schedule.start_timestep(config.adapter.strength)

    def step(self, rows: Rows) -> float:
        """One step of the optimizer; returns the loss."""
        size, drop = len(rows), torch.rand(len(rows))
        rate = self.config.dropout
        batch = self.reader.read(rows, (drop < rate.text + rate.both).tolist())
        dropped = (drop > rate.text) & (drop < rate.text + rate.both + rate.style)
        dropped |= torch.tensor([row["style"] is None for row in rows])
        loss = self.loss(batch, torch.randn_like(batch.target), torch.randint(0, self.start + 1, (size,)), dropped)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.loop.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def loss(self, batch: Batch, noise: torch.Tensor, times: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """Of a batch; noise [B, C, h, w]; times int [B]; dropped bool [B], whose style is null."""
        alpha, sigma = self.schedule.coefficients(times, noise)
        bar = self.schedule.alpha_bar_at(self.start)
        noise = effective_noise(noise, batch.content, batch.target, bar**0.5, (1.0 - bar) ** 0.5)
        noised = (alpha * batch.target + sigma * noise).requires_grad_(not self.careful)
        tokens, _ = self.adapter.style(batch.style, batch.style_content, dropped)
        rows, columns = (side // self.transformer.config.patch_size for side in noised.shape[-2:])
        # both stay in place until the next step, for the backward pass computes the blocks again
        self.attachment.slot.injection = self.adapter.injection(tokens, times, (rows, columns))
        self.content = self.adapter.content(batch.content) if self.adapter.content is not None else 0.0
        output = self.transformer(
            noised,
            encoder_hidden_states=batch.text,
            encoder_attention_mask=batch.mask,
            timestep=times,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        error = (output.chunk(2, dim=1)[0] - noise).square().mean(dim=(1, 2, 3))  # [B]
        if self.config.min_snr_gamma is not None:
            alpha, sigma = self.schedule.coefficients(times, times.float())
            error = error * min_snr_weight("epsilon", alpha, sigma, self.config.min_snr_gamma)
        loss: torch.Tensor = (batch.weights * error).sum()
        return loss
