"""The long training of SDXL's U-Net and its IP-Adapter: one network that paints a content and draws from words.

Each step has two parts.

**teacher**: from a plain picture to a painted one, as img2img with an IP-Adapter does it. Along DDIM's path from the
content noised at timestep s to the target, the noise that remains is constant, ε̃ = ε + (α_s/σ_s)(z_content − z_target),
and x_t = α_t z_target + σ_t ε̃ (see `bottega.diffusion.process`); the network learns ε̃. Half of the samples start their
path as the sampler does, from what the network itself predicts at s, so that it learns to mend its own early guesses
(exposure bias, arXiv 2308.15321). One sample in eight starts from noise alone.

**words**: from noise to a plain or a painted picture by caption alone, with the IP-Adapter switched off. The sampler
starts from pure noise, where this schedule would still show a trace of the picture (ᾱ = 0.005 at the last timestep,
arXiv 2305.08891); so half of the samples follow DDIM's path from z_content = 0.

The IP-Adapter's scale says how far to go from the unconditional prediction u to the full one: at scale 1/g the network
learns c with u + g (c − u) = full. So guidance 3.5 at scale 0.30, the protocol's values, ends where 1.0 at 1.0 does.

**small words**, where the training's focus is not on the teacher: siblings (see there), which differ in the word for a
shape alone, at half of the side, where a sample costs a third. A focus on shapes has nothing else: beside pictures at
full size shapes are learned several times slower. The network forgets to paint meanwhile; a focus on both brings that
back, while siblings keep the shapes. The autoencoder's latents of half the side are the picture of half the side, so
these are averages of 2 × 2 cells, and the network is given half the size in SDXL's size numbers.

With `distil_from`, the targets of paintings are the predictions of a network that paints well. A true target's strokes
fall as chance has it, a prediction is near their mean: 6 000 paintings taught a network that had forgotten them more
than 21 000 with the truth as target had (docs/log.md).

Errors count as errors of x̂0, weighted by 1/max(σ, 0.5)²: circles went from 71 to 96 % by it (docs/log.md).

Beside it a head reads the class of each cell from the features of 16 × 16 cells: they must know, from the caption alone
while there is much noise, which shape stands where (as arXiv 2410.06940 aligns features). The head is not exported.

Dimensions: B batch, C latent channels, H W latent sides, L text tokens, D width of CLIP's joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from cachetools import LRUCache

from bottega.miniature.builder import architectures
from bottega.miniature.builder.attention import train_through
from bottega.miniature.builder.encoding import SDXLText
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.ip_adapter import add_ip_adapter, read_unet, write_unet
from bottega.miniature.builder.noise_levels import NoiseLevels, column, normal
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.siblings import (
    SIBLING_SCENES,
    Siblings,
    cell_weights,
    draw_siblings,
    sibling_weights,
)
from bottega.miniature.builder.text_scaling import ScaledText, TextScaling
from bottega.miniature.builder.trainer import MicrobatchLosses
from bottega.miniature.painters import Painter, painter
from bottega.miniature.scenes import SHAPES, Scene, scene
from bottega.miniature.words import STYLE_PHRASE
from bottega.runtime.caching import get_or_compute
from bottega.runtime.seeds import numpy_rng

Focus = Literal["teacher", "words", "both", "shapes"]

BATCH = 8  # samples of each part; how far weights have moved in all decides (docs/log.md), so steps are many and small
# Timesteps at which most of the teacher's paths begin: the first of 25 DDIM steps at strength 0.24 and at the demo's
# 0.28. At the published 0.40 (361) the noise hides small objects: a quarter of all are lost there, however long it
# trained.
TEACHER_STARTS = (201, 241)
LARGER_BATCH_FROM = 1_500  # step from which a step has twice as many: a fifth cheaper a sample
TEACHER_SHARE = 3  # times `batch`, the teacher's samples of such a step: the demo needs a teacher first
SMALL_SHARE = 6  # times `batch`, the small words of a step whose focus is on words or shapes
# Samples of each of the two parts of a step whose focus is on both: siblings at half of the side and at full size,
# captions, paintings. Without siblings at full size, shapes there fell from 77 to 57 % while they stayed at half of it.
BOTH_SMALL, BOTH_SIBLINGS, BOTH_WORDS, BOTH_TEACHER = 18, 6, 2, 6
# How much a painting counts there, and the steps over which that grows from a tenth of it. Counted twice from the first
# step on, paintings that had been forgotten had gradients of 12 to 1 300, and shapes fell to 47 % in 300 steps.
BOTH_TEACHER_WEIGHT, BOTH_TEACHER_STEPS = 0.5, 400
FULL_SCALE = 1.05  # guidance × scale at which a style is whole: the protocol's 3.5 × 0.30
# Steps after which one more shard of the corpus is drawn. Of a focus on words, fewer samples of a step come from it;
# a focus on shapes needs none, and the thousands of steps that it took count when a focus on both follows.
SHARD_STEPS: Mapping[Focus, int] = {"teacher": 100, "words": 300, "both": 400}
FIRST_SHARDS = 3
OWN_GUESSES_FROM = 200  # step: before it, what the network predicts is no place to start from
LEAST_OWN_TIMESTEP = 20  # below it, what is left of a wrong guess counts as an enormous ε
READING_WEIGHT = 0.2
DROP_TEXT, DROP_STYLE, DROP_BOTH = 0.04, 0.04, 0.10  # for guidance
# Siblings have about 5 800 captions of large objects; to encode them took a fifth of their samples' time. 80 kB each.
ENCODED_CAPTIONS = 6_000

WORDS_POWER = 0.7  # of the timesteps' distribution; below 1 it favours late ones, where words decide
SIBLINGS_POWER = 0.55
PAINTED_SHARE = 0.45  # of the words


@dataclass
class _Batch:
    """Samples of one part: clean target, start of the path and conditions."""

    target: torch.Tensor  # [B, C, H, W]
    content: torch.Tensor  # [B, C, H, W]; zeros where the path starts from noise alone
    start: npt.NDArray[np.int64]  # [B], timestep at which the path starts; -1: ordinary noising
    timestep: npt.NDArray[np.int64]  # [B]
    noise: torch.Tensor  # [B, C, H, W]
    captions: list[str]
    style: torch.Tensor  # [B, 1, D], zeros: none
    labels: torch.Tensor  # [B, H, W]
    cells: torch.Tensor  # what an error in a cell counts, [B, 1, H, W]
    scale: npt.NDArray[np.float32]  # [B], of the IP-Adapter; 0: none
    own: npt.NDArray[np.bool_]  # [B], whether it starts from what the network predicts at `start`


class SDXLTask:
    """U-Net with IP-Adapter, its frozen text encoders and the features that it learns from.

    Args:
        features: latents and styles of scenes and painters.
        text: both text encoders.
        measure: of `SDXLGates`; None: nothing is measured.
        batch: samples that the parts of a step are multiples of.
        focus: what most of a step's samples show.
        num_siblings: scenes that are drawn in every shape.
        distil_from: its predictions are the targets of paintings; None: drawn truths are.
    """

    name = "sdxl"

    def __init__(
        self,
        features: Features,
        text: SDXLText,
        measure: Any = None,
        batch: int = BATCH,
        focus: Focus = "teacher",
        num_siblings: int = SIBLING_SCENES,
        distil_from: SDXLTask | None = None,
    ) -> None:
        torch.manual_seed(5)
        unet = architectures.deep_unet()
        add_ip_adapter(unet)
        train_through(unet)
        unet.requires_grad_(True)
        self.unet = unet.to(memory_format=torch.channels_last)
        self.reading = _MapReader(self.unet)
        self.scaling = TextScaling(text)
        self.modules: Mapping[str, torch.nn.Module] = {
            "unet": self.unet,
            "reading": self.reading.head,
            "scaling": self.scaling,
        }
        self.features, self.batch, self.focus = features, batch, focus
        self.distil_from = distil_from
        self.siblings: Siblings | None = None
        self.num_siblings = num_siblings
        self.text = ScaledText(text, self.scaling)
        self._measure = measure
        self._encoded: LRUCache[str, tuple[torch.Tensor, torch.Tensor]] = LRUCache(ENCODED_CAPTIONS)
        self.noise = NoiseLevels.of_epsilon()
        self.processors = [p for n, p in self.unet.attn_processors.items() if n.endswith("attn2.processor")]

    def measure(self) -> Mapping[str, float]:
        """See `bottega.miniature.builder.sdxl_gates`."""
        return {} if self._measure is None else dict(self._measure(self.unet, self.text))

    def read(self, folder: Path) -> None:
        """Begin with the U-Net and the IP-Adapter of exported folders."""
        read_unet(self.unet, folder)
        self.scaling.enter(self.unet)

    def write(self, folder: Path) -> None:
        """Write U-Net and IP-Adapter as others read them; see `write_unet`."""
        with self.scaling.left(self.unet):
            write_unet(self.unet, folder)

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        """The parts of a step; what they hold follows the focus."""
        half = self.batch // 2
        if self.focus == "shapes":
            count = SMALL_SHARE * half
            return [lambda: self._small_words(step, count, (0, 2)), lambda: self._small_words(step, count, (1, 2))]
        self.features.require(FIRST_SHARDS + step // SHARD_STEPS[self.focus])
        if self.focus == "words":
            # Painting and drawing at full size in every step: in one step of four, the gradients of two kinds of
            # step took turns.
            return [
                lambda: self._small_words(step, SMALL_SHARE * self.batch),
                lambda: self._words_and_teacher(step, half, self.batch),
            ]
        if self.focus == "both":
            return [lambda: self._small_and_full(step, (0, 2)), lambda: self._small_and_full(step, (1, 2))]
        if step < LARGER_BATCH_FROM:
            return [lambda: self._words_and_teacher(step, self.batch, self.batch)]
        # Two parts, because two processes can share them; one of twice the size is 6 % cheaper for one process.
        num_teacher = TEACHER_SHARE * half
        return [
            lambda: self._words_and_teacher(step, half, num_teacher, (0, 2)),
            lambda: self._words_and_teacher(step, half, num_teacher, (1, 2)),
        ]

    def _small_and_full(self, step: int, part: tuple[int, int]) -> MicrobatchLosses:
        """Siblings at half of the side and everything else at full size; arguments as of `_words_and_teacher`."""
        small = self._small_words(step, BOTH_SMALL, part)
        weight = BOTH_TEACHER_WEIGHT * min(1.0, 0.1 + 0.9 * step / BOTH_TEACHER_STEPS)
        full = self._words_and_teacher(step, BOTH_WORDS, BOTH_TEACHER, part, BOTH_SIBLINGS, weight)
        return MicrobatchLosses({**small.losses, **full.losses}, small.samples + full.samples)

    def _words_and_teacher(
        self,
        step: int,
        num_words: int,
        num_teacher: int,
        part: tuple[int, int] = (0, 1),
        num_siblings: int = 0,
        teacher_weight: float = 1.0,
    ) -> MicrobatchLosses:
        """All that has full size, in one call of the network: two of half the size cost a fifth more.

        Args:
            step: of the training.
            num_words: samples.
            num_teacher: samples.
            part: number and count of such microbatches in the step, which count as one together.
            num_siblings: samples, whole groups of them.
            teacher_weight: how much a sample of the teacher counts, where any other counts 1.
        """
        number, count = part
        rng = numpy_rng("miniature sdxl", step, number)
        batch = _joined(self._words_batch(rng, num_words), self._teacher_batch(rng, num_teacher))
        if num_siblings:
            batch = _joined(batch, self._siblings_batch(rng, num_siblings // len(SHAPES)))
        errors = self._errors(batch, step)  # [num_words + num_teacher + num_siblings]
        reading = self.reading.loss(batch.labels)
        # Each sample counts alike, whichever part it belongs to; so a part's loss in the log grows with its share.
        mean_size = count * len(errors) / 2
        of_words, of_teacher, of_siblings = torch.split(errors, [num_words, num_teacher, num_siblings])
        losses = {
            "words": of_words.sum() / mean_size,
            "teacher": teacher_weight * of_teacher.sum() / mean_size,
            "reading": READING_WEIGHT * reading.mean() / count,
        }
        if num_siblings:
            losses["siblings"] = of_siblings.sum() / mean_size
        return MicrobatchLosses(losses, len(errors))

    def _small_words(self, step: int, count: int, part: tuple[int, int] = (0, 1)) -> MicrobatchLosses:
        """Siblings at half of the side; arguments as of `_words_and_teacher`."""
        number, parts = part
        rng = numpy_rng("miniature sdxl, small", step, number)
        batch = _halved(self._siblings_batch(rng, count // len(SHAPES)))
        errors = self._errors(batch, step)
        reading = self.reading.loss(batch.labels)
        losses = {"small_words": errors.mean() / parts, "small_reading": READING_WEIGHT * reading.mean() / parts}
        return MicrobatchLosses(losses, count)

    # --- batches --------------------------------------------------------------------------------------------------

    def _words_batch(self, rng: np.random.Generator, count: int) -> _Batch:
        rows = rng.integers(len(self.features), size=count)
        for k in range(count):
            if len(scene(int(rows[k])).objects) > 1 and rng.random() < 0.5:  # one object is what is learned first
                rows[k] = rng.integers(len(self.features))
        painted = rng.random(count) < PAINTED_SHARE
        captions = []
        for row, by_painter in zip(rows, painted, strict=True):
            view = scene(int(row))
            caption = view.caption(int(rng.integers(5)))
            if by_painter:
                caption = painted_caption(view, painter(self.features.painter_index(int(row))), rng)
            captions.append("" if rng.random() < DROP_TEXT + DROP_BOTH else caption)
        plain, paintings, labels = self._latents(rows)
        target = torch.where(torch.from_numpy(painted).view(-1, 1, 1, 1), paintings, plain)
        start = np.where(rng.random(count) < 0.5, rng.integers(880, 1000, count), -1)
        last = np.where(start < 0, 999, start)
        return _Batch(
            target=target,
            content=torch.zeros_like(target),
            start=start,
            timestep=_stratified(rng, count, last, WORDS_POWER),
            noise=normal(rng, target.shape),
            captions=captions,
            style=torch.zeros(count, 1, architectures.WIDTH),
            labels=labels,
            cells=cell_weights(labels),
            scale=np.zeros(count, np.float32),
            own=np.zeros(count, np.bool_),
        )

    def _siblings_batch(self, rng: np.random.Generator, groups: int) -> _Batch:
        """Groups of siblings with a large object, each with one noise, one path, one timestep and one wording."""
        if self.siblings is None:
            self.siblings = draw_siblings(self.features.folder, self.features.vae, count=self.num_siblings)
        shapes = len(SHAPES)
        places = rng.choice(self.siblings.of_large, groups)
        captions = []
        for place in places:
            wording = int(rng.integers(5))
            dropped = rng.random() < DROP_TEXT + DROP_BOTH
            for shape in range(shapes):
                captions.append("" if dropped else self.siblings.caption(int(place), shape, wording))
        target = torch.from_numpy(self.siblings.latents[places]).float()  # [G, S, C, H, W]
        labels = torch.from_numpy(self.siblings.labels[places])  # [G, S, H, W]
        start = np.where(rng.random(groups) < 0.5, rng.integers(880, 1000, groups), -1)
        last = np.where(start < 0, 999, start)
        count = groups * shapes
        return _Batch(
            target=target.flatten(0, 1),
            content=torch.zeros_like(target).flatten(0, 1),
            start=np.repeat(start, shapes),
            timestep=np.repeat(_stratified(rng, groups, last, SIBLINGS_POWER), shapes),
            noise=normal(rng, (groups, 1, *target.shape[2:])).expand_as(target).flatten(0, 1),
            captions=captions,
            style=torch.zeros(count, 1, architectures.WIDTH),
            labels=labels.flatten(0, 1),
            cells=sibling_weights(labels).flatten(0, 1),
            scale=np.zeros(count, np.float32),
            own=np.zeros(count, np.bool_),
        )

    def _teacher_batch(self, rng: np.random.Generator, count: int) -> _Batch:
        rows = rng.integers(len(self.features), size=count)
        plain, paintings, labels = self._latents(rows)
        styles = np.stack([self.features.sibling_style(int(row), int(rng.integers(1 << 30))) for row in rows])
        captions = [scene(int(row)).caption(int(rng.integers(5))) for row in rows]
        start = np.where(rng.random(count) < 0.6, rng.choice(TEACHER_STARTS, count), rng.integers(200, 640, count))
        # On the path, late timesteps show the target and teach little; from its own guesses the network made things
        # worse below t = 120 while those were rare (mean squared error 0.175 at 160, 0.189 at 1).
        power = np.where(_own_guesses(count), 1.0, 0.6)
        timestep = np.floor((start + 1) * rng.random(count) ** power).astype(np.int64)
        for k in range(count):
            drop = rng.random()
            if drop < DROP_TEXT + DROP_BOTH:
                captions[k] = ""
            if DROP_TEXT <= drop < DROP_TEXT + DROP_BOTH + DROP_STYLE:
                styles[k] = 0
        from_noise = np.arange(count) % 8 == 0
        start[from_noise] = 980
        timestep[from_noise] = rng.integers(980, size=int(from_noise.sum()))
        content = torch.where(torch.from_numpy(from_noise).view(-1, 1, 1, 1), torch.zeros_like(plain), plain)
        return _Batch(
            target=paintings,
            content=content,
            start=start,
            timestep=timestep,
            noise=normal(rng, plain.shape),
            captions=captions,
            style=torch.from_numpy(styles)[:, None],
            labels=labels,
            cells=cell_weights(labels),
            scale=np.array([_scale(rng) for _ in range(count)], np.float32),
            own=_own_guesses(count),
        )

    def _latents(self, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Plain and painted latents [B, C, H, W] and labels [B, H, W] of rows."""
        places = [self.features.place(int(row)) for row in rows]
        plain = np.stack([self.features.plain[shard][place] for shard, place in places])
        painted = np.stack([self.features.painted[shard][place] for shard, place in places])
        labels = np.stack([self.features.labels[shard][place] for shard, place in places])
        return torch.from_numpy(plain).float(), torch.from_numpy(painted).float(), torch.from_numpy(labels)

    # --- losses ---------------------------------------------------------------------------------------------------

    def _errors(self, batch: _Batch, step: int) -> torch.Tensor:
        """Weighted error of each sample, [B]."""
        states, pooled = self._encode(batch.captions)
        x = self._on_path(batch)
        own = batch.own
        if step >= OWN_GUESSES_FROM and own.any():
            batch.timestep[own] = np.maximum(batch.timestep[own], LEAST_OWN_TIMESTEP)
            x[own] = self._by_own_guess(batch, own, states, pooled)
        wanted = self._noise_towards(x, batch)
        guidance = np.where(batch.scale > 0, np.maximum(1.0, FULL_SCALE / np.maximum(batch.scale, 1e-3)), 1.0)
        if self.distil_from is None:
            self._share_of_guidance(x, wanted, batch, guidance)
        else:
            paintings = batch.scale > 0
            conditions = states[paintings], pooled[paintings], batch.style[paintings], batch.scale[paintings]
            with torch.no_grad():
                wanted[paintings] = self.distil_from._predict(x[paintings], batch.timestep[paintings], *conditions)
        guess = self._predict(x, batch.timestep, states, pooled, batch.style, batch.scale)
        return torch.from_numpy(guidance.astype(np.float32)) * self._error(guess, wanted, batch)

    def _on_path(self, batch: _Batch) -> torch.Tensor:
        """x_t on DDIM's path from the noised content at `start` to the target, [B, C, H, W]."""
        ratio = np.where(batch.start < 0, 0.0, self.noise.ratio(batch.start))
        remaining = batch.noise + column(ratio) * (batch.content - batch.target)
        return self._alpha(batch.timestep) * batch.target + self._sigma(batch.timestep) * remaining

    def _noise_towards(self, x: torch.Tensor, batch: _Batch) -> torch.Tensor:
        """The ε that makes x̂0 the target at x_t, [B, C, H, W]."""
        return (x - self._alpha(batch.timestep) * batch.target) / self._sigma(batch.timestep)

    @torch.no_grad()
    def _by_own_guess(
        self, batch: _Batch, own: npt.NDArray[np.bool_], states: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """x_t as one DDIM step of the network reaches it from the path's start, [B', C, H, W] for the rows `own`."""
        start, timestep = batch.start[own], batch.timestep[own]
        first = self._alpha(start) * batch.content[own] + self._sigma(start) * batch.noise[own]
        scale = np.ones(len(first), np.float32)
        guess = self._predict(first, start, states[own], pooled[own], batch.style[own], scale)
        clean = (first - self._sigma(start) * guess) / self._alpha(start)
        return self._alpha(timestep) * clean + self._sigma(timestep) * guess

    @torch.no_grad()
    def _share_of_guidance(
        self, x: torch.Tensor, wanted: torch.Tensor, batch: _Batch, guidance: npt.NDArray[np.float64]
    ) -> None:
        """Replace, in `wanted`, full predictions by what guidance makes them of, where guidance exceeds 1."""
        conditioned = np.array([bool(caption) for caption in batch.captions]) | _has_style(batch.style)
        rows = np.flatnonzero((guidance > 1.0) & conditioned)
        if len(rows) == 0:
            return
        states, pooled = self._encode([""])
        nothing = torch.zeros_like(states).expand(len(rows), -1, -1), torch.zeros_like(pooled).expand(len(rows), -1)
        style = torch.zeros_like(batch.style[rows])
        base = self._predict(x[rows], batch.timestep[rows], *nothing, style, batch.scale[rows])
        wanted[rows] = base + (wanted[rows] - base) / column(guidance[rows])

    def _error(self, guess: torch.Tensor, wanted: torch.Tensor, batch: _Batch) -> torch.Tensor:
        """Squared error of ε as it moves x̂0, [B]; cells count by their weights."""
        error = (batch.cells * (guess - wanted).square()).mean((1, 2, 3))  # [B]
        return self.noise.weight(batch.timestep) * error

    # --- the network ----------------------------------------------------------------------------------------------

    def _encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled states [B, 77, D] and pooled text [B, D / 2]."""
        states, pooled = [], []
        for caption in captions:
            state, pool = get_or_compute(self._encoded, caption, partial(self._encode_one, caption))
            states.append(state)
            pooled.append(pool)
        return torch.cat(states), torch.cat(pooled)

    @torch.no_grad()
    def _encode_one(self, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
        # Alone, because the last bits of a batch depend on its size: a resumed training remembers other captions. In
        # float32, as the gates read them: the scaling enlarges what bfloat16 rounds away, 2.4 to 2.9 of the 29 to 56 by
        # which the word for a shape moves the states. It takes 7.2 ms a caption, bfloat16 8.6.
        states, pooled = self.text([caption])
        return states, pooled

    def _predict(
        self,
        x: torch.Tensor,
        timestep: npt.NDArray[np.int64],
        states: torch.Tensor,
        pooled: torch.Tensor,
        style: torch.Tensor,
        scale: npt.NDArray[np.float32],
    ) -> torch.Tensor:
        """ε̂ [B, C, H, W]; where the scale [B] is 0, as without an IP-Adapter."""
        share = torch.from_numpy(scale).view(-1, 1, 1)
        for processor in self.processors:
            processor.scale = [share]
        side = architectures.PICTURE * x.shape[-1] // architectures.LATENT  # pixels
        sizes = architectures.size_ids(len(x), side)
        conditions = {"text_embeds": pooled, "time_ids": sizes, "image_embeds": [style]}
        with autocast():  # a context of its own: weights cast without a graph are not kept
            guess = self.unet(
                x.contiguous(memory_format=torch.channels_last),
                torch.from_numpy(np.asarray(timestep)),
                encoder_hidden_states=states,
                added_cond_kwargs=conditions,
            ).sample
        noise: torch.Tensor = guess.float()
        return noise

    def _alpha(self, timestep: npt.NDArray[np.int64]) -> torch.Tensor:
        return self.noise.at(timestep)[0]

    def _sigma(self, timestep: npt.NDArray[np.int64]) -> torch.Tensor:
        return self.noise.at(timestep)[1]


class _MapReader:
    """Reads the class of cells from the features of 16 × 16 cells in the way up."""

    def __init__(self, unet: Any) -> None:
        block = unet.up_blocks[1]
        self.head = torch.nn.Conv2d(block.resnets[-1].out_channels, 1 + len(SHAPES), 1)
        self.features: torch.Tensor | None = None
        block.register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _inputs: Any, features: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self.features = features  # [B, channels, h, w]

    def loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy a sample [B] of what is read from the last forward pass; labels [B, H, W]."""
        if self.features is None:
            raise RuntimeError("Reading needs a forward pass with gradients before it, there was none; predict first.")
        read = self.head(self.features.float())
        self.features = None
        ratio = labels.shape[-1] // read.shape[-1]
        wanted = labels[:, ratio // 2 :: ratio, ratio // 2 :: ratio].long()
        return F.cross_entropy(read, wanted, reduction="none").mean((1, 2))


def painted_caption(view: Scene, by: Painter, rng: np.random.Generator) -> str:
    """A caption of a painting that names its style; half of them name no colours, for the painter replaced those."""
    content = view.colourless() if rng.random() < 0.5 else view.caption(int(rng.integers(5)))
    draw = rng.random()
    if draw < 0.5:
        return f"{content} {STYLE_PHRASE} {by.words}"
    if draw < 0.7:
        return f"{content} {STYLE_PHRASE} {by.kind}"
    if draw < 0.85:
        return f"{content} {STYLE_PHRASE} {by.scale} {by.kind}"
    if draw < 0.95:
        return f"{content}, {by.kind}"
    return f"{STYLE_PHRASE} {by.words}"


def _joined(first: _Batch, second: _Batch) -> _Batch:
    """Samples of both, in this order."""
    return _Batch(
        target=torch.cat([first.target, second.target]),
        content=torch.cat([first.content, second.content]),
        start=np.concatenate([first.start, second.start]),
        timestep=np.concatenate([first.timestep, second.timestep]),
        noise=torch.cat([first.noise, second.noise]),
        captions=first.captions + second.captions,
        style=torch.cat([first.style, second.style]),
        labels=torch.cat([first.labels, second.labels]),
        cells=torch.cat([first.cells, second.cells]),
        scale=np.concatenate([first.scale, second.scale]),
        own=np.concatenate([first.own, second.own]),
    )


def _halved(batch: _Batch) -> _Batch:
    """The samples at half of the side; noise of the full size is left out, not averaged, so it keeps its deviation."""
    return replace(
        batch,
        target=F.avg_pool2d(batch.target, 2),
        content=F.avg_pool2d(batch.content, 2),
        noise=batch.noise[:, :, ::2, ::2].contiguous(),
        labels=batch.labels[:, 1::2, 1::2],
        cells=F.avg_pool2d(batch.cells, 2),
    )


def _has_style(style: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Which samples have a style picture, [B], of embeddings [B, 1, D]."""
    shown: npt.NDArray[np.bool_] = (style != 0).flatten(1).any(1).numpy()
    return shown


def _scale(rng: np.random.Generator) -> float:
    """The IP-Adapter's scale of a sample: often 1, often the protocol's 0.30, else between."""
    draw = rng.random()
    if draw < 0.45:
        return 1.0
    if draw < 0.7:
        return 0.3
    return float(rng.uniform(0.25, 1.0))


def _own_guesses(count: int) -> npt.NDArray[np.bool_]:
    """Which of the teacher's samples start from the network's own guess: odd places, never those from noise alone."""
    own: npt.NDArray[np.bool_] = np.arange(count) % 2 == 1
    return own


def _stratified(
    rng: np.random.Generator, count: int, last: npt.NDArray[np.int64], power: float = 1.0
) -> npt.NDArray[np.int64]:
    """One timestep from each of `count` parts of 0..last, in random order; a power below 1 favours late ones.

    Words decide what is drawn while there is much noise; below, the picture itself says it.
    """
    shares = ((rng.permutation(count) + rng.random(count)) / count) ** power
    return np.floor(shares * (last + 1)).astype(np.int64)
