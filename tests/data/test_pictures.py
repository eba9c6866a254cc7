"""Any picture becomes upright 8-bit RGB, or says why it can't."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bottega.data.pictures import UnusablePictureError, load_square, open_picture, read_kind
from bottega.runtime.errors import PictureError


def rgb(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def reason(source: Path | bytes, **options: int) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(source, **options)
    assert isinstance(caught.value, UnusablePictureError)
    return caught.value.reason


def test_a_plain_picture_comes_back_unchanged_to_the_bit(photo, encoded):
    assert np.array_equal(rgb(open_picture(encoded(photo(1)))), rgb(photo(1)))
    assert read_kind(encoded(photo(1))).plain


def test_exif_orientation_is_applied(photo, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turned clockwise
    data = encoded(photo(1), "PNG", exif=exif)
    assert np.array_equal(rgb(open_picture(data)), np.rot90(rgb(photo(1)), -1))
    assert not read_kind(data).plain


def test_cmyk_keeps_its_colours(photo, encoded):
    data = encoded(photo(2).convert("CMYK"), "JPEG", quality=97)
    assert np.abs(rgb(open_picture(data)) - rgb(photo(2))).mean() < 4
    assert not read_kind(data).plain


def test_sixteen_bits_become_eight_by_the_high_byte_whatever_the_channels(photo):
    grey = np.asarray(photo(3).convert("L")).astype(np.uint16) * 257
    for picture in (grey, np.asarray(photo(3))[..., ::-1].astype(np.uint16) * 257):
        data = cv2.imencode(".png", picture)[1].tobytes()
        expected = np.asarray(photo(3).convert("L").convert("RGB") if picture.ndim == 2 else photo(3))
        assert np.abs(rgb(open_picture(data)) - expected).max() <= 1
        kind = read_kind(data)
        assert kind.depth == 16
        assert not kind.plain


def test_transparency_is_laid_on_white(encoded):
    clear = Image.new("RGBA", (70, 70), (255, 0, 0, 0))
    half = Image.new("RGBA", (70, 70), (0, 0, 0, 128))
    palette = Image.new("P", (70, 70), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (rgb(open_picture(encoded(clear))) == 255).all()
    assert np.abs(rgb(open_picture(encoded(half))) - 127).max() <= 1
    assert (rgb(open_picture(encoded(palette, "PNG", transparency=0))) == 255).all()
    assert (rgb(open_picture(encoded(palette))) == [10, 20, 30]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_every_other_mode_becomes_rgb(photo, encoded, mode):
    picture = open_picture(encoded(photo(4).convert(mode)))
    assert picture.mode == "RGB"
    assert picture.size == photo(4).size


def test_damage_is_told_apart_by_its_reason(tmp_path, photo, encoded):
    data = encoded(photo(5, 300, 300), "JPEG", quality=95)
    assert reason(tmp_path / "nowhere.jpg") == "missing"
    assert reason(b"this is no picture") == "broken"
    assert reason(b"") == "broken"
    assert reason(data[: len(data) // 2]) == "truncated"
    png = bytearray(encoded(photo(5, 300, 300)))
    png[200] ^= 0xFF
    assert reason(bytes(png)) == "broken"
    floats = io.BytesIO()
    Image.fromarray(np.ones((70, 70), np.float32)).save(floats, "TIFF")
    assert reason(floats.getvalue()) == "mode"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(encoded):
    bomb = encoded(Image.new("1", (16_000, 10_000)))
    assert len(bomb) < 300_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(bomb) == "enormous"
        assert read_kind(bomb).pixels == 160_000_000


def test_a_jpeg_beyond_the_limit_is_decoded_at_reduced_size(photo, encoded):
    data = encoded(photo(6, 800, 600), "JPEG", quality=95)
    picture = open_picture(data, max_pixels=150_000)
    assert picture.size == (400, 300)
    expected = np.asarray(photo(6, 800, 600).resize((400, 300), Image.Resampling.BOX)).astype(int)
    assert np.abs(rgb(picture) - expected).mean() < 3


@pytest.mark.parametrize(
    ("most", "side"), [(4096, 64), (4095, 32), (1024, 32), (1023, 16), (256, 16), (255, 8), (64, 8)]
)
def test_a_jpeg_is_reduced_by_the_least_factor_that_is_enough(photo, encoded, most, side):
    assert open_picture(encoded(photo(6, 64, 64), "JPEG"), max_pixels=most).size == (side, side)


def test_the_guard_of_pillow_is_as_it_was_afterwards(photo, encoded):
    before = Image.MAX_IMAGE_PIXELS
    open_picture(encoded(photo(1)))
    with pytest.raises(PictureError):
        open_picture(b"nothing")
    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None


def test_a_square_of_the_same_size_is_the_picture_itself(photo, encoded):
    square = load_square(encoded(photo(7, 64, 64)), 64)
    assert square.dtype == np.uint8
    assert np.array_equal(square, np.asarray(photo(7, 64, 64)))


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (66, 64), (40, 30), (641, 479)])
def test_a_square_is_the_middle_of_the_picture_resized(photo, encoded, width, height):
    square = load_square(encoded(photo(8, width, height)), 64)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    middle = photo(8, width, height).crop((left, top, left + side, top + side))
    expected = np.asarray(middle.resize((64, 64), Image.Resampling.LANCZOS), np.int64)
    apart = np.abs(square - expected)[4:-4, 4:-4]  # at its borders the square knows its neighbours
    assert apart.mean() < 0.5  # Pillow takes the cheaper axis first, so that overshoots are cut elsewhere


def test_the_middle_of_an_odd_side_lies_between_two_pixels(encoded):
    ramp = np.repeat(np.arange(0, 210, 2, dtype=np.uint8)[None], 64, 0)  # 105 wide: the middle 64 begin at 20.5
    square = load_square(encoded(Image.fromarray(np.stack([ramp] * 3, -1))), 64).astype(int)
    assert np.abs(square[32, 4:-4, 0] - (41 + 2 * np.arange(64))[4:-4]).max() <= 1


def test_a_large_jpeg_gives_nearly_the_same_square_as_its_pixels(photo, encoded):
    picture = photo(9, 1200, 900)
    from_jpeg = load_square(encoded(picture, "JPEG", quality=95), 64).astype(int)
    from_png = load_square(encoded(picture), 64).astype(int)
    assert np.abs(from_jpeg - from_png).mean() < 2
