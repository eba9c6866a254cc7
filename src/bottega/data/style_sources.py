"""Where style pictures come from: Hugging Face's parquet files of WikiArt, or a tree of pictures."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bottega.data import hub, parquet
from bottega.data.archives import unpack_advice
from bottega.data.captions import tidy
from bottega.data.config import StyleFolderConfig, WikiArtConfig
from bottega.data.folder_captions import FolderCaptions
from bottega.data.folders import list_files
from bottega.data.index import file_stamp
from bottega.data.ingest import SourcePicture, tell_astray
from bottega.data.labels import GENRES, SCENES, STYLES, UNKNOWN_ARTIST
from bottega.data.pictures import PICTURE_ENDINGS, is_picture, other_pictures, picture_files
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import sha256_bytes

LOGGER = logging.getLogger(__name__)
UNLABELLED = "unlabelled"
_ROW = re.compile(r"\.(parquet|arrow)#\d{6,}$")
IsKnown = Callable[[str, str, int], bool]
"""(prefix of the sources, stamp, number) of a parquet file -> whether all its pictures are known and in place."""


class StyleSource(Protocol):
    """What styles are taken from."""

    missing: Sequence[str]
    """Numbers of the shards that are not there."""

    def sources(self) -> Iterator[str]:
        """The name of every picture that is there, in any order, without reading pictures."""

    def is_out_of_reach(self, source: str) -> bool:
        """Whether what an earlier run's picture came from is gone as a whole, so that nothing is known of it."""

    def contents(self) -> Iterator[Path | bytes]:
        """Something for each part of the source that is there, without reading pictures."""

    def count(self) -> int:
        """Pictures, to show progress."""

    def pictures(self, is_known: IsKnown) -> Iterator[SourcePicture]:
        """The pictures in order; parquet files that are known as a whole are passed over."""


def find_styles(config: WikiArtConfig | StyleFolderConfig, source: Path) -> StyleSource:
    """The source that is there: tables, a folder of pictures, the user's own Hub cache; the network only when asked.

    Raises:
        MissingError: there is none, or `config.fetch` is on and not all could be fetched.
        RequestError: a table is damaged or has no picture or style column.
    """
    if isinstance(config, StyleFolderConfig):
        return StyleFolder(source, column=config.caption_column)
    files = hub.table_files(source)
    if not files and source.is_dir() and next(picture_files(source), None) is not None:
        return StyleFolder(source, artists=True)
    # What is on this disk is used, in part too: the rest of WikiArt is 40 GB, and fetched only when asked.
    files = files or hub.table_files(hub.user_cache(config.repository))
    if config.fetch and (not files or hub.missing_shards(files)):
        files = _fetched(config, source)
    if not files:
        raise MissingError(_nothing_in(source, config))
    return _tables(files, source)


def _tables(files: list[Path], source: Path) -> ParquetStyles:
    styles = ParquetStyles(files)
    if styles.missing:
        LOGGER.warning(
            "%s: the shards %s are not there, what is there is used; --fetch (data.wikiart.fetch) gets the rest",
            source,
            ", ".join(styles.missing),
        )
    return styles


def _nothing_in(source: Path, config: WikiArtConfig) -> str:
    found = f"there is no parquet or Arrow file and no picture in {source}{unpack_advice(source)}"
    if config.offline or hub.is_offline():
        return f"{found}, and the network is off; put the files of {config.repository} there"
    return (
        f"{found}; put the files of {config.repository} there, or have them fetched (about 40 GB): "
        "bottega data wikiart --fetch, in a recipe data.wikiart.fetch"
    )


