"""Scores of fixed pictures are those of `golden_scores.json`: pytest tests/quality/test_golden_scores.py

A detector's kernel, quantile or constant that changes shows here at once. If a change is meant, raise
`measuring.SCORES_VERSION`, for limits mean nothing for scores of another definition, and write the file again from
`score`.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from bottega.quality.calibration import PLANS
from bottega.quality.damage import Subject
from bottega.quality.eye.look import CAUSE_SCORES, LEAST_SHARE
from bottega.quality.eye.tones import TONE_SCORES
from bottega.quality.faults import inject
from bottega.quality.grading import CHECKS
from bottega.quality.measuring import SCORE_NAMES, SCORES_VERSION, Scores, measure
from bottega.visual.pictures import Picture

from .conftest import draw, plain_encoder

GOLDEN: dict[str, Scores] = json.loads((Path(__file__).parent / "golden_scores.json").read_text())
TOLERANCES = {
    "blocking": 1e-3,
    "damage": 0.2,
    "estimated_distance": 0.1,
    **dict.fromkeys(("damage_area", *CAUSE_SCORES), 0.05),
    **dict.fromkeys(TONE_SCORES, 0.01),
}
"""The eye's scores are sums of many that differ in the last bits. OpenCV's paths do too: without AVX-512 a picture that
is resized to 300 x 260 px has other levels in places, and `blocking`, a difference of neighbouring steps, is -0.0043
instead of -0.0052; its limits are 0.02 apart."""
CASES = {
    "small": (128, 128, ""),
    "large": (512, 512, ""),
    "oblong": (260, 300, ""),
    "tiny": (40, 40, ""),
    "mesh": (128, 128, "mesh"),
    "blocks": (256, 256, "blocks"),
    "ghosting": (128, 128, "ghosting"),
    "colour_noise": (256, 256, "colour_noise"),
}


def score(case: str) -> Scores:
    """Scores of a drawn truth at a size, with a medium fault where the case names one; the round trip is a slight
    blur."""
    high, wide, fault = CASES[case]

    def resized(picture: Picture) -> Picture:
        return np.asarray(cv2.resize(picture, (wide, high), interpolation=cv2.INTER_CUBIC), np.uint8)

    triple = draw(7)
    truth, content, style = resized(triple.truth), resized(triple.content), resized(triple.style)
    if fault:
        truth = inject(fault, "medium", Subject(truth, content, style, content), 0)
    round_trip = np.asarray(cv2.GaussianBlur(content, (0, 0), 0.7), np.uint8)
    return measure(truth, content, style, encoder=plain_encoder, round_trip=round_trip)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_golden_file(case: str) -> None:
    scores = score(case)
    causes = set(CAUSE_SCORES)  # one that is hardly likely may be absent
    assert [name for name in scores if name not in causes] == [name for name in GOLDEN[case] if name not in causes]
    for name, value in scores.items():
        expected = GOLDEN[case].get(name, LEAST_SHARE)
        assert value == pytest.approx(expected, abs=TOLERANCES.get(name, 2e-4)), name


def test_the_golden_file_is_of_this_version_and_has_every_score() -> None:
    assert SCORES_VERSION == 2
    measured = set(SCORE_NAMES) - set(CAUSE_SCORES)
    assert measured <= set(GOLDEN["small"])
    of_the_eye = {"damage", "damage_area", "estimated_distance", *TONE_SCORES}
    assert measured - set(GOLDEN["tiny"]) == {"blocking", "blocking_share", "mesh"} | of_the_eye


def test_every_check_and_every_plan_names_a_score_that_exists() -> None:
    assert {check.score for check in CHECKS} <= set(SCORE_NAMES)
    assert {plan.score for plan in PLANS.values()} <= set(SCORE_NAMES)
