"""Captions of the pictures of a folder, from whatever people's tools write beside them.

| where | written by |
|---|---|
| a list, in any folder: `metadata.jsonl`, `.csv`, `.json`, `.tsv` or `.parquet` | datasets' imagefolder, diffusers |
| `captions.…`, `train.…`, `prompt.…`, `meta_cap.json`, `meta_clean.json` … | ControlNet, kohya, musubi-tuner |
| `a.txt`, `a.caption`, `a.jpg.txt` … beside `a.jpg`, a caption in each line | kohya, ai-toolkit, img2dataset |
| `a.json` beside `a.jpg`, with `caption`, `text`, `prompt` or `tags` | img2dataset, gallery-dl |

A row of a list has a name (`file_name`, `image` …), which is a path from the list's own folder, and a caption.
A picture takes the first that speaks of it, of two lists the one in the nearer folder. What looks like a caption and
is not used is counted and named: left out in silence, it would be replaced by the prompt for all.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from bottega.data.captions import CAPTION_KEYS, NAME_KEYS, captions_in, tidy
from bottega.data.folders import FolderListing
from bottega.data.ingest import name_some
from bottega.data.pictures import is_picture
from bottega.data.rows import LIST_ENDINGS, listed_name, read_rows
from bottega.data.text import open_text, wrong_encoding
from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown

LOGGER = logging.getLogger(__name__)
SIDECAR_ENDINGS = (".txt", ".caption", ".captions", ".text", ".cap")
"""Endings of texts beside a picture, the one that is taken first at the front."""

LIST_STEMS = ("metadata", "captions", "meta_clean", "meta_cap_dd", "meta_cap", "train", "prompt", "prompts")
"""Names of lists of captions, without their endings; the one that is taken first at the front."""

_PAPERS = frozenset({"readme", "license", "licence", "notice", "copying", "requirements", "classes", "labels", "info"})
"""Names, without their endings, of texts that are no captions."""


@dataclass
class _List:
    """A list of captions, and what became of its rows.

    Attributes:
        name: its path in the folder.
        captions: by the picture's name.
        strange: the names in it that are no picture of the folder.
        columns: names of the values of its rows.
    """

    name: str
    captions: dict[str, list[str]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)


class FolderCaptions:
    """The captions of a folder's pictures, read once.

    Args:
        listing: the folder's files.
        folder: what to call it in messages.
        column: of lists, the only one that captions are taken from; None: the usual ones.

    Raises:
        RequestError: a list is malformed, a text is in another encoding, or no list has the column.
    """

    def __init__(self, listing: FolderListing, folder: Path, *, column: str | None = None) -> None:
        self._folder = folder
        self._column = column
        self._pictures = _Names(name for name in listing.files if is_picture(name))
        self._beside = {name: path for name, path in listing.files.items() if _is_caption_like(name)}
        self._captions: dict[str, list[str]] = {}
        self._used: set[str] = set()
        self._lists = [self._read_list(name) for name in sorted(self._beside, key=_precedence) if _is_list(name)]
        self._require_column()
        self._take_from_lists()
        self._take_from_sidecars()

    def of(self, name: str) -> list[str]:
        """A picture's captions, each once; none where nothing says any."""
        return self._captions.get(name, [])

    def unused(self) -> list[str]:
        """Files that look like captions and are not used, in order."""
        return sorted(name for name in self._beside if name not in self._used and not _is_paper(name))

    def tell(self) -> None:
        """Warn of what looks like a caption and is not used, one line a kind."""
        for listed in self._lists:
            if listed.strange:
                LOGGER.warning(
                    "%s: %d rows of %s name no picture of its folder: %s; a name is a path from the list's own folder",
                    self._folder,
                    len(listed.strange),
                    listed.name,
                    name_some(listed.strange),
                )
        advice = self.advice()
        if advice:
            LOGGER.warning("%s: %s", self._folder, advice)
        unused = [name for name in self.unused() if not any(name == listed.name for listed in self._lists)]
        if unused:
            LOGGER.warning(
                "%s: %d files that look like captions are not used: %s; a caption is read from a list such as "
                "metadata.jsonl (file_name, text), or from a .txt or .caption with the picture's name",
                self._folder,
                len(unused),
                name_some(unused),
            )

    def advice(self) -> str:
        """What to do about lists that have rows and give no caption; empty where there is none."""
        for listed in self._lists:
            others = [name for name in listed.columns if name not in NAME_KEYS]
            if not listed.captions and others:
                return (
                    f"{listed.name} has none of the columns {', '.join(CAPTION_KEYS)}, but {name_some(others)}; to "
                    f"read captions from one: --caption-column {others[0]} (caption_column in a recipe)"
                )
        return ""

    # --- lists ----------------------------------------------------------------------------------------------------

    def _read_list(self, name: str) -> _List:
        listed = _List(name)
        folder = PurePosixPath(name).parent
        for row in read_rows(self._beside[name]):
            listed.columns |= dict.fromkeys(row.values)
            written = _name_in(row.values)
            if written is None:
                continue
            picture = self._pictures.find(folder, written)
            if picture is None:
                listed.strange.append(written)
                continue
            captions = listed.captions.setdefault(picture, [])
            captions += [caption for caption in self._captions_in(row.values) if caption not in captions]
            if not captions:
                del listed.captions[picture]
        return listed

    def _captions_in(self, row: Mapping[str, Any]) -> list[str]:
        found = captions_in(row) if self._column is None else captions_in({"caption": row.get(self._column)})
        return [caption for caption in map(tidy, found) if caption]

    def _require_column(self) -> None:
        if self._column is None or any(self._column in listed.columns for listed in self._lists):
            return
        there = list(dict.fromkeys(column for listed in self._lists for column in listed.columns))
        raise RequestError(
            f"no list of captions in {self._folder} has the column {shown(self._column)}; "
            f"its columns are {name_some(there, 12) or 'none, for there is no list'}"
        )

    def _take_from_lists(self) -> None:
        for listed in self._lists:  # the nearest first
            for name, captions in listed.captions.items():
                if name not in self._captions:
                    self._captions[name] = captions
                    self._used.add(listed.name)

    # --- texts beside pictures --------------------------------------------------------------------------------------

    def _take_from_sidecars(self) -> None:
        by_name = {name.lower(): name for name in self._beside}
        bad: list[Path] = []
        for picture in self._pictures.names():
            if picture in self._captions:
                continue
            for candidate in _sidecars(picture):
                name = by_name.get(candidate.lower())
                if name is None or _is_list(name):
                    continue
                try:
                    captions = self._read_sidecar(self._beside[name])
                except UnicodeDecodeError:
                    bad.append(self._beside[name])
                    break
                self._used.add(name)
                if captions:
                    self._captions[picture] = captions
                    break
        if bad:
            raise wrong_encoding(bad[0], more=len(bad) - 1)

    def _read_sidecar(self, path: Path) -> list[str]:
        if path.suffix.lower() == ".json":
            rows = (self._captions_in(row.values) for row in read_rows(path))
            return next(rows, [])
        with open_text(path) as stream:
            lines = [tidy(line) for line in stream.read().splitlines()]
        return list(dict.fromkeys(line for line in lines if line))


