"""Runs side by side: which trainings are one method, which pairs count, and who wins."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bottega.evaluation.compare import compare, markdown, write
from bottega.evaluation.factors import crossed_seeds_difference
from bottega.evaluation.runs import matched_seeds, methods, read_run
from bottega.runtime.errors import DamagedError, MissingError, RequestError
from bottega.runtime.files import write_json, write_jsonl, write_text
from bottega.runtime.trust import seal

CONTENTS, STYLES = 8, 6


def made_up(
    folder: Path,
    scores: Mapping[str, np.ndarray],
    *,
    seed: int | None = 0,
    strength: float = 0.6,
    row: str = "student",
    changed: str = "",
    size: int = 128,
    network: str = "a",
    listed: bool = True,
) -> Path:
    """A run directory with an evaluation of these scores, [C, S] by metric; NaN where there is none.

    changed: a content whose picture is another one than in the other runs.
    """
    evaluation = folder / "evaluation"
    evaluation.mkdir(parents=True, exist_ok=True)
    lines, pairs = [], {}
    for metric, values in scores.items():
        for (c, s), value in np.ndenumerate(values):
            if np.isnan(value):
                continue
            pair_id = f"c{c}_s{s}"
            lines.append({"pair_id": pair_id, "row": row, "metric": metric, "value": float(value), "sha256": ""})
            pairs[pair_id] = {
                "pair_id": pair_id,
                "content_id": f"c{c}",
                "style_id": f"s{s}",
                "style": "x",
                "prompt": "p",
                "content_sha256": f"c{c}{'other' if changed == f'c{c}' else ''}",
                "style_sha256": f"s{s}",
            }
    write_jsonl(evaluation / "scores.jsonl", lines)
    if listed:
        write_jsonl(evaluation / "pairs.jsonl", pairs.values())
    write_json(evaluation / "summary.json", {"size": size, "networks": {"clip": network}, "pairs": len(pairs)})
    if seed is not None:
        write_text(
            folder / "recipe.yaml",
            f"name: {folder.name}\nseed: 0\nstudent: {{seed: {seed}, strength: {strength}, loop: {{seed: {seed}}}}}\n",
        )
    return folder


def palettes(rng: np.random.Generator, gap: float = 0.0) -> dict[str, np.ndarray]:
    """Scores of one training: contents and styles as in every other, a residual of its own."""
    shared = np.random.default_rng(0)
    base = 20 + shared.normal(0, 2, (CONTENTS, 1)) + shared.normal(0, 2, (1, STYLES))
    return {"palette": base + gap + rng.normal(0, 0.2) + rng.normal(0, 0.3, (CONTENTS, STYLES))}


@pytest.fixture
def six(tmp_path: Path) -> list[Path]:
    """Two recipes, each trained with three seeds; the second's palette is nearer by 5."""
    rng = np.random.default_rng(1)
    runs = [made_up(tmp_path / f"plain-seed{k}", palettes(rng), seed=k) for k in range(3)]
    return runs + [made_up(tmp_path / f"better-seed{k}", palettes(rng, -5), seed=k, strength=0.5) for k in range(3)]


def test_runs_that_differ_in_seeds_alone_are_trainings_of_one_method(six: list[Path]) -> None:
    found = methods([read_run(path) for path in six])
    assert [(method.name, method.seeds) for method in found] == [("plain", [0, 1, 2]), ("better", [0, 1, 2])]


def test_evaluations_of_an_ablation_are_known_by_variant_and_seed(six: list[Path], tmp_path: Path) -> None:
    for path in six:
        variant, seed = path.name.split("-")
        trained = tmp_path / "ablation" / "trained" / variant / seed
        trained.mkdir(parents=True)
        shutil.copy(path / "recipe.yaml", trained)
        shutil.copytree(path / "evaluation", tmp_path / "ablation" / "evaluated" / variant / seed)
    evaluated = sorted((tmp_path / "ablation" / "evaluated").glob("*/*"))
    found = methods([read_run(path) for path in evaluated])
    assert [(method.name, method.seeds) for method in found] == [("better", [0, 1, 2]), ("plain", [0, 1, 2])]


def test_the_difference_is_that_of_the_cube_of_contents_styles_and_seeds(six: list[Path]) -> None:
    comparison = compare([read_run(path) for path in six])
    cubes = []
    for group in (six[:3], six[3:]):
        trainings = []
        for path in group:
            values = np.zeros((CONTENTS, STYLES))
            for line in map(json.loads, (path / "evaluation" / "scores.jsonl").read_text().splitlines()):
                content, style = line["pair_id"].split("_")
                values[int(content[1:]), int(style[1:])] = line["value"]
            trainings.append(values)
        cubes.append(np.stack(trainings, -1))
    expected = crossed_seeds_difference(cubes[1], cubes[0])
    gap = comparison["differences"]["better"]["palette"]
    assert gap["difference"]["value"] == pytest.approx(expected.value)
    assert (gap["difference"]["low"], gap["difference"]["high"]) == pytest.approx((expected.low, expected.high))
    assert gap["difference"]["seeds"] == 3 and gap["corrected"]["outcome"] == "better"
    assert comparison["first"] == "plain" and comparison["notes"] == []
    assert comparison["pairs"] == CONTENTS * STYLES
    variances = comparison["methods"]["plain"]["metrics"]["palette"]["variances"]
    assert variances["seed"] is not None and variances["content"] is not None


