"""Which variants an ablation has, what each changes, and how the work is divided."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.ablation.plan import (
    AblationPlan,
    Training,
    budget_of,
    budgeted,
    cost,
    divided,
    draws_alike,
    group_cost,
    groups_of,
)
from bottega.ablation.variants import FACTORS, full_grid, middle, one_factor, with_changes
from bottega.runtime.errors import RequestError
from bottega.student.config import StudentConfig

BASE = StudentConfig.model_validate(
    {"adapter": {"layers": 4, "content_mode": "latent", "strength": 0.1}, "loop": {"steps": 1000, "warmup_steps": 50}}
)
ALL = tuple(FACTORS)


def plan_of(base: StudentConfig = BASE, seeds: tuple[int, ...] = (0, 1, 2), blocks: int = 12) -> AblationPlan:
    base = budgeted(base, None)
    return AblationPlan("one factor", one_factor(base, ALL, blocks), seeds, base, blocks)


def test_one_factor_at_a_time_changes_one_factor_in_each_variant() -> None:
    found = one_factor(BASE, ALL, 12)
    assert [variant.name for variant in found.chosen] == [
        "baseline",
        "layers-2",
        "layers-8",
        "layers-all",
        "layers-middle-4",
        "purification-none",
        "purification-projection",
        "step_schedule-piecewise",
        "step_schedule-cosine",
        "fill50k-off",
        "content_mode-sdedit",
        "content_mode-paired",
    ]
    assert found.chosen[0].config == BASE
    assert all(len(variant.levels) == 1 for variant in found.chosen[1:])
    assert not found.left_out


def test_numbers_of_blocks_follow_the_depth() -> None:
    names = [variant.name for variant in one_factor(BASE, ["layers"], 6).chosen]
    assert names == ["baseline", "layers-1", "layers-2", "layers-all", "layers-middle-4"]
    assert middle(4, 28) == (12, 13, 14, 15)
    assert middle(4, 12) == (4, 5, 6, 7)


def test_a_level_that_the_recipe_has_already_is_no_variant() -> None:
    last_four = with_changes(BASE, {"adapter.layers": (8, 9, 10, 11)})
    names = [variant.name for variant in one_factor(last_four, ["layers"], 12).chosen]
    assert "layers-4" not in names and len(names) == 5


def test_the_full_grid_has_every_combination_once() -> None:
    found = full_grid(BASE, ALL, 12)
    assert len(found.chosen) == 5 * 3 * 3 * 2 * 3
    assert len({variant.name for variant in found.chosen}) == len(found.chosen)
    assert len({variant.config.model_dump_json() for variant in found.chosen}) == len(found.chosen)


def test_the_learning_rate_falls_with_the_root_of_the_blocks_unless_it_is_given() -> None:
    rates = {v.name: v.config.loop.learning_rate for v in one_factor(BASE, ["layers"], 12, {"all": 3e-5}).chosen}
    own = BASE.loop.learning_rate
    assert rates["layers-2"] == pytest.approx(own * 2**0.5, rel=5e-3)
    assert rates["layers-8"] == pytest.approx(own / 2**0.5, rel=5e-3)
    assert rates["layers-middle-4"] == own
    assert rates["layers-all"] == 3e-5


def test_a_combination_that_the_recipe_refuses_is_left_out_with_its_reason() -> None:
    patches = with_changes(BASE, {"adapter.token_source": "patch", "adapter.purification": "none"})
    found = one_factor(patches, ["purification"], 12)
    assert [variant.name for variant in found.chosen] == ["baseline"]
    assert set(found.left_out) == {"purification-projection", "purification-gated_subtraction"}
    assert all("token_source: patch needs purification: none" in why for why in found.left_out.values())


def test_pure_noise_is_left_where_only_the_content_path_shows_the_content() -> None:
    noise = with_changes(BASE, {"adapter.start": "noise"})
    starts = {v.name: v.config.adapter.start for v in one_factor(noise, ["content_mode"], 12).chosen}
    assert starts == {"baseline": "noise", "content_mode-sdedit": "content", "content_mode-paired": "content"}


def test_an_unknown_factor_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="received 'depth'"):
        one_factor(BASE, ["depth"], 12)


def test_trainings_that_draw_alike_are_together_and_all_are_trained_once() -> None:
    plan = plan_of()
    groups = groups_of(plan.trainings)
    assert sorted(len(group) for group in groups) == [1, 1, 1, 1, 1, 1, 10, 10, 10]
    shares = divided(groups, plan.blocks, 2)
    places = [training.place for share in shares for group in share for training in group]
    assert len(places) == 36 and set(places) == {training.place for training in plan.trainings}
    loads = [sum(group_cost(group, plan.blocks) for group in share) for share in shares]
    assert max(loads) < 1.25 * min(loads)


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"adapter.content_mode": "paired"}, True),
        ({"adapter.layers": "all"}, True),
        ({"loop.learning_rate": 1e-5}, True),
        ({"adapter.content_mode": "sdedit"}, False),
        ({"adapter.strength": 0.2}, False),
        ({"fill50k_fraction": 0.0}, False),
        ({"seed": 1}, False),
    ],
)
def test_what_two_trainings_must_have_in_common_to_draw_alike(changes: dict[str, Any], alike: bool) -> None:
    assert draws_alike(BASE, with_changes(BASE, changes)) is alike


def test_a_shared_pass_costs_less_and_a_deeper_adapter_more() -> None:
    plan = plan_of()
    by_name = {variant.name: variant.config for variant in plan.variants.chosen}
    assert cost(by_name["layers-2"], 12) < cost(by_name["baseline"], 12) < cost(by_name["layers-all"], 12)
    assert cost(by_name["baseline"], 12, shared=12) == cost(by_name["baseline"], 12) - 8
    pair = [Training(variant, 0, variant.config) for variant in plan.variants.chosen[:2]]
    assert group_cost(pair, 12) < sum(cost(training.config, 12) for training in pair)


def test_the_budget_says_samples_rates_and_minutes() -> None:
    plan = plan_of()
    budget = budget_of(plan, 2, seconds_a_step=0.125)
    assert budget.samples == 1000 * plan.base.global_batch
    assert budget.trainings == 36
    assert 1.2 < budget.alone / budget.together < 1.5
    assert budget.minutes is not None and 20 < budget.minutes < 50
    assert budget_of(plan, 2, None).minutes is None


def test_every_training_has_one_thread_and_the_same_length() -> None:
    for training in plan_of().trainings:
        loop = training.config.loop
        assert (loop.threads, loop.steps, loop.validate_every) == (1, 1000, 250)
        assert training.config.seed == training.seed
