"""Contact sheets, content | style | teacher | student | drawn truth: thumbnails in the page, a PNG beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.data.pictures import load_square
from bottega.data.records import Pair, truth_path
from bottega.data.roots import picture_file
from bottega.quality.eye.look import Frame
from bottega.quality.measuring import where_damaged
from bottega.report.evaluation import EvaluationSummary
from bottega.report.format import Number
from bottega.report.run_directory import RunDirectory
from bottega.report.teaching import GradedTarget
from bottega.runtime.errors import PictureError
from bottega.runtime.paths import inside, stays_inside
from bottega.runtime.records import read_records
from bottega.teacher.config import ORACLE
from bottega.visual.pictures import Picture

if TYPE_CHECKING:
    from PIL import Image

    from bottega.visual.contact_sheet import ContactSheet

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

SIDES_AND_QUALITIES = ((160, 84), (144, 78), (128, 70), (112, 60), (96, 50))
"""(side in pixels, WebP quality) of the thumbnails, tried in this order until they stay within the budget."""

_DARK, _LABEL, _FRAME = (40, 40, 40), (90, 90, 90), (170, 170, 170)  # colours of the sheet
_LOOKED_AT = 256  # pixels at which the learned eye looks for where the damage is
_SAMPLES_WIDTH = 532  # pixels: the miniature's own
_SAMPLES_QUALITY = 84


@dataclass(frozen=True)
class SheetCell:
    """One picture of a sheet: where it lies, the words under it, its grade if any; `missing` says why there is none.

    `part` is where the learned eye sees damage: top, left, bottom and right, shares of the sides.
    """

    column: str
    path: Path
    words: str = ""
    grade: str = ""
    missing: str = ""
    part: Frame | None = None


@dataclass(frozen=True)
class SheetLine:
    """One line of a sheet, all pictures of one pair. part: best, median or worst."""

    part: str
    caption: str
    style: str
    note: str
    cells: tuple[SheetCell, ...]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairScore:
    """A line of `evaluation/scores.jsonl`."""

    pair_id: str
    row: str
    metric: str
    value: Number


ScoresOfRow = Mapping[tuple[str, str], Mapping[str, float]]
"""(pair id, row) -> metric -> value."""


@dataclass
class Thumbnails:
    """Pictures by path as data URIs, all encoded at the best size and quality at which they stay within the budget."""

    uris: dict[Path, str] = field(default_factory=dict)
    side: int = SIDES_AND_QUALITIES[0][0]

    @classmethod
    def of(cls, paths: Iterable[Path], budget: int = BUDGET) -> Thumbnails:
        """Encode pictures; one that can't be read has no entry."""
        largest = SIDES_AND_QUALITIES[0][0]
        pictures: dict[Path, Picture] = {}
        for path in dict.fromkeys(paths):
            picture = _loaded(path, largest)
            if picture is not None:
                pictures[path] = picture

        # All at one size, so that no picture looks better than another; the last size is taken even if it is too large.
        encoded: dict[Path, bytes] = {}
        for side, quality in SIDES_AND_QUALITIES:
            encoded = {path: _webp(picture, side, quality) for path, picture in pictures.items()}
            if sum(map(len, encoded.values())) <= budget:
                break
        return cls({path: _uri(data) for path, data in encoded.items()}, side)


def of_training(folder: Path) -> list[tuple[int, str]]:
    """(step, data URI) of the first and the last pictures that a training drew on its way, at most 532 pixels wide."""
    from PIL import Image

    files = sorted(folder.glob("step_*.png"))
    found = []
    for file in dict.fromkeys([*files[:1], *files[-1:]]):
        with Image.open(file) as image:
            image.thumbnail((_SAMPLES_WIDTH, _SAMPLES_WIDTH * image.height), Image.Resampling.LANCZOS)
            uri = _uri(_encoded(image.convert("RGB"), _SAMPLES_QUALITY))
        found.append((int(file.stem.removeprefix("step_")), uri))
    return found


def of_targets(run: RunDirectory, chosen: Mapping[str, Sequence[GradedTarget]]) -> list[SheetLine]:
    """Lines content | style | teacher | drawn truth of graded targets."""
    lines = []
    for part in PARTS:
        for target in chosen.get(part, ()):
            lines.append(_line_of_target(run, part, target))
    return lines


