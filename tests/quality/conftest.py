"""Drawn triples: content, style picture by the same painter of another scene, and the truth."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bottega.miniature.world import painter, render, scene

Picture = npt.NDArray[np.uint8]


class Triple(NamedTuple):
    """One pair with its right answer, uint8 [128, 128, 3] each."""

    content: Picture
    style: Picture
    truth: Picture


def draw(index: int) -> Triple:
    """Triple number `index`; every painter has another kind than the one before."""
    view, by = scene(50_000 + index), painter(400 + index)
    return Triple(render(view, None), render(scene(60_000 + index), by, 1), render(view, by, 0))


@pytest.fixture(scope="session")
def triples() -> list[Triple]:
    """Six paintings of each kind and brush; of 96 a single outlier draws the limits at the edges too tight."""
    return [draw(i) for i in range(144)]


@pytest.fixture(scope="session")
def fresh_triples() -> list[Triple]:
    """Triples that no calibration has seen."""
    return [draw(10_000 + i) for i in range(100)]


def plain_encoder(pictures: Picture) -> npt.NDArray[np.float32]:
    """A small real encoder: where it is light and dark (8 x 8 cells), and which colours there are; unit norm, [N, 189].

    It sees layout and palette, so that content similarity and style gain mean something without a trained model.
    """
    rows = []
    for picture in pictures:
        layout = cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).mean(-1).ravel()
        layout -= layout.mean()
        bins = (picture // 52).reshape(-1, 3).astype(int)
        colours = np.bincount(bins[:, 0] * 25 + bins[:, 1] * 5 + bins[:, 2], minlength=125).astype(np.float32) ** 0.5
        halves = [half / max(float(np.linalg.norm(half)), 1e-6) for half in (layout, colours)]
        vector = np.concatenate(halves)
        rows.append((vector / np.linalg.norm(vector)).astype(np.float32))
    return np.stack(rows)
