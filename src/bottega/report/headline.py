"""The headline: one judgement on the run, in words, with the numbers it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.report.evaluation import Claim, EvaluationSummary
from bottega.report.format import between, figure
from bottega.report.learning import Learning
from bottega.report.run_directory import RunDirectory, StageStatus
from bottega.report.teaching import TryCounts
from bottega.runtime.findings import NONE


@dataclass(frozen=True)
class Headline:
    """`tone`: good, mixed, bad or wait; a title and sentences of evidence."""

    tone: str
    title: str
    sentences: tuple[str, ...]


def headline(
    run: RunDirectory,
    tries: TryCounts | None,
    learning: Learning | None,
    evaluation: EvaluationSummary | None,
) -> Headline:
    """What can be said at this moment; the furthest stage that has numbers speaks, a failure before all.

    A rehearsal with random weights is said to be one first, whatever its numbers are.
    """
    found = _of_stages(run, tries, learning, evaluation)
    if not run.random_weights:
        return found
    what = (
        f"Models with random weights took part ({', '.join(run.random_weights)}): time and memory are those of a real "
        "run, every picture and every figure of quality is noise."
    )
    tone = "bad" if found.tone == "bad" else "wait"
    return Headline(tone, f"A rehearsal, no result. {found.title}", (what, *found.sentences))


def _of_stages(
    run: RunDirectory, tries: TryCounts | None, learning: Learning | None, evaluation: EvaluationSummary | None
) -> Headline:
    failed = _first_in_state(run, "failed")
    if failed is not None:
        kept = "What was finished before it is kept; the same command resumes there."
        return Headline("bad", f"Stopped: stage {failed.name} failed", (failed.error, kept))

    # The latest stage first: numbers of an earlier one would judge the run by what it has improved on since.
    if evaluation is not None:
        return judged(evaluation)
    if learning is not None:
        return _trained(learning, is_done=run.stage("student").state == "done")
    if tries is not None and tries.targets:
        return _taught(tries, "The oracle's" if run.is_oracle else "The teacher's")
    if _first_in_state(run, "done") is not None:
        return Headline("wait", "Prepared; no target has been made yet", (_next(run),))
    return Headline("wait", "Nothing has been done yet", (_next(run),))


def judged(evaluation: EvaluationSummary) -> Headline:
    """What an evaluation says by itself."""
    if evaluation.claims:
        return _evaluated(evaluation)
    no_claim = "The table below holds the numbers; this evaluation states no claim."
    return Headline("wait", "Measured, with no goal to judge it by", (no_claim,))


def _first_in_state(run: RunDirectory, *states: str) -> StageStatus | None:
    for stage in run.stages:
        if stage.state in states:
            return stage
    return None


def _evaluated(summary: EvaluationSummary) -> Headline:
    # A goal that could not be measured is neither met nor missed: it must not count for either.
    claims = summary.claims
    met = [claim for claim in claims if claim.met is True]
    missed = [claim for claim in claims if claim.met is False]
    num_unknown = len(claims) - len(met) - len(missed)

    sentences = _measured(summary)
    if missed:
        tone, title = _missed(met, f"{len(missed)} of {len(claims)} goals")
        sentences.append("Missed: " + "; ".join(claim.claim for claim in missed) + ".")
    elif not met:
        tone, title = "wait", "No goal could be measured"
    elif num_unknown:
        tone = "mixed"
        title = f"All measured goals are met; {num_unknown} of {len(claims)} goals could not be measured"
    else:
        tone, title = "good", "The adapter learned to paint in a style it had never seen"
    return Headline(tone, title, tuple(sentences))


def _measured(summary: EvaluationSummary) -> list[str]:
    """Sentences about the three numbers that matter most, as far as they were measured."""
    sentences = (_gain(summary), _objects(summary), _truth(summary))
    return [sentence for sentence in sentences if sentence]


def _missed(met: list[Claim], how_many: str) -> tuple[str, str]:
    """Tone and title where a goal was missed."""
    if any(claim.claim.startswith("style gain") for claim in met):
        return "mixed", f"It learned style, but missed {how_many}"
    return "bad", f"Not there yet: missed {how_many}"


def _gain(summary: EvaluationSummary) -> str:
    gain = summary.measured("student", "kind_gain")
    if gain is None:
        return ""
    points = f"{figure(gain.value)} points more often than for a swapped one {between(gain.low, gain.high)}".strip()
    return f"On {gain.n} held-out pairs its pictures are taken for the asked style {points}."


def _objects(summary: EvaluationSummary) -> str:
    mine = summary.measured("student", "objects_found")
    if mine is None:
        return ""
    others = []
    for name, row in (("frozen base", "base"), ("drawn truth, the ceiling", "truth")):
        score = summary.measured(row, "objects_found")
        if score is not None:
            others.append(f"{name}: {figure(score.value)} %")
    against = f" ({'; '.join(others)})" if others else ""
    return f"{figure(mine.value)} % of the content's objects stay in place{against}."


def _truth(summary: EvaluationSummary) -> str:
    mine = summary.measured("student", "truth")
    if mine is None:
        return ""
    controls: dict[str, float] = {}
    for row in ("base", "content", "style", "colours", "blurred"):
        score = summary.measured(row, "truth")
        if score is not None and score.value is not None:
            controls[row] = score.value
    distance = f"Its distance to the drawn truth is {figure(mine.value)}"
    if not controls:
        return f"{distance}."
    nearest = min(controls, key=lambda row: controls[row])
    return f"{distance}; the nearest control, {summary.title(nearest)}, has {figure(controls[nearest])}."


def _trained(learning: Learning, *, is_done: bool) -> Headline:
    needs_advice = learning.advice != NONE
    if learning.word == "yes":
        tone, title = "mixed" if needs_advice else "good", "It is learning"
    elif learning.word == "no":
        tone, title = "bad", "It is not learning yet"
    else:
        tone, title = "wait", "Trained, but not validated" if is_done else "Training has begun"
    sentences = [f"After {learning.steps:,} steps: {learning.evidence}."]
    if needs_advice:
        sentences.append(f"To try: {learning.advice}.")
    sentences.append("Held-out pairs have not been measured yet.")
    return Headline(tone, title, tuple(sentences))


def _taught(tries: TryCounts, whose: str) -> Headline:
    share = tries.accepted / max(1, tries.targets)
    tone = "bad"
    if share >= 0.4:
        tone = "good" if share >= 0.8 else "mixed"
    title = f"{whose} targets: {tries.accepted:,} of {tries.targets:,} can be learned from"
    grades = ", ".join(f"{tries.grades[letter]:,} graded {letter}" for letter in "ABC")
    retried = f"{grades}; {tries.rescued:,} were saved by a retry."
    return Headline(tone, title, (retried, "Nothing has been trained yet."))


def _next(run: RunDirectory) -> str:
    stage = _first_in_state(run, "pending", "begun")
    return "" if stage is None else f"Next: {stage.name}, which {stage.does}."
