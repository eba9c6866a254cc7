"""The pilot: before ten thousand targets, a few hundred pairs at each of a few strengths and weights of the style.

Each cell of the grid is a run of its own (ledger, pictures, no retries), so that a stopped pilot resumes where it
ended, and all of them share one loaded teacher and one judge. It decides nothing: it shows what each cell would keep,
how far it comes to the style, and warns where a check rejects so much that a long run would be thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.data.pictures import load_square
from bottega.data.roots import picture_file
from bottega.runtime.errors import PictureError
from bottega.runtime.files import write_json
from bottega.runtime.paths import inside
from bottega.teacher.config import ORACLE, ORACLE_MEANING, TeacherConfig
from bottega.teacher.ledger import LEDGER, Ledger, TryRow
from bottega.teacher.models import TeacherModels
from bottega.teacher.protocol import unet_calls
from bottega.teacher.stage import run
from bottega.teacher.summary import TeacherSummary
from bottega.visual.contact_sheet import draw_grid

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.visual.pictures import Picture

STRENGTHS = (0.8, 1.0, 1.2)  # of the protocol's
IP_SCALES = (0.8334, 1.0, 1.1667)  # likewise: 0.25, 0.30 and 0.35 of 0.30
_UNCHANGED = 0.30  # share that the change floor may reject before a warning
_KEPT = 0.70  # share of the targets that a cell must keep to be proposed
_SHOWN, _SIDE = 8, 112  # pairs and pixels of the sheet


@dataclass(frozen=True)
class PilotCell:
    """What became of one setting. Shares are 0..1; `style_gain` is the mean of the kept, None without CLIP."""

    strength: float
    ip_adapter_scale: float
    unet_calls: int
    targets: int
    kept: float
    grade_a: float
    style_gain: float | None
    edge_64: float | None
    unchanged: float
    seconds: float | None

    @property
    def name(self) -> str:
        return f"strength {self.strength:g}, ip {self.ip_adapter_scale:g}"


@dataclass(frozen=True)
class Pilot:
    """`pilot.json`: every cell, the one that is proposed (None where none keeps enough), and warnings."""

    source: str
    cells: list[PilotCell]
    proposed: PilotCell | None
    warnings: list[str]


def grid(config: TeacherConfig) -> list[TeacherConfig]:
    """The configurations of the cells, those aside that make the same steps with the same weight of the style."""
    cells: dict[tuple[int, float], TeacherConfig] = {}
    for share, scale in product(STRENGTHS, IP_SCALES):
        strength = round(min(1.0, config.strength * share), 4)
        ip_adapter_scale = round(config.ip_adapter_scale * scale, 2)
        calls = unet_calls(config.steps, strength)
        if calls < 1:
            continue
        changes = {
            "strength": strength,
            "ip_adapter_scale": ip_adapter_scale,
            "quality_filter": False,
            "sheet_after": 0,
            "seeds": config.seeds[:1],
        }
        cells.setdefault((calls, ip_adapter_scale), config.model_copy(update=changes))
    return list(cells.values())


def pilot(
    config: TeacherConfig,
    directory: Path,
    *,
    pairs: Sequence[Path],
    data_root: Path,
    models: ModelsConfig,
    thresholds: Path,
    count: int,
) -> Pilot:
    """Make the first `count` pairs of each list in every cell, and write `pilot.json` and `contact_sheet.png`.

    Args:
        config: the protocol at the centre of the grid.
        directory: of the pilot; each cell has a folder in it.
        pairs: pair lists.
        data_root: what the pairs' paths are relative to.
        models: where the weights are.
        thresholds: limits as the quality stage wrote them.
        count: pairs of each list.

    Raises:
        FingerprintError: the pilot was started with other limits, models or values.
        Interrupted: asked to stop; the same command resumes.
    """
    loaded = TeacherModels(config, data_root, models)
    cells: list[PilotCell] = []
    folders: list[Path] = []
    for one in grid(config):
        folder = directory / f"strength{one.strength:g}_ip{one.ip_adapter_scale:g}"
        summary = run(
            one,
            folder,
            pairs=pairs,
            data_root=data_root,
            models=models,
            thresholds=thresholds,
            limit=count,
            loaded=loaded,
        )
        cells.append(_cell(one, folder, summary))
        folders.append(folder)
    # Propose, draw, and write the file last: `pilot.json` means that all of the pilot is there.
    found = Pilot(config.source, cells, proposed(cells), warnings(cells))
    heads = [f"{cell.strength:g} / {cell.ip_adapter_scale:g}" for cell in cells]
    if config.source == "oracle":
        heads = [ORACLE] * len(cells)
    _draw(heads, folders, data_root, directory / "contact_sheet.png")
    write_json(directory / "pilot.json", asdict(found))
    return found


def proposed(cells: Sequence[PilotCell]) -> PilotCell | None:
    """The cell that comes nearest to the styles among those that keep enough; without CLIP the one that keeps most."""
    enough = [cell for cell in cells if cell.kept >= _KEPT]
    return max(enough, key=lambda cell: (cell.style_gain or 0.0, cell.kept), default=None)


def warnings(cells: Sequence[PilotCell]) -> list[str]:
    """What a person should know before the long run."""
    found: list[str] = []
    for cell in cells:
        if cell.unchanged > _UNCHANGED:
            found.append(
                f"{cell.name}: {cell.unchanged:.0%} are rejected as untouched copies; more strength, or a lower "
                "change_min if they do look changed"
            )
    if proposed(cells) is None:
        found.append(
            f"no cell keeps {_KEPT:.0%} of its targets: check the sheet and the reasons, and calibrate the limits "
            "(bottega qc calibrate --teacher-dir) before the long run"
        )
    return found


def table(found: Pilot) -> str:
    """The cells as text, a line each."""
    lines = ["strength     ip  steps    n   kept      A  unchanged  style gain  edges  s each"]
    if found.source == "oracle":
        lines.insert(0, f"{ORACLE}: {ORACLE_MEANING}")
    for cell in found.cells:
        gain = _number(cell.style_gain, 10, 3)
        edges = _number(cell.edge_64, 6, 2)
        seconds = _number(cell.seconds, 7, 2)
        lines.append(
            f"{cell.strength:8g} {cell.ip_adapter_scale:6g} {cell.unet_calls:6} {cell.targets:4} {cell.kept:6.0%} "
            f"{cell.grade_a:6.0%} {cell.unchanged:10.0%}  {gain} {edges} {seconds}"
        )
    return "\n".join(lines)


def advice(found: Pilot, directory: Path) -> str:
    """Which cell comes nearest to the styles, and how to take its values; empty where none keeps enough."""
    best = found.proposed
    if best is None:
        return ""
    return (
        f"nearest to the styles among those that keep enough: {best.name}. Look at "
        f"{directory / 'contact_sheet.png'}; to take other values than the protocol's, say so: "
        f"--set teacher.strength={best.strength:g} --set teacher.ip_adapter_scale={best.ip_adapter_scale:g}"
    )


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{value:{width}.{digits}f}" if value is not None else f"{'-':>{width}}"


def _cell(config: TeacherConfig, folder: Path, summary: TeacherSummary) -> PilotCell:
    gains: list[float] = []
    edges: list[float] = []
    with Ledger(folder / LEDGER) as ledger:
        for row in ledger.best():
            if row.grade != "C" and "style_gain" in row.scores:
                gains.append(row.scores["style_gain"])
            if "edge_64" in row.scores:
                edges.append(row.scores["edge_64"])
    targets = summary["targets"]
    return PilotCell(
        strength=config.strength,
        ip_adapter_scale=config.ip_adapter_scale,
        unet_calls=unet_calls(config.steps, config.strength),
        targets=targets,
        kept=summary["accepted"] / max(1, targets),
        grade_a=summary["grades"]["A"] / max(1, targets),
        style_gain=_mean(gains),
        edge_64=_mean(edges),
        unchanged=1 - summary["pass_rates"].get("unchanged", 0.0),
        seconds=summary["seconds_per_picture"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _draw(heads: Sequence[str], folders: Sequence[Path], data_root: Path, path: Path) -> None:
    """A line a pair: content, style, then its target in each cell with its grade."""
    columns = [_best_tries(folder) for folder in folders]
    lines: list[list[tuple[Picture | None, str]]] = []
    for target, first in list(columns[0].items())[:_SHOWN]:
        line: list[tuple[Picture | None, str]] = [
            (_picture(picture_file(data_root, first.content_path, f"target {target}: content_path")), ""),
            (_picture(picture_file(data_root, first.style_path, f"target {target}: style_path")), ""),
        ]
        for folder, column in zip(folders, columns, strict=True):
            row = column.get(target)
            line.append((_target_of(row, folder), row.grade) if row is not None else (None, ""))
        lines.append(line)
    draw_grid(["content", "style", *heads], lines, path, side=_SIDE)


def _best_tries(folder: Path) -> dict[str, TryRow]:
    """The best try of each target whose inputs could be read, by target, in the order of the work."""
    with Ledger(folder / LEDGER) as ledger:
        return {row.target: row for row in ledger.best() if row.status != "broken"}


def _target_of(row: TryRow, folder: Path) -> Picture | None:
    if not row.output_path:
        return None
    return _picture(inside(folder, row.output_path, f"{folder.name}, target {row.target}"))


def _picture(path: Path) -> Picture | None:
    try:
        return load_square(path, _SIDE)
    except PictureError:
        return None  # an empty frame on the sheet; the row of its ledger says why
