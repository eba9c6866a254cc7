"""Intervals for scores of contents × styles × training seeds: each factor is a sample, so each adds to the spread.

Scores of 20 contents × 20 styles × 3 trainings are not 1 200 samples: a hard content is hard in every style and after
every training, and a training that went badly is bad everywhere. The model is that of three crossed random factors
without replication (Searle, Casella and McCulloch 1992, "Variance components"):

    score = mean + content + style + seed + content·style + content·seed + style·seed + residual

Its mean squares MS say how far the mean may be off. With the levels' number N = C · S · T,

    N · Var(mean) = MS_C + MS_S + MS_T - MS_CS - MS_CT - MS_ST + MS_CST

without bias; it is never taken below the largest of the first three, which a noisy subtraction would undercut. A factor
with one level drops out, and the note says that the interval is for that level only.

How many standard errors the interval has is Student's t, but of which degrees of freedom? Of Satterthwaite (1946), with
each factor's share of the variance as its weight, they are too many where a factor of few levels happens to look small;
Cochran and Cox's mean of the factors' own t, by the same weights, is too careful. Their geometric mean is taken, in
which Cochran's has the weight d^(-1.5) · (1 - d / D), d the fewest degrees of freedom of any factor and D their mean
by the shares: nearly all beside two seeds, a third beside three, nothing between factors of equal size. In simulations
that covers 93 to 97 % at nominally 95 (`benchmarks/interval_coverage.py`).

Legend: N experiments that are analysed at once, C contents, S styles, T training seeds; a "source" is a set of factors
whose levels a term of the model depends on, as axes: (0,) contents, (0, 1) contents · styles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bottega.evaluation.records import ComponentRecord, FactorRecord, VariancesRecord
from bottega.evaluation.t_distribution import quantile, two_sided

Cube = npt.NDArray[np.float64]  # [C, S, T]
Floats = npt.NDArray[np.float64]
Source = tuple[int, ...]

METHOD = "random effects of contents, styles and training seeds; t of Satterthwaite and Cochran"
"""What the intervals are, in a few words, for reports."""

KEPT = 0.5
"""Share of the scores that a complete block must hold: with less, the interval would be one of another mean."""

FEW = 4.0
"""Degrees of freedom up to which a note says that the interval is wide: t is 2.8 there and 12.7 at 1, not 2."""

_LEAST_P = 1e-12  # below it 1 - p is hardly distinguished from 1

FACTORS = ("content", "style", "seed")
_ONE = ("this one content", "this one style", "this one training")
_SOURCES: Mapping[str, Source] = {
    "content": (0,),
    "style": (1,),
    "seed": (2,),
    "content_style": (0, 1),
    "content_seed": (0, 2),
    "style_seed": (1, 2),
    "residual": (0, 1, 2),
}


@dataclass(frozen=True)
class Component:
    """An estimated variance: `raw` may be negative by chance, `estimate` is then 0."""

    estimate: float
    raw: float

    def record(self) -> ComponentRecord:
        """As JSON."""
        return {"estimate": self.estimate, "raw": self.raw}


@dataclass(frozen=True)
class Variances:
    """The model's variances; None where they are not known, as each one of a factor that has a single level.

    `residual` is that of the term of all factors that have several: it holds what a second picture of the same content,
    style and training would add, and with one training what differs by content and style.
    """

    content: Component | None = None
    style: Component | None = None
    seed: Component | None = None
    content_style: Component | None = None
    content_seed: Component | None = None
    style_seed: Component | None = None
    residual: Component | None = None

    def record(self) -> VariancesRecord:
        """As JSON."""
        return {
            "content": None if self.content is None else self.content.record(),
            "style": None if self.style is None else self.style.record(),
            "seed": None if self.seed is None else self.seed.record(),
            "content_style": None if self.content_style is None else self.content_style.record(),
            "content_seed": None if self.content_seed is None else self.content_seed.record(),
            "style_seed": None if self.style_seed is None else self.style_seed.record(),
            "residual": None if self.residual is None else self.residual.record(),
        }


@dataclass(frozen=True)
class FactorEstimate:
    """A mean of a cube of scores with its interval.

    Attributes:
        value: the mean.
        low, high: its interval; None where it is not known.
        no_interval: why it can't; empty where it can.
        level: nominal coverage of the interval, a share.
        n: scores that the numbers were made of.
        contents, styles, seeds: their levels.
        standard_error: of the mean; None without an interval.
        degrees_of_freedom: Satterthwaite's, of the standard error; None without an interval.
        variances: by factor.
        note: what the interval does not say, or why it is wide; may be empty.
        shares, freedoms: of each factor with several levels its share of the variance and its degrees of freedom, in
            the order of `FACTORS`; with them the interval at any other level follows.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    n: int
    contents: int
    styles: int
    seeds: int
    standard_error: float | None = None
    degrees_of_freedom: float | None = None
    variances: Variances = field(default_factory=Variances)
    no_interval: str = ""
    note: str = ""
    shares: tuple[float, ...] = ()
    freedoms: tuple[float, ...] = ()

    def interval(self, level: float) -> tuple[float, float] | None:
        """The interval at another level; None where there is none."""
        if self.standard_error is None:
            return None
        half = self.standard_error * self.multiplier(level)
        return self.value - half, self.value + half

    def multiplier(self, level: float) -> float:
        """How many standard errors the interval of this level reaches to either side."""
        return float(_multiplier(np.array([self.shares]), np.array(self.freedoms), level)[0])

    def p_value(self) -> float | None:
        """How likely a mean this far from 0 is where the true one is 0: the level at which the interval touches 0."""
        if self.standard_error is None:
            return None
        return _p_value(abs(self.value) / self.standard_error, np.array([self.shares]), np.array(self.freedoms))

    def record(self) -> FactorRecord:
        """As JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "n": self.n,
            "contents": self.contents,
            "styles": self.styles,
            "seeds": self.seeds,
            "standard_error": self.standard_error,
            "degrees_of_freedom": self.degrees_of_freedom,
            "p_value": self.p_value(),
            "variances": self.variances.record(),
            "no_interval": self.no_interval,
            "note": self.note,
        }


@dataclass(frozen=True)
class Analysis:
    """Many complete cubes of one shape at once; arrays have one value an experiment.

    Attributes:
        means: [N].
        squares: mean squares of each source of the factors with several levels, each [N].
        freedoms: degrees of freedom of each source.
        shape: contents, styles, seeds.
    """

    means: Floats
    squares: Mapping[Source, Floats]
    freedoms: Mapping[Source, int]
    shape: tuple[int, int, int]

    @property
    def factors(self) -> list[Source]:
        """Those with several levels."""
        return [source for source in self.squares if len(source) == 1]

    def variances(self) -> Floats:
        """Of each mean, [N]."""
        unbiased = np.zeros_like(self.means)
        for source, square in self.squares.items():
            unbiased += square if len(source) % 2 else -square
        # None of these can exceed the truth but by chance. A part of the residual, for scores whose factors' means all
        # agree: their interval would have no width.
        floors = [self.squares[factor] for factor in self.factors]
        floors.append(self.squares[max(self.squares, key=len)] / 4)
        largest = np.max(floors, axis=0)
        of_means: Floats = np.maximum(unbiased, largest) / math.prod(self.shape)
        return of_means

    def shares(self) -> Floats:
        """Of each factor the share of the variance that its levels' differences make, [N, factors]."""
        residual = self.squares[max(self.squares, key=len)] if len(self.factors) > 1 else 0.0
        mains = np.stack([self.squares[factor] for factor in self.factors], axis=-1)
        # The residual is in every mean square, and says nothing about a factor.
        above = np.maximum(mains - np.asarray(residual)[..., None], 0.0)
        none = above.sum(-1, keepdims=True) == 0
        weights = np.where(none, mains, above)
        total = weights.sum(-1, keepdims=True)
        # Scores that are all equal have no variance to share.
        shares: Floats = np.divide(weights, total, out=np.full_like(weights, 1 / len(self.factors)), where=total > 0)
        return shares

    def factor_freedoms(self) -> Floats:
        """Degrees of freedom of each factor, [factors]."""
        return np.array([self.freedoms[factor] for factor in self.factors], dtype=np.float64)

    def half_widths(self, level: float = 0.95) -> Floats:
        """Of the intervals around the means, [N]."""
        half: Floats = np.sqrt(self.variances()) * _multiplier(self.shares(), self.factor_freedoms(), level)
        return half

    def component(self, source: Source) -> Floats:
        """The variance of a source's term, [N]; it may be negative by chance."""
        signed = np.zeros_like(self.means)
        for other, square in self.squares.items():
            if set(source) <= set(other):
                signed += square if (len(other) - len(source)) % 2 == 0 else -square
        cells = math.prod(levels for axis, levels in enumerate(self.shape) if axis not in source)
        return signed / cells


