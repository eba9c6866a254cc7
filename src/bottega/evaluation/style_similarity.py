"""Whether a similarity to the style picture is about style: its test on the style pictures themselves.

A cosine to the style picture is high for any two paintings of trees. So each such metric is shown beside its own gap:
the mean similarity of two paintings of one style minus that of two paintings of different styles. Published
descriptors have had gaps of 0 and below for a quarter of the artists of a corpus, so the gap is measured on the very
paintings that the evaluation uses. A metric whose gap has 0 in its interval says nothing about style here.

Legend: P paintings, D width of an embedding, B bootstrap draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bottega.data.records import Pair
from bottega.evaluation.grid import Grid
from bottega.evaluation.networks import Networks, style_embeddings
from bottega.evaluation.records import StyleTestRecord
from bottega.evaluation.sources import Sources
from bottega.runtime.errors import PictureError
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]

_LEAST = 8  # paintings: of fewer, a resampled set often lacks a pair of one style


def style_tests(
    grid: Grid, sources: Sources, networks: Networks, *, draws: int, level: float, seed: int
) -> dict[str, StyleTestRecord]:
    """The test of each style similarity that can be measured, by the metric's name."""
    pictures: list[Picture] = []
    labels: list[str] = []
    for pair in _one_of_each_style(grid):
        try:
            pictures.append(sources.style(pair))
        except PictureError:
            continue  # its pairs are named among the broken ones
        labels.append(pair.style)
    found: dict[str, StyleTestRecord] = {}
    for metric, embed in style_embeddings(networks).items():
        embeddings = [embed(picture[None])[0] for picture in pictures]
        found[metric] = style_gap(np.array(embeddings), labels, draws=draws, level=level, seed=seed)
    return found


def style_gap(
    embeddings: Floats, labels: Sequence[str], *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> StyleTestRecord:
    """Mean cosine ×100 of two paintings of one label minus that of two of different labels, with its interval.

    Paintings are resampled, and not their pairs, for a painting is in many pairs.

    Args:
        embeddings: of unit norm, [P, D].
        labels: of the paintings.
        draws: resampled sets of paintings.
        level: coverage of the interval, a share.
        seed: of the draws.
    """
    count = len(labels)
    names = np.array(labels)
    same = names[:, None] == names[None, :]
    apart = ~np.eye(count, dtype=bool)  # a painting and itself are no pair
    base: StyleTestRecord = {"paintings": count, "labels": len(set(labels)), "status": "measured"}
    if count < _LEAST or not (same & apart).any() or same.all():
        repeated = sum(number > 1 for number in Counter(labels).values())
        return {
            **base,
            "status": f"unavailable: it takes {_LEAST} style pictures or more of two labels or more, one of them "
            f"twice; there are {count} of {len(set(labels))} labels, {repeated} of them more than once",
        }
    cosines = 100 * (embeddings @ embeddings.T).astype(np.float64)  # [P, P]
    within, between = (same & apart).astype(np.float64), (~same).astype(np.float64)
    counts = numpy_rng("style test", seed, count).multinomial(count, np.full(count, 1 / count), draws).astype(float)
    gaps = _weighted(counts, cosines, within) - _weighted(counts, cosines, between)  # [B]
    low, high = np.nanquantile(gaps, [(1 - level) / 2, (1 + level) / 2])
    means = [float((cosines * pairs).sum() / pairs.sum()) for pairs in (within, between)]
    return {
        **base,
        "same": means[0],
        "other": means[1],
        "gap": means[0] - means[1],
        "low": float(low),
        "high": float(high),
        "discriminates": bool(low > 0),
    }


def _weighted(
    counts: npt.NDArray[np.float64], cosines: npt.NDArray[np.float64], pairs: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The mean cosine of some pairs in each resampled set, [B]; NaN in a set without any."""
    total = ((counts @ (cosines * pairs)) * counts).sum(1)
    number = ((counts @ pairs) * counts).sum(1)
    means: npt.NDArray[np.float64] = np.divide(total, number, out=np.full(len(counts), np.nan), where=number > 0)
    return means


def _one_of_each_style(grid: Grid) -> list[Pair]:
    first: dict[str, Pair] = {}
    for pair in grid.pairs:
        first.setdefault(pair.style_id, pair)
    return list(first.values())
