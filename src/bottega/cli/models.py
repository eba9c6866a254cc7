"""`bottega models`: which models a recipe uses, whether they are whole on this machine, and how to get the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottega.runtime.errors import MissingError

if TYPE_CHECKING:
    from bottega.models.layout import Finding

app = typer.Typer(no_args_is_help=True, help="Which models are on this machine, and how to get the others.")
RECIPE = Path("recipes/sdxl_pixart.yaml")

RecipeArgument = Annotated[Path, typer.Argument(help="recipe (YAML) or run directory whose section `models` is meant")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override, such as models.cache=/data/hub")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


@app.command("list")
def list_(recipe: RecipeArgument = RECIPE, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Say of each model of a recipe how large it is, or what is missing and which command gets it."""
    found = _inspect(recipe, set_)
    typer.echo(json.dumps([_row(f) for f in found], indent=2, ensure_ascii=False) if json_ else _table(found))


@app.command()
def verify(
    recipe: RecipeArgument = RECIPE,
    set_: SetOption = None,
    hash_: Annotated[
        bool, typer.Option("--hash", help="also read each cached file whole and compare its SHA-256")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check that every model of a recipe is there, whole, and fits the others; exit code 2 where one is not.

    Looks at headers and configurations, so that a truncated file is found in milliseconds.
    """
    from bottega.models.weights import hash_faults

    found = _inspect(recipe, set_)
    faults = [
        f"models.{f.role}: {fault}" for f in found for fault in (*f.faults, *(hash_faults(f.files) if hash_ else ()))
    ]
    if json_:
        typer.echo(json.dumps({"models": [_row(f) for f in found], "faults": faults}, indent=2, ensure_ascii=False))
    if faults:
        if not json_:
            typer.echo("\n".join(faults))
        raise MissingError(f"{len(faults)} faults in the models of {recipe}; each is named above")
    if not json_:
        typer.echo(f"{len(found)} models of {recipe} are whole")


def _inspect(recipe: Path, sets: list[str] | None) -> list[Finding]:
    from bottega.cli.run import read_recipe
    from bottega.models.layout import inspect

    return inspect(read_recipe(recipe / "recipe.yaml" if recipe.is_dir() else recipe, sets or []).models)


def _row(found: Finding) -> dict[str, Any]:
    place = None if found.folder is None else str(found.folder)
    return {
        "role": found.role,
        "name": found.name,
        "folder": place,
        "bytes": _size(found),
        "faults": list(found.faults),
    }


def _size(found: Finding) -> int:
    return sum(file.stat().st_size for file in found.files)


def _table(found: list[Finding]) -> str:
    lines = []
    for f in found:
        size = _size(f)
        shown = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
        lines.append(f"{f.role:<18} {f'{shown:>9}' if not f.faults else '  missing'}  {f.name}")
        lines += [f"{'':<30}{fault}" for fault in f.faults]
    return "\n".join(lines) or "the recipe names no models"
