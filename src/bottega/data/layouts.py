"""COCO-Stuff as people have it on disk: which of its layouts a folder holds, and label maps with one meaning.

| layout | label maps |
|---|---|
| `images-only` | none |
| `stuffthingmaps` | PNG, 0-181 and 255 = unlabeled: one below the class ids of labels.txt |
| `pixelmaps` | PNG whose values are the class ids themselves, 0 = unlabeled |
| `10k` | MATLAB files, not read |

A content's `layout_path` always means the third: value = class id, 0 = unlabeled.
Source: the READMEs of nightrome/cocostuff and nightrome/cocostuff10k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from bottega.data.captions import stem_of
from bottega.data.pictures import FORMATS
from bottega.runtime.paths import open_file

Name = Literal["images-only", "stuffthingmaps", "pixelmaps", "10k"]
UNLABELED = 255  # in `stuffthingmaps`; in `pixelmaps` no class has this id
SAMPLED = 16  # label maps that are read to recognise the layout; an unlabeled pixel in one of them decides
_MAP_FOLDERS = (
    "stuffthingmaps/{part}",
    "stuffthingmaps_trainval2017/{part}",
    "annotations/{part}",
    "pixelmaps/{part}",
    "stuff_{part}_pixelmaps",
    "annotations/stuff_{part}_pixelmaps",
    "stuffthingmaps",
    "pixelmaps",
    "annotations",
)


@dataclass(frozen=True)
class CocoLayout:
    """What kind of COCO-Stuff a folder is, and where the label maps of each part are."""

    name: Name
    source: Path

    def map_of(self, part: str, file_name: str) -> Path | None:
        """A picture's label map, or None."""
        if self.name not in ("stuffthingmaps", "pixelmaps"):
            return None
        for folder in _MAP_FOLDERS:
            path = self.source / folder.format(part=part) / f"{stem_of(file_name)}.png"
            if path.is_file():
                return path
        return None

    def labels_file(self) -> Path | None:
        """The list of class names, or None."""
        for name in ("labels.txt", "annotations/labels.txt", "pixelmaps/labels.txt"):
            if (self.source / name).is_file():
                return self.source / name
        return None


def recognise(source: Path, parts: Sequence[str]) -> CocoLayout:
    """Recognise the layout by the folder's files, and the two kinds of PNG by the values of some of them."""
    matlab_file = next((source / "annotations").glob("*.mat"), None)
    if (source / "imageLists").is_dir() or matlab_file is not None:
        return CocoLayout("10k", source)
    maps = _sample_maps(source, parts)
    if not maps:
        return CocoLayout("images-only", source)
    if any(UNLABELED in _values(path) for path in maps):
        return CocoLayout("stuffthingmaps", source)
    # Without a single unlabeled pixel in the sample only the name is left to go by.
    named = any("stuffthing" in str(path) for path in maps)
    return CocoLayout("stuffthingmaps" if named else "pixelmaps", source)


def _sample_maps(source: Path, parts: Sequence[str]) -> list[Path]:
    """The first PNGs of the folders that may hold label maps, at most `SAMPLED`."""
    folders: dict[str, None] = {}  # in order, each once: some folders are named for no part
    for part in parts:
        for place in _MAP_FOLDERS:
            folders[place.format(part=part)] = None
    maps: list[Path] = []
    for folder in folders:
        maps += sorted((source / folder).glob("*.png"))[: SAMPLED - len(maps)]
    return maps


def class_ids(path: Path, name: Name) -> npt.NDArray[np.uint8]:
    """A label map's class ids, uint8 [H, W], 0 = unlabeled, whichever layout it comes from."""
    values = _values(path)
    return values + np.uint8(1) if name == "stuffthingmaps" else values  # 255 + 1 = 0 in uint8


def _values(path: Path) -> npt.NDArray[np.uint8]:
    with open_file(path) as stream, Image.open(stream, formats=FORMATS) as image:
        return np.asarray(image if image.mode in ("L", "P") else image.convert("L"), dtype=np.uint8)
