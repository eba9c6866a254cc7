"""What the student learns in one step: the mean of the noise at the timesteps seen at inference, weighted by grade.

How a picture is noised follows from the content mode, see `bottega.student.trajectory`. In mode `latent` the content
also enters at the first adapted block.

Legend: W samples of a step (its global batch), B of a microbatch; C × h × w latents; M text tokens, P T5's width; D
CLIP's width, T patch tokens of width V. All losses are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.process import add_noise, min_snr_weight, prediction_target
from bottega.runtime.errors import MissingError
from bottega.runtime.seeds import numpy_rng, torch_generator
from bottega.student.adapter import StyleAdapter
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone, Prefix
from bottega.student.config import StudentConfig
from bottega.student.export import save_adapter
from bottega.student.features import null_text_key
from bottega.student.records import SampleRow, TrainingFacts
from bottega.student.store import FeatureStore, pad_text, split_tasks
from bottega.student.trajectory import NoisingTrajectory
from bottega.training.log import Row
from bottega.training.sampling import interleave, stratified_timesteps, stream_indices
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, ParameterGroup, Workload

TASKS = ("main", "fill50k")
Mask = npt.NDArray[np.bool_]


@dataclass
class StepDraw:
    """What a step draws for its W samples: everything is a function of (seed, step).

    Args:
        rows: the samples.
        shares: how much each counts, float32 [W]; they sum to 1.
        timesteps: int64 [W].
        noise: float32 [W, C, h, w].
        drop_text: bool [W], whose caption is replaced by the null prompt.
        drop_style: bool [W], whose style is replaced by the null tokens.
    """

    rows: list[SampleRow]
    shares: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor
    drop_text: Mask
    drop_style: Mask


class FrozenInputs(NamedTuple):
    """What a microbatch has before anything that is trained.

    content: latents of the contents [B, C, h, w]. wanted: what the network should return [B, C, h, w]. state: what the
    frozen blocks have made of the noised latents.
    """

    content: torch.Tensor
    wanted: torch.Tensor
    state: Prefix


class StyleInputs(NamedTuple):
    """The arguments of `StyleAdapter.style`, on the backbone's device.

    style: CLIP embeddings [B, D], or patch tokens [B, T, V]. content: CLIP embeddings [B, D]; None with patch tokens.
    dropped: bool [B]. caption: CLIP embeddings [B, D] of what the style pictures show, for a removal of the scene.
    """

    style: torch.Tensor
    content: torch.Tensor | None
    dropped: torch.Tensor
    caption: torch.Tensor | None


class SharedWork(Protocol):
    """What several workloads have computed once for all of them, see `bottega.student.together.SharedPass`."""

    def draw(self, step: int, make: Callable[[int], StepDraw]) -> StepDraw:
        """What all draw in a step."""

    def frozen(self, work: StyleWorkload, draw: StepDraw, where: slice, blocks: int) -> FrozenInputs:
        """What `StyleWorkload.frozen` gives."""


class StyleWorkload(Workload):
    """Trains `adapter` on the samples of a feature cache; the backbone stays frozen.

    Args:
        backbone: the frozen transformer; the adapter is attached to it.
        adapter: what is trained.
        config: batch, mixture, dropout, weights.
        store: of the features.
        rows: samples to train on.

    Attributes:
        model_hashes: of the weights that the samples and the backbone come from, as far as the adapter reads them.
        facts: what the header of an adapter after so many steps says of its training.

    Raises:
        MissingError: a task that the mixture asks for has no sample.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: StyleAdapter,
        config: StudentConfig,
        store: FeatureStore,
        rows: list[SampleRow],
    ) -> None:
        self.module = adapter
        self.backbone = backbone
        self.adapter = adapter
        self.config = config
        self.store = store
        self.fingerprint = {}
        self.model_hashes: dict[str, str] = {}
        self.facts: Callable[[int], TrainingFacts] = lambda step: {"steps": step}
        self.loss_scaling = backbone.dtype == torch.float16
        self.checkpointed = False  # see `bottega.student.memory.choose_checkpointing`
        self.trajectory = NoisingTrajectory.of(adapter.config, backbone.schedule)

        tasks = split_tasks(rows)
        self.streams = {task: tasks.get(task, []) for task in TASKS}
        self.slots = {"main": config.global_batch - config.fill50k_slots, "fill50k": config.fill50k_slots}
        for task in TASKS:
            self._check_stream(task)
        manifest = store.manifest
        self.shape = (manifest["channels"], manifest["cells"], manifest["cells"])
        self.null_text = store.text_row(null_text_key(manifest))
        self.attachment = Attachment(backbone.transformer, adapter)
        self.shared: SharedWork | None = None

    def _check_stream(self, task: str) -> None:
        if self.slots[task] and not self.streams[task]:
            cure = "make targets" if task == "main" else "prepare Fill50K, or set student.fill50k_fraction=0"
            raise MissingError(
                f"the features hold no {task} sample, the mixture asks for {self.slots[task]} a step; {cure}"
            )

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `StyleAdapter.parameter_groups`."""
        return self.adapter.parameter_groups(self.config.loop.weight_decay, self.config.gate_lr_multiplier)

    def metrics(self, step: int) -> Row:
        """Epoch of the main task, prediction type, gates."""
        epoch = 0.0
        if self.streams["main"]:
            epoch = (step + 1) * self.slots["main"] / len(self.streams["main"])
        return {"epoch": epoch, "prediction_type": self.backbone.schedule.prediction_type, **self.adapter.gates()}

    def write_weights(self, path: Path, step: int) -> None:
        """The adapter as it is exported, with `facts` in its header."""
        save_adapter(path, self.adapter, self.facts(step))

    def modules(self) -> list[tuple[str, torch.nn.Module]]:
        """The adapter and the frozen transformer."""
        return [("adapter", self.adapter), ("transformer", self.backbone.transformer)]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        """The step in microbatches of `batch_size`, or a share of them; see `Workload.microbatches`."""
        draw = self.draw(step)
        size = self.config.batch_size
        for first in range(0, len(draw.rows), size)[share]:
            yield self.microbatch(draw, slice(first, first + size))

    def draw(self, step: int) -> StepDraw:
        """Samples, timesteps, noise and dropped conditions of a step."""
        return self._draw(step) if self.shared is None else self.shared.draw(step, self._draw)

    def draws_as(self, other: StyleWorkload) -> bool:
        """Whether both draw the same in every step and noise it alike: then one pass through the frozen blocks before
        the adapters serves both."""
        same_settings = all(
            getattr(self.config, name) == getattr(other.config, name)
            for name in ("seed", "batch_size", "accumulation", "fill50k_fraction", "fill50k_weight", "dropout")
        )
        same_samples = self.store is other.store and self.streams == other.streams
        return same_settings and same_samples and self.trajectory == other.trajectory

    def _draw(self, step: int) -> StepDraw:
        seed = self.config.seed
        count = self.config.global_batch
        rows = self._rows(step)
        # For the whole global batch: resumed with another number of processes, a step draws the same numbers.
        rng = numpy_rng(seed, "window", step)
        last = self.trajectory.last(self.backbone.schedule)
        timesteps = stratified_timesteps(rng, count, 0, last)  # [W]
        noise = torch.randn(count, *self.shape, generator=torch_generator(seed, "noise", step))  # [W, C, h, w]
        drop_text, drop_style = self._dropped(rng.random(count))
        without_style = np.array([row["style"] is None for row in rows])  # [W]
        return StepDraw(
            rows=rows,
            shares=shares(rows, self.config.fill50k_weight),
            timesteps=torch.from_numpy(timesteps),
            noise=noise,
            drop_text=drop_text,
            drop_style=drop_style | without_style,
        )

    def _rows(self, step: int) -> list[SampleRow]:
        """The samples of a step: those of Fill50K are spread evenly among those of the main task."""
        streams = {}
        for task in TASKS:
            if self.slots[task]:
                indices = stream_indices(self.config.seed, task, step, self.slots[task], len(self.streams[task]))
                streams[task] = iter(indices)
        rows = []
        for is_fill in interleave(self.config.global_batch, self.slots["fill50k"]):
            task = "fill50k" if is_fill else "main"
            rows.append(self.streams[task][next(streams[task])])
        return rows

    def _dropped(self, fate: npt.NDArray[np.float64]) -> tuple[Mask, Mask]:
        """Which samples lose their text and which their style, bool [W] each, from uniform numbers [W]."""
        dropout = self.config.dropout
        text_ends = dropout.both + dropout.text
        style_ends = text_ends + dropout.style
        both = fate < dropout.both  # [W]
        text_alone = (fate >= dropout.both) & (fate < text_ends)
        style_alone = (fate >= text_ends) & (fate < style_ends)
        return both | text_alone, both | style_alone

    def microbatch(self, draw: StepDraw, where: slice) -> Microbatch:
        """The loss of some samples of a step; the sum over the microbatches is the loss of the step."""
        device = self.backbone.device
        rows = draw.rows[where]
        times = draw.timesteps[where].to(device)  # [B]
        share = draw.shares[where].to(device)  # [B]

        # 1. Features, from the cache, and the frozen prefix without a graph. No gradient can reach it, so none of its
        # activations is kept.
        inputs = self.styles(rows, draw.drop_style[where])
        blocks = self.adapter.first_block
        if self.shared is None:
            content, wanted, state = self.frozen(draw, where, blocks)
        else:
            content, wanted, state = self.shared.frozen(self, draw, where, blocks)

        # 2. The suffix with the adapter.
        tokens, cosines = self.adapter.style(*inputs)  # [B, N, X]
        output = self.backbone.suffix(state, self.attachment, tokens, times, content, checkpointed=self.checkpointed)

        # 3. Loss, in float32 and by sample: the guard names the samples whose loss is not finite.
        losses = (self.backbone.prediction(output) - wanted).square().mean(dim=(1, 2, 3))  # [B]
        return Microbatch(
            loss=(share * self.importance(times) * losses).sum(),
            sample_losses=losses,
            sample_ids=[row["sample_id"] for row in rows],
            timesteps=times.tolist(),
            tasks=[row["task"] for row in rows],
            metrics=_cosine_means(cosines, inputs),
        )

    def frozen(self, draw: StepDraw, where: slice, blocks: int) -> FrozenInputs:
        """What no trained weight reaches: some samples of a step, noised, and run through the first `blocks` blocks."""
        device = self.backbone.device
        rows = draw.rows[where]
        times = draw.timesteps[where].to(device)  # [B]
        target, content = self.latents(rows)  # each [B, C, h, w]
        noised, wanted = self.corrupt(target, content, draw.noise[where].to(device), times)  # each [B, C, h, w]
        return FrozenInputs(content, wanted, self.prefix(rows, draw.drop_text[where], noised, times, blocks))

    def corrupt(
        self, target: torch.Tensor, content: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_t and what the network should return for it, float32 [B, C, h, w] each."""
        schedule = self.backbone.schedule
        alpha, sigma = schedule.coefficients(times, noise)  # each [B, 1, 1, 1]
        effective = self.trajectory.noise(schedule, noise, content, target)
        noised = add_noise(target, effective, alpha, sigma)
        return noised, prediction_target(schedule.prediction_type, target, effective, alpha, sigma)

    def importance(self, times: torch.Tensor) -> torch.Tensor | float:
        """Min-SNR-γ weights at the timesteps, float32 [B]; 1 where the recipe asks for none.

        Plain ε counts an error of x̂_0 SNR times: nearly all of the loss then comes from nearly finished pictures.
        """
        if self.config.min_snr_gamma is None:
            return 1.0
        schedule = self.backbone.schedule
        alpha, sigma = schedule.coefficients(times, times.float())  # each [B]
        return min_snr_weight(schedule.prediction_type, alpha, sigma, self.config.min_snr_gamma)

    def latents(self, rows: Sequence[SampleRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of targets and contents, float32 [B, C, h, w] each, on the backbone's device."""
        target = self.store.latents([row["target"] for row in rows])
        content = self.store.latents([row["content"] for row in rows])
        return target.to(self.backbone.device), content.to(self.backbone.device)

    def prefix(
        self, rows: Sequence[SampleRow], dropped: Mask, noised: torch.Tensor, times: torch.Tensor, blocks: int
    ) -> Prefix:
        """What the first frozen blocks make of x_t [B, C, h, w] and the captions.

        Args:
            rows: B samples.
            dropped: bool [B], whose caption is replaced by the null prompt.
            noised: x_t.
            times: int [B].
            blocks: how many blocks; at most those before the first adapted one.
        """
        text, mask = self.text(rows, dropped)  # [B, M, P], [B, M]
        device = self.backbone.device
        return self.backbone.prefix(noised, times, text.to(device), mask.to(device), blocks)

    def text(self, rows: Sequence[SampleRow], dropped: Mask) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states [B, M, P] and their mask [B, M]; a dropped caption becomes the null prompt with its own mask."""
        states = []
        for row, drop in zip(rows, dropped, strict=True):
            states.append(self.null_text if drop else self.store.text_row(row["text"]))
        return pad_text(states)

    def styles(self, rows: Sequence[SampleRow], dropped: Mask) -> StyleInputs:
        """What the adapter reads of the styles; samples without one get ones, which `dropped` must replace."""
        device = self.backbone.device
        null = torch.from_numpy(dropped.copy()).to(device)  # [B]
        if self.adapter.reads_patches:
            return StyleInputs(self._patches(rows).to(device), None, null, None)
        style = self._embeddings([row["style"] for row in rows]).to(device)
        content = self._embeddings([row["clip_content"] for row in rows]).to(device)
        caption = None
        if self.adapter.scene_removal is not None:
            caption = self.store.captions([row.get("caption") for row in rows]).to(device)
        return StyleInputs(style, content, null, caption)

    def _patches(self, rows: Sequence[SampleRow]) -> torch.Tensor:
        """Patch tokens of the styles, float32 [B, T, V]; ones where there is none."""
        geometry = self.adapter.geometry
        patches = torch.ones(len(rows), geometry.clip_tokens, geometry.clip_token_width)  # [B, T, V]
        for index, row in enumerate(rows):
            if row["style"] is not None:
                patches[index] = self.store.patches([row["style_patches"]])[0]
        return patches

    def _embeddings(self, keys: Sequence[str | None]) -> torch.Tensor:
        """CLIP embeddings, float32 [B, D]; ones where there is none."""
        embeddings = torch.ones(len(keys), self.adapter.geometry.clip_width)  # [B, D]
        for index, key in enumerate(keys):
            if key is not None:
                embeddings[index] = self.store.clip([key])[0]
        return embeddings


def shares(rows: Sequence[SampleRow], fill50k_weight: float = 1.0) -> torch.Tensor:
    """How much each sample of a step counts, float32 [W], summing to 1.

    Inside a task the weights by grade are normalised by their sum over the step, so that the learning rate does not
    change with the grades. Between tasks the share is that of the samples, one of Fill50K counting `fill50k_weight`.
    """
    task_weights = {"main": 1.0, "fill50k": fill50k_weight}
    whole = sum(task_weights[row["task"]] for row in rows)
    grades: dict[str, list[float]] = {task: [] for task in TASKS}
    for row in rows:
        grades[row["task"]].append(row["weight"])
    totals = {task: sum(grades[task]) for task in TASKS}
    task_shares = {task: task_weights[task] * len(grades[task]) for task in TASKS}
    values = []
    for row in rows:
        task = row["task"]
        values.append(row["weight"] / totals[task] * task_shares[task] / whole)
    return torch.tensor(values)  # [W]


def _cosine_means(cosines: dict[str, torch.Tensor], inputs: StyleInputs) -> dict[str, float]:
    """Means over the samples for which a cosine means something: those with a style, or with a known caption."""
    with_style = ~inputs.dropped
    with_caption = with_style
    if inputs.caption is not None:
        with_caption = with_style & (inputs.caption != 0).any(dim=-1)
    means = {}
    for name, values in cosines.items():
        chosen = values[with_caption if name.startswith("scene") else with_style]
        if len(chosen):
            means[name] = float(chosen.mean())
    return means
