"""Several adapters trained on one frozen backbone: what none of them changes is computed once for all.

    noised pictures ─ blocks 0 … 3 ─┬─ blocks 4 … 7 ─┬─ adapter A in blocks 8 … 11
                                    │                └─ adapter B in blocks 8 … 11
                                    └─ adapter C in blocks 4 … 11

Adapters that draw the same samples, timesteps and noise (`StyleWorkload.draws_as`) share the draws, the features, the
noised latents and the blocks before the first that each adapts. Everything after that is each one's own: suffix,
gradient, optimizer, averages, guards, log, checkpoints. The shared numbers come from the same operations on the same
shapes as in a training alone, so each adapter equals that of a training alone to the bit (the tests compare them).

A training without Fill50K has other samples in its steps, and one of another content mode may noise them otherwise:
these go on alone in the same process, and share the weights and features in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.student.objective import FrozenInputs, StepDraw, StyleWorkload
from bottega.student.stage import finish, load_frozen, prepare
from bottega.training.together import train_together

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.runtime.errors import NonFiniteError
    from bottega.student.backbone import Prefix
    from bottega.student.config import StudentConfig
    from bottega.student.records import PreparedFacts, TrainingReport
    from bottega.training.job import TrainingJob


@dataclass
class _Passed:
    """What is frozen of a microbatch: the prefix after so many blocks, by that number."""

    inputs: FrozenInputs
    states: dict[int, Prefix]


class SharedPass:
    """One pass through what is frozen for all workloads that draw alike. It holds that of one step.

    Args:
        members: the workloads; each draws as the others do.
    """

    def __init__(self, members: Sequence[StyleWorkload]) -> None:
        self._depths = sorted({member.adapter.first_block for member in members})
        self._step: int | None = None
        self._draw: StepDraw | None = None
        self._passed: dict[int, _Passed] = {}

    def draw(self, step: int, make: Callable[[int], StepDraw]) -> StepDraw:
        """What all draw in a step; `make` is asked by the first."""
        if self._draw is None or self._step != step:
            self._passed = {}
            self._draw = make(step)
            self._step = step
        return self._draw

    def frozen(self, work: StyleWorkload, draw: StepDraw, where: slice, blocks: int) -> FrozenInputs:
        """What `work.frozen` gives; of a draw that is not the newest it is computed alone."""
        if draw is not self._draw:
            return work.frozen(draw, where, blocks)
        passed = self._passed.get(where.start)
        if passed is None:
            inputs = work.frozen(draw, where, 0)
            passed = _Passed(inputs, {0: inputs.state})
            self._passed[where.start] = passed
        # By all depths on the way, whoever asks first: the others go on from theirs.
        state = passed.states[0]
        for depth in self._depths:
            if depth > blocks:
                break
            if depth not in passed.states:
                passed.states[depth] = work.backbone.prolonged(state, depth)
            state = passed.states[depth]
        return passed.inputs._replace(state=state)


def train_adapters(
    configs: Mapping[Path, StudentConfig], *, features_dir: Path, models: ModelsConfig
) -> dict[Path, TrainingReport | NonFiniteError]:
    """Train several adapters, each into its folder as `bottega.student.stage.run` would alone.

    Args:
        configs: by the folder of each training.
        features_dir: the feature cache of all.
        models: where PixArt is, and on which device to train.

    Returns:
        By folder what training.json holds, or the error of one whose numbers were no longer finite.

    Raises:
        What `bottega.training.together.train_together` raises.
    """
    jobs: dict[Path, TrainingJob[StyleWorkload]] = {}
    facts: dict[Path, PreparedFacts] = {}
    with ExitStack() as opened:
        frozen = load_frozen(next(iter(configs.values())), features_dir, models)
        for folder, config in configs.items():
            jobs[folder], facts[folder] = prepare(config, features_dir, models, frozen)
            opened.callback(jobs[folder].close)
        share([job.work for job in jobs.values()])
        outcomes = train_together(jobs)
    reports: dict[Path, TrainingReport | NonFiniteError] = {}
    for folder, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            reports[folder] = outcome
        else:
            reports[folder] = finish(folder, jobs[folder].work, {**outcome, **facts[folder]})
    return reports


def share(works: Sequence[StyleWorkload]) -> list[list[StyleWorkload]]:
    """Let workloads that draw alike share one pass; returns the groups, of one or more each."""
    groups: list[list[StyleWorkload]] = []
    for work in works:
        for group in groups:
            if group[0].draws_as(work):
                group.append(work)
                break
        else:
            groups.append([work])
    for group in groups:
        if len(group) > 1:
            shared = SharedPass(group)
            for work in group:
                work.shared = shared
    return groups
