"""`bottega train`: a StyleAdapter from a feature cache, or a latent diffusion model from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from bottega.cli.common import locked, read_models, read_section
from bottega.runtime.errors import BottegaError, RecipeError
from bottega.training.config import VERIFY_STEPS

if TYPE_CHECKING:
    from bottega.training.processes import Processes

app = typer.Typer(help="Train a StyleAdapter, or a model from scratch.", no_args_is_help=True, add_completion=False)

VerifyResume = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="STEPS",
        help="train nothing: show that stopping and resuming changes no bit, on so many steps beside the output "
        f"({VERIFY_STEPS} without a number)",
    ),
]
Replay = Annotated[
    Path | None, typer.Option(help="train nothing: compute a step again that was not finite, from its file")
]
"""Options of both trainers."""


@app.callback()
def _group() -> None:
    """Train a StyleAdapter, or a model from scratch."""


class _Verifying(TyperCommand):
    """Lets --verify-resume stand without its number, which typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after the command's name."""
        return super().parse_args(ctx, with_number(args, "--verify-resume", VERIFY_STEPS))


@app.command(cls=_Verifying)
def style(
    features_dir: Annotated[Path, typer.Option(help="the feature cache, made by `bottega features`")],
    output_dir: Annotated[Path, typer.Option(help="folder of adapter.safetensors, checkpoints and logs")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections student and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as student.loop.steps=500")] = None,
    pixart: Annotated[str | None, typer.Option(help="PixArt's folder or name, in place of the recipe's")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's folder or name, in place of the recipe's")] = None,
    verify_resume: VerifyResume = None,
    replay: Replay = None,
) -> None:
    """Train a StyleAdapter on a frozen PixArt-α; the same command goes on where a stopped run was."""
    from bottega.student import stage
    from bottega.student.config import StudentConfig
    from bottega.training.processes import joined

    models = read_models(recipe, set_ or [], pixart=pixart, clip=clip)
    config = read_section(StudentConfig, "student", recipe, set_ or [])
    if verify_resume is not None and replay is not None:
        raise RecipeError("--verify-resume and --replay are two jobs, received both; give one of them")
    with joined(models.device) as processes, _told_once(processes), ExitStack() as held:
        if processes.count > 1 and not (verify_resume is None and replay is None):
            raise RecipeError(
                "--verify-resume and --replay are jobs of one process; run them without accelerate launch"
            )
        with processes.fail_together():
            held.enter_context(locked(models.device, output_dir, "train style", folder=processes.first))
        if replay is not None:
            typer.echo(str(stage.replay(config, replay, features_dir=features_dir, models=models)))
            return
        if verify_resume is not None:
            compared = stage.verify(config, output_dir, verify_resume, features_dir=features_dir, models=models)
            typer.echo(str(compared))
            compared.require()
            return
        done = stage.run(config, output_dir, features_dir=features_dir, models=models, processes=processes)
    if not processes.first:
        return
    typer.echo(
        f"{output_dir / done['adapter']}: {done['steps']} steps; learning: {done['learning']} ({done['evidence']})"
    )
    if done["learning"] != "yes" or done["advice"] != "none needed":
        typer.echo(f"advice: {done['advice']}")


@app.command(cls=_Verifying)
def ldm(
    config: Annotated[
        Path | None, typer.Option(help="recipe (YAML)  [default: that of the run that --resume names]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="go on from this checkpoint, such as runs/x/checkpoints/epoch-118")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as training.num_epochs=300")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="run directory  [default: that of --resume, else runs/NAME]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the resolved recipe and train nothing")] = False,
    verify_resume: VerifyResume = None,
    replay: Replay = None,
) -> None:
    """Train a latent diffusion model from scratch; the same command goes on where a stopped run was."""
    from bottega.ldm import stage
    from bottega.ldm.recipe import load_recipe, portable
    from bottega.runtime.config import as_yaml
    from bottega.runtime.files import require_folder
    from bottega.training.processes import joined
    from bottega.training.resume import directory_for, resume_from

    if config is None and resume is None:
        raise RecipeError("a recipe says what to train; give --config, for instance --config recipes/red_circle.yaml")
    if verify_resume is not None and replay is not None:
        raise RecipeError("--verify-resume and --replay are two jobs, received both; give one of them")
    if resume is not None:  # its errors come before that of a recipe which is not beside it
        output_dir = directory_for(resume, output_dir)
    recipe = stage.recipe_of(Path(str(resume)), set_ or []) if config is None else load_recipe(config, set_ or [])
    directory = output_dir or Path("runs") / recipe.name
    if dry_run:
        typer.echo(as_yaml(portable(recipe, directory)))
        return
    require_folder(directory)
    device = recipe.training.device
    with joined(device) as processes, _told_once(processes), ExitStack() as held:
        if processes.count > 1 and not (verify_resume is None and replay is None):
            raise RecipeError(
                "--verify-resume and --replay are jobs of one process; run them without accelerate launch"
            )
        with processes.fail_together():
            held.enter_context(locked(device, directory, "train ldm", folder=processes.first))
            if resume is not None and processes.first:
                resume_from(resume, directory, carry=[stage.LATENTS])
        if replay is not None:
            typer.echo(str(stage.replay(recipe, directory, replay)))
            return
        if verify_resume is not None:
            compared = stage.verify(recipe, directory, verify_resume)
            typer.echo(str(compared))
            compared.require()
            return
        done = stage.run(recipe, directory, processes=processes)
    if processes.first:
        _tell_ldm(directory, done, prompted=recipe.text.kind != "none")


def _tell_ldm(directory: Path, done: dict[str, Any], *, prompted: bool) -> None:
    """What a person wants to know when a training has ended: where all lies, how it went, what next."""
    from bottega.doctor import examine

    place = directory / done["checkpoint"]
    if done["resumed_from"] == done["steps"]:
        typer.echo(
            f"{place}: nothing was left to train, all {done['steps']} steps are done; for more --set "
            "training.num_epochs=…, or training.steps=… where steps count"
        )
    else:
        verdict = examine(directory)
        typer.echo(f"{place}: {done['steps']} steps, loss {done['loss']:.4g}, {done['seconds']:.0f} s of training")
        typer.echo(f"verdict: {verdict.state}: {verdict.findings[0].evidence}; {verdict.level}")
    drawn = directory / "samples"
    typer.echo(f"{f'samples: {drawn}; ' if drawn.is_dir() else ''}more: bottega doctor training {directory}")
    typer.echo(f"draw with it: bottega generate --checkpoint {place}{' --prompt …' if prompted else ''}")


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="a run, the output folder of a training, or its metrics.jsonl")],
) -> None:
    """Say whether a training learns, with the evidence and what to try; it may still be running."""
    from bottega.training.diagnosis import diagnose_folder, words

    typer.echo(words(diagnose_folder(run)))


def with_number(words: list[str], option: str, number: int) -> list[str]:
    """The words, with `number` after each `option` that no number follows."""
    result = []
    for word, after in zip(words, [*words, ""][1:], strict=True):
        result += [word, str(number)] if word == option and not after.isdigit() else [word]
    return result


@contextmanager
def _told_once(processes: Processes) -> Iterator[None]:
    """The first process learns of every error that ends all, and tells it; the others end with its exit code alone."""
    try:
        yield
    except BottegaError as error:
        if processes.first:
            raise
        raise SystemExit(error.exit_code) from error
