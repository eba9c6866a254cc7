"""A model from scratch is drawn by an engine like any other, and its pictures are those that it always drew."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bottega.cli.main import main
from bottega.generation import scratch
from bottega.generation.drawing import Observer
from bottega.generation.files import EngineOptions, load_engine
from bottega.generation.metadata import read_metadata
from bottega.generation.records import GenerationRequest, LoRASpec
from bottega.generation.scratch import ScratchEngine, generate
from bottega.runtime.errors import Interrupted, MemoryPressureError, RequestError

PROMPT = "orange circle with teal background"


@pytest.fixture(scope="module")
def engine(trained: Path) -> ScratchEngine:
    found = load_engine(EngineOptions(model=str(trained), device="cpu"))
    assert isinstance(found, ScratchEngine)
    return found


def test_a_request_gives_the_picture_that_the_checkpoint_gave_by_itself(
    engine: ScratchEngine, trained: Path, tmp_path: Path
) -> None:
    answer = engine.generate(GenerationRequest(prompt=PROMPT, seed=5))
    row = generate(trained, [PROMPT], tmp_path, seed=5, device="cpu")[0]
    assert np.array_equal(answer.pixels[0], np.asarray(Image.open(str(row["file"]))))
    assert answer.result.corrections == ()
    used = answer.result.settings
    assert (used.width, used.steps, used.guidance_scale, used.sampler) == (32, 4, 2.0, "ddim")
    assert used.prediction_type == "sample"


def test_a_picture_depends_on_its_seed_and_not_on_how_many_are_drawn(engine: ScratchEngine) -> None:
    together = engine.generate(GenerationRequest(prompt=PROMPT, seed=5, count=3))
    alone = engine.generate(GenerationRequest(prompt=PROMPT, seed=7))
    assert [picture.seed for picture in together.result.pictures] == [5, 6, 7]
    assert np.array_equal(together.pixels[2], alone.pixels[0])


def test_values_that_the_run_cannot_draw_with_are_corrected_and_told(engine: ScratchEngine) -> None:
    asked = GenerationRequest(
        prompt=PROMPT, seed=1, width=64, steps=500, sampler="euler", guidance_rescale=0.5, clip_skip=2
    )
    changed = {change.field: change.used for change in engine.generate(asked).result.corrections}
    assert changed == {
        "width": 32, "height": 32, "steps": 100, "sampler": "ddim", "guidance_rescale": 0.0, "clip_skip": 1,
    }  # fmt: skip
    with pytest.raises(RequestError, match="guardrails strict: 6 values"):
        engine.generate(asked.model_copy(update={"guardrails": "strict"}))


def test_guidance_is_for_models_that_were_shown_the_empty_caption(trained_textless: Path) -> None:
    engine = load_engine(EngineOptions(model=str(trained_textless), device="cpu"))
    result = engine.generate(GenerationRequest(seed=1, guidance_scale=4)).result
    assert [(change.field, change.used) for change in result.corrections] == [("guidance_scale", 1.0)]
    with pytest.raises(RequestError, match="was trained without text"):
        engine.generate(GenerationRequest(prompt=PROMPT))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"negative_prompt": "a square"}, "received a negative prompt"),
        ({"image": Path("x.png")}, "received a picture to start from"),
        ({"prediction_type": "epsilon"}, "received another prediction type"),
        ({"loras": (LoRASpec(path=Path("x.safetensors")),)}, "takes no LoRAs"),
        ({"sampler": "euler", "guardrails": "off"}, "is drawn with ddim, ddpm, dpmpp_2m, received 'euler'"),
        ({"prompt": "a zebra"}, "this model knows 42"),
    ],
)
def test_what_a_model_from_scratch_cannot_do_is_refused(
    engine: ScratchEngine, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        engine.generate(GenerationRequest(**({"prompt": PROMPT} | values)))


def test_a_request_can_be_cancelled_between_two_steps(engine: ScratchEngine) -> None:
    request = GenerationRequest(prompt=PROMPT, seed=3)
    before = engine.generate(request).pixels[0]
    cancel = threading.Event()
    seen: list[tuple[int, int]] = []

    def watch(progress: Any) -> None:
        seen.append((progress.step, progress.steps))
        if progress.step == 2:
            cancel.set()

    with pytest.raises(Interrupted):
        engine.generate(request, Observer(on_progress=watch, cancel=cancel))
    assert seen == [(1, 4), (2, 4)]
    assert np.array_equal(engine.generate(request).pixels[0], before)


def test_where_memory_is_short_the_batch_is_halved_and_then_the_request_fails(
    engine: ScratchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerationRequest(prompt=PROMPT, seed=3, count=2)
    before = engine.generate(request).pixels
    fits, limit = scratch.draw_latents, 1

    def too_small(model: Any, schedule: Any, plan: Any, shape: Any, prompts: Any, *rest: Any) -> Any:
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fits(model, schedule, plan, shape, prompts, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(scratch, "draw_latents", too_small)
        patched.setattr(engine, "batch", 2)
        answer = engine.generate(request)
        assert all(np.array_equal(a, b) for a, b in zip(answer.pixels, before, strict=True))
        assert answer.result.notes == ("memory was short for 2 pictures at a time; the rest were drawn 1 at a time",)
        limit = 0
        with pytest.raises(MemoryPressureError, match="32 x 32"):
            engine.generate(request)
    assert np.array_equal(engine.generate(request).pixels[0], before[0])


def test_a_run_as_a_model_of_the_command_line_is_drawn_with_metadata_and_again_bit_for_bit(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--device", "cpu", "--output-dir", str(tmp_path)]
    options = ["--prompt", PROMPT, "--seed", "5", "--num-images", "2", "--sampler", "dpmpp_2m"]
    assert main([*words, "--model", str(trained), *options]) == 0
    assert "profile ldm" in capsys.readouterr().out
    files = sorted(tmp_path.glob("*.png"))
    assert [file.with_suffix(".json").exists() for file in files] == [True, True]
    assert read_metadata(files[1]).our_sampler == "dpmpp_2m"
    assert main([*words, "--from", str(files[1])]) == 0
    assert "the same picture, bit for bit" in capsys.readouterr().out
    assert main([*words, "--model", str(trained), "--prompt", PROMPT, "--vae", "x"]) == 2


def test_a_picture_by_checkpoint_says_to_other_tools_too_how_it_was_made(trained: Path, tmp_path: Path) -> None:
    row = generate(trained, [PROMPT], tmp_path, seed=5, device="cpu", scheduler="dpmsolver++", steps=3)[0]
    with Image.open(str(row["file"])) as image:
        parameters = image.info["parameters"]
    assert parameters.startswith(f"{PROMPT}\nSteps: 3, Sampler: DPM++ 2M")
    assert "Seed: 5, Size: 32x32" in parameters
    said = read_metadata(Path(str(row["file"])))
    assert (said.prompt, said.seed, said.sampler) == (PROMPT, 5, "dpmsolver++")


def test_the_doctor_of_models_at_work_says_that_it_knows_none_from_scratch(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "generation", "--model", str(trained), "--device", "cpu"]) == 2
    assert "one of SDXL or PixArt" in capsys.readouterr().err
