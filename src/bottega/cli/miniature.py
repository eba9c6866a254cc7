"""`bottega miniature`: build the miniature's models, write its drawn world, draw its truths."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The drawn world and its models.", no_args_is_help=True)


class Model(StrEnum):
    """What `train` trains."""

    sdxl = "sdxl"
    pixart = "pixart"


_SHIPPED = Path(__file__).resolve().parents[1] / "miniature" / "weights"


@app.command()
def build(
    work: Annotated[Path, typer.Option(help="Folder for the corpus, the states and the logs.")] = Path(
        "build/miniature"
    ),
    output: Annotated[Path, typer.Option(help="Folder for the model folders.")] = Path("build/miniature/weights"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps each: tests the procedure, not the models.")
    ] = False,
) -> None:
    """Train every model of the miniature from scratch; the same command resumes after a stop."""
    from bottega.miniature.builder.build import QUICK, Plan
    from bottega.miniature.builder.build import build as run
    from bottega.miniature.builder.final_gates import verdict

    report = run(work, output, QUICK if quick else Plan())
    for name, value in report.gates.items():
        typer.echo(f"{name:32} {value:8.3f}   {verdict(name, value) or ''}".rstrip())
    typer.echo(f"wrote {output}")


@app.command()
def gates(
    weights: Annotated[Path | None, typer.Option(help="Model folders to measure; default: the shipped ones.")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures of each gate.", min=8)] = 320,
    write: Annotated[bool, typer.Option("--write", help="Write the figures into `gates.json` there.")] = False,
) -> None:
    """Measure SDXL and its IP-Adapter on scenes and painters held out, with 95 % intervals."""
    from bottega.miniature.builder.final_gates import measure_sdxl, verdict, write_gates

    folder = weights or _SHIPPED
    measured = measure_sdxl(folder, pictures)
    for name, figure in measured.items():
        interval = f"[{figure.low:.3f}, {figure.high:.3f}] n {figure.pictures}"
        typer.echo(f"{name:32} {figure.value:8.3f} {interval:26} {verdict(name, figure.value) or ''}".rstrip())
    if write:
        write_gates(folder / "gates.json", measured)


@app.command()
def train(
    state: Annotated[Path, typer.Option(help="Folder for features, state and log; keep it, training takes days.")],
    model: Annotated[Model, typer.Option(help="SDXL's U-Net with its IP-Adapter, or PixArt with its T5.")] = Model.sdxl,
    weights: Annotated[
        Path | None, typer.Option(help="Folders of the frozen encoders and judges; default: the shipped ones.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Folders that `export` wrote: a new training of SDXL begins with their U-Net."),
    ] = None,
    finish: Annotated[
        int | None,
        typer.Option(help="Branch off and end within so many steps, the learning rate falling to zero.", min=1),
    ] = None,
) -> None:
    """Train a model until stopped (Ctrl-C, SIGTERM); the same command resumes."""
    from bottega.miniature.builder.train import train_pixart, train_sdxl
    from bottega.runtime.errors import RequestError

    if model is Model.pixart:
        if start_from is not None:
            raise RequestError("--start-from is for SDXL, the model is pixart; leave it out.")
        trainer = train_pixart(state, weights or _SHIPPED, decay=finish)
    else:
        trainer = train_sdxl(state, weights or _SHIPPED, decay=finish, start_from=start_from)
    typer.echo(f"step {trainer.step}, {trainer.samples} samples: {trainer.state}")


@app.command()
def export(
    state: Annotated[Path, typer.Option(help="Folder of a training by `bottega miniature train`; it may be running.")],
    output: Annotated[Path, typer.Option(help="New folder; `sdxl` and `ip_adapter` are written into it.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="Folders to copy all else from; default: the shipped ones."),
    ] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Take the branch that `train --finish` made.")] = False,
) -> None:
    """Write the folders of SDXL and its IP-Adapter from a long training: the moving average of its weights."""
    from bottega.miniature.builder.train import export_sdxl

    step = export_sdxl(state, weights or _SHIPPED, output, finished=finished)
    typer.echo(f"wrote {output} (step {step})")


@app.command()
def world(
    output: Annotated[Path, typer.Option(help="Data root; the world is written under its folder raw/.")],
    contents: Annotated[int, typer.Option(help="Scenes written as COCO train2017.")] = 400,
    painters: Annotated[int, typer.Option(help="Painters in the WikiArt parquet.")] = 96,
) -> None:
    """Write the drawn world in the formats of COCO, WikiArt and Fill50K."""
    from bottega.miniature.config import WorldConfig
    from bottega.miniature.datasets import run_world

    typer.echo(run_world(WorldConfig(contents=contents, painters=painters), output))