class _Names:
    """The pictures of a folder, found by however a list writes their names."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = list(names)
        self._known = {_folded(name): name for name in self._names}
        self._stems: dict[str, str] = {}
        for name in self._names:
            self._stems.setdefault(_folded(name).rpartition(".")[0], name)

    def names(self) -> list[str]:
        """All of them, in order."""
        return self._names

    def find(self, folder: PurePosixPath, written: str) -> str | None:
        """The picture that a list in `folder` calls so; None where there is none."""
        for candidate in _candidates(folder, written):
            key = _folded(candidate)
            found = self._known.get(key) or self._stems.get(key)  # kohya's lists leave the ending out
            if found is not None:
                return found
        return None


def _candidates(folder: PurePosixPath, written: str) -> Iterator[str]:
    """What a name may mean, as paths from the top: from the list's folder, and of an absolute path its end."""
    before = "" if folder == PurePosixPath() else f"{folder.as_posix()}/"
    name = listed_name(written)
    yield before + written  # a file may really have a backslash in its name
    yield before + name
    if name.startswith("/") or PureWindowsPath(written).drive:
        # Of another machine, or of this one before the folder was moved.
        parts = [part for part in name.split("/") if part]
        for start in range(1, len(parts)):
            yield before + "/".join(parts[start:])


def _folded(name: str) -> str:
    """A name as one text, whether its accents are characters of their own (macOS) or not."""
    return unicodedata.normalize("NFC", name)


def _name_in(row: Mapping[str, Any]) -> str | None:
    for key in NAME_KEYS:
        if isinstance(row.get(key), str):
            return str(row[key])
    return next((value for key, value in row.items() if key.endswith("_file_name") and isinstance(value, str)), None)


def _sidecars(picture: str) -> Iterator[str]:
    """Names that a picture's text may have, in order."""
    stem = picture.rpartition(".")[0]
    for ending in (*SIDECAR_ENDINGS, ".json"):
        yield stem + ending
        yield picture + ending


def _is_list(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in LIST_ENDINGS and path.stem.lower() in LIST_STEMS


def _is_caption_like(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*SIDECAR_ENDINGS, *LIST_ENDINGS, ".arrow", ".ndjson", ".xlsx")


def _is_paper(name: str) -> bool:
    return PurePosixPath(name).stem.lower() in _PAPERS


def _precedence(name: str) -> tuple[int, int, int, str]:
    """Of two lists the one that is nearer to the pictures first, then by name and ending."""
    path = PurePosixPath(name)
    stem, ending = path.stem.lower(), path.suffix.lower()
    by_stem = LIST_STEMS.index(stem) if stem in LIST_STEMS else len(LIST_STEMS)
    by_ending = LIST_ENDINGS.index(ending) if ending in LIST_ENDINGS else len(LIST_ENDINGS)
    return -len(path.parts), by_stem, by_ending, name
