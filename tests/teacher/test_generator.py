"""The teacher with real classes at tiny size: it equals a plain pipeline call, and a picture stands for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from bottega.miniature.world import painter, render, scene
from bottega.models.loading import load_teacher_pipeline
from bottega.runtime.errors import RequestError
from bottega.teacher.config import Protocol
from bottega.teacher.generator import Bounded, Generator
from bottega.teacher.items import Item, Settings
from bottega.teacher.protocol import DDIM

PROTOCOL = Protocol(steps=5, strength=0.6, size=128)
LEVEL = 1 / 255


@pytest.fixture(scope="module")
def generator(tiny_models: Path) -> Generator:
    return Generator(
        load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu"), PROTOCOL
    )


def item(i: int, settings: Settings | None = None) -> Item:
    view = scene(90_000 + i)
    style = render(scene(91_000 + i), painter(i), 0)
    return Item(f"c{i}_s{i}", f"c{i}", f"s{i}", view.caption(0), 0, render(view, None), style, settings=settings)


def naive(pipeline: Any, one: Item, settings: Settings) -> np.ndarray:
    """What anybody would write: PIL pictures in, the style picture given as a picture."""
    pipeline.scheduler = DDIMScheduler(**DDIM)
    pipeline.set_ip_adapter_scale(settings.ip_adapter_scale)
    return pipeline(
        prompt=one.prompt,
        image=Image.fromarray(one.content),
        ip_adapter_image=Image.fromarray(one.style),
        strength=settings.strength,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(one.noise_seed),
        output_type="np",
    ).images[0]


def test_it_equals_a_plain_pipeline_call_with_and_without_guidance(generator: Generator) -> None:
    for settings in (Settings.of(PROTOCOL), Settings(5, 0.4, 1.0, 0.8)):
        one = item(0, settings)
        assert np.abs(generator.generate([one])[0] - naive(generator.pipeline, one, settings)).max() <= LEVEL


def test_a_picture_does_not_depend_on_its_batch_its_place_or_mixed_settings(generator: Generator) -> None:
    items = [item(i, Settings(5, 0.6, 3.5, 0.3 + 0.2 * (i % 2))) for i in range(3)]
    together = generator.generate(items)
    backwards = generator.generate(items[::-1])[::-1]
    for one, batched, reversed_ in zip(items, together, backwards, strict=True):
        assert np.abs(batched - generator.generate([one])[0]).max() <= LEVEL
        assert np.abs(batched - reversed_).max() <= LEVEL


def test_the_same_request_gives_the_same_bits_and_another_style_or_seed_another_picture(generator: Generator) -> None:
    one = item(1)
    first = generator.generate([one])[0]
    assert np.array_equal(first, generator.generate([one])[0])
    other_seed = Item(one.pair_id, one.content_id, one.style_id, one.prompt, 1, one.content, one.style)
    other_style = Item(one.pair_id, one.content_id, one.style_id, one.prompt, 0, one.content, item(2).style)
    for different in (other_seed, other_style):
        assert np.abs(first - generator.generate([different])[0]).max() > LEVEL


def test_pictures_are_floats_in_0_to_1_and_a_broken_value_is_left_in(generator: Generator, monkeypatch: Any) -> None:
    picture = generator.generate([item(0)])[0]
    assert picture.dtype == np.float32
    assert picture.shape == (128, 128, 3)
    assert 0 <= picture.min() <= picture.max() <= 1
    real = generator.pipeline.vae.decode

    def overflowing(latents: torch.Tensor, return_dict: bool = True) -> Any:
        pixels = real(latents, return_dict=False)[0]
        pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = float("nan"), float("inf")
        return (pixels,)

    monkeypatch.setattr(generator.pipeline.vae, "decode", overflowing)
    broken = generator.generate([item(0)])[0]
    assert np.isnan(broken[0, 0, 0])
    assert np.isposinf(broken[0, 1, 0])


def test_the_round_trip_is_the_contents_own_reconstruction(generator: Generator) -> None:
    one = item(0)
    pixels = torch.from_numpy(one.content).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        back = generator.pipeline.vae(pixels).sample[0]
    expected = ((back / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    trip = generator.round_trip(one)
    assert trip is not None
    assert np.abs(trip.astype(int) - expected.astype(int)).max() <= 1


def test_contents_of_another_size_and_sizes_that_do_not_fit_are_refused(generator: Generator) -> None:
    small = Item("c_s", "c", "s", "a", 0, np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(RequestError, match=r"teacher\.size = 128"):
        generator.generate([small])


def test_what_is_recorded_of_a_try_is_what_was_run(generator: Generator) -> None:
    signal = float(generator.pipeline.scheduler.alphas_cumprod[401])
    assert generator.effective(Settings.of(PROTOCOL)) == {
        "unet_calls": 3,
        "first_timestep": 401,
        "last_timestep": 1,
        "first_snr": pytest.approx(signal / (1 - signal), rel=1e-3),
        "dtype": "float32",
        "device": "cpu",
    }


def test_a_cache_holds_what_was_used_last_and_no_more() -> None:
    cache = Bounded(2)
    computed = []
    for key in "abaca":
        cache.get(key, lambda key=key: computed.append(key))
    assert computed == ["a", "b", "c"]
    cache.get("b", lambda: computed.append("b again"))
    assert computed[-1] == "b again"
