"""Train the student's base, T5 and PixArt-α together, to draw from captions.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D width, T timesteps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures
from bottega.miniature.builder.corpus import Corpus
from bottega.miniature.builder.encoding import Latents, encode
from bottega.miniature.builder.open_path import open_path
from bottega.miniature.builder.tokenizers import t5_tokenizer
from bottega.miniature.builder.trainer import Losses, fit
from bottega.miniature.fill50k import fill50k_example
from bottega.miniature.scenes import scene
from bottega.runtime.seeds import numpy_rng

if TYPE_CHECKING:
    from diffusers import PixArtTransformer2DModel
    from transformers import T5EncoderModel

READ_AFTER = 6  # block of the transformer from which the classes of the cells are read in training
BATCH = 16
_IGNORED = -100  # a label that cross entropy passes over: Fill50K has no classes of cells


class Example(NamedTuple):
    """What PixArt is shown: a picture, a caption of it, and the class of each latent cell."""

    latents: Latents  # [C, H, W]
    caption: str
    labels: npt.NDArray[np.int64]  # [H, W]


def learn_pixart(
    corpus: Corpus,
    plain: Latents,
    painted: Latents,
    vae: Any,
    scaling: float,
    folder: Path,
    steps: int,
    circles: int = 1500,
) -> tuple[T5EncoderModel, PixArtTransformer2DModel]:
    """Text to picture, T5 and transformer together: 45 % plain, 45 % painted (captions silent on style), 10 % Fill50K.

    Two in three of the painted pictures' captions name no colour, since the painter replaced them. The error of ε is
    weighted like that of x̂0 where noise prevails, 1/ᾱ up to 1 000, or captions are learned last of all (see
    docs/log.md), and min(SNR, 5)/SNR where it does not (Min-SNR-γ, arXiv 2303.09556). The variance half learns by its
    bound (arXiv 2102.09672). A linear head, thrown away afterwards, reads the classes of the cells from a middle block.
    """
    torch.manual_seed(6)
    tokenizer = t5_tokenizer(folder / "t5_tokenizer")
    t5, transformer = architectures.t5(len(tokenizer)), architectures.pixart()
    alpha_bar = torch.from_numpy(from_scheduler_config(architectures.pixart_scheduler()).alpha_bar)  # float64 [T]
    alpha, sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    constant = open_path(transformer, alpha_bar)
    head = CellReader(transformer, 1 + int(corpus.labels.max()), constant)
    examples = _Examples(corpus, plain, painted, vae, scaling, circles)

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature pixart", step)
        rows = [examples.draw(rng, plain=k % 2 == 1) for k in range(BATCH)]
        target = torch.from_numpy(np.stack([row.latents for row in rows])).float()  # [B, C, H, W]
        captions = [row.caption if rng.random() > 0.1 else "" for row in rows]
        tokens = tokenizer(captions, padding=True, truncation=True, max_length=120, return_tensors="pt")
        states = t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state  # [B, L, D]
        shares = (np.arange(BATCH) + rng.random(BATCH)) / BATCH  # one from each of as many equal parts
        timestep = torch.from_numpy(np.floor(shares * 1000).astype(np.int64))
        noise = torch.from_numpy(rng.standard_normal(target.shape, dtype=np.float32))
        x = alpha[timestep].view(-1, 1, 1, 1) * target + sigma[timestep].view(-1, 1, 1, 1) * noise
        output = transformer(
            x,
            encoder_hidden_states=states,
            encoder_attention_mask=tokens.attention_mask,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        guess, variance = output.chunk(2, dim=1)
        now = alpha_bar.float()[timestep]
        min_snr = torch.clamp(5 * (1 - now) / now, max=1.0)
        weight = min_snr * torch.clamp(1 / now, max=1000.0)
        error = (guess - noise).square().mean((1, 2, 3))  # [B]
        labels = torch.from_numpy(np.stack([row.labels for row in rows]))  # [B, H, W]
        return {
            "mse": (weight * error).mean(),
            "bound": 1e-3 * variational_bound(guess.detach(), variance, noise, timestep, alpha_bar),
            "reading": 0.2 * head.loss(labels),
        }

    fit(
        folder,
        "pixart",
        {"t5": t5, "transformer": transformer, "head": head.linear},
        losses,
        steps=steps,
        learning_rate=1e-3,
        warm_up=100,
        weight_decay=0.0,
        pace={"adaln_single.linear.weight": 0.03, "attn2.to_q.weight": 0.3},
    )
    head.remove()
    return t5, transformer


class _Examples:
    """What PixArt is shown: the corpus, and circles of Fill50K, encoded once."""

    def __init__(
        self, corpus: Corpus, plain: Latents, painted: Latents, vae: Any, scaling: float, circles: int
    ) -> None:
        self.corpus = corpus
        self.plain = plain
        self.painted = painted
        self.prompts = []
        targets = []
        for index in range(circles):
            _, target, prompt = fill50k_example(index)
            self.prompts.append(prompt)
            targets.append(target)
        self.filled = encode(vae, np.stack(targets), scaling)

    def draw(self, rng: np.random.Generator, plain: bool) -> Example:
        """One in ten is a circle; else a scene, plain or painted, with one of its captions."""
        if rng.random() < 0.1:
            circle = int(rng.integers(len(self.prompts)))
            unknown = np.full((architectures.LATENT, architectures.LATENT), _IGNORED, np.int64)
            return Example(self.filled[circle], self.prompts[circle], unknown)
        row = int(rng.integers(len(self.corpus)))
        view = scene(self.corpus.scene_of(row))
        labels = self.corpus.labels[row, 2::4, 2::4].astype(np.int64)
        if plain:
            return Example(self.plain[row], view.caption(int(rng.integers(5))), labels)
        if rng.random() < 0.35:
            return Example(self.painted[row], view.caption(int(rng.integers(5))), labels)
        return Example(self.painted[row], view.colourless(), labels)


class CellReader:
    """Reads the class of each latent cell from the tokens of a middle block, so that shapes are learned there."""

    def __init__(self, transformer: Any, classes: int, constant: torch.Tensor) -> None:
        self.side = transformer.config.patch_size  # cells a side of one token
        self.tokens = transformer.config.sample_size // self.side  # tokens a side
        self.constant = constant  # [D], in every hidden state (see `open_path`)
        self.linear = torch.nn.Linear(transformer.inner_dim, classes * self.side**2)
        self.states: list[torch.Tensor] = []
        self.hook = transformer.transformer_blocks[READ_AFTER].register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _inputs: Any, states: torch.Tensor) -> None:
        self.states.append(states)

    def loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the classes read from the last forward pass; labels [B, H, W]."""
        states = self.states.pop()  # [B, L, D]
        read = self.linear(states - self.constant)
        read = read.view(len(states), self.tokens, self.tokens, self.side, self.side, -1)
        read = read.permute(0, 5, 1, 3, 2, 4).reshape(len(states), -1, *labels.shape[1:])  # [B, classes, H, W]
        return F.cross_entropy(read, labels, ignore_index=_IGNORED)

    def remove(self) -> None:
        """Take the hook out of the transformer."""
        self.hook.remove()


