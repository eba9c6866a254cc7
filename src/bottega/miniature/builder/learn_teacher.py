"""The short training of the teacher, SDXL's U-Net with an IP-Adapter, in `bottega miniature build`.

The weights that are shipped come from the long one, `bottega.miniature.builder.sdxl_task`.

Dimensions: B batch, C latent channels, H W latent sides, D width of CLIP's joint space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures
from bottega.miniature.builder.corpus import Corpus
from bottega.miniature.builder.encoding import Latents, SDXLText
from bottega.miniature.builder.ip_adapter import add_ip_adapter
from bottega.miniature.builder.trainer import Losses, fit
from bottega.miniature.scenes import scene
from bottega.runtime.seeds import numpy_rng

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

TEACHER_START = 361  # first timestep of 25 DDIM steps at strength 0.40
BATCH = 8
NOISES = 8  # from which each sample takes the one that lies nearest to its strokes


def learn_teacher(
    corpus: Corpus,
    plain: Latents,
    painted: Latents,
    styles: npt.NDArray[np.float32],
    text: SDXLText,
    folder: Path,
    steps: int,
) -> UNet2DConditionModel:
    """Learn to go from the noised plain picture to the painted one.

    Along DDIM's path from the noised content at t_s to the target, the noise that remains is constant,
    ε̃ = ε + (α_s/σ_s)(z_content − z_target), and x_t = α_t z_target + σ_t ε̃ (see diffusion/); the network learns ε̃.
    Of eight noises each sample takes the one that lies nearest to its target's strokes (coupling as in arXiv
    2304.14772), so that where the strokes fall can be read from the noise instead of being averaged over.
    One sample in eight is ordinary noising instead, over all timesteps, so that the model also draws from noise.
    """
    torch.manual_seed(5)
    unet = architectures.unet()
    add_ip_adapter(unet)
    unet.requires_grad_(True)
    unet.to(memory_format=torch.channels_last)
    alpha_bar = torch.from_numpy(from_scheduler_config(architectures.teacher_scheduler()).alpha_bar)  # [T]
    alpha, sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    snr = (alpha_bar / (1 - alpha_bar)).float()
    sizes = architectures.size_ids(BATCH)
    processors = [p for n, p in unet.attn_processors.items() if n.endswith("attn2.processor")]

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature teacher", step)
        rows = rng.integers(len(corpus), size=BATCH)
        content = torch.from_numpy(plain[rows]).float()  # [B, C, H, W]
        target = torch.from_numpy(painted[rows]).float()
        siblings = [corpus.sibling(int(row), int(rng.integers(1 << 30))) for row in rows]
        style = torch.from_numpy(styles[siblings])[:, None]  # [B, 1, D]
        captions = [scene(corpus.scene_of(int(row))).caption(int(rng.integers(5))) for row in rows]
        start = np.where(rng.random(BATCH) < 0.7, TEACHER_START, rng.integers(200, 640, BATCH))
        timestep = np.floor((start + 1) * rng.random(BATCH) ** 0.6).astype(np.int64)
        noises = torch.from_numpy(rng.standard_normal((BATCH, NOISES, *content.shape[1:]), dtype=np.float32))
        noise = _nearest_to_strokes(noises, target - content)
        ratio = torch.from_numpy(alpha.numpy()[start] / sigma.numpy()[start]).view(-1, 1, 1, 1)
        shift = ratio * (content - target)
        # The first sample is ordinary noising of the painted picture, or of the plain one without a style.
        shift[0] = 0
        noise[0] = noises[0, 0]
        timestep[0] = rng.integers(1000)
        if rng.random() < 0.4:
            target[0] = content[0]
            style[0] = 0
        for k in range(BATCH):
            drop = rng.random()
            if drop < 0.14:
                captions[k] = ""
            if 0.06 < drop < 0.16:
                style[k] = 0
        noise = noise + shift
        moments = torch.from_numpy(timestep)
        x = alpha[moments].view(-1, 1, 1, 1) * target + sigma[moments].view(-1, 1, 1, 1) * noise
        for processor in processors:
            processor.scale = [float(rng.uniform(0.3, 1.0))]
        states, pooled = text(captions)
        conditions = {"text_embeds": pooled, "time_ids": sizes, "image_embeds": [style]}
        guess = unet(x, moments, encoder_hidden_states=states, added_cond_kwargs=conditions).sample
        weight = torch.clamp(2 / snr[moments], max=1.0)
        return {"mse": (weight * (guess - noise).square().mean((1, 2, 3))).mean()}

    fit(folder, "teacher", {"unet": unet}, losses, steps=steps, learning_rate=1e-3, warm_up=150)
    unet.to(memory_format=torch.contiguous_format)
    return unet


def _nearest_to_strokes(noises: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Of each sample's noises [B, N, C, H, W] the one nearest to what its painter adds, without his palette."""
    palette = F.avg_pool2d(change, 5, stride=1, padding=2, count_include_pad=False)
    product = (noises * (change - palette)[:, None]).sum((2, 3, 4))  # [B, N]
    return noises[torch.arange(len(noises)), product.argmax(1)]
