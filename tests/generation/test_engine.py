"""The engine draws what diffusers' own pipelines draw, and is the same engine after anything that goes wrong."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.generation.conftest import random_lora, settings

from bottega.generation.engine import Observer, PixArtEngine, SDXLEngine
from bottega.generation.modules import load_modules
from bottega.generation.records import GenerationRequest, LoRASpec, PictureSettings
from bottega.generation.samplers import make_scheduler
from bottega.runtime.errors import Interrupted, MemoryPressureError, NonFiniteError, RequestError, StorageError


def by_diffusers(engine: SDXLEngine, used: PictureSettings, image: Image.Image | None = None) -> npt.NDArray[np.int16]:
    """The same picture by a plain pipeline call: diffusers encodes, denoises and decodes."""
    pipeline = engine.txt2img if image is None else engine.img2img
    pipeline.scheduler = make_scheduler(used.sampler, engine.modules.scheduler_config, "epsilon")
    inputs: dict[str, Any] = {"width": used.width, "height": used.height}
    if image is not None:
        inputs = {"image": image, "strength": used.strength}
    pixels = pipeline(
        prompt=used.prompt,
        negative_prompt=used.negative_prompt or None,
        num_inference_steps=used.steps,
        guidance_scale=used.guidance_scale,
        generator=torch.Generator().manual_seed(used.seed),
        output_type="np",
        **inputs,
    ).images[0]
    return (pixels * 255).round().astype(np.int16)


def largest_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m_karras", "heun", "dpmpp_sde"])
def test_a_picture_from_words_is_that_of_diffusers_own_call(engine: SDXLEngine, sampler: str) -> None:
    used = settings(sampler=sampler, negative_prompt="a square")
    drawn = engine.draw(used).pixels[0]
    assert drawn.std() > 1
    assert largest_difference(drawn, by_diffusers(engine, used)) <= 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_with_loras_too(engine: SDXLEngine, lora_files: list[Path], count: int) -> None:
    weights = (0.8, 0.5)[:count]
    specs = [LoRASpec(path=file, weight=weight) for file, weight in zip(lora_files, weights, strict=False)]
    from_words = engine.draw(settings(), specs).pixels[0]
    start = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    painted_over = settings(strength=0.7)
    over_a_picture = engine.draw(painted_over, specs, start).pixels[0]
    engine.loras.clear()
    names = []
    with pytest.warns(UserWarning, match="Already found") if count == 2 else _nothing():
        for spec in specs:
            names.append(spec.path.stem)
            engine.txt2img.load_lora_weights(str(spec.path), adapter_name=spec.path.stem)
    try:
        if names:
            engine.txt2img.set_adapters(names, list(weights))
        assert largest_difference(from_words, by_diffusers(engine, settings())) <= 1
        assert largest_difference(over_a_picture, by_diffusers(engine, painted_over, Image.fromarray(start))) <= 1
    finally:
        engine.txt2img.unload_lora_weights()


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_picture_does_not_depend_on_how_many_are_drawn_with_it(engine: SDXLEngine) -> None:
    together = engine.draw(settings(count=3, sampler="euler_a")).pixels
    alone = engine.draw(settings(seed=5, sampler="euler_a")).pixels[0]
    assert np.array_equal(together[2], alone)
    engine.batch = 3
    try:
        batched = engine.draw(settings(count=3, sampler="euler_a")).pixels
    finally:
        engine.batch = 1
    assert [largest_difference(a, b) <= 1 for a, b in zip(together, batched, strict=True)] == [True] * 3


def test_both_pipelines_hold_the_very_modules_that_were_loaded(engine: SDXLEngine) -> None:
    for name, part in engine.modules.parts.items():
        if isinstance(part, torch.nn.Module):
            assert getattr(engine.txt2img, name) is part
            assert getattr(engine.img2img, name) is part
            assert {p.dtype for p in part.parameters()} <= {torch.float32}


def test_the_answer_says_what_was_used_and_every_change(engine: SDXLEngine, lora_files: list[Path]) -> None:
    request = GenerationRequest(
        prompt="a red circle", steps=2, guidance_scale=50, width=512, height=256, loras=(LoRASpec(path=lora_files[3]),)
    )
    result = engine.generate(request).result
    changed = {change.field: (change.requested, change.used) for change in result.corrections}
    assert changed["guidance_scale"] == (50.0, result.settings.guidance_scale)
    assert changed["width"] == (512, result.settings.width)
    assert result.settings.width == 2 * result.settings.height
    assert result.loras[0].matched == 1.0
    assert result.loras[0].weights == {"unet": 1.0}
    assert result.model_sha256 == engine.modules.sha256


def test_progress_is_told_after_each_step_and_a_request_can_be_cancelled_between_two(engine: SDXLEngine) -> None:
    before = engine.draw(settings()).pixels[0]
    seen: list[tuple[int, int]] = []
    cancel = threading.Event()

    def watch(progress: Any) -> None:
        seen.append((progress.step, progress.steps))
        if progress.step == 2:
            cancel.set()

    with pytest.raises(Interrupted):
        engine.draw(settings(steps=5), watch=Observer(on_progress=watch, cancel=cancel))
    assert seen == [(1, 5), (2, 5)]
    assert np.array_equal(engine.draw(settings()).pixels[0], before)


def test_pictures_are_handed_over_one_by_one_and_not_kept(engine: SDXLEngine) -> None:
    taken = []
    watch = Observer(on_picture=lambda result, picture, pixels: taken.append((result.settings.seed, picture.seed)))
    answer = engine.draw(settings(count=2), watch=watch)
    assert taken == [(3, 3), (3, 4)]
    assert answer.pixels == []
    assert [picture.seed for picture in answer.result.pictures] == [3, 4]


def test_a_batch_that_does_not_fit_is_halved(engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.draw(settings(count=3)).pixels
    sizes = []

    def too_small(pipeline: Callable[..., Any]) -> Callable[..., Any]:
        def run(work: Any, conditions: Any, scheduler: Any, generators: list[Any], first: int) -> Any:
            sizes.append(len(generators))
            if len(generators) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return pipeline(work, conditions, scheduler, generators, first)

        return run

    monkeypatch.setattr(engine, "_run_pipeline", too_small(engine._run_pipeline))
    monkeypatch.setattr(engine, "batch", 4)
    drawn = engine.draw(settings(count=3)).pixels
    assert sizes == [3, 1, 1, 1]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_after_one_picture_did_not_fit_the_engine_draws_as_before(
    engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine.draw(settings()).pixels[0]

    kept: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: Any) -> Any:
        tensor_of_the_step = torch.zeros(1)
        kept.append(weakref.ref(tensor_of_the_step))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_run_pipeline", fail)
        with pytest.raises(MemoryPressureError, match="64 x 64"):
            engine.draw(settings())
    assert kept[0]() is None  # no traceback holds the failed step's tensors
    assert np.array_equal(engine.draw(settings()).pixels[0], before)


def test_a_picture_that_cannot_be_decoded_for_want_of_memory_is_refused_and_the_next_one_drawn(
    engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine.draw(settings()).pixels[0]

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine.modules.vae, "decode", fail)
        with pytest.raises(MemoryPressureError, match="64 x 64"):
            engine.draw(settings())
    assert np.array_equal(engine.draw(settings()).pixels[0], before)


def test_other_runtime_errors_are_not_taken_for_memory(engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(engine, "_run_pipeline", fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        engine.draw(settings())


def test_a_step_that_gives_nan_is_named(engine: SDXLEngine) -> None:
    calls = []

    def broken_from_the_second_call(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * torch.nan if len(calls) > 1 else output

    hook = engine.modules.network.conv_out.register_forward_hook(broken_from_the_second_call)
    try:
        with pytest.raises(NonFiniteError, match="step 2") as raised:
            engine.draw(settings())
    finally:
        hook.remove()
    assert "network overflowed" in str(raised.value)
    assert np.isfinite(engine.draw(settings()).pixels[0]).all()


def test_text_states_that_are_nan_are_named_before_anything_is_drawn(engine: SDXLEngine) -> None:
    def broken(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.inf

    encoder = engine.modules.parts["text_encoder_2"]
    embedding = next(module for module in encoder.modules() if isinstance(module, torch.nn.Embedding))
    hook = embedding.register_forward_hook(broken)
    try:
        with pytest.raises(NonFiniteError, match="text embeddings"):
            engine.draw(settings())
    finally:
        hook.remove()


def test_an_autoencoder_that_overflows_in_its_precision_decodes_again_and_says_so(engine: SDXLEngine) -> None:
    expected = engine.draw(settings()).pixels[0]
    vae = engine.modules.vae

    def overflows_in_half(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.inf if output.dtype == torch.bfloat16 else output

    kept = {name: value.clone() for name, value in vae.state_dict().items()}
    hook = next(vae.decoder.children()).register_forward_hook(overflows_in_half)
    vae.to(torch.bfloat16)
    try:
        answer = engine.draw(settings())
    finally:
        hook.remove()
        vae.to(torch.float32).load_state_dict(kept)  # the way through bfloat16 cost the weights their last bits
    assert [finding.name for finding in answer.result.pictures[0].findings] == ["decoded again"]
    assert largest_difference(answer.pixels[0], expected) <= 2  # weights of bfloat16 hold 8 bits


def test_a_black_picture_is_found(engine: SDXLEngine) -> None:
    def black(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, -1.0)

    hook = list(engine.modules.vae.decoder.children())[-1].register_forward_hook(black)
    try:
        answer = engine.draw(settings())
    finally:
        hook.remove()
    assert not answer.pixels[0].any()
    assert answer.result.pictures[0].findings[0].name == "black"


def test_networks_that_are_offloaded_draw_the_same_with_loras(lora_files: list[Path], engine: SDXLEngine) -> None:
    specs = [LoRASpec(path=lora_files[0], weight=0.7)]
    expected = engine.draw(settings(), specs).pixels[0]
    offloaded = SDXLEngine(load_modules("bottega:miniature/weights/sdxl", device="cpu"), offload=True)
    assert np.array_equal(offloaded.draw(settings(), specs).pixels[0], expected)
    assert all(hasattr(offloaded.modules.parts[name], "_hf_hook") for name in ("unet", "text_encoder", "vae"))
    with pytest.raises(StorageError):
        offloaded.draw(settings(), [LoRASpec(path=Path(__file__))])
    assert all(hasattr(offloaded.modules.parts[name], "_hf_hook") for name in ("unet", "text_encoder", "vae"))
    assert np.array_equal(offloaded.draw(settings(), specs).pixels[0], expected)


@pytest.fixture(scope="module")
def pixart() -> PixArtEngine:
    return PixArtEngine(load_modules("bottega:miniature/weights/pixart", device="cpu"))


PIXART = settings(sampler="ddim", width=128, height=128, profile="miniature_pixart")


def test_pixart_takes_loras_too_and_gives_its_own_weights_back(pixart: PixArtEngine, tmp_path: Path) -> None:
    tensors = random_lora(pixart.modules, 4, seed=0, parts=("transformer",))
    save_file(tensors, tmp_path / "pixart.safetensors")
    base = pixart.draw(PIXART).pixels[0]
    answer = pixart.draw(PIXART, [LoRASpec(path=tmp_path / "pixart.safetensors", weight=0.5)])
    assert answer.result.loras[0].weights == {"transformer": 0.5}
    assert largest_difference(answer.pixels[0], base) > 8
    assert np.array_equal(pixart.draw(PIXART).pixels[0], base)


def test_a_lora_for_another_architecture_is_refused_before_the_model_is_touched(
    pixart: PixArtEngine, lora_files: list[Path]
) -> None:
    base = pixart.draw(PIXART).pixels[0]
    with pytest.raises(RequestError, match=r"random0\.safetensors"):
        pixart.draw(PIXART, [LoRASpec(path=lora_files[0])])
    assert np.array_equal(pixart.draw(PIXART).pixels[0], base)


@pytest.mark.parametrize(("steps", "strength"), [(5, 0.0), (5, 0.1), (1, 0.75)])
def test_a_strength_that_leaves_no_step_is_refused_before_the_pipeline_fails(
    engine: SDXLEngine, steps: int, strength: float
) -> None:
    start = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RequestError, match="at least one step again"):
        engine.draw(settings(steps=steps, strength=strength), (), start)
    assert engine.draw(settings(steps=5, strength=0.2), (), start).pixels[0].shape == (64, 64, 3)


def test_pixart_draws_what_diffusers_own_call_draws(pixart: PixArtEngine) -> None:
    engine, used = pixart, PIXART
    drawn = engine.draw(used).pixels[0]
    engine.txt2img.scheduler = make_scheduler("ddim", engine.modules.scheduler_config, "epsilon")
    pixels = engine.txt2img(
        prompt=used.prompt,
        negative_prompt="",
        width=128,
        height=128,
        num_inference_steps=used.steps,
        guidance_scale=used.guidance_scale,
        generator=torch.Generator().manual_seed(used.seed),
        output_type="np",
        use_resolution_binning=False,
        clean_caption=False,
    ).images[0]
    assert largest_difference(drawn, (pixels * 255).round()) <= 1
    with pytest.raises(RequestError, match="image to image needs an SDXL model"):
        engine.draw(used, (), drawn)
    with pytest.raises(RequestError, match=r"no rescaled guidance, received guidance_rescale 0\.5"):
        engine.draw(replace(used, guidance_rescale=0.5))
