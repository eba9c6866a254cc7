"""The loss of a step: a function of seed and step alone, that a perfect model brings to its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.diffusion.ideal import IdealDenoiser
from bottega.ldm.model import LatentDiffusion
from bottega.ldm.objective import BINS, LatentWorkload
from bottega.ldm.stage import prepare

from .tiny import alive, textless, tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the latents of these tests are kept."""
    return tmp_path_factory.mktemp("objective")


def workload(home: Path, **changes: Any) -> LatentWorkload:
    work = prepare(tiny(**changes), home / "tiny", write=False).work
    alive(work.model, 0.1)
    return work


def without_text(home: Path, **changes: Any) -> LatentWorkload:
    return prepare(textless(**changes), home / "textless", write=False).work


class Perfect(LatentDiffusion):
    """What training tends to: the closed form over the training latents."""

    def __init__(self, work: LatentWorkload) -> None:
        super().__init__(work.recipe, work.latents.training.shape[1])
        self.ideal = IdealDenoiser(work.schedule, work.latents.training)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: Any = (None, None)) -> torch.Tensor:
        return self.ideal(x, timesteps)


class Noting(LatentDiffusion):
    """The real model, which notes what it is asked."""

    asked: list[list[str]]
    times: list[list[int]]

    def condition(self, captions: Sequence[str]) -> Any:
        self.asked.append(list(captions))
        return super().condition(captions)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: Any = (None, None)) -> torch.Tensor:
        self.times.append(timesteps.tolist())
        return super().forward(x, timesteps, condition)


def noting(work: LatentWorkload) -> Noting:
    work.model.__class__ = Noting
    work.model.asked, work.model.times = [], []  # type: ignore[assignment]
    return work.model  # type: ignore[return-value]


def seen(work: LatentWorkload, step: int) -> list[Any]:
    with torch.no_grad():
        return [
            (list(p.sample_ids), list(p.timesteps), p.sample_losses.tolist(), float(p.loss))
            for p in work.microbatches(step)
        ]


def test_a_window_is_a_function_of_seed_and_step_alone(home: Path) -> None:
    work = workload(home)
    first = seen(work, 4)
    torch.manual_seed(123)
    seen(work, 0)
    assert seen(work, 4) == first == seen(workload(home), 4)
    assert seen(work, 5) != first
    assert len(first) == 1 and len(first[0][0]) == 8 and all(0 <= t < 100 for t in first[0][1])
    other = workload(home)
    other.recipe = tiny(seed=4)
    assert seen(other, 4)[0][1] != first[0][1]


def test_the_parts_add_up_to_the_whole_in_loss_and_gradients(home: Path) -> None:
    whole, parted = workload(home), workload(home, training={"parts": 4})
    gradients = []
    losses = []
    for work in (whole, parted):
        parts = list(work.microbatches(3))
        total = sum(part.loss for part in parts)
        total.backward()  # type: ignore[union-attr]
        losses.append(float(total.detach()))  # type: ignore[union-attr]
        gradients.append({name: p.grad for name, p in work.model.named_parameters()})
    assert len(list(parted.microbatches(3))) == 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, gradient in gradients[0].items():
        assert gradient is not None and float((gradient - gradients[1][name]).abs().max()) < 1e-6, name


def test_a_share_of_the_parts_is_those_parts(home: Path) -> None:
    work = workload(home, training={"parts": 4})
    every = [list(part.sample_ids) for part in work.microbatches(3)]
    assert [list(part.sample_ids) for part in work.microbatches(3, slice(1, None, 2))] == every[1::2]


@pytest.mark.parametrize(
    "diffusion",
    [
        {"schedule": "flow", "prediction_type": "sample"},
        {"schedule": "flow", "prediction_type": "flow_prediction"},
        {"schedule": "cosine_continuous", "prediction_type": "v_prediction"},
        {"schedule": "cosine", "prediction_type": "epsilon"},
    ],
)
def test_a_perfect_model_of_one_picture_has_no_loss(home: Path, diffusion: dict[str, str]) -> None:
    work = without_text(home, diffusion=diffusion)
    work.model = Perfect(work)
    assert work.floor == [0.0] * BINS
    assert max(loss for part in seen(work, 0) for loss in part[2]) < 1e-6
    found = work.validate()
    assert found["train_loss"] < 1e-6 and "val_loss" not in found


def test_a_perfect_model_of_many_pictures_comes_to_the_floor(home: Path) -> None:
    circles = {"kind": "circles", "num_samples": 24}
    work = without_text(home, data=circles, validation={"pictures": 240})
    work.model = Perfect(work)
    found = work.validate()
    floor = [found[f"floor_bin_{b}"] for b in range(BINS)]
    assert work.floor == floor == sorted(floor) and floor[-1] > 0.1
    bins = [found[f"train_bin_{b}"] for b in range(BINS)]
    assert bins == pytest.approx(floor, rel=1e-3, abs=1e-6)  # of the same pictures, timesteps and noise


