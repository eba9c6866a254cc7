"""`bottega run`: all stages of a recipe, in order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import open_pipeline, print_json, read_size, stay_offline

if TYPE_CHECKING:
    from bottega.pipeline import Pipeline


def command(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), or a run directory to continue")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.strength=0.35")] = None,
    directory: Annotated[Path | None, typer.Option(help="run directory  [default: runs/NAME]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="dry pass: at most so many pairs and training steps")] = None,
    seeds: Annotated[str | None, typer.Option(help="only these target seeds, such as 0 or 0,1")] = None,
    until: Annotated[str | None, typer.Option(help="stop after this stage")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the resolved recipe and what is missing")] = False,
    model_cache: Annotated[str | None, typer.Option(help="the Hugging Face cache that the models lie in")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="make certain that nothing asks the network")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print summary.json on stdout")] = False,
) -> None:
    """Run the pipeline: data, pairs, quality, teacher, features, student, evaluation, report.

    The same command continues a run that was stopped, and enlarges one that is done: more pairs, seeds or steps.
    """
    stay_offline(offline)
    sets = list(set_ or [])
    if model_cache is not None:
        sets.append(f"models.cache={model_cache}")
    pipeline = open_pipeline(recipe, directory, read_size(limit, seeds), sets)
    if dry_run:
        _print_plan(pipeline, json_)
        return
    summary = pipeline.run(until)
    if json_:
        print_json(summary)
    else:
        typer.echo(f"{pipeline.directory / 'report.html'} ({summary['seconds']:.0f} s of work in all)")


def _print_plan(pipeline: Pipeline, as_json: bool) -> None:
    from bottega.recipe import resolved
    from bottega.runtime.config import as_yaml

    recipe = resolved(pipeline.recipe)
    states = pipeline.states()
    missing = pipeline.missing()
    if as_json:
        print_json({"recipe": recipe, "stages": states, "missing": missing})
        return
    typer.echo(as_yaml(recipe))
    for name, state in states.items():
        typer.echo(f"# {name}: {state}")
    for line in missing:
        typer.echo(f"# missing: {line}")
    if not missing:
        typer.echo("# nothing is missing here")
