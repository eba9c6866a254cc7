"""Train the autoencoder, CLIP with both text encoders, and the three judges, each on the drawn corpus.

Dimensions: B batch, C channels, H W picture sides, D joint width, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.miniature.builder import architectures
from bottega.miniature.builder.corpus import Corpus
from bottega.miniature.builder.encoding import encode, to_clip
from bottega.miniature.builder.tokenizers import clip_tokenizer
from bottega.miniature.builder.trainer import Losses, fit
from bottega.miniature.painters import KINDS, painter
from bottega.miniature.scenes import scene
from bottega.miniature.words import STYLE_PHRASE
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Pictures, to_signed

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny
    from transformers import CLIPModel, CLIPTextModelWithProjection

PALETTE = 12  # numbers of a palette: four colours in Lab


def learn_vae(corpus: Corpus, folder: Path, steps: int) -> AutoencoderTiny:
    """Reconstruct crops of 64², two of three painted; latents stay near mean 0 and deviation 1, shaken a little.

    Latents at half the size decode to the picture at half the size, which keeps them smooth enough for diffusion (scale
    equivariance, arXiv 2502.09509).
    """
    torch.manual_seed(0)
    vae = architectures.autoencoder().to(memory_format=torch.channels_last)
    batch, side = 12, 64

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature vae", step)
        crops = np.empty((batch, side, side, 3), np.uint8)
        for k, row in enumerate(rng.integers(len(corpus), size=batch)):
            source = corpus.plain if k % 3 == 0 else corpus.painted
            y, x = rng.integers(0, architectures.PICTURE - side + 1, 2)
            crops[k] = source[row, y : y + side, x : x + side]
        target = to_signed(crops).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(target).latents  # [B, 4, 16, 16]
        shaken = latents + 0.05 * torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        error = vae.decode(shaken).sample - target
        half = vae.decode(F.avg_pool2d(latents, 2)).sample
        small = half - F.avg_pool2d(target, 2)
        mean = latents.mean((0, 2, 3))  # [C]
        deviation = latents.std((0, 2, 3))
        spread = mean.square().mean() + (deviation - 1).square().mean()
        return {
            "mse": error.square().mean(),
            "l1": 0.02 * error.abs().mean(),
            "half": 0.25 * small.square().mean(),
            "latents": 5e-3 * spread,
        }

    fit(folder, "vae", {"vae": vae}, losses, steps=steps, learning_rate=2e-3)
    return vae


def scale_latents(vae: Any, corpus: Corpus, count: int = 256) -> None:
    """Record the factor that brings the latents to unit deviation, measured on plain and painted pictures together."""
    rows = slice(0, min(count, len(corpus)))
    plain, painted = encode(vae, corpus.plain[rows], 1.0), encode(vae, corpus.painted[rows], 1.0)
    latents = np.concatenate([plain, painted]).astype(np.float32)
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))


def learn_clip(corpus: Corpus, folder: Path, steps: int) -> tuple[CLIPModel, CLIPTextModelWithProjection]:
    """Contrast pictures with captions, both text encoders against one picture tower.

    Half of the captions name kind, palette and scale, without which CLIP would be blind to style; half of these name
    nothing else, since a scene's words alone distinguish most pairs. Beside the contrast, a linear head that is thrown
    away afterwards reads kind, palette, period and angle from the picture's embedding: a contrast of so few pictures
    gave away the kind in 65 % (docs/log.md), and what the embedding does not hold no IP-Adapter can draw.
    """
    torch.manual_seed(1)
    tokenizer = clip_tokenizer(folder / "clip_tokenizer")
    clip = architectures.clip(len(tokenizer), tokenizer.eos_token_id)
    second = architectures.second_text_encoder(len(tokenizer), tokenizer.eos_token_id)
    batch = min(80, len(corpus))
    head = StyleHead(corpus)

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature clip", step)
        rows = rng.choice(len(corpus), size=batch, replace=False)
        pictures, captions = style_captions(corpus, rows, rng)
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        pooled = clip.vision_model(pixel_values=to_clip(pictures)).pooler_output
        seen = F.normalize(clip.visual_projection(pooled), dim=-1)  # [B, D]
        states = clip.text_model(input_ids=tokens.input_ids).pooler_output
        read = clip.text_projection(states)  # [B, D]
        also = second(input_ids=tokens.input_ids).text_embeds

        scale = clip.logit_scale.exp().clamp(max=60)
        parts = {"first": both_ways(scale, seen, read), "second": both_ways(scale, seen, also)}
        painted = np.arange(batch) % 4 > 0
        parts["kind"], parts["facts"] = head.losses(seen[torch.from_numpy(painted)], rows[painted])
        return parts

    fit(folder, "clip", {"clip": clip, "second": second, "head": head}, losses, steps=steps, learning_rate=1.5e-3)
    return clip, second


def style_captions(corpus: Corpus, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> tuple[Pictures, list[str]]:
    """Pictures [B, H, W, 3] of rows and a caption each: of four, one is plain, two name the style, one nothing else."""
    pictures = np.empty((len(rows), architectures.PICTURE, architectures.PICTURE, 3), np.uint8)
    captions = []
    for k, row in enumerate(rows):
        content = scene(corpus.scene_of(int(row))).caption(int(rng.integers(5)))
        style = f"{STYLE_PHRASE} {painter(corpus.painter_of(int(row))).words}"
        pictures[k] = corpus.plain[row] if k % 4 == 0 else corpus.painted[row]
        captions.append((content, content, f"{content} {style}", style)[k % 4])
    return pictures, captions


def both_ways(scale: torch.Tensor, seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Contrast of pictures and captions [B, D]: a picture finds its caption, a caption its picture."""
    logits = scale * seen @ F.normalize(read, dim=-1).T  # [B, B]
    answer = torch.arange(len(logits))
    to_text = F.cross_entropy(logits, answer)
    to_picture = F.cross_entropy(logits.T, answer)
    return (to_text + to_picture) / 2