UNBOUNDED = (-math.inf, math.inf)


def crossed_seeds_mean(values: Cube, *, level: float = 0.95, within: tuple[float, float] = UNBOUNDED) -> FactorEstimate:
    """The mean of a crossed cube of scores with its interval and the variance of each factor.

    With scores missing, the largest complete block of contents × styles × seeds counts that is found by leaving out one
    line after the other; the note says how many scores that leaves out. With a single training (T = 1) the interval is
    for that one only: contents and styles alone make it.

    Args:
        values: [C, S, T]; NaN marks an absent cell, any other cell must be finite.
        level: nominal coverage, a share.
        within: what the mean can be; an end of the interval beyond it is moved there, which loses no coverage.

    Raises:
        ValueError: no cell has a score, one is infinite, or `values` has not three axes.
    """
    _require_scores(values)
    present = ~np.isnan(values)
    block = complete_block(values)
    left_out = int(present.sum()) - block.size
    contents, styles, seeds = block.shape
    if block.size < KEPT * present.sum():
        reason = f"no complete contents × styles × seeds holds {KEPT:.0%} of the {int(present.sum())} scores"
        return _untold(values[present], _levels(present), level, reason)
    if block.size == 1:
        return _untold(block, block.shape, level, "one content, one style and one training show no spread")
    if np.ptp(block) == 0:
        return _untold(block, block.shape, level, "all scores are equal: no spread was seen, which is not none at all")
    analysis = analyse(block[None])
    error = math.sqrt(analysis.variances()[0])
    shares, freedoms = analysis.shares(), analysis.factor_freedoms()
    half = error * float(_multiplier(shares, freedoms, level)[0])
    value = float(analysis.means[0])
    freedom = float(_satterthwaite(shares, freedoms)[0])
    return FactorEstimate(
        value=value,
        low=max(value - half, within[0]),
        high=min(value + half, within[1]),
        level=level,
        n=block.size,
        contents=contents,
        styles=styles,
        seeds=seeds,
        standard_error=error,
        degrees_of_freedom=freedom,
        variances=_variances(analysis),
        note=_note(block.shape, left_out, freedom, shares[0], analysis.factors),
        shares=tuple(shares[0].tolist()),
        freedoms=tuple(freedoms.tolist()),
    )


