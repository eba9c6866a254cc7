"""One content–style pair learned by heart, through the same ledger, features, training and header as any run.

It is the smallest proof that no part is broken: a student that can't learn one pair can't learn a thousand.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.runtime.files import sha256_file, write_bytes
from bottega.student.config import FeaturesConfig, StudentConfig

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.student.records import SharedReport, TrainingReport


def overfit_one(
    content: Path,
    style: Path,
    target: Path,
    prompt: str,
    directory: Path,
    *,
    models: ModelsConfig,
    config: StudentConfig | None = None,
    steps: int = 600,
) -> TrainingReport | SharedReport:
    """Train an adapter on one pair alone; writes `directory`/{teacher, features, training}.

    Args:
        content, style, target: picture files.
        prompt: of the target.
        directory: of the run.
        models: where PixArt and CLIP are.
        config: the student's; its Fill50K and dropouts are switched off, so that the pair alone is learned.
        steps: of the optimizer.

    Returns:
        The summary of the stage `student`; `directory`/training/adapter.safetensors is ready for `bottega stylize`.
    """
    from bottega.student import features, stage

    alone = {"fill50k_fraction": 0.0, "dropout": {"text": 0.0, "style": 0.0, "both": 0.0}}
    base = (config or DEFAULT).model_dump()
    loop = base["loop"] | {"steps": steps, "validate_every": steps, "checkpoint_every": steps}
    chosen = StudentConfig.model_validate(base | alone | {"loop": loop})
    # Copies: the paths of a ledger are relative, and stay below the run and its data root.
    own_content = _copied(content, directory / "pictures" / f"content{content.suffix}")
    own_style = _copied(style, directory / "pictures" / f"style{style.suffix}")
    own_target = _copied(target, directory / "teacher" / "images" / f"one_one_seed0{target.suffix}")
    write_ledger(directory / "teacher" / "ledger.sqlite", directory, own_content, own_style, own_target, prompt)
    features.run(
        FeaturesConfig(fill50k=0, patches=chosen.adapter.token_source == "patch"),
        directory / "features",
        teacher_dir=directory / "teacher",
        data_root=directory,
        models=models,
    )
    return stage.run(chosen, directory / "training", features_dir=directory / "features", models=models)


DEFAULT = StudentConfig.model_validate(
    {
        "adapter": {"layers": 4, "tokens": 16, "out_projection": "full", "own_query": True},
        "loop": {"learning_rate": 2e-3, "warmup_steps": 20, "schedule": "cosine"},
        "batch_size": 16,
        "accumulation": 1,
    }
)


def _copied(file: Path, place: Path) -> Path:
    write_bytes(place, file.read_bytes())
    return place


def write_ledger(path: Path, data_root: Path, content: Path, style: Path, target: Path, prompt: str) -> None:
    """A ledger that holds one accepted target: the columns that `student.targets` reads, in a view named `best`.

    Args:
        path: the ledger; the target lies below its folder.
        data_root: the folder that content and style lie below.
        content, style, target: picture files.
        prompt: of the target.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    row = {
        "target": "one_one_seed0",
        "pair_id": "one_one",
        "seed": 0,
        "grade": "A",
        "weight": 1.0,
        "prompt": prompt,
        "split": "train",
        "status": "ok",
        "content_path": content.relative_to(data_root).as_posix(),
        "content_sha256": sha256_file(content),
        "style_path": style.relative_to(data_root).as_posix(),
        "style_sha256": sha256_file(style),
        "output_path": target.relative_to(path.parent).as_posix(),
        "output_sha256": sha256_file(target),
    }
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute(f"CREATE TABLE best ({', '.join(row)})")
            db.execute(f"INSERT INTO best VALUES ({', '.join('?' * len(row))})", list(row.values()))
    finally:
        db.close()
