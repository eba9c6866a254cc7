"""The teacher with real classes at tiny size: it equals a plain pipeline call, and a picture stands for itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from bottega.miniature.world import painter, render, scene
from bottega.models.loading import load_teacher_pipeline, refuse_fp32
from bottega.runtime.errors import RequestError
from bottega.teacher.config import Protocol
from bottega.teacher.generator import Generator
from bottega.teacher.items import FINITE, INPUTS_FINITE, Item, Settings
from bottega.teacher.protocol import DDIM, SAMPLERS

PROTOCOL = Protocol(steps=5, strength=0.6, size=128)
LEVEL = 1 / 255


@pytest.fixture(scope="module")
def generator(tiny_models: Path) -> Generator:
    return Generator(
        load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu"), PROTOCOL
    )


@pytest.fixture(scope="module")
def plain(tiny_models: Path) -> Any:
    """Another pipeline of the same weights, for the plain call: the generator keeps its encoders to itself."""
    return load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu")


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


def test_it_equals_a_plain_pipeline_call_with_and_without_guidance(generator: Generator, plain: Any) -> None:
    for settings in (Settings.of(PROTOCOL), Settings(5, 0.4, 1.0, 0.8)):
        one = item(0, settings)
        assert np.abs(generator.generate([one])[0] - naive(plain, one, settings)).max() <= LEVEL


def test_the_miniatures_own_weights_paint_what_a_plain_call_paints_by_the_whole_protocol() -> None:
    weights = Path(str(files("bottega"))) / "miniature/weights"
    pipelines = [
        load_teacher_pipeline(weights / "sdxl", weights / "ip_adapter", "float32", "cpu") for _ in ("own", "plain")
    ]
    protocol = Protocol(size=128)
    made = Generator(pipelines[0], protocol).generate([item(0), item(1)], batch=2)
    settings = Settings.of(protocol)
    for one, picture in zip((item(0), item(1)), made, strict=True):
        assert np.abs(picture - naive(pipelines[1], one, settings)).max() <= LEVEL


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
    assert generator.parameters(Settings.of(PROTOCOL)) == {
        **asdict(Settings.of(PROTOCOL)),
        "sampler": "ddim",
        "protocol": PROTOCOL.name,
        "unet_calls": 3,
        "first_timestep": 401,
        "last_timestep": 1,
        "first_snr": pytest.approx(signal / (1 - signal), rel=1e-3),
        "dtype": "float32",
        "encode_dtype": "float32",
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def half(tiny_models: Path) -> Generator:
    """The same models in bfloat16, in which a CPU computes too."""
    return Generator(
        load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "bfloat16", "cpu"), PROTOCOL
    )


def overflowing_below_fp32(generator: Generator, monkeypatch: Any) -> None:
    vae = generator.pipeline.vae
    real = vae.decode

    def decode(latents: torch.Tensor, return_dict: bool = True) -> Any:
        pixels = real(latents, return_dict=False)[0]
        return (pixels if pixels.dtype == torch.float32 else pixels * float("inf"),)

    monkeypatch.setattr(vae, "decode", decode)


def test_a_picture_that_is_not_finite_is_decoded_again_in_fp32_alone_and_says_so(
    half: Generator, monkeypatch: Any
) -> None:
    items = [item(0), item(1)]
    half.encode(items)
    latents = half.denoise(items, 2)
    usual = half.finish(items, latents)
    assert [made.facts["decoded_again"] for made in usual] == [False, False]
    assert usual[0].facts["decode_dtype"] == "bfloat16"
    overflowing_below_fp32(half, monkeypatch)
    for made, before in zip(half.finish(items, latents), usual, strict=True):
        assert made.facts == {"latents_finite": 1.0, "decode_dtype": "float32", "decoded_again": True}
        assert np.abs(made.picture - before.picture).max() < 0.05  # bfloat16 has 8 bits
    assert half.pipeline.vae.dtype == torch.bfloat16


def test_latents_that_are_not_finite_are_told_from_a_decoder_that_overflows(half: Generator) -> None:
    items = [item(0)]
    latents = half.denoise(items, 1)
    latents[0].values[0, 0, 0, 0] = float("nan")
    made = half.finish(items, latents)[0]
    assert 0.99 < made.facts["latents_finite"] < 1
    assert made.facts["decoded_again"]
    assert not np.isfinite(made.picture).all()


def kl_autoencoder(overflow: float = 1.0) -> Any:
    """A random AutoencoderKL; with a large `overflow` its encoder overflows in float16, and not in float32."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(3)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            force_upcast=False,
        ).eval()
    vae.encoder.conv_in.weight.data *= overflow  # the norm after it takes the factor out again
    vae.encoder.conv_in.bias.data *= overflow
    return vae


def with_autoencoder(tiny_models: Path, vae: Any, dtype: str) -> Generator:
    pipeline = load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", dtype, "cpu")
    pipeline.vae = vae.to(pipeline.unet.dtype)
    return Generator(pipeline, PROTOCOL)


