"""The one vocabulary of findings: what may be found wrong with a run or a picture, how severe it is, and from when on.

`bottega.training.diagnosis` finds them in a run's paired validation, `bottega.doctor` in the loss of any trainer's log,
`bottega.generation.checks` in a picture. All use these names, severities and thresholds, so that one word means the
same in a terminal, a JSON file and a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How severe a finding is; the larger, the worse."""

    UNKNOWN = 0
    """Nothing can be concluded from the numbers at hand."""

    INFO = 1
    """How the run stands, with no fault."""

    WARNING = 2
    """Not a fault yet, but it asks for a decision."""

    ERROR = 3
    """The run does not do what it is for."""

    CRITICAL = 4
    """Each further step damages the weights."""


SEVERITIES: Mapping[str, Severity] = {
    "not finite": Severity.CRITICAL,
    "diverging": Severity.CRITICAL,
    "not learning": Severity.ERROR,
    "style ignored": Severity.ERROR,
    "content copied": Severity.ERROR,
    "task starved": Severity.ERROR,
    "overfitting": Severity.ERROR,
    "oscillating": Severity.ERROR,
    "resumed with a jump": Severity.ERROR,
    "constant": Severity.ERROR,
    "learning rate zero": Severity.ERROR,
    "gradient not finite": Severity.ERROR,
    "steps skipped": Severity.ERROR,
    "no gradient": Severity.ERROR,
    "black": Severity.ERROR,
    "one colour": Severity.ERROR,
    "noise": Severity.ERROR,
    "random weights": Severity.ERROR,
    "one channel": Severity.ERROR,
    "prediction type mislabelled": Severity.WARNING,
    "decoded again": Severity.WARNING,
    "rising": Severity.WARNING,
    "gradient leaps": Severity.WARNING,
    "spiked": Severity.WARNING,
    "waits for data": Severity.WARNING,
    "slowed down": Severity.WARNING,
    "slow steps": Severity.WARNING,
    "memory grows": Severity.WARNING,
    "under-trained": Severity.WARNING,
    "burnt": Severity.WARNING,
    "over-saturated": Severity.WARNING,
    "dull": Severity.WARNING,
    "done": Severity.INFO,
    "falling": Severity.INFO,
    "falling slowly": Severity.INFO,
    "plateaued": Severity.INFO,
    "flat throughout": Severity.INFO,
    "learning": Severity.INFO,
    "not enough to tell": Severity.UNKNOWN,
    "unknown": Severity.UNKNOWN,
}
"""Every finding by its name. docs/is-it-learning.md, docs/doctor-training.md and docs/bad-pictures.md explain each."""

NONE = "none needed"
"""The advice of a finding that asks for nothing."""

LOSS_RISE = 1.1
"""A training loss must surely lie above its lowest stretch by this factor to speak of diverging at all."""

LOSS_BLOWN = 2.0
"""From this factor on, the raw training loss alone is enough to speak of diverging."""

DECAYED_RATE = 0.2
"""Below this share of its peak, the learning rate alone makes a curve flat."""


@dataclass(frozen=True)
class Finding:
    """One diagnostic finding.

    name: a key of `SEVERITIES`. evidence: the numbers that show it, in a sentence. advice: what to try; `NONE` where
    nothing is needed, empty where the advice is given elsewhere.
    """

    name: str
    evidence: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.name not in SEVERITIES:
            raise ValueError(f"a finding is one of {', '.join(SEVERITIES)}; received {self.name!r}")

    @property
    def severity(self) -> Severity:
        """How severe it is."""
        return SEVERITIES[self.name]

    @property
    def needs_action(self) -> bool:
        """Whether it comes with something to try."""
        return self.advice not in ("", NONE)

    def __str__(self) -> str:
        text = f"{self.name}: {self.evidence}"
        return f"{text}; to try: {self.advice}" if self.needs_action else text


def by_severity(findings: Iterable[Finding | None]) -> list[Finding]:
    """The findings that are there, the most severe first; equally severe ones keep their order."""
    present = [finding for finding in findings if finding is not None]
    return sorted(present, key=lambda finding: finding.severity, reverse=True)
