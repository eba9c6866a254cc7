"""The teacher stage: targets for every pair and seed, judged, with ledger, lists and contact sheet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.quality.config import Thresholds
from bottega.quality.stage import load_thresholds, scores_identity
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import write_json
from bottega.runtime.fingerprint import bound_settings, fingerprint, resumable_settings
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.trust import Role, add, seal
from bottega.teacher.config import TeacherConfig
from bottega.teacher.export import write_csv, write_lists, write_parquet
from bottega.teacher.ledger import CONFIGURATIONS, LEDGER, Ledger, require_intact
from bottega.teacher.making import ChunkMaker
from bottega.teacher.models import TeacherModels
from bottega.teacher.protocol import cautions
from bottega.teacher.runner import Runner
from bottega.teacher.sheet import draw_sheet
from bottega.teacher.summary import SUMMARY, TeacherSummary, summarise, write_summary
from bottega.teacher.watch import RunWatch
from bottega.teacher.work import PairLists, chunks

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

LOGGER = logging.getLogger(__name__)


def run(  # noqa: PLR0913 (the inputs of a stage are keywords, so that the pipeline reads as their list)
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
    loaded: TeacherModels | None = None,
) -> TeacherSummary:
    """Make what is not made yet; the same call after a stop or a kill resumes where it ended.

    Args:
        config: the protocol and the run's options.
        directory: where the ledger, the pictures and the lists go.
        pairs: pair list, or several that are worked through in this order.
        data_root: what the pairs' paths are relative to.
        models: where the weights are.
        thresholds: limits as the quality stage wrote them.
        limit: only the first so many pairs of each list.
        seeds: only these of the protocol's seeds.
        retry_failed: make targets again of which no picture came out, or whose content or style could not be read.
        loaded: teacher and judge that several runs share; None: this run's own.

    Returns:
        The run's numbers over all that its ledger holds.

    Raises:
        FingerprintError: protocol, models or limits differ from those that the run began with.
        NonFiniteError: not one target came out, of all that the ledger holds; rows and lists are written.
        Interrupted: asked to stop; the chunk in hand is saved.
        MemoryPressureError, StartAfresh: memory is short, or this process grew too large; all that was made is saved.
    """
    lists = PairLists([pairs] if isinstance(pairs, Path) else list(pairs), limit)
    limits = load_thresholds(thresholds, written=True)
    chosen = list(seeds) if seeds is not None else list(config.seeds)
    own_models = loaded is None
    if config.source == "sdxl" and own_models:
        for caution in cautions(config):
            LOGGER.warning("%s", caution)
    loaded = loaded or TeacherModels(config, data_root, models)

    require_intact(directory / LEDGER)
    with Ledger(directory / LEDGER) as ledger:
        # Two settings are never mixed in one ledger; checked before any model is loaded.
        parts = {**_fingerprint_parts(config, limits, loaded.hashes(ledger)), CONFIGURATIONS: loaded.configurations()}
        ledger.require_fingerprint(fingerprint(parts), parts, resumable_settings(config, "stage", "teacher"))

        # Make, judge and enter what is missing. The lists are written however that ends: they are read by others, and
        # the ledger is ahead of them after a stop.
        maker = ChunkMaker(config, ledger.path, data_root, loaded, limits, fingerprint(parts))
        runner = Runner(maker, ledger, list_pair_ids=lists.ids, retry_failed=retry_failed, shared=own_models)
        try:
            _work_through(runner, lists, chosen)
        finally:
            write_lists(ledger, directory)

        # Export all that the ledger holds.
        write_csv(ledger, directory / "ledger.csv")
        write_parquet(ledger, directory / "ledger.parquet")
        draw_sheet(ledger, data_root)
        summary = summarise(ledger, limits, config)
        write_summary(summary, directory)
        _record_hashes(ledger, directory)
        _require_a_picture(ledger, summary)
    for warning in summary["warnings"]:
        LOGGER.warning("%s", warning)
    return summary


def _work_through(runner: Runner, lists: PairLists, seeds: Sequence[int]) -> None:
    """All chunks in order; a request to stop is answered between two of them, when everything is saved."""
    config, ledger = runner.maker.config, runner.ledger
    early = config.sheet_after if ledger.count() < config.sheet_after else 0
    watch = RunWatch(ledger)
    accepted = 0
    rejected = 0
    work = chunks(lists.openers(), seeds, config.chunk)
    total = lists.count() * len(seeds)
    with (
        Interruption() as stop,
        Progress(total, "teacher", "targets") as progress,
        closing(runner.run(work)) as running,
    ):
        for count, rows in running:
            targets = {row.target for row in rows}
            good = {row.target for row in rows if row.grade != "C"}
            accepted += len(good)
            rejected += len(targets - good)
            progress.update(count, accepted=accepted, rejected=rejected)
            watch.add(rows)
            if early and ledger.count() >= early:
                draw_sheet(ledger, runner.maker.data_root)
                early = 0
            stop.check()
        if not progress.done:
            raise RequestError(
                f"no pair has one of the seeds {list(seeds)}: there is nothing to make; ask for seeds that the pair "
                "lists state"
            )


def _require_a_picture(ledger: Ledger, summary: TeacherSummary) -> None:
    """Raise where every target failed: a run that made nothing has not succeeded."""
    if summary["made"] or not summary["targets"]:
        return
    reasons = Counter("; ".join(row.reasons) for row in ledger.best())
    reason, count = reasons.most_common(1)[0]
    raise NonFiniteError(
        f"a teacher must make a picture, and not one of {summary['targets']} targets came out ({summary['failed']} "
        f"failed tries, {summary['broken']} targets with unreadable inputs); of {count} of them the ledger says: "
        f"{reason}; mend that, then make them again: bottega teach … --retry-failed"
    )


def _fingerprint_parts(
    config: TeacherConfig, limits: Thresholds, hashes: Mapping[str, str | None]
) -> Mapping[str, Mapping[str, object]]:
    """All that the bytes and rows depend on: protocol, retries, limits (retries follow from grades) and weights."""
    settings = bound_settings(config, "stage")
    if not config.quality_filter:
        settings["max_retries"] = 0
    return {
        "teacher": settings,
        "thresholds": limits.settings(),  # not model_dump: a limit that came later must not refuse runs begun before it
        "models": hashes,
        "scores": scores_identity(limits),
    }


def _record_hashes(ledger: Ledger, directory: Path) -> None:
    """Record the pictures by the hashes that the ledger has, and what is written from it."""
    files: dict[Path, Role] = {directory / "metadata.jsonl": "result", directory / "thresholds.json": "result"}
    files[ledger.path] = "kept"
    for name in ("qc_overrides.jsonl", "ledger.csv", "ledger.parquet", "contact_sheet.png", SUMMARY):
        files[directory / name] = "view"
    known: dict[Path, str] = {}
    for name, sha256 in ledger.picture_hashes():
        files[directory / name] = "result"
        known[directory / name] = f"sha256:{sha256}"
    seal(directory, files, known)


def own_thresholds(directory: Path, limits: Thresholds) -> Path:
    """The limits file in a run's folder; `limits` are written where there is none: a run keeps those it began by."""
    path = directory / "thresholds.json"
    if not path.is_file():
        write_json(path, limits.model_dump(mode="json"))
        add(directory, {path: None})
    return path
