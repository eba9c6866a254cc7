"""Bad pictures are named and good ones pass; a black one is explained by where its numbers went wrong."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bottega.generation.checks import NumericTrail, check_picture, explain_black
from bottega.miniature.painters import painter, render
from bottega.miniature.scenes import scene
from bottega.quality.alone import measure_alone
from bottega.quality.damage import Subject
from bottega.quality.faults import inject
from bottega.runtime.findings import Severity
from bottega.runtime.seeds import numpy_rng

Picture = npt.NDArray[np.uint8]
SIDE = 256


def paper(level: int = 255) -> Picture:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def line_art(index: int, strokes: int, width: int) -> Picture:
    rng = numpy_rng("line art", index)
    picture = paper()
    for _ in range(strokes):
        centre = tuple(map(int, rng.integers(0, SIDE, 2)))
        axes = tuple(map(int, rng.integers(8, SIDE // 3, 2)))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 300, (20, 20, 20), width, cv2.LINE_AA)
    return picture


def flat_drawing(index: int, ground: tuple[int, int, int]) -> Picture:
    """As anime is coloured: areas of one colour with ink around them."""
    rng = numpy_rng("flat drawing", index)
    picture = paper()
    picture[:] = ground
    for _ in range(8):
        centre, radius = tuple(map(int, rng.integers(0, SIDE, 2))), int(rng.integers(15, SIDE // 3))
        cv2.circle(picture, centre, radius, tuple(map(int, rng.integers(0, 256, 3))), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, radius, (15, 10, 20), 2, cv2.LINE_AA)
    return picture


def night(index: int, stars: int, level: float) -> Picture:
    rng = numpy_rng("night", index)
    sky = np.ones((SIDE, SIDE, 3)) * np.array([0.5, 0.6, 1.2]) * level
    for row, column in rng.integers(1, SIDE - 1, (stars, 2)):
        sky[row, column] = rng.uniform(60, 255)
    if stars < 20:
        cv2.circle(sky, (SIDE * 3 // 4, SIDE // 4), SIDE // 14, (235, 230, 200), -1, cv2.LINE_AA)
    return np.asarray(np.clip(sky, 0, 255), np.uint8)


def high_key(index: int) -> Picture:
    """Pale washes on white paper, with a few pencil lines."""
    rng = numpy_rng("high key", index)
    wash = np.full((SIDE, SIDE, 3), 255, np.float32)
    for _ in range(5):
        spot = np.zeros((SIDE, SIDE), np.float32)
        cv2.circle(spot, tuple(map(int, rng.integers(0, SIDE, 2))), int(rng.integers(20, SIDE // 3)), 1, -1)
        wash -= cv2.GaussianBlur(spot, (0, 0), float(rng.uniform(4, 14)))[..., None] * rng.uniform(10, 70, 3)
    ink = line_art(index + 100, 8, 1).astype(np.float32) / 255
    return np.asarray(np.clip(wash * (0.7 * ink + 0.3), 0, 255), np.uint8)


def good_pictures() -> dict[str, Picture]:
    made: dict[str, Picture] = {}
    for kind in range(8):
        for k in range(2):
            made[f"painter {kind}, {k}"] = render(scene(20 * kind + k), painter(kind + 8 * k), 0, SIDE)
    for k in range(4):
        made[f"plain {k}"] = render(scene(k), None, 0, SIDE)
        made[f"line art {k}"] = line_art(k, (3, 12, 30, 60)[k], 1 + k % 3)
        made[f"night {k}"] = night(k, (400, 150, 5, 0)[k], (14, 9, 6, 10)[k])
        made[f"high key {k}"] = high_key(k)
    for k, ground in enumerate([(255, 255, 255), (250, 120, 30), (10, 10, 30), (255, 0, 0), (90, 180, 255)]):
        made[f"flat drawing {k}"] = flat_drawing(k, ground)
    return made


GOOD = good_pictures()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_picture_has_no_fault(name: str) -> None:
    assert check_picture(GOOD[name]) == ()


def test_photographs_have_no_fault() -> None:
    import skimage.data

    photographs = {
        name: np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
        for name, picture in (
            (name, getattr(skimage.data, name)())
            for name in ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "moon", "camera",
                         "page", "coins", "grass", "gravel", "brick")
        )
    }  # fmt: skip
    assert {name: check_picture(np.ascontiguousarray(p)) for name, p in photographs.items()} == dict.fromkeys(
        photographs, ()
    )


def damaged(fault: str, severity: str) -> list[tuple[str, ...]]:
    """The findings of each painted scene with a fault of `quality.faults` put in."""
    found = []
    for k, (name, picture) in enumerate(GOOD.items()):
        if name.startswith(("painter", "plain")):
            broken = inject(fault, severity, Subject(picture, picture, picture, picture), k)
            found.append(tuple(finding.name for finding in check_picture(broken)))
    return found


@pytest.mark.parametrize(
    ("fault", "severity", "names", "least"),
    [
        ("black", "medium", {"black"}, 1.0),
        ("black", "severe", {"black"}, 1.0),
        ("flat", "severe", {"one colour"}, 1.0),
        ("flat", "medium", {"one colour", "dull"}, 0.9),
        ("washed", "severe", {"one colour", "dull"}, 1.0),
        ("colour_noise", "medium", {"noise"}, 1.0),
        ("colour_noise", "severe", {"noise"}, 1.0),
        ("not_finite", "mild", {"not finite"}, 1.0),
        ("saturated", "severe", {"over-saturated", "burnt", "one channel"}, 0.7),
        ("clipped", "medium", {"burnt", "over-saturated", "one channel"}, 0.5),
    ],
)
def test_a_fault_is_named(fault: str, severity: str, names: set[str], least: float) -> None:
    found = damaged(fault, severity)
    share = sum(bool(names & set(item)) for item in found) / len(found)
    assert share >= least, found


def test_noise_without_colour_and_noise_of_a_decoder_are_named() -> None:
    rng = numpy_rng("noise")
    grey = np.clip(128 + 50 * rng.standard_normal((SIDE, SIDE, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
    assert [finding.name for finding in check_picture(grey)] == ["noise"]
    # Latents of 128 x 128 that stayed noise, decoded to 1024: blotches of 8 px, whose colours go all ways.
    blotches = cv2.resize(rng.standard_normal((128, 128, 3)), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    decoded = np.clip(128 + 45 * blotches, 0, 255).astype(np.uint8)
    assert [finding.name for finding in check_picture(decoded)] == ["noise"]


def test_one_channel_is_named() -> None:
    picture = GOOD["plain 1"].copy()
    picture[..., 1:] //= 20
    assert "one channel" in {finding.name for finding in check_picture(picture)}


def test_evidence_has_the_numbers_and_each_finding_a_cure() -> None:
    (finding,) = check_picture(paper(0))
    assert finding.name == "black" and "every value is 0" in finding.evidence and "fp32" in finding.advice
    (finding,) = check_picture(paper(3))
    assert finding.name == "black" and "0.012 of white" in finding.evidence
    (finding,) = check_picture(paper(90))
    assert finding.name == "one colour" and "0.0000" in finding.evidence and finding.severity is Severity.ERROR


def test_one_value_of_a_float_picture_that_is_not_finite_is_found_and_placed() -> None:
    picture = (GOOD["plain 0"] / 255).astype(np.float32)
    assert check_picture(picture) == ()
    picture[7, 9, 1] = np.nan
    (finding,) = check_picture(picture)
    assert finding.name == "not finite" and "row 7, column 9" in finding.evidence and "NaN" in finding.evidence
    (finding,) = check_picture(np.full((32, 32, 3), np.inf, np.float32))
    assert "100.00% of the values are infinite, the whole picture" in finding.evidence


def test_a_picture_too_small_to_judge_is_not_judged() -> None:
    (finding,) = check_picture(paper(0)[:8, :8])
    assert finding.name == "not enough to tell"


def test_size_changes_no_verdict() -> None:
    large = cv2.resize(GOOD["painter 3, 0"], (2100, 1500), interpolation=cv2.INTER_CUBIC)
    assert check_picture(large) == ()
    noise = numpy_rng("large").integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    assert [finding.name for finding in check_picture(noise)] == ["noise"]


def test_measures_of_pictures_whose_values_are_known() -> None:
    red = paper(0)
    red[..., 0] = 255
    seen = measure_alone(red)
    assert (seen.vivid, seen.textured, seen.burnt, seen.channels) == (1.0, 0.0, 0.0, (1.0, 0.0, 0.0))
    # Red at its limit in the left half, green going on varying under it.
    burnt = paper(100)
    burnt[:, : SIDE // 2, 0] = 255
    burnt[:, :, 1] = numpy_rng("burnt").integers(80, 120, (SIDE, SIDE))
    assert measure_alone(burnt).burnt == pytest.approx(0.49, abs=0.01)


# --- where the numbers went wrong ------------------------------------------------------------------------------------

FINE = NumericTrail(
    loras_finite=True,
    text_finite=True,
    start_finite=True,
    steps=20,
    decoded_finite=True,
    decoded_in="float16",
    network_in="float16",
)


@pytest.mark.parametrize(
    ("change", "name", "cause", "cure"),
    [
        ({"loras_finite": False, "text_finite": False, "first_bad_step": 1}, "not finite", "LoRA's file", "leave that"),
        ({"text_finite": False, "first_bad_step": 1}, "not finite", "text embeddings", "text encoders in fp32"),
        ({"start_finite": False, "first_bad_step": 1}, "not finite", "before the first step", "encode in fp32"),
        ({"first_bad_step": 7, "timestep": 681.0}, "not finite", "from step 7 (timestep 681) on", "bf16 or fp32"),
        ({"first_bad_step": 1, "decoded_finite": False}, "not finite", "from the first step on", "prediction type"),
        ({"decoded_finite": False, "fp32_finite": True}, "decoded again", "overflowed in float16", "mended for fp16"),
        ({"decoded_finite": False}, "not finite", "overflowed in float16", "decode again in fp32"),
        ({"decoded_finite": False, "fp32_finite": False}, "not finite", "weights are damaged", "verify"),
        ({}, "black", "text embeddings, latents, the decoded picture", "safety filter"),
    ],
)
def test_the_first_place_where_numbers_went_wrong_is_the_cause(
    change: dict[str, bool | int | float], name: str, cause: str, cure: str
) -> None:
    finding = explain_black(replace(FINE, **change))  # type: ignore[arg-type]
    assert finding.name == name
    assert cause in finding.evidence
    assert cure in finding.advice


def test_nothing_is_claimed_of_what_was_not_looked_at() -> None:
    assert explain_black(NumericTrail()).name == "unknown"
    partly = explain_black(NumericTrail(text_finite=True))
    assert "latents" not in partly.evidence
    assert NumericTrail().latents_finite is None
    assert replace(FINE, decoded_finite=False, fp32_finite=True).cured and not FINE.cured
