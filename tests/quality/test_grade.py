"""Every check has a picture that must fail it and one that must pass; grades derive from scores alone."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from bottega.quality.config import EYE_OFF, Thresholds
from bottega.quality.damage import FAMILIES, Subject
from bottega.quality.faults import inject
from bottega.quality.grading import CHECK_NAMES, CHECKS, Grader, alarms, grade, pass_rates
from bottega.quality.measuring import measure

from .conftest import Triple, plain_encoder

LIMITS = Thresholds(content_sim_c=0.05, content_sim_a=0.1, edge_64_c=0.25, edge_128_c=0.15, distance_c=3.5)
INJECTED = {
    "clipped": "clipped",
    "washed": "washed",
    "structure": "scrambled",
    "mesh": "mesh",
    "noise": "colour_noise",
    "blocking": "blocks",
    "ghosting": "ghosting",
}


def damage(kind: str, one: Triple) -> np.ndarray:
    size = one.truth.shape[0]
    if kind == "black":
        return np.zeros_like(one.truth)
    if kind == "constant":
        return np.full_like(one.truth, 130)
    if kind == "vivid":
        vivid = np.zeros_like(one.truth)
        vivid[..., 0], vivid[..., 2] = one.truth[..., 0] // 8, 235
        return vivid
    if kind in ("edge_64", "edge_128"):
        tiles = one.truth.reshape(8, 16, 8, 16, 3).transpose(0, 2, 1, 3, 4).reshape(64, 16, 16, 3)
        tiles = tiles[np.random.default_rng(1).permutation(64)]
        return tiles.reshape(8, 8, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(size, size, 3).copy()
    if kind == "blur":
        return cv2.GaussianBlur(one.truth, (0, 0), size / 8)
    if kind == "frequency":
        mesh = (np.indices((size, size)) // 2).sum(0) % 2 * 255  # a half-tone mesh of 2 px
        return np.repeat(mesh[..., None], 3, axis=2).astype(np.uint8)
    if kind in ("content", "distance"):
        return 255 - one.content
    if kind == "damage":
        family = FAMILIES["hole"]  # no detector knows it
        subject = Subject(one.truth, one.content, one.style, one.style)
        return family.apply(subject, family.strength(1.0), np.random.default_rng(2))
    if kind in INJECTED:
        return inject(INJECTED[kind], "severe", Subject(one.truth, one.content, one.style, one.style), 0)
    return one.content  # unchanged


@pytest.mark.parametrize("kind", [name for name in CHECK_NAMES if name != "finite"])
def test_each_check_fails_its_known_bad_picture_and_passes_the_truth(kind: str, triples: list[Triple]) -> None:
    caught = passed = 0
    for one in triples[:12]:
        bad = grade(measure(damage(kind, one), one.content, one.style, encoder=plain_encoder), LIMITS)
        good = grade(measure(one.truth, one.content, one.style, encoder=plain_encoder), LIMITS)
        caught += kind in bad.causes and bad.letter == "C"
        passed += kind not in good.causes or good.letter != "C"
    assert caught >= (12 if kind in ("black", "constant", "unchanged", "washed", "mesh", "noise") else 9)
    assert passed >= 11


def test_finite_is_tested_first_and_nan_never_passes_a_comparison() -> None:
    assert grade({"finite": 0.5}, Thresholds()).causes == ["finite"]
    assert grade({}, Thresholds()).letter == "C"
    assert grade({"finite": float("nan")}, Thresholds()).letter == "C"
    sound = dict.fromkeys(("edge_64", "edge_128", "content_sim"), 0.9)
    scores = {"finite": 1.0, "bright": 0.9, "spread": 0.2, "hf_ratio": 1.0, "change": 0.2, "style_gain": 0.1, **sound}
    assert grade(scores, Thresholds()).letter == "A"
    for name in scores:
        assert grade({**scores, name: float("nan")}, Thresholds()).letter == "C", name


def test_letters_follow_the_published_limits_at_the_border() -> None:
    scores = {"finite": 1.0, "bright": 0.9, "spread": 0.2, "hf_ratio": 1.0, "change": 0.2, "style_gain": 0.1}
    scores |= {"edge_64": 0.25, "edge_128": 0.25, "content_sim": 0.34}
    assert grade(scores, Thresholds()).letter == "A"
    assert grade({**scores, "edge_64": 0.249}, Thresholds()).letter == "B"
    assert grade({**scores, "content_sim": 0.30}, Thresholds()).letter == "B"
    assert grade({**scores, "content_sim": 0.299}, Thresholds()).letter == "C"
    assert grade({**scores, "edge_128": 0.199}, Thresholds()).letter == "C"
    assert grade({**scores, "hf_ratio": 2.51}, Thresholds()).letter == "C"
    assert [grade({**scores, "edge_64": v}, Thresholds()).weight for v in (0.3, 0.22, 0.1)] == [1.0, 0.5, 0.0]


def test_a_score_that_was_not_measured_caps_the_grade_at_b_and_says_so() -> None:
    scores = {
        "finite": 1.0,
        "bright": 0.9,
        "spread": 0.2,
        "hf_ratio": 1.0,
        "change": 0.2,
        "edge_64": 0.9,
        "edge_128": 0.9,
    }
    given = grade(scores, Thresholds())
    assert given.letter == "B"
    assert given.reasons == ["content_sim: not measured"]


def test_grades_survive_the_way_through_json(triples: list[Triple]) -> None:
    for one in triples[:8]:
        scores = measure(one.truth, one.content, one.style, encoder=plain_encoder)
        assert grade(json.loads(json.dumps(scores)), LIMITS) == grade(scores, LIMITS)


def test_a_check_that_rejects_all_or_nothing_raises_its_voice(triples: list[Triple]) -> None:
    scores = [measure(t.truth, t.content, t.style, encoder=None) for t in triples[:24]]
    impossible = LIMITS.model_copy(update={"change_min": 1.0})
    words = alarms(pass_rates(scores, impossible), len(scores))
    assert any("unchanged rejects every one" in w for w in words)
    assert any("rejected none" in w and "black" in w for w in words)


def test_limits_in_the_wrong_order_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="edge_64_a"):
        Thresholds(edge_64_c=0.5)
    with pytest.raises(ValidationError, match="hf_ratio_min"):
        Thresholds(hf_ratio_min=3.0)


def test_no_style_gained_is_a_doubt_and_no_more() -> None:
    scores = {"finite": 1.0, "bright": 0.9, "spread": 0.2, "hf_ratio": 1.0, "change": 0.2, "style_gain": -0.1}
    scores |= dict.fromkeys(("edge_64", "edge_128", "content_sim"), 0.9)
    given = grade(scores, Thresholds())
    assert given.letter == "B"
    assert given.causes == ["style"]


def test_the_latents_say_why_a_picture_is_black_or_not_finite_and_decide_nothing() -> None:
    black = {"finite": 1.0, "bright": 0.0}
    for scores in (black, {"finite": 0.4}):
        plain = grade(scores, Thresholds())
        assert "latents" not in plain.reasons[0]
        for share, words in ((1.0, "were finite: the autoencoder overflowed"), (0.2, "were not finite")):
            told = grade({**scores, "latents_finite": share}, Thresholds())
            assert told.reasons[0].startswith(plain.reasons[0])
            assert words in told.reasons[0]
            assert told.causes == plain.causes


def test_a_check_with_two_bounds_passes_where_both_hold() -> None:
    row = {"finite": 1.0, "hf_ratio": 1.0, "sharpness": 0.9}
    for bad in ({"hf_ratio": 0.001}, {"sharpness": 0.001}):
        assert pass_rates([row, {**row, **bad}], Thresholds())["blur"] == 0.5


MESHED = {"finite": 1.0, "mesh": 9.0}  # a detector fails
GHOSTED = {"finite": 1.0, "ghosting": 9.0}  # one that the eye must only not be sure to be wrong
BLACK = {"finite": 1.0, "bright": 0.0}  # a detector that is certain fails


def damage_at(value: float, **causes: float) -> dict[str, float]:
    return {"damage": value, **{f"cause_{name}": share for name, share in causes.items()}}


@pytest.mark.parametrize(
    ("scores", "letter"),
    [
        (MESHED, "C"),  # the eye was not asked
        (MESHED | damage_at(LIMITS.damage_confirm - 0.1), "B"),
        (MESHED | damage_at(LIMITS.damage_confirm + 0.1), "C"),
        (GHOSTED | damage_at(LIMITS.damage_confirm - 0.1), "C"),
        (GHOSTED | damage_at(LIMITS.damage_confirm - 2.2), "C"),
        (GHOSTED | damage_at(LIMITS.damage_confirm - 2.3), "B"),
        (MESHED | {"noise": 99.0, "ghosting": 9.0} | damage_at(-9.0), "C"),  # three agree
        (MESHED | {"noise": 99.0} | damage_at(-9.0), "B"),
        (BLACK | damage_at(-9.0), "C"),
        ({"finite": 1.0} | damage_at(LIMITS.damage_max + 0.1), "C"),
        ({"finite": 1.0} | damage_at(LIMITS.damage_max - 0.1), "B"),
    ],
)
def test_the_eye_decides_unless_a_detector_is_certain(scores: dict[str, float], letter: str) -> None:
    assert grade(scores, LIMITS).letter == letter
    assert bool(Grader(LIMITS).decisive(scores)) == (letter == "C")


def test_a_detector_that_the_eye_overrules_is_a_doubt_with_its_reason() -> None:
    given = grade(MESHED | damage_at(-5.0), LIMITS)
    assert given.causes[0] == "mesh"
    assert "the whole looks sound" in given.reasons[0]


def test_limits_without_the_eye_let_each_detector_decide_alone() -> None:
    limits = LIMITS.model_copy(update={"damage_max": EYE_OFF, "damage_a": EYE_OFF, "damage_confirm": -EYE_OFF})
    assert not limits.uses_eye
    assert grade(MESHED | damage_at(-5.0), limits).letter == "C"
    assert grade({"finite": 1.0} | damage_at(50.0), limits).causes == ["edge_64", "edge_128", "content_sim"]


def test_a_reason_names_one_likely_cause_or_two_that_cannot_be_distinguished() -> None:
    sure = grade({"finite": 1.0} | damage_at(9.0, colour=0.8, light=0.1), LIMITS)
    assert sure.likely == "colour"
    assert "likely its colours (80%)" in sure.reasons[0]
    unsure = grade({"finite": 1.0} | damage_at(9.0, light=0.35, colour=0.45), LIMITS)
    assert unsure.likely == ""
    assert "its colours (45%) or its light or contrast (35%), not to distinguish" in unsure.reasons[0]


def test_a_picture_that_is_nearly_damaged_is_no_a() -> None:
    good = {check.score: 1.0 for check in CHECKS if check.low} | {"finite": 1.0, "edge_64": 0.9, "edge_128": 0.9}
    good |= {"content_sim": 0.9, "style_gain": 0.1}
    assert grade(good | damage_at(LIMITS.damage_a - 0.1), LIMITS).letter == "A"
    assert grade(good | damage_at(LIMITS.damage_a + 0.1), LIMITS).letter == "B"


def test_the_eyes_limits_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="damage_a and damage_confirm must be at most damage_max"):
        Thresholds(damage_max=0.0, damage_a=1.0)
