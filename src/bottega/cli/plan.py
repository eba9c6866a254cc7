"""`bottega plan`: what a recipe will take of memory, disk and work, before anything is downloaded or run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.common import print_json, read_recipe


def command(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), or a run directory")],
    gpu_gb: Annotated[float, typer.Option(min=1.0, help="memory of the GPU that it should fit, GB")] = 24.0,
    rehearsal: Annotated[
        Path | None, typer.Option(help="directory of a rehearsal, whose measured rates give the times")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as teacher.batch_size=8")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Forecast each stage of a recipe: memory on the CPU and on a GPU, disk, work, and what grows fastest.

    Loads no weights and runs nothing: networks are built without memory from their configurations, of the models that
    are on this machine, else of the published ones.
    """
    from bottega.planning.plan import make_plan
    from bottega.rehearsal.walk import read_rates

    rates = None if rehearsal is None else read_rates(rehearsal)
    plan = make_plan(read_recipe(recipe, set_), gpu_gb, rates)
    if json_:
        print_json(plan.record())
    else:
        typer.echo(plan.as_text())
