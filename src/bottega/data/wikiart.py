"""WikiArt: parquet files or folders of pictures become `images/`, `meta.csv`, `splits/` and `rejects.csv`.

    find the source -> look at each picture -> id, file in images/ -> group the near-identical -> splits -> tables

Every step is a stream; what is known of a picture stands in `index.sqlite`, so that a stopped run goes on.
"""

from __future__ import annotations

import csv
import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bottega.data import hub, parquet
from bottega.data.captions import sidecar, tidy
from bottega.data.config import LimitsConfig, StyleFolderConfig, WikiArtConfig
from bottega.data.ids import Ids
from bottega.data.index import Index, Look, Row, file_stamp
from bottega.data.ingest import Item, require_source, require_usable, stamp_of, take_in, write_csv, write_rejects
from bottega.data.labels import GENRES, SCENES, STYLES, UNKNOWN_ARTIST
from bottega.data.pictures import PICTURE_ENDINGS, open_picture, picture_files, read_kind
from bottega.data.splits import SPLITS, Member, assign
from bottega.runtime.errors import MissingError, PictureError, RequestError, StorageError
from bottega.runtime.files import atomic_path, storage_error, write_bytes, write_png, write_text
from bottega.runtime.paths import stays_inside
from bottega.runtime.progress import Progress

LOGGER = logging.getLogger(__name__)
META_HEADER = ("id", "path", "artist", "style", "genre", "sha256", "caption")
UNLABELLED = "unlabelled"
LARGEST_CONVERTED_SIDE = 4096
"""Pixels that the long side of an enormous picture keeps when it is written anew."""


@dataclass(frozen=True)
class Style:
    """One row of `meta.csv` with its split; `path` is the picture's place relative to the folder of `meta.csv`,
    `caption` what it shows as far as that is known, else empty."""

    id: str
    path: str
    artist: str
    style: str
    genre: str
    sha256: str
    caption: str
    split: str


