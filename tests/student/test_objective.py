"""The loss against a reference written from the equations, and the mixture inside a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from bottega.models.config import ModelsConfig
from bottega.models.loading import load_pixart_parts
from bottega.runtime.errors import MissingError
from bottega.student.config import StudentConfig
from bottega.student.objective import StyleWorkload, shares
from bottega.student.stage import prepare
from bottega.student.store import FeatureStore
from bottega.training.config import LoopConfig


def config(**changes: Any) -> StudentConfig:
    base: dict[str, Any] = {
        "adapter": {"layers": 2, "strength": 0.4, **changes.pop("adapter", {})},
        "loop": LoopConfig(steps=4, warmup_steps=0),
        "batch_size": 8,
        "accumulation": 1,
        "validation": {"pictures": 2, "timesteps": 2},
    }
    return StudentConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def make_work(features: Path, models: ModelsConfig) -> Any:
    def make(**changes: Any) -> StyleWorkload:
        return prepare(config(**changes), features, models)[0].work

    return make


@pytest.mark.parametrize("mode", ["sdedit", "paired", "latent"])
def test_the_loss_equals_an_independent_one_from_the_equations(
    make_work: Any, features: Path, models: ModelsConfig, mode: str
) -> None:
    work = make_work(adapter={"content_mode": mode, "initial_gate": 1e-12}, dropout={"text": 0, "style": 0, "both": 0})
    draw = work.draw(3)
    with torch.no_grad():
        ours = work.microbatch(draw, slice(0, 8))
    parts = load_pixart_parts(Path(str(models.pixart)), ("transformer",), "float32", "cpu")
    bars = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod.double()
    store, total = FeatureStore(features), 0.0
    for i, row in enumerate(draw.rows):  # one at a time, without padding, with the stock forward
        t = int(draw.timesteps[i])
        target, content = (store.latents([row[k]])[0].double() for k in ("target", "content"))
        noise = draw.noise[i].double()
        if mode != "sdedit":
            start = bars[399]
            noise = noise + (start / (1 - start)).sqrt() * (content - target)
        noised = bars[t].sqrt() * target + (1 - bars[t]).sqrt() * noise
        with torch.no_grad():
            out = parts["transformer"](
                noised.float()[None],
                encoder_hidden_states=store.text_row(row["text"])[None],
                timestep=torch.tensor([t]),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        loss = float((out[0, :4].double() - noise).square().mean())
        assert float(ours.sample_losses[i]) == pytest.approx(loss, rel=2e-4)
        total += float(draw.shares[i]) * loss
    assert float(ours.loss) == pytest.approx(total, rel=2e-4)
    last = 999 if mode == "sdedit" else 399
    assert int(draw.timesteps.max()) <= last and int(draw.timesteps.max()) > last * 0.8


def test_every_window_holds_three_of_the_main_task_to_one_of_the_structure_task(make_work: Any) -> None:
    work = make_work(batch_size=2, accumulation=4)
    for step in range(5):
        tasks = [row["task"] for row in work.draw(step).rows]
        assert tasks.count("fill50k") == 2
        assert all(tasks[k : k + 4].count("fill50k") == 1 for k in (0, 4))
        assert sum(len(part.tasks) for part in work.microbatches(step)) == 8


def test_the_structure_task_trains_with_the_null_style_and_its_own_text(make_work: Any) -> None:
    draw = make_work(dropout={"text": 0, "style": 0, "both": 0}).draw(0)
    for row, style, text in zip(draw.rows, draw.drop_style, draw.drop_text, strict=True):
        assert style == (row["task"] == "fill50k") and not text


def test_a_window_cut_into_parts_has_the_loss_of_the_whole(make_work: Any) -> None:
    whole, parts = make_work(batch_size=8, accumulation=1), make_work(batch_size=2, accumulation=4)
    with torch.no_grad():
        one, four = sum(p.loss for p in whole.microbatches(1)), sum(p.loss for p in parts.microbatches(1))
    assert float(one) == pytest.approx(float(four), rel=1e-5)


def test_min_snr_counts_the_finished_picture_less_and_the_noisy_one_in_full(make_work: Any) -> None:
    plain, weighted = make_work(), make_work(min_snr_gamma=1.0)
    draw = plain.draw(2)
    with torch.no_grad():
        before, after = (work.microbatch(draw, slice(0, 8)) for work in (plain, weighted))
    bars = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod
    ratio = (bars / (1 - bars))[draw.timesteps]
    weights = torch.minimum(ratio, torch.ones(8)) / ratio
    assert torch.allclose(before.sample_losses, after.sample_losses)  # what the log shows stays ε's own error
    assert float(after.loss) == pytest.approx(float((draw.shares * weights * before.sample_losses).sum()), rel=1e-4)
    assert float(weights.min()) < 0.1 and float(weights.max()) == 1.0


def test_weights_by_grade_are_normalised_inside_each_task() -> None:
    rows = [{"task": "main", "weight": w} for w in (1.0, 0.5, 0.5, 1.0, 1.0, 0.5)]
    rows += [{"task": "fill50k", "weight": 1.0}] * 2
    share = shares(rows)
    assert float(share.sum()) == pytest.approx(1.0)
    assert float(share[6:].sum()) == pytest.approx(0.25)
    assert float(share[0] / share[1]) == pytest.approx(2.0)
    halved = shares([{**row, "weight": row["weight"] / 2} for row in rows])
    assert float((share - halved).abs().max()) < 1e-7  # worse grades throughout change nothing about the step's size

    lighter = shares(rows, fill50k_weight=0.2)
    assert float(lighter.sum()) == pytest.approx(1.0)
    assert float(lighter[6] / lighter[3]) == pytest.approx(0.2 * float(share[6] / share[3]))


def test_what_a_step_draws_depends_on_seed_and_step_alone(make_work: Any) -> None:
    one, two = make_work().draw(5), make_work().draw(5)
    assert [r["sample_id"] for r in one.rows] == [r["sample_id"] for r in two.rows]
    assert torch.equal(one.noise, two.noise) and torch.equal(one.timesteps, two.timesteps)
    assert not torch.equal(one.noise, make_work().draw(6).noise)
    assert not torch.equal(one.noise, make_work(seed=1).draw(5).noise)


def test_conditions_are_dropped_as_often_as_asked_for(make_work: Any) -> None:
    work = make_work(dropout={"text": 0.1, "style": 0.2, "both": 0.05}, fill50k_fraction=0.0)
    draws = [work.draw(step) for step in range(400)]
    text, style = (np.concatenate([getattr(d, name) for d in draws]) for name in ("drop_text", "drop_style"))
    shares_of = [float(x.mean()) for x in (text & ~style, style & ~text, text & style)]
    assert shares_of == pytest.approx([0.1, 0.2, 0.05], abs=0.03)


def test_a_dropped_caption_is_the_null_prompt_and_not_zeros(make_work: Any) -> None:
    work = make_work()
    states, mask = work.text(work.draw(0).rows[:2], np.array([True, False]))
    assert mask[0].tolist() == [1.0] + [0.0] * (mask.shape[1] - 1)
    assert float(states[0, 0].abs().max()) > 0


def test_a_mixture_without_its_stream_is_refused(features: Path, models: ModelsConfig, make_work: Any) -> None:
    work = make_work()
    rows = work.streams["main"]
    with pytest.raises(MissingError, match="fill50k_fraction=0"):
        StyleWorkload(work.backbone, work.adapter, work.config, work.store, rows)


def test_a_share_that_no_window_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        StudentConfig(batch_size=2, accumulation=1)


@pytest.mark.parametrize("name", ["batch_size", "accumulation"])
def test_a_microbatch_or_a_window_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        StudentConfig.model_validate({name: 0})
