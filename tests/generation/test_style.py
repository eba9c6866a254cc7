"""Pictures in a style come from an engine: the student's own pictures, with the guards that every engine has."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bottega.cli.main import main
from bottega.data.pictures import load_square
from bottega.generation.drawing import Observer
from bottega.generation.metadata import read_metadata, request_from
from bottega.generation.records import StylizeRequest
from bottega.generation.request import stylize_file
from bottega.generation.style import StyleEngine
from bottega.models.config import ModelsConfig
from bottega.models.hashes import model_hash
from bottega.models.loading import load_pixart_parts, locate
from bottega.runtime.errors import Interrupted, MemoryPressureError, NonFiniteError, RequestError
from bottega.runtime.files import read_json, sha256_file, write_png
from bottega.student import inference
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.attach import StyleProcessor
from bottega.student.config import AdapterConfig, SamplingConfig
from bottega.student.encode import TextEncoder
from bottega.student.export import save_adapter
from bottega.visual.pictures import to_uint8

STEPS, TOKENS, PROMPT = 3, 16, "a red circle on a blue ground"
MODELS = ModelsConfig(pixart="bottega:miniature/weights/pixart", clip="bottega:miniature/weights/clip", device="cpu")


def write_adapter(path: Path, config: AdapterConfig) -> Path:
    """An adapter beside the miniature's PixArt whose gates are wide open, so that it is seen without training."""
    pixart, clip = locate(MODELS, "pixart"), locate(MODELS, "clip")
    transformer = load_pixart_parts(pixart, ("transformer",), device="cpu")["transformer"]
    made = StyleAdapter.from_transformer(transformer, config, Geometry.of(transformer, 1000, 128))
    hashes = {"transformer": pixart / "transformer", "latent": pixart / "vae", "clip": clip}
    header = {
        "models": {"pixart": MODELS.pixart, "clip": MODELS.clip},
        "model_hashes": {name: model_hash(folder) for name, folder in hashes.items()},
        "sampling": {"sampler": "ddim", "start": 0, **SamplingConfig(steps=STEPS).model_dump(mode="json")},
        "text_tokens": TOKENS,
    }
    save_adapter(path, made, header)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bottega.miniature.world import painter, render, scene

    root = tmp_path_factory.mktemp("style")
    write_png(root / "content.png", render(scene(1), None))
    write_png(root / "style.png", render(scene(2), painter(3)))
    write_adapter(root / "paired.safetensors", AdapterConfig(initial_gate=1.0))
    write_adapter(root / "sdedit.safetensors", AdapterConfig(initial_gate=1.0, content_mode="sdedit"))
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> StyleEngine:
    return StyleEngine(folder / "paired.safetensors", MODELS)


@pytest.fixture(scope="module")
def sdedit(folder: Path) -> StyleEngine:
    return StyleEngine(folder / "sdedit.safetensors", MODELS)


def request(folder: Path, **changes: Any) -> StylizeRequest:
    given = {"content": folder / "content.png", "style": folder / "style.png", "prompt": PROMPT, "seed": 3}
    return StylizeRequest(**(given | changes))


def by_the_student(engine: StyleEngine, folder: Path, seed: int) -> npt.NDArray[np.uint8]:
    """The same picture by the function that training and tests of the student draw with."""
    text, null = TextEncoder(locate(MODELS, "pixart"), TOKENS, device="cpu").encode([PROMPT, ""])
    content, style = (load_square(folder / f"{name}.png", engine.size)[None] for name in ("content", "style"))
    drawn = inference.stylize(
        engine.parts,
        engine.adapter,
        content,
        torch.from_numpy(engine.clip.image(style)),
        torch.from_numpy(engine.clip.image(content)),
        [text],
        [seed],
        sampling=SamplingConfig(steps=STEPS),
        null_prompt=null,
    )
    return to_uint8(drawn)[0]


def test_a_picture_is_the_students_own_to_the_bit(engine: StyleEngine, folder: Path) -> None:
    answer = engine.generate(request(folder))
    assert np.array_equal(answer.pixels[0], by_the_student(engine, folder, 3))
    assert answer.result.corrections == ()
    used = answer.result.settings
    assert (used.steps, used.strength, used.sampler, used.width) == (STEPS, 0.5, "ddim", engine.size)


