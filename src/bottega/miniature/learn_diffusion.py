"""Train the teacher (SDXL's U-Net with an IP-Adapter) and the student's base (T5 and PixArt-α) on the drawn corpus.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.miniature import models
from bottega.miniature.corpus import Corpus, Pictures
from bottega.miniature.fill50k import fill50k_example
from bottega.miniature.fit import Losses, fit
from bottega.miniature.learn_encoders import to_clip
from bottega.miniature.open_path import open_path
from bottega.miniature.scenes import scene
from bottega.miniature.words import t5_tokenizer
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import to_signed

Latents = npt.NDArray[np.float16]  # [N, C, H, W]
READ_AFTER = 6  # block of the transformer from which the classes of the cells are read in training
TEACHER_START = 361  # first timestep of 25 DDIM steps at strength 0.40


@torch.no_grad()
def encode(vae: Any, pictures: Pictures, scaling: float, batch: int = 32) -> Latents:
    """Pictures [N, 128, 128, 3] -> scaled latents [N, 4, 32, 32]."""
    parts = [vae.encode(to_signed(pictures[i : i + batch])).latents * scaling for i in range(0, len(pictures), batch)]
    return torch.cat(parts).half().numpy()


@torch.no_grad()
def embed(clip: Any, pictures: Pictures, batch: int = 64) -> npt.NDArray[np.float32]:
    """Pictures -> projected CLIP embeddings as the IP-Adapter receives them (not normalised), [N, D]."""
    parts = []
    for i in range(0, len(pictures), batch):
        parts.append(
            clip.visual_projection(clip.vision_model(pixel_values=to_clip(pictures[i : i + batch])).pooler_output)
        )
    return torch.cat(parts).numpy()


def alphas_cumulative(config: Mapping[str, object]) -> torch.Tensor:
    """ᾱ of every timestep, [1000], for the two schedules in use."""
    low, high, steps = float(config["beta_start"]), float(config["beta_end"]), int(config["num_train_timesteps"])  # type: ignore[arg-type,call-overload]
    if config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(low, high, steps, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


class SDXLText(torch.nn.Module):
    """Both text encoders as SDXL's pipeline uses them: second to last states side by side, pooled from the second."""

    def __init__(self, tokenizer: Any, clip: Any, second: Any) -> None:
        super().__init__()
        self.tokenizer, self.first, self.second = tokenizer, clip.text_model, second

    @torch.no_grad()
    def forward(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> (states [B, 77, 2 D], pooled [B, D]); an empty caption gives zeros, as SDXL's pipeline does."""
        ids = self.tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        first = self.first(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        second = self.second(input_ids=ids, output_hidden_states=True)
        keep = torch.tensor([[float(bool(c))] for c in captions])
        return torch.cat([first, second.hidden_states[-2]], -1) * keep[..., None], second.text_embeds * keep


def add_ip_adapter(unet: Any) -> None:
    """Give the U-Net a fresh IP-Adapter in the published key layout: K and V start as those of the text."""
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    width = unet.config.cross_attention_dim
    state["image_proj"]["proj.weight"] = torch.randn(models.IP_TOKENS * width, models.WIDTH) * models.WIDTH**-0.5
    state["image_proj"]["proj.bias"] = torch.zeros(models.IP_TOKENS * width)
    state["image_proj"]["norm.weight"], state["image_proj"]["norm.bias"] = torch.ones(width), torch.zeros(width)
    number = 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            state["ip_adapter"][f"{number}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
            state["ip_adapter"][f"{number}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
            number += 2
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)


def learn_teacher(
    corpus: Corpus,
    plain: Latents,
    painted: Latents,
    styles: npt.NDArray[np.float32],
    text: SDXLText,
    folder: Path,
    steps: int,
) -> Any:
    """Learn to go from the noised plain picture to the painted one.

    Along DDIM's path from the noised content at t_s to the target, the noise that remains is constant,
    ε̃ = ε + (α_s/σ_s)(z_content − z_target), and x_t = α_t z_target + σ_t ε̃ (see diffusion/); the network learns ε̃.
    Of eight noises each sample takes the one that lies nearest to its target's strokes (coupling as in arXiv
    2304.14772), so that where the strokes fall can be read from the noise instead of being averaged over.
    One sample in eight is ordinary noising instead, over all timesteps, so that the model also draws from noise.
    """
    torch.manual_seed(5)
    unet = models.unet()
    add_ip_adapter(unet)
    unet.requires_grad_(True)
    signal = alphas_cumulative(models.teacher_scheduler())
    alpha, sigma = signal.sqrt().float(), (1 - signal).sqrt().float()
    unet.to(memory_format=torch.channels_last)
    batch, choices = 8, 8
    sizes = (
        torch.tensor([[models.PICTURE, models.PICTURE, 0, 0, models.PICTURE, models.PICTURE]]).float().repeat(batch, 1)
    )
    processors = [p for n, p in unet.attn_processors.items() if n.endswith("attn2.processor")]

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature teacher", step)
        rows = rng.integers(len(corpus), size=batch)
        content, target = torch.from_numpy(plain[rows]).float(), torch.from_numpy(painted[rows]).float()  # [B, C, H, W]
        style = torch.from_numpy(styles[[corpus.sibling(int(r), int(rng.integers(1 << 30))) for r in rows]])[
            :, None
        ]  # [B, 1, D]
        captions = [scene(corpus.scene_of(int(r))).caption(int(rng.integers(5))) for r in rows]
        start = np.where(rng.random(batch) < 0.7, TEACHER_START, rng.integers(200, 640, batch))
        t = np.floor((start + 1) * rng.random(batch) ** 0.6).astype(np.int64)
        noises = torch.from_numpy(rng.standard_normal((batch, choices, *content.shape[1:]), dtype=np.float32))
        strokes = target - content
        strokes = strokes - F.avg_pool2d(strokes, 5, stride=1, padding=2, count_include_pad=False)  # not the palette
        likeness = (noises * strokes[:, None]).sum((2, 3, 4))  # [B, choices]
        noise = noises[torch.arange(batch), likeness.argmax(1)]
        shift = torch.from_numpy(alpha.numpy()[start] / sigma.numpy()[start]).view(-1, 1, 1, 1) * (content - target)
        shift[0], noise[0], t[0] = 0, noises[0, 0], rng.integers(1000)  # ordinary noising of the painted picture,
        if rng.random() < 0.4:  # or of the plain one without a style
            target[0], style[0] = content[0], 0
        for k in range(batch):
            if (drop := rng.random()) < 0.14:
                captions[k] = ""
            if 0.06 < drop < 0.16:
                style[k] = 0
        noise = noise + shift
        moments = torch.from_numpy(t)
        x = alpha[moments].view(-1, 1, 1, 1) * target + sigma[moments].view(-1, 1, 1, 1) * noise
        for processor in processors:
            processor.scale = [float(rng.uniform(0.3, 1.0))]
        states, pooled = text(captions)
        conditions = {"text_embeds": pooled, "time_ids": sizes, "image_embeds": [style]}
        guess = unet(x, moments, encoder_hidden_states=states, added_cond_kwargs=conditions).sample
        ratio = (signal / (1 - signal)).float()[moments]
        weight = torch.clamp(2 / ratio, max=1.0)
        return {"mse": (weight * (guess - noise).square().mean((1, 2, 3))).mean()}

    fit(folder, "teacher", {"unet": unet}, losses, steps=steps, learning_rate=1e-3, warm_up=150, save_every=200)
    unet.to(memory_format=torch.contiguous_format)
    return unet


def learn_pixart(
    corpus: Corpus,
    plain: Latents,
    painted: Latents,
    vae: Any,
    scaling: float,
    folder: Path,
    steps: int,
    circles: int = 1500,
) -> tuple[Any, Any]:
    """Text to picture, T5 and transformer together: 45 % plain, 45 % painted (captions silent on style), 10 % Fill50K.

    Two in three of the painted pictures' captions name no colour, since the painter replaced them. The error of ε is
    weighted like that of x̂0 where noise prevails, 1/ᾱ up to 1 000, or captions are learned last of all (see
    docs/log.md), and min(SNR, 5)/SNR where it does not (Min-SNR-γ, arXiv 2303.09556). The variance half learns by its
    bound (arXiv 2102.09672).
    """
    torch.manual_seed(6)
    tokenizer = t5_tokenizer(folder / "t5_tokenizer")
    t5, transformer = models.t5(len(tokenizer)), models.pixart()
    signal = alphas_cumulative(models.pixart_scheduler())
    constant = open_path(transformer, signal)
    cells = models.LATENT // transformer.config.patch_size  # tokens a side
    head = torch.nn.Linear(transformer.inner_dim, (1 + int(corpus.labels.max())) * transformer.config.patch_size**2)
    middle: list[torch.Tensor] = []
    hook = transformer.transformer_blocks[READ_AFTER].register_forward_hook(lambda _, __, states: middle.append(states))
    alpha, sigma = signal.sqrt().float(), (1 - signal).sqrt().float()
    examples = [fill50k_example(i) for i in range(circles)]
    filled = encode(vae, np.stack([e[1] for e in examples]), scaling)
    batch = 16
    unknown = np.full((models.LATENT, models.LATENT), -100, np.int64)

    def one(rng: np.random.Generator, k: int) -> tuple[Latents, str, npt.NDArray[np.int64]]:
        if rng.random() < 0.1:
            i = int(rng.integers(len(examples)))
            return filled[i], examples[i][2], unknown
        row = int(rng.integers(len(corpus)))
        view = scene(corpus.scene_of(row))
        labels = corpus.labels[row, 2::4, 2::4].astype(np.int64)
        if k % 2:
            return plain[row], view.caption(int(rng.integers(5))), labels
        return painted[row], view.caption(int(rng.integers(5))) if rng.random() < 0.35 else view.colourless(), labels

    def reading(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the classes that the tokens [B, L, D] tell of their cells; labels [B, H, W]."""
        side = transformer.config.patch_size
        told = head(states - constant).view(len(states), cells, cells, side, side, -1).permute(0, 5, 1, 3, 2, 4)
        return F.cross_entropy(told.reshape(len(states), -1, *labels.shape[1:]), labels, ignore_index=-100)

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature pixart", step)
        rows = [one(rng, k) for k in range(batch)]
        target = torch.from_numpy(np.stack([r[0] for r in rows])).float()
        captions = [r[1] if rng.random() > 0.1 else "" for r in rows]
        tokens = tokenizer(captions, padding=True, truncation=True, max_length=120, return_tensors="pt")
        states = t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state  # [B, L, D]
        moments = torch.from_numpy(np.floor((np.arange(batch) + rng.random(batch)) / batch * 1000).astype(np.int64))
        noise = torch.from_numpy(rng.standard_normal(target.shape, dtype=np.float32))
        x = alpha[moments].view(-1, 1, 1, 1) * target + sigma[moments].view(-1, 1, 1, 1) * noise
        nothing = {"resolution": None, "aspect_ratio": None}
        out = transformer(
            x,
            encoder_hidden_states=states,
            encoder_attention_mask=tokens.attention_mask,
            timestep=moments,
            added_cond_kwargs=nothing,
        ).sample
        guess, variance = out.chunk(2, dim=1)
        now = signal.float()[moments]
        weight = torch.clamp(5 * (1 - now) / now, max=1.0) * torch.clamp(1 / now, max=1000.0)
        labels = torch.from_numpy(np.stack([r[2] for r in rows]))  # [B, H, W]
        return {
            "mse": (weight * (guess - noise).square().mean((1, 2, 3))).mean(),
            "bound": 1e-3 * variational_bound(guess.detach(), variance, noise, moments, signal),
            "reading": 0.2 * reading(middle.pop(), labels),
        }

    fit(
        folder,
        "pixart",
        {"t5": t5, "transformer": transformer, "head": head},
        losses,
        steps=steps,
        learning_rate=1e-3,
        warm_up=100,
        weight_decay=0.0,
        save_every=200,
        slow={"adaln_single.linear.weight": 0.03, "attn2.to_q.weight": 0.3},
    )
    hook.remove()
    return t5, transformer


def variational_bound(
    guess: torch.Tensor, variance: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, signal: torch.Tensor
) -> torch.Tensor:
    """KL between the true and the model's step to t−1, in bits a dimension, t > 0 (arXiv 2102.09672, eqs. 4 and 15).

    The difference of the means is that of the noises times β_t / (√α_t σ_t); the model's log variance lies between
    log β̃_t and log β_t at the share (v + 1)/2.
    """
    before = torch.cat([torch.ones(1, dtype=signal.dtype), signal[:-1]])[t].view(-1, 1, 1, 1)
    now = signal[t].view(-1, 1, 1, 1)
    beta = 1 - now / before
    posterior = (beta * (1 - before) / (1 - now)).clamp(min=1e-10)
    share = (variance.double() + 1) / 2
    log_model = share * beta.log() + (1 - share) * posterior.log()
    difference = (guess - noise).double() * beta / ((1 - beta).sqrt() * (1 - now).sqrt())
    divergence = 0.5 * (
        log_model - posterior.log() - 1 + (posterior.log() - log_model).exp() + difference.square() * (-log_model).exp()
    )
    keep = (t > 0).double().view(-1, 1, 1, 1)
    bound: torch.Tensor = ((divergence * keep).mean() / math.log(2)).float()
    return bound
