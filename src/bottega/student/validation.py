"""Validation on a fixed grid of (picture, timestep, noise), each point paired with the frozen base and another style.

Paired, because the loss of a single point varies a hundredfold with timestep and picture: only the difference on the
same point says whether anything was learned. The prefix is the same for all three and for the whole run.

A second, smaller grid asks whether the content is copied: the pictures at the start timestep of sampling. There the
input is the noised content (pure noise, for `start: noise`), and x̂_0 is what the first sampling step moves towards, so
its position between target and content can be measured: with w = z_content - z_target,

    val_copy = Σ ⟨x̂_0 - z_target, w⟩ / Σ ⟨w, w⟩      0 at the target, 1 at the content

which is ½ (1 + (L_target - L_content) / L_between), the paired difference of x̂_0's loss towards the target and towards
the content, on the scale of their distance. What it means depends on the content mode:

    paired; latent from the content   what was trained, where it is hardest
    sdedit                            no training loss, for training never shows a content: what inference does with one
    latent from noise                 what reaches the picture through the content path; an error of ε counts
                                      σ/α = 160-fold at PixArt's last timestep, so the interval is wide

It is not measured where the step schedule holds the style back at the start: the style then enters later, and the
start says nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.process import add_noise, clean_estimate
from bottega.runtime.seeds import derive, numpy_rng, torch_generator
from bottega.student.backbone import Prefix
from bottega.student.config import ValidationConfig
from bottega.student.objective import StyleInputs, StyleWorkload
from bottega.student.records import SampleRow, StyleKeys
from bottega.student.steps import style_factor

_RESAMPLES = 1000
"""Of the bootstrap: the ends of a 95 % interval then vary by about 2 % of its width."""
_HELD_OUT_SHARE = 20
"""At most one main sample in so many is set aside for validation."""
_MIN_BATCH = 8
"""Points of a grid computed together, at least: there is no gradient, so more fit than in training."""
_MIN_STYLE_FACTOR = 0.5
"""Of the step schedule at the start timestep; below it `val_copy` is not measured."""
_COPY_METRICS = ("val_copy", "val_copy_low", "val_copy_high", "val_copy_base")

Floats = npt.NDArray[np.float64]


def hold_out(
    rows: list[SampleRow], config: ValidationConfig, seed: int
) -> tuple[list[SampleRow], list[SampleRow], str]:
    """Divide the samples into those for training and those for validation.

    The split `val` is used where the teacher made targets for it. Else up to `pictures` main samples, at most one in
    twenty, are set aside by a hash of their content, so that no content is on both sides. A handful of samples is
    validated on itself.

    Returns:
        Training rows, validation rows, and where the latter are from: "val", "held out", or "training".
    """
    train = [row for row in rows if row["split"] == "train"]
    val = _main([row for row in rows if row["split"] == "val"])
    if val:
        return train, _evenly(val, config.pictures), "val"

    # By contents: with one content on both sides, learning it by heart would count as a gain.
    main = _main(train)
    contents = _set_aside(main, min(config.pictures, len(main) // _HELD_OUT_SHARE), seed)
    if not contents:
        return train, _evenly(main, config.pictures), "training"
    kept: list[SampleRow] = []
    held_out: list[SampleRow] = []
    for row in train:
        is_held_out = row["task"] == "main" and row["content"] in contents
        (held_out if is_held_out else kept).append(row)
    return kept, _evenly(held_out, config.pictures), "held out"


def _main(rows: Sequence[SampleRow]) -> list[SampleRow]:
    return [row for row in rows if row["task"] == "main"]


def _set_aside(rows: Sequence[SampleRow], wanted: int, seed: int) -> set[str]:
    """Contents that together have `wanted` samples, at most half of all contents; none where there is only one."""
    contents = sorted({row["content"] for row in rows}, key=lambda key: derive(seed, "held out", key))
    chosen: set[str] = set()
    for content in contents[: len(contents) // 2]:
        if sum(row["content"] in chosen for row in rows) >= wanted:
            break
        chosen.add(content)
    return chosen


def other_style(rows: Sequence[SampleRow], index: int) -> StyleKeys | None:
    """The style of another picture than the one at `index`: half the list away, or the next that differs; None where
    all have the same."""
    count = len(rows)
    for step in range(count):
        row = rows[(index + count // 2 + step) % count]
        if row["style"] != rows[index]["style"]:
            return _style_keys(row)
    return None


def _style_keys(row: SampleRow) -> StyleKeys:
    keys: StyleKeys = {"style": row["style"]}
    if "caption" in row:
        keys["caption"] = row["caption"]
    if "style_patches" in row:
        keys["style_patches"] = row["style_patches"]
    return keys


def _evenly(rows: list[SampleRow], count: int) -> list[SampleRow]:
    """At most `count` rows, evenly spaced."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in places]


@dataclass(frozen=True)
class _Point:
    """Some points of the grid: what does not change during training.

    rows: the samples; other_rows: the same with another picture's style. state: the prefix. content, wanted [B, C, h,
    w]: latents of the contents, and the right prediction. times: int [B].
    """

    rows: list[SampleRow]
    other_rows: list[SampleRow]
    state: Prefix
    content: torch.Tensor
    wanted: torch.Tensor
    times: torch.Tensor


