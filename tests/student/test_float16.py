"""A frozen transformer in float16: the adapter's small gradients pass through it, and the loss scale stays with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bottega.models.config import ModelsConfig
from bottega.runtime.files import read_jsonl
from bottega.student.stage import prepare
from bottega.training.loop import train

from .test_stage import CONFIG


@pytest.fixture
def halved(models: ModelsConfig) -> ModelsConfig:
    return models.model_copy(update={"dtype": "float16"})


def test_the_student_trains_in_float16_with_a_loss_scale_and_learns_what_float32_does(
    features: Path, models: ModelsConfig, halved: ModelsConfig, tmp_path: Path
) -> None:
    rows = {}
    for name, chosen in (("half", halved), ("single", models)):
        job, _ = prepare(CONFIG, features, chosen)
        work = job.work
        assert work.loss_scaling == (name == "half")
        train(work, CONFIG.loop, tmp_path / name, validate=job.validate, until=4)
        assert next(work.module.parameters()).dtype == torch.float32
        rows[name] = list(read_jsonl(tmp_path / name / "metrics.jsonl"))
    assert all(row["loss_scale"] >= 1 for row in rows["half"]) and "loss_scale" not in rows["single"][0]
    for half, single in zip(rows["half"], rows["single"], strict=True):
        assert half["loss"] == pytest.approx(single["loss"], rel=0.01)
        assert half["grad_norm"] == pytest.approx(single["grad_norm"], rel=0.05)


def test_a_scaled_gradient_is_the_one_of_float32_where_an_unscaled_one_is_not(
    features: Path, models: ModelsConfig, halved: ModelsConfig
) -> None:
    gradients = {}
    for name, chosen, scale in (("single", models, 1.0), ("scaled", halved, 2.0**16), ("plain", halved, 1.0)):
        work = prepare(CONFIG, features, chosen)[0].work
        for part in work.microbatches(0):
            (part.loss * 1e-4 * scale).backward()  # a large window's share of the loss
        found = [p.grad.flatten() / scale for p in work.module.parameters() if p.grad is not None]
        gradients[name] = torch.cat(found)
    size = gradients["single"].norm()
    off = {name: float((gradients[name] - gradients["single"]).norm() / size) for name in ("scaled", "plain")}
    assert off["scaled"] < 0.05 < off["plain"]
