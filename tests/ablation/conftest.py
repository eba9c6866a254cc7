"""The small world of the student's tests: its features, and test pairs that cross its contents and styles."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.student.conftest import CONTENTS, STYLES, features, models, world

from bottega.ablation.plan import AblationPlan, blocks_of, budgeted
from bottega.ablation.stage import Ground
from bottega.ablation.variants import one_factor
from bottega.models.config import ModelsConfig
from bottega.runtime.files import write_jsonl
from bottega.student.config import StudentConfig

__all__ = ["features", "models", "world"]

STUDENT = StudentConfig.model_validate(
    {
        "adapter": {"layers": 1, "strength": 0.4, "content_mode": "paired"},
        "loop": {"steps": 12, "learning_rate": 1e-3, "warmup_steps": 2, "checkpoint_every": 2},
        "batch_size": 4,
        "accumulation": 1,
        "validation": {"pictures": 2, "timesteps": 2},
        "sampling": {"steps": 2},
    }
)


@pytest.fixture(scope="session")
def ground(world: Path, features: Path, models: ModelsConfig) -> Ground:
    """What variants stand on."""
    rows = []
    for c in range(CONTENTS):
        for s in range(STYLES):
            row = {"pair_id": f"c{c}_s{s}", "content_id": f"c{c}", "style_id": f"s{s}", "style": f"kind {s}"}
            row |= {"content_path": f"coco/c{c}.png", "style_path": f"wikiart/s{s}.png", "split": "test"}
            rows.append({**row, "prompt": f"Picture number {c}", "caption_index": 0, "seeds": [0]})
    pairs = world / "pairs" / "test.jsonl"
    write_jsonl(pairs, rows)
    return Ground("small", models, features, pairs, world / "data")


@pytest.fixture(scope="session")
def plan(ground: Ground) -> AblationPlan:
    """The recipe and one without Fill50K, with two seeds each."""
    base = budgeted(STUDENT, None)
    blocks = blocks_of(Path(str(ground.models.pixart)))
    return AblationPlan("one factor", one_factor(base, ["fill50k"], blocks), (0, 1), base, blocks)
