"""Which checkpoint is best and whether training longer pays, on scores whose truth is known and on real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from bottega.cli.main import main
from bottega.data.records import Pair
from bottega.evaluation.checkpoint_table import markdown
from bottega.evaluation.checkpoints import BASE, Compared, compare, crossed, kept_adapters
from bottega.evaluation.grid import Grid
from bottega.evaluation.table import short
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_jsonl, write_text
from bottega.runtime.seeds import numpy_rng

STEPS = (100, 200, 300, 400, 500, 600)


def pairs(contents: int, styles: int) -> list[Pair]:
    found: list[Pair] = []
    for c in range(contents):
        for s in range(styles):
            found.append(Pair(f"c{c}_s{s}", f"c{c}", f"c{c}.png", f"s{s}", f"s{s}.png", "a dot", f"kind {s % 4}"))
    return found


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Compared]:
    folder = tmp_path_factory.mktemp("adapters")
    found = [Compared(step, folder / f"{step}.safetensors") for step in STEPS]
    for adapter in found:
        adapter.path.write_bytes(str(adapter.step).encode())
    return found


def scores(
    levels: Sequence[float], *, noise: float = 1.0, seed: int = 0, base: float = 0.0
) -> Mapping[str, Mapping[str, Mapping[tuple[str, str], float]]]:
    """Palette distances on 8 × 8 pairs: hard contents and styles, which all rows share, and noise of each row's own."""
    rng = numpy_rng("checkpoints", seed)
    shared = 3 * rng.standard_normal((8, 1)) + 3 * rng.standard_normal((1, 8))
    rows = {}
    for row, level in zip((BASE, *(f"step_{step:08d}" for step in STEPS)), (base, *levels), strict=True):
        own = shared + level + noise * rng.standard_normal((8, 8))
        rows[row] = {(f"c{c}", f"s{s}"): float(own[c, s]) for c in range(8) for s in range(8)}
    return {"palette": rows}


GRID = Grid.of(pairs(8, 8))


def test_a_checkpoint_far_better_than_the_others_is_surely_the_best(adapters: list[Compared]) -> None:
    found = compare(scores([18, 16, 10, 14, 15, 15], base=20), adapters, GRID, 0.95)
    assert found["by"] == "palette"
    assert found["best"]["palette"] == {"step": 300, "surely": True, "not_told_from": []}
    assert found["corrected_level"] == pytest.approx(0.99)
    behind = {row["step"]: row["behind"].get("palette") for row in found["rows"]}
    assert behind[0] is None and behind[300] is None
    for step in (100, 200, 400, 500, 600):
        cell = behind[step]
        assert cell is not None and cell["high"] is not None and cell["high"] < 0, "lower is better"
    assert "surely better" in found["sentences"][0]


def test_a_near_tie_names_the_checkpoints_that_the_best_is_not_told_from(adapters: list[Compared]) -> None:
    found = compare(scores([18, 16, 14, 12, 10.0, 10.01], base=20, noise=0.5), adapters, GRID, 0.95)
    best = found["best"]["palette"]
    assert not best["surely"] and set(best["not_told_from"]) | {best["step"]} == {500, 600}
    assert "not surely better than step" in found["sentences"][0]


def test_of_equal_checkpoints_hardly_ever_one_is_surely_the_best(adapters: list[Compared]) -> None:
    """What the correction is for: five comparisons at 95 % each would find a winner much more often."""
    winners, uncorrected = 0, 0
    for seed in range(200):
        found = compare(scores([10] * 6, seed=seed), adapters, GRID, 0.95)
        winners += found["best"]["palette"]["surely"]
        plain = compare(scores([10] * 6, seed=seed), adapters[:2], GRID, 0.95)
        uncorrected += plain["best"]["palette"]["surely"]
    assert winners <= 0.05 * 200
    assert uncorrected <= 0.09 * 200


