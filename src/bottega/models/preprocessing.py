"""Pictures as an encoder wants them, from its folder's preprocessor_config.json; equal to the library's PIL backend.

Own code, because the library's processor depends on whether torchvision is installed, and its two backends resize
differently. Symbols: N pictures, H × W pixels, S × S pixels after resizing and cropping.
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

    size: (height, width) after resizing, or the short side alone; crop: (height, width) cut from the centre;
    factor: what the values 0..255 are multiplied with; mean, std: of each channel, subtracted and divided after that.
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

        Raises MissingError without either, RequestError for a step that is not known here.
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
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        size, crop = _size(config, short_side="CLIP" in kind or "ConvNext" in kind), _sides(config.get("crop_size"))
        if not config.get("do_resize", True):
            size = None
        crop = crop if config.get("do_center_crop", False) else None
        if "ConvNext" in kind and isinstance(size, int):
            size, crop = _convnext(size, float(config.get("crop_pct") or 224 / 256))
        plain = not config.get("do_normalize", True)
        return cls(
            size=size,
            resample=int(config.get("resample", Image.Resampling.BILINEAR)),
            crop=crop,
            factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=(0.0,) * 3 if plain else tuple(map(float, config["image_mean"])),
            std=(1.0,) * 3 if plain else tuple(map(float, config["image_std"])),
        )

    def __call__(self, pictures: Pictures) -> NDArray[np.float32]:
        """uint8 pictures -> float32 [N, 3, S, S]. Raises ValueError for other arrays."""
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a picture must be uint8 [H, W, 3], received {picture.dtype} {list(picture.shape)}; convert it first"
            )
        pixels = _crop(self._resize(picture), self.crop)
        scaled = (pixels.astype(np.float64) * self.factor).astype(np.float32)  # [S, S, 3]
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))  # [3, S, S]

    def _resize(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.size is None:
            return picture
        height, width = picture.shape[:2]
        if isinstance(self.size, int):
            long = int(self.size * max(height, width) / min(height, width))
            new = (long, self.size) if width <= height else (self.size, long)
        else:
            new = self.size
        if new == (height, width):
            return picture
        return np.asarray(Image.fromarray(picture).resize((new[1], new[0]), Image.Resampling(self.resample)))


def _size(config: Mapping[str, Any], short_side: bool) -> tuple[int, int] | int | None:
    """`size` is a number in old files (a short side for CLIP, a square for ViT), later an object that says which."""
    size = config.get("size")
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    if isinstance(size, int) and short_side:
        return size
    return _sides(size)


def _sides(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def _convnext(size: int, crop_pct: float) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """ConvNeXt's and ResNet's rule: under 384 pixels, resize to size / crop_pct and cut the centre; else a square."""
    return (int(size / crop_pct), (size, size)) if size < 384 else ((size, size), None)


def _crop(picture: NDArray[np.uint8], crop: tuple[int, int] | None) -> NDArray[np.uint8]:
    if crop is None:
        return picture
    height, width = crop
    short = max(0, height - picture.shape[0]), max(0, width - picture.shape[1])
    if any(short):  # black around what is too small, the odd pixel before it, as the library does
        before = [(s + 1) // 2 for s in short]
        picture = np.pad(picture, [(b, s - b) for b, s in zip(before, short, strict=True)] + [(0, 0)])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
