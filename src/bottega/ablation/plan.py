"""What an ablation trains, with which budget, and how the work is divided among processes.

Every variant with every training seed is one training. Those of one seed that draw alike belong together in a process,
where one pass through the frozen blocks serves them (`bottega.student.together`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.ablation.variants import BASELINE, RecipeVariant, Variants, adapted, with_changes
from bottega.student.config import StudentConfig

VALIDATIONS = 4
"""Of each training: for its curve; the verdict on the variants comes from pictures."""

MIN_VALIDATE_EVERY = 100
"""Steps between them, at least: on the miniature a validation takes as long as eight steps."""

_ADAPTER_PASS = 0.4
_BACKWARD_PASS = 1.1
"""Time of an adapter's own layer and of a block's backward pass, as multiples of a block's forward pass: on the
miniature, with one thread, a block takes 6.5 ms and a step of the recipe 125 ms."""


@dataclass(frozen=True)
class Training:
    """One training: a variant with a seed, and its folders below that of the ablation.

    Args:
        variant: what is trained.
        seed: of the training.
        config: the section `student` with that seed and the budget.
    """

    variant: RecipeVariant
    seed: int
    config: StudentConfig

    @property
    def place(self) -> str:
        """Its folder below `trained/` and below `evaluated/`."""
        return f"{self.variant.name}/seed{self.seed}"


@dataclass(frozen=True)
class AblationPlan:
    """All trainings of an ablation.

    Args:
        design: `one factor` or `full grid`.
        variants: the baseline first, and what was left out.
        seeds: of the trainings.
        base: the recipe's section `student`, with the budget.
        blocks: of the transformer.
    """

    design: str
    variants: Variants
    seeds: tuple[int, ...]
    base: StudentConfig
    blocks: int

    @property
    def trainings(self) -> list[Training]:
        """Every variant with every seed, seed by seed."""
        found: list[Training] = []
        for seed in self.seeds:
            for variant in self.variants.chosen:
                found.append(Training(variant, seed, with_changes(variant.config, {"seed": seed})))
        return found

    def common(self) -> dict[str, object]:
        """What all trainings have in common: an ablation that was begun with something else is another one."""
        return {"student": self.base.settings(), "seed of the variants": "the training seed"}


def budgeted(base: StudentConfig, steps: int | None) -> StudentConfig:
    """The recipe's section `student` as an ablation trains it.

    The same length for all, one thread a training, for the processors are shared by trainings; no sample pictures, and
    few validations, for neither is learned from.

    Args:
        base: of the recipe.
        steps: of the optimizer; None: the recipe's.
    """
    steps = steps or base.loop.steps
    return with_changes(
        base,
        {
            "loop.steps": steps,
            "loop.warmup_steps": min(base.loop.warmup_steps, steps // 5),
            "loop.validate_every": max(MIN_VALIDATE_EVERY, steps // VALIDATIONS),
            "loop.keep_last": 1,
            "loop.keep_best": 0,
            "loop.tensorboard": False,
            "loop.threads": 1,
            "validation.samples": 0,
        },
    )


def cost(config: StudentConfig, blocks: int, shared: int = 0) -> float:
    """Time of a step, in forward passes of a block.

    Args:
        config: of a training.
        blocks: of the transformer.
        shared: blocks whose forward pass another training has done already.
    """
    layers = adapted(config.adapter.layers, blocks)
    first = min(layers)
    return blocks - min(shared, first) + _ADAPTER_PASS * len(layers) + _BACKWARD_PASS * (blocks - first)


def draws_alike(one: StudentConfig, other: StudentConfig) -> bool:
    """Whether two trainings draw the same samples and noise them alike, as far as their settings say: then they belong
    into one process. `StyleWorkload.draws_as` decides on what is loaded."""
    return one.seed == other.seed and one.fill50k_fraction == other.fill50k_fraction and _noised(one) == _noised(other)


def _noised(config: StudentConfig) -> tuple[bool, float]:
    """Whether the noise depends on the content, and from which strength."""
    adapter = config.adapter
    paired = adapter.content_mode != "sdedit" and adapter.start == "content"
    return paired, adapter.strength if paired else 1.0


def groups_of(trainings: Sequence[Training]) -> list[list[Training]]:
    """Trainings that draw alike, together; in the order of their first."""
    groups: list[list[Training]] = []
    for training in trainings:
        for group in groups:
            if draws_alike(group[0].config, training.config):
                group.append(training)
                break
        else:
            groups.append([training])
    return groups


def group_cost(group: Sequence[Training], blocks: int) -> float:
    """Time of a step of all trainings of a group, in forward passes of a block; the shared ones count once."""
    deepest = max(min(adapted(training.config.adapter.layers, blocks)) for training in group)
    own = sum(cost(training.config, blocks, shared=blocks) for training in group)
    return deepest + own


def divided(groups: Sequence[list[Training]], blocks: int, processes: int) -> list[list[list[Training]]]:
    """Groups by process, the longest first to whoever has least to do; at most `processes` lists, none empty."""
    shares: list[list[list[Training]]] = [[] for _ in range(processes)]
    loads = [0.0] * processes
    for group in sorted(groups, key=lambda group: -group_cost(group, blocks)):
        least = loads.index(min(loads))
        shares[least].append(group)
        loads[least] += group_cost(group, blocks)
    return [share for share in shares if share]


@dataclass(frozen=True)
class Budget:
    """What an ablation takes.

    Args:
        steps: of each training.
        samples: that each training sees.
        trainings: how many there are.
        alone, together: forward passes of a block in all steps, one training after the other, and as planned.
        minutes: of all training as planned, where the time of a step is known; else None.
        rates: the peak learning rate by variant.
    """

    steps: int
    samples: int
    trainings: int
    alone: float
    together: float
    minutes: float | None
    rates: Mapping[str, float]


def budget_of(plan: AblationPlan, processes: int, seconds_a_step: float | None) -> Budget:
    """The budget of a plan.

    Args:
        plan: of the ablation.
        processes: side by side.
        seconds_a_step: of the baseline alone, where that is known.
    """
    groups = groups_of(plan.trainings)
    steps = plan.base.loop.steps
    alone = sum(cost(training.config, plan.blocks) for training in plan.trainings)
    together = sum(group_cost(group, plan.blocks) for group in groups)
    minutes = None
    if seconds_a_step is not None:
        longest = max(
            sum(group_cost(group, plan.blocks) for group in share) for share in divided(groups, plan.blocks, processes)
        )
        minutes = longest / cost(plan.base, plan.blocks) * seconds_a_step * steps / 60
    return Budget(
        steps=steps,
        samples=steps * plan.base.global_batch,
        trainings=len(plan.trainings),
        alone=alone * steps,
        together=together * steps,
        minutes=minutes,
        rates={variant.name: variant.config.loop.learning_rate for variant in plan.variants.chosen},
    )


def baseline_of(plan: AblationPlan) -> RecipeVariant:
    """The recipe itself."""
    return next(variant for variant in plan.variants.chosen if variant.name == BASELINE)


def blocks_of(pixart: Path) -> int:
    """The number of blocks of a PixArt folder's transformer, from its configuration."""
    from bottega.models.weights import FETCH_AGAIN
    from bottega.runtime.records import read_record

    return read_record(pixart / "transformer" / "config.json", _DepthFile, FETCH_AGAIN).num_layers


@dataclass(frozen=True)
class _DepthFile:
    """What is read of transformer/config.json."""

    num_layers: int
