"""Shards and siblings are encoded in chunks, in an amount of memory that does not grow with their number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from bottega.miniature.builder import architectures
from bottega.miniature.builder.features import _gathered, encode_scenes
from bottega.miniature.scenes import SHAPES, label_map, scene
from bottega.runtime.errors import RequestError

PEAK = """
import resource
import numpy as np
from bottega.miniature.builder.features import _gathered
from bottega.runtime.memory import keep_heap

keep_heap()

def part(number):
    # What an autoencoder does: large blocks of several sizes come and go before a small result is left.
    blocks = [np.full((number % 3 + k) << 20, 1, np.uint8) for k in range(1, 9)]
    return np.full((32, 1 << 13), len(blocks), np.uint8)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

_gathered(32 * 4, (part(number) for number in range(4)))
before = peak()
_gathered(32 * 400, (part(number) for number in range(400)))
print(peak() - before)
"""


def test_scenes_are_encoded_in_their_order_whatever_the_chunk() -> None:
    torch.manual_seed(0)
    vae = architectures.autoencoder().eval()
    views = [scene(index) for index in range(33)]  # a chunk and one more
    latents, labels = encode_scenes(views, vae)
    assert latents.shape == (33, 4, 32, 32)
    assert latents.dtype == np.float16
    alone, _ = encode_scenes(views[32:], vae)
    assert np.allclose(latents[32:].astype(np.float32), alone.astype(np.float32), atol=0.02)
    for view, cells in zip(views, labels, strict=True):
        assert np.array_equal(cells, label_map(view)[2::4, 2::4])
        assert {SHAPES.index(item.shape) + 1 for item in view.objects} == set(np.unique(cells)) - {0}


def test_parts_are_gathered_in_no_more_memory_than_the_whole_takes() -> None:
    grown = float(subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True).stdout)
    kept = 400 * 32 * 8 / 1024  # MB of the array itself
    assert grown < kept + 30


def test_rows_that_are_missing_are_named() -> None:
    with pytest.raises(RequestError, match="must hold 4 rows together, they held 3"):
        _gathered(4, iter([np.zeros((2, 3)), np.zeros((1, 3))]))
