"""Each finding on runs of known nature, with the noise of real ones, and on healthy runs, which must not be accused."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import theilslopes

from bottega.runtime.errors import MissingError, StorageError
from bottega.runtime.files import append_jsonl, write_jsonl
from bottega.runtime.findings import NONE
from bottega.runtime.seeds import numpy_rng
from bottega.training.diagnosis import (
    Watcher,
    as_text,
    as_verdict,
    diagnose,
    diagnose_folder,
)
from bottega.training.trends import BLOCKS, Block, Blocks, Trend, change, slope

SEEDS = 10
STEPS, EVERY = 2000, 50
PAGE = Path(__file__).parents[2] / "docs" / "is-it-learning.md"
NAMES = (
    "diverging",
    "not learning",
    "style ignored",
    "content copied",
    "task starved",
    "overfitting",
    "under-trained",
    "plateaued",
    "learning",
    "unknown",
)
"""What may be found in a paired validation."""
Row = dict[str, Any]
Course = Callable[[float], float]


def synthetic(
    seed: int,
    *,
    gain: Course = lambda p: 0.30 * (1 - math.exp(-10 * p)),
    main: Course = lambda p: 0.7 + 0.3 * math.exp(-10 * p),
    fill: Course = lambda p: 0.6 + 0.4 * math.exp(-10 * p),
    gradient: Course = lambda p: 1 + 1.5 * min(5 * p, 1),
    rate: Course = lambda p: 1.0,
    swap: float = 0.6,
    copy: float | None = 0.4,
    half_width: float = 0.04,
    steps: int = STEPS,
    every: int = EVERY,
) -> list[Row]:
    """A run's rows; each course is a function of the share p of the run that is done.

    As in real runs: a row's loss varies by a factor of two to three (the timesteps' doing), the gradient's norm by half
    and grows as the gates open, the gain jitters by a hundred-fiftieth of itself from one validation to the next, in
    part along with the one before. swap and copy are shares of the gain and of the way.
    """
    rng = numpy_rng("synthetic run", seed)
    rows, jitter = [], 0.0
    for step in range(1, steps + 1):
        p = step / steps
        row: Row = {
            "step": step,
            "loss_fill50k": 2.0 * fill(p) * math.exp(1.0 * rng.standard_normal()),
            "loss_main": 1.0 * main(p) * math.exp(0.8 * rng.standard_normal()),
            "learning_rate": 1e-3 * rate(p),
            "grad_norm": 0.4 * gradient(p) * math.exp(0.4 * rng.standard_normal()),
            "seconds": 0.1,
        }
        row["loss"] = 0.75 * row["loss_main"] + 0.25 * row["loss_fill50k"]
        if step % every == 0:
            jitter = 0.4 * jitter + 0.002 * rng.standard_normal()
            now = gain(p) + jitter
            row |= {"val_gain": now, "val_gain_low": now - half_width, "val_gain_high": now + half_width}
            lost = swap * now + 0.002 * rng.standard_normal()
            row |= {"val_swap": lost, "val_swap_low": lost - 0.02, "val_swap_high": lost + 0.02}
            if copy is not None:
                at = copy + 0.02 * rng.standard_normal()
                row |= {"val_copy": at, "val_copy_low": at - 0.05, "val_copy_high": at + 0.05, "val_copy_base": 0.97}
        rows.append(row)
    return rows


def cosine(p: float) -> float:
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * p))


def blown(p: float, factor: float = 4.0) -> float:
    """1 until seven tenths of the run, then growing to `factor`."""
    return math.exp(math.log(factor) * max(0.0, (p - 0.7) / 0.3))


KINDS: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "learned, and flat": ({}, "learning", {"plateaued", "unknown"}),
    "flat at a constant rate": ({}, "plateaued", {"learning"}),
    "flat because the rate fell": ({"rate": cosine}, "plateaued", {"learning"}),
    "cut short": (
        {"gain": lambda p: 0.3 * (1 - math.exp(-p)), "main": lambda p: 1 - 0.3 * p},
        "under-trained",
        {"learning"},
    ),
    "cut short before anything was sure": (
        {"gain": lambda p: 0.03 * p, "half_width": 0.05, "main": lambda p: 1.0},
        "under-trained",
        set(),
    ),
    "nothing learned": (
        {"gain": lambda p: 0.0, "half_width": 0.02, "main": lambda p: 1.0, "fill": lambda p: 1.0},
        "not learning",
        set(),
    ),
    "blown up": (
        {
            "gain": lambda p: 0.3 * (1 - math.exp(-10 * p)) - 0.4 * max(0.0, (p - 0.7) / 0.3),
            "main": blown,
            "fill": blown,
            "gradient": lambda p: 1 + 5 * max(0.0, (p - 0.7) / 0.3),
        },
        "diverging",
        {"style ignored"},
    ),
    "learned by heart": (
        {"gain": lambda p: 0.3 * (1 - math.exp(-10 * p)) - 0.15 * max(0.0, p - 0.4), "main": lambda p: 1 - 0.6 * p},
        "overfitting",
        {"learning"},
    ),
    "the same with any style": ({"swap": 0.02}, "style ignored", {"learning", "plateaued", "unknown"}),
    "still on the content": ({"copy": 0.93}, "content copied", {"learning", "plateaued", "unknown"}),
    "targets at Fill50K's cost": (
        {"fill": lambda p: math.exp(0.5 * min(1, 2 * p)), "main": lambda p: 1 - 0.6 * min(1, 2 * p)},
        "task starved",
        {"learning", "plateaued", "unknown"},
    ),
    "Fill50K at the targets' cost": (
        {"main": lambda p: math.exp(0.5 * min(1, 2 * p)), "fill": lambda p: 1 - 0.6 * min(1, 2 * p)},
        "task starved",
        {"learning", "plateaued", "unknown"},
    ),
}
"""By what befell the run: how it is made, what it must be called, and what else may be said of it."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_state_is_recognised_and_no_other_is_claimed(kind: str) -> None:
    settings, name, also = KINDS[kind]
    found = [{finding.name for finding in diagnose(synthetic(seed, **settings))} for seed in range(SEEDS)]
    assert sum(name in names for names in found) >= 9, found
    assert sum(names <= {name, *also} for names in found) >= 9, found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rate": cosine},
        {"gain": lambda p: 0.3 * (1 - math.exp(-3 * p))},
        {"gain": lambda p: 0.02 * (1 - math.exp(-10 * p)), "half_width": 0.008, "main": lambda p: 1.0},
        {"copy": None},
    ],
    ids=["flat", "cosine", "still rising", "a small gain", "without val_copy"],
)
def test_a_healthy_run_is_never_accused_while_it_runs(settings: dict[str, Any]) -> None:
    harmless, clean = {"learning", "plateaued", "unknown"}, 0
    for seed in range(SEEDS):
        watcher, names = Watcher(), set()
        for row in synthetic(seed, **settings):
            watcher.add(row)
            if "val_gain" in row:
                names |= {finding.name for finding in watcher.findings()}
        clean += names <= harmless
        assert "learning" in {finding.name for finding in watcher.findings()}
    assert clean >= 9


