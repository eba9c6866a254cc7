"""`bottega models`: fetching a recipe's models, which of them are on this machine, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottega.runtime.errors import MissingError, RequestError

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.models.fetch import PlannedModel
    from bottega.models.layout import ModelStatus

app = typer.Typer(no_args_is_help=True, help="Which models are on this machine, and getting the others.")
RECIPE = Path("recipes/sdxl_pixart.yaml")

RecipeArgument = Annotated[Path, typer.Argument(help="recipe (YAML) or run directory whose section `models` is meant")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override, such as models.cache=/data/hub")]
CacheOption = Annotated[
    Path | None,
    typer.Option("--model-cache", help="the Hugging Face cache  [default: models.cache, HF_HUB_CACHE, HF_HOME]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="org/name[/sub-folder][@revision], or roles of the recipe (sdxl, clip …); without names all of them"
        ),
    ] = None,
    recipe: Annotated[Path, typer.Option(help="recipe (YAML) or run directory whose models are meant")] = RECIPE,
    set_: SetOption = None,
    model_cache: CacheOption = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="asked first, such as https://hf-mirror.com; then HF_ENDPOINT, then huggingface.co"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be fetched; fetch nothing")] = False,
    json_: JsonOption = False,
) -> None:
    """Fetch models into the cache, only those files that are read; the same command goes on after a stop.

    Every file's hash is verified, what is here already too, and then that each model has all that a pipeline needs.
    """
    from bottega.models.fetch import check_room, plan, requests
    from bottega.models.fetch import fetch as fetch_models
    from bottega.models.names import hub_cache
    from bottega.models.transfer import choose_endpoints

    models = _models_for(names or [], recipe, set_)
    endpoints = choose_endpoints(mirror)
    place = hub_cache(str(model_cache) if model_cache else (models.cache if models else None))
    planned = plan(requests(names or [], models), place, endpoints)
    if dry_run:
        need, free = check_room(planned, place)
        _show_plan(planned, place, need, free, json_)
        return
    found = fetch_models(planned, place, endpoints, models.sdxl if models else None)
    faults = [f"{f.name}: {fault}" for f in found for fault in f.faults]
    told = _table(found) if found else f"nothing to fetch: {recipe} reads its models from folders"
    typer.echo(json.dumps([_row(f) for f in found], indent=2, ensure_ascii=False) if json_ else told)
    if faults:
        raise MissingError(f"{len(faults)} faults in what was fetched into {place}; first {faults[0]}")


@app.command("list")
def list_(
    recipe: RecipeArgument = RECIPE, set_: SetOption = None, model_cache: CacheOption = None, json_: JsonOption = False
) -> None:
    """Say of each model of a recipe how large it is, or what is missing and which command gets it."""
    found = _inspect(recipe, set_, model_cache)
    typer.echo(json.dumps([_row(f) for f in found], indent=2, ensure_ascii=False) if json_ else _table(found))


@app.command()
def verify(
    recipe: RecipeArgument = RECIPE,
    set_: SetOption = None,
    model_cache: CacheOption = None,
    hash_: Annotated[
        bool,
        typer.Option(
            "--hash", help="also read each file whole and compare its SHA-256: the cache's, or the run directory's"
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check that every model of a recipe is there, whole, and fits the others; exit code 2 where one is not.

    Looks at headers and configurations, so that a truncated file is found in milliseconds. With a run directory and
    --hash, files are compared with those that the run was made with.
    """
    found = _inspect(recipe, set_, model_cache)
    checked = [*(_hashed(recipe, found) if hash_ else ())]
    faults = [f"models.{f.role}: {fault}" for f in found for fault in f.faults] + checked
    if json_:
        typer.echo(json.dumps({"models": [_row(f) for f in found], "faults": faults}, indent=2, ensure_ascii=False))
    if faults:
        if not json_:
            typer.echo("\n".join(faults))
        raise MissingError(f"{len(faults)} faults in the models of {recipe}; each is named above")
    if not json_:
        typer.echo(f"{len(found)} models of {recipe} are whole")


