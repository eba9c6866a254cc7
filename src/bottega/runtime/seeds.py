"""Counter-based randomness: a seed derives from what it is for, never from a generator's state or a place in a loop."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(*parts: str | int | float) -> int:
    """A 63-bit seed from the SHA-256 of the parts' canonical JSON: the same on any machine, in any order of asking."""
    # JSON and not `repr` or `hash`: it tells "1" from 1, and is the same in every Python and every process.
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1


def numpy_rng(*parts: str | int | float) -> np.random.Generator:
    """A NumPy generator of its own for these parts (PCG64)."""
    return np.random.Generator(np.random.PCG64(derive(*parts)))


def torch_generator(*parts: str | int | float) -> torch.Generator:
    """A CPU generator of its own for these parts; draw on the CPU and move, so that devices agree."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(*parts))