def _fetched(config: WikiArtConfig, source: Path) -> list[Path]:
    if config.offline or hub.is_offline():
        raise MissingError(
            f"{config.repository} is not whole in {source}, and the network is off; put its files there, or leave out "
            "--fetch (data.wikiart.fetch) to use those that are there"
        )
    hub.fetch(config.repository, source, config.mirror)
    files = hub.table_files(source)
    # Without a network the hub's library warns, and returns the folder as it was.
    if not files:
        raise MissingError(
            f"{source} holds no parquet file of {config.repository} and none could be fetched; put the files there, or "
            "name a mirror (HF_ENDPOINT or data.wikiart.mirror)"
        )
    missing = hub.missing_shards(files)
    if missing:
        raise MissingError(
            f"the shards {', '.join(missing)} of {config.repository} could not be fetched; name a mirror (HF_ENDPOINT "
            "or data.wikiart.mirror), or leave out --fetch (data.wikiart.fetch) to use those that are there"
        )
    return files


class ParquetStyles:
    """Hugging Face's layout: columns image, artist, genre, style."""

    def __init__(self, files: list[Path]) -> None:
        self._tables = [parquet.open_table(path) for path in files]
        self._prefixes = _prefixes(files)
        self.missing: Sequence[str] = hub.missing_shards(files)
        for table in self._tables:
            if not {"image", "style"} <= set(table.columns):
                raise RequestError(
                    f"{table.path} needs the columns image and style, it has {', '.join(table.columns)}; "
                    f"name a folder of huggan/wikiart files"
                )

    def sources(self) -> Iterator[str]:
        """Every row of every file."""
        for table in self._tables:
            prefix = self._prefixes[table.path]
            for number in range(table.rows):
                yield f"{prefix}{number:06d}"

    def is_out_of_reach(self, source: str) -> bool:
        """Whether the row's file is not there any more."""
        return _is_row(source) and source.rpartition("#")[0] + "#" not in self._prefixes.values()

    def contents(self) -> Iterator[bytes]:
        """Empty bytes for each file that has rows: what is in them is judged when it is read."""
        return (b"" for table in self._tables if table.rows)

    def count(self) -> int:
        """Rows of all files."""
        return sum(table.rows for table in self._tables)

    def pictures(self, is_known: IsKnown) -> Iterator[SourcePicture]:
        """The rows, named by their file and number."""
        for table in self._tables:
            prefix = self._prefixes[table.path]
            stamp = file_stamp(table.path)
            if is_known(prefix, stamp, table.rows):
                continue
            columns = [name for name in ("image", "artist", "genre", "style", "caption") if name in table.columns]
            for number, row in enumerate(table.read(columns)):
                content = parquet.picture_bytes(row["image"], table.path.parent)
                if content is None:
                    content = b""  # an empty cell: rejected as broken, not passed over
                yield SourcePicture(f"{prefix}{number:06d}", stamp, content, self._labels(table, row))

    def _labels(self, table: parquet.Table, row: Mapping[str, object]) -> dict[str, str]:
        artist = _label(table, "artist", row.get("artist"), None, UNKNOWN_ARTIST)
        genre = _label(table, "genre", row.get("genre"), GENRES, "")
        wanted = parquet.picture_stem(row["image"]) or ""
        return {
            "artist": artist,
            "style": _label(table, "style", row["style"], STYLES, UNLABELLED),
            "genre": genre,
            "caption": tidy(parquet.text(row.get("caption"))) or painting_caption(wanted, artist, genre),
            "wanted": wanted,
        }