def test_a_run_that_blows_up_is_called_diverging_while_it_does() -> None:
    settings, _, _ = KINDS["blown up"]
    for seed in range(SEEDS):
        watcher, said = Watcher(), []
        for row in synthetic(seed, **settings):
            watcher.add(row)
            if row["step"] % (STEPS // 10) == 0 and "diverging" in {f.name for f in watcher.findings()}:
                said.append(10 * row["step"] // STEPS)
        assert said and 7 <= said[0] <= 10 and said[-1] == 10


def names_of(rows: list[Row]) -> set[str]:
    return {finding.name for finding in Watcher(rows).findings()}


def test_a_raw_loss_of_great_noise_that_goes_nowhere_is_neither_diverging_nor_starving() -> None:
    flat = {"main": lambda p: 1.0, "fill": lambda p: 1.0, "gradient": lambda p: 1.0}
    rows = [synthetic(seed, steps=400, every=400, **flat) for seed in range(40)]
    accused = [names_of(run) & {"diverging", "task starved"} for run in rows]
    assert sum(map(bool, accused)) <= 1


def test_without_a_validation_a_blown_up_loss_is_told_with_its_weakness() -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("val_")} for row in synthetic(0, main=blown, fill=blown)]
    diverging, unknown = diagnose(rows)
    assert diverging.name == "diverging" and "raw training loss alone" in diverging.evidence
    assert (unknown.name, unknown.evidence) == ("unknown", "no validation has been run")


