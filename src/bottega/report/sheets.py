"""Contact sheets, content | style | teacher | student | drawn truth: thumbnails in the page, a PNG beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottega.data.pictures import load_square
from bottega.data.records import Pair, read_pairs
from bottega.report.reading import Run, number
from bottega.report.teaching import Target
from bottega.runtime.errors import PictureError
from bottega.teacher.config import ORACLE

if TYPE_CHECKING:
    from PIL import Image

COLUMNS: Mapping[str, str] = {
    "content": "content",
    "style": "style",
    "teacher": "teacher",
    "student": "student",
    "truth": "drawn truth",
}
PARTS = ("best", "median", "worst")
BUDGET = 1_700_000
"""Bytes of all thumbnails before base64: the page then stays below 3 MB."""

_DARK, _LABEL, _FRAME = (40, 40, 40), (90, 90, 90), (170, 170, 170)  # colours of the sheet
_SAMPLES_WIDE = 532  # pixels: the miniature's own
_QUALITIES = (
    (160, 84),
    (144, 78),
    (128, 70),
    (112, 60),
    (96, 50),
)  # (side in pixels, WebP quality), tried in this order


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet: where it lies, the words under it, its grade if any; `missing` says why there is none."""

    column: str
    path: Path
    words: str = ""
    grade: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Example:
    """One line of a sheet, all pictures of one pair."""

    part: str
    caption: str
    style: str
    note: str
    cells: tuple[Cell, ...]
    reasons: tuple[str, ...] = ()


@dataclass
class Thumbnails:
    """Pictures by path as data URIs, all encoded at the best size and quality at which they stay within the budget."""

    uris: dict[Path, str] = field(default_factory=dict)
    side: int = _QUALITIES[0][0]

    @classmethod
    def of(cls, paths: Iterable[Path], budget: int = BUDGET) -> Thumbnails:
        """Encode pictures; one that can't be read has no entry."""
        pictures = {
            path: picture for path in dict.fromkeys(paths) if (picture := _loaded(path, _QUALITIES[0][0])) is not None
        }
        encoded: dict[Path, bytes] = {}
        for side, quality in _QUALITIES:
            encoded = {path: _webp(picture, side, quality) for path, picture in pictures.items()}
            if sum(map(len, encoded.values())) <= budget:
                break
        return cls(
            {path: _uri(data) for path, data in encoded.items()},
            side,
        )


def of_training(folder: Path) -> list[tuple[int, str]]:
    """(step, data URI) of the first and the last pictures that a training drew on its way, at most 532 pixels wide."""
    from PIL import Image

    files = sorted(folder.glob("step_*.png"))
    found = []
    for file in dict.fromkeys((files[0], files[-1])) if files else ():
        with Image.open(file) as image:
            image.thumbnail((_SAMPLES_WIDE, _SAMPLES_WIDE * image.height), Image.Resampling.LANCZOS)
            found.append((int(file.stem.removeprefix("step_")), _uri(_encoded(image.convert("RGB"), 84))))
    return found


def of_targets(run: Run, chosen: Mapping[str, Sequence[Target]]) -> list[Example]:
    """Lines content | style | teacher | drawn truth of graded targets."""
    root, found = run.data_root, []
    for part in PARTS:
        for target in chosen.get(part, ()):
            shown = {"edges": target.scores.get("edge_64"), "gain": target.scores.get("style_gain")}
            words = ", ".join(f"{name} {value:.2f}" for name, value in shown.items() if value is not None)
            output = run.directory / "teacher" / (target.output_path or "")
            cells = [
                Cell("content", root / target.content_path),
                Cell("style", root / target.style_path),
                Cell("teacher", output, words, target.grade),
                *_truth(root, target.pair_id),
            ]
            found.append(
                Example(
                    part,
                    target.prompt,
                    target.style,
                    f"seed {target.seed}, {target.rung}",
                    tuple(cells),
                    target.reasons,
                )
            )
    return found


def of_evaluation(run: Run, summary: Mapping[str, Any]) -> list[Example]:
    """Lines content | style | teacher | student | drawn truth of the pairs that the evaluation names, with scores."""
    named = summary.get("examples")
    if not isinstance(named, Mapping):
        return []
    wanted = [(part, str(e["pair_id"])) for part in PARTS for e in named.get(part) or []]
    pairs = {pair.pair_id: pair for pair in _test_pairs(run)}
    scores = _scores(run, {pair for _, pair in wanted})
    return [_evaluated(run, part, pairs[pair], scores) for part, pair in wanted if pair in pairs]


def _test_pairs(run: Run) -> list[Pair]:
    name = "pairs/test.jsonl"
    return run.attempt(name, lambda: list(read_pairs(run.directory / name))) or []


