"""The factors of an ablation, their levels, and the variants of a recipe that follow from them.

    factor           levels                                       what changes in the section `student`
    layers           2, 4, 8, all; middle-K                       adapter.layers, and the learning rate
    purification     none, projection, gated_subtraction          adapter.purification
    step_schedule    none, piecewise, cosine                      adapter.step_schedule
    fill50k          off                                          fill50k_fraction
    content_mode     sdedit, paired, latent                       adapter.content_mode

The recipe itself is the baseline: a level that it has already is no variant of its own. `middle-K` is the control of
`layers`: as many blocks as the recipe adapts, but from the middle of the transformer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import ValidationError

from bottega.runtime.errors import RequestError
from bottega.student.config import ContentMode, StudentConfig

BASELINE = "baseline"
_COUNTS = (2, 4, 8)
_SMALL_COUNTS = (1, 2, 4)
"""Numbers of adapted blocks to try: the small ones in a transformer of 8 blocks or fewer, where 8 would be all."""
_STYLE_ENTERS = 0.6
"""piecewise: the style enters in so much of the way from the clean picture to where training begins; the rest, the
noisiest part, is left to the layout."""
_DIGITS = 3  # of a learning rate that follows from the rule

Changes = Mapping[str, object]
"""Settings below the section `student`, by dotted names such as `adapter.layers`."""


@dataclass(frozen=True)
class Level:
    """A level of a factor, and the settings that it means."""

    factor: str
    name: str
    changes: Changes


@dataclass(frozen=True)
class RecipeVariant:
    """A recipe with some settings changed.

    Args:
        name: of its row and its folder.
        levels: what it changes; none for the baseline.
        changes: the settings that differ from the recipe's.
        config: the whole section `student` of it.
    """

    name: str
    levels: tuple[Level, ...]
    changes: Changes
    config: StudentConfig

    @property
    def factor(self) -> str:
        """The factors that it changes."""
        return " + ".join(level.factor for level in self.levels)

    @property
    def level(self) -> str:
        """The levels that it changes them to."""
        return " + ".join(level.name for level in self.levels)


@dataclass(frozen=True)
class Variants:
    """All variants, the baseline first, and the levels that were left out, with the reason of each."""

    chosen: tuple[RecipeVariant, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def adapted(layers: object, blocks: int) -> tuple[int, ...]:
    """The blocks that `adapter.layers` means in a transformer of so many; RequestError for one that is not there."""
    from bottega.student.adapter import resolve_layers

    return resolve_layers(layers, blocks)  # type: ignore[arg-type]


def middle(count: int, blocks: int) -> tuple[int, ...]:
    """`count` blocks around the middle of a transformer of `blocks`."""
    first = (blocks - count) // 2
    return tuple(range(first, first + count))


def _layers(base: StudentConfig, blocks: int) -> Iterator[Level]:
    counts = _COUNTS if blocks > max(_COUNTS) else _SMALL_COUNTS
    for count in counts:
        if count < blocks:
            yield Level("layers", str(count), {"adapter.layers": count})
    yield Level("layers", "all", {"adapter.layers": "all"})
    own = len(adapted(base.adapter.layers, blocks))
    if own < blocks:
        yield Level("layers", f"middle-{own}", {"adapter.layers": middle(own, blocks)})


def _purification(base: StudentConfig, blocks: int) -> Iterator[Level]:
    for kind in ("none", "projection", "gated_subtraction"):
        yield Level("purification", kind, {"adapter.purification": kind})


def _step_schedule(base: StudentConfig, blocks: int) -> Iterator[Level]:
    adapter = base.adapter
    # The factor is a function of t/T. Where training ends at the start of sampling, all of t is below the strength.
    far = 1.0 if adapter.content_mode == "sdedit" or adapter.start == "noise" else adapter.strength
    piecewise = {"kind": "piecewise", "begin": 0.0, "end": round(_STYLE_ENTERS * far, 4), "low": 0.0}
    yield Level("step_schedule", "none", {"adapter.step_schedule": {"kind": "none"}})
    yield Level("step_schedule", "piecewise", {"adapter.step_schedule": piecewise})
    yield Level("step_schedule", "cosine", {"adapter.step_schedule": {"kind": "cosine"}})


def _fill50k(base: StudentConfig, blocks: int) -> Iterator[Level]:
    yield Level("fill50k", "off", {"fill50k_fraction": 0.0})
    if base.fill50k_fraction > 0:
        yield Level("fill50k", "on", {"fill50k_fraction": base.fill50k_fraction})


def _content_mode(base: StudentConfig, blocks: int) -> Iterator[Level]:
    for mode in get_args(ContentMode):
        # Pure noise shows no content but in mode latent.
        start = base.adapter.start if mode == "latent" else "content"
        yield Level("content_mode", mode, {"adapter.content_mode": mode, "adapter.start": start})


FACTORS: Mapping[str, Callable[[StudentConfig, int], Iterator[Level]]] = {
    "layers": _layers,
    "purification": _purification,
    "step_schedule": _step_schedule,
    "fill50k": _fill50k,
    "content_mode": _content_mode,
}


def one_factor(
    base: StudentConfig, factors: Sequence[str], blocks: int, rates: Mapping[str, float] | None = None
) -> Variants:
    """The baseline, and each level of each factor by itself.

    Args:
        base: the recipe's section `student`.
        factors: names of `FACTORS`.
        blocks: of the transformer.
        rates: learning rates by level of `layers`, in place of `learning_rate_for`.

    Raises:
        RequestError: there is no such factor.
    """
    combinations: list[tuple[Level, ...]] = [()]
    for factor in factors:
        combinations += [(level,) for level in _levels(factor, base, blocks)]
    return _variants(base, combinations, blocks, rates or {})


def full_grid(
    base: StudentConfig, factors: Sequence[str], blocks: int, rates: Mapping[str, float] | None = None
) -> Variants:
    """Every level of every factor with every level of the others; arguments as `one_factor`."""
    levels = [_levels(factor, base, blocks) for factor in factors]
    combinations: list[tuple[Level, ...]] = [(), *itertools.product(*levels)]
    return _variants(base, combinations, blocks, rates or {})


def _levels(factor: str, base: StudentConfig, blocks: int) -> list[Level]:
    if factor not in FACTORS:
        raise RequestError(f"an ablation has the factors {', '.join(FACTORS)}, received {factor!r}; name some of them")
    return list(FACTORS[factor](base, blocks))


def _variants(
    base: StudentConfig, combinations: Sequence[tuple[Level, ...]], blocks: int, rates: Mapping[str, float]
) -> Variants:
    """The variants of combinations of levels; levels that the recipe has already change nothing and are not named."""
    chosen: dict[str, RecipeVariant] = {}
    left_out: dict[str, str] = {}
    for combination in combinations:
        levels = tuple(level for level in combination if _changed(base, level, blocks))
        name = "+".join(f"{level.factor}-{level.name}" for level in levels) or BASELINE
        if name in chosen:
            continue
        changes: dict[str, object] = {}
        for level in levels:
            changes |= level.changes
        rate = _rate(base, levels, blocks, rates)
        if rate != base.loop.learning_rate:
            changes["loop.learning_rate"] = rate
        try:
            chosen[name] = RecipeVariant(name, levels, changes, with_changes(base, changes))
        except ValidationError as error:
            left_out[name] = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return Variants(tuple(chosen.values()), left_out)


def _changed(base: StudentConfig, level: Level, blocks: int) -> bool:
    """Whether a level is another than the recipe's own."""
    if level.factor == "layers":
        return adapted(level.changes["adapter.layers"], blocks) != adapted(base.adapter.layers, blocks)
    if level.factor == "step_schedule":
        return level.name != base.adapter.step_schedule.kind
    try:
        return with_changes(base, level.changes) != base
    except ValidationError:
        return True  # it is left out with its reason


