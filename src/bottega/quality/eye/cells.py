"""What the learned eye sees: statistics of a picture in 16 x 16 cells, and what they are against content and style.

B: pictures. G: cells of a side, 16. F: statistics of a cell, `NUM_OWN`. All sizes are relative: a cell is a sixteenth
of the side, a band is named by the side at which it is measured (full, 1/2, 1/4, 1/8).

Nothing here knows a fault. What is measured is colour, contrast, energy by scale, direction, lines, how the picture
correlates with the content place by place (signed: a negative is no likeness), and how far each cell is from the
nearest cell of the style and of the content: what neither has is suspect, what the style has is welcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.visual.pictures import Picture

GRID = 16
Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

OWN = (
    "l",
    "a",
    "b",
    "l_spread",
    "a_spread",
    "b_spread",
    "light_full",
    "light_2",
    "light_4",
    "light_8",
    "colour_2",
    "colour_4",
    "colour_8",
    "cos_full",
    "sin_full",
    "cos_2",
    "sin_2",
    "cos_4",
    "sin_4",
    "sparse_full",
    "sparse_2",
    "flat",
    "black",
    "white",
    "rows",
    "columns",
)
"""Statistics of a cell of one picture: Lab means and deviations; log energy of light and of colour by scale; direction
of gradients by scale; how few pixels hold the gradient; shares of pixels without gradient, black, white; the strongest
straight step along a row and along a column of pixels."""

NUM_OWN = len(OWN)

SUBSPACES: dict[str, tuple[str, ...]] = {
    "colour": ("l", "a", "b"),
    "hue": ("a", "b"),
    "contrast": ("l_spread", "a_spread", "b_spread", "black", "white"),
    "fine": ("light_full", "light_2", "colour_2", "sparse_full", "flat"),
    "middle": ("light_2", "light_4", "colour_4", "sparse_2"),
    "coarse": ("light_8", "colour_8"),
    "direction": ("cos_full", "sin_full", "cos_2", "sin_2", "cos_4", "sin_4"),
    "lines": ("rows", "columns"),
}
"""In which a cell is compared with the nearest cells of style and content."""

SCALE: dict[str, float] = {
    "l": 60.0,
    **dict.fromkeys(("a", "b"), 12.0),
    "l_spread": 18.0,
    **dict.fromkeys(("a_spread", "b_spread"), 5.0),
    **dict.fromkeys(("light_full", "light_2", "light_4", "light_8", "colour_2", "colour_4", "colour_8"), 1.5),
    **dict.fromkeys(("cos_full", "sin_full", "cos_2", "sin_2", "cos_4", "sin_4", "flat"), 0.3),
    **dict.fromkeys(("sparse_full", "sparse_2"), 0.12),
    **dict.fromkeys(("black", "white"), 0.2),
    **dict.fromkeys(("rows", "columns"), 0.7),
}
"""About one standard deviation of each, so that the coordinates of a subspace weigh alike."""

AGAINST = (
    "light_2",
    "light_4",
    "light_8",
    "light_2_around",
    "light_4_around",
    "light_8_around",
    "outlines",
    "outlines_around",
    "a_around",
    "b_around",
    "moved",
    "difference_l",
    "difference_a",
    "difference_b",
    "direction_2",
    "direction_4",
)
"""Of a cell against the content's: signed correlations in the cell and in the 3 x 3 cells around it, how much better a
moved copy correlates, mean absolute differences of Lab, agreement of directions."""

NUM_AGAINST = len(AGAINST)

LEAKED = ("light_4_around", "light_8_around", "outlines_around")
"""Of a cell against the style's at the same place: a good picture has the style's strokes, not its things."""

NUM_LEAKED = len(LEAKED)
NUM_NOVELTY = 2 * len(SUBSPACES)
_EPSILON = 1e-3
_SOFT = np.array([0.25, 0.5, 0.25], np.float32)
_SHIFTS = ((0, 2), (2, 0), (0, -2), (-2, 0), (0, 4), (4, 0), (0, -4), (-4, 0), (3, 3), (3, -3), (-3, 3), (-3, -3))


@dataclass(frozen=True)
class Gradients:
    """Cell means of gradients, [G, G] each.

    cos, sin: of the double angle, by energy. energy: squared length. size: length. flat: share of pixels without any.
    """

    cos: Floats
    sin: Floats
    energy: Floats
    size: Floats
    flat: Floats


@dataclass(frozen=True)
class Planes:
    """The planes of one picture that are compared with another's.

    lights: luminance at 1/2, 1/4 and 1/8, centred at 128. a, b: of Lab at 1/4. outlines: strength of gradients at 1/4.
    lab: at 1/4, uint8. gradients: at 1/2 and at 1/4.
    """

    lights: tuple[Floats, Floats, Floats]
    a: Floats
    b: Floats
    outlines: Floats
    lab: Picture
    gradients: tuple[Gradients, Gradients]


@dataclass(frozen=True)
class Cells:
    """One picture's statistics. own: [G, G, F]. whole: of the picture at once, [NUM_WHOLE]. side: pixels."""

    own: Floats
    whole: Floats
    planes: Planes
    side: int

    @cached_property
    def subspaces(self) -> tuple[tuple[Floats, Floats], ...]:
        """For each subspace all cells, [G * G, D], and half their squared lengths, [G * G]."""
        flat = self.own.reshape(GRID * GRID, NUM_OWN)
        found: list[tuple[Floats, Floats]] = []
        for columns, scales in _subspace_columns():
            points = np.ascontiguousarray(flat[:, columns] / scales)
            found.append((points, (points * points).sum(1) / 2))
        return tuple(found)

    @cached_property
    def moments(self) -> tuple[tuple[Floats, Floats], ...]:
        """Of each compared plane the cell sums of its values and of their squares, [G, G] each."""
        return tuple(_moments(plane) for plane in _compared_planes(self))


