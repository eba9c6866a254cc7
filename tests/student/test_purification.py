"""Style Purification in CLIP's joint space, against linear algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bottega.student.config import AdapterConfig, StepScheduleConfig
from bottega.student.purification import Purification
from bottega.student.steps import style_factor


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_projection_leaves_nothing_of_the_content() -> None:
    style, content = unit(5, 32, seed=1), unit(5, 32, seed=2)
    purified, cosines = Purification("projection", 32, 0.5, True).purify(style, content)
    assert float((cosines["cosine_before"] - (style * content).sum(-1)).abs().max()) < 1e-6
    assert float(cosines["cosine_after"].abs().max()) < 1e-6
    assert float((purified.norm(dim=-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("gate", [0.1, 0.5, 0.9])
def test_gated_subtraction_is_its_equation_and_its_gate_learns(gate: float) -> None:
    style, content = unit(5, 32, seed=1), unit(5, 32, seed=2)
    module = Purification("gated_subtraction", 32, gate, True)
    assert module.gate() == pytest.approx(gate, abs=1e-6)
    purified, cosines = module.purify(style, content)
    assert float((purified.detach() - F.normalize(style - gate * content, dim=-1)).abs().max()) < 1e-6
    assert bool((cosines["cosine_after"] < cosines["cosine_before"]).all())
    purified[:, 0].sum().backward()
    assert module.gate_logit.grad is not None and float(module.gate_logit.grad.abs()) > 0


def test_none_leaves_the_direction_alone() -> None:
    style = unit(5, 32, seed=1)
    purified, cosines = Purification("none", 32, 0.5, True).purify(3 * style, unit(5, 32, seed=2))
    assert float((purified - style).abs().max()) < 1e-6
    assert torch.equal(cosines["cosine_before"], cosines["cosine_after"])


def test_the_centre_takes_away_what_all_pictures_share() -> None:
    shared = 5 * unit(1, 32, seed=3)
    cone = F.normalize(shared + torch.randn(400, 32, generator=torch.Generator().manual_seed(4)) * 0.5, dim=-1)
    plain, centred = Purification("none", 32, 0.5, False), Purification("none", 32, 0.5, True)
    for module in (plain, centred):
        module.fit_centre(cone)
    looks = [float(m.purify(cone[:200], cone[200:])[1]["cosine_before"].mean()) for m in (plain, centred)]
    assert looks[0] > 0.5  # two unrelated pictures look alike …
    assert abs(looks[1]) < 0.05  # … until the cone's axis is taken out


def test_a_handful_of_embeddings_is_no_centre() -> None:
    module = Purification("none", 8, 0.5, True)
    module.fit_centre(unit(2, 8, seed=1))
    assert float(module.centre.abs().max()) == 0.0


def test_the_caption_is_taken_out_before_the_content_each_with_its_own_mean() -> None:
    style, content, caption = unit(5, 32, seed=1), unit(5, 32, seed=2), unit(5, 32, seed=3)
    config = AdapterConfig(purification="projection", scene_removal="projection")
    module = Purification.of(config, 32)
    module.fit_centre(unit(40, 32, seed=4))
    module.scene.fit_centre(unit(40, 32, seed=5))
    s, c = (F.normalize(x - unit(40, 32, seed=4).mean(0), dim=-1) for x in (style, content))
    t = F.normalize(caption - unit(40, 32, seed=5).mean(0), dim=-1)
    without = F.normalize(s - (s * t).sum(-1, keepdim=True) * t, dim=-1)
    expected = F.normalize(without - (without * c).sum(-1, keepdim=True) * c, dim=-1)
    purified, cosines = module.purify(style, content, caption)
    assert float((purified - expected).abs().max()) < 1e-6
    assert float((cosines["scene_before"] - (s * t).sum(-1)).abs().max()) < 1e-6
    assert float((cosines["scene_after"] - (purified * t).sum(-1)).abs().max()) < 1e-6
    alone = Purification.of(AdapterConfig(purification="none", scene_removal="projection"), 32)
    assert float(alone.purify(style, content, caption)[1]["scene_after"].abs().max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("kind", ["projection", "gated_subtraction"])
def test_of_what_is_not_known_nothing_is_taken_out(kind: str) -> None:
    style, known = unit(3, 32, seed=1), unit(3, 32, seed=2)
    some = known * torch.tensor([[1.0], [0.0], [1.0]])
    module = Purification.of(AdapterConfig(purification=kind, scene_removal=kind), 32)  # type: ignore[arg-type]
    module.fit_centre(unit(40, 32, seed=4))
    module.scene.fit_centre(unit(40, 32, seed=5))
    plain = F.normalize(style - module.centre, dim=-1)
    nothing = torch.zeros_like(known)
    assert float((module.purify(style, nothing, nothing)[0] - plain).abs().max()) < 1e-6
    assert float((module.purify(style, nothing)[0] - plain).abs().max()) < 1e-6  # no caption given at all
    whole, partly = module.purify(style, known, known)[0], module.purify(style, some, some)[0]
    assert torch.equal(whole[0], partly[0]) and torch.equal(whole[2], partly[2])
    assert float((partly[1] - plain[1]).abs().max()) < 1e-6


def test_without_a_removal_of_the_scene_an_adapter_has_the_names_it_always_had() -> None:
    names = set(Purification.of(AdapterConfig(), 32).state_dict())
    assert names == {"centre", "gate_logit"}
    more = set(Purification.of(AdapterConfig(scene_removal="gated_subtraction"), 32).state_dict())
    assert more - names == {"scene.centre", "scene.gate_logit"}


def test_step_schedules_are_their_definitions() -> None:
    times = torch.tensor([0, 250, 500, 750, 999])
    flat = style_factor(StepScheduleConfig(), times, 1000)
    steps = style_factor(StepScheduleConfig(kind="piecewise", begin=0.25, end=0.5, low=0.1), times, 1000)
    cosine = style_factor(StepScheduleConfig(kind="cosine", low=0.2), times, 1000)
    assert flat.tolist() == [1.0] * 5
    assert steps.tolist() == pytest.approx([0.1, 1.0, 1.0, 0.1, 0.1])
    assert cosine[0] == 1.0 and float(cosine[2]) == pytest.approx(0.6, abs=1e-6)
    assert float(cosine[4]) == pytest.approx(0.2, abs=1e-4) and bool((cosine.diff() < 0).all())