def _models_for(names: list[str], recipe: Path, sets: list[str] | None) -> ModelsConfig | None:
    """The recipe's models; ids of the Hub alone can do without a recipe."""
    from bottega.models.layout import ROLES

    if names and not sets and not recipe.exists() and not set(names) & set(ROLES):
        return None
    return _models(recipe, sets, None)


def _models(recipe: Path, sets: list[str] | None, model_cache: Path | None) -> ModelsConfig:
    from bottega.cli.run import read_recipe

    models = read_recipe(recipe / "recipe.yaml" if recipe.is_dir() else recipe, sets or []).models
    return models if model_cache is None else models.model_copy(update={"cache": str(model_cache)})


def _inspect(recipe: Path, sets: list[str] | None, model_cache: Path | None) -> list[ModelStatus]:
    from bottega.models.layout import inspect

    return inspect(_models(recipe, sets, model_cache))


def _hashed(recipe: Path, found: list[ModelStatus]) -> list[str]:
    """What the hashes say: those of the cache, and those that a run directory has recorded."""
    from bottega.models.weights import hash_faults
    from bottega.runtime.files import read_json

    recorded = recipe / "provenance.json"
    weights = read_json(recorded).get("weights", {}) if recipe.is_dir() and recorded.exists() else {}
    return [
        f"models.{f.role}: {fault}"
        for f in found
        for fault in hash_faults(f.files, _known(f, weights.get(f.role, {}).get("files", {})))
    ]


def _known(found: ModelStatus, recorded: dict[str, Any]) -> dict[Path, str]:
    """File -> the SHA-256 that a run has recorded for it. Raises RequestError where a file has none or is absent."""
    if not recorded or found.folder is None:
        return {}
    base = found.folder if found.folder.is_dir() else found.folder.parent
    names = {f: f.relative_to(base).as_posix() if f.is_relative_to(base) else f.name for f in found.files}
    if set(names.values()) != set(recorded):
        differing = sorted(set(names.values()) ^ set(recorded))
        raise RequestError(
            f"models.{found.role}: the run was made with other files than {found.name} holds now ({differing[0]}); "
            "put back the files of the run, or begin another run"
        )
    return {file: str(recorded[name]["sha256"]) for file, name in names.items()}


def _row(found: ModelStatus) -> dict[str, Any]:
    place = None if found.folder is None else str(found.folder)
    return {
        "role": found.role,
        "name": found.name,
        "folder": place,
        "bytes": _size(found),
        "faults": list(found.faults),
    }


def _size(found: ModelStatus) -> int:
    return sum(file.stat().st_size for file in found.files)


def _table(found: list[ModelStatus]) -> str:
    lines = []
    for f in found:
        size = _shown(_size(f)) if not f.faults else "missing" if f.folder is None else "faulty"
        lines.append(f"{f.role:<18} {size:>9}  {f.name}")
        lines += [f"{'':<30}{fault}" for fault in f.faults]
    return "\n".join(lines) or "the recipe names no models"


def _show_plan(planned: list[PlannedModel], place: Path, need: int, free: int, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "role": one.request.role,
            "name": one.request.name,
            "endpoint": one.listing.endpoint,
            "commit": one.listing.commit,
            "files": {file.path: file.size for file in one.files},
            "bytes": sum(file.size for file in one.files),
            "bytes_to_fetch": sum(one.remaining().values()),
        }
        for one in planned
    ]
    if as_json:
        typer.echo(
            json.dumps({"cache": str(place), "bytes_to_fetch": need, "bytes_free": free, "models": rows}, indent=2)
        )
        return
    for row in rows:
        size = f"{_shown(row['bytes_to_fetch'])} of {_shown(row['bytes'])}"
        typer.echo(f"{row['role']:<18} {size:>22}  {row['name']}  ({len(row['files'])} files, {row['endpoint']})")
    typer.echo(f"{_shown(need)} to fetch into {place}, {_shown(free)} free")


def _shown(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
