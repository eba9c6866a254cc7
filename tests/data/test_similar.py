"""Near-identical pictures are found, others are left apart, and it takes no quadratic time."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image, ImageDraw

from bottega.data import similar
from bottega.data.pictures import open_picture


def groups(pictures: list[Image.Image]) -> list[int]:
    first = np.array([similar.difference_hash(p) for p in pictures], dtype=np.uint64)
    second = np.array([similar.frequency_hash(p) for p in pictures], dtype=np.uint64)
    thumbs = np.array([np.frombuffer(similar.thumbnail(p), dtype=np.uint8) for p in pictures])
    return similar.groups(first, second, thumbs).tolist()


def test_re_encoded_and_resized_copies_are_one_group_and_other_pictures_are_not(photo, encoded):
    pictures = []
    for index in range(12):
        original = photo(index, 160, 120)
        pictures += [
            original,
            open_picture(encoded(original, "JPEG", quality=75)),
            original.resize((80, 60), Image.Resampling.LANCZOS),
            open_picture(encoded(original.resize((240, 180), Image.Resampling.BICUBIC), "JPEG", quality=85)),
        ]
    assert groups(pictures) == [4 * (place // 4) for place in range(48)]


def test_drawings_that_differ_only_in_the_colour_or_place_of_a_shape_stay_apart():
    drawings = []
    for colour in ("red", "green", "blue"):
        for left in (20, 60):
            drawing = Image.new("RGB", (128, 128), "white")
            ImageDraw.Draw(drawing).ellipse((left, 40, left + 40, 80), fill=colour)
            drawings.append(drawing)
    assert groups(drawings) == list(range(6))


def test_a_chain_of_neighbours_is_one_group_with_its_first_members_number():
    thumbs = np.full((5, similar.THUMB_BYTES), 100, dtype=np.uint8)
    thumbs += np.array([[4], [2], [0], [60], [6]], dtype=np.uint8)
    same = np.zeros(5, dtype=np.uint64)
    assert similar.groups(same, same, thumbs).tolist() == [0, 0, 0, 3, 0]


def test_nothing_is_grouped_in_an_empty_set():
    none = np.zeros(0, dtype=np.uint64)
    assert similar.groups(none, none, np.zeros((0, similar.THUMB_BYTES), dtype=np.uint8)).tolist() == []


def test_planted_copies_among_ten_thousand_are_found_in_seconds():
    rng = np.random.default_rng(0)
    count = 10_000
    thumbs = rng.integers(0, 256, (count, similar.THUMB_BYTES), dtype=np.uint8)
    hashes = rng.integers(0, 2**63, (2, count), dtype=np.uint64)
    thumbs[5000:5100] = np.clip(thumbs[:100].astype(int) + 1, 0, 255)
    hashes[0, 5000:5100] = hashes[0, :100] ^ np.uint64(1 << 20)  # one bit of noise in one of the hashes
    thumbs[9000:] = 255  # a thousand white pages
    hashes[:, 9000:] = 0
    start = time.process_time()
    found = similar.groups(hashes[0], hashes[1], thumbs)
    assert time.process_time() - start < 10
    assert found[5000:5100].tolist() == list(range(100))
    assert set(found[9000:].tolist()) == {9000}
    assert len(set(found.tolist())) == count - 100 - 999
