"""From scores to rows: paired with the baseline, by content, style and training seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bottega.ablation.plan import AblationPlan, budgeted
from bottega.ablation.records import AblationRow, AblationSummary
from bottega.ablation.summary import summarise
from bottega.ablation.table import as_csv, as_markdown
from bottega.ablation.variants import one_factor
from bottega.data.records import Pair
from bottega.evaluation.config import EvaluationConfig
from bottega.runtime.files import write_json, write_jsonl, write_text
from bottega.student.config import StudentConfig

BASE = budgeted(StudentConfig(), 10)
PLAN = AblationPlan("one factor", one_factor(BASE, ["purification"], 12), (0, 1, 2), BASE, 12)
CONTENTS, STYLES = 4, 5
EFFECT = {"baseline": 0.0, "purification-none": 3.0, "purification-projection": 0.0}
Make = Callable[..., AblationSummary]


def pairs() -> list[Pair]:
    found = []
    for c in range(CONTENTS):
        for s in range(STYLES):
            found.append(
                Pair(
                    pair_id=f"c{c}_s{s}",
                    content_id=f"c{c}",
                    content_path=f"c{c}.png",
                    style_id=f"s{s}",
                    style_path=f"s{s}.png",
                    style="wash",
                    prompt="a picture",
                    caption_index=0,
                    seeds=[0],
                    split="test",
                )
            )
    return found


def write_training(directory: Path, variant: str, seed: int) -> None:
    """What a training and its evaluation leave; the scores are contents, styles and seeds, noise, and the effect."""
    folder = directory / "trained" / variant / f"seed{seed}"
    write_json(folder / "training.json", {"parameters": 7})
    write_jsonl(folder / "metrics.jsonl", ({"step": step, "seconds": 0.5} for step in (1, 2)))
    rng = np.random.default_rng([seed, list(EFFECT).index(variant)])
    lines = []
    for c in range(CONTENTS):
        for s in range(STYLES):
            value = 10 * c + 5 * s + 2 * seed + EFFECT[variant] + 0.1 * float(rng.normal())
            for metric in ("truth", "text"):
                lines.append(
                    {"pair_id": f"c{c}_s{s}", "row": "student", "metric": metric, "value": value, "sha256": ""}
                )
    evaluated = directory / "evaluated" / variant / f"seed{seed}"
    write_jsonl(evaluated / "scores.jsonl", lines)
    write_text(evaluated / "pictures" / "student" / "c0_s0.png", "")
    control = {"status": "measured", "metrics": {"truth": {"status": "measured", "value": 1.5}}}
    student = {"status": "measured", "metrics": {}}
    for metric in ("kind_own", "kind_swapped", "kind_gain", "palette", "objects_found", "objects_iou", "structure"):
        student["metrics"][metric] = {"status": "unavailable: no judge"}  # type: ignore[index]
    for metric in ("truth_colour", "truth_texture"):
        student["metrics"][metric] = {"status": "unavailable: no judge"}  # type: ignore[index]
    metrics = {
        "truth": {"title": "distance", "unit": "drawings", "better": "lower", "meaning": ""},
        "text": {"title": "CLIPScore", "unit": "cosine", "better": "higher", "meaning": ""},
    }
    write_json(evaluated / "summary.json", {"rows": {"student": student, "base": control}, "metrics": metrics})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    from bottega.evaluation.metrics import METRICS

    chosen = {name: METRICS[name] for name in ("truth", "text", "palette")}
    monkeypatch.setattr("bottega.ablation.summary.METRICS", chosen)
    for variant in EFFECT:
        for seed in PLAN.seeds:
            write_training(tmp_path, variant, seed)

    def summary(**failed: str) -> AblationSummary:
        reasons = {place.replace("__", "/"): why for place, why in failed.items()}
        return summarise(
            PLAN, EvaluationConfig(), tmp_path, pairs=pairs(), name="toy", failed=reasons, seconds={"training": 1.0}
        )

    return summary


def row_of(summary: AblationSummary, name: str) -> AblationRow:
    return next(row for row in summary["rows"] if row["name"] == name)


def test_a_true_difference_is_found_and_none_is_inconclusive(make: Make) -> None:
    summary = make()
    worse = row_of(summary, "purification-none")["differences"]
    assert worse["truth"]["value"] == pytest.approx(3.0, abs=0.2)
    assert worse["truth"]["verdict"] == "worse"  # a distance: lower is better
    assert worse["text"]["verdict"] == "better"
    none = row_of(summary, "purification-projection")["differences"]["truth"]
    assert none["verdict"] == "inconclusive"
    assert none["seen_from"] is not None and none["seen_from"] < 0.5


def test_pairing_takes_contents_styles_and_seeds_out_of_the_difference(make: Make) -> None:
    row = row_of(make(), "purification-none")
    mean, difference = row["metrics"]["truth"], row["differences"]["truth"]
    assert mean["low"] is not None and mean["high"] is not None
    assert difference["seen_from"] is not None
    assert mean["high"] - mean["low"] > 20 * 2 * difference["seen_from"]
    assert (mean["contents"], mean["styles"], mean["seeds"], mean["n"]) == (CONTENTS, STYLES, 3, 60)


def test_a_row_says_what_it_changed_and_what_it_cost(make: Make) -> None:
    summary = make()
    row = row_of(summary, "purification-none")
    assert row["settings"] == {"student.adapter.purification": "none"}
    assert (row["parameters"], row["seconds"], row["cost"]) == (7, 1.0, 1.0)
    assert row["examples"][0]["picture"] == "evaluated/purification-none/seed0/pictures/student/c0_s0.png"
    assert row_of(summary, "baseline")["differences"] == {}
    assert summary["controls"]["base"]["truth"]["value"] == 1.5
    assert summary["not_measured"] == {"palette": "unavailable: no judge"}


def test_a_training_that_could_not_go_on_is_named_and_leaves_the_others(make: Make) -> None:
    summary = make(**{"purification-none__seed1": "the loss is not finite"})
    row = row_of(summary, "purification-none")
    assert row["seeds"] == [0, 2]
    assert row["status"] == "1 of 3 trainings could not go on: seed 1: the loss is not finite"
    assert row["differences"]["truth"]["seeds"] == 2
    assert "could not go on" in as_markdown(summary)


def test_tables_have_every_row_and_mark_what_differs(make: Make) -> None:
    summary = make()
    text = as_markdown(summary)
    assert "| purification-none | **+3" in text and "worse" in text
    assert all(f"| {name} |" in text for name in EFFECT)
    rows = list(csv.DictReader(io.StringIO(as_csv(summary))))
    assert len(rows) == 3 * 2
    assert {row["verdict"] for row in rows if row["name"] == "purification-none"} == {"worse", "better"}
