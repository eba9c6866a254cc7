"""The evaluation stage: draw every method's pictures of the test pairs, measure them, write numbers.

Read `run` from top to bottom; it leaves in its directory

    pictures/{row}/{pair_id}.png   what student, teacher and base drew, with made.jsonl beside them
    pairs.jsonl                    the list of pairs, with hashes of contents and styles
    measured.jsonl                 raw scores of each picture, kept between calls
    scores.jsonl                   {pair_id, row, metric, value, sha256}: all that the numbers derive from
    summary.json, table.md         means with intervals and n, differences, claims, examples
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.data.records import Fill50kRow, read_pairs, truth_path
from bottega.evaluation import fill50k
from bottega.evaluation.bootstrap import METHOD
from bottega.evaluation.config import EvaluationConfig, KeptCheckpoints
from bottega.evaluation.controls import MADE_FROM, ROWS
from bottega.evaluation.distances import DISTANCES, measure_distances
from bottega.evaluation.drawing import Request, draw, read_efficiency
from bottega.evaluation.efficiency import EfficiencyRecord
from bottega.evaluation.grid import Grid, swapped_styles
from bottega.evaluation.judges import JudgeFacts
from bottega.evaluation.metrics import METRICS, NEEDS
from bottega.evaluation.networks import FoundNetworks, find_networks, load_networks
from bottega.evaluation.pair_list import PAIRS, Missing, describe, in_common, missing_outputs, pair_lines, require_all
from bottega.evaluation.plans import WEIGHTS, CannotDrawError, plan_student, plan_teacher
from bottega.evaluation.protocol_scoring import FEATURES
from bottega.evaluation.records import Fill50kRecord, ScoreLine, SummaryRecord
from bottega.evaluation.scoring import Measured, ask_judges, measure_all, measuring_workers
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
from bottega.models.workers import open_pool, share_work
from bottega.runtime.errors import DamagedError, MissingError, RequestError
from bottega.runtime.files import write_json, write_jsonl, write_text
from bottega.runtime.records import read_records
from bottega.runtime.trust import PreparedPictures, Role, seal

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig

LOGGER = logging.getLogger(__name__)
Files = Mapping[str, Mapping[str, Path]]
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
    kept: KeptCheckpoints | None = None,
) -> SummaryRecord:
    """Evaluate an adapter on held-out pairs. May be called again: pictures and scores that still hold are used again.

    Args:
        directory: where everything is written.
        pairs: the test pairs; best crossed, every content with every style.
        data_root: what the pairs' paths are relative to; label maps and drawn truths are searched there.
        adapter: the trained adapter; None leaves the student's row unavailable.
        models: what draws and what judges; what is absent makes its rows and metrics unavailable.
        teacher: its protocol; None leaves its row unavailable.
        kept: the checkpoints that are compared, where `config.checkpoints` asks for it.

    Returns:
        The content of `summary.json`.

    Raises:
        MissingError: the pairs or the adapter file are not there.
        RequestError: there is no pair.
        WorkError: a method lacks outputs, and `config.allow_missing` is not set.
    """
    # Check what is asked for, before anything is loaded.
    grid = _asked_grid(config, pairs, adapter)
    circles = fill50k.circle_rows(data_root, config.fill50k_pictures) if "student" in config.rows else []
    _require_inputs(grid, data_root, config.truths, circles)
    directory.mkdir(parents=True, exist_ok=True)
    listed = pair_lines(grid, data_root)
    write_jsonl(directory / PAIRS, listed)

    # Draw the rows that are made by networks.
    started = time.monotonic()
    drawn = _draw_all(config, directory, grid, data_root, adapter, models, teacher, circles)
    files = drawn.files
    seconds = {"drawing": round(time.monotonic() - started, 1)}
    started = time.monotonic()

    # Measure every row's pictures of every pair.
    sources = Sources(data_root, config.size or _size(files, grid, data_root), config.truths)
    scored = _score(config, directory, grid, files, sources, models, _made_from(config, teacher))
    grid, measured, judges, networks = scored.grid, scored.measured, scored.judges, scored.networks
    distances = measure_distances(grid, measured.records, files, sources, models, directory)
    write_jsonl(directory / "scores.jsonl", chain(score_lines(grid, measured, judges.labels), distances.lines))

    # Derive the numbers, and name what could not be measured.
    absent = drawn.absent | _absent_needs(grid, sources, networks) | dict(distances.absent)
    summary = summarise(config, directory, grid, absent)
    distances.add_to(summary)
    if teacher is not None and "teacher" in summary["rows"]:
        _name_teacher(summary, teacher)
    summary["style_tests"] = judges.style_tests
    if judges.probe is not None:
        summary["style_probe"] = judges.probe
    summary["efficiency"] = drawn.costs
    summary["fill50k"] = _measure_circles(circles, files, directory, data_root, config.level)
    summary["broken"] = measured.broken
    summary["missing"] = scored.missing.rows
    summary["pair_list"] = describe(listed)
    summary["size"] = sources.size
    summary["networks"] = {**networks.identities, **distances.identities}
    seconds["measuring"] = round(time.monotonic() - started, 1)
    summary["seconds"] = seconds
    if config.checkpoints and kept is not None:
        summary["checkpoints"] = _compare_checkpoints(config, directory, kept, data_root, models)
    write_json(directory / "summary.json", summary)
    write_text(directory / "table.md", markdown(summary))
    _record_hashes(directory, files)
    return summary


@dataclass(frozen=True)
class _Scored:
    """What measuring gave: the pairs that all methods have, their scores, the outputs that are missing, the judges."""

    grid: Grid
    measured: Measured
    missing: Missing
    judges: JudgeFacts
    networks: FoundNetworks


def _score(
    config: EvaluationConfig,
    directory: Path,
    grid: Grid,
    files: Files,
    sources: Sources,
    models: ModelsConfig,
    made_from: Mapping[str, int],
) -> _Scored:
    """Measure every picture, in this process or in several. Raises WorkError for missing outputs."""
    networks = find_networks(models)
    workers = share_work(len(grid) * len(config.rows), networks.files, models.device)
    with ExitStack() as held:
        pool = None
        if workers is None:
            networks = load_networks(models, networks)
        else:
            workers = measuring_workers(workers, config, sources, models, networks, made_from)
            pool = held.enter_context(open_pool(workers))
        measured = measure_all(grid, files, config, sources, networks, directory / "measured.jsonl", made_from, pool)
        missing = missing_outputs(_designs(config, grid), measured)
        cure = f"{directory / 'pictures'}/*/made.jsonl says why; mend that and run the same command again"
        require_all(missing, config.allow_missing, cure)
        grid, measured = in_common(grid, measured, missing)
        return _Scored(grid, measured, missing, ask_judges(config, grid, sources, networks, pool), networks)


def _designs(config: EvaluationConfig, grid: Grid) -> dict[str, list[str]]:
    """The pairs that each method is to draw."""
    designs: dict[str, list[str]] = {}
    for row in config.rows:
        if ROWS[row].drawn:
            designs[row] = [pair.pair_id for pair in _design(config, grid, row).pairs]
    return designs


def _design(config: EvaluationConfig, grid: Grid, row: str) -> Grid:
    return grid.smaller(config.teacher_pairs) if row == "teacher" else grid


def _asked_grid(config: EvaluationConfig, pairs: Path, adapter: Path | None) -> Grid:
    """The pairs that are evaluated; raises what `run` does where there is none, or no adapter."""
    grid = Grid.of(read_pairs(pairs)).smaller(config.limit)
    if not grid.pairs:
        raise RequestError(f"an evaluation needs at least one pair, {pairs} holds none; make test pairs first")
    if adapter is not None and not adapter.is_file():
        raise MissingError(f"no adapter at {adapter}; train one first")
    return grid


def _require_inputs(grid: Grid, data_root: Path, truths: int, circles: Sequence[Fill50kRow]) -> None:
    """DamagedError for a content, a style or a truth that is not what was prepared: its scores would be another's."""
    prepared = PreparedPictures(data_root)
    paths: set[str] = set()
    for circle in circles:
        paths.update((circle.source_path, circle.target_path))
    for pair in grid.pairs:
        paths.update((pair.content_path, pair.style_path))
        for number in range(truths):
            truth = truth_path(Path("truth"), pair.pair_id, number)
            if (data_root / truth).is_file():
                paths.add(truth.as_posix())
    for path in sorted(paths):
        prepared.require(path)


