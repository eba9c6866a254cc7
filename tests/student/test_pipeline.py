"""A trained adapter in diffusers' own PixArtAlphaPipeline; tests/test_documented_python.py runs the page's lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.models.loading import load_pixart_parts
from bottega.runtime.errors import RequestError
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.backbone import Backbone, read_schedule
from bottega.student.config import AdapterConfig
from bottega.student.export import load_adapter, read_header, save_adapter
from bottega.student.pipeline import in_style, styled

from .reference import forward

Embeddings = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def pipe(tiny_models: Path) -> Any:
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline(**load_pixart_parts(tiny_models / "pixart", dtype="float32", device="cpu"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    draw = torch.Generator().manual_seed(4)
    one, two = torch.nn.functional.normalize(torch.randn(2, 1, 128, generator=draw), dim=-1)
    return one, two


def adapter_of(pipe: Any, folder: Path, **config: Any) -> StyleAdapter:
    geometry = Geometry.of(pipe.transformer, 1000, 128)
    made = StyleAdapter.from_transformer(pipe.transformer, AdapterConfig(initial_gate=0.5, **config), geometry)
    if made.content is not None:
        torch.nn.init.normal_(made.content.out.weight, std=0.1)
    save_adapter(folder / "adapter.safetensors", made, {})
    return load_adapter(folder / "adapter.safetensors")[0]


def draw(pipe: Any) -> np.ndarray:
    result = pipe(
        "a red circle",
        num_inference_steps=2,
        guidance_scale=2.0,
        height=128,
        width=128,
        use_resolution_binning=False,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    )
    return np.asarray(result.images[0])


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)  # diffusers
def test_the_pipeline_draws_in_the_style_and_afterwards_as_before(
    pipe: Any, embeddings: Embeddings, tmp_path: Path
) -> None:
    plain = draw(pipe)
    with styled(pipe.transformer, adapter_of(pipe, tmp_path), *embeddings):
        changed = draw(pipe)
    assert float(np.abs(changed - plain).max()) > 1e-3
    assert float(np.abs(draw(pipe) - plain).max()) == 0.0


@pytest.mark.parametrize(("mode", "octaves"), [("paired", 0), ("latent", 2)])
def test_it_injects_what_the_students_own_forward_injects(
    pipe: Any, embeddings: Embeddings, tmp_path: Path, mode: str, octaves: int
) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode=mode, place_octaves=octaves)
    for layer in adapter.style_layers() if octaves else []:
        torch.nn.init.normal_(layer.to_place.weight)  # type: ignore[union-attr]
    backbone = Backbone(pipe.transformer, read_schedule(pipe.scheduler), 4)
    latents, content = torch.randn(2, 4, 32, 32), torch.randn(1, 4, 32, 32)
    text, mask, times = torch.randn(2, 5, 128), torch.ones(2, 5), torch.tensor([300])
    with torch.no_grad():
        tokens = adapter.style(*embeddings, torch.tensor([False]))[0]
        own = forward(
            backbone, adapter, latents, times.expand(2), text, mask, tokens.repeat(2, 1, 1), content.repeat(2, 1, 1, 1)
        )
        with styled(pipe.transformer, adapter, *embeddings, content_latents=content):
            theirs = pipe.transformer(latents, text, timestep=times.expand(2), encoder_attention_mask=mask).sample
    assert float((own - theirs).abs().max()) < 1e-5


def test_what_it_needs_is_asked_for(pipe: Any, embeddings: Embeddings, tmp_path: Path) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode="latent")
    with pytest.raises(RequestError, match="content_latents"), styled(pipe.transformer, adapter, *embeddings):
        pass


def test_what_clip_returns_may_be_handed_in_as_it_is(pipe: Any, embeddings: Embeddings, tmp_path: Path) -> None:
    adapter = adapter_of(pipe, tmp_path, scene_removal="projection")
    arrays = [one.numpy() for one in embeddings]
    drawn = []
    for style, content, caption in ((*embeddings, embeddings[1]), (*arrays, arrays[1])):
        with styled(pipe.transformer, adapter, style, content, caption=caption):
            drawn.append(noise_of(pipe, torch.ones(1, 4, 32, 32)))
    assert torch.equal(*drawn)


def noise_of(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """What the transformer says of latents [B, 4, 32, 32]; the text is the same for all."""
    with torch.no_grad():
        said: torch.Tensor = pipe.transformer(
            latents,
            torch.linspace(-1, 1, 5 * 128).reshape(1, 5, 128).expand(len(latents), -1, -1),
            timestep=torch.full((len(latents),), 300),
            encoder_attention_mask=torch.ones(len(latents), 5),
        ).sample
    return said


@pytest.mark.parametrize("mode", ["sdedit", "paired", "latent"])
def test_a_style_scale_of_zero_is_the_base_to_the_bit_whatever_was_learned(
    pipe: Any, embeddings: Embeddings, tmp_path: Path, mode: str
) -> None:
    adapter, latents, content = (
        adapter_of(pipe, tmp_path, content_mode=mode),
        torch.randn(2, 4, 32, 32),
        torch.randn(1, 4, 32, 32),
    )
    said = {}
    for scale in (0.0, 1e-6, 1.0, 2.0):
        with styled(pipe.transformer, adapter, *embeddings, style_scale=scale, content_latents=content):
            said[scale] = noise_of(pipe, latents)
    base = noise_of(pipe, latents)
    assert torch.equal(said[0.0], base)
    assert float((said[1e-6] - base).abs().max()) < 1e-4, "no jump beside zero"
    assert float((said[1.0] - base).abs().max()) > 1e-3
    assert not torch.equal(said[2.0], said[1.0])


def test_above_one_the_gates_alone_grow(pipe: Any, embeddings: Embeddings, tmp_path: Path) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode="latent")
    hidden, content = torch.zeros(1, 64, adapter.geometry.width), torch.randn(1, 4, 32, 32)
    paths = [adapter.with_content(hidden, content, scale) for scale in (0.0, 0.5, 1.0, 4.0)]
    assert torch.equal(paths[0], hidden)
    assert torch.equal(paths[1], paths[2] / 2)
    assert torch.equal(paths[3], paths[2])


def pictures(pipe: Any, **options: Any) -> list[np.ndarray]:
    result = pipe(
        num_inference_steps=2,
        height=128,
        width=128,
        use_resolution_binning=False,
        output_type="np",
        **options,
    )
    return [np.asarray(image) for image in result.images]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_several_prompts_with_several_pictures_each_get_their_own_style(
    pipe: Any, tmp_path: Path, guidance: float
) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode="latent")
    draw = torch.Generator().manual_seed(6)
    styles = torch.nn.functional.normalize(torch.randn(2, 128, generator=draw), dim=-1)
    contents = torch.nn.functional.normalize(torch.randn(2, 128, generator=draw), dim=-1)
    latents = torch.randn(2, 4, 32, 32, generator=draw)
    noise = torch.randn(4, 4, 32, 32, generator=draw)
    prompts = ["a red circle", "a blue square"]

    with styled(pipe.transformer, adapter, styles, contents, content_latents=latents, num_images_per_prompt=2):
        together = pictures(pipe, prompt=prompts, num_images_per_prompt=2, guidance_scale=guidance, latents=noise)
    for i in range(4):
        one = slice(i // 2, i // 2 + 1)
        with styled(pipe.transformer, adapter, styles[one], contents[one], content_latents=latents[one]):
            alone = pictures(pipe, prompt=prompts[i // 2], guidance_scale=guidance, latents=noise[i : i + 1])
        assert float(np.abs(together[i] - alone[0]).max()) < 1e-4, f"picture {i}"


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_number_of_pictures_that_pairs_with_no_style_is_refused(pipe: Any, tmp_path: Path, guidance: float) -> None:
    adapter = adapter_of(pipe, tmp_path)
    styles = torch.nn.functional.normalize(torch.randn(2, 128), dim=-1)
    with (
        styled(pipe.transformer, adapter, styles, styles),
        pytest.raises(RequestError, match=r"2 prompts of 1 pictures each, the pipeline draws 4 pictures.*num_images"),
    ):
        pictures(pipe, prompt=["a", "b"], num_images_per_prompt=2, guidance_scale=guidance)
    assert adapter.blocks and noise_of(pipe, torch.zeros(3, 4, 32, 32)).shape[0] == 3, "afterwards it is as before"


def test_what_the_pipeline_has_no_place_for_is_refused(pipe: Any, tmp_path: Path) -> None:
    from bottega.models.encoders import ClipEncoder

    paired = adapter_of(pipe, tmp_path, content_mode="paired")
    header = read_header(tmp_path / "adapter.safetensors")
    clip = object.__new__(ClipEncoder)  # nothing is asked of it before the request is refused
    style = np.zeros((128, 128, 3), np.uint8)
    guided = {**header, "sampling": {"style_guidance": 2.0}}
    for told, content, words in (
        (guided, style, "style_guidance 2"),
        ({**header, "sampling": {}}, None, "received none"),
    ):
        with pytest.raises(RequestError, match=words), in_style(pipe, paired, told, clip, style, content):  # type: ignore[arg-type]
            pass