def _line_of_target(run: RunDirectory, part: str, target: GradedTarget) -> SheetLine:
    root = run.data_root
    words = []
    for name, score in (("edges", "edge_64"), ("gain", "style_gain")):
        value = target.scores.get(score)
        if value is not None:
            words.append(f"{name} {value:.2f}")
    output = inside(run.directory / "teacher", target.output_path, f"target {target.pair_id}: output_path")
    content = picture_file(root, target.content_path, f"target {target.pair_id}: content_path")
    style = picture_file(root, target.style_path, f"target {target.pair_id}: style_path")
    damaged = _damaged_part(target, (output, content, style))
    cells = (
        SheetCell("content", content),
        SheetCell("style", style),
        SheetCell("teacher", output, ", ".join(words), target.grade, part=damaged),
        *_truth(root, target.pair_id),
    )
    note = f"seed {target.seed}, {target.rung}"
    return SheetLine(part, target.prompt, target.style, note, cells, target.reasons)


def _damaged_part(target: GradedTarget, files: tuple[Path, Path, Path]) -> Frame | None:
    """Where the learned eye sees the damage that it gave as a reason."""
    if not any(reason.startswith("damage:") for reason in target.reasons):
        return None
    try:
        pictures = [load_square(file, _LOOKED_AT) for file in files]
    except PictureError:
        return None
    return where_damaged(*pictures)


def of_evaluation(run: RunDirectory, summary: EvaluationSummary) -> list[SheetLine]:
    """Lines content | style | teacher | student | drawn truth of the pairs that the evaluation names, with scores."""
    pairs = {pair.pair_id: pair for pair in run.records("pairs/test.jsonl", Pair)}
    named: list[tuple[str, Pair]] = []
    for part in PARTS:
        for chosen in summary.examples.of(part):
            if chosen.pair_id in pairs:  # else they were chosen again since
                named.append((part, pairs[chosen.pair_id]))
    scores = _scores(run, {pair.pair_id for _, pair in named})
    return [_line_of_pair(run, part, pair, scores) for part, pair in named]


def of_folder(folder: RunDirectory, summary: EvaluationSummary) -> list[SheetLine]:
    """Lines teacher | student of the pairs that an evaluation's folder names: it knows no content and no style."""
    named: list[tuple[str, str]] = []
    for part in PARTS:
        for chosen in summary.examples.of(part):
            if stays_inside(chosen.pair_id):  # the id is part of a path, and the file may be anybody's
                named.append((part, chosen.pair_id))
    scores = _scores(folder, {pair_id for _, pair_id in named}, "scores.jsonl")
    lines: list[SheetLine] = []
    for part, pair_id in named:
        cells: list[SheetCell] = []
        for row in ("teacher", "student"):
            path = inside(folder.directory, f"pictures/{row}/{pair_id}.png", f"example {pair_id}")
            if path.is_file():
                cells.append(SheetCell(row, path, _describe(scores.get((pair_id, row)))))
        if cells:
            lines.append(SheetLine(part, pair_id, "", "", tuple(cells)))
    return lines


def _line_of_pair(run: RunDirectory, part: str, pair: Pair, scores: ScoresOfRow) -> SheetLine:
    root, pair_id = run.data_root, pair.pair_id
    content = picture_file(root, pair.content_path, f"pair {pair_id}: content_path")
    style = picture_file(root, pair.style_path, f"pair {pair_id}: style_path")
    cells = [
        SheetCell("content", content, _describe(scores.get((pair_id, "content")))),
        SheetCell("style", style),
    ]
    for row in ("teacher", "student"):
        path = run.directory / "evaluation" / "pictures" / row / f"{pair_id}.png"
        missing = "" if path.is_file() else "not drawn for this pair"
        cells.append(SheetCell(row, path, _describe(scores.get((pair_id, row))), missing=missing))
    cells += _truth(root, pair_id, _describe(scores.get((pair_id, "truth"))))
    return SheetLine(part, pair.prompt, pair.style, "", tuple(cells))


def _truth(root: Path, pair_id: str, words: str = "") -> list[SheetCell]:
    path = truth_path(root / "truth", pair_id)
    return [SheetCell("truth", path, words)] if path.is_file() else []


def _scores(run: RunDirectory, pairs: set[str], name: str = "evaluation/scores.jsonl") -> ScoresOfRow:
    """Of the named pairs, from `scores.jsonl`."""
    # It has a line for each pair, row and metric: only those of the named pairs are kept in memory.
    found: dict[tuple[str, str], dict[str, float]] = {}

    def collect() -> None:
        for line in read_records(run.directory / name, PairScore):
            if line.pair_id in pairs and line.value is not None:
                found.setdefault((line.pair_id, line.row), {})[line.metric] = line.value

    run.attempt(name, collect)
    return found


