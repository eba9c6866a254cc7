"""Test pairs as a crossed grid: contents × styles, a score a cell.

Legend: C contents, S styles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bottega.data.records import Pair
from bottega.evaluation.bootstrap import Matrix


@dataclass(frozen=True)
class Grid:
    """Pairs with the contents and styles they cross, each in the order of their first pair."""

    pairs: tuple[Pair, ...]
    contents: tuple[str, ...]
    styles: tuple[str, ...]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Grid:
        """The grid of some pairs; a pair that comes twice counts once."""
        kept = {pair.pair_id: pair for pair in pairs}
        contents: dict[str, None] = {}  # as an ordered set
        labels: dict[str, str] = {}
        for pair in kept.values():
            contents[pair.content_id] = None
            labels[pair.style_id] = pair.style
        return cls(tuple(kept.values()), tuple(contents), tuple(labels), labels)

    def __len__(self) -> int:
        return len(self.pairs)

    def matrix(self, scores: Mapping[tuple[str, str], float]) -> Matrix:
        """Scores by (content id, style id) as a matrix [C, S]; NaN where there is none."""
        row = {c: k for k, c in enumerate(self.contents)}
        column = {s: k for k, s in enumerate(self.styles)}
        values = np.full((len(row), len(column)), np.nan)
        for (content, style), score in scores.items():
            if content in row and style in column:
                values[row[content], column[style]] = score
        return values

    def smaller(self, limit: int | None) -> Grid:
        """A crossed grid of at most `limit` pairs: all styles while that leaves four contents, else nearly a square.

        Contents are taken in their order, styles in turn from each label, so that even few styles have many labels.
        """
        if limit is None or limit >= len(self.pairs):
            return self
        columns = len(self.styles)
        # With fewer than four contents their spread could hardly be estimated: rather leave out styles.
        if limit < 4 * columns:
            columns = max(1, min(columns, round(limit**0.5)))
        contents = set(self.contents[: max(1, limit // columns)])
        styles = set(by_turns(self.styles, self.labels)[:columns])
        crossed = [pair for pair in self.pairs if pair.content_id in contents and pair.style_id in styles]
        return Grid.of(crossed[:limit])


def by_turns(styles: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    """The styles in such an order that every label comes once before any comes twice."""
    seen: Counter[str] = Counter()
    turn: dict[str, int] = {}
    for style in styles:
        turn[style] = seen[labels[style]]
        seen[labels[style]] += 1
    return sorted(styles, key=lambda style: turn[style])  # a stable sort: within a turn the order stays


def swapped_styles(labels: Mapping[str, str]) -> dict[str, str]:
    """For each style another of a different label, each used once: a cyclic derangement.

    Styles are sorted by label and moved on by the size of the largest label, so that no style meets its own.

    Args:
        labels: the label of each style id.

    Returns:
        style id -> the style id whose picture replaces its own; empty where one label holds more than half of
        the styles, for then there is none.
    """
    ordered = sorted(labels, key=lambda style: (labels[style], style))
    largest = max(Counter(labels.values()).values(), default=0)
    if 2 * largest > len(ordered):
        return {}
    return {style: ordered[(k + largest) % len(ordered)] for k, style in enumerate(ordered)}
