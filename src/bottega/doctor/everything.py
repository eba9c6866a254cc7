"""`bottega doctor` without a verb: everything that can be found from the current folder, in one answer.

The worst comes first, wherever it was found; of equally severe findings those of the machine, since nothing else can be
right while that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bottega.doctor import cache, environment, run_directory
from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.doctor.environment import RecipeNeed, read_machine
from bottega.doctor.run_directory import RunRequest
from bottega.doctor.verdict import Verdict
from bottega.doctor.verdict import examine as examine_log
from bottega.models.cache import CacheRequest
from bottega.models.names import hub_cache
from bottega.runtime.errors import BottegaError
from bottega.runtime.findings import Severity
from bottega.training.log import METRICS

RUNS = Path("runs")

_MARKS = ("summary.json", "recipe.yaml", METRICS, "provenance.json", f"training/{METRICS}", "teacher/ledger.sqlite")
"""Files of a run whose time says when it was last worked on."""


def examine_everything(needs: Sequence[RecipeNeed], run: RunRequest | None, runs: Path) -> Answer:
    """The machine, the cache, the newest run, and its training log.

    Args:
        needs: what the recipes here lack.
        run: the newest run; None where there is none.
        runs: the folder of run directories.
    """
    place = hub_cache()
    parts = {
        "env": environment.examine(read_machine(place, runs), needs),
        "cache": cache.examine(CacheRequest(place)),
    }
    not_judged = []
    if run is None:
        not_judged.append(NotJudged("runs", f"no run directory is under {runs}/"))
    else:
        try:
            parts["run"] = run_directory.examine(run)
        except BottegaError as error:
            not_judged.append(NotJudged(f"the run {run.directory}", str(error)))
        training = _training_of(run.directory, not_judged)
        if training is not None:
            parts["training"] = training
    return _joined(parts, not_judged)


def newest_run(here: Path) -> Path | None:
    """The run that was worked on last: the current folder itself where it is one, else one under runs/."""
    if (here / "recipe.yaml").is_file() and (here / "provenance.json").is_file():
        return here
    folder = here / RUNS
    if not folder.is_dir():
        return None
    times = {}
    for path in sorted(folder.iterdir()):
        marks = [path / mark for mark in _MARKS if (path / mark).is_file()]
        if marks:
            times[path] = max(mark.stat().st_mtime for mark in marks)
    return max(times, key=lambda path: times[path]) if times else None


def _training_of(directory: Path, not_judged: list[NotJudged]) -> Answer | None:
    """The verdict of `bottega doctor training`, as an answer; None where nothing was trained."""
    for log in (directory / "training" / METRICS, directory / METRICS):
        if log.is_file():
            try:
                return as_answer(examine_log(log))
            except BottegaError as error:
                not_judged.append(NotJudged(f"the training log {log}", str(error)))
    return None


def as_answer(verdict: Verdict) -> Answer:
    """A verdict on a training as an answer: its first action is the cure of its worst finding."""
    findings = []
    for number, finding in enumerate(verdict.findings):
        cure, command = finding.advice if finding.needs_action else "", None
        if number == 0 and verdict.actions:
            cure, command = verdict.actions[0].do, verdict.actions[0].command
        findings.append(DoctorFinding(finding.name, finding.severity, finding.evidence, cure, command))
    not_judged = [NotJudged("how sure the verdict is", note) for note in verdict.notes]
    not_judged += verdict.not_judged
    return Answer.of(
        f"the training {verdict.log}", findings, not_judged, {"loss": verdict.loss, "level": verdict.level}
    )


def _joined(parts: Mapping[str, Answer], not_judged: Iterable[NotJudged]) -> Answer:
    """One answer of several: findings and what was not judged say which doctor they are of."""
    findings: list[DoctorFinding] = []
    left_out = list(not_judged)
    facts: dict[str, FactValue] = {}
    for part, answer in parts.items():
        findings += [replace(finding, part=part) for finding in answer.findings]
        left_out += [NotJudged(f"{part}: {item.what}", item.why) for item in answer.not_judged]
        facts[part] = f"{answer.subject}: {answer.verdict}"
    notable = [finding for finding in findings if finding.severity > Severity.UNKNOWN]
    return Answer.of("everything that can be found from here", notable, left_out, facts)
