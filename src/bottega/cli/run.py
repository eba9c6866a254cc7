"""`bottega run`: the closed loop of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.pipeline import Pipeline, Size
    from bottega.recipe import Recipe
    from bottega.runtime.config import Config

FUNCTIONS = {"world": "bottega.miniature.datasets:run_world", "truth": "bottega.miniature.datasets:run_truth"}
"""The stages that only the command line knows of."""


def command(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), or a run directory to go on with")],
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
    """Walk the closed loop: data, pairs, quality, teacher, features, student, evaluation, report.

    The same command continues a run that was stopped, and enlarges one that is done: more pairs, seeds or steps.
    """
    if offline:
        from bottega.models.libraries import go_offline

        go_offline()  # for the stages' processes too: it is in the environment
    sets = [*(set_ or []), *([f"models.cache={model_cache}"] if model_cache is not None else [])]
    pipeline = open_pipeline(recipe, directory, read_size(limit, seeds), sets)
    if dry_run:
        _print_plan(pipeline, json_)
        return
    summary = pipeline.run(until)
    if json_:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{pipeline.directory / 'report.html'} ({summary['seconds']:.0f} s of work in all)")


def open_pipeline(recipe: Path, directory: Path | None, size: Size, sets: list[str]) -> Pipeline:
    """The pipeline of a recipe file, or of the run directory that holds one."""
    from bottega.pipeline import Pipeline

    if recipe.is_dir():
        directory = directory or recipe
        recipe = recipe / "recipe.yaml"
    loaded = read_recipe(recipe, sets)
    return Pipeline(loaded, directory or Path("runs") / loaded.name, size, FUNCTIONS)


def read_recipe(path: Path, sets: list[str]) -> Recipe:
    """A recipe, with the sections of the drawn world where it has them."""
    from bottega.recipe import load_recipe

    return load_recipe(path, sets, {"world": _world, "truth": _truth})


def read_size(limit: int | None, seeds: str | None) -> Size:
    """The options --limit and --seeds."""
    from bottega.pipeline import Size

    try:
        chosen = None if seeds is None else tuple(int(seed) for seed in seeds.split(","))
    except ValueError as error:
        raise RequestError(f"--seeds wants numbers, received {seeds!r}; for instance --seeds 0,1") from error
    return Size(limit, chosen)


def _print_plan(pipeline: Pipeline, as_json: bool) -> None:
    from bottega.recipe import resolved
    from bottega.runtime.config import as_yaml

    recipe, states, missing = resolved(pipeline.recipe), pipeline.states(), pipeline.missing()
    if as_json:
        typer.echo(json.dumps({"recipe": recipe, "stages": states, "missing": missing}, indent=2, ensure_ascii=False))
        return
    typer.echo(as_yaml(recipe))
    typer.echo("\n".join(f"# {name}: {state}" for name, state in states.items()))
    typer.echo("\n".join(f"# missing: {line}" for line in missing) if missing else "# nothing is missing here")


def _world() -> type[Config]:
    from bottega.miniature.config import WorldConfig

    return WorldConfig


def _truth() -> type[Config]:
    from bottega.miniature.config import TruthConfig

    return TruthConfig
