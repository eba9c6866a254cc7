"""Pictures on disk get the scores that they get in memory, one row each, however they are broken or stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottega.cli.main import main
from bottega.quality import scan as module
from bottega.quality import scorer
from bottega.quality.config import Thresholds
from bottega.quality.grading import grade
from bottega.quality.measuring import Judge, measure
from bottega.quality.scan import ClipScorer, jobs_of_pairs, scan
from bottega.quality.scorer import Job, Scorer, fitted
from bottega.runtime.errors import Interrupted, MissingError, RequestError

from .conftest import Triple, plain_encoder

LIMITS = Thresholds(edge_64_c=0.0, edge_128_c=0.0)


@pytest.fixture
def world(tmp_path: Path, triples: list[Triple]) -> Path:
    """Six triples on disk: contents, styles, targets of two seeds, and their pair list."""
    rows = []
    for i, one in enumerate(triples[:6]):
        pair = {"pair_id": f"c{i}_s{i}", "content_id": f"c{i}", "style_id": f"s{i}", "prompt": "a circle"}
        rows.append({**pair, "content_path": f"contents/c{i}.png", "style_path": f"styles/s{i}.png"})
        named = {rows[-1]["content_path"]: one.content, rows[-1]["style_path"]: one.style}
        named |= {f"targets/c{i}_s{i}_seed{seed}.png": one.truth for seed in (0, 1)}
        for name, picture in named.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def jobs(world: Path) -> list[Job]:
    return jobs_of_pairs([world / "pairs.jsonl"], world, [world / "targets"])


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_picture_on_disk_has_the_scores_and_grade_that_it_has_in_memory(
    world: Path, triples: list[Triple], processes: int
) -> None:
    told = scan(jobs(world), LIMITS, world / "scores.jsonl", processes=processes)
    rows = written(world / "scores.jsonl")
    assert [row["file_name"] for row in rows] == [f"c{i}_s{i}_seed{seed}.png" for i in range(6) for seed in (0, 1)]
    for row, one in zip(rows, (t for t in triples[:6] for _ in range(2)), strict=True):
        scores = measure(one.truth, one.content, one.style, encoder=None)
        assert row["scores"] == scores
        assert (row["grade"], row["reasons"]) == (grade(scores, LIMITS).letter, grade(scores, LIMITS).reasons)
    assert told["pictures"] == sum(told["grades"].values()) == 12
    assert not (world / "scores.jsonl.part").exists()


def test_similarities_are_those_of_the_judge(world: Path, triples: list[Triple]) -> None:
    scan(jobs(world), LIMITS, world / "scores.jsonl", encoder=plain_encoder)
    for row, one in zip(written(world / "scores.jsonl")[::2], triples[:6], strict=True):
        expected = Judge(plain_encoder).measure([one.truth], [one.content], [one.style])[0]
        assert row["scores"].keys() == expected.keys()
        assert max(abs(row["scores"][name] - expected[name]) for name in expected) <= 1e-6


def test_what_cannot_be_read_is_a_row_with_its_reason_and_the_rest_goes_on(world: Path) -> None:
    work = jobs(world)
    Path(work[0].picture).write_bytes(Path(work[1].picture).read_bytes()[:2000])
    Path(work[2].picture).write_bytes(b"no picture")
    (world / "contents/c2.png").unlink()
    Image.new("RGB", (12, 40)).save(work[6].picture)
    told = scan(work, LIMITS, world / "scores.jsonl", encoder=plain_encoder)
    rows = written(world / "scores.jsonl")
    assert len(rows) == 12
    assert told["unreadable"] == 5
    for number, word in ((0, "truncated"), (2, "broken"), (4, "missing"), (5, "missing"), (6, "16 px")):
        assert rows[number]["grade"] == "C"
        assert rows[number]["scores"] == {}
        assert rows[number]["reasons"][0].startswith("unreadable: ")
        assert word in rows[number]["reasons"][0]
    assert all(rows[number]["scores"]["finite"] == 1 for number in (1, 3, 7, 8, 9, 10, 11))


@pytest.mark.parametrize("size", [(96, 96), (160, 160), (150, 90), (64, 200)])
def test_a_picture_of_another_size_is_judged_against_the_content_brought_to_it(
    world: Path, size: tuple[int, int]
) -> None:
    picture = fitted(str(world / "contents/c0.png"), size)
    assert picture.shape == (size[1], size[0], 3)
    Image.fromarray(picture).save(world / "copy.png")
    job = Job("copy", str(world / "copy.png"), str(world / "contents/c0.png"), str(world / "styles/s0.png"))
    scores = Scorer().judge(job).scores
    assert scores["change"] == 0.0  # the content itself, cut and scaled alike
    assert scores["edge_64"] == pytest.approx(1, abs=1e-5)
    if size[0] == size[1]:
        with Image.open(world / "contents/c0.png") as content:
            assert np.array_equal(picture, np.asarray(content.resize(size, Image.Resampling.LANCZOS)))


def test_contents_and_styles_are_decoded_once_and_forgotten_when_they_take_too_much(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(path: str, size: tuple[int, int]) -> np.ndarray:
        opened.append(path)
        return fitted(path, size)

    monkeypatch.setattr(scorer, "fitted", counted)
    large = Scorer()
    whole = [large.judge(job).scores for job in jobs(world) * 2]
    assert len(opened) == 12
    opened.clear()
    small = Scorer(kept_bytes=4 * fitted(jobs(world)[0].content, (128, 128)).nbytes)
    assert [small.judge(job).scores for job in jobs(world) * 2] == whole
    assert len(opened) == 24  # the last two are kept with what the eye keeps of them, which a pair's two seeds share
    opened.clear()
    assert [Scorer(kept_bytes=1).judge(job).scores for job in jobs(world) * 2] == whole  # none fits


def test_a_stopped_scan_goes_on_where_it_was_and_ends_the_same(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    scan(jobs(world), LIMITS, world / "whole.jsonl")
    judge: Callable[..., Any] = Scorer.judge
    seen: list[str] = []

    def interrupted(self: Scorer, job: Job, **options: Any) -> Any:
        seen.append(job.name)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, job, **options)

    monkeypatch.setattr(Scorer, "judge", interrupted)
    with pytest.raises(Interrupted):
        scan(jobs(world), LIMITS, world / "scores.jsonl")
    assert not (world / "scores.jsonl").exists()
    assert len(seen) == 6  # the chunk in hand was finished
    scan(jobs(world), LIMITS, world / "scores.jsonl")
    assert len(seen) == 12
    assert (world / "scores.jsonl").read_bytes() == (world / "whole.jsonl").read_bytes()


def test_pictures_of_one_content_go_to_one_worker_as_long_as_they_are_not_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 4)
    work = [Job(f"{i}", f"p{i}", f"c{i // 3}" if i < 12 else "c9", "s") for i in range(35)]
    chunks = list(module._chunks(work, 1))
    assert [job for chunk in chunks for job in chunk] == work
    assert [len(chunk) for chunk in chunks] == [6, 6, 16, 7]
    assert list(module._chunks([], 1)) == []


def test_chunks_get_smaller_towards_the_end() -> None:
    work = [Job(f"{i}", f"p{i}", f"c{i}", "s") for i in range(400)]
    sizes = [len(chunk) for chunk in module._chunks(work, 2)]
    assert sum(sizes) == 400
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-2]) == (16, 4)


def test_a_part_of_another_request_is_not_gone_on_with(world: Path) -> None:
    (world / "scores.jsonl.part").write_text('{"request": "another"}\n{"file_name": "x"}\n')
    assert scan(jobs(world), LIMITS, world / "scores.jsonl")["pictures"] == 12
    assert len(written(world / "scores.jsonl")) == 12


def test_names_that_match_no_pair_and_absent_folders_are_refused_in_one_line(world: Path) -> None:
    with pytest.raises(MissingError, match="no folder"):
        jobs_of_pairs([world / "pairs.jsonl"], world, [world / "nowhere"])
    (world / "empty").mkdir()
    with pytest.raises(MissingError, match="no picture"):
        jobs_of_pairs([world / "pairs.jsonl"], world, [world / "empty"])
    (world / "targets/c9_s9_seed0.png").write_bytes(b"")
    (world / "targets/holiday.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match=r"2 of 14 match no pair of the lists, c9_s9_seed0\.png"):
        jobs(world)


def test_the_command_scores_a_folder_and_answers_wrong_requests_with_2(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["qc", "score", "--data-root", str(world), "--output", str(world / "out.jsonl"), "--processes", "1"]
    found = ["--pairs", str(world / "pairs.jsonl"), "--targets", str(world / "targets")]
    assert main([*words, *found]) == 0
    assert "12 pictures" in capsys.readouterr().out
    assert len(written(world / "out.jsonl")) == 12
    assert main(words) == 2
    assert main([*words, *found[:3], str(world / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_pictures_of_several_sizes_are_encoded_a_size_at_a_time_and_stay_in_their_order() -> None:
    sizes = [8, 16, 8, 4, 16, 4, 8]
    pictures = [np.full((side, side, 3), number, np.uint8) for number, side in enumerate(sizes)]
    calls = []

    def encoder(batch):
        calls.append(batch.shape)
        return batch.reshape(len(batch), -1)[:, :2].astype(np.float32)

    vectors = ClipScorer(encoder)._encode(pictures)
    assert [int(vector[0]) for vector in vectors] == list(range(len(sizes)))
    assert sorted(calls) == [(2, 4, 4, 3), (2, 16, 16, 3), (3, 8, 8, 3)]
