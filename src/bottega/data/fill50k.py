"""Fill50K: the outline of a circle, its filled picture, and a prompt with two colours, from any of three layouts.

| layout | files |
|---|---|
| ControlNet's own | `prompt.json` (JSON lines, or a list in another form of `rows`), `source/`, `target/` |
| Hugging Face's early | `train.jsonl`, `images.zip`, `conditioning_images.zip` (or the folders unpacked) |
| parquet | columns `image`, `conditioning_image`, `text` |

Copies with the two sides exchanged are in circulation, so that is checked: a source is thin lines on black, a target
two flat areas. Examples are named by file stem: prompts repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bottega.data import hub, parquet
from bottega.data.archives import unpack_advice
from bottega.data.captions import captions_in, stem_of, tidy
from bottega.data.config import Fill50KConfig
from bottega.data.contents import relative
from bottega.data.ids import clean_id
from bottega.data.index import Index, Inspection, PictureRow, file_stamp, inspect_picture
from bottega.data.ingest import REJECTS_HEADER, SourcePicture, require_source, update_index, write_csv
from bottega.data.pictures import open_picture
from bottega.data.records import Fill50kRow
from bottega.data.rows import listed_name, read_rows
from bottega.data.splits import SPLITS
from bottega.data.zips import PictureZip
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import write_bytes, write_png
from bottega.runtime.paths import stays_inside
from bottega.runtime.progress import Progress
from bottega.runtime.records import write_records
from bottega.runtime.seeds import derive
from bottega.runtime.trust import Role, seal

DARK = 32
"""Level of 255 below which all channels of a pixel must be to count as black."""

OUTLINE_SHARE = 0.85
"""Share of black pixels that makes a picture an outline; Fill50K's have 0.95 and more."""

FLAT_SHARE = 0.6
"""Share of a target's two most frequent colours; Fill50K's have 0.97 and more, at 128 px and as JPEG somewhat less."""

CHECKED_FIRST = 64
"""Examples that are inspected before anything is written, to see whether the two sides are exchanged."""

_SOURCE_KEYS = ("source", "conditioning_image", "conditioning_image_file_name")
_TARGET_KEYS = ("target", "image", "file_name", "image_file_name")
_PROMPT_KEYS = ("text", "prompt", "caption")
_LISTS = ("prompt.json", "prompt.jsonl", "train.jsonl", "train.json", "metadata.jsonl", "metadata.csv")
Reject = tuple[str, str, str]
"""(source, reason, detail) of something that is left out: a row of `rejects.csv`."""


@dataclass(frozen=True)
class Fill50kExample:
    """One example of the data set: its two pictures, each a file or bytes, and its prompt."""

    key: str
    source: Path | bytes
    target: Path | bytes
    prompt: str
    stamp: str


def run(config: Fill50KConfig, directory: Path, *, data_root: Path) -> dict[str, int | str]:
    """Prepare Fill50K in `directory`: `fill50k.jsonl` (`key, source_path, target_path, prompt, split`), `rejects.csv`.

    Pictures that are files already stay where they are; those in zips or parquet are written below `directory` once.

    Raises:
        MissingError: no such data set.
        RequestError: its source and target are exchanged and `config.swap` is off, or the reverse; or no example is
            usable.
    """
    # Refuse an absent source, and one whose sides are exchanged, before anything is written.
    folder = data_root / config.source
    layout, total = _recognise(folder)
    require_source(_sides(_examples(folder, config.swap)), folder)
    _check_direction(islice(_examples(folder, config.swap), CHECKED_FIRST), config, folder)
    # Prompts are kept in memory, 50 000 short texts: the index knows pictures only.
    prompts: dict[str, str] = {}
    repeated: list[Reject] = []

    def pictures() -> Iterator[SourcePicture]:
        for example in _examples(folder, config.swap):
            if example.key in prompts:
                repeated.append((example.key, "duplicate", "the key (file stem) occurs twice; the first one is taken"))
                continue
            prompts[example.key] = example.prompt
            for side, content in (("source", example.source), ("target", example.target)):
                extra = {"key": example.key, "side": side}
                # Padded, so that examples named by numbers are in the order of their numbers.
                yield SourcePicture(f"{example.key.zfill(12)}/{side}", example.stamp, content, extra)

    def decide(picture: SourcePicture, inspection: Inspection) -> PictureRow:
        extra = dict(picture.extra)
        if not inspection.reason:
            extra["path"] = relative(_place(picture, inspection, directory), data_root)
        return PictureRow(picture.source, picture.stamp, None, inspection, extra)

    def is_in_place(row: PictureRow) -> bool:
        return not row.usable or (data_root / str(row.extra["path"])).is_file()

    # Inspect both sides of each example, then write the examples whose two sides are good.
    with Index(directory / "index.sqlite") as index:
        with Progress(2 * total, "Fill50K", "pictures") as progress:
            update_index(
                index,
                pictures(),
                decide,
                limits=config.limits,
                progress=progress,
                has_outputs=is_in_place,
                measure=measure,
            )
        index.drop_absent()
        index.commit()
        counts = _write(index, directory, data_root, prompts, repeated, config)
    return {"layout": layout, **counts}


