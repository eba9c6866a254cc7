"""`bottega models`: fetching a recipe's models, which of them are on this machine, and whether they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import typer

from bottega.cli.common import print_json, read_recipe
from bottega.runtime.errors import MissingError, RequestError

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.models.fetch import PlannedModel
    from bottega.models.layout import ModelStatus
    from bottega.models.rehearsal.build import RandomModelsReport

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
    """Fetch models into the cache, only those files that are read; the same command resumes after a stop.

    Every file's hash is verified, what is here already too, and then that each model has all that a pipeline needs.
    """
    from bottega.models.fetch import check_room, plan, requests
    from bottega.models.fetch import fetch as fetch_models
    from bottega.models.transfer import choose_endpoints

    chosen = names or []
    models = _models_for(chosen, recipe, set_)
    endpoints = choose_endpoints(mirror)
    place = _cache(models, model_cache)
    planned = plan(requests(chosen, models), place, endpoints)
    if dry_run:
        need, free = check_room(planned, place)
        _show_plan(planned, place, need, free, json_)
        return
    found = fetch_models(planned, place, endpoints, models.sdxl if models else None)
    if found or json_:
        _print_models(found, json_)
    else:
        typer.echo(f"nothing to fetch: {recipe} reads its models from folders")
    faults = []
    for one in found:
        faults += [f"{one.name}: {fault}" for fault in one.faults]
    if faults:
        raise MissingError(f"{len(faults)} faults in what was fetched into {place}; first {faults[0]}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="SDXL as one .safetensors file, in the key layout of the original code")],
    folder: Annotated[Path, typer.Argument(help="the new folder, in diffusers' layout")],
    configs: Annotated[
        str | None,
        typer.Option(help="folder with configurations and tokenizers of this architecture  [default: SDXL base's]"),
    ] = None,
    model_cache: CacheOption = None,
) -> None:
    """Make a folder in diffusers' layout, which the teacher reads, of a single-file checkpoint of SDXL."""
    from bottega.generation.modules import SDXL_CONFIGS, require_sdxl_checkpoint
    from bottega.generation.single_file import convert_single_file
    from bottega.models.identify import identify
    from bottega.models.names import resolve

    if folder.exists():
        raise RequestError(f"{folder}: exists already; name a new folder")
    require_sdxl_checkpoint(identify(file))
    cache = None if model_cache is None else str(model_cache)
    dtype = convert_single_file(file, folder, resolve(configs or SDXL_CONFIGS, cache=cache))
    typer.echo(f"{folder}: SDXL in diffusers' layout, numbers in {str(dtype).removeprefix('torch.')}")


@app.command()
def rehearse(
    output: Annotated[Path, typer.Option(help="a new folder, for models.cache; or one of an earlier rehearsal")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="sdxl, ip_adapter, ip_adapter_vit_h, pixart, clip, structure_encoder, lpips, lora, checkpoint; with "
            "commas, or several times  [default: all]"
        ),
    ] = None,
    scale: Annotated[
        Literal["full", "reduced"],
        typer.Option(help="full: the published sizes, about 45 GB; reduced: narrow networks"),
    ] = "full",
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
    discard: Annotated[bool, typer.Option("--discard", help="delete what was made there, and nothing else")] = False,
    json_: JsonOption = False,
) -> None:
    """Make every model with random weights, in its published size and layout, to rehearse a run before any download.

    The folder is read as the Hugging Face cache is: --set models.cache=FOLDER. What such models draw is noise, and
    is marked as that. A call that was stopped is continued by the same command.
    """
    from bottega.generation.rehearsal import FILES
    from bottega.models.rehearsal import build as rehearsal

    if discard:
        freed = rehearsal.discard(output)
        typer.echo(f"{output}: deleted, {_shown(freed)} freed")
        return
    names = [name for given in only or [] for name in given.split(",") if name]
    report = rehearsal.build(rehearsal.RandomModelsRequest(output, tuple(names), scale, seed), FILES)
    if json_:
        print_json(_rehearsal_row(report))
    else:
        typer.echo(_rehearsal_text(report))


class RandomModelsRow(TypedDict):
    """Models with random weights, as `--json` prints them. models: bytes of each."""

    output: str
    models: dict[str, int]
    bytes_written: int
    bytes_kept: int
    seconds: float


def _rehearsal_row(report: RandomModelsReport) -> RandomModelsRow:
    return RandomModelsRow(
        output=str(report.output),
        models=report.models,
        bytes_written=report.written,
        bytes_kept=report.kept,
        seconds=report.seconds,
    )


def _rehearsal_text(report: RandomModelsReport) -> str:
    lines = [f"{name:<18} {_shown(size):>9}" for name, size in report.models.items()]
    kept = f", {_shown(report.kept)} were there" if report.kept else ""
    lines.append(f"{report.output}: {_shown(report.written)} of random weights in {report.seconds:.0f} s{kept}")
    lines.append(f"use them: --set models.cache={report.output}")
    return "\n".join(lines)


@app.command("list")
def list_(
    recipe: RecipeArgument = RECIPE, set_: SetOption = None, model_cache: CacheOption = None, json_: JsonOption = False
) -> None:
    """Say of each model of a recipe how large it is, or what is missing and which command gets it."""
    _print_models(_inspect(recipe, set_, model_cache), json_)


