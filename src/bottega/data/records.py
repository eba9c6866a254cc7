"""The rows of the tables under a data root, one class for each: what is read from disk is checked against it.

| class | file | a row is |
|---|---|---|
| `ContentRow` | `coco/contents.jsonl` | a content with its captions |
| `StyleRow` | `wikiart/meta.csv` and `splits/` | a style picture |
| `Fill50kRow` | `fill50k/fill50k.jsonl` | outline, filled circle and prompt |
| `Pair` | `pairs/{train,val,test}.jsonl` | a content, a style, the prompt and the target seeds |

The fields are in the order of the columns, so that a table is written from its class; only pair lists are put
together from text (`pairs`), for a million of them. Paths are relative to the data root, those of a `StyleRow` to its
own folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from bottega.data.splits import SPLITS
from bottega.runtime.errors import MissingError
from bottega.runtime.escape import from_csv_cell
from bottega.runtime.paths import ID, stays_inside
from bottega.runtime.records import read_records, to_record
from bottega.runtime.trust import require

Id = Annotated[str, Field(pattern=ID)]
"""Of a content or a style: it names files, so it may not lead to another folder."""

PairId = Annotated[str, Field(pattern=f"{ID.removesuffix('$')}_{ID.removeprefix('^')}")]
"""`{content_id}_{style_id}`, which no other pair can share, since an id holds no `_`."""

# Lists that people write by hand have `"content_id": 139` as often as `"139"`.
_LENIENT = ConfigDict(coerce_numbers_to_str=True)


@dataclass(frozen=True, slots=True)
class ContentRow:
    """A content with its captions; `layout_path` is its label map, where the data set has one."""

    content_id: Id
    content_path: str
    captions: tuple[str, ...] = ()
    split: str = ""
    layout_path: str | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _LENIENT


@dataclass(frozen=True, slots=True)
class StyleRow:
    """A style picture; `caption` is what it shows as far as that is known, else empty.

    The split is no column of `meta.csv`: it is in `splits/`.
    """

    id: Id
    path: str
    artist: str
    style: str
    genre: str
    sha256: str
    caption: str = ""
    split: str = ""


META_HEADER = tuple(field.name for field in fields(StyleRow) if field.name != "split")
"""The columns of `meta.csv`."""


@dataclass(frozen=True, slots=True)
class Fill50kRow:
    """An example of Fill50K; `key` is its file stem, for prompts repeat."""

    key: Id
    source_path: str
    target_path: str
    prompt: str
    split: str = "train"

    __pydantic_config__: ClassVar[ConfigDict] = _LENIENT


@dataclass(frozen=True, slots=True)
class Pair:
    """Which content meets which style. Paths are relative to the data root; a list has every key in every line.

    Lists from elsewhere may leave out the keys that have a default here: `seeds` None means all that are asked
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


def truth_path(folder: Path, pair_id: str, number: int = 0) -> Path:
    """Where a pair's drawn truth is, which need not be there.

    Args:
        folder: of the truths, `truth/` of a data root.
        number: of the drawing: the same picture with other strokes.
    """
    return folder / f"{pair_id}_seed{number}.png"


def read_contents(path: Path) -> Iterator[ContentRow]:
    """Stream `contents.jsonl`.

    Raises:
        MissingError: the contents have not been prepared.
        StorageError: a line is not a JSON object.
        RequestError: a line is not a content; the message names the line and the key.
    """
    if not path.is_file():
        raise MissingError(f"there is no {path}; prepare the contents: bottega data coco, or bottega data folder")
    require(path, "prepare the contents again: bottega data coco or bottega data folder (bottega run does by itself)")
    return read_records(path, ContentRow)


def read_styles(directory: Path) -> Iterator[StyleRow]:
    """Stream the styles of `directory/meta.csv` that have a split.

    Raises:
        MissingError: the styles have not been prepared.
        RequestError: a row is not a style; the message names the row and the column.
    """
    meta = directory / "meta.csv"
    if not meta.is_file():
        raise MissingError(f"there is no {meta}; prepare the styles: bottega data wikiart, or bottega data folder")
    cure = "prepare the styles again: bottega data wikiart or bottega data folder (bottega run does by itself)"
    for table in (meta, *(directory / "splits" / f"{split}.txt" for split in SPLITS)):
        require(table, cure)
    splits = _read_splits(directory / "splits")
    with meta.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            split = splits.get(row.get("id", ""))
            if split is not None:
                cells = {name: from_csv_cell(cell) for name, cell in row.items() if isinstance(cell, str)}
                yield to_record(StyleRow, {**cells, "split": split}, f"{meta}, row {number}")


def _read_splits(folder: Path) -> dict[str, str]:
    """The split of each id, from one list of ids for each split."""
    found: dict[str, str] = {}
    for split in SPLITS:
        listed = folder / f"{split}.txt"
        if listed.is_file():
            found |= dict.fromkeys(listed.read_text(encoding="utf-8").split(), split)
    return found


def style_captions(data_root: Path, paths: Iterable[str]) -> dict[str, str]:
    """What style pictures show, by their paths relative to the data root; those of which nothing is known are left out.

    A picture's caption is in the `meta.csv` of the nearest folder above it, as far up as the data root.
    """
    tables: dict[str, dict[str, str]] = {}  # folder -> path from it -> caption; each table is read once
    found = {}
    for path in paths:
        # Of a path that leads out of the data root no table is looked for: it would lie outside, too.
        for folder in PurePosixPath(path).parents if stays_inside(path) else ():
            name = folder.as_posix()
            if name not in tables:
                tables[name] = _captions_in(data_root / folder)
            if tables[name]:
                caption = tables[name].get(PurePosixPath(path).relative_to(folder).as_posix())
                if caption:
                    found[path] = caption
                break
    return found


def _captions_in(folder: Path) -> dict[str, str]:
    if not (folder / "meta.csv").is_file():
        return {}
    return {style.path: style.caption for style in read_styles(folder)}


def read_fill50k(path: Path) -> Iterator[Fill50kRow]:
    """Stream `fill50k.jsonl`.

    Raises:
        MissingError: Fill50K has not been prepared.
        StorageError: a line is not a JSON object.
        RequestError: a line is not an example; the message names the line and the key.
    """
    require(path, "prepare it again: bottega data fill50k (bottega run does by itself)")
    return read_records(path, Fill50kRow)


def read_pairs(path: Path, limit: int | None = None) -> Iterator[Pair]:
    """Stream the pairs of a list, or its first `limit`.

    Raises:
        MissingError: there is no such list.
        StorageError: a line is not a JSON object.
        RequestError: a line is not a pair; the message names the line and the key.
    """
    require(path, "draw the pairs again: bottega run, or bottega data pairs")
    return islice(read_records(path, Pair), limit)