def _sides(examples: Iterable[Fill50kExample]) -> Iterator[Path | bytes]:
    for example in examples:
        yield example.source
        yield example.target


def measure(picture: Image.Image) -> dict[str, float]:
    """Shares of a picture's pixels: `dark` (nearly black) and `flat` (of its two most frequent colours)."""
    pixels = np.asarray(picture, dtype=np.uint8).reshape(-1, 3)  # [H*W, 3]
    coarse = (pixels.astype(np.uint32) + 8) >> 4  # 17 levels a channel, so that JPEG's noise does not part one colour
    counts = np.bincount(coarse @ np.array([17 * 17, 17, 1], dtype=np.uint32))
    return {
        "dark": float((pixels.max(axis=1) < DARK).mean()),
        "flat": float(np.sort(counts)[-2:].sum() / len(pixels)),
    }


# --- layouts ------------------------------------------------------------------------------------------------------


def _recognise(folder: Path) -> tuple[str, int]:
    """The layout's name and its number of examples."""
    listed = _find_list(folder)
    if listed is not None:
        layout = "zips" if any(listed.parent.glob("*images.zip")) else "folders"
        return layout, sum(1 for _ in read_rows(listed))
    files = hub.table_files(folder)
    if files:
        return "parquet", sum(parquet.open_table(path).rows for path in files)
    raise MissingError(
        f"{folder} holds none of {', '.join(_LISTS)} and no parquet or Arrow file{unpack_advice(folder)}; unpack "
        "Fill50K there (fill50k.zip of the ControlNet repository), or set data.fill50k to null"
    )


def _find_list(folder: Path) -> Path | None:
    """The list of the examples, in any of the usual places."""
    for place in (folder, folder / "fill50k", folder / "training" / "fill50k"):
        for name in _LISTS:
            if (place / name).is_file():
                return place / name
    return None


def _examples(folder: Path, swap: bool) -> Iterator[Fill50kExample]:
    listed = _find_list(folder)
    examples = _from_parquet(hub.table_files(folder)) if listed is None else _from_list(listed)
    for example in examples:
        if swap:
            stamp = f"{example.stamp}-swapped"  # judged again when the option changes
            yield replace(example, source=example.target, target=example.source, stamp=stamp)
        else:
            yield example


def _from_list(listed: Path) -> Iterator[Fill50kExample]:
    folder = listed.parent
    with ExitStack() as stack:
        archives = [stack.enter_context(PictureZip(path)) for path in sorted(folder.glob("*.zip"))]

        def picture(name: str) -> Path | bytes:
            """The file of that name, or its bytes from the first zip that has it."""
            if (folder / name).is_file():
                return folder / name
            for archive in archives:
                for member in (name, Path(name).name):
                    if member in archive:
                        return archive.read(member)
            return folder / name

        for listed_row in read_rows(listed):
            row = listed_row.values
            source_name = _as_written(_first_of(_SOURCE_KEYS, row), folder)
            target_name = _as_written(_first_of(_TARGET_KEYS, row), folder)
            if not (_stays_in_folder(source_name) and _stays_in_folder(target_name)):
                raise RequestError(
                    f"{listed_row.place} must name a source and a target in its folder, received {list(row)}; "
                    "mend that line"
                )
            source, target = picture(str(source_name)), picture(str(target_name))
            stamp = f"{_stamp(source)}-{_stamp(target)}"
            prompt = tidy(next(iter(captions_in(row)), ""))
            yield Fill50kExample(clean_id(stem_of(str(source_name))), source, target, prompt, stamp)


def _first_of(keys: Sequence[str], row: Mapping[str, Any]) -> Any:
    """The value of the first of some keys that a row has; None where it has none of them."""
    return next((row[key] for key in keys if key in row), None)


def _as_written(name: Any, folder: Path) -> Any:
    """A name with Windows' separators as a path, unless a file is really called so."""
    if not isinstance(name, str) or "\\" not in name or (folder / name).is_file():
        return name
    return listed_name(name)


def _stays_in_folder(name: Any) -> bool:
    return isinstance(name, str) and stays_inside(name)


def _stamp(content: Path | bytes) -> str:
    return file_stamp(content) if isinstance(content, Path) else str(len(content))


def _from_parquet(files: list[Path]) -> Iterator[Fill50kExample]:
    number = 0
    for path in files:
        table = parquet.open_table(path)
        stamp = file_stamp(path)
        source_column, target_column, prompt_column = _columns(table)
        for row in table.read([source_column, target_column, prompt_column]):
            key = clean_id(parquet.picture_stem(row[source_column]) or str(number))
            source = parquet.picture_bytes(row[source_column], path.parent) or b""
            target = parquet.picture_bytes(row[target_column], path.parent) or b""
            yield Fill50kExample(key, source, target, tidy(parquet.text(row[prompt_column])), stamp)
            number += 1


