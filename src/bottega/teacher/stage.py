"""The teacher stage: targets for every pair and seed, judged, with ledger, lists and contact sheet."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.data.pictures import load_square
from bottega.data.records import Pair, read_pairs
from bottega.quality.config import Thresholds
from bottega.quality.grade import alarms, pass_rates
from bottega.quality.measure import SCORES_VERSION, Judge
from bottega.quality.stage import load_encoder, load_thresholds
from bottega.runtime.errors import PictureError, RequestError
from bottega.runtime.files import count_lines, sha256_bytes, sha256_json, write_json
from bottega.runtime.fingerprint import bound_settings
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.teacher.config import ORACLE, TeacherConfig
from bottega.teacher.export import write_csv, write_lists, write_parquet
from bottega.teacher.items import Teacher
from bottega.teacher.ledger import Ledger, Row
from bottega.teacher.protocol import cautions, schedule
from bottega.teacher.runner import Runner, chunks
from bottega.visual.contact_sheet import Triple, draw_triples

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

LOGGER = logging.getLogger(__name__)
LEDGER = "ledger.sqlite"
_SHEET = 24  # triples on a contact sheet


def run(
    config: TeacherConfig,
    directory: Path,
    *,
    pairs: Path | Sequence[Path],
    data_root: Path,
    models: ModelsConfig,
    thresholds: Path,
    limit: int | None = None,
    seeds: Sequence[int] | None = None,
    retry_failed: bool = False,
    bench: Bench | None = None,
) -> dict[str, Any]:
    """Make what is not made yet; the same call after a stop or a kill goes on where it ended.

    Args:
        pairs: pair list, or several that are worked through in this order.
        thresholds: limits as the quality stage wrote them.
        limit: only the first so many pairs of each list.
        seeds: only these of the protocol's seeds.
        retry_failed: make targets again of which no picture came out, or whose content or style could not be read.
        bench: teacher and judge that several runs share; None: this run's own.

    Returns:
        The run's counts over all that its ledger holds, see `summarise`.

    Raises:
        FingerprintError: protocol, models or limits differ from those that the run began with.
        Interrupted: asked to stop; the chunk in hand is saved.
        MemoryPressureError, StartAfresh: memory is short, or this process grew too large; all that was made is saved.
    """
    lists = PairLists([pairs] if isinstance(pairs, Path) else list(pairs), limit)
    limits = load_thresholds(thresholds)
    wanted = list(seeds) if seeds is not None else list(config.seeds)
    if config.source == "sdxl" and bench is None:
        for words in cautions(config):
            LOGGER.warning("%s", words)
    bench = bench or Bench(config, data_root, models)
    with Ledger(directory / LEDGER) as ledger:
        parts = _fingerprint_parts(config, limits, bench.hashes(ledger))
        fingerprint = sha256_json(parts)
        ledger.hold_to(fingerprint, parts)
        runner = Runner(
            config,
            directory,
            data_root,
            teacher=lambda: bench.teacher,
            judge=lambda: bench.judge,
            thresholds=limits,
            ledger=ledger,
            fingerprint=fingerprint,
            known=lists.ids,
            retry_failed=retry_failed,
        )
        try:
            _work_through(runner, lists, wanted)
        finally:
            write_lists(ledger, directory)
        write_csv(ledger, directory / "ledger.csv")
        write_parquet(ledger, directory / "ledger.parquet")
        draw_sheet(ledger, directory, data_root)
        summary = summarise(ledger, limits)
    summary |= _source(config)
    for words in summary["warnings"]:
        LOGGER.warning("%s", words)
    return summary


def _source(config: TeacherConfig) -> dict[str, Any]:
    """Who made the targets, and by which protocol; the oracle returns drawn truths by none."""
    if config.source == "oracle":
        return {"source": "oracle", "protocol": None, "departures": None, "schedule": None}
    return {
        "source": config.source,
        "protocol": config.name,
        "departures": config.departures(),
        "schedule": schedule(config.steps, config.strength, config.sampler),
    }


@dataclass(frozen=True)
class PairLists:
    """Pair lists, read as streams: a list of 200 000 pairs is never held whole.

    Args:
        files: JSON lines, worked through in this order.
        limit: only the first so many pairs of each.
    """

    files: Sequence[Path]
    limit: int | None = None

    def opened(self) -> list[Callable[[], Iterator[Pair]]]:
        """A function for each list that opens it anew."""
        return [partial(self._stream, file) for file in self.files]

    def ids(self) -> frozenset[str]:
        """All pair ids, those beyond the limit too."""
        return frozenset(pair.pair_id for file in self.files for pair in read_pairs(file))

    def count(self) -> int:
        """Pairs of all lists, by their lines."""
        return sum(min(count_lines(file), self.limit or sys.maxsize) for file in self.files)

    def _stream(self, file: Path) -> Iterator[Pair]:
        return read_pairs(file, self.limit)


def _work_through(runner: Runner, lists: PairLists, seeds: Sequence[int]) -> None:
    """All chunks in order; a request to stop is heard between two of them, when everything is saved."""
    config, ledger = runner.config, runner.ledger
    early = config.sheet_after if ledger.count() < config.sheet_after else 0
    accepted = rejected = 0
    work = chunks(lists.opened(), seeds, config.chunk)
    total = lists.count() * len(seeds)
    with (
        Interruption() as stop,
        Progress(total, "teacher", "targets") as progress,
        closing(runner.run(work)) as running,
    ):
        for count, rows in running:
            good = {row.target for row in rows if row.grade != "C"}
            accepted, rejected = accepted + len(good), rejected + len({row.target for row in rows} - good)
            progress.update(count, accepted=accepted, rejected=rejected)
            if early and ledger.count() >= early:
                draw_sheet(ledger, runner.directory, runner.data_root)
                early = 0
            stop.check()
        if not progress.done:
            raise RequestError(
                f"no pair has one of the seeds {list(seeds)}: there is nothing to make; ask for seeds that the pair "
                "lists state"
            )


class Bench:
    """The teacher, the judge and the hashes of their weights: loaded at first use, and shared by runs that follow."""

    def __init__(self, config: TeacherConfig, data_root: Path, models: ModelsConfig) -> None:
        self._config, self._data_root, self._models = config, data_root, models
        self._hashes: dict[str, str | None] | None = None

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher that the configuration names."""
        if self._config.source == "oracle":
            from bottega.teacher.oracle import Oracle

            return Oracle(self._data_root / "truth", self._config.size)
        from bottega.teacher.generator import load_generator

        return load_generator(self._models, self._config)

    @cached_property
    def judge(self) -> Judge:
        """The judge, with CLIP where the models name one."""
        return Judge(load_encoder(self._models))

    def hashes(self, ledger: Ledger) -> dict[str, str | None]:
        """One hash a model over the contents of its weight files; kept in the ledger while the files are the same."""
        if self._hashes is None:
            self._hashes = {role: self._hash(role, ledger) for role in self._config.model_roles}
        return self._hashes

    def _hash(self, role: str, ledger: Ledger) -> str | None:
        from bottega.models.layout import locate, weight_files

        if getattr(self._models, role) is None:
            return None
        # An absolute path would not survive a move of the run: the name in the ledger is a hash of it.
        files = {
            f"{role}:{sha256_bytes(str(file.resolve()).encode())[:16]}": file
            for file in weight_files(locate(self._models, role))
        }
        return sha256_json(sorted(ledger.file_hashes(files).values()))