class StyleFolder:
    """A tree of pictures: the top sub-folder is the style; with `artists`, names are `artist_title.jpg`.

    The first caption that `folder_captions` finds for a picture says what it shows.
    """

    missing: Sequence[str] = ()

    def __init__(self, folder: Path, *, artists: bool = False, column: str | None = None) -> None:
        self._folder = folder
        self._artists = artists
        if not folder.is_dir():
            raise MissingError(f"there is no folder {folder}; name a folder of pictures")
        self._listing = list_files(folder)
        self._pictures = {name: path for name, path in self._listing.files.items() if is_picture(name)}
        self._captions = FolderCaptions(self._listing, folder, column=column)

    def sources(self) -> Iterator[str]:
        """The files' places in the folder."""
        return iter(self._pictures)

    def is_out_of_reach(self, source: str) -> bool:
        """Whether it came from a table, or from a folder whose link leads nowhere now."""
        above = {parent.as_posix() for parent in PurePosixPath(source).parents}
        return _is_row(source) or not above.isdisjoint(self._listing.astray)

    def contents(self) -> Iterator[Path]:
        """The files, by their names."""
        return iter(self._pictures.values())

    def count(self) -> int:
        """Picture files. Raises MissingError where there is none."""
        others = ", ".join(f"{count} {ending}" for ending, count in sorted(other_pictures(self._listing).items()))
        if not self._pictures:
            endings = ", ".join(sorted(PICTURE_ENDINGS))
            there = f", but {others}: convert them to JPEG or PNG" if others else unpack_advice(self._folder)
            raise MissingError(f"{self._folder} holds no picture ({endings}){there}; name another folder")
        if others:
            LOGGER.warning("%s: %s are of kinds that are not read; convert them to JPEG or PNG", self._folder, others)
        tell_astray(self._listing, self._folder)
        self._captions.tell()
        return len(self._pictures)

    def pictures(self, is_known: IsKnown) -> Iterator[SourcePicture]:
        """The files, named by their place in the folder."""
        for name, path in self._pictures.items():
            inside = PurePosixPath(name)
            artist = UNKNOWN_ARTIST
            if self._artists and "_" in inside.stem:
                artist = inside.stem.split("_", 1)[0]
            first_caption = next(iter(self._captions.of(name)), "")
            labels = {
                "artist": artist,
                "style": inside.parts[0] if len(inside.parts) > 1 else UNLABELLED,
                "genre": "",
                "caption": first_caption or painting_caption(inside.stem, artist, ""),
                "wanted": inside.stem,
            }
            # Kept beside the picture's own stamp, so that a changed caption is read again.
            stamp = file_stamp(path)
            if first_caption:
                stamp += f"-{sha256_bytes(first_caption.encode())[:16]}"
            yield SourcePicture(name, stamp, path, labels)


def _prefixes(files: Sequence[Path]) -> dict[Path, str]:
    """What names a file's rows: its name, or where two have the same name (`train/0000.parquet`) its place."""
    # Named alike, the rows of one would replace those of the other.
    counts = Counter(path.name for path in files)
    found = {}
    for path in files:
        name = path.name
        if counts[name] > 1:
            name = path.relative_to(os.path.commonpath(files)).as_posix()
        found[path] = f"{name}#"
    return found


def _is_row(source: str) -> bool:
    """Whether a picture's name is that of a table's row, as `ParquetStyles` names them."""
    return _ROW.search(source) is not None


def painting_caption(stem: str, artist: str, genre: str) -> str:
    """What a painting shows, from its file's name `artist_the-title-1889` and its genre; "" where neither says.

    Numbers at the end are a year, or distinguish equal titles. A genre that is a manner and no scene says nothing.
    """
    title = stem[len(artist) + 1 :] if stem.startswith(f"{artist}_") else ""
    words = title.replace("_", "-").split("-")
    while words and words[-1].isdigit():
        words.pop()
    parts = (" ".join(words), SCENES.get(genre, ""))
    return ", ".join(part for part in parts if part)


def _label(table: parquet.Table, column: str, value: Any, published: Sequence[str] | None, unknown: str) -> str:
    """A label's name: from the file's own metadata, else from the published list; text stays as it is."""
    if parquet.is_null(value):
        return unknown
    if isinstance(value, str):
        return value or unknown
    if not isinstance(value, int | float) or not float(value).is_integer():
        raise RequestError(
            f"{table.path}: {column} must be a label's number or name, received {str(value)[:60]!r}; name a folder of "
            "huggan/wikiart files"
        )
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
