"""`bottega ablate`: the plan that it shows, and the requests that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.cli.main import main

MINIATURE = str(Path(__file__).parents[2] / "recipes" / "miniature.yaml")


def ablate(*words: str, tmp_path: Path) -> int:
    return main(["ablate", MINIATURE, "--directory", str(tmp_path), *words])


def test_a_dry_run_shows_every_variant_with_its_rate_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("--dry-run", "--json", "--processes", "2", "--rate", "all=1e-3", tmp_path=tmp_path) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["variants"]) == 12
    assert plan["variants"]["layers-all"] == {"adapter.layers": "all", "loop.learning_rate": 1e-3}
    assert plan["seeds"] == [0, 1, 2]
    assert plan["budget"]["trainings"] == 36
    assert plan["budget"]["samples"] == 1000 * 8
    assert plan["budget"]["minutes"] is None  # nobody knows before there are features to train on
    assert not list(tmp_path.iterdir())


def test_a_dry_run_for_people_says_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("--dry-run", "--factors", "layers", "--steps", "500", "--seeds", "3,4", tmp_path=tmp_path) == 0
    text = capsys.readouterr().out
    assert "10 trainings: 5 variants x 2 seeds (3, 4), 500 steps (4000 samples) each" in text
    assert "layers-2: adapter.layers=2, loop.learning_rate=0.00283; learning rate 0.00283" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factors", "depth"], "received 'depth'"),
        (["--rate", "all:1"], "--rate wants BLOCKS=RATE, received 'all:1'"),
        (["--seeds", "a"], "--seeds wants numbers, received 'a'"),
        (["--set", "student.adapter.layers=13"], "the transformer has 12 blocks"),
    ],
)
def test_wrong_requests_are_refused_with_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("--dry-run", *words, tmp_path=tmp_path) == 2
    assert message in capsys.readouterr().err


def test_without_a_recipe_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate"]) == 2
    assert "try recipes/miniature.yaml" in capsys.readouterr().err
