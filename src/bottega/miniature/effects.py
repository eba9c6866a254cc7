"""Effects on the drawn world, drawn by hand and measured: what the miniature's LoRAs and checkpoints are to learn.

Each effect has a drawn truth, so that there is an answer to learn from, and a measure that reads nothing but pixels, so
that a picture can be judged whatever it shows:

    outline   a line of ink around every object; on navy, which is as dark as ink, a line of chalk
    sepia     the whole picture in one ramp from brown to cream
    poster    the line, bolder colours and a ground without its gradient

The limits were set on drawn truths before and after the miniature's autoencoder, which blurs the line: of 150 scenes
each was classified correctly (`tests/miniature/test_effects.py` does it with fewer).
Pictures are uint8 [H, W, 3]; colours of measures are CIE Lab, L* in 0..100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.miniature.scenes import BACKGROUNDS, Scene, coverage, lightness, plain
from bottega.visual.pictures import Picture

Plane = npt.NDArray[Any]  # [H, W] or [H, W, channels], float32

INK = (18, 14, 20)
CHALK = (250, 248, 240)
DARK_GROUND = 40.0  # L* below which a line is of chalk
LINE = 5.5  # pixels of 128: more than a cell of the latents, for thinner lines alias there
LINE_REACH = 2.0  # pixels of 128 by which the line reaches outside its object
BOLD = 1.3  # factor on the chroma of a poster

SEPIA = ((8.0, 6.0, 9.0), (32.0, 14.0, 24.0), (58.0, 14.0, 34.0), (88.0, 6.0, 27.0))
"""The ramp, L*, a*, b*, dark to light."""

LINE_FROM = 0.5  # share of the edges from which a picture is said to have the line
SEPIA_FROM = 0.70  # share of pixels from which a picture is said to be sepia
_LINE_NEAR = 42.0  # distance in Lab from the line's colour: of a line after the autoencoder 40 at most, of blue 44
_INK_REACH, _CHALK_REACH = 4, 5  # pixels around a point of an edge in which the line may lie
_MIDDLE = 0.6  # of the largest depth of an object: from here its middle begins
_DARK_MIDDLE = 0.95  # share of line-coloured pixels; small stars after the autoencoder have up to 0.91
_SEPIA_NEAR = 9.0  # distance in a*b* up to which a pixel lies on the ramp
_OBJECT_CONTRAST = 18.0  # distance in Lab from the ground from which a pixel belongs to an object
_LEAST_OBJECT = 60  # pixels
_BORDER = 6  # pixels from which the ground is read


# --- drawn truths -----------------------------------------------------------------------------------------------------


def outlined(view: Scene, size: int = 128) -> Picture:
    """The plain scene with a line around each object."""
    return _to_uint8(_with_line(view, plain(view, size), size))


def sepia(view: Scene, size: int = 128) -> Picture:
    """The plain scene in sepia."""
    return to_sepia(_to_uint8(plain(view, size)))


def poster(view: Scene, size: int = 128) -> Picture:
    """The scene with the line, a flat ground and bold colours."""
    lab = cv2.cvtColor(plain(replace(view, depth=0.0), size), cv2.COLOR_RGB2LAB)
    lab[..., 1:] *= BOLD
    bold = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)
    return _to_uint8(_with_line(view, bold, size))


def to_sepia(picture: Picture) -> Picture:
    """Any picture in sepia: its L* is kept within the ramp's, its hue is the ramp's."""
    ramp = np.array(SEPIA)
    tone = _lab(picture)[..., 0]
    light = ramp[0, 0] + tone / 100 * (ramp[-1, 0] - ramp[0, 0])
    planes = [np.interp(light, ramp[:, 0], ramp[:, channel]) for channel in range(3)]
    rgb = cv2.cvtColor(np.stack(planes, axis=-1).astype(np.float32), cv2.COLOR_LAB2RGB)
    return _to_uint8(rgb)


def _with_line(view: Scene, picture: Plane, size: int) -> Plane:
    dark = lightness(BACKGROUNDS[view.background]) < DARK_GROUND
    colour = np.asarray(CHALK if dark else INK, np.float32) / 255
    fine = 2 * size
    scale = fine / 128
    drawn = np.asarray(picture, np.float32)
    for item in view.objects:
        inside = (coverage(item, fine) >= 0.5).astype(np.uint8)
        # distance to the edge in pixels of `fine`, negative inside
        outward = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
        away = outward - cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        middle = (LINE_REACH - LINE / 2) * scale
        alpha = np.clip(LINE / 2 * scale + 0.5 - np.abs(away - middle), 0, 1)
        alpha = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)[..., None]
        drawn = drawn * (1 - alpha) + colour * alpha
    return np.asarray(drawn, np.float32)


# --- measures ---------------------------------------------------------------------------------------------------------


def line_share(picture: Picture) -> float:
    """Share, 0..1, of the edges of all objects along which runs a line of ink (on a dark ground of chalk).

    An object is what stands out from the ground, which is a plane fitted to the picture's border. Without one it is 0.
    """
    lab = _lab(picture)
    ground = _ground(lab)
    stands_out = np.linalg.norm(lab - ground, axis=-1) > _OBJECT_CONTRAST
    on_dark = bool(np.median(ground[..., 0]) < DARK_GROUND)
    colour, reach = (CHALK, _CHALK_REACH) if on_dark else (INK, _INK_REACH)
    away = np.linalg.norm(lab - _lab(np.array([[colour]], np.uint8)), axis=-1)
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    line = (away < _LINE_NEAR).astype(np.uint8)
    beside = cv2.dilate(line, window)
    contours, _ = cv2.findContours(stands_out.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = []
    for contour in contours:
        if cv2.contourArea(contour) >= _LEAST_OBJECT:
            points = contour[:, 0]  # [N, 2], x and y
            along = beside[points[:, 1], points[:, 0]]
            found.append(along if _has_middle(contour, line) else np.zeros_like(along))
    if not found:
        return 0.0
    return float(np.concatenate(found).mean())


def _has_middle(contour: Any, line: Plane) -> bool:
    """Whether an object's middle is of another colour than the line: else it is dark all through, and has no line."""
    filled = np.zeros(line.shape, np.uint8)
    cv2.drawContours(filled, [contour], -1, 1, -1)
    depth = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    return bool(line[depth >= _MIDDLE * depth.max()].mean() < _DARK_MIDDLE)


