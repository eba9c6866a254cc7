"""Captions of pictures, gathered by picture in a temporary file, so that no number of them fills the memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from bottega.data.jsonstream import iter_items
from bottega.data.rows import listed_name, read_rows
from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown
from bottega.runtime.paths import inside
from bottega.runtime.records import MEND_LINE, to_record

_SOURCE = "i.part || '/' || i.file_name"
CAPTION_KEYS = ("captions", "caption", "text", "sentences", "prompt", "tags")
"""Names under which the rows of lists have captions; the one that is taken first at the front."""

NAME_KEYS = ("file_name", "filename", "image_path", "image_file", "image", "path", "file", "img", "target", "filepath")
"""Names under which the rows of lists name their picture."""


@dataclass(frozen=True)
class Captioned:
    """A picture that a caption file lists. `part` is the file's part of the data set, such as `train2017`."""

    part: str
    file_name: str
    captions: int


_OTHER_NAMES = ("filename", "image")
"""Keys by which lists of other kinds than COCO's name a picture."""


@dataclass(frozen=True)
class _Annotation:
    """A caption as COCO's `annotations` has it."""

    image_id: str
    caption: str
    id: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0  # what SQLite can hold

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(coerce_numbers_to_str=True)


@dataclass(frozen=True)
class _ListedImage:
    """A picture as COCO's `images` has it."""

    id: str
    file_name: str

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(coerce_numbers_to_str=True)


def tidy(text: str) -> str:
    """A caption on one line: white space stripped and collapsed.

    Raises:
        RequestError: it holds half of a pair of surrogates, which is no text: no file can hold it, no model read it.
    """
    line = " ".join(text.split())
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"a caption must be text with a form in UTF-8, received {shown(line)}, whose character {error.start} is "
            "half of a pair of surrogates; correct that caption"
        ) from error
    return line


class Captions:
    """Captions by (part, file name), in a temporary database that vanishes with this object."""

    def __init__(self) -> None:
        self._path = self._folder = Path()  # of the file that is read
        self._base = sqlite3.connect("", isolation_level=None)  # "" is a temporary file, which SQLite deletes itself
        self._base.executescript(
            "CREATE TABLE images (part TEXT, number TEXT, file_name TEXT, PRIMARY KEY (part, number));"
            "CREATE TABLE captions (part TEXT, number TEXT, place INTEGER, caption TEXT);"
            "BEGIN;"
        )

    def __enter__(self) -> Captions:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def read(self, path: Path, part: str) -> None:
        """Read a caption file: COCO's `captions_*.json`, Karpathy's `dataset_coco.json`, or `metadata.jsonl`.

        Raises:
            RequestError, StorageError: it is malformed; the message says where.
        """
        self._path, self._folder = path, path.parent
        if path.suffix in (".jsonl", ".csv"):
            for row in read_rows(path):
                self._add_row(part, row.values)
        else:
            for key, item in iter_items(path):
                if isinstance(item, dict):
                    self._add_item(part, key, item)
        # Without it, every picture's captions would be looked for among all of them.
        self._base.execute("CREATE INDEX IF NOT EXISTS by_image ON captions (part, number, place)")

    def _add_item(self, part: str, key: str, item: Mapping[str, Any]) -> None:
        if key == "annotations" and "caption" in item:
            said = to_record(_Annotation, item, f"{self._path}: annotations", MEND_LINE)
            self._add_caption(part, said.image_id, said.id, said.caption)
        elif key == "images" and "sentences" not in item and not any(name in item for name in _OTHER_NAMES):
            listed = to_record(_ListedImage, item, f"{self._path}: images", MEND_LINE)
            self._add_image(part, listed.id, listed_name(listed.file_name))
        elif key in ("images", ""):
            self._add_row(part, item)

    def _add_row(self, part: str, row: Mapping[str, Any]) -> None:
        """A row that names the picture and holds its captions; its file's name is used for a missing id."""
        candidates = (row.get("file_name"), row.get("filename"), row.get("image"))
        name = next((found for found in candidates if isinstance(found, str)), None)
        if name is None:
            return
        own_part = listed_name(str(row.get("filepath") or "")) or part
        name = listed_name(name)
        self._add_image(own_part, name, name)
        for place, caption in enumerate(captions_in(row)):
            self._add_caption(own_part, name, place, caption)

    def _add_image(self, part: str, number: str, file_name: str) -> None:
        # Here, where names enter: a part leads to label maps, too, before any picture is looked for.
        for name in (part, file_name):
            inside(self._folder, name, f"{self._path}: the name of a picture or of its part", own_links=True)
        self._base.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (part, number, file_name))

    def _add_caption(self, part: str, number: str, place: int, caption: str) -> None:
        text = tidy(caption)
        if text:
            self._base.execute("INSERT INTO captions VALUES (?, ?, ?, ?)", (part, number, place, text))

    def parts(self) -> list[str]:
        """The parts that were read."""
        return [row[0] for row in self._base.execute("SELECT DISTINCT part FROM images ORDER BY part")]

    def sources(self) -> Iterator[str]:
        """The name of every listed picture, `part/file_name`."""
        for (source,) in self._base.execute("SELECT part || '/' || file_name FROM images"):
            yield source

    def pictures(self) -> Iterator[Captioned]:
        """Every listed picture, ordered by part and file name."""
        query = (
            "SELECT part, file_name, (SELECT count(*) FROM captions c WHERE c.part = i.part AND c.number = i.number) "
            "FROM images i ORDER BY part, file_name"
        )
        for found in self._base.execute(query):
            yield Captioned(*found)

    def of(self, source: str) -> list[str]:
        """The captions of a picture, by its name `part/file_name`, in the order of their numbers, each once."""
        self._index_names()
        query = (
            "SELECT caption FROM images i JOIN captions c ON c.part = i.part AND c.number = i.number "
            f"WHERE {_SOURCE} = ? ORDER BY c.place"
        )
        found = [row[0] for row in self._base.execute(query, (source,))]
        return list(dict.fromkeys(found))

    def part_and_name(self, source: str) -> tuple[str, str]:
        """The part and the file name that a picture's name `part/file_name` was made of: both may hold a `/`."""
        self._index_names()
        query = f"SELECT part, file_name FROM images i WHERE {_SOURCE} = ?"
        part, file_name = self._base.execute(query, (source,)).fetchone()
        return part, file_name

    def _index_names(self) -> None:
        self._base.execute("CREATE INDEX IF NOT EXISTS by_name ON images (part || '/' || file_name)")


def captions_in(row: Mapping[str, Any]) -> list[str]:
    """The captions of a row, whichever of the usual keys holds them: one text, a list, or `sentences` with `raw`."""
    for key in CAPTION_KEYS:
        value = row.get(key)
        if isinstance(value, str):
            return [value]
        if isinstance(value, list):
            return [_caption_text(item) for item in value]
    return []


def _caption_text(item: Any) -> str:
    return str(item["raw"]) if isinstance(item, dict) and "raw" in item else str(item)


def stem_of(file_name: str) -> str:
    """`train2017/000000000139.jpg` -> `000000000139`."""
    return PurePosixPath(file_name).stem
