"""The numbers of a run, from its ledger: how many targets there are, what the retries bought, what a picture costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from bottega.quality.config import Thresholds
from bottega.quality.grading import alarms, pass_rates
from bottega.runtime.files import read_json, write_json
from bottega.teacher.config import Departure, TeacherConfig
from bottega.teacher.ledger import LEDGER, Ledger, TryRow
from bottega.teacher.protocol import EffectiveSchedule, schedule
from bottega.teacher.watch import findings_of_run


class Counts(TypedDict):
    """Survival of a run: tries made → passed → targets graded.

    `pass_rates` are of first tries; `grades_by_rung` and `style_gain_by_rung` show what the retries bought. Values
    that need an accepted target, or a try, are None where there is none.
    """

    targets: int
    tries: int
    made: int
    passed: int
    accepted: int
    grades: dict[str, int]
    broken: int
    failed: int
    tries_per_accepted: float | None
    seconds_per_picture: float | None
    seconds_per_accepted: float | None
    pass_rates: dict[str, float]
    grades_by_rung: dict[str, dict[str, int]]
    style_gain_by_rung: dict[str, float]
    warnings: list[str]


class PainterFacts(TypedDict):
    """Who made a teacher's pictures, and by which protocol.

    source: "sdxl" or "oracle". painter: the same in words. The oracle returns drawn truths: `protocol` and `schedule`
    are then None, for none was run, and `departures` names the source.
    """

    source: str
    painter: str
    protocol: str | None
    departures: dict[str, Departure]
    schedule: EffectiveSchedule | None


class TeacherSummary(Counts, PainterFacts):
    """`summary.json` of the stage: the counts, who made the targets, and by which protocol."""


def painter_facts(config: TeacherConfig) -> PainterFacts:
    """What is recorded of who paints with this configuration."""
    is_oracle = config.source == "oracle"
    return {
        "source": config.source,
        "painter": config.painter,
        "protocol": None if is_oracle else config.name,
        "departures": config.departures(),
        "schedule": None if is_oracle else schedule(config.steps, config.strength, config.sampler),
    }


def describe_painter(facts: PainterFacts) -> str:
    """Who painted and how, in a sentence without a full stop."""
    steps = facts["schedule"]
    if steps is None:
        return facts["painter"]
    text = (
        f"{facts['painter']}, protocol {facts['protocol']}, {steps['unet_calls']} U-Net calls from t = "
        f"{steps['first_timestep']}"
    )
    changed = [f"{name} {value['here']} instead of {value['protocol']}" for name, value in facts["departures"].items()]
    return f"{text}; departures: {', '.join(changed)}" if changed else text


SUMMARY = "summary.json"


def write_summary(summary: TeacherSummary, directory: Path) -> None:
    """Write `summary.json` into the run's folder."""
    write_json(directory / SUMMARY, summary)


def count_again(ledger: Ledger, thresholds: Thresholds, directory: Path) -> None:
    """Write the counts of a ledger that was graded again into the run's `summary.json`, if it has one."""
    path = directory / SUMMARY
    if path.is_file():
        write_json(path, {**read_json(path), **count_tries(ledger, thresholds)})


def summarise(ledger: Ledger, thresholds: Thresholds, config: TeacherConfig) -> TeacherSummary:
    """The run's numbers over all that its ledger holds."""
    return {**count_tries(ledger, thresholds), **painter_facts(config)}


@dataclass
class _Tally:
    """What is counted over the current tries of a ledger."""

    status: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    passed: int = 0
    seconds: float = 0.0
    grades: dict[str, Counter[str]] = field(default_factory=dict)
    gains: dict[str, list[float]] = field(default_factory=dict)
    """By rung: the number of tries that have a style gain, and its sum."""

    def add(self, row: TryRow) -> None:
        self.status[row.status] += 1
        if row.status == "broken":
            return
        self.tries += 1
        self.passed += row.grade != "C"
        self.seconds += row.seconds
        self.grades.setdefault(row.rung, Counter())[row.grade] += 1
        if "style_gain" in row.scores:
            gain = self.gains.setdefault(row.rung, [0, 0.0])
            gain[0] += 1
            gain[1] += row.scores["style_gain"]


def count_tries(ledger: Ledger, thresholds: Thresholds) -> Counts:
    """Count the current tries, and grade the checks by the first tries of all targets."""
    tally = _Tally()
    for row in ledger.current():
        tally.add(row)
    grades = Counter(row.grade for row in ledger.best() if row.status != "broken")
    graded = sum(grades.values())
    accepted = grades["A"] + grades["B"]
    by_rung: dict[str, dict[str, int]] = {}
    for rung, counts in sorted(tally.grades.items()):
        by_rung[rung] = dict(sorted(counts.items()))
    gains: dict[str, float] = {}
    for rung, (count, total) in sorted(tally.gains.items()):
        gains[rung] = round(total / count, 4)
    rates = pass_rates(ledger.first_scores(), thresholds)
    shared = [finding.text for finding in findings_of_run(ledger)]
    return {
        "targets": graded + tally.status["broken"],
        "tries": tally.tries,
        "made": tally.status["ok"],
        "passed": tally.passed,
        "accepted": accepted,
        "grades": {letter: grades[letter] for letter in "ABC"},
        "broken": tally.status["broken"],
        "failed": tally.status["failed"],
        "tries_per_accepted": _ratio(tally.tries, accepted, 3),
        "seconds_per_picture": _ratio(tally.seconds, tally.tries, 4),
        "seconds_per_accepted": _ratio(tally.seconds, accepted, 4),
        "pass_rates": {name: round(rate, 4) for name, rate in rates.items()},
        "grades_by_rung": by_rung,
        "style_gain_by_rung": gains,
        "warnings": shared + alarms(rates, graded),
    }


def _ratio(amount: float, number: int, digits: int) -> float | None:
    return round(amount / number, digits) if number else None


class Speed(TypedDict):
    """Targets that a run has made, and the seconds that each took with its retries."""

    targets: int
    seconds_each: float


def progress_of(directory: Path) -> Speed:
    """How far the run in a folder is; zero where there is none."""
    if not (directory / LEDGER).is_file():
        return {"targets": 0, "seconds_each": 0.0}
    with Ledger(directory / LEDGER, read_only=True) as ledger:
        targets, seconds = ledger.count(), ledger.seconds()
    return {"targets": targets, "seconds_each": seconds / targets if targets else 0.0}