def _compared_planes(cells: Cells) -> tuple[Floats, ...]:
    """Light at 1/2, 1/4 and 1/8, outlines, a, b."""
    planes = cells.planes
    return (*planes.lights, planes.outlines, planes.a, planes.b)


NUM_WHOLE = 8


def _subspace_columns() -> list[tuple[list[int], Floats]]:
    found: list[tuple[list[int], Floats]] = []
    for names in SUBSPACES.values():
        columns = [OWN.index(name) for name in names]
        scales = np.array([SCALE[name] for name in names], np.float32)
        found.append((columns, scales))
    return found


def measure_cells(picture: Picture) -> Cells:
    """The statistics of one picture, uint8 [H, W, 3] with sides of 64 px or more."""
    half = _half(picture)
    quarter = _half(half)
    lab_half = cv2.cvtColor(half, cv2.COLOR_RGB2LAB)
    lab = np.asarray(cv2.resize(lab_half, quarter.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    full = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    lights = {"full": full}
    for larger, smaller in (("full", "2"), ("2", "4"), ("4", "8")):
        lights[smaller] = _half(lights[larger])
    gradients = {name: _gradients(lights[name]) for name in ("full", "2", "4")}

    rows, columns, row_peak, column_peak = _lines(full)
    values = {
        **_colours(lab.astype(np.float32)),
        **_energies(lights, lab_half[..., 1:].astype(np.float32)),
        **_directions(gradients),
        **_extremes(half),
        "rows": rows,
        "columns": columns,
    }
    own = np.stack([values[name] for name in OWN], -1).astype(np.float32)
    return Cells(own, _whole(half, quarter, row_peak, column_peak), _planes(lights, lab, gradients), min(full.shape))


def _colours(lab: Floats) -> dict[str, Floats]:
    """Means and deviations of Lab; at 1/4, for they are not about single pixels."""
    means = _in_cells(lab)
    squares = _in_cells(lab * lab)
    spread = np.sqrt(np.maximum(squares - means * means, 0))
    values: dict[str, Floats] = {}
    for i, name in enumerate("lab"):
        values[name] = means[..., i]
        values[f"{name}_spread"] = spread[..., i]
    return values


def _energies(lights: dict[str, Floats], chroma: Floats) -> dict[str, Floats]:
    """Log energy by scale, of light and of colour; chroma: a and b at 1/2."""
    values = {f"light_{name}": _band(plane) for name, plane in lights.items()}
    for name in ("2", "4", "8"):
        values[f"colour_{name}"] = _band(chroma)
        chroma = _half(chroma)
    return values


def _directions(gradients: dict[str, Gradients]) -> dict[str, Floats]:
    """The direction of gradients by scale, and how few pixels hold them."""
    values: dict[str, Floats] = {}
    for name, found in gradients.items():
        energy = found.energy + _EPSILON
        values[f"cos_{name}"] = found.cos / energy
        values[f"sin_{name}"] = found.sin / energy
        values[f"sparse_{name}"] = found.size / np.sqrt(energy)
    values["flat"] = gradients["full"].flat
    return values


def _extremes(half: Picture) -> dict[str, Floats]:
    """Shares of pixels that are black and white."""
    # OpenCV's planes: NumPy's maximum over an axis of three takes 1.5 ms, a third of all of this.
    red, green, blue = cv2.split(half)
    brightest = cv2.max(cv2.max(red, green), blue)
    darkest = cv2.min(cv2.min(red, green), blue)
    black = _in_cells(cv2.compare(brightest, 3, cv2.CMP_LE))
    white = _in_cells(cv2.compare(darkest, 252, cv2.CMP_GE))
    return {"black": black / np.float32(255), "white": white / np.float32(255)}


def _planes(lights: dict[str, Floats], lab: Picture, gradients: dict[str, Gradients]) -> Planes:
    """What is compared with another picture."""
    # Without a scale Sobel and the magnitude would take a path whose floats depend in the last bit on where the plane
    # lies in memory: a run that was stopped and resumed must have the scores of one that was not.
    across = cv2.Sobel(lights["4"], cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(lights["4"], cv2.CV_32F, 0, 1, scale=0.125)
    strength = 8 * cv2.sqrt(across * across + down * down)
    floats = lab.astype(np.float32)
    return Planes(
        lights=(lights["2"] - 128, lights["4"] - 128, lights["8"] - 128),
        a=floats[..., 1] - 128,
        b=floats[..., 2] - 128,
        outlines=np.asarray(cv2.sepFilter2D(strength, cv2.CV_32F, _SOFT, _SOFT), np.float32),
        lab=lab,
        gradients=(gradients["2"], gradients["4"]),
    )


def _half(plane: Array) -> Array:
    """At half size, by area; [H, W] or [H, W, C]."""
    high, wide = plane.shape[:2]
    return np.asarray(cv2.resize(plane, (wide // 2, high // 2), interpolation=cv2.INTER_AREA))


def _in_cells(plane: Floats) -> Floats:
    """Means over the cells, [G, G] or [G, G, C]."""
    return np.asarray(cv2.resize(plane, (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)


def _band(plane: Floats) -> Floats:
    """Log energy of what a 3 x 3 mean takes away, [G, G]; of several channels their sum."""
    fine = plane - cv2.blur(plane, (3, 3))
    energy = _in_cells(fine * fine)
    if energy.ndim == 3:
        energy = energy.sum(2)
    return np.asarray(np.log(energy + 0.05), np.float32)


def _gradients(plane: Floats) -> Gradients:
    across = cv2.Sobel(plane, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(plane, cv2.CV_32F, 0, 1, scale=0.125)
    xx = across * across
    yy = down * down
    size = cv2.sqrt(xx + yy)
    cells = _in_cells(cv2.merge([xx - yy, 2 * across * down, xx + yy, size]))
    flat = _in_cells((size < 0.6).astype(np.float32))
    return Gradients(cells[..., 0], cells[..., 1], cells[..., 2], cells[..., 3], flat)


def _lines(plane: Floats) -> tuple[Floats, Floats, float, float]:
    """How far the strongest straight step along a row, and along a column, exceeds the usual one; [G, G] each, logs.

    Also the same for steps along the whole width and the whole height.
    """
    rows, row_peak = _steps_along(plane)
    columns, column_peak = _steps_along(cv2.transpose(plane))
    return rows, columns.T, row_peak, column_peak


def _steps_along(plane: Floats) -> tuple[Floats, float]:
    high = plane.shape[0] // GRID * GRID
    means = cv2.resize(plane[:high], (GRID, high), interpolation=cv2.INTER_AREA)  # [H, G]: a mean a cell's width
    steps = np.abs(np.diff(means, axis=0, append=means[-1:]))
    in_cells = steps.reshape(GRID, high // GRID, GRID)
    usual = in_cells.mean(1) + 0.5
    strongest = in_cells.max(1)
    whole = np.abs(np.diff(means.mean(1)))
    peak = float(np.log((whole.max() + 0.5) / (np.median(whole) + 0.5)))
    return np.log((strongest + 0.5) / usual), peak


def _whole(half: Picture, quarter: Picture, row_peak: float, column_peak: float) -> Floats:
    """Of the whole picture: levels in use, correlation of the channels, lines across, extremes."""
    light = cv2.cvtColor(half, cv2.COLOR_RGB2GRAY)
    counts = cv2.calcHist([light], [0], None, [256], [0, 256]).ravel()
    total = counts.sum()
    below = counts.cumsum() / total
    low, high = np.searchsorted(below, (0.01, 0.99))
    inside = counts[low : high + 1]
    used = float((inside > total * 2e-5).mean())
    share = counts / total
    entropy = float(-(share * np.log(share + 1e-9)).sum())
    flat = quarter.reshape(-1, 3).astype(np.float32)
    flat -= flat.mean(0)
    covariance = flat.T @ flat / len(flat) + np.eye(3, dtype=np.float32)
    spread = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(spread, spread)
    return np.array(
        [used, entropy, row_peak, column_peak, correlation[0, 1], correlation[0, 2], correlation[1, 2], high - low],
        np.float32,
    )


def _moments(plane: Floats) -> tuple[Floats, Floats]:
    return _in_cells(plane), _in_cells(plane * plane)


def compare_cells(picture: Cells, content: Cells) -> Floats:
    """Of each cell of a picture against the content's, [G, G, NUM_AGAINST]."""
    ours, theirs = picture.planes, content.planes
    near: list[Floats] = []
    around: list[Floats] = []
    for number, (one, other) in enumerate(zip(_compared_planes(picture), _compared_planes(content), strict=True)):
        product = _in_cells(one * other)
        near.append(_correlation(product, picture.moments[number], content.moments[number]))
        around.append(_correlation_around(product, picture.moments[number], content.moments[number]))
    difference = _in_cells(cv2.absdiff(ours.lab, theirs.lab).astype(np.float32)) / np.float32(32)
    found = [*near[:3], *around[:3], near[3], around[3], around[4], around[5]]
    found.append(_better_when_moved(picture, content) - around[2])
    found += [difference[..., 0], difference[..., 1], difference[..., 2]]
    for one_slope, other_slope in zip(ours.gradients, theirs.gradients, strict=True):
        agreement = one_slope.cos * other_slope.cos + one_slope.sin * other_slope.sin
        energies = (one_slope.energy + _EPSILON) * (other_slope.energy + _EPSILON)
        found.append(np.asarray(agreement / energies, np.float32))
    return np.stack(found, -1).astype(np.float32)


def leaked_cells(picture: Cells, style: Cells) -> Floats:
    """How each cell correlates with what the style shows at the same place, [G, G, NUM_LEAKED]."""
    found: list[Floats] = []
    for number in (1, 2, 3):
        one = _compared_planes(picture)[number]
        other = _compared_planes(style)[number]
        moments = style.moments[number]
        if one.shape != other.shape:  # a style may have any size
            other = np.asarray(cv2.resize(other, one.shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
            moments = _moments(other)
        found.append(_correlation_around(_in_cells(one * other), picture.moments[number], moments))
    return np.stack(found, -1).astype(np.float32)


def _correlation(product: Floats, ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> Floats:
    covariance = product - ours[0] * theirs[0]
    one = ours[1] - ours[0] * ours[0]
    other = theirs[1] - theirs[0] * theirs[0]
    # 4 levels squared: between two flat cells there is no correlation to speak of.
    spread = np.sqrt((np.maximum(one, 0) + 4) * (np.maximum(other, 0) + 4))
    return np.asarray(covariance / spread, np.float32)


def _correlation_around(product: Floats, ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> Floats:
    def box(plane: Floats) -> Floats:
        return np.asarray(cv2.blur(plane, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)

    return _correlation(box(product), (box(ours[0]), box(ours[1])), (box(theirs[0]), box(theirs[1])))


def _better_when_moved(picture: Cells, content: Cells) -> Floats:
    """The best correlation of light at 1/8 with a content that is moved by up to 4 px of it, [G, G]."""
    ours = picture.planes.lights[2]
    theirs = content.planes.lights[2]
    best = np.full((GRID, GRID), -1, np.float32)
    high, wide = ours.shape
    padded = cv2.copyMakeBorder(theirs, 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    for down, across in _SHIFTS:
        moved = padded[4 + down : 4 + down + high, 4 + across : 4 + across + wide]
        product = _in_cells(ours * moved)
        best = np.maximum(best, _correlation_around(product, picture.moments[2], _moments(moved)))
    return best


def novelty(picture: Cells, style: Cells, content: Cells) -> Floats:
    """How far each cell is from the style's nearest cell and from the content's, in each subspace, [G, G, NUM_NOVELTY].

    Distances in standard deviations, root mean square over a subspace's coordinates; as log(1 + d).
    """
    found: list[Floats] = []
    for number, (points, lengths) in enumerate(picture.subspaces):
        for other in (style, content):
            theirs, their_lengths = other.subspaces[number]
            half_squares = (their_lengths - points @ theirs.T).min(1) + lengths
            distance = np.sqrt(np.maximum(2 * half_squares, 0) / points.shape[1])
            found.append(np.log1p(distance).reshape(GRID, GRID))
    return np.stack(found, -1).astype(np.float32)
