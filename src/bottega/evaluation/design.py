"""How many contents, styles and trainings a wanted difference needs, from the variances of a pilot.

Each variance of the pilot's difference is an estimate, so the plan is one too: with few levels in the pilot it may be
far off. What a pilot with one training can't tell is how much trainings differ; its plan is for one training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bottega.evaluation.compare import difference as crossed_difference
from bottega.evaluation.factors import Analysis, Component, FactorEstimate, Floats, Source, Variances
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.records import DesignPlanRecord, DesignRecord
from bottega.evaluation.runs import EvaluatedRun, TrainedMethod, by_ids, methods, require_comparable, shared_pairs
from bottega.evaluation.verdicts import POWER, detectable, figures
from bottega.runtime.errors import RequestError

LEVELS = (4, 5, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500)
"""Numbers of contents and of styles that are tried: steps of about a quarter."""

SEEDS = (2, 3, 4, 5, 6, 8, 10)
"""Numbers of trainings that are tried."""


@dataclass(frozen=True)
class Wanted:
    """What the plan is for: a difference of a metric, to be seen with a power at a level, both shares."""

    metric: str
    difference: float
    power: float = POWER
    level: float = 0.95


def plan(runs: Sequence[EvaluatedRun], wanted: Wanted, rows: tuple[str, str] = ("student", "base")) -> DesignPlanRecord:
    """A plan from a pilot.

    Args:
        runs: trainings of one recipe, whose rows are compared; or of two, whose first row is.
        wanted: what is to be seen.
        rows: of the evaluations' tables.

    Raises:
        RequestError: no such metric, more than two methods, or scores that say nothing about a spread.
    """
    _require_wanted(wanted)
    found = _pilot_methods(runs)
    every: list[EvaluatedRun] = []
    for method in found:
        every += method.runs
    reason = require_comparable(every).get(wanted.metric)
    if reason is not None:
        raise RequestError(f"{wanted.metric} can't be compared: {reason}")

    # Two rows of one method, or one row of two.
    first, second = found[0], found[-1]
    of_rows = (rows[0], rows[0])
    what = f"{first.name} − {second.name}"
    if len(found) == 1:
        of_rows = rows
        what = f"{rows[0]} − {rows[1]}"
    shared = shared_pairs(every, sorted(set(of_rows)))
    pilot = crossed_difference(first, second, shared, of_rows, wanted.metric, wanted.level)
    if pilot is None or pilot.standard_error is None:
        why = "no pair has both scores" if pilot is None else pilot.no_interval
        raise RequestError(f"the pilot says nothing about the spread of {what} in {wanted.metric}: {why}")
    tried = (1,) if pilot.seeds == 1 else SEEDS
    return {
        "metric": wanted.metric,
        "of": what,
        "difference": wanted.difference,
        "level": wanted.level,
        "power": wanted.power,
        "pilot": pilot.record(),
        "seen": detectable(pilot, level=wanted.level, power=wanted.power),
        "designs": [_cheapest(pilot.variances, seeds, wanted) for seeds in tried],
        "notes": _notes(pilot),
    }


def _require_wanted(wanted: Wanted) -> None:
    if wanted.metric not in METRICS:
        raise RequestError(f"--metric must be one of {', '.join(METRICS)}, received {wanted.metric!r}")
    if not wanted.difference > 0:
        raise RequestError(f"--difference must be above 0, received {wanted.difference}")


def _pilot_methods(runs: Sequence[EvaluatedRun]) -> list[TrainedMethod]:
    """One method or two; without hashes of all pictures, pairs are matched by their ids alone."""
    if not all(run.hashed for run in runs):
        runs = [by_ids(run) for run in runs]
    found = methods(runs)
    if len(found) > 2:
        names = ", ".join(method.name for method in found)
        raise RequestError(f"a pilot is one method or two, received {len(found)}: {names}; leave some out")
    return found


def would_detect(variances: Variances, contents: int, styles: int, seeds: int, wanted: Wanted) -> float:
    """The smallest difference that a design shows, if the variances are those of the pilot."""
    analysis = _expected(variances, (contents, styles, seeds))
    shares, freedoms = analysis.shares(), analysis.factor_freedoms()
    freedom = 1 / float((shares[0] ** 2 / freedoms).sum())
    estimate = FactorEstimate(
        value=0.0,
        low=None,
        high=None,
        level=wanted.level,
        n=contents * styles * seeds,
        contents=contents,
        styles=styles,
        seeds=seeds,
        standard_error=math.sqrt(float(analysis.variances()[0])),
        degrees_of_freedom=freedom,
        shares=tuple(shares[0].tolist()),
        freedoms=tuple(freedoms.tolist()),
    )
    found = detectable(estimate, level=wanted.level, power=wanted.power)
    return math.inf if found is None else found


def markdown(found: DesignPlanRecord) -> str:
    """The plan for people."""
    info = METRICS[found["metric"]]
    pilot = found["pilot"]
    spread: list[str] = []
    for name, component in pilot["variances"].items():
        if isinstance(component, dict):
            spread.append(f"{name.replace('_', ' × ')} {figures(math.sqrt(component['estimate']))}")
    lines = [
        f"{info.title} ({info.unit}), {found['of']}. The pilot: {pilot['contents']} contents × {pilot['styles']} "
        f"styles × {pilot['seeds']} trainings, {figures(pilot['value'])}; it shows differences from "
        f"{figures(found['seen'] or 0.0)} on.",
        f"Standard deviations: {', '.join(spread)}.",
        "",
        f"To see {figures(found['difference'])} in {found['power']:.0%} of all repetitions, at {found['level']:.0%}:",
        "",
        "| trainings | contents | styles | pictures a method | shows differences from |",
        "|---|---|---|---|---|",
    ]
    for design in found["designs"]:
        cells = [design["seeds"], design["contents"], design["styles"], f"{design['pictures']:,}"]
        shown = figures(design["detectable"])
        mark = shown if design["enough"] else f"{shown} at best: not enough"
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} | {mark} |")
    lines += ["", *(f"- {note}" for note in found["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def _cheapest(variances: Variances, seeds: int, wanted: Wanted) -> DesignRecord:
    """The design of fewest pictures that is enough with so many trainings; the most sensitive one where none is."""
    best: tuple[float, int, int] | None = None
    for contents, styles in sorted(itertools.product(LEVELS, LEVELS), key=lambda levels: math.prod(levels)):
        shown = would_detect(variances, contents, styles, seeds, wanted)
        # More pictures need not show more: once little but the trainings' spread is left, few trainings decide alone.
        if best is None or shown < best[0]:
            best = shown, contents, styles
        if shown <= wanted.difference:
            break
    assert best is not None
    shown, contents, styles = best
    return {
        "contents": contents,
        "styles": styles,
        "seeds": seeds,
        "pictures": contents * styles * seeds,
        "detectable": shown,
        "enough": shown <= wanted.difference,
    }


def _expected(variances: Variances, shape: tuple[int, int, int]) -> Analysis:
    """The mean squares that a design has on average."""
    components = _components(variances)
    single = {axis for axis in range(3) if shape[axis] == 1}
    # With one training the term of contents · styles is the residual: its source is the one that stays.
    sources = [source for source in components if not single.intersection(source)]
    squares: dict[Source, Floats] = {}
    freedoms: dict[Source, int] = {}
    for source in sources:
        squares[source] = np.array([_expected_square(source, components, shape)])
        freedoms[source] = math.prod(shape[axis] - 1 for axis in source)
    return Analysis(np.zeros(1), squares, freedoms, shape)


def _components(variances: Variances) -> dict[Source, float]:
    """By the axes of their factors; what the pilot could not tell counts as 0, which the notes say."""
    named: dict[Source, Component | None] = {
        (0,): variances.content,
        (1,): variances.style,
        (2,): variances.seed,
        (0, 1): variances.content_style,
        (0, 2): variances.content_seed,
        (1, 2): variances.style_seed,
        (0, 1, 2): variances.residual,
    }
    return {source: 0.0 if component is None else component.estimate for source, component in named.items()}


def _expected_square(source: Source, components: Mapping[Source, float], shape: tuple[int, int, int]) -> float:
    """A term's variance reaches the mean squares of all sources that it holds, times the cells of one of its levels."""
    expected = 0.0
    for other, variance in components.items():
        if set(source) <= set(other):
            expected += variance * math.prod(shape[axis] for axis in range(3) if axis not in other)
    return expected


def _notes(pilot: FactorEstimate) -> list[str]:
    notes: list[str] = []
    if pilot.seeds == 1:
        notes.append(
            "The pilot has one training: how much trainings differ is not known, and the plan is for this one. Train "
            "twice more with another student.seed and plan again."
        )
    if pilot.note:
        notes.append(f"The pilot's interval: {pilot.note}.")
    notes.append("A plan rests on the pilot's variances, which are estimates themselves; take some reserve.")
    return notes
