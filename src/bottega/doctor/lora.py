"""`bottega doctor lora`: what a LoRA file is, whether it can be used, and whether it fits a model.

The file is read, no model is loaded: of a model only headers are looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.findings import Severity

if TYPE_CHECKING:
    from bottega.generation.lora.inspection import LoRAReport

_NOTHING_ELSE = NotJudged("everything else", "the file cannot be read")


def examine_lora(
    file: Path, model: str | None = None, *, configs: str | None = None, model_cache: str | None = None
) -> Answer:
    """What is wrong with a LoRA file, and what it is.

    Args:
        file: the file; its content decides what it is, never its name.
        model: name or folder of the model that it is to be used with; None: nothing is said about fitting.
        configs: folder with the configuration of a model that is a single file.
        model_cache: the Hub's cache, if not the one that the environment names.

    Raises:
        RequestError: there is no such file, or the model's name means nothing here.
    """
    from bottega.generation.lora.inspection import inspect_lora
    from bottega.generation.lora.named import architecture_of

    architecture = None
    if model is not None:
        architecture = architecture_of(model, configs=configs, cache=model_cache)
    try:
        report = inspect_lora(file, architecture)
    except MissingError:
        raise
    except StorageError as error:
        return Answer.of(str(file), [_of_error("damaged file", error)], [_NOTHING_ELSE])
    except RequestError as error:  # a pickle, a web page, a scale that is no number
        return Answer.of(str(file), [_of_error("not a LoRA file to use", error)], [_NOTHING_ELSE])
    return Answer.of(str(file), _findings(report, model), _not_judged(file, report, model), _facts(report))


def _of_error(name: str, error: Exception) -> DoctorFinding:
    evidence, _, cure = str(error).rpartition("; ")
    return DoctorFinding(name, Severity.ERROR, evidence or str(error), cure if evidence else "")


def _findings(report: LoRAReport, model: str | None) -> list[DoctorFinding]:
    found = []
    if report.problem is not None:
        evidence, _, cure = report.problem.rpartition("; ")
        name, severity = _kind_of_problem(report)
        found.append(DoctorFinding(name, severity, evidence, cure))
    elif report.unmatched_keys:
        where = "to no LoRA" if model is None else f"nowhere in {model}"
        evidence = f"{report.unmatched_keys} of {report.keys} keys belong {where}: {', '.join(report.unmatched[:3])}"
        cure = "nothing: they are left aside, and the rest is used"
        found.append(DoctorFinding("keys without a place", Severity.WARNING, evidence, cure))
    for note in report.notes:
        found.append(DoctorFinding("source of the scale", Severity.INFO, note))
    return found


def _kind_of_problem(report: LoRAReport) -> tuple[str, Severity]:
    """The name of the fault that `report.problem` tells."""
    from bottega.generation.lora.inspection import MIN_SHARE

    if report.not_finite:
        return "not finite", Severity.CRITICAL
    if report.keys == 0 or not report.components:
        return "no LoRA", Severity.ERROR
    if report.share is not None and report.share < MIN_SHARE:
        return "does not fit the model", Severity.ERROR
    return "cannot be used", Severity.ERROR


def _not_judged(file: Path, report: LoRAReport, model: str | None) -> list[NotJudged]:
    items = []
    if model is None:
        items.append(NotJudged("whether it fits a model", "none was named: --model"))
    if not report.metadata.trigger_words:
        items.append(NotJudged("which words call it", "its header names none"))
    if report.problem is None:
        named = model or "MODEL"
        why = f"that takes drawing: bottega lora test {shlex.quote(str(file))} --model {named}"
    else:
        why = "a file that cannot be used draws nothing"
    items.append(NotJudged("what its pictures look like", why))
    return items


def _facts(report: LoRAReport) -> dict[str, FactValue]:
    metadata = report.metadata
    facts: dict[str, FactValue] = {
        "made for": report.family,
        "layout": report.layout,
        "algorithms": counts_text(report.algorithms),
        "ranks": counts_text(report.ranks),
        "alphas": counts_text(report.alphas) or "none given: full scale",
        "numbers": counts_text(report.dtypes),
        "modules": [f"{name} {part.modules}" for name, part in report.components.items()],
        "matching keys": None if report.matched_keys is None else f"{report.matched_keys} of {report.keys}",
        "share that matches": report.share,
        "tensors not finite": list(report.not_finite),
        "trigger words": list(metadata.trigger_words),
        "name": metadata.name or None,
        "trained on, as it says": metadata.base_model or None,
        "size": f"{report.size / 1e6:.1f} MB",
        "sha256": report.sha256,
    }
    return facts


def counts_text(counts: Mapping[str, int] | Mapping[int, int] | Mapping[float, int]) -> str:
    """`4` where all are alike, else `4 (12 ×), 8 (3 ×)`."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} ({count} ×)" for value, count in counts.items())
