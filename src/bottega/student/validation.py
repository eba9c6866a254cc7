"""Validation on a fixed grid of (picture, timestep, noise), each point paired with the frozen base and another style.

Paired, because the loss of a single point varies a hundredfold with timestep and picture: only the difference on the
same point says whether anything was learned. The prefix is the same for all three and for the whole run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bottega.runtime.seeds import derive, numpy_rng, torch_generator
from bottega.student.backbone import Prefix
from bottega.student.config import ValidationConfig
from bottega.student.objective import StyleWorkload

_RESAMPLES = 1000
_HELD_OUT_SHARE = 20


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


def _spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in places]


class Validation:
    """The grid: P pictures × K timesteps, each with noise of its own."""

    def __init__(self, work: StyleWorkload, rows: list[dict[str, Any]], config: ValidationConfig) -> None:
        self.work = work
        self.pictures = len(rows)
        self.rows = [row for row in rows for _ in range(config.timesteps)]  # picture-major, [P·K]
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

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """{val_loss, val_base, val_gain, val_gain_low, val_gain_high, val_swap, val_gain_t…} over the grid."""
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
            "val_swap": float((swapped.sum() - own.sum()) / base.sum()) if self.pictures > 1 else None,
            **by_time,
        }

    def _parts(self) -> list[slice]:
        size = max(self.work.config.batch_size, 8)
        return [slice(first, first + size) for first in range(0, len(self.rows), size)]

    def _losses(self, where: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses [B] of the frozen base, of the adapter, and of the adapter with another picture's style."""
        work, rows = self.work, self.rows[where]
        state, content, wanted = self._prepared(where)
        times = self.times[where].to(work.backbone.device)
        none = np.zeros(len(rows), dtype=bool)
        shift = self.pictures // 2 * (len(self.rows) // self.pictures)  # the same timestep of another picture
        others = [self.rows[(where.start + i + shift) % len(self.rows)] for i in range(len(rows))]
        outputs = [work.backbone.suffix(state, None)]
        for style_rows in (rows, [{**row, "style": other["style"]} for row, other in zip(rows, others, strict=True)]):
            style, style_content, dropped = work.styles(style_rows, none)
            tokens, _, _ = work.adapter.style(style, style_content, dropped)
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
        rng = numpy_rng("validation interval", self.pictures)
        drawn = rng.integers(0, self.pictures, (_RESAMPLES, self.pictures))
        gains = 1 - own[drawn].sum(axis=1) / base[drawn].sum(axis=1)
        low, high = np.quantile(gains, [0.025, 0.975])
        return float(low), float(high)