def test_errors_are_weighed_by_how_clean_the_picture_is_with_a_mean_of_one(home: Path) -> None:
    work = without_text(home, diffusion={"clean_weight": 0.05})
    weights = work._weights(torch.arange(work.schedule.timesteps)).double()
    assert float(weights.mean()) == pytest.approx(1, abs=1e-6)
    wanted = np.maximum(work.schedule.sigma, 0.05) ** -2
    assert weights.numpy() / float(weights[-1]) == pytest.approx(wanted / wanted[-1], rel=1e-5)
    part = next(iter(work.microbatches(2)))
    mean = (part.sample_losses * work._weights(torch.tensor(part.timesteps))).mean()
    assert float((part.loss - mean).detach().abs()) < 1e-6
    assert float((part.loss - part.sample_losses.mean()).detach().abs()) > 1e-4
    plain = without_text(home)
    part = next(iter(plain.microbatches(2)))
    assert float((part.loss - part.sample_losses.mean()).detach().abs()) < 1e-6


def test_the_loss_is_the_mean_squared_error_of_the_target(home: Path) -> None:
    """Computed by hand for the velocity: x_t = (1-τ)x_0 + τε, u = ε - x_0; a fresh network predicts zero."""
    work = without_text(home, diffusion={"prediction_type": "flow_prediction"})
    clean = work.latents.training[[0, 0]]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    losses = work.losses(clean, noise, torch.tensor([10, 90]), ["", ""])
    assert losses.tolist() == pytest.approx((noise - clean).square().mean(dim=(1, 2, 3)).tolist(), rel=1e-5)


def test_half_precision_is_of_the_network_alone_and_the_loss_is_nearly_the_same(home: Path) -> None:
    full, half = (workload(home, training={"dtype": dtype}) for dtype in ("float32", "bfloat16"))
    one, other = (next(iter(work.microbatches(1))).sample_losses.detach() for work in (full, half))
    assert other.dtype == torch.float32 and not torch.equal(one, other)
    assert float(((one - other) / one).abs().max()) < 0.05


def test_as_many_captions_are_dropped_as_the_recipe_says_and_the_others_are_the_pictures_own(home: Path) -> None:
    work = workload(home, text={"dropout": 0.25})
    model = noting(work)
    ids = [name for step in range(100) for part in seen(work, step) for name in part[0]]
    asked = [caption for captions in model.asked for caption in captions]
    assert len(ids) == len(asked) == 800
    assert asked.count("") / len(asked) == pytest.approx(0.25, abs=0.05)
    own = {sample.name: sample.captions[0] for sample in work.samples}
    assert all(caption in ("", own[name]) for name, caption in zip(ids, asked, strict=True))
    never = noting(workload(home, text={"dropout": 0.0}, sampling={"guidance_scale": 1.0}))
    assert never.asked == []


def test_captions_that_mean_the_same_take_turns_by_epochs(home: Path) -> None:
    work = workload(home, text={"dropout": 0.0}, sampling={"guidance_scale": 1.0})
    work.samples = [replace(sample, captions=("teal circle", "gold circle")) for sample in work.samples]
    model = noting(work)
    for step in range(9):
        seen(work, step)
    assert [captions[0] for captions in model.asked] == ["teal circle"] * 3 + ["gold circle"] * 3 + ["teal circle"] * 3


def test_a_validation_is_the_same_at_every_step_and_draws_from_no_global_generator(home: Path) -> None:
    work = workload(home)
    first = work.validate()
    seen(work, 7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.manual_seed(99)
    moved = torch.get_rng_state()
    assert work.validate() == first and work.model.training
    assert torch.equal(torch.get_rng_state(), moved) and (np.random.get_state()[1] == numpy_state).all()
    torch.set_rng_state(state)
    assert {"train_loss", "val_loss", "train_bin_9", "val_bin_0", "floor_bin_0"} <= first.keys()
    assert first["val_loss"] == pytest.approx(sum(first[f"val_bin_{b}"] for b in range(BINS)) / BINS)


@pytest.mark.parametrize("timesteps", [100, 25, 7])
def test_each_bin_of_a_validation_holds_its_own_timesteps(home: Path, timesteps: int) -> None:
    work = without_text(home, diffusion={"timesteps": timesteps}, validation={"pictures": 5})
    model = noting(work)
    work.validate()
    assert len(model.times) == BINS
    for b, times in enumerate(model.times):
        if timesteps >= BINS:
            assert {t * BINS // timesteps for t in times} == {b}
        assert all(0 <= t < timesteps for t in times)


def test_every_parameter_is_in_one_group_and_only_matrices_decay(home: Path) -> None:
    work = workload(home)
    decayed, free = work.parameter_groups()
    assert decayed["weight_decay"] == work.recipe.training.weight_decay > 0 and free["weight_decay"] == 0
    names = {id(p): name for name, p in work.model.named_parameters()}
    shrinks, stays = ({names.pop(id(p)) for p in group["params"]} for group in (decayed, free))
    assert names == {}
    assert "unet.enter.weight" in shrinks and "words.layers.layers.0.linear1.weight" in shrinks
    assert {"unet.enter.bias", "unet.down.0.norm_1.weight", "words.embed.weight", "words.place"} <= stays


def test_a_row_tells_its_epoch_from_one(home: Path) -> None:
    work = workload(home)
    told = [work.metrics(step) for step in (0, 2, 3)]
    assert [row["epoch"] for row in told] == [1, 1, 2]
    assert told[0]["prediction_type"] == "sample" and told[0]["num_samples"] == 24
