"""Pictures as an encoder wants them, from its folder's preprocessor_config.json; equal to the library's PIL backend.

Own code, because transformers' processor depends on whether torchvision is installed, and its two backends resize
differently: thresholds calibrated with one would not hold with the other.

Symbols: N pictures, H × W pixels, S × S pixels after resizing and cropping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from typing_extensions import TypedDict

from bottega.models.weights import FETCH_AGAIN, read_config
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.records import to_record

Pictures = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # uint8 [N, H, W, 3], or N of [H, W, 3] of any sizes


Pixels = Annotated[int, Field(gt=0, le=16_384)]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class BothSides:
    """A size that names both sides."""

    height: Pixels
    width: Pixels


@dataclass(frozen=True)
class ShortSide:
    """A size that names the short side alone."""

    shortest_edge: Pixels


class ProcessorFile(TypedDict, total=False):
    """What is read of a preprocessor_config.json, in the spelling of any version of transformers."""

    image_processor_type: str | None
    feature_extractor_type: str | None
    do_pad: bool | None
    do_resize: bool | None
    size: Pixels | BothSides | ShortSide | None
    resample: Annotated[int, Field(ge=0, le=5)]
    do_center_crop: bool | None
    crop_size: Pixels | BothSides | ShortSide | None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None
    do_rescale: bool | None
    rescale_factor: Annotated[float, Field(allow_inf_nan=False)]
    do_normalize: bool | None
    image_mean: Channels
    image_std: Channels


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
            RequestError: it names a step that is not known here, or a value in it is wrong.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).exists():
                config = read_config(folder / name)
                where = folder / name
                return cls.of(config.get("image_processor", config), where)
        raise MissingError(
            f"{folder}: no preprocessor_config.json, without which pictures would be read wrongly; {FETCH_AGAIN}"
        )

    @classmethod
    def of(cls, content: object, where: Path) -> Preprocessing:
        """From the content of such a file; `where` names it in errors, which are those of `read`."""
        config = to_record(ProcessorFile, content, str(where), FETCH_AGAIN)
        if config.get("do_pad"):
            raise RequestError(f"{where}: do_pad is not supported; name a model whose pictures are resized or cropped")
        # Old files name the extractor, new ones the processor; only a few classes have rules of their own.
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
        size = None
        if config.get("do_resize", True):
            size = _size(config, short_side="CLIP" in kind or "ConvNext" in kind)
        crop = None
        if config.get("do_center_crop", False):
            crop = _sides(config.get("crop_size"))
        if "ConvNext" in kind and isinstance(size, int):
            size, crop = _convnext(size, config.get("crop_pct") or 224 / 256)
        factor, mean, std = _scaling(config, where)
        resample = config.get("resample", Image.Resampling.BILINEAR)
        return cls(size, resample, crop, factor, mean, std)

    def __call__(self, pictures: Pictures) -> NDArray[np.float32]:
        """uint8 pictures -> float32 [N, 3, S, S]. Raises ValueError for other arrays."""
        return np.stack([self._prepare(picture) for picture in pictures])

    def _prepare(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a picture must be uint8 [H, W, 3], received {picture.dtype} {list(picture.shape)}; convert it first"
            )
        pixels = _crop(self._resize(picture), self.crop)  # [S, S, 3]
        table = self._table
        # Looked up, since a byte has only 256 values: computed for each pixel, this took four times as long.
        return np.stack([table[channel][pixels[..., channel]] for channel in range(3)])  # [3, S, S]

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """What each byte of each channel becomes, [3, 256]."""
        # Through float64, as transformers does: in float32 alone the last bits would differ from its own.
        scaled = (np.arange(256, dtype=np.float64) * self.factor).astype(np.float32)  # [256]
        mean = np.asarray(self.mean, np.float32)[:, None]  # [3, 1]
        std = np.asarray(self.std, np.float32)[:, None]
        normal: NDArray[np.float32] = (scaled - mean) / std
        return normal

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


def _size(config: ProcessorFile, short_side: bool) -> tuple[int, int] | int | None:
    """`size` is a number in old files (a short side for CLIP, a square for ViT), later an object that says which."""
    size = config.get("size")
    if isinstance(size, ShortSide):
        return size.shortest_edge
    if isinstance(size, int) and short_side:
        return size
    return _sides(size)


def _scaling(config: ProcessorFile, where: Path) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Factor, means and deviations; those that change nothing where a step is switched off."""
    factor = 1.0
    if config.get("do_rescale", True):
        factor = config.get("rescale_factor", 1 / 255)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        if "image_mean" not in config or "image_std" not in config:
            raise RequestError(f"{where}: do_normalize needs image_mean and image_std, one is absent; {FETCH_AGAIN}")
        mean = config["image_mean"]
        std = config["image_std"]
    return factor, mean, std


def _sides(size: int | BothSides | ShortSide | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, BothSides):
        return size.height, size.width
    side = size.shortest_edge if isinstance(size, ShortSide) else size
    return side, side


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
