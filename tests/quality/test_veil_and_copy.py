"""A pale veil is found unless the eye is sure of the picture, an encoded copy always; fog and drawings are no veils."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from bottega.quality.config import Thresholds
from bottega.quality.damage.common import blurred
from bottega.quality.damage.place import jpeg
from bottega.quality.grading import grade
from bottega.quality.measuring import Scores, measure, reference
from bottega.visual.pictures import Picture

from .conftest import Triple


def veiled(picture: Picture, weight: float, light: float = 215) -> Picture:
    return np.rint(picture * (1 - weight) + light * weight).astype(np.uint8)


def scores(picture: Picture, one: Triple, style: Picture | None = None) -> Scores:
    return measure(picture, one.content, one.style if style is None else style, encoder=None)


@pytest.fixture
def contrasty(triples: list[Triple]) -> Triple:
    """The one of whose pictures the least light is the darkest."""
    return min(triples, key=lambda one: max(np.quantile(p, 0.02) for p in (one.truth, one.content, one.style)))


def test_a_veil_lightens_what_is_dark_and_takes_contrast(contrasty: Triple) -> None:
    found = [scores(veiled(contrasty.truth, weight), contrasty)["veil"] for weight in (0.0, 0.3, 0.5, 0.7)]
    assert found == sorted(found)
    assert found[0] < 3
    assert found[-1] > Thresholds().veil_max
    sound = {**scores(veiled(contrasty.truth, 0.7), contrasty), "damage": -3.0, "estimated_distance": 1.0}
    given = grade(sound, Thresholds())
    assert given.letter == "C"  # the eye takes a veil for fog
    assert "washed" in given.causes
    surely_sound = grade({**sound, "damage": -4.0}, Thresholds())
    assert surely_sound.letter == "B"
    assert "washed" in surely_sound.causes


def test_a_fog_that_the_style_shows_and_a_night_are_no_veil(contrasty: Triple) -> None:
    foggy = veiled(contrasty.truth, 0.7)
    assert scores(foggy, contrasty, style=veiled(contrasty.style, 0.7))["veil"] < 3
    night = (contrasty.truth * 0.3).astype(np.uint8)
    assert scores(night, contrasty)["veil"] == 0.0


def test_a_copy_that_was_encoded_again_differs_in_fine_things_alone(triples: list[Triple]) -> None:
    rng = np.random.default_rng(0)
    for one in triples[:4]:
        large = np.asarray(cv2.resize(one.content, (512, 512), interpolation=cv2.INTER_CUBIC))
        grain = rng.normal(0, 16, (512, 512, 1))
        textured = np.clip(large + grain, 0, 255).astype(np.uint8)  # a photograph's fine texture
        encoded = jpeg(blurred(textured, 0.003), 50)
        found = measure(encoded, textured, one.style, encoder=None)
        assert found["change"] > Thresholds().change_min  # what hid such copies before
        assert found["coarse_change"] < Thresholds().coarse_change_min
        assert "unchanged" in grade(found, Thresholds()).causes
        assert scores(one.truth, one)["coarse_change"] > 2 * Thresholds().coarse_change_min


def test_the_coarse_difference_is_that_of_light_and_colour(triples: list[Triple]) -> None:
    one = triples[0]
    lighter = cv2.convertScaleAbs(one.content, alpha=0.5, beta=60)
    expected = np.abs(lighter.astype(int) - one.content).mean() / 255
    assert scores(lighter, one)["coarse_change"] == pytest.approx(expected, rel=0.1)


def test_limits_that_an_earlier_version_wrote_in_full_ask_for_neither() -> None:
    written = Thresholds(damage_max=2.5).model_dump()
    for name in ("veil_max", "coarse_change_min"):
        del written[name]
    read = Thresholds.model_validate(written)
    assert read.damage_max == 2.5
    assert read.coarse_change_min == 0.0
    assert read.veil_max >= 255
    assert Thresholds.model_validate({"damage_max": 2.5}).veil_max == Thresholds().veil_max  # a recipe's own choice


def test_a_limit_whose_score_is_measured_no_more_is_left_out_of_files_and_refused_in_recipes() -> None:
    written = Thresholds().model_dump() | {"haze_max": 13.0}
    del written["veil_max"]
    assert Thresholds.model_validate(written).veil_max >= 255
    with pytest.raises(ValidationError, match="haze_max"):
        Thresholds.model_validate({"haze_max": 13.0})


def test_a_drawing_on_white_paper_is_no_veil() -> None:
    """Grey lines on paper have light dark parts and a small range, but no less contrast than content and style."""
    content = np.full((256, 256, 3), 128, np.uint8)
    content[:16], content[-16:] = 0, 255  # a large range, little contrast
    style, drawing = (np.full((256, 256, 3), 245, np.uint8) for _ in range(2))
    for left in range(0, 256, 64):
        style[:, left : left + 4] = 10
        drawing[:, left : left + 24] = 110
    picture, shown, manner = reference(drawing), reference(content), reference(style)
    lift = picture.dark - max(shown.dark, manner.dark)
    lost = 1 - picture.light_range / min(shown.light_range, manner.light_range)
    assert lift * lost > 2 * Thresholds().veil_max  # without the vigour it is a veil
    assert scores_of(drawing, content, style)["veil"] < Thresholds().veil_max
    assert scores_of(veiled(drawing, 0.85), content, style)["veil"] > Thresholds().veil_max


def scores_of(picture: Picture, content: Picture, style: Picture) -> Scores:
    return measure(picture, content, style, encoder=None)
