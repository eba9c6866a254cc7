"""From a run directory to one offline HTML page: numbers with their intervals, curves, contact sheets, a judgement.

`run(run_directory)` is the whole of it; it reads files and no model, and may be called at any moment of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottega.report.page import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """Import `run` when it is first asked for: jinja2 and Pillow are not loaded for `--help`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bottega.report.page import run

    return run
