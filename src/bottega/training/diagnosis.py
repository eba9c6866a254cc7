"""Is it learning? What a training run's numbers say, each finding with its evidence and what to try.

Read from the rows of `metrics.jsonl`, as they come (`Watcher`) or afterwards (`diagnose_folder`). The paired validation
speaks first, for there the noise cancels. The raw training loss varies a hundredfold with the timestep: it is used as a
mean of logarithms over many steps, with its interval, to separate diverging from overfitting and to compare tasks;
where it is all there is, the evidence says so. docs/is-it-learning.md explains each finding to a user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl
from bottega.runtime.findings import DECAYED_RATE, LOSS_BLOWN, LOSS_RISE, NONE, Finding, by_severity
from bottega.training.log import METRICS
from bottega.training.trends import Blocks, Estimate, Trend, change

SWAP_FLOOR = 0.25
"""Share of the gain that must vanish with another picture's style, or the style is not what was learned."""

COPY_CEILING = 0.75
"""How far back from the target (0) towards the content (1) a prediction may lie before the content counts as copied."""

FEW_VALIDATIONS = 6
"""Before so many validations a running training is not judged to learn nothing, to ignore the style or to copy the
content: every run begins so."""

GRADIENT_RISE = 2.0
"""The gradient's norm confirms diverging from this factor over its lowest window on: it grows in healthy runs too, as
the gates open."""

WORSE_THAN_BASE = -0.1
"""A gain significantly below this is diverging by itself: an adapter begins equal to the base, so training made it
worse."""

STARVED_RISE = 1.1
"""A task is starved when its loss rises significantly, by this factor over its own beginning, and another's falls."""

STARVED_FALL = 0.95
"""The other task's loss must have fallen significantly below this share of its own beginning."""


_SWAP_AND_COPY = ("val_swap", "val_swap_high", "val_copy", "val_copy_low", "val_copy_high", "val_copy_base")
"""Columns of the log that say whose style and whose content a prediction shows."""


@dataclass(frozen=True)
class PairedValidation:
    """The newest paired validation, as shares of the frozen base's loss on the fixed grid; None where it is unknown.

    Args:
        gain: by how much the adapter's loss is below the base's; `low` and `high` are its 95 % interval.
        swap: the share of the base's loss that comes back with another picture's style, and at most.
        copy: how far back from the target towards the content the prediction lies, its interval, and the base's.
    """

    gain: float
    low: float | None = None
    high: float | None = None
    swap: float | None = None
    swap_high: float | None = None
    copy: float | None = None
    copy_low: float | None = None
    copy_high: float | None = None
    copy_base: float | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, object]) -> PairedValidation | None:
        """From a row of the log; None where it has no validation."""
        gain = _real(row.get("val_gain"))
        if gain is None:
            return None
        others = {name.removeprefix("val_"): _real(row.get(name)) for name in _SWAP_AND_COPY}
        return cls(gain, low=_real(row.get("val_gain_low")), high=_real(row.get("val_gain_high")), **others)

    @property
    def is_significant(self) -> bool:
        """Whether the 95 % interval of the gain is above zero."""
        return self.low is not None and self.low > 0.0

    def is_significantly_below(self, gain: float) -> bool:
        """Whether the 95 % interval is below `gain`."""
        return self.high is not None and self.high < gain

    def __str__(self) -> str:
        side = f"{self.gain:.1%} below" if self.gain >= 0 else f"{-self.gain:.1%} above"
        low = self.gain if self.low is None else self.low
        high = self.gain if self.high is None else self.high
        interval = f"95 % interval {low:.1%} to {high:.1%}"
        text = f"on the fixed grid the loss is {side} the frozen base's ({interval})"
        if self.swap is None:
            return text
        return f"{text}; with another style {self.swap:.1%} of the base's loss comes back"


