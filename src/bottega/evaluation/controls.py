"""The rows of every table: the student, and what its numbers must be read against.

A number alone says little: a copy of the style picture wins every style metric, a copy of the content every content
metric. So controls that need no network are in every table, and a metric that does not order two of them as it must
is marked as not discriminating on this data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bottega.evaluation.colour import transfer_colours
from bottega.visual.pictures import Picture

BLUR = 1 / 32
"""Sigma of the blurred truth as a share of the picture's side: half a cell of the 16 × 16 low-pass colours, so that
the blur keeps the colours of all places and hardly a stroke."""


@dataclass(frozen=True)
class RowInfo:
    """A method. `drawn` rows are pictures of networks, the others come from the data; `truth`: it needs truths."""

    title: str
    meaning: str
    drawn: bool = False
    truth: bool = False


ROWS: Mapping[str, RowInfo] = {
    "student": RowInfo("student", "the frozen PixArt base with the trained StyleAdapter", drawn=True),
    "teacher": RowInfo("teacher", "what paints targets, one try a picture", drawn=True),
    "base": RowInfo(
        "base without adapter", "the frozen PixArt base: same content, noise and strength as the student", drawn=True
    ),
    "content": RowInfo("content itself", "the content picture, untouched"),
    "style": RowInfo("style picture itself", "the style picture, a copy of what was asked to be learned from"),
    "colours": RowInfo("colour transfer", "the content with the style picture's Lab mean and covariance; no network"),
    "blurred": RowInfo(
        "blurred truth", "a drawn truth without its strokes; compared with the other drawings", truth=True
    ),
    "truth": RowInfo(
        "drawn truth", "one drawing of the right answer, compared with the others: the ceiling", truth=True
    ),
}

MADE_FROM = {"truth": 0, "blurred": 0}
"""Which drawn truth a row is made from: it is never compared with that one."""

ORDER: Mapping[str, tuple[str, str]] = {
    "kind_own": ("style", "content"),
    "kind_gain": ("style", "content"),
    "palette": ("colours", "content"),
    "objects_found": ("content", "style"),
    "objects_iou": ("content", "style"),
    "structure": ("colours", "style"),
    "dino": ("colours", "style"),
    "style_clip": ("truth", "colours"),
    "style_csd": ("truth", "colours"),
    "text": ("content", "style"),
    "truth": ("truth", "blurred"),
    "truth_colour": ("blurred", "content"),
    "truth_texture": ("truth", "blurred"),
    "lpips": ("content", "style"),
    "cfsd": ("content", "style"),
}
"""For each metric a control that must score better and one that must score worse."""


def control_picture(row: str, content: Picture, style: Picture, truth: Picture | None) -> Picture | None:
    """The picture of a control made from data alone, uint8 [H, W, 3]; None where it needs a truth and there is none.

    Raises:
        KeyError: `row` is drawn by a network.
    """
    if row == "colours":
        return transfer_colours(content, style)
    if row == "blurred":
        return None if truth is None else blur(truth)
    return {"content": content, "style": style, "truth": truth}[row]


def blur(picture: Picture) -> Picture:
    """The picture without anything finer than about a sixteenth of its side (Gaussian, sigma = side / 32)."""
    import cv2

    blurred = cv2.GaussianBlur(picture, (0, 0), BLUR * min(picture.shape[:2]))
    return np.asarray(blurred, dtype=np.uint8)
