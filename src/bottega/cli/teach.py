"""`bottega teach`: the teacher's targets, judged and entered in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    pairs: Annotated[list[Path], typer.Option(help="pair list (JSON lines); give it again for a second list")],
    data_root: Annotated[Path, typer.Option(help="folder that the pairs' paths are relative to")],
    output_dir: Annotated[Path, typer.Option(help="folder of images/, ledger.sqlite and lists; a stopped run goes on")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections teacher, quality and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.strength=0.35")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="limits of the grades; without it the recipe's own")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many pairs of each list")] = None,
    seeds: Annotated[str | None, typer.Option(help="only these seeds, such as 0 or 0,1")] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="return the data set's drawn truths instead")] = False,
) -> None:
    """Make the targets that are not made yet; the same command goes on after a stop, a kill or a power cut."""
    from bottega.cli.train import locked, read_section
    from bottega.models.config import ModelsConfig
    from bottega.quality.config import QualityConfig
    from bottega.runtime.errors import RecipeError
    from bottega.runtime.files import write_json
    from bottega.teacher.config import TeacherConfig
    from bottega.teacher.stage import run

    sets = [*(set_ or []), *(["teacher.source=oracle"] if oracle else [])]
    config = read_section(TeacherConfig, "teacher", recipe, sets)
    models = read_section(ModelsConfig, "models", recipe, sets)
    try:
        chosen = [int(seed) for seed in seeds.split(",")] if seeds is not None else None
    except ValueError:
        raise RecipeError(
            f"--seeds wants numbers separated by commas, received {seeds!r}; for instance 0,1,2"
        ) from None
    with locked(models.device, output_dir, "teach"):
        if thresholds is None:
            thresholds = output_dir / "thresholds.json"
            if not thresholds.is_file():
                limits = read_section(QualityConfig, "quality", recipe, sets).thresholds
                write_json(thresholds, limits.model_dump(mode="json"))
        done = run(
            config,
            output_dir,
            pairs=pairs,
            data_root=data_root,
            models=models,
            thresholds=thresholds,
            limit=limit,
            seeds=chosen,
        )
    grades = ", ".join(f"{count} {letter}" for letter, count in done["grades"].items())
    typer.echo(
        f"{output_dir}: {done['accepted']} of {done['targets']} targets accepted ({grades}; {done['broken']} broken), "
        f"{done['tries_per_accepted'] or 0:.2f} tries each, {done['seconds_per_accepted'] or 0:.2f} s each"
    )
