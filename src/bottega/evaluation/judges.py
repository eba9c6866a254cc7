"""What the judges of style are: their labels, and what they are worth on real paintings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.grid import Grid
from bottega.evaluation.networks import Networks
from bottega.evaluation.records import StyleTestRecord
from bottega.evaluation.sources import Sources
from bottega.evaluation.style_similarity import style_tests
from bottega.models.style_probe import StyleProbe

if TYPE_CHECKING:
    from bottega.models.style_probe import ProbeConfig


@dataclass(frozen=True)
class JudgeFacts:
    """Of the networks that judge styles.

    Attributes:
        labels: of the style classifier; none without one.
        style_tests: the test of each similarity, by the metric's name.
        probe: of a style classifier that is a probe.
    """

    labels: Sequence[str]
    style_tests: dict[str, StyleTestRecord]
    probe: ProbeConfig | None


def judge_facts(config: EvaluationConfig, grid: Grid, sources: Sources, networks: Networks) -> JudgeFacts:
    """What is said of the judges beside the scores they give.

    Args:
        config: draws, level and seed of the tests.
        grid: whose style pictures the tests are made on.
        sources: of those pictures.
        networks: loaded.
    """
    classifier = networks.style_classifier
    return JudgeFacts(
        labels=[] if classifier is None else classifier.labels,
        style_tests=style_tests(
            grid, sources, networks, draws=config.draws, level=config.level, seed=config.bootstrap_seed
        ),
        probe=classifier.config if isinstance(classifier, StyleProbe) else None,
    )
