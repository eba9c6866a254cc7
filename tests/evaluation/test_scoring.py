"""Pictures measured with networks that are never wrong, so that every number is known beforehand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.conftest import CONTENTS, STYLES, TRUTHS, World

from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import MADE_FROM, ORDER, ROWS
from bottega.evaluation.grid import Grid
from bottega.evaluation.metrics import METRICS, NEEDS
from bottega.evaluation.networks import Networks
from bottega.evaluation.scoring import Measured, measure_all
from bottega.evaluation.sources import Sources
from bottega.evaluation.stage import summarise
from bottega.evaluation.summary import by_row, claims, differences, examples, score_lines, table
from bottega.evaluation.table import markdown
from bottega.runtime.files import read_jsonl, write_jsonl

CONFIG = EvaluationConfig(draws=200, level=0.8, truths=TRUTHS, examples=2)  # three contents have no interval at 95 %


def truths_as_students(world: World, seed: int) -> dict[str, Path]:
    """A student that paints as the truth does."""
    return {pair.pair_id: world.root / "truth" / f"{pair.pair_id}_seed{seed}.png" for pair in world.read()}


def measure(world: World, oracles: Networks, directory: Path, config: EvaluationConfig = CONFIG) -> Measured:
    files = {"student": truths_as_students(world, 1)}
    sources = Sources(world.root, 128, config.truths)
    return measure_all(
        Grid.of(world.read()), files, config, sources, oracles, directory / "measured.jsonl", MADE_FROM | {"student": 1}
    )


@pytest.fixture(scope="module")
def measured_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def measured(world: World, oracles: Networks, measured_at: Path) -> Measured:
    return measure(world, oracles, measured_at)


@pytest.fixture(scope="module")
def summary(world: World, oracles: Networks, measured: Measured, measured_at: Path) -> dict[str, Any]:
    grid = Grid.of(world.read())
    write_jsonl(measured_at / "scores.jsonl", score_lines(grid, measured, oracles.style_classifier.labels))
    absent = {**oracles.absent, "teacher": "no teacher was given", "base": "no adapter was given"}
    return summarise(CONFIG, measured_at, grid, absent)


def value(summary: dict[str, Any], row: str, metric: str) -> float:
    return float(summary["rows"][row]["metrics"][metric]["value"])


def test_a_student_that_paints_the_truth_has_the_whole_style_gain(summary: dict[str, Any]) -> None:
    assert value(summary, "student", "kind_own") == 100
    assert value(summary, "student", "kind_swapped") == 0
    assert value(summary, "student", "kind_gain") == 100


def test_a_picture_that_does_not_depend_on_the_style_gains_nothing(summary: dict[str, Any]) -> None:
    """All contents count as one label: right for one style in four, with its own picture as with the swapped one."""
    assert value(summary, "content", "kind_own") == pytest.approx(100 / STYLES)
    assert value(summary, "content", "kind_gain") == 0


def test_objects_are_found_in_the_content_and_in_the_truth_and_not_in_the_style(summary: dict[str, Any]) -> None:
    for row in ("content", "student", "truth"):
        assert value(summary, row, "objects_found") == 100
        assert value(summary, row, "objects_iou") == 100
    assert value(summary, "style", "objects_found") < 50


def test_the_truth_is_nearest_to_itself_and_every_control_is_ordered(summary: dict[str, Any]) -> None:
    for row in ("content", "style", "colours", "blurred"):
        assert value(summary, "truth", "truth") < value(summary, row, "truth")
    assert value(summary, "style", "palette") == pytest.approx(0, abs=0.1)
    ordered = {name: found["discriminates"] for name, found in summary["discrimination"].items()}
    assert ordered["truth"]
    assert ordered["objects_found"]


def test_a_picture_is_never_compared_with_the_drawing_it_was_made_from(summary: dict[str, Any]) -> None:
    assert value(summary, "student", "truth") > 0
    assert value(summary, "truth", "truth") > 0


def test_what_is_missing_is_unavailable_with_its_reason_and_never_zero(summary: dict[str, Any]) -> None:
    assert summary["rows"]["student"]["metrics"]["text"] == {"status": "unavailable: no clip here"}
    assert summary["rows"]["student"]["metrics"]["structure"] == {"status": "unavailable: no structure encoder here"}
    assert summary["rows"]["teacher"]["status"] == "unavailable: no teacher was given"
    cells = summary["rows"]["teacher"]["metrics"].values()
    assert all(cell == {"status": "unavailable: no teacher was given"} for cell in cells)
    text = markdown(summary)
    assert "unavailable: no clip here" in text
    assert "unavailable: no teacher was given" in text


def test_every_measured_number_has_its_interval_and_counts(summary: dict[str, Any]) -> None:
    for row in summary["rows"].values():
        for cell in row["metrics"].values():
            if cell["status"] == "measured":
                assert cell["low"] <= cell["value"] <= cell["high"]
                assert (cell["contents"], cell["styles"], cell["n"]) == (CONTENTS, STYLES, CONTENTS * STYLES)


def test_a_mean_without_an_interval_says_why_in_the_table(
    world: World, summary: dict[str, Any], measured_at: Path
) -> None:
    assert "no interval: " not in markdown(summary)
    # One content says nothing about others.
    lines = [line for line in read_jsonl(measured_at / "scores.jsonl") if line["pair_id"].startswith("c0_")]
    scores, config = by_row(lines), CONFIG
    grid = Grid.of(world.read())
    rows, gaps = table(grid, scores, config, {}), differences(grid, scores, config)
    cell = rows["student"]["metrics"]["palette"]
    assert (cell["low"], cell["high"], cell["draws"]) == (None, None, 0)
    reason = f"1 contents × {STYLES} styles: one of either says nothing about others"
    assert cell["no_interval"] == gaps["content"]["palette"]["no_interval"] == reason
    assert claims(rows, gaps, config)[0]["met"] is None
    text = markdown({**summary, "rows": rows, "differences": gaps})
    assert "[no interval (" in text and text.count(f"no interval: {reason}") == 1


def test_each_difference_has_a_verdict_that_its_corrected_interval_bears(summary: dict[str, Any]) -> None:
    outcomes = set()
    for row, gaps in summary["differences"].items():
        told = [gap["corrected"] for gap in gaps.values() if gap["corrected"]["p_value"] is not None]
        for name, gap in gaps.items():
            found = gap["corrected"]
            outcomes.add(found["outcome"])
            if found["p_value"] is None:
                assert found["outcome"] == "not known" and found["low"] is None
                continue
            assert found["family"] == len(told) and found["level"] >= CONFIG.level
            assert (found["low"] > 0 or found["high"] < 0) == (found["outcome"] in ("better", "worse"))
            good = (gap["value"] > 0) == (METRICS[name].better == "higher")
            assert found["outcome"] != ("worse" if good else "better"), row
    assert {"better", "inconclusive"} <= outcomes
    text = markdown(summary)
    assert "** better" in text and "inconclusive below" in text


def test_a_metric_that_does_not_order_its_controls_is_marked(summary: dict[str, Any]) -> None:
    good = {name: {**found, "discriminates": True} for name, found in summary["discrimination"].items()}
    bad = {**good, "palette": {**good["palette"], "discriminates": False}}
    assert "†" not in markdown({**summary, "discrimination": good})
    text = markdown({**summary, "discrimination": bad})
    assert "palette ↓ (ΔE) †" in text and "Not discriminating here (†: " in text
    del bad["palette"]
    note = markdown({**summary, "discrimination": bad}).split("Not checked, as ")[1]
    assert "palette" in note.splitlines()[0]


def test_claims_that_could_not_be_checked_are_not_met(summary: dict[str, Any]) -> None:
    met = {claim["claim"]: claim["met"] for claim in summary["claims"]}
    assert met["style gain, lower bound"] is True
    assert met["objects preserved against the frozen base"] is None
    assert met["distance to truth minus that of: blurred truth"] is True


def test_examples_are_the_nearest_and_the_farthest_without_repeats(summary: dict[str, Any], measured_at: Path) -> None:
    found = summary["examples"]
    scores = {
        line["pair_id"]: line["value"]
        for line in read_jsonl(measured_at / "scores.jsonl")
        if (line["row"], line["metric"]) == ("student", "truth")
    }
    assert found["by"] == "truth"
    assert scores[found["best"][0]["pair_id"]] == min(scores.values())
    assert scores[found["worst"][0]["pair_id"]] == max(scores.values())
    named = [pair["pair_id"] for part in ("best", "median", "worst") for pair in found[part]]
    assert len(named) == len(set(named)) == 3 * CONFIG.examples


def test_examples_are_pairs_that_every_method_drew(world: World) -> None:
    grid = Grid.of(world.read())
    ids = [pair.pair_id for pair in grid.pairs]
    student = {pair: float(k) for k, pair in enumerate(ids)}
    scores: dict[tuple[str, str], dict[str, float]] = {("student", m): student for m in ("truth", "palette")}
    scores["teacher", "palette"] = dict.fromkeys(ids[2:8], 0.0)
    found = examples(grid, scores, 2)
    assert [pair["pair_id"] for name in ("best", "median", "worst") for pair in found[name]] == [
        *ids[2:4], *ids[4:6], *ids[7:5:-1]
    ]  # fmt: skip


def test_a_second_measuring_measures_nothing_again(
    world: World, oracles: Networks, measured: Measured, measured_at: Path, tmp_path: Path
) -> None:
    shutil.copyfile(measured_at / "measured.jsonl", tmp_path / "measured.jsonl")
    nobody = Networks(absent=oracles.absent)  # whoever asked it would get no answer
    assert measure(world, nobody, tmp_path).records == measured.records
    assert (tmp_path / "measured.jsonl").read_bytes() == (measured_at / "measured.jsonl").read_bytes()


def test_a_stopped_measuring_goes_on_where_it_was(
    world: World, oracles: Networks, measured: Measured, measured_at: Path, tmp_path: Path
) -> None:
    lines = (measured_at / "measured.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "measured.jsonl").write_bytes(b"".join(lines[:-4]) + lines[-4][:30])
    assert measure(world, oracles, tmp_path).records == measured.records
    assert sorted((tmp_path / "measured.jsonl").read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_another_picture_is_measured_again_and_the_others_are_not(
    world: World, oracles: Networks, measured: Measured, measured_at: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(world.root, tmp_path / "world")
    shutil.copyfile(root / "truth" / "c0_s1_seed1.png", root / "truth" / "c0_s0_seed1.png")
    shutil.copyfile(measured_at / "measured.jsonl", tmp_path / "measured.jsonl")
    after = measure(World(root, root / "test.jsonl", world.kinds, world.scenes), oracles, tmp_path)
    other = measured.records["student", "c0_s1"]
    assert after.records["student", "c0_s0"].scores["kind"] == other.scores["kind"]
    assert after.records["student", "c0_s1"] == other


def test_one_broken_picture_costs_its_own_pairs_in_every_row(world: World, oracles: Networks, tmp_path: Path) -> None:
    root = shutil.copytree(world.root, tmp_path / "world")
    (root / "wikiart" / "s1.png").write_bytes(b"no picture")
    copy = World(root, root / "test.jsonl", world.kinds, world.scenes)
    measured = measure(copy, oracles, tmp_path)
    assert set(measured.broken) == {f"c{c}_s1" for c in range(CONTENTS)}
    assert not [pair for _, pair in measured.records if pair.endswith("_s1")]
    assert len([1 for row, _ in measured.records if row == "content"]) == CONTENTS * (STYLES - 1)


def test_every_metric_says_what_it_needs_and_which_way_is_good() -> None:
    for metric in METRICS.values():
        assert metric.better in ("higher", "lower")
        assert set(metric.needs) <= set(NEEDS)
    assert set(ORDER) <= set(METRICS)
    assert {row for rows in ORDER.values() for row in rows} <= set(ROWS)
