"""A finished run judged again: limits from its own distribution, other grades, its pictures for another score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from bottega.data.roots import picture_file
from bottega.quality.config import Thresholds
from bottega.quality.eye.look import EYE_SCORES, eye_identity
from bottega.quality.from_run import as_json, changed, collect, draw, histograms, limits_of
from bottega.quality.grading import alarms, pass_rates
from bottega.quality.scorer import Job
from bottega.runtime.config import parse
from bottega.runtime.errors import MissingError
from bottega.runtime.files import sha256_json, write_json
from bottega.runtime.paths import inside
from bottega.runtime.trust import renew
from bottega.teacher.export import write_lists
from bottega.teacher.ledger import LEDGER, Ledger
from bottega.teacher.regrade import Regraded, regrade
from bottega.teacher.summary import SUMMARY, count_again


class Recalibrated(TypedDict):
    """New limits from a run: what they rest on, what they change, and what a person should know.

    `histograms` is text; `changed` has the old and the new value of each limit; `warnings` name checks that let
    everything or nothing through.
    """

    histograms: str
    changed: dict[str, tuple[float, float]]
    samples: int
    normal_samples: int
    regraded: Regraded
    warnings: list[str]


def calibrate(
    directory: Path, output_dir: Path, *, limits: Thresholds | None = None, also: Sequence[str] = ()
) -> Recalibrated:
    """Set limits from the scores in a run's ledger; the ledger is read as a stream and not changed.

    Writes `thresholds.json`, `calibration.json` and `histograms.png` to `output_dir`.

    Args:
        directory: the teacher's folder, with `ledger.sqlite`.
        output_dir: where the three files go.
        limits: what the new limits start from, and by which hard faults are recognised; None: the run's own.
        also: further limits to set by their tails.

    Raises:
        MissingError: there is no ledger.
        RequestError: too few normal samples, or an unknown name in `also`.
    """
    with Ledger(directory / LEDGER, read_only=True) as ledger:
        old = limits or limits_of_run(ledger)
        found = collect(ledger.first_scores(), old, also)
        new = limits_of(found, old, also)
        regraded = regrade(ledger, new)
        warnings = alarms(pass_rates(ledger.first_scores(), new), found.samples)
    table = {**as_json(found, old, new), "regraded": regraded, "warnings": warnings}
    draw(found, old, new, output_dir / "histograms.png")
    write_json(output_dir / "calibration.json", table)
    write_json(output_dir / "thresholds.json", new.model_dump(mode="json"))
    renew(output_dir / "calibration.json", output_dir / "thresholds.json")
    return {
        "histograms": histograms(found, old, new),
        "changed": changed(old, new),
        "samples": found.samples,
        "normal_samples": found.normal_samples,
        "regraded": regraded,
        "warnings": warnings,
    }


def grade_again(directory: Path, limits: Thresholds, *, write: bool) -> Regraded:
    """Grade a run by other limits, from its raw scores; with `write` its ledger and lists have the new grades.

    Raises:
        MissingError: there is no ledger.
    """
    with Ledger(directory / LEDGER, must_exist=True, read_only=not write) as ledger:
        counts = regrade(ledger, limits, write=write)
        if write:
            write_lists(ledger, directory)
            count_again(ledger, limits, directory)
            renew(*(directory / name for name in ("metadata.jsonl", "qc_overrides.jsonl", SUMMARY)))
    return counts


def limits_of_run(ledger: Ledger) -> Thresholds:
    """The limits that a run was graded by; those that are newer than the run have their defaults."""
    kept = ledger.fingerprint_parts().get("thresholds", {})
    known = {name: value for name, value in kept.items() if name in Thresholds.model_fields}
    return parse(Thresholds, known, str(ledger.path), "thresholds")


def enter_scores(directory: Path, rows: Iterable[Mapping[str, Any]], *, at_once: int = 1000) -> int:
    """Add the scores of `qc score` rows to a run's ledger where it has none of that name; returns the rows changed.

    Those of another eye are replaced. Grades stay as they are until `grade_again`.
    """
    changed = 0
    rows = iter(rows)
    with Ledger(directory / LEDGER, must_exist=True) as ledger:
        parts = ledger.fingerprint_parts()
        scores = parts.get("scores", {})
        is_other_eye = scores.get("eye") not in (None, eye_identity())
        replaced = EYE_SCORES if is_other_eye else ()
        while page := list(islice(rows, at_once)):
            changed += ledger.add_scores({row["file_name"]: row["scores"] for row in page}, replaced)
        if is_other_eye:
            parts["scores"] = {**scores, "eye": eye_identity()}
            ledger.regrade(
                (), {"fingerprint_parts": json.dumps(parts, sort_keys=True), "fingerprint": sha256_json(parts)}
            )
    return changed


def jobs_of_run(directory: Path, data_root: Path) -> list[Job]:
    """Every picture that a run has kept, all tries of it, with its content and style.

    Raises:
        MissingError: there is no ledger, or it names no picture.
    """
    with Ledger(directory / LEDGER, read_only=True) as ledger:
        jobs: list[Job] = []
        for name, content, style in ledger.pictures():
            picture = inside(directory, name, f"{ledger.path}: output_path")
            sources = [picture_file(data_root, path, f"{ledger.path}: a path") for path in (content, style)]
            jobs.append(Job(name, str(picture), *map(str, sources)))
    if not jobs:
        raise MissingError(f"the ledger in {directory} names no picture; make targets first: bottega teach")
    return jobs


def accepted_of_run(directory: Path, data_root: Path) -> list[tuple[Path, Path, Path]]:
    """Target, content and style of a run's best tries that are not C.

    Raises:
        MissingError: there is no ledger.
    """
    with Ledger(directory / LEDGER, read_only=True) as ledger:
        accepted: list[tuple[Path, Path, Path]] = []
        for row in ledger.best():
            if row.output_path is not None and row.grade != "C":
                target = ledger.picture_file(row.target, row.output_path)
                where = f"{ledger.path}, target {row.target}: a path"
                content = picture_file(data_root, row.content_path, where)
                accepted.append((target, content, picture_file(data_root, row.style_path, where)))
        return accepted
