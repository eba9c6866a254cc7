"""`bottega report`: the page of a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    directory: Annotated[
        Path, typer.Argument(help="the run directory, for instance runs/miniature", show_default=False)
    ],
) -> None:
    """Write DIRECTORY/report.html, one offline page, from whatever the run directory holds by now."""
    from bottega.report.page import run

    page = run(directory)
    print(f"{page} ({page.stat().st_size / 1024:.0f} kB)")
