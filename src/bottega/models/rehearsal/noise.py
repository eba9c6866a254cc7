"""The values of random weights: finite through every network in float16, equal on every machine, and quick to make.

One block of normal numbers is drawn once. A tensor is this block from a place that its name decides, over and over,
times a standard deviation that its kind decides. The block's length is prime, so that the rows of a matrix differ.

Activations stay near 1: a matrix of n inputs has the deviation 1 / √n, norms are 1, biases 0, and what is added to a
residual stream of dozens of blocks is a tenth of that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottega.runtime.seeds import derive, torch_generator

if TYPE_CHECKING:
    import torch

_LENGTH = 4_194_301
"""Numbers of a block: a prime, 16 MB in float32. Small enough for the cache of a processor, so that disks set the pace:
a fresh draw for every tensor would take four minutes for T5 alone."""

_RESIDUAL = re.compile(
    r".*(\.out_proj|\.c_proj|\.fc2|\.to_out\.0|\.o_proj|\.proj_attn|\.ff\.net\.2|\.net\.2|\.SelfAttention\.o|\.wo"
    r"|\.conv2|\.out_layers\.3|attentions\.\d+\.proj_out|\.\d+\.1\.proj_out|middle_block\.1\.proj_out|\.attn_1\.proj_out"
    r"|\.output\.dense|adaln_single\.linear|\.lora_up)\.weight"
)
"""Matrices whose product is added to what comes before, and PixArt's modulation, which scales all blocks."""

_TABLES: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"shared\.weight|encoder\.embed_tokens\.weight"), 1.0),
    (re.compile(r".*relative_attention_bias\.weight"), 0.1),
    (re.compile(r".*(token_embedding|position_embedding|positional_embedding|position_embeddings).*"), 0.02),
    (re.compile(r".*(class_embedding|cls_token)"), 0.02),
    (re.compile(r".*scale_shift_table|.*y_embedding"), 0.02),
)
"""Tensors that no input is multiplied with: deviations near those of trained ones."""

_T5_QUERY = re.compile(r".*SelfAttention\.q\.weight")
_T5_HEAD = 64
"""T5 does not divide its scores by √d; its queries are small instead."""

_LPIPS = re.compile(r"lin\d\.model\.1\.weight")

_NUMBERS = {"logit_scale": 4.6052, "alpha": 16.0}
"""Tensors of a single number: log 100, where CLIP's training stops; a LoRA's alpha, here its rank."""


@dataclass(frozen=True)
class Fill:
    """What a tensor holds: whole numbers from 0 on, one value, or normal numbers of a standard deviation."""

    deviation: float = 0.0
    value: float = 0.0
    counts: bool = False


def fill_of(name: str, shape: tuple[int, ...]) -> Fill:
    """What a tensor holds, by its name in any of the published layouts and its shape."""
    if name.endswith("position_ids"):
        return Fill(counts=True)
    if not shape:
        return Fill(value=_NUMBERS[name.rpartition(".")[2]])
    for pattern, deviation in _TABLES:
        if pattern.fullmatch(name):
            return Fill(deviation)
    if _LPIPS.fullmatch(name):
        return Fill(value=1 / shape[1])  # trained ones are positive, so that a distance is
    if len(shape) == 1:
        is_scale = name.endswith("weight")
        return Fill(value=1.0 if is_scale else 0.0)
    inputs = math.prod(shape[1:])
    deviation = 1 / math.sqrt(inputs)
    if _RESIDUAL.fullmatch(name):
        deviation *= 0.1
    if _T5_QUERY.fullmatch(name):
        deviation /= math.sqrt(_T5_HEAD)
    return Fill(deviation)


class NoiseSource:
    """Tensors of normal numbers, each by its name.

    Args:
        seed: another one gives other weights.
    """

    def __init__(self, seed: int) -> None:
        import torch

        self._seed = seed
        self._block = torch.randn(_LENGTH, generator=torch_generator("rehearsal", seed), dtype=torch.float32)

    def pieces(self, name: str, count: int, fill: Fill, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """The values of a tensor in order, in pieces of a block at most.

        Args:
            name: of the tensor; two names give two different places in the block.
            count: numbers in the tensor.
            fill: what it holds.
            dtype: of the pieces.
        """
        import torch

        if fill.counts:
            yield torch.arange(count).to(dtype)
            return
        if not fill.deviation:
            yield torch.full((count,), fill.value).to(dtype)
            return
        scaled = self._scaled(name, count, fill.deviation, dtype)
        done = 0
        while done < count:
            piece = scaled[: count - done]
            yield piece
            done += len(piece)

    def _scaled(self, name: str, count: int, deviation: float, dtype: torch.dtype) -> torch.Tensor:
        """The block from the tensor's own place on, no longer than the tensor."""
        import torch

        first = derive("rehearsal", self._seed, name) % _LENGTH
        needed = min(count, _LENGTH)
        head = self._block[first : first + needed]
        tail = self._block[: needed - len(head)]
        return (torch.cat((head, tail)) * deviation).to(dtype)
