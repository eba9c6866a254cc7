"""The quality stage: set the limits on drawn truths before the first picture is graded.

Limits stay once they are set: a longer list of pairs must not change them for a run that has begun. They are set again
when the configuration or the CLIP that measures changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from bottega.models.workers import open_pool, share_work
from bottega.quality.calibration import MINIMUM, Calibration, calibrate, damaged
from bottega.quality.config import QualityConfig, Thresholds
from bottega.quality.eye.look import eye_identity
from bottega.quality.fault_run import truths
from bottega.quality.measuring import SCORES_VERSION, ImageEncoder, Judge, Scores
from bottega.runtime.config import parse
from bottega.runtime.errors import PictureError, RequestError
from bottega.runtime.files import read_json, sha256_file, sha256_json, write_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import read_record
from bottega.runtime.trust import is_intact, require, seal
from bottega.visual.pictures import Picture

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

LOGGER = logging.getLogger(__name__)
Triple = tuple[Picture, Picture, Picture]  # truth, content, style

_BATCH = 32  # pictures measured at once
_EVIDENCE = 64  # triples of which all kinds are made: the others show what a check finds, and set no limit
_SETTING = ("good", "untouched", "reencoded")  # kinds that set the limits
_KINDS = (
    "good",
    "untouched",
    "reencoded",
    "black",
    "flat",
    "noise",
    "blurred",
    "burnt",
    "other content",
    "other style",
)


_CALIBRATE_AGAIN = "delete it and calibrate again: bottega run, or bottega qc calibrate"


class CalibrationSummary(TypedDict):
    """Where the limits come from (`calibrated` or `default`), how many truths, their grades by kind, and warnings."""

    source: str
    truths: int
    grades: dict[str, dict[str, float]]
    warnings: list[str]


class CalibrationEvidence(TypedDict):
    """What is shown of the evidence: by kind of picture the share that passes each check, that of each grade, and how
    many pictures there were."""

    pass_rates: dict[str, dict[str, float]]
    grades: dict[str, dict[str, float]]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Calibration:
    """What is read of calibration.json. table: None where nothing was calibrated."""

    request: str = ""
    summary: CalibrationSummary | None = None
    table: CalibrationEvidence | None = None


def run(
    config: QualityConfig, directory: Path, *, pairs: Path | Sequence[Path], data_root: Path, models: ModelsConfig
) -> CalibrationSummary:
    """Write `thresholds.json` and `calibration.json` to `directory`; a second call with the same request changes
    nothing.

    Args:
        pairs: pair list, or several; the first `config.sample` pairs with a drawn truth `truth/{pair_id}_seed0.png`
            are used.
        data_root: the folder that the pairs' paths and `truth/` are relative to.
        models: of it `clip` is used; without one the similarities are not measured.
    """
    directory.mkdir(parents=True, exist_ok=True)
    request = sha256_json({"config": config.model_dump(mode="json"), "clip": encoder_identity(models)})
    # Limits that were set for this very request stay.
    table = directory / "calibration.json"
    if is_intact(table) and is_intact(directory / "thresholds.json"):
        kept = _read(table)
        if kept.request == request and kept.summary is not None:
            return kept.summary
    # Set them on the drawn truths, where there are any.
    files = [pairs] if isinstance(pairs, Path) else list(pairs)
    calibration = _calibrate(config, files, data_root, models) if config.calibrate else None
    summary = _summarise(calibration)
    limits = calibration.thresholds if calibration is not None else config.thresholds
    # The table last: its request says that both files are in place.
    write_json(directory / "thresholds.json", limits.model_dump(mode="json"))
    evidence = calibration.as_json() if calibration is not None else None
    write_json(table, {"request": request, "summary": summary, "table": evidence})
    seal(directory, {directory / "thresholds.json": "result", table: "result"})
    for warning in summary["warnings"]:
        LOGGER.warning("%s", warning)
    return summary


def table(directory: Path) -> str:
    """The calibration as text: a line a kind of picture, a column a check, the share that passes in percent."""
    path = directory / "calibration.json"
    kept = _read(path).table
    if kept is None:
        return "the default limits, for the data set has no drawn truths"
    if not kept["pass_rates"].keys() == kept["grades"].keys() == kept["counts"].keys() >= {"good"}:
        raise RequestError(
            f"{path}: pass_rates, grades and counts should have the same kinds of picture, good among them, received "
            f"{', '.join(kept['pass_rates'])[:200]}; {_CALIBRATE_AGAIN}"
        )
    width = max(map(len, kept["pass_rates"]))
    names = list(kept["pass_rates"]["good"])
    lines = [" " * width + "    n  " + "  ".join(names) + "   A / B / C"]
    for kind, rates in kept["pass_rates"].items():
        cells = "  ".join(f"{100 * rates[name]:{len(name)}.0f}" if name in rates else " " * len(name) for name in names)
        letters = " / ".join(f"{100 * kept['grades'][kind].get(letter, 0.0):.0f}" for letter in "ABC")
        lines.append(f"{kind:{width}} {kept['counts'][kind]:4}  {cells}   {letters}")
    return "\n".join(lines)


def load_thresholds(path: Path, *, written: bool = False) -> Thresholds:
    """Limits as `run` wrote them.

    Args:
        path: the file.
        written: whether it must be what a stage wrote, where that is recorded; people may name one that they edited.

    Raises:
        MissingError, StorageError: there is no such file, or it is no complete JSON.
        RecipeError: a limit has another name or value than limits have.
        DamagedError: it must be what was written, and is not.
    """
    if written:
        require(path, "set the limits again: bottega run, or bottega qc calibrate")
    return parse(Thresholds, read_json(path, _CALIBRATE_AGAIN), str(path))


def _read(path: Path) -> _Calibration:
    return read_record(path, _Calibration, _CALIBRATE_AGAIN)


def scores_identity(limits: Thresholds) -> dict[str, object]:
    """Which scores a run's rows have. One that was begun without the learned eye goes on without it."""
    identity: dict[str, object] = {"version": SCORES_VERSION}
    if limits.uses_eye:
        identity["eye"] = eye_identity()
    return identity


