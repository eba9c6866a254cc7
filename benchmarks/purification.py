"""What Style Purification does, on the miniature, 480 held-out pairs and the mean of 3 seeds: paired differences to the
recipe without any, with intervals, whichever way they fall. There is no bar.

python benchmarks/purification.py [--full] [--json] [--seeds N] [--run DIR] [--folder DIR]

    none          the style's embedding as it is
    content       gated subtraction of the content picture's embedding: the recipe's
    projection    the content picture's embedding projected away
    scene         gated subtraction of the embedding of what the style picture shows (its caption), and nothing else

Two leaks are looked at, each where it is seen, in the pictures: `scene_leak`, things of the style picture's own scene
(percent of the area, beyond what is misread in pictures of other styles), and `copied`, how far the picture's colours
lie back towards the content (0 at the drawn truth, 1 at the content). Beside them what a removal may cost: the kind of
stroke, things in place, the distance to the truth. Kept in the folder, as benchmarks/content_modes.py keeps its own;
the recipe's arm is shared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.arms import METRICS, Arm, difference, estimate, measured, run_experiment, table_line
from common.bench import conclude, say

KIND, SCENE = "student.adapter.purification", "student.adapter.scene_removal"
ARMS = {
    "none": Arm("no purification", {KIND: "none"}),
    "content": Arm("latent"),
    "projection": Arm("projection", {KIND: "projection"}),
    "scene": Arm("scene", {KIND: "none", SCENE: "gated_subtraction"}),
}


def results(run: Path, folder: Path, seeds: int, sets: Mapping[str, Any]) -> dict[str, Any]:
    """Train, measure and compare."""
    scores = {}
    for name, arm in ARMS.items():
        scores[name] = [measured(arm, seed, run, folder, sets) for seed in range(seeds)]
        say(f"{name}: measured")
    rows = {name: {m: estimate(run, arm, m) for m in METRICS} for name, arm in scores.items()}
    others = {name: arm for name, arm in scores.items() if name != "none"}
    against = {n: {m: difference(run, a, scores["none"], m) for m in METRICS} for n, a in others.items()}
    return {"seeds": seeds, "rows": rows, "minus none": against}


def main() -> int:
    """Print the tables."""
    asked, found = run_experiment(__doc__, results)
    lines = []
    for name, row in found["rows"].items():
        lines.append(table_line(f"{name:14}", row))
    for name, row in found["minus none"].items():
        lines.append(table_line(f"{name:12} − none", row))
    return conclude(asked, {**found, "held": True if asked.full else None}, lines)


if __name__ == "__main__":
    raise SystemExit(main())
