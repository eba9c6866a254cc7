"""`bottega doctor cache` and `bottega models verify`: what is wrong in the model cache, as an answer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.models.cache import CacheReport, CacheRequest, check_cache
from bottega.models.cached_repository import CacheFinding
from bottega.models.layout import ModelStatus
from bottega.models.names import fetch_command, hub_entry, hub_name, on_disk
from bottega.runtime.findings import Severity


def examine(request: CacheRequest) -> Answer:
    """What is wrong in the cache, each with the command that mends it. Changes nothing and asks no network."""
    report = check_cache(request)
    return _answer(f"the model cache {request.cache}", report, [])


def examine_models(
    request: CacheRequest, recipe: str, found: Sequence[ModelStatus], recorded: Sequence[str] = ()
) -> Answer:
    """The same, with what a recipe's models lack.

    Args:
        request: the cache, with the recipe's models as `wanted`.
        recipe: what to call the recipe.
        found: its models, as they lie on this machine.
        recorded: files that are not those that a run was made with.
    """
    report = check_cache(request)
    damaged = {_entry(request.cache, finding) for finding in report.findings if finding.severity >= Severity.ERROR}
    findings = []
    for status in found:
        hub = None if on_disk(status.name) else hub_name(status.name)
        # The cache's own finding says more: what is damaged, and the command.
        if hub is not None and (hub_entry(request.cache, hub) in damaged or request.cache in damaged):
            continue
        command = fetch_command(status.name, request.option) if hub is not None else None
        for fault in status.faults:
            findings.append(
                DoctorFinding("faulty model", Severity.ERROR, f"models.{status.role}: {fault}", "", command)
            )
    findings += [DoctorFinding("other content", Severity.ERROR, fault) for fault in recorded]
    count = "1 model" if len(found) == 1 else f"{len(found)} models"
    return _answer(f"{count} of {recipe}, in the model cache {request.cache}", report, findings)


def _answer(subject: str, report: CacheReport, more: Sequence[DoctorFinding]) -> Answer:
    findings = [_finding(finding) for finding in report.findings]
    not_judged = [NotJudged(item.what, item.why) for item in report.unjudged]
    facts: dict[str, FactValue] = {
        "cache": str(report.cache),
        "models": list(report.repositories),
        "size": f"{report.size / 1e9:.2f} GB",
    }
    if report.cache.is_dir():
        facts["free"] = f"{shutil.disk_usage(report.cache).free / 1e9:.2f} GB"
    if report.hashed:
        facts["files hashed"] = report.hashed
    return Answer.of(subject, [*more, *findings], not_judged, facts)


def _finding(found: CacheFinding) -> DoctorFinding:
    return DoctorFinding(found.name, found.severity, found.evidence, found.cure, found.command)


def _entry(cache: Path, finding: CacheFinding) -> Path:
    """The repository's folder that a finding is about; the cache where it is about all of it."""
    if not finding.place.is_relative_to(cache) or finding.place == cache:
        return cache
    return cache / finding.place.relative_to(cache).parts[0]
