"""What several verbs share: reading a recipe or a section of one, numbers from an option, locks, and JSON on stdout.

It is imported by every verb, also for its `--help`: whatever is heavy is imported inside a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.generation.drawing import DrawProgress
    from bottega.generation.records import Result
    from bottega.models.config import ModelsConfig
    from bottega.pipeline import Pipeline, Size
    from bottega.recipe import Recipe
    from bottega.runtime.config import Config

C = TypeVar("C", bound="Config")
Sets = Sequence[str] | None
"""The option --set as typer hands it on: None where it was not given."""

FUNCTIONS = {"world": "bottega.miniature.datasets:run_world", "truth": "bottega.miniature.datasets:run_truth"}
"""The stages of a drawn world: only the command line knows of it."""


def read_section(kind: type[C], name: str, recipe: Path | None, sets: Sets) -> C:
    """One section of a recipe with its overrides; the defaults where there is no recipe."""
    from bottega.recipe import read_sections
    from bottega.runtime.config import apply_sets, parse

    data = read_sections(recipe) if recipe is not None else {}
    data = apply_sets(data, sets or [])
    return parse(kind, data.get(name) or {}, f"{recipe or 'command line'}: {name}")


def read_models(recipe: Path | None, sets: Sets, **named: str | None) -> ModelsConfig:
    """The section `models`; a model that the command line names (`pixart=`, `clip=`) takes the recipe's place."""
    from bottega.models.config import ModelsConfig

    models = read_section(ModelsConfig, "models", recipe, sets)
    given = {role: name for role, name in named.items() if name is not None}
    return models.model_copy(update=given)


def read_recipe(path: Path, sets: Sets) -> Recipe:
    """The recipe of a file or of a run directory, with the sections of the drawn world where it has them."""
    from bottega.recipe import load_recipe

    file = path / "recipe.yaml" if path.is_dir() else path
    return load_recipe(file, sets or [], {"world": _world, "truth": _truth})


def open_pipeline(recipe: Path, directory: Path | None, size: Size, sets: Sets) -> Pipeline:
    """The pipeline of a recipe file, or of the run directory that holds one."""
    from bottega.pipeline import Pipeline

    if recipe.is_dir():
        directory = directory or recipe
    loaded = read_recipe(recipe, sets)
    return Pipeline(loaded, directory or Path("runs") / loaded.name, size, FUNCTIONS)


def read_size(limit: int | None, seeds: str | None) -> Size:
    """The options --limit and --seeds."""
    from bottega.pipeline import Size

    return Size(limit, None if seeds is None else tuple(read_numbers("seeds", seeds)))


def read_numbers(option: str, text: str, *, separator: str = ",", example: str = "0,1,2") -> list[int]:
    """Whole numbers from an option's text.

    Raises:
        RequestError: a part of the text is not a number.
    """
    try:
        return [int(number) for number in text.split(separator)]
    except ValueError as error:
        raise RequestError(f"--{option} wants numbers, received {text!r}; for instance --{option} {example}") from error


def stay_offline(offline: bool) -> None:
    """The option --offline: this process asks no network, nor does any that it starts."""
    if offline:
        from bottega.models.libraries import go_offline

        go_offline()  # in the environment, which child processes inherit


@contextmanager
def locked(
    device: str,
    directory: Path,
    holder: str,
    *,
    reads: Sequence[Path] = (),
    folder: bool = True,
    threads: int | None = None,
) -> Iterator[None]:
    """Within this block a folder, the run that it is part of and the device are this process's own.

    Also decides with how many threads this process computes, see `bottega.runtime.threads`.

    Args:
        device: as configured.
        directory: the folder that is written into.
        holder: the verb, for the message to others.
        reads: folders that nobody may write into meanwhile.
        folder: False: the device alone.
        threads: what the recipe says; None: as many as processors are free, or as the run was begun with.
    """
    from bottega.models.loading import choose_device
    from bottega.runtime.locks import device_lock, reading, writing

    who = f"bottega {holder}"
    with ExitStack() as held:
        if folder:
            held.enter_context(writing(directory, who))
            for place in reads:
                held.enter_context(reading(place, who))
        held.enter_context(device_lock(str(choose_device(device)), who))
        if folder and threads is None:
            _settle_threads(directory)
        yield


def _settle_threads(directory: Path) -> None:
    import typer

    from bottega.runtime.locks import runs_above
    from bottega.runtime.threads import settle_threads

    chosen = settle_threads([directory, *runs_above(directory)][-1])
    if chosen.worth_saying:
        typer.echo(f"bottega: {chosen}", err=True)


def print_json(value: Any) -> None:
    """JSON on stdout, indented, letters of every script as they are."""
    import json

    import typer

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def drawing_bar(count: int) -> Iterator[Callable[[DrawProgress], None]]:
    """Shows the steps of `count` pictures; the value is what an engine calls after each."""
    from bottega.runtime.progress import Progress

    with ExitStack() as opened:
        bars: list[Progress] = []

        def on_progress(progress: DrawProgress) -> None:
            if not bars:  # how many steps there are is known only now, after the guardrails
                bars.append(opened.enter_context(Progress(progress.steps * count, "drawing", "steps")))
            finished = progress.picture * progress.steps + progress.step * progress.size
            bars[0].update(finished - bars[0].done)

        yield on_progress


def remarks(result: Result) -> Iterator[str]:
    """A line for each correction, LoRA, note and finding."""
    for change in result.corrections:
        yield f"corrected  {change}"
    for use in result.loras:
        weights = ", ".join(f"{part} {weight:g}" for part, weight in use.weights.items())
        yield f"LoRA       {use.name}: {use.matched:.0%} of its keys matched; {weights}"
    for note in result.notes:
        yield f"note       {note}"
    for finding in result.findings:
        yield f"found      {finding}"
    for picture in result.pictures:
        for finding in picture.findings:
            yield f"picture {picture.seed}  {finding}"


def print_warnings(warnings: list[str]) -> None:
    """Each warning of a summary on a line of its own."""
    import typer

    for warning in warnings:
        typer.echo(f"warning: {warning}")


def _world() -> type[Config]:
    from bottega.miniature.config import WorldConfig

    return WorldConfig


def _truth() -> type[Config]:
    from bottega.miniature.config import TruthConfig

    return TruthConfig
