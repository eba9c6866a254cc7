"""The rows of the tables that a data root holds, one class for each: what is read from disk is checked against it.

| class | file | a row is |
|---|---|---|
| `Pair` | `pairs/{train,val,test}.jsonl` | a content, a style, the prompt and the target seeds |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from bottega.runtime.records import read_records

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")]
"""Of a content or a style: it names files, so it may not lead to another folder."""

PairId = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+_[A-Za-z0-9.-]+$")]
"""`{content_id}_{style_id}`, which no other pair can share, since an id holds no `_`."""

_LENIENT = ConfigDict(coerce_numbers_to_str=True)
"""Lists that people write by hand have `"content_id": 139` as often as `"139"`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Which content meets which style. Paths are relative to the data root; a list has every key in every line.

    Lists from elsewhere may leave out the keys that have a default here: `seeds` None stands for all that are asked
    for, `style` and `split` only label results.
    """

    pair_id: PairId
    content_id: Id
    content_path: str
    style_id: Id
    style_path: str
    prompt: str
    style: str = ""
    caption_index: int = 0
    seeds: tuple[int, ...] | None = None
    split: str = ""

    __pydantic_config__: ClassVar[ConfigDict] = _LENIENT


def read_pairs(path: Path, limit: int | None = None) -> Iterator[Pair]:
    """Stream the pairs of a list, or its first `limit`.

    Raises:
        MissingError: there is no such list.
        StorageError: a line is not a JSON object.
        RequestError: a line is not a pair; the message names the line and the key.
    """
    return islice(read_records(path, Pair), limit)
