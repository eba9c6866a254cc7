"""`bottega stage`: one stage of a run, or its report, in this process. The workshop calls it; people need not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.main import explain
from bottega.runtime.children import attached


def command(
    name: Annotated[str, typer.Argument(help="stage, or report")],
    directory: Annotated[Path, typer.Argument(help="run directory")],
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    seeds: Annotated[str | None, typer.Option()] = None,
    parent: Annotated[int | None, typer.Option(help="inherited socket to the workshop")] = None,
) -> None:
    """Do one stage of a run directory."""
    with attached(parent, explain):
        from bottega.cli.run import open_workshop, read_size
        from bottega.runtime.errors import RequestError
        from bottega.workshop import BY_NAME

        workshop = open_workshop(directory / "recipe.yaml", directory, read_size(limit, seeds), [])
        if name == "report":
            workshop.perform_report()
        elif name in BY_NAME:
            workshop.perform(BY_NAME[name])
        else:
            raise RequestError(f"unknown stage {name!r}; stages: {', '.join(BY_NAME)}, report")
