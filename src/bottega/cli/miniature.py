"""`bottega miniature`: build the miniature's models, write its drawn world, draw its truths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The drawn world and its models.", no_args_is_help=True)


@app.command()
def build(
    work: Annotated[Path, typer.Option(help="Folder for the corpus, the states and the logs.")] = Path(
        "build/miniature"
    ),
    output: Annotated[Path, typer.Option(help="Folder for the model folders.")] = Path("build/miniature/weights"),
    quick: Annotated[bool, typer.Option("--quick", help="A few steps each: proves the way, not the models.")] = False,
) -> None:
    """Train every model of the miniature from scratch; the same command goes on after a stop."""
    from bottega.miniature.build import QUICK, Plan
    from bottega.miniature.build import build as run

    report = run(work, output, QUICK if quick else Plan())
    for name, value in report["gates"].items():
        bar = report["bars"].get(name)
        typer.echo(
            f"{name:28} {value:8.3f}"
            + (f"   bar {bar:g}: {'reached' if value >= bar else 'missed'}" if bar is not None else "")
        )
    typer.echo(f"wrote {output}")


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