def sepia_share(picture: Picture) -> float:
    """Share, 0..1, of pixels whose hue is the ramp's at their lightness."""
    lab = _lab(picture)
    ramp = np.array(SEPIA)
    wanted = [np.interp(lab[..., 0], ramp[:, 0], ramp[:, channel]) for channel in (1, 2)]
    away = np.hypot(lab[..., 1] - wanted[0], lab[..., 2] - wanted[1])
    return float((away < _SEPIA_NEAR).mean())


def ground_slope(picture: Picture) -> float:
    """How much the ground's L* changes across the picture: of the plane fitted to the border, highest less lowest."""
    light = _ground(_lab(picture))[..., 0]
    return float(light.max() - light.min())


def _ground(lab: Plane) -> Plane:
    """The ground's colour everywhere, [H, W, 3]: a plane through the border's pixels near their median."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width]
    terms = np.stack([np.ones((height, width)), x / width - 0.5, y / height - 0.5], axis=-1)
    border = np.ones((height, width), np.bool_)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    inputs, colours = terms[border], lab[border].astype(np.float64)
    near = np.linalg.norm(colours - np.median(colours, axis=0), axis=1) < _OBJECT_CONTRAST
    if near.sum() < 50:
        near = np.ones(len(colours), np.bool_)
    weights = np.linalg.lstsq(inputs[near], colours[near], rcond=None)[0]  # [3 terms, 3 channels]
    return np.asarray(terms @ weights, np.float32)


def _lab(picture: Picture) -> Plane:
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _to_uint8(picture: Plane) -> Picture:
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


# --- by name ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """An effect: its truth, and how a picture is asked whether it has it.

    trigger: words in a caption that call for it. draw: the truth of a scene. share: of a picture, 0..1. border: share
    from which the effect is there.
    """

    name: str
    trigger: str
    draw: Callable[[Scene], Picture]
    share: Callable[[Picture], float]
    border: float

    def shares(self, pictures: Iterable[Picture]) -> npt.NDArray[np.float64]:
        """The share of each picture, [N]."""
        return np.array([self.share(picture) for picture in pictures])


EFFECTS = {
    "outline": Effect("outline", "ink outline", outlined, line_share, LINE_FROM),
    "sepia": Effect("sepia", "sepia tone", sepia, sepia_share, SEPIA_FROM),
    "poster": Effect("poster", "masterpiece, best quality", poster, line_share, LINE_FROM),
}
