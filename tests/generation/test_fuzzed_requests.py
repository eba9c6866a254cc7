"""A sample of `benchmarks/fuzzed_requests.py`: odd requests are refused or told, and their files say what was used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from bottega.generation.engine import SDXLEngine
from bottega.generation.records import Correction, GenerationRequest, PictureSettings
from bottega.runtime.seeds import numpy_rng

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    from common import fuzz

    yield fuzz
    sys.path.remove(str(BENCHMARKS))


def test_two_hundred_requests_are_refused_or_told_and_written_as_used(
    fuzz: ModuleType, engine: SDXLEngine, tmp_path: Path
) -> None:
    world = fuzz.open_world(tmp_path / "files", engine)
    for number in range(200):
        rng = numpy_rng("fuzzed request in a test", number)
        raw = fuzz.fuzzed(rng, world)
        profile = world.profiles[int(rng.integers(len(world.profiles)))]
        assert fuzz.try_request(raw, world, tmp_path / "picture.png", profile) == [], raw
    resolved = sum(count for what, count in world.done.items() if what.startswith("resolved"))
    assert 50 <= resolved <= 190  # neither all refused nor all plain


def test_a_few_are_drawn_and_made_again_from_their_files(fuzz: ModuleType, engine: SDXLEngine, tmp_path: Path) -> None:
    world = fuzz.open_world(tmp_path / "files", engine)
    for number in range(4):
        raw = {"prompt": "a (red:1.2) circle", "seed": number, **fuzz._small(numpy_rng("small", number))}
        raw |= {"guardrails": "off", "clip_skip": 2, "sampler": ("ddim", "euler_a", "heun", "lcm")[number]}
        assert fuzz.try_drawing(raw, world, tmp_path / "drawn.png") == [], raw
    assert world.done["drawn"] >= 4


def test_the_judge_sees_a_silent_change_and_an_untrue_correction(fuzz: ModuleType) -> None:
    """A judge that finds nothing must be one that could."""
    request = GenerationRequest(steps=5, guidance_scale=3.0, seed=1)
    used = _settings(steps=20)
    assert fuzz.silent_changes(request, used, [], ()) == ["steps: asked 5, used 20, told None"]
    told = Correction("steps", 5, 20, "why")
    assert fuzz.silent_changes(request, used, [told], ()) == []
    assert fuzz.silent_changes(request, used, [Correction("steps", 5, 25, "why")], ())
    strict = request.model_copy(update={"guardrails": "strict"})
    assert fuzz.silent_changes(strict, used, [told], ()) == [f"strict, and yet corrected: {told}"]


def test_the_judge_sees_metadata_of_another_picture(fuzz: ModuleType, tmp_path: Path) -> None:
    from bottega.generation.records import GeneratedPicture, Result
    from bottega.runtime.files import sha256_bytes

    pixels = np.zeros((2, 2, 3), np.uint8)
    picture = GeneratedPicture(0, 1, sha256_bytes(pixels.tobytes()))
    result = Result(_settings(steps=20), (picture,))
    path = tmp_path / "one.png"
    assert fuzz.untrue_metadata(path, pixels, result, picture) == []
    kept = Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    assert "Steps: 20" in kept


def _settings(*, steps: int) -> PictureSettings:
    return PictureSettings(
        prompt="",
        negative_prompt="",
        width=64,
        height=64,
        steps=steps,
        guidance_scale=3.0,
        guidance_rescale=0.0,
        sampler="ddim",
        seed=1,
        count=1,
        clip_skip=2,
        strength=None,
        prediction_type="epsilon",
        profile="miniature_sdxl",
    )
