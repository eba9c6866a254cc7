"""The headline: one judgement on the run, in words, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.report.learning import Learning
from bottega.report.reading import Run, number
from bottega.report.teaching import Survival


@dataclass(frozen=True)
class Verdict:
    """`tone`: good, mixed, bad or wait; a title and sentences of evidence."""

    tone: str
    title: str
    sentences: tuple[str, ...]


def judge(
    run: Run,
    tries: Survival | None,
    learning: Learning | None,
    evaluation: Mapping[str, Any] | None,
    *,
    oracle: bool = False,
) -> Verdict:
    """What can be said at this moment; the furthest stage that has numbers speaks, a failure before all."""
    failed = next((stage for stage in run.stages if stage.state == "failed"), None)
    if failed is not None:
        return Verdict(
            "bad",
            f"Stopped: stage {failed.name} failed",
            (failed.error, "What was finished before it is kept; the same command goes on from there."),
        )
    if evaluation is not None and evaluation.get("claims"):
        return _evaluated(evaluation)
    if evaluation is not None:
        return Verdict(
            "wait",
            "Measured, with no goal to judge it by",
            ("The table below holds the numbers; this evaluation states no claim.",),
        )
    if learning is not None:
        return _trained(learning, run.stage("student").state == "done")
    if tries is not None and tries.targets:
        return _taught(tries, "The oracle's" if oracle else "The teacher's")
    if any(stage.state == "done" for stage in run.stages):
        return Verdict("wait", "Prepared; no target has been made yet", (_next(run),))
    return Verdict("wait", "Nothing has been done yet", (_next(run),))


def _evaluated(summary: Mapping[str, Any]) -> Verdict:
    claims = summary["claims"]
    met = [claim for claim in claims if claim["met"] is True]
    missed = [claim for claim in claims if claim["met"] is False]
    unknown = [claim for claim in claims if claim["met"] is None]
    sentences = [_gain(summary), _objects(summary), _truth(summary)]
    if missed:
        learned = any(str(claim["claim"]).startswith("style gain") for claim in met)
        title = (
            f"{'It learned style, but missed' if learned else 'Not there yet: missed'} {_of(len(missed), len(claims))}"
        )
        sentences.append("Missed: " + "; ".join(str(claim["claim"]) for claim in missed) + ".")
        tone = "mixed" if learned else "bad"
    elif not met:
        tone, title = "wait", "No goal could be measured"
    elif unknown:
        tone, title = "mixed", f"All measured goals are met; {_of(len(unknown), len(claims))} could not be measured"
    else:
        tone, title = "good", "The adapter learned to paint in a style it had never seen"
    return Verdict(tone, title, tuple(s for s in sentences if s))


def _of(some: int, all_: int) -> str:
    return f"{some} of {all_} goals"


def _gain(summary: Mapping[str, Any]) -> str:
    cell = measured(summary, "student", "kind_gain")
    if cell is None:
        return ""
    return (
        f"On {cell['n']} held-out pairs its pictures are taken for the asked style {figure(cell['value'])} points more "
        f"often than for a swapped one{between(cell)}."
    )


def _objects(summary: Mapping[str, Any]) -> str:
    mine = measured(summary, "student", "objects_found")
    if mine is None:
        return ""
    others = {"frozen base": "base", "drawn truth, the ceiling": "truth"}
    told = [
        f"{words}: {figure(c['value'])} %"
        for words, row in others.items()
        if (c := measured(summary, row, "objects_found"))
    ]
    against = f" ({'; '.join(told)})" if told else ""
    return f"{figure(mine['value'])} % of the content's objects stay in place{against}."


def _truth(summary: Mapping[str, Any]) -> str:
    mine = measured(summary, "student", "truth")
    if mine is None:
        return ""
    others = {
        row: cell["value"]
        for row in ("base", "content", "style", "colours", "blurred")
        if (cell := measured(summary, row, "truth"))
    }
    if not others:
        return f"Its distance to the drawn truth is {figure(mine['value'])}."
    nearest = min(others, key=lambda row: float(others[row]))
    title = summary["rows"][nearest]["title"]
    return (
        f"Its distance to the drawn truth is {figure(mine['value'])}; the nearest control, {title}, has "
        f"{figure(others[nearest])}."
    )


def _trained(learning: Learning, done: bool) -> Verdict:
    tone, title = {
        "yes": ("good" if learning.advice == "none needed" else "mixed", "It is learning"),
        "no": ("bad", "It is not learning yet"),
    }.get(learning.word, ("wait", "Training has begun" if not done else "Trained, but not validated"))
    now = f"After {learning.steps:,} steps: {learning.evidence}."
    advice = () if learning.advice == "none needed" else (f"To try: {learning.advice}.",)
    return Verdict(tone, title, (now, *advice, "Held-out pairs have not been measured yet."))


def _taught(tries: Survival, whose: str) -> Verdict:
    share = tries.accepted / max(1, tries.targets)
    tone = "good" if share >= 0.8 else "mixed" if share >= 0.4 else "bad"
    title = f"{whose} targets: {tries.accepted:,} of {tries.targets:,} can be learned from"
    grades = ", ".join(f"{tries.grades[letter]:,} graded {letter}" for letter in "ABC")
    rest = f"{grades}; {tries.rescued:,} were saved by a retry."
    return Verdict(tone, title, (rest, "Nothing has been trained yet."))


def _next(run: Run) -> str:
    waiting = next((stage for stage in run.stages if stage.state in ("pending", "begun")), None)
    return f"Next: {waiting.name}, which {waiting.does}." if waiting else ""


def measured(summary: Mapping[str, Any], row: str, metric: str) -> Mapping[str, Any] | None:
    """The cell of a row and a metric, or None where it was not measured."""
    cell = summary.get("rows", {}).get(row, {}).get("metrics", {}).get(metric, {})
    return cell if cell.get("status") == "measured" and number(cell.get("value")) is not None else None


def figure(value: float) -> str:
    """A number with as many digits as a reader needs; a minus sign, not a hyphen."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.replace("-", "−")


def between(cell: Mapping[str, Any]) -> str:
    """` [low, high]` or nothing where there is no interval."""
    low, high = number(cell.get("low")), number(cell.get("high"))
    return "" if low is None or high is None else f" [{figure(low)}, {figure(high)}]"
