"""What every doctor answers: its findings, the worst first, each with its cure, and what could not be judged.

answer = Answer.of("/data/hub", findings, not_judged)
print(answer.as_text())         or `answer.record()` for JSON
sys.exit(answer.exit_code)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

from bottega.runtime.findings import Severity

FactValue = str | int | float | bool | None | Sequence[str]
"""A fact as JSON can hold it."""


class FindingRecord(TypedDict):
    """A finding in JSON."""

    name: str
    severity: str
    evidence: str
    cure: str
    command: str | None
    part: NotRequired[str]


class NotJudgedRecord(TypedDict):
    """In JSON: what could not be judged."""

    what: str
    why: str


class AnswerRecord(TypedDict):
    """An answer in JSON."""

    subject: str
    verdict: str
    exit_code: int
    findings: list[FindingRecord]
    not_judged: list[NotJudgedRecord]
    facts: dict[str, FactValue]


@dataclass(frozen=True)
class DoctorFinding:
    """One thing that a doctor found.

    name: two or three words, the same for the same fault, such as `dangling link`. severity: from `ERROR` on it is a
    fault. evidence: what was seen, where, in numbers, in a sentence. cure: what to do, in words; "" where nothing is
    needed. command: the shell line that does it, exactly as it is to be typed. part: which doctor found it, where
    several were asked.
    """

    name: str
    severity: Severity
    evidence: str
    cure: str = ""
    command: str | None = None
    part: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether what was examined is broken, rather than worth a look."""
        return self.severity >= Severity.ERROR

    def record(self) -> FindingRecord:
        """For JSON."""
        plain: FindingRecord = {
            "name": self.name,
            "severity": self.severity.name.lower(),
            "evidence": self.evidence,
            "cure": self.cure,
            "command": self.command,
        }
        if self.part:
            plain["part"] = self.part
        return plain


@dataclass(frozen=True)
class NotJudged:
    """What could not be judged, and why."""

    what: str
    why: str

    def record(self) -> NotJudgedRecord:
        """For JSON."""
        return {"what": self.what, "why": self.why}


@dataclass(frozen=True)
class Answer:
    """What a doctor says of one subject: a file, a folder, a machine.

    findings: the most severe first. facts: what was read of the subject, by name, for whoever wants to know more.
    """

    subject: str
    findings: tuple[DoctorFinding, ...]
    not_judged: tuple[NotJudged, ...] = ()
    facts: Mapping[str, FactValue] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        subject: str,
        findings: Iterable[DoctorFinding],
        not_judged: Iterable[NotJudged] = (),
        facts: Mapping[str, FactValue] | None = None,
    ) -> Answer:
        """An answer with its findings in order; equally severe ones keep theirs."""
        ordered = sorted(findings, key=lambda finding: finding.severity, reverse=True)
        return cls(subject, tuple(ordered), tuple(dict.fromkeys(not_judged)), dict(facts or {}))

    @property
    def exit_code(self) -> int:
        """1 where there is a fault, else 0. (A wrong request never comes so far: it raises, and gives 2.)"""
        return 1 if any(finding.is_fault for finding in self.findings) else 0

    @property
    def verdict(self) -> str:
        """`2 faults and 1 warning; first: dangling link`, or `no fault found`."""
        faults = sum(finding.is_fault for finding in self.findings)
        warnings = sum(finding.severity == Severity.WARNING for finding in self.findings)
        counted = [_counted(count, word) for count, word in ((faults, "fault"), (warnings, "warning")) if count]
        if not counted:
            return "no fault found"
        return f"{' and '.join(counted)}; first: {self.findings[0].name}"

    def record(self) -> AnswerRecord:
        """For JSON."""
        return {
            "subject": self.subject,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "findings": [finding.record() for finding in self.findings],
            "not_judged": [item.record() for item in self.not_judged],
            "facts": dict(self.facts),
        }

    def as_json(self) -> str:
        """The record as indented JSON."""
        return json.dumps(self.record(), ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """For a terminal: the verdict, the findings with their cures, the facts, and what could not be judged."""
        lines = [self.subject, f"verdict: {self.verdict}"]
        for number, finding in enumerate(self.findings, start=1):
            lines += ["", *_finding_lines(number, finding)]
        if self.facts:
            width = max(map(len, self.facts))
            lines += ["", "facts:"]
            lines += [f"  {name:<{width}}  {_shown(value)}" for name, value in self.facts.items()]
        if self.not_judged:
            lines += ["", "not judged:"]
            lines += [f"  {item.what}: {item.why}" for item in self.not_judged]
        return "\n".join(lines)


@dataclass
class Draft:
    """An answer while its subject is examined: what was found so far."""

    findings: list[DoctorFinding] = field(default_factory=list)
    not_judged: list[NotJudged] = field(default_factory=list)
    facts: dict[str, FactValue] = field(default_factory=dict)

    def add(self, name: str, severity: Severity, evidence: str, cure: str = "", command: str | None = None) -> None:
        """Record a finding, as `DoctorFinding` describes it."""
        self.findings.append(DoctorFinding(name, severity, evidence, cure, command))

    def leave_out(self, what: str, why: str) -> None:
        """Record what could not be judged."""
        self.not_judged.append(NotJudged(what, why))

    def answer(self, subject: str) -> Answer:
        """The finished answer."""
        return Answer.of(subject, self.findings, self.not_judged, self.facts)


def _finding_lines(number: int, finding: DoctorFinding) -> list[str]:
    """A finding; its command stands on a line of its own, so that it can be copied whole."""
    part = f"{finding.part}: " if finding.part else ""
    lines = [f"  {number}. {part}{finding.name} ({finding.severity.name.lower()}): {finding.evidence}"]
    if finding.cure:
        lines.append(f"     to mend it: {finding.cure}")
    if finding.command:
        lines.append(f"       {finding.command}")
    return lines


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _shown(value: FactValue) -> str:
    """A fact in words."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | int):
        return str(value)
    return ", ".join(value) or "none"