def test_a_picture_depends_on_its_seed_and_not_on_how_many_are_drawn(engine: StyleEngine, folder: Path) -> None:
    together = engine.generate(request(folder, count=3))
    assert [picture.seed for picture in together.result.pictures] == [3, 4, 5]
    assert np.array_equal(together.pixels[2], engine.generate(request(folder, seed=5)).pixels[0])
    engine.batch = 3
    try:
        batched = engine.generate(request(folder, count=3)).pixels
    finally:
        engine.batch = 1
    apart = np.stack(batched).astype(int) - np.stack(together.pixels)
    assert np.abs(apart).max() <= 1


def test_without_a_content_each_seed_has_one_of_its_own(
    engine: StyleEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "CONTENT_STEPS", 2)
    seen: list[tuple[int, int]] = []
    watch = Observer(on_progress=lambda progress: seen.append((progress.step, progress.steps)))
    two = engine.generate(request(folder, content=None, count=2), watch)
    assert seen == [(step, 2 + STEPS) for step in range(1, 3 + STEPS)] * 2
    one = engine.generate(request(folder, content=None, seed=4))
    assert np.array_equal(two.pixels[1], one.pixels[0])
    assert one.result.style is not None
    assert one.result.style.content == "drawn by the base"


def test_a_request_can_be_cancelled_between_two_steps_and_leaves_no_adapter_behind(
    engine: StyleEngine, folder: Path
) -> None:
    before = engine.generate(request(folder)).pixels[0]
    cancel = threading.Event()
    seen: list[int] = []

    def watch(progress: Any) -> None:
        seen.append(progress.step)
        if progress.step == 2:
            cancel.set()

    with pytest.raises(Interrupted):
        engine.generate(request(folder), Observer(on_progress=watch, cancel=cancel))
    assert seen == [1, 2]
    blocks = engine.parts.backbone.transformer.transformer_blocks
    assert not any(isinstance(block.attn2.processor, StyleProcessor) for block in blocks)
    assert np.array_equal(engine.generate(request(folder)).pixels[0], before)


def test_two_requests_at_once_draw_what_each_draws_alone(engine: StyleEngine, folder: Path) -> None:
    alone = [engine.generate(request(folder, seed=seed)).pixels[0] for seed in (8, 9)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda seed: engine.generate(request(folder, seed=seed)).pixels[0], (8, 9)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, both, strict=True))


