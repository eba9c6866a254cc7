"""Damage to where things are: geometry, other scenes, missing parts, and what the autoencoder's latents leave."""

from __future__ import annotations

import cv2
import numpy as np

from bottega.quality.damage.common import (
    Family,
    Floats,
    Subject,
    blurred,
    box,
    cover,
    grain,
    levels,
    mixed,
    move,
    region,
    resize,
)
from bottega.visual.pictures import Picture

_TILES = 8


def ghosting(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: weight of a copy that is moved by 4 to 9 %."""
    length = rng.uniform(0.04, 0.09) * min(subject.good.shape[:2])
    turn = rng.uniform(0, 2 * np.pi)
    matrix = np.array([[1, 0, length * np.cos(turn)], [0, 1, length * np.sin(turn)]])
    return mixed(subject.good, move(subject.good, matrix), strength)


def scrambled(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of 8 x 8 tiles that change places.

    Chosen tiles move in a ring: each takes the place of the one before it, so that none stays.
    """
    high = subject.good.shape[0] // _TILES
    wide = subject.good.shape[1] // _TILES
    chosen = rng.choice(_TILES**2, round(strength * _TILES**2), replace=False)
    result = subject.good.copy()
    for place, source in zip(chosen, np.roll(chosen, 1), strict=True):
        result[_tile(int(place), high, wide)] = subject.good[_tile(int(source), high, wide)]
    return result


def _tile(number: int, high: int, wide: int) -> tuple[slice, slice]:
    """Rows and columns of a tile, counted row by row."""
    row, column = divmod(number, _TILES)
    return slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide)