def _compare_checkpoints(
    config: EvaluationConfig, directory: Path, kept: KeptCheckpoints, data_root: Path, models: ModelsConfig
) -> str:
    """Compare what the training kept; returns `compared`, or why it could not be, which is no reason to fail: a run of
    few steps keeps one checkpoint."""
    from bottega.evaluation.checkpoints import run as compare

    try:
        compare(config, directory, training=kept.training, pairs=kept.pairs, data_root=data_root, models=models)
    except DamagedError:
        raise
    except RequestError as error:
        LOGGER.warning("the checkpoints were not compared: %s", error)
        return f"unavailable: {error}"
    return "compared"


def _record_hashes(directory: Path, files: Files) -> None:
    """Record what was written and drawn."""
    views = ("summary.json", "table.md", "checkpoints.json", "checkpoints.md")
    written: dict[Path, Role] = {directory / name: "view" for name in views}
    results = (PAIRS, "scores.jsonl", "measured.jsonl", "fill50k.jsonl")
    written |= {directory / name: "result" for name in results}
    written |= {directory / name: "result" for name in (DISTANCES, FEATURES) if (directory / name).exists()}
    for row in files.values():
        for picture in row.values():
            written[picture] = "result"
            written[picture.parent / "made.jsonl"] = "result"
    seal(directory, written)


