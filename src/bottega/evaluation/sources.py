"""What an evaluation reads of a data set: contents, styles, and where they exist label maps and drawn truths.

The last two are optional files, found by their place:

- `coco/contents.jsonl` names a content's label map as `layout_path`; its classes are in `labels.txt` beside it or in
  a folder above it, with lines `id: name`.
- `truth/{pair_id}_seed{k}.png`, k = 0, 1, …: drawings of the right answer for a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from bottega.data.pictures import load_square
from bottega.data.records import Pair, read_contents, truth_path
from bottega.data.roots import label_map_file, picture_file
from bottega.evaluation.metrics import Labels, load_label_map, read_label_names
from bottega.runtime.errors import PictureError
from bottega.runtime.files import sha256_file
from bottega.visual.pictures import Picture

_KEPT = 64  # pictures kept of contents and of styles: a grid comes back to the same few of either


class Sources:
    """Reads the pictures of pairs at one size.

    Args:
        data_root: what the paths of the pairs are relative to.
        size: side in pixels of every picture that is handed out.
        truths: how many drawings of a pair are searched.
    """

    def __init__(self, data_root: Path, size: int, truths: int) -> None:
        self.data_root, self.size = data_root, size
        self._truths = truths
        self._layouts = _layouts(data_root)
        self.classes = self._label_names()
        # Bound here and not as decorated methods, so that the cache ends with this object.
        self._picture = functools.lru_cache(maxsize=2 * _KEPT)(self._load)
        # Without a limit: a hash is small, and each file belongs to many pairs.
        self._sha = functools.lru_cache(maxsize=None)(sha256_file)

    def content(self, pair: Pair) -> Picture:
        """The content of a pair. Raises PictureError."""
        return self._picture(pair.content_path)

    def style(self, pair: Pair) -> Picture:
        """The style picture of a pair. Raises PictureError."""
        return self._picture(pair.style_path)

    def truth_paths(self, pair: Pair) -> list[Path]:
        """The drawn truths of a pair that exist, in the order of their seeds."""
        named = [truth_path(self.data_root / "truth", pair.pair_id, k) for k in range(self._truths)]
        return [path for path in named if path.is_file()]

    def truths(self, pair: Pair, count: int | None = None) -> list[Picture]:
        """The drawn truths of a pair, or the first `count` of them. Raises PictureError."""
        return [load_square(path, self.size) for path in self.truth_paths(pair)[:count]]

    def labels(self, pair: Pair) -> Labels | None:
        """The content's label map, uint8 [size, size], or None. Raises PictureError where it can't be read."""
        place = self._layouts.get(pair.content_id)
        if place is None or not self.classes:
            return None
        try:
            return load_label_map(self._label_map(pair), self.size)
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.data_root / place}: not a label map that can be read ({error})") from error

    def identity(self, pair: Pair) -> list[str]:
        """What a score of this pair depends on besides the picture that is scored, as hashes. Raises PictureError."""
        files = [self._file(pair.content_path), self._file(pair.style_path)]
        if pair.content_id in self._layouts:
            files.append(self._label_map(pair))
        files += self.truth_paths(pair)
        try:
            return [pair.prompt, pair.style, *(self._sha(file) for file in files)]
        except OSError as error:
            raise PictureError(
                f"{error.filename}: can't be read ({error.strerror}); restore it or leave it out"
            ) from error

    def _load(self, path: str) -> Picture:
        return load_square(self._file(path), self.size)

    def _file(self, path: str) -> Path:
        return picture_file(self.data_root, path, "the path of a pair")

    def _label_map(self, pair: Pair) -> Path:
        where = f"contents.jsonl, {pair.content_id}: layout_path"
        return label_map_file(self.data_root, self._layouts[pair.content_id], pair.content_path, where)

    def _label_names(self) -> dict[int, str]:
        place = next(iter(self._layouts.values()), None)
        if place is None:
            return {}
        for folder in (self.data_root / place).parents:
            names = folder / "labels.txt"
            if names.is_file():
                return read_label_names(names)
            # Not above the data root: a labels.txt there belongs to something else.
            if folder == self.data_root:
                break
        return {}


def _layouts(data_root: Path) -> Mapping[str, str]:
    """Content id -> path of its label map relative to the data root, of the contents that have one."""
    file = data_root / "coco" / "contents.jsonl"
    if not file.is_file():
        return {}
    return {row.content_id: row.layout_path for row in read_contents(file) if row.layout_path}