def test_a_batch_that_does_not_fit_is_halved_and_the_answer_says_so(
    engine: StyleEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.generate(request(folder, count=3)).pixels
    sizes: list[int] = []
    fits = engine._latents

    def too_small(inputs: Any, seeds: Any, *rest: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return fits(inputs, seeds, *rest)

    monkeypatch.setattr(engine, "_latents", too_small)
    monkeypatch.setattr(engine, "batch", 3)
    answer = engine.generate(request(folder, count=3))
    assert sizes == [3, 1, 1, 1]
    assert all(np.array_equal(a, b) for a, b in zip(answer.pixels, expected, strict=True))
    assert answer.result.notes == ("memory was short for 3 pictures at a time; the rest were drawn 1 at a time",)


def test_after_one_picture_did_not_fit_the_engine_draws_as_before(
    engine: StyleEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine.generate(request(folder)).pixels[0]

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for place, name in ((engine, "_latents"), (engine.parts.vae.vae, "decode"), (engine, "_sources")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, fail)
            with pytest.raises(MemoryPressureError, match="128 x 128"):
                engine.generate(request(folder))
    assert np.array_equal(engine.generate(request(folder)).pixels[0], before)


def test_a_step_that_gives_nan_is_named(engine: StyleEngine, folder: Path) -> None:
    calls: list[int] = []

    def broken_from_the_second_call(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * torch.nan if len(calls) > 1 else output

    hook = engine.parts.backbone.transformer.proj_out.register_forward_hook(broken_from_the_second_call)
    try:
        with pytest.raises(NonFiniteError, match="step 2"):
            engine.generate(request(folder))
    finally:
        hook.remove()
    assert np.isfinite(engine.generate(request(folder)).pixels[0]).all()


def test_a_black_picture_is_found(engine: StyleEngine, folder: Path) -> None:
    def black(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, -1.0)

    hook = list(engine.parts.vae.vae.decoder.children())[-1].register_forward_hook(black)
    try:
        answer = engine.generate(request(folder))
    finally:
        hook.remove()
    assert not answer.pixels[0].any()
    assert answer.result.pictures[0].findings[0].name == "black"


def test_an_autoencoder_in_half_precision_that_overflows_decodes_again(engine: StyleEngine, folder: Path) -> None:
    vae = engine.parts.vae.vae
    engine.generate(request(folder))
    content = engine._beginning(load_square(folder / "content.png", engine.size)[None])

    def overflows_in_half(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.inf if output.dtype == torch.bfloat16 else output

    kept = {name: value.clone() for name, value in vae.state_dict().items()}
    hook = next(vae.decoder.children()).register_forward_hook(overflows_in_half)
    vae.to(torch.bfloat16)
    try:
        decoded = engine._decode(content.latents)
    finally:
        hook.remove()
        vae.to(torch.float32).load_state_dict(kept)
    assert [one.again for one in decoded] == [True]
    assert np.isfinite(decoded[0].pixels).all()


def test_every_change_to_what_was_asked_is_told(sdedit: StyleEngine, folder: Path, tmp_path: Path) -> None:
    wide = load_square(folder / "content.png", 128)[:96]
    write_png(tmp_path / "wide.png", wide)
    asked = request(
        folder, content=tmp_path / "wide.png", strength=0.00149, steps=4, prompt="a red circle " * 20, style_caption="x"
    )
    result = sdedit.generate(asked).result
    changed = {change.field: (change.requested, change.used) for change in result.corrections}
    assert changed["strength"] == (0.00149, 0.001)
    assert changed["steps"] == (4, 1)
    assert changed["prompt"][0] == asked.prompt
    assert asked.prompt.startswith(str(changed["prompt"][1]))
    assert (result.settings.strength, result.settings.steps) == (0.001, 1)
    assert len(result.notes) == 2
    assert result.notes[0] == "content: of 128 x 96 pixels the square in the middle is used"
    with pytest.raises(RequestError, match=r"received 0\.4 and no content"):
        sdedit.generate(request(folder, content=None, strength=0.4))


def test_a_file_says_how_it_was_made_and_a_json_beside_it_too(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "drawn.png"
    done = stylize_file(
        folder / "paired.safetensors",
        folder / "content.png",
        folder / "style.png",
        output,
        prompt=PROMPT,
        models=MODELS,
    )
    assert done["sha256"] == sha256_file(output)
    said = read_metadata(output)
    assert (said.tool, said.prompt, said.steps, said.seed, said.strength) == ("bottega", PROMPT, STEPS, 0, 0.5)
    assert said.other["Style adapter"] == "paired"
    from PIL import Image

    with Image.open(output) as image:
        parameters, chunk = image.info["parameters"], json.loads(image.info["bottega"])
    assert parameters.startswith(f"{PROMPT}\nSteps: {STEPS}, Sampler: DDIM")
    assert f"Style adapter hash: {sha256_file(folder / 'paired.safetensors')[:10]}" in parameters
    assert read_json(output.with_suffix(".json")) == chunk
    assert chunk["style"]["style_sha256"] == sha256_file(folder / "style.png")
    assert chunk["image_sha256"] == sha256_file(folder / "content.png")
    with pytest.raises(RequestError, match="draw it again with `bottega stylize`"):
        request_from(output)


@pytest.mark.parametrize("content", ['{"a": "user\'s own"}', "no json"])
def test_a_json_file_of_another_kind_is_left_alone(folder: Path, tmp_path: Path, content: str) -> None:
    output = tmp_path / "drawn.png"
    output.with_suffix(".json").write_text(content)
    words = ["stylize", str(folder / "content.png"), str(folder / "style.png"), "--device", "cpu"]
    words += ["--adapter", str(folder / "paired.safetensors"), "--output", str(output)]
    assert main(words) == 0
    assert output.with_suffix(".json").read_text() == content
    assert read_metadata(output).steps == STEPS


def test_the_command_line_tells_what_it_changed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stylize", str(folder / "content.png"), str(folder / "style.png"), "--device", "cpu"]
    words += ["--adapter", str(folder / "sdedit.safetensors"), "--output", str(tmp_path / "x.png")]
    assert main([*words, "--strength", "0.002", "--steps", "9"]) == 0
    told = capsys.readouterr()
    assert "strength 0.002, 2 steps" in told.out
    assert "  corrected  steps: 9 → 2 (there are no more timesteps at strength 0.002)" in told.out
    assert "drawing: 2/2 steps" in told.err
