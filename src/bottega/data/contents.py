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

from bottega.data.archives import unpack_advice
from bottega.data.captions import tidy
from bottega.data.config import ContentFolderConfig, LimitsConfig, SplitConfig
from bottega.data.folder_captions import FolderCaptions
from bottega.data.folders import FolderListing, list_files
from bottega.data.ids import Ids
from bottega.data.index import Index, Inspection, PictureRow, file_stamp
from bottega.data.ingest import (
    SourcePicture,
    find_twins,
    name_some,
    require_source,
    require_usable,
    tell_astray,
    update_index,
    write_rejects,
)
from bottega.data.pictures import is_picture, other_pictures
from bottega.data.records import ContentRow
from bottega.data.splits import SPLITS, Member, assign
from bottega.runtime.errors import MissingError
from bottega.runtime.progress import Progress
from bottega.runtime.records import write_records
from bottega.runtime.trust import Role, hash_file, seal

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """A picture that is to be a content.

    Attributes:
        source: names and orders it.
        path: the file, which need not be there.
        wanted_id: what its id is made from.
        captions: how many there are; they are read again when the table is written.
        split: the data set's own, or empty.
    """

    source: str
    path: Path
    wanted_id: str
    captions: int
    split: str = ""


def index_contents(
    index: Index, contents: Iterable[Content], sources: Iterable[str], *, data_root: Path, limits: LimitsConfig
) -> None:
    """Inspect contents and remember them; a picture without captions, or with another's bytes, is rejected.

    Args:
        index: what is known already.
        contents: the pictures, in order.
        sources: their names (`Content.source`), all known before the first picture is read.
        data_root: what paths are relative to.
        limits: which pictures are usable.
    """
    total = index.mark_all_present(sources)
    with Progress(total, "contents", "pictures") as progress:
        pictures = (_source_picture(content, data_root) for content in contents)
        update_index(index, pictures, _Admission(index), limits=limits, progress=progress)
    gone = [row.source for row in index.drop_absent() if row.usable]
    if gone:
        LOGGER.warning("%d contents of an earlier run are not in the source any more: %s", len(gone), name_some(gone))
    index.commit()


class _Admission:
    """Gives an inspected content its id, or the reason why it is left out; called in source order."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._ids = Ids(index.ids())

    def __call__(self, picture: SourcePicture, inspection: Inspection) -> PictureRow:
        extra = {"path": picture.extra["path"], "split": picture.extra["split"]}
        row = PictureRow(picture.source, picture.stamp, None, inspection, extra)
        if inspection.reason:
            return row
        if not picture.extra["captions"]:
            return row.rejected("no-caption", "no caption names this picture; add one, or give a prompt for all")
        twins = find_twins(self._index, picture.source, inspection.sha256)
        if twins.there:
            return row.rejected("duplicate", f"the same bytes as {twins.there[0].id}")
        identity = self._identity(picture, twins.moved)
        return PictureRow(picture.source, picture.stamp, identity, inspection, extra)

    def _identity(self, picture: SourcePicture, moved: Sequence[PictureRow]) -> str:
        """The id of an earlier run, for files are named after it; else a new one."""
        known = self._index.get(picture.source)
        if known is not None and known.id:
            return known.id
        if moved and moved[0].id:
            self._index.drop(moved[0].source)  # an id stands once in the index
            return moved[0].id
        return self._ids.give(picture.extra["wanted"])


def _source_picture(content: Content, data_root: Path) -> SourcePicture:
    stamp = file_stamp(content.path)
    if not content.captions:
        stamp += "-silent"  # judged again once it has a caption
    extra = {
        "path": relative(content.path, data_root),
        "wanted": content.wanted_id,
        "split": content.split,
        "captions": content.captions,
    }
    return SourcePicture(content.source, stamp, content.path, extra)


def split_contents(index: Index, config: SplitConfig) -> dict[str, str]:
    """Decide splits by content, and remember them.

    Where the data set has its own val part, its train part stays train as a whole, and the val part is divided into
    val and test: so no model that was trained on the official train part is tested on it.
    """
    own_split: dict[str, str] = {}
    for row in index.rows():
        if row.id is not None:
            own_split[row.id] = str(row.extra["split"])
    fractions: Sequence[float] = config.fractions
    previous: dict[str, str] = {}
    _, val, test = config.fractions
    if {"train", "val"} <= set(own_split.values()):
        previous = {identity: "train" for identity, split in own_split.items() if split == "train"}
        if val + test > 0:
            fractions = (0.0, val / (val + test), test / (val + test))
    group = index.groups()
    members = [Member(identity, group[identity]) for identity in own_split]
    splits = assign(members, fractions=fractions, seed=config.seed, previous=previous | index.splits())
    index.put_splits(splits)
    index.commit()
    return splits


def write_contents(
    directory: Path,
    data_root: Path,
    index: Index,
    splits: Mapping[str, str],
    captions: Callable[[PictureRow], Sequence[str]],
    layout: Callable[[PictureRow, str], str | None] = lambda row, split: None,
) -> dict[str, int]:
    """Write `contents.jsonl`, ordered by source, `rejects.csv`, and all hashes; returns the tables' counts."""
    tables: dict[Path, Role] = {directory / "contents.jsonl": "result", directory / "rejects.csv": "view"}
    sources: dict[Path, str] = {}

    def rows() -> Iterator[ContentRow]:
        for row in index.rows():
            if row.id is not None:
                split = splits[row.id]
                path = str(row.extra["path"])
                label_map = layout(row, split)
                sources[data_root / path] = f"sha256:{row.inspection.sha256}"
                # The label maps of training contents are never read: to hash them would take as long as the pictures.
                if label_map is not None and split != "train":
                    sources[data_root / label_map] = hash_file(data_root / label_map)
                yield ContentRow(row.id, path, tuple(captions(row)), split, label_map)

    count = write_records(directory / "contents.jsonl", rows())
    rejected = write_rejects(directory / "rejects.csv", index)
    seal(directory, tables | dict.fromkeys(sources, "source"), sources)
    return {"pictures": count, "rejected": rejected, **count_splits(splits)}