class Watcher:
    """Keeps of a run what the findings need: at most `trends.BLOCKS` blocks a stream, however long the run.

    It depends on the rows alone, so a resumed run that gives it the earlier rows first has the findings of an
    uninterrupted one.

    Args:
        rows: those of the log so far, in the order of their steps.
    """

    def __init__(self, rows: Iterable[Mapping[str, object]] = ()) -> None:
        self.step = 0
        self.losses: dict[str, Blocks] = {}
        self.gradients = Blocks()
        self.gains = Blocks()
        self.best = (-math.inf, 0)
        self.validation: PairedValidation | None = None
        self.rate = 0.0
        self.peak_rate = 0.0
        self.not_finite: tuple[str, int] | None = None
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, object]) -> None:
        """Take in one row of the log: constant time, bounded memory."""
        step = _real(row.get("step"))
        self.step = self.step if step is None else int(step)
        for name, value in row.items():
            if name == "loss" or name.startswith("loss_"):
                self._add_logarithm(self.losses.setdefault(name, Blocks()), name, value)
            elif name == "grad_norm":
                self._add_logarithm(self.gradients, name, value)
        # A row may lack it, and a schedule may end at 0: the last rate above 0 is kept.
        self.rate = _real(row.get("learning_rate")) or self.rate
        self.peak_rate = max(self.peak_rate, self.rate)
        validation = PairedValidation.of_row(row)
        if validation is not None:
            self.validation = validation
            self.gains.add(self.step, validation.gain)
            if validation.gain > self.best[0]:
                self.best = (validation.gain, self.step)

    def _add_logarithm(self, blocks: Blocks, name: str, value: object) -> None:
        real = _real(value)
        if real is None:
            self.not_finite = self.not_finite or (name, self.step)
        elif real > 0.0:
            blocks.add(self.step, math.log(real))

    def findings(self, *, ended: bool = False) -> list[Finding]:
        """The findings up to now, the most severe first; never empty.

        Args:
            ended: the run is over, so that "still improving" is a fault and no longer good news.
        """
        trend = self._trend()
        diverging = self._diverging(trend)
        found: list[Finding | None] = [diverging]
        if self.validation is None or self.validation.low is None:
            found += [self._task_starved(), self._not_validated()]
        elif self.validation.is_significant:
            found += self._of_a_gain(self.validation, trend, ended, diverges=diverging is not None)
        else:
            found += self._of_no_gain(self.validation, trend, ended, diverges=diverging is not None)
        return by_severity(found)

    def _of_a_gain(
        self, validation: PairedValidation, trend: Trend | None, ended: bool, *, diverges: bool
    ) -> list[Finding | None]:
        """Where the gain is significant: is it the style, and can more be learned?"""
        found: list[Finding | None] = []
        if ended or not self._is_early():
            found += [_style_ignored(validation), _content_copied(validation)]
        found.append(self._task_starved())
        if not diverges:
            found += [*self._outlook(trend, ended), Finding("learning", str(validation), NONE)]
        return found

    def _of_no_gain(
        self, validation: PairedValidation, trend: Trend | None, ended: bool, *, diverges: bool
    ) -> list[Finding | None]:
        """Where the gain is not significant."""
        found: list[Finding | None] = []
        if not diverges:
            found.append(self._no_gain(validation, trend, ended))
        if ended:
            found.append(_content_copied(validation))
        found.append(self._task_starved())
        return found

    def _is_early(self) -> bool:
        return self.gains.count < FEW_VALIDATIONS

    def _not_validated(self) -> Finding:
        evidence = "no validation has been run" if self.validation is None else "the validation states no interval"
        return Finding("unknown", evidence, "train for more steps, or lower student.loop.validate_every")

    def _trend(self) -> Trend | None:
        """Of the gain over the end of the run."""
        # The last quarter tells how it stands now; where it holds too few validations to decide, the last half is
        # asked.
        last_quarter = Trend.of(self.gains, since=self.step * 0.75)
        if last_quarter is not None and last_quarter.direction != "undecided":
            return last_quarter
        return Trend.of(self.gains, since=self.step * 0.5)

    def _by_task(self, measure: Callable[[Blocks], Estimate | None]) -> dict[str, Estimate]:
        """What is measured on each task's loss, where it can be; on the whole loss where there are no tasks."""
        streams = {name.removeprefix("loss_"): blocks for name, blocks in self.losses.items() if name != "loss"}
        if not streams and "loss" in self.losses:
            streams = {"all samples": self.losses["loss"]}
        measured: dict[str, Estimate] = {}
        for task, blocks in streams.items():
            estimate = measure(blocks)
            if estimate is not None:
                measured[task] = estimate
        return measured

    def _diverging(self, trend: Trend | None) -> Finding | None:
        """Every task's loss rises significantly, and the gradient, the validation, or the size of the rise confirms
        it; or the adapter is significantly worse than the base, to which it was equal at the beginning."""
        advice = (
            "go back to a checkpoint before the rise, halve student.loop.learning_rate, or lengthen "
            "student.loop.warmup_steps"
        )
        if self.not_finite is not None:
            name, step = self.not_finite
            return Finding("diverging", f"{name} is not a finite number at step {step}", advice)
        if self.validation is not None and self.validation.is_significantly_below(WORSE_THAN_BASE):
            return Finding("diverging", f"{self.validation}, where it began", advice)

        # Every task must rise: one that rises alone is starved, see `_task_starved`.
        rises = self._by_task(_rise)
        smallest = min((rise.low for rise in rises.values()), default=0.0)
        if smallest <= LOSS_RISE:
            return None
        confirmed = self._confirmations(trend)
        if not confirmed and smallest > LOSS_BLOWN:
            confirmed = ["this rests on the raw training loss alone"]
        if not confirmed:
            return None
        evidence = [f"the training loss of {task} is {_times(rise)} its lowest eighth" for task, rise in rises.items()]
        return Finding("diverging", "; ".join([*evidence, *confirmed]), advice)

    def _confirmations(self, trend: Trend | None) -> list[str]:
        """Evidence of diverging besides the raw training loss."""
        found: list[str] = []
        gradient = _rise(self.gradients)
        if gradient is not None and gradient.low > GRADIENT_RISE:
            found.append(f"the gradient's norm is {_times(gradient)} its lowest")
        if trend is not None and trend.direction == "falling":
            found.append(f"{_text_of_trend(trend)}, the best was {self._best()}")
        if self.validation is not None and self.validation.is_significantly_below(0.0):
            found.append(str(self.validation))
        return found

    def _task_starved(self) -> Finding | None:
        """One task's loss rose significantly over its own beginning while another's fell significantly."""
        rising: dict[str, Estimate] = {}
        falling: dict[str, Estimate] = {}
        for task, factor in self._by_task(_since_beginning).items():
            if factor.low > STARVED_RISE:
                rising[task] = factor
            if factor.high < STARVED_FALL:
                falling[task] = factor
        if not rising or not falling:
            return None
        both = {**rising, **falling}
        evidence = [f"the loss of {task} is {_times(factor)} its own beginning" for task, factor in both.items()]
        if "fill50k" in rising:
            advice = "raise student.fill50k_weight or student.fill50k_fraction, if Fill50K is to be learned at all"
        elif "fill50k" in falling:
            advice = "lower student.fill50k_weight (1 counts it like a target) or student.fill50k_fraction"
        else:
            advice = f"give {', '.join(rising)} a larger share of the global batch or a larger weight"
        return Finding("task starved", "; ".join(evidence), advice)

    def _outlook(self, trend: Trend | None, ended: bool) -> list[Finding]:
        """What the trend adds where the gain is significant."""
        if trend is None or trend.direction == "undecided":
            return [self._unknown_outlook(trend)] if ended else []
        if trend.direction == "falling":
            evidence = (
                f"{_text_of_trend(trend)}, the best was {self._best()}; the training loss has not risen significantly"
            )
            advice = "stop at the best step, or train on more pairs: few are learned by heart"
            return [Finding("overfitting", evidence, advice)]
        if trend.direction == "flat":
            return [Finding("plateaued", _text_of_trend(trend), self._beyond_the_plateau())]
        if not ended:
            return []
        evidence = f"at the end of its log, {_text_of_trend(trend)}"
        return [Finding("under-trained", evidence, "train longer: raise student.loop.steps")]

    def _unknown_outlook(self, trend: Trend | None) -> Finding:
        if trend is None:
            evidence = f"validations: {self.gains.count}, too few to see whether it still improves"
        else:
            evidence = _text_of_trend(trend)
        advice = "set student.loop.validate_every to a twentieth of student.loop.steps, or less"
        return Finding("unknown", evidence, advice)

    def _beyond_the_plateau(self) -> str:
        if 0.0 < self.rate < DECAYED_RATE * self.peak_rate:
            return (
                f"the learning rate had come down to {self.rate / self.peak_rate:.0%} of its peak, which alone makes "
                "the curve flat; only a longer run (student.loop.steps) shows whether more can be had"
            )
        return (
            "more steps alone will hardly help: let the learning rate fall (student.loop.schedule: cosine), give more "
            "pairs, or a larger adapter (student.adapter.tokens, student.adapter.layers)"
        )

    def _no_gain(self, validation: PairedValidation, trend: Trend | None, ended: bool) -> Finding:
        """What it is called when the interval of the gain reaches zero."""
        evidence = str(validation) if trend is None else f"{validation}; {_text_of_trend(trend)}"
        is_rising = trend is not None and trend.direction == "rising"
        is_early = not ended and self._is_early()
        if is_rising and ended:
            return Finding("under-trained", evidence, "train longer: raise student.loop.steps")
        if is_early or is_rising:
            return Finding("unknown", f"{evidence}; not significantly above zero yet", "wait for more validations")
        if validation.is_significantly_below(0.0):
            cure = "lower student.loop.learning_rate"
        else:
            cure = "raise student.loop.learning_rate or student.adapter.initial_gate"
        return Finding("not learning", evidence, f"train longer; if the gain stays at zero or below, {cure}")

    def _best(self) -> str:
        gain, step = self.best
        return f"{gain:.1%} at step {step}"