def crossed_seeds_difference(first: Cube, second: Cube, *, level: float = 0.95) -> FactorEstimate:
    """The mean of `first - second`, paired cell by cell, with its interval; only cells count that both have.

    Args:
        first, second: [C, S, T] of the same contents, styles and seeds; NaN marks an absent cell.
        level: nominal coverage, a share.

    Raises:
        ValueError: the shapes differ, no cell has both scores, or one is infinite.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"paired scores must be of the same contents × styles × seeds, got {first.shape} and {second.shape}"
        )
    for values in (first, second):
        _require_scores(values)
    return crossed_seeds_mean(first - second, level=level)


def analyse(values: Floats) -> Analysis:
    """Mean squares of complete cubes.

    Args:
        values: [N, C, S, T], all finite; at least one factor with two levels.
    """
    shape = (values.shape[1], values.shape[2], values.shape[3])
    squares: dict[Source, Floats] = {}
    freedoms: dict[Source, int] = {}
    for source in _subsets([axis for axis in range(3) if shape[axis] > 1])[1:]:
        # What the levels of these factors share beyond what the levels of fewer of them do.
        effect = _mean_by(values, source)
        for part in _subsets(source)[:-1]:
            effect = effect + (-1) ** (len(source) - len(part)) * _mean_by(values, part)
        cells = math.prod(shape[axis] for axis in range(3) if axis not in source)
        freedoms[source] = math.prod(shape[axis] - 1 for axis in source)
        squares[source] = cells * (effect**2).sum((1, 2, 3)) / freedoms[source]
    return Analysis(values.mean((1, 2, 3)), squares, freedoms, shape)


def complete_block(values: Cube) -> Cube:
    """The cube without its empty lines, and without those whose absent cells keep the rest from being complete.

    One line after the other is left out, of whichever factor has the one with the largest share of absent cells.
    """
    while True:
        absent = np.isnan(values)
        if not absent.any():
            return values
        worst, axis, index = -1.0, 0, 0
        for candidate in range(3):
            others = tuple(other for other in range(3) if other != candidate)
            shares = absent.mean(axis=others)
            if shares.max() > worst:
                worst, axis, index = float(shares.max()), candidate, int(shares.argmax())
        values = np.delete(values, index, axis)


def _subsets(axes: Sequence[int]) -> list[Source]:
    """All sets of some axes, the empty one first and all of them last."""
    found: list[Source] = []
    for size in range(len(axes) + 1):
        found += itertools.combinations(axes, size)
    return found


def _mean_by(values: Floats, source: Source) -> Floats:
    """Means over all factors that are not in `source`, whose axes stay with length 1."""
    others = tuple(axis + 1 for axis in range(3) if axis not in source)
    means: Floats = values.mean(axis=others, keepdims=True)
    return means


def _require_scores(values: Cube) -> None:
    if values.ndim != 3:
        raise ValueError(f"scores must be contents × styles × seeds, got {values.ndim} axes; add one of length 1")
    if np.isinf(values).any():
        raise ValueError("scores must be finite or absent (NaN), got an infinite one; find the picture it came from")
    if np.isnan(values).all():
        shape = " × ".join(str(levels) for levels in values.shape)
        raise ValueError(f"a mean needs at least one score, got a {shape} cube without any")


def _levels(present: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """How many contents, styles and seeds have a score."""
    return (
        int(present.any(axis=(1, 2)).sum()),
        int(present.any(axis=(0, 2)).sum()),
        int(present.any(axis=(0, 1)).sum()),
    )


def _untold(scores: Floats, shape: tuple[int, ...], level: float, reason: str) -> FactorEstimate:
    contents, styles, seeds = shape
    return FactorEstimate(
        float(scores.mean()), None, None, level, scores.size, contents, styles, seeds, no_interval=reason
    )


def _variances(analysis: Analysis) -> Variances:
    found: dict[str, Component] = {}
    top = max(analysis.squares, key=len)
    for name, source in _SOURCES.items():
        # The term of all factors is the residual, also where one of the three has a single level.
        if name != "residual" and (source == top or source not in analysis.squares):
            continue
        raw = float(analysis.component(top if name == "residual" else source)[0])
        found[name] = Component(max(raw, 0.0), raw)
    return Variances(**found)


def _note(shape: tuple[int, ...], left_out: int, freedom: float, shares: Floats, factors: list[Source]) -> str:
    notes: list[str] = []
    single = [_ONE[axis] for axis in range(3) if shape[axis] == 1]
    if single:
        notes.append(f"for {' and '.join(single)} only: what another would change is not in the interval")
    if freedom <= FEW:
        axis = factors[int(shares.argmax())][0]
        plural = ("contents", "styles", "seeds")[axis]
        notes.append(f"wide: most of the spread is between only {shape[axis]} {plural}")
    if left_out:
        notes.append(f"{left_out} scores are left out, which no complete contents × styles × seeds holds")
    return "; ".join(notes)


def _satterthwaite(shares: Floats, freedoms: Floats) -> Floats:
    """Degrees of freedom of a sum of mean squares, [N], from their shares of it, [N, factors]."""
    found: Floats = 1 / (shares**2 / freedoms).sum(-1)
    return found


def _multiplier(shares: Floats, freedoms: Floats, level: float | Floats) -> Floats:
    """How many standard errors an interval reaches, [N]; see the head of this module.

    Args:
        shares: [N, factors].
        freedoms: [factors].
        level: of all intervals, or of each, [N].
    """
    p = (1 + np.asarray(level)) / 2
    satterthwaite = quantile(p, _satterthwaite(shares, freedoms))
    cochran = (shares * quantile(p[..., None], freedoms)).sum(-1)
    fewest = freedoms.min()
    weight = fewest**-1.5 * (1 - fewest / (shares * freedoms).sum(-1))
    found: Floats = satterthwaite ** (1 - weight) * cochran**weight
    return found


def _p_value(distance: float, shares: Floats, freedoms: Floats) -> float:
    """The two-sided p of a mean `distance` standard errors from 0: where `_multiplier` reaches exactly that far."""
    if len(freedoms) == 1:
        return float(two_sided(distance, freedoms[0]))
    # It lies between the p-values of the most and of the fewest degrees of freedom: look at some levels between both,
    # on a log scale, then at some between the two nearest.
    most = max(float(_satterthwaite(shares, freedoms)[0]), float(freedoms.max()))
    low = max(float(two_sided(distance, most)), _LEAST_P)
    high = max(float(two_sided(distance, freedoms.min())), _LEAST_P)
    for _ in range(3):
        misses = np.geomspace(high, low, 30)
        reaches = _multiplier(shares, freedoms, 1 - misses)  # [30], rising
        after = int(np.clip(np.searchsorted(reaches, distance), 1, len(misses) - 1))
        high, low = float(misses[after - 1]), float(misses[after])
    return math.sqrt(low * high)
