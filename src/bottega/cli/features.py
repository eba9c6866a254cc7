"""`bottega features`: latents, text and CLIP embeddings, computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.common import locked, read_models, read_section


def command(
    teacher_dir: Annotated[Path, typer.Option(help="folder with the teacher's ledger.sqlite")],
    data_root: Annotated[Path, typer.Option(help="root of contents, styles and Fill50K")],
    output_dir: Annotated[Path, typer.Option(help="folder of the feature cache; what is in it is not computed again")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections features and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as features.fill50k=0")] = None,
    pixart: Annotated[str | None, typer.Option(help="PixArt's folder or name, in place of the recipe's")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's folder or name, in place of the recipe's")] = None,
) -> None:
    """Compute the features of all accepted targets and of Fill50K that are not in the cache yet."""
    from bottega.data.given import require_folder, require_room_for_folder
    from bottega.student.config import FeaturesConfig
    from bottega.student.features import run

    require_folder("--teacher-dir", teacher_dir)
    require_folder("--data-root", data_root)
    require_room_for_folder("--output-dir", output_dir)
    models = read_models(recipe, set_, pixart=pixart, clip=clip)
    config = read_section(FeaturesConfig, "features", recipe, set_)
    with locked(models.device, output_dir, "features", reads=[teacher_dir]):
        found = run(config, output_dir, teacher_dir=teacher_dir, data_root=data_root, models=models)
    typer.echo(
        f"{output_dir}: {found['targets']} targets and {found['fill50k']} of Fill50K; {found['encoded']} items "
        f"encoded now, {found['rejected']} samples left out"
    )
