"""Fill50K's own metrics, which need no network: is the circle where the outline is, and are both colours right?

A target is a filled circle of one colour on a background of another, so the right answer is known for every pixel. The
picture's circle is where its colour is nearer to the circle's than to the background's; where the two colours of an
example are close to each other, chance decides more, so every example is listed with their distance.

Legend: H × W pixels. Distances are CIE76 (ΔE).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bottega.evaluation.colour import Lab, to_lab
from bottega.visual.pictures import Picture

Mask = npt.NDArray[np.bool_]  # [H, W]

_EDGE = 0.02  # of the side: a band around the circle's edge whose colours are mixed in the target itself
_CORNER = 0.04  # of the side: the background shows in every corner


@dataclass(frozen=True)
class CircleScore:
    """How far a picture is from its filled circle.

    iou: of the circle's area with that of the target, in percent. inside, outside: mean colour error there, ΔE, without
    a narrow band around the edge. contrast: ΔE between the target's own two colours.
    """

    iou: float
    inside: float
    outside: float
    contrast: float


def circle_score(picture: Picture, target: Picture) -> CircleScore:
    """Compare a picture with the target of its example, both uint8 [H, W, 3] of one size.

    Raises:
        ValueError: the sizes differ, or the target shows no two colours.
    """
    if picture.shape != target.shape:
        raise ValueError(f"a picture and its target must be of one size, got {picture.shape} and {target.shape}")
    wanted = to_lab(target)
    outside = _background(wanted)
    distance = np.linalg.norm(wanted - outside, axis=-1)  # [H, W]
    contrast = float(np.percentile(distance, 99.5))  # of the circle, which covers 4 % of the picture at least
    if contrast < 1:
        raise ValueError("the target of a Fill50K example must show a circle on a background, got one colour")
    circle: Mask = distance > contrast / 2
    inside = np.median(wanted[circle], axis=0)  # [3]

    shown = to_lab(picture)
    found: Mask = np.linalg.norm(shown - inside, axis=-1) < np.linalg.norm(shown - outside, axis=-1)
    iou = float((found & circle).sum() / (found | circle).sum())
    error = np.linalg.norm(shown - wanted, axis=-1)
    core, rest = _without_edge(circle), _without_edge(~circle)
    return CircleScore(100 * iou, float(error[core].mean()), float(error[rest].mean()), contrast)


def _background(lab: Lab) -> npt.NDArray[np.float32]:
    """The colour of the four corners, [3]."""
    side = max(1, round(_CORNER * min(lab.shape[:2])))
    corners = [lab[:side, :side], lab[:side, -side:], lab[-side:, :side], lab[-side:, -side:]]
    colour: npt.NDArray[np.float32] = np.median(np.concatenate([one.reshape(-1, 3) for one in corners]), axis=0)
    return colour


def _without_edge(mask: Mask) -> Mask:
    """The mask without a band along its edge; as it is, where nothing would be left."""
    width = 2 * max(1, round(_EDGE * min(mask.shape))) + 1
    kernel = np.ones((width, width), np.uint8)
    core: Mask = cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
    return core if core.any() else mask
