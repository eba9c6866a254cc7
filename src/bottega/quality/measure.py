"""Raw scores of a picture against its content and its style: pure functions of pixels, no limit in sight.

Pictures are uint8 sRGB [H, W, 3] (H, W >= 16). Luminance Y is Rec. 601 in 0..1. All arithmetic that subtracts is done
in float32 or by OpenCV's saturating integer functions, since uint8 subtraction wraps around.

| score | definition | range |
|---|---|---|
| finite | share of the values that are finite, before any cast | 0..1 |
| bright | 99th percentile of Y | 0..1 |
| spread | standard deviation of the liveliest colour channel | 0..0.5 |
| clipped | share of channel values within 2 of 0 or 255 | 0..1 |
| vivid | mean of (largest - smallest channel) | 0..1 |
| clipped_excess, vivid_excess | the same minus the larger of content's and style's | -1..1 |
| edge_64, edge_128 | Pearson correlation of the picture's and the content's `edge_map` | -1..1 |
| hf_ratio | `gradient_energy` over the larger of content's and style's, at least HF_FLOOR | 0.. |
| change | mean absolute difference from the content, or from its round trip if that is nearer | 0..1 |
| content_sim, style_sim | CLIP cosine of the picture to content and to style | -1..1 |
| style_gain | style_sim minus CLIP cosine of content to style: an untouched copy gains 0 | -2..2 |

The round trip is the content after the autoencoder alone. A score that cannot be taken is absent, never NaN: edges of a
flat content, similarities without an encoder, anything of a picture that is not finite.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.runtime.errors import NonFiniteError, RequestError

Picture = npt.NDArray[np.uint8]  # [H, W, 3]
Map = npt.NDArray[np.float32]
Scores = dict[str, float]
ImageEncoder = Callable[[Picture], npt.NDArray[np.float32]]  # uint8 [N, H, W, 3] -> unit vectors [N, D]

EDGE_SIDES = (64, 128)
HF_FLOOR = 2e-4  # an RMS gradient of 1.4 % a pixel: a smooth content must not blow the ratio up
_FLAT = 1e-4  # standard deviation of an edge map below which there is no structure to compare
_LIMIT_LEVELS = 3  # levels 0..2 and 253..255 count as clipped


@dataclass(frozen=True)
class Reference:
    """What the checks need of one picture: computed once for a content or a style, however many targets use it."""

    picture: Picture
    edges: dict[int, Map | None]  # side -> centred unit-norm edge map [side, side], None where flat
    energy: float
    bright: float
    spread: float
    clipped: float
    vivid: float
    embedding: npt.NDArray[np.float32] | None = field(default=None)


def to_uint8(picture: npt.NDArray[Any]) -> Picture:
    """Float picture in 0..1 -> uint8, rounded as diffusers rounds; values outside 0..1 are clamped.

    Raises:
        NonFiniteError: a value is NaN or infinite; casting it would silently make it black.
    """
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    share = finite_share(picture)
    if share < 1:
        raise NonFiniteError(
            f"a picture must be finite before it is cast, {1 - share:.1%} of its values are not; decode it again "
            "in fp32"
        )
    levels = cv2.max(np.ascontiguousarray(picture, np.float32), 0.0)
    whole: Picture = cv2.convertScaleAbs(levels, alpha=255)  # rounds half to even, as np.rint; stops at 255
    return whole


def finite_share(picture: npt.NDArray[Any]) -> float:
    """Share of the values that are neither NaN nor infinite, 0..1."""
    if picture.dtype.kind != "f" or cv2.checkRange(np.ascontiguousarray(picture))[0]:
        return 1.0
    return float(np.isfinite(picture).mean())


def luminance(picture: Picture) -> Map:
    """Rec. 601 luminance in 0..1, [H, W]."""
    luma: Map = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)
    return luma


def edge_map(luma: Map, side: int) -> Map | None:
    """Where the picture has edges, [side, side], centred and of unit norm; None where it has none.

    Area resize to `side`, Gaussian of 2 px (so that strokes count less than outlines), Sobel magnitude, Gaussian of 1
    px (so that an outline may move a little). The dot product of two maps is Pearson's correlation.
    """
    shrink = min(luma.shape) >= side
    small = cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    small = cv2.GaussianBlur(small, (0, 0), 2.0)
    magnitude = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    magnitude = cv2.GaussianBlur(magnitude, (0, 0), 1.0)
    magnitude -= magnitude.mean()
    norm = float(np.linalg.norm(magnitude))
    return np.asarray(magnitude / norm, np.float32) if norm > _FLAT * side else None


def gradient_energy(luma: Map) -> float:
    """Mean squared Sobel gradient per pixel at full size (kernel / 8, so that it is a derivative)."""
    across = cv2.Sobel(luma, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(luma, cv2.CV_32F, 0, 1, scale=0.125)
    total = cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
    return float(total / luma.size)


def reference(picture: Picture, embedding: npt.NDArray[np.float32] | None = None) -> Reference:
    """Take everything that the checks need of one picture, uint8 [H, W, 3].

    Raises:
        RequestError: not uint8 RGB, or a side under 16 px.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < 16:
        raise RequestError(
            f"a judged picture must be uint8 [H, W, 3] with sides of 16 px or more, received {picture.dtype} "
            f"{picture.shape}; convert it first"
        )
    picture = np.ascontiguousarray(picture)
    luma = luminance(picture)
    levels = cv2.calcHist([picture.reshape(picture.shape[0], -1)], [0], None, [256], [0, 256]).ravel()
    grey = cv2.calcHist([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)], [0], None, [256], [0, 256]).ravel()
    red, green, blue = cv2.split(picture)
    span = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    _, deviation = cv2.meanStdDev(picture)
    return Reference(
        picture=picture,
        edges={side: edge_map(luma, side) for side in EDGE_SIDES},
        energy=gradient_energy(luma),
        bright=float(np.searchsorted(np.cumsum(grey), 0.99 * luma.size)) / 255,
        spread=float(deviation.max()) / 255,
        clipped=float(levels[:_LIMIT_LEVELS].sum() + levels[-_LIMIT_LEVELS:].sum()) / picture.size,
        vivid=float(cv2.mean(span)[0]) / 255,
        embedding=embedding,
    )


def difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference of two uint8 pictures of one size, in 0..1 (OpenCV widens before it subtracts)."""
    return float(cv2.norm(one, other, cv2.NORM_L1)) / one.size / 255


def compare(picture: Reference, content: Reference, style: Reference, round_trip: Picture | None = None) -> Scores:
    """All scores of a picture against its content and its style.

    `content` must have the picture's size (`change` compares pixels); `round_trip` is the content after the
    autoencoder, so that a copy with nothing but the autoencoder's own error counts as untouched.

    Raises:
        RequestError: picture and content differ in size.
    """
    if picture.picture.shape != content.picture.shape:
        raise RequestError(
            f"picture and content must have one size, received {picture.picture.shape} and "
            f"{content.picture.shape}; load both with load_square"
        )
    scores: Scores = {"finite": 1.0, "bright": picture.bright, "spread": picture.spread}
    scores |= {"clipped": picture.clipped, "clipped_excess": picture.clipped - max(content.clipped, style.clipped)}
    scores |= {"vivid": picture.vivid, "vivid_excess": picture.vivid - max(content.vivid, style.vivid)}
    for side in EDGE_SIDES:
        ours, theirs = picture.edges[side], content.edges[side]
        if theirs is not None:
            scores[f"edge_{side}"] = float(np.vdot(ours, theirs)) if ours is not None else 0.0
    scores["hf_ratio"] = picture.energy / max(content.energy, style.energy, HF_FLOOR)
    scores["change"] = difference(picture.picture, content.picture)
    if round_trip is not None:
        scores["change"] = min(scores["change"], difference(picture.picture, round_trip))
    if picture.embedding is not None and content.embedding is not None and style.embedding is not None:
        style_sim = float(picture.embedding @ style.embedding)
        scores["content_sim"] = float(picture.embedding @ content.embedding)
        scores["style_sim"] = style_sim
        scores["style_gain"] = style_sim - float(content.embedding @ style.embedding)
    return {name: round(value, 6) for name, value in scores.items()}


def measure(
    picture: npt.NDArray[Any],
    content: Picture,
    style: Picture,
    *,
    encoder: ImageEncoder | None,
    round_trip: Picture | None = None,
) -> Scores:
    """Raw scores of one picture (uint8, or float in 0..1) against its content and style (uint8).

    Args:
        encoder: pictures uint8 [N, H, W, 3] -> unit vectors [N, D]; None leaves the similarities out.
        round_trip: the content after the autoencoder, where it is known.
    """
    return Judge(encoder).measure([picture], [content], [style], round_trips=[round_trip])[0]


class Judge:
    """Measures pictures in batches and keeps what it computed of contents and styles (bounded, least recently used
    goes first).

    Args:
        encoder: pictures uint8 [N, H, W, 3] -> unit vectors [N, D]; None leaves the similarities out.
        capacity: contents and styles kept; at 512 px one takes about 0.9 MB.
    """

    def __init__(self, encoder: ImageEncoder | None, capacity: int = 128) -> None:
        self._encoder = encoder
        self._capacity = capacity
        self._kept: OrderedDict[str, Reference] = OrderedDict()

    def measure(
        self,
        pictures: Sequence[npt.NDArray[Any]],
        contents: Sequence[Picture],
        styles: Sequence[Picture],
        *,
        round_trips: Sequence[Picture | None] | None = None,
        keys: Sequence[tuple[str, str]] | None = None,
    ) -> list[Scores]:
        """Scores of each picture; one that is not finite has the single score `finite`, below 1.

        Args:
            keys: for each picture a name of its content and of its style (such as content hashes), under which they
                are kept.
        """
        shares = [finite_share(p) for p in pictures]
        whole = [i for i, share in enumerate(shares) if share == 1.0]
        judged = dict(zip(whole, self._references([to_uint8(pictures[i]) for i in whole]), strict=True))
        results: list[Scores] = []
        for i, share in enumerate(shares):
            if i not in judged:
                results.append({"finite": min(round(share, 6), 0.999999)})  # one value of a million must show
                continue
            names = keys[i] if keys is not None else (None, None)
            content, style = self._kept_reference(contents[i], names[0]), self._kept_reference(styles[i], names[1])
            results.append(compare(judged[i], content, style, round_trips[i] if round_trips is not None else None))
        return results

    def _references(self, pictures: list[Picture]) -> list[Reference]:
        if self._encoder is None or not pictures:
            return [reference(p) for p in pictures]
        sizes = {p.shape for p in pictures}
        groups = [pictures] if len(sizes) == 1 else [[p] for p in pictures]
        vectors = [v for group in groups for v in np.asarray(self._encoder(np.stack(group)), np.float32)]
        return [reference(p, v) for p, v in zip(pictures, vectors, strict=True)]

    def _kept_reference(self, picture: Picture, key: str | None) -> Reference:
        if key is None:
            return self._references([picture])[0]
        if key not in self._kept:
            self._kept[key] = self._references([picture])[0]
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
