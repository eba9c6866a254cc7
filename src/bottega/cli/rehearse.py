"""`bottega rehearse`: the whole loop of a recipe on a few pictures, measured stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bottega.cli.common import open_pipeline, print_json, read_recipe

if TYPE_CHECKING:
    from bottega.pipeline import Pipeline
    from bottega.recipe import Recipe
    from bottega.rehearsal.records import RehearsalResult
    from bottega.rehearsal.settings import RehearsalRequest
    from bottega.rehearsal.walk import Rehearsal


def command(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML)")],
    pairs: Annotated[int, typer.Option(min=1, help="training pairs, each painted once")] = 2,
    train_steps: Annotated[int, typer.Option(min=2, help="optimizer steps; the second half after a resume")] = 4,
    unet_calls: Annotated[int, typer.Option(min=1, help="calls of the teacher's U-Net a picture")] = 2,
    directory: Annotated[Path | None, typer.Option(help="run directory  [default: runs/NAME-rehearsal]")] = None,
    models: Annotated[Path | None, typer.Option(help="the Hugging Face cache with the models")] = None,
    make_models: Annotated[
        bool, typer.Option("--make-models", help="first make them there, with random weights: about 45 GB")
    ] = False,
    scale: Annotated[Literal["full", "reduced"], typer.Option(help="of models that are made")] = "full",
    contents: Annotated[Path | None, typer.Option(help="folder of your pictures to paint; else they are drawn")] = None,
    styles: Annotated[Path | None, typer.Option(help="folder of your pictures to paint like; else drawn")] = None,
    lora: Annotated[Path | None, typer.Option(help="a LoRA for SDXL  [default: that of --models, if any]")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 or float16  [default: the recipe's, or bfloat16]")] = None,
    only: Annotated[list[str] | None, typer.Option(help="do this step alone, after the others; several times")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.strength=0.35")] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="afterwards delete all that it made but its result")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print rehearsal.json on stdout")] = False,
) -> None:
    """Walk the whole loop on a handful of pictures and measure each stage: time, memory, disk.

    Nothing of the recipe is changed but how much is done. With models of random weights, which `bottega models
    rehearse` makes, it shows before anything is downloaded whether the loop fits this machine; its pictures are noise.
    """
    from bottega.rehearsal.settings import RehearsalRequest

    made = make_models and _make_models(models, scale)
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
    rehearsal = _prepare(recipe, loaded, request, tuple(only or []))
    found = rehearsal.walk()
    if discard:
        _discard(place, models if made else None)
    _show(found, json_)
    if any(step["status"] == "failed" for step in found["steps"]):
        raise typer.Exit(1)


def _show(found: RehearsalResult, as_json: bool) -> None:
    from bottega.rehearsal.table import markdown

    if as_json:
        print_json(found)
    else:
        typer.echo(markdown(found))


def _prepare(recipe: Path, loaded: Recipe, request: RehearsalRequest, only: tuple[str, ...]) -> Rehearsal:
    """The rehearsal with its forecasts."""
    from bottega.rehearsal.forecasts import forecast_steps
    from bottega.rehearsal.settings import overrides
    from bottega.rehearsal.walk import Rehearsal, uses_gpu

    has_gpu = uses_gpu(loaded.models.device)
    changed = read_recipe(recipe, overrides(loaded, request))
    forecasts, grow = forecast_steps(changed, loaded.model_copy(update={"models": changed.models}), has_gpu)
    return Rehearsal(
        request,
        loaded,
        partial(_open, recipe, request.directory),
        has_gpu=has_gpu,
        forecasts=forecasts,
        grow=grow,
        only=only,
    )


def _make_models(models: Path | None, scale: str) -> bool:
    """Make the models in a process of its own, as far as they are not there yet; whether there were none before."""
    import json

    from bottega.models.rehearsal.marker import MARKER
    from bottega.runtime.children import run_child
    from bottega.runtime.errors import RequestError

    if models is None:
        raise RequestError("--make-models needs to know where, received no --models; give --models DIR")
    is_new = not (models / MARKER).exists()
    words = ["models", "rehearse", "--output", str(models), "--scale", scale]
    run_child(["command", json.dumps(words)], "making the models")
    return is_new


def _discard(directory: Path, models: Path | None) -> None:
    """Delete what the rehearsal made, and the models where it made them too."""
    from bottega.models.rehearsal import build
    from bottega.rehearsal.walk import discard

    freed = discard(directory)
    if models is not None:
        freed += build.discard(models)
    typer.echo(f"deleted {freed / 1e9:.1f} GB", err=True)


def _first(models: Path | None, folder: str) -> Path | None:
    """The first file that `bottega models rehearse` put into a folder beside the models."""
    if models is None:
        return None
    return min((models / folder).glob("*.safetensors"), default=None)


def _open(recipe: Path, directory: Path, sets: Sequence[str]) -> Pipeline:
    from bottega.rehearsal.walk import SIZE

    return open_pipeline(recipe, directory, SIZE, sets)
