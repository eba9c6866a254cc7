"""Fill50K: the outline of a circle, its filled picture, and a prompt with two colours, from any of three layouts.

| layout | files |
|---|---|
| ControlNet's own | `prompt.json` (JSON lines), `source/`, `target/` |
| Hugging Face's early | `train.jsonl`, `images.zip`, `conditioning_images.zip` (or the folders unpacked) |
| parquet | columns `image`, `conditioning_image`, `text` |

Copies with the two sides exchanged are in circulation, so that is checked: a source is thin lines on black, a target
two flat areas. Examples are named by file stem: prompts repeat.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bottega.data import hub, parquet
from bottega.data.captions import captions_in, stem_of, tidy
from bottega.data.config import Fill50KConfig
from bottega.data.contents import relative
from bottega.data.ids import clean_id
from bottega.data.index import Index, Look, Row, file_stamp, look_at
from bottega.data.ingest import REJECTS_HEADER, Item, require_source, take_in, write_csv
from bottega.data.pictures import open_picture
from bottega.data.splits import SPLITS
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl, write_bytes, write_jsonl, write_png
from bottega.runtime.progress import Progress
from bottega.runtime.seeds import derive

DARK = 32
"""Level of 255 below which all channels of a pixel must lie to count as black."""

OUTLINE_SHARE = 0.85
"""Share of black pixels that makes a picture an outline; Fill50K's have 0.95 and more."""

FLAT_SHARE = 0.6
"""Share of a target's two most frequent colours; Fill50K's have 0.97 and more, at 128 px and as JPEG somewhat less."""

CHECKED_FIRST = 64
_SOURCE_KEYS = ("source", "conditioning_image", "conditioning_image_file_name")
_TARGET_KEYS = ("target", "image", "file_name", "image_file_name")
_PROMPT_KEYS = ("text", "prompt", "caption")
_LISTS = ("prompt.json", "train.jsonl", "metadata.jsonl")


@dataclass(frozen=True)
class Example:
    """One example of the data set: its two pictures, each a file or bytes, and its prompt."""

    key: str
    source: Path | bytes
    target: Path | bytes
    prompt: str
    stamp: str