@dataclass
class _Start:
    """Some pictures at the start timestep: what does not change during training.

    state: the prefix. content, target, noised: latents [B, C, h, w]; times: int [B]. base: how far back towards the
    content the frozen base's x̂_0 is, float64 [B]; computed once.
    """

    rows: list[SampleRow]
    state: Prefix
    content: torch.Tensor
    target: torch.Tensor
    noised: torch.Tensor
    times: torch.Tensor
    base: torch.Tensor | None = None


class Validation:
    """The grid: P pictures × K timesteps, each with noise of its own.

    Args:
        work: what is trained.
        rows: the validation's samples.
        config: how many timesteps.
    """

    def __init__(self, work: StyleWorkload, rows: list[SampleRow], config: ValidationConfig) -> None:
        self.work = work
        self.pictures = len(rows)
        self._picture_rows = rows
        last = work.trajectory.last(work.backbone.schedule)
        fractions = (np.arange(config.timesteps) + 0.5) / config.timesteps  # [K]: the middles of K equal parts
        self._timesteps = np.round(fractions * last).astype(np.int64)  # [K]
        self._points: list[_Point] | None = None
        self._starts: list[_Start] | None = None

    @torch.no_grad()
    def run(self) -> dict[str, float | None]:
        """Measure.

        Returns:
            {val_loss, val_base, val_gain, val_swap, val_copy, val_copy_base, val_gain_t…}, and {_low, _high} of gain,
            swap and copy. val_swap is None where there is no other style, val_copy where it is not measured.
        """
        # Noise and prefixes never change, so they are computed once: 20 MB for the miniature (docs/log.md).
        if self._points is None:
            self._points = list(self._prepare_grid())
        per_point = [self._losses(point) for point in self._points]
        base = self._by_picture([losses[0] for losses in per_point])  # [P, K]
        own = self._by_picture([losses[1] for losses in per_point])
        swapped = self._by_picture([losses[2] for losses in per_point])
        gain = 1.0 - own.sum() / base.sum()
        low, high = self._interval(base.sum(axis=1), own.sum(axis=1))
        found: dict[str, float | None] = {
            "val_loss": float(own.mean()),
            "val_base": float(base.mean()),
            "val_gain": float(gain),
            "val_gain_low": low,
            "val_gain_high": high,
            **self._swap(base.sum(axis=1), own.sum(axis=1), swapped.sum(axis=1)),
            **self._copy(),
        }
        for k, timestep in enumerate(self._timesteps.tolist()):
            found[f"val_gain_t{timestep}"] = float(1 - own[:, k].sum() / base[:, k].sum())
        return found

    def _by_picture(self, losses: list[torch.Tensor]) -> Floats:
        """Losses of the points, in order: float64 [P, K]."""
        array: Floats = torch.cat(losses).reshape(self.pictures, -1).double().numpy()  # [P, K]
        return array

    def _losses(self, point: _Point) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses [B] of the frozen base, of the adapter, and of the adapter with another picture's style."""
        backbone = self.work.backbone
        base = backbone.suffix(point.state, None)
        own = self._output(point, point.rows)
        swapped = self._output(point, point.other_rows)

        def loss(output: torch.Tensor) -> torch.Tensor:
            return (backbone.prediction(output) - point.wanted).square().mean(dim=(1, 2, 3)).cpu()

        return loss(base), loss(own), loss(swapped)

    def _output(self, point: _Point | _Start, rows: list[SampleRow]) -> torch.Tensor:
        """The network's output with the adapter and the rows' styles."""
        work = self.work
        tokens, _ = work.adapter.style(*self._styles(rows))
        return work.backbone.suffix(point.state, work.attachment, tokens, point.times, point.content)

    def _styles(self, rows: list[SampleRow]) -> StyleInputs:
        return self.work.styles(rows, np.zeros(len(rows), dtype=bool))

    def _swap(self, base: Floats, own: Floats, swapped: Floats) -> dict[str, float | None]:
        """What the right style is worth, from sums a picture [P], over the pictures for which there is another."""
        # Only pictures with another style to swap in: with one style in the validation, a run was once reported to
        # ignore style (docs/log.md, eighth session).
        known = [i for i in range(self.pictures) if other_style(self._picture_rows, i) is not None]
        if not known:
            return {"val_swap": None, "val_swap_low": None, "val_swap_high": None}
        base = base[known]  # pictures that have another style
        lost = (swapped - own)[known]
        low, high = self._interval(base, base - lost)
        return {"val_swap": float(lost.sum() / base.sum()), "val_swap_low": low, "val_swap_high": high}

    def _copy(self) -> dict[str, float | None]:
        """Where x̂_0 is between target and content at the start timestep, for the adapter and for the base."""
        work = self.work
        adapter = work.adapter
        start = torch.tensor([work.trajectory.start])  # [1]
        factor = style_factor(adapter.config.step_schedule, start, adapter.geometry.timesteps)
        if float(factor) < _MIN_STYLE_FACTOR:
            return dict.fromkeys(_COPY_METRICS)
        if self._starts is None:
            self._starts = [self._prepare_start(self._picture_rows[part]) for part in self._parts(self.pictures)]

        backs = []
        distances = []
        base_backs = []
        for part in self._starts:
            output = self._output(part, part.rows)
            if part.base is None:
                part.base, _ = self._back(part, work.backbone.suffix(part.state, None))
            back, distance = self._back(part, output)
            backs.append(back)
            distances.append(distance)
            base_backs.append(part.base)
        back_sums = torch.cat(backs).numpy()  # [P]
        distance_sums = torch.cat(distances).numpy()  # [P]
        base_sums = torch.cat(base_backs).numpy()  # [P]
        if not distance_sums.sum() > 0.0:  # every target equals its content: there is no distance to divide by
            return dict.fromkeys(_COPY_METRICS)
        low, high = self._interval(distance_sums, distance_sums - back_sums)
        return {
            "val_copy": float(back_sums.sum() / distance_sums.sum()),
            "val_copy_low": low,
            "val_copy_high": high,
            "val_copy_base": float(base_sums.sum() / distance_sums.sum()),
        }

    def _back(self, part: _Start, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """⟨x̂_0 - z_target, w⟩ and ⟨w, w⟩ with w = z_content - z_target, float64 [B] each."""
        backbone = self.work.backbone
        epsilon = backbone.epsilon(output, part.noised, part.times)
        alpha, sigma = backbone.schedule.coefficients(part.times, epsilon)
        clean = clean_estimate(part.noised, epsilon, alpha, sigma)
        w = (part.content - part.target).cpu().double()  # on the CPU, for not every device has float64
        back = ((clean - part.target).cpu().double() * w).sum(dim=(1, 2, 3))  # [B]
        return back, w.square().sum(dim=(1, 2, 3))

    def _prepare_grid(self) -> Iterator[_Point]:
        """The points of the grid, picture by picture."""
        work = self.work
        device = work.backbone.device
        rows: list[SampleRow] = []
        other_rows: list[SampleRow] = []
        timesteps: list[int] = []
        for index, row in enumerate(self._picture_rows):
            other = other_style(self._picture_rows, index)
            for timestep in self._timesteps.tolist():
                rows.append(row)
                other_rows.append(row if other is None else with_style(row, other))
                timesteps.append(timestep)
        for part in self._parts(len(rows)):
            times = torch.tensor(timesteps[part])  # [B]
            draws = []
            for row, timestep in zip(rows[part], timesteps[part], strict=True):
                generator = torch_generator(work.config.seed, "validation", row["sample_id"], timestep)
                draws.append(torch.randn(work.shape, generator=generator))
            noise = torch.stack(draws).to(device)  # [B, C, h, w]
            target, content = work.latents(rows[part])
            times = times.to(device)
            noised, wanted = work.corrupt(target, content, noise, times)
            state = self._prefix(rows[part], noised, times)
            yield _Point(rows[part], other_rows[part], state, content, wanted, times)

    def _prepare_start(self, rows: list[SampleRow]) -> _Start:
        """Pictures at the start timestep, from their noised content or from noise alone."""
        work = self.work
        device = work.backbone.device
        target, content = work.latents(rows)
        draws = []
        for row in rows:
            generator = torch_generator(work.config.seed, "validation start", row["sample_id"])
            draws.append(torch.randn(work.shape, generator=generator))
        noised = torch.stack(draws).to(device)  # [B, C, h, w]
        times = torch.full((len(rows),), work.trajectory.start, device=device)  # [B]
        if work.adapter.config.start == "content":
            alpha, sigma = work.backbone.schedule.coefficients(times, noised)
            noised = add_noise(content, noised, alpha, sigma)
        return _Start(rows, self._prefix(rows, noised, times), content, target, noised, times)

    def _prefix(self, rows: Sequence[SampleRow], noised: torch.Tensor, times: torch.Tensor) -> Prefix:
        blocks = self.work.adapter.first_block
        return self.work.prefix(rows, np.zeros(len(rows), dtype=bool), noised, times, blocks)

    def _parts(self, count: int) -> list[slice]:
        """`count` points in batches."""
        size = max(self.work.config.batch_size, _MIN_BATCH)
        return [slice(first, first + size) for first in range(0, count, size)]

    def _interval(self, base: Floats, own: Floats) -> tuple[float, float]:
        """95 % bootstrap interval of the gain over pictures, from sums a picture [P]."""
        rng = numpy_rng("validation interval", len(base))
        drawn = rng.integers(0, len(base), (_RESAMPLES, len(base)))  # [_RESAMPLES, P]
        gains = 1 - own[drawn].sum(axis=1) / base[drawn].sum(axis=1)  # [_RESAMPLES]
        low, high = np.quantile(gains, [0.025, 0.975])
        return float(low), float(high)


def with_style(row: SampleRow, style: StyleKeys) -> SampleRow:
    """A sample with another style."""
    changed = row.copy()
    changed.update(style)  # type: ignore[typeddict-item]
    return changed
