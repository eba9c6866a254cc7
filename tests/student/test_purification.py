"""Style Purification in CLIP's joint space, against linear algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bottega.student.config import StepScheduleConfig
from bottega.student.purification import Purification
from bottega.student.steps import style_factor


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_projection_leaves_nothing_of_the_content() -> None:
    style, content = unit(5, 32, seed=1), unit(5, 32, seed=2)
    purified, before, after = Purification("projection", 32, 0.5, True)(style, content)
    assert float((before - (style * content).sum(-1)).abs().max()) < 1e-6
    assert float(after.abs().max()) < 1e-6
    assert float((purified.norm(dim=-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("gate", [0.1, 0.5, 0.9])
def test_gated_subtraction_is_its_equation_and_its_gate_learns(gate: float) -> None:
    style, content = unit(5, 32, seed=1), unit(5, 32, seed=2)
    module = Purification("gated_subtraction", 32, gate, True)
    assert module.gate() == pytest.approx(gate, abs=1e-6)
    purified, before, after = module(style, content)
    assert float((purified.detach() - F.normalize(style - gate * content, dim=-1)).abs().max()) < 1e-6
    assert bool((after < before).all())
    purified[:, 0].sum().backward()
    assert module.gate_logit.grad is not None and float(module.gate_logit.grad.abs()) > 0


def test_none_leaves_the_direction_alone() -> None:
    style = unit(5, 32, seed=1)
    purified, before, after = Purification("none", 32, 0.5, True)(3 * style, unit(5, 32, seed=2))
    assert float((purified - style).abs().max()) < 1e-6
    assert torch.equal(before, after)


def test_the_centre_takes_away_what_all_pictures_share() -> None:
    shared = 5 * unit(1, 32, seed=3)
    cone = F.normalize(shared + torch.randn(400, 32, generator=torch.Generator().manual_seed(4)) * 0.5, dim=-1)
    plain, centred = Purification("none", 32, 0.5, False), Purification("none", 32, 0.5, True)
    for module in (plain, centred):
        module.fit_centre(cone)
    assert float(plain(cone[:200], cone[200:])[1].mean()) > 0.5  # two unrelated pictures look alike …
    assert abs(float(centred(cone[:200], cone[200:])[1].mean())) < 0.05  # … until the cone's axis is taken out


def test_a_handful_of_embeddings_is_no_centre() -> None:
    module = Purification("none", 8, 0.5, True)
    module.fit_centre(unit(2, 8, seed=1))
    assert float(module.centre.abs().max()) == 0.0


def test_step_schedules_are_their_definitions() -> None:
    times = torch.tensor([0, 250, 500, 750, 999])
    flat = style_factor(StepScheduleConfig(), times, 1000)
    steps = style_factor(StepScheduleConfig(kind="piecewise", begin=0.25, end=0.5, low=0.1), times, 1000)
    cosine = style_factor(StepScheduleConfig(kind="cosine", low=0.2), times, 1000)
    assert flat.tolist() == [1.0] * 5
    assert steps.tolist() == pytest.approx([0.1, 1.0, 1.0, 0.1, 0.1])
    assert cosine[0] == 1.0 and float(cosine[2]) == pytest.approx(0.6, abs=1e-6)
    assert float(cosine[4]) == pytest.approx(0.2, abs=1e-4) and bool((cosine.diff() < 0).all())