def test_a_gradient_that_rises_again_is_set_against_its_lowest_and_not_against_how_it_began() -> None:
    rows = synthetic(0, main=blown, fill=blown, gradient=lambda p: 1.0 if 0.3 < p < 0.8 else 6.0)
    (diverging,) = [finding for finding in diagnose(rows) if finding.name == "diverging"]
    told = re.search(r"the gradient's norm is ([\d.]+)", diverging.evidence)
    assert told is not None
    assert float(told[1]) == pytest.approx(6, rel=0.15)


def test_a_single_wild_loss_is_no_divergence() -> None:
    rows = synthetic(1)
    for row in rows[-3:]:
        row |= {"loss": 1e4, "loss_main": 1e4, "loss_fill50k": 1e4, "grad_norm": 1e4}
    assert "diverging" not in names_of(rows)


def test_a_number_that_is_not_finite_is_the_gravest_finding() -> None:
    rows = synthetic(2)
    for broken in (None, math.nan):
        rows[700]["grad_norm"] = broken
        first = diagnose(rows)[0]
        assert first.name == "diverging" and "grad_norm is not a finite number at step 701" in first.evidence


def test_too_little_is_unknown() -> None:
    assert names_of([]) == {"unknown"}
    assert names_of(synthetic(3)[:49]) == {"unknown"}
    assert names_of(synthetic(3, gain=lambda p: 0.0)[:120]) == {"unknown"}  # two validations are too early to judge
    few = diagnose(synthetic(3, every=1000))
    assert [finding.name for finding in few] == ["learning", "unknown"]
    assert "validations: 2, too few" in few[1].evidence and "validate_every" in few[1].advice


def test_an_interval_that_can_say_nothing_is_unknown_and_not_a_plateau() -> None:
    rows = [{"step": k, "val_gain": 0.2 + (0.1 if k % 2 else -0.1), "val_gain_low": 0.05} for k in range(1, 25)]
    assert names_of(rows) == {"learning"}
    assert [finding.name for finding in diagnose(rows)] == ["learning", "unknown"]


def test_findings_come_with_numbers_and_the_gravest_first() -> None:
    settings = {"swap": 0.02, "copy": 0.93, **KINDS["Fill50K at the targets' cost"][0]}
    found = diagnose(synthetic(4, **settings))
    names = [finding.name for finding in found]
    assert names[:3] == ["style ignored", "content copied", "task starved"] and "learning" in names
    assert [finding.severity for finding in found] == sorted((f.severity for f in found), reverse=True)
    assert all(re.search(r"\d", finding.evidence) for finding in found)
    assert all(finding.advice for finding in found)


def test_the_swap_must_surely_be_small_before_the_style_counts_as_ignored() -> None:
    row = {"step": 1, "val_gain": 0.3, "val_gain_low": 0.2, "val_gain_high": 0.4, "val_swap": 0.05}
    for change_, ignored in (({}, True), ({"val_swap_high": 0.07}, True), ({"val_swap_high": 0.2}, False)):
        assert ("style ignored" in {finding.name for finding in diagnose([row | change_])}) == ignored
    assert "style ignored" not in {finding.name for finding in diagnose([row | {"val_swap": None}])}


def test_a_run_that_has_just_begun_is_not_accused_of_how_every_run_begins() -> None:
    row = {"val_gain": 0.0, "val_gain_low": -0.1, "val_gain_high": 0.1, "val_swap": 0.0}
    row |= {"val_copy": 0.98, "val_copy_low": 0.95, "val_copy_high": 1.0}
    better = row | {"val_gain": 0.1, "val_gain_low": 0.05}
    for start, name in ((row, "unknown"), (better, "learning")):
        rows = [{**start, "step": 10 * k} for k in range(1, 7)]
        assert names_of(rows[:5]) == {name}
    assert names_of(rows) >= {"style ignored", "content copied", "learning"}
    assert names_of([{**row, "step": 10 * k} for k in range(1, 7)]) == {"not learning"}
    assert {finding.name for finding in diagnose([row])} == {"not learning", "content copied"}


