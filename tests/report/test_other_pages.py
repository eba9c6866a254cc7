"""Pages of an evaluation's folder and of an ablation's: which is which, and every number that matters is on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottega.evaluation.compare import compare
from bottega.evaluation.factors import METHOD, crossed_seeds_difference, crossed_seeds_mean
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.runs import read_run
from bottega.report.format import between, figure
from bottega.report.page import run
from bottega.runtime.files import read_jsonl, write_json, write_jsonl, write_png
from bottega.runtime.seeds import numpy_rng

from .conftest import Believable, load
from .test_page import Reader

VARIANTS = {
    "baseline": ("", "", 10.0),
    "layers-2": ("blocks", "2 <last>", 14.0),
    "layers-8": ("blocks", "8", 9.5),
    "fill50k-none": ("Fill50K & none", "without", 10.05),
}


def page(directory: Path) -> Reader:
    assert run(directory) == directory / "report.html"
    return Reader((directory / "report.html").read_text(encoding="utf-8"))


def is_offline(reader: Reader) -> bool:
    return all(address.startswith(("#", "data:image/webp;base64,")) for address in reader.fetched)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation's folder whose numbers the real estimators made of scores of 6 × 6 pairs and 3 trainings."""
    directory = tmp_path_factory.mktemp("ablation")
    rng = numpy_rng("ablation")
    shared = rng.standard_normal((6, 1, 1)) + rng.standard_normal((1, 6, 1)) + 0.3 * rng.standard_normal((1, 1, 3))
    cubes = {name: shared + level + 0.2 * rng.standard_normal((6, 6, 3)) for name, (*_, level) in VARIANTS.items()}
    rows = [_row(directory, name, cubes) for name in VARIANTS]
    metric = METRICS["palette"]
    about = {"title": metric.title, "unit": metric.unit, "better": metric.better, "meaning": metric.meaning}
    summary = {
        "name": "tiny",
        "design": "one factor",
        "baseline": "baseline",
        "steps": 300,
        "samples": 2400,
        "seeds": [0, 1, 2],
        "pairs": 36,
        "contents": 6,
        "styles": 6,
        "metrics": {"palette": about},
        "rows": rows,
        "controls": {"style": {"palette": {"status": "measured", "value": 0.0, "low": 0.0, "high": 0.0}}},
        "interval": METHOD,
        "level": 0.95,
        "interval_note": "Each interval stands for itself.",
        "not_measured": {"structure": "needs <models.structure_encoder>"},
        "seconds": {"training": 65.0},
        "provenance": {"weights": {"pixart": "ab" * 32}},
    }
    write_json(directory / "summary.json", summary)
    return directory


def _row(directory: Path, name: str, cubes: dict[str, np.ndarray]) -> dict[str, Any]:
    factor, level, _ = VARIANTS[name]
    gap = crossed_seeds_difference(cubes[name], cubes["baseline"]) if factor else None
    differences = {}
    if gap is not None and gap.low is not None and gap.high is not None:
        verdict = "worse" if gap.low > 0 else "better" if gap.high < 0 else "inconclusive"
        seen_from = (gap.high - gap.low) / 2
        differences["palette"] = {**gap.record(), "verdict": verdict, "seen_from": seen_from}
    picture = f"pictures/{name}/seed0/a.png"
    write_png(directory / picture, np.full((16, 16, 3), 100, np.uint8))
    return {
        "name": name,
        "factor": factor,
        "level": level,
        "settings": {"student.adapter.layers": 2} if factor == "blocks" else {},
        "learning_rate": 2e-3,
        "seeds": [0, 1, 2],
        "status": "measured",
        "metrics": {"palette": crossed_seeds_mean(cubes[name]).record()},
        "differences": differences,
        "parameters": 123456,
        "seconds": 61.0,
        "adapters": [],
        "examples": [
            {"pair_id": "a", "picture": picture, "content": "x.png", "style": "y.png"},
            {"pair_id": "b", "picture": "../../outside.png", "content": "x.png", "style": "y.png"},
        ],
    }


def test_an_ablation_shows_every_value_interval_difference_and_verdict(ablation: Path) -> None:
    reader = page(ablation)
    summary = load(ablation / "summary.json")
    verdicts = set()
    for row in summary["rows"]:
        cell = row["metrics"]["palette"]
        assert f"{figure(cell['value'])} [{figure(cell['low'])}, {figure(cell['high'])}]" in reader.text
        for gap in row["differences"].values():
            assert f"[{figure(gap['low'])}, {figure(gap['high'])}]" in reader.text
            verdicts.add(gap["verdict"])
            if gap["verdict"] == "inconclusive":
                assert f"inconclusive below {figure(gap['seen_from'])}" in reader.text
    assert verdicts == {"better", "worse", "inconclusive"}, "a fixture that shows all three"
    assert "▲ better" in reader.text and "▼ worse" in reader.text
    assert "Fill50K & none: no difference to the baseline can be seen" in reader.text
    assert "3 training seeds" in reader.text and "structure: needs <models.structure_encoder>" in reader.text
    assert "123,456" in reader.text and "ab" * 32 in reader.text


def test_an_ablations_page_is_offline_well_formed_and_its_data_is_text(ablation: Path) -> None:
    reader = page(ablation)
    html = (ablation / "report.html").read_text(encoding="utf-8")
    assert is_offline(reader) and reader.open == [] and reader.silent == []
    assert "<last>" not in html and "2 <last>" in reader.text
    assert html.count("data:image/webp") == 4, "one example a variant, and none from outside of the folder"
    assert (ablation / "tables/ablation.csv").read_text(encoding="utf-8").count("minus the baseline") == 3