def shifted(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much everything moves, share of the side."""
    length = strength * min(subject.good.shape[:2])
    turn = rng.uniform(0, 2 * np.pi)
    return move(subject.good, np.array([[1, 0, length * np.cos(turn)], [0, 1, length * np.sin(turn)]]))


def turned(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much the picture is turned, degrees."""
    high, wide = subject.good.shape[:2]
    angle = strength * rng.choice((-1.0, 1.0))
    return move(subject.good, cv2.getRotationMatrix2D((wide / 2, high / 2), angle, 1))


def mirrored(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture's width, or height, that is mirrored."""
    result = subject.good.copy()
    if rng.random() < 0.7:
        wide = round(strength * result.shape[1])
        result[:, :wide] = result[:, :wide][:, ::-1]
    else:
        high = round(strength * result.shape[0])
        result[:high] = result[:high][::-1]
    return result


def zoomed(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: factor of size around the centre."""
    high, wide = subject.good.shape[:2]
    return move(subject.good, cv2.getRotationMatrix2D((wide / 2, high / 2), 0, strength))


def warped(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of each pixel's displacement, share of the side."""
    high, wide = subject.good.shape[:2]
    side = min(high, wide)
    field = strength * side * grain(rng, (high, wide), rng.uniform(0.12, 0.3) * side, 2)
    rows, columns = np.indices((high, wide), np.float32)
    return _taken_from(subject.good, columns + field[..., 0], rows + field[..., 1])


def swirled(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: by how much the middle is turned, radians."""
    high, wide = subject.good.shape[:2]
    rows, columns = np.indices((high, wide), np.float32)
    across = columns - wide / 2
    down = rows - high / 2
    distance = np.hypot(across, down)
    angle = strength * np.exp(-((distance / (0.35 * min(high, wide))) ** 2))
    x = np.cos(angle) * across - np.sin(angle) * down + wide / 2
    y = np.sin(angle) * across + np.cos(angle) * down + high / 2
    return _taken_from(subject.good, x.astype(np.float32), y.astype(np.float32))


def _taken_from(picture: Picture, x: Floats, y: Floats) -> Picture:
    """Each pixel from the place [H, W] that it is given, reflected at the borders."""
    taken = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(taken, np.uint8)


def cut_and_moved(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much one part of the picture has slipped along a cut, share of the side."""
    high, wide = subject.good.shape[:2]
    result = subject.good.copy()
    if rng.random() < 0.5:
        cut = round(rng.uniform(0.3, 0.7) * high)
        result[cut:] = np.roll(result[cut:], round(strength * wide), 1)
    else:
        cut = round(rng.uniform(0.3, 0.7) * wide)
        result[:, cut:] = np.roll(result[:, cut:], round(strength * high), 0)
    return result


def torn_rows(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation by which bands of rows have slipped, share of the side."""
    high, wide = subject.good.shape[:2]
    band = max(1, round(rng.uniform(0.005, 0.06) * high))
    result = subject.good.copy()
    for first in range(0, high, band):
        slip = round(float(rng.normal(0, strength)) * wide)
        result[first : first + band] = np.roll(result[first : first + band], slip, 1)
    return result


def repeated(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: weight of the picture shown twice by twice."""
    high, wide = subject.good.shape[:2]
    half = resize(subject.good, high // 2, wide // 2)
    tiled = cover(np.tile(half, (2, 2, 1)), high, wide)
    return mixed(subject.good, tiled, strength)


def other_scene(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the area that shows another good picture."""
    high, wide = subject.good.shape[:2]
    turn = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices((high, wide), np.float32)
    height = columns * np.cos(turn) + rows * np.sin(turn)
    # Cut at a quantile: the share of the area is exact at every angle.
    covered = height <= np.quantile(height, strength)  # [H, W]
    return np.where(covered[..., None], subject.other, subject.good)


def double_exposure(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: weight of another good picture."""
    return mixed(subject.good, subject.other, strength)


def untouched_parts(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that shows the content as it is."""
    high, wide = subject.good.shape[:2]
    return mixed(subject.good, subject.content, region(rng, (high, wide), strength))


def style_shows(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: weight of the style picture itself."""
    return mixed(subject.good, cover(subject.style, *subject.good.shape[:2]), strength)


def style_parts(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that shows the style picture's own things."""
    high, wide = subject.good.shape[:2]
    return mixed(subject.good, cover(subject.style, high, wide), region(rng, (high, wide), strength))


def black_box(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that a rectangle of one colour covers."""
    result = subject.good.copy()
    colour = np.full(3, rng.choice((0, 255)), np.uint8)
    if rng.random() < 0.3:
        colour = rng.integers(0, 256, 3, np.uint8)
    result[box(rng, result.shape, strength)] = colour
    return result


def hole(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that is a smooth stain of its own mean colour."""
    high, wide = subject.good.shape[:2]
    return mixed(subject.good, blurred(subject.good, 0.25), region(rng, (high, wide), strength))


def border(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: width of a frame of one colour on one or all sides, share of the side."""
    result = subject.good.copy()
    high, wide = result.shape[:2]
    colour = np.full(3, rng.choice((0, 128, 255)), np.uint8)
    across = max(1, round(strength * wide))
    down = max(1, round(strength * high))
    if rng.random() < 0.7:
        result[:down] = result[high - down :] = colour
        result[:, :across] = result[:, wide - across :] = colour
    elif rng.random() < 0.5:
        result[:down] = result[high - down :] = colour
    else:
        result[:, :across] = result[:, wide - across :] = colour
    return result


def noise_patch(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that is noise."""
    high, wide = subject.good.shape[:2]
    pixels = rng.choice((1.0, 3.0, 8.0))
    noise = 128 + 60 * grain(rng, (high, wide), pixels)
    return mixed(subject.good, noise, region(rng, (high, wide), strength))


def scribbles(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: lines of text or strokes across the picture."""
    result = subject.good.copy()
    high, wide = result.shape[:2]
    scale = min(high, wide) / 512
    letters = "ABCDEFGHIKLMNOPRSTUVWXYZ0123456789"
    for _ in range(round(strength)):
        text = "".join(rng.choice(list(letters), int(rng.integers(4, 12))))
        place = (int(rng.uniform(-0.1, 0.6) * wide), int(rng.uniform(0.05, 1) * high))
        colour = rng.integers(0, 256, 3).tolist()
        thick = max(1, round(4 * scale))
        cv2.putText(result, text, place, cv2.FONT_HERSHEY_SIMPLEX, 2.2 * scale, colour, thick, cv2.LINE_AA)
    return result


def blocks(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: quality of a JPEG."""
    return jpeg(subject.good, strength)


def jpeg(picture: Picture, quality: float) -> Picture:
    """The picture after a JPEG of that quality."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    _, code = cv2.imencode(".jpg", picture[..., ::-1], settings)  # OpenCV's channels are blue, green, red
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def latent_noise(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: noise of the low frequencies of blocks of 8 px, share of their deviation in the picture."""
    coefficients = _block_frequencies(subject.good)
    low = coefficients[:, :, :3, :3]
    spread = low.std((0, 1), keepdims=True)
    low += strength * spread * rng.standard_normal(low.shape).astype(np.float32)
    return _from_block_frequencies(coefficients, subject.good)


def latent_scaled(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: factor of all but the mean of each block of 8 px."""
    coefficients = _block_frequencies(subject.good)
    mean = coefficients[:, :, 0, 0].copy()
    coefficients *= strength
    coefficients[:, :, 0, 0] = mean
    return _from_block_frequencies(coefficients, subject.good)


def latent_cut(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: frequencies that each block of 8 px keeps in each direction."""
    coefficients = _block_frequencies(subject.good)
    kept = max(1, round(strength))
    coefficients[:, :, kept:] = 0
    coefficients[:, :, :, kept:] = 0
    return _from_block_frequencies(coefficients, subject.good)


def _block_frequencies(picture: Picture) -> Floats:
    """Discrete cosine transform of each block of 8 px, [rows, columns, 8, 8, 3]."""
    high = picture.shape[0] // 8 * 8
    wide = picture.shape[1] // 8 * 8
    basis = _basis()
    split = picture[:high, :wide].astype(np.float32).reshape(high // 8, 8, wide // 8, 8, 3)
    return np.asarray(np.einsum("ai,ricjx,bj->rcabx", basis, split, basis, optimize=True), np.float32)


def _from_block_frequencies(coefficients: Floats, picture: Picture) -> Picture:
    basis = _basis()
    split = np.einsum("ai,rcabx,bj->ricjx", basis, coefficients, basis, optimize=True)
    rows, _, columns, _, _ = split.shape
    result = picture.copy()
    result[: rows * 8, : columns * 8] = levels(split.reshape(rows * 8, columns * 8, 3))
    return result


def _basis() -> Floats:
    """The orthonormal cosine basis, [8, 8]."""
    frequency = np.arange(8)[:, None]
    place = np.arange(8)[None]
    basis = np.cos(np.pi * (place + 0.5) * frequency / 8) * 0.5
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)


FAMILIES = (
    Family("ghosting", "geometry", ghosting, (0.2, 0.4, 0.5)),
    Family("scrambled", "geometry", scrambled, (0.25, 0.6, 1.0)),
    Family("shifted", "geometry", shifted, (0.04, 0.1, 0.2)),
    Family("turned", "geometry", turned, (5, 15, 40)),
    Family("mirrored", "geometry", mirrored, (0.3, 0.6, 1.0)),
    Family("zoomed", "geometry", zoomed, (1.12, 1.35, 1.8)),
    Family("warped", "geometry", warped, (0.015, 0.035, 0.07)),
    Family("swirled", "geometry", swirled, (0.7, 1.6, 3.0)),
    Family("cut_and_moved", "geometry", cut_and_moved, (0.06, 0.15, 0.3)),
    Family("torn_rows", "geometry", torn_rows, (0.015, 0.04, 0.1)),
    Family("repeated", "scene", repeated, (0.3, 0.6, 1.0)),
    Family("other_scene", "scene", other_scene, (0.25, 0.6, 1.0)),
    Family("double_exposure", "scene", double_exposure, (0.25, 0.45, 0.65)),
    Family("untouched_parts", "style", untouched_parts, (0.25, 0.5, 0.8)),
    Family("style_shows", "style", style_shows, (0.3, 0.5, 0.7)),
    Family("style_parts", "style", style_parts, (0.2, 0.4, 0.7)),
    Family("black_box", "missing", black_box, (0.04, 0.12, 0.25)),
    Family("hole", "missing", hole, (0.08, 0.2, 0.45)),
    Family("border", "missing", border, (0.05, 0.1, 0.2)),
    Family("noise_patch", "noise", noise_patch, (0.05, 0.15, 0.35)),
    Family("scribbles", "scene", scribbles, (2, 5, 12)),
    Family("blocks", "compression", blocks, (25, 10, 3)),
    Family("latent_noise", "noise", latent_noise, (0.25, 0.5, 1.0)),
    Family("latent_scaled", "compression", latent_scaled, (2.0, 3.5, 7.0)),
    Family("latent_cut", "compression", latent_cut, (3, 2, 1)),
)
