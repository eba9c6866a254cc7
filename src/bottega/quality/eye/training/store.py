"""Examples measured once and kept: measuring takes a hundred times as long as a step of training.

N: examples. T: triples, each the content and style of some examples. A shard is one `.npz` file in half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bottega.quality.eye.inputs import MeasuredPicture
from bottega.quality.eye.training.examples import GOOD, EyeExample
from bottega.runtime.errors import RequestError
from bottega.runtime.files import atomic_path

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExampleStore:
    """MeasuredPicture examples.

    family: names, [N]. technique: names, [N]. severity: [N]. mask: 0..255, [N, G, G]. distance: [N]. triple: row of
    each example's content and style, [N]. All else as in `MeasuredPicture`, [N, ...] or, of content, style and side,
    [T, ...].
    """

    family: npt.NDArray[np.str_]
    technique: npt.NDArray[np.str_]
    severity: Floats
    mask: npt.NDArray[np.uint8]
    distance: Floats
    triple: Indices
    own: Halves
    against: Halves
    leaked: Halves
    novelty: Halves
    scores: Floats
    whole: Floats
    content: Halves
    content_whole: Floats
    style: Halves
    style_whole: Floats
    side: Floats

    def __len__(self) -> int:
        return len(self.family)

    @property
    def is_good(self) -> npt.NDArray[np.bool_]:
        """[N]."""
        return np.asarray(self.family == GOOD)

    @classmethod
    def collect(cls, examples: Iterable[EyeExample]) -> ExampleStore:
        """From examples, those of a triple one after another."""
        rows = list(examples)
        if not rows:
            raise RequestError("a store needs examples, received none; ask for more triples")
        order, triples = _triples(rows)
        return cls(
            family=np.array([example.family for example in rows]),
            technique=np.array([example.technique for example in rows]),
            severity=np.array([example.severity for example in rows], np.float32),
            mask=np.stack([np.rint(255 * example.mask).astype(np.uint8) for example in rows]),
            distance=np.array([example.distance for example in rows], np.float32),
            triple=np.array([order[example.triple] for example in rows], np.int64),
            own=_stacked(rows, "own").astype(np.float16),
            against=_stacked(rows, "against").astype(np.float16),
            leaked=_stacked(rows, "leaked").astype(np.float16),
            novelty=_stacked(rows, "novelty").astype(np.float16),
            scores=_stacked(rows, "scores"),
            whole=_stacked(rows, "whole"),
            content=_stacked(triples, "content").astype(np.float16),
            content_whole=_stacked(triples, "content_whole"),
            style=_stacked(triples, "style").astype(np.float16),
            style_whole=_stacked(triples, "style_whole"),
            side=_stacked(triples, "side"),
        )

    @classmethod
    def joined(cls, stores: Sequence[ExampleStore]) -> ExampleStore:
        """All of them as one."""
        parts: dict[str, list[npt.NDArray[np.generic]]] = {field.name: [] for field in fields(cls)}
        num_triples = 0
        for store in stores:
            for name, values in parts.items():
                array = getattr(store, name)
                values.append(array + num_triples if name == "triple" else array)
            num_triples += len(store.side)
        return cls(**{name: np.concatenate(values) for name, values in parts.items()})

    def save(self, path: Path) -> None:
        """As a shard."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> ExampleStore:
        """A shard."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def measured(self, chosen: Indices) -> MeasuredPicture:
        """Some examples as the network's inputs are made of, [B, ...]."""
        triples = self.triple[chosen]
        single = np.float32
        return MeasuredPicture(
            own=self.own[chosen].astype(single),
            content=self.content[triples].astype(single),
            style=self.style[triples].astype(single),
            against=self.against[chosen].astype(single),
            leaked=self.leaked[chosen].astype(single),
            novelty=self.novelty[chosen].astype(single),
            scores=self.scores[chosen],
            whole=self.whole[chosen],
            content_whole=self.content_whole[triples],
            style_whole=self.style_whole[triples],
            side=self.side[triples],
        )


def _triples(rows: Sequence[EyeExample]) -> tuple[dict[int, int], list[EyeExample]]:
    """The place of each triple by its number, and an example of each, in their order."""
    order: dict[int, int] = {}
    first: list[EyeExample] = []
    for example in rows:
        if example.triple not in order:
            order[example.triple] = len(order)
            first.append(example)
    return order, first


def _stacked(examples: Sequence[EyeExample], name: str) -> Floats:
    """One raw statistic of several examples, [N, ...]."""
    return np.stack([getattr(example.measured, name) for example in examples])
