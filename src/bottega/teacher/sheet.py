"""The run's contact sheet: content | style | target of some targets of each grade."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from bottega.data.pictures import load_square
from bottega.data.roots import picture_file
from bottega.quality.eye.look import Frame
from bottega.quality.measuring import where_damaged
from bottega.runtime.errors import PictureError
from bottega.teacher.config import ORACLE, SDXL
from bottega.teacher.ledger import Ledger, TryRow
from bottega.visual.contact_sheet import Triple, draw_triples
from bottega.visual.pictures import Picture

LOGGER = logging.getLogger(__name__)
_SHOWN = 24  # triples on a sheet
_SIDE = 256  # pixels at which pictures are read for it


def draw_sheet(
    ledger: Ledger,
    data_root: Path,
    output: Path | None = None,
    *,
    letter: str | None = None,
    reason: str | None = None,
    count: int = _SHOWN,
) -> int:
    """Draw up to `count` graded targets, a third of each grade where there are so many; returns how many.

    Args:
        ledger: of the run; its folder holds the pictures.
        data_root: what the paths of contents and styles are relative to.
        output: the PNG; None: `contact_sheet.png` beside the ledger.
        letter: only this grade.
        reason: only targets with this check among their reasons.
    """
    by_grade: dict[str, list[TryRow]] = {"A": [], "B": [], "C": []}
    for row in ledger.best():
        if _is_wanted(row, letter, reason) and len(by_grade[row.grade]) < count:
            by_grade[row.grade].append(row)
    triples: list[Triple] = []
    for row in _choose(list(by_grade.values()), count):
        triple = _read_triple(row, ledger, data_root)
        if triple is not None:
            triples.append(triple)
    heading = f"content | style | {ORACLE if ledger.oracle else f'target by {SDXL}'}"
    draw_triples(triples, output or ledger.path.with_name("contact_sheet.png"), heading=heading)
    return len(triples)


def _is_wanted(row: TryRow, letter: str | None, reason: str | None) -> bool:
    if row.status == "broken" or letter not in (None, row.grade):
        return False
    return reason is None or any(text.startswith(f"{reason}:") for text in row.reasons)


def _choose(by_grade: Sequence[Sequence[TryRow]], count: int) -> list[TryRow]:
    """`count` rows: a third of each grade first, then more of the grades that have more; in the order of the grades."""
    third = -(-count // 3)
    first = chain.from_iterable(rows[:third] for rows in by_grade)
    rest = chain.from_iterable(rows[third:] for rows in by_grade)
    chosen = [*first, *rest][:count]
    return sorted(chosen, key=lambda row: row.grade)


def _read_triple(row: TryRow, ledger: Ledger, data_root: Path) -> Triple | None:
    """The row's pictures; None where they can't be read any more."""
    target = None
    try:
        where = f"{ledger.path}, target {row.target}: a path"
        content = load_square(picture_file(data_root, row.content_path, where), _SIDE)
        style = load_square(picture_file(data_root, row.style_path, where), _SIDE)
        if row.output_path is not None:
            target = load_square(ledger.picture_file(row.target, row.output_path), _SIDE)
    except PictureError as error:
        LOGGER.warning("left out of the contact sheet: %s", error)
        return None
    return Triple(content, style, target, row.grade, _caption(row), _damaged_part(row, content, style, target))


def _damaged_part(row: TryRow, content: Picture, style: Picture, target: Picture | None) -> Frame | None:
    """Where the learned eye sees the damage that it gave as a reason."""
    if target is None or not any(reason.startswith("damage:") for reason in row.reasons):
        return None
    return where_damaged(target, content, style)


def _caption(row: TryRow) -> str:
    """The first reason, or how well it did where there is none."""
    if row.reasons:
        return row.reasons[0]
    text = f"edges {row.scores.get('edge_64', 0):.2f}"
    gain = row.scores.get("style_gain")
    return text if gain is None else f"{text}, style gain {gain:.2f}"
