"""Attention with a backward pass of its own, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bottega.miniature.builder.attention import attention


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
