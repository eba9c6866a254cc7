"""What a picture's light and colour are against its content and style, signed: what a whole run shares shows in these.

One picture that is a little green is a picture; a hundred that are greener than both their content and their style are
an error. All values are of Lab as OpenCV has it for bytes: 0..255 each, a and b grey at 128.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.eye.cells import Cells

TONE_SCORES = (
    "mean_light",
    "mean_a",
    "mean_b",
    "light_shift",
    "a_shift",
    "b_shift",
    "light_follows",
    "a_follows",
    "b_follows",
    "bgr_fits",
)

_PLANES = ("light", "a", "b")
_LEAST_SPREAD = 3.0  # levels between cells; a content with less has nothing to follow

Floats = npt.NDArray[np.float32]


def tone_scores(picture: Cells, content: Cells, style: Cells) -> dict[str, float]:
    """The scores of TONE_SCORES.

    Returns:
        `mean_…`: mean levels. `…_shift`: levels by which the mean lies beyond both content's and style's, signed, 0
        between them. `…_follows`: correlation of the cells with the content's, -1..1; absent where the content is flat.
        `bgr_fits`: levels by which the colours are nearer to content or style if red and blue change places.
    """
    scores: dict[str, float] = {}
    for number, name in enumerate(_PLANES):
        own, of_content = picture.own[..., number], content.own[..., number]
        mean = float(own.mean())
        ends = (float(of_content.mean()), float(style.own[..., number].mean()))
        scores[f"mean_{name}"] = mean
        scores[f"{name}_shift"] = mean - min(max(mean, min(ends)), max(ends))
        if float(of_content.std()) >= _LEAST_SPREAD:
            scores[f"{name}_follows"] = _correlation(own, of_content)
    ours = _palette(picture)
    known = (_palette(content), _palette(style))
    scores["bgr_fits"] = _distance(ours, known) - _distance(ours[:, ::-1], known)
    return scores


def _palette(cells: Cells) -> Floats:
    """Means and deviations of red, green and blue over the cells, levels, [2, 3]."""
    lab = np.ascontiguousarray(np.rint(cells.own[..., :3]).astype(np.uint8))
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).reshape(-1, 3).astype(np.float32)
    return np.stack([rgb.mean(0), rgb.std(0)])


def _distance(palette: Floats, known: tuple[Floats, ...]) -> float:
    """To the nearest of the known ones, root mean square."""
    return min(float(np.sqrt(((palette - other) ** 2).mean())) for other in known)


def _correlation(one: Floats, other: Floats) -> float:
    """Of two planes; 0 where the first is flat."""
    ours, theirs = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float((ours * theirs).sum()) / length if float(one.std()) > 0.1 else 0.0
