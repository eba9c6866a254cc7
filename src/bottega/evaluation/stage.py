"""The evaluation stage: draw every method's pictures of the test pairs, measure them, write numbers.

Read `run` from top to bottom; it leaves in its directory

    pictures/{row}/{pair_id}.png   what student, teacher and base drew, with made.jsonl beside them
    measured.jsonl                 raw scores of each picture, kept between calls
    scores.jsonl                   {pair_id, row, metric, value, sha256}: all that the numbers derive from
    summary.json, table.md         means with intervals and n, differences, claims, examples
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.data.records import read_pairs
from bottega.evaluation.bootstrap import METHOD
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import MADE_FROM, ROWS
from bottega.evaluation.drawing import Request, draw
from bottega.evaluation.grid import Grid, swapped_styles
from bottega.evaluation.metrics import METRICS, NEEDS
from bottega.evaluation.networks import Networks, identity, load_networks
from bottega.evaluation.scoring import measure_all
from bottega.evaluation.sources import Sources
from bottega.evaluation.summary import (
    by_row,
    claims,
    differences,
    discrimination,
    examples,
    per_label,
    score_lines,
    table,
)
from bottega.evaluation.table import markdown
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl, sha256_file, sha256_json, write_json, write_jsonl, write_text

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.runtime.config import Config
    from bottega.teacher.config import TeacherConfig

LOGGER = logging.getLogger(__name__)
Files = Mapping[str, Mapping[str, Path]]
WEIGHTS = {"student": ("pixart", "clip"), "base": ("pixart", "clip"), "teacher": ("sdxl", "sdxl_vae", "ip_adapter")}
"""The models that each drawn row loads, by their names in the recipe."""

_DEFAULT_SIZE = 512  # pixels; of contents that are measured without a picture that anything drew


def run(
    config: EvaluationConfig,
    directory: Path,
    *,
    pairs: Path,
    data_root: Path,
    adapter: Path | None,
    models: ModelsConfig,
    teacher: TeacherConfig | None = None,
    student: Config | None = None,
) -> dict[str, Any]:
    """Evaluate an adapter on held-out pairs. May be called again: pictures and scores that still hold are used again.

    Args:
        directory: where everything is written.
        pairs: the test pairs; best crossed, every content with every style.
        data_root: what the pairs' paths are relative to; label maps and drawn truths are looked for in it.
        adapter: the trained adapter; None leaves the student's row unavailable.
        models: what draws and what judges; what is absent makes its rows and metrics unavailable.
        teacher: its protocol; None leaves its row unavailable.
        student: taken and not used: how the student draws stands in the adapter's header.

    Returns:
        The content of `summary.json`.

    Raises:
        MissingError: the pairs or the adapter file are not there.
        RequestError: there is no pair.
    """
    grid = Grid.of(read_pairs(pairs)).smaller(config.limit)
    if not grid.pairs:
        raise RequestError(f"an evaluation needs at least one pair, {pairs} holds none; make test pairs first")
    if adapter is not None and not adapter.is_file():
        raise MissingError(f"no adapter at {adapter}; train one first")
    directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    files, absent = _draw_all(config, directory, grid, data_root, adapter, models, teacher)
    drawn = time.monotonic()
    sources = Sources(data_root, config.size or _size(files, grid, data_root), config.truths)
    networks = load_networks(models)
    made_from = _made_from(config, teacher)
    measured = measure_all(grid, files, config, sources, networks, directory / "measured.jsonl", made_from)
    labels = networks.style_classifier.labels if networks.style_classifier else []
    write_jsonl(directory / "scores.jsonl", score_lines(grid, measured, labels))
    absent |= _absent_needs(grid, sources, networks)
    summary = summarise(config, directory, grid, absent)
    if teacher is not None and "teacher" in summary["rows"]:
        _name_teacher(summary["rows"]["teacher"], teacher)
    summary["broken"] = measured.broken
    summary["size"], summary["networks"] = sources.size, networks.identities
    summary["seconds"] = {"drawing": round(drawn - started, 1), "measuring": round(time.monotonic() - drawn, 1)}
    write_json(directory / "summary.json", summary)
    write_text(directory / "table.md", markdown(summary))
    return summary


def summarise(config: EvaluationConfig, directory: Path, grid: Grid, absent: Mapping[str, str]) -> dict[str, Any]:
    """The numbers, from `scores.jsonl` alone."""
    scores = by_row(read_jsonl(directory / "scores.jsonl"))
    rows = table(grid, scores, config, absent)
    gaps = differences(grid, scores, config)
    return {
        "pairs": len(grid),
        "contents": len(grid.contents),
        "styles": len(grid.styles),
        "labels": len(set(grid.labels.values())),
        "interval": {"method": METHOD, "level": config.level, "draws": config.draws, "seed": config.bootstrap_seed},
        "metrics": {
            name: {"title": m.title, "unit": m.unit, "better": m.better, "meaning": m.meaning}
            for name, m in METRICS.items()
        },
        "rows": rows,
        "differences": gaps,
        "discrimination": discrimination(grid, scores, config),
        "claims": claims(rows, gaps, config) if "student" in config.rows else [],
        "examples": examples(grid, scores, config.examples),
        "per_label": per_label(grid, scores),
    }


def _draw_all(
    config: EvaluationConfig,
    directory: Path,
    grid: Grid,
    data_root: Path,
    adapter: Path | None,
    models: ModelsConfig,
    teacher: TeacherConfig | None,
) -> tuple[Files, dict[str, str]]:
    """Pictures of the rows that draw, a process for each family of models, and why a row has none."""
    requests: dict[tuple[str, ...], list[Request]] = {}
    absent: dict[str, str] = {}
    for row in (row for row in config.rows if ROWS[row].drawn):
        settings = _settings(row, grid, data_root, adapter, models, teacher)
        if isinstance(settings, str):
            absent[row] = settings
            continue
        pairs = grid.smaller(config.teacher_pairs).pairs if row == "teacher" else grid.pairs
        request = Request(
            row=row,
            directory=str(directory / "pictures" / row),
            data_root=str(data_root),
            pairs=pairs,
            batch_size=config.batch_size,
            seed=config.seed,
            **settings,
        )
        requests.setdefault(WEIGHTS[row], []).append(request)
    files: dict[str, Mapping[str, Path]] = {}
    for family in requests.values():
        files |= draw(family)
    return files, absent


def _settings(
    row: str, grid: Grid, data_root: Path, adapter: Path | None, models: ModelsConfig, teacher: TeacherConfig | None
) -> dict[str, Any] | str:
    """What a row's painter needs and a fingerprint of its weights and settings; or why it can't draw."""
    from bottega.models.layout import inspect

    if row == "teacher" and teacher is None:
        return "no teacher was given"
    if row != "teacher" and adapter is None:
        return "no adapter was given, whose header says how to draw"
    oracle = row == "teacher" and teacher is not None and teacher.source == "oracle"
    findings = {finding.role: finding for finding in inspect(models, () if oracle else WEIGHTS[row])}
    faults = [fault for finding in findings.values() for fault in finding.faults]
    if not oracle:
        unnamed = [role for role in WEIGHTS[row] if role != "sdxl_vae" and role not in findings]
        faults += [f"no {role} among the recipe's models" for role in unnamed]
    if faults:
        return faults[0]
    settings: dict[str, Any] = {"models": models.model_dump(mode="json")}
    how: Any = None
    if row == "teacher" and teacher is not None:
        how = {**teacher.protocol(), "source": teacher.source}
        settings |= {"teacher": teacher.model_dump(mode="json"), "truth": str(data_root / "truth")}
    elif adapter is not None:
        # The base too: the adapter's header says from which strength and in how many steps both draw.
        how = sha256_file(adapter)
        settings["adapter"] = str(adapter)
        if row == "student" and (shown := _captions(adapter, grid, data_root)) is not None:
            settings["style_captions"] = shown
            how = sha256_json([how, shown])
    weights = {role: identity(finding.files) for role, finding in findings.items()}
    fingerprint = sha256_json([weights, how, models.dtype, models.device])
    return {"settings": settings, "fingerprint": fingerprint}


def _captions(adapter: Path, grid: Grid, data_root: Path) -> dict[str, str] | None:
    """What the style pictures show, by their paths, for an adapter that takes it out of the style; None for another."""
    from bottega.data.records import style_captions
    from bottega.student.export import read_header

    if read_header(adapter)["adapter"].get("scene_removal", "none") == "none":
        return None
    paths = {pair.style_path for pair in grid.pairs}
    shown = style_captions(data_root, sorted(paths))
    if len(shown) < len(paths):
        LOGGER.warning(
            "the adapter takes what a style picture shows out of its style, of %d of the %d test styles nobody says "
            "it: nothing is taken out of those",
            len(paths) - len(shown),
            len(paths),
        )
    return shown


def _name_teacher(row: dict[str, Any], teacher: TeacherConfig) -> None:
    """Say in the teacher's row who drew its pictures: drawn truths must not pass for a network's."""
    from bottega.teacher.config import ORACLE, ORACLE_MEANING

    row["source"] = teacher.source
    if teacher.source == "oracle":
        row |= {"title": ORACLE, "meaning": ORACLE_MEANING}


def _made_from(config: EvaluationConfig, teacher: TeacherConfig | None) -> dict[str, int]:
    """Which drawn truth a row's picture is made from; the oracle teacher's is one itself."""
    if teacher is None or teacher.source != "oracle":
        return dict(MADE_FROM)
    return {**MADE_FROM, "teacher": config.seed % config.truths}


def _absent_needs(grid: Grid, sources: Sources, networks: Networks) -> dict[str, str]:
    """What metrics need and this data set or machine lacks, each with the reason."""
    absent = dict(networks.absent)
    if not sources.classes:
        absent["label_maps"] = f"needs {NEEDS['label_maps']}"
    if not any(sources.truth_paths(pair) for pair in grid.pairs):
        absent["truth"] = f"needs {NEEDS['truth']}"
    if not swapped_styles(grid.labels):
        absent["swap"] = "swapped styles need that no label holds more than half of the test styles"
    return absent


def _size(files: Files, grid: Grid, data_root: Path) -> int:
    """The side of what was drawn, of the truth, or a default: at which all pictures are measured."""
    from PIL import Image

    drawn: Iterable[Path] = (path for row in ("student", "base", "teacher") for path in files.get(row, {}).values())
    truths = (data_root / "truth" / f"{pair.pair_id}_seed0.png" for pair in grid.pairs)
    first = next(iter(drawn), None) or next((path for path in truths if path.is_file()), None)
    if first is None:
        return _DEFAULT_SIZE
    with Image.open(first) as image:
        return int(min(image.size))