def load_encoder(models: ModelsConfig) -> ImageEncoder | None:
    """The CLIP picture encoder as a callable; None where the recipe names none."""
    if models.clip is None:
        return None
    from bottega.models.encoders import ClipEncoder
    from bottega.models.layout import locate

    return ClipEncoder(locate(models, "clip"), device=models.device).image


def encoder_identity(models: ModelsConfig) -> str | None:
    """Identity of that encoder (hash of its weight files), without loading it; None where the recipe names none."""
    if models.clip is None:
        return None
    from bottega.models.layout import locate

    return identity_of(locate(models, "clip"))


def identity_of(folder: Path) -> str:
    """One hash over the contents of the weight files that loading `folder` reads, whatever they are called."""
    from bottega.models.layout import weight_files

    return sha256_json(sorted(sha256_file(file) for file in weight_files(folder)))


def _summarise(calibration: Calibration | None) -> CalibrationSummary:
    if calibration is None:
        return {"source": "default", "truths": 0, "grades": {}, "warnings": []}
    return {
        "source": "calibrated",
        "truths": calibration.counts["good"],
        "grades": calibration.grades,
        "warnings": calibration.warnings,
    }


def _calibrate(config: QualityConfig, files: list[Path], data_root: Path, models: ModelsConfig) -> Calibration | None:
    triples = list(_triples(config, files, data_root))
    if len(triples) < MINIMUM:
        LOGGER.info("%d drawn truths under %s: the default limits are used", len(triples), data_root / "truth")
        return None
    scores = _measure_kinds(triples, models)
    others = {kind: scores[kind] for kind in _KINDS if kind not in ("good", "untouched")}
    # A copy that was only encoded again is as untouched as the content itself.
    untouched = scores["untouched"] + scores["reencoded"]
    return calibrate(scores["good"], untouched, bad=others, defaults=config.thresholds, keep_good=config.keep_good)


def _triples(config: QualityConfig, files: list[Path], data_root: Path) -> Iterator[Triple]:
    """(truth, content, style) of the first pairs that have a truth; unreadable pictures are left out."""
    from bottega.data.pictures import load_square

    found = 0
    for paths in truths(files, data_root):
        try:
            truth, content, style = (load_square(path, config.size) for path in paths)
        except PictureError as error:
            LOGGER.warning("left out of the calibration: %s", error)
            continue
        yield truth, content, style
        found += 1
        if found == config.sample:
            return


