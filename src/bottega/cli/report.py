"""`bottega report`: the page of a run directory, of an evaluation's folder or of an ablation's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    directory: Annotated[
        Path, typer.Argument(help="a run directory, an evaluation's folder or an ablation's", show_default=False)
    ],
) -> None:
    """Write DIRECTORY/report.html, one offline page, from whatever the folder holds by now, and its tables as Markdown,
    LaTeX and CSV."""
    from bottega.report.page import run

    page = run(directory)
    print(f"{page} ({page.stat().st_size / 1024:.0f} kB)")