def test_equal_methods_are_inconclusive_with_what_cannot_be_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    one = read_run(made_up(tmp_path / "one", palettes(rng)))
    other = read_run(made_up(tmp_path / "other", palettes(rng), strength=0.1))
    comparison = compare([one, other])
    gap = comparison["differences"]["other"]["palette"]["corrected"]
    assert gap["outcome"] == "inconclusive"
    text = markdown(comparison)
    assert gap["verdict"] in text and "cannot be seen with this design" in text
    assert "one training only" in text
    assert "**" not in text


def test_files_say_the_same_as_the_record(six: list[Path], tmp_path: Path) -> None:
    comparison = compare([read_run(path) for path in six])
    write(comparison, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == json.loads(json.dumps(comparison))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert [(row["method"], row["metric"], row["outcome"]) for row in rows] == [
        ("plain", "palette", ""),
        ("better", "palette", "better"),
    ]
    gap = comparison["differences"]["better"]["palette"]
    assert float(rows[1]["difference"]) == gap["difference"]["value"]
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| palette ↓ (ΔE) |" in text and "** better" in text and "plain (3 trainings)" in text


def test_only_pairs_that_all_have_count_for_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    fewer = palettes(rng)
    fewer["palette"][7] = np.nan
    one = read_run(made_up(tmp_path / "one", palettes(rng)))
    other = read_run(made_up(tmp_path / "other", fewer, strength=0.1))
    comparison = compare([one, other])
    assert comparison["pairs"] == (CONTENTS - 1) * STYLES
    assert {method["metrics"]["palette"]["n"] for method in comparison["methods"].values()} == {comparison["pairs"]}
    assert any("one have more" in note for note in comparison["notes"])


def test_a_pair_of_the_same_name_and_another_picture_is_another_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one = made_up(tmp_path / "one", palettes(rng))
    other = made_up(tmp_path / "other", palettes(rng), strength=0.1, changed="c2")
    assert compare([read_run(one), read_run(other)])["contents"] == CONTENTS - 1
    (other / "evaluation" / "pairs.jsonl").unlink()
    by_id = compare([read_run(one), read_run(other)])
    assert by_id["contents"] == CONTENTS
    assert any("not by the pictures' hashes" in note for note in by_id["notes"])


def test_other_networks_or_sizes_are_not_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    scores = palettes(rng)
    scores["text"] = scores["palette"]
    one = read_run(made_up(tmp_path / "one", scores))
    comparison = compare([one, read_run(made_up(tmp_path / "other", scores, strength=0.1, network="b"))])
    assert list(comparison["differences"]["other"]) == ["palette"]
    assert comparison["unavailable"] == {"text": "judged by different networks: clip"}
    assert "CLIPScore: not compared" in markdown(comparison)
    with pytest.raises(RequestError, match="one at 128, big at 256"):
        compare([one, read_run(made_up(tmp_path / "big", scores, strength=0.1, size=256))])


def test_methods_can_be_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    folders = [made_up(tmp_path / f"r{k}", palettes(rng), seed=None) for k in range(4)]
    a, b, c, d = (read_run(path) for path in folders)
    comparison = compare([], {"first": [a, b], "second": [c, d]})
    assert comparison["methods"]["second"]["seeds"] == [0, 1]
    assert comparison["differences"]["second"]["palette"]["difference"]["seeds"] == 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], [(0, 0), (1, 1), (2, 2)]),
        ([2, 0, 1], [0, 2], [(1, 0), (0, 1)]),
        ([0, 1], [1, 5, 3], [(1, 0), (0, 2)]),
        ([4], [7], [(0, 0)]),
    ],
)
def test_equal_seeds_are_paired_and_the_rest_in_order(
    first: list[int], second: list[int], expected: list[tuple[int, int]]
) -> None:
    assert matched_seeds(first, second) == expected


def test_what_cannot_be_compared_is_refused_with_the_reason(six: list[Path], tmp_path: Path) -> None:
    runs = [read_run(path) for path in six]
    with pytest.raises(RequestError, match=r"two methods, received one.*--method"):
        compare(runs[:3])
    with pytest.raises(RequestError, match=r"must differ in student.seed.*plain-seed0 \(student.seed 0\)"):
        compare([runs[0], runs[0], runs[3]])
    with pytest.raises(RequestError, match="no scores of the row 'teacher'; it has student"):
        compare(runs, row="teacher")
    shifted = {"palette": np.full((CONTENTS + 2, STYLES), np.nan)}
    shifted["palette"][CONTENTS:] = 1.0
    with pytest.raises(RequestError, match="share none"):
        compare([runs[0], read_run(made_up(tmp_path / "elsewhere", shifted, strength=0.1))])
    with pytest.raises(MissingError, match=r"no evaluation in .*run bottega evaluate"):
        read_run(tmp_path)


def test_damaged_scores_are_refused(six: list[Path]) -> None:
    file = six[0] / "evaluation" / "scores.jsonl"
    seal(file.parent, {file: "result"})
    text = file.read_text()
    write_text(file, text.replace('"value": 1', '"value": 2', 1) if '"value": 1' in text else text[:-40])
    with pytest.raises(DamagedError):
        read_run(six[0])
