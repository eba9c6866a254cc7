"""`bottega doctor cache` and `bottega models verify`: what is wrong in the model cache, as an answer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from pathlib import Path

from bottega.doctor.answer import Answer, DoctorFinding, Draft
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
    damaged = _damaged_entries(request.cache, report)
    findings = []
    for status in found:
        findings += _faults_of_model(request, damaged, status)
    for fault in recorded:
        findings.append(DoctorFinding("other content", Severity.ERROR, fault))
    count = "1 model" if len(found) == 1 else f"{len(found)} models"
    return _answer(f"{count} of {recipe}, in the model cache {request.cache}", report, findings)


def _faults_of_model(request: CacheRequest, damaged: Set[Path], status: ModelStatus) -> list[DoctorFinding]:
    """What a recipe's model lacks; nothing for one in `damaged`, of which the cache's own finding says more.

    Args:
        request: the cache.
        damaged: folders in it, or the cache itself.
        status: the model, as it lies on this machine.
    """
    command = None
    hub = None if on_disk(status.name) else hub_name(status.name)
    if hub is not None:
        if request.cache in damaged or hub_entry(request.cache, hub) in damaged:
            return []
        command = fetch_command(status.name, request.option)
    faults = []
    for fault in status.faults:
        faults.append(DoctorFinding("faulty model", Severity.ERROR, f"models.{status.role}: {fault}", "", command))
    for caution in status.cautions:
        faults.append(DoctorFinding("other than sampled", Severity.WARNING, f"models.{status.role}: {caution}"))
    return faults


def _damaged_entries(cache: Path, report: CacheReport) -> set[Path]:
    """Folders of repositories with a fault; with the cache itself, where it is about all of it."""
    return {_entry(cache, finding) for finding in report.findings if finding.severity >= Severity.ERROR}


def _answer(subject: str, report: CacheReport, more: Sequence[DoctorFinding]) -> Answer:
    draft = Draft(list(more))
    for found in report.findings:
        draft.add(found.name, found.severity, found.evidence, found.cure, found.command)
    for item in report.unjudged:
        draft.leave_out(item.what, item.why)
    draft.facts |= {
        "cache": str(report.cache),
        "models": list(report.repositories),
        "size": f"{report.size / 1e9:.2f} GB",
    }
    if report.cache.is_dir():
        draft.facts["free"] = f"{shutil.disk_usage(report.cache).free / 1e9:.2f} GB"
    if report.hashed:
        draft.facts["files hashed"] = report.hashed
    return draft.answer(subject)


def _entry(cache: Path, finding: CacheFinding) -> Path:
    """The repository's folder that a finding is about; the cache where it is about all of it."""
    if not finding.place.is_relative_to(cache) or finding.place == cache:
        return cache
    return cache / finding.place.relative_to(cache).parts[0]