def _columns(table: parquet.Table) -> list[str]:
    """The columns of source, target and prompt."""
    found = []
    for names in (_SOURCE_KEYS, _TARGET_KEYS, _PROMPT_KEYS):
        there = [name for name in names if name in table.columns]
        if not there:
            raise RequestError(
                f"{table.path} needs the columns image, conditioning_image and text, it has "
                f"{', '.join(table.columns)}; name another copy of Fill50K"
            )
        found.append(there[0])
    return found


# --- direction ----------------------------------------------------------------------------------------------------


def _direction(source: Inspection, target: Inspection) -> str:
    """`right`, `swapped`, `unclear` (a dark circle on a dark ground), or `none` (neither side is an outline)."""
    source_is_outline = source.statistics.get("dark", 0.0) >= OUTLINE_SHARE
    target_is_outline = target.statistics.get("dark", 0.0) >= OUTLINE_SHARE
    if source_is_outline:
        return "unclear" if target_is_outline else "right"
    return "swapped" if target_is_outline else "none"


def _check_direction(examples: Iterator[Fill50kExample], config: Fill50KConfig, folder: Path) -> None:
    """Refuse a data set whose first examples have the two sides exchanged, before anything is written."""
    limits = config.limits
    inspect = partial(inspect_picture, min_side=limits.min_side, max_pixels=limits.max_pixels, measure=measure)
    found: list[str] = []
    flat: list[float] = []
    for example in examples:
        source, target = inspect(example.source), inspect(example.target)
        if not source.reason and not target.reason:
            found.append(_direction(source, target))
            flat.append(target.statistics["flat"])
    # By majority: a dark circle on a dark ground is an outline on both sides.
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


def _place(picture: SourcePicture, inspection: Inspection, directory: Path) -> Path:
    """The picture's file: where it is, or written once below `directory`."""
    if isinstance(picture.content, Path):
        return picture.content
    kind = inspection.kind
    assert kind is not None  # a usable picture has one
    folder = directory / str(picture.extra["side"])
    key = picture.extra["key"]
    if kind.plain:
        path = folder / f"{key}{kind.extension}"
        write_bytes(path, picture.content)
    else:
        path = folder / f"{key}.png"
        write_png(path, np.asarray(open_picture(picture.content), dtype=np.uint8))
    return path


def _write(
    index: Index,
    directory: Path,
    data_root: Path,
    prompts: Mapping[str, str],
    repeated: Sequence[Reject],
    config: Fill50KConfig,
) -> dict[str, int]:
    rejects = list(repeated)
    by_split = dict.fromkeys(SPLITS, 0)

    def rows() -> Iterator[Fill50kRow]:
        sides = index.rows()  # ordered: an example's source, then its target
        for source, target in zip(sides, sides, strict=True):
            key = str(source.extra["key"])
            reject = _why_not(source, target, prompts[key])
            if reject is not None:
                rejects.append(reject)
                continue
            split = _split(key, config)
            by_split[split] += 1
            source_path, target_path = str(source.extra["path"]), str(target.extra["path"])
            yield Fill50kRow(key, source_path, target_path, prompts[key], split)
        if not any(by_split.values()):  # raised while the new list is still a draft: that of an earlier run stays
            write_csv(directory / "rejects.csv", REJECTS_HEADER, rejects)
            raise RequestError(f"no usable example in Fill50K; see rejects.csv in {directory} for each reason")

    count = write_records(directory / "fill50k.jsonl", rows())
    write_csv(directory / "rejects.csv", REJECTS_HEADER, rejects)
    _record_hashes(index, directory, data_root)
    return {"examples": count, "rejected": len(rejects), **by_split}


def _record_hashes(index: Index, directory: Path, data_root: Path) -> None:
    """Record the list and the pictures; those that were unpacked here belong to it, others to the source."""
    files: dict[Path, Role] = {directory / "fill50k.jsonl": "result", directory / "rejects.csv": "view"}
    known: dict[Path, str] = {}
    for row in index.rows():
        if not row.usable:
            continue
        path = data_root / str(row.extra["path"])
        if path.is_relative_to(directory):
            files[path] = "result"  # its bytes may be those of a conversion, whose hash nobody knows yet
        else:
            files[path] = "source"
            known[path] = f"sha256:{row.inspection.sha256}"
    seal(directory, files, known)


def _why_not(source: PictureRow, target: PictureRow, prompt: str) -> Reject | None:
    """Why an example is rejected, as a row of `rejects.csv`; None for a good one."""
    for row in (source, target):
        if not row.usable:
            return (row.source, row.inspection.reason, row.inspection.detail)
    direction = _direction(source.inspection, target.inspection)
    if direction == "swapped":
        return (source.source, "swapped", "the target is an outline on black and the source is not")
    if direction == "none":
        return (source.source, "no-outline", "the source is no outline on black")
    if not prompt:
        return (source.source, "no-caption", "the example has no prompt")
    return None


def _split(key: str, config: Fill50KConfig) -> str:
    # By the key's own hash, so that it never depends on which other examples there are.
    train, val, _ = config.splits.fractions
    at = derive("fill50k split", config.splits.seed, key) / (1 << 63)
    if at < train:
        return "train"
    return "val" if at < train + val else "test"
