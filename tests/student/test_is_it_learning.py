"""Findings on real trainings of seconds: one as it is, one whose styles say nothing. And what `val_copy` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional

from bottega.runtime.seeds import numpy_rng, torch_generator
from bottega.student.adapter import StyleAdapter
from bottega.student.backbone import Backbone
from bottega.student.config import StudentConfig
from bottega.student.objective import StyleWorkload
from bottega.student.validation import Validation, other_style
from bottega.training.diagnosis import diagnose, diagnose_folder
from bottega.training.loop import train

from .reference import forward

CONTENTS, STYLES = 6, 4


class Tinted:
    """A `FeatureStore` in memory: a target is its content with a tint that only the style's embedding tells.

    It stands in for the feature cache because untrained encoders make latents in which no style can be seen.
    """

    def __init__(self) -> None:
        self.manifest = {"channels": 4, "cells": 8, "models": {"text": ""}, "settings": {"text": {}}}
        self.contents, self.tints, self.embeddings = (
            torch.randn(*size, generator=torch_generator("tinted", *size))
            for size in ((CONTENTS, 4, 8, 8), (STYLES, 4, 1, 1), (CONTENTS + STYLES, 16))
        )

    def latents(self, keys: Sequence[str]) -> torch.Tensor:
        """`c2` is a content, `c2s1` the target in style 1."""
        places = [[int(part) for part in key[1:].split("s")] for key in keys]
        return torch.stack([self.contents[c] + sum(1.5 * self.tints[s] for s in style) for c, *style in places])

    def clip(self, keys: Sequence[str]) -> torch.Tensor:
        """`s1` is a style's embedding, `c2` a content's; unit length."""
        places = [int(key[1:]) + (CONTENTS if key[0] == "s" else 0) for key in keys]
        return functional.normalize(self.embeddings[places], dim=-1)

    def text_row(self, key: str) -> torch.Tensor:
        """One token for every caption."""
        return torch.zeros(1, 20)


ROWS: list[dict[str, Any]] = [
    {
        "sample_id": f"c{c}s{s}",
        "task": "main",
        "weight": 1.0,
        "target": f"c{c}s{s}",
        "content": f"c{c}",
        "clip_content": f"c{c}",
        "style": f"s{s}",
        "text": "",
    }
    for c in range(CONTENTS)
    for s in range(STYLES)
]


def validation_of(work: StyleWorkload) -> Validation:
    """The validation of every second row, whatever the workload is trained on."""
    return Validation(work, ROWS[::2], work.config.validation)


@pytest.fixture
def make_work(backbone: Backbone, make_adapter: Callable[..., StyleAdapter]) -> Iterator[Callable[..., StyleWorkload]]:
    made: list[StyleWorkload] = []

    def make(rows: list[dict[str, Any]] = ROWS, **adapter: Any) -> StyleWorkload:
        config = StudentConfig.model_validate(
            {
                "adapter": {"layers": 4, "strength": 0.4, "out_projection": "full", **adapter},
                "loop": {"steps": 150, "learning_rate": 5e-3, "warmup_steps": 5, "validate_every": 10},
                "batch_size": 12,
                "accumulation": 1,
                "fill50k_fraction": 0.0,
                "dropout": {"text": 0.0, "style": 0.0, "both": 0.0},
                "validation": {"pictures": 12, "timesteps": 2},
            }
        )
        chosen = make_adapter(**config.adapter.model_dump())
        work = StyleWorkload(backbone, chosen, config, Tinted(), rows)  # type: ignore[arg-type]
        made.append(work)
        return work

    yield make
    for work in made:
        work.attachment.detach()


MODES = [
    {"content_mode": "sdedit"},
    {"content_mode": "paired"},
    {"content_mode": "latent"},
    {"content_mode": "latent", "start": "noise"},
]


def found(work: StyleWorkload, directory: Path) -> dict[str, str]:
    train(work, work.config.loop, directory, validate=validation_of(work).run)
    return {finding.name: finding.evidence for finding in diagnose_folder(directory)}


def test_a_real_training_is_found_to_learn(make_work: Callable[..., StyleWorkload], tmp_path: Path) -> None:
    findings = found(make_work(), tmp_path)
    assert "learning" in findings and findings.keys() <= {"learning", "under-trained", "plateaued", "unknown"}, findings


def test_a_training_whose_styles_say_nothing_is_found_to_ignore_them(
    make_work: Callable[..., StyleWorkload], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work()
    draw = work.draw

    def shuffled(step: int) -> Any:
        drawn, rng = draw(step), numpy_rng("any style", step)
        drawn.rows = [{**row, "style": f"s{rng.integers(STYLES)}"} for row in drawn.rows]
        return drawn

    monkeypatch.setattr(work, "draw", shuffled)
    findings = found(work, tmp_path)
    assert {"learning", "style ignored"} <= findings.keys(), findings


@pytest.mark.parametrize("mode", MODES, ids=["sdedit", "paired", "latent", "latent from noise"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_prediction_between_target_and_content_has_its_place_measured(
    make_work: Callable[..., StyleWorkload], monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any], share: float
) -> None:
    work = make_work(**mode)
    validation = validation_of(work)
    bars = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod

    def heading(_: torch.Tensor, noised: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        (part,) = [p for p in starts if p.noised is noised]
        aim = part.target + share * (part.content - part.target) + 0.3 * aside(part.content - part.target)
        bar = bars[times][:, None, None, None]
        return (noised - bar.sqrt() * aim) / (1 - bar).sqrt()

    def aside(way: torch.Tensor) -> torch.Tensor:
        """A direction in which neither target nor content lies: an error of another kind must not count."""
        other = torch.randn(way.shape, generator=torch_generator("aside"))
        along = (other * way).sum((1, 2, 3), keepdim=True) / way.square().sum((1, 2, 3), keepdim=True)
        return other - along * way

    validation.run()
    starts = validation._starts
    assert starts is not None
    assert [int(t) for t in starts[0].times.unique()] == [999 if mode.get("start") == "noise" else 399]
    monkeypatch.setattr(work.backbone, "epsilon", heading)
    numbers = validation.run()
    assert numbers["val_copy"] == pytest.approx(share, abs=1e-3)
    assert numbers["val_copy_low"] <= numbers["val_copy"] + 1e-9 and numbers["val_copy_high"] >= share - 1e-3


@pytest.mark.parametrize("mode", MODES, ids=["sdedit", "paired", "latent", "latent from noise"])
def test_val_copy_is_the_paired_difference_of_the_losses_towards_target_and_content(
    make_work: Callable[..., StyleWorkload], mode: dict[str, Any]
) -> None:
    work = make_work(initial_gate=1.0, **mode)
    numbers, store, losses = validation_of(work).run(), work.store, []
    bars = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod.double()
    bar = bars[999 if mode.get("start") == "noise" else 399]
    work.attachment.detach()
    for row in ROWS[::2]:
        target, content = (store.latents([row[name]]) for name in ("target", "content"))
        noised = torch.randn(1, 4, 8, 8, generator=torch_generator(0, "validation start", row["sample_id"]))
        if mode.get("start") != "noise":
            noised = bar.sqrt().float() * content + (1 - bar).sqrt().float() * noised
        times = torch.tensor([work.trajectory.start])
        with torch.no_grad():
            tokens, _ = work.adapter.style(*work.styles([row], np.zeros(1, dtype=bool)))
            text, mask = torch.zeros(1, 1, 20), torch.ones(1, 1)
            output = forward(work.backbone, work.adapter, noised, times, text, mask, tokens, content)[:, :4]
        clean = (noised.double() - (1 - bar).sqrt() * output.double()) / bar.sqrt()
        ends = ((clean, target), (clean, content), (target, content))
        losses.append([float((a.double() - b.double()).square().sum()) for a, b in ends])
    towards_target, towards_content, between = np.sum(losses, axis=0)
    expected = 0.5 * (1 + (towards_target - towards_content) / between)
    assert numbers["val_copy"] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert abs(numbers["val_copy"] - numbers["val_copy_base"]) > 1e-3  # a gate of 1 moves it


def test_an_adapter_with_closed_gates_copies_as_the_base_does(make_work: Callable[..., StyleWorkload]) -> None:
    work = make_work(initial_gate=1e-12)
    validation = validation_of(work)
    first, second = validation.run(), validation.run()
    assert first == second
    assert first["val_copy"] == pytest.approx(first["val_copy_base"], abs=1e-6)


def test_where_the_style_enters_late_the_start_tells_nothing_of_copying(
    make_work: Callable[..., StyleWorkload],
) -> None:
    work = make_work(step_schedule={"kind": "piecewise", "end": 0.2})
    numbers = validation_of(work).run()
    assert numbers["val_copy"] is numbers["val_copy_low"] is numbers["val_copy_base"] is None
    assert numbers["val_swap"] is not None


def test_a_swapped_style_is_always_another_and_a_run_of_one_style_is_not_swapped(
    make_work: Callable[..., StyleWorkload],
) -> None:
    styles = [{"style": style, "caption": f"of {style}", "text": "kept"} for style in "aabbbbba"]
    expected = [{"style": style, "caption": f"of {style}"} for style in "bbaaaaab"]
    assert [other_style(styles, i) for i in range(8)] == expected
    rows = [row for row in ROWS if row["style"] == "s1"]
    work = make_work(rows=rows)
    numbers = Validation(work, rows[::2], work.config.validation).run()
    assert numbers["val_swap"] is None
    assert "style ignored" not in {finding.name for finding in diagnose([{"step": 1, **numbers, "val_gain_low": 0.1}])}
