"""Is it learning? What a training run's numbers say, in words, each with its evidence and what to try.

Read from the rows of `metrics.jsonl`, as they come (`Watcher`) or afterwards (`diagnose_folder`). The paired validation
speaks first, for there the noise cancels. The raw training loss varies a hundredfold with the timestep: it is used as a
mean of logarithms over many steps, with its interval, to tell diverging from overfitting and to compare tasks; where it
is all there is, the evidence says so. docs/is-it-learning.md explains each finding to a user.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

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
"""Before so many validations a run under way is not said to learn nothing, to ignore the style or to copy the content:
every run begins so."""

GRADIENT_RISE = 2.0
"""The gradient's norm bears diverging out from this factor over its lowest stretch on: it grows in healthy runs too,
as the gates open."""

WORSE_THAN_BASE = -0.1
"""A gain that surely lies below this is diverging by itself: an adapter begins as the base, so training drove it away.
"""

STARVED_RISE = 1.1
"""A task is starved when its loss has surely risen by this factor over its own beginning, while another's fell."""

STARVED_FALL = 0.95
"""The other task's loss must surely have fallen below this share of its own beginning."""


class Watcher:
    """Keeps of a run what the findings need: at most `trends.BLOCKS` blocks a stream, however long the run.

    It depends on the rows alone, so a resumed run that shows it the earlier rows first hears what an uninterrupted one
    would. rows: those of the log so far, in the order of their steps.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.step = 0
        self.losses: dict[str, Blocks] = {}
        self.gradients = Blocks()
        self.gains = Blocks()
        self.best = (-math.inf, 0)
        self.validation: dict[str, float] = {}
        self.rate = self.peak_rate = 0.0
        self.broken: tuple[str, int] | None = None
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one row of the log: constant time, bounded memory."""
        self.step = int(row.get("step", self.step))
        for name in row:
            if name == "loss" or name.startswith("loss_"):
                self._add_log(self.losses.setdefault(name, Blocks()), name, row[name])
        if "grad_norm" in row:
            self._add_log(self.gradients, "grad_norm", row["grad_norm"])
        self.rate = _real(row.get("learning_rate")) or self.rate
        self.peak_rate = max(self.peak_rate, self.rate)
        if (gain := _real(row.get("val_gain"))) is not None:
            self.gains.add(self.step, gain)
            if gain > self.best[0]:
                self.best = gain, self.step
            numbers = {name: _real(value) for name, value in row.items() if name.startswith("val_")}
            self.validation = {name: value for name, value in numbers.items() if value is not None}

    def _add_log(self, blocks: Blocks, name: str, value: Any) -> None:
        real = _real(value)
        if real is None:
            self.broken = self.broken or (name, self.step)
        elif real > 0.0:
            blocks.add(self.step, math.log(real))

    def findings(self, *, ended: bool = False) -> list[Finding]:
        """What can be said now, the most severe first; never empty.

        ended: the run is over, so that "still improving" is a fault and no longer good news.
        """
        trend = self._trend()
        diverging = self._diverging(trend)
        starved = self._starved()
        early = not ended and self.gains.count < FEW_VALIDATIONS
        found: list[Finding | None] = [diverging]
        if "val_gain_low" not in self.validation:
            evidence = "the validation states no interval" if self.validation else "no validation has been run"
            advice = "train for more steps, or lower student.loop.validate_every"
            found += [starved, Finding("unknown", evidence, advice)]
        elif self.validation["val_gain_low"] > 0.0:
            found += [] if early else [self._ignored(), self._copied()]
            found.append(starved)
            if diverging is None:
                found += [*self._outlook(trend, ended), Finding("learning", self._gain(), NONE)]
        else:
            found += [self._no_gain(trend, ended, early)] if diverging is None else []
            found += [self._copied()] if ended else []
            found.append(starved)
        return by_severity(found)

    def _trend(self) -> Trend | None:
        """Of the gain over the last quarter of the run where that decides, else over the last half."""
        trends = [Trend.of(self.gains, since=self.step * part) for part in (0.75, 0.5)]
        return next((t for t in trends if t is not None and t.direction != "undecided"), trends[-1])

    def _tasks(self) -> dict[str, Blocks]:
        """The losses by task, or the whole loss where there are no tasks."""
        tasks = {name.removeprefix("loss_"): blocks for name, blocks in self.losses.items() if name != "loss"}
        return tasks or {"all samples": self.losses.get("loss", Blocks())}

    def _gain(self) -> str:
        v = self.validation
        gain, low, high, swap = v["val_gain"], v["val_gain_low"], v.get("val_gain_high"), v.get("val_swap")
        side = f"{gain:.1%} below" if gain >= 0 else f"{-gain:.1%} above"
        interval = f"95 % interval {low:.1%} to {gain if high is None else high:.1%}"
        text = f"on the fixed grid the loss is {side} the frozen base's ({interval})"
        return text if swap is None else f"{text}; with another style {swap:.1%} of the base's loss comes back"

    def _diverging(self, trend: Trend | None) -> Finding | None:
        """Every task's loss surely rises, and the gradient, the validation, or the size of the rise bears it out; or
        the adapter is surely far worse than the base that it began as."""
        advice = (
            "go back to a checkpoint before the rise, halve student.loop.learning_rate, or lengthen "
            "student.loop.warmup_steps"
        )
        if self.broken is not None:
            return Finding("diverging", f"{self.broken[0]} is not a finite number at step {self.broken[1]}", advice)
        if self.validation.get("val_gain_high", 0.0) < WORSE_THAN_BASE:
            return Finding("diverging", f"{self._gain()}, where it began", advice)
        rises = {task: rise for task, blocks in self._tasks().items() if (rise := _rise(blocks)) is not None}
        surely = min((rise.low for rise in rises.values()), default=0.0)
        if surely <= LOSS_RISE:
            return None
        witnesses = []
        gradient = _rise(self.gradients)
        if gradient is not None and gradient.low > GRADIENT_RISE:
            witnesses.append(f"the gradient's norm is {_times(gradient)} its lowest")
        if trend is not None and trend.direction == "falling":
            witnesses.append(f"{_course(trend)}, the best was {self._best()}")
        if self.validation.get("val_gain_high", 0.0) < 0.0:
            witnesses.append(self._gain())
        if not witnesses and surely > LOSS_BLOWN:
            witnesses.append("this is said from the raw training loss alone")
        said = [f"the training loss of {task} is {_times(rise)} its lowest eighth" for task, rise in rises.items()]
        return Finding("diverging", "; ".join([*said, *witnesses]), advice) if witnesses else None

    def _starved(self) -> Finding | None:
        """One task's loss surely rose over its own beginning while another's surely fell."""
        courses = {t: course for t, b in self._tasks().items() if (course := _since_beginning(b)) is not None}
        rising = [task for task, course in courses.items() if course.low > STARVED_RISE]
        falling = [task for task, course in courses.items() if course.high < STARVED_FALL]
        if not rising or not falling:
            return None
        said = [f"the loss of {task} is {_times(courses[task])} its own beginning" for task in (*rising, *falling)]
        if "fill50k" in rising:
            advice = "raise student.fill50k_weight or student.fill50k_fraction, if Fill50K is to be learned at all"
        elif "fill50k" in falling:
            advice = "lower student.fill50k_weight (1 counts it like a target) or student.fill50k_fraction"
        else:
            advice = f"give {', '.join(rising)} a larger share of the window or a larger weight"
        return Finding("task starved", "; ".join(said), advice)

    def _ignored(self) -> Finding | None:
        v = self.validation
        if "val_swap" not in v or v.get("val_swap_high", v["val_swap"]) >= SWAP_FLOOR * v["val_gain"]:
            return None
        most = f" (at most {v['val_swap_high']:.1%})" if "val_swap_high" in v else ""
        evidence = (
            f"of the gain of {v['val_gain']:.1%} only {v['val_swap']:.1%}{most} is lost when each picture gets another "
            f"one's style; a quarter, {SWAP_FLOOR * v['val_gain']:.1%}, would be the least"
        )
        advice = (
            "the gain does not come from the style yet: train longer, or raise student.adapter.tokens or "
            "student.adapter.layers"
        )
        return Finding("style ignored", evidence, advice)

    def _copied(self) -> Finding | None:
        v = self.validation
        if v.get("val_copy_low", 0.0) <= COPY_CEILING:
            return None
        base = f"; the frozen base's at {v['val_copy_base']:.0%}" if "val_copy_base" in v else ""
        evidence = (
            f"where its use begins, the prediction lies at {v['val_copy']:.0%} of the way back from the target to the "
            f"content (95 % interval {v['val_copy_low']:.0%} to {v['val_copy_high']:.0%}){base}"
        )
        advice = (
            "train longer; then raise student.adapter.strength or student.adapter.layers, and look whether the targets "
            "differ from their contents"
        )
        return Finding("content copied", evidence, advice)

    def _outlook(self, trend: Trend | None, ended: bool) -> list[Finding]:
        """What the trend adds where something has surely been learned."""
        if trend is None or trend.direction == "undecided":
            few = f"validations: {self.gains.count}, too few to tell whether it still improves"
            advice = "set student.loop.validate_every to a twentieth of student.loop.steps, or less"
            return [Finding("unknown", few if trend is None else _course(trend), advice)] if ended else []
        if trend.direction == "falling":
            evidence = f"{_course(trend)}, the best was {self._best()}; the training loss has not surely risen"
            advice = "stop at the best step, or train on more pairs: few are learned by heart"
            return [Finding("overfitting", evidence, advice)]
        if trend.direction == "flat":
            return [Finding("plateaued", _course(trend), self._beyond_the_plateau())]
        if not ended:
            return []
        return [
            Finding(
                "under-trained", f"at the end of its log, {_course(trend)}", "train longer: raise student.loop.steps"
            )
        ]

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

    def _no_gain(self, trend: Trend | None, ended: bool, early: bool) -> Finding:
        """What it is called when the interval of the gain reaches nought."""
        rising = trend is not None and trend.direction == "rising"
        evidence = self._gain() if trend is None else f"{self._gain()}; {_course(trend)}"
        if rising and ended:
            return Finding("under-trained", evidence, "train longer: raise student.loop.steps")
        if early or rising:
            return Finding("unknown", f"{evidence}; not surely above nought yet", "wait for more validations")
        worse = self.validation.get("val_gain_high", 0.0) < 0.0
        cure = (
            "lower student.loop.learning_rate"
            if worse
            else "raise student.loop.learning_rate or student.adapter.initial_gate"
        )
        return Finding("not learning", evidence, f"train longer; if the gain stays at nought or below, {cure}")

    def _best(self) -> str:
        return f"{self.best[0]:.1%} at step {self.best[1]}"


