"""Pictures of numbers: 8-bit sRGB, floats in 0…1 and an autoencoder's tensors in -1…1, each way in one place.

Legend: N pictures, H × W pixels, 3 channels (R, G, B).

    Picture         uint8    [H, W, 3]       0…255     files, judges, encoders
    FloatPicture    float32  [H, W, 3]       0…1       what a model drew, before anything is rounded
    tensor          float32  [N, 3, H, W]    -1…1      what an autoencoder takes and gives

Rounding: level = round(255 x), halves to the even level, as diffusers rounds. The product 255 x is taken in float32
(also diffusers' way) unless `exact` is asked for; the two differ by one level in about 6 of a million values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bottega.runtime.errors import NonFiniteError

if TYPE_CHECKING:
    import torch

Picture = npt.NDArray[np.uint8]  # [H, W, 3] sRGB
Pictures = npt.NDArray[np.uint8]  # [N, H, W, 3] sRGB
FloatPicture = npt.NDArray[np.float32]  # [H, W, 3] in 0…1
FloatPictures = npt.NDArray[np.float32]  # [N, H, W, 3] in 0…1

MAGENTA = (1.0, 0.0, 1.0)  # no model here draws it in an area, so a person sees at once that a value was not finite

# OpenCV's conversion takes 0.08 ms for 512 x 512 px where NumPy's three passes take 2.7, and every target is converted;
# but it takes the absolute value and makes 0 of NaN.
# Read as unsigned integers, the bits of floats keep their order, and those of negative numbers (-0.0 too), infinities
# and NaN lie above the bits of every positive number: one maximum tells whether a block was safe to convert.
_LARGEST_SAFE = np.float32(1e6).view(np.uint32)
_BLOCK = 1 << 17  # values a block: 512 KB of floats, which stay in a core's cache between conversion and test


def to_uint8(
    pictures: npt.NDArray[Any], *, non_finite: Literal["refuse", "magenta"] = "refuse", exact: bool = False
) -> npt.NDArray[np.uint8]:
    """Floats in 0…1 to 8 bits; values outside of 0…1 are clamped, uint8 is returned as it is.

    Args:
        pictures: float or uint8, of any shape; [..., 3] for "magenta".
        non_finite: what becomes of NaN and infinity, which a plain cast would silently make black. "refuse" raises;
            "magenta" colours the whole pixel, for pictures that are drawn amid a training, which they must not stop.
        exact: take the product 255 x in float64. Training samples and pictures of `bottega ldm generate` have always
            been rounded so.

    Returns:
        uint8 of the same shape, contiguous.

    Raises:
        NonFiniteError: a value is NaN or infinite and `non_finite` is "refuse".
    """
    if pictures.dtype == np.uint8:
        return np.ascontiguousarray(pictures)
    if non_finite == "magenta":
        finite = np.isfinite(pictures).all(axis=-1, keepdims=True)
        pictures = np.where(finite, pictures, np.asarray(MAGENTA, pictures.dtype))
    if exact:
        _refuse_non_finite(pictures)
        return _rounded(pictures.astype(np.float64))
    return _to_uint8_by_blocks(np.ascontiguousarray(pictures, np.float32))


def _to_uint8_by_blocks(floats: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    import cv2

    result = np.empty(floats.shape, np.uint8)
    values = floats.reshape(1, -1)
    levels = result.reshape(1, -1)
    for start in range(0, values.size, _BLOCK):
        block = values[:, start : start + _BLOCK]
        cv2.convertScaleAbs(block, levels[:, start : start + _BLOCK], alpha=255)  # halves to even; stops at 255
        if block.view(np.uint32).max() > _LARGEST_SAFE:
            _refuse_non_finite(floats)
            return _rounded(floats)
    return result


def _rounded(floats: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Clamp, multiply and round in the precision of `floats`."""
    scaled = np.clip(floats, 0, 1) * floats.dtype.type(255)
    levels: npt.NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return levels


def _refuse_non_finite(pictures: npt.NDArray[Any]) -> None:
    share = finite_share(pictures)
    if share < 1:
        raise NonFiniteError(
            f"a picture must be finite before it is cast, {1 - share:.1%} of its values are NaN or infinite; decode it "
            "again in fp32"
        )


def finite_share(pictures: npt.NDArray[Any]) -> float:
    """Share of the values that are neither NaN nor infinite, 0…1; 1 for integers."""
    if pictures.dtype.kind != "f":
        return 1.0
    return float(np.isfinite(pictures).mean())


def to_signed(pictures: Pictures, device: torch.device | str = "cpu") -> torch.Tensor:
    """Pictures for an autoencoder: uint8 [N, H, W, 3] to float32 [N, 3, H, W] in -1…1, in the memory order of the
    array (channels last).
    """
    import torch

    writable = np.require(pictures, np.uint8, "W")  # torch warns of an array that is not, such as a mapped file
    levels = torch.from_numpy(writable).to(device)
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1.0  # [N, 3, H, W]


def from_signed(pixels: torch.Tensor, *, keep_infinite: bool = False) -> FloatPictures:
    """What an autoencoder gave, [N, 3, H, W] about -1…1, as floats [N, H, W, 3] clamped to 0…1, on the CPU.

    NaN stays NaN, so that `to_uint8` can refuse it. keep_infinite: infinities stay too, instead of becoming black or
    white.
    """
    import torch

    scaled = pixels.float() / 2 + 0.5
    clamped = scaled.clamp(0, 1)
    if keep_infinite:
        clamped = torch.where(scaled.isfinite(), clamped, scaled)
    channels_last = clamped.permute(0, 2, 3, 1).contiguous()
    floats: FloatPictures = channels_last.cpu().numpy()
    return floats
