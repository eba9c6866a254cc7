"""An interval for the Fréchet distance of crossed pictures: each content and each style is left out once.

A bootstrap would draw pictures several times, and a set with copies has another covariance: its distance is larger by
far more than the interval is wide. Leaving out makes hardly any difference to that. Contents and styles are both
samples, so both variances count (as in Owen 2007, whose sum is on the safe side).

The distance of each smaller set is exact and cheap: of few styles the trace of the root is the sum of the singular
values of a product with one column a style, and needs no matrix of 2 048 × 2 048.

Legend: C contents, S styles, n pairs, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bottega.evaluation.bootstrap import BootstrapEstimate, Matrix
from bottega.evaluation.t_distribution import quantile

METHOD = "jackknife over contents and styles, Student's t"
_LARGEST = 4096  # pairs whose features are held: 32 MB
_FEWEST = 4  # contents or styles; the spread of fewer says nothing


class CrossedFeatures:
    """Features of pictures and of their styles, by content and style. Beyond `_LARGEST` pairs nothing is held."""

    def __init__(self, contents: Sequence[str], styles: Sequence[str]) -> None:
        self._contents = {name: number for number, name in enumerate(contents)}
        self._styles = {name: number for number, name in enumerate(styles)}
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._drawn: list[npt.NDArray[np.float32]] = []
        self._style_features: dict[int, npt.NDArray[np.float32]] = {}
        self._kept: npt.NDArray[np.bool_] | None = None
        self.too_many = False

    def add(self, content: str, style: str, drawn: npt.NDArray[np.float32], of_style: npt.NDArray[np.float32]) -> None:
        """The features of a pair's picture and of its style, [D] each."""
        self._rows.append(self._contents[content])
        self._columns.append(self._styles[style])
        if len(self._rows) > _LARGEST:
            self.too_many = True
            self._drawn.clear()
            return
        self._drawn.append(drawn)
        self._style_features[self._styles[style]] = of_style

    @property
    def counts(self) -> tuple[int, int, int]:
        """Contents, styles and pairs that are there."""
        return len(set(self._rows)), len(set(self._columns)), len(self._rows)

    def without(self, *, content: int | None = None, style: int | None = None) -> CrossedFeatures:
        """The same, with the pairs of one content or one style left out."""
        other = CrossedFeatures(list(self._contents), list(self._styles))
        other._rows, other._columns, other._drawn = self._rows, self._columns, self._drawn
        other._style_features = self._style_features
        rows, columns = np.array(self._rows), np.array(self._columns)
        other._kept = rows != content if content is not None else columns != style
        return other

    def present(self) -> Matrix:
        """1 for the pairs that are not left out, else 0, [C, S]."""
        found = np.zeros((len(self._contents), len(self._styles)))
        kept = self._kept_pairs()
        found[np.array(self._rows)[kept], np.array(self._columns)[kept]] = 1
        return found

    def distance(self) -> float:
        """The Fréchet distance of the pictures that are left to their styles' pictures.

        tr (S1 S2)^½ is the sum of the singular values of A1 A2ᵀ / (n - 1), A the centred features; and where a style
        comes w times, A2ᵀ A2 is that of its features times √w, once.
        """
        kept = self._kept_pairs()
        drawn = np.stack(self._drawn)[kept].astype(np.float64)  # [n, D]
        columns = np.array(self._columns)[kept]
        used, weights = np.unique(columns, return_counts=True)
        styles = np.stack([self._style_features[number] for number in used]).astype(np.float64)  # [S, D]
        n = len(drawn)
        mean, style_mean = drawn.mean(0), (weights[:, None] * styles).sum(0) / n
        left = drawn - mean
        right = (styles - style_mean) * np.sqrt(weights)[:, None]
        roots = np.linalg.svd(left @ right.T, compute_uv=False)  # [S]
        gap = mean - style_mean
        spread = (left**2).sum() + (right**2).sum() - 2 * roots.sum()
        return float(gap @ gap + spread / (n - 1))

    def _kept_pairs(self) -> npt.NDArray[np.bool_]:
        return np.ones(len(self._rows), dtype=bool) if self._kept is None else self._kept


def crossed_jackknife(
    value: float, features: CrossedFeatures, again: Callable[[CrossedFeatures], float], *, level: float = 0.95
) -> BootstrapEstimate:
    """A distance of sets of pictures with its interval, which does not go below 0.

    Args:
        value: of all pairs.
        features: of all pairs.
        again: the distance of what is left of them.
        level: nominal coverage, a share.
    """
    contents, styles, n = features.counts
    untold = ""
    if features.too_many:
        untold = f"{n} pairs: the features of more than {_LARGEST} are not held"
    elif min(contents, styles) < _FEWEST:
        untold = f"{contents} contents × {styles} styles are too few for an interval: it takes {_FEWEST} of either"
    if untold:
        return BootstrapEstimate(value, None, None, n, contents, styles, no_interval=untold)
    matrix = features.present()
    rows, columns = np.flatnonzero(matrix.any(1)), np.flatnonzero(matrix.any(0))
    variance = _variance([again(features.without(content=int(row))) for row in rows])
    variance += _variance([again(features.without(style=int(column))) for column in columns])
    reach = float(quantile((1 + level) / 2, min(contents, styles) - 1)) * math.sqrt(variance)
    return BootstrapEstimate(value, max(value - reach, 0.0), value + reach, n, contents, styles)


def _variance(without: Sequence[float]) -> float:
    """Of a number, from its values with one part left out each (Efron and Stein 1981)."""
    values = np.array(without)
    return float((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())