def diagnose(rows: Iterable[Mapping[str, object]]) -> list[Finding]:
    """The findings of a run that is over."""
    return Watcher(rows).findings(ended=True)


def diagnose_folder(path: Path | str) -> list[Finding]:
    """The findings of a run directory, of the folder that training wrote, or of a `metrics.jsonl`, as of its last row.

    Raises:
        MissingError: there is no such log.
        RequestError: the log is that of another trainer.
        StorageError: a line in it is not an object.
    """
    path = Path(path)
    places = (path, path / METRICS, path / "training" / METRICS)
    log = next((place for place in places if place.is_file()), None)
    if log is None:
        raise MissingError(
            f"a training run has a {METRICS}, in its folder or in its folder training; there is none at {path}; name "
            "the directory of a run, or the --output-dir of bottega train style"
        )
    watcher = Watcher()
    for row in read_jsonl(log):
        if "num_samples" in row:  # nothing in it is paired, so that nothing could be found
            raise RequestError(
                f"what is diagnosed is the training of a StyleAdapter, {path} is one of bottega train ldm; ask bottega "
                f"doctor training {path}"
            )
        watcher.add(row)
    return watcher.findings(ended=True)


def as_text(findings: Sequence[Finding]) -> str:
    """The findings as a terminal shows them: a line of evidence each, and one of advice where there is any."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.name}: {finding.evidence}")
        if finding.advice != NONE:
            lines.append(f"    to try: {finding.advice}")
    return "\n".join(lines)


class VerdictFinding(TypedDict):
    """A `Finding` as JSON."""

    name: str
    evidence: str
    advice: str


class TrainingVerdict(TypedDict):
    """One word for a headline, `yes`, `no` or `unknown`, and all that it rests on.

    evidence: begins with what the word rests on. advice: of what is wrong, or `findings.NONE`. findings: all of them.
    """

    learning: str
    evidence: str
    advice: str
    findings: list[VerdictFinding]


def as_verdict(findings: Sequence[Finding]) -> TrainingVerdict:
    """The findings of a run as one verdict."""
    learning = _learning(findings)
    basis = {"unknown"} if learning == "unknown" else {"learning", "not learning"}
    first: list[Finding] = []
    others: list[Finding] = []
    for finding in findings:
        if finding.name in basis:
            first.append(finding)
        elif finding.name != "unknown":
            others.append(finding)
    evidence = [finding.evidence for finding in first]
    evidence += [f"{finding.name}: {finding.evidence}" for finding in others]
    return {
        "learning": learning,
        "evidence": "; ".join(evidence),
        "advice": "; ".join(_advice([*first, *others])) or NONE,
        "findings": [{"name": f.name, "evidence": f.evidence, "advice": f.advice} for f in findings],
    }


def _learning(findings: Sequence[Finding]) -> str:
    names = {finding.name for finding in findings}
    if "learning" in names:
        return "yes"
    if names & {"diverging", "not learning", "under-trained"}:
        return "no"
    return "unknown"


def _advice(findings: Sequence[Finding]) -> list[str]:
    """What to try, each cure once."""
    advice: list[str] = []
    for finding in findings:
        # That a run which has learned came to a plateau is no fault, so nothing is to be cured.
        if finding.name == "plateaued" or finding.advice == NONE:
            continue
        if finding.advice not in advice:
            advice.append(finding.advice)
    return advice


def _style_ignored(validation: PairedValidation) -> Finding | None:
    """Too little of the gain vanishes with another picture's style."""
    if validation.swap is None:
        return None
    least = SWAP_FLOOR * validation.gain
    most = validation.swap if validation.swap_high is None else validation.swap_high
    if most >= least:
        return None
    bound = "" if validation.swap_high is None else f" (at most {validation.swap_high:.1%})"
    evidence = (
        f"of the gain of {validation.gain:.1%} only {validation.swap:.1%}{bound} is lost when each picture gets "
        f"another one's style; a quarter, {least:.1%}, would be the least"
    )
    advice = (
        "the gain does not come from the style yet: train longer, or raise student.adapter.tokens or "
        "student.adapter.layers"
    )
    return Finding("style ignored", evidence, advice)