def diagnose(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What can be said of a run that is over."""
    return Watcher(rows).findings(ended=True)


def diagnose_folder(path: Path | str) -> list[Finding]:
    """The findings of a run directory, of the folder that training wrote, or of a `metrics.jsonl`, as of its last row.

    Raises MissingError where there is no such log, RequestError for that of another trainer, StorageError for a line
    in it that is not an object.
    """
    path = Path(path)
    log = next((p for p in (path, path / METRICS, path / "training" / METRICS) if p.is_file()), None)
    if log is None:
        raise MissingError(
            f"a training run has a {METRICS}, in its folder or in its folder training; there is none at {path}; name "
            "the directory of a run, or the --output-dir of bottega train style"
        )
    rows = read_jsonl(log)
    first = next(rows, {})
    if "num_samples" in first:  # nothing in it is paired, so that nothing could be found
        raise RequestError(
            f"what is diagnosed is the training of a StyleAdapter, {path} is one of bottega train ldm; ask bottega "
            f"doctor training {path}"
        )
    return diagnose(chain([first] if first else [], rows))


def words(findings: Sequence[Finding]) -> str:
    """The findings as a terminal shows them: a line of evidence each, and one of advice where there is any."""
    return "\n".join(
        f"{f.name}: {f.evidence}" + ("" if f.advice == NONE else f"\n    to try: {f.advice}") for f in findings
    )


def as_verdict(findings: Sequence[Finding]) -> dict[str, Any]:
    """{learning: yes|no|unknown, evidence, advice, findings}: one word for a headline, and all that it rests on.

    The evidence begins with what the word rests on. The advice is that of what is wrong; that a run which has learned
    came to a plateau, or was validated too rarely to tell, is not.
    """
    names = {finding.name for finding in findings}
    word = "unknown"
    if "learning" in names:
        word = "yes"
    elif names & {"diverging", "not learning", "under-trained"}:
        word = "no"
    plain = {"learning", "not learning"} if word != "unknown" else {"unknown"}
    told = [f for f in findings if f.name in plain] + [
        f for f in findings if f.name not in plain and f.name != "unknown"
    ]
    advice = [f.advice for f in told if f.advice != NONE and f.name != "plateaued"]
    return {
        "learning": word,
        "evidence": "; ".join(f.evidence if f.name in plain else f"{f.name}: {f.evidence}" for f in told),
        "advice": "; ".join(dict.fromkeys(advice)) or NONE,
        "findings": [asdict(finding) for finding in findings],
    }


def _real(value: Any) -> float | None:
    """A finite number, or None for anything else: the log writes null for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rise(blocks: Blocks) -> Estimate | None:
    """The last eighth of a stream of logarithms over the lowest one before it, as a factor."""
    windows = blocks.windows()
    return change(min(windows[:-1], key=lambda w: w.mean), windows[-1]).exp() if windows else None


def _since_beginning(blocks: Blocks) -> Estimate | None:
    """The last quarter of a stream of logarithms over its first eighth, as a factor."""
    windows = blocks.windows()
    return change(windows[0], windows[-2].merged(windows[-1])).exp() if windows else None


def _course(trend: Trend) -> str:
    doing = {"rising": "still rises", "falling": "falls", "flat": "is flat", "undecided": "may rise or fall"}
    low, high = 100 * trend.change.low, 100 * trend.change.high
    return (
        f"from step {trend.first} to {trend.last} the gain {doing[trend.direction]}: {100 * trend.change.value:+.2f} "
        f"points (95 % interval {low:+.2f} to {high:+.2f}, {trend.points} validations)"
    )


def _times(factor: Estimate) -> str:
    return f"{factor.value:.2f} times (99 % interval {factor.low:.2f} to {factor.high:.2f})"
