"""Plans: what a design would show, held against simulated experiments with that design."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.test_compare import made_up

from bottega.evaluation.design import LEVELS, SEEDS, Wanted, markdown, plan, would_detect
from bottega.evaluation.factors import Component, Variances, analyse
from bottega.evaluation.runs import read_run
from bottega.runtime.errors import RequestError


def variances(**sizes: float) -> Variances:
    """From standard deviations."""
    return Variances(**{name: Component(size**2, size**2) for name, size in sizes.items()})


def simulated(rng: np.random.Generator, shape: tuple[int, int, int], experiments: int) -> np.ndarray:
    contents, styles, seeds = shape
    scores = rng.normal(0, 0.6, (experiments, *shape))
    scores += rng.normal(0, 0.5, (experiments, contents, 1, 1)) + rng.normal(0, 0.4, (experiments, 1, styles, 1))
    return scores + rng.normal(0, 0.3, (experiments, 1, 1, seeds))


TRUE = variances(content=0.5, style=0.4, seed=0.3, content_style=0.0, content_seed=0.0, style_seed=0.0, residual=0.6)


@pytest.mark.parametrize("shape", [(12, 20, 4), (20, 8, 8), (30, 30, 3)])
def test_the_difference_of_a_plan_is_seen_with_its_power(shape: tuple[int, int, int]) -> None:
    """At that true difference, the interval is above 0 in 80 % of the experiments, and in 5 % or so at half of it."""
    wanted = Wanted("palette", 1.0)
    smallest = would_detect(TRUE, *shape, wanted)
    found = analyse(simulated(np.random.default_rng(1), shape, 1500))
    seen = np.mean(found.means + smallest > found.half_widths())
    assert 0.72 <= seen <= 0.88
    assert np.mean(found.means + smallest / 2 > found.half_widths()) < 0.5


def pilot(tmp_path: Path, seeds: int, shape: tuple[int, int] = (10, 12)) -> list[Path]:
    rng = np.random.default_rng(2)
    gaps = simulated(rng, (*shape, seeds), 1)[0]
    folders = []
    for k in range(seeds):
        folder = made_up(tmp_path / f"run-seed{k}", {"palette": 10 + gaps[..., k]}, seed=k)
        student = (folder / "evaluation" / "scores.jsonl").read_text()
        made_up(folder, {"palette": np.full(shape, 10.0)}, seed=k, row="base")
        with (folder / "evaluation" / "scores.jsonl").open("a") as stream:
            stream.write(student)
        folders.append(folder)
    return folders


def test_a_plan_names_the_cheapest_design_for_each_number_of_trainings(tmp_path: Path) -> None:
    runs = [read_run(path) for path in pilot(tmp_path, 3)]
    wanted = Wanted("palette", 0.9)
    found = plan(runs, wanted)
    assert found["of"] == "student − base" and found["pilot"]["seeds"] == 3
    assert [design["seeds"] for design in found["designs"]] == list(SEEDS)
    enough = [design for design in found["designs"] if design["enough"]]
    assert enough
    for design in enough:
        assert design["detectable"] <= 0.9
        assert design["pictures"] == design["contents"] * design["styles"] * design["seeds"]
    # The next smaller steps of either are not enough: nothing cheaper of that shape is passed over.
    from bottega.evaluation.factors import crossed_seeds_mean

    first = enough[-1]
    cube = np.stack([read_scores(run) for run in pilot(tmp_path / "again", 3)], -1) - 10
    spread = crossed_seeds_mean(cube).variances
    k = LEVELS.index(first["styles"])
    if k:
        assert would_detect(spread, first["contents"], LEVELS[k - 1], first["seeds"], wanted) > 0.9
    text = markdown(found)
    assert "pictures a method" in text and "Standard deviations: content" in text


def read_scores(folder: Path) -> np.ndarray:
    run = read_run(folder)
    values = np.zeros((10, 12))
    for (content, style), value in run.by_cell("student", "palette").items():
        values[int(content.split()[0][1:]), int(style.split()[0][1:])] = value
    return values


def test_a_difference_that_trainings_hide_needs_more_of_them_and_not_more_pictures() -> None:
    noisy = variances(
        content=0.1, style=0.1, seed=1.0, content_style=0.0, content_seed=0.0, style_seed=0.0, residual=0.5
    )
    wanted = Wanted("palette", 1.0)
    assert would_detect(noisy, 500, 500, 2, wanted) > 5
    assert would_detect(noisy, 500, 500, 3, wanted) > 2
    assert would_detect(noisy, 8, 8, 10, wanted) == pytest.approx(1.0, rel=0.25)


def test_a_pilot_with_one_training_plans_for_one_and_says_so(tmp_path: Path) -> None:
    found = plan([read_run(path) for path in pilot(tmp_path, 1)], Wanted("palette", 0.9))
    assert [design["seeds"] for design in found["designs"]] == [1]
    assert "how much trainings differ is not known" in markdown(found)


def test_a_plan_refuses_what_it_cannot_answer(tmp_path: Path) -> None:
    runs = [read_run(path) for path in pilot(tmp_path, 2)]
    with pytest.raises(RequestError, match="--metric must be one of"):
        plan(runs, Wanted("beauty", 1.0))
    with pytest.raises(RequestError, match="above 0, received 0"):
        plan(runs, Wanted("palette", 0.0))
    with pytest.raises(RequestError, match="no scores of the row 'teacher'"):
        plan(runs, Wanted("palette", 1.0), ("student", "teacher"))
    with pytest.raises(RequestError, match="says nothing about the spread of student − student"):
        plan(runs, Wanted("palette", 1.0), ("student", "student"))
