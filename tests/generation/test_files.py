"""A request to files: nothing is written over, a JSON lies beside each picture, and a file makes itself again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.generation.file_names import free_path
from bottega.generation.files import EngineOptions, Generated, generate_files
from bottega.generation.metadata import request_from
from bottega.generation.records import GeneratedPicture, GenerationRequest

OPTIONS = EngineOptions(model="bottega:miniature/weights/sdxl", device="cpu")
REQUEST = GenerationRequest(
    prompt="a (red:1.2) circle", width=64, height=64, steps=2, seed=3, count=2, sampler="euler_a", guardrails="off"
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate_files(OPTIONS, REQUEST, tmp_path_factory.mktemp("pictures") / "new folder")


def test_each_picture_has_a_json_of_its_name_with_its_own_seed(first: Generated) -> None:
    assert len(first.files) == 2
    for number, file in enumerate(first.files):
        record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        assert record["settings"]["seed"] == 3 + number
        assert record["settings"]["count"] == 1
        assert record["settings"]["prompt"] == REQUEST.prompt
        assert str(3 + number) in file.stem


def test_a_picture_makes_itself_again_to_the_byte(first: Generated, tmp_path: Path) -> None:
    again = request_from(first.files[1])
    assert again.left_out == ()
    second = generate_files(OPTIONS, again.request, tmp_path)
    assert second.files[0].read_bytes() == first.files[1].read_bytes()
    assert second.files[0].with_suffix(".json").read_bytes() == first.files[1].with_suffix(".json").read_bytes()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    picture = GeneratedPicture(0, 3, "")
    taken = free_path(tmp_path, "a red circle", picture)
    taken.write_bytes(b"somebody's picture")
    second = free_path(tmp_path, "a red circle", picture)
    second.with_suffix(".json").write_text("somebody's record", encoding="utf-8")
    third = free_path(tmp_path, "a red circle", picture)
    assert len({taken, second, third}) == 3
    assert free_path(tmp_path, "a red circle", GeneratedPicture(0, 4, "")) not in (taken, second, third)
