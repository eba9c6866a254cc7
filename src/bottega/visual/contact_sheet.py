"""Contact sheets: square pictures in rows and columns on white, with text, for a person to read within a minute.

`ContactSheet` is the one canvas; a `Layout` says where everything stands. Two common sheets are ready-made:
`draw_triples` (content | style | target) and `draw_grid` (a table with heads). `tile` puts pictures together without
any text.

Legend: S pixels of a picture's side, N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bottega.runtime.files import write_image
from bottega.visual.pictures import Picture, Pictures

Colour = tuple[int, int, int]

GREY: Colour = (110, 110, 110)
GRADE_COLOURS: dict[str, Colour] = {"A": (30, 120, 60), "B": (150, 110, 20), "C": (180, 40, 40)}

_GAP = 6  # pixels
_LINE = 18  # pixels of a line of text at font size 12


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a sheet stand, in pixels.

    side: of a picture. gap: between the columns of a group. left, top: of the first picture. line: height that is left
    for text under each picture. row_gap: under that line. group: columns that belong together. group_gap: between
    groups, beside `gap`.
    """

    side: int
    gap: int
    left: int
    top: int
    line: int = 0
    row_gap: int = 0
    group: int = 1
    group_gap: int = 0

    @property
    def group_width(self) -> int:
        """Pixels from the left edge of a group's first picture to the right edge of its last."""
        return self.group * (self.side + self.gap) - self.gap

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a picture; columns are counted through all groups."""
        group, place = divmod(column, self.group)
        pitch = self.side + self.gap
        x = self.left + group * (self.group * pitch + self.group_gap) + place * pitch
        y = self.top + row * (self.side + self.line + self.row_gap)
        return x, y


class ContactSheet:
    """A white sheet that pictures and text are put on, one at a time."""

    def __init__(self, layout: Layout, width: int, height: int) -> None:
        self.layout = layout
        self.image = Image.new("RGB", (width, height), (255, 255, 255))
        self._draw = ImageDraw.Draw(self.image)

    def put(self, row: int, column: int, picture: Picture | None, *, frame: Colour = GRADE_COLOURS["C"]) -> None:
        """Put a picture, uint8 [H, W, 3], in its place, resized to the layout's side; None becomes an empty frame."""
        side = self.layout.side
        x, y = self.layout.corner(row, column)
        if picture is None:
            self._draw.rectangle((x, y, x + side - 1, y + side - 1), outline=frame)
        else:
            resized = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            self.image.paste(resized, (x, y))

    def frame(
        self,
        row: int,
        column: int,
        part: tuple[float, float, float, float],
        *,
        colour: Colour = GRADE_COLOURS["C"],
    ) -> None:
        """Draw a frame around a part of a picture: top, left, bottom and right, shares of its sides."""
        side = self.layout.side
        x, y = self.layout.corner(row, column)
        top, left, bottom, right = (share * (side - 1) for share in part)
        box = (x + left, y + top, x + right, y + bottom)
        self._draw.rectangle(box, outline=(255, 255, 255), width=4)  # seen on dark pictures too
        self._draw.rectangle(box, outline=colour, width=2)

    def write_text(
        self,
        corner: tuple[int, int],
        text: str,
        *,
        colour: Colour = GREY,
        size: int = 12,
        width: int | None = None,
        whole_words: bool = False,
    ) -> None:
        """Write one line of text with its top left corner at `corner`.

        Args:
            size: of the font, pixels.
            width: pixels that the text may take; a longer one ends in an ellipsis. None: any.
            whole_words: leave out whole words and no ellipsis instead.
        """
        font = ImageFont.load_default(size=size)
        if width is not None:
            text = _by_words(text, font, width) if whole_words else _with_ellipsis(text, font, width)
        self._draw.text(corner, text, fill=colour, font=font)

    def save(self, path: Path) -> Path:
        """Write the sheet as the path ends, folders included; returns `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.asarray(self.image, np.uint8))
        return path


@dataclass(frozen=True)
class Triple:
    """Content, style and target of one pair. `target` is None where no picture came out; `text` is one short line.

    `part` is a part of the target to be framed: top, left, bottom and right, shares of its sides.
    """

    content: Picture
    style: Picture
    target: Picture | None
    grade: str
    text: str = ""
    part: tuple[float, float, float, float] | None = None


def draw_triples(
    triples: Sequence[Triple],
    path: Path,
    *,
    heading: str = "content | style | target",
    side: int = 128,
    across: int = 4,
) -> Path:
    """Draw content | style | target in reading order, `across` triples a row, grade and text under each.

    Returns `path`. Without a triple the sheet says that there is none.
    """
    layout = Layout(
        side=side,
        gap=_GAP,
        left=2 * _GAP,
        top=2 * _GAP + _LINE,
        line=_LINE,
        row_gap=2 * _GAP,
        group=3,
        group_gap=2 * _GAP,
    )
    rows = max(1, -(-len(triples) // across))
    across = max(1, min(across, len(triples)))
    right, bottom = layout.corner(rows, 3 * across)
    sheet = ContactSheet(layout, right - _GAP, bottom)
    head = heading if triples else "no graded picture yet"  # an empty sheet would look like a fault
    sheet.write_text((2 * _GAP, _GAP), head)
    for number, triple in enumerate(triples):
        row, place = divmod(number, across)
        for k, picture in enumerate((triple.content, triple.style, triple.target)):
            sheet.put(row, 3 * place + k, picture)
        if triple.part is not None:
            sheet.frame(row, 3 * place + 2, triple.part)
        x, y = layout.corner(row, 3 * place)
        colour = GRADE_COLOURS.get(triple.grade, GREY)
        sheet.write_text((x, y + side + 2), f"{triple.grade}  {triple.text}", colour=colour, width=layout.group_width)
    return sheet.save(path)


def draw_grid(
    heads: Sequence[str], rows: Sequence[Sequence[tuple[Picture | None, str]]], path: Path, *, side: int = 128
) -> Path:
    """Draw a table of pictures, `heads` over its columns, a grade or a short label under each picture.

    A picture that is None becomes an empty frame. Returns `path`.
    """
    layout = Layout(side=side, gap=_GAP, left=_GAP, top=_GAP + _LINE, line=_LINE, row_gap=_GAP)
    right, bottom = layout.corner(len(rows), len(heads))
    sheet = ContactSheet(layout, right, bottom)
    for column, head in enumerate(heads):
        x, _ = layout.corner(0, column)
        sheet.write_text((x, _GAP), head, width=side)
    for number, row in enumerate(rows):
        for column, (picture, label) in enumerate(row):
            sheet.put(number, column, picture)
            x, y = layout.corner(number, column)
            sheet.write_text((x, y + side + 1), label, colour=GRADE_COLOURS.get(label, GREY))
    return sheet.save(path)


def tile(pictures: Pictures | Sequence[Picture], columns: int, *, gap: int = 4) -> Picture:
    """Pictures of one size, uint8 [N, S, S, 3], row by row on white, `columns` a row; uint8 [H, W, 3]."""
    side = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    layout = Layout(side=side, gap=gap, left=gap, top=gap, row_gap=gap)
    width, height = layout.corner(rows, columns)
    canvas: Picture = np.full((height, width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        x, y = layout.corner(*divmod(number, columns))
        canvas[y : y + side, x : x + side] = picture
    return canvas


Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _with_ellipsis(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _by_words(text: str, font: Font, width: int) -> str:
    """The first words of `text` that fit; no dangling separator at the end."""
    while text and font.getlength(text) > width:
        text = text[: text.rfind(" ")] if " " in text else ""
    return text.rstrip(" ·,")