@pytest.mark.parametrize(("dtype", "overflow"), [("float16", 3e5), ("float16", 1.0), ("bfloat16", 1.0)])
def test_contents_are_encoded_in_fp32_whatever_the_dtype(tiny_models: Path, dtype: str, overflow: float) -> None:
    made = with_autoencoder(tiny_models, kl_autoencoder(overflow), dtype)
    one = item(0)
    made.encode([one])
    latent = made._latent(one).float()
    vae = made.pipeline.vae
    assert vae.dtype == made.dtype == latent_dtype(dtype), "afterwards it is as it was"
    exact = vae.to(torch.float32)  # the same rounded weights, in exact arithmetic
    pixels = torch.from_numpy(one.content).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = exact.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    rounding = torch.finfo(latent_dtype(dtype)).eps * float(expected.abs().max())
    assert bool(latent.isfinite().all())
    assert float((latent - expected).abs().max()) <= rounding


def latent_dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


@pytest.mark.parametrize(
    ("part", "fact", "words"),
    [
        ("vae.encoder", "content_finite", "the autoencoder's encoder"),
        ("image_encoder", "style_finite", "the image encoder"),
        ("text_encoder_2", "text_finite", "a text encoder"),
    ],
)
def test_an_encoder_that_fails_is_named_and_not_the_u_net(tiny_models: Path, part: str, fact: str, words: str) -> None:
    from bottega.quality.config import Thresholds
    from bottega.quality.grading import grade

    pipeline = load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu")
    module = pipeline
    for name in part.split("."):
        module = getattr(module, name)
    torch.nn.init.constant_(next(module.parameters()), float("nan"))
    made = Generator(pipeline, PROTOCOL)
    one = item(0)
    latents = made.denoise([one], 1)
    facts = made.finish([one], latents)[0].facts
    assert 0 <= facts[fact] < 1  # type: ignore[literal-required]
    assert {name for name in facts if name in INPUTS_FINITE} == {fact}
    (reason,) = grade({"finite": 0.0, **{name: facts[name] for name in FINITE if name in facts}}, Thresholds()).reasons  # type: ignore[literal-required]
    assert words in reason and "latents" not in reason


def test_the_autoencoder_is_upcast_where_its_weights_are_fp16_and_it_overflows_there(tiny_models: Path) -> None:
    def made(dtype: str, upcast: bool | None, force: bool = True) -> torch.dtype:
        pipeline = load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", dtype, "cpu")
        pipeline.vae.register_to_config(force_upcast=force)
        found: torch.dtype = Generator(pipeline, PROTOCOL, upcast_vae=upcast).pipeline.vae.dtype
        return found

    assert made("float16", None) == torch.float32
    assert made("float16", None, force=False) == torch.float16  # an autoencoder that was mended for fp16
    assert made("float16", False) == torch.float16
    assert made("bfloat16", None) == torch.bfloat16
    assert made("bfloat16", True) == torch.float32


def test_encoders_work_once_a_picture_and_are_out_of_the_way_after_it(tiny_models: Path, monkeypatch: Any) -> None:
    pipeline = load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu")
    encoder, text = pipeline.image_encoder, pipeline.text_encoder
    made = Generator(pipeline, PROTOCOL)
    assert (pipeline.image_encoder, pipeline.text_encoder) == (None, None)
    calls = []
    for module in (encoder, text, pipeline.vae.encoder):
        module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    seeds = [Item(**{**vars(item(0)), "seed": seed}) for seed in (0, 1, 2)]
    made.generate(seeds)
    first = len(calls)
    made.generate(seeds)
    assert len(calls) == first
    assert calls.count(type(encoder).__name__) == 1
    assert calls.count(type(pipeline.vae.encoder).__name__) == 1
    assert (pipeline.image_encoder, pipeline.text_encoder) == (None, None)


def test_a_batch_that_is_split_gives_the_same_pictures(generator: Generator) -> None:
    items = [item(i) for i in range(5)]
    for one, other in zip(generator.generate(items, 2), generator.generate(items, 5), strict=True):
        assert np.abs(one - other).max() <= LEVEL


def test_any_sampler_paints_and_each_picture_stands_for_itself(tiny_models: Path) -> None:
    pictures = {}
    for sampler in SAMPLERS:
        pipeline = load_teacher_pipeline(tiny_models / "sdxl", tiny_models / "ip_adapter", "float32", "cpu")
        made = Generator(pipeline, Protocol(steps=5, strength=0.6, size=128, sampler=sampler))
        together = made.generate([item(0), item(1)])
        assert np.abs(together[1] - made.generate([item(1)])[0]).max() <= LEVEL
        pictures[sampler] = together[0]
    assert len({picture.tobytes() for picture in pictures.values()}) == len(SAMPLERS)


def test_fp32_is_refused_for_a_network_of_full_size_before_it_is_loaded(tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    shape, count = [1_000_000, 1000], 10**9
    header = json.dumps({"w": {"dtype": "F16", "shape": shape, "data_offsets": [0, 2 * count]}}).encode()
    with open(folder / "diffusion_pytorch_model.safetensors", "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 2 * count)  # a hole: no bytes on the disk
    with pytest.raises(RequestError, match=r"received float32 for 1\.0 billion weights"):
        refuse_fp32(folder, torch.float32)
    refuse_fp32(folder, torch.bfloat16)
    refuse_fp32(tiny_models / "sdxl/unet", torch.float32)
