"""Limits from a run's own scores: A at the tenth quantile, C at the robust tail, hard faults as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.quality.config import Thresholds
from bottega.quality.from_run import Distribution, changed, collect, draw, histograms, limits_of, shown, tail
from bottega.quality.grading import Grader, grade
from bottega.runtime.errors import RequestError

SOUND = {"finite": 1.0, "bright": 0.9, "spread": 0.2, "clipped_excess": 0.0, "vivid_excess": 0.0, "change": 0.15}


def rows(count: int = 4000, seed: int = 0) -> list[dict[str, float]]:
    """A good run: edges and similarity normally distributed, the ratio log-normally."""
    rng = np.random.default_rng(seed)
    columns = {
        "edge_64": rng.normal(0.6, 0.1, count),
        "edge_128": rng.normal(0.5, 0.1, count),
        "content_sim": rng.normal(0.7, 0.05, count),
        "hf_ratio": np.exp(rng.normal(0.0, 0.2, count)),
    }
    return [{**SOUND, **{name: float(values[i]) for name, values in columns.items()}} for i in range(count)]


def test_limits_of_a_normal_distribution_are_its_closed_form() -> None:
    new = limits_of(collect(rows(), Thresholds()), Thresholds())
    for name, mean, deviation in (("edge_64", 0.6, 0.1), ("edge_128", 0.5, 0.1), ("content_sim", 0.7, 0.05)):
        assert getattr(new, f"{name}_a") == pytest.approx(mean - 1.2816 * deviation, abs=0.08 * deviation)
        assert getattr(new, f"{name}_c") == pytest.approx(mean - 3 * deviation, abs=0.2 * deviation)
    assert new.hf_ratio_max == pytest.approx(np.exp(0.6), rel=0.05)
    letters = [grade(row, new).letter for row in rows(seed=1)]
    assert letters.count("C") / len(letters) <= 0.01


def test_each_side_of_a_tail_is_its_own_and_a_ratio_is_taken_by_its_logarithm() -> None:
    values = np.exp(np.random.default_rng(2).normal(0, 0.3, 20_000))
    assert tail(values, lower=False, ratio=True) * tail(values, lower=True, ratio=True) == pytest.approx(1, rel=0.05)
    skewed = np.random.default_rng(3).exponential(1.0, 20_000)
    middle, edge = np.log(2), np.log(10)
    assert tail(skewed, lower=False) == pytest.approx(middle + 3 / 1.28155 * (edge - middle), rel=0.03)


def test_samples_with_a_hard_fault_do_not_move_the_limits() -> None:
    good = rows()
    black = [{**row, "bright": 0.0, "edge_64": 0.0, "edge_128": 0.0, "content_sim": 0.0} for row in rows(1500, 5)]
    broken = [{"finite": 0.5}] * 500
    found = collect([*black, *good, *broken], Thresholds())
    assert (found.samples, found.normal_samples) == (6000, 4000)
    assert found.faults == {"black": 1500, "finite": 500}
    assert limits_of(found, Thresholds()) == limits_of(collect(good, Thresholds()), Thresholds())


def test_limits_of_hard_faults_stay_unless_they_are_asked_for() -> None:
    odd = [{**row, "vivid_excess": 0.4 + row["edge_64"] / 10} for row in rows()]
    with pytest.raises(RequestError, match="vivid 4000"):
        limits_of(collect(odd, Thresholds()), Thresholds())
    also = ["vivid_excess_max"]
    new = limits_of(collect(odd, Thresholds(), also), Thresholds(), also)
    assert new.vivid_excess_max == pytest.approx(0.46 + 3 * 0.01, abs=0.003)
    usual = {"edge_64_c", "edge_64_a", "edge_128_c", "edge_128_a", "content_sim_c", "content_sim_a", "hf_ratio_max"}
    assert set(changed(Thresholds(), new)) <= usual | set(also)
    with pytest.raises(RequestError, match="received no_such"):
        limits_of(collect(rows(), Thresholds()), Thresholds(), ["no_such"])


def test_a_score_that_was_not_measured_keeps_its_limits() -> None:
    without = [{name: value for name, value in row.items() if name != "content_sim"} for row in rows()]
    new = limits_of(collect(without, Thresholds()), Thresholds())
    assert (new.content_sim_a, new.content_sim_c) == (Thresholds().content_sim_a, Thresholds().content_sim_c)
    assert new.edge_64_a != Thresholds().edge_64_a


def test_too_few_samples_are_refused_with_their_number() -> None:
    with pytest.raises(RequestError, match="received 20 of 20"):
        limits_of(collect(rows(20), Thresholds()), Thresholds())


def test_limits_never_leave_what_is_allowed_and_c_stays_under_a() -> None:
    wild = [{**row, "edge_64": float(np.sign(row["edge_64"] - 0.6))} for row in rows()]  # half -1, half 1
    new = limits_of(collect(wild, Thresholds()), Thresholds())
    assert -1 <= new.edge_64_c <= new.edge_64_a <= 1


def test_the_histogram_counts_every_picture_and_marks_old_and_new_limits() -> None:
    found = collect(rows(), Thresholds())
    new = limits_of(found, Thresholds())
    text = histograms(found, Thresholds(), new)
    block = next(part for part in text.split("\n\n") if part.startswith("edge_64:"))
    assert sum(int(line.split()[3]) for line in block.splitlines()[1:]) == 4000
    marked = next(line for line in block.splitlines()[1:] if "edge_64_a new" in line)
    assert float(marked.split()[0]) <= new.edge_64_a < float(marked.split()[2])
    assert "edge_64_a old 0.25" in block.splitlines()[0]


def test_the_grades_that_a_run_gets_follow_its_new_limits() -> None:
    new = limits_of(collect(rows(), Thresholds()), Thresholds())
    failed = [check.name for row in rows() for check in Grader(new).failed(row)]
    assert set(failed) <= {"edge_64", "edge_128", "content", "frequency"}
    assert 0 < len(failed) <= 0.02 * 4000


def halves() -> Distribution:
    """Edges half at 0 and half at 1, so that sixteen bins have their bounds at the sixteenths of 0 to 1."""
    return collect([{**SOUND, "edge_64": float(k % 2)} for k in range(400)], Thresholds())


def test_a_limit_on_the_bound_of_two_bins_is_marked_once_in_the_upper_one() -> None:
    limits = Thresholds(edge_64_c=0.0, edge_64_a=0.25)
    text = histograms(halves(), limits, limits)
    block = next(part for part in text.split("\n\n") if part.startswith("edge_64:"))
    lines = block.splitlines()[1:]
    marked = [line.split() for line in lines if "<- " in line]
    assert [(words[0], words[2], words[-1]) for words in marked] == [
        ("0.0000", "0.0625", "edge_64_c"),
        ("0.2500", "0.3125", "edge_64_a"),
    ]
    assert [int(line.split()[3]) for line in lines] == [200, *[0] * 14, 200]


def drawn(found: Distribution, old: Thresholds, new: Thresholds, path: Path) -> np.ndarray:
    draw(found, old, new, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(("count", "rows_of_four"), [(1, 1), (4, 1), (5, 2)])
def test_the_drawing_has_a_row_for_every_four_scores_or_part_of_them(
    count: int, rows_of_four: int, tmp_path: Path
) -> None:
    found = collect(rows(60), Thresholds())
    chosen = shown(found)[:count]
    found.columns = {name: found.columns[name] for name in chosen}
    assert shown(found) == chosen
    picture = drawn(found, Thresholds(), Thresholds(), tmp_path / "drawn.png")
    assert picture.shape == (260 * rows_of_four, 1600, 3)


@pytest.mark.parametrize(("limit", "is_drawn"), [(0.5, True), (1.0, True), (-0.01, False)])
def test_a_limit_is_drawn_where_it_lies_within_the_histogram_or_on_its_end(
    limit: float, is_drawn: bool, tmp_path: Path
) -> None:
    found = halves()
    found.columns = {"edge_64": found.columns["edge_64"]}
    limits = Thresholds(edge_64_c=-0.9, edge_64_a=limit)  # the first is far to the left, where nothing is drawn
    picture = drawn(found, limits, limits, tmp_path / "drawn.png")
    red = picture[..., 0] - picture[..., 2] > 40  # on the end the frame of the axes covers half of the line
    assert bool(red.any()) == is_drawn
