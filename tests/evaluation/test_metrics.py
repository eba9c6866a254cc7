"""What networks say, turned into scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.data.pictures import load_square
from bottega.evaluation.metrics import (
    METRICS,
    load_label_map,
    object_overlap,
    read_label_names,
    same_classes,
    structure_distance,
    text_scores,
)


def test_the_text_score_is_the_plain_cosine_times_100() -> None:
    """No factor 2.5 and no clamp at 0: the definition of style papers, not of Hessel et al."""
    images = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    texts = np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32)
    assert text_scores(images, texts) == pytest.approx([-100, 60])


def test_the_structure_distance_is_the_mean_squared_gap_of_self_similarities() -> None:
    one = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    two = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert structure_distance(one, two) == pytest.approx(500)  # two of four cosines differ by 1
    assert structure_distance(one, one) == 0


def test_the_structure_distance_does_not_see_a_turn_of_the_feature_space() -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(9, 4)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert structure_distance(keys, (keys @ turn).astype(np.float32)) < 1e-6


def test_an_object_half_covered_has_its_iou() -> None:
    labels, read = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    labels[:4, :4], read[:4, :2] = 7, 3  # 16 pixels, of which 8 are read as class 3, the reader's name for 7
    assert object_overlap(read, labels, {7: 3}, floor=0.01) == [0.5]


def test_a_class_below_the_floor_or_unknown_to_the_reader_is_no_object() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[0, 0], labels[5:, :] = 1, 2
    assert object_overlap(labels, labels, {1: 1}, floor=0.05) == []
    assert object_overlap(labels, labels, {2: 2}, floor=0.05) == [1.0]


def test_classes_meet_by_name_and_background_is_no_thing() -> None:
    assert same_classes({0: "unlabeled", 1: "Traffic_Light", 5: "zebra"}, ["background", "tree", "traffic light"]) == {
        1: 2
    }
    assert same_classes({0: "background"}, ["background"]) == {}


def test_label_names_are_read_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0: unlabeled\n12: stop sign\nnot a line\n")
    assert read_label_names(tmp_path / "labels.txt") == {0: "unlabeled", 12: "stop sign"}


@pytest.mark.parametrize("size", [(40, 40), (80, 40), (40, 90), (160, 120)])
def test_a_label_map_is_cut_as_its_picture_is(tmp_path: Path, size: tuple[int, int]) -> None:
    """Class borders stay where the colours change, whatever the shape of the picture."""
    labels = np.zeros(size[::-1], np.uint8)
    labels[: size[1] // 2, size[0] // 3 :] = 200
    Image.fromarray(labels).save(tmp_path / "map.png")
    Image.fromarray(labels).convert("RGB").save(tmp_path / "picture.png")
    cut, picture = load_label_map(tmp_path / "map.png", 40), load_square(tmp_path / "picture.png", 40)
    assert cut.shape == (40, 40)
    assert set(np.unique(cut)) <= {0, 200}
    assert ((cut == 200) == (picture[..., 0] > 100)).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("objects_found", (0.0, 100.0)),
        ("kind_gain", (-100.0, 100.0)),
        ("dino", (-100.0, 100.0)),
        ("truth", (0.0, math.inf)),
    ],
)
def test_a_metric_knows_what_its_value_can_be(name: str, bounds: tuple[float, float]) -> None:
    assert METRICS[name].bounds == bounds