def _content_copied(validation: PairedValidation) -> Finding | None:
    """The prediction is significantly nearer to the content than `COPY_CEILING` allows."""
    if validation.copy is None or validation.copy_low is None or validation.copy_low <= COPY_CEILING:
        return None
    high = validation.copy if validation.copy_high is None else validation.copy_high
    base = "" if validation.copy_base is None else f"; the frozen base's at {validation.copy_base:.0%}"
    evidence = (
        f"where inference begins, the prediction is at {validation.copy:.0%} of the way back from the target to the "
        f"content (95 % interval {validation.copy_low:.0%} to {high:.0%}){base}"
    )
    advice = (
        "train longer; then raise student.adapter.strength or student.adapter.layers, and check whether the targets "
        "differ from their contents"
    )
    return Finding("content copied", evidence, advice)


def _real(value: object) -> float | None:
    """A finite number, or None for anything else: the log writes null for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rise(blocks: Blocks) -> Estimate | None:
    """The last eighth of a stream of logarithms over the lowest one before it, as a factor."""
    windows = blocks.windows()
    if not windows:
        return None
    lowest = min(windows[:-1], key=lambda window: window.mean)
    return change(lowest, windows[-1]).exp()


def _since_beginning(blocks: Blocks) -> Estimate | None:
    """The last quarter of a stream of logarithms over its first eighth, as a factor."""
    windows = blocks.windows()
    if not windows:
        return None
    return change(windows[0], windows[-2].merged(windows[-1])).exp()


def _text_of_trend(trend: Trend) -> str:
    doing = {"rising": "still rises", "falling": "falls", "flat": "is flat", "undecided": "may rise or fall"}
    low = 100 * trend.change.low
    high = 100 * trend.change.high
    return (
        f"from step {trend.first} to {trend.last} the gain {doing[trend.direction]}: {100 * trend.change.value:+.2f} "
        f"points (95 % interval {low:+.2f} to {high:+.2f}, {trend.points} validations)"
    )


def _times(factor: Estimate) -> str:
    return f"{factor.value:.2f} times (99 % interval {factor.low:.2f} to {factor.high:.2f})"
