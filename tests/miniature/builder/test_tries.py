"""A real teacher's tries: drawn, measured and kept as examples, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bottega.miniature.builder import tries
from bottega.miniature.builder.eye import NearestTruth
from bottega.miniature.world import painter, render, scene
from bottega.quality.eye.training.examples import TRY
from bottega.quality.eye.training.store import ExampleStore
from bottega.teacher.generator import Generator
from bottega.teacher.items import Settings
from bottega.visual.pictures import Picture


@pytest.fixture(scope="module")
def teacher() -> Generator:
    return tries.shipped_teacher()


def test_tries_are_the_same_each_time_and_lie_away_from_the_truth(
    teacher: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "STRETCH", tries.TOGETHER)
    weights = {name: value.clone() for name, value in teacher.pipeline.unet.state_dict().items()}
    first = list(tries.teacher_tries(teacher, 0, 8))
    again = list(tries.teacher_tries(teacher, 0, 8))
    assert [made.number for made in first] == list(range(8))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert one.distance == other.distance > 1
    # A spoiled teacher draws otherwise, and the weights come back.
    spoiled = next(iter(tries.teacher_tries(teacher, 16, 8)))
    assert spoiled.spoiled == tries.SPOILED[2] > 0
    for name, value in teacher.pipeline.unet.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_shards_of_tries_hold_how_surely_each_is_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tries, "STRETCH", tries.TOGETHER)
    [path] = tries.make_try_shards(tmp_path, 5)
    store = ExampleStore.load(path)
    assert len(store) == 8
    assert set(store.family) == {TRY}
    expected = np.clip((store.distance - tries.NEAR) / (tries.FAR - tries.NEAR), 0, 1)
    assert np.allclose(store.severity, expected, atol=1e-6)
    written = path.stat().st_mtime_ns
    assert tries.make_try_shards(tmp_path, 5) == [path]
    assert path.stat().st_mtime_ns == written


def test_what_a_try_lost_is_read_from_its_picture() -> None:
    settings = Settings(12, 0.4, 1.0, 1.0)
    view, by = scene(3 * 7), painter(7)
    content = render(view, None, size=tries.SIDE)
    truth = render(view, by, 0, size=tries.SIDE)
    bare = render(replace(view, objects=()), by, 0, size=tries.SIDE)
    stranger = next(number for number in range(8, 30) if painter(number).kind != by.kind)
    other = render(view, painter(stranger), 0, size=tries.SIDE)

    def made(picture: Picture, distance: float) -> tries.TeacherTry:
        return tries.TeacherTry(7, content, truth, picture, by.kind, distance, settings, 0.0)

    rows = [made(truth, 1.0), made(bare, 6.0), made(other, 6.0), made(other, 4.0), made(bare, 2.0)]
    assert tries.LossReader()(rows) == ["", "objects", "style", "", ""]  # so near the truth the reader is wrong


def test_the_nearest_truth_is_never_the_picture_itself() -> None:
    view, by = scene(5), painter(2)
    truths = [render(view, by, seed, size=128) for seed in range(3)]
    distance = NearestTruth(truths)
    of_a_truth = distance(truths[0])
    assert 0 < of_a_truth < 3
    assert distance(render(view, None, size=128)) > of_a_truth + 1
    larger = render(view, by, 7, size=256)
    assert distance(larger) < 3
    assert NearestTruth(truths[1:])(truths[0]) == of_a_truth
