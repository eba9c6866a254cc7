"""Raw scores of a picture against its content and its style: no limit in sight.

Pictures are uint8 sRGB [H, W, 3] (H, W >= 16). Luminance Y is Rec. 601 in 0..1; "half" is the picture at half size (by
area). All arithmetic that subtracts is done in float32 or by OpenCV's saturating integer functions, since uint8
subtraction wraps around. `bottega.quality.detectors` holds the maps.

| score | definition | range |
|---|---|---|
| finite | share of the values that are finite, before any cast | 0..1 |
| bright | 99th percentile of Y at half | 0..1 |
| spread | standard deviation of the liveliest colour channel at half | 0..0.5 |
| clipped | share of channel values within 2 of 0 or 255, every fourth row | 0..1 |
| vivid | of (largest - smallest channel) at half, mean of the mean and the 98th percentile | 0..1 |
| clipped_excess, vivid_excess | the same minus the larger of content's and style's | -1..1 |
| vigour | contrast (standard deviation of Y) by the root of colourfulness (distance from grey), both relative | 0.. |
| edge_64, edge_128 | Pearson correlation of the picture's and the content's `edge_map` | -1..1 |
| structure | Pearson correlation of their `tone_map`s, or edge_64 if that is larger | -1..1 |
| hf_ratio | Sobel energy over the larger of content's and style's, at least HF_FLOOR | 0.. |
| sharpness | steepest slope over contrast, against the softer of content and style, at most SHARP_ENOUGH | 0.. |
| mesh | the strongest wave with a period of 2 to 7 px beyond content and style, `detectors.mesh` | |
| noise | `detectors.colour_noise` minus the larger of content's and style's, levels | |
| blocking, blocking_share | `detectors.blocking` minus the largest of content's, style's, round trip's | -4..4, \
-8..8 |
| ghosting | weight of a second, moved copy beyond content and style, `detectors.ghosting` | |
| change | mean absolute difference from the content, or from its round trip if nearer, every fourth row | 0..1 |
| content_sim, style_sim | CLIP cosine of the picture to content and to style | -1..1 |
| style_gain | style_sim minus CLIP cosine of content to style: an untouched copy gains 0 | -2..2 |

hf_ratio, sharpness, mesh and blocking read full size, of pictures from 256 px in width the middle half of the columns
(from sky to ground); noise reads the middle half of both sides of a large picture's half. Sampling for speed: what they
look for is everywhere or it is no fault. The round trip is the content after the autoencoder alone. A score that cannot
be taken is absent, never NaN: edges of a flat content, similarities without an encoder, mesh under 64 px and blocks
under 48, anything of a picture that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from bottega.quality import detectors
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.visual.pictures import Picture, finite_share, to_uint8

Map = npt.NDArray[np.float32]
Scores = dict[str, float]
ImageEncoder = Callable[[Picture], npt.NDArray[np.float32]]  # uint8 [N, H, W, 3] -> unit vectors [N, D]

SCORES_VERSION = 2  # raised when a score's definition changes: limits are worth nothing for scores of another one
EDGE_SIDES = (64, 128)
HF_FLOOR = 2e-4  # an RMS gradient of 1.4 % a pixel: a smooth content must not blow the ratio up
SHARP_ENOUGH = 0.3  # of the contrast in one pixel: no picture need be sharper
VIGOUR_OF_LESS = 1.6
VIGOUR_FLOOR = 8.0  # levels: below them neither contrast nor colour is a measure for others
_WIDE = 256  # pixels from which the finest measures read the middle half of the columns
_LIMIT_LEVELS = 3  # levels 0..2 and 253..255 count as clipped


@dataclass(frozen=True)
class Reference:
    """What the checks need of one picture: computed once for a content or a style, however many targets use it."""

    picture: Picture
    edges: dict[int, Map | None]  # side -> centred unit-norm edge map [side, side], None where flat
    tones: Map | None
    energy: float
    acutance: float  # steepest slope over contrast
    bright: float
    spread: float
    clipped: float
    vivid: float
    contrast: float  # levels
    colour: float  # levels
    noise: float
    blocking: tuple[float, float] | None
    lines: Map | None
    echoes: Map
    embedding: npt.NDArray[np.float32] | None = field(default=None)

    @cached_property
    def lines_near(self) -> Map | None:
        """What waves a picture of this content or style may have."""
        return None if self.lines is None else detectors.near(self.lines)

    @cached_property
    def echoes_near(self) -> Map:
        """What echoes a picture of this content or style may have."""
        return detectors.near(self.echoes)


def luminance(picture: Picture) -> npt.NDArray[np.uint8]:
    """Rec. 601 luminance, uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


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
    high, wide = picture.shape[:2]
    half = cv2.resize(picture, (wide // 2, high // 2), interpolation=cv2.INTER_AREA)
    light = luminance(half)
    fine = luminance(detectors.middle_columns(picture) if wide >= _WIDE else picture)
    small = light if min(light.shape) >= max(EDGE_SIDES) else luminance(picture)
    small = detectors.resized(small, max(EDGE_SIDES)) if min(small.shape) >= max(EDGE_SIDES) else small
    red, green, blue = cv2.split(half)
    span = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    dark, bright, brightest = detectors.quantiles(light, (0.02, 0.98, 0.99))
    energy, slope = detectors.gradients(fine)
    between = sum(cv2.norm(one, two, cv2.NORM_L2SQR) for one, two in ((red, green), (green, blue), (red, blue)))
    rows = picture.reshape(high, -1)[::4]
    inside = cv2.countNonZero(cv2.inRange(rows, _LIMIT_LEVELS, 255 - _LIMIT_LEVELS))
    return Reference(
        picture=picture,
        edges={side: detectors.edge_map(small, side) for side in EDGE_SIDES},
        tones=detectors.tone_map(small),
        energy=energy,
        acutance=(slope / 2 + 0.5) / (bright - dark + 8),
        bright=brightest / 255,
        spread=max(cv2.meanStdDev(plane)[1].item() for plane in (red, green, blue)) / 255,
        clipped=1 - inside / rows.size,
        vivid=(float(cv2.mean(span)[0]) + detectors.quantiles(span, (0.98,))[0]) / (2 * 255),
        contrast=cv2.meanStdDev(light)[1].item(),
        colour=math.sqrt(between / (9 * span.size)),
        noise=detectors.colour_noise(red, green, blue),
        blocking=detectors.blocking(fine),
        lines=detectors.line_spectrum(fine),
        echoes=detectors.echoes(small),
        embedding=embedding,
    )


def difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference of two uint8 pictures of one size, in 0..1 (OpenCV widens before it subtracts)."""
    return float(cv2.norm(one, other, cv2.NORM_L1)) / one.size / 255


def compare(picture: Reference, content: Reference, style: Reference, round_trip: Reference | None = None) -> Scores:
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
    if content.tones is not None:
        tones = float(np.vdot(picture.tones, content.tones)) if picture.tones is not None else 0.0
        scores["structure"] = max(tones, scores.get("edge_64", -1.0))
    scores |= _texture(picture, content, style, round_trip)
    scores["change"] = difference(picture.picture[::4], content.picture[::4])
    if round_trip is not None:
        scores["change"] = min(scores["change"], difference(picture.picture[::4], round_trip.picture[::4]))
    if picture.embedding is not None and content.embedding is not None and style.embedding is not None:
        style_sim = float(picture.embedding @ style.embedding)
        scores["content_sim"] = float(picture.embedding @ content.embedding)
        scores["style_sim"] = style_sim
        scores["style_gain"] = style_sim - float(content.embedding @ style.embedding)
    return {name: round(value, 6) for name, value in scores.items()}


def _texture(picture: Reference, content: Reference, style: Reference, round_trip: Reference | None) -> Scores:
    """What is too fine, too soft, too pale or too regular for both content and style.

    Blocks that the autoencoder makes of any picture are none of this one's: they are compared with the round trip too.
    """
    others = (content, style)
    scores: Scores = {"hf_ratio": picture.energy / max(content.energy, style.energy, HF_FLOOR)}
    scores["sharpness"] = picture.acutance / min(content.acutance, style.acutance, SHARP_ENOUGH)
    scores["vigour"] = _vigour(picture, content, style)
    scores["noise"] = picture.noise - max(other.noise for other in others)
    if picture.blocking is not None:
        for i, name in enumerate(("blocking", "blocking_share")):
            known = (content, style, *((round_trip,) if round_trip is not None else ()))
            least = max(0.0, *(other.blocking[i] for other in known if other.blocking is not None))
            scores[name] = picture.blocking[i] - least
    if picture.lines is not None:
        scores["mesh"] = detectors.mesh(picture.lines, tuple(o.lines_near for o in others if o.lines_near is not None))
    scores["ghosting"] = detectors.ghosting(picture.echoes, tuple(other.echoes_near for other in others))
    return scores


def _vigour(picture: Reference, content: Reference, style: Reference) -> float:
    """Contrast and colour against what content and style have: their geometric mean, or VIGOUR_OF_LESS times the lesser
    if that is less, so that a night scene may be as dark as its style.

    The floor bounds the contrast's denominator, and is added to both sides of the colour's ratio, for grey pictures
    have none.
    """
    contrast = picture.contrast / max(_between(content.contrast, style.contrast), VIGOUR_FLOOR)
    colour = (picture.colour + VIGOUR_FLOOR) / (_between(content.colour, style.colour) + VIGOUR_FLOOR)
    return contrast * math.sqrt(colour)


def _between(one: float, other: float) -> float:
    return min(math.sqrt(one * other), VIGOUR_OF_LESS * min(one, other))


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
        self._kept: LRUCache[str, Reference] = LRUCache(capacity)

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
        levels, shares = _finite_levels(pictures)
        judged = dict(zip(levels, self._references(list(levels.values())), strict=True))
        results: list[Scores] = []
        for i in range(len(pictures)):
            if i not in judged:
                results.append({"finite": min(round(shares[i], 6), 0.999999)})  # one value of a million must show
                continue
            names = keys[i] if keys is not None else (None, None)
            content, style = self._kept_reference(contents[i], names[0]), self._kept_reference(styles[i], names[1])
            trip = round_trips[i] if round_trips is not None else None
            results.append(compare(judged[i], content, style, self._kept_trip(trip, names[0])))
        return results

    def _references(self, pictures: list[Picture]) -> list[Reference]:
        if self._encoder is None or not pictures:
            return [reference(p) for p in pictures]
        sizes = {p.shape for p in pictures}
        groups = [pictures] if len(sizes) == 1 else [[p] for p in pictures]
        vectors = [v for group in groups for v in np.asarray(self._encoder(np.stack(group)), np.float32)]
        return [reference(p, v) for p, v in zip(pictures, vectors, strict=True)]

    def _kept_trip(self, picture: Picture | None, content: str | None) -> Reference | None:
        """The round trip of a content; CLIP need not see it."""
        if picture is None or content is None:
            return None if picture is None else reference(picture)
        return get_or_compute(self._kept, f"round trip of {content}", lambda: reference(picture))

    def _kept_reference(self, picture: Picture, key: str | None) -> Reference:
        if key is None:
            return self._references([picture])[0]
        return get_or_compute(self._kept, key, lambda: self._references([picture])[0])


def _finite_levels(pictures: Sequence[npt.NDArray[Any]]) -> tuple[dict[int, Picture], dict[int, float]]:
    """By number, the pictures that are finite as uint8, and the share of finite values of the others."""
    levels: dict[int, Picture] = {}
    shares: dict[int, float] = {}
    for i, picture in enumerate(pictures):
        try:
            levels[i] = to_uint8(picture)
        except NonFiniteError:
            shares[i] = finite_share(picture)
    return levels, shares