def variational_bound(
    guess: torch.Tensor, variance: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """KL between the true and the model's step to t−1, in bits a dimension, t > 0 (arXiv 2102.09672, eqs. 4 and 15).

    The difference of the means is that of the noises times β_t / (√α_t σ_t); the model's log variance lies between
    log β̃_t and log β_t at the share (v + 1)/2.

    Args:
        guess: ε̂, [B, C, H, W]; detach it, so that the bound moves the variance alone.
        variance: v in about -1…1, [B, C, H, W].
        noise: ε, [B, C, H, W].
        t: timesteps, [B].
        alpha_bar: float64 [T].
    """
    before = torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])  # ᾱ_{t−1}; 1 before the first
    previous = before[t].view(-1, 1, 1, 1)
    now = alpha_bar[t].view(-1, 1, 1, 1)
    beta = 1 - now / previous
    posterior = (beta * (1 - previous) / (1 - now)).clamp(min=1e-10)
    share = (variance.double() + 1) / 2
    log_model = share * beta.log() + (1 - share) * posterior.log()
    difference = (guess - noise).double() * beta / ((1 - beta).sqrt() * (1 - now).sqrt())
    ratio = posterior.log() - log_model
    divergence = 0.5 * (ratio.exp() - ratio - 1 + difference.square() * (-log_model).exp())
    counted = (t > 0).double().view(-1, 1, 1, 1)
    nats = (divergence * counted).mean()
    bound: torch.Tensor = (nats / math.log(2)).float()
    return bound
