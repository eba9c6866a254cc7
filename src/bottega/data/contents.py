"""Contents: pictures with captions become `contents.jsonl` and `rejects.csv`, whatever they come from.

    {"content_id", "content_path", "captions", "split", "layout_path"}

Pictures stay where they are; `content_path` is relative to the data root.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.data.captions import captions_in, is_utf8, sidecar, tidy
from bottega.data.config import ContentFolderConfig, LimitsConfig, SplitConfig
from bottega.data.ids import Ids
from bottega.data.index import Index, Look, Row, file_stamp
from bottega.data.ingest import Item, require_source, require_usable, take_in, write_rejects
from bottega.data.pictures import other_pictures, picture_files
from bottega.data.splits import SPLITS, Member, assign
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl, write_jsonl
from bottega.runtime.progress import Progress

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """A picture with its captions to come. `source` orders it; `split` is the data set's own, or empty."""

    source: str
    path: Path
    wanted_id: str
    captions: int
    split: str = ""


def take_in_contents(
    index: Index, contents: Iterable[Content], total: int, *, data_root: Path, limits: LimitsConfig
) -> None:
    """Look at contents and remember them; a picture without captions, or with another's bytes, is rejected."""
    ids = Ids(index.ids())

    def items() -> Iterator[Item]:
        for content in contents:
            stamp = f"{file_stamp(content.path)}{'' if content.captions else '-silent'}"
            extra = {
                "path": relative(content.path, data_root),
                "wanted": content.wanted_id,
                "split": content.split,
                "captions": content.captions,
            }
            yield Item(content.source, stamp, content.path, extra)

    def decide(item: Item, look: Look) -> Row:
        row = Row(item.source, item.stamp, None, look, {key: item.extra[key] for key in ("path", "split")})
        if look.reason:
            return row
        if not item.extra["captions"]:
            return row.rejected("no-caption", "no caption names this picture; add one, or give a prompt for all")
        for other in index.with_bytes(look.sha256):
            if other.source != item.source:
                return row.rejected("duplicate", f"the same bytes as {other.id}")
        known = index.get(item.source)
        identity = (known.id if known is not None else None) or ids.give(str(item.extra["wanted"]))
        return Row(item.source, item.stamp, identity, look, row.extra)

    with Progress(total, "contents", "pictures") as progress:
        take_in(index, items(), decide, limits=limits, progress=progress)
    index.forget_absent()
    index.commit()


def split_contents(index: Index, config: SplitConfig) -> dict[str, str]:
    """Decide splits: by content; where the data set has its own val part, its train part stays train as a whole."""
    rows = [(str(row.id), str(row.extra["split"])) for row in index.rows() if row.id is not None]
    group = index.groups()
    official = {split for _, split in rows} >= {"train", "val"}
    previous = {identity: "train" for identity, split in rows if official and split == "train"} | index.splits()
    _, val, test = config.fractions
    fractions = (0.0, val / (val + test), test / (val + test)) if official and val + test > 0 else config.fractions
    splits = assign([Member(i, group[i]) for i, _ in rows], fractions=fractions, seed=config.seed, previous=previous)
    index.put_splits(splits)
    index.commit()
    return splits


def write_contents(
    directory: Path,
    index: Index,
    splits: Mapping[str, str],
    captions: Callable[[Row], Sequence[str]],
    layout: Callable[[Row, str], str | None] = lambda row, split: None,
) -> dict[str, Any]:
    """Write `contents.jsonl`, ordered by source, and `rejects.csv`; returns their counts."""

    def rows() -> Iterator[dict[str, Any]]:
        for row in index.rows():
            if row.id is not None:
                split = splits[row.id]
                yield {
                    "content_id": row.id,
                    "content_path": row.extra["path"],
                    "captions": list(captions(row)),
                    "split": split,
                    "layout_path": layout(row, split),
                }

    count = write_jsonl(directory / "contents.jsonl", rows())
    rejected = write_rejects(directory / "rejects.csv", index)
    by_split = {split: sum(1 for where in splits.values() if where == split) for split in SPLITS}
    return {"pictures": count, "rejected": rejected, **by_split}


def relative(path: Path, data_root: Path) -> str:
    """A path relative to the data root, with `/`; the links of both are left alone."""
    return Path(os.path.relpath(path.absolute(), data_root.absolute())).as_posix()


def run_folder(config: ContentFolderConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Prepare the user's own folder of pictures as contents.

    A picture's captions are, in this order: its rows in `metadata.jsonl` (`file_name` with `caption`, `captions` or
    `text`), the lines of the `.txt` beside it, `config.prompt`.

    Raises:
        MissingError: the folder is not there, or holds no picture.
        RequestError: captions in a `.txt` are not UTF-8, or no picture is usable.
    """
    folder = data_root / config.source
    listed = _metadata(folder)
    files = list(picture_files(folder)) if folder.is_dir() else []
    other = other_pictures(folder) if folder.is_dir() else {}
    unread = ", ".join(f"{count} {ending}" for ending, count in sorted(other.items()))
    if not files:
        there = f" that can be read, but {unread}: convert them to JPEG or PNG" if unread else ""
        raise MissingError(f"there is no picture in {folder}{there}; name a folder that holds the contents")
    if unread:
        LOGGER.warning("%s: %s are of kinds that are not read; convert them to JPEG or PNG", folder, unread)

    require_source(files, folder)

    def captions_of(inside: str) -> list[str]:
        prompt = [tidy(config.prompt)] if config.prompt and tidy(config.prompt) else []
        return listed.get(inside) or sidecar(folder / inside) or prompt

    names = [path.relative_to(folder).as_posix() for path in files]
    _refuse_undecodable([path for path, name in zip(files, names, strict=True) if not listed.get(name)])
    contents = (Content(name, folder / name, Path(name).stem, len(captions_of(name))) for name in names)
    with Index(directory / "index.sqlite") as index:
        take_in_contents(index, contents, len(names), data_root=data_root, limits=config.limits)
        require_usable(index, directory, "contents")
        splits = split_contents(index, config.splits)
        return write_contents(directory, index, splits, lambda row: captions_of(row.source))


def _refuse_undecodable(pictures: Sequence[Path]) -> None:
    """Raise RequestError where the `.txt` beside pictures are no UTF-8: what was learned of them would be no words."""
    bad = [path.with_suffix(".txt") for path in pictures if not is_utf8(path.with_suffix(".txt"))]
    if bad:
        raise RequestError(
            f"captions are read as UTF-8, received {len(bad)} .txt in another encoding, first {bad[0]}; save them as "
            "UTF-8, such as by iconv -f gbk -t utf-8"
        )


def _metadata(folder: Path) -> dict[str, list[str]]:
    """Captions by the picture's name below `folder`; a picture may have several rows."""
    path = folder / "metadata.jsonl"
    found: dict[str, list[str]] = {}
    if path.is_file():
        for row in read_jsonl(path):
            name = Path(os.path.normpath(str(row.get("file_name")))).as_posix()
            found.setdefault(name, []).extend(tidy(c) for c in captions_in(row) if tidy(c))
    return {name: list(dict.fromkeys(captions)) for name, captions in found.items()}