def _fingerprint_parts(config: TeacherConfig, limits: Thresholds, hashes: dict[str, str | None]) -> dict[str, Any]:
    """All that the bytes and rows depend on: protocol, retries, limits (retries follow from grades) and weights."""
    retries = config.max_retries if config.quality_filter else 0
    teacher = {**bound_settings(config, "stage"), "max_retries": retries}
    limits_ = limits.model_dump(mode="json")
    return {"teacher": teacher, "thresholds": limits_, "models": hashes, "scores": {"version": SCORES_VERSION}}


def draw_sheet(
    ledger: Ledger,
    directory: Path,
    data_root: Path,
    output: Path | None = None,
    *,
    letter: str | None = None,
    reason: str | None = None,
    count: int = _SHEET,
) -> int:
    """Draw up to `count` graded targets, a third of each grade where there are so many; returns how many.

    Args:
        output: the PNG; None: `contact_sheet.png` in the teacher's folder.
        letter: only this grade.
        reason: only targets with this check among their reasons.
    """
    by_grade: dict[str, list[Row]] = {"A": [], "B": [], "C": []}
    for row in ledger.best():
        asked = letter in (None, row.grade) and (reason is None or any(r.startswith(f"{reason}:") for r in row.reasons))
        if asked and row.status != "broken" and len(by_grade[row.grade]) < count:
            by_grade[row.grade].append(row)
    third = -(-count // 3)
    ranked = [row for rows in by_grade.values() for row in rows[:third]]
    ranked += [row for rows in by_grade.values() for row in rows[third:]]
    chosen = sorted(ranked[:count], key=lambda row: row.grade)
    entries = [entry for row in chosen if (entry := _entry(row, ledger, data_root)) is not None]
    heading = f"content | style | {ORACLE if ledger.oracle else 'target'}"
    draw_triples(entries, output or directory / "contact_sheet.png", heading=heading)
    return len(entries)


def _entry(row: Row, ledger: Ledger, data_root: Path, side: int = 256) -> Triple | None:
    """The row's pictures for a sheet; None where they can't be read any more."""
    try:
        content, style = (load_square(data_root / path, side) for path in (row.content_path, row.style_path))
        picture = ledger.picture_file(row.target, row.output_path) if row.output_path is not None else None
        target = load_square(picture, side) if picture is not None else None
    except PictureError as error:
        LOGGER.warning("left out of the contact sheet: %s", error)
        return None
    gain = row.scores.get("style_gain")
    text = (
        row.reasons[0]
        if row.reasons
        else f"edges {row.scores.get('edge_64', 0):.2f}" + (f", style gain {gain:.2f}" if gain is not None else "")
    )
    return Triple(content, style, target, row.grade, text)


def summarise(ledger: Ledger, thresholds: Thresholds) -> dict[str, Any]:
    """Survival of the run: tries made → passed → targets graded, and what an accepted picture costs.

    `pass_rates` are of first tries; `grades_by_rung` and `style_gain_by_rung` show what the retries bought.
    """
    status: Counter[str] = Counter()
    rungs: dict[str, Counter[str]] = {}
    gains: dict[str, tuple[int, float]] = {}
    passed, seconds, tries = 0, 0.0, 0
    for row in ledger.current():
        status[row.status] += 1
        if row.status == "broken":
            continue
        tries += 1
        passed += row.grade != "C"
        seconds += row.seconds
        rungs.setdefault(row.rung, Counter())[row.grade] += 1
        if "style_gain" in row.scores:
            count, total = gains.get(row.rung, (0, 0.0))
            gains[row.rung] = (count + 1, total + row.scores["style_gain"])
    grades = Counter(row.grade for row in ledger.best() if row.status != "broken")
    accepted = grades["A"] + grades["B"]
    rates = pass_rates(ledger.first_scores(), thresholds)
    return {
        "targets": sum(grades.values()) + status["broken"],
        "tries": tries,
        "made": status["ok"],
        "passed": passed,
        "accepted": accepted,
        "grades": {letter: grades[letter] for letter in "ABC"},
        "broken": status["broken"],
        "failed": status["failed"],
        "tries_per_accepted": round(tries / accepted, 3) if accepted else None,
        "seconds_per_picture": round(seconds / tries, 4) if tries else None,
        "seconds_per_accepted": round(seconds / accepted, 4) if accepted else None,
        "pass_rates": {name: round(rate, 4) for name, rate in rates.items()},
        "grades_by_rung": {rung: dict(sorted(counts.items())) for rung, counts in sorted(rungs.items())},
        "style_gain_by_rung": {rung: round(total / count, 4) for rung, (count, total) in sorted(gains.items())},
        "warnings": alarms(rates, sum(grades.values())),
    }


def own_thresholds(directory: Path, limits: Thresholds) -> Path:
    """The limits file in a run's folder; `limits` are written where there is none: a run keeps those it began by."""
    path = directory / "thresholds.json"
    if not path.is_file():
        write_json(path, limits.model_dump(mode="json"))
    return path


def progress_of(directory: Path) -> dict[str, Any]:
    """Targets in the ledger of a run, and the seconds that one took with its retries; zero where there is none."""
    if not (directory / LEDGER).is_file():
        return {"targets": 0, "seconds_each": 0.0}
    with Ledger(directory / LEDGER) as ledger:
        targets, seconds = ledger.count(), ledger.seconds()
    return {"targets": targets, "seconds_each": seconds / targets if targets else 0.0}
