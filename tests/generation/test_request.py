"""The public path: features, `train style`, `stylize`; one pair trained alone is drawn as its target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.cli.main import main
from bottega.cli.stylize import content_and_style
from bottega.data.pictures import load_square
from bottega.generation.request import stylize_file
from bottega.models.config import ModelsConfig
from bottega.models.encoders import ClipEncoder
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import write_png
from bottega.student import inference
from bottega.student.adapter import StyleAdapter
from bottega.student.config import SamplingConfig
from bottega.student.encode import TextEncoder
from bottega.student.export import load_adapter, save_adapter
from bottega.student.overfit import overfit_one
from bottega.visual.pictures import to_uint8

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """An adapter trained for a few steps on one pair of drawn pictures, with the pictures beside it."""
    from bottega.miniature.painters import painter, render
    from bottega.miniature.scenes import scene
    from bottega.runtime.files import write_png

    root = tmp_path_factory.mktemp("one_pair")
    write_png(root / "content.png", render(scene(1), None))
    write_png(root / "style.png", render(scene(2), painter(3)))
    write_png(root / "target.png", render(scene(1), painter(3)))
    overfit_one(
        root / "content.png",
        root / "style.png",
        root / "target.png",
        "a circle",
        root / "run",
        models=_models(tiny_models),
        steps=STEPS,
    )
    return root


def _models(folder: Path) -> ModelsConfig:
    return ModelsConfig(pixart=str(folder / "pixart"), clip=str(folder / "clip"), device="cpu")


def test_one_pair_goes_through_the_public_path(folder: Path, tiny_models: Path) -> None:
    adapter, output = folder / "run" / "training" / "adapter.safetensors", folder / "drawn.png"
    done = stylize_file(
        adapter, folder / "content.png", folder / "style.png", output, models=_models(tiny_models), steps=4
    )
    picture = load_square(output, 128)
    assert picture.shape == (128, 128, 3) and picture.std() > 0
    assert done["steps"] == 4 and re.fullmatch(r"[0-9a-f]{64}", done["sha256"])
    again = stylize_file(
        adapter, folder / "content.png", folder / "style.png", output, models=_models(tiny_models), steps=4
    )
    assert again["sha256"] == done["sha256"]
    other = stylize_file(
        adapter, folder / "content.png", folder / "style.png", output, models=_models(tiny_models), steps=4, seed=1
    )
    assert other["sha256"] != done["sha256"]


def test_a_prompt_alone_is_drawn_by_the_base_and_then_in_the_style(
    folder: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "CONTENT_STEPS", 3)
    adapter, models = folder / "run" / "training" / "adapter.safetensors", _models(tiny_models)
    drawn: dict[str, Any] = {"prompt": "a red circle", "models": models, "steps": 2, "seed": 5}
    parts = inference.load_parts(tiny_models / "pixart", device="cpu")
    text, null = TextEncoder(tiny_models / "pixart", 120, device="cpu").encode(["a red circle", ""])
    write_png(folder / "imagined.png", to_uint8(inference.draw_content(parts, [text], null, [5]))[0])
    stylize_file(adapter, None, folder / "style.png", folder / "a.png", **drawn)
    stylize_file(adapter, folder / "imagined.png", folder / "style.png", folder / "b.png", **drawn)
    stylize_file(adapter, None, folder / "content.png", folder / "c.png", **drawn)
    alone, over_a_picture, elsewhere = (load_square(folder / f"{name}.png", 128) for name in "abc")
    assert np.array_equal(alone, over_a_picture)
    assert not np.array_equal(alone, elsewhere)


def test_an_adapter_that_knows_noise_begins_with_it_where_there_is_no_content(
    folder: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, header = load_adapter(folder / "run" / "training" / "adapter.safetensors")
    plain = StyleAdapter(trained.config.model_copy(update={"content_mode": "sdedit"}), trained.geometry)
    save_adapter(tmp_path / "sdedit.safetensors", plain, {k: v for k, v in header.items() if k != "adapter"})
    drawn: dict[str, Any] = {"prompt": "a red circle", "models": _models(tiny_models), "steps": 2}
    done = stylize_file(tmp_path / "sdedit.safetensors", None, folder / "style.png", tmp_path / "x.png", **drawn)
    assert done["strength"] == 1.0
    parts = inference.load_parts(tiny_models / "pixart", device="cpu")
    text, null = TextEncoder(tiny_models / "pixart", 120, device="cpu").encode(["a red circle", ""])
    clip = ClipEncoder(tiny_models / "clip", device="cpu")
    style_clip = torch.from_numpy(clip.image(load_square(folder / "style.png", 128)[None]))
    noise = inference.stylize(
        parts,
        plain,
        parts.blank_latents(1),
        style_clip,
        torch.zeros_like(style_clip),
        [text],
        [0],
        sampling=SamplingConfig(steps=2, text_guidance=inference.CONTENT_GUIDANCE),
        strength=1.0,
        null_prompt=null,
    )
    assert np.array_equal(to_uint8(noise)[0], load_square(tmp_path / "x.png", 128))
    monkeypatch.setattr(inference, "CONTENT_STEPS", 3)
    told = stylize_file(
        tmp_path / "sdedit.safetensors", None, folder / "style.png", tmp_path / "z.png", **drawn | {"steps": None}
    )
    assert told["steps"] == 3
    with pytest.raises(RequestError, match=r"received 0\.4 and no content"):
        stylize_file(
            tmp_path / "sdedit.safetensors", None, folder / "style.png", tmp_path / "y.png", strength=0.4, **drawn
        )


def test_bad_requests_are_named_with_their_cure(folder: Path, tiny_models: Path, tmp_path: Path) -> None:
    adapter = folder / "run" / "training" / "adapter.safetensors"
    content, style, models = folder / "content.png", folder / "style.png", _models(tiny_models)
    with pytest.raises(RequestError, match="name it with --"):
        stylize_file(adapter, content, style, tmp_path / "x.png")
    with pytest.raises(RequestError, match="neither a content nor a prompt"):
        stylize_file(adapter, None, style, tmp_path / "x.png", models=models)
    with pytest.raises(MissingError, match="there is no such file"):
        stylize_file(adapter, tmp_path / "none.png", style, tmp_path / "x.png", models=models)
    with pytest.raises(RequestError, match="other weights"):
        wrong = models.model_copy(update={"clip": str(tiny_models / "style_classifier")})
        stylize_file(adapter, content, style, tmp_path / "x.png", models=wrong)
    assert not (tmp_path / "x.png").exists()


def test_pictures_may_stand_alone_in_their_order_or_behind_their_options() -> None:
    c, s = Path("c.png"), Path("s.png")
    assert content_and_style([c, s], None, None) == (c, s)
    assert content_and_style([s], None, None) == (None, s)
    assert content_and_style([], c, s) == (c, s)
    assert content_and_style([], None, s) == (None, s)
    for wrong in (([], None, None), ([c, s, s], None, None), ([s], c, None), ([], c, None)):
        with pytest.raises(RequestError, match="CONTENT STYLE, or STYLE alone with a --prompt"):
            content_and_style(*wrong)


def test_the_command_line_draws_the_same_picture(
    folder: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--pixart", str(tiny_models / "pixart"), "--clip", str(tiny_models / "clip"), "--device", "cpu"]
    files = [
        "--adapter",
        str(folder / "run" / "training" / "adapter.safetensors"),
        "--content",
        str(folder / "content.png"),
    ]
    words = ["stylize", *files, *models, "--steps", "2", "--output", str(folder / "by_hand.png")]
    assert main([*words, "--style", str(folder / "style.png")]) == 0
    assert "seed 0, strength 0.5, 2 steps" in capsys.readouterr().out
    assert load_square(folder / "by_hand.png", 128).std() > 0
    assert main([*words, "--style", str(folder / "none.png")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_training_by_the_command_line_continues_where_it_was_and_refuses_another_recipe(
    folder: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--pixart", str(tiny_models / "pixart"), "--set", "models.device=cpu"]
    places = ["--features-dir", str(folder / "run" / "features"), "--output-dir", str(folder / "by_hand")]
    settings = "{steps: 2, warmup_steps: 0, learning_rate: 0.001}"
    words = [
        "train",
        "style",
        *places,
        *models,
        "--set",
        "student.fill50k_fraction=0",
        "--set",
        f"student.loop={settings}",
    ]
    assert main(words) == 0
    assert "2 steps; learning:" in capsys.readouterr().out
    assert main([*words, "--set", "student.loop.steps=3"]) == 0
    assert main([*words, "--set", "student.adapter.tokens=5"]) == 2
    assert "student.adapter.tokens was 4" in capsys.readouterr().err