def count_splits(splits: Mapping[str, str]) -> dict[str, int]:
    """How many pictures each split has."""
    where = list(splits.values())
    return {split: where.count(split) for split in SPLITS}


def relative(path: Path, data_root: Path) -> str:
    """A path relative to the data root, with `/`; the links of both are left alone."""
    return Path(os.path.relpath(path.absolute(), data_root.absolute())).as_posix()


def run_folder(config: ContentFolderConfig, directory: Path, *, data_root: Path) -> dict[str, int]:
    """Prepare the user's own folder of pictures as contents.

    A picture's captions are what `folder_captions` finds, else `config.prompt`.

    Args:
        config: where the pictures are.
        directory: the output, normally `coco/` under the data root.
        data_root: what a relative `config.source`, and each `content_path`, starts from.

    Returns:
        Counts, for the stage's summary.

    Raises:
        MissingError: the folder is not there, or holds no picture.
        RequestError: captions are malformed or not in Unicode, or no picture is usable.
    """
    folder = data_root / config.source
    listing = _pictures_in(folder)
    names = [name for name in listing.files if is_picture(name)]
    require_source((listing.files[name] for name in names), folder)
    captions = FolderCaptions(listing, folder, column=config.caption_column)
    captions.tell()
    prompt = tidy(config.prompt or "")
    fallback = [prompt] if prompt else []

    def captions_of(name: str) -> list[str]:
        return captions.of(name) or fallback

    contents = (Content(name, folder / name, Path(name).stem, len(captions_of(name))) for name in names)
    with Index(directory / "index.sqlite") as index:
        index_contents(index, contents, names, data_root=data_root, limits=config.limits)
        require_usable(index, directory, "contents", captions.advice())
        splits = split_contents(index, config.splits)
        counts = write_contents(directory, data_root, index, splits, lambda row: captions_of(row.source))
    unused = len(captions.unused())
    return {**counts, "unused_caption_files": unused} if unused else counts


def _pictures_in(folder: Path) -> FolderListing:
    """The files of a folder with pictures that can be read; of those that can't, none is passed over in silence."""
    if not folder.is_dir():
        raise MissingError(f"there is no picture in {folder}; name a folder that holds the contents")
    listing = list_files(folder)
    others = other_pictures(listing)
    unread = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
    if not any(map(is_picture, listing.files)):
        there = f" that can be read, but {unread}: convert them to JPEG or PNG" if unread else unpack_advice(folder)
        raise MissingError(f"there is no picture in {folder}{there}; name a folder that holds the contents")
    if unread:
        LOGGER.warning("%s: %s are of kinds that are not read; convert them to JPEG or PNG", folder, unread)
    tell_astray(listing, folder)
    return listing
