"""Pictures that are the same to the eye: fingerprints, and groups that must not straddle a split.

Two pictures are near-identical when their thumbnails agree within the noise of re-encoding and resizing. Comparing
all with all would be quadratic, so only candidates are compared: pictures that share a band of bits of one of two
perceptual hashes. The hashes find, the thumbnails decide: flat drawings whose hashes agree by chance but whose colours
differ are not joined. Mirrored, cropped or recoloured copies are not found.

Own hashes, because imagehash 4.3 finds the same groups (of 900 pictures, two thirds of them re-encoded or halved
copies) at four times the time, 0.51 ms a picture against 0.12, and needs SciPy and PyWavelets.

Dimensions: N pictures, P candidate pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMB_SIDE = 8
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE * 3
HASH_SIDE = 64
"""Short side in pixels that a picture needs to be fingerprinted well; more adds nothing."""

MEAN_DIFFERENCE = 3.0
LARGEST_DIFFERENCE = 16
"""Levels of 255 by which the thumbnails of near-identical pictures may differ, on average and anywhere.

JPEG at quality 75 and a resize by one half move a photograph's thumbnail by less than one level on average."""

# (lowest bit, width) of the bands: copies whose hashes differ in four bits or fewer share at least one of five.
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))

_LOW = 8  # cosine frequencies a side
_BLOCK = 2048  # thumbnails compared at once: 0.8 MB of differences

Hashes = npt.NDArray[np.uint64]  # [N]
Thumbs = npt.NDArray[np.uint8]  # [N, 192]
Indices = npt.NDArray[np.int64]  # of pictures


def difference_hash(picture: Image.Image) -> int:
    """64 bits, each telling whether brightness falls from one of 9x8 cells to its right neighbour (dHash)."""
    small = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)  # [8, 9]
    return _bits(grey[:, :-1] > grey[:, 1:])


def frequency_hash(picture: Image.Image) -> int:
    """64 bits, each for whether one of the 8x8 lowest cosine frequencies is above their median (pHash)."""
    small = picture.convert("L").resize((32, 32), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)  # [32, 32]
    low = _cosines() @ grey @ _cosines().T  # [8, 8]
    return _bits(low > np.median(low.ravel()[1:]))  # the mean brightness has no part in the median


def thumbnail(picture: Image.Image) -> bytes:
    """The picture averaged over 8x8 cells, uint8 [8, 8, 3] as bytes."""
    return picture.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX).tobytes()


def groups(difference: Hashes, frequency: Hashes, thumbs: Thumbs) -> Indices:
    """For each picture the lowest index of the pictures that it is linked with by near-identical pairs.

    Args:
        difference: dHash, uint64 [N].
        frequency: pHash, uint64 [N].
        thumbs: thumbnails, uint8 [N, 192].

    Returns:
        int64 [N]; equal numbers are one group, and the number is its first member's index.
    """
    parent = np.arange(len(thumbs), dtype=np.int64)
    if len(thumbs) == 0:
        return parent
    for hashes in (difference, frequency):
        for low, width in _BANDS:
            band = (hashes >> np.uint64(low)) & np.uint64((1 << width) - 1)
            for members in _equal_runs(band):
                _join_alike(parent, members, thumbs)
    roots = [_root(parent, index) for index in range(len(parent))]
    return np.array(roots, dtype=np.int64)


def _bits(flags: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(flags.ravel()).tobytes(), "big")


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The first 8 rows of the orthonormal DCT-II of length 32, float64 [8, 32]."""
    frequency = np.arange(_LOW)[:, None]
    position = np.arange(32)[None, :]
    waves = np.cos(np.pi * frequency * (2 * position + 1) / 64)
    rows: npt.NDArray[np.float64] = waves * np.sqrt(2 / 32)
    rows[0] /= np.sqrt(2)
    return rows


def _equal_runs(band: Hashes) -> Iterator[Indices]:
    """The index sets, of two or more, in which `band` has one value."""
    order = np.argsort(band, kind="stable")
    edges = np.flatnonzero(np.diff(band[order])) + 1
    for members in np.split(order, edges):
        if len(members) > 1:
            yield members


def _join_alike(parent: Indices, members: Indices, thumbs: Thumbs) -> None:
    """Join members whose thumbnails agree."""
    # Sorted by mean brightness, only near neighbours need comparing, for mean |a - b| >= |mean a - mean b|.
    mean = thumbs[members].mean(axis=1)
    order = np.argsort(mean, kind="stable")
    members = members[order]
    mean = mean[order]
    reach = np.searchsorted(mean, mean + MEAN_DIFFERENCE, side="right")
    for position, member in enumerate(members.tolist()):
        near = members[position + 1 : reach[position]]
        near = near[parent[near] != _root(parent, member)]  # within a large group nearly all are joined already
        for start in range(0, len(near), _BLOCK):
            others = near[start : start + _BLOCK]
            # In 16 bits: the difference of two unsigned levels would wrap around below 0.
            gap = np.abs(thumbs[others].astype(np.int16) - thumbs[member].astype(np.int16))  # [P, 192]
            alike = (gap.mean(axis=1) <= MEAN_DIFFERENCE) & (gap.max(axis=1) <= LARGEST_DIFFERENCE)
            _join(parent, member, others[alike])


def _root(parent: Indices, index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]  # halves the path, so that the next search is shorter
        index = int(parent[index])
    return index


def _join(parent: Indices, member: int, others: Indices) -> None:
    root = _root(parent, member)
    for other in others.tolist():
        low, high = sorted((root, _root(parent, other)))
        parent[high] = parent[other] = root = low
