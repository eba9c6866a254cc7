"""Triples to learn from: a content, a style, and pictures that are good or damaged, with the cells where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.damage import FAMILIES, Subject
from bottega.quality.damage.common import mixed, region
from bottega.quality.damage.place import jpeg
from bottega.quality.eye.cells import GRID
from bottega.quality.eye.inputs import MeasuredPicture
from bottega.quality.eye.look import SMALLEST_SIDE
from bottega.quality.eye.training.contents import draw_content
from bottega.quality.eye.training.random_damage import RANDOM_FAMILIES
from bottega.quality.eye.training.stylise import TECHNIQUES, Style, mild_surface, nearest_colours, take_colours
from bottega.quality.measuring import Reference, compare, reference
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]
GOOD = "good"
TRY = "try"
"""The family of a real teacher's picture: its severity is the probability that it should be found damaged."""

MILD = "mild surface"
"""The kind of pictures whose surface the style does not show."""

FOREIGN = 0.2
"""Share of such triples: without them a picture in flat tones or with brush marks was accused if its style had none."""

LEARNED_FAMILIES = {**FAMILIES, **RANDOM_FAMILIES}

DrawContent = Callable[[np.random.Generator, int], Picture]


def _unknown(_: Picture) -> float:
    return math.nan


@dataclass(frozen=True)
class EyeExample:
    """One judged picture.

    triple: number of its content and style. family: GOOD or the damage's. severity: 0 mild, 0.5 medium, 1 severe. mask:
    share of each cell that is damaged, [G, G]. technique: of the style. distance: to the nearest of other good pictures
    of the same content and style, NaN where it is not known.
    """

    triple: int
    technique: str
    family: str
    severity: float
    mask: Floats
    distance: float
    measured: MeasuredPicture


@dataclass(frozen=True)
class GoodPictures:
    """A good picture with all that belongs to it.

    subject: the picture, its content and style, and another good picture. kind: of the style. more: good pictures of
    the same content and style, painted otherwise. distance: of any picture to the nearest of them that is another one.
    """

    subject: Subject
    kind: str
    more: tuple[Picture, ...]
    distance: Callable[[Picture], float] = field(default=_unknown)


Source = Callable[[int, int], GoodPictures]
"""Good pictures by their number and their side in pixels, the same each time."""


def made_up(
    index: int,
    side: int,
    *,
    draw: DrawContent = draw_content,
    kinds: tuple[str, ...] = tuple(TECHNIQUES),
    vary: bool = True,
    foreign: float = FOREIGN,
) -> GoodPictures:
    """A content in the technique of a style picture, and with some of its colours, at three strengths.

    Args:
        index: number of the triple.
        side: of all pictures, pixels.
        draw: makes a content.
        kinds: techniques to choose from.
        vary: the contents, see `varied`.
        foreign: share of triples whose pictures have a surface that the style does not show, see `mild_surface`.
    """
    rng = numpy_rng("eye subject", index, side)
    drawn_contents = [draw(rng, side) for _ in range(3)]
    if vary:
        drawn_contents = [varied(picture, rng) for picture in drawn_contents]
    content, other, shown = drawn_contents
    technique = kinds[int(rng.integers(len(kinds)))]
    style = Style(technique, int(rng.integers(1 << 30)))
    painted = style.draw(shown, int(rng.integers(1 << 30)))
    weight = rng.choice((0.0, 0.3, 0.6, 0.9))
    how = rng.random()
    count = int(rng.integers(5, 14))
    has_foreign_surface = numpy_rng("eye foreign", index, side).random() < foreign
    surface = int(numpy_rng("eye surface seed", index, side).integers(1 << 30))

    def stylise(picture: Picture, blend: float) -> Picture:
        source = painted if how < 0.5 else shown
        if how > 0.8:
            recoloured = nearest_colours(picture, source, weight, count)
        else:
            recoloured = take_colours(picture, source, weight)
        if has_foreign_surface:
            return _decoded(mild_surface(recoloured, surface), rng)
        drawn = style.draw(recoloured, int(rng.integers(1 << 30)))
        return _decoded(mixed(recoloured, drawn, blend), rng)

    blend = rng.choice((0.5, 0.75, 1.0))
    subject = Subject(stylise(content, blend), content, painted, stylise(other, blend))
    more = tuple(stylise(content, rng.uniform(0.35, 1.0)) for _ in range(3))
    return GoodPictures(subject, MILD if has_foreign_surface else technique, more)


