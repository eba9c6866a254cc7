"""An interval of nominally 95 % covers the true mean in 93 to 97 % of simulated experiments: contents × styles ×
training seeds with effects of each, of their interactions and of the single picture, also with 4 contents, 3 seeds, an
effect that is absent, or effects that are not normal.

python benchmarks/interval_coverage.py [--full] [--json] [--experiments N]

Bar: each design with each set of effects between 93 and 97 %, but for two standard errors of counting. Peers, in the
same experiments: pictures as independent samples, and an interval over contents and styles of scores averaged over
seeds, which is what is usually reported.

Reported without a bar: two seeds; effects that are uniform or have a long tail on one side, whose shape three seeds
can't show; and no effect at all but that of the single picture, where every mean square overstates and the interval is
wider than it must be. The interval that `bottega evaluate` gives for one training, a bootstrap from 20 contents and
styles on, has the same bar. The short form has fewer designs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from common.bench import Arguments, conclude, say

from bottega.evaluation.bootstrap import crossed_mean
from bottega.evaluation.factors import analyse

Floats = npt.NDArray[np.float64]
Design = tuple[int, int, int]
LOW, HIGH = 93.0, 97.0

NAMES = ("content", "style", "seed", "content_style", "content_seed", "style_seed", "residual")


@dataclass(frozen=True)
class Effects:
    """Standard deviations in the order of `NAMES`, the kind of distribution, and whether the bar counts."""

    sizes: tuple[float, ...]
    kind: str = "normal"
    counts: bool = True


PLAIN = (0.05, 0.05, 0.03, 0.0, 0.0, 0.0, 0.06)
MIXED = (0.05, 0.05, 0.04, 0.03, 0.02, 0.02, 0.06)
EFFECTS: Mapping[str, Effects] = {
    "plain": Effects(PLAIN),
    "interactions": Effects(MIXED),
    "no content": Effects((0.0, 0.05, 0.03, 0.0, 0.0, 0.0, 0.06)),
    "no style": Effects((0.05, 0.0, 0.03, 0.0, 0.0, 0.0, 0.06)),
    "no seed": Effects((0.05, 0.05, 0.0, 0.0, 0.0, 0.0, 0.06)),
    "seed alone": Effects((0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.06)),
    "uniform": Effects(MIXED, "uniform", counts=False),
    "t of 5": Effects(MIXED, "t"),
    "Laplace": Effects(MIXED, "laplace"),
    "exponential": Effects(MIXED, "exponential", counts=False),
    "residual alone": Effects((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.06), counts=False),
}
SHORT_EFFECTS = ("plain", "interactions", "no content", "no seed", "t of 5", "residual alone")

DESIGNS: tuple[Design, ...] = (
    (20, 20, 3),
    (20, 20, 5),
    (20, 24, 3),
    (8, 8, 3),
    (4, 20, 3),
    (20, 4, 3),
    (4, 4, 3),
    (4, 4, 5),
    (20, 20, 2),
    (20, 20, 1),
    (8, 8, 1),
    (4, 20, 1),
    (4, 4, 1),
)
SHORT_DESIGNS: tuple[Design, ...] = ((20, 20, 3), (4, 20, 3), (4, 4, 3), (20, 20, 2), (20, 20, 1), (4, 20, 1))
BOOTSTRAPPED: tuple[Design, ...] = ((20, 20, 1), (8, 8, 1), (4, 20, 1))
_BLOCK = 2000  # experiments at once: 80 MB at 20 × 20 × 5


def simulate(rng: np.random.Generator, design: Design, effects: Effects, experiments: int) -> Floats:
    """Scores of true mean 0, [N, C, S, T]. With one training its own effect is part of the mean: it is left out."""
    contents, styles, seeds = design
    shapes = {
        "content": (contents, 1, 1),
        "style": (1, styles, 1),
        "seed": (1, 1, seeds),
        "content_style": (contents, styles, 1),
        "content_seed": (contents, 1, seeds),
        "style_seed": (1, styles, seeds),
        "residual": design,
    }
    scores = np.zeros((experiments, *design))
    for name, size in zip(NAMES, effects.sizes, strict=True):
        if size and not (seeds == 1 and "seed" in name):
            scores += size * draw(rng, effects.kind, (experiments, *shapes[name]))
    return scores


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Floats:
    """Numbers of mean 0 and variance 1."""
    if kind == "uniform":
        return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)
    if kind == "t":
        return rng.standard_t(5, shape) / math.sqrt(5 / 3)
    if kind == "laplace":
        return rng.laplace(0, math.sqrt(0.5), shape)
    if kind == "exponential":
        return rng.exponential(1, shape) - 1
    return rng.normal(0, 1, shape)


def covered(rng: np.random.Generator, design: Design, effects: Effects, experiments: int) -> dict[str, float]:
    """How often each way's interval holds the true mean, in percent, and how wide ours is, in standard errors."""
    ours = plain = averaged = 0
    widths: list[Floats] = []
    for start in range(0, experiments, _BLOCK):
        scores = simulate(rng, design, effects, min(_BLOCK, experiments - start))
        found = analyse(scores)
        half = found.half_widths()
        ours += int((np.abs(found.means) <= half).sum())
        widths.append(half)
        z = NormalDist().inv_cdf(0.975)
        alone = z * scores.std((1, 2, 3), ddof=1) / math.sqrt(math.prod(design))
        plain += int((np.abs(found.means) <= alone).sum())
        flat = analyse(scores.mean(3, keepdims=True))
        averaged += int((np.abs(flat.means) <= flat.half_widths()).sum())
    counts = {"interval": ours, "contents and styles alone": averaged, "independent": plain}
    shares = {name: 100 * count / experiments for name, count in counts.items()}
    return {**shares, "half width": float(np.median(np.concatenate(widths)))}


