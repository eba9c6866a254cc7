"""Attention with a backward pass of its own, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bottega.miniature.builder.attention import MaskedAttention, attention


def _inputs(dtype: torch.dtype, keys: int, size: float = 2.0) -> list[torch.Tensor]:
    """Query, key and value; with `size`, the deviation of query and key, scores grow by its square."""
    generator = torch.Generator().manual_seed(3)
    inputs = []
    for length, deviation in ((64, size), (keys, size), (keys, 2.0)):
        values = deviation * torch.randn(2, 3, length, 32, generator=generator)
        inputs.append(values.to(dtype).requires_grad_())
    return inputs


@pytest.mark.parametrize("keys", [64, 77, 4])
def test_results_and_gradients_are_those_of_pytorch(keys: int) -> None:
    inputs = _inputs(torch.float32, keys)
    outward = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(4))
    ours, theirs = attention(*inputs), functional.scaled_dot_product_attention(*inputs)
    assert torch.allclose(ours, theirs, atol=1e-6)
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs, outward), torch.autograd.grad(theirs, inputs, outward), strict=True
    ):
        assert torch.allclose(mine, reference, atol=2e-5)


@pytest.mark.parametrize("size", [2.0, 20.0])  # scores of up to 20, and of up to 2 000 as trained networks have them
def test_gradients_in_bfloat16_are_as_near_as_its_rounding(size: float) -> None:
    inputs = _inputs(torch.bfloat16, 77, size)
    exact = [values.detach().float().requires_grad_() for values in inputs]
    outward = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    ours = torch.autograd.grad(attention(*inputs), inputs, outward)
    right = torch.autograd.grad(functional.scaled_dot_product_attention(*exact), exact, outward.float())
    for mine, reference in zip(ours, right, strict=True):
        assert float((mine.float() - reference).norm() / reference.norm()) < 0.01


def test_pixarts_attention_is_diffusers_own_with_a_mask() -> None:
    from bottega.miniature.builder import architectures

    torch.manual_seed(0)
    transformer = architectures.pixart().eval()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    given = {
        "encoder_hidden_states": torch.randn(2, 5, 128),
        "encoder_attention_mask": mask,
        "timestep": torch.tensor([10, 900]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        expected = transformer(x, **given).sample
        transformer.set_attn_processor(MaskedAttention())
        found = transformer(x, **given).sample
        given["encoder_hidden_states"] = given["encoder_hidden_states"] + 5.0 * (mask == 0)[..., None]
        masked = transformer(x, **given).sample
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(masked, found, atol=1e-5)  # what the mask leaves out is not read
