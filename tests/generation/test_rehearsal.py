"""Pictures by models with random weights: drawn, and marked wherever they are written."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from bottega.generation.engine import SDXLEngine
from bottega.generation.metadata import write_picture
from bottega.generation.modules import Modules, load_modules
from bottega.models.rehearsal.build import RandomModelsRequest, build
from bottega.models.rehearsal.marker import NOTE, RANDOM_WEIGHTS

from .conftest import settings


def test_a_picture_by_random_weights_says_so_in_both_of_its_texts(tmp_path: Path) -> None:
    build(RandomModelsRequest(tmp_path / "models", ("sdxl",), "reduced"))
    name = "stabilityai/stable-diffusion-xl-base-1.0"
    engine = SDXLEngine(load_modules(name, device="cpu", cache=str(tmp_path / "models")))
    drawn = engine.draw(settings(profile="sdxl_base", steps=2, clip_skip=1))
    assert drawn.result.findings == (RANDOM_WEIGHTS,)
    file = tmp_path / "noise.png"
    write_picture(file, drawn.pixels[0], drawn.result, drawn.result.pictures[0])
    with Image.open(file) as image:
        assert json.loads(image.text["bottega"])["findings"][0]["name"] == "random weights"
        assert f'Note: "{NOTE}"' in image.text["parameters"]


def test_trained_weights_carry_no_such_mark(sdxl_modules: Modules) -> None:
    assert not sdxl_modules.has_random_weights
