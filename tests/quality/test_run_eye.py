"""What a whole run shows: planted errors of every picture are named, and runs without one are left in peace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import numpy as np
import pytest

from bottega.miniature.builder.eye import drawn_truth
from bottega.quality.damage import Subject
from bottega.quality.eye.cells import measure_cells
from bottega.quality.eye.tones import tone_scores
from bottega.quality.eye.training.examples import made_up
from bottega.quality.run_eye import ENOUGH, RunEye, RunRow, lower_share, upper_share
from bottega.visual.pictures import Picture

COUNT = 100  # pictures of a run: an error is to be named within so many
SIDE = 128
Spoil = Callable[[Picture], Picture]


@cache
def subjects(world: str) -> tuple[Subject, ...]:
    if world == "drawn":
        return tuple(drawn_truth(9_000 + index, SIDE).subject for index in range(COUNT))
    return tuple(made_up(6_000_000 + index, SIDE).subject for index in range(COUNT))


def run_of(world: str, spoil: Spoil) -> RunEye:
    eye = RunEye()
    for index, subject in enumerate(subjects(world)):
        cells = [measure_cells(one) for one in (spoil(subject.good), subject.content, subject.style)]
        eye.add(RunRow("style", "A", (), tone_scores(*cells), output(index)))
    return eye


def output(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def rows(letters: Iterable[str], scores: Mapping[str, float] | None = None, style: str = "wash") -> list[RunRow]:
    return [RunRow(style, letter, (), scores or {}, None) for letter in letters]


def keys(eye: RunEye) -> set[str]:
    return {finding.key.strip() for finding in eye.findings()}


def swapped(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[..., ::-1])


def inverted(picture: Picture) -> Picture:
    return np.asarray(255 - picture, np.uint8)


def greenish(picture: Picture) -> Picture:
    return np.asarray(np.clip(picture * np.array([0.8, 1.1, 0.85]), 0, 255), np.uint8)


@pytest.mark.parametrize("world", ["drawn", "made up"])
def test_a_run_without_a_shared_fault_has_no_finding(world: str) -> None:
    assert keys(run_of(world, np.ascontiguousarray)) == set()


@pytest.mark.parametrize("world", ["drawn", "made up"])
@pytest.mark.parametrize(
    ("spoil", "key"),
    [(swapped, "bgr"), (inverted, "opposite light_follows"), (greenish, "cast a_shift")],
)
def test_an_error_of_every_picture_is_named(world: str, spoil: Spoil, key: str) -> None:
    assert key in keys(run_of(world, spoil))


def test_few_pictures_say_nothing() -> None:
    eye = RunEye()
    for row in rows("C" * (ENOUGH - 1)):
        eye.add(row)
    assert eye.findings() == []


def test_a_style_that_is_lost_is_named_and_the_others_are_not() -> None:
    eye = RunEye()
    for number in range(100):
        eye.add(RunRow(("wash", "ink", "oil", "dots")[number % 4], "C" if number % 4 == 1 else "A", (), {}, None))
    assert keys(eye) == {"style ink"}
    assert "25 of its 25" in eye.findings()[0].text


def test_a_run_that_loses_all_styles_alike_names_no_style() -> None:
    eye = RunEye()
    for number in range(100):
        eye.add(RunRow(("wash", "ink")[number % 2], "C" if number % 3 else "A", ("noise",), {}, None))
    assert keys(eye) == {"check noise"}


def test_a_check_that_rejects_51_of_60_is_named() -> None:
    eye = RunEye()
    for number in range(60):
        is_rejected = number >= 9
        eye.add(RunRow(str(number), "C" if is_rejected else "A", ("mesh",) if is_rejected else (), {}, None))
    found = [finding for finding in eye.findings() if finding.kind == "check"]
    assert [finding.subject for finding in found] == ["mesh"]
    assert "51 of 60" in found[0].text


def test_a_check_that_rejects_a_tenth_is_not_named() -> None:
    eye = RunEye()
    for number in range(200):
        is_rejected = number % 10 == 0
        eye.add(RunRow(str(number), "C" if is_rejected else "A", ("mesh",) if is_rejected else (), {}, None))
    assert keys(eye) == set()


def test_a_run_that_gets_worse_on_its_way_drifts() -> None:
    eye = RunEye()
    for number in range(120):
        eye.add(RunRow(str(number), "C" if number > 80 and number % 2 else "A", (), {}, None))
    assert keys(eye) == {"drift"}


def test_a_run_that_is_bad_from_the_beginning_does_not_drift() -> None:
    eye = RunEye()
    for number in range(120):
        eye.add(RunRow(str(number), "C" if number % 2 else "A", (), {}, None))
    assert keys(eye) == set()


def test_pictures_of_one_mean_colour_are_named() -> None:
    eye = RunEye()
    for row in rows("A" * 40, {"mean_light": 120.0, "mean_a": 128.0, "mean_b": 130.0}):
        eye.add(row)
    assert keys(eye) == {"one_mean"}


def test_pictures_that_are_equal_byte_for_byte_are_counted() -> None:
    eye = RunEye()
    for number in range(40):
        eye.add(RunRow("wash", "A", (), {}, output(number // 2)))
    found = eye.findings()
    assert [finding.kind for finding in found] == ["copies"]
    assert "20 of 40" in found[0].text


def test_a_share_of_few_speaks_for_less_than_one_of_many() -> None:
    assert lower_share(9, 10) < lower_share(900, 1000) < 0.9 < upper_share(900, 1000) < upper_share(9, 10)
