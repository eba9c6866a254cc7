"""A drawn world of its own for a benchmark of the teacher: contents, styles, a pair list and limits, in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.bench import bottega

RECIPE = Path(__file__).parents[2] / "recipes" / "miniature_quick.yaml"
STABILISED = {  # the default protocol, which the quick recipe shortens to 10 steps
    "size": 128,
    "steps": 25,
    "strength": 0.40,
    "guidance_scale": 3.5,
    "ip_adapter_scale": 0.30,
}
MINIATURE = {**STABILISED, "guidance_scale": 1.0, "ip_adapter_scale": 1.0}
"""What recipes/miniature.yaml asks of the miniature's SDXL, whose values are calibrated for its size."""


@dataclass(frozen=True)
class World:
    """Where things lie."""

    data_root: Path
    pairs: Path
    thresholds: Path
    others: Path
    """A dozen pairs of contents and styles that the pair list has not, to warm up with."""
    recipe: Path = RECIPE

    def read_pairs(self, count: int | None = None) -> list[dict[str, Any]]:
        """The first rows of the pair list."""
        return [json.loads(line) for line in self.pairs.read_text(encoding="utf-8").splitlines()[:count]]

    def with_limits(self, **limits: float) -> World:
        """The same with some limits of the grades changed, in a file of its own."""
        known = json.loads(self.thresholds.read_text(encoding="utf-8"))
        changed = self.thresholds.with_name("changed.json")
        changed.write_text(json.dumps({**known, **limits}), encoding="utf-8")
        return replace(self, thresholds=changed)

    def teach(self, output: Path, settings: Mapping[str, Any], pairs: Path | None = None) -> list[str]:
        """The words of `bottega teach` with these settings of the section `teacher`; seed 0 alone."""
        given = (word for key, value in settings.items() for word in ("--set", f"teacher.{key}={json.dumps(value)}"))
        return [
            *(sys.executable, "-m", "bottega", "teach", "--recipe", str(self.recipe), "--output-dir", str(output)),
            *("--pairs", str(pairs or self.pairs), "--data-root", str(self.data_root)),
            *("--thresholds", str(self.thresholds), "--seeds", "0", *given),
        ]


def draw(folder: Path, *, pairs: int, contents: int, paintings: int, truths: int) -> World:
    """Draw a world by the commands that a user has.

    Args:
        pairs: length of the pair list.
        contents: scenes to pair.
        paintings: style pictures, three a painter; a few are kept for validation and test.
        truths: drawn truths that the limits are calibrated on, at least 8.
    """
    sizes = {"world.contents": contents, "world.painters": -(-paintings // 3), "world.paintings": 3}
    sizes |= {"pairs.train": pairs, "truth.calibration_pairs": truths, "quality.sample": truths}
    words = ["run", str(RECIPE), "--until", "quality", "--directory", str(folder)]
    given: Iterable[str] = (word for key, value in sizes.items() for word in ("--set", f"{key}={value}"))
    bottega(*words, *given)
    return at(folder)


def at(folder: Path) -> World:
    """The world that was drawn in `folder`."""
    lists = folder / "pairs"
    thresholds = folder / "quality" / "thresholds.json"
    return World(folder / "data", lists / "train.jsonl", thresholds, others=lists / "test.jsonl")
