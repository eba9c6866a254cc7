"""`bottega rehearse`: the whole loop of a recipe on a few pictures, measured stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import open_pipeline, print_json, read_recipe

if TYPE_CHECKING:
    from bottega.pipeline import Pipeline


def command(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML)")],
    pairs: Annotated[int, typer.Option(min=1, help="training pairs, each painted once")] = 2,
    train_steps: Annotated[int, typer.Option(min=2, help="optimizer steps; the second half after a resume")] = 4,
    unet_calls: Annotated[int, typer.Option(min=1, help="calls of the teacher's U-Net a picture")] = 2,
    directory: Annotated[Path | None, typer.Option(help="run directory  [default: runs/NAME-rehearsal]")] = None,
    models: Annotated[Path | None, typer.Option(help="the Hugging Face cache with the models")] = None,
    contents: Annotated[Path | None, typer.Option(help="folder of your pictures to paint; else they are drawn")] = None,
    styles: Annotated[Path | None, typer.Option(help="folder of your pictures to paint like; else drawn")] = None,
    lora: Annotated[Path | None, typer.Option(help="a LoRA for SDXL  [default: that of --models, if any]")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 or float16  [default: the recipe's, or bfloat16]")] = None,
    only: Annotated[list[str] | None, typer.Option(help="do this step alone, after the others; several times")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.strength=0.35")] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="afterwards delete all that it made but its result, models too")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print rehearsal.json on stdout")] = False,
) -> None:
    """Walk the whole loop on a handful of pictures and measure each stage: time, memory, disk.

    Nothing of the recipe is changed but how much is done. With models of random weights, which `bottega models
    rehearse` makes, it shows before anything is downloaded whether the loop fits this machine; its pictures are noise.
    """
    from bottega.rehearsal.forecasts import forecast_steps
    from bottega.rehearsal.settings import RehearsalRequest, overrides
    from bottega.rehearsal.table import markdown
    from bottega.rehearsal.walk import Rehearsal, uses_gpu
    from bottega.rehearsal.walk import discard as delete

    loaded = read_recipe(recipe, set_)
    place = directory or Path("runs") / f"{loaded.name}-rehearsal"
    request = RehearsalRequest(
        directory=place,
        pairs=pairs,
        train_steps=train_steps,
        unet_calls=unet_calls,
        models=models,
        contents=contents,
        styles=styles,
        lora=lora or _first(models, "loras"),
        checkpoint=_first(models, "checkpoints"),
        dtype=dtype,
        sets=tuple(set_ or []),
    )

    has_gpu = uses_gpu(loaded.models.device)
    changed = read_recipe(recipe, overrides(loaded, request, has_gpu))
    forecasts, grow = forecast_steps(changed, loaded.model_copy(update={"models": changed.models}), has_gpu)
    rehearsal = Rehearsal(
        request,
        loaded,
        partial(_open, recipe, place),
        has_gpu=has_gpu,
        forecasts=forecasts,
        grow=grow,
        only=tuple(only or []),
    )
    found = rehearsal.walk()
    if discard:
        typer.echo(f"deleted {delete(place) / 1e9:.1f} GB", err=True)
    if json_:
        print_json(found)
    else:
        typer.echo(markdown(found))
    if any(step["status"] == "failed" for step in found["steps"]):
        raise typer.Exit(1)


def _first(models: Path | None, folder: str) -> Path | None:
    """The first file that `bottega models rehearse` put into a folder beside the models."""
    if models is None:
        return None
    return min((models / folder).glob("*.safetensors"), default=None)


def _open(recipe: Path, directory: Path, sets: Sequence[str]) -> Pipeline:
    from bottega.rehearsal.walk import SIZE

    return open_pipeline(recipe, directory, SIZE, sets)