def test_a_methods_paragraph_of_an_ablation_says_what_was_done(ablation: Path) -> None:
    text = page(ablation).text
    assert "4 variants, each trained with the seeds 0, 1, 2 for 300 steps, which see 2,400 samples" in text
    assert f"Brackets hold 95 % intervals ({METHOD}). Each interval stands for itself." in text


@pytest.fixture(scope="module")
def evaluation(believable: Believable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation's folder by itself, as `bottega evaluate --output` leaves one."""
    directory = tmp_path_factory.mktemp("alone") / "evaluation"
    shutil.copytree(believable() / "evaluation", directory)
    return directory


def test_an_evaluations_folder_gets_its_numbers_pictures_and_what_is_missing(evaluation: Path) -> None:
    reader = page(evaluation)
    summary = load(evaluation / "summary.json")
    for row in summary["rows"].values():
        for metric in row["metrics"].values():
            if metric["status"] == "measured":
                assert f"[{figure(metric['low'])}, {figure(metric['high'])}]" in reader.text
    assert "base without adapter: no weights at <hub>" in reader.text
    assert "pair c101_p80: left out of every row" in reader.text
    assert "Pending" not in reader.text, "it is no run: nothing is to come"
    assert is_offline(reader) and reader.open == [] and set(reader.jumps) <= set(reader.ids)
    html = (evaluation / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/webp") >= 3


def test_an_example_that_leads_out_of_the_folder_is_not_shown(evaluation: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(evaluation, bad)
    write_png(tmp_path / "secret.png", np.zeros((16, 16, 3), np.uint8))
    summary = load(bad / "summary.json")
    for part in ("best", "median", "worst"):
        summary["examples"][part] = [{"pair_id": "../../../secret", "value": 1.0}]
    write_json(bad / "summary.json", summary)
    page(bad)
    assert "data:image/webp" not in (bad / "report.html").read_text(encoding="utf-8")


def test_the_judges_the_costs_and_missing_outputs_are_on_the_page(evaluation: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(evaluation, told)
    summary = load(told / "summary.json")
    cost = {
        "pictures": 10,
        "warm_up": 2,
        "size": 64,
        "added_parameters": 1066597,
        "frozen_parameters": 33000000,
        "seconds": {"denoise": {"p50": 0.0321, "p90": 0.0456}, "whole": {"p50": 0.051, "p90": 0.0612}},
        "peak_rss_mb": 812.4,
        "peak_vram_mb": 0.0,
    }
    test = {"status": "measured", "paintings": 24, "labels": 8, "same": 61.2, "other": 60.9, "gap": 0.3}
    summary |= {
        "efficiency": {"student": cost},
        "style_tests": {"palette": {**test, "low": -0.2, "high": 0.8, "discriminates": False}},
        "style_probe": {"model_type": "of another <version>"},
        "pair_list": {"pairs": 48, "sha256": "ef" * 32},
        "missing": {"student": ["c1_p1", "c1_p2"]},
        "fill50k": {
            "status": "measured",
            "examples": 32,
            "broken": {"7": "truncated <here>"},
            "methods": {"student": {"pictures": 31, "metrics": {"iou": {"value": 88.8, "low": 80.1, "high": 93.3}}}},
        },
    }
    write_json(told / "summary.json", summary)
    text = page(told).text
    assert "1,066,597 / 33,000,000" in text and "32.1 / 45.6" in text and "51.0 / 61.2" in text and "812 MB" in text
    assert "10 pictures of 64 px, one by one, after 2 that do not count" in text
    assert "gap 0.30 [−0.20, 0.80] over 24 pictures of 8 styles; it does not tell styles apart here" in text
    assert "its figures can't be read" in text and "ef" * 32 in text
    assert "student 88.8 [80.1, 93.3]" in text and "Fill50K, example 7: truncated <here>" in text
    assert "student: no output of 2 pairs, left out of every row (c1_p1, c1_p2)" in text


def test_a_comparison_shows_every_method_its_difference_and_what_was_not_compared(
    evaluation: Path, tmp_path: Path
) -> None:
    """Two evaluations' folders, the second with every palette 3 ΔE further off."""
    for name, shift in (("ours", 0.0), ("theirs", 3.0)):
        shutil.copytree(evaluation, tmp_path / name)
        lines = list(read_jsonl(evaluation / "scores.jsonl"))
        for line in lines:
            line["value"] += shift if line["metric"] == "palette" else 0.0
        write_jsonl(tmp_path / name / "scores.jsonl", lines)
    runs = {f"<{name}>": [read_run(tmp_path / name)] for name in ("ours", "theirs")}
    record = compare([], runs)
    folder = tmp_path / "compared"
    folder.mkdir()
    write_json(folder / "compare.json", record)
    reader = page(folder)
    for method in record["methods"].values():
        for score in method["metrics"].values():
            assert f"{figure(score['value'])} {between(score['low'], score['high']) or 'no interval'}" in reader.text
    gap = record["differences"]["<theirs>"]["palette"]
    assert (
        gap["corrected"]["outcome"] in ("worse", "not known")
        and f"+{figure(gap['difference']['value'])}" in reader.text
    )
    for name, why in record["unavailable"].items():
        assert f"{name}: {why}" in reader.text
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert is_offline(reader) and reader.open == [] and "<theirs>" not in html
    assert "<theirs>,minus <ours>,palette," in (folder / "tables/comparison.csv").read_text(encoding="utf-8")