@app.command()
def verify(
    recipe: RecipeArgument = RECIPE,
    set_: SetOption = None,
    model_cache: CacheOption = None,
    hash_: Annotated[
        bool,
        typer.Option(
            "--hash", help="also read each file whole and compare its hash: the cache's, or the run directory's"
        ),
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="look at every model in the cache, not at the recipe's alone")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check that every model of a recipe is there, whole, and fits the others; exit code 1 where one is not.

    Looks at headers, links and configurations, so that a truncated file is found in milliseconds: that each network
    which a configuration describes finds all its tensors, and that scheduler and prediction type are those that the
    work samples with. Each fault comes with the command that mends it; nothing is changed. With a run directory and
    --hash, files are compared with those that the run was made with.
    """
    from bottega.doctor.cache import examine_models
    from bottega.models.cache import CacheRequest
    from bottega.models.layout import fault_lines
    from bottega.models.recorded import content_faults

    models = _models(recipe, set_, model_cache)
    found = [_with_refusals(one) for one in _inspect(recipe, set_, model_cache)]
    recorded = []
    if hash_ and recipe.is_dir():
        recorded = content_faults(found, recipe)
    request = CacheRequest(
        _cache(models, None),
        is_named=models.cache is not None,
        wanted=_wanted(models),
        wanted_only=not all_,
        hash_files=hash_,
    )
    answer = examine_models(request, str(recipe), found, recorded)
    if json_:
        rows = [_row(one) for one in found]
        print_json({"models": rows, "faults": fault_lines(found) + recorded, **answer.record()})
    else:
        typer.echo(answer.as_text())
    raise typer.Exit(answer.exit_code)


def _with_refusals(found: ModelStatus) -> ModelStatus:
    """The same, with what loading it would refuse, where nothing else is wrong with it."""
    from dataclasses import replace

    from bottega.models.loading import refused_parts

    if found.folder is None or found.faults:
        return found
    return replace(found, faults=tuple(refused_parts(found.role, found.folder)))


def _wanted(models: ModelsConfig) -> tuple[str, ...]:
    """The models of a recipe that are looked up in the cache."""
    from bottega.models.layout import ROLES
    from bottega.models.names import hub_name, on_disk

    wanted = []
    for role in ROLES:
        name = getattr(models, role)
        if name is not None and not on_disk(name) and hub_name(name) is not None:
            wanted.append(name)
    return tuple(wanted)


def _models_for(names: list[str], recipe: Path, sets: list[str] | None) -> ModelsConfig | None:
    """The recipe's models; ids of the Hub alone can do without a recipe."""
    from bottega.models.layout import ROLES

    if names and not sets and not recipe.exists() and not set(names) & set(ROLES):
        return None
    return _models(recipe, sets, None)


def _cache(models: ModelsConfig | None, model_cache: Path | None) -> Path:
    """The Hugging Face cache: the option's, else the recipe's, else the environment's."""
    from bottega.models.names import hub_cache

    if model_cache is not None:
        return hub_cache(str(model_cache))
    return hub_cache(models.cache if models is not None else None)


def _models(recipe: Path, sets: list[str] | None, model_cache: Path | None) -> ModelsConfig:
    models = read_recipe(recipe, sets).models
    return models if model_cache is None else models.model_copy(update={"cache": str(model_cache)})


def _inspect(recipe: Path, sets: list[str] | None, model_cache: Path | None) -> list[ModelStatus]:
    from bottega.models.layout import inspect
    from bottega.recipe import with_size_cautions

    return with_size_cautions(read_recipe(recipe, sets), inspect(_models(recipe, sets, model_cache)))


def _print_models(found: list[ModelStatus], as_json: bool) -> None:
    if as_json:
        print_json([_row(one) for one in found])
    else:
        typer.echo(_table(found))


class ModelRow(TypedDict):
    """A model as `--json` prints it."""

    role: str
    name: str
    folder: str | None
    bytes: int
    faults: list[str]
    cautions: list[str]


def _row(found: ModelStatus) -> ModelRow:
    place = None if found.folder is None else str(found.folder)
    return ModelRow(
        role=found.role,
        name=found.name,
        folder=place,
        bytes=_size(found),
        faults=list(found.faults),
        cautions=list(found.cautions),
    )


def _size(found: ModelStatus) -> int:
    return sum(file.stat().st_size for file in found.files)


def _table(found: list[ModelStatus]) -> str:
    lines = []
    for one in found:
        size = _shown(_size(one))
        if one.faults:
            size = "missing" if one.folder is None else "faulty"
        lines.append(f"{one.role:<18} {size:>9}  {one.name}")
        lines += [f"{'':<30}{line}" for line in (*one.faults, *one.cautions)]
    return "\n".join(lines) or "the recipe names no models"


class PlanRow(TypedDict):
    """A model that is to be fetched, as `--json` prints it. files: bytes of each."""

    role: str
    name: str
    endpoint: str
    commit: str
    files: dict[str, int]
    bytes: int
    bytes_to_fetch: int


def _plan_row(planned: PlannedModel) -> PlanRow:
    sizes = {file.path: file.size for file in planned.files}
    return PlanRow(
        role=planned.request.role,
        name=planned.request.name,
        endpoint=planned.listing.endpoint,
        commit=planned.listing.commit,
        files=sizes,
        bytes=sum(sizes.values()),
        bytes_to_fetch=sum(planned.remaining().values()),
    )


def _show_plan(planned: list[PlannedModel], place: Path, need: int, free: int, as_json: bool) -> None:
    rows = [_plan_row(one) for one in planned]
    if as_json:
        print_json({"cache": str(place), "bytes_to_fetch": need, "bytes_free": free, "models": rows})
        return
    for row in rows:
        size = f"{_shown(row['bytes_to_fetch'])} of {_shown(row['bytes'])}"
        typer.echo(f"{row['role']:<18} {size:>22}  {row['name']}  ({len(row['files'])} files, {row['endpoint']})")
    typer.echo(f"{_shown(need)} to fetch into {place}, {_shown(free)} free")


def _shown(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