@dataclass(frozen=True)
class StyleReading:
    """What a head reads of paintings: kinds [B], and palettes [B, 4, 3] in Lab."""

    kinds: npt.NDArray[np.int64]
    palettes: npt.NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[StyleReading]) -> StyleReading:
        """The paintings of all parts, in order."""
        kinds = np.concatenate([part.kinds for part in parts])
        return cls(kinds, np.concatenate([part.palettes for part in parts]))


class StyleHead(torch.nn.Linear):
    """Reads kind, palette, brush and angle of a painter linearly from an embedding; thrown away afterwards.

    Args:
        corpus: whose painters it learns; their facts are brought to mean 0 and deviation 1.
    """

    def __init__(self, corpus: Corpus) -> None:
        facts = _style_facts(corpus)  # [P, 15]
        super().__init__(architectures.WIDTH, len(KINDS) + facts.shape[1])
        self.corpus = corpus
        self.mean, self.deviation = facts.mean(0), facts.std(0) + 1e-3
        # One deviation for all of a palette, so that an error counts as it looks (ΔE): a stop's lightness moves by 2,
        # its hue by 25, and each of deviation 1 they would count alike.
        self.deviation[:PALETTE] = self.deviation[:PALETTE].square().mean().sqrt()
        self.facts = (facts - self.mean) / self.deviation

    def losses(self, seen: torch.Tensor, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy of the kind and mean squared error of the facts, for unit embeddings [B, D] of rows [B]."""
        painters = torch.from_numpy(rows % self.corpus.painters)
        kinds = (self.corpus.first_painter + painters) % len(KINDS)
        read = self._raw(seen)
        of_kind = F.cross_entropy(read[:, : len(KINDS)], kinds)
        return of_kind, F.mse_loss(read[:, len(KINDS) :], self.facts[painters])

    def read(self, seen: torch.Tensor) -> StyleReading:
        """What it reads from unit embeddings [B, D]."""
        read = self._raw(seen)
        facts = read[:, len(KINDS) :] * self.deviation + self.mean
        palettes = facts[:, :PALETTE].reshape(-1, 4, 3).double().numpy()
        return StyleReading(read[:, : len(KINDS)].argmax(-1).numpy(), palettes)

    @staticmethod
    def answers(corpus: Corpus) -> StyleReading:
        """What is right for the corpus's paintings."""
        painters = [painter(corpus.painter_of(row)) for row in range(len(corpus))]
        kinds = np.array([KINDS.index(by.kind) for by in painters])
        return StyleReading(kinds, np.array([by.palette for by in painters]))

    def _raw(self, seen: torch.Tensor) -> torch.Tensor:
        # a unit vector times √D has components of mean square 1
        read: torch.Tensor = self(seen * architectures.WIDTH**0.5)
        return read


def _style_facts(corpus: Corpus) -> torch.Tensor:
    """Numbers about each painter of the corpus: palette (12), brush, angle (2), [P, 15]."""
    rows = []
    for index in range(corpus.first_painter, corpus.first_painter + corpus.painters):
        by = painter(index)
        turn = 2 * np.deg2rad(by.angle)
        rows.append([*np.ravel(by.palette), by.brush, np.cos(turn), np.sin(turn)])
    return torch.tensor(rows, dtype=torch.float32)


def learn_style_classifier(corpus: Corpus, folder: Path, steps: int) -> Any:
    """Classify the kind of painter; permuted channels and mirrored pictures keep palettes and scenes from helping."""
    torch.manual_seed(2)
    model = architectures.style_classifier()

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature style", step)
        rows = rng.integers(len(corpus), size=48)
        pictures = to_clip(np.stack([corpus.painted[row] for row in rows]))
        pictures = pictures[:, rng.permutation(3)]
        contrast = float(rng.uniform(0.8, 1.2))
        brightness = float(rng.uniform(-0.2, 0.2))
        pictures = pictures * contrast + brightness
        if rng.random() < 0.5:
            pictures = pictures.flip(3)
        pictures = _noised(pictures, rng)
        kinds = torch.tensor([corpus.painter_of(int(row)) % len(KINDS) for row in rows])
        logits = model(pixel_values=pictures).logits
        return {"cross_entropy": F.cross_entropy(logits, kinds)}

    fit(folder, "style_classifier", {"model": model}, losses, steps=steps, learning_rate=2e-3)
    return model


def _noised(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures [B, 3, H, W] with noise of deviation 0.08."""
    noise = rng.standard_normal(pictures.shape, dtype=np.float32)
    return pictures + 0.08 * torch.from_numpy(noise)


def learn_scene_reader(corpus: Corpus, folder: Path, steps: int) -> Any:
    """Read the class of each pixel, whoever painted it.

    It begins with mostly plain pictures and ends with three painted ones to a plain one: with painted ones from the
    start it finds the objects at once and stays at chance about their shape. Judged at a quarter of the size, where the
    head speaks before it is enlarged; the ground counts a quarter, because most pixels are ground.
    """
    torch.manual_seed(3)
    model = architectures.scene_reader()
    weight = torch.tensor([0.25] + [1.0] * int(corpus.labels.max()))

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature reader", step)
        rows = rng.integers(len(corpus), size=16)
        plain = rng.random(len(rows)) < max(0.25, 0.8 - 1.1 * step / steps)
        shown = []
        cells = []
        for row, is_plain in zip(rows, plain, strict=True):
            source = corpus.plain if is_plain else corpus.painted
            shown.append(source[row])
            cells.append(corpus.labels[row, 2::4, 2::4])  # the middle of every 4 × 4 pixels
        pictures = to_clip(np.stack(shown))
        labels = torch.from_numpy(np.stack(cells)).long()  # [B, H/4, W/4]
        if rng.random() < 0.5:
            pictures, labels = pictures.flip(3), labels.flip(2)
        if rng.random() < 0.5:
            pictures, labels = pictures.transpose(2, 3), labels.transpose(1, 2)
        pictures = _noised(pictures[:, rng.permutation(3)], rng)
        features = model.backbone.forward_with_filtered_kwargs(pictures).feature_maps
        logits = model.decode_head(features)
        return {"cross_entropy": F.cross_entropy(logits, labels, weight=weight)}

    fit(folder, "scene_reader", {"model": model}, losses, steps=steps, learning_rate=1.5e-3)
    return model


def learn_structure_encoder(corpus: Corpus, folder: Path, steps: int) -> Any:
    """Give a scene's patches the same features plain and painted, and different features to different objects.

    A linear head, thrown away afterwards, reads each patch's share of every class from its feature; a second term pulls
    the features of the plain and the painted picture of one scene together.
    """
    torch.manual_seed(4)
    model = architectures.structure_encoder()
    classes = 1 + int(corpus.labels.max())
    head = torch.nn.Linear(96, classes)

    def losses(step: int) -> Losses:
        rng = numpy_rng("miniature structure", step)
        rows = rng.integers(len(corpus), size=16)
        plain_rows = [corpus.plain[row] for row in rows]
        painted_rows = [corpus.painted[row] for row in rows]
        pictures = np.stack([*plain_rows, *painted_rows])
        patches = model(pixel_values=to_clip(pictures)).last_hidden_state[:, 1:]  # [2B, L, D]
        labels = torch.from_numpy(np.stack([corpus.labels[row] for row in rows])).long()
        shares = F.one_hot(labels, classes).permute(0, 3, 1, 2).float()
        shares = F.avg_pool2d(shares, architectures.PICTURE // 8)
        shares = shares.flatten(2).transpose(1, 2)  # [B, L, classes]
        wanted = shares.repeat(2, 1, 1).flatten(0, 1)
        reading = F.cross_entropy(head(patches).flatten(0, 1), wanted)
        plain, painted = F.normalize(patches, dim=-1).chunk(2)
        cosine = (plain * painted).sum(-1)
        return {"reading": reading, "agreement": 0.5 * (1 - cosine).mean()}

    fit(folder, "structure_encoder", {"model": model, "head": head}, losses, steps=steps, learning_rate=1e-3)
    return model
