"""What stands where on a contact sheet: pytest tests/visual/test_contact_sheet.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from bottega.visual.contact_sheet import ContactSheet, Layout, Triple, draw_grid, draw_triples, tile
from bottega.visual.pictures import Picture


def flat(level: int, side: int = 32) -> Picture:
    return np.full((side, side, 3), level, np.uint8)


def pixels(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def test_tiles_stand_row_by_row_on_white() -> None:
    sheet = tile([flat(10, 8), flat(20, 8), flat(30, 8)], 2, gap=4)
    assert sheet.shape == (2 * 12 + 4, 2 * 12 + 4, 3)
    assert (sheet[4:12, 4:12] == 10).all() and (sheet[4:12, 16:24] == 20).all() and (sheet[16:24, 4:12] == 30).all()
    rest = np.ones(sheet.shape[:2], bool)
    for top, left in ((4, 4), (4, 16), (16, 4)):
        rest[top : top + 8, left : left + 8] = False
    assert (sheet[rest] == 255).all()


def test_groups_stand_apart_by_their_own_gap() -> None:
    layout = Layout(side=10, gap=2, left=5, top=7, line=3, row_gap=1, group=3, group_gap=4)
    assert layout.corner(0, 0) == (5, 7)
    assert layout.corner(0, 2) == (5 + 2 * 12, 7)
    assert layout.corner(2, 3) == (5 + 3 * 12 + 4, 7 + 2 * 14)
    assert layout.group_width == 34


def test_triples_keep_their_places_and_a_missing_target_is_an_empty_frame(tmp_path: Path) -> None:
    triples = [Triple(flat(10), flat(20), flat(30), "A", "good"), Triple(flat(40), flat(50), None, "C", "no picture")]
    sheet = pixels(draw_triples(triples, tmp_path / "new" / "sheet.png", side=32, across=4))
    top, pitch = 30, 3 * 32 + 30  # of 32 px pictures with gaps of 6 px
    for number, levels in enumerate(((10, 20, 30), (40, 50))):
        for k, level in enumerate(levels):
            left = 12 + number * pitch + k * 38
            assert (sheet[top : top + 32, left : left + 32] == level).all()
    left = 12 + pitch + 2 * 38
    frame = sheet[top : top + 32, left : left + 32]
    assert (frame[0] == (180, 40, 40)).all() and (frame[1:-1, 1:-1] == 255).all()
    assert sheet.shape == (2 * 6 + 18 + 32 + 18 + 12, 2 * pitch + 6, 3)
    below = sheet[top + 32 : top + 50]
    assert (below[:, :pitch] != 255).any() and (below[:, pitch:] != 255).any()


def test_a_sheet_of_nothing_says_so(tmp_path: Path) -> None:
    sheet = pixels(draw_triples([], tmp_path / "sheet.png"))
    assert (sheet != 255).any()


def test_a_grid_has_a_head_over_each_column(tmp_path: Path) -> None:
    rows = [[(flat(10), ""), (flat(20), "A")], [(flat(30), ""), (None, "C")]]
    sheet = pixels(draw_grid(["content", "0.4 / 0.3"], rows, tmp_path / "grid.png", side=32))
    assert sheet.shape == (6 + 18 + 2 * 56, 6 + 2 * 38, 3)
    assert (sheet[24:56, 6:38] == 10).all() and (sheet[80:112, 6:38] == 30).all()
    for column in range(2):
        assert (sheet[6:24, 6 + 38 * column : 44 + 38 * column] != 255).any()


@pytest.mark.parametrize("whole_words", [False, True])
def test_text_never_leaves_its_width(whole_words: bool) -> None:
    sheet = ContactSheet(Layout(side=10, gap=2, left=0, top=0), 400, 40)
    sheet.write_text((0, 0), "edges 0.71, style gain 0.13 and more", width=100, whole_words=whole_words)
    used = np.flatnonzero((np.asarray(sheet.image) != 255).any(axis=(0, 2)))
    assert 0 < used.max() <= 100
    assert ImageFont.load_default(size=12).getlength("edges 0.71, style gain 0.13 and more") > 100


def test_a_head_begins_at_the_left_edge_of_its_column_and_ends_within_it(tmp_path: Path) -> None:
    heads = ["one", "a head that is wider than two columns", "three"]
    sheet = pixels(draw_grid(heads, [[(flat(10), "")] * 3], tmp_path / "grid.png", side=32))
    band = sheet[:24]
    for column, head in ((0, "one"), (2, "three")):
        alone = Image.new("RGB", (6 + 3 * 38, 24), (255, 255, 255))
        ImageDraw.Draw(alone).text(
            (6 + 38 * column, 6), head, fill=(110, 110, 110), font=ImageFont.load_default(size=12)
        )
        assert np.array_equal(
            band[:, 38 * column + 3 : 38 * column + 41], np.asarray(alone)[:, 38 * column + 3 :][:, :38]
        )
    used = np.flatnonzero((band[:, 40:79] != 255).any(axis=(0, 2))) + 40
    assert 44 <= used.min() <= 46 and used.max() < 44 + 32
