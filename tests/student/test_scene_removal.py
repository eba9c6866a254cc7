"""What a style picture shows is taken out wherever an adapter that was trained so is used, and where it is not known
that is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.data.pictures import load_square
from bottega.data.records import Pair, style_captions
from bottega.evaluation.grid import Grid
from bottega.evaluation.painters import load_painter
from bottega.evaluation.plans import plan_student
from bottega.generation.request import stylize_file
from bottega.models.config import ModelsConfig
from bottega.models.encoders import ClipEncoder
from bottega.runtime.seeds import derive
from bottega.student.adapter import StyleAdapter
from bottega.student.backbone import Backbone
from bottega.student.config import StudentConfig
from bottega.student.export import load_adapter, sampling_of
from bottega.student.inference import stylize
from bottega.student.pipeline import styled
from bottega.student.stage import run
from bottega.visual.pictures import to_uint8

from .conftest import as_diffusers_calls_it
from .reference import forward

CONFIG = StudentConfig.model_validate(
    {
        "adapter": {
            "layers": 2,
            "strength": 0.4,
            "content_mode": "latent",
            "initial_gate": 0.5,
            "purification": "none",
            "scene_removal": "projection",
        },
        "loop": {"steps": 2, "learning_rate": 1e-3, "warmup_steps": 0},
        "batch_size": 4,
        "accumulation": 1,
        "sampling": {"steps": 2},
        "validation": {"pictures": 2, "timesteps": 1, "samples": 0},
    }
)


@pytest.fixture(scope="module")
def adapter(features: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scene")
    run(CONFIG, directory, features_dir=features, models=models)
    return directory / "adapter.safetensors"


def pair_of(content: int, style: int) -> Pair:
    return Pair(
        pair_id=f"c{content}_s{style}",
        content_id=f"c{content}",
        content_path=f"coco/c{content}.png",
        style_id=f"s{style}",
        style_path=f"wikiart/s{style}.png",
        style="stipple",
        prompt="a circle",
    )


def test_the_evaluation_hands_each_style_its_own_caption_and_says_of_how_many_there_is_none(
    adapter: Path, world: Path, models: ModelsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [pair_of(0, 0), pair_of(0, 1)]
    with caplog.at_level(logging.WARNING):
        plan = plan_student("student", adapter, Grid.of(pairs), world / "data", models)
    assert "1 of the 2 test styles have no caption" in caplog.text
    painter: Any = load_painter("student", plan.settings, ["a circle"])
    content = load_square(world / "data/coco/c0.png", 128)
    styles = [load_square(world / f"data/wikiart/s{k}.png", 128) for k in (0, 1)]
    ours = painter.draw(pairs, [(content, style) for style in styles], 5)
    clip = ClipEncoder(Path(str(models.clip)), device="cpu")
    told = torch.from_numpy(clip.text(["a boat on a lake"]))

    def drawn(captions: torch.Tensor) -> np.ndarray:
        return stylize(
            painter._engine.parts,
            load_adapter(adapter)[0],
            np.stack([content, content]),
            torch.from_numpy(clip.image(np.stack(styles))),
            torch.from_numpy(clip.image(np.stack([content, content]))),
            [painter._texts["a circle"]] * 2,
            [derive("evaluation noise", 5, "c0", f"s{k}") for k in (0, 1)],
            sampling=sampling_of(painter._engine.header, "adapter"),
            captions_clip=captions,
        )

    expected = drawn(torch.cat([told, torch.zeros_like(told)]))
    assert np.abs(np.stack(ours).astype(int) - to_uint8(expected)).max() <= 1  # a level, where rounding is on the edge
    without = drawn(torch.zeros(2, told.shape[1]))
    assert float(np.abs(without[0] - expected[0]).max()) > 1e-3 and np.abs(without[1] - expected[1]).max() < 1e-5

    other = plan_student("student", adapter, Grid.of(pairs[1:]), world / "data", models)
    assert other.fingerprint != plan.fingerprint


def test_stylize_takes_a_caption_and_says_where_it_lacks_one(
    adapter: Path, world: Path, models: ModelsConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, style = world / "data/coco/c0.png", world / "data/wikiart/s0.png"
    told = stylize_file(adapter, content, style, tmp_path / "a.png", style_caption="a boat on a lake", models=models)
    assert "--style-caption" not in caplog.text
    untold = stylize_file(adapter, content, style, tmp_path / "b.png", models=models)
    assert told["sha256"] != untold["sha256"] and "--style-caption" in caplog.text


def test_diffusers_own_pipeline_takes_the_caption_too(backbone: Backbone, make_adapter: Any, inputs: Any) -> None:
    adapter: StyleAdapter = make_adapter(initial_gate=1.0, purification="none", scene_removal="projection")
    caption = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    given = {name: inputs[name] for name in ("latents", "timesteps", "text", "mask")}
    with torch.no_grad():
        tokens, cosines = adapter.style(inputs["style"], inputs["style_content"], inputs["dropped"], caption)
        assert float(cosines["scene_after"].abs().max()) < 1e-6
        own = forward(backbone, adapter, *given.values(), tokens)
        with styled(backbone.transformer, adapter, inputs["style"], inputs["style_content"], caption=caption):
            theirs = as_diffusers_calls_it(backbone, inputs)
    assert float((own - theirs).abs().max()) < 1e-5


def test_captions_are_those_of_the_folder_that_the_style_lies_in(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "styles"
    (folder / "splits").mkdir(parents=True)
    (folder / "meta.csv").write_text("id,path,artist,style,genre,sha256,caption\nx,images/x.png,a,b,,0,a red house\n")
    (folder / "splits" / "train.txt").write_text("x\n")
    paths = ["mine/styles/images/x.png", "mine/styles/images/y.png", "elsewhere/z.png"]
    assert style_captions(tmp_path, paths) == {paths[0]: "a red house"}
    known = style_captions(world / "data", [f"wikiart/s{k}.png" for k in range(3)])
    assert known == {"wikiart/s0.png": "a boat on a lake", "wikiart/s2.png": "a boat on a lake"}