def bootstrapped(rng: np.random.Generator, design: Design, effects: Effects, experiments: int) -> float:
    """How often the interval of `bottega.evaluation.bootstrap` holds the true mean, in percent."""
    inside = 0
    for scores in simulate(rng, design, effects, experiments)[..., 0]:
        found = crossed_mean(scores)
        inside += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    return 100 * inside / experiments


def counts(design: Design, effects: Effects) -> bool:
    """Whether the bar is for this combination."""
    return effects.counts and design[2] != 2


def within(share: float, experiments: int) -> bool:
    """Whether a share in percent may be one of a true coverage between the bounds."""
    slack = 2 * math.sqrt(share * (100 - share) / experiments)
    return LOW - slack <= share <= HIGH + slack


def main() -> int:
    """Simulate, print the table, compare with the bar."""
    arguments = Arguments(__doc__)
    arguments.add_size("--experiments", short=2000, full=4000, help="simulated a design and set of effects")
    arguments.add_size("--bootstraps", short=100, full=1000, help="experiments of the interval for one training")
    asked = arguments.parse()
    rng = np.random.default_rng(0)
    lines = [f"{'design':>12} {'effects':15} {'interval':>9} {'c × s alone':>12} {'independent':>12}"]
    rows: list[dict[str, Any]] = []
    for design in DESIGNS if asked.full else SHORT_DESIGNS:
        for name in EFFECTS if asked.full else SHORT_EFFECTS:
            if design[2] == 1 and name == "seed alone":
                continue
            effects = EFFECTS[name]
            found = covered(rng, design, effects, asked.experiments)
            bar = counts(design, effects)
            held = within(found["interval"], asked.experiments)
            rows.append({"design": design, "effects": name, "bar": bar, "held": held, **found})
            mark = "" if not bar else " held" if held else " MISSED"
            place = "×".join(str(levels) for levels in design)
            alone, apart = found["contents and styles alone"], found["independent"]
            lines.append(f"{place:>12} {name:15} {found['interval']:8.1f}% {alone:11.1f}% {apart:11.1f}%{mark}")
        say(lines[-1])
    bootstrap: list[dict[str, Any]] = []
    for design in BOOTSTRAPPED if asked.full else BOOTSTRAPPED[:2]:
        for name in ("plain", "no content", "no style"):
            share = bootstrapped(rng, design, EFFECTS[name], asked.bootstraps)
            held = within(share, asked.bootstraps)
            bootstrap.append({"design": design, "effects": name, "held": held, "interval": share})
            mark = "held" if held else "MISSED"
            lines.append(f"one training, as the table has it, {design[0]}×{design[1]} {name}: {share:.1f}% {mark}")
        say(lines[-1])
    held = all(row["held"] for row in [*rows, *bootstrap] if row.get("bar", True))
    result = {"experiments": asked.experiments, "rows": rows, "bootstrap": bootstrap, "held": held}
    return conclude(asked, result, lines)


if __name__ == "__main__":
    raise SystemExit(main())