def _evaluated(run: Run, part: str, pair: Pair, scores: Mapping[tuple[str, str], Mapping[str, float]]) -> Example:
    root, pair_id = run.data_root, pair.pair_id
    pictures = run.directory / "evaluation" / "pictures"
    cells = [
        Cell("content", root / pair.content_path, _words(scores.get((pair_id, "content")))),
        Cell("style", root / pair.style_path),
    ]
    for row in ("teacher", "student"):
        path = pictures / row / f"{pair_id}.png"
        missing = "" if path.is_file() else "not drawn for this pair"
        cells.append(Cell(row, path, _words(scores.get((pair_id, row))), missing=missing))
    cells += [Cell(c.column, c.path, _words(scores.get((pair_id, "truth")))) for c in _truth(root, pair_id)]
    return Example(part, pair.prompt, pair.style, "", tuple(cells))


def _truth(root: Path, pair_id: str) -> list[Cell]:
    path = root / "truth" / f"{pair_id}_seed0.png"
    return [Cell("truth", path)] if path.is_file() else []


def _scores(run: Run, pairs: set[str]) -> dict[tuple[str, str], dict[str, float]]:
    """Of the named pairs: (pair id, row) -> metric -> value, from `scores.jsonl`."""
    from bottega.runtime.files import read_jsonl

    found: dict[tuple[str, str], dict[str, float]] = {}

    def collect() -> None:
        for line in read_jsonl(run.directory / "evaluation" / "scores.jsonl"):
            if line["pair_id"] in pairs and (value := number(line["value"])) is not None:
                found.setdefault((line["pair_id"], line["row"]), {})[line["metric"]] = value

    run.attempt("evaluation/scores.jsonl", collect)
    return found


def _words(scores: Mapping[str, float] | None) -> str:
    """What stands under an evaluated picture: distance to the truth, style label right or wrong, objects in place."""
    if not scores:
        return ""
    parts = []
    if "truth" in scores:
        parts.append(f"truth {scores['truth']:.1f}")
    if "kind_own" in scores:
        parts.append("style ✓" if scores["kind_own"] > 50 else "style ✗")
    if "objects_found" in scores:
        parts.append(f"objects {scores['objects_found']:.0f} %")
    return " · ".join(parts)


def _loaded(path: Path, side: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    try:
        return load_square(path, side)
    except PictureError:
        return None  # the page says "no picture" in its place


def _webp(picture: np.ndarray[Any, np.dtype[np.uint8]], side: int, quality: int) -> bytes:
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width != side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return _encoded(image, quality)


def _encoded(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=quality, method=4)
    return stream.getvalue()


def _uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"


def headings(*, oracle: bool) -> Mapping[str, str]:
    """The heading of each column; drawn truths in the teacher's place are called so."""
    return {**COLUMNS, "teacher": ORACLE} if oracle else COLUMNS


def write_sheet(
    examples: Sequence[Example],
    path: Path,
    *,
    heads: Mapping[str, str] = COLUMNS,
    side: int = 128,
    across: int = 2,
) -> Path | None:
    """The sheet as one PNG: a line a part (best, median, worst), `across` examples in each; None without examples."""
    from bottega.visual.contact_sheet import ContactSheet, Layout

    # Stable: examples of which no picture is missing come first, else the order stays.
    ranked = sorted(examples, key=lambda example: sum(bool(cell.missing) for cell in example.cells))
    lines: list[tuple[str, list[Example]]] = []
    for part in PARTS:
        chosen = [example for example in ranked if example.part == part][:across]
        if chosen:
            lines.append((part, chosen))
    if not lines:
        return None
    shown = {cell.column for _, line in lines for example in line for cell in example.cells}
    columns = [column for column in COLUMNS if column in shown]
    blocks = max(len(line) for _, line in lines)

    layout = Layout(side=side, gap=4, left=74, top=30, line=22, group=len(columns), group_gap=12)
    width, height = layout.corner(len(lines), blocks * len(columns))
    sheet = ContactSheet(layout, width, height + layout.gap)
    for place in range(blocks * len(columns)):
        x, _ = layout.corner(0, place)
        sheet.write_text((x, 8), heads[columns[place % len(columns)]], colour=_DARK, size=14)
    for row, (part, line) in enumerate(lines):
        _, y = layout.corner(row, 0)
        sheet.write_text((8, y + side // 2 - 8), part, colour=_DARK, size=14)
        for block, example in enumerate(line):
            for cell in example.cells:
                column = block * len(columns) + columns.index(cell.column)
                sheet.put(row, column, _loaded(cell.path, side), frame=_FRAME)
                x, _ = layout.corner(row, column)
                label = f"{cell.grade}  {cell.words}".strip().replace("✓", "yes").replace("✗", "no")
                sheet.write_text((x, y + side + 2), label, colour=_LABEL, size=11, width=side, whole_words=True)
    return sheet.save(path)