def summarise(config: EvaluationConfig, directory: Path, grid: Grid, absent: Mapping[str, str]) -> SummaryRecord:
    """The numbers, from `scores.jsonl` alone."""
    cure = "run bottega evaluate again, which writes it"
    scores = by_row(read_records(directory / "scores.jsonl", ScoreLine, cure))
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
    circles: Sequence[Fill50kRow],
) -> _DrawnRows:
    """Pictures of the rows that draw, a process for each family of models."""
    requests: dict[tuple[str, ...], list[Request]] = {}
    absent: dict[str, str] = {}
    for row in config.rows:
        if not ROWS[row].drawn:
            continue
        try:
            if row == "teacher":
                plan = plan_teacher(teacher, data_root, models)
            else:
                plan = plan_student(row, adapter, grid, data_root, models)
        except CannotDrawError as error:
            absent[row] = str(error)
            continue
        request = Request(
            row=row,
            directory=str(directory / "pictures" / row),
            data_root=str(data_root),
            pairs=_design(config, grid, row).pairs,
            batch_size=config.batch_size,
            seed=config.seed,
            fingerprint=plan.fingerprint,
            settings=plan.settings,
            timed=0 if row == "teacher" else config.timed_pictures,
        )
        requests.setdefault(WEIGHTS[row], []).append(request)
    student = requests.get(WEIGHTS["student"], [])
    student += _circle_requests(directory, circles, student)
    # One family after the other, each in a process of its own: SDXL and PixArt never share memory.
    files: dict[str, Mapping[str, Path]] = {}
    costs: dict[str, EfficiencyRecord] = {}
    for roles, family in requests.items():
        files |= draw(_shared(family, roles, models))
        for request in family:
            cost = read_efficiency(request)
            if cost is not None:
                costs[request.row] = cost
    return _DrawnRows(files, absent, costs)


@dataclass(frozen=True)
class _DrawnRows:
    """Pictures by row and pair id, why a row has none, and what a picture of a row costs."""

    files: Files
    absent: dict[str, str]
    costs: dict[str, EfficiencyRecord]


def _circle_requests(directory: Path, circles: Sequence[Fill50kRow], drawn: Sequence[Request]) -> list[Request]:
    """Fill50K's held-out outlines, drawn by the student and by the base as they draw the pairs, with the null style."""
    found: list[Request] = []
    for row, method in fill50k.ROWS.items():
        for request in drawn:
            if request.row == method and circles:
                found.append(
                    replace(
                        request,
                        row=row,
                        directory=str(directory / "pictures" / row),
                        pairs=tuple(fill50k.circle_pair(circle) for circle in circles),
                        settings={**request.settings, "null_style": True},
                        timed=0,
                    )
                )
    return found


def _measure_circles(
    circles: Sequence[Fill50kRow], files: Files, directory: Path, data_root: Path, level: float
) -> Fill50kRecord:
    """Fill50K's part of the summary; its pictures' own scores are in `fill50k.jsonl`."""
    of_circles = {row: files[row] for row in fill50k.ROWS if row in files}
    if not of_circles:
        why = "no adapter drew them" if circles else "the data set has no test examples of Fill50K"
        return {"status": f"unavailable: {why}", "examples": len(circles), "broken": {}, "methods": {}}
    record, lines = fill50k.score_circles(circles, of_circles, data_root, level)
    write_jsonl(directory / "fill50k.jsonl", lines)
    return record


def _shared(family: Sequence[Request], roles: Sequence[str], models: ModelsConfig) -> list[Request]:
    """The same requests, with the number of processes that draw them."""
    from bottega.models.layout import inspect

    weights: list[Path] = []
    for status in inspect(models, roles):
        weights += status.files
    workers = share_work(sum(len(request.pairs) for request in family), weights, models.device)
    if workers is None:
        return list(family)
    return [replace(request, workers=workers.count, threads=workers.threads) for request in family]


def _name_teacher(summary: SummaryRecord, teacher: TeacherConfig) -> None:
    """Say who drew the teacher's pictures and how: drawn truths must not be taken for a network's."""
    from bottega.teacher.config import ORACLE_MEANING
    from bottega.teacher.summary import describe_painter, painter_facts

    facts = painter_facts(teacher)
    summary["teacher"] = facts
    row = summary["rows"]["teacher"]
    row["source"] = teacher.source
    row["title"] = teacher.title
    row["meaning"] = ORACLE_MEANING if teacher.source == "oracle" else f"{describe_painter(facts)}; one try a picture"


def _made_from(config: EvaluationConfig, teacher: TeacherConfig | None) -> dict[str, int]:
    """Which drawn truth a row's picture is made from; the oracle teacher's is one itself."""
    if teacher is None or teacher.source != "oracle":
        return dict(MADE_FROM)
    return {**MADE_FROM, "teacher": config.seed % config.truths}


def _absent_needs(grid: Grid, sources: Sources, networks: FoundNetworks) -> dict[str, str]:
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
    """The side at which all pictures are measured: that of what was drawn, of the truth, or a default."""
    from PIL import Image

    candidates: list[Path] = []
    for row in ("student", "base", "teacher"):
        candidates += files.get(row, {}).values()
    candidates += [truth_path(data_root / "truth", pair.pair_id) for pair in grid.pairs]
    for path in candidates:
        if path.is_file():
            with Image.open(path) as image:
                return int(min(image.size))
    return _DEFAULT_SIZE