@pytest.mark.parametrize(
    ("levels", "noise", "pays"),
    [
        ([18, 16, 14, 12, 10, 8], 0.5, "yes"),
        ([15, 12, 10, 10, 10, 10], 0.1, "no"),
        ([15, 12, 10, 9, 10, 12], 0.5, "no"),
        ([15, 12, 10, 9.6, 9.4, 9.2], 12.0, "can't be seen"),
    ],
)
def test_the_last_third_says_whether_training_longer_pays(
    adapters: list[Compared], levels: list[float], noise: float, pays: str
) -> None:
    found = compare(scores(levels, noise=noise, base=20), adapters, GRID, 0.95)
    trend = found["trend"]["palette"]
    assert (trend["first"], trend["last"], trend["pays"]) == (400, 600, pays)
    assert found["sentences"][-1].startswith(f"Does training longer pay? By palette: {pays};")


def test_without_a_checkpoint_of_the_first_two_thirds_the_trend_is_not_guessed(adapters: list[Compared]) -> None:
    values = scores([18, 16, 14, 12, 10, 8])
    kept = {"palette": {row: cells for row, cells in values["palette"].items() if row not in ("step_00000100",)}}
    late = [adapter for adapter in adapters if adapter.step > 400]
    found = compare(kept, late, GRID, 0.95)
    assert found["trend"] == {} and "can't be seen" in found["sentences"][-1]


def test_balance_weighs_style_and_content_alike_whatever_their_units(adapters: list[Compared]) -> None:
    """A training that trades content for style one to one neither gains nor loses; a copy of either does not win."""
    style = scores([20, 16, 12, 8, 4, 0], noise=0.01)["palette"]  # lower is better
    content = {row: {cell: 1000 - 7 * value for cell, value in cells.items()} for row, cells in style.items()}
    found = compare({"palette": style, "structure": content}, adapters, GRID, 0.95)
    assert found["by"] == "balance"
    values = [row["metrics"]["balance"]["value"] for row in found["rows"]]
    assert np.ptp(values) < 1e-9
    alone = compare({"palette": style}, adapters, GRID, 0.95)
    assert alone["by"] == "palette", "without a metric of the content there is no balance"
    with pytest.raises(RequestError, match="palette"):
        compare({"palette": style}, adapters, GRID, 0.95, by="truth")


def test_the_table_has_every_checkpoint_with_its_interval(adapters: list[Compared]) -> None:
    found = compare(scores([18, 16, 14, 12, 10, 8], base=20), adapters, GRID, 0.95)
    text = markdown(found)
    for row in found["rows"]:
        cell = row["metrics"]["palette"]
        assert cell["low"] is not None and cell["high"] is not None
        step = f"{row['step']:,}" if row["step"] else "0 (frozen base)"
        assert f"| {step} | {short(cell['value'])} [{short(cell['low'])}, {short(cell['high'])}] |" in text
    assert "| 600 | the best |" in text


def test_all_validation_contents_meet_all_styles_and_test_pairs_are_refused(tmp_path: Path) -> None:
    scattered = [pair for k, pair in enumerate(pairs(9, 9)) if k % 10 == 0]  # the diagonal
    grid = crossed(scattered, 30, tmp_path)
    assert (len(grid.contents), len(grid.styles), len(grid)) == (6, 5, 30)
    assert grid.pairs[1].pair_id == f"{grid.contents[0]}_{grid.styles[1]}"
    meeting = grid.pairs[1]
    assert (meeting.content_path, meeting.style_path) == (f"{grid.contents[0]}.png", f"{grid.styles[1]}.png")
    assert len(set(grid.labels.values())) == 4
    tested = [replace(pair, split="test") for pair in pairs(2, 2)]
    with pytest.raises(RequestError, match="flatter"):
        crossed(tested, 30, tmp_path)
    with pytest.raises(RequestError, match=r"pairs\.val"):
        crossed([], 30, tmp_path)


def test_a_training_that_kept_nothing_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"student\.loop\.keep_best"):
        kept_adapters(tmp_path)


def test_the_command_refuses_a_run_that_kept_nothing_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "recipe.yaml", "name: x\n")
    write_jsonl(tmp_path / "pairs" / "val.jsonl", [{**asdict(pairs(1, 1)[0]), "split": "val"}])
    assert main(["evaluate", "checkpoints", str(tmp_path)]) == 2
    assert "student.loop.keep_best" in capsys.readouterr().err
