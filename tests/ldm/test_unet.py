"""The denoiser: silent at first, then every branch reaches the output, and pictures of a batch are independent."""

from __future__ import annotations

import math

import pytest
import torch

from bottega.ldm.config import UNetConfig
from bottega.ldm.unet import UNet, coord_channels, coord_features, norm, timestep_embedding

from .tiny import alive

CONFIG = UNetConfig(channels=(8, 16, 24), blocks=2, attention_levels=(1, 2), head_width=8, place_octaves=2)
CHANNELS, TEXT = 3, 5


def network(text: int = TEXT, **changes: object) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig.model_validate(CONFIG.model_dump() | changes), CHANNELS, text)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Latents [3, 3, 8, 8], timesteps [3], text [3, 6, 5] of which 6, 3 and 1 tokens count."""
    draw = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(3, CHANNELS, 8, 8, generator=draw),
        "timesteps": torch.tensor([0, 400, 999]),
        "text": torch.randn(3, 6, TEXT, generator=draw),
        "mask": torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True] + [False] * 5]),
    }


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_first_prediction_is_exactly_zero(inputs: dict[str, torch.Tensor], blocks: int) -> None:
    out = network(blocks=blocks)(**inputs)
    assert out.shape == inputs["x"].shape and torch.count_nonzero(out) == 0


def test_the_text_reaches_the_output_once_its_branches_have_values(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    torch.nn.init.normal_(net.leave[2].weight)
    other = {**inputs, "text": inputs["text"] + 1}
    assert torch.equal(net(**inputs), net(**other))  # the branch of the text still begins at zero
    alive(net)
    assert ((net(**inputs) - net(**other)).abs().amax((1, 2, 3)) > 1e-3).all()


def test_a_masked_token_never_changes_the_output_and_one_that_counts_does(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    alive(net)
    before = net(**inputs)
    for token, changed in ((5, [True, False, False]), (2, [True, True, False]), (0, [True, True, True])):
        text = inputs["text"].clone()
        text[:, token] = 1000.0
        moved = (net(**{**inputs, "text": text}) - before).abs().amax((1, 2, 3)) > 0
        assert moved.tolist() == changed


@torch.no_grad()
def test_without_a_mask_every_token_counts(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    alive(net)
    everything = {**inputs, "mask": torch.ones(3, 6, dtype=torch.bool)}
    none = {**inputs, "mask": None}
    assert float((net(**everything) - net(**none)).abs().max()) < 1e-5


@torch.no_grad()
def test_a_picture_alone_is_the_picture_in_a_batch(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    alive(net)
    together = net(**inputs)
    for i in range(3):
        alone = net(**{name: value[i : i + 1] for name, value in inputs.items()})
        assert float((alone[0] - together[i]).abs().max()) < 1e-5 * max(1.0, float(together.abs().max()))


def test_a_gradient_reaches_every_parameter(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    alive(net)
    net(**inputs).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_another_timestep_is_another_output(inputs: dict[str, torch.Tensor]) -> None:
    net = network()
    alive(net)
    later = {**inputs, "timesteps": inputs["timesteps"] + 1}
    assert ((net(**inputs) - net(**later)).abs().amax((1, 2, 3)) > 0).all()


def test_a_network_with_text_refuses_a_call_without_and_one_without_text_needs_none(
    inputs: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(ValueError, match="built with text, so each call needs the tokens"):
        network()(inputs["x"], inputs["timesteps"])
    out = network(text=0)(inputs["x"], inputs["timesteps"])
    assert out.shape == inputs["x"].shape


@torch.no_grad()
def test_a_network_with_pixel_coordinates_tells_left_from_right_and_one_without_cannot() -> None:
    """On a picture that is the same everywhere, a network without coordinates has only the zero padding: symmetric."""
    same, at = torch.ones(1, CHANNELS, 8, 8), torch.tensor([10])
    found = network(text=0, place_octaves=2)
    alive(found)
    out = found(same, at)
    assert float((out - out.flip(3)).abs().max()) > 1e-2
    without = network(text=0, place_octaves=0, attention_levels=())
    assert without.enter.in_channels == CHANNELS and found.enter.in_channels == CHANNELS + coord_channels(2)


@pytest.mark.parametrize("octaves", [1, 2, 4])
def test_coordinates_are_the_centres_of_the_pixels_and_fourier_features_of_them(octaves: int) -> None:
    height, width = 4, 6
    found = coord_features(torch.zeros(2, 3, height, width), octaves)
    assert found.shape == (1, coord_channels(octaves), height, width)
    x, y = found[0, 0], found[0, 1]
    for row in range(height):
        for column in range(width):
            assert float(x[row, column]) == pytest.approx(2 * (column + 0.5) / width - 1, abs=1e-6)
            assert float(y[row, column]) == pytest.approx(2 * (row + 0.5) / height - 1, abs=1e-6)
    assert torch.allclose(x, -x.flip(1)) and torch.allclose(y, -y.flip(0))
    for octave in range(octaves - 1):
        sines, cosines = found[0, 2 + 4 * octave : 4 + 4 * octave], found[0, 4 + 4 * octave : 6 + 4 * octave]
        assert float((sines - torch.sin(math.pi * 2**octave * found[0, :2])).abs().max()) < 1e-5
        assert float((sines**2 + cosines**2 - 1).abs().max()) < 1e-5  # sine and cosine of one angle


def test_the_timestep_embedding_is_vaswanis() -> None:
    found = timestep_embedding(torch.tensor([0, 7, 999]), 8)
    for row, t in enumerate((0, 7, 999)):
        wanted = [math.cos(t / 10_000 ** (k / 4)) for k in range(4)] + [
            math.sin(t / 10_000 ** (k / 4)) for k in range(4)
        ]
        assert found[row].tolist() == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(
    ("width", "groups"), [(8, 1), (16, 2), (24, 3), (64, 8), (256, 32), (512, 32), (6, 1), (20, 2)]
)
def test_groups_hold_eight_channels_or_more(width: int, groups: int) -> None:
    assert norm(width).num_groups == groups
