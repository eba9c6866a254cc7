"""Raw scores of a picture against its content and its style, without any limit or judgement.

Pictures are uint8 sRGB [H, W, 3] (H, W >= 16). Luminance Y is Rec. 601 in 0..1; "half" is the picture at half size (by
area). All arithmetic that subtracts is done in float32 or by OpenCV's saturating integer functions, since uint8
subtraction wraps around. `bottega.quality.detectors` holds the maps.

| score | definition | range |
|---|---|---|
| finite | share of the values that are finite, before any cast | 0..1 |
| bright | 99th percentile of Y at half | 0..1 |
| spread | standard deviation of the channel with the largest one, at half | 0..0.5 |
| clipped | share of channel values within 2 of 0 or 255, every fourth row | 0..1 |
| vivid | of (largest - smallest channel) at half, mean of the mean and the 98th percentile | 0..1 |
| clipped_excess, vivid_excess | the same minus the larger of content's and style's | -1..1 |
| vigour | contrast (standard deviation of Y) by the root of colourfulness (distance from grey), both relative | 0.. |
| veil | levels by which the darkest 2 % of Y are lighter than content's and style's, by lost range and vigour | |
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
| coarse_change | the same of pictures of 32 x 32 px, all rows | 0..1 |
| damage | logit of being damaged, by the learned eye: `bottega.quality.eye` | |
| damage_area | share of its cells that are rather damaged than not | 0..1 |
| estimated_distance | to what the style's painter would have made of the content, by the learned eye | 0 and up |
| cause_… | probability of each cause, if it is damaged; absent below 0.05 | 0..1 |
| mean_light, mean_a, mean_b | mean of Lab, levels | 0..255 |
| light_shift, a_shift, b_shift | levels by which that is beyond content's and style's, signed | -255..255 |
| light_follows, a_follows, b_follows | correlation of the eye's cells with the content's, signed | -1..1 |
| content_sim, style_sim | CLIP cosine of the picture to content and to style | -1..1 |
| style_gain | style_sim minus CLIP cosine of content to style: an untouched copy gains 0 | -2..2 |

hf_ratio, sharpness, mesh and blocking read full size, of pictures from 256 px in width the middle half of the columns
(from sky to ground); noise reads the middle half of both sides of a large picture's half. This sampling saves time and
loses nothing: what they measure is everywhere or it is no fault. The round trip is the content after the autoencoder
alone. A score that cannot be measured is absent, never NaN: edges of a flat content, similarities without an encoder,
mesh under 64 px, blocks under 48 and the eye's under 128, anything of a picture that is not finite.
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
from bottega.quality.eye.cells import Cells, measure_cells
from bottega.quality.eye.look import EYE_SCORES, SMALLEST_SIDE, Frame, eye_scores, look, shipped_eye, worst_part
from bottega.quality.eye.network import Network
from bottega.quality.eye.tones import TONE_SCORES, tone_scores
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.visual.pictures import Picture, finite_share, to_uint8

Map = detectors.Map
AnyPicture = npt.NDArray[Any]  # [H, W, 3], uint8 or float in 0..1
Vector = npt.NDArray[np.float32]  # [D], of unit norm
Scores = dict[str, float]  # by name, of SCORE_NAMES; one that could not be measured is absent
ImageEncoder = Callable[[Picture], npt.NDArray[np.float32]]  # uint8 [N, H, W, 3] -> unit vectors [N, D]

SCORES_VERSION = 2  # raised when a score's definition changes: limits mean nothing for scores of another one
SCORE_NAMES = (
    "finite",
    "bright",
    "spread",
    "clipped",
    "clipped_excess",
    "vivid",
    "vivid_excess",
    "edge_64",
    "edge_128",
    "structure",
    "hf_ratio",
    "sharpness",
    "vigour",
    "veil",
    "noise",
    "blocking",
    "blocking_share",
    "mesh",
    "ghosting",
    "change",
    "coarse_change",
    "content_sim",
    "style_sim",
    "style_gain",
    *EYE_SCORES,
    *TONE_SCORES,
)
EDGE_SIDES = (64, 128)
HF_FLOOR = 2e-4  # an RMS gradient of 1.4 % a pixel: divided by less, a smooth content would make any ratio huge
SHARP_ENOUGH = 0.3  # of the contrast in one pixel: no picture need be sharper
VIGOUR_OF_LESS = 1.6  # how far the expected contrast may exceed that of the paler of content and style
VIGOUR_FLOOR = 8.0  # levels: with less, neither contrast nor colour is a measure for others
_WIDE = 256  # pixels from which the finest measures read the middle half of the columns
VEIL_FLOOR = 8.0  # levels added to a range of light: a flat content has no contrast to lose
COARSE_SIDE = 32  # px: no surface is left, only where light and colour are
_LIMIT_LEVELS = 3  # levels 0..2 and 253..255 count as clipped


@dataclass(frozen=True)
class Reference:
    """What the scores need of one picture: computed once for a content or a style, however many targets use it."""

    picture: Picture
    edges: dict[int, Map | None]  # side -> centred unit-norm edge map [side, side], None where flat
    tones: Map | None
    energy: float
    acutance: float  # steepest slope over contrast
    dark: int  # 2 % quantile of Y, levels
    light_range: int  # levels from there to the 98 % quantile
    coarse: Picture  # [COARSE_SIDE, COARSE_SIDE, 3]
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
    embedding: Vector | None = field(default=None)

    @cached_property
    def cells(self) -> Cells | None:
        """What the learned eye sees; None of a picture too small for it."""
        if min(self.picture.shape[:2]) < SMALLEST_SIDE:
            return None
        return measure_cells(self.picture)

    @cached_property
    def lines_near(self) -> Map | None:
        """The waves that a picture of this content or style may have."""
        return None if self.lines is None else detectors.near(self.lines)

    @cached_property
    def echoes_near(self) -> Map:
        """The echoes that a picture of this content or style may have."""
        return detectors.near(self.echoes)


def luminance(picture: Picture) -> detectors.Luma:
    """Rec. 601 luminance, uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def reference(picture: Picture, embedding: Vector | None = None) -> Reference:
    """Compute everything that the scores need of one picture.

    Args:
        picture: uint8 [H, W, 3] in sRGB, sides of 16 px or more.
        embedding: its CLIP vector of unit norm, [D]; None without an encoder.

    Raises:
        RequestError: not uint8 RGB, or a side under 16 px.
    """
    is_rgb = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    if not is_rgb or min(picture.shape[:2]) < 16:
        raise RequestError(
            f"a judged picture must be uint8 [H, W, 3] with sides of 16 px or more, received {picture.dtype} "
            f"{picture.shape}; convert it first"
        )
    picture = np.ascontiguousarray(picture)
    high, wide = picture.shape[:2]

    # Light and colour at half size, for they are not about single pixels: one of the steps that took judging from
    # 6.4 to 3.7 ms (docs/log.md, seventh session).
    half = cv2.resize(picture, (wide // 2, high // 2), interpolation=cv2.INTER_AREA)
    light = luminance(half)
    red, green, blue = cv2.split(half)
    deviations = [cv2.meanStdDev(plane)[1].item() for plane in (red, green, blue)]
    largest = cv2.max(cv2.max(red, green), blue)
    smallest = cv2.min(cv2.min(red, green), blue)
    span = cv2.subtract(largest, smallest)  # 0 for grey
    mean_span = float(cv2.mean(span)[0])
    wide_span = detectors.quantiles(span, (0.98,))[0]
    between = (
        cv2.norm(red, green, cv2.NORM_L2SQR)
        + cv2.norm(green, blue, cv2.NORM_L2SQR)
        + cv2.norm(red, blue, cv2.NORM_L2SQR)
    )
    dark, bright, brightest = detectors.quantiles(light, (0.02, 0.98, 0.99))

    # Clipped values, gradients, waves and blocks at full size.
    rows = picture.reshape(high, -1)[::4]
    inside = cv2.countNonZero(cv2.inRange(rows, _LIMIT_LEVELS, 255 - _LIMIT_LEVELS))
    fine = luminance(detectors.middle_columns(picture) if wide >= _WIDE else picture)
    energy, slope = detectors.gradients(fine)

    # Structure and echoes at 128 px or, of a small picture, as it is: half of it would lose the edges.
    finest = max(EDGE_SIDES)
    small = light if min(light.shape) >= finest else luminance(picture)
    if min(small.shape) >= finest:
        small = detectors.resized(small, finest)

    return Reference(
        picture=picture,
        edges={side: detectors.edge_map(small, side) for side in EDGE_SIDES},
        tones=detectors.tone_map(small),
        energy=energy,
        # Half a level and 8 levels: a slope of 0 counts as what rounding hides, a flat picture divides by no 0.
        acutance=(slope / 2 + 0.5) / (bright - dark + 8),
        dark=dark,
        light_range=bright - dark,
        coarse=np.asarray(cv2.resize(half, (COARSE_SIDE, COARSE_SIDE), interpolation=cv2.INTER_AREA), np.uint8),
        bright=brightest / 255,
        spread=max(deviations) / 255,
        clipped=1 - inside / rows.size,
        vivid=(mean_span + wide_span) / (2 * 255),
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


def compare(
    picture: Reference,
    content: Reference,
    style: Reference,
    round_trip: Reference | None = None,
    *,
    eye: Network | None = None,
) -> Scores:
    """All scores of a picture against its content and its style.

    Args:
        picture: the one to judge.
        content: of the same size, for `change` compares pixels.
        style: of any size.
        round_trip: the content after the autoencoder alone, so that a copy with nothing but the autoencoder's own error
            counts as untouched; None where it is not known.
        eye: the learned eye; None leaves its scores out.

    Raises:
        RequestError: picture and content differ in size.
    """
    if picture.picture.shape != content.picture.shape:
        raise RequestError(
            f"picture and content must have one size, received {picture.picture.shape} and "
            f"{content.picture.shape}; load both with load_square"
        )
    scores = _light_and_colour(picture, content, style)
    scores |= _structure(picture, content)
    scores |= _texture(picture, content, style)
    scores |= _blocks(picture, content, style, round_trip)
    rows = picture.picture[::4]
    scores["change"] = difference(rows, content.picture[::4])
    scores["coarse_change"] = difference(picture.coarse, content.coarse)
    if round_trip is not None:
        scores["change"] = min(scores["change"], difference(rows, round_trip.picture[::4]))
        scores["coarse_change"] = min(scores["coarse_change"], difference(picture.coarse, round_trip.coarse))
    if eye is not None:
        scores |= _eye_scores(eye, picture, content, style, scores)
    scores |= _similarities(picture, content, style)
    return {name: round(scores[name], 6) for name in SCORE_NAMES if name in scores}


def _light_and_colour(picture: Reference, content: Reference, style: Reference) -> Scores:
    vigour = _vigour(picture, content, style)
    return {
        "finite": 1.0,
        "bright": picture.bright,
        "spread": picture.spread,
        "clipped": picture.clipped,
        # Excesses, not values: a white ground or a vivid style is what was asked for, not a fault.
        "clipped_excess": picture.clipped - max(content.clipped, style.clipped),
        "vivid": picture.vivid,
        "vivid_excess": picture.vivid - max(content.vivid, style.vivid),
        "vigour": vigour,
        "veil": _veil(picture, content, style, vigour),
    }


def _structure(picture: Reference, content: Reference) -> Scores:
    """Whether edges and tones are where the content has them; what a flat content has not is left out."""
    scores: Scores = {}
    for side in EDGE_SIDES:
        edges = content.edges[side]
        if edges is not None:
            scores[f"edge_{side}"] = _correlation(picture.edges[side], edges)
    if content.tones is not None:
        # An ink drawing keeps outlines, not tones: the better of both counts.
        scores["structure"] = max(_correlation(picture.tones, content.tones), scores.get("edge_64", -1.0))
    return scores


def _correlation(ours: Map | None, theirs: Map) -> float:
    """Of two centred maps of unit norm; 0 where the picture's is flat."""
    return 0.0 if ours is None else float(np.vdot(ours, theirs))


def _texture(picture: Reference, content: Reference, style: Reference) -> Scores:
    """What is too fine, too soft or too regular for both content and style."""
    scores: Scores = {
        # Against the stronger of both: the style's hatching may add detail that the content does not have.
        "hf_ratio": picture.energy / max(content.energy, style.energy, HF_FLOOR),
        # Against the softer of both: a wash is meant to be soft.
        "sharpness": picture.acutance / min(content.acutance, style.acutance, SHARP_ENOUGH),
        "noise": picture.noise - max(content.noise, style.noise),
        "ghosting": detectors.ghosting(picture.echoes, (content.echoes_near, style.echoes_near)),
    }
    if picture.lines is not None:
        known = [lines for lines in (content.lines_near, style.lines_near) if lines is not None]
        scores["mesh"] = detectors.mesh(picture.lines, tuple(known))
    return scores


def _blocks(picture: Reference, content: Reference, style: Reference, round_trip: Reference | None) -> Scores:
    """Steps along a grid of 8 px beyond those of content, style and round trip."""
    if picture.blocking is None:
        return {}
    # The round trip too: blocks that the autoencoder makes of any picture are not this one's fault. Without it, half of
    # the miniature SDXL's targets, whose autoencoder has cells of 4 px, were C (docs/log.md, "Blocks").
    level, share = 0.0, 0.0
    for other in (content, style, round_trip):
        if other is not None and other.blocking is not None:
            level = max(level, other.blocking[0])
            share = max(share, other.blocking[1])
    return {"blocking": picture.blocking[0] - level, "blocking_share": picture.blocking[1] - share}


def _eye_scores(eye: Network, picture: Reference, content: Reference, style: Reference, scores: Scores) -> Scores:
    """The learned eye's; none of pictures too small for it."""
    if picture.cells is None or content.cells is None or style.cells is None:
        return {}
    seen = look(eye, picture.cells, content.cells, style.cells, scores)
    return eye_scores(seen) | tone_scores(picture.cells, content.cells, style.cells)


def where_damaged(picture: Picture, content: Picture, style: Picture) -> Frame | None:
    """Where the shipped eye sees damage in a picture, all uint8 [H, W, 3] of one size.

    Returns:
        None where it sees none, where it is nearly everywhere, or where the picture is too small.
    """
    own, of_content, of_style = (reference(one) for one in (picture, content, style))
    if own.cells is None or of_content.cells is None or of_style.cells is None:
        return None
    scores = compare(own, of_content, of_style)
    seen = look(shipped_eye(), own.cells, of_content.cells, of_style.cells, scores)
    frame = worst_part(seen.cells)
    return None if frame is None or frame.is_all else frame


def _similarities(picture: Reference, content: Reference, style: Reference) -> Scores:
    """CLIP's; none without an encoder."""
    if picture.embedding is None or content.embedding is None or style.embedding is None:
        return {}
    return similarities(picture.embedding, content.embedding, style.embedding)


def similarities(picture: Vector, content: Vector, style: Vector) -> Scores:
    """`content_sim`, `style_sim` and `style_gain` of CLIP vectors of unit norm, [D] each."""
    style_sim = float(picture @ style)
    return {
        "content_sim": float(picture @ content),
        "style_sim": style_sim,
        "style_gain": style_sim - float(content @ style),
    }


def _vigour(picture: Reference, content: Reference, style: Reference) -> float:
    """Contrast by the root of colour, each against what is expected between content and style."""
    contrast = picture.contrast / max(_expected(content.contrast, style.contrast), VIGOUR_FLOOR)
    # The floor is added to both sides of the colour's ratio, for grey pictures have no colour.
    expected = _expected(content.colour, style.colour)
    colour = (picture.colour + VIGOUR_FLOOR) / (expected + VIGOUR_FLOOR)
    return contrast * math.sqrt(colour)


def _veil(picture: Reference, content: Reference, style: Reference, vigour: float) -> float:
    """A veil of weight w lightens what is darkest by w times its own light, and leaves 1 - w of contrast and colour.

    Levels; a fog that the style shows is none, nor is a night, whose dark parts are dark. A drawing on white paper has
    light dark parts and a small range, too, but not less contrast than its content and its style would give it: without
    the share of the vigour that is lost, one in eight good pencil drawings of photographs was taken for a veil.
    """
    lift = picture.dark - max(content.dark, style.dark)
    least_range = min(content.light_range, style.light_range)
    lost = 1 - (picture.light_range + VEIL_FLOOR) / (least_range + VEIL_FLOOR)
    return max(lift, 0) * max(lost, 0.0) * max(1 - vigour, 0.0)


def _expected(content: float, style: float) -> float:
    """The geometric mean, but at most VIGOUR_OF_LESS times the lesser: a night scene may be as dark as its style."""
    return min(math.sqrt(content * style), VIGOUR_OF_LESS * min(content, style))


def measure(
    picture: AnyPicture,
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
    """Measures pictures in batches and keeps what it computed of contents and styles.

    Args:
        encoder: pictures uint8 [N, H, W, 3] -> unit vectors [N, D]; None leaves the similarities out.
        capacity: contents and styles kept; at 512 px one takes about 2.4 MB.
        with_eye: look with the learned eye too.
    """

    def __init__(self, encoder: ImageEncoder | None, capacity: int = 128, *, with_eye: bool = True) -> None:
        self._encoder = encoder
        self._eye = shipped_eye() if with_eye else None
        self._kept: LRUCache[str, Reference] = LRUCache(capacity)

    def measure(
        self,
        pictures: Sequence[AnyPicture],
        contents: Sequence[Picture],
        styles: Sequence[Picture],
        *,
        round_trips: Sequence[Picture | None] | None = None,
        keys: Sequence[tuple[str, str]] | None = None,
    ) -> list[Scores]:
        """Scores of each picture; one that is not finite has the single score `finite`, below 1.

        Args:
            pictures: uint8, or float in 0..1, [H, W, 3] each.
            contents, styles: uint8 [H, W, 3], one for each picture.
            round_trips: for each picture its content after the autoencoder, or None.
            keys: for each picture a name of its content and of its style (such as content hashes), under which they
                are kept.
        """
        levels, shares = _finite_levels(pictures)
        references = dict(zip(levels, self._references(list(levels.values())), strict=True))
        results: list[Scores] = []
        for i in range(len(pictures)):
            if i not in references:
                results.append({"finite": min(round(shares[i], 6), 0.999999)})  # one value of a million must show
                continue
            content_key, style_key = keys[i] if keys is not None else (None, None)
            content = self._kept_reference(contents[i], content_key)
            style = self._kept_reference(styles[i], style_key)
            trip = round_trips[i] if round_trips is not None else None
            round_trip = self._kept_trip(trip, content_key)
            results.append(compare(references[i], content, style, round_trip, eye=self._eye))
        return results

    def _references(self, pictures: list[Picture]) -> list[Reference]:
        if self._encoder is None or not pictures:
            return [reference(p) for p in pictures]
        one_size = len({picture.shape for picture in pictures}) == 1
        # The encoder takes one array: pictures of different sizes cannot share a batch.
        batches = [pictures] if one_size else [[picture] for picture in pictures]
        vectors: list[Vector] = []
        for batch in batches:
            vectors += list(np.asarray(self._encoder(np.stack(batch)), np.float32))
        return [reference(picture, vector) for picture, vector in zip(pictures, vectors, strict=True)]

    def _kept_trip(self, picture: Picture | None, content: str | None) -> Reference | None:
        """The round trip of a content; CLIP need not see it."""
        if picture is None or content is None:
            return None if picture is None else reference(picture)
        # Under a key of its own: under the content's alone it would be taken for the content itself.
        return get_or_compute(self._kept, f"round trip of {content}", lambda: reference(picture))

    def _kept_reference(self, picture: Picture, key: str | None) -> Reference:
        if key is None:
            return self._references([picture])[0]
        return get_or_compute(self._kept, key, lambda: self._references([picture])[0])


def _finite_levels(pictures: Sequence[AnyPicture]) -> tuple[dict[int, Picture], dict[int, float]]:
    """By number, the pictures that are finite as uint8, and the share of finite values of the others."""
    levels: dict[int, Picture] = {}
    shares: dict[int, float] = {}
    for i, picture in enumerate(pictures):
        try:
            levels[i] = to_uint8(picture)
        except NonFiniteError:
            shares[i] = finite_share(picture)
    return levels, shares