_WITHOUT_TRUTH = {"palette": "palette", "text": "CLIPScore"}


def _describe(scores: Mapping[str, float] | None) -> str:
    """What stands under an evaluated picture: distance to the truth, style label right or wrong, objects in place."""
    parts = []
    scores = scores or {}
    if "truth" in scores:
        parts.append(f"truth {scores['truth']:.1f}")
    if "kind_own" in scores:
        parts.append("style ✓" if scores["kind_own"] > 50 else "style ✗")
    if "objects_found" in scores:
        parts.append(f"objects {scores['objects_found']:.0f} %")
    if "truth" not in scores:  # then the sheet is ordered by these two
        parts += [f"{name} {scores[metric]:.1f}" for metric, name in _WITHOUT_TRUTH.items() if metric in scores]
    return " · ".join(parts)


def _loaded(path: Path, side: int) -> Picture | None:
    try:
        return load_square(path, side)
    except PictureError:
        return None  # the page says "no picture" in its place


def _webp(picture: Picture, side: int, quality: int) -> bytes:
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
    """The heading of each column; the teacher's says who painted."""
    return {**COLUMNS, "teacher": ORACLE if oracle else "teacher (SDXL)"}


def write_sheet(
    lines: Sequence[SheetLine],
    path: Path,
    *,
    heads: Mapping[str, str] = COLUMNS,
    side: int = 128,
    across: int = 2,
) -> Path | None:
    """The sheet as one PNG: a row a part (best, median, worst), `across` lines in each; None without lines.

    Args:
        lines: those of which no picture is missing go first, else their order stays.
        path: of the PNG.
        heads: the heading of each column.
        side: of a picture, in pixels.
        across: lines beside each other.
    """
    ranked = sorted(lines, key=_num_missing)
    rows: list[tuple[str, list[SheetLine]]] = []
    for part in PARTS:
        chosen = [line for line in ranked if line.part == part][:across]
        if chosen:
            rows.append((part, chosen))
    if not rows:
        return None
    shown: list[SheetLine] = []
    for _, chosen in rows:
        shown += chosen
    columns = columns_of(shown)
    return _draw_sheet(rows, columns, heads, side).save(path)


def _num_missing(line: SheetLine) -> int:
    return sum(bool(cell.missing) for cell in line.cells)


def columns_of(lines: Sequence[SheetLine]) -> list[str]:
    """The columns that some line has a cell of, in their order."""
    shown: set[str] = set()
    for line in lines:
        shown.update(cell.column for cell in line.cells)
    return [column for column in COLUMNS if column in shown]


def _draw_sheet(
    rows: Sequence[tuple[str, Sequence[SheetLine]]], columns: Sequence[str], heads: Mapping[str, str], side: int
) -> ContactSheet:
    from bottega.visual.contact_sheet import ContactSheet, Layout

    lines_across = max(len(row) for _, row in rows)
    num_columns = lines_across * len(columns)
    layout = Layout(side=side, gap=4, left=74, top=30, line=22, group=len(columns), group_gap=12)
    width, height = layout.corner(len(rows), num_columns)
    sheet = ContactSheet(layout, width, height + layout.gap)

    # Headings once a column, then a row a part with its name at the left.
    for place in range(num_columns):
        x, _ = layout.corner(0, place)
        sheet.write_text((x, 8), heads[columns[place % len(columns)]], colour=_DARK, size=14)
    for number, (part, row) in enumerate(rows):
        _, y = layout.corner(number, 0)
        sheet.write_text((8, y + side // 2 - 8), part, colour=_DARK, size=14)
        for block, line in enumerate(row):
            for cell in line.cells:
                column = block * len(columns) + columns.index(cell.column)
                _draw_cell(sheet, number, column, cell)
    return sheet


def _draw_cell(sheet: ContactSheet, row: int, column: int, cell: SheetCell) -> None:
    side = sheet.layout.side
    sheet.put(row, column, _loaded(cell.path, side), frame=_FRAME)
    x, y = sheet.layout.corner(row, column)
    words = f"{cell.grade}  {cell.words}".strip()
    words = words.replace("✓", "yes").replace("✗", "no")  # the font of the sheet has no such signs
    sheet.write_text((x, y + side + 2), words, colour=_LABEL, size=11, width=side, whole_words=True)
