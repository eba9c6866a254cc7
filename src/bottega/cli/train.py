"""`bottega train style`: a StyleAdapter from a feature cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.runtime.config import Config

app = typer.Typer(help="Train a StyleAdapter.", no_args_is_help=True, add_completion=False)
C = TypeVar("C", bound="Config")


@app.callback()
def _group() -> None:
    """Train a StyleAdapter."""


@app.command()
def style(
    features_dir: Annotated[Path, typer.Option(help="the feature cache, made by `bottega features`")],
    output_dir: Annotated[Path, typer.Option(help="folder of adapter.safetensors, checkpoints and logs")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections student and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as student.loop.steps=500")] = None,
    pixart: Annotated[str | None, typer.Option(help="PixArt's folder or name, in place of the recipe's")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's folder or name, in place of the recipe's")] = None,
) -> None:
    """Train a StyleAdapter on a frozen PixArt-α; the same command goes on where a stopped run was."""
    from bottega.student.config import StudentConfig
    from bottega.student.stage import run

    models = read_models(recipe, set_ or [], pixart, clip)
    config = read_section(StudentConfig, "student", recipe, set_ or [])
    with locked(models.device, output_dir, "train style"):
        done = run(config, output_dir, features_dir=features_dir, models=models)
    typer.echo(
        f"{output_dir / done['adapter']}: {done['steps']} steps; learning: {done['learning']} ({done['evidence']})"
    )
    if done["learning"] != "yes" or done["advice"] != "none needed":
        typer.echo(f"advice: {done['advice']}")


def read_section(kind: type[C], name: str, recipe: Path | None, sets: list[str]) -> C:
    """One section of a recipe with its overrides; the defaults where there is no recipe."""
    from bottega.runtime.config import apply_sets, load_yaml, parse

    data = apply_sets(load_yaml(recipe) if recipe is not None else {}, sets)
    return parse(kind, data.get(name) or {}, f"{recipe or 'command line'}: {name}")


def read_models(recipe: Path | None, sets: list[str], pixart: str | None, clip: str | None) -> ModelsConfig:
    """The section `models`, with what the command line names in its place."""
    from bottega.models.config import ModelsConfig

    models = read_section(ModelsConfig, "models", recipe, sets)
    named: dict[str, Any] = {k: v for k, v in (("pixart", pixart), ("clip", clip)) if v is not None}
    return models.model_copy(update=named)


@contextmanager
def locked(device: str, directory: Path, holder: str) -> Iterator[None]:
    """The folder and the device are this process's own within this block."""
    from bottega.models.loading import choose_device
    from bottega.runtime.locks import device_lock, lock

    with lock(directory / ".lock", f"bottega {holder}"), device_lock(str(choose_device(device)), f"bottega {holder}"):
        yield
