"""Pictures as an encoder wants them, from its folder's preprocessor_config.json; equal to the library's PIL backend.

Own code, because transformers' processor depends on whether torchvision is installed, and its two backends resize
differently: thresholds calibrated with one would not hold with the other.

Symbols: N pictures, H × W pixels, S × S pixels after resizing and cropping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottega.models.weights import read_config
from bottega.runtime.errors import MissingError, RequestError

Pictures = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # uint8 [N, H, W, 3], or N of [H, W, 3] of any sizes


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an encoder's input.

    Attributes:
        size: (height, width) after resizing, or the short side alone; None: not resized.
        resample: Pillow's number of the filter.
        crop: (height, width) cut from the centre; None: not cropped.
        factor: what the values 0..255 are multiplied with.
        mean: of each channel, subtracted after that.
        std: of each channel, divided by at last.
    """

    size: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Preprocessing:
        """From preprocessor_config.json, in the spelling of any version of transformers, or processor_config.json.

        Raises:
            MissingError: the folder has neither.
            RequestError: it names a step that is not known here.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).exists():
                config = read_config(folder / name)
                return cls.of(config.get("image_processor", config), folder / name)
        raise MissingError(
            f"{folder}: no preprocessor_config.json, without which pictures would be read wrongly; fetch it again"
        )

    @classmethod
    def of(cls, config: Mapping[str, Any], where: Path) -> Preprocessing:
        """From the content of such a file; `where` names it in errors."""
        if config.get("do_pad"):
            raise RequestError(f"{where}: do_pad is not supported; name a model whose pictures are resized or cropped")
        # Old files name the extractor, new ones the processor; only a few classes have rules of their own.
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        size = None
        if config.get("do_resize", True):
            size = _size(config, short_side="CLIP" in kind or "ConvNext" in kind)
        crop = None
        if config.get("do_center_crop", False):
            crop = _sides(config.get("crop_size"))
        if "ConvNext" in kind and isinstance(size, int):
            size, crop = _convnext(size, float(config.get("crop_pct") or 224 / 256))
        factor, mean, std = _scaling(config)
        resample = int(config.get("resample", Image.Resampling.BILINEAR))
        return cls(size, resample, crop, factor, mean, std)

    def __call__(self, pictures: Pictures) -> NDArray[np.float32]:
        """uint8 pictures -> float32 [N, 3, S, S]. Raises ValueError for other arrays."""
        return np.stack([self._prepare(picture) for picture in pictures])

    def _prepare(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a picture must be uint8 [H, W, 3], received {picture.dtype} {list(picture.shape)}; convert it first"
            )
        pixels = _crop(self._resize(picture), self.crop)
        # Through float64, as transformers does: in float32 alone the last bits would differ from its own.
        scaled = (pixels.astype(np.float64) * self.factor).astype(np.float32)  # [S, S, 3]
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))  # [3, S, S]

    def _resize(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.size is None:
            return picture
        height, width = picture.shape[:2]
        if isinstance(self.size, int):
            # Cut and not rounded, as transformers does.
            long_side = int(self.size * max(height, width) / min(height, width))
            new_height, new_width = (long_side, self.size) if width <= height else (self.size, long_side)
        else:
            new_height, new_width = self.size
        if (new_height, new_width) == (height, width):
            return picture
        resized = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling(self.resample))
        return np.asarray(resized)


def _size(config: Mapping[str, Any], short_side: bool) -> tuple[int, int] | int | None:
    """`size` is a number in old files (a short side for CLIP, a square for ViT), later an object that says which."""
    size = config.get("size")
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    if isinstance(size, int) and short_side:
        return size
    return _sides(size)


def _scaling(config: Mapping[str, Any]) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Factor, means and deviations; those that change nothing where a step is switched off."""
    factor = 1.0
    if config.get("do_rescale", True):
        factor = float(config.get("rescale_factor", 1 / 255))
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean = tuple(map(float, config["image_mean"]))
        std = tuple(map(float, config["image_std"]))
    return factor, mean, std


def _sides(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def _convnext(size: int, crop_pct: float) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """ConvNeXt's and ResNet's rule: under 384 pixels, resize to size / crop_pct and cut the centre; else a square."""
    if size < 384:
        return int(size / crop_pct), (size, size)
    return (size, size), None


def _crop(picture: NDArray[np.uint8], crop: tuple[int, int] | None) -> NDArray[np.uint8]:
    if crop is None:
        return picture
    height, width = crop
    missing_rows = max(0, height - picture.shape[0])
    missing_columns = max(0, width - picture.shape[1])
    if missing_rows or missing_columns:
        # Black around what is too small, the odd pixel before it, as transformers does.
        above = (missing_rows + 1) // 2
        before = (missing_columns + 1) // 2
        margins = ((above, missing_rows - above), (before, missing_columns - before), (0, 0))
        picture = np.pad(picture, margins)
    top = (picture.shape[0] - height) // 2
    left = (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
