"""`bottega stage`: one stage of a run, or its report, in this process. The pipeline calls it; people need not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.common import open_pipeline, read_size
from bottega.cli.main import explain
from bottega.runtime.children import attached


def command(
    name: Annotated[str, typer.Argument(help="stage, or report")],
    directory: Annotated[Path, typer.Argument(help="run directory")],
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    seeds: Annotated[str | None, typer.Option()] = None,
    parent: Annotated[int | None, typer.Option(help="inherited socket to the pipeline")] = None,
) -> None:
    """Do one stage of a run directory."""
    with attached(parent, explain):
        from bottega.pipeline import BY_NAME
        from bottega.runtime.errors import RequestError

        pipeline = open_pipeline(directory / "recipe.yaml", directory, read_size(limit, seeds), [])
        if name == "report":
            pipeline.perform_report()
        elif name in BY_NAME:
            pipeline.perform(BY_NAME[name])
        else:
            raise RequestError(f"unknown stage {name!r}; stages: {', '.join(BY_NAME)}, report")
