"""`bottega train`: a StyleAdapter from a feature cache, or a latent diffusion model from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from bottega.cli.common import locked, read_models, read_section
from bottega.runtime.errors import BottegaError, RecipeError
from bottega.training.config import VERIFY_STEPS

if TYPE_CHECKING:
    from bottega.training.processes import Processes
    from bottega.training.replay import Examination
    from bottega.training.verify import Comparison


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
    """Allows --verify-resume without its number, which typer's options cannot."""

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
    """Train a StyleAdapter on a frozen PixArt-α; the same command resumes a run that was stopped."""
    from bottega.data.given import require_file, require_room_for_folder
    from bottega.student import stage
    from bottega.student.config import StudentConfig
    from bottega.student.store import require_features

    # All that needs no model is checked before one is loaded, and before a lock is left in somebody's folder.
    models = read_models(recipe, set_, pixart=pixart, clip=clip)
    config = read_section(StudentConfig, "student", recipe, set_)
    _require_one_job(verify_resume, replay)
    require_features(features_dir)
    require_room_for_folder("--output-dir", output_dir)
    require_file("--replay", replay)
    trainer = _Trainer(
        name="train style",
        device=models.device,
        directory=output_dir,
        reads=(features_dir,),
        threads=config.loop.threads,
        train=partial(stage.run, config, output_dir, features_dir=features_dir, models=models),
        verify=partial(stage.verify, config, output_dir, features_dir=features_dir, models=models),
        replay=partial(stage.replay, config, features_dir=features_dir, models=models),
    )
    done = _perform(trainer, verify_resume, replay)
    if done is None:
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
        Path | None, typer.Option(help="resume from this checkpoint, such as runs/x/checkpoints/epoch-118")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as training.num_epochs=300")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="run directory  [default: that of --resume, else runs/NAME]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the resolved recipe and train nothing")] = False,
    verify_resume: VerifyResume = None,
    replay: Replay = None,
) -> None:
    """Train a latent diffusion model from scratch; the same command resumes a run that was stopped."""
    from bottega.data.given import require_file
    from bottega.ldm import stage
    from bottega.ldm.recipe import load_recipe, portable
    from bottega.runtime.config import as_yaml
    from bottega.runtime.files import require_folder
    from bottega.training.resume import directory_for, resume_from

    _require_one_job(verify_resume, replay)
    require_file("--replay", replay)
    if resume is not None:  # its errors come before that of a recipe which is not beside it
        output_dir = directory_for(resume, output_dir)
    if config is not None:
        recipe = load_recipe(config, set_ or [])
    elif resume is not None:
        recipe = stage.recipe_of(resume, set_ or [])
    else:
        raise RecipeError("a recipe says what to train; give --config, for instance --config recipes/red_circle.yaml")
    directory = output_dir or Path("runs") / recipe.name
    if dry_run:
        typer.echo(as_yaml(portable(recipe, directory)))
        return

    def prepare() -> None:
        if resume is not None:
            resume_from(resume, directory, carry=[stage.LATENTS])

    require_folder(directory)
    trainer = _Trainer(
        name="train ldm",
        device=recipe.training.device,
        directory=directory,
        prepare=prepare,
        threads=recipe.training.threads,
        train=partial(stage.run, recipe, directory),
        verify=partial(stage.verify, recipe, directory),
        replay=partial(stage.replay, recipe, directory),
    )
    done = _perform(trainer, verify_resume, replay)
    if done is not None:
        _report_ldm(directory, done, prompted=recipe.text.kind != "none")


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="a run, the output folder of a training, or its metrics.jsonl")],
) -> None:
    """Say whether a training learns, with the evidence and what to try; it may still be running."""
    from bottega.training.diagnosis import as_text, diagnose_folder

    typer.echo(as_text(diagnose_folder(run)))


@dataclass(frozen=True)
class _Trainer:
    """What one of the trainers does: `train`, `verify` or `replay`, after `prepare`, in its `directory`; it `reads`
    folders that must not change meanwhile."""

    name: str
    device: str
    directory: Path
    train: Callable[..., Mapping[str, Any]]
    verify: Callable[[int], Comparison]
    replay: Callable[[Path], Examination]
    prepare: Callable[[], None] = lambda: None
    reads: tuple[Path, ...] = ()
    threads: int | None = None


def _perform(trainer: _Trainer, verify_steps: int | None, replay_file: Path | None) -> Mapping[str, Any] | None:
    """Train, or verify or replay where that is asked for, within the locks.

    Returns:
        The summary of the training, in the first process; None in the others, and where nothing was trained.
    """
    from bottega.training.processes import joined

    _require_one_job(verify_steps, replay_file)
    only_shown = verify_steps is not None or replay_file is not None
    with joined(trainer.device) as processes, _reporting_once(processes), ExitStack() as held:
        if processes.count > 1 and only_shown:
            raise RecipeError(
                "--verify-resume and --replay are jobs of one process; run them without accelerate launch"
            )
        with processes.fail_together():
            places = locked(
                trainer.device,
                trainer.directory,
                trainer.name,
                reads=trainer.reads,
                folder=processes.first,
                threads=trainer.threads,
            )
            held.enter_context(places)
            if processes.first:
                trainer.prepare()
        if replay_file is not None:
            typer.echo(str(trainer.replay(replay_file)))
            return None
        if verify_steps is not None:
            compared = trainer.verify(verify_steps)
            typer.echo(str(compared))
            compared.require()
            return None
        done = trainer.train(processes=processes)
        return done if processes.first else None


@contextmanager
def _reporting_once(processes: Processes) -> Iterator[None]:
    """Within this block, the first process reports an error that ends all; the others end with its exit code alone."""
    try:
        yield
    except BottegaError as error:
        if processes.first:
            raise
        raise SystemExit(error.exit_code) from error


def _require_one_job(verify_steps: int | None, replay_file: Path | None) -> None:
    if verify_steps is not None and replay_file is not None:
        raise RecipeError("--verify-resume and --replay are two jobs, received both; give one of them")


def _report_ldm(directory: Path, done: Mapping[str, Any], *, prompted: bool) -> None:
    """What a person wants to know when a training has ended: where the files are, how it went, what next."""
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
    samples = f"samples: {drawn}; " if drawn.is_dir() else ""
    typer.echo(f"{samples}more: bottega doctor training {directory}")
    prompt = " --prompt …" if prompted else ""
    typer.echo(f"draw with it: bottega generate --checkpoint {place}{prompt}")


def with_number(words: list[str], option: str, number: int) -> list[str]:
    """The words, with `number` after each `option` that no number follows."""
    result: list[str] = []
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        result.append(word)
        if word == option and not after.isdigit():
            result.append(str(number))
    return result
