"""Pictures to latents and back: what interpolation keeps exactly, and a real autoencoder behind the same interface."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bottega.data.circles import draw_circle
from bottega.ldm.autoencoder import DiffusersVAE, MockVAE, open_autoencoder
from bottega.ldm.config import AutoencoderConfig
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError

SHIPPED = "bottega:miniature/weights/pixart/vae"


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_picture_of_one_colour_comes_back_exactly(factor: int) -> None:
    colours = np.array([(0, 0, 0), (255, 255, 255), (255, 0, 0), (17, 130, 201)], np.uint8)
    pictures = np.broadcast_to(colours[:, None, None], (4, 16, 16, 3)).copy()
    vae = MockVAE(factor)
    latents = vae.encode(pictures)
    assert latents.shape == (4, 3, 16 // factor, 16 // factor) and latents.dtype == torch.float32
    drawn = vae.decode(latents)
    assert drawn.dtype == np.float32 and np.array_equal(np.round(drawn * 255).astype(np.uint8), pictures)
    assert float(np.abs(drawn - pictures / 255).max()) < 1e-6


def test_a_latent_is_the_mean_of_its_square_in_minus_one_to_one() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    latents = MockVAE(4).encode(picture)
    squares = picture.reshape(2, 2, 4, 3, 4, 3).mean(axis=(2, 4)) / 127.5 - 1  # [2, 2, 3, 3]
    assert float(np.abs(latents.permute(0, 2, 3, 1).numpy() - squares).max()) < 1e-6


def test_without_a_factor_nothing_is_lost() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    vae = MockVAE(1)
    assert np.array_equal(np.round(vae.decode(vae.encode(picture)) * 255), picture)


@pytest.mark.parametrize("kind", ["mock", "diffusers"])
def test_what_lies_outside_is_clipped_and_nan_stays_nan(kind: str) -> None:
    vae = open_autoencoder(AutoencoderConfig(kind=kind, model=SHIPPED if kind == "diffusers" else None), "cpu")
    shape = vae.encode(np.zeros((1, 32, 32, 3), np.uint8)).shape
    wild = vae.decode(100 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert wild.min() >= 0 and wild.max() <= 1 and wild.max() > wild.min()
    assert np.isnan(vae.decode(torch.full(shape, float("nan")))).all()


def test_a_real_autoencoder_gives_diffusers_own_latents_and_its_picture_back() -> None:
    from diffusers import AutoencoderTiny

    pictures = np.stack([draw_circle(0.5, 0.5, 0.3, a, b, 128)[1] for a, b in (("teal", "gold"), ("white", "indigo"))])
    vae = DiffusersVAE(SHIPPED, "cpu")
    latents = vae.encode(pictures)
    peer = AutoencoderTiny.from_pretrained(resolve(SHIPPED), low_cpu_mem_usage=False).eval()
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        wanted = peer.encode(pixels).latents * peer.config.scaling_factor
        back = (peer.decode(wanted / peer.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert latents.shape == wanted.shape and float((latents - wanted).abs().max()) < 1e-4
    drawn = vae.decode(latents)
    assert float(np.abs(drawn - back.numpy()).max()) < 1e-4
    distance = np.abs(drawn[:, None] - pictures[None] / 255).mean(axis=(2, 3, 4))  # [2, 2]
    assert distance.argmin(axis=1).tolist() == [0, 1] and distance.diagonal().max() < 0.1


def test_facts_tell_autoencoders_apart_by_what_they_do_and_not_by_where_they_lie(tmp_path: Path) -> None:
    shutil.copytree(resolve(SHIPPED), tmp_path / "elsewhere")
    assert DiffusersVAE(SHIPPED, "cpu").facts == DiffusersVAE(str(tmp_path / "elsewhere"), "cpu").facts
    assert MockVAE(4).facts != MockVAE(8).facts


def test_an_autoencoder_that_is_absent_is_reported_with_the_way_to_get_it() -> None:
    with pytest.raises(MissingError, match="bottega models fetch nobody/nothing"):
        open_autoencoder(AutoencoderConfig(kind="diffusers", model="nobody/nothing"))