def run(config: Fill50KConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Prepare Fill50K in `directory`: `fill50k.jsonl` (`key, source_path, target_path, prompt, split`), `rejects.csv`.

    Pictures that lie as files stay where they are; those in zips or parquet are written below `directory` once.

    Raises:
        MissingError: no such data set.
        RequestError: its source and target are exchanged and `config.swap` is off, or the reverse; or no example is
            usable.
    """
    folder = data_root / config.source
    layout, total = _recognise(folder)
    require_source(
        (side for example in _examples(folder, config.swap) for side in (example.source, example.target)), folder
    )
    _check_direction(islice(_examples(folder, config.swap), CHECKED_FIRST), config, folder)
    prompts: dict[str, str] = {}
    repeated: list[tuple[str, str, str]] = []

    def items() -> Iterator[Item]:
        for example in _examples(folder, config.swap):
            if example.key in prompts:
                repeated.append((example.key, "duplicate", "the key (file stem) stands twice; the first one is taken"))
                continue
            prompts[example.key] = example.prompt
            for side, content in (("source", example.source), ("target", example.target)):
                extra = {"key": example.key, "side": side}
                yield Item(f"{example.key.zfill(12)}/{side}", example.stamp, content, extra)

    with Index(directory / "index.sqlite") as index:

        def decide(item: Item, look: Look) -> Row:
            row = Row(item.source, item.stamp, None, look, item.extra)
            return row if look.reason else Row(row.source, row.stamp, None, look, {**row.extra, **place(item, look)})

        def place(item: Item, look: Look) -> dict[str, str]:
            return {"path": relative(_placed(item, look, directory), data_root)}

        def is_there(row: Row) -> bool:
            return not row.usable or (data_root / str(row.extra["path"])).is_file()

        with Progress(2 * total, "Fill50K", "pictures") as progress:
            take_in(index, items(), decide, limits=config.limits, progress=progress, done=is_there, measure=measure)
        index.forget_absent()
        index.commit()
        counts = _write(index, directory, prompts, repeated, config)
    return {"layout": layout, **counts}


def measure(picture: Image.Image) -> dict[str, float]:
    """Shares of a picture's pixels: `dark` (nearly black) and `flat` (of its two most frequent colours)."""
    pixels = np.asarray(picture, dtype=np.uint8).reshape(-1, 3)  # [H*W, 3]
    coarse = (pixels.astype(np.uint32) + 8) >> 4
    counts = np.bincount(coarse @ np.array([289, 17, 1], dtype=np.uint32))
    return {
        "dark": float((pixels.max(axis=1) < DARK).mean()),
        "flat": float(np.sort(counts)[-2:].sum() / len(pixels)),
    }


# --- layouts ------------------------------------------------------------------------------------------------------


def _recognise(folder: Path) -> tuple[str, int]:
    """The layout's name and its number of examples."""
    if listed := _list_of(folder):
        zipped = any(listed.parent.glob("*images.zip"))
        return ("zips" if zipped else "folders"), sum(1 for _ in read_jsonl(listed))
    files = hub.parquet_files(folder)
    if files:
        return "parquet", sum(parquet.open_table(path).rows for path in files)
    raise MissingError(
        f"{folder} holds none of {', '.join(_LISTS)} and no parquet file; unpack Fill50K there "
        f"(fill50k.zip of the ControlNet repository), or set data.fill50k to null"
    )


def _list_of(folder: Path) -> Path | None:
    places = (folder, folder / "fill50k", folder / "training" / "fill50k")
    return next((place / name for place in places for name in _LISTS if (place / name).is_file()), None)


def _examples(folder: Path, swap: bool) -> Iterator[Example]:
    listed = _list_of(folder)
    found = _listed(listed) if listed is not None else _tabled(hub.parquet_files(folder))
    for example in found:
        if swap:
            yield Example(example.key, example.target, example.source, example.prompt, f"{example.stamp}-swapped")
        else:
            yield example


def _listed(listed: Path) -> Iterator[Example]:
    with ExitStack() as stack:
        zips = [stack.enter_context(_open_zip(path)) for path in sorted(listed.parent.glob("*.zip"))]
        members = [(archive, set(archive.namelist())) for archive in zips]

        def picture(name: str) -> Path | bytes:
            path = listed.parent / name
            if path.is_file():
                return path
            for archive, names in members:
                for member in (name, Path(name).name):
                    if member in names:
                        return archive.read(member)
            return path

        for number, row in enumerate(read_jsonl(listed), start=1):
            names = [next((row[key] for key in keys if key in row), None) for keys in (_SOURCE_KEYS, _TARGET_KEYS)]
            if not all(isinstance(name, str) and ".." not in Path(name).parts for name in names):
                raise RequestError(
                    f"{listed}, line {number} must name a source and a target in its folder, got {list(row)}; mend it"
                )
            source, target = picture(str(names[0])), picture(str(names[1]))
            stamp = "-".join(file_stamp(p) if isinstance(p, Path) else str(len(p)) for p in (source, target))
            yield Example(clean_id(stem_of(str(names[0]))), source, target, _prompt(row), stamp)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise RequestError(f"{path} is no complete zip file ({error}); fetch it again") from error


def _tabled(files: list[Path]) -> Iterator[Example]:
    number = 0
    for path in files:
        table, stamp = parquet.open_table(path), file_stamp(path)
        columns = {
            side: next((name for name in keys if name in table.columns), None)
            for side, keys in (("source", _SOURCE_KEYS), ("target", _TARGET_KEYS), ("prompt", _PROMPT_KEYS))
        }
        if None in columns.values():
            raise RequestError(
                f"{path} needs the columns image, conditioning_image and text, it has {', '.join(table.columns)}; "
                f"name another copy of Fill50K"
            )
        for row in table.read([str(name) for name in columns.values()]):
            source, target = row[str(columns["source"])], row[str(columns["target"])]
            sides = [parquet.picture_bytes(side, path.parent) or b"" for side in (source, target)]
            key = clean_id(parquet.picture_stem(source) or str(number))
            yield Example(key, sides[0], sides[1], tidy(str(row[str(columns["prompt"])])), stamp)
            number += 1


def _prompt(row: dict[str, Any]) -> str:
    return tidy(next(iter(captions_in(row)), ""))


# --- direction ----------------------------------------------------------------------------------------------------


def _direction(source: Look, target: Look) -> str:
    """`right`, `swapped`, `unclear` (a dark circle on a dark ground), or `none` (neither side is an outline)."""
    sides = [look.statistics.get("dark", 0.0) >= OUTLINE_SHARE for look in (source, target)]
    return {(True, False): "right", (False, True): "swapped", (True, True): "unclear"}.get((sides[0], sides[1]), "none")


def _check_direction(examples: Iterator[Example], config: Fill50KConfig, folder: Path) -> None:
    """Refuse a data set whose first examples stand the wrong way round, before anything is written."""
    found: list[str] = []
    flat: list[float] = []
    for example in examples:
        looks = [
            look_at(side, min_side=config.limits.min_side, max_pixels=config.limits.max_pixels, measure=measure)
            for side in (example.source, example.target)
        ]
        if not any(look.reason for look in looks):
            found.append(_direction(*looks))
            flat.append(looks[1].statistics["flat"])
    right, swapped = found.count("right"), found.count("swapped")
    if swapped > right:
        cure = "leave out --swap" if config.swap else "run with --swap (data.fill50k.swap=true)"
        raise RequestError(
            f"a source of Fill50K is an outline on black and a target two flat areas, but in {folder} {swapped} of "
            f"{len(found)} examples have them the other way round; {cure}"
        )
    if found and right == 0:
        raise RequestError(
            f"a source of Fill50K is an outline on black, but none of {len(found)} examples in {folder} has one; "
            f"name another copy of the data set"
        )
    if found and float(np.median(flat)) < FLAT_SHARE:
        raise RequestError(
            f"a target of Fill50K is two flat areas, but the two main colours cover only {np.median(flat):.0%} of the "
            f"targets in {folder}; name another copy of the data set"
        )


# --- outputs ------------------------------------------------------------------------------------------------------


def _placed(item: Item, look: Look, directory: Path) -> Path:
    """The picture's file: where it lies, or written once below `directory`."""
    if isinstance(item.content, Path):
        return item.content
    kind = look.kind
    assert kind is not None  # a usable look has one
    stem = directory / str(item.extra["side"]) / str(item.extra["key"])
    if kind.plain:
        path = stem.with_name(f"{stem.name}{kind.extension}")
        write_bytes(path, item.content)
    else:
        path = stem.with_name(f"{stem.name}.png")
        write_png(path, np.asarray(open_picture(item.content), dtype=np.uint8))
    return path


def _write(
    index: Index, directory: Path, prompts: dict[str, str], repeated: list[tuple[str, str, str]], config: Fill50KConfig
) -> dict[str, int]:
    rejects = list(repeated)
    by_split = dict.fromkeys(SPLITS, 0)

    def rows() -> Iterator[dict[str, Any]]:
        sides = index.rows()  # ordered: an example's source, then its target
        for source, target in zip(sides, sides, strict=True):
            key = str(source.extra["key"])
            bad = _why_not(source, target, prompts[key])
            if bad is not None:
                rejects.append(bad)
                continue
            split = _split(key, config)
            by_split[split] += 1
            paths = {"source_path": source.extra["path"], "target_path": target.extra["path"]}
            yield {"key": key, **paths, "prompt": prompts[key], "split": split}
        if not any(by_split.values()):  # raised while the new list is still a draft: that of an earlier run stays
            write_csv(directory / "rejects.csv", REJECTS_HEADER, rejects)
            raise RequestError(f"no usable example in Fill50K; see rejects.csv in {directory} for each reason")

    count = write_jsonl(directory / "fill50k.jsonl", rows())
    write_csv(directory / "rejects.csv", REJECTS_HEADER, rejects)
    return {"examples": count, "rejected": len(rejects), **by_split}


def _why_not(source: Row, target: Row, prompt: str) -> tuple[str, str, str] | None:
    for row in (source, target):
        if not row.usable:
            return (row.source, row.look.reason, row.look.detail)
    direction = _direction(source.look, target.look)
    if direction == "swapped":
        return (source.source, "swapped", "the target is an outline on black and the source is not")
    if direction == "none":
        return (source.source, "no-outline", "the source is no outline on black")
    if not prompt:
        return (source.source, "no-caption", "the example has no prompt")
    return None


def _split(key: str, config: Fill50KConfig) -> str:
    """By the key's own hash, so that it never depends on which other examples there are."""
    train, val, _ = config.splits.fractions
    at = derive("fill50k split", config.splits.seed, key) / (1 << 63)
    return "train" if at < train else "val" if at < train + val else "test"