def run(config: WikiArtConfig | StyleFolderConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Prepare styles in `directory`; the same command continues a stopped run and takes in new pictures.

    Args:
        config: where the pictures are, and how to take them.
        directory: the output, normally `wikiart/` under the data root.
        data_root: what a relative `config.source` starts from.

    Returns:
        Counts, for the stage's summary.

    Raises:
        MissingError: no source, and none could be fetched.
        RequestError: a parquet file is damaged or has no picture or style column, or no picture is usable.
    """
    source = data_root / config.source
    if directory.resolve() in [source.resolve(), *source.resolve().parents] and (source / "meta.csv").exists():
        raise RequestError(f"the styles' source {source} is this stage's own output; name the folder of the originals")
    sources = _Folder(source) if isinstance(config, StyleFolderConfig) else _find(config, source)
    require_source(sources.pictures(), source)
    with Index(directory / "index.sqlite") as index:
        place = _Placement(directory, index, copy=config.mode == "copy", max_pixels=config.limits.max_pixels)
        with Progress(sources.count(), "styles", "pictures") as progress:
            known = functools.partial(_known_shard, index, config.limits, place.is_there, progress)
            take_in(index, sources.items(known), place, limits=config.limits, progress=progress, done=place.is_there)
        require_usable(index, directory, "styles")
        place.unlink(index.forget_absent())
        index.commit()
        splits = split_index(index, config.splits.fractions, config.splits.seed, "artist", "style")
        return _write_tables(directory, index, splits, sources)


def read_styles(directory: Path) -> Iterator[Style]:
    """The styles of `directory/meta.csv` with their splits, as a stream.

    Raises:
        MissingError: the folder has not been prepared.
    """
    meta = directory / "meta.csv"
    if not meta.is_file():
        raise MissingError(f"there is no {meta}; prepare the styles: bottega data wikiart, or bottega data folder")
    splits: dict[str, str] = {}
    for split in SPLITS:
        listed = directory / "splits" / f"{split}.txt"
        if listed.is_file():
            splits |= dict.fromkeys(listed.read_text(encoding="utf-8").split(), split)
    with meta.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["id"] in splits:
                caption = row.get("caption", "")  # tables written before there were any have no such column
                yield Style(**{name: row[name] for name in META_HEADER[:-1]}, caption=caption, split=splits[row["id"]])


def style_captions(data_root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Path of a style picture, relative to the data root, -> what it shows, of those of which that is known.

    It stands in the `meta.csv` of the nearest folder above the picture, as far up as the data root.
    """
    told: dict[str, dict[str, str]] = {}  # folder -> path from it -> caption
    found = {}
    for path in paths:
        for folder in PurePosixPath(path).parents:
            name = folder.as_posix()
            if name not in told:
                there = (data_root / folder / "meta.csv").is_file()
                told[name] = {s.path: s.caption for s in read_styles(data_root / folder)} if there else {}
            if told[name]:
                if caption := told[name].get(PurePosixPath(path).relative_to(folder).as_posix()):
                    found[path] = caption
                break
    return found


def split_index(index: Index, fractions: Sequence[float], seed: int, artist: str, style: str) -> dict[str, str]:
    """Decide the split of every usable picture of an index, and remember it there; see `splits.assign`."""
    group = index.groups()
    members = [
        Member(row.id, group[row.id], str(row.extra.get(artist, "")), str(row.extra.get(style, "")))
        for row in index.rows()
        if row.id is not None
    ]
    splits = assign(members, fractions=fractions, seed=seed, previous=index.splits())
    index.put_splits(splits)
    index.commit()
    return splits


def _known_shard(
    index: Index,
    limits: LimitsConfig,
    done: Callable[[Row], bool],
    progress: Progress,
    prefix: str,
    stamp: str,
    count: int,
) -> bool:
    """Whether all rows of a parquet file are known and their outputs stand, so that it need not be read again."""
    rows = list(index.rows(prefix))
    known = len(rows) == count and all(row.stamp == stamp_of(stamp, limits) and done(row) for row in rows)
    if known:
        for row in rows:
            index.mark_present(row.source)
        progress.update(count)
    return known


# --- sources ------------------------------------------------------------------------------------------------------


class _Parquet:
    """Hugging Face's layout: columns image, artist, genre, style."""

    def __init__(self, files: list[Path]) -> None:
        self._tables = [parquet.open_table(path) for path in files]
        self.missing = hub.missing_shards(files)
        for table in self._tables:
            absent = {"image", "style"} - set(table.columns)
            if absent:
                raise RequestError(
                    f"{table.path} needs the columns image and style, it has {', '.join(table.columns)}; "
                    f"name a folder of huggan/wikiart files"
                )

    def count(self) -> int:
        return sum(table.rows for table in self._tables)

    def pictures(self) -> Iterator[bytes]:
        """Something for each file that has rows: what is in them is judged when it is read."""
        return (b"" for table in self._tables if table.rows)

    def items(self, known: Callable[[str, str, int], bool]) -> Iterator[Item]:
        for table in self._tables:
            stamp = file_stamp(table.path)
            if known(f"{table.path.name}#", stamp, table.rows):
                continue
            columns = [name for name in ("image", "artist", "genre", "style", "caption") if name in table.columns]
            for number, row in enumerate(table.read(columns)):
                source = f"{table.path.name}#{number:06d}"
                labels = {
                    "artist": _label(table, "artist", row.get("artist"), None, UNKNOWN_ARTIST),
                    "style": _label(table, "style", row["style"], STYLES, UNLABELLED),
                    "genre": _label(table, "genre", row.get("genre"), GENRES, ""),
                }
                content = parquet.picture_bytes(row["image"], table.path.parent)
                wanted = parquet.picture_stem(row["image"]) or ""
                told = what_it_shows(wanted, labels["artist"], labels["genre"])
                labels["caption"] = tidy(str(row.get("caption") or "")) or told
                yield Item(source, stamp, content if content is not None else b"", {**labels, "wanted": wanted})


class _Folder:
    """A tree of pictures: the top sub-folder is the style; with `artists`, names are `artist_title.jpg`.

    The first line of the `.txt` beside a picture, if there is one, says what it shows.
    """

    missing: Sequence[str] = ()

    def __init__(self, folder: Path, *, artists: bool = False) -> None:
        self._folder, self._artists = folder, artists
        if not folder.is_dir():
            raise MissingError(f"there is no folder {folder}; name a folder of pictures")

    def pictures(self) -> Iterator[Path]:
        """The files, by their names."""
        return picture_files(self._folder)

    def count(self) -> int:
        total = sum(1 for _ in self.pictures())
        if total == 0:
            endings = ", ".join(sorted(PICTURE_ENDINGS))
            raise MissingError(f"{self._folder} holds no picture ({endings}); name another folder")
        return total

    def items(self, known: Callable[[str, str, int], bool]) -> Iterator[Item]:
        for path in self.pictures():
            inside = path.relative_to(self._folder)
            artist = inside.stem.split("_", 1)[0] if self._artists and "_" in inside.stem else UNKNOWN_ARTIST
            style = inside.parts[0] if len(inside.parts) > 1 else UNLABELLED
            labels = {"artist": artist, "style": style, "genre": ""}
            caption = next(iter(sidecar(path)), None) or what_it_shows(inside.stem, artist, "")
            # the text's own stamp stands beside the picture's: a caption that is changed is taken in
            stamp = "".join(file_stamp(file) for file in (path, path.with_suffix(".txt")) if file.is_file())
            yield Item(inside.as_posix(), stamp, path, {**labels, "caption": caption, "wanted": inside.stem})


def what_it_shows(stem: str, artist: str, genre: str) -> str:
    """What a painting shows, told by its file's name `artist_the-title-1889` and its genre; "" where neither says.

    Numbers at the end are a year, or tell equal titles apart. A genre that is a manner and no scene says nothing.
    """
    title = stem[len(artist) + 1 :] if stem.startswith(f"{artist}_") else ""
    words = title.replace("_", "-").split("-")
    while words and words[-1].isdigit():
        words.pop()
    return ", ".join(part for part in (" ".join(words), SCENES.get(genre, "")) if part)


def _find(config: WikiArtConfig, source: Path) -> _Parquet | _Folder:
    """The cache first, then a folder of pictures, the user's own hub cache, and only then the network."""
    files = hub.parquet_files(source)
    offline = config.offline or hub.is_offline()
    if files and (offline or not hub.missing_shards(files)):
        return _Parquet(files)
    if not files and source.is_dir() and next(picture_files(source), None) is not None:
        return _Folder(source, artists=True)
    if not files:
        files = hub.parquet_files(hub.user_cache(config.repository))
        if files and (offline or not hub.missing_shards(files)):
            return _Parquet(files)
    if offline:
        raise MissingError(
            f"no parquet file or picture in {source}, and the network is off; put the files of {config.repository} "
            f"there, or run without offline (bottega data wikiart fetches about 40 GB)"
        )
    hub.fetch(config.repository, source, config.mirror)
    files = hub.parquet_files(source)
    if not files:  # without a network the hub's library warns, and returns the folder as it was
        raise MissingError(
            f"{source} holds no parquet file of {config.repository} and none could be fetched; put the files there, or "
            "name a mirror (HF_ENDPOINT or data.wikiart.mirror)"
        )
    return _Parquet(files)


def _label(table: parquet.Table, column: str, value: Any, published: Sequence[str] | None, unknown: str) -> str:
    """A label's name: from the file's own metadata, else from the published list; text stays as it is."""
    if value is None:
        return unknown
    if isinstance(value, str):
        return value or unknown
    number = int(value)
    names = table.names.get(column, published)
    if number < 0:
        return unknown
    if names is None:
        return unknown if number == 0 else f"artist-{number:03d}"
    if number >= len(names):
        raise RequestError(
            f"{table.path}: {column} {number} has no name, {len(names)} are known; fetch a file with its metadata"
        )
    return names[number]


# --- placement ----------------------------------------------------------------------------------------------------


class _Placement:
    """Gives a looked-at picture its id and its file in `images/`; called in source order."""

    def __init__(self, directory: Path, index: Index, *, copy: bool, max_pixels: int) -> None:
        self._directory, self._index, self._copy, self._max_pixels = directory, index, copy, max_pixels
        self._ids = Ids(index.ids())
        (directory / "images").mkdir(parents=True, exist_ok=True)

    def is_there(self, row: Row) -> bool:
        """Whether the row's file still stands as this run would make it."""
        if not row.usable:
            return True
        path = self._directory / str(row.extra["path"])
        return path.exists() and path.is_symlink() == (bool(row.extra.get("file")) and not self._copy)

    def __call__(self, item: Item, look: Look) -> Row:
        row = Row(item.source, item.stamp, None, look, {k: v for k, v in item.extra.items() if k != "wanted"})
        if look.reason:
            return row
        same = [other for other in self._index.with_bytes(look.sha256) if other.source != item.source]
        for other in same:
            if all(other.extra[name] == row.extra[name] for name in ("artist", "style", "genre")):
                return row.rejected("duplicate", f"the same bytes and labels as {other.id}")
        known = self._index.get(item.source)
        identity = (known.id if known is not None else None) or self._ids.give(self._wanted(item, look))
        try:
            extra = _shared_file([r for r in same if self.is_there(r)]) or self._place(item, look, identity)
        except PictureError as error:
            return row.rejected("broken", str(error))
        return Row(item.source, item.stamp, identity, look, {**row.extra, **extra})

    @staticmethod
    def _wanted(item: Item, look: Look) -> str:
        return str(item.extra["wanted"]) or f"{item.extra['artist']}-{look.sha256[:10]}"

    def _place(self, item: Item, look: Look, identity: str) -> dict[str, Any]:
        kind = look.kind
        assert kind is not None  # a usable look has one
        if not kind.plain or kind.pixels > self._max_pixels:
            path = f"images/{identity}.png"
            return {"path": path, **_convert(item.content, self._directory / path, self._max_pixels)}
        path = f"images/{identity}{kind.extension}"
        if isinstance(item.content, bytes):
            write_bytes(self._directory / path, item.content)
            return {"path": path}
        if self._copy:
            with atomic_path(self._directory / path) as draft:
                shutil.copyfile(item.content, draft)
        else:
            _link(self._directory / path, item.content)
        return {"path": path, "file": True}

    def unlink(self, rows: Sequence[Row]) -> None:
        """Take away the links of pictures whose source is gone, unless another row shares them; a file stays.

        Its picture is not in the tables any more, but a file may be the last copy: the source is not there.
        """
        kept = 0
        for row in rows:
            name = str(row.extra.get("path", ""))
            if row.usable and stays_inside(name) and not self._index.with_bytes(row.look.sha256):
                path = self._directory / name
                if path.is_symlink():
                    path.unlink()
                kept += path.is_file()
        if kept:
            LOGGER.warning(
                "%s: %d pictures left meta.csv, for their source is gone; their files are kept in images/",
                self._directory,
                kept,
            )


def _shared_file(same: list[Row]) -> dict[str, Any] | None:
    """Identical bytes under another label share one file."""
    shared = ("path", "converted", "written", "file")
    return {name: same[0].extra[name] for name in shared if name in same[0].extra} if same else None


def _convert(content: Path | bytes, path: Path, max_pixels: int) -> dict[str, str]:
    """Write a lossless upright 8-bit RGB PNG, an enormous picture scaled down; returns what it is and its hash."""
    picture = open_picture(content, max_pixels=max_pixels)
    if max(picture.size) > LARGEST_CONVERTED_SIDE and read_kind(content).pixels > max_pixels:
        picture.thumbnail((LARGEST_CONVERTED_SIDE, LARGEST_CONVERTED_SIDE))
    written = write_png(path, np.asarray(picture, dtype=np.uint8))
    return {"converted": f"PNG RGB 8-bit {picture.width}x{picture.height}", "written": written}


def _link(path: Path, target: Path) -> None:
    """A relative link, put in place at once."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
        os.replace(draft, path)
    except NotImplementedError as error:
        raise StorageError(f"{path.parent} can hold no links; use --mode copy") from error
    except OSError as error:
        told = storage_error(error, path)
        raise StorageError(f"{told}; if this file system knows no links, use --mode copy") from error


# --- tables -------------------------------------------------------------------------------------------------------


def _write_tables(directory: Path, index: Index, splits: dict[str, str], sources: _Parquet | _Folder) -> dict[str, Any]:
    usable = sorted((row for row in index.rows() if row.id is not None), key=lambda row: str(row.id))
    write_csv(directory / "meta.csv", META_HEADER, (_meta(row) for row in usable))
    changed = [
        (row.id, row.extra["path"], row.source, row.look.kind, row.extra["converted"])
        for row in usable
        if "converted" in row.extra
    ]
    write_csv(directory / "converted.csv", ("id", "path", "source", "was", "is"), changed)
    for split in SPLITS:
        members = [identity for identity, where in splits.items() if where == split]
        write_text(directory / "splits" / f"{split}.txt", "".join(f"{identity}\n" for identity in members))
    rejected = write_rejects(directory / "rejects.csv", index)
    return {
        "pictures": len(usable),
        "rejected": rejected,
        "converted": len(changed),
        "labels": len({row.extra["style"] for row in usable}),
        "artists": len({row.extra["artist"] for row in usable}),
        **{split: sum(1 for where in splits.values() if where == split) for split in SPLITS},
        **({"missing_shards": list(sources.missing)} if sources.missing else {}),
    }


def _meta(row: Row) -> tuple[object, ...]:
    labels = (row.extra[name] for name in ("path", "artist", "style", "genre"))
    caption = row.extra.get("caption", "")  # an index of before there were any
    return (row.id, *labels, row.extra.get("written", row.look.sha256), caption)
