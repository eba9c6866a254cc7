"""COCO: pictures with the captions that people wrote, and COCO-Stuff's label maps where they are present."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from bottega.data import layouts
from bottega.data.archives import unpack_advice
from bottega.data.captions import Captioned, Captions, stem_of
from bottega.data.config import CocoConfig
from bottega.data.contents import Content, index_contents, relative, split_contents, write_contents
from bottega.data.index import Index, PictureRow
from bottega.data.ingest import name_some, require_source, require_usable
from bottega.runtime.errors import MissingError
from bottega.runtime.files import write_bytes, write_text

_CAPTION_FILE = re.compile(r"captions_(?P<part>[A-Za-z0-9-]+)\.json")


def run(config: CocoConfig, directory: Path, *, data_root: Path) -> dict[str, int | str]:
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
        # Read the captions: they list the pictures that there should be.
        for path, part in caption_files(source, config.parts):
            captions.read(path, part)
        require_source((content.path for content in _contents(captions, source)), source)
        # Inspect the pictures. The index is opened late, for an absent source must leave no trace.
        index = stack.enter_context(Index(directory / "index.sqlite"))
        layout = layouts.recognise(source, captions.parts())
        contents = _contents(captions, source)
        index_contents(index, contents, captions.sources(), data_root=data_root, limits=config.limits)
        require_usable(index, directory, "contents")
        # Decide the splits, and write the table with each content's label map.
        splits = split_contents(index, config.splits)
        maps = _LabelMaps(layout, captions, directory, data_root)

        def captions_of(row: PictureRow) -> list[str]:
            return captions.of(row.source)

        counts = write_contents(directory, data_root, index, splits, captions_of, maps.path_of)
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
    found = _official_files(source) or _metadata_files(source)
    _require_parts(found, parts, source)
    # Sorted by path, so that pictures get their ids in the same order on every file system.
    wanted = parts or tuple(found)
    return sorted((found[part], part) for part in wanted)


def _require_parts(found: Mapping[str, Path], parts: tuple[str, ...], source: Path) -> None:
    missing = [part for part in parts if part not in found]
    if found and not missing:
        return
    names = ", ".join(f"captions_{part}.json" for part in missing) or "captions_*.json"
    boxes = sorted(path.name for path in (*source.glob("instances_*.json"), *source.glob("*/instances_*.json")))
    instead = f", but {name_some(boxes)}, which hold boxes and no captions" if boxes else unpack_advice(source)
    raise MissingError(
        f"{source} has no {names} (nor annotations/ in it){instead}; unpack annotations_trainval2017.zip there. "
        "bottega writes no captions itself"
    )


def _official_files(source: Path) -> dict[str, Path]:
    """Part -> `captions_PART.json`, those in `annotations/` first."""
    found: dict[str, Path] = {}
    # Unpacked with a folder of its own, annotations_trainval2017/annotations is one level further down.
    for pattern in ("annotations/captions_*.json", "captions_*.json", "*/annotations/captions_*.json"):
        for path in sorted(source.glob(pattern)):
            match = _CAPTION_FILE.fullmatch(path.name)
            if match is not None:
                found.setdefault(match["part"], path)
    return found


def _metadata_files(source: Path) -> dict[str, Path]:
    """Part -> `metadata.jsonl` of its folder; "all" -> a file for the whole data set, where no part has its own."""
    found: dict[str, Path] = {}
    for pattern in ("*/metadata.csv", "images/*/metadata.csv", "*/metadata.jsonl", "images/*/metadata.jsonl"):
        for path in sorted(source.glob(pattern)):
            found[path.parent.name] = path
    if found:
        return found
    for name in ("metadata.jsonl", "images/metadata.jsonl", "metadata.csv", "images/metadata.csv", "dataset_coco.json"):
        if (source / name).is_file():
            return {"all": source / name}
    return {}


def _contents(captions: Captions, source: Path) -> Iterator[Content]:
    for listed in captions.pictures():
        split = ""
        for official in ("train", "val"):
            if listed.part.rpartition("/")[2].startswith(official):
                split = official
        name = f"{listed.part}/{listed.file_name}"
        yield Content(name, _picture_path(listed, source), stem_of(listed.file_name), listed.captions, split)


def _picture_path(listed: Captioned, source: Path) -> Path:
    """The picture's place in any of the usual trees; the most usual place if it is nowhere."""
    part, name = listed.part, listed.file_name
    places = (f"images/{part}/{name}", f"{part}/{name}", f"images/{name}", name, f"{part}/images/{name}")
    for place in places:
        if (source / place).is_file():
            return source / place
    return source / places[0]


class _LabelMaps:
    """Label maps with class ids as values: the data set's own; those of `stuffthingmaps`, whose values are one below
    the ids, are written again for held-out contents."""

    def __init__(self, layout: layouts.CocoLayout, captions: Captions, directory: Path, data_root: Path) -> None:
        self._layout = layout
        self._captions = captions
        self._directory = directory
        self._data_root = data_root
        self._shifted = layout.name == "stuffthingmaps"
        self.count = 0
        names = layout.labels_file()
        if self._shifted and names is not None:
            write_text(directory / "labels.txt", names.read_text(encoding="utf-8"))

    def path_of(self, row: PictureRow, split: str) -> str | None:
        """The map's path relative to the data root, or None."""
        path = self._layout.map_of(*self._captions.part_and_name(row.source))
        if path is None or (self._shifted and split == "train"):
            return None  # only held-out contents are measured against their maps
        if self._shifted:
            path = self._write_shifted(path, str(row.id))
        self.count += 1
        return relative(path, self._data_root)

    def _write_shifted(self, path: Path, identity: str) -> Path:
        written = self._directory / "layouts" / f"{identity}.png"
        if not written.is_file():
            buffer = io.BytesIO()
            Image.fromarray(layouts.class_ids(path, self._layout.name)).save(buffer, "PNG")
            write_bytes(written, buffer.getvalue())
        return written