@dataclass(frozen=True)
class _Chunk:
    """Numbers of triples that are measured together. shows_all: every kind is made of them."""

    numbers: range
    shows_all: bool


@dataclass(frozen=True)
class _Measurer:
    """Scores truths and every known-bad kind made from them, a chunk of triples at a time."""

    triples: Sequence[Triple]
    judge: Judge

    def __call__(self, chunk: _Chunk) -> dict[str, list[Scores]]:
        """By kind the scores of the triples of these numbers, in their order."""
        own = list(chunk.numbers)
        cases: dict[str, list[Picture]] = {}
        for i in own:
            truth, content, _ = self.triples[i]
            for kind, picture in {"good": truth, **damaged(truth, content, i)}.items():
                if chunk.shows_all or kind in _SETTING:
                    cases.setdefault(kind, []).append(picture)
        scores = {kind: self._measure(pictures, own, own) for kind, pictures in cases.items()}
        if not chunk.shows_all:
            return scores
        # A good picture against what it was not made from: the content or the style of the next triple.
        following = [(i + 1) % len(self.triples) for i in own]
        scores["other content"] = self._measure(cases["good"], following, own)
        scores["other style"] = self._measure(cases["good"], own, following)
        return scores

    def _measure(self, pictures: list[Picture], contents: list[int], styles: list[int]) -> list[Scores]:
        """Score pictures against the contents and styles of the triples of these numbers."""
        return self.judge.measure(
            pictures,
            [self.triples[i][1] for i in contents],
            [self.triples[i][2] for i in styles],
            keys=[(f"c{i}", f"s{j}") for i, j in zip(contents, styles, strict=True)],
        )


def _measure_kinds(triples: list[Triple], models: ModelsConfig) -> dict[str, list[Scores]]:
    """Scores of the truths and of what is made from them, by one process or by several.

    The kinds that set no limit are made of the first _EVIDENCE triples alone: they were half of the work.
    """
    chunks: list[_Chunk] = []
    for start in range(0, len(triples), _BATCH):
        chunks.append(_Chunk(range(start, min(start + _BATCH, len(triples))), start < _EVIDENCE))
    shown = sum(len(chunk.numbers) for chunk in chunks if chunk.shows_all)
    pictures = len(_SETTING) * len(triples) + (len(_KINDS) - len(_SETTING)) * shown
    scores: dict[str, list[Scores]] = {kind: [] for kind in _KINDS}
    with ExitStack() as held:
        measured: Iterable[dict[str, list[Scores]]]
        workers = share_work(pictures, _encoder_weights(models), models.device)
        if workers is None:
            measured = map(_measurer(triples, models), chunks)
        else:
            pool = held.enter_context(open_pool(replace(workers, begin=partial(_begin, triples, models))))
            measured = pool.in_order(_measure_in_worker, chunks)
        progress = held.enter_context(Progress(pictures, "calibrating on drawn truths", "pictures"))
        stop = held.enter_context(Interruption())
        for found in measured:
            for kind, rows in found.items():
                scores[kind] += rows
            progress.update(sum(map(len, found.values())))
            stop.check()
    return scores


def _measurer(triples: Sequence[Triple], models: ModelsConfig) -> _Measurer:
    # Room for a chunk's contents and styles and those of the triple after it, which all kinds share.
    return _Measurer(triples, Judge(load_encoder(models), capacity=4 * _BATCH))


_measurers: list[_Measurer] = []  # of a worker process


def _begin(triples: Sequence[Triple], models: ModelsConfig) -> None:
    _measurers[:] = [_measurer(triples, models)]


def _measure_in_worker(chunk: _Chunk) -> dict[str, list[Scores]]:
    return _measurers[0](chunk)


def _encoder_weights(models: ModelsConfig) -> list[Path]:
    if models.clip is None:
        return []
    from bottega.models.layout import locate, weight_files

    return list(weight_files(locate(models, "clip")))
