"""The sampler against diffusers, against the geometry of the training, and through the public path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import torch_generator
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.backbone import Backbone
from bottega.student.config import AdapterConfig, SamplingConfig
from bottega.student.inference import (
    PixArtParts,
    StylizeInputs,
    draw_latents,
    load_parts,
    start_timestep,
    stylize,
)
from bottega.visual.pictures import to_uint8

N = 3


@pytest.fixture(scope="module")
def parts(tiny_models: Path) -> PixArtParts:
    return load_parts(tiny_models / "pixart", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def request_(parts: PixArtParts) -> dict[str, Any]:
    """Three contents as pictures, their embeddings, captions of different lengths, seeds."""
    draw = torch.Generator().manual_seed(3)
    width = parts.backbone.transformer.config.caption_channels
    unit = torch.nn.functional.normalize
    return {
        "contents": np.random.default_rng(1).integers(0, 256, (N, 128, 128, 3), dtype=np.uint8),
        "styles_clip": unit(torch.randn(N, 16, generator=draw), dim=-1),
        "contents_clip": unit(torch.randn(N, 16, generator=draw), dim=-1),
        "prompts": [torch.randn(length, width, generator=draw) for length in (9, 3, 5)],
        "seeds": [11, 12, 13],
    }


def adapter_of(parts: PixArtParts, **config: Any) -> StyleAdapter:
    geometry = Geometry.of(parts.backbone.transformer, 1000, 16)
    settings = AdapterConfig(**({"initial_gate": 0.5, "strength": 0.4} | config))
    return StyleAdapter.from_transformer(parts.backbone.transformer, settings, geometry).requires_grad_(False)


FAST = SamplingConfig(steps=3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])  # the published PixArt, and the miniature's
def test_the_base_from_noised_content_equals_diffusers_ddim(
    parts: PixArtParts, request_: dict[str, Any], prediction_type: str
) -> None:
    schedule = replace(parts.backbone.schedule, prediction_type=prediction_type)
    backbone = Backbone(parts.backbone.transformer, schedule, parts.backbone.pixels_per_cell)
    ours = stylize(
        replace(parts, backbone=backbone),
        None,
        request_["contents"][:1],
        None,
        None,
        request_["prompts"][:1],
        [11],
        sampling=SamplingConfig(steps=4),
        strength=0.4,
    )
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    scheduler.register_to_config(prediction_type=prediction_type)
    z = parts.vae.encode(request_["contents"][:1])
    noise = torch.randn(z.shape[1:], generator=torch_generator("student", 11))[None]
    scheduler.set_timesteps(10)  # strides of 100, as four steps from 399 are
    x = scheduler.add_noise(z, noise, torch.tensor([399]))
    for t in (399, 299, 199, 99):
        with torch.no_grad():
            out = parts.backbone.transformer(
                x,
                encoder_hidden_states=request_["prompts"][0][None],
                timestep=torch.tensor([t]),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        x = scheduler.step(out[:, :4], t, x).prev_sample
    assert float(np.abs(ours - parts.vae.decode(x)).max()) < 5e-4


@pytest.mark.parametrize("mode", ["sdedit", "paired", "latent"])
def test_a_style_scale_of_zero_draws_the_bases_picture_to_the_bit(
    parts: PixArtParts, request_: dict[str, Any], mode: str
) -> None:
    off = FAST.model_copy(update={"style_scale": 0.0})
    adapter = adapter_of(parts, content_mode=mode)
    styled, plain, base = (
        stylize(parts, adapter, **request_, sampling=FAST),
        stylize(parts, adapter, **request_, sampling=off),
        stylize(parts, None, **request_, sampling=FAST, strength=0.4),
    )
    assert float(np.abs(plain - base).max()) == 0.0
    assert float(np.abs(styled - base).max()) > 1e-3


def test_with_the_null_style_a_picture_depends_on_no_style(parts: PixArtParts, request_: dict[str, Any]) -> None:
    """As the structure task was trained: whatever picture is handed in as the style, its tokens are the null ones."""
    adapter = adapter_of(parts)
    given = {**request_, "contents": parts.vae.encode(request_["contents"])}
    seeds = given.pop("seeds")
    start = start_timestep(parts.backbone.schedule, adapter, None)

    def draw(styles: torch.Tensor, *, null_style: bool) -> torch.Tensor:
        inputs = StylizeInputs(**{**given, "styles_clip": styles}, null_style=null_style)
        return draw_latents(parts, adapter, inputs, seeds, start, FAST)

    styles, others = given["styles_clip"], given["styles_clip"].flip(0)
    without = draw(styles, null_style=True)
    assert torch.equal(without, draw(others, null_style=True))
    assert float((without - draw(styles, null_style=False)).abs().max()) > 1e-3


def test_a_picture_does_not_depend_on_its_place_in_the_batch(parts: PixArtParts, request_: dict[str, Any]) -> None:
    adapter = adapter_of(parts)
    together = stylize(parts, adapter, **request_, sampling=FAST)
    alone = stylize(parts, adapter, **request_, sampling=FAST, batch_size=1)
    assert float(np.abs(together - alone).max()) < 1e-4
    again = stylize(parts, adapter, **request_, sampling=FAST)
    assert float(np.abs(together - again).max()) == 0.0
    assert (
        float(np.abs(together - stylize(parts, adapter, **{**request_, "seeds": [1, 2, 3]}, sampling=FAST)).max())
        > 1e-3
    )


def test_contents_may_be_handed_in_as_latents(parts: PixArtParts, request_: dict[str, Any]) -> None:
    latents = parts.vae.encode(request_["contents"])
    one = stylize(
        parts, None, request_["contents"], None, None, request_["prompts"], [1, 2, 3], sampling=FAST, strength=0.5
    )
    two = stylize(parts, None, latents, None, None, request_["prompts"], [1, 2, 3], sampling=FAST, strength=0.5)
    assert float(np.abs(one - two).max()) == 0.0


@pytest.mark.parametrize(("text", "style"), [(2.0, 1.0), (1.0, 2.0), (2.5, 3.0)])
def test_guidance_is_its_equation(parts: PixArtParts, request_: dict[str, Any], text: float, style: float) -> None:
    from bottega.student.attach import Attachment
    from bottega.student.sampler import Sampler

    adapter, null = adapter_of(parts), torch.randn(1, parts.backbone.transformer.config.caption_channels)
    attachment = Attachment(parts.backbone.transformer, adapter)
    try:

        def batch(t: float, s: float) -> Any:
            sampling = SamplingConfig(text_guidance=t, style_guidance=s)
            return Sampler(
                parts.backbone,
                attachment,
                sampling,
                request_["styles_clip"],
                request_["contents_clip"],
                request_["prompts"],
                null,
            )

        x, times = torch.randn(N, 4, 32, 32), torch.full((N,), 200)
        with torch.no_grad():
            guided = batch(text, style).epsilon(x, times)
            plain = batch(2.0, 2.0)
            e = {
                (t, s): plain._branches(
                    x, times, plain.text if t else plain.null, [plain.tokens if s else plain.null_tokens]
                )[0]
                for t in (0, 1)
                for s in (0, 1)
            }
    finally:
        attachment.detach()
    if style == 1.0:
        oracle = e[0, 1] + text * (e[1, 1] - e[0, 1])
    else:
        oracle = e[0, 0] + text * (e[1, 0] - e[0, 0]) + style * (e[1, 1] - e[1, 0])
    assert float((guided - oracle).abs().max()) < 1e-4


def test_an_adapter_of_pure_noise_sees_the_content_through_its_own_path_alone(
    parts: PixArtParts, request_: dict[str, Any]
) -> None:
    adapter = adapter_of(parts, content_mode="latent", start="noise")
    assert start_timestep(parts.backbone.schedule, adapter, None) == 999
    other = {**request_, "contents": request_["contents"][::-1].copy()}
    one, two = stylize(parts, adapter, **request_, sampling=FAST), stylize(parts, adapter, **other, sampling=FAST)
    assert float(np.abs(one - two).max()) == 0.0  # the path starts as zero, and nothing else shows the content
    torch.nn.init.normal_(adapter.content.out.weight, std=0.1)  # type: ignore[union-attr]
    three, four = stylize(parts, adapter, **request_, sampling=FAST), stylize(parts, adapter, **other, sampling=FAST)
    assert float(np.abs(three - four).max()) > 1e-3


def test_another_strength_than_the_trained_one_is_refused_where_the_path_depends_on_it(parts: PixArtParts) -> None:
    assert start_timestep(parts.backbone.schedule, adapter_of(parts, content_mode="sdedit"), 0.7) == 699
    assert (
        start_timestep(parts.backbone.schedule, adapter_of(parts), 0.4)
        == start_timestep(parts.backbone.schedule, adapter_of(parts), None)
        == 399
    )
    with pytest.raises(RequestError, match=r"trained for strength 0\.4 alone, received 0\.7"):
        start_timestep(parts.backbone.schedule, adapter_of(parts), 0.7)
    with pytest.raises(RequestError, match="strength"):
        start_timestep(parts.backbone.schedule, None, None)


def test_what_is_not_finite_is_named_before_it_is_rounded(parts: PixArtParts, request_: dict[str, Any]) -> None:
    latents = parts.vae.encode(request_["contents"])
    latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"seeds \[12\]"):
        stylize(parts, adapter_of(parts), **{**request_, "contents": latents}, sampling=FAST)
    with pytest.raises(NonFiniteError, match="NaN"):
        to_uint8(np.array([[[np.nan]]], dtype=np.float32))
    assert to_uint8(np.array([0.0, 0.5, 1.0, 1.2], dtype=np.float32)).tolist() == [0, 128, 255, 255]


def test_conditions_that_are_lacking_are_asked_for(parts: PixArtParts, request_: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="null_prompt"):
        stylize(parts, adapter_of(parts), **request_, sampling=SamplingConfig(text_guidance=3.0))
    with pytest.raises(RequestError, match="styles_clip"):
        stylize(parts, adapter_of(parts), **{**request_, "styles_clip": None}, sampling=FAST)
