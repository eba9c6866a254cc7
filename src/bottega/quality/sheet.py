"""Contact sheets: content | style | target with the grade under each, for a person to look at within minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bottega.quality.measure import Picture
from bottega.runtime.files import write_png

_COLOURS = {"A": (30, 120, 60), "B": (150, 110, 20), "C": (180, 40, 40)}
_GREY = (110, 110, 110)


@dataclass(frozen=True)
class Entry:
    """One triple of a sheet. `target` is None where no picture came out; `text` is one short line under it."""

    content: Picture
    style: Picture
    target: Picture | None
    letter: str
    text: str = ""


def contact_sheet(entries: Sequence[Entry], path: Path, *, side: int = 128, across: int = 4) -> Path:
    """Draw the triples in reading order, `across` of them a row, each picture `side` pixels, and write a PNG.

    Returns `path`. An empty list gives a sheet that says so.
    """
    gap, line = 6, 18
    wide, high = 3 * side + 2 * gap, side + line
    rows = max(1, -(-len(entries) // across))
    across = max(1, min(across, len(entries)))
    sheet = Image.new(
        "RGB", (across * (wide + 3 * gap) + gap, 2 * gap + line + rows * (high + 2 * gap)), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    draw.text((2 * gap, gap), "content | style | target" if entries else "no graded picture yet", fill=_GREY, font=font)
    for number, entry in enumerate(entries):
        left = 2 * gap + (number % across) * (wide + 3 * gap)
        top = 2 * gap + line + (number // across) * (high + 2 * gap)
        for column, picture in enumerate((entry.content, entry.style, entry.target)):
            corner = (left + column * (side + gap), top)
            if picture is None:
                draw.rectangle((*corner, corner[0] + side - 1, corner[1] + side - 1), outline=_COLOURS["C"])
            else:
                sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), corner)
        draw.text(
            (left, top + side + 2),
            _shortened(f"{entry.letter}  {entry.text}", font, wide),
            fill=_COLOURS.get(entry.letter, _GREY),
            font=font,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.asarray(sheet, np.uint8))
    return path


def grid_sheet(
    heads: Sequence[str], rows: Sequence[Sequence[tuple[Picture | None, str]]], path: Path, *, side: int = 128
) -> Path:
    """Draw a table of pictures, `heads` over its columns, a grade or a word under each picture, and write a PNG.

    A picture that is None becomes an empty frame. Returns `path`.
    """
    gap, line = 6, 18
    sheet = Image.new(
        "RGB", (gap + len(heads) * (side + gap), gap + line + len(rows) * (side + line + gap)), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, head in enumerate(heads):
        draw.text((gap + column * (side + gap), gap), _shortened(head, font, side), fill=_GREY, font=font)
    for number, row in enumerate(rows):
        top = gap + line + number * (side + line + gap)
        for column, (picture, word) in enumerate(row):
            left = gap + column * (side + gap)
            if picture is None:
                draw.rectangle((left, top, left + side - 1, top + side - 1), outline=_COLOURS["C"])
            else:
                sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
            draw.text((left, top + side + 1), word, fill=_COLOURS.get(word, _GREY), font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.asarray(sheet, np.uint8))
    return path


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, wide: int) -> str:
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(text + "…") > wide:
        text = text[:-1]
    return text + "…"