def _rate(base: StudentConfig, levels: Sequence[Level], blocks: int, rates: Mapping[str, float]) -> float:
    """The learning rate of a variant: what was given for its level of `layers`, else by the rule."""
    for level in levels:
        if level.factor == "layers":
            if level.name in rates:
                return rates[level.name]
            count = len(adapted(level.changes["adapter.layers"], blocks))
            return learning_rate_for(base, count, len(adapted(base.adapter.layers, blocks)))
    return base.loop.learning_rate


def learning_rate_for(base: StudentConfig, count: int, own: int) -> float:
    """The peak learning rate for `count` adapted blocks, where the recipe's is for its `own`: η √(own / count).

    AdamW moves each weight by about η a step, whatever the size of the gradient. The changes that `count` blocks make
    add up in the residual stream; as they point in different directions, their sum grows with √count. So the rule keeps
    the change of the output a step, and what a number of blocks is worth is not mistaken for a larger step.
    """
    if count == own:
        return base.loop.learning_rate
    rate = base.loop.learning_rate * math.sqrt(own / count)
    return float(f"{rate:.{_DIGITS}g}")


def with_changes(base: StudentConfig, changes: Changes) -> StudentConfig:
    """The section `student` with some settings changed.

    Raises:
        ValidationError: they do not go together.
    """
    data: dict[str, Any] = base.model_dump()
    for name, value in changes.items():
        *path, last = name.split(".")
        section = data
        for part in path:
            section = section[part]
        section[last] = value
    return StudentConfig.model_validate(data)