def test_an_adapter_that_is_surely_worse_than_the_base_is_told_to_slow_down() -> None:
    (first, *_) = diagnose([{"step": 1, "val_gain": -0.2, "val_gain_low": -0.3, "val_gain_high": -0.1}])
    assert first.name == "not learning" and "20.0% above" in first.evidence and "lower" in first.advice


def test_an_adapter_that_is_not_surely_worse_than_the_base_is_told_to_raise_the_rate() -> None:
    rows = synthetic(0, gain=lambda p: 0.0, half_width=0.2)
    (first, *_) = diagnose(rows)
    assert first.name == "not learning"
    assert "raise student.loop.learning_rate" in first.advice
    assert "lower student.loop.learning_rate" not in first.advice


def test_a_plateau_under_a_fallen_rate_is_laid_to_the_rate() -> None:
    def plateau(**settings: Any) -> str:
        return next(f.advice for f in diagnose(synthetic(5, **settings)) if f.name == "plateaued")

    assert "come down to 5% of its peak" in plateau(rate=cosine)
    assert "more steps alone will hardly help" in plateau()


def test_what_is_kept_of_a_run_does_not_grow_with_it() -> None:
    watcher, sizes = Watcher(), []
    row = synthetic(6, steps=50)[-1]
    for step in range(1, 30_001):
        watcher.add(row | {"step": step})
        if step in (3_000, 30_000):
            sizes.append(len(pickle.dumps(watcher)))
    assert max(len(b.blocks) for b in (*watcher.losses.values(), watcher.gains, watcher.gradients)) <= BLOCKS
    assert sizes[1] < 1.3 * sizes[0]


def test_a_resumed_run_hears_what_an_uninterrupted_one_does() -> None:
    rows = synthetic(7)
    whole = Watcher(rows)
    resumed = Watcher(rows[:1234])
    for row in rows[1234:]:
        resumed.add(row)
    assert resumed.findings() == whole.findings() == Watcher(rows).findings()


