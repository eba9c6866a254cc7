"""Each picture that came out becomes a graded try, and what is graded C gets a plan for the next one."""

from __future__ import annotations

from collections.abc import Sequence

from bottega.quality.config import Thresholds
from bottega.quality.grading import grade
from bottega.quality.measuring import Scores
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import FINITE, INPUTS_FINITE, Item, Made, Settings
from bottega.teacher.models import TeacherModels
from bottega.teacher.retry import next_settings
from bottega.teacher.work import NextTry, PendingTarget, Try
from bottega.visual.pictures import Picture, to_uint8


class TryGrader:
    """Scores and grades tries, and plans the next ones.

    Args:
        config: how many retries there are, and what they change.
        models: the judge, and the teacher for a content's round trip through the autoencoder.
        thresholds: the limits of the grades.
    """

    def __init__(self, config: TeacherConfig, models: TeacherModels, thresholds: Thresholds) -> None:
        self._config, self._models, self._thresholds = config, models, thresholds
        self.base = Settings.of(config)

    def add_tries(self, targets: Sequence[PendingTarget], items: Sequence[Item], made: Sequence[Made]) -> list[Try]:
        """Enter a try of each target, and plan the next or none; `seconds` of the tries are left at 0.

        Args:
            targets: with a plan each.
            items: what the teacher was asked for, one for each target.
            made: what came out.
        """
        tries: list[Try] = []
        found = self._scores(items, made)
        for target, item, one, scores in zip(targets, items, made, found, strict=True):
            assert target.plan is not None and item.settings is not None  # the caller takes planned targets only
            graded = Try(
                settings=item.settings,
                rung=target.plan.rung,
                picture=to_uint8(one.picture) if scores["finite"] == 1 else None,
                scores=scores,
                grade=grade(scores, self._thresholds),
                noise_seed=item.noise_seed,
                seconds=0.0,
                facts={**one.facts, "batch": target.batch},
            )
            tries.append(graded)
            target.tries.append(graded)
            target.plan = self._next_plan(target)
        return tries

    def _scores(self, items: Sequence[Item], made: Sequence[Made]) -> list[Scores]:
        if not items:
            return []
        # With round trips: limits from drawn truths graded half of the miniature SDXL's targets C for the cells of its
        # autoencoder. What that does to any picture is no fault of a try (docs/log.md, seventh session).
        round_trips: list[Picture | None] = []
        keys: list[tuple[str, str]] = []
        for item in items:
            content, style = item.keys
            round_trips.append(self._models.teacher.round_trip(item))
            keys.append((f"content {content}", f"style {style}"))
        found = self._models.judge.measure(
            [one.picture for one in made],
            [item.content for item in items],
            [item.style for item in items],
            round_trips=round_trips,
            keys=keys,
        )
        for scores, one in zip(found, made, strict=True):
            for name in FINITE:
                if name in one.facts:
                    scores[name] = one.facts[name]
        return found

    def _next_plan(self, target: PendingTarget) -> NextTry | None:
        """What to try next: nothing once a try is no C, after the last retry, and where no other try is worth one."""
        retries = self._config.max_retries if self._config.quality_filter else 0
        if target.tries[target.best].grade.letter != "C" or len(target.tries) > retries:
            return None
        # No noise and no strength mends what an encoder failed at.
        if any(name in target.tries[-1].scores for name in INPUTS_FINITE):
            return None
        last = target.tries[-1].grade
        tried = [one.settings for one in target.tries]
        found = next_settings(last.causes, self.base, tried, self._config.ladder, last.likely)
        return None if found is None else NextTry(*found)
