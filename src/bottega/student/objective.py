"""What the student learns in one step: the mean of the noise at the timesteps of its use, weighted by grade.

    mode       x_t                        target          timesteps        content enters
    sdedit     α z_target + σ ε           ε               0 … T-1          in use only, as the start
    paired     α z_target + σ ε̃           ε̃               0 … s            through ε̃, which leads away from it
    latent     as paired, or as sdedit where the use starts from noise      at the first adapted block too

ε̃ = ε + (α_s/σ_s)(z_content - z_target), see `bottega.diffusion.process.effective_noise`. Legend: W samples of a
window, B of a part; C × h × w latents; all losses in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bottega.diffusion.process import add_noise, effective_noise, min_snr_weight, prediction_target
from bottega.diffusion.schedule import NoiseSchedule
from bottega.runtime.errors import MissingError
from bottega.runtime.seeds import numpy_rng, torch_generator
from bottega.student.adapter import StyleAdapter
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone
from bottega.student.config import AdapterConfig, StudentConfig
from bottega.student.features import null_text_key
from bottega.student.store import FeatureStore, pad_text, split_tasks
from bottega.training.sampling import interleave, stratified_timesteps, stream_indices
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload

TASKS = ("main", "fill50k")


@dataclass(frozen=True)
class Path:
    """The way from the start of the use to the target: where it starts, and whether the content bends it."""

    start: int
    paired: bool

    @classmethod
    def of(cls, config: AdapterConfig, schedule: NoiseSchedule) -> Path:
        """Of an adapter's content mode. Timesteps of training are 0 … `last`."""
        start = schedule.timesteps - 1 if config.start == "noise" else schedule.start_timestep(config.strength)
        return cls(start, paired=config.content_mode != "sdedit" and config.start == "content")

    def last(self, schedule: NoiseSchedule) -> int:
        """The noisiest timestep that training visits: the start where the path depends on it, else T-1."""
        return self.start if self.paired else schedule.timesteps - 1

    def noise(
        self, schedule: NoiseSchedule, noise: torch.Tensor, content: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """What plays the part of ε, [B, C, h, w]: ε̃ on a paired path."""
        if not self.paired:
            return noise
        bar = schedule.alpha_bar_at(self.start)
        bent: torch.Tensor = effective_noise(noise, content, target, bar**0.5, (1.0 - bar) ** 0.5)
        return bent


@dataclass
class Draw:
    """What a step draws for its W slots: everything is a function of (seed, step)."""

    rows: list[dict[str, Any]]
    shares: torch.Tensor  # float32 [W]; they sum to 1
    timesteps: torch.Tensor  # int64 [W]
    noise: torch.Tensor  # float32 [W, C, h, w]
    drop_text: np.ndarray[Any, np.dtype[np.bool_]]  # [W]
    drop_style: np.ndarray[Any, np.dtype[np.bool_]]  # [W]


class StyleWorkload(Workload):
    """Trains `adapter` beside `backbone` on the samples of a feature cache.

    rows: sample rows to train on. Raises MissingError when a stream that the mixture asks for has no sample.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: StyleAdapter,
        config: StudentConfig,
        store: FeatureStore,
        rows: list[dict[str, Any]],
    ) -> None:
        self.module = adapter
        self.backbone = backbone
        self.adapter = adapter
        self.config = config
        self.store = store
        self.fingerprint = {}
        self.loss_scaling = backbone.dtype == torch.float16
        self.path = Path.of(adapter.config, backbone.schedule)
        tasks = split_tasks(rows)
        self.streams = {task: tasks.get(task, []) for task in TASKS}
        self.slots = {"main": config.window - config.fill50k_slots, "fill50k": config.fill50k_slots}
        for task in TASKS:
            if self.slots[task] and not self.streams[task]:
                cure = "make targets" if task == "main" else "prepare Fill50K, or set student.fill50k_fraction=0"
                raise MissingError(
                    f"the features hold no {task} sample, the mixture asks for {self.slots[task]} a step; {cure}"
                )
        self.attachment = Attachment(backbone.transformer, adapter)
        self.checkpointed = False  # see `bottega.student.memory.weigh`
        manifest = store.manifest
        self.shape = (manifest["channels"], manifest["cells"], manifest["cells"])
        self.null_text = store.text_row(null_text_key(manifest))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `StyleAdapter.parameter_groups`."""
        return self.adapter.parameter_groups(self.config.loop.weight_decay, self.config.gate_lr_multiplier)

    def metrics(self, step: int) -> dict[str, Any]:
        """Epoch of the main stream, prediction type, gates."""
        seen = (step + 1) * self.slots["main"]
        epoch = seen / len(self.streams["main"]) if self.streams["main"] else 0.0
        return {"epoch": epoch, "prediction_type": self.backbone.schedule.prediction_type, **self.adapter.gates()}

    def modules(self) -> list[tuple[str, torch.nn.Module]]:
        """The adapter and the frozen transformer beside it."""
        return [("adapter", self.adapter), ("transformer", self.backbone.transformer)]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        """The window of `step` in parts of `batch_size`, or a share of them."""
        draw = self.draw(step)
        size = self.config.batch_size
        for first in range(0, len(draw.rows), size)[share]:
            yield self.part(draw, slice(first, first + size))

    def draw(self, step: int) -> Draw:
        """Samples, timesteps, noise and dropped conditions of a step."""
        seed, window = self.config.seed, self.config.window
        is_fill = interleave(window, self.slots["fill50k"])
        chosen = {
            task: iter(stream_indices(seed, task, step, self.slots[task], len(self.streams[task])))
            for task in TASKS
            if self.slots[task]
        }
        rows = [self.streams[TASKS[int(f)]][next(chosen[TASKS[int(f)]])] for f in is_fill]
        rng = numpy_rng(seed, "window", step)
        times = stratified_timesteps(rng, window, 0, self.path.last(self.backbone.schedule))
        noise = torch.randn(window, *self.shape, generator=torch_generator(seed, "noise", step))
        drop, fate = self.config.dropout, rng.random(window)
        both = fate < drop.both
        text = both | ((fate >= drop.both) & (fate < drop.both + drop.text))
        style = both | ((fate >= drop.both + drop.text) & (fate < drop.both + drop.text + drop.style))
        style |= np.array([row["style"] is None for row in rows])
        return Draw(rows, shares(rows, self.config.fill50k_weight), torch.from_numpy(times), noise, text, style)

    def part(self, draw: Draw, where: slice) -> Microbatch:
        """Loss of some slots of a window; the sum over the window's parts is the loss of the step."""
        device = self.backbone.device
        rows, times, share = draw.rows[where], draw.timesteps[where].to(device), draw.shares[where].to(device)
        target = self.store.latents([row["target"] for row in rows]).to(device)  # [B, C, h, w]
        content = self.store.latents([row["content"] for row in rows]).to(device)
        text, mask = self.text(rows, draw.drop_text[where])
        shown = self.styles(rows, draw.drop_style[where])

        noised, wanted = self.corrupt(target, content, draw.noise[where].to(device), times)
        state = self.backbone.prefix(noised, times, text.to(device), mask.to(device), self.adapter.first_block)
        tokens, cosines = self.adapter.style(*shown)
        output = self.backbone.suffix(state, self.attachment, tokens, times, content, checkpointed=self.checkpointed)
        losses = (self.backbone.prediction(output) - wanted).square().mean(dim=(1, 2, 3))  # [B]

        kept, caption = ~shown[2], shown[3]
        told = kept if caption is None else kept & (caption != 0).any(dim=-1)  # of these the caption is known
        of = {name: value[told if name.startswith("scene") else kept] for name, value in cosines.items()}
        metrics = {name: float(value.mean()) for name, value in of.items() if len(value)}
        return Microbatch(
            (share * self.importance(times) * losses).sum(),
            losses,
            [row["sample_id"] for row in rows],
            times.tolist(),
            [row["task"] for row in rows],
            metrics,
        )

    def importance(self, times: torch.Tensor) -> torch.Tensor | float:
        """Min-SNR-γ at the timesteps [B], float32 [B]; 1 where the recipe asks for none.

        Plain ε counts an error of x̂_0 SNR times: nearly all of the loss is then made where the picture is finished.
        """
        if self.config.min_snr_gamma is None:
            return 1.0
        schedule = self.backbone.schedule
        alpha, sigma = schedule.coefficients(times, times.float())
        return min_snr_weight(schedule.prediction_type, alpha, sigma, self.config.min_snr_gamma)

    def corrupt(
        self, target: torch.Tensor, content: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_t and what the network should return for it, float32 [B, C, h, w], in the mode's way."""
        schedule = self.backbone.schedule
        alpha, sigma = schedule.coefficients(times, noise)
        effective = self.path.noise(schedule, noise, content, target)
        noised = add_noise(target, effective, alpha, sigma)
        return noised, prediction_target(schedule.prediction_type, target, effective, alpha, sigma)

    def text(
        self, rows: list[dict[str, Any]], dropped: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states and masks, the null prompt's own where the caption is dropped: [B, M, P], [B, M]."""
        picked = [
            self.null_text if drop else self.store.text_row(row["text"])
            for row, drop in zip(rows, dropped, strict=True)
        ]
        return pad_text(picked)

    def styles(
        self, rows: list[dict[str, Any]], dropped: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        """What `StyleAdapter.style` is shown, on the backbone's device: CLIP embeddings of style and content [B, D], or
        the style's patch tokens [B, T, V] and None; which styles are null, bool [B]; and, for a removal of the scene,
        the embeddings of the style pictures' captions [B, D]."""
        device, geometry = self.backbone.device, self.adapter.geometry
        null = torch.from_numpy(dropped.copy()).to(device)
        known = [i for i, row in enumerate(rows) if row["style"] is not None]
        if self.adapter.reads_patches:
            patches = torch.ones(len(rows), geometry.clip_tokens, geometry.clip_token_width)  # placeholders where null
            if known:
                patches[known] = self.store.patches([rows[i]["style_patches"] for i in known])
            return patches.to(device), None, null, None
        width = geometry.clip_width
        style, content = torch.ones(len(rows), width), torch.ones(len(rows), width)  # placeholders where null
        if known:
            style[known] = self.store.clip([rows[i]["style"] for i in known])
            content[known] = self.store.clip([rows[i]["clip_content"] for i in known])
        caption = None
        if self.adapter.scene_removal is not None:
            caption = self.store.captions([row.get("caption") for row in rows]).to(device)
        return style.to(device), content.to(device), null, caption


def shares(rows: list[dict[str, Any]], fill50k_weight: float = 1.0) -> torch.Tensor:
    """How much each sample of a window counts, float32 [W], summing to 1.

    Inside a task the weights by grade are normalised by their sum over the window, so that the learning rate does not
    change with the grades; between tasks the share is that of the slots, one of Fill50K counting `fill50k_weight`.
    """
    worth = {"main": 1.0, "fill50k": fill50k_weight}
    whole = sum(worth[r["task"]] for r in rows)
    totals = {task: sum(r["weight"] for r in rows if r["task"] == task) for task in TASKS}
    counts = {task: worth[task] * sum(r["task"] == task for r in rows) for task in TASKS}
    return torch.tensor([r["weight"] / totals[r["task"]] * counts[r["task"]] / whole for r in rows])
