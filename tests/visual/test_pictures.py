"""Numbers become pictures by one rule, and back: pytest tests/visual/test_pictures.py"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from bottega.runtime.errors import NonFiniteError
from bottega.visual.pictures import finite_share, from_signed, to_signed, to_uint8


def floats_near_every_half() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Float32 values within three steps of every k + 0.5 of 255, where rounding is decided."""
    values = ((np.arange(255) + 0.5) / 255).astype(np.float32)
    steps = [values]
    for direction in (0.0, 1.0):
        moved = values
        for _ in range(3):
            moved = np.nextafter(moved, np.float32(direction))
            steps.append(moved)
    return np.stack(steps)


def test_floats_become_levels_as_numpy_rounds_them_and_stop_at_the_ends() -> None:
    floats = np.random.default_rng(0).uniform(-0.2, 1.2, (64, 64, 3)).astype(np.float32)
    floats[0, 0] = [0.5 / 255, 1.5 / 255, 254.5 / 255]
    floats[1, 1] = [-1e30, 1e30, -0.0]
    for picture in (floats, np.clip(floats, 0, 1), np.clip(floats, 0, 2), floats_near_every_half()):
        expected = np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)
        assert np.array_equal(to_uint8(picture), expected)


def test_exact_rounds_each_value_by_its_own_side_of_the_half() -> None:
    floats = floats_near_every_half()
    expected = np.array([round(255 * Fraction(float(x))) for x in floats.ravel()]).reshape(floats.shape)
    assert np.array_equal(to_uint8(floats, exact=True), expected)
    differing = to_uint8(floats) != expected
    assert 0 < differing.sum() < 0.1 * floats.size  # the reason for the argument: float32 rounds some the other way


def test_diffusers_rounds_the_same() -> None:
    from diffusers.image_processor import VaeImageProcessor

    picture = np.random.default_rng(1).random((32, 32, 3), dtype=np.float32)
    (theirs,) = VaeImageProcessor.numpy_to_pil(picture)
    assert np.array_equal(to_uint8(picture), np.asarray(theirs))


def test_uint8_stays_as_it_is_and_becomes_contiguous() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    flipped = picture[:, ::-1]
    assert np.array_equal(to_uint8(flipped), flipped) and to_uint8(flipped).flags.c_contiguous


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("exact", [False, True])
def test_a_value_that_is_not_finite_is_refused_or_shown_in_magenta(bad: float, exact: bool) -> None:
    picture = np.full((8, 8, 3), 0.5, np.float32)
    picture[2, 3, 1] = bad
    assert finite_share(picture) == 1 - 1 / picture.size
    with pytest.raises(NonFiniteError, match="finite before it is cast"):
        to_uint8(picture, exact=exact)
    shown = to_uint8(picture, non_finite="magenta", exact=exact)
    assert shown[2, 3].tolist() == [255, 0, 255]
    assert (np.delete(shown.reshape(-1, 3), 2 * 8 + 3, axis=0) == 128).all()


def test_a_bad_value_anywhere_in_a_large_picture_is_found() -> None:
    picture = np.full((512, 512, 3), 0.25, np.float32)
    picture[-1, -1, -1] = np.nan
    with pytest.raises(NonFiniteError):
        to_uint8(picture)


def test_every_level_survives_the_way_to_a_tensor_and_back() -> None:
    pictures = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    signed = to_signed(pictures)
    assert signed.shape == (1, 3, 16, 16) and signed.dtype == torch.float32
    assert signed.min() == -1 and signed.max() == 1
    assert np.array_equal(to_uint8(from_signed(signed)), pictures)


def test_a_read_only_array_is_taken_without_a_warning() -> None:
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    pictures.flags.writeable = False
    assert (to_signed(pictures) == -1).all()


def test_tensors_are_clamped_nan_stays_and_infinity_stays_where_asked() -> None:
    pixels = torch.tensor([-3.0, 0.0, 3.0, float("nan"), float("inf"), -float("inf")]).reshape(1, 1, 1, 6)
    assert np.array_equal(from_signed(pixels).ravel(), [0, 0.5, 1, np.nan, 1, 0], equal_nan=True)
    kept = from_signed(pixels, keep_infinite=True).ravel()
    assert np.array_equal(kept, [0, 0.5, 1, np.nan, np.inf, -np.inf], equal_nan=True)