def varied(picture: Picture, rng: np.random.Generator) -> Picture:
    """A content as another camera, light or hand would have it.

    Without it the network learns what made-up contents look like: of good photographs it accused 40 % and more
    (docs/log.md).
    """
    values = picture.astype(np.float32) / 255
    if rng.random() < 0.6:  # exposure and contrast
        values = np.clip(values, 0, 1) ** float(np.exp(rng.normal(0, 0.35)))
        values = 0.5 + (values - 0.5) * rng.uniform(0.4, 1.4) + rng.normal(0, 0.06)
    if rng.random() < 0.4:  # light of a colour
        values = values * np.exp(rng.normal(0, 0.18, 3)).astype(np.float32)
    if rng.random() < 0.25:  # without colour, or nearly
        grey = values.mean(-1, keepdims=True)
        values = grey + (values - grey) * rng.uniform(0, 0.3)
    if rng.random() < 0.3:  # out of focus, or sharpened
        soft = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.6, 3))
        values = soft + (values - soft) * rng.choice((0.0, 0.4, 1.8))
    if rng.random() < 0.3:  # grain
        values = values + rng.normal(0, rng.uniform(0.005, 0.05), (*picture.shape[:2], 1)).astype(np.float32)
    result = np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)
    if rng.random() < 0.2:
        result = jpeg(result, rng.uniform(50, 95))
    if rng.random() < 0.25:  # a content may be painted already
        technique = str(rng.choice(list(TECHNIQUES)))
        drawn = Style(technique, int(rng.integers(1 << 30))).draw(result, int(rng.integers(1 << 30)))
        result = mixed(result, drawn, rng.uniform(0.3, 1))
    return result


def _decoded(picture: Picture, rng: np.random.Generator) -> Picture:
    """As an autoencoder leaves a picture: a little soft, a little off."""
    how = rng.random()
    if how < 0.3:
        return picture
    if how < 0.6:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9)), np.uint8)
    if how < 0.8:
        return jpeg(picture, rng.uniform(80, 98))
    noise = rng.normal(0, rng.uniform(0.5, 2.5), picture.shape)
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def measured_picture(picture: Picture, content: Reference, style: Reference) -> MeasuredPicture:
    """What the network is given of a picture; the three have 128 px or more."""
    own = reference(picture)
    if own.cells is None or content.cells is None or style.cells is None:
        raise RequestError(f"the eye looks at pictures of {SMALLEST_SIDE} px or more, received {picture.shape[:2]}")
    return MeasuredPicture.of(own.cells, content.cells, style.cells, compare(own, content, style))


def damaged(subject: Subject, family: str, severity: float, rng: np.random.Generator) -> tuple[Picture, Floats]:
    """A damaged picture and its mask; in a quarter of the cases a part of it alone is damaged."""
    kind = LEARNED_FAMILIES[family]
    picture = kind.apply(subject, kind.strength(severity), rng)
    if kind.cause in ("light", "colour", "noise", "pattern", "blur", "compression") and rng.random() < 0.25:
        place = region(rng, picture.shape, rng.uniform(0.15, 0.6))
        picture = mixed(subject.good, picture, place)
    return picture, damage_mask(picture, subject.good)


def damage_mask(picture: Picture, good: Picture) -> Floats:
    """The share of each cell that differs visibly from the good picture, [G, G]."""
    difference = cv2.absdiff(picture, good).max(2).astype(np.float32)
    soft = cv2.blur(difference, (3, 3))
    return np.asarray(cv2.resize((soft > 6).astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)


def examples(
    index: int,
    side: int,
    source: Source = made_up,
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    bad: int = 10,
    nameless: int = 3,
) -> Iterator[EyeExample]:
    """The examples of one triple: its good pictures and some damaged ones.

    Args:
        index, side: of the triple, for the source.
        source: of good pictures.
        families: of damage to choose from.
        bad: how many damaged pictures.
        nameless: how many more by RANDOM_FAMILIES.
    """
    good = source(index, side)
    rng = numpy_rng("eye damages", index, side)
    content = reference(good.subject.content)
    style = reference(good.subject.style)

    def example(picture: Picture, family: str, severity: float, mask: Floats) -> EyeExample:
        measured = measured_picture(picture, content, style)
        return EyeExample(index, good.kind, family, severity, mask, good.distance(picture), measured)

    nothing = np.zeros((GRID, GRID), np.float32)
    for picture in (good.subject.good, *good.more):
        yield example(picture, GOOD, 0.0, nothing)
    chosen = [*rng.permutation(families)[:bad], *rng.permutation(list(RANDOM_FAMILIES))[:nameless]]
    for family in chosen:
        severity = float(rng.choice((0.25, 0.5, 0.75, 1.0)))
        picture, mask = damaged(good.subject, str(family), severity, rng)
        if mask.mean() > 0.02:  # else there is nothing to see: grey times any colour stays grey
            yield example(picture, str(family), severity, mask)