def test_a_folder_is_read_from_a_run_a_training_or_a_log(tmp_path: Path) -> None:
    rows = synthetic(8)
    write_jsonl(tmp_path / "training" / "metrics.jsonl", rows)
    found = diagnose(rows)
    for place in (tmp_path, tmp_path / "training", tmp_path / "training" / "metrics.jsonl"):
        assert diagnose_folder(place) == found
    append_jsonl(tmp_path / "training" / "metrics.jsonl", [{"step": STEPS + 1, "loss": 1.0}])
    with open(tmp_path / "training" / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"step": 2002, "lo')  # a line torn by a kill, or half written by a run under way
    assert [finding.name for finding in diagnose_folder(tmp_path)] == [finding.name for finding in found]
    with pytest.raises(MissingError, match=r"there is none at .*nowhere; name the directory"):
        diagnose_folder(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").write_text("not json\n")
    with pytest.raises(StorageError, match="line 1"):
        diagnose_folder(tmp_path)


def test_words_are_a_line_of_evidence_and_one_of_advice_where_it_is_needed() -> None:
    lines = as_text(diagnose(synthetic(9, swap=0.02))).splitlines()
    assert lines[0].startswith("style ignored: of the gain of ") and lines[1].startswith("    to try: ")
    assert lines[-1].startswith("learning: on the fixed grid the loss is ") and NONE not in "".join(lines)


def test_one_validation_gives_a_verdict_in_a_word() -> None:
    row = {"val_gain": 0.3, "val_gain_low": 0.2, "val_gain_high": 0.4, "val_swap": 0.2}
    good = as_verdict(diagnose([row]))
    assert (good["learning"], good["advice"]) == ("yes", NONE) and "30.0% below" in good["evidence"]
    assert "unknown" not in good["evidence"]
    ignored = as_verdict(diagnose([row | {"val_swap": 0.01}]))
    assert ignored["learning"] == "yes" and "adapter.tokens" in ignored["advice"]
    assert as_verdict(diagnose([row | {"val_gain_low": -0.1}]))["learning"] == "no"
    assert as_verdict(diagnose([{}]))["learning"] == as_verdict(diagnose([{"val_gain": 0.3}]))["learning"] == "unknown"


def test_a_verdict_rests_on_all_findings_and_a_plateau_after_learning_is_no_fault() -> None:
    whole = as_verdict(diagnose(synthetic(0)))
    assert whole["learning"] == "yes" and whole["advice"] == NONE and "; plateaued: from step" in whole["evidence"]
    assert [f["name"] for f in whole["findings"]] == ["plateaued", "learning"]
    assert as_verdict(diagnose(synthetic(0, **KINDS["blown up"][0])))["learning"] == "no"
    short = as_verdict(diagnose(synthetic(0, **KINDS["cut short"][0])))
    assert short["learning"] == "yes" and short["advice"] == "train longer: raise student.loop.steps"


def test_blocks_keep_the_mean_and_the_variance_of_every_window() -> None:
    values = numpy_rng("blocks").standard_normal(5000)
    blocks = Blocks()
    for step, value in enumerate(values):
        blocks.add(step, float(value))
    windows, done = blocks.windows(), 0
    for window in windows:
        own = values[done : done + window.count]
        assert window.mean == pytest.approx(own.mean()) and window.squares == pytest.approx(own.size * own.var())
        assert window.step == pytest.approx(done + (window.count - 1) / 2)
        done += window.count
    assert (len(windows), done, blocks.count) == (8, 5000, 5000)


def test_windows_of_too_few_numbers_are_not_compared() -> None:
    blocks = Blocks()
    for step in range(8 * 25 - 1):
        blocks.add(step, 0.0)
    assert blocks.windows() == []


def test_the_slope_and_its_interval_are_scipys() -> None:
    rng = numpy_rng("slope")
    for n in (6, 9, 16, 33):
        x, y = np.cumsum(rng.integers(1, 9, n)), rng.standard_normal(n)
        ours, theirs = slope(x.tolist(), y.tolist()), theilslopes(y, x, 0.95)
        assert ours.value == pytest.approx(theirs.slope)
        assert (ours.low, ours.high) == pytest.approx((theirs.low_slope, theirs.high_slope))
    with pytest.raises(ValueError, match="two points"):
        slope([1.0], [1.0])


def test_the_interval_of_a_change_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = numpy_rng("coverage"), 0
    for _ in range(1000):
        first, last = (rng.normal(mean, 0.8, 40) for mean in (0.0, 0.3))
        blocks = [Block(40, 0.0, float(x.mean()), float(40 * x.var())) for x in (first, last)]
        estimate = change(*blocks)
        covered += estimate.low < 0.3 < estimate.high
    assert 970 <= covered <= 999


def test_a_trend_of_white_noise_is_called_rising_or_falling_as_rarely_as_its_interval_says() -> None:
    rng, wrong = numpy_rng("white"), 0
    for _ in range(400):
        gains = Blocks()
        for step in range(1, 25):
            gains.add(step, 0.1 * float(rng.standard_normal()))
        trend = Trend.of(gains, since=12)
        assert trend is not None
        wrong += trend.direction in ("rising", "falling")
    assert wrong <= 0.07 * 400


def test_the_page_explains_every_finding_and_every_column_of_the_log() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| **{name}** |" not in text] == []
    columns = {re.sub(r"_t\d+$|(?<=gate_)\d+$", "…", name) for name in synthetic(0, steps=50)[-1]}
    columns |= {"epoch", "prediction_type", "rss_mb", "vram_mb", "cosine_before", "cosine_after", "gate_…"}
    columns |= {"gate_purification", "val_loss", "val_base", "val_gain_t…"}
    listed = set(re.findall(r"`([a-z_0-9…]+)`", text))
    assert sorted(columns - listed) == []
