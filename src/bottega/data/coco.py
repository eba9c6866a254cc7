"""COCO: pictures with the captions that people wrote, and COCO-Stuff's label maps where they lie beside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from bottega.data import layouts
from bottega.data.captions import Captioned, Captions, stem_of
from bottega.data.config import CocoConfig
from bottega.data.contents import Content, relative, split_contents, take_in_contents, write_contents
from bottega.data.index import Index, Row
from bottega.data.ingest import require_source, require_usable
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import write_bytes, write_text

_CAPTION_FILE = re.compile(r"captions_(?P<part>[A-Za-z0-9-]+)\.json")


def run(config: CocoConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Prepare contents in `directory`; the same command continues a stopped run and takes in new pictures.

    Args:
        config: where the data set is.
        directory: the output, normally `coco/` under the data root.
        data_root: what a relative `config.source`, and each `content_path`, starts from.

    Returns:
        Counts and the name of the recognised layout, for the stage's summary.

    Raises:
        MissingError: no data set, or no caption file in it.
        RequestError: a caption file is malformed, or no picture is usable.
    """
    source = data_root / config.source
    with Captions() as captions, ExitStack() as stack:
        for path, part in caption_files(source, config.parts):
            captions.read(path, part)
        require_source((content.path for content in _contents(captions, source)), source)
        index = stack.enter_context(Index(directory / "index.sqlite"))
        layout = layouts.recognise(source, captions.parts())
        contents = _contents(captions, source)
        take_in_contents(index, contents, captions.count(), data_root=data_root, limits=config.limits)
        require_usable(index, directory, "contents")
        splits = split_contents(index, config.splits)
        maps = _Maps(layout, directory, data_root)
        counts = write_contents(
            directory, index, splits, lambda row: captions.of(*row.source.split("/", 1)), maps.path_of
        )
    return {**counts, "layout": layout.name, "label_maps": maps.count}


def caption_files(source: Path, parts: tuple[str, ...] = ()) -> list[tuple[Path, str]]:
    """The caption files of a data set with the part that each describes, in order.

    Known are `captions_PART.json` in the folder or its `annotations/`, Karpathy's `dataset_coco.json`, and
    `metadata.jsonl` beside the pictures (in the folder itself, or in one folder a part).

    Raises:
        MissingError: there are none, or not all of `parts`.
    """
    if not source.is_dir():
        raise MissingError(
            f"there is no folder {source}; unpack COCO's train2017.zip and annotations_trainval2017.zip there"
        )
    found: dict[str, Path] = {}
    for folder in (source / "annotations", source):
        for path in sorted(folder.glob("captions_*.json")):
            if match := _CAPTION_FILE.fullmatch(path.name):
                found.setdefault(match["part"], path)
    if not found:
        found = {path.parent.name: path for path in sorted(source.glob("*/metadata.jsonl"))}
        found |= {path.parent.name: path for path in sorted(source.glob("images/*/metadata.jsonl"))}
        whole = (source / name for name in ("metadata.jsonl", "images/metadata.jsonl", "dataset_coco.json"))
        if not found and (listed := next((path for path in whole if path.is_file()), None)):
            found["all"] = listed
    missing = [part for part in parts if part not in found]
    if missing or not found:
        raise MissingError(
            f"{source} has no {', '.join(f'captions_{part}.json' for part in missing) or 'captions_*.json'} "
            f"(nor annotations/ in it); unpack annotations_trainval2017.zip there. bottega writes no captions itself"
        )
    return sorted((path, part) for part, path in found.items() if not parts or part in parts)


def _contents(captions: Captions, source: Path) -> Iterator[Content]:
    for listed in captions.pictures():
        split = "train" if listed.part.startswith("train") else "val" if listed.part.startswith("val") else ""
        name = f"{listed.part}/{listed.file_name}"
        yield Content(name, _picture(listed, source), stem_of(listed.file_name), listed.captions, split)


def _picture(listed: Captioned, source: Path) -> Path:
    """The picture's place in any of the usual trees; the most usual place if it is nowhere."""
    if listed.file_name.startswith("/") or ".." in Path(listed.file_name).parts:
        raise RequestError(f'a caption file names "{listed.file_name}", outside of {source}; mend or delete that entry')
    part, name = listed.part, listed.file_name
    places = (f"images/{part}/{name}", f"{part}/{name}", f"images/{name}", name, f"{part}/images/{name}")
    return next((source / place for place in places if (source / place).is_file()), source / places[0])


class _Maps:
    """Label maps with class ids as values: the data set's own, or, one off, written anew for held-out contents."""

    def __init__(self, layout: layouts.Layout, directory: Path, data_root: Path) -> None:
        self._layout, self._directory, self._data_root = layout, directory, data_root
        self.count = 0
        names = layout.labels_file()
        if layout.name == "stuffthingmaps" and names is not None:
            write_text(directory / "labels.txt", names.read_text(encoding="utf-8"))

    def path_of(self, row: Row, split: str) -> str | None:
        """The map's path relative to the data root, or None."""
        path = self._layout.map_of(*row.source.split("/", 1))
        if path is None or (self._layout.name == "stuffthingmaps" and split == "train"):
            return None  # only held-out contents are measured against their maps
        if self._layout.name == "stuffthingmaps":
            path = self._shifted(path, str(row.id))
        self.count += 1
        return relative(path, self._data_root)

    def _shifted(self, path: Path, identity: str) -> Path:
        written = self._directory / "layouts" / f"{identity}.png"
        if not written.is_file():
            buffer = io.BytesIO()
            Image.fromarray(layouts.class_ids(path, self._layout.name)).save(buffer, "PNG")
            write_bytes(written, buffer.getvalue())
        return written
