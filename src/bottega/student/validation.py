"""Validation on a fixed grid of (picture, timestep, noise), each point paired with the frozen base and another style.

Paired, because the loss of a single point varies a hundredfold with timestep and picture: only the difference on the
same point says whether anything was learned. The prefix is the same for all three and for the whole run.

A second, smaller grid asks whether the content is copied: the pictures where their use begins, at the timestep of the
start. There the input is the noised content (pure noise, for `start: noise`) and x̂_0 is what the first step is heading
for, so its place between target and content can be read off: with w = z_content - z_target,

    val_copy = Σ ⟨x̂_0 - z_target, w⟩ / Σ ⟨w, w⟩      0 at the target, 1 at the content

which is ½ (1 + (L_target - L_content) / L_between), the paired difference of x̂_0's loss towards the target and towards
the content, on the scale of their distance. `paired`, and `latent` from the content: what was trained, where it is
hardest. `sdedit`: training never shows a content, so this is no training loss but what its use does with one. `latent`
from noise: what reaches the picture through the content's path; an error of ε counts σ/α = 160-fold at PixArt's last
timestep, so the interval is wide. It is not measured where the step schedule holds the style back at the start: the
style then enters later, and the start tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bottega.diffusion.process import add_noise, clean_estimate
from bottega.runtime.seeds import derive, numpy_rng, torch_generator
from bottega.student.backbone import Prefix
from bottega.student.config import ValidationConfig
from bottega.student.objective import StyleWorkload
from bottega.student.steps import style_factor
from bottega.student.store import STYLE_KEYS

_RESAMPLES = 1000
_HELD_OUT_SHARE = 20
_LEAST_STYLE = 0.5
"""Factor of the step schedule at the start of the use, below which `val_copy` is not measured."""


def hold_out(
    rows: list[dict[str, Any]], config: ValidationConfig, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Training rows, validation rows, and where the latter are from: "val", "held out", or "training".

    The split `val` is used where the teacher made targets for it; else up to `pictures` main samples, at most one in
    twenty, are set aside by a hash of their content, so that no content is on both sides; a handful of samples is
    validated on itself, and the summary says so.
    """
    main = [row for row in rows if row["task"] == "main"]
    train = [row for row in rows if row["split"] == "train"]
    val = [row for row in main if row["split"] == "val"]
    if val:
        return train, _spread(val, config.pictures), "val"
    main = [row for row in main if row["split"] == "train"]
    contents = sorted({row["content"] for row in main}, key=lambda key: derive(seed, "held out", key))
    wanted = min(config.pictures, len(main) // _HELD_OUT_SHARE)
    if wanted == 0 or len(contents) < 2:
        return train, _spread(main, config.pictures), "training"
    chosen: set[str] = set()
    for content in contents[: len(contents) // 2]:
        if sum(row["content"] in chosen for row in main) >= wanted:
            break
        chosen.add(content)
    held = [row for row in main if row["content"] in chosen]
    kept = [row for row in train if row["task"] != "main" or row["content"] not in chosen]
    return kept, _spread(held, config.pictures), "held out"


def other_style(rows: list[dict[str, Any]], index: int) -> dict[str, Any] | None:
    """What a row holds of the style of another picture that is not this one's own: half the list away, or the next that
    differs; None where all have the same."""
    count = len(rows)
    others = (rows[(index + count // 2 + k) % count] for k in range(count))
    found = next((row for row in others if row["style"] != rows[index]["style"]), None)
    return None if found is None else {name: found[name] for name in STYLE_KEYS if name in found}


def _spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in places]


@dataclass
class Start:
    """Some pictures where their use begins: what does not change in training.

    state: the prefix there. content, target, noised: latents [B, C, h, w]; times [B]. base: how far back towards the
    content the frozen base's x̂_0 lies, and how far that is, see `Validation._back`: two float64 [B].
    """

    rows: list[dict[str, Any]]
    state: Prefix
    content: torch.Tensor
    target: torch.Tensor
    noised: torch.Tensor
    times: torch.Tensor
    base: tuple[torch.Tensor, torch.Tensor] | None = None


class Validation:
    """The grid: P pictures × K timesteps, each with noise of its own."""

    def __init__(self, work: StyleWorkload, rows: list[dict[str, Any]], config: ValidationConfig) -> None:
        self.work = work
        self.pictures = len(rows)
        self.rows = [row for row in rows for _ in range(config.timesteps)]  # picture-major, [P·K]
        self.others = [other_style(rows, i) for i in range(self.pictures)]
        last = work.path.last(work.backbone.schedule)
        times = np.round((np.arange(config.timesteps) + 0.5) / config.timesteps * last).astype(np.int64)
        self.times = torch.from_numpy(np.tile(times, self.pictures))
        self.noise = torch.stack(
            [
                torch.randn(
                    work.shape, generator=torch_generator(work.config.seed, "validation", row["sample_id"], int(t))
                )
                for row, t in zip(self.rows, self.times, strict=True)
            ]
        )
        self._cached: list[tuple[Prefix, torch.Tensor, torch.Tensor]] | None = None
        self._starts: list[Start] | None = None

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """{val_loss, val_base, val_gain, val_swap, val_copy, val_copy_base, val_gain_t…}, and {_low, _high} of gain,
        swap and copy. val_swap is None where no other style is at hand, val_copy where it can't be told."""
        per_part = [self._losses(part) for part in self._parts()]
        base, own, swapped = (
            torch.cat(column).reshape(self.pictures, -1).double().numpy() for column in zip(*per_part, strict=True)
        )
        gain = 1.0 - own.sum() / base.sum()
        low, high = self._interval(base.sum(axis=1), own.sum(axis=1))
        times = self.times[: base.shape[1]].tolist()
        by_time = {f"val_gain_t{t}": float(1 - own[:, k].sum() / base[:, k].sum()) for k, t in enumerate(times)}
        return {
            "val_loss": float(own.mean()),
            "val_base": float(base.mean()),
            "val_gain": float(gain),
            "val_gain_low": low,
            "val_gain_high": high,
            **self._swap(base.sum(axis=1), own.sum(axis=1), swapped.sum(axis=1)),
            **self._copy(),
            **by_time,
        }

    def _swap(
        self, base: np.ndarray[Any, Any], own: np.ndarray[Any, Any], swapped: np.ndarray[Any, Any]
    ) -> dict[str, float | None]:
        """From sums a picture [P], over the pictures for which there is another style."""
        known = [i for i, other in enumerate(self.others) if other is not None]
        if not known:
            return {"val_swap": None, "val_swap_low": None, "val_swap_high": None}
        base, lost = base[known], (swapped - own)[known]
        low, high = self._interval(base, base - lost)
        return {"val_swap": float(lost.sum() / base.sum()), "val_swap_low": low, "val_swap_high": high}

    def _copy(self) -> dict[str, float | None]:
        """Where x̂_0 lies between target and content at the start of the use, for the adapter and for the base."""
        work, adapter = self.work, self.work.adapter
        start = torch.tensor([work.path.start])
        if float(style_factor(adapter.config.step_schedule, start, adapter.geometry.timesteps)) < _LEAST_STYLE:
            return dict.fromkeys(("val_copy", "val_copy_low", "val_copy_high", "val_copy_base"))
        if self._starts is None:
            size = max(work.config.batch_size, 8)
            rows = self.rows[:: len(self.rows) // self.pictures]
            self._starts = [self._start(rows[k : k + size]) for k in range(0, self.pictures, size)]
        measured = []
        for part in self._starts:
            tokens, _ = adapter.style(*work.styles(part.rows, np.zeros(len(part.rows), dtype=bool)))
            own = work.backbone.suffix(part.state, work.attachment, tokens, part.times, part.content)
            if part.base is None:
                part.base = self._back(part, work.backbone.suffix(part.state, None))
            measured.append((*self._back(part, own), part.base[0]))
        back, way, base = (torch.cat(column).numpy() for column in zip(*measured, strict=True))
        if not way.sum() > 0.0:  # every target is its content: nothing lies between them
            return dict.fromkeys(("val_copy", "val_copy_low", "val_copy_high", "val_copy_base"))
        low, high = self._interval(way, way - back)
        return {
            "val_copy": float(back.sum() / way.sum()),
            "val_copy_low": low,
            "val_copy_high": high,
            "val_copy_base": float(base.sum() / way.sum()),
        }

    def _start(self, rows: list[dict[str, Any]]) -> Start:
        """Pictures at the timestep where their use begins, from their noised content or from noise alone."""
        work, device, start = self.work, self.work.backbone.device, self.work.path.start
        target, content = (work.store.latents([row[name] for row in rows]).to(device) for name in ("target", "content"))
        drawn = [torch_generator(work.config.seed, "validation start", row["sample_id"]) for row in rows]
        noised = torch.stack([torch.randn(work.shape, generator=generator) for generator in drawn]).to(device)
        times = torch.full((len(rows),), start, device=device)
        if work.adapter.config.start == "content":
            noised = add_noise(content, noised, *work.backbone.schedule.coefficients(times, noised))
        text, mask = work.text(rows, np.zeros(len(rows), dtype=bool))
        state = work.backbone.prefix(noised, times, text.to(device), mask.to(device), work.adapter.first_block)
        return Start(rows, state, content, target, noised, times)

    def _back(self, part: Start, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """⟨x̂_0 - z_target, w⟩ and ⟨w, w⟩ with w = z_content - z_target, float64 [B] each."""
        backbone = self.work.backbone
        epsilon = backbone.epsilon(output, part.noised, part.times)
        clean = clean_estimate(part.noised, epsilon, *backbone.schedule.coefficients(part.times, epsilon))
        way = (part.content - part.target).cpu().double()  # float64 is not on every device
        return (
            ((clean - part.target).cpu().double() * way).sum(dim=(1, 2, 3)),
            way.square().sum(dim=(1, 2, 3)),
        )

    def _parts(self) -> list[slice]:
        size = max(self.work.config.batch_size, 8)
        return [slice(first, first + size) for first in range(0, len(self.rows), size)]

    def _losses(self, where: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses [B] of the frozen base, of the adapter, and of the adapter with another picture's style."""
        work, rows = self.work, self.rows[where]
        state, content, wanted = self._prepared(where)
        times = self.times[where].to(work.backbone.device)
        none = np.zeros(len(rows), dtype=bool)
        per_picture = len(self.rows) // self.pictures
        others = [row | (self.others[(where.start + i) // per_picture] or {}) for i, row in enumerate(rows)]
        outputs = [work.backbone.suffix(state, None)]
        for style_rows in (rows, others):
            tokens, _ = work.adapter.style(*work.styles(style_rows, none))
            outputs.append(work.backbone.suffix(state, work.attachment, tokens, times, content))
        losses = [(work.backbone.prediction(o) - wanted).square().mean(dim=(1, 2, 3)).cpu() for o in outputs]
        return losses[0], losses[1], losses[2]

    def _prepared(self, where: slice) -> tuple[Prefix, torch.Tensor, torch.Tensor]:
        """The prefix, the content and the wanted prediction of a part of the grid: they never change, so they are
        kept."""
        if self._cached is None:
            self._cached = [self._prepare(part) for part in self._parts()]
        return self._cached[self._parts().index(where)]

    def _prepare(self, where: slice) -> tuple[Prefix, torch.Tensor, torch.Tensor]:
        work, rows = self.work, self.rows[where]
        device = work.backbone.device
        target, content = (work.store.latents([row[name] for row in rows]).to(device) for name in ("target", "content"))
        text, mask = work.text(rows, np.zeros(len(rows), dtype=bool))
        times = self.times[where].to(device)
        noised, wanted = work.corrupt(target, content, self.noise[where].to(device), times)
        state = work.backbone.prefix(noised, times, text.to(device), mask.to(device), work.adapter.first_block)
        return state, content, wanted

    def _interval(self, base: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> tuple[float, float]:
        """95 % bootstrap interval of the gain over pictures, from sums a picture [P]."""
        rng = numpy_rng("validation interval", len(base))
        drawn = rng.integers(0, len(base), (_RESAMPLES, len(base)))
        gains = 1 - own[drawn].sum(axis=1) / base[drawn].sum(axis=1)
        low, high = np.quantile(gains, [0.025, 0.975])
        return float(low), float(high)
